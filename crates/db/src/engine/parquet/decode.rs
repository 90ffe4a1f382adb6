//! The bytes of a Parquet file as a segment.

use std::collections::BTreeMap;
use std::panic::catch_unwind;

use arrow_array::{
    Array, Float32Array, LargeStringArray, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{HEAD_BYTES, MAGIC, PARQUET_MAGIC, Result, vector_column};
use crate::engine::footer::{FormatError, SegmentFooter, decode_tombstones, key, required};
use crate::engine::segment::{Clustering, ColumnBuilder, PayloadBuilder, SegmentData};
use crate::engine::typed;
use crate::schema::Schema;
use crate::sealed::crc32;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 4096;

/// The segment of a file.
///
/// # Errors
/// If a single byte differs from what [`encode`](super::encode) wrote, or the file is of another format.
pub fn decode(bytes: &Bytes) -> Result<(SegmentFooter, SegmentData)> {
    check(bytes)?;
    // The Parquet library panics over some files that a writer with a fault would leave.
    catch_unwind(|| read(bytes)).unwrap_or_else(|_| Err(FormatError("the Parquet reader panicked".to_owned())))
}

fn read(bytes: &Bytes) -> Result<(SegmentFooter, SegmentData)> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?.with_batch_size(BATCH_ROWS);
    let stored = builder
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .cloned()
        .unwrap_or_default();
    let key_values = stored
        .into_iter()
        .filter_map(|pair| Some((pair.key, pair.value?)))
        .collect::<BTreeMap<_, _>>();
    let footer = SegmentFooter::from_key_values(&key_values)?;
    let ours: Vec<usize> = (0..builder.schema().fields().len())
        .filter(|column| !builder.schema().field(*column).name().starts_with(typed::PREFIX))
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), ours);
    let mut columns = Columns::new(&footer.description.schema);
    for batch in builder.with_projection(mask).build()? {
        columns.append(&batch.map_err(|error| FormatError(error.to_string()))?)?;
    }
    let mut data = columns.finish(key_values.get(&key("clustered_by")))?;
    data.tombstones = decode_tombstones(required(&key_values, "tombstones")?)?;
    let outside = |range: (u64, u64)| range.0 < footer.min_seq || range.1 > footer.max_seq;
    if data.seq_range().is_some_and(outside) {
        return Err(FormatError(
            "rows lie outside the sequence numbers of the footer".to_owned(),
        ));
    }
    Ok((footer, data))
}

/// Whether the head is ours and the checksum is that of the rest.
fn check(bytes: &[u8]) -> Result<()> {
    let (head, covered) = bytes
        .split_first_chunk::<HEAD_BYTES>()
        .ok_or_else(|| FormatError("shorter than its head".to_owned()))?;
    let [p0, p1, p2, p3, m0, m1, m2, m3, checksum @ ..] = *head;
    if &[p0, p1, p2, p3] != PARQUET_MAGIC || &[m0, m1, m2, m3] != MAGIC {
        return Err(FormatError("not a ProximaDB segment".to_owned()));
    }
    if u32::from_le_bytes(checksum) != crc32(covered) {
        return Err(FormatError("checksum mismatch".to_owned()));
    }
    Ok(())
}

/// Columns while a file is read.
struct Columns {
    data: SegmentData,
    payloads: PayloadBuilder,
    /// Clusters of the rows that have one.
    clusters: Vec<u32>,
    vectors: BTreeMap<String, ColumnBuilder>,
}

impl Columns {
    fn new(schema: &Schema) -> Self {
        let vectors = schema
            .vectors
            .iter()
            .map(|(space, settings)| (space.clone(), ColumnBuilder::new(settings.size)));
        Self {
            data: SegmentData::default(),
            payloads: PayloadBuilder::default(),
            clusters: Vec::new(),
            vectors: vectors.collect(),
        }
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let first = self.data.len();
        let ids: &StringArray = typed_column(batch, "id")?;
        for id in ids {
            let id = id.ok_or_else(|| FormatError("a row without an id".to_owned()))?;
            self.data
                .ids
                .push(id.parse().map_err(|error| FormatError(format!("{error}")))?);
        }
        let seqs: &UInt64Array = typed_column(batch, "seq")?;
        self.data.seqs.extend_from_slice(seqs.values());
        let payloads: &LargeStringArray = typed_column(batch, "payload")?;
        payloads
            .iter()
            .for_each(|payload| self.payloads.push(payload.unwrap_or("{}")));
        let clusters: &UInt32Array = typed_column(batch, "cluster")?;
        for (row, cluster) in clusters.iter().enumerate() {
            match cluster {
                Some(cluster) if self.clusters.len() == first + row => self.clusters.push(cluster),
                Some(_) => return Err(FormatError("rows with a cluster after rows without one".to_owned())),
                None => {}
            }
        }
        for (space, column) in &mut self.vectors {
            append_vectors(column, typed_column(batch, &vector_column(space))?)?;
        }
        Ok(())
    }

    fn finish(mut self, clustered_by: Option<&String>) -> Result<SegmentData> {
        if let Some(space) = clustered_by {
            let mut offsets = vec![0];
            for (row, cluster) in self.clusters.iter().enumerate() {
                let current = offsets.len() - 1;
                match *cluster as usize {
                    same if same == current => {}
                    next if next == current + 1 && row > 0 => offsets.push(row as u32),
                    _ => return Err(FormatError("rows are not sorted by cluster".to_owned())),
                }
            }
            offsets.push(self.clusters.len() as u32);
            self.data.clustering = Some(Clustering {
                space: space.clone(),
                offsets,
            });
        }
        self.data.payloads = self.payloads.build();
        self.data.vectors = self
            .vectors
            .into_iter()
            .map(|(space, column)| (space, column.build()))
            .collect();
        let sorts =
            |clustering: &Clustering| self.data.vectors.contains_key(&clustering.space) && !self.clusters.is_empty();
        if !self.data.clustering.as_ref().map_or(self.clusters.is_empty(), sorts) {
            return Err(FormatError("rows are sorted by an unknown vector space".to_owned()));
        }
        Ok(self.data)
    }
}

fn append_vectors(column: &mut ColumnBuilder, lists: &ListArray) -> Result<()> {
    let values: &Float32Array = lists
        .values()
        .as_any()
        .downcast_ref()
        .ok_or_else(|| FormatError("vectors are not float32".to_owned()))?;
    let values: &[f32] = values.values();
    for (row, bounds) in lists.offsets().windows(2).enumerate() {
        let vector = if lists.is_null(row) {
            None
        } else {
            values.get(bounds[0] as usize..bounds[1] as usize)
        };
        if !column.fits(vector) {
            return Err(FormatError(
                "a vector of another dimension than the schema's".to_owned(),
            ));
        }
        column.push(vector);
    }
    Ok(())
}

/// A column of the batch as the array it must be.
pub(super) fn typed_column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T> {
    let column = batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref());
    column.ok_or_else(|| FormatError(format!("column {name:?} is missing or of another type")))
}

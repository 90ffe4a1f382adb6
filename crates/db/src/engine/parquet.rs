//! A segment as the bytes of a Parquet file, and back. Pure functions; damage is an error, never a panic.
//!
//! ```text
//! 0    4    8          12
//! │PAR1│PXDB│ checksum │ row groups … │ page indexes │ footer with key-values │ length │PAR1│
//!                      └─────────────────── what the checksum covers ───────────────────┘
//! ```
//!
//! The checksum (CRC-32, little endian) stands where Parquet readers never look, so that a file proves itself without
//! a manifest and before any parser sees it. Pages carry checksums of their own for other readers.
//!
//! Columns: `id` (text), `seq`, `cluster` (null without a vector in the sorting space), `vector` or `vector.<name>`
//! (list of float32, plain, not compressed; null if absent), `payload.<path>` per indexed field (see
//! [`crate::engine::typed`]), `payload` (JSON).

mod decode;

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float32Array, LargeStringArray, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema as ArrowSchema};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriter, ArrowWriterOptions, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

pub use decode::decode;

use crate::engine::footer::{FormatError, SegmentFooter, encode_tombstones, key};
use crate::engine::page_checksum::PageChecksums;
use crate::engine::segment::{Clustering, SegmentData, VectorColumn};
use crate::engine::typed;
use crate::schema::Schema;
use crate::sealed::crc32;

/// Size of a row group without compression: what a reader that skips by statistics reads at least, and what a writer
/// holds twice.
pub const ROW_GROUP_BYTES: usize = 8 << 20;
const PARQUET_MAGIC: &[u8; 4] = b"PAR1";
const MAGIC: &[u8; 4] = b"PXDB";
/// Both magics and the checksum.
const HEAD_BYTES: usize = 12;

type Result<T, E = FormatError> = std::result::Result<T, E>;

impl From<ParquetError> for FormatError {
    fn from(error: ParquetError) -> Self {
        Self(error.to_string())
    }
}

/// The segment as a file.
///
/// # Errors
/// If the data does not fit the schema of the footer's description, or the Parquet writer fails.
pub fn encode(footer: &SegmentFooter, data: &SegmentData) -> Result<Bytes> {
    let schema = &footer.description.schema;
    let arrow_schema = Arc::new(arrow_schema(schema));
    let pages = Arc::new(PageChecksums::default());
    let options = ArrowWriterOptions::new()
        .with_properties(properties(schema)?)
        .with_page_store_factory(Arc::clone(&pages) as _);
    let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&arrow_schema), options)?;
    let (mut file, factory) = writer.into_serialized_writer()?;
    file.write_all(&[MAGIC.as_slice(), &[0; 4]].concat())
        .map_err(|error| FormatError(error.to_string()))?;
    for (group, rows) in row_groups(data).into_iter().enumerate() {
        let columns = columns(schema, data, rows)?;
        let batch =
            RecordBatch::try_new(Arc::clone(&arrow_schema), columns).map_err(|error| FormatError(error.to_string()))?;
        write_row_group(&mut file, &factory, &pages, group, &batch)?;
    }
    let mut key_values = footer.to_key_values()?;
    key_values.insert(key("tombstones"), encode_tombstones(&data.tombstones));
    if let Some(clustering) = &data.clustering {
        key_values.insert(key("clustered_by"), clustering.space.clone());
    }
    key_values
        .into_iter()
        .for_each(|(key, value)| file.append_key_value_metadata(KeyValue::new(key, value)));
    let mut bytes = file.into_inner()?;
    assert!(
        bytes.starts_with(&[PARQUET_MAGIC.as_slice(), MAGIC].concat()),
        "the Parquet writer starts with its magic and ours"
    );
    let (head, covered) = bytes.split_at_mut(HEAD_BYTES);
    head[8..].copy_from_slice(&crc32(covered).to_le_bytes());
    Ok(bytes.into())
}

/// Name of a vector space's column.
fn vector_column(space: &str) -> String {
    if space.is_empty() {
        "vector".to_owned()
    } else {
        format!("vector.{space}")
    }
}

fn element() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Float32, false))
}

fn arrow_schema(schema: &Schema) -> ArrowSchema {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("seq", DataType::UInt64, false),
        Field::new("cluster", DataType::UInt32, true),
    ];
    fields.extend(
        schema
            .vectors
            .keys()
            .map(|space| Field::new(vector_column(space), DataType::List(element()), true)),
    );
    fields.extend(typed::fields(schema));
    fields.push(Field::new("payload", DataType::LargeUtf8, false));
    ArrowSchema::new(fields)
}

fn properties(schema: &Schema) -> Result<WriterProperties> {
    let unfit_for_statistics = |name: &str| ColumnPath::new(vec![name.to_owned()]);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("proximadb ", env!("CARGO_PKG_VERSION")).to_owned())
        // Checksummed pages and dictionaries exclude each other, see `page_checksum`.
        .set_dictionary_enabled(false)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_encoding(ColumnPath::new(vec!["seq".to_owned()]), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(
            ColumnPath::new(vec!["cluster".to_owned()]),
            Encoding::DELTA_BINARY_PACKED,
        )
        .set_column_statistics_enabled(unfit_for_statistics("payload"), EnabledStatistics::None);
    for space in schema.vectors.keys() {
        let path = ColumnPath::new([vector_column(space), "list".to_owned(), "element".to_owned()].into());
        // Floats of embeddings do not compress (2 to 10 %), and their extremes skip nothing.
        properties = properties
            .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
            .set_column_encoding(path.clone(), Encoding::PLAIN)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    Ok(properties.build())
}

/// Row ranges of about [`ROW_GROUP_BYTES`], cut at a border of clusters if there is one in the second half.
fn row_groups(data: &SegmentData) -> Vec<Range<usize>> {
    let borders: &[u32] = data.clustering.as_ref().map_or(&[], |clustering| &clustering.offsets);
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for row in 0..data.len() {
        bytes += data.row_bytes(row);
        if bytes > ROW_GROUP_BYTES && row > start {
            let border = borders[..borders.partition_point(|border| *border as usize <= row)].last();
            let cut = border.map_or(row, |border| *border as usize);
            let cut = if cut - start.min(cut) > (row - start) / 2 {
                cut
            } else {
                row
            };
            groups.push(start..cut);
            start = cut;
            bytes = (start..=row).map(|row| data.row_bytes(row)).sum();
        }
    }
    groups.push(start..data.len());
    groups.retain(|group| !group.is_empty());
    groups
}

fn write_row_group(
    file: &mut SerializedFileWriter<Vec<u8>>,
    factory: &ArrowRowGroupWriterFactory,
    pages: &PageChecksums,
    group: usize,
    batch: &RecordBatch,
) -> Result<()> {
    let mut writers = factory.create_column_writers(group)?.into_iter().enumerate();
    let mut row_group = file.next_row_group()?;
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        for leaf in compute_leaves(field, array)? {
            let (column, mut writer) = writers
                .next()
                .ok_or_else(|| FormatError("more columns than writers".to_owned()))?;
            writer.write(&leaf)?;
            let mut chunk = writer.close()?;
            pages.settle(column, &mut chunk)?;
            chunk.append_to_row_group(&mut row_group)?;
        }
    }
    row_group.close()?;
    Ok(())
}

/// The columns of some rows, in the order of [`arrow_schema`].
fn columns(schema: &Schema, data: &SegmentData, rows: Range<usize>) -> Result<Vec<ArrayRef>> {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            data.ids[rows.clone()].iter().map(ToString::to_string),
        )),
        Arc::new(UInt64Array::from_iter_values(data.seqs[rows.clone()].iter().copied())),
        Arc::new(clusters(data.clustering.as_ref(), rows.clone())),
    ];
    for (space, settings) in &schema.vectors {
        let column = data
            .vectors
            .get(space)
            .filter(|column| column.rows.dim() == settings.size);
        let column = column.ok_or_else(|| FormatError(format!("no vectors of space {space:?}")))?;
        columns.push(Arc::new(vector_list(column, rows.clone())?));
    }
    columns.extend(typed::columns(schema, &data.payloads, rows.clone()));
    columns.push(Arc::new(LargeStringArray::from_iter_values(
        rows.map(|row| data.payloads.raw(row)),
    )));
    Ok(columns)
}

fn clusters(clustering: Option<&Clustering>, rows: Range<usize>) -> UInt32Array {
    let offsets: &[u32] = clustering.map_or(&[], |clustering| &clustering.offsets);
    let cluster = |row: usize| {
        let after = offsets.partition_point(|offset| *offset as usize <= row);
        (after < offsets.len()).then(|| after as u32 - 1)
    };
    rows.map(cluster).collect()
}

fn vector_list(column: &VectorColumn, rows: Range<usize>) -> Result<ListArray> {
    let lengths = rows.clone().map(|row| column.get(row).map_or(0, <[f32]>::len));
    let offsets = OffsetBuffer::from_lengths(lengths);
    let values: Vec<f32> = rows
        .clone()
        .filter_map(|row| column.get(row))
        .flatten()
        .copied()
        .collect();
    let nulls = column
        .present
        .as_ref()
        .map(|present| rows.map(|row| present.contains(row)).collect::<NullBuffer>());
    ListArray::try_new(element(), offsets, Arc::new(Float32Array::from(values)), nulls)
        .map_err(|error| FormatError(error.to_string()))
}

#[cfg(test)]
#[path = "parquet/tests.rs"]
mod tests;

//! The memtable: operations that are durable in the log and not yet in a segment, searchable at once.
//!
//! Owns rows in arrival order (`row` = position) and the tombstones among them. It does not know which of its rows are
//! still the newest of their point: liveness spans all sources of a shard and is kept by `shard`.
//! Invariant: rows and tombstones are only ever appended, so a row number stays valid for the table's life.

use std::collections::BTreeMap;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use proximadb_index::Rows;

use crate::engine::segment::{PayloadBuilder, Place, SegmentData, VectorColumn};
use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};
use crate::schema::Schema;

/// Bookkeeping bytes of one operation besides its vectors and payload (id, maps, bit sets), estimated.
const OVERHEAD_BYTES: usize = 160;

/// One vector space: the rows' vectors in order, `dim` numbers each; rows without the vector hold zeros.
struct Column {
    dim: usize,
    data: Vec<f32>,
    present: FixedBitSet,
}

/// Rows and tombstones of the operations since the last freeze.
pub struct Memtable {
    columns: BTreeMap<String, Column>,
    ids: Vec<PointId>,
    seqs: Vec<Seq>,
    payloads: Vec<Arc<Payload>>,
    tombstones: Vec<(PointId, Seq)>,
    bytes: u64,
}

impl Memtable {
    /// An empty table for the vector spaces of `schema`.
    pub fn new(schema: &Schema) -> Self {
        let column = |dim| Column {
            dim,
            data: Vec::new(),
            present: FixedBitSet::new(),
        };
        Self {
            columns: schema
                .vectors
                .iter()
                .map(|(name, space)| (name.clone(), column(space.size)))
                .collect(),
            ids: Vec::new(),
            seqs: Vec::new(),
            payloads: Vec::new(),
            tombstones: Vec::new(),
            bytes: 0,
        }
    }

    /// Appends a point and returns its row. Vectors of unknown spaces were refused before the log, so they cannot occur.
    pub fn push(&mut self, seq: Seq, point: Point) -> u32 {
        let row = self.ids.len();
        for (name, column) in &mut self.columns {
            column.present.grow(row + 1);
            match point.vectors.get(name) {
                Some(vector) => {
                    assert_eq!(vector.len(), column.dim, "vectors are checked before they are logged");
                    column.data.extend_from_slice(vector);
                    column.present.insert(row);
                }
                None => column.data.resize(column.data.len() + column.dim, 0.0),
            }
        }
        self.ids.push(point.id);
        self.seqs.push(seq);
        self.payloads.push(Arc::new(point.payload));
        row as u32
    }

    /// Appends a tombstone.
    pub fn push_tombstone(&mut self, seq: Seq, id: PointId) {
        self.tombstones.push((id, seq));
    }

    /// Accounts for `bytes` more of memory, as estimated by [`memory_bytes`].
    pub fn account(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Estimated memory in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of rows, superseded ones included.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds neither rows nor tombstones.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.tombstones.is_empty()
    }

    /// Id of a row.
    pub fn id(&self, row: u32) -> PointId {
        self.ids[row as usize]
    }

    /// Sequence number of a row.
    pub fn seq(&self, row: u32) -> Seq {
        self.seqs[row as usize]
    }

    /// Payload of a row.
    pub fn payload(&self, row: u32) -> &Arc<Payload> {
        &self.payloads[row as usize]
    }

    /// Whether the row has the vector called `name`.
    pub fn has_vector(&self, row: u32, name: &str) -> bool {
        self.columns
            .get(name)
            .is_some_and(|column| column.present.contains(row as usize))
    }

    /// The vector called `name` of a row.
    pub fn vector(&self, row: u32, name: &str) -> Option<&[f32]> {
        let column = self
            .columns
            .get(name)
            .filter(|column| column.present.contains(row as usize))?;
        Some(&column.data[row as usize * column.dim..][..column.dim])
    }

    /// All vectors of a row.
    pub fn vectors(&self, row: u32) -> NamedVectors {
        let mut vectors = NamedVectors::default();
        for name in self.columns.keys() {
            if let Some(vector) = self.vector(row, name) {
                vectors.insert(name.clone(), vector.to_vec());
            }
        }
        vectors
    }

    /// The numbers of one vector space, `rows × dim`, and which rows have it.
    pub fn column(&self, name: &str) -> Option<(&[f32], &FixedBitSet)> {
        self.columns
            .get(name)
            .map(|column| (column.data.as_slice(), &column.present))
    }

    /// The rows in `live`, in order, with all tombstones, as the input of a segment. The second value maps the
    /// segment's rows to rows of this table.
    pub fn to_segment(&self, live: &FixedBitSet) -> (SegmentData, Vec<u32>) {
        let kept: Vec<u32> = live.ones().map(|row| row as u32).collect();
        let pick = |column: &Column| {
            let mut data = Vec::with_capacity(kept.len() * column.dim);
            let mut present = FixedBitSet::with_capacity(kept.len());
            for (at, &row) in kept.iter().enumerate() {
                data.extend_from_slice(&column.data[row as usize * column.dim..][..column.dim]);
                present.set(at, column.present.contains(row as usize));
            }
            let all = present.is_full();
            VectorColumn {
                rows: Rows::from_vec(column.dim, data),
                present: (!all).then_some(present),
            }
        };
        let mut payloads = PayloadBuilder::default();
        for &row in &kept {
            payloads.push(&serde_json::Value::Object((**self.payload(row)).clone()).to_string());
        }
        let data = SegmentData {
            ids: kept.iter().map(|&row| self.id(row)).collect(),
            seqs: kept.iter().map(|&row| self.seq(row)).collect(),
            vectors: self
                .columns
                .iter()
                .map(|(name, column)| (name.clone(), pick(column)))
                .collect(),
            payloads: payloads.build(),
            clustering: None,
            tombstones: self.newest_tombstones(),
            place: Place::Memory,
        };
        (data, kept)
    }
}

impl Memtable {
    /// The newest tombstone of each id, sorted by id.
    fn newest_tombstones(&self) -> Vec<(PointId, Seq)> {
        let newest: BTreeMap<PointId, Seq> = self.tombstones.iter().copied().collect();
        newest.into_iter().collect()
    }
}

/// Estimated memory of an operation once it is in the memtable, in bytes.
pub fn memory_bytes(operation: &Operation) -> u64 {
    let own = match operation {
        Operation::Delete(_) => 0,
        Operation::Upsert(point) => {
            let vectors: usize = point.vectors.iter().map(|(_, vector)| size_of_val(vector)).sum();
            vectors + object_bytes(&point.payload)
        }
    };
    (own + OVERHEAD_BYTES) as u64
}

fn object_bytes(object: &Payload) -> usize {
    object
        .iter()
        .map(|(key, value)| key.len() + 48 + value_bytes(value))
        .sum()
}

fn value_bytes(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(|value| size_of::<Value>() + value_bytes(value)).sum(),
        Value::Object(object) => object_bytes(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

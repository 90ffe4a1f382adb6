//! Rows of a segment in memory: column by column, immutable, shared by search, retrieval and compaction.
//!
//! Owns the columns and how rows get into them. Does not know files, and does not know which rows are live.
//! Invariants: every column has one entry per row; a row without a vector has zeros there and is absent from `present`.

mod builder;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use proximadb_index::Rows;
use proximadb_index::kmeans::Clusters;
use proximadb_store::Partial;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use builder::SegmentBuilder;
pub(crate) use builder::{ColumnBuilder, PayloadBuilder};

use super::absent::Absent;
use crate::error::{Error, Result};
use crate::point::{NamedVectors, Payload, PointId, Seq};

/// Id of a segment, a UUID (v7), unique in the world; its file is called after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub Uuid);

impl SegmentId {
    /// An id never used before; later ones sort after earlier ones.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

impl FromStr for SegmentId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

/// The vectors of one space, a row each.
#[derive(Debug, Clone)]
pub struct VectorColumn {
    /// The vectors; zeros for a row that has none.
    pub rows: Rows,
    /// The rows that have a vector; `None` = all of them.
    pub present: Option<FixedBitSet>,
}

impl VectorColumn {
    /// The vector of a row, if it has one.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn get(&self, row: usize) -> Option<&[f32]> {
        let present = self.present.as_ref().is_none_or(|present| present.contains(row));
        present.then(|| self.rows.get(row))
    }
}

/// The payloads of all rows as JSON objects in one text.
#[derive(Debug, Clone)]
pub struct PayloadColumn {
    /// Owned, or a part of a mapped file.
    text: Bytes,
    /// Where each row starts, and after the last one where it ends.
    offsets: Vec<usize>,
}

impl Default for PayloadColumn {
    fn default() -> Self {
        PayloadBuilder::default().build()
    }
}

impl PayloadColumn {
    /// Payloads in a text of somebody else's; `None` if the offsets do not fit it.
    pub(crate) fn over(text: Bytes, offsets: Vec<usize>) -> Option<Self> {
        let fit = offsets.first() == Some(&0) && offsets.last() == Some(&text.len()) && offsets.is_sorted();
        fit.then_some(Self { text, offsets })
    }

    /// The JSON object of a row, `{}` if its payload is empty.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn raw(&self, row: usize) -> &str {
        // Text that is not UTF-8 comes from a damaged file; an empty one is refused by whoever reads the JSON.
        std::str::from_utf8(self.bytes(row..row + 1)).unwrap_or_default()
    }

    /// The payload of a row.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the stored text is no JSON object.
    pub fn get(&self, row: usize) -> Result<Payload> {
        let raw = self.raw(row);
        serde_json::from_str(raw).map_err(|error| Error::Corruption(format!("payload of a segment row: {error}")))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of some rows.
    fn bytes(&self, rows: Range<usize>) -> &[u8] {
        &self.text[self.offsets[rows.start]..self.offsets[rows.end]]
    }

    /// Bytes of the text of some rows.
    pub fn text_bytes(&self, rows: Range<usize>) -> usize {
        self.offsets[rows.end] - self.offsets[rows.start]
    }

    /// The text of all rows, shared.
    pub(crate) fn text(&self) -> &Bytes {
        &self.text
    }

    /// Where each row starts, and after the last one where it ends.
    pub(crate) fn offsets(&self) -> &[usize] {
        &self.offsets
    }
}

/// How the rows are sorted: cluster `c` is the rows `offsets[c]..offsets[c + 1]`; rows after the last cluster have no
/// vector in the space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clustering {
    /// The vector space whose similarity sorts the rows.
    pub space: String,
    /// Where each cluster starts, and after the last one where it ends. No cluster is empty.
    pub offsets: Vec<u32>,
}

/// Rows in memory, immutable; what search, get, scroll and compaction read.
#[derive(Debug, Clone, Default)]
pub struct SegmentData {
    /// The id of each row. An id occurs in one row only.
    pub ids: Vec<PointId>,
    /// The sequence number of the operation that wrote each row.
    pub seqs: Vec<Seq>,
    /// Vectors by space.
    pub vectors: BTreeMap<String, VectorColumn>,
    /// Payloads.
    pub payloads: PayloadColumn,
    /// How the rows are sorted; `None` before clustering, or without any vector.
    pub clustering: Option<Clustering>,
    /// Deleted ids with the sequence number of the deletion: rows of older segments with a smaller one are dead.
    pub tombstones: Vec<(PointId, Seq)>,
    /// Where vectors and payloads are.
    pub place: Place,
}

/// Where the vectors and payloads of a segment are. All else is in memory.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// In memory.
    #[default]
    Memory,
    /// In a mapped file.
    Mapped,
    /// In a file on a bucket, and in memory as far as they were read. Whoever looks at them asks first what is [`Absent`].
    Bucket(Arc<Partial>),
}

impl SegmentData {
    /// Whether vectors and payloads lie in a file instead of in memory.
    pub fn is_in_file(&self) -> bool {
        !matches!(self.place, Place::Memory)
    }

    /// The file on a bucket that vectors and payloads are read from.
    pub fn partial(&self) -> Option<&Arc<Partial>> {
        match &self.place {
            Place::Bucket(file) => Some(file),
            Place::Memory | Place::Mapped => None,
        }
    }

    /// Notes the payload of a row if it was not read yet.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn note_payload(&self, row: usize, absent: &mut Absent) {
        if let Some(file) = self.partial() {
            absent.note(file, self.payloads.bytes(row..row + 1));
        }
    }

    /// Notes all payloads that were not read yet.
    pub fn note_payloads(&self, absent: &mut Absent) {
        if let Some(file) = self.partial() {
            absent.note(file, self.payloads.bytes(0..self.len()));
        }
    }

    /// Notes the vectors of a row that were not read yet.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn note_vectors(&self, row: usize, absent: &mut Absent) {
        if let Some(file) = self.partial() {
            for column in self.vectors.values() {
                absent.note(file, bytemuck::cast_slice(column.rows.get(row)));
            }
        }
    }

    /// Notes everything that was not read yet.
    pub fn note_all(&self, absent: &mut Absent) {
        self.note_payloads(absent);
        if let Some(file) = self.partial() {
            for column in self.vectors.values() {
                absent.note(file, bytemuck::cast_slice(column.rows.as_slice()));
            }
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no rows (there may be tombstones).
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The vector of a row in a space, if both exist.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn vector(&self, space: &str, row: usize) -> Option<&[f32]> {
        self.vectors.get(space)?.get(row)
    }

    /// All vectors of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn named_vectors(&self, row: usize) -> NamedVectors {
        let mut vectors = NamedVectors::default();
        for (space, column) in &self.vectors {
            if let Some(vector) = column.get(row) {
                vectors.insert(space.clone(), vector.to_vec());
            }
        }
        vectors
    }

    /// The clusters of a space, to build an index over; `None` if the rows are not sorted by it.
    pub fn clusters(&self, space: &str) -> Option<Clusters> {
        let clustering = self
            .clustering
            .as_ref()
            .filter(|clustering| clustering.space == space)?;
        let rows = &self.vectors.get(space)?.rows;
        let mut means = Vec::with_capacity((clustering.offsets.len() - 1) * rows.dim());
        for bounds in clustering.offsets.windows(2) {
            let mut mean = vec![0f32; rows.dim()];
            for row in bounds[0]..bounds[1] {
                mean.iter_mut()
                    .zip(rows.get(row as usize))
                    .for_each(|(sum, value)| *sum += value);
            }
            means.extend(mean.iter().map(|sum| sum / (bounds[1] - bounds[0]) as f32));
        }
        Some(Clusters::from_offsets(
            Rows::from_vec(rows.dim(), means),
            &clustering.offsets,
        ))
    }

    /// Smallest and largest sequence number of rows and tombstones; `None` if there are neither.
    pub fn seq_range(&self) -> Option<(Seq, Seq)> {
        let seqs = || {
            self.seqs
                .iter()
                .copied()
                .chain(self.tombstones.iter().map(|(_, seq)| *seq))
        };
        Some((seqs().min()?, seqs().max()?))
    }

    /// About the bytes of a row in a file without compression; also about its bytes in memory.
    pub fn row_bytes(&self, row: usize) -> usize {
        let vectors: usize = self
            .vectors
            .values()
            .filter_map(|column| column.get(row))
            .map(size_of_val)
            .sum();
        vectors + self.payloads.text_bytes(row..row + 1) + ROW_OVERHEAD_BYTES
    }

    /// About the bytes of all rows and tombstones, as [`row_bytes`](Self::row_bytes).
    pub fn bytes(&self) -> usize {
        let rows: usize = (0..self.len()).map(|row| self.row_bytes(row)).sum();
        rows + self.tombstones.len() * TOMBSTONE_BYTES
    }

    /// The same rows in another order (`order[new row] = old row`), with all tombstones and no clustering.
    ///
    /// # Panics
    /// If `order` names a row that does not exist.
    pub fn reorder(&self, order: &[u32]) -> Self {
        let mut payloads = PayloadBuilder::default();
        order
            .iter()
            .for_each(|row| payloads.push(self.payloads.raw(*row as usize)));
        Self {
            ids: order.iter().map(|row| self.ids[*row as usize]).collect(),
            seqs: order.iter().map(|row| self.seqs[*row as usize]).collect(),
            vectors: self
                .vectors
                .iter()
                .map(|(space, column)| (space.clone(), pick(column, order)))
                .collect(),
            payloads: payloads.build(),
            clustering: None,
            tombstones: self.tombstones.clone(),
            place: Place::Memory,
        }
    }

    /// Cuts the rows into pieces of at most `max_bytes` (at least one row each), in the order of their sequence
    /// numbers: each piece has the rows and tombstones of one range. So of the pieces of a flush, written one after
    /// the other, any first few are a complete state, and a crash between two leaves no hole before the highest
    /// sequence number on disk. With each piece comes where its rows were (`order[row of the piece] = old row`).
    pub fn split(self, max_bytes: usize) -> Vec<(Self, Vec<u32>)> {
        if self.bytes() <= max_bytes {
            let order = (0..self.len() as u32).collect();
            return vec![(self, order)];
        }
        let row_entries = (0..self.len()).map(|row| Entry {
            seq: self.seqs[row],
            row: Some(row as u32),
            bytes: self.row_bytes(row),
        });
        let tombstone_entries = self.tombstones.iter().map(|(_, seq)| Entry {
            seq: *seq,
            row: None,
            bytes: TOMBSTONE_BYTES,
        });
        let mut entries: Vec<Entry> = row_entries.chain(tombstone_entries).collect();
        entries.sort_by_key(|entry| entry.seq);
        let mut pieces = Vec::new();
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_length(rest, max_bytes));
            rest = after;
            let order: Vec<u32> = piece.iter().filter_map(|entry| entry.row).collect();
            let mut data = self.reorder(&order);
            data.tombstones
                .retain(|(_, seq)| piece.binary_search_by_key(seq, |entry| entry.seq).is_ok());
            pieces.push((data, order));
        }
        pieces
    }
}

/// A row or a tombstone.
struct Entry {
    seq: Seq,
    row: Option<u32>,
    bytes: usize,
}

/// How many of the entries make a piece.
fn piece_length(entries: &[Entry], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.bytes;
        bytes <= max_bytes
    };
    let mut length = entries.iter().take_while(fits).count().max(1);
    // Equal sequence numbers stay together, or the next piece would begin inside this one's range.
    while length < entries.len() && entries[length].seq == entries[length - 1].seq {
        length += 1;
    }
    length
}

/// Id, sequence number, cluster, levels and offsets of a row.
const ROW_OVERHEAD_BYTES: usize = 64;
/// A tombstone in the footer, as text.
const TOMBSTONE_BYTES: usize = 40;

/// Some rows of a column, in the order given.
fn pick(column: &VectorColumn, order: &[u32]) -> VectorColumn {
    let mut floats = Vec::with_capacity(order.len() * column.rows.dim());
    order
        .iter()
        .for_each(|row| floats.extend_from_slice(column.rows.get(*row as usize)));
    let present = column.present.as_ref().map(|present| {
        let mut picked = FixedBitSet::with_capacity(order.len());
        order
            .iter()
            .enumerate()
            .for_each(|(new, old)| picked.set(new, present.contains(*old as usize)));
        picked
    });
    VectorColumn {
        rows: Rows::from_vec(column.rows.dim(), floats),
        present,
    }
}

#[cfg(test)]
#[path = "segment/tests.rs"]
mod tests;

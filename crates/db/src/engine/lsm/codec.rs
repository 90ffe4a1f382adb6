//! Keys and values of the tree.
//!
//! ```text
//! key    'm'                             the marker, one per tree
//!        'n' │ number: u64 BE            a point with a number as id       keys sort as ids do:
//!        'u' │ UUID: 16 bytes            a point with a UUID as id         numbers, then UUIDs
//!
//! marker sealed JSON: format_version, shard, flushed_seq, description
//! point  1: u8 │ seq: u64 │ vectors: u32 │ (name │ dim: u32 │ f32 × dim) … │ payload      little endian;
//!                                                          name and payload: length: u32 │ UTF-8
//! ```
//!
//! The first byte of a point is the version of its format. The tree checksums its blocks; the marker has one of its own.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::segment::SegmentData;
use crate::point::{PointId, Seq};
use crate::schema::CollectionDescription;
use crate::sealed::FORMAT_VERSION;

/// Key of the marker; below all points.
pub(super) const MARKER: &[u8] = b"m";
const NUMBER: u8 = b'n';
const UUID: u8 = b'u';
/// Version of a point's value.
const POINT_VERSION: u8 = 1;

/// What the tree says about itself; written in the same batch as the rows that it covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    format_version: u32,
    /// The shard, three digits.
    pub shard: String,
    /// Every operation up to this one is in the tree.
    pub flushed_seq: Seq,
    /// The collection when this was written.
    pub description: CollectionDescription,
}

impl Marker {
    pub(super) fn new(shard: &str, flushed_seq: Seq, description: &CollectionDescription) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            shard: shard.to_owned(),
            flushed_seq,
            description: description.clone(),
        }
    }
}

/// Where the points begin and end.
pub(super) fn point_keys() -> std::ops::Range<[u8; 1]> {
    [NUMBER]..[UUID + 1]
}

/// The key of a point.
pub(super) fn key(id: PointId) -> Bytes {
    let mut key = Vec::with_capacity(17);
    match id {
        PointId::Num(number) => {
            key.push(NUMBER);
            key.extend_from_slice(&number.to_be_bytes());
        }
        PointId::Uuid(uuid) => {
            key.push(UUID);
            key.extend_from_slice(uuid.as_bytes());
        }
    }
    key.into()
}

/// The id in a key; `None` if it is not a point's.
pub(super) fn id(key: &[u8]) -> Option<PointId> {
    match key.split_first()? {
        (&NUMBER, number) => Some(PointId::Num(u64::from_be_bytes(number.try_into().ok()?))),
        (&UUID, uuid) => Some(PointId::Uuid(Uuid::from_bytes(uuid.try_into().ok()?))),
        _ => None,
    }
}

/// The value of a row.
///
/// # Panics
/// If there is no such row.
pub(super) fn encode(data: &SegmentData, row: usize) -> Bytes {
    let mut out = Vec::with_capacity(data.row_bytes(row));
    out.push(POINT_VERSION);
    out.extend_from_slice(&data.seqs[row].to_le_bytes());
    let vectors: Vec<(&String, &[f32])> = data
        .vectors
        .iter()
        .filter_map(|(name, column)| Some((name, column.get(row)?)))
        .collect();
    put_length(vectors.len(), &mut out);
    for (name, vector) in vectors {
        put_text(name, &mut out);
        put_length(vector.len(), &mut out);
        vector
            .iter()
            .for_each(|float| out.extend_from_slice(&float.to_le_bytes()));
    }
    put_text(data.payloads.raw(row), &mut out);
    out.into()
}

/// A point as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredPoint<'a> {
    /// The operation that wrote it.
    pub seq: Seq,
    /// Its vectors by name.
    pub vectors: Vec<(&'a str, Vec<f32>)>,
    /// Its payload as JSON.
    pub payload: &'a str,
}

impl StoredPoint<'_> {
    /// The vector called `name`.
    pub(super) fn vector(&self, name: &str) -> Option<&[f32]> {
        let found = self.vectors.iter().find(|(own, _)| *own == name);
        found.map(|(_, vector)| vector.as_slice())
    }
}

/// Reads a value; `None` if it is damaged or of another version.
pub(super) fn decode(mut bytes: &[u8]) -> Option<StoredPoint<'_>> {
    let bytes = &mut bytes;
    if take(bytes, 1)? != [POINT_VERSION] {
        return None;
    }
    let seq = u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?);
    let mut vectors = Vec::new();
    for _ in 0..take_length(bytes)? {
        let name = take_text(bytes)?;
        let dim = take_length(bytes)?;
        let (floats, _) = take(bytes, dim.checked_mul(size_of::<f32>())?)?.as_chunks();
        vectors.push((name, floats.iter().map(|float| f32::from_le_bytes(*float)).collect()));
    }
    let payload = take_text(bytes)?;
    bytes.is_empty().then_some(StoredPoint { seq, vectors, payload })
}

/// A vector has at most 65,535 dimensions and a request is limited to far less than 4 GiB.
fn put_length(length: usize, out: &mut Vec<u8>) {
    assert!(u32::try_from(length).is_ok(), "a value of 4 GiB");
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)).ok()
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = take_length(bytes)?;
    std::str::from_utf8(take(bytes, length)?).ok()
}

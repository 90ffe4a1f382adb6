//! What a segment says about itself: key-values in the footer of its Parquet file, from which a lost manifest is
//! rebuilt.
//!
//! | Key | Value |
//! | --- | --- |
//! | `proximadb.format_version` | `1` |
//! | `proximadb.description` | the collection: [`CollectionDescription`] as JSON |
//! | `proximadb.shard` | three digits |
//! | `proximadb.segment` | the segment's id |
//! | `proximadb.min_seq`, `proximadb.max_seq` | the sequence numbers it covers |
//! | `proximadb.replaces` | JSON array: the ids of the segments whose rows these are, after a compaction |
//! | `proximadb.outputs` | JSON array: the ids of all segments that together replace those |
//! | `proximadb.clustered_by` | the vector space that sorts the rows (absent: none) |
//! | `proximadb.tombstones` | deletions, see [`encode_tombstones`] |

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use uuid::Uuid;

use crate::engine::segment::SegmentId;
use crate::point::{PointId, Seq};
use crate::schema::CollectionDescription;

/// Version of the segment format.
const FORMAT_VERSION: &str = "1";

/// Bytes are not what they should be; the message says what. Whoever knows the file's name adds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);

/// Identity of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentFooter {
    /// The segment.
    pub id: SegmentId,
    /// Its collection, as it was when the segment was written.
    pub description: CollectionDescription,
    /// Its shard, three digits.
    pub shard: String,
    /// No row or tombstone has a smaller sequence number.
    pub min_seq: Seq,
    /// No row or tombstone has a larger one. After a compaction it is the largest of the inputs, even if its row is
    /// gone.
    pub max_seq: Seq,
    /// The segments that this one replaces, alone or with the other `outputs`; empty after a flush.
    pub replaces: Vec<SegmentId>,
    /// All segments that one compaction wrote, this one included; only when they are all there is `replaces` obsolete.
    pub outputs: Vec<SegmentId>,
}

impl SegmentFooter {
    /// The identity as key-values; [`from_key_values`](Self::from_key_values) reads them.
    ///
    /// # Errors
    /// If the description is no JSON (it always is).
    pub fn to_key_values(&self) -> Result<BTreeMap<String, String>, FormatError> {
        Ok([
            ("format_version", FORMAT_VERSION.to_owned()),
            ("description", json(&self.description)?),
            ("shard", self.shard.clone()),
            ("segment", self.id.to_string()),
            ("min_seq", self.min_seq.to_string()),
            ("max_seq", self.max_seq.to_string()),
            ("replaces", json(&self.replaces)?),
            ("outputs", json(&self.outputs)?),
        ]
        .map(|(name, value)| (key(name), value))
        .into())
    }

    /// The identity from key-values.
    ///
    /// # Errors
    /// If a key is missing, its value cannot be read, or the format version is another.
    pub fn from_key_values(values: &BTreeMap<String, String>) -> Result<Self, FormatError> {
        let version = required(values, "format_version")?;
        if version != FORMAT_VERSION {
            return Err(FormatError(format!(
                "segment format version {version}, expected {FORMAT_VERSION}"
            )));
        }
        Ok(Self {
            id: parse(values, "segment", str::parse)?,
            description: parse(values, "description", serde_json::from_str)?,
            shard: required(values, "shard")?.to_owned(),
            min_seq: parse(values, "min_seq", str::parse)?,
            max_seq: parse(values, "max_seq", str::parse)?,
            replaces: parse(values, "replaces", serde_json::from_str)?,
            outputs: parse(values, "outputs", serde_json::from_str)?,
        })
    }
}

/// The full key of a name.
pub fn key(name: &str) -> String {
    format!("proximadb.{name}")
}

/// The value of a key.
///
/// # Errors
/// If it is missing.
pub fn required<'a>(values: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str, FormatError> {
    values
        .get(&key(name))
        .map(String::as_str)
        .ok_or_else(|| FormatError(format!("footer key proximadb.{name} is missing")))
}

fn parse<'a, T, E: std::fmt::Display>(
    values: &'a BTreeMap<String, String>,
    name: &str,
    read: impl FnOnce(&'a str) -> Result<T, E>,
) -> Result<T, FormatError> {
    read(required(values, name)?).map_err(|error| FormatError(format!("footer key proximadb.{name}: {error}")))
}

fn json(value: &impl serde::Serialize) -> Result<String, FormatError> {
    serde_json::to_string(value).map_err(|error| FormatError(format!("JSON of the footer: {error}")))
}

/// Tombstones as text, about 4 bytes for a number and 25 for a UUID: Base64 of
///
/// ```text
/// base │ count of numbers │ (id - id before │ seq - base) … │ count of UUIDs │ (16 bytes │ seq - base) …
/// ```
///
/// with all integers as LEB128 and `base` the smallest sequence number.
///
/// # Panics
/// If they are not sorted by id, as a segment's are.
pub fn encode_tombstones(tombstones: &[(PointId, Seq)]) -> String {
    assert!(tombstones.is_sorted(), "the distance to the id before is not negative");
    let base = tombstones.iter().map(|(_, seq)| *seq).min().unwrap_or(0);
    let numbers = tombstones
        .iter()
        .filter(|(id, _)| matches!(id, PointId::Num(_)))
        .count();
    let mut out = Vec::new();
    write_varint(base, &mut out);
    write_varint(numbers as u64, &mut out);
    let mut before = 0;
    for (id, seq) in tombstones {
        if let PointId::Num(number) = id {
            write_varint(number - before, &mut out);
            write_varint(seq - base, &mut out);
            before = *number;
        }
    }
    write_varint((tombstones.len() - numbers) as u64, &mut out);
    for (id, seq) in tombstones {
        if let PointId::Uuid(uuid) = id {
            out.extend_from_slice(uuid.as_bytes());
            write_varint(seq - base, &mut out);
        }
    }
    BASE64.encode(out)
}

/// Reads [`encode_tombstones`]' text.
///
/// # Errors
/// If it is damaged.
pub fn decode_tombstones(text: &str) -> Result<Vec<(PointId, Seq)>, FormatError> {
    let bytes = BASE64
        .decode(text)
        .map_err(|error| FormatError(format!("tombstones: {error}")))?;
    read_tombstones(&mut bytes.as_slice())
        .ok_or_else(|| FormatError("tombstones are cut short, too large or not sorted".to_owned()))
}

fn read_tombstones(bytes: &mut &[u8]) -> Option<Vec<(PointId, Seq)>> {
    let base = read_varint(bytes)?;
    let mut tombstones = Vec::new();
    let mut number = 0u64;
    for _ in 0..read_varint(bytes)? {
        number = number.checked_add(read_varint(bytes)?)?;
        tombstones.push((PointId::Num(number), base.checked_add(read_varint(bytes)?)?));
    }
    for _ in 0..read_varint(bytes)? {
        let (uuid, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        tombstones.push((
            PointId::Uuid(Uuid::from_bytes(*uuid)),
            base.checked_add(read_varint(bytes)?)?,
        ));
    }
    (bytes.is_empty() && tombstones.is_sorted()).then_some(tombstones)
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7F);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = PointId> {
        prop_oneof![
            any::<u64>().prop_map(PointId::Num),
            (0u64..100).prop_map(PointId::Num),
            any::<u128>().prop_map(|bits| PointId::Uuid(Uuid::from_u128(bits)))
        ]
    }

    proptest! {
        #[test]
        fn tombstones_come_back_as_they_were(mut tombstones in prop::collection::vec((id(), any::<u64>()), 0..50)) {
            tombstones.sort_unstable();
            prop_assert_eq!(decode_tombstones(&encode_tombstones(&tombstones)).unwrap(), tombstones);
        }

        #[test]
        fn damaged_tombstones_are_an_error_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _any = decode_tombstones(&BASE64.encode(bytes));
        }
    }

    #[test]
    fn tombstones_out_of_order_are_an_error() {
        let uuid = |first: u8| [vec![first; 16], vec![0]].concat();
        let bytes = |uuids: [u8; 2]| [vec![1, 0, 2], uuid(uuids[0]), uuid(uuids[1])].concat();
        decode_tombstones(&BASE64.encode(bytes([3, 4]))).unwrap();
        decode_tombstones(&BASE64.encode(bytes([4, 3]))).unwrap_err();
    }

    #[test]
    fn tombstones_cut_anywhere_are_an_error() {
        let tombstones: Vec<_> = (0..20).map(|n| (PointId::Num(n * 1000), 7 + n)).collect();
        let bytes = BASE64.decode(encode_tombstones(&tombstones)).unwrap();
        for end in 0..bytes.len() {
            decode_tombstones(&BASE64.encode(&bytes[..end])).unwrap_err();
        }
    }
}

//! The bytes of an index file, and its name.
//!
//! ```text
//! "PXAXIS04" | header length: u32 | header: JSON | part 0 | part 1 | … | CRC-32 of all before: u32      little endian
//! ```
//!
//! A segment has one file for each type among its indexes. Every header lists the parts of all of them, so that a file that
//! is missing is noticed from any other.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proximadb_index::{IndexKind, VectorIndex};
use serde::{Deserialize, Serialize};

use crate::axis::{SegmentIndexes, rows};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::SegmentId;
use crate::error::{Error, Result};
use crate::root::IndexType;
use crate::schema::CollectionDescription;
use crate::sealed::crc32;

const MAGIC: &[u8; 8] = b"PXAXIS04";

/// What an index file says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    of: Identity,
    /// The indexes of the segment, those of this file's type in the order of the file.
    parts: Vec<Part>,
}

/// The segment that a file is derived from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    collection: CollectionDescription,
    shard: String,
    segment: SegmentId,
    /// Of the segment's file: what is derived from other rows is stale.
    segment_crc32: u32,
    segment_rows: u64,
}

impl Identity {
    /// `directory` is `<collection id>/<shard>`.
    pub fn new(directory: &str, segment: &SegmentMeta, collection: &CollectionDescription) -> Self {
        Self {
            collection: collection.clone(),
            shard: directory.rsplit('/').next().unwrap_or_default().to_owned(),
            segment: segment.id,
            segment_crc32: segment.crc32,
            segment_rows: segment.rows,
        }
    }

    /// Whether it is what the file's path says, and what the segment is now, if that is known.
    ///
    /// # Errors
    /// What it is instead.
    pub fn check(&self, path: &str, segment: Option<&SegmentMeta>) -> Result<(), String> {
        let (directory, _) = path.rsplit_once('/').ok_or("has no directory")?;
        let (id, _) = parse_name(path).ok_or("is not named as an index file")?;
        if self.segment != id {
            return Err(format!("belongs to segment {}", self.segment));
        }
        let place = format!("{}/{}", self.collection.id, self.shard);
        if place != directory {
            return Err(format!("belongs to {place}"));
        }
        let stale = |meta: &SegmentMeta| (meta.crc32, meta.rows) != (self.segment_crc32, self.segment_rows);
        if segment.is_some_and(stale) {
            return Err("is stale: the segment has other rows".to_owned());
        }
        Ok(())
    }

    /// The collection when the file was written.
    pub fn description(&self) -> &CollectionDescription {
        &self.collection
    }

    /// Rows of the segment.
    pub fn rows(&self) -> u64 {
        self.segment_rows
    }
}

/// The index of one vector space.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    space: String,
    #[serde(rename = "type")]
    of: IndexType,
    bytes: u64,
}

/// What a file holds.
pub(super) struct Content {
    /// Its indexes by vector space.
    pub indexes: BTreeMap<String, Box<dyn VectorIndex>>,
    /// The types of all files of the segment.
    pub types: BTreeSet<IndexType>,
}

/// The type of the file that holds an index. A flat index is a scan: there is nothing to keep of it.
pub fn type_of(kind: IndexKind) -> Option<IndexType> {
    match kind {
        IndexKind::Ivf => Some(IndexType::Ivf),
        IndexKind::Hnsw => Some(IndexType::Hnsw),
        IndexKind::Flat => None,
    }
}

/// The types of the files that these indexes are stored in.
pub(super) fn types(indexes: &SegmentIndexes) -> BTreeSet<IndexType> {
    indexes.values().filter_map(|index| type_of(index.kind())).collect()
}

/// Name of a segment's file of a type.
pub(super) fn name(segment: SegmentId, of: IndexType) -> String {
    format!("{segment}.{}", of.name())
}

/// The segment and the type that a file's path says.
pub fn parse_name(path: &str) -> Option<(SegmentId, IndexType)> {
    let (segment, extension) = path.rsplit('/').next()?.split_once('.')?;
    let of = IndexType::ALL.into_iter().find(|of| of.name() == extension)?;
    Some((segment.parse().ok()?, of))
}

/// The indexes of a segment as files, by type.
pub(super) fn encode(of: Identity, indexes: &SegmentIndexes) -> Result<BTreeMap<IndexType, Bytes>> {
    let (mut parts, mut bodies) = (Vec::new(), BTreeMap::<IndexType, Vec<u8>>::new());
    for (space, index) in indexes.iter() {
        let Some(of) = type_of(index.kind()) else { continue };
        let bytes = index.encode();
        parts.push(Part {
            space: space.clone(),
            of,
            bytes: bytes.len() as u64,
        });
        bodies.entry(of).or_default().extend(bytes);
    }
    let header = Header { of, parts };
    let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("index header: {e}")))?;
    let file = |body: Vec<u8>| {
        let mut file = MAGIC.to_vec();
        file.extend((header.len() as u32).to_le_bytes());
        file.extend(&header);
        file.extend(body);
        file.extend(crc32(&file).to_le_bytes());
        Bytes::from(file)
    };
    Ok(bodies.into_iter().map(|(of, body)| (of, file(body))).collect())
}

/// Whether the bytes are what the path of an index file says. Against the `segment`, if it is known, they may be stale.
///
/// # Errors
/// What is wrong with them.
pub fn check(file: &Bytes, path: &str, segment: Option<&SegmentMeta>) -> Result<(), String> {
    match parse_name(path) {
        Some((_, IndexType::Idx)) => rows::check(file, path, segment),
        _ => decode(file, path, segment).map(|_| ()),
    }
}

/// Whether the checksum of an index file matches its bytes.
pub(super) fn is_whole(file: &[u8]) -> bool {
    split_checksum(file).is_some_and(|(body, stored)| crc32(body) == stored)
}

fn split_checksum(file: &[u8]) -> Option<(&[u8], u32)> {
    let (body, stored) = file.split_last_chunk::<4>()?;
    Some((body, u32::from_le_bytes(*stored)))
}

/// The indexes of a file whose checksum matches; they are parts of it.
pub(super) fn decode(file: &Bytes, path: &str, segment: Option<&SegmentMeta>) -> Result<Content, String> {
    let (header, mut rest) = split(file)?;
    header.of.check(path, segment)?;
    let (_, of) = parse_name(path).ok_or("is not named as an index file")?;
    let mut indexes = BTreeMap::new();
    for part in header.parts.iter().filter(|part| part.of == of) {
        let length = usize::try_from(part.bytes).map_err(|e| e.to_string())?;
        let (bytes, after) = rest.split_at_checked(length).ok_or("cut in an index")?;
        // Shared with the file, not copied.
        let index = proximadb_index::decode(&file.slice_ref(bytes)).map_err(|e| e.to_string())?;
        if type_of(index.kind()) != Some(of) || index.shape().0 as u64 != header.of.rows() {
            return Err(format!(
                "the index of space `{}` is of another type or of other rows",
                part.space
            ));
        }
        indexes.insert(part.space.clone(), index);
        rest = after;
    }
    if indexes.is_empty() || !rest.is_empty() {
        return Err("holds no index, or more than its header says".to_owned());
    }
    let types = header.parts.iter().map(|part| part.of).collect();
    Ok(Content { indexes, types })
}

/// The header and the parts of a file whose checksum matches.
fn split(file: &[u8]) -> Result<(Header, &[u8]), String> {
    let (body, stored) = split_checksum(file).ok_or("shorter than its checksum")?;
    if crc32(body) != stored {
        return Err("checksum does not match".to_owned());
    }
    let rest = body.strip_prefix(MAGIC).ok_or("not an index file of a known version")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("cut in its header")?;
    let (header, parts) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or("cut in its header")?;
    Ok((serde_json::from_slice(header).map_err(|e| e.to_string())?, parts))
}

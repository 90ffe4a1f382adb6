//! The bytes of an index file, and its name.
//!
//! ```text
//! a file of blocks (store::blocks) of the magic "PXAXIS05"; header: JSON; body: part 0 │ part 1 │ …
//! ```
//!
//! A segment has one file for each type among its indexes. Every header lists the parts of all of them, so that a file that
//! is missing is noticed from any other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;
use proximadb_index::{IndexKind, Presence, VectorIndex};
use proximadb_store::{BLOCK_BYTES, Blocks, Partial, Stored, blocks};
use serde::{Deserialize, Serialize};

use crate::axis::rows;
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::SegmentId;
use crate::error::{Error, Result};
use crate::root::IndexType;
use crate::schema::CollectionDescription;

const MAGIC: &[u8; 8] = b"PXAXIS05";

/// Vector indexes of one segment by vector space. Cheap to clone.
#[derive(Clone, Default)]
pub struct SegmentIndexes {
    pub(super) by_space: Arc<BTreeMap<String, Box<dyn VectorIndex>>>,
    pub(super) file: Option<Arc<Partial>>,
}

impl SegmentIndexes {
    /// The file on a bucket that parts of them are read from as they are needed.
    pub fn partial(&self) -> Option<&Arc<Partial>> {
        self.file.as_ref()
    }
}

impl Deref for SegmentIndexes {
    type Target = BTreeMap<String, Box<dyn VectorIndex>>;

    fn deref(&self) -> &Self::Target {
        &self.by_space
    }
}

impl From<BTreeMap<String, Box<dyn VectorIndex>>> for SegmentIndexes {
    fn from(by_space: BTreeMap<String, Box<dyn VectorIndex>>) -> Self {
        Self {
            by_space: Arc::new(by_space),
            file: None,
        }
    }
}

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
    /// Of these, those at the beginning that every search needs.
    head_bytes: u64,
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
        // A hybrid is lists, too: the same file with a graph behind them.
        IndexKind::Ivf | IndexKind::Hybrid => Some(IndexType::Ivf),
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

/// The indexes of a segment as files, by type, each in pieces.
pub(super) fn encode(of: Identity, indexes: &SegmentIndexes) -> Result<BTreeMap<IndexType, Vec<Bytes>>> {
    let (mut parts, mut bodies) = (Vec::new(), BTreeMap::<IndexType, Vec<Bytes>>::new());
    for (space, index) in indexes.iter() {
        let Some(of) = type_of(index.kind()) else { continue };
        let bytes = index.encode();
        parts.push(Part {
            space: space.clone(),
            of,
            bytes: bytes.len() as u64,
            head_bytes: index.head_bytes().unwrap_or(bytes.len()) as u64,
        });
        bodies.entry(of).or_default().push(bytes.into());
    }
    let header = Header { of, parts };
    let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("index header: {e}")))?;
    let files = bodies.into_iter();
    Ok(files
        .map(|(of, body)| (of, blocks::encode(MAGIC, &header, body)))
        .collect())
}

/// Whether the bytes are what the path of an index file says. Against the `segment`, if it is known, they may be stale.
///
/// # Errors
/// What is wrong with them.
pub fn check(file: &Bytes, path: &str, segment: Option<&SegmentMeta>) -> Result<(), String> {
    match parse_name(path) {
        Some((_, IndexType::Idx)) => rows::check(file, path, segment),
        _ => decode(&file.clone().into(), path, segment).map(|_| ()),
    }
}

/// Whether the checksums of an index file match its bytes.
pub(super) fn is_whole(file: &[u8]) -> bool {
    Blocks::of(file).is_ok_and(|blocks| blocks.are_good(file, blocks.body()))
}

/// Parts of a file.
pub(super) type Ranges = Vec<Range<u64>>;

/// About the bytes at the beginning of an inverted file that every search needs.
pub(super) fn ivf_needed(file_bytes: u64) -> u64 {
    /// It is so many times as large as its means and lists, or more. What is missing takes one more round.
    const IVF_PER_HEAD: u64 = 64;
    BLOCK_BYTES + file_bytes / IVF_PER_HEAD
}

/// The bytes of a file at this path that every search needs; [`decode`] verifies them.
pub(super) fn loaded(blocks: &Blocks, path: &str) -> Result<Ranges, String> {
    let (header, ranges) = split(blocks, path)?;
    let heads = ranges.into_iter().map(|(part, range)| {
        let head = header.parts[part].head_bytes.min(range.end - range.start);
        range.start..range.start + head
    });
    Ok(heads.collect())
}

/// The indexes of a file; they are parts of it. Of a file that is read in parts, what [`loaded`] says has to be there.
pub(super) fn decode(file: &Stored, path: &str, segment: Option<&SegmentMeta>) -> Result<Content, String> {
    let bytes = file.bytes();
    let blocks = Blocks::of(bytes)?;
    let (header, ranges) = split(&blocks, path)?;
    header.of.check(path, segment)?;
    let verified = match file.partial() {
        Some(_) => loaded(&blocks, path)?,
        None => vec![blocks.body()],
    };
    if !verified.into_iter().all(|range| blocks.are_good(bytes, range)) {
        return Err("checksum does not match".to_owned());
    }
    let mut indexes = BTreeMap::new();
    for (part, range) in ranges {
        let part = &header.parts[part];
        // Shared with the file, not copied.
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let partial = file.partial().filter(|_| part.head_bytes < part.bytes);
        let index = match partial {
            Some(partial) => proximadb_index::decode_partial(&bytes, Arc::new(InFile(partial.clone()))),
            None => proximadb_index::decode(&bytes),
        };
        let index = index.map_err(|e| e.to_string())?;
        if type_of(index.kind()) != Some(part.of) || index.shape().0 as u64 != header.of.rows() {
            return Err(format!(
                "the index of space `{}` is of another type or of other rows",
                part.space
            ));
        }
        indexes.insert(part.space.clone(), index);
    }
    let types = header.parts.iter().map(|part| part.of).collect();
    Ok(Content { indexes, types })
}

/// Numbers of parts, and where they are in the file.
type Placed = Vec<(usize, Range<u64>)>;

/// The header of a file at this path, and which of its parts are in this file, and where.
fn split(blocks: &Blocks, path: &str) -> Result<(Header, Placed), String> {
    if blocks.magic() != MAGIC {
        return Err("not an index file of a known version".to_owned());
    }
    let header: Header = serde_json::from_slice(blocks.header()).map_err(|e| e.to_string())?;
    let (_, of) = parse_name(path).ok_or("is not named as an index file")?;
    let (mut ranges, mut start) = (Vec::new(), blocks.body().start);
    for (number, part) in header.parts.iter().enumerate().filter(|(_, part)| part.of == of) {
        let end = start.checked_add(part.bytes).filter(|end| *end <= blocks.file_bytes());
        let end = end.ok_or("cut in an index")?;
        ranges.push((number, start..end));
        start = end;
    }
    if ranges.is_empty() || start != blocks.file_bytes() {
        return Err("holds no index, or more than its header says".to_owned());
    }
    Ok((header, ranges))
}

/// A file as its indexes see it.
#[derive(Debug)]
struct InFile(Arc<Partial>);

impl Presence for InFile {
    fn absent(&self, part: &[u8]) -> Option<Range<u64>> {
        self.0.absent(part)
    }
}

//! The rows of a segment as a file that is used where it lies (`.idx`): vectors and payloads are mapped, or read from a bucket as they are
//! needed, instead of held in memory, and an opening reads neither them nor the Parquet file.
//!
//! ```text
//! a file of blocks (store::blocks) of the magic "PXROWS02"; header: JSON; body: part 0 │ part 1 │ …      little endian
//! ```
//!
//! Every part begins at a multiple of 64 bytes. The small parts come first; they are verified and taken into memory when the file is loaded.
//! Vectors and payloads are *bulk*: verified by [`check`]; block by block when they are read from a bucket; and where they are mapped by
//! [`Axis::verify_rows`](super::Axis::verify_rows), which reads them through once after an opening.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fixedbitset::{Block, FixedBitSet};
use proximadb_index::Rows;
use proximadb_store::{BLOCK_BYTES, Blocks, blocks};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::file::{Identity, Ranges};
use crate::engine::footer::{decode_tombstones, encode_tombstones};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{Clustering, PayloadColumn, Place, SegmentData, VectorColumn};
use crate::error::{Error, Result};
use crate::point::PointId;
use crate::schema::Schema;

const MAGIC: &[u8; 8] = b"PXROWS02";
/// Floats are used where they are, and lines of a cache begin here.
const ALIGNMENT: usize = 64;
const ID_BYTES: usize = 17;
/// Bytes of a row in the parts that are taken into memory: id, sequence number, offset of its payload.
const ROW_BYTES: u64 = ID_BYTES as u64 + 16;
const _: () = assert!(
    cfg!(target_endian = "little"),
    "numbers are used as they are in the file"
);

/// What a rows file says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    of: Identity,
    parts: Vec<Part>,
}

/// A part, in the order of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    content: Content,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    /// Rows × (0: u8, number: u64, 0: u64), or (1: u8, UUID).
    Ids,
    /// Rows × u64.
    Seqs,
    /// Where each cluster of this space begins, and where the last one ends: u32.
    Clusters(String),
    /// As in the footer of the segment.
    Tombstones,
    /// Rows of this space that have a vector, a bit each; without it all have one.
    Present(String),
    /// Where each payload begins, and where the last one ends: u64.
    PayloadOffsets,
    Payloads,
    /// Rows × dimension × f32, zeros where there is no vector.
    Vectors(String),
}

impl Content {
    fn is_bulk(&self) -> bool {
        matches!(self, Self::Payloads | Self::Vectors(_))
    }
}

/// The rows as a file, in pieces to be written one after the other. Vectors and payloads are shared, not copied.
pub(super) fn encode(of: Identity, data: &SegmentData) -> Result<Vec<Bytes>> {
    let mut contents = vec![
        (Content::Ids, encode_ids(&data.ids)),
        (Content::Seqs, numbers(data.seqs.iter().map(|seq| seq.to_le_bytes()))),
        (Content::Tombstones, encode_tombstones(&data.tombstones).into()),
    ];
    if let Some(Clustering { space, offsets }) = &data.clustering {
        let offsets = numbers(offsets.iter().map(|offset| offset.to_le_bytes()));
        contents.push((Content::Clusters(space.clone()), offsets));
    }
    for (space, column) in &data.vectors {
        if let Some(present) = &column.present {
            let bits = numbers(present.as_slice().iter().map(|block| (*block as u64).to_le_bytes()));
            contents.push((Content::Present(space.clone()), bits));
        }
    }
    let offsets = numbers(data.payloads.offsets().iter().map(|at| (*at as u64).to_le_bytes()));
    contents.push((Content::PayloadOffsets, offsets));
    contents.push((Content::Payloads, data.payloads.text().clone()));
    for (space, column) in &data.vectors {
        let floats = Bytes::from_owner(FloatBytes(column.rows.clone()));
        contents.push((Content::Vectors(space.clone()), floats));
    }
    let part = |(content, bytes): &(Content, Bytes)| Part {
        content: content.clone(),
        bytes: bytes.len() as u64,
    };
    let header = Header {
        of,
        parts: contents.iter().map(part).collect(),
    };
    let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(format!("rows header: {e}")))?;
    let (mut body, mut end) = (Vec::new(), 0);
    for (_, bytes) in contents {
        body.push(Bytes::from_static(&[0; ALIGNMENT]).slice(..padding(end)));
        end += padding(end) + bytes.len();
        body.push(bytes);
    }
    Ok(blocks::encode(MAGIC, &header, body))
}

/// Whether the bytes are what the path of a rows file says. Against the `segment`, if it is known, they may be stale.
///
/// # Errors
/// What is wrong with them.
pub(super) fn check(file: &Bytes, path: &str, segment: Option<&SegmentMeta>) -> Result<(), String> {
    let blocks = Blocks::of(file)?;
    if !blocks.are_good(file, blocks.body()) {
        return Err("checksum does not match".to_owned());
    }
    decode(file, path, segment).map(|_| ())
}

/// About the bytes at the beginning of a file of these rows that [`decode`] reads.
pub(super) fn needed(rows: u64) -> u64 {
    BLOCK_BYTES + rows * ROW_BYTES
}

/// The most rows that a file of this size can hold.
pub(super) fn rows_max(file_bytes: u64, schema: &Schema) -> u64 {
    let floats: usize = schema.vectors.values().map(|space| space.size).sum();
    file_bytes / (ROW_BYTES + 4 * floats as u64)
}

/// The bytes of a file that [`decode`] verifies.
pub(super) fn loaded(blocks: &Blocks, _: &str) -> Result<Ranges, String> {
    let (_, parts) = split(blocks)?;
    let bulk = parts.iter().find(|(part, _)| part.content.is_bulk());
    let end = bulk.map_or(blocks.file_bytes(), |(_, range)| range.start as u64);
    let small = blocks.body().start..end;
    Ok(vec![small])
}

/// The rows of a file; vectors and payloads are parts of it, and not verified.
pub(super) fn decode(file: &Bytes, path: &str, segment: Option<&SegmentMeta>) -> Result<SegmentData, String> {
    let blocks = Blocks::of(file)?;
    let (of, parts) = split(&blocks)?;
    of.check(path, segment)?;
    if !loaded(&blocks, path)?
        .into_iter()
        .all(|range| blocks.are_good(file, range))
    {
        return Err("checksum does not match".to_owned());
    }
    let rows = usize::try_from(of.rows()).map_err(|error| error.to_string())?;
    let parts = parts.into_iter();
    let mut contents: BTreeMap<_, _> = parts.map(|(part, range)| (part.content, file.slice(range))).collect();
    let mut take = |content: &Content| contents.remove(content).ok_or_else(|| format!("has no {content:?}"));
    let ids = decode_ids(&take(&Content::Ids)?)?;
    let seqs: Vec<u64> = chunks(&take(&Content::Seqs)?)?
        .into_iter()
        .map(u64::from_le_bytes)
        .collect();
    let text = take(&Content::Tombstones)?;
    let text = std::str::from_utf8(&text).map_err(|error| error.to_string())?;
    let tombstones = decode_tombstones(text).map_err(|error| error.to_string())?;
    let offsets = chunks(&take(&Content::PayloadOffsets)?)?.into_iter();
    let offsets: Result<Vec<usize>, _> = offsets.map(|at| usize::try_from(u64::from_le_bytes(at))).collect();
    let offsets = offsets.map_err(|error| error.to_string())?;
    let payloads = PayloadColumn::over(take(&Content::Payloads)?, offsets).ok_or("payloads do not fit")?;
    let mut vectors = BTreeMap::new();
    for (space, settings) in &of.description().schema.vectors {
        let floats = take(&Content::Vectors(space.clone()))?;
        let present = take(&Content::Present(space.clone())).ok();
        let column = VectorColumn {
            rows: decode_vectors(floats, settings.size, rows).ok_or("vectors do not fit the rows")?,
            present: present.map(|bits| decode_bits(&bits, rows)).transpose()?,
        };
        vectors.insert(space.clone(), column);
    }
    let clustering = match contents.pop_first() {
        Some((Content::Clusters(space), offsets)) if vectors.contains_key(&space) => {
            Some(decode_clustering(space, &offsets, rows)?)
        }
        None => None,
        Some((content, _)) => return Err(format!("has {content:?} too much")),
    };
    if !contents.is_empty() || [ids.len(), seqs.len(), payloads.len()] != [rows; 3] {
        return Err("holds other rows than its header says".to_owned());
    }
    Ok(SegmentData {
        ids,
        seqs,
        vectors,
        payloads,
        clustering,
        tombstones,
        place: Place::Mapped,
    })
}

/// Parts, and where they are in the file.
type Parts = Vec<(Part, Range<usize>)>;

/// Takes a file apart. That the small parts come first, what reads only these relies on.
fn split(blocks: &Blocks) -> Result<(Identity, Parts), String> {
    if blocks.magic() != MAGIC {
        return Err("not a rows file of a known version".to_owned());
    }
    let header: Header = serde_json::from_slice(blocks.header()).map_err(|error| error.to_string())?;
    let body = blocks.body();
    let (mut end, file_end) = (body.start as usize, body.end as usize);
    let mut parts: Parts = Vec::with_capacity(header.parts.len());
    for part in header.parts {
        let start = end + padding(end);
        let length = usize::try_from(part.bytes).map_err(|error| error.to_string())?;
        let after = start.checked_add(length).filter(|end| *end <= file_end);
        end = after.ok_or("cut in a part")?;
        if !part.content.is_bulk() && parts.last().is_some_and(|(before, _)| before.content.is_bulk()) {
            return Err("a small part after a large one".to_owned());
        }
        parts.push((part, start..end));
    }
    if end != file_end {
        return Err("holds more than its header says".to_owned());
    }
    Ok((header.of, parts))
}

/// Zeros after `end` up to where a part may begin.
fn padding(end: usize) -> usize {
    end.next_multiple_of(ALIGNMENT) - end
}

fn numbers<const N: usize>(each: impl Iterator<Item = [u8; N]>) -> Bytes {
    each.flatten().collect::<Vec<u8>>().into()
}

fn chunks<const N: usize>(bytes: &Bytes) -> Result<Vec<[u8; N]>, String> {
    match bytes.as_chunks() {
        (chunks, []) => Ok(chunks.to_vec()),
        _ => Err("half a number".to_owned()),
    }
}

fn encode_ids(ids: &[PointId]) -> Bytes {
    let mut bytes = Vec::with_capacity(ids.len() * ID_BYTES);
    for id in ids {
        match id {
            PointId::Num(number) => {
                bytes.push(0);
                bytes.extend(u128::from(*number).to_le_bytes());
            }
            PointId::Uuid(uuid) => {
                bytes.push(1);
                bytes.extend(uuid.as_bytes());
            }
        }
    }
    bytes.into()
}

fn decode_ids(bytes: &Bytes) -> Result<Vec<PointId>, String> {
    let (chunks, []) = bytes.as_chunks::<ID_BYTES>() else {
        return Err("half an id".to_owned());
    };
    let id = |[kind, id @ ..]: &[u8; ID_BYTES]| match kind {
        0 => u64::try_from(u128::from_le_bytes(*id)).ok().map(PointId::Num),
        1 => Some(PointId::Uuid(Uuid::from_bytes(*id))),
        _ => None,
    };
    let ids: Option<Vec<PointId>> = chunks.iter().map(id).collect();
    ids.ok_or_else(|| "an id of an unknown kind".to_owned())
}

fn decode_bits(bytes: &Bytes, rows: usize) -> Result<FixedBitSet, String> {
    let blocks = chunks(bytes)?
        .into_iter()
        .map(|block| u64::from_le_bytes(block) as Block);
    if blocks.len() != rows.div_ceil(64) {
        return Err("bits of other rows".to_owned());
    }
    let bits = FixedBitSet::with_capacity_and_blocks(rows, blocks);
    if bits.maximum().is_some_and(|last| last >= rows) {
        return Err("bits of other rows".to_owned());
    }
    Ok(bits)
}

fn decode_clustering(space: String, bytes: &Bytes, rows: usize) -> Result<Clustering, String> {
    let offsets: Vec<u32> = chunks(bytes)?.into_iter().map(u32::from_le_bytes).collect();
    let ends = |offsets: &[u32]| Some((*offsets.first()?, *offsets.last()?));
    match ends(&offsets) {
        Some((0, last)) if last as usize <= rows && offsets.is_sorted() => Ok(Clustering { space, offsets }),
        _ => Err("clusters do not fit the rows".to_owned()),
    }
}

/// Floats as the bytes of a file.
struct FloatBytes(Rows);

impl AsRef<[u8]> for FloatBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.0.as_slice())
    }
}

/// Bytes of a file as floats.
struct ByteFloats(Bytes);

impl AsRef<[f32]> for ByteFloats {
    fn as_ref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Shared with the file; copied if it begins at an odd place in memory, which no mapped one does.
fn decode_vectors(bytes: Bytes, dim: usize, rows: usize) -> Option<Rows> {
    let is_whole = rows.checked_mul(dim)?.checked_mul(size_of::<f32>())? == bytes.len();
    if !is_whole || dim == 0 || rows >= u32::MAX as usize {
        return None;
    }
    match bytemuck::try_cast_slice::<u8, f32>(&bytes) {
        Ok(_) => Some(Rows::new(dim, Arc::new(ByteFloats(bytes)))),
        Err(_) => Some(Rows::from_vec(dim, bytemuck::allocation::pod_collect_to_vec(&bytes))),
    }
}

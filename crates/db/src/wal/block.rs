//! The bytes of one log file: an Avro object container file with one block per group commit.
//!
//! Owns header and block framing, checksums, and the verdict on bytes that are no block: end, torn tail or damage.
//! Does not touch files.
//!
//! ```text
//! file   = header | block | block | … | zeros (only while the file is being written)
//! header = "Obj\x01" | map<bytes> of metadata | 16 bytes sync marker
//! block  = long entries | long size | data (size bytes) | the sync marker
//! data   = varint raw length | 0xFC | u32 LE raw length - 1 | raw entries | u32 BE CRC32 of the raw entries
//! ```
//!
//! `data` is what the Avro codec "snappy" prescribes, with one literal and no compression: vectors do not compress, but
//! every stock reader opens it and most check the CRC32. `proximadb.checksum` is the last metadata key and covers all
//! header bytes before it and the sync marker: with an unnoticed flip in the marker no block would be valid, and a
//! whole file would look like one torn tail.

use std::collections::BTreeMap;

use crate::point::Seq;
use crate::sealed::crc32;

use super::codec::{Damage, Input, SCHEMA, put_bytes, put_length};

/// Version of the format as a whole, `proximadb.format_version` in the header.
const FORMAT_VERSION: &str = "1";
const MAGIC: &[u8; 4] = b"Obj\x01";
const CHECKSUM_KEY: &str = "proximadb.checksum";
/// Tag of a snappy literal whose length follows in four bytes.
const LITERAL: u8 = 0xfc;
/// Room that `FrameBuffer` leaves before the entries: entries and size (10 each), raw length (5), tag and length (5).
const FRONT: usize = 30;
/// Longest raw block: its length must fit four bytes with room to spare for the frame.
pub(super) const MAX_RAW_BYTES: usize = (u32::MAX - 1024) as usize;

/// The 16 random bytes that end the header and every block of one file.
pub(super) type SyncMarker = [u8; 16];

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `CollectionDescription` as JSON, as it was when the file began.
    pub(super) description: String,
    /// Shard, three digits.
    pub(super) shard: String,
    /// Sequence number of the first entry, also the file's name.
    pub(super) first_seq: Seq,
    /// Last acknowledged sequence number before this file. Numbers between it and `first_seq` belong to operations that
    /// failed: they may be missing, and where an earlier file still has them they do not count.
    pub(super) previous_seq: Seq,
    /// Ends every block of this file.
    pub(super) marker: SyncMarker,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let fields = [
            ("avro.schema", SCHEMA),
            ("avro.codec", "snappy"),
            ("proximadb.format_version", FORMAT_VERSION),
            ("proximadb.description", &self.description),
            ("proximadb.shard", &self.shard),
            ("proximadb.first_seq", &self.first_seq.to_string()),
            ("proximadb.previous_seq", &self.previous_seq.to_string()),
        ];
        put_length(&mut out, fields.len() + 1);
        for (key, value) in fields {
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        let checksum = header_checksum(&out, &self.marker);
        put_bytes(&mut out, CHECKSUM_KEY.as_bytes());
        put_bytes(&mut out, checksum.as_bytes());
        put_length(&mut out, 0);
        out.extend_from_slice(&self.marker);
        out
    }

    /// Reads the header at the start of `bytes`; also returns its length.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), Damage> {
        let mut input = Input::new(bytes);
        if input.take(MAGIC.len())? != MAGIC {
            return Err(Damage::new("is not an Avro container file"));
        }
        let mut fields = BTreeMap::new();
        let mut checksum = None;
        for _ in 0..input.length()? {
            let covered = bytes.len() - input.remaining();
            let key = input.string()?;
            let value = input.string()?;
            if key == CHECKSUM_KEY {
                checksum = Some((covered, value));
            }
            fields.insert(key, value);
        }
        input.end("the header")?;
        let mut marker = SyncMarker::default();
        marker.copy_from_slice(input.take(size_of::<SyncMarker>())?);
        let (covered, checksum) = checksum.ok_or_else(|| Damage::new("the header has no checksum"))?;
        if header_checksum(bytes.get(..covered).unwrap_or_default(), &marker) != checksum {
            return Err(Damage::new("the header does not match its checksum"));
        }
        Ok((Self::from_fields(&fields, marker)?, bytes.len() - input.remaining()))
    }

    fn from_fields(fields: &BTreeMap<&str, &str>, marker: SyncMarker) -> Result<Self, Damage> {
        let field = |key: &str| {
            fields
                .get(key)
                .copied()
                .ok_or_else(|| Damage::new(format!("the header has no {key}")))
        };
        let seq = |key: &str| {
            field(key)?
                .parse()
                .map_err(|_| Damage::new(format!("{key} is not a number")))
        };
        let version = field("proximadb.format_version")?;
        if version != FORMAT_VERSION || field("avro.schema")? != SCHEMA || field("avro.codec")? != "snappy" {
            let reason = format!("format version {version} is unknown, this program reads version {FORMAT_VERSION}");
            return Err(Damage(reason));
        }
        Ok(Self {
            description: field("proximadb.description")?.to_owned(),
            shard: field("proximadb.shard")?.to_owned(),
            first_seq: seq("proximadb.first_seq")?,
            previous_seq: seq("proximadb.previous_seq")?,
            marker,
        })
    }
}

fn header_checksum(covered: &[u8], marker: &SyncMarker) -> String {
    format!("{:08x}", crc32(&[covered, marker].concat()))
}

/// Entries gathered for one block, with room before them so that framing copies nothing.
pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// An empty buffer that reuses the memory of `bytes`.
    pub(super) fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(FRONT, 0);
        Self { bytes }
    }

    /// Where entries are appended; what is already there must stay.
    pub(super) fn entries_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes of the entries.
    pub(super) fn raw_len(&self) -> usize {
        self.bytes.len() - FRONT
    }

    /// Completes the block of `count` entries for the file with this marker and returns its bytes.
    pub(super) fn seal(&mut self, count: usize, marker: &SyncMarker) -> &[u8] {
        let raw_len = self.raw_len();
        assert!(
            raw_len > 0 && raw_len <= MAX_RAW_BYTES,
            "append checks the size of every batch"
        );
        let (_, raw) = self.bytes.split_at(FRONT);
        let checksum = crc32(raw);
        let mut prefix = Vec::with_capacity(FRONT);
        put_varint(&mut prefix, raw_len);
        prefix.push(LITERAL);
        prefix.extend_from_slice(&(raw_len as u32 - 1).to_le_bytes());
        let mut front = Vec::with_capacity(FRONT);
        put_length(&mut front, count);
        put_length(&mut front, prefix.len() + raw_len + 4);
        front.append(&mut prefix);
        let start = FRONT - front.len();
        let (room, _) = self.bytes.split_at_mut(FRONT);
        room.split_at_mut(start).1.copy_from_slice(&front);
        self.bytes.extend_from_slice(&checksum.to_be_bytes());
        self.bytes.extend_from_slice(marker);
        self.bytes.split_at(start).1
    }

    /// The memory, for the next batch.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.bytes
    }
}

/// Snappy's length preamble: like Avro's long without zigzag.
fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A block whose framing, checksum and marker are right.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// Number of entries it says it has, at least 1.
    pub(super) count: usize,
    /// The entries.
    pub(super) raw: &'a [u8],
    /// Offset of the byte after the block.
    pub(super) end: usize,
}

/// What stands at an offset where a block may begin.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A valid block.
    Block(Block<'a>),
    /// The end of the file, or only zeros up to it: the file was written to here.
    End,
    /// A block that was never completed: its sync did not return, so nobody was told that it is there.
    Torn(Damage),
    /// A block that had been synced, for a later one was begun, and is damaged now.
    Damaged(Damage),
}

/// Judges the bytes of a file from offset `at`.
pub(super) fn step<'a>(bytes: &'a [u8], at: usize, marker: &SyncMarker) -> Step<'a> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) {
        return Step::End;
    }
    match parse_block(bytes, at, marker) {
        Ok(block) => Step::Block(block),
        Err(bad) if a_later_write_follows(bytes, at, &bad, marker) => Step::Damaged(bad.damage),
        Err(bad) => Step::Torn(bad.damage),
    }
}

/// Why there is no valid block, and where it would end if its three redundant lengths agree.
struct BadBlock {
    damage: Damage,
    trusted_end: Option<usize>,
}

impl From<Damage> for BadBlock {
    fn from(damage: Damage) -> Self {
        Self {
            damage,
            trusted_end: None,
        }
    }
}

fn parse_block<'a>(bytes: &'a [u8], at: usize, marker: &SyncMarker) -> Result<Block<'a>, BadBlock> {
    let mut input = Input::new(bytes.get(at..).unwrap_or_default());
    let count = input.length()?;
    let size = input.length()?;
    let before_data = input.remaining();
    let raw_len = varint(&mut input)?;
    let tag = input.take(1)?;
    let literal = input
        .take(4)?
        .iter()
        .rev()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        + 1;
    let prefix_len = before_data - input.remaining();
    if count == 0 || tag != [LITERAL] || literal != raw_len || size as u64 != raw_len + prefix_len as u64 + 4 {
        return Err(Damage::new("the lengths of the block contradict each other").into());
    }
    let start = bytes.len() - input.remaining();
    let trusted_end = usize::try_from(raw_len)
        .ok()
        .and_then(|len| start.checked_add(len)?.checked_add(4 + marker.len()));
    let bad = |damage| BadBlock { damage, trusted_end };
    let raw = input.take(raw_len as usize).map_err(bad)?;
    let checksum = input.take(4).map_err(bad)?;
    if checksum != crc32(raw).to_be_bytes() {
        return Err(bad(Damage::new("the block does not match its checksum")));
    }
    if input.take(marker.len()).map_err(bad)? != marker {
        return Err(bad(Damage::new("the sync marker after the block is wrong")));
    }
    Ok(Block {
        count,
        raw,
        end: bytes.len() - input.remaining(),
    })
}

fn varint(input: &mut Input<'_>) -> Result<u64, Damage> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = input.take(1)?.first().copied().unwrap_or_default();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damage::new("a length is longer than 35 bits"))
}

/// Whether something was written after the bad block at `at`. A write begins only after the sync of the one before it,
/// so then the bad block had been durable and perhaps acknowledged. Two signs: any byte after its end, where the end
/// can be trusted (a torn block may have lost any of its sectors, but has nothing after it), or a valid block anywhere
/// behind.
fn a_later_write_follows(bytes: &[u8], at: usize, bad: &BadBlock, marker: &SyncMarker) -> bool {
    let written_after = |end: usize| {
        bytes
            .get(end..)
            .is_some_and(|after| after.iter().any(|byte| *byte != 0))
    };
    if bad.trusted_end.is_some_and(written_after) {
        return true;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.windows(marker.len())
        .enumerate()
        .filter(|(_, window)| *window == marker)
        .any(|(offset, _)| parse_block(bytes, at + offset + marker.len(), marker).is_ok())
}

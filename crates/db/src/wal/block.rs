//! The blocks of one log file, whatever its format: one block per group commit.
//!
//! Owns framing in memory, checksums, and the verdict on bytes that are no block: end, torn tail or damage. Does not
//! touch files; the bytes of header, frame and entries are the codec's.
//!
//! ```text
//! file  = header | block | block | … | closing block | zeros (only while the file is being written)
//! block = frame: lengths | data = mark, entries | CRC-32 of the data | the sync marker
//! ```
//!
//! The mark is the last operation that was durable, with all before it, when the block was written. The closing block
//! has a mark and no entry.

use uuid::Uuid;

use crate::config::WalFormat;
use crate::point::{Operation, Seq};
use crate::sealed::crc32;

use super::codec::{Damage, LogCodec, check_seq, codec};

/// Version of the format as a whole, in the header of a file on a disk. Version 1 had no marks.
pub(super) const FORMAT_VERSION: u32 = 2;
/// Version of an object on a bucket: the same, and its author.
pub(super) const OBJECT_VERSION: u32 = 3;
/// Room that `FrameBuffer` leaves before the entries: the codec's frame (30) and mark (10).
const FRONT: usize = 40;
/// Bytes of the checksum after the data.
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Longest raw block: its length must fit four bytes with room to spare for the frame.
pub(super) const MAX_RAW_BYTES: usize = (u32::MAX - 1024) as usize;

/// The 16 random bytes that end the header and every block of one file.
pub(super) type SyncMarker = [u8; 16];

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: WalFormat,
    /// 1 in files of older releases, 3 in objects.
    pub(super) version: u32,
    /// `CollectionDescription` as JSON, as it was when the file began.
    pub(super) description: String,
    /// Shard, three digits.
    pub(super) shard: String,
    /// Least sequence number of its entries, also the file's name.
    pub(super) first_seq: Seq,
    /// Sequence numbers between it and `first_seq` belong to operations that failed: they may be missing, and where an
    /// earlier file still has them they do not count.
    pub(super) previous_seq: Seq,
    /// Last sequence number that was durable, with all before it, when the file began.
    pub(super) acknowledged: Seq,
    /// Number of files that were written side by side when the file began. With one, all numbers of older files that
    /// count are below `first_seq`.
    pub(super) lanes: u32,
    /// Ends every block of this file.
    pub(super) marker: SyncMarker,
    /// Who wrote an object on a bucket; files on disks do not say.
    pub(super) author: Option<Author>,
}

/// Who wrote an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Author {
    /// Nonce of one opening of the log: tells an object of ours from any other of the same name.
    pub(super) writer: Uuid,
    /// Number of the fence that the writer began with; a later writer has a higher one.
    pub(super) epoch: Seq,
    /// In a fence, an object without entries: the number at which its writer went on. `None` in a block.
    pub(super) fence: Option<Seq>,
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.codec().put_header(self)
    }

    /// Reads the header at the start of `bytes`, in whichever format it is; also returns its length.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), Damage> {
        let format = if bytes.starts_with(super::bincode::MAGIC) {
            WalFormat::Bincode
        } else {
            WalFormat::Avro
        };
        let (header, length) = codec(format).header(bytes)?;
        let author = header.author.iter();
        let of_author = author.flat_map(|author| [author.epoch, author.fence.unwrap_or_default()]);
        let own = [header.first_seq, header.previous_seq, header.acknowledged];
        for seq in own.into_iter().chain(of_author) {
            check_seq(seq)?;
        }
        if header.first_seq == 0 {
            return Err(Damage::new("the first entry has number 0, and numbers begin with 1"));
        }
        Ok((header, length))
    }

    /// Whether it is that of an object without entries, which only takes a name.
    pub(super) fn is_fence(&self) -> bool {
        self.author.is_some_and(|author| author.fence.is_some())
    }

    /// The codec of the file.
    pub(super) fn codec(&self) -> &'static dyn LogCodec {
        codec(self.format)
    }
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

    /// Completes the block of `count` entries for the file with this marker.
    pub(super) fn seal(mut self, codec: &dyn LogCodec, count: usize, mark: Seq, marker: &SyncMarker) -> Framed {
        assert!(self.raw_len() <= MAX_RAW_BYTES, "append checks the size of every batch");
        let mark = codec.put_mark(mark);
        let data = FRONT - mark.len();
        self.put_at(data, &mark);
        let (_, covered) = self.bytes.split_at(data);
        let checksum = codec.put_checksum(crc32(covered));
        let frame = codec.put_frame(count, covered.len());
        let start = data - frame.len();
        self.put_at(start, &frame);
        self.bytes.extend_from_slice(&checksum);
        self.bytes.extend_from_slice(marker);
        Framed {
            bytes: self.bytes,
            start,
        }
    }

    fn put_at(&mut self, at: usize, part: &[u8]) {
        let (_, room) = self.bytes.split_at_mut(at);
        room.split_at_mut(part.len()).0.copy_from_slice(part);
    }
}

/// A block as it stands in a file.
#[derive(Clone)]
pub(super) struct Framed {
    bytes: Vec<u8>,
    start: usize,
}

impl Framed {
    /// The closing block of a file.
    pub(super) fn closing(codec: &dyn LogCodec, mark: Seq, marker: &SyncMarker) -> Self {
        FrameBuffer::reusing(Vec::new()).seal(codec, 0, mark, marker)
    }

    /// The block's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.split_at(self.start).1
    }

    /// The same block for another file.
    pub(super) fn with_marker(&self, marker: &SyncMarker) -> Self {
        let mut copy = self.clone();
        copy.bytes.truncate(self.bytes.len() - marker.len());
        copy.bytes.extend_from_slice(marker);
        copy
    }

    /// The memory, for the next batch.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.bytes
    }
}

/// A block whose framing, checksum and marker are right.
#[derive(Debug, Clone)]
pub(super) struct Block<'a> {
    /// Number of entries it says it has; 0 in the closing block.
    pub(super) count: usize,
    /// Last sequence number that was durable when it was written; 0 if it does not say.
    pub(super) mark: Seq,
    /// The entries.
    pub(super) raw: &'a [u8],
    /// Offset of the byte after the block.
    pub(super) end: usize,
}

impl Block<'_> {
    /// All entries. A whole block or nothing: the operations of one call stand in one block.
    pub(super) fn entries(&self, header: &Header) -> Result<Vec<(Seq, Operation)>, Damage> {
        let entries = header.codec().entries(header.version, self.raw)?;
        if entries.len() != self.count {
            let reason = format!("the block holds {} entries and says {}", entries.len(), self.count);
            return Err(Damage(reason));
        }
        let numbers = entries.iter().map(|(seq, _)| *seq);
        let first = numbers.clone().next().unwrap_or_default();
        match numbers.zip(first..).find(|(seq, expected)| seq != expected) {
            None => Ok(entries),
            Some((seq, expected)) => Err(Damage(format!("entry {seq} stands where entry {expected} belongs"))),
        }
    }
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
pub(super) fn step<'a>(bytes: &'a [u8], at: usize, header: &Header) -> Step<'a> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) {
        return Step::End;
    }
    match parse_block(bytes, at, header) {
        Ok(block) => Step::Block(block),
        Err(bad) if a_later_write_follows(bytes, at, &bad, header) => Step::Damaged(bad.damage),
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

fn parse_block<'a>(bytes: &'a [u8], at: usize, header: &Header) -> Result<Block<'a>, BadBlock> {
    let codec = header.codec();
    let rest = bytes.get(at..).unwrap_or_default();
    let frame = codec.frame(rest)?;
    let tail = CHECKSUM_BYTES + header.marker.len();
    let trusted_end = frame.data.end.checked_add(tail).and_then(|end| end.checked_add(at));
    let bad = |reason: &str| BadBlock {
        damage: Damage::new(reason),
        trusted_end,
    };
    let after = |end: usize| rest.get(end..).and_then(|after| after.split_at_checked(tail));
    let data = rest.get(frame.data.clone()).ok_or_else(|| bad("ends too early"))?;
    let (tail, _) = after(frame.data.end).ok_or_else(|| bad("ends too early"))?;
    let (checksum, marker) = tail.split_at(CHECKSUM_BYTES);
    if checksum != codec.put_checksum(crc32(data)) {
        return Err(bad("the block does not match its checksum"));
    }
    if marker != header.marker {
        return Err(bad("the sync marker after the block is wrong"));
    }
    let (mark, raw) = codec
        .mark(header.version, data)
        .map_err(|damage| BadBlock { damage, trusted_end })?;
    if (frame.count == 0) != raw.is_empty() || frame.count == 0 && header.version == 1 {
        return Err(bad("the number of entries contradicts the length of the block"));
    }
    Ok(Block {
        count: frame.count,
        mark,
        raw,
        end: trusted_end.unwrap_or(bytes.len()),
    })
}

/// Whether something was written after the bad block at `at`. A write begins only after the sync of the one before it,
/// so then the bad block had been durable and perhaps acknowledged. Two signs: any byte after its end, where the end
/// can be trusted (a torn block may have lost any of its sectors, but has nothing after it), or a valid block anywhere
/// behind.
fn a_later_write_follows(bytes: &[u8], at: usize, bad: &BadBlock, header: &Header) -> bool {
    let written_after = |end: usize| {
        bytes
            .get(end..)
            .is_some_and(|after| after.iter().any(|byte| *byte != 0))
    };
    if bad.trusted_end.is_some_and(written_after) {
        return true;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.windows(header.marker.len())
        .enumerate()
        .filter(|(_, window)| *window == header.marker)
        .any(|(offset, _)| parse_block(bytes, at + offset + header.marker.len(), header).is_ok())
}

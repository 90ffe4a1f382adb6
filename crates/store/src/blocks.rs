//! Files in blocks, each with a checksum, so that any part of a file can be read, and trusted, without the rest.
//!
//! ```text
//! magic: 8 bytes │ header bytes: u32 │ blocks: u32 │ CRC-32 of the rest of the head: u32 │ header │ blocks × CRC-32: u32 │ zeros      the head
//! block 0 │ block 1 │ …                                                                                                        the body
//! ```
//!
//! The body begins at a multiple of [`BLOCK_BYTES`], so that its blocks are blocks of the file, and goes to the end of the file; its last
//! block may be shorter. Numbers are little endian. What header and body say is their owner's business.

use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest, checksum};

/// Large enough that a list of an index is a few of them, and small enough that little is read for a row.
pub const BLOCK_BYTES: u64 = 64 << 10;
const MAGIC_BYTES: usize = 8;
const FIXED_BYTES: usize = MAGIC_BYTES + 12;
const CRC_AT: Range<usize> = MAGIC_BYTES + 8..FIXED_BYTES;
const CRC_BYTES: usize = 4;

/// The head of a file of blocks, with what its blocks should be.
#[derive(Debug, Clone)]
pub struct Blocks {
    magic: [u8; MAGIC_BYTES],
    header: Bytes,
    body: Range<u64>,
    checksums: Vec<u32>,
}

/// Why bytes are not the head of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    /// They may be: it takes so many to tell.
    Short(u64),
    /// They are damaged, or something else.
    Damaged(&'static str),
}

/// A file with this header and body, in pieces that follow each other; those of the body are shared, not copied.
pub fn encode(magic: &[u8; MAGIC_BYTES], header: &[u8], body: Vec<Bytes>) -> Vec<Bytes> {
    let sums = checksums(&body);
    let mut head = magic.to_vec();
    head.extend((header.len() as u32).to_le_bytes());
    head.extend((sums.len() as u32).to_le_bytes());
    head.extend([0; CRC_BYTES]);
    head.extend(header);
    head.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    let crc = head_crc32(&head);
    head[CRC_AT].copy_from_slice(&crc.to_le_bytes());
    head.resize(head.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    let mut pieces = vec![Bytes::from(head)];
    pieces.extend(body);
    pieces
}

fn checksums(body: &[Bytes]) -> Vec<u32> {
    let (mut sums, mut digest, mut room) = (
        Vec::new(),
        Digest::new(CrcAlgorithm::Crc32IsoHdlc),
        BLOCK_BYTES as usize,
    );
    for piece in body {
        let mut rest = piece.as_ref();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(room.min(rest.len()));
            digest.update(part);
            room -= part.len();
            rest = after;
            if room == 0 {
                sums.push(digest.finalize_reset() as u32);
                room = BLOCK_BYTES as usize;
            }
        }
    }
    if room < BLOCK_BYTES as usize {
        sums.push(digest.finalize() as u32);
    }
    sums
}

fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Of a head without its zeros, but for the place of the checksum itself.
fn head_crc32(head: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    digest.update(&head[..CRC_AT.start]);
    digest.update(&head[CRC_AT.end..]);
    digest.finalize() as u32
}

impl Blocks {
    /// Reads the head of a file of `file_bytes` bytes that begins with these.
    ///
    /// # Errors
    /// [`HeadError`]: more bytes are needed, or the file is no good.
    pub fn parse(start: &[u8], file_bytes: u64) -> Result<Self, HeadError> {
        let short = |needed: usize| {
            if file_bytes < needed as u64 {
                HeadError::Damaged("cut in its head")
            } else {
                HeadError::Short(needed as u64)
            }
        };
        let fixed: [u8; FIXED_BYTES] = *start.first_chunk().ok_or_else(|| short(FIXED_BYTES))?;
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (header, blocks) = (number(MAGIC_BYTES) as usize, number(MAGIC_BYTES + 4) as usize);
        let end = FIXED_BYTES + header + blocks * CRC_BYTES;
        let padded = end.next_multiple_of(BLOCK_BYTES as usize);
        let body = padded as u64..file_bytes;
        if body.start > body.end || (body.end - body.start).div_ceil(BLOCK_BYTES) != blocks as u64 {
            return Err(HeadError::Damaged("of another size than its head says"));
        }
        let head = start.get(..padded).ok_or_else(|| short(padded))?;
        if head_crc32(&head[..end]) != number(CRC_AT.start) {
            return Err(HeadError::Damaged("checksum of its head does not match"));
        }
        if head[end..].iter().any(|byte| *byte != 0) {
            return Err(HeadError::Damaged("bytes between head and body"));
        }
        let checksums = head[FIXED_BYTES + header..end].as_chunks().0;
        let mut magic = [0; MAGIC_BYTES];
        magic.copy_from_slice(&fixed[..MAGIC_BYTES]);
        Ok(Self {
            magic,
            header: Bytes::copy_from_slice(&head[FIXED_BYTES..FIXED_BYTES + header]),
            body,
            checksums: checksums.iter().copied().map(u32::from_le_bytes).collect(),
        })
    }

    /// The head of a whole file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(file: &[u8]) -> Result<Self, &'static str> {
        Self::parse(file, file.len() as u64).map_err(|error| match error {
            HeadError::Damaged(reason) => reason,
            HeadError::Short(_) => "cut in its head",
        })
    }

    /// What kind of file it is.
    pub fn magic(&self) -> &[u8; MAGIC_BYTES] {
        &self.magic
    }

    /// The header.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// Where in the file the body is.
    pub fn body(&self) -> Range<u64> {
        self.body.clone()
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.body.end
    }

    /// Whether the blocks that a range of a `file` touches are what they should be; the file is as long as it should be.
    pub fn are_good(&self, file: &[u8], range: Range<u64>) -> bool {
        self.touched(&range).all(|block| {
            let bytes = self.range(block);
            file.get(bytes.start as usize..bytes.end as usize)
                .is_some_and(|bytes| self.is_good(block, bytes))
        })
    }

    /// Whether these are the bytes of a block of the body.
    pub fn is_good(&self, block: u64, bytes: &[u8]) -> bool {
        self.checksums.get(block as usize) == Some(&crc32(bytes))
    }

    /// The blocks of the body that a range of the file touches.
    pub fn touched(&self, range: &Range<u64>) -> Range<u64> {
        let at = |place: u64| place.clamp(self.body.start, self.body.end) - self.body.start;
        let (start, end) = (at(range.start), at(range.end));
        if start >= end {
            return 0..0;
        }
        start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)
    }

    /// Where in the file a block of the body is.
    pub fn range(&self, block: u64) -> Range<u64> {
        let start = self.body.start + block * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(self.body.end)
    }

    /// Number of blocks of the body.
    pub fn count(&self) -> u64 {
        self.checksums.len() as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const MAGIC: &[u8; 8] = b"TESTFILE";

    fn file(body: &[usize]) -> Bytes {
        let piece = |bytes: &usize| Bytes::from((0..*bytes).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
        encode(MAGIC, b"header", body.iter().map(piece).collect())
            .concat()
            .into()
    }

    #[test]
    fn a_file_is_its_header_and_its_body_whatever_pieces_they_came_in() {
        for body in [&[][..], &[1], &[65_536], &[65_535, 1, 1], &[10, 200_000, 3, 0, 70_000]] {
            let file = file(body);
            let blocks = Blocks::of(&file).unwrap();
            assert_eq!((blocks.magic(), blocks.header().as_ref()), (MAGIC, &b"header"[..]));
            let bytes: usize = body.iter().sum();
            assert_eq!(blocks.body(), BLOCK_BYTES..BLOCK_BYTES + bytes as u64);
            assert_eq!(blocks.count(), (bytes as u64).div_ceil(BLOCK_BYTES));
            assert!(blocks.are_good(&file, 0..u64::MAX));
            let head = file.slice(..BLOCK_BYTES as usize);
            assert_eq!(Blocks::parse(&head, file.len() as u64).unwrap().body(), blocks.body());
        }
    }

    #[test]
    fn a_short_start_says_how_much_it_takes() {
        let file = file(&[100_000]);
        let of = |bytes: usize| Blocks::parse(&file.slice(..bytes), file.len() as u64).unwrap_err();
        assert_eq!(of(3), HeadError::Short(20));
        assert_eq!(of(20), HeadError::Short(BLOCK_BYTES));
        assert_eq!(of(BLOCK_BYTES as usize - 1), HeadError::Short(BLOCK_BYTES));
    }

    #[test]
    fn every_changed_byte_of_the_head_and_every_other_length_is_refused() {
        let file = file(&[100_000]);
        for at in 0..BLOCK_BYTES as usize {
            let mut damaged = file.to_vec();
            damaged[at] ^= 1 << (at % 8);
            assert!(Blocks::of(&damaged).is_err(), "byte {at}");
        }
        for length in [0, 19, 20, 40, 65_536, 131_072] {
            assert!(Blocks::of(&file.slice(..length)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_damaged_block_is_found_by_every_range_that_touches_it_and_no_other() {
        let file = file(&[200_000]);
        let blocks = Blocks::of(&file).unwrap();
        let mut damaged = file.to_vec();
        let at = 2 * BLOCK_BYTES + 5;
        damaged[at as usize] ^= 1;
        assert!(!blocks.are_good(&damaged, at..at + 1));
        assert!(!blocks.are_good(&damaged, 0..u64::MAX));
        assert!(!blocks.are_good(&damaged, 3 * BLOCK_BYTES - 1..3 * BLOCK_BYTES + 1));
        assert!(blocks.are_good(&damaged, 0..2 * BLOCK_BYTES));
        assert!(blocks.are_good(&damaged, 3 * BLOCK_BYTES..u64::MAX));
        assert!(!blocks.are_good(&file[..file.len() - 1], 0..u64::MAX));
    }
}

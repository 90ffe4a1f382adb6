//! What a log format decides, and nothing else: the bytes of a header, of a block's frame and of an entry.
//!
//! Owns the seam `LogCodec` and what its implementations share. Everything above it (checksums, torn tails, files,
//! commits, replay) is the same for all formats.

use std::ops::Range;

use crate::config::WalFormat;
use crate::point::{Operation, Seq};

use super::avro::Avro;
use super::bincode::Bincode;
use super::block::Header;

/// Why bytes are not what the format says. The caller adds file and offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) String);

impl Damage {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The lengths that stand before a block's data, already checked against each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Number of entries it says it has; 0 in the block that ends a file.
    pub(super) count: usize,
    /// Where the data stands, from the start of the block. Four bytes of checksum and the marker follow.
    pub(super) data: Range<usize>,
}

/// One format of the log's files.
pub(super) trait LogCodec: Sync {
    /// The bytes of a header.
    fn put_header(&self, header: &Header) -> Vec<u8>;

    /// Reads the header at the start of `bytes`; also returns its length.
    fn header(&self, bytes: &[u8]) -> Result<(Header, usize), Damage>;

    /// Appends one entry to the entries of a block, of which it `is_first`.
    fn put_entry(
        &self,
        out: &mut Vec<u8>,
        is_first: bool,
        seq: Seq,
        operation: &Operation,
        payload: &[u8],
    ) -> Result<(), Damage>;

    /// What stands before the entries in a block's data: the last operation known as durable. At most 10 bytes.
    fn put_mark(&self, durable: Seq) -> Vec<u8>;

    /// What stands before the data of a block. At most 30 bytes.
    fn put_frame(&self, count: usize, data_len: usize) -> Vec<u8>;

    /// Reads what stands before the data of a block.
    fn frame(&self, bytes: &[u8]) -> Result<Frame, Damage>;

    /// A checksum as it stands in a block.
    fn put_checksum(&self, checksum: u32) -> [u8; 4];

    /// Takes the data of a block apart: the mark, and the entries.
    fn mark<'a>(&self, version: u32, data: &'a [u8]) -> Result<(Seq, &'a [u8]), Damage>;

    /// All entries of a block.
    fn entries(&self, version: u32, raw: &[u8]) -> Result<Vec<(Seq, Operation)>, Damage>;
}

/// A sequence number as a file may have it. Avro's long ends there, and what is calculated with numbers fits a `u64`.
pub(super) fn check_seq(seq: Seq) -> Result<Seq, Damage> {
    if i64::try_from(seq).is_ok() {
        return Ok(seq);
    }
    Err(Damage(format!("sequence number {seq} is too large")))
}

/// Upper bound of the encoded size of `operation` in either format, without its payload text, in bytes.
pub(super) fn entry_bound(operation: &Operation) -> usize {
    // Mark, number, kind, id as text, count of vectors and their end, length of the payload: each number at most 10 bytes.
    const FIXED: usize = 10 + 10 + 4 + 38 + 11 + 10;
    let vectors = match operation {
        Operation::Delete(_) => 0,
        Operation::Upsert(point) => {
            let vectors = point.vectors.iter();
            vectors
                .map(|(name, vector)| 10 + name.len() + 11 + size_of_val(vector))
                .sum()
        }
    };
    FIXED + vectors
}

/// The codec of a format.
pub(super) fn codec(format: WalFormat) -> &'static dyn LogCodec {
    match format {
        WalFormat::Avro => &Avro,
        WalFormat::Bincode => &Bincode,
    }
}

/// The payloads of some operations as JSON, made before the log's lock is taken: JSON is the slow part of an entry.
pub(super) struct PayloadTexts {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl PayloadTexts {
    /// Serialises the payload of each operation; an empty payload becomes the empty text.
    pub(super) fn of(operations: &[Operation]) -> Result<Self, serde_json::Error> {
        let mut texts = Self {
            text: Vec::new(),
            ends: Vec::with_capacity(operations.len()),
        };
        for operation in operations {
            if let Operation::Upsert(point) = operation
                && !point.payload.is_empty()
            {
                serde_json::to_writer(&mut texts.text, &point.payload)?;
            }
            texts.ends.push(texts.text.len());
        }
        Ok(texts)
    }

    /// The texts in the order of the operations.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }

    /// Bytes of all texts together.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

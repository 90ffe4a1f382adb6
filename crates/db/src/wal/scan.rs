//! Reading the bytes of one log file: for replay and for people (`wal stats`, `wal dump`).
//!
//! Pure functions from bytes to entries; files are read elsewhere.

use std::fmt;

use crate::error::{Error, Result};
use crate::point::{Operation, Seq};

use super::block::{Block, Header, Step, step};
use super::codec::Damage;

/// How a log file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEnd {
    /// With a complete block, as every sealed file does.
    Complete,
    /// With zeros written ahead: the file is being written, or was when the process died.
    Zeros,
    /// With a block that was never completed, hence never acknowledged. The next open cuts it.
    Torn {
        /// Why it is not a block.
        reason: String,
    },
}

impl fmt::Display for FileEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Zeros => f.write_str("zeros written ahead"),
            Self::Torn { reason } => write!(f, "torn: {reason}"),
        }
    }
}

/// What one log file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSummary {
    /// The collection's description when the file began, as JSON.
    pub description: String,
    /// The shard, three digits.
    pub shard: String,
    /// Sequence number of the first entry, whether or not there is one.
    pub first_seq: Seq,
    /// Numbers between it and `first_seq` belong to operations that failed: they may be missing.
    pub previous_seq: Seq,
    /// Last sequence number that the file knows to have been durable, with all before it.
    pub acknowledged: Seq,
    /// Number of files that were written side by side; with more than one, blocks of several files alternate.
    pub lanes: u32,
    /// Sequence number after the last entry.
    pub next_seq: Seq,
    /// Number of blocks with entries, one a group commit.
    pub blocks: u64,
    /// Entries that insert or replace a point.
    pub upserts: u64,
    /// Entries that delete a point.
    pub deletes: u64,
    /// Bytes of the header and the valid blocks.
    pub valid_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What follows the valid blocks.
    pub end: FileEnd,
}

/// The blocks of one file, one after the other.
pub(super) struct Blocks<'a> {
    /// The file as messages name it.
    file: &'a str,
    bytes: &'a [u8],
    header: &'a Header,
    /// Where the next block begins.
    pub(super) at: usize,
    /// How the file ends, once that is known.
    pub(super) end: Option<FileEnd>,
}

impl<'a> Blocks<'a> {
    /// The blocks from offset `at`.
    pub(super) fn new(file: &'a str, bytes: &'a [u8], header: &'a Header, at: usize) -> Self {
        Self {
            file,
            bytes,
            header,
            at,
            end: None,
        }
    }

    /// The next block; `None` at the end, which `end` then tells.
    ///
    /// # Errors
    /// `Corruption` for a block that was complete once and is not what it was.
    pub(super) fn next(&mut self) -> Result<Option<Block<'a>>> {
        self.end = Some(match step(self.bytes, self.at, self.header) {
            Step::Block(block) => {
                self.at = block.end;
                return Ok(Some(block));
            }
            Step::Damaged(damage) => return Err(corruption(self.file, self.at, &damage)),
            // An object is there as a whole or not at all.
            Step::Torn(damage) if self.header.author.is_some() => {
                return Err(corruption(self.file, self.at, &damage));
            }
            Step::End if self.header.author.is_some() && self.at < self.bytes.len() => {
                return Err(corruption(self.file, self.at, &Damage::new("zeros follow the block")));
            }
            Step::Torn(damage) => FileEnd::Torn {
                reason: damage.to_string(),
            },
            Step::End if self.at < self.bytes.len() => FileEnd::Zeros,
            Step::End => FileEnd::Complete,
        });
        Ok(None)
    }
}

/// Reads a whole log file, hands every entry to `each` in order and sums up.
///
/// # Errors
/// `Corruption` naming `file` and the offset, for a header or a block that was complete once and is not what it was.
/// `each` has then seen the entries before it.
pub fn read_log_file(file: &str, bytes: &[u8], each: &mut dyn FnMut(Seq, Operation)) -> Result<FileSummary> {
    let (header, header_len) = Header::decode(bytes).map_err(|damage| corruption(file, 0, &damage))?;
    let mut summary = FileSummary {
        description: header.description.clone(),
        shard: header.shard.clone(),
        first_seq: header.first_seq,
        previous_seq: header.previous_seq,
        acknowledged: header.acknowledged,
        lanes: header.lanes,
        next_seq: header.first_seq,
        blocks: 0,
        upserts: 0,
        deletes: 0,
        valid_bytes: 0,
        bytes: bytes.len() as u64,
        end: FileEnd::Complete,
    };
    let mut blocks = Blocks::new(file, bytes, &header, header_len);
    let mut at = header_len;
    while let Some(block) = blocks.next()? {
        let entries = entries(&header, &block, summary.next_seq).map_err(|damage| corruption(file, at, &damage))?;
        at = block.end;
        summary.acknowledged = summary.acknowledged.max(block.mark);
        summary.blocks += u64::from(!entries.is_empty());
        for (seq, operation) in entries {
            match operation {
                Operation::Upsert(_) => summary.upserts += 1,
                Operation::Delete(_) => summary.deletes += 1,
            }
            summary.next_seq = seq + 1;
            each(seq, operation);
        }
    }
    check_object(&header, summary.next_seq).map_err(|damage| corruption(file, at, &damage))?;
    summary.valid_bytes = at as u64;
    summary.end = blocks.end.unwrap_or(FileEnd::Complete);
    Ok(summary)
}

/// The entries of a block that follows the numbers below `next`: at once, unless other files hold the ones between.
pub(super) fn entries(header: &Header, block: &Block<'_>, next: Seq) -> Result<Vec<(Seq, Operation)>, Damage> {
    let entries = block.entries(header)?;
    match entries.first() {
        Some((first, _)) if *first != next && (header.lanes == 1 || *first < next) => {
            Err(Damage(format!("entry {first} stands where entry {next} belongs")))
        }
        _ => Ok(entries),
    }
}

/// Whether an object of which the entries up to `next` were read has any, unless it is a fence.
pub(super) fn check_object(header: &Header, next: Seq) -> Result<(), Damage> {
    if header.author.is_some() && header.is_fence() != (next == header.first_seq) {
        return Err(Damage::new("an object has one block, and a fence has none"));
    }
    Ok(())
}

/// The error for damage in `file`.
pub(super) fn corruption(file: &str, offset: usize, damage: &Damage) -> Error {
    Error::Corruption(format!("log file {file} at offset {offset}: {damage}"))
}

//! Reading the bytes of one log file: for replay and for people (`wal stats`, `wal dump`).
//!
//! Pure functions from bytes to entries; files are read elsewhere.

use std::fmt;

use crate::error::{Error, Result};
use crate::point::{Operation, Seq};

use super::block::{Block, Header, Step, step};
use super::codec::{Damage, Input, decode_entry};

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
    /// Last acknowledged sequence number before this file; entries of earlier files above it do not count.
    pub previous_seq: Seq,
    /// Sequence number after the last entry.
    pub next_seq: Seq,
    /// Number of blocks, one a group commit.
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

/// Reads a whole log file, hands every entry to `each` in order and sums up.
///
/// # Errors
/// `Corruption` naming `file` and the offset, for a header or a block that was complete once and is not what it was.
/// `each` has then seen the entries before it.
pub fn read_log_file(file: &str, bytes: &[u8], each: &mut dyn FnMut(Seq, Operation)) -> Result<FileSummary> {
    let (header, header_len) = Header::decode(bytes).map_err(|damage| corruption(file, 0, &damage))?;
    let mut summary = FileSummary {
        description: header.description,
        shard: header.shard,
        first_seq: header.first_seq,
        previous_seq: header.previous_seq,
        next_seq: header.first_seq,
        blocks: 0,
        upserts: 0,
        deletes: 0,
        valid_bytes: 0,
        bytes: bytes.len() as u64,
        end: FileEnd::Complete,
    };
    let mut at = header_len;
    loop {
        match step(bytes, at, &header.marker) {
            Step::Block(block) => {
                let entries = decode_block(&block, summary.next_seq).map_err(|damage| corruption(file, at, &damage))?;
                at = block.end;
                summary.blocks += 1;
                summary.next_seq += entries.len() as u64;
                for (seq, operation) in entries {
                    match operation {
                        Operation::Upsert(_) => summary.upserts += 1,
                        Operation::Delete(_) => summary.deletes += 1,
                    }
                    each(seq, operation);
                }
            }
            Step::Damaged(damage) => return Err(corruption(file, at, &damage)),
            Step::Torn(damage) => {
                summary.end = FileEnd::Torn {
                    reason: damage.to_string(),
                };
                break;
            }
            Step::End if at < bytes.len() => {
                summary.end = FileEnd::Zeros;
                break;
            }
            Step::End => break,
        }
    }
    summary.valid_bytes = at as u64;
    Ok(summary)
}

/// All entries of a block, which begin with `first` and are numbered without gaps. A whole block or nothing: the
/// operations of one call stand in one block.
fn decode_block(block: &Block<'_>, first: Seq) -> Result<Vec<(Seq, Operation)>, Damage> {
    let mut input = Input::new(block.raw);
    let mut entries = Vec::new();
    while input.remaining() > 0 {
        let entry = decode_entry(&mut input)?;
        let expected = first + entries.len() as u64;
        if entry.0 != expected {
            return Err(Damage::new(format!(
                "entry {} stands where entry {expected} belongs",
                entry.0
            )));
        }
        entries.push(entry);
    }
    if entries.len() != block.count {
        let reason = format!("the block holds {} entries and says {}", entries.len(), block.count);
        return Err(Damage(reason));
    }
    Ok(entries)
}

/// The error for damage in `file`.
pub(super) fn corruption(file: &str, offset: usize, damage: &Damage) -> Error {
    Error::Corruption(format!("log file {file} at offset {offset}: {damage}"))
}

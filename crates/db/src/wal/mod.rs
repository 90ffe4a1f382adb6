//! The write-ahead log of one shard: an operation is acknowledged when it is durable here and applied to memory.
//!
//! Owns the files below `<wal root>/<collection id>/<shard>/`. Does not own what is applied (the memtable), when data
//! is flushed, or which root it is.
//!
//! ```text
//! append ─▶ queue of batches ─▶ leader: one block, write, fdatasync ─▶ apply in order ─▶ wake the callers
//! writer    queue               log ─▶ file ─▶ block ─▶ codec            memtable
//! open   ─▶ replay: read files in order ─▶ scan ─▶ block ─▶ codec ─▶ memtable
//! ```
//!
//! - **Group commit without timers.** While one sync runs the next batch gathers; a lone writer waits for nobody.
//! - **All or nothing.** The operations of one call stand in one block, so replay has all of them or none.
//! - **A failed write ends its file.** The sync is not repeated; its sequence numbers are not used again; the next
//!   file's header names the last acknowledged one. Replay drops what failed and yet reached the disk, and a hole that
//!   no header declares is corruption.
//! - **A torn tail is cut, damage is reported.** A bad block counts as torn only if nothing was written after it,
//!   because a write begins after the sync of the one before it.
//! - **Idle costs nothing.** No thread, no open file before the first append, no preallocation: a new log is one
//!   header.

mod block;
mod codec;
mod file;
mod log;
mod queue;
mod replay;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;

use proximadb_store::{Filesystem, StoreError};

use crate::error::{Error, Result};
use crate::point::Seq;
use crate::schema::CollectionDescription;

use self::file::Faults;

pub use self::replay::Replay;
pub use self::scan::{FileEnd, FileSummary, read_log_file};
pub use self::writer::{Apply, Wal, WalStart};

/// Sizes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOptions {
    /// A file that reaches this size is followed by the next. Larger only if one batch is. Bytes.
    pub segment_bytes: u64,
    /// Operations of several calls share a block up to this size; a single larger call still is one block. Bytes.
    pub max_batch_bytes: usize,
}

impl Default for WalOptions {
    /// Files of 64 MiB, read whole at replay; blocks of 4 MiB, 3 ms on the slowest disk of today.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
        }
    }
}

/// A file of the log's directory, from discovery's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// Name within the directory.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// What a log holds and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Number of files, as a listing shows.
    pub files: u64,
    /// Bytes of the files, as a listing shows.
    pub bytes: u64,
    /// Last sequence number that is durable.
    pub last_seq: Seq,
    /// Operations made durable since the log was opened.
    pub appended_entries: u64,
    /// Their bytes in the log.
    pub appended_bytes: u64,
    /// Group commits since the log was opened; each is one sync.
    pub commits: u64,
}

/// Where a log lives: its root, and its directory there.
#[derive(Clone)]
struct Home {
    fs: Filesystem,
    /// Below the root: `<collection id>/<shard>`.
    directory: String,
    /// The same on this machine.
    local: PathBuf,
    faults: Faults,
}

impl Home {
    fn new(fs: Filesystem, directory: String) -> Result<Self> {
        let local = fs.local_file(&directory).ok_or_else(|| {
            Error::Config(format!(
                "the log of {directory} needs a local directory, {} is none",
                fs.url().as_str()
            ))
        })?;
        Ok(Self {
            fs,
            directory,
            local,
            faults: Faults::default(),
        })
    }

    /// The shard, the last part of the directory.
    fn shard(&self) -> &str {
        self.directory.rsplit('/').next().unwrap_or(&self.directory)
    }

    /// Path of a file below the root.
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// A file as messages name it.
    fn display(&self, name: &str) -> String {
        format!("{}/{}", self.fs.url().as_str().trim_end_matches('/'), self.path(name))
    }

    fn error(&self, name: &str, error: &io::Error) -> Error {
        to_error(&StoreError::from_io(self.fs.url(), &self.path(name), error))
    }
}

/// The database's error for a failed operation on the root.
fn to_error(error: &StoreError) -> Error {
    let detail = error.detail();
    let (url, reason) = (detail.root.clone(), format!("{}: {}", detail.path, detail.reason));
    match error {
        StoreError::Full(_) => Error::StorageFull { url, reason },
        _ => Error::RootUnavailable { url, reason },
    }
}

/// Sequence number that a log file begins with, by its name; `None` for other files.
pub fn first_seq(path: &str) -> Option<Seq> {
    let name = path.rsplit('/').next()?;
    let first = name.strip_suffix(".avro")?.parse().ok()?;
    (name == file_name(first)).then_some(first)
}

/// The collection that a log file says it belongs to.
///
/// # Errors
/// `Corruption` naming `file` if it is damaged or says nothing of the kind.
pub fn describe(file: &str, bytes: &[u8]) -> Result<CollectionDescription> {
    let summary = read_log_file(file, bytes, &mut |_, _| ())?;
    serde_json::from_str(&summary.description)
        .map_err(|error| Error::Corruption(format!("{file}: description: {error}")))
}

/// Name of the file that begins with `first`.
fn file_name(first: Seq) -> String {
    format!("{first:020}.avro")
}

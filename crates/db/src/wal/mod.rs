//! The write-ahead log of one shard: an operation is acknowledged when it is durable here and applied to memory.
//!
//! Owns the files `<collection id>/<shard>/` on its roots. Does not own what is applied (the memtable), when data is
//! flushed, or which roots there are.
//!
//! ```text
//! append ─▶ queue of batches ─▶ lane: one block, write, fdatasync ─▶ apply in order ─▶ wake the callers
//! writer    queue, pace         worker ─▶ file ─▶ block ─▶ codec      memtable
//!                               or bucket: one object, created only if absent; fence: the only writer of a log there
//!                               flight, log: who writes what; failover: where else; still: rolling, moving
//! open   ─▶ replay: read files ─▶ merge ─▶ scan ─▶ block ─▶ codec ─▶ memtable
//! ```
//!
//! - **Group commit without timers.** While one sync runs the next batch gathers; a lone writer waits for nobody. On a bucket
//!   blocks keep a distance, because requests cost money (`pace`).
//! - **Lanes.** Blocks are written to one root, or side by side to several; they are numbered, applied and acknowledged
//!   in order.
//! - **All or nothing.** The operations of one call stand in one block, so replay has all of them or none.
//! - **A failed write ends its file.** The sync is not repeated; the block goes, under the same numbers, to another root.
//!   Without one its numbers are not used again, and the next file's header declares the hole.
//! - **A hung root is left alone.** No lock is held during I/O. Whoever waits for an answer looks whether a root owes one
//!   for too long; its file ends there, and a late answer changes nothing.
//! - **On a bucket no number is ever given up.** A block whose outcome is open is put again under the same name, because
//!   the next name of a writer is where a later one stops it (`fence`).
//! - **A torn tail is cut, damage is reported.** A bad block counts as torn only if nothing was written after it, and no
//!   mark in any file says that it was acknowledged.
//! - **Idle costs nothing.** No thread, no timer, no request, no open file before the first append, no preallocation: a
//!   new log is one header.

mod avro;
mod bincode;
mod block;
mod bucket;
mod codec;
mod failover;
mod fence;
mod file;
mod flight;
mod log;
mod merge;
mod pace;
mod queue;
mod replay;
mod scan;
mod still;
#[cfg(test)]
mod tests;
mod worker;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proximadb_store::StoreError;

use crate::config::WalFormat;
use crate::error::{Error, Result};
use crate::point::Seq;
use crate::root::Root;
use crate::schema::CollectionDescription;

pub use self::bucket::{FULL_OBJECT_BYTES, MAX_OBJECT_BYTES};
pub use self::replay::{Replay, check_file, check_sequence, log_begins, read_ahead};
pub use self::scan::{FileEnd, FileSummary, read_log_file};
pub use self::writer::{Apply, Confirm, Spare, Wal, WalStart};

/// Sizes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOptions {
    /// A file that reaches this size is followed by the next. Larger only if one batch is. Bytes.
    pub segment_bytes: u64,
    /// Operations of several calls share a block up to this size; a single larger call still is one block. Bytes.
    pub max_batch_bytes: usize,
    /// A write to a disk that takes longer, apart from the time that a slow one needs for its bytes, is given up, if there
    /// is another root for it.
    pub stall: Duration,
    /// A block that fails on a bucket for so long goes to another root, if there is one, and callers hear of it.
    pub bucket_patience: Duration,
    /// A block of this size leaves for a bucket without waiting for company. Bytes.
    pub object_bytes: usize,
    /// How long a writer takes a bucket for its own without looking; a log leaves a bucket only after so long. Larger than
    /// any difference between the speeds of two clocks.
    pub licence: Duration,
}

impl Default for WalOptions {
    /// Files of 64 MiB, read whole at replay; blocks of 4 MiB, 3 ms on the slowest disk of today; a stall of a second.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
            stall: Duration::from_secs(1),
            bucket_patience: Duration::from_secs(10),
            object_bytes: 1 << 20,
            licence: fence::LICENCE,
        }
    }
}

/// A file of the log, from discovery's listing.
#[derive(Debug, Clone)]
pub struct WalFile {
    /// The root it lies on.
    pub root: Arc<Root>,
    /// Name within the log's directory.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Its beginning, or all of it, if it was read ahead of the replay.
    pub content: Option<Bytes>,
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

/// A place where a log may have files: a root, and the log's directory there.
#[derive(Clone)]
struct Home {
    root: Arc<Root>,
    /// Below the root: `<collection id>/<shard>`.
    directory: Arc<str>,
    /// The same on this machine; none on a bucket.
    local: Option<PathBuf>,
}

impl Home {
    fn new(root: &Arc<Root>, directory: &Arc<str>) -> Self {
        Self {
            root: Arc::clone(root),
            directory: Arc::clone(directory),
            local: root.fs().local_file(directory),
        }
    }

    /// Whether it is a directory of this machine, and not a bucket.
    fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// An append file on this machine.
    fn local_file(&self, name: &str) -> io::Result<PathBuf> {
        let local = self.local.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(local.join(name))
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
        format!("{}/{}", self.root.url().trim_end_matches('/'), self.path(name))
    }

    fn io_error(&self, name: &str, error: &io::Error) -> Error {
        self.error(StoreError::from_io(self.root.fs().url(), &self.path(name), error))
    }

    /// The database's error for a failed operation on the root. A directory that is not there any more says nothing
    /// about the data: it is the root that is missing.
    fn error(&self, error: StoreError) -> Error {
        self.root.map_error(match error {
            StoreError::NotFound(detail) => StoreError::Unavailable(detail),
            other => other,
        })
    }

    /// Runs blocking work on the root's own threads, and gives up waiting after `patience`: the work itself goes on.
    async fn run<T: Send + 'static>(&self, patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match tokio::time::timeout(patience, self.root.fs().blocking(work)).await {
            Ok(result) => result.map_err(|error| self.error(error)),
            Err(_) => Err(self.no_answer(patience)),
        }
    }

    /// The error of a root that does not answer.
    fn no_answer(&self, patience: Duration) -> Error {
        let error = Error::RootUnavailable {
            url: self.root.url().to_owned(),
            reason: format!("{}: no answer within {patience:?}", self.directory),
        };
        self.root.note_failure(&error);
        error
    }
}

/// Sequence number that a log file begins with, by its name; `None` for other files. Numbers begin with 1.
pub fn first_seq(path: &str) -> Option<Seq> {
    let name = path.rsplit('/').next()?;
    let (first, format) = name.split_once('.')?;
    let (first, format) = (first.parse().ok()?, format.parse().ok()?);
    (first > 0 && name == file_name(first, format)).then_some(first)
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
fn file_name(first: Seq, format: WalFormat) -> String {
    format!("{first:020}.{format}")
}

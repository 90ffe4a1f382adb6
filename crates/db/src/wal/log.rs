//! The files of one log: which one is written, when the next begins, which may be deleted.
//!
//! Owns rolling, and what a failed write means for the files. Does not own queueing and waiting (`writer`) or deleting
//! (the caller deletes what `releasable` names, then calls `forget`). All functions block.
//!
//! Invariants: every file but the active one is sealed; entries of a file are numbered without gaps; a file whose write
//! failed is never appended to again; the newest file is never deleted, so that the directory always describes its
//! collection and pins its home.

use std::io;
use std::time::Instant;

use proximadb_store::{AppendFile, Op};
use uuid::Uuid;

use crate::error::Result;
use crate::point::Seq;

use super::block::{FrameBuffer, Header};
use super::file::ActiveFile;
use super::{Home, WalStats, file_name};

/// A file that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealedFile {
    pub(super) first: Seq,
    /// Last sequence number in it; `first - 1` when it has no entry.
    pub(super) last: Seq,
    pub(super) bytes: u64,
}

/// All files of one log.
pub(super) struct Log {
    pub(super) home: Home,
    /// `CollectionDescription` as JSON, for the next header.
    pub(super) description: String,
    pub(super) segment_bytes: u64,
    /// Oldest first.
    pub(super) sealed: Vec<SealedFile>,
    pub(super) active: Option<ActiveFile>,
    /// Last sequence number that is durable.
    pub(super) durable: Seq,
    /// Running totals since the log was opened; files and bytes are computed.
    pub(super) totals: WalStats,
}

impl Log {
    /// Writes `count` entries beginning with `first` as one block and makes them durable.
    ///
    /// # Errors
    /// `StorageFull` or `RootUnavailable`. The entries then are not in the log: the file they may partly be in has
    /// ended, and the next one declares where it continues.
    pub(super) fn commit(&mut self, first: Seq, count: usize, batch: &mut FrameBuffer) -> Result<()> {
        let began = Instant::now();
        let bytes = batch.raw_len() as u64;
        let written = self.write(first, count, batch);
        self.home
            .fs
            .meter()
            .record(Op::Sync, began.elapsed(), bytes, written.is_ok());
        if let Err(error) = written {
            let name = self
                .active
                .as_ref()
                .map_or_else(|| file_name(first), |active| file_name(active.first));
            self.end_failed_file();
            return Err(self.home.error(&name, &error));
        }
        self.durable = first + count as u64 - 1;
        self.totals.appended_entries += count as u64;
        self.totals.appended_bytes += bytes;
        self.totals.commits += 1;
        Ok(())
    }

    fn write(&mut self, first: Seq, count: usize, batch: &mut FrameBuffer) -> io::Result<()> {
        let limit = self.segment_bytes.saturating_sub(batch.raw_len() as u64);
        // Another next number than ours means that operations in between have failed.
        if self
            .active
            .as_ref()
            .is_some_and(|file| file.next != first || !file.is_empty() && file.end > limit)
        {
            self.seal();
        }
        let active = match &mut self.active {
            Some(active) => active,
            none => none.insert(create(&self.home, &self.description, first, self.durable)?),
        };
        active.append(first, count, batch)
    }

    /// Ends the active file if it has entries and at least `min_bytes`, and begins the next with `next`, the number
    /// that will be written next. When the next file cannot be created now, the next commit tries again.
    pub(super) fn roll(&mut self, min_bytes: u64, next: Seq) {
        if self
            .active
            .as_ref()
            .is_none_or(|file| file.is_empty() || file.end < min_bytes)
        {
            return;
        }
        self.seal();
        if let Err(error) = self.begin(next) {
            let directory = &self.home.directory;
            tracing::warn!(%directory, %error, "the next log file could not be created; the next write tries again");
        }
    }

    /// Creates a file with a header only, and keeps no handle of it.
    pub(super) fn begin(&mut self, next: Seq) -> Result<()> {
        assert!(self.active.is_none(), "the file before is sealed first");
        let created = create(&self.home, &self.description, next, self.durable);
        let mut file = created.map_err(|error| self.home.error(&file_name(next), &error))?;
        file.handle = None;
        self.active = Some(file);
        Ok(())
    }

    /// Ends the active file at its true length, for strict readers.
    pub(super) fn seal(&mut self) {
        if let Some(mut file) = self.active.take() {
            file.seal();
            self.sealed.push(SealedFile {
                first: file.first,
                last: file.next - 1,
                bytes: file.len,
            });
        }
    }

    /// After a failed write: ends the file, and deletes it if it holds nothing, lest a full disk gathers empty files.
    fn end_failed_file(&mut self) {
        let Some(file) = &self.active else { return };
        if file.is_empty() && !self.sealed.is_empty() && AppendFile::discard(&file.path).is_ok() {
            self.active = None;
        } else {
            self.seal();
        }
    }

    /// The oldest file and its path, if all of it is at or below `through` and a newer file exists.
    pub(super) fn releasable(&self, through: Seq) -> Option<(SealedFile, String)> {
        let oldest = self.sealed.first().copied()?;
        let newest = self.sealed.len() == 1 && self.active.is_none();
        (oldest.last <= through && !newest).then(|| (oldest, self.home.path(&file_name(oldest.first))))
    }

    /// Takes a deleted file off the list; false if another caller did.
    pub(super) fn forget(&mut self, file: SealedFile) -> bool {
        let known = self.sealed.len();
        self.sealed.retain(|sealed| *sealed != file);
        self.sealed.len() < known
    }

    /// Files and bytes as a listing of the directory shows them, and the totals.
    pub(super) fn stats(&self) -> WalStats {
        let sealed: u64 = self.sealed.iter().map(|file| file.bytes).sum();
        WalStats {
            files: self.sealed.len() as u64 + u64::from(self.active.is_some()),
            bytes: sealed + self.active.as_ref().map_or(0, |file| file.len),
            last_seq: self.durable,
            ..self.totals
        }
    }
}

fn create(home: &Home, description: &str, first: Seq, durable: Seq) -> io::Result<ActiveFile> {
    let header = Header {
        description: description.to_owned(),
        shard: home.shard().to_owned(),
        first_seq: first,
        previous_seq: durable,
        marker: Uuid::new_v4().into_bytes(),
    };
    ActiveFile::create(&home.local.join(file_name(first)), &header, home.faults.clone())
}

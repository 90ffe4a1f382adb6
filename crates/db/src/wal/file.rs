//! The file that is being written: growth ahead of the writes, append with sync, sealing.
//!
//! Owns one file's valid length and the rule that a failed write ends the file. Does not own which file is next
//! (`log`). All functions block.
//!
//! ```text
//! 0 ─ header ─ block ─ block ─┤ end: valid, durable ├─ zeros, written ahead ─┤ len
//! ```
//!
//! Zeros are written ahead because overwriting written space needs no journal commit of the file system: a sync takes
//! half the time. (`fallocate` alone makes it slower.) The step follows the size of the file, so a small log stays
//! small.

use std::io;
use std::path::{Path, PathBuf};

use proximadb_store::append::AppendFile;

use crate::point::Seq;

use super::block::{FrameBuffer, Header, SyncMarker};

/// Least and most that is zeroed ahead in one step, in bytes.
const GROWTH_MIN: u64 = 16 * 1024;
const GROWTH_MAX: u64 = 1024 * 1024;
/// A block larger than 1/4 of the step is appended as it is: its own writing outweighs the journal commit that zeros
/// save.
const GROWTH_PER_BLOCK: u64 = 4;

/// One file of the log that may still be appended to.
#[derive(Debug)]
pub(super) struct ActiveFile {
    pub(super) path: PathBuf,
    pub(super) first: Seq,
    /// The sequence number that the next block must begin with.
    pub(super) next: Seq,
    /// Bytes of header and valid blocks.
    pub(super) end: u64,
    /// Length of the file on disk, including zeros ahead.
    pub(super) len: u64,
    pub(super) marker: SyncMarker,
    /// Opened by the first append: an idle log holds no handle.
    pub(super) handle: Option<AppendFile>,
    /// Errors that tests put in the way of the next write; nothing in production.
    pub(super) faults: Faults,
}

impl ActiveFile {
    /// Creates the file with its header, durably.
    pub(super) fn create(path: &Path, header: &Header, faults: Faults) -> io::Result<Self> {
        let bytes = header.encode();
        faults.check("create")?;
        let handle = AppendFile::create_new(path, &bytes)?;
        let length = bytes.len() as u64;
        Ok(Self {
            path: path.to_owned(),
            first: header.first_seq,
            next: header.first_seq,
            end: length,
            len: length,
            marker: header.marker,
            handle: Some(handle),
            faults,
        })
    }

    /// Whether no entry was written yet.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.first
    }

    /// Appends the batch as one block and makes it durable. After an error the file must not be appended to again.
    pub(super) fn append(&mut self, first: Seq, count: usize, batch: &mut FrameBuffer) -> io::Result<()> {
        assert_eq!(first, self.next, "entries of a file are numbered without gaps");
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None => self.open()?,
        };
        let block = batch.seal(count, &self.marker);
        self.faults.check("write")?;
        handle.write_all_at(block, self.end)?;
        let end = self.end + block.len() as u64;
        self.len = self.len.max(end);
        self.grow(&handle, end, block.len() as u64)?;
        self.faults.check("sync")?;
        handle.sync_data()?;
        self.handle = Some(handle);
        self.end = end;
        self.next = first + count as u64;
        Ok(())
    }

    /// Opens the file and makes sure that nothing follows the valid blocks: a crash may have left something, and the
    /// cut at the start may have failed.
    fn open(&mut self) -> io::Result<AppendFile> {
        let handle = AppendFile::open(&self.path)?;
        let length = handle.len()?;
        if length < self.end {
            return Err(io::Error::other(format!(
                "the file had {} bytes and was cut to {length}",
                self.end
            )));
        }
        if length > self.end {
            handle.truncate(self.end)?;
        }
        self.len = self.end;
        Ok(handle)
    }

    /// Writes zeros ahead when the block has used up the last ones; one sync makes block and zeros durable.
    fn grow(&mut self, handle: &AppendFile, end: u64, block_bytes: u64) -> io::Result<()> {
        let step = end.clamp(GROWTH_MIN, GROWTH_MAX);
        if self.len > end || block_bytes > step / GROWTH_PER_BLOCK {
            return Ok(());
        }
        let zeros = vec![0; step as usize];
        match self
            .faults
            .check("grow")
            .and_then(|()| handle.write_all_at(&zeros, end))
        {
            Ok(()) => self.len = end + step,
            // Zeros are a convenience: what little space is left belongs to entries.
            Err(error) if is_full(&error) => handle.truncate(end)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends the file at its valid length, so that strict readers see no zeros, and closes it. If that fails nothing is
    /// lost: replay skips what follows the blocks, and entries of a failed write are excluded by the header of the next
    /// file.
    pub(super) fn seal(&mut self) {
        let handle = self.handle.take();
        if handle.is_some() && self.len == self.end {
            return;
        }
        let cut = handle
            .map_or_else(|| AppendFile::open(&self.path), Ok)
            .and_then(|handle| {
                if handle.len()? > self.end {
                    handle.truncate(self.end)
                } else {
                    Ok(())
                }
            });
        match cut {
            Ok(()) => self.len = self.end,
            Err(error) => {
                let file = self.path.display();
                tracing::warn!(%file, %error, "the end of a log file could not be cut; readers skip it");
            }
        }
    }
}

/// Whether the error means that no space (or no quota) is left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The errors a test wants: none in production, where this is an empty value.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    pub(super) next: std::sync::Arc<parking_lot::Mutex<Vec<(&'static str, io::ErrorKind)>>>,
}

impl Faults {
    /// Fails if a test has asked that this step fails now.
    #[cfg(test)]
    fn check(&self, step: &str) -> io::Result<()> {
        let mut next = self.next.lock();
        match next.iter().position(|(planned, _)| *planned == step) {
            Some(at) => Err(next.remove(at).1.into()),
            None => Ok(()),
        }
    }

    #[cfg(not(test))]
    fn check(&self, _step: &str) -> io::Result<()> {
        Ok(())
    }
}

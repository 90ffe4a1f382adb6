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
use std::path::PathBuf;

use proximadb_store::append::AppendFile;

use crate::config::WalFormat;
use crate::point::Seq;

use super::Home;
use super::block::{Framed, Header, SyncMarker};
use super::codec::codec;
use super::log::{FileKind, SealedFile};

#[cfg(test)]
pub(super) mod faults;

/// Least and most that is zeroed ahead in one step, in bytes.
const GROWTH_MIN: u64 = 16 * 1024;
const GROWTH_MAX: u64 = 1024 * 1024;
/// A block larger than 1/4 of the step is appended as it is: its own writing outweighs the journal commit that zeros
/// save.
const GROWTH_PER_BLOCK: u64 = 4;

/// One file of the log that may still be appended to.
pub(super) struct ActiveFile {
    pub(super) home: Home,
    pub(super) name: String,
    pub(super) format: WalFormat,
    pub(super) first: Seq,
    /// The sequence number after the last entry.
    pub(super) next: Seq,
    /// Bytes of header and valid blocks, without a closing block.
    pub(super) end: u64,
    /// Length of the file on disk, including zeros ahead or a closing block.
    pub(super) len: u64,
    /// Whether a closing block stands behind the blocks and nothing else.
    pub(super) closed: bool,
    pub(super) marker: SyncMarker,
    /// Opened by the first append: an idle log holds no handle.
    pub(super) handle: Option<AppendFile>,
    /// What tests put in the way of the next write; nothing in production.
    pub(super) faults: Faults,
}

impl ActiveFile {
    /// Creates the file with its header, durably.
    pub(super) fn create(home: &Home, header: &Header, faults: &Faults) -> io::Result<Self> {
        let bytes = header.encode();
        let name = super::file_name(header.first_seq, header.format);
        faults.check("create", home)?;
        // Below a mount point without its disk the file would be lost from sight when the disk comes back.
        home.root.fs().check_place()?;
        let handle = AppendFile::create_new(&home.local_file(&name)?, &bytes)?;
        if let Err(unmounted) = home.root.fs().check_place() {
            drop(handle);
            Self::discard(home, header);
            return Err(unmounted);
        }
        let length = bytes.len() as u64;
        Ok(Self {
            home: home.clone(),
            name,
            format: header.format,
            first: header.first_seq,
            next: header.first_seq,
            end: length,
            len: length,
            closed: false,
            marker: header.marker,
            handle: Some(handle),
            faults: faults.clone(),
        })
    }

    /// Deletes the file that has the name of the one with this header, if there is one.
    pub(super) fn discard(home: &Home, header: &Header) {
        let name = super::file_name(header.first_seq, header.format);
        // If it stays, the new one cannot be created, and that is said.
        let _ = home.local_file(&name).and_then(|path| AppendFile::discard(&path));
    }

    /// Whether no entry was written yet.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.first
    }

    /// The file as one that is not written any more.
    pub(super) fn as_sealed(&self) -> SealedFile {
        SealedFile {
            home: self.home.clone(),
            name: self.name.clone(),
            first: self.first,
            last: self.next.saturating_sub(1),
            bytes: self.len,
            kind: FileKind::Entries,
        }
    }

    fn path(&self) -> io::Result<PathBuf> {
        self.home.local_file(&self.name)
    }

    /// Appends a block of `count` entries from `first` on and makes it durable. After an error the file must not be
    /// appended to again.
    pub(super) fn append(&mut self, first: Seq, count: usize, block: &[u8]) -> io::Result<()> {
        assert!(first >= self.next, "entries of a file are numbered in order");
        let handle = match self.handle.take() {
            Some(handle) => handle,
            None => self.open()?,
        };
        self.faults.check("write", &self.home)?;
        handle.write_all_at(block, self.end)?;
        let end = self.end + block.len() as u64;
        self.len = self.len.max(end);
        self.grow(&handle, end, block.len() as u64)?;
        self.faults.check("sync", &self.home)?;
        handle.sync_data()?;
        self.handle = Some(handle);
        self.end = end;
        self.next = first + count as u64;
        Ok(())
    }

    /// Opens the file and makes sure that nothing follows the valid blocks: a crash may have left something, the cut at
    /// the start may have failed, and a closing block must not stand in the middle.
    fn open(&mut self) -> io::Result<AppendFile> {
        let handle = AppendFile::open(&self.path()?)?;
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
        self.closed = false;
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
            .check("grow", &self.home)
            .and_then(|()| handle.write_all_at(&zeros, end))
        {
            Ok(()) => self.len = end + step,
            // Zeros are a convenience: what little space is left belongs to entries.
            Err(error) if is_full(&error) => handle.truncate(end)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends the file at its true length, so that strict readers see no zeros, with a closing block that says that
    /// everything up to `durable` was, and closes it.
    pub(super) fn seal(&mut self, durable: Seq) {
        if self.closed {
            self.handle = None;
        } else if self.is_empty() {
            // The header says it already.
            self.cut();
        } else {
            let closing = Framed::closing(codec(self.format), durable, &self.marker);
            let closed = self.reopened().and_then(|handle| {
                handle.write_all_at(closing.bytes(), self.end)?;
                let length = self.end + closing.bytes().len() as u64;
                handle.truncate(length)?;
                Ok(length)
            });
            match closed {
                Ok(length) => (self.len, self.closed) = (length, true),
                Err(_) => self.cut(),
            }
        }
    }

    /// Ends the file at its valid length and closes it. If that fails nothing is lost: replay skips what follows the
    /// blocks, and entries of a failed write are excluded by the header of the next file.
    pub(super) fn cut(&mut self) {
        if self.handle.is_some() && self.len == self.end {
            self.handle = None;
            return;
        }
        let cut = self.reopened().and_then(|handle| {
            if handle.len()? > self.end {
                handle.truncate(self.end)?;
            }
            Ok(())
        });
        match cut {
            Ok(()) => self.len = self.end,
            Err(error) => {
                let file = self.home.display(&self.name);
                tracing::warn!(%file, %error, "the end of a log file could not be cut; readers skip it");
            }
        }
    }

    fn reopened(&mut self) -> io::Result<AppendFile> {
        let handle = self.handle.take();
        handle.map_or_else(|| AppendFile::open(&self.path()?), Ok)
    }

    /// After a failed write: cuts the file, or deletes it if it holds nothing and is not the only one, lest a full disk
    /// gathers empty files. Returns what remains.
    pub(super) fn fail(mut self, is_only: bool) -> Option<SealedFile> {
        if self.is_empty() && !is_only && self.path().and_then(|path| AppendFile::discard(&path)).is_ok() {
            return None;
        }
        self.cut();
        Some(self.as_sealed())
    }
}

/// Whether the error means that no space (or no quota) is left.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a test wants to go wrong: nothing in production, where this is an empty value.
#[derive(Clone, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    pub(super) planned: faults::Planned,
}

impl Faults {
    /// Fails, or blocks, if a test has asked that this step does so now.
    #[cfg(test)]
    fn check(&self, step: &str, home: &Home) -> io::Result<()> {
        self.planned.check(step, &home.root)
    }

    #[cfg(not(test))]
    fn check(&self, _step: &str, _home: &Home) -> io::Result<()> {
        Ok(())
    }
}

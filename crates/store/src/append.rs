//! The append file of the log on a local disk. Blocking: it belongs on the pool of its root.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::local::sync_directory;

/// Directories that a new file may create above itself: its shard and its collection. Never the root, whose absence
/// means an unmounted disk.
const NEW_DIRECTORIES: usize = 2;

/// A file that is written at offsets and synced by its owner.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
}

impl AppendFile {
    /// Creates a new file that begins with `bytes`, with up to two missing directories above it; all durable on return.
    /// After a crash the file is there with all of these bytes or not at all, so that a header can never be half
    /// written.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one, `NotFound` when more than two directories are missing, any failure of the
    /// disk.
    pub fn create_new(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
        let created = create_directories(directory, NEW_DIRECTORIES)?;
        let mut staging = path.as_os_str().to_owned();
        staging.push("#1");
        let staging = PathBuf::from(staging);
        let published = publish(&staging, path, bytes);
        // A leftover is harmless: it is excluded from listings and overwritten by the next attempt.
        let _ = std::fs::remove_file(&staging);
        let file = published?;
        sync_directory(directory)?;
        if created {
            // Also where another thread created the upper one: it may not have synced it yet.
            for parent in directory.ancestors().skip(1).take(NEW_DIRECTORIES) {
                sync_directory(parent)?;
            }
        }
        Ok(file)
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound` when there is none, any failure of the disk.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
        })
    }

    /// Deletes a file of which nothing has to remain; not synced, since its return after a crash would do no harm.
    ///
    /// # Errors
    /// `NotFound` when there is none, any failure of the disk.
    pub fn discard(path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Writes all `bytes` at `offset`, growing the file when needed. Not durable before [`sync_data`](Self::sync_data).
    ///
    /// # Errors
    /// Any failure of the disk; a part may have been written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Reads exactly `bytes.len()` bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, any failure of the disk.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Makes everything written durable (`fdatasync`).
    ///
    /// # Errors
    /// A failure of the disk. The bytes may be lost although a second sync succeeds: seal the file, never retry.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Cuts (or extends with zeros) to `length` bytes; durable on return.
    ///
    /// # Errors
    /// Any failure of the disk.
    pub fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Any failure of the disk.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// Any failure of the disk.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Writes the bytes beside the file and links them in; a link, unlike a rename, refuses to replace a file.
fn publish(staging: &Path, path: &Path, bytes: &[u8]) -> io::Result<AppendFile> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(staging)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    std::fs::hard_link(staging, path)?;
    Ok(AppendFile { file })
}

/// Creates at most `limit` missing directories, the last being `directory`. Returns whether any was created.
fn create_directories(directory: &Path, limit: usize) -> io::Result<bool> {
    match std::fs::create_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound && limit > 1 => {
            let parent = directory.parent().ok_or(ErrorKind::NotFound)?;
            create_directories(parent, limit - 1)?;
            create_directories(directory, 1)?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_append_file_is_created_once_written_at_offsets_and_truncated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("collection/000/1.avro");
        let file = AppendFile::create_new(&path, b"hello").unwrap();
        assert_eq!(file.len().unwrap(), 5);
        file.write_all_at(b"world", 5).unwrap();
        file.sync_data().unwrap();
        assert_eq!(
            AppendFile::create_new(&path, b"other").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(entries, 1, "no staging file stays");
        let file = AppendFile::open(&path).unwrap();
        file.truncate(7).unwrap();
        assert_eq!(
            (file.len().unwrap(), std::fs::read(&path).unwrap()),
            (7, b"hellowo".to_vec())
        );
        let mut tail = [0; 2];
        file.read_exact_at(&mut tail, 5).unwrap();
        assert_eq!(&tail, b"wo");
    }

    #[test]
    fn a_missing_root_is_never_created_by_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unmounted/collection/000/1.avro");
        assert_eq!(
            AppendFile::create_new(&path, b"other").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

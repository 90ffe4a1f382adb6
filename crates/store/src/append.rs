//! The append file of the log on a local disk. Blocking: it belongs on the pool of its root.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

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
    /// Creates a new file, with up to two missing directories above it; file and directories are durable on return.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one, `NotFound` when more than two directories are missing, any failure of the disk.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
        let created = create_directories(directory, NEW_DIRECTORIES)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.sync_all()?;
        sync_directory(directory)?;
        if created {
            // Also where another thread created the upper one: it may not have synced it yet.
            for parent in directory.ancestors().skip(1).take(NEW_DIRECTORIES) {
                sync_directory(parent)?;
            }
        }
        Ok(Self { file })
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
        let file = AppendFile::create_new(&path).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"hello", 0).unwrap();
        file.write_all_at(b"world", 5).unwrap();
        file.sync_data().unwrap();
        assert_eq!(
            AppendFile::create_new(&path).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
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
        assert_eq!(AppendFile::create_new(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

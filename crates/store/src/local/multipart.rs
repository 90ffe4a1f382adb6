//! A file that is written in parts: staged, and visible under its name only when it is complete and durable.
//!
//! ```text
//! name#1 ─ write parts at their offsets, in any order ─ fsync ─ rename to name ─ fsync directory
//! ```

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::object::{LocalDisk, STORE};
use super::{Disk, sync_directory};

/// The staged file; whoever holds the last reference to an unpublished one removes it.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
    /// Bytes of the parts that were written.
    written: AtomicU64,
}

/// An upload to a local disk.
#[derive(Debug)]
pub(super) struct LocalUpload {
    store: LocalDisk,
    location: Path,
    /// `None` once it is complete or aborted.
    staged: Option<Arc<Staged>>,
    /// Where the next part begins.
    end: u64,
}

impl LocalUpload {
    /// Opens the staging file.
    pub(super) async fn begin(store: LocalDisk, location: &Path) -> Result<Self> {
        let relative = location.to_string();
        let staged = store.run(location, move |disk| Staged::open(disk, &relative)).await?;
        Ok(Self {
            store,
            location: location.clone(),
            staged: Some(Arc::new(staged)),
            end: 0,
        })
    }
}

impl Staged {
    fn open(disk: &Disk, relative: &str) -> io::Result<Self> {
        disk.check_place()?;
        let target = disk.base.join(relative);
        let directory = target.parent().ok_or(ErrorKind::InvalidInput)?;
        let (file, path) = disk.stage(&target, directory)?;
        let written = AtomicU64::new(0);
        Ok(Self { file, path, written })
    }

    fn write(&self, payload: &PutPayload, mut offset: u64) -> io::Result<()> {
        for piece in payload {
            self.file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        self.written.fetch_add(payload.content_length() as u64, SeqCst);
        Ok(())
    }

    /// Gives the file its name. On failure the name still means what it meant before, or, after a failed sync of the
    /// directory, either.
    fn publish(&self, disk: &Disk, relative: &str, expected: u64) -> io::Result<()> {
        if self.written.load(SeqCst) != expected {
            return Err(io::Error::other("a part of the upload was not written"));
        }
        self.file.sync_all()?;
        let target = disk.base.join(relative);
        disk.check_place()?;
        std::fs::rename(&self.path, &target)?;
        sync_directory(target.parent().ok_or(ErrorKind::InvalidInput)?)?;
        disk.check_place()
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, location, offset) = (self.store.clone(), self.location.clone(), self.end);
        let Some(staged) = self.staged.clone() else {
            return Box::pin(async move { Err(over(&location)) });
        };
        self.end += data.content_length() as u64;
        Box::pin(async move { store.run(&location, move |_| staged.write(&data, offset)).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(|| over(&self.location))?;
        let (relative, expected) = (self.location.to_string(), self.end);
        let publish = move |disk: &Disk| {
            let published = staged.publish(disk, &relative, expected);
            if published.is_err() {
                // A leftover is harmless: it is excluded from listings and removed at the next start.
                let _ = std::fs::remove_file(&staged.path);
            }
            published
        };
        self.store.run(&self.location, publish).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take().ok_or_else(|| over(&self.location))?;
        self.store
            .run(&self.location, move |_| std::fs::remove_file(&staged.path))
            .await
    }
}

impl Drop for LocalUpload {
    /// Given up without an abort, as when the uploading task ends.
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            self.store.spawn(move || {
                let _ = std::fs::remove_file(&staged.path);
            });
        }
    }
}

fn over(location: &Path) -> Error {
    Error::Generic {
        store: STORE,
        source: format!("{location}: the upload is over").into(),
    }
}

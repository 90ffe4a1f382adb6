//! What only a directory of this machine has: a base, a size, threads for blocking work.

use std::path::PathBuf;

use super::{Capacity, Filesystem, check_path};
use crate::breaker;
use crate::error::{StoreError, detail};
use crate::local::create_directories;

impl Filesystem {
    /// Creates the base directory when missing, durably; returns whether it did. Buckets have none: `false`.
    ///
    /// # Errors
    /// Any failure of the disk, naming the URL.
    pub async fn create_dir_all(&self) -> Result<bool, StoreError> {
        let Some(path) = self.base() else { return Ok(false) };
        let create = self.local_io("", move || create_directories(&path));
        self.within("", breaker::deadline(0), create).await
    }

    /// Where the file is on this machine, for append files and memory maps; `None` for buckets and illegal paths.
    pub fn local_file(&self, path: &str) -> Option<PathBuf> {
        check_path(path).ok()?;
        Some(self.base()?.join(path))
    }

    /// The device that the root's directory is on now; `None` for a bucket.
    ///
    /// # Errors
    /// When the directory could not be looked at.
    pub async fn device(&self) -> Result<Option<u64>, StoreError> {
        let Some(disk) = self.inner.local.clone() else {
            return Ok(None);
        };
        self.local_io("", move || disk.present_device()).await.map(Some)
    }

    /// From now on the root is what lies on this device: without its disk the directory below the mount point is neither
    /// written nor taken for an empty root. For whoever has seen the identity of the root there.
    pub fn settle(&self, device: u64) {
        if let Some(disk) = &self.inner.local {
            disk.settle(device);
        }
    }

    /// Whether the root's directory is there, on the device that was settled on; buckets always are. Blocking: it belongs
    /// on the threads of the root, for append files before and after they are created.
    ///
    /// # Errors
    /// `NotConnected` when the disk is not mounted; any failure of the disk.
    pub fn check_place(&self) -> std::io::Result<()> {
        self.inner.local.as_ref().map_or(Ok(()), |disk| disk.check_place())
    }

    /// Size of the file system below the root; `None` for buckets.
    ///
    /// # Errors
    /// When the root could not be looked at.
    pub async fn capacity(&self) -> Result<Option<Capacity>, StoreError> {
        let (Some(path), Some(disk)) = (self.base(), self.inner.local.clone()) else {
            return Ok(None);
        };
        let look = self.local_io("", move || {
            let stat = rustix::fs::statvfs(&path);
            disk.check_place()?;
            Ok(stat?)
        });
        let stat = self.within("", breaker::deadline(0), look).await?;
        Ok(Some(Capacity {
            total_bytes: stat.f_blocks * stat.f_frsize,
            free_bytes: stat.f_bavail * stat.f_frsize,
        }))
    }

    /// Writes everything that the operating system still holds for the root's file system. What a killed process wrote
    /// may be visible and not durable; after this it is both. Nothing to do for buckets. Has no deadline of its own: how
    /// much there is to write is not known.
    ///
    /// # Errors
    /// Any failure of the disk.
    pub async fn sync_all(&self) -> Result<(), StoreError> {
        let Some(path) = self.base() else { return Ok(()) };
        self.local_io("", move || Ok(rustix::fs::syncfs(std::fs::File::open(path)?)?))
            .await
    }

    /// Runs blocking work on this root's own threads and waits for it. Work beyond their number waits in line, and is
    /// taken out of it when nobody waits any more. Without a deadline: see [`bounded`](Self::bounded).
    ///
    /// # Errors
    /// [`StoreError::Io`] when the work panicked or the root is being closed.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome = self.inner.pool.run(work).await;
        outcome.map_err(|error| StoreError::Io(detail(self.url(), "", error.to_string())))
    }

    /// Starts blocking work on this root's own threads; nobody waits.
    pub fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.inner.pool.spawn(work);
    }

    fn base(&self) -> Option<PathBuf> {
        self.inner.local.as_ref()?;
        self.url().local_path().map(PathBuf::from)
    }

    async fn local_io<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(work)
            .await?
            .map_err(|error| StoreError::from_io(self.url(), path, &error))
    }
}

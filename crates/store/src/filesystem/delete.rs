//! Deletes: single files, leftovers, and whole directories; durable, and content with what is already gone.

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use super::Filesystem;
use crate::breaker;
use crate::error::StoreError;
use crate::meter::Op;

/// Deletes that go out as one request where the store can (Azure takes at most 256).
const DELETE_BATCH: usize = 256;

impl Filesystem {
    /// Removes the leftovers of killed writers; returns how many. Only while nobody else writes to the root.
    ///
    /// # Errors
    /// When the root could not be listed or a leftover not be removed.
    pub async fn remove_staging(&self) -> Result<u64, StoreError> {
        let staging = self.scan("").await?.staging;
        self.remove_all(staging.iter().map(|file| file.path.as_str())).await
    }

    /// Deletes the file, durably; a missing one is fine.
    ///
    /// # Errors
    /// Any failure of the root.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.remove_all(std::iter::once(path)).await?;
        Ok(())
    }

    /// Deletes the files, durably, with few requests where the store can; missing ones are fine.
    ///
    /// # Errors
    /// Any failure of the root, after which a part may be gone.
    pub async fn delete_all(&self, paths: &[String]) -> Result<u64, StoreError> {
        self.remove_all(paths.iter().map(String::as_str)).await
    }

    /// Deletes everything below `prefix` (and, on a disk, the directory), durably; returns the number of files.
    ///
    /// # Errors
    /// [`StoreError::Config`] for an empty prefix; any failure of the root, after which a part may be gone.
    pub async fn delete_dir(&self, prefix: &str) -> Result<u64, StoreError> {
        let location = self.location(prefix)?;
        if let Some(disk) = &self.inner.local {
            let removal = async {
                disk.remove_tree(&location)
                    .await
                    .map_err(|error| self.error(prefix, &error))
            };
            let removal = self.within(prefix, breaker::tree_deadline(), removal);
            return self.measured(Op::Delete, removal, |_| 0).await;
        }
        let files = self.list(prefix).await?;
        self.remove_all(files.iter().map(|file| file.path.as_str())).await
    }

    async fn remove_all(&self, paths: impl Iterator<Item = &str>) -> Result<u64, StoreError> {
        let locations: Vec<Path> = paths.map(|path| self.location(path)).collect::<Result<_, _>>()?;
        for batch in locations.chunks(DELETE_BATCH) {
            let removal = self.again(|| async {
                let named = futures::stream::iter(batch.to_vec()).map(Ok).boxed();
                let mut outcomes = self.inner.store.delete_stream(named);
                while let Some(outcome) = outcomes.next().await {
                    match outcome {
                        Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(self.error(batch.first().map_or("", |path| path.as_ref()), &error)),
                    }
                }
                Ok(())
            });
            let removal = self.within("", breaker::tree_deadline(), removal);
            self.measured(Op::Delete, removal, |()| 0).await?;
        }
        Ok(locations.len() as u64)
    }
}

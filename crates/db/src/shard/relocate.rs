//! Moving a shard's files to another root while writes and searches go on (invariant 10).
//!
//! ```text
//! segments   copy ▸ read back ▸ manifest names both ▸ manifest names the new one ▸ delete the old file
//! manifests  the next version is written on the new root ▸ the record makes it the home ▸ delete the old directory
//! ```
//!
//! The caller has already written into the record that the move is under way, so that files on both roots are found after
//! a crash at any point; the same calls then finish it. `switch` writes the record that makes the new root the home.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use proximadb_store::FileInfo;

use tokio::sync::RwLock;

use super::Shard;
use super::commit::{Commit, Takeover};
use super::engine::Engine;
use crate::engine::lsm::Lsm;
use crate::engine::manifest::{ManifestStore, SegmentMeta};
use crate::error::{Error, Result};
use crate::placement::Moving;
use crate::root::{Root, RootId, StorageComponentType};
use crate::throttle::Throttle;

/// Segments that are published together.
const SEGMENTS_AT_ONCE: usize = 8;

/// How fast files may move, and how far a move is.
#[derive(Debug)]
pub struct Pace {
    /// Bytes per second.
    pub throttle: Arc<Throttle>,
    /// Bytes that are durable on the new root.
    pub moved_bytes: AtomicU64,
    /// Their files.
    pub moved_files: AtomicU64,
}

impl Pace {
    /// A move that begins.
    pub fn new(throttle: Arc<Throttle>) -> Self {
        Self {
            throttle,
            moved_bytes: AtomicU64::new(0),
            moved_files: AtomicU64::new(0),
        }
    }

    fn count(&self, bytes: u64, files: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.moved_files.fetch_add(files, Ordering::Relaxed);
    }
}

/// Makes the new root the home, durably.
pub type Switch<'a> = &'a (dyn Fn() -> BoxFuture<'a, Result<()>> + Send + Sync);

impl Shard {
    /// Empties `moving.from` of this shard's files of a component. May be called again after an error or a restart.
    ///
    /// # Errors
    /// Errors of the roots and of `switch`: nothing is lost, and the files are where the record says.
    /// [`Error::NotFound`] if the collection is dropped meanwhile.
    pub async fn relocate(
        self: &Arc<Self>,
        component: StorageComponentType,
        moving: Moving,
        pace: &Pace,
        switch: Switch<'_>,
    ) -> Result<()> {
        let _one_at_a_time = self.relocating.lock().await;
        self.check_open()?;
        self.take_over().await?;
        match component {
            StorageComponentType::Viper if matches!(self.engine, Engine::Viper) => {
                self.relocate_viper(moving, pace, switch).await
            }
            StorageComponentType::Wal => self.relocate_log(moving, pace, switch).await,
            StorageComponentType::Index => self.relocate_indexes(moving, pace, switch).await,
            StorageComponentType::Lsm => match &self.engine {
                Engine::Lsm(lsm) => self.relocate_tree(lsm, moving, pace, switch).await,
                Engine::Viper => switch().await,
            },
            StorageComponentType::Viper | StorageComponentType::Metadata => switch().await,
        }
    }

    /// Roots that hold files of the log now.
    pub fn log_roots(&self) -> Vec<RootId> {
        self.wal.roots_in_use()
    }

    /// Roots that the log is written to now.
    pub fn log_lanes(&self) -> Vec<RootId> {
        self.wal.lanes()
    }

    /// After a failover: the log goes on where it belongs, and what lies elsewhere is flushed and released.
    ///
    /// # Errors
    /// Errors of the roots; the log goes on where it is. [`Error::Overloaded`] while files are being moved.
    pub async fn return_log(self: &Arc<Self>) -> Result<()> {
        let Ok(_one_at_a_time) = self.relocating.try_lock() else {
            return Err(Error::Overloaded("the collection's files are being moved".to_owned()));
        };
        self.check_open()?;
        let lanes = self.options.homes.lanes(StorageComponentType::Wal)?;
        let ids: Vec<RootId> = lanes.iter().map(|root| root.id()).collect();
        let written = self.wal.lanes();
        if ids.len() != written.len() || ids.iter().any(|id| !written.contains(id)) {
            self.wal.continue_on(lanes).await?;
        }
        self.flush().await?;
        for id in self.wal.roots_in_use().into_iter().filter(|id| !ids.contains(id)) {
            match self.wal.leave(&self.options.homes.root(id)?).await {
                // What it still needs there goes another time.
                Ok(()) | Err(Error::Overloaded(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nothing is copied: the log goes on at the new root, and what only the old files have is flushed.
    async fn relocate_log(self: &Arc<Self>, moving: Moving, pace: &Pace, switch: Switch<'_>) -> Result<()> {
        let homes = &self.options.homes;
        let from = homes.root(moving.from)?;
        let directory = self.description().id.to_string();
        self.wal.may_leave(&from)?;
        self.wal.continue_on(homes.lanes(StorageComponentType::Wal)?).await?;
        switch().await?;
        let files = from.list(&directory).await?;
        self.flush().await?;
        self.wal.leave(&from).await?;
        if self.wal.roots_in_use().contains(&from.id()) {
            return Err(Error::Overloaded(format!("{} still has files of the log", from.url())));
        }
        from.delete_dir(&directory).await?;
        pace.count(files.iter().map(|file| file.size).sum(), files.len() as u64);
        Ok(())
    }

    async fn relocate_viper(self: &Arc<Self>, moving: Moving, pace: &Pace, switch: Switch<'_>) -> Result<()> {
        let homes = &self.options.homes;
        let (from, to) = (homes.root(moving.from)?, homes.root(moving.to)?);
        self.relocate_segments(&from, &to, pace).await?;
        {
            // A flush or merge that began before the move may have written to the old root until now.
            let _flushing = self.flushing.lock().await;
            let _compacting = self.compacting.lock().await;
            self.relocate_segments(&from, &to, pace).await?;
            self.delete_replaced().await?;
            self.hand_over_manifests(&from, &to, switch).await?;
        }
        from.delete_dir(&self.description().id.to_string()).await?;
        from.clear_usage(self.description().id);
        Ok(())
    }

    /// The files of a tree are never changed, so most of them are copied while commits go on.
    async fn relocate_tree(&self, lsm: &RwLock<Lsm>, moving: Moving, pace: &Pace, switch: Switch<'_>) -> Result<()> {
        let homes = &self.options.homes;
        let (from, to) = (homes.root(moving.from)?, homes.root(moving.to)?);
        let description = self.description();
        let directory = format!("{}/{}", description.id, self.number);
        if lsm.read().await.root().id() == from.id() {
            self.mirror(&from, &to, &directory, pace).await?;
        }
        {
            let _flushing = self.flushing.lock().await;
            let _compacting = self.compacting.lock().await;
            let mut lsm = lsm.write().await;
            if lsm.root().id() == from.id() {
                lsm.close().await;
                self.mirror(&from, &to, &directory, pace).await?;
                let copy = Lsm::open(to.clone(), description.id, &self.number, &description).await?;
                self.check_copy(&copy).await?;
                // From here on nothing is committed on the old root, whatever becomes of the record.
                *lsm = copy;
            }
            switch().await?;
        }
        from.delete_dir(&description.id.to_string()).await?;
        Ok(())
    }

    /// Refuses a copy of the tree that has less than what was committed: each file of it is right, and one may be missing.
    async fn check_copy(&self, copy: &Lsm) -> Result<()> {
        let committed = self.ledger.lock().await.manifest.flushed_seq;
        let found = copy.flushed_seq().await?;
        if found.is_some_and(|found| found >= committed) {
            return Ok(());
        }
        let (url, id) = (copy.root().url(), self.description().id);
        Err(Error::Corruption(format!(
            "{url}/{id}: the copy of the tree ends at operation {}, and {committed} was committed",
            found.unwrap_or(0)
        )))
    }

    async fn relocate_indexes(self: &Arc<Self>, moving: Moving, pace: &Pace, switch: Switch<'_>) -> Result<()> {
        let homes = &self.options.homes;
        let (from, to) = (homes.root(moving.from)?, homes.root(moving.to)?);
        while let Some(bytes) = self.axis.move_next(&from, &to).await? {
            self.check_open()?;
            pace.count(bytes, 1);
            pace.throttle.take(bytes).await;
        }
        switch().await?;
        self.axis.set_homes(homes.index()?).await;
        self.axis.clear(&from).await?;
        self.work_on_files().await;
        from.delete_dir(&self.description().id.to_string()).await?;
        Ok(())
    }

    /// Moves segments until the manifest names none on `from`.
    async fn relocate_segments(self: &Arc<Self>, from: &Arc<Root>, to: &Arc<Root>, pace: &Pace) -> Result<()> {
        loop {
            self.check_open()?;
            let manifest = self.ledger.lock().await.manifest.clone();
            let here = manifest.segments.into_iter().filter(|meta| meta.root_id == from.id());
            let batch: Vec<SegmentMeta> = here.take(SEGMENTS_AT_ONCE).collect();
            if batch.is_empty() {
                return Ok(());
            }
            for meta in &batch {
                pace.throttle.take(meta.bytes).await;
                self.viper(from.clone())
                    .copy_segment(meta, &self.viper(to.clone()))
                    .await?;
                pace.count(meta.bytes, 1);
            }
            let with = |root_id, copy| {
                batch
                    .iter()
                    .map(|meta| SegmentMeta {
                        root_id,
                        copy,
                        ..meta.clone()
                    })
                    .collect()
            };
            self.publish(with(from.id(), Some(to.id()))).await?;
            self.publish(with(to.id(), None)).await?;
            self.delete_moved(&batch, from, to).await?;
        }
    }

    /// Makes the manifest name the segments as given; those that were merged meanwhile are left out.
    async fn publish(self: &Arc<Self>, metas: Vec<SegmentMeta>) -> Result<()> {
        let commit = Commit {
            segments: Vec::new(),
            flushed_seq: 0,
            takeover: Takeover::Relocated(metas),
            reserved: None,
        };
        self.commit(commit).await
    }

    /// Deletes the originals, and the copies of segments that were merged while they were copied.
    async fn delete_moved(&self, batch: &[SegmentMeta], from: &Arc<Root>, to: &Arc<Root>) -> Result<()> {
        let named = self.ledger.lock().await.manifest.segments.clone();
        for meta in batch {
            self.viper(from.clone()).delete_segment(meta).await?;
            if named.iter().all(|other| other.id != meta.id) {
                self.viper(to.clone()).delete_segment(meta).await?;
            }
        }
        Ok(())
    }

    /// Writes the next manifest on the root that is the home from now on, and makes it the home. A failure in between leaves
    /// versions on both roots, of which the highest counts. Also where the record says already that `to` is the home: after a
    /// switch whose answer was lost, the newest manifest may be on `from`, which is deleted next.
    async fn hand_over_manifests(self: &Arc<Self>, from: &Arc<Root>, to: &Arc<Root>, switch: Switch<'_>) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        self.finish(&mut ledger).await?;
        let home = self.options.homes.home(StorageComponentType::Viper)?;
        let heir = if home.id() == from.id() { to.clone() } else { home };
        let manifest = &ledger.manifest;
        let next = manifest.next(
            (*self.description()).clone(),
            manifest.flushed_seq,
            manifest.segments.clone(),
        );
        let commit = Commit {
            segments: Vec::new(),
            flushed_seq: 0,
            takeover: Takeover::Relocated(Vec::new()),
            reserved: None,
        };
        // If it fails with an unknown outcome the same bytes are written at home before anything else.
        ledger.unfinished = Some((next.clone(), commit));
        ManifestStore::new(heir, self.description().id, &self.number)
            .commit(&next)
            .await?;
        ledger.manifest = next;
        ledger.unfinished = None;
        switch().await
    }

    /// Makes a directory on `to` the same as on `from`: copies what is missing there, each file verified by reading it back,
    /// and deletes what `from` does not have. Tables of one name are the same, their names are unique; the small files
    /// beside them are numbered, so that two trees may have different ones of one name.
    async fn mirror(&self, from: &Root, to: &Root, directory: &str, pace: &Pace) -> Result<()> {
        let (originals, copies) = (from.list(directory).await?, to.list(directory).await?);
        let is_there = |file: &FileInfo| file.path.ends_with(".sst") && copies.contains(file);
        for file in originals.iter().filter(|file| !is_there(file)) {
            self.check_open()?;
            pace.throttle.take(file.size).await;
            // Deleted since it was listed: replaced by a merge.
            let Some(bytes) = from.read_if_exists(&file.path).await? else {
                continue;
            };
            to.write_atomic(&file.path, bytes.clone()).await?;
            if to.read(&file.path).await? != bytes {
                let (url, path) = (to.url(), &file.path);
                return Err(Error::Corruption(format!(
                    "{url}/{path}: the copy that was just written reads back differently"
                )));
            }
            pace.count(file.size, 1);
        }
        for file in copies
            .iter()
            .filter(|file| !originals.iter().any(|other| other.path == file.path))
        {
            to.delete(&file.path).await?;
        }
        Ok(())
    }
}

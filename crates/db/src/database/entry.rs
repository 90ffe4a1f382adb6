//! One collection of the catalog: known, perhaps open, and in the end neither.
//!
//! Owns opening at the first use, exactly once, and the end: after it nothing opens the collection again, so that a
//! request that looked it up before a drop cannot create its files anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Mutex as AsyncMutex;

use super::{Database, closed, missing, now_ms};
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::metadata::{CollectionRecord, CollectionState};
use crate::placement::Assignment;
use crate::root::{RootId, Roots, StorageComponentType};
use crate::schema::CollectionDescription;
use crate::shard::{Homes, Shard, ShardOptions};

/// The only shard of a collection, until there are several.
pub(crate) const SHARD: &str = "000";

/// One collection of the catalog, open or not.
pub(super) struct Entry {
    pub(super) record: RwLock<CollectionRecord>,
    /// Where its files are, as the record says it; shared with the open shard.
    homes: Arc<Homes>,
    /// Roots that were named to the log as spare and were not yet seen in use.
    pub(super) promised: Mutex<BTreeSet<RootId>>,
    /// One change of the record at a time.
    updating: AsyncMutex<()>,
    opened: AsyncMutex<Opened>,
    /// When it was last used, ms since 1970 UTC.
    touched_ms: AtomicU64,
    /// Set if it must not be used, although its files are there: its record is on a root that cannot be read.
    pub(super) unavailable: Option<Error>,
}

enum Opened {
    NotYet,
    Open(Arc<Collection>),
    /// Dropped, or the database is closed: what those who still hold the entry are told.
    Ended(Error),
}

impl Opened {
    async fn close_if_refused(&mut self) {
        if matches!(self, Self::Open(collection) if collection.shard().must_reopen())
            && let Self::Open(refused) = std::mem::replace(self, Self::NotYet)
        {
            refused.close().await;
        }
    }
}

impl Entry {
    pub(super) fn new(record: CollectionRecord, roots: Arc<Roots>, unavailable: Option<Error>) -> Self {
        let homes = Homes::new(record.description.id, roots, record.placement.clone());
        Self {
            record: RwLock::new(record),
            homes: Arc::new(homes),
            promised: Mutex::default(),
            updating: AsyncMutex::default(),
            opened: AsyncMutex::new(Opened::NotYet),
            touched_ms: AtomicU64::new(0),
            unavailable,
        }
    }

    /// Directory of the collection on every root.
    pub(super) fn directory(&self) -> String {
        self.record.read().description.id.to_string()
    }

    /// Closes the collection for good; from now on opening it fails with `reason`.
    pub(super) async fn end(&self, reason: Error) {
        let mut opened = self.opened.lock().await;
        if let Opened::Open(collection) = std::mem::replace(&mut *opened, Opened::Ended(reason)) {
            collection.close().await;
        }
    }

    /// Takes over changed settings if it is open; else they are read when it is opened.
    pub(super) async fn set_description(&self, description: Arc<CollectionDescription>) -> Result<()> {
        match &*self.opened.lock().await {
            Opened::Open(collection) => collection.set_description(description).await,
            Opened::NotYet | Opened::Ended(_) => Ok(()),
        }
    }

    /// The collection, if it is open and can stay so.
    pub(super) async fn opened(&self) -> Option<Arc<Collection>> {
        match &*self.opened.lock().await {
            Opened::Open(collection) if !collection.shard().must_reopen() => Some(collection.clone()),
            _ => None,
        }
    }

    async fn open(&self, options: ShardOptions) -> Result<Arc<Collection>> {
        let mut opened = self.opened.lock().await;
        opened.close_if_refused().await;
        match &*opened {
            Opened::Open(collection) => return Ok(collection.clone()),
            Opened::Ended(reason) => return Err(reason.clone()),
            Opened::NotYet => {}
        }
        let description = self.record.read().description.clone();
        let collection = Arc::new(Collection::new(Shard::open(description, SHARD, options).await?));
        *opened = Opened::Open(collection.clone());
        Ok(collection)
    }
}

impl Database {
    /// Closes collections that can be searched only, and gives their memory back, which no flush does; they are opened anew at their
    /// next use.
    pub(super) async fn close_refused(&self) {
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        for entry in entries {
            // One that is being opened is not waited for.
            if let Ok(mut opened) = entry.opened.try_lock() {
                opened.close_if_refused().await;
            }
        }
    }

    /// Notes that a collection is used, to the second.
    pub(super) fn touch(&self, entry: &Entry) {
        let now_ms = now_ms();
        let last_ms = entry.touched_ms.load(Ordering::Relaxed);
        if now_ms >= last_ms + Assignment::ACCESS_GRANULARITY_MS {
            entry.touched_ms.store(now_ms, Ordering::Relaxed);
            let id = entry.record.read().description.id;
            StorageComponentType::ALL
                .into_iter()
                .for_each(|of| self.assignments.touch(id, of, now_ms));
        }
    }

    pub(super) async fn open_entry(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<Arc<Collection>> {
        if let Some(collection) = entry.opened().await {
            return Ok(collection);
        }
        if let Some(reason) = &entry.unavailable {
            return Err(reason.clone());
        }
        let options = ShardOptions {
            homes: entry.homes.clone(),
            wal_format: self.config.storage.wal.format,
            // Without a second root there is nothing to go to: a slow write is waited for.
            spare: (self.roots.of_component(StorageComponentType::Wal).len() > 1).then(|| self.spare(entry)),
            memory_flush_size_bytes: self.config.storage.wal.memory_flush_size_bytes,
            segment_size_bytes: (self.config.storage.viper.segment_size_mb << 20).min(self.build_memory.merge_bytes()),
            budget: self.budget.clone(),
            build_memory: self.build_memory.clone(),
            bucket_memory: self.bucket_memory.clone(),
        };
        // A task of its own: opening cuts, creates and deletes files, and goes on to its end when the request that asked
        // for it is cancelled. A second opening must not meet the rest of a first one.
        let entry = entry.clone();
        let opening = self.runtime.spawn(async move { entry.open(options).await });
        opening
            .await
            .map_err(|error| Error::Internal(format!("opening a collection failed: {error}")))?
    }

    /// Changes the record of a collection durably, one change at a time, and then what is known of it in memory.
    ///
    /// # Errors
    /// Those of `change`; [`Error::NotFound`] while it is dropped; errors of the metadata roots: nothing changed then.
    pub(super) async fn change_record(
        &self,
        entry: &Entry,
        change: impl FnOnce(&mut CollectionRecord) -> Result<()> + Send,
    ) -> Result<CollectionRecord> {
        let _until_closed = self.records.read().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let _one_change_at_a_time = entry.updating.lock().await;
        let mut record = entry.record.read().clone();
        if record.state == CollectionState::Dropping {
            return Err(missing(&record.description.name));
        }
        let before = record.placement.clone();
        change(&mut record)?;
        let record = self.metadata.update(record).await?;
        if record.placement != before {
            self.assignments
                .record_assignment(record.description.id, record.placement.clone());
            entry.homes.set(record.placement.clone());
        }
        *entry.record.write() = record.clone();
        Ok(record)
    }
}

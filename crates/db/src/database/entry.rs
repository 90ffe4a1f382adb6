//! One collection of the catalog: known, perhaps open, and in the end neither.
//!
//! Owns opening at the first use, exactly once, and the end: after it nothing opens the collection again, so that a
//! request that looked it up before a drop cannot create its files anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::Mutex as AsyncMutex;

use super::{Database, now_ms};
use crate::axis::IndexHomes;
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::metadata::CollectionRecord;
use crate::placement::Assignment;
use crate::root::{Root, StorageComponentType};
use crate::schema::CollectionDescription;
use crate::shard::{Shard, ShardOptions};

/// The only shard of a collection, until there are several.
pub(crate) const SHARD: &str = "000";

/// One collection of the catalog, open or not.
pub(super) struct Entry {
    pub(super) record: RwLock<CollectionRecord>,
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

impl Entry {
    pub(super) fn new(record: CollectionRecord, unavailable: Option<Error>) -> Self {
        Self {
            record: RwLock::new(record),
            opened: AsyncMutex::new(Opened::NotYet),
            touched_ms: AtomicU64::new(0),
            unavailable,
        }
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

    async fn opened(&self) -> Option<Arc<Collection>> {
        match &*self.opened.lock().await {
            Opened::Open(collection) => Some(collection.clone()),
            Opened::NotYet | Opened::Ended(_) => None,
        }
    }

    async fn open(&self, options: ShardOptions) -> Result<Arc<Collection>> {
        let mut opened = self.opened.lock().await;
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

    pub(super) async fn open_entry(&self, entry: &Arc<Entry>) -> Result<Arc<Collection>> {
        if let Some(collection) = entry.opened().await {
            return Ok(collection);
        }
        if let Some(reason) = &entry.unavailable {
            return Err(reason.clone());
        }
        let record = entry.record.read().clone();
        let options = ShardOptions {
            wal_root: self.home(&record, StorageComponentType::Wal)?,
            viper_root: self.home(&record, StorageComponentType::Viper)?,
            index_homes: self.index_homes(&record)?,
            memory_flush_size_bytes: self.config.storage.wal.memory_flush_size_bytes,
            segment_size_bytes: self.config.storage.viper.segment_size_mb << 20,
            budget: self.budget.clone(),
        };
        // A task of its own: opening cuts, creates and deletes files, and goes on to its end when the request that asked
        // for it is cancelled. A second opening must not meet the rest of a first one.
        let entry = entry.clone();
        let opening = tokio::spawn(async move { entry.open(options).await });
        opening
            .await
            .map_err(|error| Error::Internal(format!("opening a collection failed: {error}")))?
    }

    /// Where its indexes go. They are derived: a root that is away is no reason to be unavailable.
    fn index_homes(&self, record: &CollectionRecord) -> Result<IndexHomes> {
        let placement = record.placement.get(&StorageComponentType::Index);
        let missing = || Error::Corruption(format!("{} has no index root", record.description.id));
        Ok(IndexHomes::new(placement.ok_or_else(missing)?, &self.roots))
    }

    fn home(&self, record: &CollectionRecord, component: StorageComponentType) -> Result<Arc<Root>> {
        let home = record
            .placement
            .get(&component)
            .and_then(|placement| placement.roots.first());
        let id = home.ok_or_else(|| Error::Corruption(format!("{} has no {component} root", record.description.id)))?;
        let root = self.roots.by_id(*id)?;
        root.available()?;
        Ok(root)
    }
}

//! [`Batched`]: sets and deletions gather in memory and are written together.
//!
//! A `set` or `delete` that returns `Ok` is *accepted*: readers through this layer see it, and it is written after
//! [`max_delay`](BatchOptions::max_delay), or at once with the [`max_entries`](BatchOptions::max_entries)th. It is *stored* when
//! [`flush`](Store::flush) has returned `Ok`; a process that dies before loses it. Who cannot afford that does not use this
//! layer, or uses `set_batch` or a swap, which are stored when they return.
//!
//! Keys of a batch that could not be written stay, are tried again with the next one, and `flush` says what is wrong. While
//! the buffer is full of them, further keys are refused with their error. Everything but `set` and `delete` first writes
//! what is buffered of its keys.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{BatchError, Error, Result};
use crate::store::{Entry, Expected, Page, Store, Swap};

/// When a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// With so many keys it is written at once; at least 1.
    pub max_entries: usize,
    /// It is written at the latest this time after its first key.
    pub max_delay: Duration,
}

impl Default for BatchOptions {
    /// 1,000 keys, 100 milliseconds.
    fn default() -> Self {
        Self {
            max_entries: 1_000,
            max_delay: Duration::from_millis(100),
        }
    }
}

/// What the layer has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Sets and deletions that were accepted.
    pub accepted: u64,
    /// Batches that were written, also those of which a key failed.
    pub batches: u64,
    /// Keys of batches that could not be written, each time they were tried.
    pub failed: u64,
    /// Keys that wait now.
    pub waiting: u64,
}

/// A layer that gathers writes. Needs a running tokio runtime until it is flushed.
pub struct Batched {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// URL of the namespace, and key.
type Slot = (String, String);

#[derive(Clone)]
struct Change {
    namespace: Arc<dyn Store>,
    /// `None` deletes.
    value: Option<Bytes>,
}

struct Shared {
    options: BatchOptions,
    state: Mutex<State>,
    /// Held while a batch is written: one at a time, so that an older value never overtakes a newer one.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Slot, Change>,
    /// The batch that is being written.
    written: HashMap<Slot, Change>,
    /// A task will write what waits.
    is_timed: bool,
    stats: BatchStats,
}

impl Batched {
    /// Puts the layer over a store.
    pub fn new(inner: Arc<dyn Store>, options: BatchOptions) -> Self {
        let shared = Shared {
            options,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        };
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }

    /// What the layer has done so far, in all namespaces.
    pub fn stats(&self) -> BatchStats {
        let state = self.shared.state.lock();
        BatchStats {
            waiting: (state.waiting.len() + state.written.len()) as u64,
            ..state.stats
        }
    }

    fn slot(&self, key: &str) -> Slot {
        (self.inner.url().to_owned(), key.to_owned())
    }

    async fn accept(&self, key: &str, value: Option<Bytes>) -> Result<()> {
        let slot = self.slot(key);
        if self.shared.is_full_without(&slot) {
            // Still full after a batch could not be written: this key cannot be taken.
            let failed = self.shared.write().await;
            if self.shared.is_full_without(&slot)
                && let Err(failed) = failed
            {
                return Err(failed);
            }
        }
        let namespace = Arc::clone(&self.inner);
        let is_full = self.shared.insert(slot.clone(), Change { namespace, value });
        if !is_full {
            return Ok(());
        }
        match self.shared.write().await {
            // What is told to have failed must not be written later.
            Err(failed) if self.shared.take_back(&slot) => Err(failed),
            _ => Ok(()),
        }
    }

    /// What is buffered of the key: `Some(None)` is a deletion.
    fn buffered(&self, key: &str) -> Option<Option<Bytes>> {
        let slot = self.slot(key);
        let state = self.shared.state.lock();
        let change = state.waiting.get(&slot).or_else(|| state.written.get(&slot))?;
        Some(change.value.clone())
    }

    /// Writes what is buffered, if any of the keys is.
    async fn settle(&self, keys: &[String]) -> Result<()> {
        if keys.iter().all(|key| self.buffered(key).is_none()) {
            return Ok(());
        }
        let outcome = self.shared.write().await;
        // Failures of other keys are no reason.
        if keys.iter().all(|key| self.buffered(key).is_none()) {
            return Ok(());
        }
        outcome
    }

    async fn settle_one(&self, key: &str) -> Result<()> {
        self.settle(&[key.to_owned()]).await
    }

    async fn settle_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        let failed = |error: Error| keys.iter().map(|key| (key.clone(), error.clone())).collect();
        self.settle(keys)
            .await
            .map_err(|error| BatchError { failed: failed(error) })
    }
}

impl Shared {
    fn is_full_without(&self, slot: &Slot) -> bool {
        let state = self.state.lock();
        state.waiting.len() >= self.options.max_entries && !state.waiting.contains_key(slot)
    }

    /// Puts a change in; returns whether the batch is to be written at once.
    fn insert(self: &Arc<Self>, slot: Slot, change: Change) -> bool {
        let mut state = self.state.lock();
        state.stats.accepted += 1;
        let is_new = state.waiting.insert(slot, change).is_none();
        let is_full = is_new && state.waiting.len() >= self.options.max_entries;
        if !is_full {
            self.start_timer(&mut state);
        }
        is_full
    }

    /// Takes a change out that could not be written; returns whether it was still there.
    fn take_back(&self, slot: &Slot) -> bool {
        self.state.lock().waiting.remove(slot).is_some()
    }

    fn start_timer(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.is_timed, true) {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(shared.options.max_delay).await;
            // What comes from here on starts the next timer.
            shared.state.lock().is_timed = false;
            if let Err(error) = shared.write().await {
                tracing::warn!(%error, "a batch was not written; it stays and is tried again");
            }
        });
    }

    /// Writes everything that waits.
    async fn write(self: &Arc<Self>) -> Result<()> {
        let _turn = self.writing.lock().await;
        let batch = {
            let mut state = self.state.lock();
            state.written = std::mem::take(&mut state.waiting);
            state.written.clone()
        };
        if batch.is_empty() {
            return Ok(());
        }
        // Dropped early, the batch goes back.
        let mut written = Written {
            shared: self,
            failed: batch.keys().cloned().collect(),
        };
        let failed = write_batch(batch).await;
        let first = failed.values().next().cloned();
        written.failed = failed.into_keys().collect();
        drop(written);
        first.map_or(Ok(()), Err)
    }
}

/// The end of a batch: what failed waits again, unless it was changed meanwhile.
struct Written<'a> {
    shared: &'a Arc<Shared>,
    failed: Vec<Slot>,
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let mut written = std::mem::take(&mut state.written);
        state.stats.batches += 1;
        state.stats.failed += self.failed.len() as u64;
        for slot in self.failed.drain(..) {
            if let Some(change) = written.remove(&slot) {
                state.waiting.entry(slot).or_insert(change);
            }
        }
        if !state.waiting.is_empty() {
            self.shared.start_timer(&mut state);
        }
    }
}

/// Writes a batch, namespace by namespace; returns the keys that failed.
async fn write_batch(batch: HashMap<Slot, Change>) -> BTreeMap<Slot, Error> {
    let mut namespaces = BTreeMap::new();
    for ((url, key), Change { namespace, value }) in batch {
        let (_, sets, deletes) = namespaces
            .entry(url)
            .or_insert_with(|| (namespace, Vec::new(), Vec::new()));
        match value {
            Some(value) => sets.push((key, value)),
            None => deletes.push(key),
        }
    }
    let mut failed = BTreeMap::new();
    for (url, (store, sets, deletes)) in namespaces {
        let set = if sets.is_empty() {
            Ok(())
        } else {
            store.set_batch(sets).await
        };
        let deleted = if deletes.is_empty() {
            Ok(())
        } else {
            store.delete_batch(&deletes).await
        };
        for outcome in [set, deleted] {
            let errors = outcome.err().into_iter().flat_map(|batch| batch.failed);
            failed.extend(errors.map(|(key, error)| ((url.clone(), key), error)));
        }
    }
    failed
}

#[async_trait]
#[warn(clippy::missing_trait_methods)]
impl Store for Batched {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.buffered(key) {
            Some(value) => Ok(value),
            None => self.inner.get(key).await,
        }
    }

    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>> {
        self.settle_one(key).await?;
        self.inner.get_versioned(key).await
    }

    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let (mut found, mut others) = (BTreeMap::new(), Vec::new());
        for key in keys {
            match self.buffered(key) {
                Some(Some(value)) => drop(found.insert(key.clone(), value)),
                Some(None) => {}
                None => others.push(key.clone()),
            }
        }
        if !others.is_empty() {
            found.extend(self.inner.get_batch(&others).await?);
        }
        Ok(found)
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        self.accept(key, Some(value)).await
    }

    async fn set_batch(&self, items: Vec<(String, Bytes)>) -> Result<(), BatchError> {
        let keys: Vec<String> = items.iter().map(|(key, _)| key.clone()).collect();
        self.settle_batch(&keys).await?;
        self.inner.set_batch(items).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.accept(key, None).await
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        self.settle_batch(keys).await?;
        self.inner.delete_batch(keys).await
    }

    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        self.settle_one(key).await?;
        self.inner.compare_and_swap(key, expected, new).await
    }

    async fn create_if_absent(&self, key: &str, value: Bytes) -> Result<Swap> {
        self.settle_one(key).await?;
        self.inner.create_if_absent(key, value).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        self.settle_one(key).await?;
        self.inner.increment(key, delta).await
    }

    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(Self {
            inner: self.inner.with_namespace(namespace)?,
            shared: Arc::clone(&self.shared),
        }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        self.shared.write().await?;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn flush(&self) -> Result<()> {
        self.shared.write().await?;
        self.inner.flush().await
    }
}

impl fmt::Debug for Batched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batched({:?})", self.inner)
    }
}

//! [`Cached`]: the values that were read last, in memory.
//!
//! A write invalidates before it goes through and again when it is done. A read fills the cache only if no write of its key
//! has begun or ended since the read began: it may have seen the value from before. So no read that begins after a write
//! through this layer has returned sees an older value.
//!
//! What other processes write is seen after [`max_age`](CacheOptions::max_age) at the latest. Swaps and increments always ask
//! the store, and `get_versioned` as well.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{BatchError, Result};
use crate::store::{Entry, Expected, Page, Store, Swap};

/// Size and age of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Most keys that are kept; the one that was not used for the longest time goes first.
    pub max_entries: NonZeroUsize,
    /// A value that was read longer ago is read again.
    pub max_age: Duration,
}

impl Default for CacheOptions {
    /// 10,000 keys, one minute.
    fn default() -> Self {
        Self {
            max_entries: NonZeroUsize::MIN.saturating_add(9_999),
            max_age: Duration::from_secs(60),
        }
    }
}

/// What the cache has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Keys that were answered from memory.
    pub hits: u64,
    /// Keys that were asked of the store.
    pub misses: u64,
    /// Keys that went because the cache was full.
    pub evictions: u64,
    /// Keys in memory now.
    pub entries: u64,
}

/// A layer that answers reads from memory.
pub struct Cached {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// URL of the namespace, and key.
type Slot = (Arc<str>, String);

struct Shared {
    max_age: Duration,
    state: Mutex<State>,
}

struct State {
    values: LruCache<Slot, (Bytes, Instant)>,
    /// Keys that are being read from the store, with the latest read of each.
    reading: HashMap<Slot, u64>,
    reads: u64,
    stats: CacheStats,
}

/// A read of a key from the store; the last one of a key may fill the cache.
struct Reading<'a> {
    shared: &'a Shared,
    slot: Slot,
    number: u64,
}

impl Cached {
    /// Puts the layer over a store.
    pub fn new(inner: Arc<dyn Store>, options: CacheOptions) -> Self {
        let state = State {
            values: LruCache::new(options.max_entries),
            reading: HashMap::new(),
            reads: 0,
            stats: CacheStats::default(),
        };
        let shared = Shared {
            max_age: options.max_age,
            state: Mutex::new(state),
        };
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }

    /// What the cache has done so far, in all namespaces.
    pub fn stats(&self) -> CacheStats {
        let state = self.shared.state.lock();
        CacheStats {
            entries: state.values.len() as u64,
            ..state.stats
        }
    }

    fn slot(&self, key: &str) -> Slot {
        (self.inner.url().into(), key.to_owned())
    }

    /// The value in memory, or else leave to fill it.
    fn find(&self, key: &str) -> Result<Bytes, Reading<'_>> {
        let slot = self.slot(key);
        let mut state = self.shared.state.lock();
        let young = |since: &Instant| since.elapsed() < self.shared.max_age;
        if let Some((value, _)) = state.values.get(&slot).filter(|(_, since)| young(since)) {
            let value = value.clone();
            state.stats.hits += 1;
            return Ok(value);
        }
        state.stats.misses += 1;
        state.reads += 1;
        let number = state.reads;
        state.reading.insert(slot.clone(), number);
        Err(Reading {
            shared: &self.shared,
            slot,
            number,
        })
    }

    fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a String>) {
        let mut state = self.shared.state.lock();
        for key in keys {
            let slot = self.slot(key);
            state.values.pop(&slot);
            state.reading.remove(&slot);
        }
    }

    /// Invalidates now, and when the write ends, also if nobody waits for it any more.
    fn writing(&self, keys: Vec<String>) -> impl Drop + '_ {
        self.forget(&keys);
        Writing { cache: self, keys }
    }
}

struct Writing<'a> {
    cache: &'a Cached,
    keys: Vec<String>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.cache.forget(&self.keys);
    }
}

impl Reading<'_> {
    fn fill(self, value: &Bytes) {
        let mut state = self.shared.state.lock();
        if state.reading.get(&self.slot) != Some(&self.number) {
            return;
        }
        let entry = (value.clone(), Instant::now());
        let evicted = state.values.push(self.slot.clone(), entry);
        if evicted.is_some_and(|(slot, _)| slot != self.slot) {
            state.stats.evictions += 1;
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.reading.get(&self.slot) == Some(&self.number) {
            state.reading.remove(&self.slot);
        }
    }
}

#[async_trait]
#[warn(clippy::missing_trait_methods)]
impl Store for Cached {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let reading = match self.find(key) {
            Ok(value) => return Ok(Some(value)),
            Err(reading) => reading,
        };
        let value = self.inner.get(key).await?;
        if let Some(value) = &value {
            reading.fill(value);
        }
        Ok(value)
    }

    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>> {
        self.inner.get_versioned(key).await
    }

    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let (mut found, mut missing) = (BTreeMap::new(), BTreeMap::new());
        for key in keys {
            match self.find(key) {
                Ok(value) => drop(found.insert(key.clone(), value)),
                Err(reading) => drop(missing.insert(key.clone(), reading)),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let asked: Vec<String> = missing.keys().cloned().collect();
        for (key, value) in self.inner.get_batch(&asked).await? {
            if let Some(reading) = missing.remove(&key) {
                reading.fill(&value);
            }
            found.insert(key, value);
        }
        Ok(found)
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        let _writing = self.writing(vec![key.to_owned()]);
        self.inner.set(key, value).await
    }

    async fn set_batch(&self, items: Vec<(String, Bytes)>) -> Result<(), BatchError> {
        let _writing = self.writing(items.iter().map(|(key, _)| key.clone()).collect());
        self.inner.set_batch(items).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let _writing = self.writing(vec![key.to_owned()]);
        self.inner.delete(key).await
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        let _writing = self.writing(keys.to_vec());
        self.inner.delete_batch(keys).await
    }

    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        // A lost swap invalidates as well: what is in memory is not what the store holds.
        let _writing = self.writing(vec![key.to_owned()]);
        self.inner.compare_and_swap(key, expected, new).await
    }

    async fn create_if_absent(&self, key: &str, value: Bytes) -> Result<Swap> {
        let _writing = self.writing(vec![key.to_owned()]);
        self.inner.create_if_absent(key, value).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        let _writing = self.writing(vec![key.to_owned()]);
        self.inner.increment(key, delta).await
    }

    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(Self {
            inner: self.inner.with_namespace(namespace)?,
            shared: Arc::clone(&self.shared),
        }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cached({:?})", self.inner)
    }
}

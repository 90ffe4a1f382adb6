//! Bytes of remote files that never change, in memory and in a directory of this machine.
//!
//! Owns what is kept, the limits of both tiers, and that nothing wrong is served: an entry on the disk carries a checksum
//! over its key and its bytes, and one that does not match is a miss. Everything here is derived: the directory may be
//! deleted at any time, be full or hang, and the bytes come from the root as before.
//!
//! ```text
//! get ─▶ memory ─miss─▶ directory (at most DISK_PATIENCE) ─miss─▶ the caller asks the root, then: insert
//! insert ─▶ memory, and a queue of at most QUEUE_BYTES ─▶ one writer ─▶ directory; what does not fit the queue is not kept
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCacheEntry,
    HybridCachePolicy, PsyncIoEngineConfig, RecoverMode, Spawner,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::lock::{LOCK_PATH, RootLock};

/// Files are cached in blocks of this size: large enough that a block is worth a request, small enough that a part of a
/// large file does not push out much else.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// What waits to be written to the directory: the bytes of a large collection that is opened cold.
const QUEUE_BYTES: usize = 256 << 20;
/// What is handed to the disk at a time; its own buffer takes four times as much.
const BATCH_BYTES: usize = 4 << 20;
const BUFFER_BYTES: usize = 16 << 20;
/// The directory is evicted in steps of this size, or of an eighth of a small one.
const STEP_BYTES: u64 = 16 << 20;
const STEP_BYTES_MIN: u64 = 2 << 20;
/// A read of the directory that takes longer is slower than the root.
const DISK_PATIENCE: Duration = Duration::from_secs(1);
/// The directory is left alone for so long after such a read.
const DISK_REST: Duration = Duration::from_secs(30);
/// Threads that may hang with the disk.
const THREADS: usize = 8;

/// Sizes and place of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Most bytes in memory.
    pub memory_bytes: u64,
    /// The directory, which is this cache's alone; created when missing. `None`: memory only.
    pub directory: Option<PathBuf>,
    /// Most bytes in the directory; with less than a few MB it is not used.
    pub disk_bytes: u64,
}

/// What a cache did since it was opened, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that were found.
    pub hits: u64,
    /// Blocks that were not.
    pub misses: u64,
    /// Bytes of the found ones.
    pub hit_bytes: u64,
    /// Blocks that were not kept on the disk, because too many waited to be written.
    pub dropped: u64,
    /// Reads of the directory that failed or took too long.
    pub failures: u64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
    /// Limit of the directory; 0 without one.
    pub disk_limit_bytes: u64,
}

/// A cache of one component's remote roots. Clones share everything.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    tiers: HybridCache<String, Bytes>,
    queue: Option<mpsc::UnboundedSender<Task>>,
    room: Arc<Semaphore>,
    /// The directory is not read before.
    rests_until: Mutex<Option<Instant>>,
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
    disk_limit_bytes: u64,
    _lock: Option<RootLock>,
}

enum Task {
    Write(HybridCacheEntry<String, Bytes>, OwnedSemaphorePermit),
    /// Answered when all before it are written.
    Settle(oneshot::Sender<()>),
}

impl Cache {
    /// Opens a cache with what its directory still holds. A directory that cannot be used is reported, and the cache is
    /// in memory only.
    ///
    /// # Errors
    /// A message when not even that is possible.
    pub async fn open(config: &CacheConfig) -> Result<Self, String> {
        let usable = config
            .directory
            .as_ref()
            .filter(|_| config.disk_bytes >= 4 * STEP_BYTES_MIN);
        let with_disk = match usable {
            Some(directory) => {
                let opened = open_directory(config, directory).await;
                let warn = |reason: &String| {
                    let directory = directory.display();
                    tracing::warn!(%directory, reason, "the cache directory cannot be used: bytes are cached in memory only");
                };
                opened.inspect_err(warn).ok()
            }
            None => None,
        };
        let (tiers, lock) = match with_disk {
            Some((tiers, lock)) => (tiers, Some(lock)),
            None => {
                let tiers = memory(config).storage().build().await;
                (tiers.map_err(|error| error.to_string())?, None)
            }
        };
        let queue = lock.is_some().then(|| {
            let (queue, tasks) = mpsc::unbounded_channel();
            tokio::spawn(write(tiers.clone(), tasks));
            queue
        });
        Ok(Self {
            inner: Arc::new(Inner {
                disk_limit_bytes: if queue.is_some() { config.disk_bytes } else { 0 },
                tiers,
                queue,
                room: Arc::new(Semaphore::new(QUEUE_BYTES)),
                rests_until: Mutex::default(),
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
                hit_bytes: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                _lock: lock,
            }),
        })
    }

    /// The bytes under a key, as they were inserted.
    pub async fn get(&self, key: &str) -> Option<Bytes> {
        let found = self.find(key).await;
        match &found {
            Some(bytes) => {
                self.inner.hits.fetch_add(1, Relaxed);
                self.inner.hit_bytes.fetch_add(bytes.len() as u64, Relaxed);
            }
            None => {
                self.inner.misses.fetch_add(1, Relaxed);
            }
        }
        found
    }

    async fn find(&self, key: &str) -> Option<Bytes> {
        let inner = &self.inner;
        if let Some(entry) = inner.tiers.memory().get(key) {
            return Some(entry.value().clone());
        }
        if inner.queue.is_none() || inner.rests() {
            return None;
        }
        let key = key.to_owned();
        match tokio::time::timeout(DISK_PATIENCE, inner.tiers.get(&key)).await {
            Ok(Ok(entry)) => entry.map(|entry| entry.value().clone()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the cache directory was not read");
                inner.failures.fetch_add(1, Relaxed);
                None
            }
            Err(_) => {
                tracing::warn!("the cache directory does not answer; it is left alone for a while");
                inner.failures.fetch_add(1, Relaxed);
                *inner.rests_until.lock() = Some(Instant::now() + DISK_REST);
                None
            }
        }
    }

    /// Keeps bytes that never change under this key. They are copied: the key's bytes may be a part of much more.
    pub fn insert(&self, key: String, bytes: &Bytes) {
        let inner = &self.inner;
        let entry = inner.tiers.memory().insert(key, Bytes::copy_from_slice(bytes));
        let Some(queue) = &inner.queue else { return };
        let weight = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match Arc::clone(&inner.room).try_acquire_many_owned(weight) {
            // It fails at the end of the program only, and then nothing is kept.
            Ok(room) => drop(queue.send(Task::Write(entry, room))),
            Err(_) => drop(inner.dropped.fetch_add(1, Relaxed)),
        }
    }

    /// Waits until everything inserted so far is in the directory.
    pub async fn settle(&self) {
        let Some(queue) = &self.inner.queue else { return };
        let (done, settled) = oneshot::channel();
        if queue.send(Task::Settle(done)).is_ok() {
            // An error means that the writer is gone, and so is the directory.
            let _ = settled.await;
        }
    }

    /// What it did and holds.
    pub fn stats(&self) -> CacheStats {
        let inner = &self.inner;
        CacheStats {
            hits: inner.hits.load(Relaxed),
            misses: inner.misses.load(Relaxed),
            hit_bytes: inner.hit_bytes.load(Relaxed),
            dropped: inner.dropped.load(Relaxed),
            failures: inner.failures.load(Relaxed),
            memory_bytes: inner.tiers.memory().usage() as u64,
            disk_limit_bytes: inner.disk_limit_bytes,
        }
    }
}

impl Inner {
    fn rests(&self) -> bool {
        self.rests_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({:?})", self.stats())
    }
}

/// Hands entries to the disk in batches that its buffer takes: what comes faster would be dropped by it.
async fn write(tiers: HybridCache<String, Bytes>, mut tasks: mpsc::UnboundedReceiver<Task>) {
    let mut rooms = Vec::new();
    let mut batch = 0;
    while let Some(task) = tasks.recv().await {
        match task {
            Task::Write(entry, room) => {
                batch += room.num_permits();
                tiers.storage().enqueue(entry.piece(), true);
                rooms.push(room);
            }
            Task::Settle(done) => {
                tiers.storage().wait().await;
                let _ = done.send(());
            }
        }
        if batch >= BATCH_BYTES {
            tiers.storage().wait().await;
            rooms.clear();
            batch = 0;
        } else if tasks.is_empty() {
            rooms.clear();
        }
    }
}

fn memory(config: &CacheConfig) -> foyer::HybridCacheBuilderPhaseMemory<String, Bytes, foyer::DefaultHasher> {
    let capacity = usize::try_from(config.memory_bytes).unwrap_or(usize::MAX);
    HybridCacheBuilder::new()
        .with_name("proximadb")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .with_flush_on_close(false)
        .memory(capacity)
        // A shard takes several blocks, or there is only one.
        .with_shards((config.memory_bytes / (8 * BLOCK_BYTES)).clamp(1, 8) as usize)
        .with_weighter(|key: &String, bytes: &Bytes| key.len() + bytes.len())
}

/// The tiers over the directory, and its lock.
async fn open_directory(
    config: &CacheConfig,
    directory: &Path,
) -> Result<(HybridCache<String, Bytes>, RootLock), String> {
    let own = directory.to_owned();
    let lock = tokio::task::spawn_blocking(move || lock(&own));
    let lock = lock.await.map_err(|error| error.to_string())??;
    let step = (config.disk_bytes / 8).clamp(STEP_BYTES_MIN, STEP_BYTES) as usize;
    let device = FsDeviceBuilder::new(directory.join("blocks"))
        .with_capacity(usize::try_from(config.disk_bytes).unwrap_or(usize::MAX))
        .build()
        .map_err(|error| error.to_string())?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(step)
        .with_buffer_pool_size(BUFFER_BYTES)
        .with_submit_queue_size_threshold(BUFFER_BYTES);
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(THREADS)
        .thread_name("cache-io")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let tiers = memory(config)
        .storage()
        .with_spawner(Spawner::from(threads))
        .with_io_engine_config(PsyncIoEngineConfig::new())
        .with_engine_config(engine)
        .with_recover_mode(RecoverMode::Quiet)
        .build();
    Ok((tiers.await.map_err(|error| error.to_string())?, lock))
}

/// Two processes must not share a directory: each would overwrite what the other has just indexed.
fn lock(directory: &Path) -> Result<RootLock, String> {
    if let Some(parent) = directory.join(LOCK_PATH).parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    RootLock::acquire(directory).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;

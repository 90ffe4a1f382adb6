//! The memory that all memtables of the process may hold together (`global_flush_threshold`), and push-back before it is exceeded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Shard;
use crate::error::{Error, Result};

/// How often a write that finds no room looks again before the client is told to come back later.
const ATTEMPTS_MAX: usize = 200;
/// Pause between two looks when nothing can be flushed because all bytes belong to writes under way.
const PAUSE: Duration = Duration::from_millis(10);

/// From so many quarters of the limit on the largest memtable is flushed beside the writes, so that they seldom have to
/// wait for a flush.
const EARLY_QUARTERS: u64 = 3;

/// The open shards of the process.
#[derive(Default)]
pub struct Shards(Mutex<Vec<Weak<Shard>>>);

impl Shards {
    /// Adds one; it may go away.
    pub fn register(&self, shard: &Arc<Shard>) {
        let mut shards = self.0.lock();
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
    }

    /// Those that were not closed.
    pub fn open(&self) -> Vec<Arc<Shard>> {
        let shards: Vec<Arc<Shard>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        shards.into_iter().filter(|shard| !shard.is_closed()).collect()
    }
}

/// Memory of all memtables, in bytes.
pub struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    /// Whether a flush is under way that nobody waits for.
    flushing_early: AtomicBool,
    shards: Shards,
}

/// Bytes set aside for a write until it is applied; given back on drop.
pub struct Reservation<'a> {
    budget: &'a MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            flushing_early: AtomicBool::new(false),
            shards: Shards::default(),
        })
    }

    /// Bytes in memtables and in reservations now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Lets the budget flush `shard` when memory is short.
    pub fn register(&self, shard: &Arc<Shard>) {
        self.shards.register(shard);
    }

    /// Sets `bytes` aside, flushing the largest memtables first if they do not fit. A write larger than the whole budget
    /// is let through alone. A shard that cannot be flushed does not keep the others from it.
    ///
    /// # Errors
    /// If no room appears in time: the error of a flush that failed, or else [`Error::Overloaded`].
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation<'_>> {
        let mut failed: Vec<(Arc<Shard>, Error)> = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let fits = |used| (used == 0 || used + bytes <= self.limit).then_some(used + bytes);
            if self
                .used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .is_ok()
            {
                self.flush_early();
                return Ok(Reservation { budget: self, bytes });
            }
            match self.largest(&failed) {
                Some(shard) => {
                    if let Err(error) = shard.flush_for_memory().await {
                        failed.push((shard, error));
                    }
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        let overloaded = || {
            Error::Overloaded(format!(
                "memtables hold {} of {} bytes; retry later",
                self.used(),
                self.limit
            ))
        };
        Err(failed.pop().map_or_else(overloaded, |(_, error)| error))
    }

    /// Starts a flush of the largest memtable in the background if memory is getting short and none is under way.
    fn flush_early(&self) {
        if self.used() <= self.limit / 4 * EARLY_QUARTERS || self.flushing_early.swap(true, Ordering::Relaxed) {
            return;
        }
        let done = |budget: &Self| budget.flushing_early.store(false, Ordering::Relaxed);
        let Some(shard) = self.largest(&[]) else {
            return done(self);
        };
        tokio::spawn(async move {
            if let Err(error) = shard.flush_for_memory().await {
                tracing::error!(%error, collection = %shard.description().id, "flush failed; the data stays in the log");
            }
            done(&shard.options.budget);
        });
    }

    /// Counts bytes that are in a memtable now.
    pub fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back bytes of a memtable that was flushed or dropped.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The largest memtable that a flush can empty.
    fn largest(&self, failed: &[(Arc<Shard>, Error)]) -> Option<Arc<Shard>> {
        let shards = self.shards.open().into_iter();
        shards
            .filter(|shard| shard.memtable_bytes() > 0 && shard.can_flush())
            .filter(|shard| failed.iter().all(|(other, _)| !Arc::ptr_eq(other, shard)))
            .max_by_key(|shard| shard.memtable_bytes())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

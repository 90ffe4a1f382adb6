//! The memory that rows and indexes hold although they lie on buckets (`cache_size_mb` of the index roots). It is a cache: when there is
//! more of it, the shard that holds most opens its files anew, and holds what every search needs, until more is read again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proximadb_store::Partial;
use tokio::runtime::Handle;

use super::Shard;
use super::budget::Shards;
use crate::axis::{self, IndexHomes};
use crate::engine::segment::Place;
use crate::root::IndexType;
use crate::state::SegmentSource;

/// Between two times that memory is given up: searches under way read again what they had read, and must come to an end.
const PAUSE: Duration = Duration::from_secs(2);

/// Memory for what lies on buckets, of all shards.
pub struct BucketMemory {
    limit: u64,
    shards: Shards,
    work: Mutex<Work>,
}

/// Giving up.
#[derive(Default)]
struct Work {
    wanted: bool,
    under_way: bool,
}

impl BucketMemory {
    /// At most about `limit` bytes; one search may read more.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            shards: Shards::default(),
            work: Mutex::default(),
        })
    }

    /// Counts what `shard` holds.
    pub fn register(&self, shard: &Arc<Shard>) {
        self.shards.register(shard);
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.shards.open().iter().map(|shard| shard.bucket_bytes()).sum()
    }

    /// After something was read or built: gives memory up in the background, if it is too much.
    pub(super) fn check(self: &Arc<Self>, runtime: &Handle) {
        if self.used() <= self.limit {
            return;
        }
        let mut work = self.work.lock();
        work.wanted = true;
        if !std::mem::replace(&mut work.under_way, true) {
            let memory = self.clone();
            runtime.spawn(async move {
                while memory.is_wanted() {
                    memory.give_up().await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    /// Whether it is to go on.
    fn is_wanted(&self) -> bool {
        let mut work = self.work.lock();
        work.under_way = std::mem::take(&mut work.wanted);
        work.under_way
    }

    async fn give_up(&self) {
        let mut shards = self.shards.open();
        shards.sort_by_cached_key(|shard| shard.bucket_bytes());
        while self.used() > self.limit
            && let Some(largest) = shards.pop()
        {
            largest.open_files_anew().await;
        }
    }
}

impl Shard {
    /// Bytes of rows and indexes in memory that lie on buckets and need not be in memory.
    pub fn bucket_bytes(&self) -> u64 {
        // Asked only where it matters: a database on disks, all of whose rows are mapped, pays nothing for it.
        let rows_are_remote = || {
            let is_remote = |homes: IndexHomes| homes.of(IndexType::Idx).iter().all(|root| !root.fs().is_local());
            self.rows_are_in_files() && self.options.homes.index().is_ok_and(is_remote)
        };
        let given_up = |file: &Arc<Partial>| file.given_up_bytes();
        let bytes = |segment: &SegmentSource| {
            let rows = match &segment.data.place {
                Place::Bucket(file) => given_up(file),
                Place::Memory if axis::wants_rows(&segment.data) && rows_are_remote() => segment.meta.data_bytes,
                Place::Memory | Place::Mapped => 0,
            };
            rows + segment.indexes.partial().map_or(0, given_up)
        };
        self.state.read().segments().map(bytes).sum()
    }

    /// Works on the files on buckets as if they had just been opened: what was read of them, or is in memory because it was made here,
    /// is freed when the searches that look at it end.
    async fn open_files_anew(&self) {
        self.attach(&self.segments(), None, true).await;
    }
}

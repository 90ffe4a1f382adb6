//! How SlateDB is run here.
//!
//! | Setting | Value | Reason |
//! | --- | --- | --- |
//! | log | none | ours is the log; a commit is one batch, flushed as one table and named by one manifest |
//! | flush interval, table size | none, unlimited | only a commit flushes, so a table holds whole commits |
//! | manifest poll | a year | nobody else writes; the writer re-reads the manifest when it commits and after a compaction |
//! | compactor, garbage collector | none running | run by `maintain`, so that an idle tree makes no request |
//! | tables before a flush waits | unlimited | a failing compaction must not stop writes |
//! | Bloom filters | none | rows are held in memory by the shard; nothing reads single keys |
//! | block cache | on buckets, for readers of all rows | see `blocks`; whoever verifies reads what is stored |
//! | blocks | 64 KiB | nothing reads single rows, and of a bucket a block is cached by itself |
//! | retries of SlateDB | one | the root's own are enough |

use std::time::Duration;

use slatedb::config::DbReaderOptions;
use slatedb::{Settings, SstBlockSize};

/// Tables with fewer keys get no Bloom filter: none gets one.
pub(super) const NO_FILTER: u32 = u32::MAX;
/// Of the tables.
pub(super) const BLOCK_SIZE: SstBlockSize = SstBlockSize::Block64Kib;
/// Retries of a request beyond the root's own: only bodies that break off are repeated.
pub(super) const RETRIES: Option<u32> = Some(1);
/// Longer than a process lives, and short enough for the arithmetic of clocks.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// More bytes than a memtable of ours can have.
const UNLIMITED_BYTES: usize = 1 << 42;
/// More tables than compactions could ever leave.
const UNLIMITED_TABLES: usize = 1 << 20;

/// Of the writer.
pub(super) fn writer() -> Settings {
    Settings {
        flush_interval: None,
        wal_enabled: false,
        manifest_poll_interval: NEVER,
        min_filter_keys: NO_FILTER,
        l0_sst_size_bytes: UNLIMITED_BYTES,
        max_unflushed_bytes: 2 * UNLIMITED_BYTES,
        l0_max_ssts: UNLIMITED_TABLES,
        l0_max_ssts_per_key: UNLIMITED_TABLES,
        l0_flush_parallelism: 1,
        compactor_options: None,
        garbage_collector_options: None,
        object_store_max_retries: RETRIES,
        ..Default::default()
    }
}

/// Of a reader that leaves no trace.
pub(super) fn reader() -> DbReaderOptions {
    DbReaderOptions {
        manifest_poll_interval: NEVER,
        // Must be twice the interval; no checkpoint is made.
        checkpoint_lifetime: 2 * NEVER,
        skip_wal_replay: true,
        object_store_max_retries: RETRIES,
        ..Default::default()
    }
}

//! From memtable to segment: freeze, write, commit, adopt, release the log. A crash between any two steps loses nothing,
//! because the log is released last and the manifest names a segment only when it is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Shard;
use super::state::{FrozenMemtable, Location, NewSegment};
use crate::engine::manifest::Manifest;
use crate::error::{Error, Result};

/// A shard's memtable may grow to this many times its flush size while a flush is under way; then writes wait.
const GROWTH_MAX: u64 = 4;
/// … but at least to this many bytes, so that a small flush size does not stall bulk writes.
const ROOM_MIN: u64 = 32 << 20;
/// Rows adopted under one hold of the state's lock, so that searches and writes get their turn.
pub(super) const ADOPT_ROWS: usize = 8_192;
/// After a flush because of its size a log file of this many bytes is closed, so that it can be released.
const ROLL_BYTES: u64 = 16 << 20;

impl Shard {
    /// Flushes everything that is in memory and releases the log. Returns when it is durable.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or [`Error::RootUnavailable`]; the data stays in the log and in memory.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        self.flush_now(&self.flushes.by_request, 1).await
    }

    /// The same because all memtables together are too large.
    pub(super) async fn flush_for_memory(self: &Arc<Self>) -> Result<()> {
        self.flush_now(&self.flushes.by_memory, ROLL_BYTES).await
    }

    /// Estimated bytes in this shard's memtables.
    pub fn memtable_bytes(&self) -> u64 {
        let (active, frozen) = self.state.read().memtable_bytes();
        active + frozen
    }

    /// Starts a flush in the background if the memtable has reached its flush size and none is under way.
    pub(super) fn flush_if_large(self: &Arc<Self>) {
        if !self.is_large() || self.flushing.try_lock().is_err() {
            return;
        }
        let shard = self.clone();
        tokio::spawn(async move {
            // A write that crosses the size during the flush finds the lock taken and leaves the work to this loop.
            while shard.is_large() {
                if let Err(error) = shard.flush_now(&shard.flushes.by_size, ROLL_BYTES).await {
                    tracing::error!(%error, collection = %shard.description().id, "flush failed; the data stays in the log");
                    break;
                }
            }
            shard.compact_in_background();
        });
    }

    fn is_large(&self) -> bool {
        let (active, frozen) = self.state.read().memtable_bytes();
        !self.closed.load(Ordering::Acquire) && (active >= self.options.memory_flush_size_bytes || frozen > 0)
    }

    /// Holds a write back while the memtable is too far ahead of its flush.
    pub(super) async fn wait_for_room(self: &Arc<Self>) -> Result<()> {
        let room = ROOM_MIN.max(GROWTH_MAX * self.options.memory_flush_size_bytes);
        while self.memtable_bytes() >= room {
            self.flush_now(&self.flushes.by_size, ROLL_BYTES).await?;
        }
        Ok(())
    }

    async fn flush_now(self: &Arc<Self>, trigger: &AtomicU64, roll_bytes: u64) -> Result<()> {
        let _one_at_a_time = self.flushing.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let result = self.flush_memtables(trigger, roll_bytes).await;
        *self.flush_error.lock() = result.as_ref().err().cloned();
        result
    }

    async fn flush_memtables(self: &Arc<Self>, trigger: &AtomicU64, roll_bytes: u64) -> Result<()> {
        // A table whose flush failed earlier goes first: the manifest must move forward in order.
        self.flush_frozen().await?;
        self.wal.roll(roll_bytes).await?;
        let frozen = self.state.write().freeze();
        if frozen {
            trigger.fetch_add(1, Ordering::Relaxed);
            self.flush_frozen().await?;
        }
        Ok(())
    }

    async fn flush_frozen(self: &Arc<Self>) -> Result<()> {
        let Some(frozen) = self.state.read().frozen_for_flush() else { return Ok(()) };
        let FrozenMemtable { source, through, table, live } = frozen;
        let (rows, kept) = tokio::task::spawn_blocking(move || table.to_segment(&live)).await.map_err(panicked)?;
        let written = self.viper.write_segment(&self.description(), rows, Vec::new()).await?;
        let origins = written.permutation.iter().map(|&row| Location { source, row: kept[row as usize] }).collect();
        let segment = NewSegment { meta: written.meta, data: Arc::new(written.data), origins };
        let added = self.commit_segments(vec![segment], &[], through).await?;
        let freed = self.state.write().drop_frozen();
        self.options.budget.release(freed);
        self.wal.release(through).await?;
        for source in added {
            let segment = self.state.read().segments().find(|segment| segment.source == source).cloned();
            if let Some(segment) = segment {
                self.build_index(segment).await;
            }
        }
        Ok(())
    }

    /// Names new segments in the manifest in place of `replaced` ones, then makes them visible. From the commit on the
    /// segments are the durable home of their rows.
    pub(super) async fn commit_segments(
        &self,
        segments: Vec<NewSegment>,
        replaced: &[crate::engine::manifest::SegmentId],
        flushed_seq: crate::point::Seq,
    ) -> Result<Vec<u32>> {
        let mut manifest = self.manifest.lock().await;
        let mut next: Manifest = manifest.next(&self.description());
        next.flushed_seq = next.flushed_seq.max(flushed_seq);
        next.segments.retain(|segment| !replaced.contains(&segment.id));
        next.segments.extend(segments.iter().map(|segment| segment.meta.clone()));
        *manifest = self.manifests.commit(next).await?;
        let mut added = Vec::with_capacity(segments.len());
        for segment in segments {
            let rows = segment.origins.len();
            let source = self.state.write().add_segment(segment.meta, segment.data);
            for start in (0..rows).step_by(ADOPT_ROWS) {
                self.state.write().adopt(source, start..rows.min(start + ADOPT_ROWS), &segment.origins);
            }
            added.push(source);
        }
        Ok(added)
    }
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Error {
    Error::Internal(format!("a background task failed: {error}"))
}

//! From memtable to segment: freeze, write, commit, adopt, release the log. A crash between any two steps loses nothing,
//! because the log is released last and the manifest names a segment only when it is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::commit::{Commit, Takeover};
use super::data::Spread;
use super::engine::component_of;
use super::{Shard, memtable_bytes};
use crate::engine::viper::WriteRequest;
use crate::error::{Error, Result};
use crate::state::{FrozenMemtable, Location, NewSegment};

/// A shard's memtable may grow to this many times its flush size while a flush is under way; then writes wait.
const GROWTH_MAX: u64 = 4;
/// … but at least to this many bytes, so that a small flush size does not stall bulk writes.
const ROOM_MIN: u64 = 32 << 20;
/// At a flush because of its size log files of this many bytes end, so that they can be released.
const ROLL_BYTES: u64 = 16 << 20;

impl Shard {
    /// Flushes everything that is in memory and releases the log. Returns when it is durable.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or [`Error::RootUnavailable`]; the data stays in the log and in memory.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        self.flush_now(&self.flushes.by_request, 0).await
    }

    /// The same because all memtables together are too large.
    pub(super) async fn flush_for_memory(self: &Arc<Self>) -> Result<()> {
        // Of many writers that find no room at the same time, the first flushes for all.
        let worthwhile = self.memtable_bytes() / 2;
        self.flush_now(&self.flushes.by_memory, worthwhile).await
    }

    /// Whether the root of its flushed data takes files now, as far as is known.
    pub(super) fn can_flush(&self) -> bool {
        let component = component_of(self.description().schema.storage_engine);
        let lanes = self.options.homes.lanes(component);
        self.wal.refusal().is_none() && lanes.is_ok_and(|lanes| lanes.iter().all(|root| root.available().is_ok()))
    }

    /// Estimated bytes in this shard's memtables.
    pub fn memtable_bytes(&self) -> u64 {
        memtable_bytes(&self.state)
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
                if let Err(error) = shard.flush_by_size().await {
                    tracing::error!(%error, collection = %shard.description().id, "flush failed; the data stays in the log");
                    break;
                }
            }
        });
    }

    fn is_large(&self) -> bool {
        let (active, frozen) = self.state.read().memtable_bytes();
        !self.is_closed() && (active >= self.options.memory_flush_size_bytes || frozen > 0)
    }

    /// Holds a write back while the memtable is too far ahead of its flush.
    pub(super) async fn wait_for_room(self: &Arc<Self>) -> Result<()> {
        let room = ROOM_MIN.max(GROWTH_MAX.saturating_mul(self.options.memory_flush_size_bytes));
        while self.memtable_bytes() >= room {
            self.flush_by_size().await?;
        }
        Ok(())
    }

    async fn flush_by_size(self: &Arc<Self>) -> Result<()> {
        self.flush_now(&self.flushes.by_size, self.options.memory_flush_size_bytes)
            .await
    }

    /// Flushes unless, when its turn comes, fewer than `worthwhile` bytes are left in the active memtable. If any are worth
    /// it, somebody asked for it, and then the log is released as a whole.
    async fn flush_now(self: &Arc<Self>, trigger: &AtomicU64, worthwhile: u64) -> Result<()> {
        let _one_at_a_time = self.flushing.lock().await;
        let (active, frozen) = self.state.read().memtable_bytes();
        if self.is_closed() {
            return self.wal.refusal().map_or(Ok(()), Err);
        }
        if frozen == 0 && active < worthwhile {
            return Ok(());
        }
        self.take_over().await?;
        // A table whose flush failed earlier goes first: the manifest must move forward in order.
        self.finish_commit().await?;
        self.flush_frozen().await?;
        if worthwhile == 0 {
            self.wal.roll(1).await?;
        } else {
            // The lanes of a busy log do not stand still for it: what they write meanwhile is released by the next flush.
            self.wal.end_large_files(ROLL_BYTES);
        }
        let frozen = self.state.write().freeze();
        if frozen {
            trigger.fetch_add(1, Ordering::Relaxed);
            self.flush_frozen().await?;
        }
        // Not only what this flush has written: a commit may have been finished late, or a release have failed.
        let flushed_seq = self.ledger.lock().await.manifest.flushed_seq;
        if let Err(error) = self.wal.release(flushed_seq).await {
            // What was flushed is durable; the next flush releases what is left, as on a root that is away now.
            tracing::warn!(%error, collection = %self.description().id, "files of the log stay for now");
        }
        self.compact_in_background();
        Ok(())
    }

    async fn flush_frozen(self: &Arc<Self>) -> Result<()> {
        let Some(frozen) = self.state.read().frozen_for_flush() else {
            return Ok(());
        };
        let FrozenMemtable {
            source,
            through,
            table,
            live,
        } = frozen;
        let (rows, kept) = tokio::task::spawn_blocking(move || table.to_segment(&live))
            .await
            .map_err(panicked)?;
        let request = WriteRequest {
            description: self.description(),
            max_seq: through,
            replaces: Vec::new(),
            segment_size_bytes: self.options.segment_size_bytes,
        };
        let written = self.write_segments(rows, &request, Spread::Wide).await?.into_iter();
        let segments = written.map(|segment| {
            let origins = segment
                .order
                .iter()
                .map(|&row| Location {
                    source,
                    row: kept[row as usize],
                })
                .collect();
            NewSegment {
                meta: segment.meta,
                data: segment.data,
                origins,
            }
        });
        let commit = Commit {
            segments: segments.collect(),
            flushed_seq: through,
            takeover: Takeover::Frozen,
            reserved: None,
        };
        let (entries, bytes) = commit.segments.iter().fold((0, 0), |(entries, bytes), segment| {
            (
                entries + segment.meta.rows + segment.meta.tombstones,
                bytes + segment.meta.bytes,
            )
        });
        self.commit(commit).await?;
        let description = self.description();
        let home = self
            .options
            .homes
            .home(component_of(description.schema.storage_engine))?;
        tracing::info!(collection = %description.id, root = home.url(), entries, bytes, "memtable flushed");
        Ok(())
    }
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Error {
    Error::Internal(format!("a background task failed: {error}"))
}

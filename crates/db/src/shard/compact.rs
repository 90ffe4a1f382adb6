//! Compaction: merges small or half-dead segments into larger ones while writes and searches go on.

use std::sync::Arc;

use super::Shard;
use super::commit::{Commit, Takeover};
use super::data::Spread;
use super::engine::Engine;
use super::flush::panicked;
use crate::engine::compaction::{self, Candidate};
use crate::engine::segment::SegmentId;
use crate::engine::viper::WriteRequest;
use crate::error::Result;
use crate::point::Seq;
use crate::state::{Location, NewSegment, SegmentSource};

/// What a compaction reads, as it was when it began.
struct Inputs {
    segments: Vec<SegmentSource>,
    oldest_dead_outside: Option<Seq>,
}

impl Inputs {
    /// The chosen ones of the segments that there are.
    fn new(segments: Vec<SegmentSource>, chosen: &[SegmentId]) -> Self {
        let oldest_dead_outside = compaction::oldest_dead_outside(&candidates(&segments), chosen);
        let is_chosen = |segment: &SegmentSource| chosen.contains(&segment.meta.id);
        Self {
            segments: segments.into_iter().filter(is_chosen).collect(),
            oldest_dead_outside,
        }
    }
}

fn candidates(segments: &[SegmentSource]) -> Vec<Candidate> {
    let candidate = |segment: &SegmentSource| Candidate {
        meta: segment.meta.clone(),
        live_rows: segment.live_rows as u64,
    };
    segments.iter().map(candidate).collect()
}

impl Shard {
    /// Merges all segments as far as their size allows, dropping what was deleted. Returns when it is durable.
    ///
    /// # Errors
    /// [`crate::Error::StorageFull`] or [`crate::Error::RootUnavailable`]; the old segments stay.
    pub async fn compact(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.compacting.lock().await;
        self.take_over().await?;
        drop(self.unverified.read().await);
        self.delete_replaced().await?;
        if let Engine::Lsm(lsm) = &self.engine {
            lsm.read().await.compact().await?;
        }
        let all = candidates(&self.settled().await?);
        let merge_bytes = self.options.build_memory.merge_bytes();
        for chosen in compaction::choose_all(&all, self.options.segment_size_bytes, merge_bytes) {
            let inputs = Inputs::new(self.settled().await?, &chosen);
            self.merge(inputs, Spread::Wide).await?;
        }
        Ok(())
    }

    /// Compacts in the background as long as the policy finds something to do; does nothing if that is under way.
    pub(super) fn compact_in_background(self: &Arc<Self>) {
        let shard = self.clone();
        tokio::spawn(async move {
            let Ok(_one_at_a_time) = shard.compacting.try_lock() else {
                return;
            };
            if let Err(error) = shard.compact_by_policy().await {
                tracing::error!(%error, collection = %shard.description().id, "compaction failed; the segments stay as they are");
            }
        });
    }

    async fn compact_by_policy(self: &Arc<Self>) -> Result<()> {
        drop(self.unverified.read().await);
        self.delete_replaced().await?;
        if let Engine::Lsm(lsm) = &self.engine {
            lsm.read().await.maintain().await?;
        }
        loop {
            let segments = self.settled().await?;
            let chosen = compaction::choose(&candidates(&segments), self.options.segment_size_bytes);
            let Some(chosen) = chosen else { return Ok(()) };
            let inputs = Inputs::new(segments, &chosen);
            let Some(first) = inputs.segments.first() else {
                return Ok(());
            };
            let root = first.meta.root_id;
            self.merge(inputs, Spread::On(root)).await?;
        }
    }

    /// The segments while no commit is half done: one that has adopted only some of its rows looks as if the others were dead,
    /// and merging it would lose them. A commit that failed is finished first, or its inputs would be merged twice. None once it is closed.
    async fn settled(self: &Arc<Self>) -> Result<Vec<SegmentSource>> {
        let mut ledger = self.ledger.lock().await;
        if self.is_closed() {
            return Ok(Vec::new());
        }
        self.finish(&mut ledger).await?;
        Ok(self.segments())
    }

    async fn merge(self: &Arc<Self>, inputs: Inputs, spread: Spread) -> Result<()> {
        let Inputs {
            segments,
            oldest_dead_outside,
        } = inputs;
        if segments.is_empty() {
            return Ok(());
        }
        let rows_bytes = segments.iter().map(|segment| segment.meta.data_bytes).sum();
        let reserved = self.options.build_memory.reserve(rows_bytes).await?;
        let description = self.description();
        let mut parts = Vec::with_capacity(segments.len());
        for segment in &segments {
            parts.push((self.whole(segment).await?, (*segment.live).clone()));
        }
        // The merge takes the live rows of the inputs in order, so the origins can be listed before it.
        let origins: Vec<Location> = segments
            .iter()
            .flat_map(|segment| {
                segment.live.ones().map(|row| Location {
                    source: segment.source,
                    row: row as u32,
                })
            })
            .collect();
        let of = description.clone();
        let merged = tokio::task::spawn_blocking(move || compaction::merge(&of.schema, &parts, oldest_dead_outside));
        let request = WriteRequest {
            description,
            max_seq: segments.iter().map(|segment| segment.meta.max_seq).max().unwrap_or(0),
            replaces: segments.iter().map(|segment| segment.meta.id).collect(),
            segment_size_bytes: self.options.segment_size_bytes,
        };
        let rows = merged.await.map_err(panicked)??;
        let written = self.write_segments(rows, &request, spread).await?.into_iter();
        let new = written.map(|segment| {
            let origins = segment.order.iter().map(|&row| origins[row as usize]).collect();
            NewSegment {
                meta: segment.meta,
                data: segment.data,
                origins,
            }
        });
        let commit = Commit {
            segments: new.collect(),
            flushed_seq: 0,
            takeover: Takeover::Segments(segments),
            reserved: Some(reserved),
        };
        self.commit(commit).await?;
        self.delete_replaced().await
    }
}

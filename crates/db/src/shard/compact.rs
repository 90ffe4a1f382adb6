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

impl Shard {
    /// Merges all segments as far as their size allows, dropping what was deleted. Returns when it is durable.
    ///
    /// # Errors
    /// [`crate::Error::StorageFull`] or [`crate::Error::RootUnavailable`]; the old segments stay.
    pub async fn compact(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.compacting.lock().await;
        drop(self.unverified.read().await);
        self.delete_replaced().await?;
        if let Engine::Lsm(lsm) = &self.engine {
            lsm.read().await.compact().await?;
        }
        match self.inputs(compaction::choose_all).await? {
            Some(inputs) => self.merge(inputs, Spread::Wide).await,
            None => Ok(()),
        }
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
        while let Some(inputs) = self.inputs(compaction::choose).await? {
            let Some(first) = inputs.segments.first() else { break };
            let root = first.meta.root_id;
            self.merge(inputs, Spread::On(root)).await?;
        }
        Ok(())
    }

    /// Chosen while no commit is half done: a segment that has adopted only some of its rows looks as if the others were
    /// dead, and merging it would lose them. A commit that failed is finished first, or its inputs would be merged twice.
    async fn inputs(
        self: &Arc<Self>,
        choose: impl FnOnce(&[Candidate], u64) -> Option<Vec<SegmentId>>,
    ) -> Result<Option<Inputs>> {
        let mut ledger = self.ledger.lock().await;
        if self.is_closed() {
            return Ok(None);
        }
        self.finish(&mut ledger).await?;
        let state = self.state.read();
        let candidate = |segment: &SegmentSource| Candidate {
            meta: segment.meta.clone(),
            live_rows: segment.live_rows as u64,
        };
        let candidates: Vec<Candidate> = state.segments().map(candidate).collect();
        let chosen = choose(&candidates, self.options.segment_size_bytes);
        Ok(chosen.map(|chosen| Inputs {
            segments: state
                .segments()
                .filter(|segment| chosen.contains(&segment.meta.id))
                .cloned()
                .collect(),
            oldest_dead_outside: compaction::oldest_dead_outside(&candidates, &chosen),
        }))
    }

    async fn merge(self: &Arc<Self>, inputs: Inputs, spread: Spread) -> Result<()> {
        let Inputs {
            segments,
            oldest_dead_outside,
        } = inputs;
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
        };
        self.commit(commit).await?;
        self.delete_replaced().await
    }
}

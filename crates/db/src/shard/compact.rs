//! Compaction: merges small or half-dead segments into larger ones while writes and searches go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shard;
use super::flush::panicked;
use super::state::{Location, NewSegment, SegmentSource};
use crate::engine::compaction;
use crate::engine::manifest::SegmentId;
use crate::error::Result;

impl Shard {
    /// Merges all segments as far as their size allows, dropping what was deleted. Returns when it is durable.
    ///
    /// # Errors
    /// [`crate::Error::StorageFull`] or [`crate::Error::RootUnavailable`]; the old segments stay.
    pub async fn compact(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.compacting.lock().await;
        let inputs = self.inputs(compaction::choose_all);
        self.merge(inputs).await
    }

    /// Compacts in the background as long as the policy finds something to do; does nothing if that is under way.
    pub(super) fn compact_in_background(self: &Arc<Self>) {
        let shard = self.clone();
        tokio::spawn(async move {
            let Ok(_one_at_a_time) = shard.compacting.try_lock() else { return };
            loop {
                let inputs = shard.inputs(compaction::choose);
                if inputs.is_empty() {
                    return;
                }
                if let Err(error) = shard.merge(inputs).await {
                    tracing::error!(%error, collection = %shard.description().id, "compaction failed; the segments stay as they are");
                    return;
                }
            }
        });
    }

    fn inputs(&self, choose: impl FnOnce(&[compaction::SegmentLoad], u64) -> Vec<SegmentId>) -> Vec<SegmentSource> {
        let state = self.state.read();
        let load = |segment: &SegmentSource| compaction::SegmentLoad { meta: segment.meta.clone(), live_rows: segment.live_rows as u64 };
        let loads: Vec<_> = state.segments().map(load).collect();
        let chosen = choose(&loads, self.options.segment_size_bytes);
        state.segments().filter(|segment| chosen.contains(&segment.meta.id)).cloned().collect()
    }

    async fn merge(self: &Arc<Self>, inputs: Vec<SegmentSource>) -> Result<()> {
        if inputs.is_empty() || self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let replaced: Vec<SegmentId> = inputs.iter().map(|segment| segment.meta.id).collect();
        let others: Vec<_> = self.state.read().segments().filter(|s| !replaced.contains(&s.meta.id)).map(|s| s.meta.clone()).collect();
        let sources: Vec<u32> = inputs.iter().map(|segment| segment.source).collect();
        let limit = self.options.segment_size_bytes;
        let merged = tokio::task::spawn_blocking(move || {
            let inputs: Vec<_> = inputs.iter().map(|segment| (segment.data.clone(), segment.live.clone())).collect();
            compaction::merge(&inputs, &others, limit)
        });
        let mut segments = Vec::new();
        for part in merged.await.map_err(panicked)? {
            let written = self.viper.write_segment(&self.description(), part.rows, replaced.clone()).await?;
            let origin = |&row: &u32| {
                let (input, row) = part.origins[row as usize];
                Location { source: sources[input as usize], row }
            };
            let origins = written.permutation.iter().map(origin).collect();
            segments.push(NewSegment { meta: written.meta, data: Arc::new(written.data), origins });
        }
        let added = self.commit_segments(segments, &replaced, 0).await?;
        self.state.write().drop_segments(&sources);
        for id in &replaced {
            self.viper.delete_segment(*id).await?;
            self.axis.delete(*id).await?;
        }
        let added: Vec<_> = self.state.read().segments().filter(|segment| added.contains(&segment.source)).cloned().collect();
        for segment in added {
            self.build_index(segment).await;
        }
        Ok(())
    }
}

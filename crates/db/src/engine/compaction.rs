//! Which segments to merge, and what the merged one holds. Functions from values to values; the shard decides when.
//!
//! Segments are merged in tiers of similar size, [`FAN_IN`] at a time, so that a row is rewritten about
//! log8(segments) times. Any segments can be merged with any others: sequence numbers order their rows, not their
//! place in a list. Those of one root are merged among themselves: a striped collection stays evenly spread, and rewrites
//! its rows no more often than one that lives on one root.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{SegmentBuilder, SegmentData, SegmentId};
use crate::error::Result;
use crate::point::{PointId, Seq};
use crate::root::RootId;
use crate::schema::Schema;

/// Segments of a tier that are merged at a time; also the ratio of sizes between two tiers.
pub const FAN_IN: usize = 8;
/// A segment with a larger share of dead rows is rewritten alone.
const DEAD_PERCENT: u64 = 30;
/// Segments below this size are one tier: merging them costs little, and each costs a search step.
const SMALLEST_TIER_BYTES: u64 = 1 << 20;

/// A segment with what is left of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The segment.
    pub meta: SegmentMeta,
    /// Rows that no newer row or tombstone of their id hides.
    pub live_rows: u64,
}

impl Candidate {
    fn dead_rows(&self) -> u64 {
        self.meta.rows.saturating_sub(self.live_rows)
    }

    /// About the bytes of the live rows without compression. Sizes of files would not do: a merge that fits by those
    /// could be split again by the size of its rows, and so be chosen forever.
    fn live_bytes(&self) -> u64 {
        let share = if self.meta.rows == 0 {
            1.0
        } else {
            self.live_rows as f64 / self.meta.rows as f64
        };
        (self.meta.data_bytes as f64 * share) as u64
    }

    fn is_clean(&self) -> bool {
        self.dead_rows() == 0 && self.meta.tombstones == 0
    }

    fn tier(&self) -> u32 {
        (self.live_bytes() / SMALLEST_TIER_BYTES).max(1).ilog(FAN_IN as u64)
    }
}

/// The segments to merge into one of at most `segment_size_bytes`, all of one root; `None` if all is well. Call again after the merge
/// until then.
pub fn choose(candidates: &[Candidate], segment_size_bytes: u64) -> Option<Vec<SegmentId>> {
    let wasteful = |candidate: &&Candidate| candidate.dead_rows() * 100 > candidate.meta.rows * DEAD_PERCENT;
    if let Some(worst) = candidates
        .iter()
        .filter(wasteful)
        .max_by_key(|candidate| candidate.dead_rows())
    {
        return Some(vec![worst.meta.id]);
    }
    let mut tiers: BTreeMap<(u32, RootId), Vec<&Candidate>> = BTreeMap::new();
    // Two halves would not fit into one.
    for candidate in candidates
        .iter()
        .filter(|candidate| candidate.live_bytes() <= segment_size_bytes / 2)
    {
        tiers
            .entry((candidate.tier(), candidate.meta.root_id))
            .or_default()
            .push(candidate);
    }
    tiers.into_values().find_map(|mut tier| {
        if tier.len() < FAN_IN {
            return None;
        }
        // The oldest first: tombstones can go once nothing older is left.
        tier.sort_by_key(|candidate| candidate.meta.min_seq);
        let mut bytes = 0;
        let fits = |candidate: &&Candidate| {
            bytes += candidate.live_bytes();
            bytes <= segment_size_bytes
        };
        let inputs: Vec<SegmentId> = tier
            .into_iter()
            .take(FAN_IN)
            .take_while(fits)
            .map(|candidate| candidate.meta.id)
            .collect();
        (inputs.len() > 1).then_some(inputs)
    })
}

/// Everything that an explicit compaction can improve: segments with dead rows or tombstones, and small ones. In merges of at most
/// `merge_bytes` (or one segment), the oldest rows first, so that tombstones come last, when what they hide is gone. A merge may
/// exceed a segment's size and is then [split](SegmentData::split).
pub fn choose_all(candidates: &[Candidate], segment_size_bytes: u64, merge_bytes: u64) -> Vec<Vec<SegmentId>> {
    let improvable = |candidate: &&Candidate| !candidate.is_clean() || candidate.live_bytes() <= segment_size_bytes / 2;
    let mut inputs: Vec<&Candidate> = candidates.iter().filter(improvable).collect();
    inputs.sort_by_key(|candidate| candidate.meta.min_seq);
    let mut merges: Vec<Vec<&Candidate>> = Vec::new();
    let mut bytes = 0;
    for candidate in inputs {
        bytes += candidate.live_bytes();
        match merges.last_mut() {
            Some(merge) if bytes <= merge_bytes => merge.push(candidate),
            _ => {
                merges.push(vec![candidate]);
                bytes = candidate.live_bytes();
            }
        }
    }
    let changes = |merge: &&Vec<&Candidate>| merge.len() > 1 || merge.iter().any(|candidate| !candidate.is_clean());
    let ids = |merge: &Vec<&Candidate>| merge.iter().map(|candidate| candidate.meta.id).collect();
    merges.iter().filter(changes).map(ids).collect()
}

/// The smallest sequence number of a segment outside the inputs that has dead rows: older tombstones hide nothing and
/// need not be carried. A segment without dead rows needs no tombstone at all, however old it is.
pub fn oldest_dead_outside(candidates: &[Candidate], inputs: &[SegmentId]) -> Option<Seq> {
    let outside = candidates
        .iter()
        .filter(|candidate| !inputs.contains(&candidate.meta.id) && candidate.dead_rows() > 0);
    outside.map(|candidate| candidate.meta.min_seq).min()
}

/// The live rows of the inputs, with the tombstones that still hide a row elsewhere (see [`oldest_dead_outside`]).
/// `live` has a bit for each row of its segment; an id is live in at most one of them.
///
/// # Errors
/// [`Error::Internal`](crate::error::Error::Internal) if the vectors of a row do not fit the schema.
pub fn merge(
    schema: &Schema,
    inputs: &[(Arc<SegmentData>, FixedBitSet)],
    oldest_dead_outside: Option<Seq>,
) -> Result<SegmentData> {
    let mut builder = SegmentBuilder::new(schema);
    let mut merged = HashSet::new();
    for (data, live) in inputs {
        for row in live.ones() {
            builder.push_row(data, row)?;
            // A live row is newer than every tombstone of its id, and hides what they would.
            merged.insert(data.ids[row]);
        }
    }
    let mut newest: HashMap<PointId, Seq> = HashMap::new();
    for (id, seq) in inputs.iter().flat_map(|(data, _)| &data.tombstones) {
        let newest = newest.entry(*id).or_default();
        *newest = (*newest).max(*seq);
    }
    newest.retain(|id, seq| !merged.contains(id) && oldest_dead_outside.is_some_and(|oldest| oldest < *seq));
    newest.into_iter().for_each(|(id, seq)| builder.tombstone(id, seq));
    Ok(builder.build())
}

#[cfg(test)]
#[path = "compaction/tests.rs"]
mod tests;

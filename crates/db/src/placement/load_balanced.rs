//! LoadBalanced: the root with the least load, where a collection counts as one and bytes count as the collections that
//! they would be on average.
//!
//! ```text
//! load = collections + bytes / max(average bytes of a collection, 64 MiB)
//! ```
//!
//! Both matter: many small collections cost files and memory, a few large ones cost space and bandwidth. The average makes
//! the two comparable at every size; its lower bound keeps a few bytes from outweighing a collection while all are small.

use super::{Candidate, PlacementRequest, PlacementStrategy};

/// Least number of bytes that weighs as much as one collection.
const COLLECTION_BYTES_MIN: u64 = 64 << 20;

/// The least loaded root; ties go to the earlier one in the list.
pub(super) struct LoadBalanced;

impl PlacementStrategy for LoadBalanced {
    fn rank(&self, _: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        let bytes: u128 = candidates.iter().map(|candidate| u128::from(candidate.bytes)).sum();
        let collections: u128 = candidates
            .iter()
            .map(|candidate| u128::from(candidate.collections))
            .sum();
        // Without a collection nothing is known about their size: the lower bound is the best guess.
        let average = bytes
            .checked_div(collections)
            .unwrap_or(0)
            .max(u128::from(COLLECTION_BYTES_MIN));
        // load · average, in integers: equal loads are equal, whatever the rounding.
        let load = |candidate: &Candidate| u128::from(candidate.collections) * average + u128::from(candidate.bytes);
        let mut order: Vec<_> = candidates
            .iter()
            .map(|candidate| (load(candidate), candidate.index))
            .zip(0..)
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, position)| position).collect()
    }
}

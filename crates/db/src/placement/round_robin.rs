//! RoundRobin: the next root in the order of the list, by the component's own sequence. Never a hash.

use super::{Candidate, PlacementRequest, PlacementStrategy};

/// Starts at `sequence % candidates` in the order of the list and wraps.
pub(super) struct RoundRobin;

impl PlacementStrategy for RoundRobin {
    fn rank(&self, request: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        let mut order: Vec<(usize, usize)> = candidates.iter().map(|candidate| candidate.index).zip(0..).collect();
        order.sort_unstable();
        let count = u64::try_from(order.len()).unwrap_or(u64::MAX);
        let start = request
            .sequence
            .checked_rem(count)
            .and_then(|start| usize::try_from(start).ok())
            .unwrap_or(0);
        order.rotate_left(start);
        order.into_iter().map(|(_, position)| position).collect()
    }
}

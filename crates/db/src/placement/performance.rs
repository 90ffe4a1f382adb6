//! PerformanceBased: the storage that answers fastest, by the moving average of its latency.
//!
//! Roots about as fast as the fastest count as equal and share collections by load: otherwise noise would decide, and the
//! root that happens to lead would get everything until it slows down. A root that was not measured yet counts as the
//! fastest that is known, so that a new one gets tried.

use super::load_balanced::by_measure;
use super::{Candidate, PlacementRequest, PlacementStrategy};

/// Roots up to this many times as slow as the fastest count as equal to it.
const EQUAL_FACTOR: f64 = 1.5;
/// And so do roots that are slower by at most this: at tens of microseconds the factor would measure the scheduler.
const EQUAL_MS: f64 = 0.1;

/// The fastest roots, balanced; then the slower ones, each after those that are faster.
pub(super) struct PerformanceBased;

impl PlacementStrategy for PerformanceBased {
    fn rank(&self, _: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        let known = candidates.iter().filter_map(|candidate| candidate.latency_ms);
        let fastest = known.min_by(f64::total_cmp).unwrap_or(0.0);
        let equal = (fastest * EQUAL_FACTOR).max(fastest + EQUAL_MS);
        by_measure(candidates, |candidate| {
            let latency = candidate.latency_ms.filter(|&latency| latency > equal);
            Some(latency.unwrap_or(fastest))
        })
    }
}

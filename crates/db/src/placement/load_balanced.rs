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
        by_measure(candidates, |_| Some(0.0))
    }
}

/// Positions of the candidates with a measure, the least measure first, and the least loaded first among equal ones.
pub(super) fn by_measure(candidates: &[Candidate], measure: impl Fn(&Candidate) -> Option<f64>) -> Vec<usize> {
    let mut measured: Vec<(f64, usize)> = candidates
        .iter()
        .zip(0..)
        .filter_map(|(candidate, position)| Some((measure(candidate)?, position)))
        .collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let equals = measured.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq());
    equals.flat_map(|equal| balanced(candidates, equal)).collect()
}

/// These candidates, the least loaded first. Only they count: what lies on a dearer or slower root is no measure for them.
fn balanced(candidates: &[Candidate], of: &[(f64, usize)]) -> Vec<usize> {
    let of = || {
        of.iter()
            .filter_map(|&(_, position)| Some((position, candidates.get(position)?)))
    };
    let bytes: u128 = of().map(|(_, candidate)| u128::from(candidate.bytes)).sum();
    let collections: u128 = of().map(|(_, candidate)| u128::from(candidate.collections)).sum();
    // Without a collection nothing is known about their size: the lower bound is the best guess.
    let average = bytes
        .checked_div(collections)
        .unwrap_or(0)
        .max(u128::from(COLLECTION_BYTES_MIN));
    // load · average, in integers: equal loads are equal, whatever the rounding.
    let load = |candidate: &Candidate| u128::from(candidate.collections) * average + u128::from(candidate.bytes);
    let mut order: Vec<_> = of()
        .map(|(position, candidate)| (load(candidate), candidate.index, position))
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(.., position)| position).collect()
}

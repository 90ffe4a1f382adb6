//! The best `k` of many scored rows.
//!
//! A hit is kept as one integer whose order is the order of the result, so that comparing, ties included, is one instruction:
//!
//! ```text
//! 63                 32 31              0
//! │ score, best = least │ row            │
//! ```

use std::collections::BinaryHeap;

use crate::metric::Metric;

/// A row and how well it matches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Number of the row.
    pub row: u32,
    /// Score as the metric defines it; never NaN.
    pub score: f32,
}

/// Collects the best `k` hits, whatever the order they come in. Of equal scores the smaller row is the better.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    larger_is_better: bool,
    /// The worst is on top.
    heap: BinaryHeap<u64>,
    /// Only a smaller rank can enter.
    limit: u64,
}

impl TopK {
    /// An empty collection of at most `k` hits.
    pub fn new(metric: Metric, k: usize) -> Self {
        /// A limit of millions must not reserve memory that the answer may never need.
        const RESERVED_MAX: usize = 1024;
        let heap = BinaryHeap::with_capacity(k.min(RESERVED_MAX));
        Self {
            k,
            larger_is_better: metric.larger_is_better(),
            heap,
            limit: if k == 0 { 0 } else { u64::MAX },
        }
    }

    /// Offers a hit. A NaN score is never taken.
    #[inline]
    pub fn push(&mut self, row: u32, score: f32) {
        let rank = rank(self.larger_is_better, score, row);
        if rank < self.limit && !score.is_nan() {
            self.insert(rank);
        }
    }

    fn insert(&mut self, rank: u64) {
        if self.heap.len() == self.k {
            self.heap.pop();
        }
        self.heap.push(rank);
        if let (true, Some(worst)) = (self.is_full(), self.heap.peek()) {
            self.limit = *worst;
        }
    }

    /// The score that a row has to beat, once there are `k` hits.
    pub(crate) fn worst(&self) -> Option<f32> {
        let worst = self.is_full().then(|| self.heap.peek()).flatten();
        worst.map(|worst| score_of(self.larger_is_better, *worst))
    }

    /// Whether there are `k` hits.
    pub fn is_full(&self) -> bool {
        self.heap.len() == self.k
    }

    /// The hits, the best first.
    pub fn into_sorted(self) -> Vec<Hit> {
        let larger_is_better = self.larger_is_better;
        let hit = |rank: u64| Hit {
            row: rank as u32,
            score: score_of(larger_is_better, rank),
        };
        self.heap.into_sorted_vec().into_iter().map(hit).collect()
    }
}

/// A hit as an integer: the better, the smaller. NaN, of which nothing is known, comes first.
pub(crate) fn rank(larger_is_better: bool, score: f32, row: u32) -> u64 {
    // Adding 0 makes -0 a plain 0; otherwise the two would not tie.
    let cost = if larger_is_better { -score } else { score } + 0.0;
    // The bits of positive floats are in their order already, those of negative ones in reverse order.
    let bits = cost.to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    let ordered = if score.is_nan() { 0 } else { ordered };
    u64::from(ordered) << 32 | u64::from(row)
}

/// The score of a [`rank`].
pub(crate) fn score_of(larger_is_better: bool, rank: u64) -> f32 {
    let ordered = (rank >> 32) as u32;
    let bits = if ordered >> 31 == 1 {
        ordered & !(1 << 31)
    } else {
        !ordered
    };
    let cost = f32::from_bits(bits);
    if larger_is_better { 0.0 - cost } else { cost }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(metric: Metric, k: usize, scores: &[f32], expected: &[(u32, f32)]) {
        let mut top = TopK::new(metric, k);
        scores
            .iter()
            .enumerate()
            .rev()
            .for_each(|(row, score)| top.push(row as u32, *score));
        let hits: Vec<_> = top.into_sorted().into_iter().map(|hit| (hit.row, hit.score)).collect();
        assert_eq!(hits, expected);
    }

    #[test]
    fn the_best_come_first_and_ties_by_row() {
        check(
            Metric::Dot,
            3,
            &[1.0, 5.0, -2.0, 5.0, 4.0],
            &[(1, 5.0), (3, 5.0), (4, 4.0)],
        );
        check(
            Metric::Euclidean,
            3,
            &[1.0, 5.0, 0.0, 5.0, 1.0],
            &[(2, 0.0), (0, 1.0), (4, 1.0)],
        );
        check(Metric::Dot, 2, &[0.0, -0.0, 0.0], &[(0, 0.0), (1, 0.0)]);
    }

    #[test]
    fn nan_is_never_a_hit_and_infinity_is() {
        check(
            Metric::Dot,
            9,
            &[f32::NAN, 1.0, -f32::NAN, f32::INFINITY],
            &[(3, f32::INFINITY), (1, 1.0)],
        );
        check(
            Metric::Euclidean,
            9,
            &[f32::NAN, f32::INFINITY, -f32::NAN],
            &[(1, f32::INFINITY)],
        );
    }

    #[test]
    fn none_of_zero_and_all_of_more_than_there_are() {
        check(Metric::Dot, 0, &[1.0, 2.0], &[]);
        check(Metric::Dot, usize::MAX, &[1.0, 2.0], &[(1, 2.0), (0, 1.0)]);
    }

    proptest! {
        #[test]
        fn the_hits_are_the_head_of_the_sorted_list(
            scores in prop::collection::vec(prop_oneof![any::<f32>(), (-3i8..3).prop_map(f32::from)], 0..60), k in 0usize..70, dot: bool,
        ) {
            let metric = if dot { Metric::Dot } else { Metric::Manhattan };
            let mut top = TopK::new(metric, k);
            scores.iter().enumerate().for_each(|(row, score)| top.push(row as u32, *score));
            let mut expected: Vec<_> = scores.iter().copied().enumerate().filter(|(_, score)| !score.is_nan()).collect();
            expected.sort_by(|a, b| if dot { b.1.partial_cmp(&a.1) } else { a.1.partial_cmp(&b.1) }.unwrap_or(std::cmp::Ordering::Equal));
            expected.truncate(k);
            for (index, hit) in top.clone().into_sorted().into_iter().enumerate() {
                prop_assert_eq!((hit.row as usize, hit.score), expected[index]);
            }
            prop_assert_eq!(top.into_sorted().len(), expected.len());
        }
    }
}

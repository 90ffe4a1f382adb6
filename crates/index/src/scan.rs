//! Exact search: scores rows by the kernels and keeps the best.

use std::ops::Range;

use fixedbitset::{Block, FixedBitSet};

use crate::metric::Metric;
use crate::rows::RowSlice;
use crate::topk::TopK;

/// Rows handed to a kernel at once: enough to pay for the call, few enough for the first cache level.
const BATCH: usize = 128;

/// Offers every row of `range` that is `allowed` (all without a set) to `top`. The range may reach beyond the rows and the set
/// may be shorter or longer than the rows: a row that the set does not reach is not allowed.
///
/// # Panics
/// If the query has another dimension than the rows.
///
/// ```
/// use proximadb_index::{Metric, Rows, TopK, scan};
/// let rows = Rows::from_vec(2, vec![0.0, 0.0, 3.0, 4.0, 1.0, 0.0]);
/// let mut top = TopK::new(Metric::Euclidean, 2);
/// scan(Metric::Euclidean, &rows, 0..rows.len(), &[0.0, 0.0], None, &mut top);
/// assert_eq!(top.into_sorted().iter().map(|hit| (hit.row, hit.score)).collect::<Vec<_>>(), [(0, 0.0), (2, 1.0)]);
/// ```
pub fn scan<'a>(
    metric: Metric,
    rows: impl Into<RowSlice<'a>>,
    range: Range<usize>,
    query: &[f32],
    allowed: Option<&FixedBitSet>,
    top: &mut TopK,
) {
    let rows = rows.into();
    let range = range.start..range.end.min(rows.len());
    let mut batch = Batch::new(metric, rows, query, top);
    for_each_allowed(range, allowed, |row| batch.add(row));
    batch.score();
}

/// [`scan`] of the given rows instead of a range; all of them must exist.
pub(crate) fn scan_ids(
    metric: Metric,
    rows: RowSlice<'_>,
    ids: &[u32],
    query: &[f32],
    allowed: Option<&FixedBitSet>,
    top: &mut TopK,
) {
    let mut batch = Batch::new(metric, rows, query, top);
    for &row in ids {
        if allowed.is_none_or(|set| set.contains(row as usize)) {
            batch.add(row);
        }
    }
    batch.score();
}

/// Calls `visit` for every row of `range` that is `allowed`, in order.
pub(crate) fn for_each_allowed(range: Range<usize>, allowed: Option<&FixedBitSet>, mut visit: impl FnMut(u32)) {
    match allowed {
        None => range.for_each(|row| visit(row as u32)),
        Some(set) => {
            let range = range.start..range.end.min(set.len());
            for_each_bit(set.as_slice(), range, |row| visit(row as u32));
        }
    }
}

/// Calls `visit` for every bit that is set within `range`, in order.
fn for_each_bit(blocks: &[Block], range: Range<usize>, mut visit: impl FnMut(usize)) {
    const BITS: usize = Block::BITS as usize;
    for index in range.start / BITS..range.end.div_ceil(BITS) {
        let first = index * BITS;
        let mut block = blocks.get(index).copied().unwrap_or(0);
        while block != 0 {
            let bit = first + block.trailing_zeros() as usize;
            block &= block - 1;
            if range.contains(&bit) {
                visit(bit);
            }
        }
    }
}

/// Rows that wait for the kernel.
struct Batch<'a> {
    metric: Metric,
    rows: RowSlice<'a>,
    query: &'a [f32],
    top: &'a mut TopK,
    ids: [u32; BATCH],
    len: usize,
}

impl<'a> Batch<'a> {
    fn new(metric: Metric, rows: RowSlice<'a>, query: &'a [f32], top: &'a mut TopK) -> Self {
        assert_eq!(query.len(), rows.dim(), "the query is a vector of the same space");
        Self {
            metric,
            rows,
            query,
            top,
            ids: [0; BATCH],
            len: 0,
        }
    }

    #[inline]
    fn add(&mut self, row: u32) {
        self.ids[self.len] = row;
        self.len += 1;
        if self.len == BATCH {
            self.score();
        }
    }

    fn score(&mut self) {
        let mut scores = [0.0; BATCH];
        let (ids, scores) = (&self.ids[..self.len], &mut scores[..self.len]);
        self.metric.score_rows(self.query, self.rows, ids, scores);
        for (&row, &score) in ids.iter().zip(&*scores) {
            self.top.push(row, score);
        }
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_scan_is_the_sorted_list_of_all_allowed_scores(
            values in prop::collection::vec((-4i8..4).prop_map(f32::from), 0..900), dim in 1usize..5, query in prop::array::uniform4(-4i8..4),
            bits in prop::collection::vec(any::<bool>(), 0..400), with_set: bool, start in 0usize..300, end in 0usize..300, k in 0usize..40,
        ) {
            let rows = RowSlice::new(dim, &values[..values.len() / dim * dim]);
            let query = &query.map(f32::from)[..dim];
            let set: FixedBitSet = bits.iter().enumerate().filter(|(_, on)| **on).map(|(bit, _)| bit).collect();
            let allowed = with_set.then_some(&set);
            for metric in [Metric::Dot, Metric::Euclidean, Metric::Manhattan] {
                let mut expected: Vec<(u32, f32)> = (start..end.min(rows.len()))
                    .filter(|row| !with_set || bits.get(*row) == Some(&true))
                    .map(|row| (row as u32, metric.score(query, rows.get(row)) + 0.0))
                    .collect();
                expected.sort_by(|a, b| if metric == Metric::Dot { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
                expected.truncate(k);
                let (mut by_range, mut by_ids) = (TopK::new(metric, k), TopK::new(metric, k));
                scan(metric, rows, start..end, query, allowed, &mut by_range);
                let ids: Vec<u32> = (start..end.min(rows.len())).map(|row| row as u32).collect();
                scan_ids(metric, rows, &ids, query, allowed, &mut by_ids);
                for top in [by_range, by_ids] {
                    let hits: Vec<_> = top.into_sorted().into_iter().map(|hit| (hit.row, hit.score)).collect();
                    prop_assert_eq!(&hits, &expected);
                }
            }
        }
    }
}

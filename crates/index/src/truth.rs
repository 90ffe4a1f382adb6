//! True neighbours of sampled queries: what the searches of an index are measured against when it is built.

use fixedbitset::FixedBitSet;

use crate::metric::Metric;
use crate::rows::RowSlice;
use crate::simd;
use crate::space::Space;
use crate::topk::{Hit, TopK};

/// Rows that are taken as queries.
pub(crate) const SAMPLED_QUERIES: usize = 200;
/// Neighbours that each should find, besides itself.
pub(crate) const NEIGHBOURS: usize = 10;
/// One row in so many is allowed by the filter of the sampled searches.
const FILTER_STEP: u64 = 10;
/// Share of the neighbours whose byte codes may be less wrong than is allowed for.
pub(crate) const COVERED_BYTES: f64 = 0.999;
/// Rounding of bytes that the sample may not have shown.
pub(crate) const MARGIN_MIN: f32 = 1e-6;

/// The true neighbours of a sampled query.
pub(crate) struct Truth {
    pub hits: Vec<Hit>,
    /// Those of the rows that a filter allows.
    pub filtered: Vec<Hit>,
    /// The worth of the last neighbour.
    pub last: f32,
    pub last_filtered: f32,
}

/// A filter that allows one row in [`FILTER_STEP`], for the sampled searches.
pub(crate) fn sample_filter(rows: usize) -> FixedBitSet {
    (0..rows)
        .filter(|row| scattered(*row).is_multiple_of(FILTER_STEP))
        .collect()
}

/// True neighbours of some queries, by comparison with every row.
pub(crate) fn truth(rows: RowSlice<'_>, queries: &[&[f32]], space: &Space, allowed: &FixedBitSet) -> Vec<Truth> {
    /// Rows whose products with all queries are found at once: they stay in the second cache level.
    const ROWS_AT_ONCE: usize = 256;
    let (metric, dim) = (space.metric(), rows.dim());
    let flat: Vec<f32> = queries.concat();
    let mut tops: Vec<[TopK; 2]> = vec![
        [
            TopK::new(Metric::Dot, NEIGHBOURS + 1),
            TopK::new(Metric::Dot, NEIGHBOURS + 1)
        ];
        queries.len()
    ];
    let mut products = vec![0.0; ROWS_AT_ONCE * queries.len()];
    for (chunk, data) in rows.as_slice().chunks(ROWS_AT_ONCE * dim).enumerate() {
        let first = chunk * ROWS_AT_ONCE;
        let count = data.len() / dim;
        simd::products(&flat, data, dim, &mut products);
        let handicap = |row: &[f32]| {
            if metric == Metric::Dot {
                0.0
            } else {
                simd::dot(row, row) / 2.0
            }
        };
        let handicaps: Vec<f32> = data.chunks_exact(dim).map(handicap).collect();
        for (products, [all, filtered]) in products.chunks_exact(count).zip(&mut tops) {
            for (at, (product, handicap)) in products.iter().zip(&handicaps).enumerate() {
                let row = (first + at) as u32;
                all.push(row, product - handicap);
                if allowed.contains(row as usize) {
                    filtered.push(row, product - handicap);
                }
            }
        }
    }
    let truths = queries.iter().zip(tops).map(|(vector, [all, filtered])| {
        let [last, last_filtered] = [&all, &filtered].map(|top| top.worst().unwrap_or(f32::MIN));
        let (mut hits, mut filtered) = (all.into_sorted(), filtered.into_sorted());
        // In these terms the worth differs by what is the same for all rows.
        let shift = space.query(vector).map_or(0.0, |query| match metric {
            Metric::Dot => space.worth(&query, 0.0),
            Metric::Euclidean | Metric::Manhattan => (query.squared - simd::dot(vector, vector)) / 2.0,
        });
        if metric == Metric::Manhattan {
            let exact = |allowed: Option<&FixedBitSet>| {
                let mut top = TopK::new(metric, NEIGHBOURS + 1);
                crate::scan::scan(metric, rows, 0..rows.len(), vector, allowed, &mut top);
                top.into_sorted()
            };
            (hits, filtered) = (exact(None), exact(Some(allowed)));
        }
        Truth {
            hits,
            filtered,
            last: last + shift,
            last_filtered: last_filtered + shift,
        }
    });
    truths.collect()
}

/// The value that this share of the finite values does not exceed; 0 of none.
pub(crate) fn quantile(values: impl Iterator<Item = f32>, share: f64) -> f32 {
    let mut values: Vec<f32> = values.filter(|value| value.is_finite()).collect();
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let at = ((values.len() as f64 * share) as usize).min(last);
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// A number that looks random, the same for the same row.
pub(crate) fn scattered(row: usize) -> u64 {
    (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
}

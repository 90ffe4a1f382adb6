//! Measuring how many rows a walk has to keep in sight: places among rows are taken as queries, and what finds their true
//! neighbours is what searches use.

use fixedbitset::FixedBitSet;

use super::{Hnsw, Tuning};
use crate::parallel::in_parallel;
use crate::rows::Rows;
use crate::space::Query;
use crate::topk::Hit;
use crate::truth::{COVERED_BYTES, MARGIN_MIN, NEIGHBOURS, SAMPLED_QUERIES, Truth, quantile, sample_filter, truth};
use crate::vector_index::SearchStats;

/// Share of the neighbours that a search finds with effort 1, without a filter and with one.
const TARGET: f64 = 0.99;
const TARGET_FILTERED: f64 = 0.97;
/// The first number that is tried, and by how much it grows.
const EF_MIN: f32 = 16.0;
const EF_GROWTH: f32 = 1.2;

impl Hnsw {
    /// Sets what lets `TARGET` of the true neighbours of sampled queries be found.
    pub(super) fn tune(&mut self, rows: &Rows, linked: &[u32]) {
        let step = (linked.len() / SAMPLED_QUERIES).max(1);
        // Not the rows themselves, whose neighbours are written down: (a + b + c − d) / 2 of rows that are near each other varies as they do.
        let invented = |row: &u32| {
            let near: Vec<u32> = self.graph.neighbours(*row).collect();
            let of = |at: usize| rows.get(near.get(at).copied().unwrap_or(*row) as usize);
            let [a, b, c, d] = [rows.get(*row as usize), of(near.len() / 2), of(1), of(0)];
            let value = |at: usize| a[at] / 2.0 + b[at] / 2.0 + c[at] / 2.0 - d[at] / 2.0;
            (0..rows.dim()).map(value).collect::<Vec<f32>>()
        };
        let vectors: Vec<Vec<f32>> = linked.iter().step_by(step).map(invented).collect();
        let queries: Vec<(Query, &[f32])> = vectors
            .iter()
            .filter_map(|vector| Some((self.space.query(vector)?, vector.as_slice())))
            .collect();
        let filter = sample_filter(rows.len());
        let truths = in_parallel(queries.len(), |range| {
            let vectors: Vec<&[f32]> = queries[range].iter().map(|(_, vector)| *vector).collect();
            truth(rows.as_row_slice(), &vectors, &self.space, &filter)
        });
        let mut truths: Vec<Truth> = truths.into_iter().flatten().collect();
        for truth in &mut truths {
            let is_linked = |hit: &Hit| linked.binary_search(&hit.row).is_ok();
            truth.hits.retain(is_linked);
            truth.filtered.retain(is_linked);
        }
        let pairs: Vec<(&Query, &Truth)> = queries.iter().map(|(query, _)| query).zip(&truths).collect();
        let hits = pairs
            .iter()
            .flat_map(|(query, truth)| truth.hits.iter().map(move |hit| (query, truth, hit.row)));
        let errors = hits.map(|(query, truth, row)| {
            let mut worth = [0.0];
            self.bytes.worths(query, &[row], &mut worth);
            (truth.last - worth[0]) / query.unit(self.tuning.length).max(f32::MIN_POSITIVE)
        });
        self.tuning.margin = quantile(errors, COVERED_BYTES).max(0.0) + MARGIN_MIN;
        let (ef, looked) = self.enough(&pairs, None, TARGET, EF_MIN);
        let (ef_filtered, _) = self.enough(&pairs, Some(&filter), TARGET_FILTERED, ef);
        self.tuning = Tuning {
            ef,
            ef_filtered,
            looked,
            ..self.tuning
        };
    }

    /// How many rows in sight find that share of the neighbours, and how many codes are looked at then.
    fn enough(
        &self,
        queries: &[(&Query, &Truth)],
        allowed: Option<&FixedBitSet>,
        target: f64,
        from: f32,
    ) -> (f32, f32) {
        let mut ef = from;
        loop {
            let (share, looked) = self.found(queries, allowed, ef as usize);
            if share >= target || ef as usize >= self.bytes.len() {
                return (ef, looked);
            }
            ef *= EF_GROWTH;
        }
    }

    fn found(&self, queries: &[(&Query, &Truth)], allowed: Option<&FixedBitSet>, ef: usize) -> (f64, f32) {
        let counts = in_parallel(queries.len(), |range| {
            let (mut found, mut all, mut stats) = (0, 0, SearchStats::default());
            for (query, truth) in &queries[range] {
                let first = self.graph.approach(&self.bytes, query, &mut stats);
                let walk = |first| self.graph.search(&self.bytes, query, first, ef, allowed, &mut stats);
                let rows = first.map_or_else(Vec::new, walk);
                let rows = self.near(query, NEIGHBOURS + 1, rows);
                let truth = if allowed.is_some() {
                    &truth.filtered
                } else {
                    &truth.hits
                };
                let is_found = |hit: &&Hit| rows.contains(&hit.row);
                found += truth.iter().filter(is_found).count();
                all += truth.len();
            }
            (found, all, stats.codes)
        });
        let sum = |of: fn(&(usize, usize, usize)) -> usize| counts.iter().map(of).sum::<usize>();
        let (found, all, codes) = (sum(|c| c.0), sum(|c| c.1), sum(|c| c.2));
        let share = if all == 0 { 1.0 } else { found as f64 / all as f64 };
        (share, codes as f32 / queries.len().max(1) as f32)
    }
}

//! A graph of similar rows with byte codes: fewer rows are looked at than in an inverted file, each of them somewhere else in memory.
//!
//! ```text
//! graph      from each row to similar ones      which rows to look at
//! bytes      byte codes, row by row             which of these are the best, up to rounding
//! the rows   the caller's floats                exact scores of the few that are left
//! ```
//!
//! **How far to look** is how many rows a walk keeps in sight (`ef`); how many are enough is measured when the index is built
//! (`hnsw/tune.rs`). **With a filter** only allowed rows are scored, and those that are not allowed are walked through; so the rows
//! that have been deleted cost nothing but the way. The rows in sight grow with the selectivity of the filter, and once more where nothing near
//! the query is allowed. If so few are allowed that it is cheaper, the codes of all of them are compared.
//!
//! **Outliers**, rows far longer than the others, are not in the graph: they would make the codes coarse. They are scored in every
//! search.

mod file;
mod tune;

use fixedbitset::FixedBitSet;

use crate::byte_codes::ByteCodes;
use crate::graph::Graph;
use crate::metric::Metric;
use crate::parallel::in_parallel;
use crate::rows::{RowSlice, Rows};
use crate::scan::for_each_allowed;
use crate::simd;
use crate::space::{Query, Space, fits};
use crate::topk::TopK;
use crate::truth::{NEIGHBOURS, quantile};
use crate::vector_index::{Chosen, IndexKind, SearchParams, SearchStats, VectorIndex};

/// Rows for each wanted hit up to which comparing the codes of all is cheaper.
const ROWS_PER_HIT: usize = 4;
/// Codes that are compared one after the other in the time in which a walk comes to one.
const SCANNED_PER_WALKED: f32 = 5.0;
/// So many times as many rows in sight where no row near the query is allowed: the best ones lie far away, on all sides of it.
const EF_FAR: usize = 4;
/// Further rows in sight for each wanted hit above the number that was measured.
const EF_PER_HIT: f32 = 2.0;
/// A row that is so many times as long as half of the rows is an outlier, but at most one row in so many.
const OUTLIER_LENGTHS: f32 = 10.0;
const ROWS_PER_OUTLIER: usize = 400;
/// Codes that are compared at once.
const BATCH: usize = 64;

/// How a graph is built. More neighbours and candidates find more in fewer steps, and make the index larger and its build slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HnswParams {
    /// Neighbours of a row on the upper levels, twice as many on the lowest: from 4 to 128.
    pub m: usize,
    /// Rows kept in sight when the neighbours of a row are looked for: from `m` to 1,000.
    pub ef_construct: usize,
}

impl Default for HnswParams {
    fn default() -> Self {
        Self {
            m: 16,
            ef_construct: 100,
        }
    }
}

/// A graph index. See the module.
#[derive(Debug, Clone)]
pub struct Hnsw {
    space: Space,
    /// One code a row; those of rows that are not in the graph are worth nothing.
    bytes: ByteCodes,
    graph: Graph,
    outliers: Vec<u32>,
    tuning: Tuning,
}

/// What was measured when the index was built.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tuning {
    /// Rows in sight that are enough, without a filter and with one.
    ef: f32,
    ef_filtered: f32,
    /// Codes that a walk looks at.
    looked: f32,
    /// How wrong byte codes may be.
    margin: f32,
    /// Root of the mean squared length of the rows from the centre.
    length: f32,
}

impl Hnsw {
    /// An index over the rows that are `present` (all without a set); only an exact search is sure to find others. The same rows give the
    /// same index. Uses all cores.
    pub fn build(metric: Metric, rows: &Rows, present: Option<&FixedBitSet>, params: HnswParams) -> Self {
        let slice = rows.as_row_slice();
        let is_present = |row: &u32| present.is_none_or(|set| set.contains(*row as usize));
        let present: Vec<u32> = (0..rows.len() as u32).filter(is_present).collect();
        let outliers = outliers(slice, &present);
        let linked: Vec<u32> = present
            .into_iter()
            .filter(|row| outliers.binary_search(row).is_err())
            .collect();
        let space = Space::new(metric, mean(slice, &linked));
        let parts = in_parallel(rows.len(), |range| {
            let (mut codes, mut squared) = (Vec::new(), 0.0);
            for row in range {
                if linked.binary_search(&(row as u32)).is_ok() {
                    let placed = space.place(slice.get(row));
                    squared += f64::from(simd::dot(&placed, &placed));
                    ByteCodes::encode(&placed, space.offset(&placed), &mut codes);
                } else {
                    ByteCodes::encode(&vec![0.0; space.padded()], f32::MIN, &mut codes);
                }
            }
            (codes, squared)
        });
        let squared: f64 = parts.iter().map(|(_, squared)| squared).sum();
        let codes: Vec<u8> = parts.into_iter().flat_map(|(codes, _)| codes).collect();
        let bytes = ByteCodes::of(space.padded(), codes);
        let graph = Graph::build(&bytes, &linked, params.m, params.ef_construct);
        let length = (squared / linked.len().max(1) as f64).sqrt() as f32;
        let mut index = Self {
            space,
            bytes,
            graph,
            outliers,
            tuning: Tuning {
                length,
                ..Tuning::default()
            },
        };
        index.tune(rows, &linked);
        index
    }

    /// Rows in sight of a walk for `k` hits.
    fn ef(&self, k: usize, effort: f32, share: f32) -> usize {
        let Tuning { ef, ef_filtered, .. } = self.tuning;
        // What was measured for one row in ten; between that and all rows it grows by the same factor with each halving.
        let enough = ef * (ef_filtered / ef).powf((-share.log10()).clamp(0.0, 1.0));
        let enough = enough + EF_PER_HIT * (k - NEIGHBOURS) as f32;
        // An effort is a distance: the rows within it are a power of it.
        ((enough * effort.powi(4)) as usize).clamp(k, self.bytes.len().max(k))
    }

    /// All allowed rows and their worths.
    fn scan(&self, query: &Query, allowed: Option<&FixedBitSet>, stats: &mut SearchStats) -> Vec<(u32, f32)> {
        let mut found = Vec::new();
        let (mut ids, mut worths) = (Vec::with_capacity(BATCH), [0.0; BATCH]);
        let mut compare = |ids: &mut Vec<u32>| {
            stats.codes += ids.len();
            self.bytes.worths(query, ids, &mut worths);
            // What is not in the graph is worth nothing.
            let all = ids.drain(..).zip(worths);
            found.extend(all.filter(|(_, worth)| *worth > f32::MIN));
        };
        for_each_allowed(0..self.bytes.len(), allowed, |row| {
            self.bytes.prefetch(row);
            ids.push(row);
            if ids.len() == BATCH {
                compare(&mut ids);
            }
        });
        compare(&mut ids);
        found
    }

    /// Of rows with worths those that may be among the best `k`: all for Manhattan, of which worths say little.
    fn near(&self, query: &Query, k: usize, mut rows: Vec<(u32, f32)>) -> Vec<u32> {
        if self.space.metric() == Metric::Manhattan {
            return rows.into_iter().map(|(row, _)| row).collect();
        }
        let mut best = TopK::new(Metric::Dot, k);
        rows.iter().for_each(|(row, worth)| best.push(*row, *worth));
        let margin = self.tuning.margin * query.unit(self.tuning.length);
        let threshold = best.worst().unwrap_or(f32::MIN) - margin;
        rows.retain(|(_, worth)| *worth >= threshold);
        rows.into_iter().map(|(row, _)| row).collect()
    }
}

/// Rows that are not in the graph although they are present, sorted.
fn outliers(rows: RowSlice<'_>, present: &[u32]) -> Vec<u32> {
    let square = |row: &u32| simd::dot(rows.get(*row as usize), rows.get(*row as usize));
    let long = quantile(present.iter().map(square), 0.5) * OUTLIER_LENGTHS * OUTLIER_LENGTHS;
    let (fit, mut outliers): (Vec<u32>, Vec<u32>) = present.iter().partition(|row| fits(rows.get(**row as usize)));
    let mut longest: Vec<(f32, u32)> = fit.iter().map(|row| (square(row), *row)).collect();
    longest.retain(|(square, _)| long > 0.0 && *square > long);
    longest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    outliers.extend(
        longest
            .iter()
            .take(present.len() / ROWS_PER_OUTLIER)
            .map(|(_, row)| *row),
    );
    outliers.sort_unstable();
    outliers
}

fn mean(rows: RowSlice<'_>, members: &[u32]) -> Vec<f32> {
    let mut sums = vec![0f64; rows.dim()];
    for row in members {
        let values = rows.get(*row as usize).iter();
        sums.iter_mut()
            .zip(values)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.iter()
        .map(|sum| (sum / members.len().max(1) as f64) as f32)
        .collect()
}

impl VectorIndex for Hnsw {
    fn kind(&self) -> IndexKind {
        IndexKind::Hnsw
    }

    fn shape(&self) -> (usize, usize) {
        (self.bytes.len(), self.space.dim())
    }

    fn metric(&self) -> Metric {
        self.space.metric()
    }

    fn choose(
        &self,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Chosen {
        let usable = !params.exact && params.k > 0;
        let Some(placed) = usable.then(|| self.space.query(query)).flatten() else {
            return Chosen::All;
        };
        let k = params.k.max(NEIGHBOURS);
        let rows = self.shape().0;
        let candidates = allowed.map_or(rows, |set| set.count_ones(..));
        let is_scan_cheaper = |ef: usize| {
            let walked = self.tuning.looked * ef as f32 / self.tuning.ef;
            allowed.is_some() && candidates as f32 <= walked * SCANNED_PER_WALKED
        };
        let mut ef = self.ef(k, params.effort, candidates as f32 / rows.max(1) as f32);
        let mut found = Vec::new();
        if candidates > k.saturating_mul(ROWS_PER_HIT) && !is_scan_cheaper(ef) {
            let first = self.graph.approach(&self.bytes, &placed, stats);
            let is_far =
                |first: u32, set: &FixedBitSet| !self.graph.neighbours(first).any(|row| set.contains(row as usize));
            if first.zip(allowed).is_some_and(|(first, set)| is_far(first, set)) {
                ef *= EF_FAR;
            }
            if let Some(first) = first.filter(|_| !is_scan_cheaper(ef)) {
                found = self.graph.search(&self.bytes, &placed, first, ef, allowed, stats);
            }
        }
        // A walk may end in a part of the graph that has no way to the others.
        if found.len() < k.min(candidates) {
            if self.metric() == Metric::Manhattan {
                return Chosen::All;
            }
            found = self.scan(&placed, allowed, stats);
        }
        let mut exact = self.near(&placed, k, found);
        let is_allowed = |row: &&u32| allowed.is_none_or(|set| set.contains(**row as usize));
        exact.extend(self.outliers.iter().filter(is_allowed));
        Chosen::Rows(exact)
    }

    fn encode(&self) -> Vec<u8> {
        file::encode(self)
    }

    fn memory_bytes(&self) -> usize {
        let outliers = self.outliers.len() * size_of::<u32>();
        size_of::<Self>() + self.bytes.data().len() + self.graph.memory_bytes() + outliers
    }

    fn describe(&self) -> String {
        format!(
            "graph of {} levels with {} neighbours ({} on the lowest), 8-bit codes, {} outliers, {:.0} rows in sight ({:.0} with a filter)",
            self.graph.levels(),
            self.graph.m(),
            2 * self.graph.m(),
            self.outliers.len(),
            self.tuning.ef,
            self.tuning.ef_filtered,
        )
    }
}

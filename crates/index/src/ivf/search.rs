//! One search of an inverted file, from prospects to the rows that are scored exactly.

use std::ops::Range;

use fixedbitset::FixedBitSet;

use super::{Ivf, Tuning, low_bits};
use crate::bit_codes::Table;
use crate::graph::Graph;
use crate::metric::Metric;
use crate::simd::codes::{self, BLOCK_ROWS, CHUNK_BLOCKS, Estimates, Terms};
use crate::space::Query;
use crate::topk::TopK;
use crate::vector_index::SearchStats;

/// From so many wanted hits on the best prospect alone says too little.
const MANY_HITS: usize = 20;
/// How much further a graph is walked by a wide search, which does not know beforehand how far it reads.
const WIDE_REACH: f32 = 2.0;
/// Lists whose prospects are sorted at once: as many as most searches read.
const SORTED_LISTS: usize = 32;
const SHORT_LISTS_AHEAD: usize = 4;
/// Rows for each wanted hit that are asked for at once of a file that is read in parts, before any of them says how far to look.
const ABSENT_PER_HIT: usize = 4;
/// Candidates refined between two looks at the k-th best.
const REFINED_AT_ONCE: usize = 32;
/// Room for candidates that suits most searches.
const CANDIDATES_PER_HIT: usize = 16;

/// A row that may be among the best.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    bound: f32,
    estimate: f32,
    /// Its place among the members.
    member: u32,
}

/// One search under way.
pub(super) struct Search<'a> {
    index: &'a Ivf,
    query: Query,
    table: Table,
    allowed: Option<&'a FixedBitSet>,
    slack: f32,
    /// In units of worth, both.
    reach: f32,
    reach_wide: f32,
    wide: bool,
    k: usize,
    /// The best estimates so far.
    best: TopK,
    candidates: Vec<Candidate>,
    estimates: Estimates,
    /// What is to be read of the index's file before the lists can be, …
    absent: Vec<Range<u64>>,
    /// … and about how many allowed rows that brings.
    absent_rows: f32,
}

/// What a list promises for a query.
#[derive(Debug, Clone, Copy)]
struct Prospect {
    prospect: f32,
    list: u32,
    /// Of the query with the mean.
    product: f32,
    /// Distance of the query from the mean.
    away: f32,
}

impl<'a> Search<'a> {
    /// A search for the best `k` of the allowed rows; `k` is at least [`NEIGHBOURS`](crate::truth::NEIGHBOURS).
    pub fn new(index: &'a Ivf, query: Query, k: usize, effort: f32, allowed: Option<&'a FixedBitSet>) -> Self {
        let wide = allowed.is_some() || k >= MANY_HITS;
        let Tuning {
            reach,
            reach_wide,
            slack,
            ..
        } = index.tuning;
        let unit = effort * query.unit(index.tuning.length);
        Self {
            index,
            table: index.bits.table(&query),
            reach: reach * unit,
            reach_wide: reach_wide * unit,
            slack: slack * effort.sqrt(),
            wide,
            k,
            query,
            allowed,
            best: TopK::new(Metric::Dot, k),
            candidates: Vec::with_capacity(k * CANDIDATES_PER_HIT),
            estimates: Estimates::new(),
            absent: Vec::new(),
            absent_rows: 0.0,
        }
    }

    /// Members that are the best, and those so close to them that only exact scores tell.
    ///
    /// # Errors
    /// Ranges of the index's file that have to be read first. Further ones may turn out to be needed then.
    pub fn run(mut self, stats: &mut SearchStats) -> Result<Vec<u32>, Vec<Range<u64>>> {
        self.read_lists(stats);
        if self.absent.is_empty() {
            Ok(self.refine(stats))
        } else {
            Err(self.absent)
        }
    }

    /// Of what lists promise, what lies within the reach of the best or above (all for a wide search), and the best.
    fn worthwhile(&self, mut prospects: Vec<Prospect>) -> (Vec<Prospect>, f32) {
        let index = self.index;
        if let Some(allowed) = self.allowed {
            for prospect in &mut prospects {
                if !index.has_allowed(&index.lists[prospect.list as usize], allowed) {
                    prospect.prospect = f32::NEG_INFINITY;
                }
            }
        }
        let pairs = prospects.iter().map(|prospect| (prospect.list, prospect.prospect));
        let best = index.best_prospect(pairs, self.k);
        let least = if self.wide { f32::MIN } else { best - self.reach };
        // A list without allowed rows comes nowhere near; one with a damaged mean is not a number and is read.
        prospects.retain(|prospect| prospect.prospect.total_cmp(&least).is_ge());
        (prospects, best)
    }

    /// What all lists promise.
    fn all(&self, stats: &mut SearchStats) -> Vec<Prospect> {
        let factors = &self.index.factors;
        let mut integers = vec![0; factors.numbers.len()];
        self.index.means.products(&self.query, &factors.numbers, &mut integers);
        stats.means += integers.len();
        let numbers = integers.iter().zip(&factors.step).zip(&factors.added);
        let numbers = numbers.zip(&factors.squared).zip(&factors.spread).zip(0..);
        let prospects = numbers.map(|(((((integer, step), added), squared), spread), list)| {
            self.prospect(list, *integer, [*step, *added, *squared, *spread])
        });
        prospects.collect()
    }

    /// What the lists promise that a graph leads to.
    fn routed(&self, graph: &Graph, stats: &mut SearchStats) -> Vec<Prospect> {
        let Ivf { means, factors, .. } = self.index;
        let of = |list: u32, integer: i32| {
            let at = list as usize;
            let of_list = [
                factors.step[at],
                factors.added[at],
                factors.squared[at],
                factors.spread[at],
            ];
            self.prospect(list, integer, of_list)
        };
        let mut integers = Vec::new();
        let score = |lists: &[u32], worths: &mut [f32]| {
            integers.resize(lists.len(), 0);
            lists.iter().for_each(|list| means.prefetch(*list));
            means.products(&self.query, lists, &mut integers);
            for ((list, integer), worth) in lists.iter().zip(&integers).zip(worths) {
                *worth = of(*list, *integer).prospect;
            }
        };
        let mut walked = SearchStats::default();
        let reach = if self.wide {
            WIDE_REACH * self.reach.max(self.reach_wide)
        } else {
            self.reach
        };
        let near = graph.near(reach, score, &mut walked);
        stats.means += walked.codes;
        // What lies beyond the reach is not all there is: a wide search would end at it and leave better lists out.
        let least = near
            .first()
            .filter(|_| self.wide)
            .map_or(f32::MIN, |(_, best)| best - reach);
        let near = near.into_iter().filter(|(_, prospect)| *prospect >= least);
        let lists: Vec<u32> = near.map(|(list, _)| list).collect();
        let mut integers = vec![0; lists.len()];
        means.products(&self.query, &lists, &mut integers);
        lists
            .iter()
            .zip(integers)
            .map(|(list, integer)| of(*list, integer))
            .collect()
    }

    /// What a list promises, from the product of its mean with the query and its factors: step, added, squared, spread.
    #[inline]
    fn prospect(&self, list: u32, integer: i32, [step, added, squared, spread]: [f32; 4]) -> Prospect {
        let product = integer as f32 * (step * self.query.step);
        let squared = self.query.squared - 2.0 * product + squared;
        let away = if squared > 0.0 { squared } else { 0.0 }.sqrt();
        Prospect {
            prospect: product + added + spread * away,
            list,
            product,
            away,
        }
    }

    /// The estimate that the k-th best row has so far.
    fn threshold(&self) -> f32 {
        self.best.worst().unwrap_or(f32::MIN)
    }

    /// Reads lists, the most promising first, down to the reach, and further while there are too few rows.
    fn read_lists(&mut self, stats: &mut SearchStats) {
        let near = match &self.index.router {
            Some(graph) => self.routed(graph, stats),
            None => self.all(stats),
        };
        let (mut near, best) = self.worthwhile(near);
        let is_done = self.read_in_order(&mut near, best, stats);
        let were_all = self.wide && self.index.router.is_none();
        if is_done || were_all || !self.absent.is_empty() || (self.best.is_full() && !self.wide) {
            return;
        }
        self.wide = true;
        let (mut others, best) = self.worthwhile(self.all(stats));
        let read: FixedBitSet = near.iter().map(|prospect| prospect.list as usize).collect();
        others.retain(|prospect| !read.contains(prospect.list as usize));
        self.read_in_order(&mut others, best, stats);
    }

    /// Whether it came to a list of a wide search that is too bad to be read.
    fn read_in_order(&mut self, prospects: &mut [Prospect], best: f32, stats: &mut SearchStats) -> bool {
        // Short lists are read faster than the memory brings the next one.
        let ahead = if self.index.router.is_some() {
            SHORT_LISTS_AHEAD
        } else {
            1
        };
        let mut rest = prospects;
        while !rest.is_empty() {
            let count = rest.len().min(SORTED_LISTS);
            let better = |a: &Prospect, b: &Prospect| b.prospect.total_cmp(&a.prospect);
            if count < rest.len() {
                rest.select_nth_unstable_by(count - 1, better);
            }
            let (sorted, after) = rest.split_at_mut(count);
            sorted.sort_unstable_by(better);
            for next in sorted.iter().take(ahead) {
                self.prefetch(next.list);
            }
            for (at, next) in sorted.iter().enumerate() {
                let worst = self.best.worst().filter(|_| self.wide);
                // Never less far than without a filter.
                let far = |worst: f32| (best.midpoint(worst) - self.reach_wide).min(best - self.reach);
                if worst.is_some_and(|worst| next.prospect < far(worst)) {
                    return true;
                }
                // How far to look shows when what is absent was read.
                let is_first = self.wide && worst.is_none();
                if is_first && self.absent_rows > (self.k * ABSENT_PER_HIT) as f32 && next.prospect < best - self.reach
                {
                    return true;
                }
                if let Some(after) = sorted.get(at + ahead) {
                    self.prefetch(after.list);
                }
                self.read_list(next, stats);
            }
            rest = after;
        }
        false
    }

    fn prefetch(&self, list: u32) {
        let (start, size) = self.index.blocks_of(list);
        codes::prefetch(&self.index.blocks, start, size);
    }

    fn read_list(&mut self, prospect: &Prospect, stats: &mut SearchStats) {
        let index = self.index;
        let list = index.lists[prospect.list as usize];
        let absent = index.absent(&list);
        if !absent.is_empty() {
            self.absent.extend(absent);
            let allowed = self
                .allowed
                .map_or(1.0, |set| set.count_ones(..) as f32 / index.rows as f32);
            self.absent_rows += allowed * (list.end - list.start) as f32;
            return;
        }
        stats.lists += 1;
        stats.codes += (list.end - list.start) as usize;
        let step = index.bits.block_bytes();
        let (start, size) = index.blocks_of(prospect.list);
        let blocks = &index.blocks[start..][..size];
        let mut terms = Terms {
            base: prospect.product,
            scale: self.table.scale,
            error: self.slack * prospect.away / (index.space.padded() as f32).sqrt(),
            threshold: 0.0,
        };
        for (chunk, blocks) in blocks.chunks(CHUNK_BLOCKS * step).enumerate() {
            terms.threshold = self.threshold();
            codes::scan(blocks, &self.table.entries, &terms, &mut self.estimates);
            let first = list.start + (chunk * CHUNK_BLOCKS * BLOCK_ROWS) as u32;
            self.take(first, list.end, blocks.len() / step);
        }
    }

    /// Notes the rows of a scan that passed and are allowed.
    fn take(&mut self, first: u32, end: u32, blocks: usize) {
        for block in 0..blocks {
            let mut passing = self.estimates.passing[block];
            let start = first + (block * BLOCK_ROWS) as u32;
            if passing != 0 {
                // Damaged codes let places pass that have no row.
                passing &= low_bits(end - start);
                if let Some(allowed) = self.allowed {
                    passing &= self.index.allowed_mask(start, (end - start) as usize, allowed);
                }
            }
            while passing != 0 {
                let place = passing.trailing_zeros();
                passing &= passing - 1;
                let at = block * BLOCK_ROWS + place as usize;
                let candidate = Candidate {
                    bound: self.estimates.bounds[at],
                    estimate: self.estimates.estimates[at],
                    member: start + place,
                };
                self.best.push(candidate.member, candidate.estimate);
                self.candidates.push(candidate);
            }
        }
    }

    /// The members whose byte codes come near the k-th best, or better.
    fn refine(&mut self, stats: &mut SearchStats) -> Vec<u32> {
        let (k, threshold) = (self.k, self.threshold());
        self.candidates.retain(|candidate| candidate.bound >= threshold);
        if self.candidates.len() > k {
            // The best estimates come first, because they tell best which of the others can be left out.
            let better = |a: &Candidate, b: &Candidate| b.estimate.total_cmp(&a.estimate);
            self.candidates.select_nth_unstable_by(k, better);
        }
        for candidate in &self.candidates {
            self.index.bytes.prefetch(candidate.member);
        }
        let margin = self.index.tuning.margin * self.query.unit(self.index.tuning.length);
        let mut best = TopK::new(Metric::Dot, k);
        let mut refined = Vec::with_capacity(self.candidates.len());
        let (mut ids, mut worths) = ([0; REFINED_AT_ONCE], [0.0; REFINED_AT_ONCE]);
        let mut rest = self.candidates.as_slice();
        while !rest.is_empty() {
            let threshold = best.worst().unwrap_or(f32::MIN) - margin;
            let mut count = 0;
            while let (Some((candidate, after)), true) = (rest.split_first(), count < REFINED_AT_ONCE) {
                ids[count] = candidate.member;
                count += usize::from(candidate.bound >= threshold);
                rest = after;
            }
            self.index.bytes.worths(&self.query, &ids[..count], &mut worths);
            stats.refined += count;
            for (id, worth) in ids.iter().zip(&worths).take(count) {
                best.push(*id, *worth);
                refined.push((*id, *worth));
            }
        }
        let threshold = best.worst().unwrap_or(f32::MIN) - margin;
        let near = refined.into_iter().filter(|(_, worth)| *worth >= threshold);
        near.map(|(member, _)| member).collect()
    }
}

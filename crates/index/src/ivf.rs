//! Inverted file: rows grouped in lists of similar ones, with codes of three precisions.
//!
//! ```text
//! lists      one byte code for each list's mean        which lists to read, in which order
//! blocks     bit codes, list after list                estimates with errors: which rows may be among the best
//! bytes      byte codes, in the same order             which of these are, up to rounding
//! the rows   the caller's floats                       exact scores of the few that are left
//! ```
//!
//! **How far to look** is decided per query. A list with mean m and radius ρ (of its rows around m) has about
//!
//! ```text
//! prospect = worth of an average row + SPREAD × ρ × |q' − m|
//! ```
//!
//! to offer. Lists are read in the order of their prospects, down to `reach` below the best one. With a filter, or for many hits, the best
//! prospect says less about how good the hits can be; then lists are read down to `reach` below the middle between the best
//! prospect and the k-th best estimate so far. A row is looked at more closely if its estimate and `slack` × its error
//! come up to the k-th best estimate. Reach and slack are measured when the index is built ([`build`]).
//!
//! **Outliers**, rows far from the mean of their list, are in no list: they would spoil its radius. They are scored in every search.

mod build;
mod file;

use bytes::Bytes;
use fixedbitset::{Block, FixedBitSet};

use crate::bit_codes::{BitCodes, Table};
use crate::byte_codes::ByteCodes;
use crate::flat::scan_all;
use crate::metric::Metric;
use crate::rows::Rows;
use crate::scan::scan_ids;
use crate::simd::codes::{self, BLOCK_ROWS, CHUNK_BLOCKS, Estimates, Terms};
use crate::space::{Query, Space};
use crate::topk::{Hit, TopK};
use crate::vector_index::{IndexKind, SearchParams, SearchStats, VectorIndex};

/// Fewer hits than this say too little about how good hits can be: the search goes on as for so many.
const HITS_MIN: usize = 10;
/// Allowed rows per list up to which scoring just them is cheaper than reading lists.
const ALLOWED_PER_LIST: usize = 2;
/// Rows for each wanted hit up to which scoring all is cheaper.
const ROWS_PER_HIT: usize = 4;
/// How much of radius × distance the best rows of a list are better than its average row. Measured: anything from 0.3 to 0.5 orders the
/// lists about equally well.
const SPREAD: f32 = 0.4;
/// From so many wanted hits on the best prospect alone says too little.
const MANY_HITS: usize = 20;
/// Lists whose prospects are sorted at once: as many as most searches read.
const SORTED_LISTS: usize = 32;
/// Candidates refined between two looks at the k-th best.
const REFINED_AT_ONCE: usize = 32;

/// An inverted file. See the module.
#[derive(Debug, Clone)]
pub struct Ivf {
    rows: usize,
    space: Space,
    /// The mean of each list; `added` is the mean offset of its rows.
    means: ByteCodes,
    lists: Vec<List>,
    /// What every search calculates with for every list.
    factors: Factors,
    /// Rows of all lists, list after list; `None` if the rows are sorted by list, so that member `i` is row `i`.
    members: Option<Vec<u32>>,
    bits: BitCodes,
    blocks: Bytes,
    bytes: ByteCodes,
    /// Rows without a place in a list.
    outliers: Vec<u32>,
    tuning: Tuning,
}

/// A group of similar rows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct List {
    /// Its members are `start..end`.
    start: u32,
    end: u32,
    /// Number of its first block.
    block: u32,
    /// Squared length of its mean.
    squared: f32,
    /// Root of the mean squared distance of its rows from the mean.
    radius: f32,
}

/// Numbers of all lists, kind by kind, so that they are calculated with several at a time.
#[derive(Debug, Clone, Default)]
struct Factors {
    numbers: Vec<u32>,
    step: Vec<f32>,
    added: Vec<f32>,
    squared: Vec<f32>,
    /// `SPREAD` × radius
    spread: Vec<f32>,
}

/// What was measured when the index was built.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tuning {
    /// How far below the best prospect a list may lie, in units of the query's length.
    reach: f32,
    /// How far below the middle between the best prospect and the k-th best estimate, for filters and many hits.
    reach_wide: f32,
    /// How wrong estimates may be, in units of their errors.
    slack: f32,
    /// How wrong byte codes may be, in units of the query's length; for Manhattan also how much the two distances differ.
    margin: f32,
}

/// A row that may be among the best.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    bound: f32,
    estimate: f32,
    /// Its place among the members.
    member: u32,
}

/// One search under way.
struct Search<'a> {
    index: &'a Ivf,
    query: Query,
    table: Table,
    allowed: Option<&'a FixedBitSet>,
    slack: f32,
    /// In units of worth.
    reach: f32,
    wide: bool,
    k: usize,
    /// The best estimates so far.
    best: TopK,
    candidates: Vec<Candidate>,
    estimates: Estimates,
}

impl Ivf {
    /// Number of lists.
    pub fn lists(&self) -> usize {
        self.lists.len()
    }

    /// The row of a member.
    fn row(&self, member: u32) -> u32 {
        self.members.as_ref().map_or(member, |members| members[member as usize])
    }

    /// Where the blocks of a list start, and their bytes.
    fn blocks_of(&self, list: u32) -> (usize, usize) {
        let (list, step) = (&self.lists[list as usize], self.bits.block_bytes());
        let count = ((list.end - list.start) as usize).div_ceil(BLOCK_ROWS);
        (list.block as usize * step, count * step)
    }

    /// The best of the lists' prospects, or the first that has `k` rows in lists as good or better: a list of few rows far out says
    /// nothing about how good the k-th hit will be.
    fn best_prospect(&self, prospects: impl Iterator<Item = f32> + Clone, k: usize) -> f32 {
        let size = |list: usize| (self.lists[list].end - self.lists[list].start) as usize;
        let better = |best: (f32, usize), (list, prospect): (usize, f32)| {
            if prospect > best.0 { (prospect, list) } else { best }
        };
        let (best, list) = prospects.clone().enumerate().fold((f32::MIN, 0), better);
        if self.lists.is_empty() || size(list) >= k {
            return best;
        }
        let mut sorted: Vec<(usize, f32)> = prospects.enumerate().collect();
        sorted.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        let mut rows = 0;
        let reached = sorted.iter().find(|(list, _)| {
            rows += size(*list);
            rows >= k
        });
        reached.or(sorted.last()).map_or(best, |(_, prospect)| *prospect)
    }

    /// Whether a list has an allowed row.
    fn has_allowed(&self, list: &List, allowed: &FixedBitSet) -> bool {
        match &self.members {
            None => (list.start..list.end)
                .step_by(BLOCK_ROWS)
                .any(|first| bits_at(allowed.as_slice(), first as usize) & low_bits(list.end - first) != 0),
            Some(members) => members[list.start as usize..list.end as usize]
                .iter()
                .any(|row| allowed.contains(*row as usize)),
        }
    }

    /// Which members of a block are allowed, one bit each.
    fn allowed_mask(&self, first: u32, count: usize, allowed: &FixedBitSet) -> u16 {
        match &self.members {
            None => bits_at(allowed.as_slice(), first as usize),
            Some(members) => {
                let rows = members[first as usize..].iter().take(count.min(BLOCK_ROWS)).enumerate();
                rows.fold(0, |mask, (at, row)| {
                    mask | u16::from(allowed.contains(*row as usize)) << at
                })
            }
        }
    }
}

/// 16 bits from a place on; 0 beyond the end.
fn bits_at(blocks: &[Block], at: usize) -> u16 {
    const BITS: usize = Block::BITS as usize;
    let (index, shift) = (at / BITS, at % BITS);
    let low = blocks.get(index).map_or(0, |block| block >> shift);
    let spilled = shift > BITS - BLOCK_ROWS;
    let high = if spilled {
        blocks.get(index + 1).map_or(0, |block| block << (BITS - shift))
    } else {
        0
    };
    (low | high) as u16
}

impl Factors {
    fn new(means: &ByteCodes, lists: &[List]) -> Self {
        let both: Vec<[f32; 2]> = (0..lists.len() as u32).map(|list| means.factors(list)).collect();
        Self {
            numbers: (0..lists.len() as u32).collect(),
            step: both.iter().map(|[step, _]| *step).collect(),
            added: both.iter().map(|[_, added]| *added).collect(),
            squared: lists.iter().map(|list| list.squared).collect(),
            spread: lists.iter().map(|list| SPREAD * list.radius).collect(),
        }
    }
}

/// The `count` lowest bits of 16.
fn low_bits(count: u32) -> u16 {
    if count >= u16::BITS { u16::MAX } else { (1 << count) - 1 }
}

impl Search<'_> {
    /// The lists whose prospects lie within the reach of the best one or above (all for a wide search), and that one.
    fn prospects(&self) -> (Vec<Prospect>, f32) {
        let index = self.index;
        let factors = &index.factors;
        let count = index.lists.len();
        let mut integers = vec![0; count];
        index.means.products(&self.query, &factors.numbers, &mut integers);
        let numbers = integers.iter().zip(&factors.step).zip(&factors.added);
        let numbers = numbers.zip(&factors.squared).zip(&factors.spread);
        let prospect = |((((integer, step), added), squared), spread): ((((&i32, &f32), &f32), &f32), &f32)| {
            let product = *integer as f32 * (step * self.query.step);
            let squared = self.query.squared - 2.0 * product + squared;
            let away = if squared > 0.0 { squared } else { 0.0 }.sqrt();
            [product + added + spread * away, product, away]
        };
        let mut all: Vec<[f32; 3]> = numbers.map(prospect).collect();
        if let Some(allowed) = self.allowed {
            for ([prospect, ..], list) in all.iter_mut().zip(&index.lists) {
                if !index.has_allowed(list, allowed) {
                    *prospect = f32::NEG_INFINITY;
                }
            }
        }
        let prospects = all.iter().map(|[prospect, ..]| *prospect);
        let best = index.best_prospect(prospects, self.k);
        let least = if self.wide { f32::MIN } else { best - self.reach };
        // A list without allowed rows comes nowhere near; one with a damaged mean is not a number and is read.
        let near = all
            .iter()
            .zip(0..)
            .filter(|([prospect, ..], _)| prospect.total_cmp(&least).is_ge());
        let near = near.map(|(&[prospect, product, away], list)| Prospect {
            prospect,
            list,
            product,
            away,
        });
        (near.collect(), best)
    }

    /// The estimate that the k-th best row has so far.
    fn threshold(&self) -> f32 {
        self.best.worst().unwrap_or(f32::MIN)
    }

    /// Reads lists, the most promising first, down to the reach, and further while there are too few rows.
    fn read_lists(&mut self, stats: &mut SearchStats) {
        let (mut near, best) = self.prospects();
        self.read_in_order(&mut near, best, stats);
        if !self.wide && !self.best.is_full() {
            self.wide = true;
            let (mut all, best) = self.prospects();
            all.retain(|prospect| prospect.prospect.total_cmp(&(best - self.reach)).is_lt());
            self.read_in_order(&mut all, best, stats);
        }
    }

    fn read_in_order(&mut self, prospects: &mut [Prospect], best: f32, stats: &mut SearchStats) {
        let mut rest = prospects;
        while !rest.is_empty() {
            let count = rest.len().min(SORTED_LISTS);
            let better = |a: &Prospect, b: &Prospect| b.prospect.total_cmp(&a.prospect);
            if count < rest.len() {
                rest.select_nth_unstable_by(count - 1, better);
            }
            let (sorted, after) = rest.split_at_mut(count);
            sorted.sort_unstable_by(better);
            for (at, next) in sorted.iter().enumerate() {
                let worst = self.best.worst().filter(|_| self.wide);
                if worst.is_some_and(|worst| next.prospect < best.midpoint(worst) - self.reach) {
                    return;
                }
                if let Some(after) = sorted.get(at + 1) {
                    let (start, size) = self.index.blocks_of(after.list);
                    codes::prefetch(&self.index.blocks, start, size);
                }
                self.read_list(next, stats);
            }
            rest = after;
        }
    }

    fn read_list(&mut self, prospect: &Prospect, stats: &mut SearchStats) {
        let index = self.index;
        let list = index.lists[prospect.list as usize];
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
            if let (Some(allowed), true) = (self.allowed, passing != 0) {
                passing &= self.index.allowed_mask(start, (end - start) as usize, allowed);
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
    fn refine(&mut self, k: usize, stats: &mut SearchStats) -> Vec<u32> {
        let threshold = self.threshold();
        self.candidates.retain(|candidate| candidate.bound >= threshold);
        if self.candidates.len() > k {
            // The best estimates come first, because they tell best which of the others can be left out.
            let better = |a: &Candidate, b: &Candidate| b.estimate.total_cmp(&a.estimate);
            self.candidates.select_nth_unstable_by(k, better);
        }
        for candidate in &self.candidates {
            self.index.bytes.prefetch(candidate.member);
        }
        let margin = self.index.tuning.margin * self.query.squared.sqrt();
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

impl VectorIndex for Ivf {
    fn kind(&self) -> IndexKind {
        IndexKind::Ivf
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.space.dim())
    }

    fn search_counted(
        &self,
        rows: &Rows,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Vec<Hit> {
        let metric = self.space.metric();
        let k = params.k.max(HITS_MIN);
        let scanned = allowed.map_or(self.rows, |set| set.count_ones(..));
        let few = scanned <= (self.lists.len() * ALLOWED_PER_LIST).max(k * ROWS_PER_HIT);
        let usable = !params.exact && !few && params.k > 0 && self.shape() == (rows.len(), rows.dim());
        let Some(placed) = usable.then(|| self.space.query(query)).flatten() else {
            return scan_all(metric, rows, query, params.k, allowed, stats);
        };
        let wide = allowed.is_some() || k >= MANY_HITS;
        let reach = if wide {
            self.tuning.reach_wide
        } else {
            self.tuning.reach
        };
        let mut search = Search {
            index: self,
            table: self.bits.table(&placed),
            reach: reach * params.effort * placed.squared.sqrt(),
            wide,
            k,
            query: placed,
            allowed,
            slack: self.tuning.slack * params.effort.sqrt(),
            best: TopK::new(Metric::Dot, k),
            candidates: Vec::with_capacity(k * 16),
            estimates: Estimates::new(),
        };
        search.read_lists(stats);
        let mut exact = search.refine(k, stats);
        exact.iter_mut().for_each(|member| *member = self.row(*member));
        exact.extend(
            self.outliers
                .iter()
                .filter(|row| allowed.is_none_or(|set| set.contains(**row as usize))),
        );
        stats.exact += exact.len();
        for row in &exact {
            rows.as_row_slice().prefetch(*row);
        }
        let mut top = TopK::new(metric, params.k);
        scan_ids(metric, rows.as_row_slice(), &exact, query, None, &mut top);
        top.into_sorted()
    }

    fn encode(&self) -> Vec<u8> {
        file::encode(self)
    }

    fn memory_bytes(&self) -> usize {
        let members = self.members.as_ref().map_or(0, Vec::len) + self.outliers.len();
        let codes = self.means.data().len() + self.blocks.len() + self.bytes.data().len();
        size_of::<Self>() + codes + members * size_of::<u32>() + self.lists.len() * size_of::<List>()
    }

    fn describe(&self) -> String {
        format!(
            "{} lists, {}-bit and 8-bit codes, {} outliers, reach {:.3} (wide {:.3}), slack {:.2}",
            self.lists.len(),
            self.bits.bits(),
            self.outliers.len(),
            self.tuning.reach,
            self.tuning.reach_wide,
            self.tuning.slack
        )
    }
}

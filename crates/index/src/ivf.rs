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
//! prospect and the k-th best estimate so far, and never less far than otherwise. A row is looked at more closely if its estimate and
//! `slack` × its error come up to the k-th best estimate. Reach and slack are measured when the index is built (`ivf/tune.rs`).
//!
//! **A hybrid index** (after SPANN, Chen et al. 2021) has many short lists and a graph over their means. A search walks the graph by the
//! prospects, as far as the reach, instead of calculating them all; one whose lists turn out to have too few allowed rows looks at the others
//! as well.
//!
//! **Outliers**, rows far from the mean of their list, are in no list: they would spoil its radius. They are scored in every search.

mod build;
mod file;
mod search;
mod tune;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fixedbitset::{Block, FixedBitSet};

use crate::bit_codes::BitCodes;
use crate::byte_codes::ByteCodes;
use crate::graph::Graph;
use crate::kmeans::cluster_count;
use crate::metric::Metric;
use crate::simd::codes::BLOCK_ROWS;
use crate::space::Space;
use crate::truth::NEIGHBOURS;
use crate::vector_index::{Chosen, IndexKind, Presence, SearchParams, SearchStats, VectorIndex};

use search::Search;

/// Allowed rows per list up to which scoring just them is cheaper than reading lists.
const ALLOWED_PER_LIST: usize = 2;
/// Rows for each wanted hit up to which scoring all is cheaper.
const ROWS_PER_HIT: usize = 4;
/// How much of radius × distance the best rows of a list are better than its average row. Measured: anything from 0.3 to 0.5 orders the
/// lists about equally well.
const SPREAD: f32 = 0.4;

/// An inverted file. See the module.
#[derive(Debug, Clone)]
pub struct Ivf {
    rows: usize,
    space: Space,
    /// The mean of each list; `added` is the mean offset of its rows.
    means: ByteCodes,
    lists: Vec<List>,
    /// Leads to the lists near a query where there are too many to look at all of their means.
    router: Option<Graph>,
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
    /// Knows which lists' blocks and bytes are there, if some may not be.
    presence: Option<Arc<dyn Presence>>,
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
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tuning {
    /// How far below the best prospect a list may lie.
    reach: f32,
    /// How far below the middle between the best prospect and the k-th best estimate, for filters and many hits.
    reach_wide: f32,
    /// How wrong estimates may be, in units of their errors.
    slack: f32,
    /// How wrong byte codes may be; for Manhattan also how much the two distances differ.
    margin: f32,
    /// Root of the mean squared length of the rows from the centre.
    length: f32,
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

    /// What is absent of a list's codes.
    fn absent(&self, list: &List) -> Vec<Range<u64>> {
        let Some(presence) = &self.presence else {
            return Vec::new();
        };
        let step = self.bits.block_bytes();
        let count = ((list.end - list.start) as usize).div_ceil(BLOCK_ROWS);
        let parts = [
            &self.blocks[list.block as usize * step..][..count * step],
            self.bytes.range(list.start..list.end),
        ];
        parts.into_iter().filter_map(|part| presence.absent(part)).collect()
    }

    /// The best of the lists' prospects, or the first that has `k` rows in lists as good or better: a list of few rows far out says
    /// nothing about how good the k-th hit will be.
    fn best_prospect(&self, prospects: impl Iterator<Item = (u32, f32)> + Clone, k: usize) -> f32 {
        let size = |list: u32| (self.lists[list as usize].end - self.lists[list as usize].start) as usize;
        let better = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
        let (list, best) = prospects.clone().fold((0, f32::MIN), better);
        if self.lists.is_empty() || size(list) >= k {
            return best;
        }
        let mut sorted: Vec<(u32, f32)> = prospects.collect();
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
    const BYTES_PER_LIST: usize = 5 * 4;

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

impl VectorIndex for Ivf {
    fn kind(&self) -> IndexKind {
        if self.router.is_some() {
            IndexKind::Hybrid
        } else {
            IndexKind::Ivf
        }
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.space.dim())
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
        let k = params.k.max(NEIGHBOURS);
        let scanned = allowed.map_or(self.rows, |set| set.count_ones(..));
        let lists = self.lists.len().min(cluster_count(self.rows));
        let few = scanned <= (lists * ALLOWED_PER_LIST).max(k.saturating_mul(ROWS_PER_HIT));
        let usable = !params.exact && !few && params.k > 0;
        let Some(placed) = usable.then(|| self.space.query(query)).flatten() else {
            return Chosen::All;
        };
        let mut exact = match Search::new(self, placed, k, params.effort, allowed).run(stats) {
            Ok(exact) => exact,
            Err(absent) => return Chosen::Absent(absent),
        };
        exact.iter_mut().for_each(|member| *member = self.row(*member));
        let is_allowed = |row: &&u32| allowed.is_none_or(|set| set.contains(**row as usize));
        exact.extend(self.outliers.iter().filter(is_allowed));
        Chosen::Rows(exact)
    }

    fn encode(&self) -> Vec<u8> {
        file::encode(self)
    }

    fn head_bytes(&self) -> Option<usize> {
        // The graph lies at the end: a hybrid is read whole.
        self.router.is_none().then(|| file::head_bytes(self))
    }

    fn memory_bytes(&self) -> usize {
        let members = self.members.as_ref().map_or(0, Vec::len) + self.outliers.len();
        let codes = self.means.data().len() + self.blocks.len() + self.bytes.data().len();
        let lists = self.lists.len() * (size_of::<List>() + Factors::BYTES_PER_LIST);
        let graph = self.router.as_ref().map_or(0, Graph::memory_bytes);
        size_of::<Self>() + codes + members * size_of::<u32>() + lists + graph
    }

    fn describe(&self) -> String {
        let routed = |graph: &Graph| {
            format!(
                "graph of {} levels with {} neighbours over {} centroids, ",
                graph.levels(),
                2 * graph.m(),
                self.lists.len()
            )
        };
        format!(
            "{}{} lists, {}-bit and 8-bit codes, {} outliers, reach {:.3} (wide {:.3}), slack {:.2}",
            self.router.as_ref().map(routed).unwrap_or_default(),
            self.lists.len(),
            self.bits.bits(),
            self.outliers.len(),
            self.tuning.reach,
            self.tuning.reach_wide,
            self.tuning.slack
        )
    }
}

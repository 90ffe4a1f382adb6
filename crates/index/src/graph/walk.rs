//! One walk through a graph: from node to nearer node, until none of the best ones has a neighbour that is better.

use fixedbitset::FixedBitSet;

use crate::simd::codes;
use crate::topk::{rank, score_of};
use crate::vector_index::SearchStats;

/// Lists that are on their way from memory while one is read.
const AHEAD: usize = 6;

/// Nodes that are kept and visited whatever the reach: the first nodes of a walk lie far from the best ones.
const NEAR: usize = 8;

/// Lists of neighbours, all with room for as many. A number that is no node ends a list: [`Lists::NONE`], or whatever damaged bytes
/// hold, so that a walk never leaves the graph.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists<'a> {
    nodes: u32,
    size: usize,
    cells: &'a [[u8; 4]],
}

impl<'a> Lists<'a> {
    pub const NONE: [u8; 4] = [u8::MAX; 4];

    /// Lists of `size` cells.
    pub fn new(size: usize, cells: &'a [[u8; 4]]) -> Self {
        let nodes = (cells.len() / size) as u32;
        Self { nodes, size, cells }
    }

    /// The neighbours of a node, about the nearest first.
    #[inline]
    pub fn of(self, node: u32) -> impl Iterator<Item = u32> + 'a {
        let list = &self.cells[node as usize * self.size..][..self.size];
        let numbers = list.iter().map(|cell| u32::from_le_bytes(*cell));
        numbers.take_while(move |number| *number < self.nodes)
    }

    fn prefetch(self, node: u32) {
        codes::prefetch(self.cells, node as usize * self.size, self.size);
    }
}

/// Which nodes a walk keeps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    /// How many at most.
    pub room: usize,
    /// How far below the best one others may lie, except for the first few.
    pub reach: f32,
}

impl Extent {
    /// As many as there is room for.
    pub fn room(room: usize) -> Self {
        Self {
            room,
            reach: f32::INFINITY,
        }
    }
}

/// The best nodes of a walk, the best first. An entry is a rank of [`crate::topk`] whose lowest bit says that its neighbours are known.
#[derive(Debug, Default)]
struct Pool {
    entries: Vec<u64>,
    extent: Extent,
    /// No entry before this one waits for its neighbours.
    next: usize,
}

impl Pool {
    #[inline]
    fn push(&mut self, node: u32, worth: f32) {
        let entry = rank(true, worth, node << 1);
        if self.entries.len() == self.extent.room {
            if self.entries.last().is_none_or(|last| entry >= *last) {
                return;
            }
            self.entries.pop();
        }
        // Nodes that lie too far below the best one make room one by one, as better ones come.
        if self.entries.len() > NEAR {
            let best = self.entries.first().map_or(f32::MIN, |best| score_of(true, *best));
            if self
                .entries
                .last()
                .is_some_and(|last| score_of(true, *last) < best - self.extent.reach)
            {
                self.entries.pop();
            }
            if worth < best - self.extent.reach {
                return;
            }
        }
        let at = self.entries.partition_point(|other| *other < entry);
        self.entries.insert(at, entry);
        self.next = self.next.min(at);
    }

    /// The best node that waits for its neighbours.
    #[inline]
    fn take_next(&mut self) -> Option<u32> {
        let entry = self.entries.get_mut(self.next)?;
        *entry |= 1;
        let node = *entry as u32 >> 1;
        let waits = |entry: &u64| entry & 1 == 0;
        let after = &self.entries[self.next..];
        self.next += after.iter().position(waits).unwrap_or(after.len());
        Some(node)
    }

    fn best_waiting(&self) -> Option<u32> {
        self.entries.get(self.next).map(|entry| *entry as u32 >> 1)
    }
}

/// Nodes that a walk has seen. To forget them costs as much as to see them, however large the graph.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    nodes: Vec<u32>,
}

impl Seen {
    /// Whether the node is new.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        let (block, bit) = (&mut self.bits[node as usize / 64], 1 << (node % 64));
        let new = *block & bit == 0;
        if new {
            *block |= bit;
            self.nodes.push(node);
        }
        new
    }

    fn clear(&mut self, nodes: u32) {
        for node in self.nodes.drain(..) {
            self.bits[node as usize / 64] = 0;
        }
        let blocks = (nodes as usize).div_ceil(64);
        if self.bits.len() < blocks {
            self.bits.resize(blocks, 0);
        }
    }
}

/// What walks need room for, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Walker {
    pool: Pool,
    seen: Seen,
    /// Nodes to be scored.
    fresh: Vec<u32>,
    worths: Vec<f32>,
    /// Neighbours that are not allowed.
    barred: Vec<u32>,
    /// The allowed nodes next to one of these.
    beyond: Vec<u32>,
}

impl Walker {
    /// Walks from `starts` towards what `score` finds best, and keeps the best nodes; of all others than the starts only those that
    /// are `allowed`. A node that is not allowed is walked through: its neighbours count as those of the node before it.
    pub fn walk(
        &mut self,
        lists: Lists<'_>,
        starts: &[u32],
        extent: Extent,
        allowed: Option<&FixedBitSet>,
        mut score: impl FnMut(&[u32], &mut [f32]),
        stats: &mut SearchStats,
    ) {
        self.seen.clear(lists.nodes);
        self.pool.entries.clear();
        (self.pool.extent, self.pool.next) = (extent, 0);
        self.fresh.clear();
        for start in starts {
            if self.seen.insert(*start) {
                self.fresh.push(*start);
            }
        }
        loop {
            self.worths.resize(self.fresh.len(), 0.0);
            score(&self.fresh, &mut self.worths);
            stats.codes += self.fresh.len();
            for (node, worth) in self.fresh.iter().zip(&self.worths) {
                self.pool.push(*node, *worth);
            }
            let Some(node) = self.pool.take_next() else { return };
            if let Some(next) = self.pool.best_waiting() {
                lists.prefetch(next);
            }
            stats.lists += 1;
            self.fresh.clear();
            match allowed {
                None => self.fresh.extend(lists.of(node).filter(|node| self.seen.insert(*node))),
                Some(allowed) => self.gather(lists, node, allowed),
            }
        }
    }

    /// The allowed nodes that are new, of those next to a node and, until as many have been met as a list holds, of those next to its
    /// neighbours that are not allowed. New or not, all that were met count: so where all is allowed nothing further is looked at.
    fn gather(&mut self, lists: Lists<'_>, node: u32, allowed: &FixedBitSet) {
        self.barred.clear();
        self.beyond.resize(lists.size, 0);
        let mut met = 0;
        for neighbour in lists.of(node) {
            if !allowed.contains(neighbour as usize) {
                self.barred.push(neighbour);
                continue;
            }
            met += 1;
            if self.seen.insert(neighbour) {
                self.fresh.push(neighbour);
            }
        }
        self.barred
            .iter()
            .take(AHEAD)
            .for_each(|barred| lists.prefetch(*barred));
        for (at, barred) in self.barred.iter().enumerate() {
            if met >= lists.size {
                return;
            }
            if let Some(later) = self.barred.get(at + AHEAD) {
                lists.prefetch(*later);
            }
            if self.seen.insert(*barred) {
                // Without a branch that would be guessed wrong again and again.
                let mut count = 0;
                for node in lists.of(*barred) {
                    self.beyond[count] = node;
                    count += usize::from(allowed.contains(node as usize));
                }
                met += count;
                let is_new = |node: &&u32| self.seen.insert(**node);
                self.fresh.extend(self.beyond[..count].iter().filter(is_new));
            }
        }
    }

    /// The nodes that the last walk kept, the best first, with their scores.
    pub fn found(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        let entries = self.pool.entries.iter();
        entries.map(|entry| (*entry as u32 >> 1, score_of(true, *entry)))
    }
}

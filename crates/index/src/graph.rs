//! A hierarchical navigable small world (Malkov and Yashunin 2016) over byte codes: from each node to similar ones.
//!
//! ```text
//! level 0    every node, 2 m neighbours at most     by number
//! level l    one node in m^l, m neighbours          by place in `tall`; the nodes of a level are the first of those of the level below
//! ```
//!
//! A search walks from the first node of `tall` to the best one of each level, and from there over level 0.
//!
//! The order that codes define, worth = q·x + added, is one of distances: to the points (x, lift) with lift² = the greatest
//! |y|² + 2 added(y) − (|x|² + 2 added(x)), from (q, 0). Nodes are neighbours by the distances of these points; so one graph serves every
//! metric, and vectors of unlike lengths under inner products.

mod build;
mod walk;

use std::cell::RefCell;

use bytes::Bytes;
use fixedbitset::FixedBitSet;

use crate::byte_codes::ByteCodes;
use crate::space::Query;
use crate::vector_index::{IndexError, Reader, SearchStats};
use walk::{Extent, Lists, Walker};

/// Nodes are numbered by 31 bits in a walk.
pub(crate) const NODES_MAX: usize = 1 << 31;
/// Neighbours on the upper levels, the least and the most.
pub(crate) const M_RANGE: std::ops::RangeInclusive<usize> = 4..=128;
/// Allowed nodes, spread over all, that a walk under a filter starts from as well: the allowed ones may lie far from where it would begin.
const STARTS: usize = 32;
thread_local! {
    static WALKER: RefCell<Walker> = RefCell::default();
}

/// A frozen graph. It knows numbers of nodes; what they are like is in codes that the caller passes.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    m: usize,
    /// Number of nodes, with or without links.
    nodes: usize,
    /// How many of them are linked.
    linked: usize,
    /// The nodes above level 0.
    tall: Vec<u32>,
    /// The lists of each level, level 0 first.
    levels: Vec<Bytes>,
}

impl Graph {
    /// The node that the upper levels lead to, if there is any.
    pub fn approach(&self, codes: &ByteCodes, query: &Query, stats: &mut SearchStats) -> Option<u32> {
        if self.linked == 0 {
            return None;
        }
        // Not borrowed meanwhile, whatever else this thread does.
        let mut walker = WALKER.take();
        let place = self.descend(&mut walker, 0, score(codes, query), stats);
        WALKER.set(walker);
        Some(self.tall[place as usize])
    }

    /// The best `room` nodes, about, of the allowed ones, the best first, with their worths, by a walk that begins at a node.
    pub fn search(
        &self,
        codes: &ByteCodes,
        query: &Query,
        first: u32,
        room: usize,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Vec<(u32, f32)> {
        if room == 0 {
            return Vec::new();
        }
        let mut starts = vec![first];
        if let Some(allowed) = allowed {
            starts.extend(spread(allowed, self.nodes));
        }
        let mut walker = WALKER.take();
        walker.walk(
            self.lists(0),
            &starts,
            Extent::room(room),
            allowed,
            score(codes, query),
            stats,
        );
        let is_allowed = |(node, _): &(u32, f32)| allowed.is_none_or(|set| set.contains(*node as usize));
        let found = walker.found().filter(is_allowed).collect();
        WALKER.set(walker);
        found
    }

    /// The nodes that `score` finds no more than `reach` worse than the best one, about, the best first, with their scores.
    pub fn near(
        &self,
        reach: f32,
        mut score: impl FnMut(&[u32], &mut [f32]),
        stats: &mut SearchStats,
    ) -> Vec<(u32, f32)> {
        if self.linked == 0 {
            return Vec::new();
        }
        let mut walker = WALKER.take();
        let place = self.descend(&mut walker, 0, &mut score, stats);
        let starts = [self.tall[place as usize]];
        let extent = Extent {
            room: self.nodes,
            reach,
        };
        walker.walk(self.lists(0), &starts, extent, None, &mut score, stats);
        let found = walker.found().collect();
        WALKER.set(walker);
        found
    }

    /// The place in `tall` of the best node that the levels above one lead to.
    fn descend(
        &self,
        walker: &mut Walker,
        above: usize,
        mut score: impl FnMut(&[u32], &mut [f32]),
        stats: &mut SearchStats,
    ) -> u32 {
        let mut place = 0;
        let mut rows = Vec::with_capacity(self.m);
        for level in (above + 1..self.levels.len()).rev() {
            let score = |places: &[u32], worths: &mut [f32]| {
                rows.clear();
                rows.extend(places.iter().map(|place| self.tall[*place as usize]));
                score(&rows, worths);
            };
            walker.walk(self.lists(level), &[place], Extent::room(1), None, score, stats);
            place = walker.found().next().map_or(0, |(place, _)| place);
        }
        place
    }

    fn lists(&self, level: usize) -> Lists<'_> {
        Lists::new(list_size(self.m, level), self.levels[level].as_chunks().0)
    }

    /// The neighbours of a node on level 0.
    pub fn neighbours(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        self.lists(0).of(node)
    }

    /// Neighbours on the upper levels, at most.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    pub fn memory_bytes(&self) -> usize {
        self.tall.len() * size_of::<u32>() + self.levels.iter().map(Bytes::len).sum::<usize>()
    }

    /// Appends `m │ linked │ tall: number × the nodes above level 0 │ lists of level 0 │ of level 1 │ …` to `body`.
    pub fn encode(&self, body: &mut Vec<u8>) {
        let numbers = [self.m as u32, self.linked as u32];
        for number in numbers.iter().chain(&self.tall) {
            body.extend_from_slice(&number.to_le_bytes());
        }
        self.levels.iter().for_each(|lists| body.extend_from_slice(lists));
    }

    /// A graph of so many nodes. Lists are not looked at: a walk stops at what is no node.
    ///
    /// # Errors
    /// `Damaged` if a search could stumble over what the bytes say.
    pub fn decode(nodes: usize, body: &mut Reader) -> Result<Self, IndexError> {
        let (m, linked) = (body.u32()? as usize, body.u32()? as usize);
        if !M_RANGE.contains(&m) || linked > nodes || nodes > NODES_MAX {
            return Err(IndexError::Damaged("a graph of other nodes"));
        }
        let counts = level_counts(linked, m);
        let tall = body.u32s(counts.get(1).copied().unwrap_or(0))?;
        if tall.iter().any(|node| *node as usize >= nodes) {
            return Err(IndexError::Damaged("a graph of other nodes"));
        }
        let sizes = counts.iter().enumerate().map(|(level, count)| {
            let count = if level == 0 { nodes } else { *count };
            count * list_size(m, level) * size_of::<u32>()
        });
        let levels = sizes.map(|size| body.take(size)).collect::<Result<_, _>>()?;
        Ok(Self {
            m,
            nodes,
            linked,
            tall,
            levels,
        })
    }
}

fn score(codes: &ByteCodes, query: &Query) -> impl Fn(&[u32], &mut [f32]) {
    |nodes, worths| {
        nodes.iter().for_each(|node| codes.prefetch(*node));
        codes.worths(query, nodes, worths);
    }
}

fn list_size(m: usize, level: usize) -> usize {
    if level == 0 { 2 * m } else { m }
}

/// The linked nodes of each level. There are always two, so that every graph has a first node.
fn level_counts(linked: usize, m: usize) -> Vec<usize> {
    let mut counts = vec![linked, linked.div_ceil(m)];
    while let Some(last) = counts.last().filter(|last| **last > m) {
        counts.push(last.div_ceil(m));
    }
    counts
}

/// Up to [`STARTS`] members of a set below `nodes`, the first of each of as many stretches.
fn spread(set: &FixedBitSet, nodes: usize) -> impl Iterator<Item = u32> + '_ {
    const BITS: usize = fixedbitset::Block::BITS as usize;
    let blocks = set.as_slice();
    let count = blocks.len().min(nodes.div_ceil(BITS));
    let first = move |stretch: usize| {
        let range = stretch * count / STARTS..(stretch + 1) * count / STARTS;
        let block = range.clone().find(|block| blocks[*block] != 0)?;
        Some((block * BITS) as u32 + blocks[block].trailing_zeros())
    };
    (0..STARTS)
        .filter_map(first)
        .filter(move |node| (*node as usize) < nodes)
}

//! Building a graph: level by level from the top, and on each level in batches. The nodes of a batch look for their neighbours in the graph
//! of the batches before, all at once and without locks; then the nodes that were found get their links back. So the same codes
//! give the same graph, whatever the number of cores.

use bytes::Bytes;

use super::walk::{Extent, Lists, Walker};
use super::{Graph, M_RANGE, NODES_MAX, level_counts, list_size};
use crate::byte_codes::ByteCodes;
use crate::parallel::in_parallel;
use crate::space::Query;
use crate::truth::scattered;
use crate::vector_index::SearchStats;

/// A batch is at most this part of the nodes before it, and of all: nodes of one batch do not find each other.
const BATCH_OF_DONE: usize = 4;
const BATCH_OF_ALL: usize = 50;
/// More nodes in sight would make a build take hours, and find nothing more.
const EF_MAX: usize = 1_000;
/// Squared distances up to this part of a squared length are none.
const ALIKE: f32 = 1e-6;
/// Chosen neighbours that a candidate is compared with at once: most are turned down by one of the first.
const COMPARED_AT_ONCE: usize = 8;

impl Graph {
    /// A graph over codes in which the nodes `linked` can be found. `ef` is how many nodes are kept in sight when the neighbours of a
    /// node are looked for.
    ///
    /// # Panics
    /// If there are more nodes than a walk can number.
    pub fn build(codes: &ByteCodes, linked: &[u32], m: usize, ef: usize) -> Self {
        assert!(codes.len() <= NODES_MAX, "nodes are numbered by 31 bits");
        let m = m.clamp(*M_RANGE.start(), *M_RANGE.end());
        // Rows often come sorted: neighbours would be added one after the other, and see nothing else.
        let mut order = linked.to_vec();
        order.sort_unstable_by_key(|node| (scattered(*node as usize), *node));
        let points = Points::new(codes);
        let counts = level_counts(order.len(), m);
        let mut graph = Self {
            m,
            nodes: codes.len(),
            linked: order.len(),
            tall: order[..counts[1]].to_vec(),
            levels: vec![Bytes::new(); counts.len()],
        };
        for (level, count) in counts.iter().enumerate().rev() {
            let builder = Builder {
                graph: &graph,
                points: &points,
                level,
                order: &order[..*count],
                ef: ef.clamp(m, EF_MAX),
            };
            graph.levels[level] = builder.build().into_flattened().into();
        }
        graph
    }
}

/// What codes stand for, as points of a Euclidean space: see [`super`]. The squared length of a point is `highest` − 2 `added`.
struct Points<'a> {
    codes: &'a ByteCodes,
    highest: f32,
    lifts: Vec<f32>,
}

/// A point that others are compared with.
struct Point {
    query: Query,
    lift: f32,
    /// Squared distance of another point = `base` − 2 × its nearness.
    base: f32,
}

impl<'a> Points<'a> {
    fn new(codes: &'a ByteCodes) -> Self {
        let heights = in_parallel(codes.len(), |range| {
            let height = |node: usize| codes.as_query(node as u32).squared + 2.0 * codes.factors(node as u32)[1];
            range.map(height).collect::<Vec<f32>>()
        });
        let heights = heights.concat();
        let highest = heights.iter().copied().fold(f32::MIN, f32::max);
        Self {
            codes,
            highest,
            lifts: heights.iter().map(|height| (highest - height).sqrt()).collect(),
        }
    }

    fn point(&self, node: u32) -> Point {
        Point {
            query: self.codes.as_query(node),
            lift: self.lifts[node as usize],
            base: 2.0 * (self.highest - self.codes.factors(node)[1]),
        }
    }

    /// How near nodes are to a point: more is nearer.
    fn nearness(&self, point: &Point, nodes: &[u32], out: &mut [f32]) {
        nodes.iter().for_each(|node| self.codes.prefetch(*node));
        self.codes.worths(&point.query, nodes, out);
        for (node, out) in nodes.iter().zip(out) {
            *out += point.lift * self.lifts[*node as usize];
        }
    }
}

/// Builds one level of a graph whose levels above are complete.
struct Builder<'a> {
    graph: &'a Graph,
    points: &'a Points<'a>,
    level: usize,
    /// The codes of the level's nodes in the order in which they are added.
    order: &'a [u32],
    ef: usize,
}

impl Builder<'_> {
    fn build(&self) -> Vec<[u8; 4]> {
        let size = list_size(self.graph.m, self.level);
        let nodes = if self.level == 0 {
            self.graph.nodes
        } else {
            self.order.len()
        };
        let mut cells = vec![Lists::NONE; nodes * size];
        let put = |cells: &mut [[u8; 4]], node: u32, list: &[u32]| {
            let into = &mut cells[node as usize * size..][..size];
            into.fill(Lists::NONE);
            into.iter_mut()
                .zip(list)
                .for_each(|(cell, number)| *cell = number.to_le_bytes());
        };
        let mut done = 1;
        while done < self.order.len() {
            let count = (done / BATCH_OF_DONE).min(self.order.len() / BATCH_OF_ALL).max(1);
            let count = count.min(self.order.len() - done);
            let lists = Lists::new(size, &cells);
            let chosen = in_parallel(count, |range| {
                let mut walker = Walker::default();
                let chosen = range.map(|at| self.neighbours(lists, done + at, done, &mut walker));
                chosen.collect::<Vec<Vec<u32>>>()
            });
            let chosen = chosen.into_iter().flatten();
            let mut links: Vec<(u32, u32)> = Vec::new();
            for (place, list) in (done..).zip(chosen) {
                let node = self.number(place);
                put(&mut cells, node, &list);
                links.extend(list.iter().map(|neighbour| (*neighbour, node)));
            }
            links.sort_unstable();
            let groups: Vec<&[(u32, u32)]> = links.chunk_by(|a, b| a.0 == b.0).collect();
            let lists = Lists::new(size, &cells);
            let changed = in_parallel(groups.len(), |range| {
                let changed = groups[range].iter().map(|links| self.linked_back(lists, links, size));
                changed.collect::<Vec<(u32, Vec<u32>)>>()
            });
            for (node, list) in changed.into_iter().flatten() {
                put(&mut cells, node, &list);
            }
            done += count;
        }
        cells
    }

    /// The number on this level of the node that is added at a place in the order.
    fn number(&self, place: usize) -> u32 {
        if self.level == 0 {
            self.order[place]
        } else {
            place as u32
        }
    }

    fn nearness(&self, point: &Point, numbers: &[u32], out: &mut [f32]) {
        if self.level == 0 {
            return self.points.nearness(point, numbers, out);
        }
        let nodes: Vec<u32> = numbers.iter().map(|number| self.order[*number as usize]).collect();
        self.points.nearness(point, &nodes, out);
    }

    fn point(&self, number: u32) -> Point {
        let node = if self.level == 0 {
            number
        } else {
            self.order[number as usize]
        };
        self.points.point(node)
    }

    /// The neighbours of the node that is added at a place, of those `done` before.
    fn neighbours(&self, lists: Lists<'_>, place: usize, done: usize, walker: &mut Walker) -> Vec<u32> {
        let point = self.points.point(self.order[place]);
        let mut stats = SearchStats::default();
        let nearness = |nodes: &[u32], out: &mut [f32]| self.points.nearness(&point, nodes, out);
        let above = self.graph.descend(walker, self.level, nearness, &mut stats) as usize;
        // The nodes of the level above are the first ones of this one.
        let start = self.number(if above < done { above } else { 0 });
        let nearness = |numbers: &[u32], out: &mut [f32]| self.nearness(&point, numbers, out);
        walker.walk(lists, &[start], Extent::room(self.ef), None, nearness, &mut stats);
        let candidates: Vec<(u32, f32)> = walker.found().collect();
        let (mut chosen, rest) = self.choose(&point, &candidates, self.graph.m);
        // Rows that are all alike would have next to no neighbours otherwise.
        chosen.extend(rest.into_iter().take(self.graph.m - chosen.len()));
        chosen
    }

    /// A node that others have linked to, with its neighbours afterwards.
    fn linked_back(&self, lists: Lists<'_>, links: &[(u32, u32)], size: usize) -> (u32, Vec<u32>) {
        let node = links[0].0;
        let mut list: Vec<u32> = lists.of(node).collect();
        list.extend(links.iter().map(|link| link.1));
        if list.len() <= size {
            return (node, list);
        }
        let point = self.point(node);
        let mut nearness = vec![0.0; list.len()];
        self.nearness(&point, &list, &mut nearness);
        let mut candidates: Vec<(u32, f32)> = list.into_iter().zip(nearness).collect();
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let (mut chosen, rest) = self.choose(&point, &candidates, size);
        // A part stays free: lists that are full are chosen anew with every link.
        let filled = size * 3 / 4;
        chosen.extend(rest.into_iter().take(filled.saturating_sub(chosen.len())));
        (node, chosen)
    }

    /// Up to `limit` of the candidates, which are sorted, and those passed over: a candidate that is nearer to a chosen one than to the
    /// point can be reached through that one, and leaves its place to another direction.
    fn choose(&self, point: &Point, candidates: &[(u32, f32)], limit: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut chosen, mut rest) = (Vec::with_capacity(limit), Vec::new());
        let mut nearness = [0.0; COMPARED_AT_ONCE];
        for (candidate, near) in candidates {
            if chosen.len() == limit {
                break;
            }
            let from = self.point(*candidate);
            let away = point.base - 2.0 * near;
            // Of rows that are all alike one is enough: the others would leave no place for any other direction.
            let alike = from.base * ALIKE;
            let is_apart = chosen.chunks(COMPARED_AT_ONCE).all(|others| {
                self.nearness(&from, others, &mut nearness);
                let others = &nearness[..others.len()];
                others.iter().all(|near| from.base - 2.0 * near >= away.max(alike))
            });
            if is_apart { &mut chosen } else { &mut rest }.push(*candidate);
        }
        (chosen, rest)
    }
}

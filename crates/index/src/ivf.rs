//! Inverted file: rows grouped in lists of similar ones; a search reads the lists near the query and scores their rows exactly.
//!
//! How far to look is decided per query. Each list has a mean and a radius (mean distance of its rows from the mean), so
//!
//! ```text
//! prospect = score(query, mean) improved by reach × radius        (× |query| for Dot)
//! ```
//!
//! is about the best score the list has to offer. Lists are read in the order of their prospects until the next prospect
//! cannot enter the top `k`. With the largest distance for a radius and reach = 1 that would be the triangle inequality: exact, and
//! useless in many dimensions. So `reach` is measured when the index is built: rows are taken as queries, and it is what
//! lets `TARGET` of their true neighbours be found. The rule needs no tuning by data set, by `k` or by filter: a filter
//! makes the k-th hit worse, and that alone makes the search look further.

use fixedbitset::FixedBitSet;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::kmeans::Clusters;
use crate::metric::Metric;
use crate::recall::recall_at_k;
use crate::rows::Rows;
use crate::scan::{scan, scan_ids};
use crate::topk::{Hit, TopK, rank};
use crate::vector_index::{Header, IndexError, IndexKind, Reader, SearchParams, VectorIndex, frame};

/// Share of the sampled rows' true neighbours that the reach must cover. Above the promised recall of 0.95, because queries
/// come from outside the rows and are a little harder.
const TARGET: f64 = 0.97;
/// Rows that are taken as queries to measure the reach, and how many neighbours of each.
const SAMPLED_QUERIES: usize = 256;
const SAMPLED_NEIGHBOURS: usize = 10;
/// At most one row in this many is such a query.
const SAMPLE_STEP_MIN: usize = 8;
/// Candidates for the reach that lie so close together that the sample cannot tell them apart.
const REACHES_APART: usize = 8;
/// Allowed rows per list up to which scoring just them is cheaper than ranking the lists first.
const ALLOWED_PER_LIST: usize = 4;

/// A plain inverted file with exact scores.
#[derive(Debug, Clone)]
pub struct Ivf {
    metric: Metric,
    rows: usize,
    /// One row per list.
    means: Rows,
    radii: Vec<f32>,
    reach: f32,
    /// List `i` is `offsets[i]..offsets[i + 1]` of the members.
    offsets: Vec<u32>,
    /// Rows of all lists, list after list; `None` if the rows are sorted by list, so that member `i` is row `i`.
    members: Option<Vec<u32>>,
}

impl Ivf {
    /// An index over rows and their clusters. Fastest if the rows are sorted by cluster. Rows beyond the assignment (without a vector,
    /// say) are in no list and are found by an exact search only.
    ///
    /// # Panics
    /// If the clusters are of another dimension, or assign more rows than there are.
    pub fn build(metric: Metric, rows: &Rows, clusters: &Clusters) -> Self {
        assert_eq!(clusters.centroids.dim(), rows.dim(), "clusters of the same space");
        assert!(clusters.assignment.len() <= rows.len(), "clusters of these rows");
        let order = clusters.order();
        let offsets = clusters.offsets();
        let members = (!clusters.assignment.is_sorted()).then_some(order);
        let means = Rows::from_vec(rows.dim(), Vec::new());
        let mut index = Self {
            metric,
            rows: rows.len(),
            means,
            radii: Vec::new(),
            reach: 1.0,
            offsets,
            members,
        };
        let step = (clusters.assignment.len() / SAMPLED_QUERIES).max(SAMPLE_STEP_MIN);
        index.measure_lists(rows, step);
        index.measure_reach(rows, &clusters.assignment, step);
        index
    }

    /// Number of lists.
    pub fn lists(&self) -> usize {
        self.radii.len()
    }

    /// Mean and radius of every list, over its finite rows. The rows that will be taken as queries are left out, because a query from
    /// outside has not pulled the mean of its list towards itself either; with them in, the reach comes out too small.
    fn measure_lists(&mut self, rows: &Rows, step: usize) {
        // Distances around the mean of a Dot index are Euclidean: |q·x − q·m| ≤ |q| |x − m|.
        let spread = if self.metric == Metric::Dot {
            Metric::Euclidean
        } else {
            self.metric
        };
        let mut means = Vec::with_capacity((self.offsets.len() - 1) * rows.dim());
        for list in 0..self.offsets.len() - 1 {
            let members: Vec<&[f32]> = self
                .list(list)
                .filter(|row| row % step != 0)
                .map(|row| rows.get(row))
                .filter(|row| row.iter().all(|x| x.is_finite()))
                .collect();
            let mut mean = vec![0f32; rows.dim()];
            for row in &members {
                mean.iter_mut().zip(*row).for_each(|(sum, x)| *sum += x);
            }
            let count = members.len().max(1) as f32;
            mean.iter_mut().for_each(|sum| *sum /= count);
            self.radii
                .push(members.iter().map(|row| spread.score(row, &mean)).sum::<f32>() / count);
            means.extend_from_slice(&mean);
        }
        self.means = Rows::from_vec(rows.dim(), means);
    }

    /// The rows of a list.
    fn list(&self, list: usize) -> impl Iterator<Item = usize> {
        let range = self.offsets[list] as usize..self.offsets[list + 1] as usize;
        range.map(|member| self.members.as_ref().map_or(member, |members| members[member] as usize))
    }

    /// Takes rows as queries, finds their true neighbours, and sets the least reach that finds `TARGET` of them.
    fn measure_reach(&mut self, rows: &Rows, assignment: &[u32], step: usize) {
        let queries: Vec<&[f32]> = (0..assignment.len()).step_by(step).map(|row| rows.get(row)).collect();
        // One more, because each query finds itself.
        let params = SearchParams::new(SAMPLED_NEIGHBOURS + 1);
        let exact = |query: &&[f32]| {
            let mut top = TopK::new(self.metric, params.k);
            scan(self.metric, rows, 0..assignment.len(), query, None, &mut top);
            top.into_sorted()
        };
        let truth: Vec<Vec<Hit>> = queries.iter().map(exact).collect();
        let mut reaches = self.needed_reaches(&queries, &truth, assignment);
        // The reaches of single neighbours are the candidates; halving finds the least one that is enough for the whole search.
        while reaches.len() > REACHES_APART {
            let (below, above) = reaches.split_at(reaches.len() / 2);
            self.reach = below[below.len() - 1];
            let found: f64 = queries
                .iter()
                .zip(&truth)
                .map(|(query, truth)| recall_of(&self.search(rows, query, &params, None), truth))
                .sum();
            reaches = if found >= TARGET * queries.len() as f64 {
                below.to_vec()
            } else {
                above.to_vec()
            };
        }
        self.reach = reaches.last().copied().unwrap_or(self.reach);
    }

    /// For each true neighbour the reach at which the prospect of its list is as good as the last neighbour, sorted.
    fn needed_reaches(&self, queries: &[&[f32]], truth: &[Vec<Hit>], assignment: &[u32]) -> Vec<f32> {
        let mut reaches = Vec::new();
        for (query, hits) in queries.iter().zip(truth) {
            let Some(last) = hits.last() else { continue };
            for hit in hits {
                let list = assignment[hit.row as usize] as usize;
                let score = self.metric.score(query, self.means.get(list));
                let gap = last.score - self.typical(score, self.radii[list]);
                let gap = if self.metric.larger_is_better() { gap } else { -gap };
                reaches.push(gap / (self.radii[list] * self.weight(query)));
            }
        }
        // A list of equal rows has no radius, and its prospect is right with any reach.
        reaches.retain(|reach| reach.is_finite());
        reaches.sort_by(f32::total_cmp);
        reaches
    }

    /// The score of an average row of a list, given the score of its mean. The inner product is linear, so it is the same;
    /// distances add up as at a right angle, because in many dimensions a row's own direction has little to do with the query's.
    fn typical(&self, score: f32, radius: f32) -> f32 {
        if self.metric == Metric::Dot {
            score
        } else {
            score.hypot(radius)
        }
    }

    /// What one unit of distance from the mean can change in the score.
    fn weight(&self, query: &[f32]) -> f32 {
        if self.metric == Metric::Dot {
            Metric::Dot.score(query, query).sqrt()
        } else {
            1.0
        }
    }

    /// All lists by rank, the most promising first; the low half of a rank is the list.
    fn prospects(&self, query: &[f32]) -> BinaryHeap<Reverse<u64>> {
        let lists: Vec<u32> = (0..self.lists() as u32).collect();
        let mut scores = vec![0.0; lists.len()];
        self.metric
            .score_rows(query, self.means.as_row_slice(), &lists, &mut scores);
        let larger_is_better = self.metric.larger_is_better();
        let reach = if larger_is_better { self.reach } else { -self.reach } * self.weight(query);
        let prospect = |((list, score), radius): ((u32, f32), &f32)| {
            Reverse(rank(
                larger_is_better,
                self.typical(score, *radius) + reach * radius,
                list,
            ))
        };
        // A heap, not a sort: most lists are never looked at.
        lists.into_iter().zip(scores).zip(&self.radii).map(prospect).collect()
    }

    /// Offers the allowed rows of one list.
    fn read_list(&self, list: usize, rows: &Rows, query: &[f32], allowed: Option<&FixedBitSet>, top: &mut TopK) {
        let range = self.offsets[list] as usize..self.offsets[list + 1] as usize;
        match &self.members {
            None => scan(self.metric, rows, range, query, allowed, top),
            Some(members) => scan_ids(self.metric, rows.as_row_slice(), &members[range], query, allowed, top),
        }
    }

    pub(crate) fn decode(header: &Header, mut body: Reader<'_>) -> Result<Self, IndexError> {
        let lists = body.u32()? as usize;
        let reach = f32::from_bits(body.u32()?);
        let has_members = body.u32()? != 0;
        let radii = body.f32s(lists)?;
        let offsets = body.u32s(lists.saturating_add(1))?;
        let means = body.f32s(lists.saturating_mul(header.dim))?;
        let end = offsets.last().copied().unwrap_or(0) as usize;
        let members = if has_members { Some(body.u32s(end)?) } else { None };
        body.finish()?;
        let rows = header.rows;
        // A search slices by these without asking again.
        let in_order = offsets.first() == Some(&0) && offsets.is_sorted() && end <= rows;
        let in_range = members.iter().flatten().all(|row| (*row as usize) < rows);
        if !in_order || !in_range {
            return Err(IndexError::Damaged("lists do not fit the rows"));
        }
        let means = Rows::from_vec(header.dim, means);
        Ok(Self {
            metric: header.metric,
            rows,
            means,
            radii,
            reach,
            offsets,
            members,
        })
    }
}

impl VectorIndex for Ivf {
    fn kind(&self) -> IndexKind {
        IndexKind::Ivf
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.means.dim())
    }

    fn search(&self, rows: &Rows, query: &[f32], params: &SearchParams, allowed: Option<&FixedBitSet>) -> Vec<Hit> {
        let few = allowed.is_some_and(|set| set.count_ones(..) <= self.lists() * ALLOWED_PER_LIST);
        if params.k == 0 || params.exact || few || self.shape() != (rows.len(), rows.dim()) {
            let mut top = TopK::new(self.metric, params.k);
            scan(self.metric, rows, 0..rows.len(), query, allowed, &mut top);
            return top.into_sorted();
        }
        // The reach was measured with this many hits; a single one says too little about how good hits can be.
        let mut top = TopK::new(self.metric, params.k.max(SAMPLED_NEIGHBOURS));
        let mut prospects = self.prospects(query);
        let mut read = 0;
        while let Some(Reverse(prospect)) = prospects.pop() {
            // With a number of lists given, a filter may leave them short of hits: then more are read.
            let enough = match params.probes {
                Some(probes) => read >= probes && top.is_full(),
                None => !top.admits(prospect),
            };
            if enough {
                break;
            }
            self.read_list(prospect as u32 as usize, rows, query, allowed, &mut top);
            read += 1;
        }
        let mut hits = top.into_sorted();
        hits.truncate(params.k);
        hits
    }

    /// The kind's own bytes, 4 each: lists, reach, whether there are members, radii, offsets, means, members.
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut put = |value: u32| body.extend_from_slice(&value.to_le_bytes());
        put(self.lists() as u32);
        put(self.reach.to_bits());
        put(u32::from(self.members.is_some()));
        self.radii.iter().for_each(|radius| put(radius.to_bits()));
        self.offsets.iter().for_each(|offset| put(*offset));
        self.means.as_slice().iter().for_each(|x| put(x.to_bits()));
        self.members.iter().flatten().for_each(|row| put(*row));
        let header = Header {
            kind: IndexKind::Ivf,
            metric: self.metric,
            dim: self.means.dim(),
            rows: self.rows,
        };
        frame(&header, &body)
    }

    fn memory_bytes(&self) -> usize {
        let floats = self.means.as_slice().len() + self.radii.len();
        let numbers = self.offsets.len() + self.members.as_ref().map_or(0, Vec::len);
        size_of::<Self>() + (floats + numbers) * size_of::<u32>()
    }
}

fn recall_of(found: &[Hit], truth: &[Hit]) -> f64 {
    let rows = |hits: &[Hit]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
    recall_at_k(&rows(found), &rows(truth))
}

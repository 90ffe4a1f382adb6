//! The public interface against plain exact search.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bytes;
mod hnsw;
mod hybrid;
mod search;

use fixedbitset::FixedBitSet;
use proximadb_index::{Hit, Ivf, Metric, Rows, SearchParams, VectorIndex, kmeans, recall_at_k};

const METRICS: [Metric; 3] = [Metric::Dot, Metric::Euclidean, Metric::Manhattan];

/// A repeatable source of numbers in -1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Rows in clumps, as real embeddings are: `clumps` centres with noise around them.
fn clumped(count: usize, dim: usize, clumps: usize, seed: u64) -> Rows {
    let mut numbers = Numbers(seed);
    let centres: Vec<f32> = (0..clumps * dim).map(|_| numbers.next()).collect();
    let mut data = Vec::with_capacity(count * dim);
    for row in 0..count {
        let centre = &centres[row * 7 % clumps * dim..][..dim];
        data.extend(centre.iter().map(|x| x + 0.5 * numbers.next()));
    }
    Rows::from_vec(dim, data)
}

/// Rows in clumps, and as many more from the same clumps as queries.
fn rows_and_queries(count: usize, queries: usize, dim: usize, clumps: usize) -> (Rows, Rows) {
    let all = clumped(count + queries, dim, clumps, 3);
    let (rows, queries) = all.as_slice().split_at(count * dim);
    (
        Rows::from_vec(dim, rows.to_vec()),
        Rows::from_vec(dim, queries.to_vec()),
    )
}

/// An index over rows as they are (members listed), one over rows sorted by cluster (members implied), and a hybrid.
fn build_all(metric: Metric, rows: &Rows, lists: usize) -> [(Rows, Ivf); 3] {
    let clusters = kmeans::train(metric, rows, lists, 10, 1);
    let unsorted = (rows.clone(), Ivf::build(metric, rows, &clusters));
    let hybrid = (rows.clone(), Ivf::hybrid(metric, rows, &clusters));
    [unsorted, build_sorted(metric, rows, lists), hybrid]
}

/// An index over rows sorted by cluster.
fn build_sorted(metric: Metric, rows: &Rows, lists: usize) -> (Rows, Ivf) {
    let clusters = kmeans::train(metric, rows, lists, 10, 1);
    let sorted = clusters
        .order()
        .iter()
        .flat_map(|row| rows.get(*row as usize))
        .copied()
        .collect();
    let sorted = Rows::from_vec(rows.dim(), sorted);
    let by_offsets = kmeans::Clusters::from_offsets(clusters.centroids.clone(), &clusters.offsets());
    let index = Ivf::build(metric, &sorted, &by_offsets);
    (sorted, index)
}

/// The definition of a search: score all, sort, cut.
fn exact(metric: Metric, rows: &Rows, query: &[f32], k: usize, allowed: Option<&FixedBitSet>) -> Vec<Hit> {
    let is_allowed = |row: &usize| allowed.is_none_or(|set| set.contains(*row));
    let hit = |row: usize| Hit {
        row: row as u32,
        score: metric.score(query, rows.get(row)) + 0.0,
    };
    let mut hits: Vec<Hit> = (0..rows.len())
        .filter(is_allowed)
        .map(hit)
        .filter(|hit| !hit.score.is_nan())
        .collect();
    let order = |a: &Hit, b: &Hit| {
        if metric.larger_is_better() {
            b.score.total_cmp(&a.score)
        } else {
            a.score.total_cmp(&b.score)
        }
    };
    hits.sort_by(|a, b| order(a, b).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}

/// The same rows with some far from all others, and some that are no numbers. There are at least 2,503 rows.
fn with_outliers(rows: &Rows) -> Rows {
    let (dim, mut data) = (rows.dim(), rows.as_slice().to_vec());
    for (at, scale) in [
        (100, 1e3),
        (900, -1e6),
        (2000, 50.0),
        (2500, f32::NAN),
        (2501, f32::INFINITY),
        (2502, 1e30),
    ] {
        data[at * dim..(at + 1) * dim]
            .iter_mut()
            .for_each(|value| *value *= scale);
    }
    Rows::from_vec(dim, data)
}

fn rows_of(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.row).collect()
}

/// Mean recall of searches for the best `k`.
fn recall(
    metric: Metric,
    rows: &Rows,
    index: &dyn VectorIndex,
    queries: &Rows,
    params: &SearchParams,
    allowed: Option<&FixedBitSet>,
) -> f64 {
    let one = |query: usize| {
        let query = queries.get(query);
        let hits = index.search(rows, query, params, allowed);
        assert!(
            hits.iter()
                .all(|hit| allowed.is_none_or(|set| set.contains(hit.row as usize)))
        );
        recall_at_k(
            &rows_of(&hits),
            &rows_of(&exact(metric, rows, query, params.k, allowed)),
        )
    };
    (0..queries.len()).map(one).sum::<f64>() / queries.len() as f64
}

//! Groups of similar rows: k-means, spherical for [`Metric::Dot`] (centroids of length 1, nearest by angle), Euclidean otherwise.
//!
//! Invariants: the same rows, `k` and seed give the same clusters (on one kind of CPU, however many cores); no cluster is empty; rows that are not
//! finite belong to some cluster and move no centroid.

mod split;

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::metric::{Metric, normalize};
use crate::parallel::in_parallel;
use crate::rows::{RowSlice, Rows};
use crate::simd;

/// Rows per cluster that train it. More moves the centroids little and costs in proportion.
const SAMPLED_PER_CLUSTER: usize = 32;
/// Rows whose nearest centroids are found together.
const BLOCK: usize = 32;
/// Multiplications from which on threads are worth their start: about a millisecond.
const PARALLEL_FROM: usize = 1 << 24;

/// A partition of rows.
#[derive(Debug, Clone)]
pub struct Clusters {
    /// One row per cluster.
    pub centroids: Rows,
    /// The cluster of each row.
    pub assignment: Vec<u32>,
}

impl Clusters {
    /// Clusters of rows that are already sorted by cluster: cluster `c` has the rows `offsets[c]..offsets[c + 1]`.
    pub fn from_offsets(centroids: Rows, offsets: &[u32]) -> Self {
        let sizes = offsets.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as usize);
        let assignment = sizes
            .enumerate()
            .flat_map(|(cluster, size)| std::iter::repeat_n(cluster as u32, size))
            .collect();
        Self { centroids, assignment }
    }

    /// Where each cluster starts among rows sorted by cluster, and after the last one where it ends.
    pub fn offsets(&self) -> Vec<u32> {
        let mut offsets = vec![0; self.centroids.len() + 1];
        for &cluster in &self.assignment {
            offsets[cluster as usize + 1] += 1;
        }
        for cluster in 1..offsets.len() {
            offsets[cluster] += offsets[cluster - 1];
        }
        offsets
    }

    /// The rows sorted by cluster, in their old order within each: `order[new row] = old row`.
    pub fn order(&self) -> Vec<u32> {
        let mut next = self.offsets();
        let mut order = vec![0; self.assignment.len()];
        for (row, &cluster) in self.assignment.iter().enumerate() {
            let slot = &mut next[cluster as usize];
            order[*slot as usize] = row as u32;
            *slot += 1;
        }
        order
    }
}

/// Number of clusters that suits an IVF search over this many rows: measured, more of them make training slower (it grows with the
/// square) and the search hardly faster. Small sets get clusters of 32 rows, so that sorting a small flush costs a millisecond.
pub fn cluster_count(rows: usize) -> usize {
    const ROWS_PER_CLUSTER_MIN: usize = 32;
    let by_root = (rows as f64).sqrt() * 2.0;
    (by_root as usize).min(rows / ROWS_PER_CLUSTER_MIN).max(1)
}

/// Partitions the rows into at most `k` clusters; fewer only if there are fewer different rows. Trains on a sample, then assigns all rows.
/// Ten iterations are plenty.
///
/// ```
/// use proximadb_index::{Metric, Rows, kmeans};
/// let rows = Rows::from_vec(1, vec![0.0, 9.0, 0.5, 9.5]);
/// let clusters = kmeans::train(Metric::Euclidean, &rows, 2, 10, 42);
/// assert_eq!(clusters.assignment[0], clusters.assignment[2]);
/// assert_ne!(clusters.assignment[0], clusters.assignment[1]);
/// ```
pub fn train<'a>(metric: Metric, rows: impl Into<RowSlice<'a>>, k: usize, iterations: usize, seed: u64) -> Clusters {
    let rows = rows.into();
    let k = k.clamp(1, rows.len().max(1));
    let mut random = StdRng::seed_from_u64(seed);
    let sampled = sample(rows, k * SAMPLED_PER_CLUSTER, &mut random);
    let training = RowSlice::new(rows.dim(), sampled.as_deref().unwrap_or(rows.as_slice()));
    let start = sample(training, k, &mut random).unwrap_or_else(|| training.as_slice().to_vec());
    let mut model = Model::new(metric, rows.dim(), start);
    let mut assignment = Vec::new();
    for _ in 0..iterations {
        let before = std::mem::take(&mut assignment);
        assignment = model.assign(training);
        let changed = assignment.iter().zip(&before).filter(|(now, then)| now != then).count();
        // A last one in two hundred that still wanders is not worth another round.
        if before.len() == assignment.len() && changed * 200 <= assignment.len() {
            break;
        }
        model.update(training, &assignment, &mut random);
    }
    let assignment = model.assign(rows);
    without_empty(model.centroids, rows.dim(), assignment)
}

/// The nearest centroid of each row.
///
/// # Panics
/// If there are no centroids, or they have another dimension.
pub fn assign<'a>(metric: Metric, rows: impl Into<RowSlice<'a>>, centroids: &Rows) -> Vec<u32> {
    let rows = rows.into();
    assert!(
        rows.dim() == centroids.dim() && !centroids.is_empty(),
        "centroids of the same space"
    );
    Model::new(metric, rows.dim(), centroids.as_slice().to_vec()).assign(rows)
}

/// `count` rows spread evenly over all, one at random from each stretch; `None` if that would be all of them.
fn sample(rows: RowSlice<'_>, count: usize, random: &mut StdRng) -> Option<Vec<f32>> {
    if count >= rows.len() {
        return None;
    }
    let mut data = Vec::with_capacity(count * rows.dim());
    for index in 0..count {
        // Stretches, because rows often arrive sorted, and a plain draw could miss whole regions.
        let stretch = index * rows.len() / count..(index + 1) * rows.len() / count;
        data.extend_from_slice(rows.get(random.random_range(stretch)));
    }
    Some(data)
}

/// Removes clusters without rows and numbers the others afresh.
fn without_empty(centroids: Vec<f32>, dim: usize, mut assignment: Vec<u32>) -> Clusters {
    let mut used = vec![false; centroids.len() / dim];
    assignment.iter().for_each(|cluster| used[*cluster as usize] = true);
    let mut kept = Vec::with_capacity(centroids.len());
    let mut numbers = Vec::with_capacity(used.len());
    for (centroid, used) in centroids.chunks_exact(dim).zip(&used) {
        numbers.push((kept.len() / dim) as u32);
        if *used {
            kept.extend_from_slice(centroid);
        }
    }
    assignment
        .iter_mut()
        .for_each(|cluster| *cluster = numbers[*cluster as usize]);
    Clusters {
        centroids: Rows::from_vec(dim, kept),
        assignment,
    }
}

/// Centroids in training.
struct Model {
    spherical: bool,
    dim: usize,
    centroids: Vec<f32>,
    /// What is taken off the inner product to rank centroids: half the squared length (|x − c|² = |x|² − 2(x·c − |c|²/2)), or 0.
    handicaps: Vec<f32>,
}

impl Model {
    fn new(metric: Metric, dim: usize, centroids: Vec<f32>) -> Self {
        let mut model = Self {
            spherical: metric == Metric::Dot,
            dim,
            centroids,
            handicaps: Vec::new(),
        };
        model.settle();
        model
    }

    /// After the centroids changed.
    fn settle(&mut self) {
        if self.spherical {
            self.centroids.chunks_exact_mut(self.dim).for_each(normalize);
        }
        let handicap = |c: &[f32]| {
            if self.spherical { 0.0 } else { simd::dot(c, c) / 2.0 }
        };
        self.handicaps = self.centroids.chunks_exact(self.dim).map(handicap).collect();
    }

    /// The nearest centroid of each row. Uses all cores if it is much to do.
    fn assign(&self, rows: RowSlice<'_>) -> Vec<u32> {
        // Whole blocks, so that the results do not depend on the number of cores.
        let part = |blocks: Range<usize>| {
            let floats = BLOCK * self.dim;
            let end = rows.as_slice().len().min(blocks.end * floats);
            self.assign_part(&rows.as_slice()[blocks.start * floats..end])
        };
        let blocks = rows.len().div_ceil(BLOCK);
        if rows.len() * self.centroids.len() < PARALLEL_FROM {
            return part(0..blocks);
        }
        in_parallel(blocks, part).concat()
    }

    fn assign_part(&self, rows: &[f32]) -> Vec<u32> {
        let k = self.handicaps.len();
        let mut products = vec![0.0; BLOCK * k];
        let mut assignment = Vec::with_capacity(rows.len() / self.dim);
        for block in rows.chunks(BLOCK * self.dim) {
            simd::products(block, &self.centroids, self.dim, &mut products);
            assignment.extend(
                products
                    .chunks_exact(k)
                    .take(block.len() / self.dim)
                    .map(|row| self.nearest(row)),
            );
        }
        assignment
    }

    /// The best centroid, given a row's inner products; the first one if they are NaN.
    fn nearest(&self, products: &[f32]) -> u32 {
        let (mut best, mut best_score) = (0, f32::NEG_INFINITY);
        for (cluster, (product, handicap)) in products.iter().zip(&self.handicaps).enumerate() {
            let score = product - handicap;
            if score > best_score {
                (best, best_score) = (cluster as u32, score);
            }
        }
        best
    }

    /// Moves each centroid to the mean of its rows, and those without rows into the most spread clusters.
    fn update(&mut self, rows: RowSlice<'_>, assignment: &[u32], random: &mut StdRng) {
        let mut counts = vec![0usize; self.handicaps.len()];
        // Sum of the squared distances from the mean, as Σ|x|² − n |mean|².
        let mut spreads = vec![0f64; counts.len()];
        self.centroids.fill(0.0);
        for (row, &cluster) in rows.as_slice().chunks_exact(self.dim).zip(assignment) {
            let squared = simd::dot(row, row);
            if squared.is_finite() {
                counts[cluster as usize] += 1;
                spreads[cluster as usize] += f64::from(squared);
                let sum = &mut self.centroids[cluster as usize * self.dim..][..self.dim];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        for (cluster, mean) in self.centroids.chunks_exact_mut(self.dim).enumerate() {
            mean.iter_mut().for_each(|x| *x /= counts[cluster].max(1) as f32);
            spreads[cluster] -= counts[cluster] as f64 * f64::from(simd::dot(mean, mean));
        }
        for empty in (0..counts.len()).filter(|cluster| counts[*cluster] == 0) {
            let donor = (0..counts.len())
                .max_by(|a, b| spreads[*a].total_cmp(&spreads[*b]))
                .unwrap_or(empty);
            let members = || (0..rows.len()).filter(|row| assignment[*row] as usize == donor);
            let pick = random.random_range(0..counts[donor].max(1));
            if let Some(row) = members().nth(pick) {
                self.centroids[empty * self.dim..][..self.dim].copy_from_slice(rows.get(row));
            }
            // About half of the donor's rows will follow.
            spreads[donor] /= 2.0;
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(clusters: &Clusters) -> Vec<u32> {
        clusters.offsets().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Three tight groups around (0, 10), (10, 0) and (-10, -10).
    fn three_groups() -> Rows {
        let centre = [[0.0, 10.0], [10.0, 0.0], [-10.0, -10.0]];
        let point = |i: usize| centre[i % 3].map(|x| x + (i as f32 * 0.37).sin());
        Rows::from_vec(2, (0..300).flat_map(point).collect())
    }

    #[test]
    fn rows_of_different_groups_share_no_cluster() {
        for metric in [Metric::Dot, Metric::Euclidean, Metric::Manhattan] {
            let clusters = train(metric, &three_groups(), 9, 10, 7);
            let mut group_of = vec![None; clusters.centroids.len()];
            for (row, &cluster) in clusters.assignment.iter().enumerate() {
                assert_eq!(
                    *group_of[cluster as usize].get_or_insert(row % 3),
                    row % 3,
                    "{metric:?}"
                );
            }
        }
    }

    #[test]
    fn dot_clusters_by_direction_whatever_the_length() {
        let rows = Rows::from_vec(2, vec![1.0, 0.1, 100.0, 10.0, 0.1, 1.0, 10.0, 100.0]);
        let clusters = train(Metric::Dot, &rows, 2, 10, 1);
        let a = &clusters.assignment;
        assert!(a[0] == a[1] && a[2] == a[3] && a[0] != a[2]);
        assert!((0..2).all(|cluster| {
            (simd::dot(clusters.centroids.get(cluster), clusters.centroids.get(cluster)) - 1.0).abs() < 1e-5
        }));
    }

    #[test]
    fn the_same_seed_gives_the_same_clusters() {
        let rows = three_groups();
        let (one, two) = (
            train(Metric::Euclidean, &rows, 20, 10, 5),
            train(Metric::Euclidean, &rows, 20, 10, 5),
        );
        assert_eq!(
            (one.centroids.as_slice(), one.assignment),
            (two.centroids.as_slice(), two.assignment)
        );
        let other = train(Metric::Euclidean, &rows, 20, 10, 6);
        assert_ne!(other.centroids.as_slice(), one.centroids.as_slice());
    }

    #[test]
    fn several_cores_assign_as_one_does() {
        let mut random = StdRng::seed_from_u64(4);
        let mut rows = |count: usize| {
            (0..count * 64)
                .map(|_| random.random_range(-1.0..1.0))
                .collect::<Vec<f32>>()
        };
        let (rows, centroids) = (rows(701), rows(400));
        assert!(rows.len() * 400 >= PARALLEL_FROM);
        let model = Model::new(Metric::Euclidean, 64, centroids);
        assert_eq!(model.assign(RowSlice::new(64, &rows)), model.assign_part(&rows));
    }

    #[test]
    fn equal_rows_are_one_cluster_and_no_rows_are_none() {
        assert_eq!(
            sizes(&train(Metric::Euclidean, &Rows::from_vec(2, vec![3.0; 80]), 9, 10, 1)),
            [40]
        );
        let none = train(Metric::Dot, &Rows::from_vec(2, Vec::new()), 9, 10, 1);
        assert_eq!((none.centroids.len(), none.assignment.len()), (0, 0));
    }

    #[test]
    fn centroids_that_start_on_equal_rows_move_to_where_rows_differ() {
        let values = (0..1000).map(|row| if row % 2 == 0 { 0.0 } else { row as f32 });
        let clusters = train(Metric::Euclidean, &Rows::from_vec(1, values.collect()), 20, 10, 3);
        assert_eq!(clusters.centroids.len(), 20);
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_cluster_that_is_not_empty(
            values in prop::collection::vec(prop_oneof![9 => (-3i8..3).prop_map(f32::from), 1 => any::<f32>()], 1..400),
            dim in 1usize..4, k in 0usize..60, metric in 0usize..3, seed: u64,
        ) {
            let metric = [Metric::Dot, Metric::Euclidean, Metric::Manhattan][metric];
            let rows = Rows::from_vec(dim, values[..values.len() / dim * dim].to_vec());
            let clusters = train(metric, &rows, k, 5, seed);
            prop_assert_eq!(clusters.assignment.len(), rows.len());
            prop_assert!(clusters.centroids.len() <= k.max(1));
            prop_assert!(sizes(&clusters).iter().all(|size| *size > 0));
            let order = clusters.order();
            prop_assert!(order.iter().map(|row| (clusters.assignment[*row as usize], *row)).is_sorted());
            let sorted = Clusters::from_offsets(clusters.centroids.clone(), &clusters.offsets());
            prop_assert!(sorted.assignment.iter().eq(order.iter().map(|row| &clusters.assignment[*row as usize])));
        }

        #[test]
        fn assign_finds_the_nearest_centroid(
            rows in prop::collection::vec((-9i8..9).prop_map(f32::from), 3..300), centroids in prop::collection::vec((-9i8..9).prop_map(f32::from), 3..60),
        ) {
            let rows = Rows::from_vec(3, rows[..rows.len() / 3 * 3].to_vec());
            let centroids = Rows::from_vec(3, centroids[..centroids.len() / 3 * 3].to_vec());
            for (row, cluster) in assign(Metric::Euclidean, &rows, &centroids).into_iter().enumerate() {
                let distance = |cluster: usize| simd::l2_squared(rows.get(row), centroids.get(cluster));
                prop_assert!((0..centroids.len()).all(|other| distance(cluster as usize) <= distance(other)));
            }
        }
    }
}

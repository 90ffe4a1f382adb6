//! Groups of similar rows: k-means, spherical for [`Metric::Dot`] (centroids of length 1, nearest by angle), Euclidean otherwise.
//!
//! Invariants: the same rows, `k` and seed give the same clusters (on one kind of CPU); no cluster is empty; rows that are not
//! finite belong to some cluster and move no centroid.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::metric::{Metric, normalize};
use crate::rows::{RowSlice, Rows};
use crate::simd;

/// Rows per cluster that train it. More moves the centroids little and costs in proportion.
const SAMPLED_PER_CLUSTER: usize = 32;
/// Rows whose nearest centroids are found together.
const BLOCK: usize = 32;

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

/// Number of clusters that makes an IVF search over this many rows cheapest: finding the lists and reading them cost about the same.
pub fn cluster_count(rows: usize) -> usize {
    ((rows as f64).sqrt() * 2.0).round().max(1.0) as usize
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

    /// The nearest centroid of each row.
    fn assign(&self, rows: RowSlice<'_>) -> Vec<u32> {
        let k = self.handicaps.len();
        let mut products = vec![0.0; BLOCK * k];
        let mut assignment = Vec::with_capacity(rows.len());
        for block in rows.as_slice().chunks(BLOCK * self.dim) {
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

    /// Moves each centroid to the mean of its rows, and those without rows into the largest clusters.
    fn update(&mut self, rows: RowSlice<'_>, assignment: &[u32], random: &mut StdRng) {
        let mut counts = vec![0usize; self.handicaps.len()];
        self.centroids.fill(0.0);
        for (row, &cluster) in rows.as_slice().chunks_exact(self.dim).zip(assignment) {
            if simd::dot(row, row).is_finite() {
                counts[cluster as usize] += 1;
                let sum = &mut self.centroids[cluster as usize * self.dim..][..self.dim];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        for (sum, &count) in self.centroids.chunks_exact_mut(self.dim).zip(&counts) {
            sum.iter_mut().for_each(|x| *x /= count.max(1) as f32);
        }
        while let Some(empty) = counts.iter().position(|count| *count == 0) {
            let Some(donor) = (0..counts.len())
                .max_by_key(|cluster| counts[*cluster])
                .filter(|d| counts[*d] > 1)
            else {
                break;
            };
            let pick = random.random_range(0..counts[donor]);
            let members = assignment
                .iter()
                .enumerate()
                .filter(|(_, cluster)| **cluster as usize == donor);
            if let Some((row, _)) = members.clone().nth(pick) {
                self.centroids[empty * self.dim..][..self.dim].copy_from_slice(rows.get(row));
            }
            counts[empty] = counts[donor] / 2;
            counts[donor] -= counts[empty];
        }
        self.settle();
    }
}

//! Many small clusters out of few large ones: training them at once would take as much longer as they are more.

use super::{Clusters, Model, train, without_empty};
use crate::metric::Metric;
use crate::parallel::in_parallel;
use crate::rows::{RowSlice, Rows};
use crate::simd;

/// Rounds in which a cluster is split, and any fixed number.
const SPLIT_ITERATIONS: usize = 8;
const SPLIT_SEED: u64 = 1;
/// Clusters whose parts a row is compared with, its own among them. Without its neighbours several times as many rows have to be read for
/// the same recall.
const SPLIT_NEIGHBOURS: usize = 48;

impl Clusters {
    /// These clusters of `rows` split into parts of about `size` rows, and each row in the nearest part of all that belong to its own or a
    /// nearby cluster. Uses all cores, and takes little time next to training so many clusters.
    pub fn split(&self, metric: Metric, rows: &Rows, size: usize) -> Self {
        let (dim, count) = (rows.dim(), self.centroids.len());
        let (order, offsets) = (self.order(), self.offsets());
        let members = |cluster: usize| &order[offsets[cluster] as usize..offsets[cluster + 1] as usize];
        let gather = |members: &[u32]| -> Vec<f32> {
            let rows = members.iter().flat_map(|row| rows.get(*row as usize));
            rows.copied().collect()
        };
        let parts = in_parallel(count, |range| {
            let part = |cluster| {
                let data = gather(members(cluster));
                let parts = (members(cluster).len() + size / 2) / size;
                train(metric, RowSlice::new(dim, &data), parts, SPLIT_ITERATIONS, SPLIT_SEED).centroids
            };
            range.map(part).collect::<Vec<Rows>>()
        });
        let parts: Vec<Rows> = parts.into_iter().flatten().collect();
        let mut first = vec![0];
        first.extend(parts.iter().scan(0, |sum, parts| {
            *sum += parts.len() as u32;
            Some(*sum)
        }));
        let model = Model::new(metric, dim, self.centroids.as_slice().to_vec());
        let assigned = in_parallel(count, |range| {
            let assign_members = |cluster: usize| {
                let near = model.near(cluster, SPLIT_NEIGHBOURS);
                let numbers = near.iter().flat_map(|near| first[*near]..first[near + 1]);
                let numbers: Vec<u32> = numbers.collect();
                let nearby = near.iter().flat_map(|near| parts[*near].as_slice()).copied();
                let nearby = Model::new(metric, dim, nearby.collect());
                let nearest = nearby.assign(RowSlice::new(dim, &gather(members(cluster))));
                nearest.into_iter().map(|at| numbers[at as usize]).collect::<Vec<u32>>()
            };
            range.flat_map(assign_members).collect::<Vec<u32>>()
        });
        let mut assignment = vec![0; self.assignment.len()];
        for (row, part) in order.iter().zip(assigned.into_iter().flatten()) {
            assignment[*row as usize] = part;
        }
        let centroids = parts.iter().flat_map(Rows::as_slice).copied().collect();
        without_empty(centroids, dim, assignment)
    }
}

impl Model {
    /// Up to `count` clusters around a cluster, itself the first of them.
    fn near(&self, cluster: usize, count: usize) -> Vec<usize> {
        let mut products = vec![0.0; self.handicaps.len()];
        let centroid = &self.centroids[cluster * self.dim..][..self.dim];
        simd::products(centroid, &self.centroids, self.dim, &mut products);
        let mut others: Vec<(f32, usize)> = products
            .iter()
            .zip(&self.handicaps)
            .map(|(x, handicap)| x - handicap)
            .zip(0..)
            .collect();
        others.swap_remove(cluster);
        let count = count.min(self.handicaps.len()) - 1;
        if count < others.len() {
            others.select_nth_unstable_by(count, |a, b| b.0.total_cmp(&a.0));
        }
        let near = others.into_iter().take(count).map(|(_, other)| other);
        std::iter::once(cluster).chain(near).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_split_puts_every_row_into_the_nearest_part(
            values in prop::collection::vec((-9i8..9).prop_map(f32::from), 2..600), k in 1usize..9, size in 1usize..40,
        ) {
            let rows = Rows::from_vec(2, values[..values.len() / 2 * 2].to_vec());
            let parts = train(Metric::Euclidean, &rows, k, 5, 1).split(Metric::Euclidean, &rows, size);
            prop_assert!((0..parts.centroids.len() as u32).all(|part| parts.assignment.contains(&part)));
            for (row, part) in parts.assignment.iter().enumerate() {
                let distance = |part: usize| simd::l2_squared(rows.get(row), parts.centroids.get(part));
                prop_assert!((0..parts.centroids.len()).all(|other| distance(*part as usize) <= distance(other) + 1e-3));
            }
        }
    }
}

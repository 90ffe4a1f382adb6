//! The order of a segment's rows: similar ones side by side, so that a search reads few contiguous ranges and a
//! Parquet reader skips row groups.
//!
//! ```text
//! rows: cluster 0 │ cluster 1 │ … │ cluster k-1 │ rows without a vector in the space
//! ```

use proximadb_index::{Rows, kmeans};

use crate::engine::segment::{Clustering, SegmentData};
use crate::schema::Schema;

/// Rounds of k-means; more change hardly any row.
const ITERATIONS: usize = 10;
/// Any fixed number: the same rows give the same order.
const SEED: u64 = 1;

/// Sorts the rows by cluster of the first vector space of the schema that any row has. Returns them with the
/// permutation (`order[new row] = old row`). Takes seconds of one core for large segments: call it where blocking is
/// allowed.
pub fn sort_by_cluster(schema: &Schema, data: &SegmentData) -> (SegmentData, Vec<u32>) {
    let with_vector = |space: &String| -> Vec<u32> {
        (0..data.len())
            .filter(|row| data.vector(space, *row).is_some())
            .map(|row| row as u32)
            .collect()
    };
    let first = schema
        .vectors
        .iter()
        .map(|(name, space)| (name, space, with_vector(name)))
        .find(|first| !first.2.is_empty());
    let Some((name, space, present)) = first else {
        let order: Vec<u32> = (0..data.len() as u32).collect();
        return (data.reorder(&order), order);
    };
    let rows = present_rows(data, name, &present);
    let k = kmeans::cluster_count(present.len());
    let clusters = kmeans::train(space.distance.metric(), &rows, k, ITERATIONS, SEED);
    let mut order: Vec<u32> = clusters.order().iter().map(|row| present[*row as usize]).collect();
    order.extend(
        (0..data.len())
            .filter(|row| data.vector(name, *row).is_none())
            .map(|row| row as u32),
    );
    let mut sorted = data.reorder(&order);
    sorted.clustering = Some(Clustering {
        space: name.clone(),
        offsets: clusters.offsets(),
    });
    (sorted, order)
}

/// The vectors of the rows that have one; shared, not copied, if all do.
fn present_rows(data: &SegmentData, space: &str, present: &[u32]) -> Rows {
    let column = &data.vectors[space];
    if present.len() == data.len() {
        return column.rows.clone();
    }
    let floats = present
        .iter()
        .flat_map(|row| column.rows.get(*row as usize))
        .copied()
        .collect();
    Rows::from_vec(column.rows.dim(), floats)
}

//! Measures the kernels, k-means and IVF on raw little-endian f32 files:
//! `measure <dim> <rows.f32> <queries.f32> [<filter.u8>]`, the filter being one byte a row, 1 = allowed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::time::Instant;

use fixedbitset::FixedBitSet;
use proximadb_index::{Ivf, Metric, Rows, SearchParams, TopK, VectorIndex, kmeans, recall_at_k, scan, simd};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dim: usize = arguments[0].parse().unwrap();
    let (base, queries) = (floats(dim, &arguments[1]), floats(dim, &arguments[2]));
    let filter = arguments.get(3).map(|path| std::fs::read(path).unwrap());
    println!(
        "{} rows, {} queries, {dim} dimensions, kernels {}",
        base.len(),
        queries.len(),
        simd::name()
    );
    for metric in [Metric::Dot, Metric::Euclidean, Metric::Manhattan] {
        kernel(metric, &base, queries.get(0));
        let start = Instant::now();
        let clusters = kmeans::train(metric, &base, kmeans::cluster_count(base.len()), 10, 42);
        let trained = start.elapsed();
        let order = clusters.order();
        let rows = Rows::from_vec(
            dim,
            order.iter().flat_map(|row| base.get(*row as usize)).copied().collect(),
        );
        let start = Instant::now();
        let sorted = kmeans::Clusters::from_offsets(clusters.centroids.clone(), &clusters.offsets());
        let index = Ivf::build(metric, &rows, &sorted);
        let (lists, bytes) = (index.lists(), index.memory_bytes());
        println!(
            "  k-means {trained:.2?}, build {:.2?}, {lists} lists, {bytes} bytes",
            start.elapsed()
        );
        let is_allowed = |row: &u32| filter.as_ref().is_none_or(|bytes| bytes[*row as usize] == 1);
        let rows_allowed = (0..order.len()).filter(|new| is_allowed(&order[*new]));
        let allowed: Option<FixedBitSet> = filter.is_some().then(|| rows_allowed.collect());
        for k in [1, 10, 100] {
            let exact = SearchParams {
                exact: true,
                ..SearchParams::new(k)
            };
            let (truth, exact_qps) = run(&index, &rows, &queries, &exact, allowed.as_ref());
            let (found, qps) = run(&index, &rows, &queries, &SearchParams::new(k), allowed.as_ref());
            let recalls = found.iter().zip(&truth).map(|(found, truth)| recall_at_k(found, truth));
            let recall = recalls.sum::<f64>() / truth.len() as f64;
            println!("  k {k}: exact {exact_qps:.0} QPS, ivf {qps:.0} QPS with recall {recall:.4}");
        }
    }
}

fn floats(dim: usize, path: &str) -> Rows {
    let bytes = std::fs::read(path).unwrap();
    Rows::from_vec(
        dim,
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|four| f32::from_le_bytes(*four))
            .collect(),
    )
}

/// Nanoseconds per pair, best of many, for rows that fit the second cache level and for all.
fn kernel(metric: Metric, base: &Rows, query: &[f32]) {
    for count in [500.min(base.len()), base.len()] {
        let once = || {
            let start = Instant::now();
            let mut top = TopK::new(metric, 10);
            scan(metric, base, 0..count, query, None, &mut top);
            black_box(top);
            start.elapsed().as_secs_f64() * 1e9 / count as f64
        };
        let best = (0..50).map(|_| once()).fold(f64::MAX, f64::min);
        println!("{metric:?}: {best:.1} ns per pair over {count} rows");
    }
}

fn run(
    index: &Ivf,
    rows: &Rows,
    queries: &Rows,
    params: &SearchParams,
    allowed: Option<&FixedBitSet>,
) -> (Vec<Vec<u32>>, f64) {
    let start = Instant::now();
    let search = |query: usize| index.search(rows, queries.get(query), params, allowed);
    let found = (0..queries.len())
        .map(|query| search(query).iter().map(|hit| hit.row).collect())
        .collect();
    (found, queries.len() as f64 / start.elapsed().as_secs_f64())
}

//! Measures the kernels, k-means and IVF on raw little-endian f32 files:
//! `measure <dim> <base.f32> <queries.f32> [<filter.u8>]` (one byte a row: 1 = allowed).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use proximadb_index::{Ivf, Metric, Rows, SearchParams, VectorIndex, kmeans, recall_at_k, simd};

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

    for (name, kernel) in [
        ("dot", simd::dot as fn(&[f32], &[f32]) -> f32),
        ("l2", simd::l2_squared),
        ("l1", simd::l1),
    ] {
        let (rows, rounds) = (base.len().min(200), 2000);
        let start = Instant::now();
        let sum: f32 = (0..rounds)
            .flat_map(|_| 0..rows)
            .map(|row| kernel(queries.get(0), base.get(row)))
            .sum();
        println!(
            "{name}: {:.1} ns per pair (sum {sum})",
            start.elapsed().as_secs_f64() * 1e9 / (rows * rounds) as f64
        );
    }

    {
        for k in [26, 400] {
            let a = Rows::from_vec(dim, base.as_slice()[..680 * dim].to_vec());
            let c = Rows::from_vec(dim, base.as_slice()[1000 * dim..(1000 + k) * dim].to_vec());
            let mut best = f64::MAX;
            for _ in 0..20 {
                let t = Instant::now();
                std::hint::black_box(kmeans::assign(Metric::Dot, &a, &c));
                best = best.min(t.elapsed().as_secs_f64());
            }
            println!(
                "assign 680 to {k}: {:.2} ms {:.1} GMAC/s",
                best * 1e3,
                680e-9 * (k * dim) as f64 / best
            );
            let mut best = f64::MAX;
            for _ in 0..20 {
                let t = Instant::now();
                std::hint::black_box(kmeans::train(Metric::Dot, &a, k, 10, 1));
                best = best.min(t.elapsed().as_secs_f64());
            }
            println!("train 680 to {k}: {:.2} ms", best * 1e3);
        }
    }
    for count in [16, 128, 600, 4000, 40000] {
        let part = Rows::from_vec(dim, base.as_slice()[..count * dim].to_vec());
        let rounds = 400_000 / count;
        let mut best = f64::MAX;
        for _ in 0..rounds.max(30) {
            let start = Instant::now();
            let mut top = proximadb_index::TopK::new(Metric::Dot, 10);
            proximadb_index::scan(Metric::Dot, &part, 0..count, queries.get(0), None, &mut top);
            std::hint::black_box(top);
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("scan {count}: {:.1} ns", best * 1e9 / (count) as f64);
    }
    if std::env::var("S").is_ok() {
        return;
    }
    for metric in [Metric::Dot, Metric::Euclidean, Metric::Manhattan] {
        let count = std::env::var("K")
            .ok()
            .map_or(kmeans::cluster_count(base.len()), |k| k.parse().unwrap());
        let start = Instant::now();
        let clusters = kmeans::train(metric, &base, count, 10, 42);
        let trained = start.elapsed();
        let order = clusters.order();
        let rows = Rows::from_vec(
            dim,
            order
                .iter()
                .flat_map(|row| base.get(*row as usize))
                .copied()
                .collect(),
        );
        let start = Instant::now();
        let index = Ivf::build(
            metric,
            &rows,
            &kmeans::Clusters::from_offsets(clusters.centroids.clone(), &clusters.offsets()),
        );
        println!(
            "{metric:?}: k-means {trained:.2?}, build {:.2?}, {} lists, {} bytes",
            start.elapsed(),
            index.lists(),
            index.memory_bytes()
        );
        let allowed = filter.as_ref().map(|bytes| {
            order
                .iter()
                .enumerate()
                .filter(|(_, row)| bytes[**row as usize] == 1)
                .map(|(new, _)| new)
                .collect::<fixedbitset::FixedBitSet>()
        });
        for k in [1, 10, 100] {
            let exact = run(
                &index,
                &rows,
                &queries,
                &SearchParams {
                    k,
                    probes: None,
                    exact: true,
                },
                allowed.as_ref(),
            );
            let found = run(
                &index,
                &rows,
                &queries,
                &SearchParams::new(k),
                allowed.as_ref(),
            );
            let recall: Vec<f64> = found
                .0
                .iter()
                .zip(&exact.0)
                .map(|(found, truth)| recall_at_k(found, truth))
                .collect();
            for probes in [4, 8, 12, 16, 24, 32, 48, 64, 96, 128] {
                if k == 10 {
                    let found = run(
                        &index,
                        &rows,
                        &queries,
                        &SearchParams {
                            k,
                            probes: Some(probes),
                            exact: false,
                        },
                        allowed.as_ref(),
                    );
                    let recall: Vec<f64> = found
                        .0
                        .iter()
                        .zip(&exact.0)
                        .map(|(found, truth)| recall_at_k(found, truth))
                        .collect();
                    println!(
                        "     probes {probes}: {:.0} QPS {:.4}",
                        found.1,
                        recall.iter().sum::<f64>() / recall.len() as f64
                    );
                }
            }
            println!(
                "  k {k}: exact {:.0} QPS, ivf {:.0} QPS, recall {:.4}, worst {:.2}",
                exact.1,
                found.1,
                recall.iter().sum::<f64>() / recall.len() as f64,
                recall.iter().copied().fold(1.0, f64::min)
            );
        }
    }
}

fn run(
    index: &Ivf,
    rows: &Rows,
    queries: &Rows,
    params: &SearchParams,
    allowed: Option<&fixedbitset::FixedBitSet>,
) -> (Vec<Vec<u32>>, f64) {
    let start = Instant::now();
    let hits =
        (0..queries.len()).map(|query| index.search(rows, queries.get(query), params, allowed));
    let found: Vec<Vec<u32>> = hits
        .map(|hits| hits.iter().map(|hit| hit.row).collect())
        .collect();
    (found, queries.len() as f64 / start.elapsed().as_secs_f64())
}

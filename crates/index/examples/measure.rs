//! Measures an index on raw little-endian f32 files, one thread:
//! `measure <ivf | hnsw | hybrid>[,…] <dot | euclidean | manhattan> <dim> <rows.f32> <queries.f32> [<selectivity of a filter> [clumped]]`;
//! instead of a file `made:COUNT:SEED` for data that is made.
//! A filter allows rows at random; a clumped one whole clusters of k-means, so that most queries lie where nothing is allowed.
//! Prints one JSON object a line: the build, then queries a second and recall@10 for each effort.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use fixedbitset::FixedBitSet;
use proximadb_index::{
    Flat, Hit, Hnsw, HnswParams, Ivf, Metric, Rows, SearchParams, SearchStats, VectorIndex, kmeans, recall_at_k, simd,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const K: usize = 10;
const EFFORTS: [f32; 14] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0];
/// Passes over the queries.
const PASSES: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let metric = match arguments[1].as_str() {
        "dot" => Metric::Dot,
        "euclidean" => Metric::Euclidean,
        "manhattan" => Metric::Manhattan,
        other => panic!("unknown metric {other}"),
    };
    let dim: usize = arguments[2].parse().unwrap();
    let (base, queries) = (floats(dim, &arguments[3]), floats(dim, &arguments[4]));
    let selectivity: Option<f64> = arguments.get(5).map(|text| text.parse().unwrap());

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let clusters = kmeans::train(metric, &base, kmeans::cluster_count(base.len()), 10, 42);
    let (trained, trained_cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let order = clusters.order();
    let sorted = order.iter().flat_map(|row| base.get(*row as usize)).copied().collect();
    let rows = Rows::from_vec(dim, sorted);
    let sorted = kmeans::Clusters::from_offsets(clusters.centroids.clone(), &clusters.offsets());
    let scattered = |number: usize| (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let allowed: Option<FixedBitSet> = selectivity.map(|share| {
        if arguments.get(6).is_none_or(|text| text != "clumped") {
            let chosen = |row: &usize| scattered(*row) as f64 / (u64::MAX as f64) < share;
            return (0..rows.len()).filter(chosen).collect();
        }
        let mut lists: Vec<usize> = (0..clusters.centroids.len()).collect();
        lists.sort_unstable_by_key(|list| scattered(*list));
        let offsets = clusters.offsets();
        let members = |list: usize| offsets[list] as usize..offsets[list + 1] as usize;
        let count = (share * rows.len() as f64).ceil() as usize;
        lists.into_iter().flat_map(members).take(count).collect()
    });
    let exact = SearchParams {
        exact: true,
        ..SearchParams::new(K)
    };
    let (truth, ..) = run(
        &Flat::build(metric, &rows),
        &rows,
        &queries,
        &exact,
        allowed.as_ref(),
        1,
    );
    for kind in arguments[0].split(',') {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let index: Box<dyn VectorIndex> = match kind {
            "ivf" => Box::new(Ivf::build(metric, &rows, &sorted)),
            "hybrid" => Box::new(Ivf::hybrid(metric, &rows, &sorted)),
            "hnsw" => Box::new(Hnsw::build(metric, &rows, None, HnswParams::default())),
            other => panic!("unknown index {other}"),
        };
        let index = &*index;
        println!(
            "{{\"kernels\": \"{}\", \"rows\": {}, \"kmeans_s\": {trained:.3}, \"kmeans_cpu_s\": {trained_cpu:.3}, \"build_s\": {:.3}, \"build_cpu_s\": {:.3}, \"bytes_per_vector\": {:.1}, \"index\": \"{}\"}}",
            simd::name(),
            rows.len(),
            start.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            index.memory_bytes() as f64 / rows.len() as f64,
            index.describe(),
        );

        for effort in EFFORTS {
            let params = SearchParams {
                effort,
                ..SearchParams::new(K)
            };
            let (found, qps, stats) = run(index, &rows, &queries, &params, allowed.as_ref(), PASSES);
            let recalls = found.iter().zip(&truth).map(|(found, truth)| recall_at_k(found, truth));
            let recall = recalls.sum::<f64>() / truth.len() as f64;
            let mean = |count: usize| count as f64 / (queries.len() * PASSES) as f64;
            println!(
                "{{\"effort\": {effort}, \"recall\": {recall:.4}, \"qps\": {qps:.0}, \"means\": {:.1}, \"lists\": {:.1}, \"codes\": {:.0}, \"refined\": {:.1}, \"exact\": {:.1}}}",
                mean(stats.means),
                mean(stats.lists),
                mean(stats.codes),
                mean(stats.refined),
                mean(stats.exact),
            );
        }
    }
}

/// Rows of a file, or `made:COUNT:SEED` ones.
fn floats(dim: usize, path: &str) -> Rows {
    if let Some((count, seed)) = path.strip_prefix("made:").and_then(|made| made.split_once(':')) {
        return made(dim, count.parse().unwrap(), seed.parse().unwrap());
    }
    let bytes = std::fs::read(path).unwrap();
    let floats = bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four));
    Rows::from_vec(dim, floats.collect())
}

/// Rows in 1,000 groups of unlike sizes that overlap on a curved surface of `LATENT` dimensions, about as real descriptors do, with a
/// little noise. Rows of another seed are others of the same groups.
fn made(dim: usize, count: usize, seed: u64) -> Rows {
    const GROUPS: usize = 1_000;
    const LATENT: usize = 20;
    let mut of_all = StdRng::seed_from_u64(1);
    let mut normals = |count: usize| (0..count).map(|_| normal(&mut of_all)).collect::<Vec<f32>>();
    let (centres, directions, phases) = (normals(GROUPS * LATENT), normals(dim * LATENT), normals(dim));
    let mut random = StdRng::seed_from_u64(seed);
    let mut data = Vec::with_capacity(count * dim);
    for _ in 0..count {
        let group = (random.random::<f32>().powi(2) * GROUPS as f32) as usize;
        let centre = &centres[group * LATENT..][..LATENT];
        let latent: Vec<f32> = centre.iter().map(|x| x + 0.5 * normal(&mut random)).collect();
        for (direction, phase) in directions.chunks_exact(LATENT).zip(&phases) {
            data.push((0.3 * simd::dot(direction, &latent) + 3.0 * phase).sin() + 0.02 * normal(&mut random));
        }
    }
    Rows::from_vec(dim, data)
}

/// About normally distributed.
fn normal(random: &mut StdRng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

/// CPU seconds of all threads of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// CPU seconds of this thread, which other load does not change: what the queries cost.
fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e9
}

fn run(
    index: &dyn VectorIndex,
    rows: &Rows,
    queries: &Rows,
    params: &SearchParams,
    allowed: Option<&FixedBitSet>,
    passes: usize,
) -> (Vec<Vec<u32>>, f64, SearchStats) {
    let mut stats = SearchStats::default();
    let mut found = Vec::new();
    let start = thread_seconds();
    for _ in 0..passes {
        let search = |query: usize| index.search_counted(rows, queries.get(query), params, allowed, &mut stats);
        found = (0..queries.len()).map(search).collect();
    }
    let seconds = thread_seconds() - start;
    let rows_of = |hits: &Vec<Hit>| hits.iter().map(|hit| hit.row).collect();
    (
        found.iter().map(rows_of).collect(),
        (queries.len() * passes) as f64 / seconds,
        stats,
    )
}

//! `proximadb bench` on a small data set.

use std::path::Path;
use std::process::Command;

use proximadb::cli::formats::{self, FilePoint};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

const DIMENSIONS: usize = 16;

fn random(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = StdRng::seed_from_u64(seed);
    let vector = |_| (0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect();
    (0..count).map(vector).collect()
}

fn write(path: &Path, vectors: &[Vec<f32>]) {
    let mut writer = formats::create(path).unwrap();
    let point = |vector: &Vec<f32>| FilePoint {
        id: Value::Null,
        vector: json!(vector),
        payload: Map::new(),
    };
    writer.write(&vectors.iter().map(point).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
}

/// The rows nearest to each query, as .ivecs has them.
fn truth(vectors: &[Vec<f32>], queries: &[Vec<f32>]) -> Vec<u8> {
    let distance =
        |query: &[f32], row: usize| -> f32 { query.iter().zip(&vectors[row]).map(|(a, b)| (a - b).powi(2)).sum() };
    let nearest = |query: &Vec<f32>| {
        let mut rows: Vec<usize> = (0..vectors.len()).collect();
        rows.sort_by(|a, b| distance(query, *a).total_cmp(&distance(query, *b)));
        [10].into_iter()
            .chain(rows)
            .take(11)
            .flat_map(|word| (word as u32).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    queries.iter().flat_map(nearest).collect()
}

#[test]
fn i1_bench_measures_every_way_at_every_effort_and_draws_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let (vectors, queries) = (random(3_000, 1), random(20, 2));
    write(&file("base.fvecs"), &vectors);
    write(&file("queries.npy"), &queries);
    std::fs::write(file("truth.ivecs"), truth(&vectors, &queries)).unwrap();
    let bench = Command::new(env!("CARGO_BIN_EXE_proximadb"))
        .args(["--json", "bench"])
        .arg(file("base.fvecs"))
        .arg("--queries")
        .arg(file("queries.npy"))
        .arg("--truth")
        .arg(file("truth.ivecs"))
        .args([
            "--distance",
            "Euclid",
            "--ef",
            "10,1000",
            "--clients",
            "1,2",
            "--rounds",
            "1",
            "--seconds",
            "0.05",
            "--plot",
        ])
        .arg(file("plot.svg"))
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let report: Value = serde_json::from_slice(&bench.stdout).unwrap();
    assert_eq!(report["import"]["points"], 3_000);
    assert_eq!(report["import"]["indexed"], 3_000);
    let rows = report["search"].as_array().unwrap();
    let asked: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["ef"].as_u64().unwrap(),
                row["asked"].as_str().unwrap(),
                row["clients"].as_u64().unwrap(),
            )
        })
        .collect();
    let ways = |ef| {
        [
            (ef, "in process", 1),
            (ef, "in process", 2),
            (ef, "HTTP", 1),
            (ef, "HTTP", 2),
        ]
    };
    assert_eq!(asked, [ways(10), ways(1_000)].concat());
    for row in rows {
        assert!(
            row["qps"].as_f64().unwrap() > 0.0 && row["p99_us"].as_f64() >= row["p50_us"].as_f64(),
            "{row}"
        );
    }
    assert!(rows.last().unwrap()["recall"].as_f64().unwrap() > 0.95, "{report}");
    let plot = std::fs::read_to_string(file("plot.svg")).unwrap();
    assert_eq!(plot.matches("<polyline").count(), 4, "{plot}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn i1_bench_says_what_it_cannot_read() {
    let bench = Command::new(env!("CARGO_BIN_EXE_proximadb"))
        .args(["bench", "missing.fvecs"])
        .output()
        .unwrap();
    assert_eq!(bench.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&bench.stderr).contains("missing.fvecs"),
        "{bench:?}"
    );
    let bench = Command::new(env!("CARGO_BIN_EXE_proximadb"))
        .args(["bench", "x.fvecs", "--clients", "0"])
        .output()
        .unwrap();
    assert_eq!(bench.status.code(), Some(2));
}

//! How close the log comes to what the machine can do: the same records, in the same batches, appended by hand with
//! `fdatasync` and through `Wal::append`, in interleaved rounds. `cargo bench -p proximadb-db --bench wal [--
//! <directory>]`
//!
//! One record: 384 floats and a small JSON payload. 64 writers, each waiting for its acknowledgement before its next
//! call. "raw" is one thread that appends what the log has written per commit on average and syncs; it encodes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proximadb_db::config::WalFormat;
use proximadb_db::point::{NamedVectors, Operation, Point, PointId};
use proximadb_db::root::{Root, RootConfig, Roots, StorageComponentType};
use proximadb_db::wal::{Wal, WalOptions, WalStart};
use proximadb_store::StorageUrl;

const WRITERS: u64 = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const COLLECTION: &str = "01930000-0000-7000-8000-000000000001";

fn record(id: u64) -> Operation {
    let vector = (0..384).map(|at| (id * 31 + at) as f32 * 0.001).collect();
    let payload = serde_json::json!({"name": "package", "size": id, "section": "database"});
    let payload = payload.as_object().cloned().unwrap_or_default();
    Operation::Upsert(Point {
        id: PointId::Num(id),
        vectors: NamedVectors::single(vector),
        payload,
    })
}

struct Measured {
    bytes_per_second: f64,
    records_per_second: f64,
    bytes_per_commit: usize,
}

async fn open_root(directory: &Path) -> Arc<Root> {
    let config = RootConfig {
        component: StorageComponentType::Wal,
        url: StorageUrl::parse(&format!("file://{}", directory.display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    let roots = Roots::open(vec![config], false).await.unwrap();
    roots.of_component(StorageComponentType::Wal).remove(0)
}

/// The log with 64 writers of `per_call` records a call.
async fn log_round(root: &Arc<Root>, format: WalFormat, per_call: u64) -> Measured {
    let start = WalStart {
        lanes: vec![root.clone()],
        spare: None,
        roots: Vec::new(),
        directory: format!("{COLLECTION}/000"),
        description: format!(r#"{{"id":"{COLLECTION}"}}"#),
        files: Vec::new(),
        after: 0,
        format,
        options: WalOptions::default(),
        apply: Arc::new(drop),
        confirm: None,
    };
    let wal = Wal::open(start, &mut |_, _| {}).await.unwrap();
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let wal = wal.clone();
            tokio::spawn(async move {
                let call: Vec<Operation> = (0..per_call).map(|at| record(writer * 1000 + at)).collect();
                while began.elapsed() < ROUND {
                    wal.append(call.clone()).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    let stats = wal.stats();
    wal.close().await;
    root.delete_dir(COLLECTION).await.unwrap();
    Measured {
        bytes_per_second: stats.appended_bytes as f64 / seconds,
        records_per_second: stats.appended_entries as f64 / seconds,
        bytes_per_commit: (stats.appended_bytes / stats.commits.max(1)) as usize,
    }
}

/// Append and `fdatasync` of blocks of `bytes`, files of 64 MiB as the log's.
fn raw_round(directory: &Path, bytes: usize) -> f64 {
    let block: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    let began = Instant::now();
    let mut written = 0_u64;
    let mut paths = Vec::new();
    while began.elapsed() < ROUND {
        let path = directory.join(format!("raw-{}", paths.len()));
        let file = File::create(&path).unwrap();
        paths.push(path);
        let mut end = 0;
        while end < 64 << 20 && began.elapsed() < ROUND {
            file.write_all_at(&block, end).unwrap();
            file.sync_data().unwrap();
            end += bytes as u64;
        }
        written += end;
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let base = given.map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(base).unwrap();
    let log_root = runtime.block_on(open_root(&root.path().join("log")));
    println!(
        "directory {}, {WRITERS} writers, {ROUNDS} rounds of {ROUND:?} each, medians",
        root.path().display()
    );
    println!(
        "{:>8} {:>12} {:>12} {:>14} {:>10} {:>10} {:>8}",
        "format", "records/call", "records/s", "bytes/commit", "log MB/s", "raw MB/s", "ratio"
    );
    let cases = WalFormat::ALL
        .into_iter()
        .flat_map(|format| [(format, 1), (format, 100)]);
    for (format, per_call) in cases {
        let (mut logs, mut raws, mut ratios, mut records, mut block) = (vec![], vec![], vec![], vec![], 0);
        for _ in 0..ROUNDS {
            let log = runtime.block_on(log_round(&log_root, format, per_call));
            let raw = raw_round(root.path(), log.bytes_per_commit);
            ratios.push(log.bytes_per_second / raw);
            logs.push(log.bytes_per_second / 1e6);
            raws.push(raw / 1e6);
            records.push(log.records_per_second);
            block = log.bytes_per_commit;
        }
        let (log, raw, ratio, records) = (median(logs), median(raws), median(ratios), median(records));
        println!("{format:>8} {per_call:>12} {records:>12.0} {block:>14} {log:>10.1} {raw:>10.1} {ratio:>8.2}");
    }
}

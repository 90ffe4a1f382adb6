//! Commands that read the files themselves. They lock the roots, so they refuse to run beside a server.

use std::collections::BTreeMap;

use proximadb_db::Database;
use proximadb_db::config::Config;
use proximadb_db::database::root_configs;
use proximadb_db::discovery::discover;
use proximadb_db::error::{Error, Result};
use proximadb_db::point::{Operation, Seq};
use proximadb_db::root::{Root, Roots, StorageComponentType};
use proximadb_db::wal::{describe, read_log_file};
use serde_json::{Value, json};

use crate::api::storage;

/// What the server would answer at `path`, read from the files.
///
/// # Errors
/// [`Error::Config`] if a server holds the roots; errors of the roots.
pub fn report(config: &Config, path: &str) -> Result<Value> {
    block_on(async {
        let database = Database::open(config.clone()).await?;
        let report = match path {
            "/storage/roots" => storage::list(&database).await,
            "/storage/assignments" => json!({ "assignments": database.assignment_reports().await }),
            _ => storage::summary(&database).await,
        };
        database.close().await;
        Ok(report)
    })
}

/// Files, bytes and sequence numbers of every log.
///
/// # Errors
/// As [`report`]; [`Error::Corruption`] for a damaged file.
pub fn wal_stats(config: &Config) -> Result<Value> {
    let mut logs: BTreeMap<String, Value> = BTreeMap::new();
    block_on(each_log_file(config, |root, path, bytes| {
        let summary = read_log_file(path, bytes, &mut |_, _| ())?;
        let name = describe(path, bytes)?.name;
        let log = logs.entry(name.clone()).or_insert_with(|| {
            json!({ "collection": name, "root": root.url(), "files": 0, "bytes": 0, "entries": 0, "blocks": 0, "first_seq": summary.first_seq })
        });
        let add = |log: &mut Value, key: &str, more: u64| log[key] = json!(log[key].as_u64().unwrap_or(0) + more);
        add(log, "files", 1);
        add(log, "bytes", bytes.len() as u64);
        add(log, "entries", summary.upserts + summary.deletes);
        add(log, "blocks", summary.blocks);
        log["last_seq"] = json!(summary.next_seq - 1);
        Ok(())
    }))?;
    Ok(json!({ "logs": logs.into_values().collect::<Vec<_>>() }))
}

/// Prints every operation of every log, or of one collection's, one JSON object a line.
///
/// # Errors
/// As [`wal_stats`].
pub fn wal_dump(config: &Config, collection: Option<&str>) -> Result<()> {
    block_on(each_log_file(config, |_, path, bytes| {
        let name = describe(path, bytes)?.name;
        if collection.is_some_and(|wanted| wanted != name) {
            return Ok(());
        }
        read_log_file(path, bytes, &mut |seq, operation| {
            println!("{}", dumped(&name, seq, &operation))
        })
        .map(|_| ())
    }))
}

fn dumped(collection: &str, seq: Seq, operation: &Operation) -> Value {
    match operation {
        Operation::Upsert(point) => {
            let vectors: BTreeMap<&str, &[f32]> = point.vectors.iter().collect();
            json!({ "collection": collection, "seq": seq, "op": "UPSERT", "id": point.id, "vectors": vectors, "payload": point.payload })
        }
        Operation::Delete(id) => json!({ "collection": collection, "seq": seq, "op": "DELETE", "id": id }),
    }
}

/// Hands every log file to `each`, in the order of collections and sequence numbers.
async fn each_log_file(config: &Config, mut each: impl FnMut(&Root, &str, &[u8]) -> Result<()>) -> Result<()> {
    let roots = Roots::open(root_configs(config)?, true).await?;
    let discovery = discover(&roots).await;
    for (root, _, files) in discovery.of_component(StorageComponentType::Wal) {
        for file in files {
            each(root, &file.path, &root.read(&file.path).await?)?;
        }
    }
    roots.close();
    Ok(())
}

/// Runs `work` on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime
        .map_err(|error| Error::Internal(error.to_string()))?
        .block_on(work)
}

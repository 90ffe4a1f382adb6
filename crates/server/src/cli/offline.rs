//! Commands that read the files themselves. They lock the roots, so they refuse to run beside a server.

use std::collections::BTreeMap;

use proximadb_db::Database;
use proximadb_db::config::Config;
use proximadb_db::database::root_configs;
use proximadb_db::discovery::{Discovery, discover};
use proximadb_db::error::{Error, Result};
use proximadb_db::point::{Operation, Seq};
use proximadb_db::root::{Roots, StorageComponentType, probe_capabilities};
use proximadb_db::schema::{CollectionDescription, CollectionId};
use proximadb_db::verify::{Section, Verification};
use proximadb_db::wal::{FileSummary, describe, first_seq, read_log_file};
use proximadb_store::{Capabilities, FilesystemFactory, StorageUrl};
use serde_json::{Value, json};

use super::table;
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

/// Files, bytes and sequence numbers of every log. Files and bytes are those of its directory, as `find` and `du` count.
///
/// # Errors
/// As [`report`]; [`Error::Corruption`] for a damaged file.
pub fn wal_stats(config: &Config) -> Result<Value> {
    block_on(async {
        let (roots, discovery) = look(config).await?;
        let mut logs: BTreeMap<(String, CollectionId, &str), Value> = BTreeMap::new();
        for (root, id, files) in discovery.of_component(StorageComponentType::Wal) {
            let usage = discovery
                .files(root.id(), id)
                .map(|files| files.usage)
                .unwrap_or_default();
            let mut log = Log::default();
            for file in files.iter().filter(|file| first_seq(&file.path).is_some()) {
                log.add(&read_log_file(
                    &file.path,
                    &root.read(&file.path).await?,
                    &mut |_, _| (),
                )?)?;
            }
            let row = json!({
                "collection": log.name, "root": root.url(), "files": usage.files, "bytes": usage.bytes,
                "entries": log.entries, "blocks": log.blocks, "first_seq": log.first_seq, "last_seq": log.last_seq,
            });
            logs.insert((log.name, id, root.url()), row);
        }
        roots.close();
        Ok(json!({ "logs": logs.into_values().collect::<Vec<_>>() }))
    })
}

/// What the files of one log say together.
#[derive(Default)]
struct Log {
    name: String,
    entries: u64,
    blocks: u64,
    first_seq: Option<Seq>,
    last_seq: Seq,
}

impl Log {
    /// Adds the next file, in order.
    fn add(&mut self, file: &FileSummary) -> Result<()> {
        let description: CollectionDescription =
            serde_json::from_str(&file.description).map_err(|error| Error::Corruption(error.to_string()))?;
        self.name = description.name;
        self.entries += file.upserts + file.deletes;
        self.blocks += file.blocks;
        self.first_seq.get_or_insert(file.first_seq);
        self.last_seq = self.last_seq.max(file.next_seq.saturating_sub(1));
        Ok(())
    }
}

/// Prints every operation of every log, or of one collection's, one JSON object a line, in the order of the sequence
/// numbers.
///
/// # Errors
/// As [`wal_stats`].
pub fn wal_dump(config: &Config, collection: Option<&str>) -> Result<()> {
    block_on(async {
        let (roots, discovery) = look(config).await?;
        let mut logs: BTreeMap<CollectionId, Vec<_>> = BTreeMap::new();
        let mut on_roots: BTreeMap<CollectionId, usize> = BTreeMap::new();
        for (root, id, files) in discovery.of_component(StorageComponentType::Wal) {
            let log = logs.entry(id).or_default();
            log.extend(
                files
                    .iter()
                    .map(|file| (first_seq(&file.path), root, file.path.as_str())),
            );
            *on_roots.entry(id).or_default() += 1;
        }
        for (id, mut files) in logs {
            files.sort_by_key(|(first, _, path)| (*first, *path));
            // The files of one root follow each other; those of several are merged, and what stands in two counts once.
            let is_one = on_roots.get(&id) == Some(&1) && files.iter().all(|(_, root, _)| root.fs().is_local());
            let mut merged = BTreeMap::new();
            let mut holes = Vec::new();
            for (_, root, path) in files {
                let bytes = root.read(path).await?;
                let name = describe(path, &bytes)?.name;
                if collection.is_some_and(|wanted| wanted != name) {
                    continue;
                }
                let summary = read_log_file(path, &bytes, &mut |seq, operation| {
                    let line = dumped(&name, seq, &operation);
                    if is_one {
                        println!("{line}");
                    } else {
                        merged.insert(seq, line);
                    }
                })?;
                holes.push((summary.previous_seq, summary.first_seq));
            }
            // Numbers that a later file says belong to nothing: operations that failed, or of a writer that was replaced.
            let counts = |seq: &Seq| !holes.iter().any(|(previous, first)| previous < seq && seq < first);
            merged.retain(|seq, _| counts(seq));
            merged.values().for_each(|line| println!("{line}"));
        }
        roots.close();
        Ok(())
    })
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

/// The roots, locked and not changed, and what is there.
async fn look(config: &Config) -> Result<(Roots, Discovery)> {
    let roots = Roots::inspect(root_configs(config)?).await?;
    let discovery = discover(&roots).await;
    Ok((roots, discovery))
}

/// What the place of a URL can do, with the credentials that the configuration has for it. Locks nothing.
///
/// # Errors
/// [`Error::Config`] for a URL or options that are wrong; [`Error::RootUnavailable`] when it cannot be used at all.
pub fn probe(config: &Config, url: &str) -> Result<Capabilities> {
    let options = config.storage.for_url(url).options;
    let wrong = |error: String| Error::Config(error);
    let url = StorageUrl::parse(url).map_err(|error| wrong(error.to_string()))?;
    let fs = FilesystemFactory::get_filesystem(&url, &options).map_err(|error| wrong(error.to_string()))?;
    block_on(probe_capabilities(&fs))
}

/// Checks every file of every root; changes nothing.
///
/// # Errors
/// [`Error::Config`] if a server uses the roots, or they are not what the configuration says.
pub fn verify(config: &Config) -> Result<Verification> {
    block_on(proximadb_db::verify::verify(config))
}

/// The outcome of [`verify`] as data: a section for each component with its settings, totals and findings.
pub fn verification_json(config: &Config, verification: &Verification) -> Value {
    let settings = config.show_json();
    let section = |section: &Section| {
        let name = match section.component {
            StorageComponentType::Metadata => "storage.collection_metadata_config".to_owned(),
            component => format!("storage.{component}_config"),
        };
        let totals = section.totals();
        json!({
            "section": name, "component": section.component.name(), "settings": settings_of(&settings, &name),
            "collection_directories": totals.collection_directories, "files": totals.files, "bytes": totals.bytes,
            "roots": section.roots, "findings": section.findings, "result": outcome(section.passed()),
        })
    };
    json!({
        "sections": verification.sections.iter().map(section).collect::<Vec<_>>(),
        "damaged": verification.damaged(), "warnings": verification.warnings(),
        "result": outcome(verification.damaged() == 0),
    })
}

/// The values of a section; of URLs their number.
fn settings_of(settings: &Value, section: &str) -> Value {
    let keys = settings.as_object().into_iter().flatten();
    let values = keys.filter_map(|(key, setting)| {
        let name = key.strip_prefix(section)?.strip_prefix('.')?;
        Some(match &setting["value"] {
            Value::Array(urls) => ("urls".to_owned(), json!(urls.len())),
            value => (name.to_owned(), value.clone()),
        })
    });
    Value::Object(values.collect())
}

fn outcome(passed: bool) -> &'static str {
    if passed { "SUCCESS" } else { "FAIL" }
}

/// The report of [`verification_json`] for people.
pub fn verification_text(report: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    for section in list(&report["sections"]) {
        text.push_str(&format!("[{}]\n", table::text(&section["section"])));
        for (name, value) in section["settings"].as_object().into_iter().flatten() {
            text.push_str(&format!("{name}: {}\n", table::text(value)));
        }
        text.push_str(&totals_text("", &section));
        for root in list(&section["roots"]) {
            text.push_str(&format!(
                "  {}\n{}",
                table::text(&root["url"]),
                totals_text("    ", &root)
            ));
        }
        for finding in list(&section["findings"]) {
            let field = |name: &str| table::text(&finding[name]);
            let place = format!("{}/{}", field("root").trim_end_matches('/'), field("path"));
            let (kind, problem, advice) = (field("kind"), field("problem"), field("advice"));
            let place = place.trim_end_matches('/');
            text.push_str(&format!("{kind}: {place}\n  {problem}\n  to do: {advice}\n"));
        }
        text.push_str(&format!("{}\n\n", table::text(&section["result"])));
    }
    let (damaged, warnings) = (&report["damaged"], &report["warnings"]);
    text.push_str(&format!(
        "{}: {damaged} damaged, {warnings} warnings\n",
        table::text(&report["result"])
    ));
    text
}

fn totals_text(indent: &str, totals: &Value) -> String {
    let number = |name: &str| totals[name].as_u64().unwrap_or(0);
    let (directories, files) = (number("collection_directories"), number("files"));
    let bytes = table::bytes(number("bytes"));
    format!("{indent}collection directories: {directories}\n{indent}files: {files}\n{indent}total: {bytes}\n")
}

/// Runs `work` on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime
        .map_err(|error| Error::Internal(error.to_string()))?
        .block_on(work)
}

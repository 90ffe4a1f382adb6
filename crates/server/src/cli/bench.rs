//! `bench`: what search and import of a data set take on this machine, in process and over HTTP.
//!
//! Opens a database of its own in a temporary directory, serves it on a free loopback port, imports the file over HTTP, and then asks
//! the same queries in every way at every effort, in interleaved rounds. Server and clients share the machine: HTTP pays for both ends.

mod data;
mod load;
mod plot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use proximadb_db::config::Config;
use proximadb_db::{Collection, Database};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::client::Client;
use super::formats::Columns;
use super::transfer::{self, Target};
use super::{Failure, table};
use crate::api::{App, Settings};
use crate::serve::serve;

use data::Queries;
use load::{Asked, LIMIT, Way};

/// Name of the collection.
const NAME: &str = "bench";
/// How long to wait between two looks at whether everything is indexed.
const LOOK: Duration = Duration::from_millis(10);

/// What to measure.
#[derive(Args)]
pub struct BenchArgs {
    /// The vectors (.parquet, .jsonl, .npy, .fvecs).
    file: PathBuf,
    /// The queries, in any of these formats; without them some of the vectors, each of which then finds itself first.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// The true neighbours of the queries: a column of their file with lists of ids, or an .ivecs file of row numbers. Without it they are
    /// found by exact search.
    #[arg(long, value_name = "COLUMN|FILE.ivecs")]
    truth: Option<String>,
    /// Column or key of the vectors.
    #[arg(long, default_value = "vector")]
    vector: String,
    /// Cosine, Dot, Euclid or Manhattan.
    #[arg(long, default_value = "Cosine")]
    distance: String,
    /// Efforts of a search (`hnsw_ef`).
    #[arg(long, value_name = "EFFORT,…", value_delimiter = ',', default_values_t = [12, 25, 50, 100, 200, 400])]
    ef: Vec<usize>,
    /// Numbers of clients that ask at once.
    #[arg(long, value_name = "NUMBER,…", value_delimiter = ',', default_values_t = [1, 2, 8])]
    clients: Vec<usize>,
    /// How often everything is measured; the medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Draw speed against recall into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Measures, and prints what it measured.
///
/// # Errors
/// Wrong numbers; a file that cannot be read; a server that refuses the data.
pub fn run(args: &BenchArgs, as_json: bool) -> Result<(), Failure> {
    if args.ef.is_empty() || args.clients.is_empty() || args.clients.contains(&0) || args.rounds == 0 {
        return Err(Failure::Usage(
            "--ef, --clients and --rounds take numbers from 1 on".to_owned(),
        ));
    }
    let report = measure(args)?;
    if let Some(file) = &args.plot {
        let title = args.file.file_name().unwrap_or_default().to_string_lossy();
        let picture = plot::draw(&title, &curves(&report));
        std::fs::write(file, picture).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    super::print(as_json, &report, || {
        table::print(&json!([report["import"]]));
        println!();
        table::print(&report["search"]);
    });
    Ok(())
}

fn measure(args: &BenchArgs) -> Result<Value, String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let scratch = Scratch::new()?;
    let url = format!("file://{}", scratch.0.display());
    let config = [("PROXIMADB__STORAGE__URLS".to_owned(), url)];
    let config = Config::load(None, config.into_iter()).map_err(|error| error.to_string())?;
    let settings = Settings::from(&config.server);
    let database = runtime
        .block_on(Database::open(config))
        .map_err(|error| error.to_string())?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let app = runtime.block_on(async { App::new(database.clone(), settings) });
    let server = runtime.spawn(serve(listener, app, async { drop(stopped.await) }));

    let asked = Asked {
        columns: Columns {
            id: "id".to_owned(),
            vector: args.vector.clone(),
        },
        collection_name: NAME,
        address,
    };
    let import = import(args, &asked, &runtime, &database, &scratch.0)?;
    let collection = runtime
        .block_on(database.collection(NAME))
        .map_err(|error| error.to_string())?;
    let queries = data::queries(args, &asked.columns, &collection)?;
    let search = search(args, &asked, &collection, &queries)?;
    drop(stop);
    let served = runtime.block_on(server).map_err(|error| error.to_string())?;
    served.map_err(|error| error.to_string())?;
    Ok(json!({
        "file": args.file, "queries": queries.vectors.len(), "limit": LIMIT, "import": import, "search": search,
    }))
}

/// Imports the file until it is durable, flushed, merged and indexed.
fn import(
    args: &BenchArgs,
    asked: &Asked,
    runtime: &Runtime,
    database: &Arc<Database>,
    directory: &Path,
) -> Result<Value, String> {
    let into = Target {
        collection: NAME.to_owned(),
        distance: args.distance.clone(),
        resume: false,
    };
    let (began, cpu) = (Instant::now(), load::cpu_seconds());
    let client = Client::new(&format!("http://{}", asked.address));
    let columns = data::columns_of(&args.file, &asked.columns)?;
    let done = transfer::import(&client, &args.file, &columns, &into)?;
    let index = async {
        let collection = database.collection(NAME).await?;
        collection.flush().await?;
        collection.compact().await?;
        until_indexed(&collection).await?;
        Ok(collection.info())
    };
    let info = runtime
        .block_on(index)
        .map_err(|error: proximadb_db::Error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    let per_vector = |bytes: u64| bytes.checked_div(info.points).unwrap_or(0);
    Ok(json!({
        "points": info.points,
        "acknowledged_s": rounded(done.seconds),
        "indexed_s": rounded(seconds),
        "points_per_s": (info.points as f64 / seconds).round(),
        "cpu_s": rounded(load::cpu_seconds() - cpu),
        "segments": info.segments,
        "indexed": info.indexed_vectors,
        "index_bytes_per_vector": per_vector(info.index_memory_bytes),
        "disk_bytes_per_vector": per_vector(bytes_below(directory)?),
        "resident_bytes": load::resident_bytes(),
    }))
}

/// Waits until an index covers all vectors of the segments that are large enough for one.
async fn until_indexed(collection: &Collection) -> Result<(), proximadb_db::Error> {
    loop {
        let explanation = collection.explain(None).await?;
        if explanation.segments.iter().all(|segment| !segment.waits_for_index) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Every way of asking at every effort.
fn search(args: &BenchArgs, asked: &Asked, collection: &Arc<Collection>, queries: &Queries) -> Result<Value, String> {
    let ways = [Way::InProcess, Way::Http];
    let ways: Vec<(Way, usize)> = ways
        .into_iter()
        .flat_map(|way| args.clients.iter().map(move |clients| (way, *clients)))
        .collect();
    let mut rows = Vec::new();
    for ef in &args.ef {
        let prepared = asked.prepare(collection, &queries.vectors, *ef);
        let recall = data::recall(&prepared.answers()?, &queries.truth);
        let mut rounds = vec![Vec::new(); ways.len()];
        for _ in 0..args.rounds {
            for ((way, clients), rounds) in ways.iter().zip(&mut rounds) {
                rounds.push(prepared.round(*way, *clients, Duration::from_secs_f64(args.seconds))?);
            }
        }
        let measured: Vec<load::Measured> = rounds.into_iter().map(load::Measured::of).collect();
        for ((way, clients), own) in ways.iter().zip(&measured) {
            let in_process = ways.iter().zip(&measured);
            let in_process = in_process.filter(|(other, _)| **other == (Way::InProcess, *clients));
            let share = in_process.map(|(_, other)| own.qps / other.qps).next();
            rows.push(json!({
                "asked": way.name(), "clients": clients, "ef": ef, "recall": (recall * 1e4).round() / 1e4,
                "qps": own.qps.round(), "p50_us": own.p50_us.round(), "p99_us": own.p99_us.round(),
                "cpu_us": own.cpu_us.round(), "of_in_process": share.map(rounded),
            }));
        }
    }
    Ok(Value::Array(rows))
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Recall and speed at every effort, for each way of asking.
fn curves(report: &Value) -> Vec<plot::Curve> {
    let mut curves: Vec<plot::Curve> = Vec::new();
    for row in report["search"].as_array().into_iter().flatten() {
        let name = format!("{}, {} clients", table::text(&row["asked"]), row["clients"]);
        let point = (
            row["recall"].as_f64().unwrap_or(0.0),
            row["qps"].as_f64().unwrap_or(0.0),
        );
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(plot::Curve {
                name,
                points: vec![point],
            }),
        }
    }
    curves
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let about = entry.metadata().map_err(failed)?;
        bytes += if about.is_dir() {
            bytes_below(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(bytes)
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("proximadb-bench-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} is left behind: {error}", self.0.display());
        }
    }
}

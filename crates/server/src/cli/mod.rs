//! The command line: what a command is called, what it takes, and what its exit code means.

mod assign;
mod bench;
pub mod client;
pub mod formats;
pub mod offline;
pub mod quickstart;
mod storage;
pub mod table;
pub mod transfer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use proximadb_db::Error;
use proximadb_db::config::Config;
use serde_json::{Value, json};

use assign::AssignCommand;
use bench::BenchArgs;
use client::Client;
use formats::Columns;
use storage::StorageCommand;
use transfer::Target;

/// Something failed while the command ran.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; nothing was started.
const WRONG_USAGE: u8 = 2;
/// `storage verify` found damage.
const DAMAGED: u8 = 3;

/// ProximaDB: a vector database over many disks and buckets.
///
/// Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 3 damage found by `storage verify`.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Configuration file (TOML); without one everything lies below ./proximadb-data.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

impl Cli {
    /// What is logged unless `RUST_LOG` says otherwise: a benchmark's own output is its figures.
    pub fn log_filter(&self) -> &'static str {
        match self.command {
            Command::Bench(_) => "warn",
            _ => "info,foyer_storage=warn",
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve,
    /// Three local roots, 5,000 real points, searches, a picture of the placement; then keeps serving.
    Quickstart(QuickstartArgs),
    /// Show or check the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Send the points of a file (.parquet, .jsonl, .npy, .fvecs) to a running server.
    Import(ImportArgs),
    /// Write all points of a collection of a running server to a file (.parquet, .jsonl, .npy, .fvecs).
    Export(ExportArgs),
    /// Measure search and import of a file (.parquet, .jsonl, .npy, .fvecs) on this machine, in process and over HTTP.
    Bench(BenchArgs),
    /// What is where, and what to do about it: roots, assignments, totals, moves, and a check of every file.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Where each component of each collection lives.
    #[command(subcommand)]
    Assign(AssignCommand),
    /// The same as `storage verify`.
    Verify,
    /// What VIPER segments hold.
    #[command(subcommand)]
    Viper(ViperCommand),
    /// What the write-ahead log holds; reads the files, so the server must be stopped.
    #[command(subcommand)]
    Wal(WalCommand),
}

#[derive(Args)]
struct QuickstartArgs {
    /// Where to keep the data.
    #[arg(long, default_value = "proximadb-quickstart")]
    directory: PathBuf,
    /// Address to serve on.
    #[arg(long, default_value = "127.0.0.1:6333")]
    listen: String,
    /// End after the tour instead of serving on.
    #[arg(long)]
    exit: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every key with its effective value and where it comes from.
    Show,
    /// Check the configuration without starting anything.
    Check,
}

#[derive(Args)]
struct ServerArgs {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:6333")]
    url: String,
}

#[derive(Args)]
struct ImportArgs {
    /// The file.
    file: PathBuf,
    /// Collection to import into; created if missing.
    #[arg(long)]
    collection: String,
    /// Column or key of the id.
    #[arg(long, default_value = "id")]
    id: String,
    /// Column or key of the vector.
    #[arg(long, default_value = "vector")]
    vector: String,
    /// Distance of a collection that has to be created: Cosine, Dot, Euclid or Manhattan.
    #[arg(long, default_value = "Cosine")]
    distance: String,
    /// Send only points that the server does not have.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
struct ExportArgs {
    /// The file; overwritten if it exists.
    file: PathBuf,
    /// Collection to export.
    #[arg(long)]
    collection: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum ViperCommand {
    /// The clusters of a collection of a running server: segment, file, root and rows of each.
    Clusters {
        /// The collection.
        collection: String,
    },
}

#[derive(Subcommand)]
enum WalCommand {
    /// Files, bytes and sequence numbers per collection.
    Stats,
    /// Every operation in order, one JSON object a line.
    Dump {
        /// Only this collection.
        #[arg(long)]
        collection: Option<String>,
    },
}

/// Why a command ended early.
pub enum Failure {
    /// Wrong usage or configuration.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// Verification found damage; the report was printed.
    Damaged,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(reason) => Self::Usage(reason),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Runs a command; errors go to stderr.
pub fn run(cli: Cli) -> ExitCode {
    let (code, reason) = match dispatch(cli) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(reason)) => (WRONG_USAGE, reason),
        Err(Failure::Failed(reason)) => (FAILED, reason),
        Err(Failure::Damaged) => (DAMAGED, "damage found; see the report".to_owned()),
    };
    eprintln!("error: {reason}");
    ExitCode::from(code)
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let file = cli.config;
    let load = move || {
        // All of the environment: the configuration also names variables with secrets. What is not Unicode is no variable of ours.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = Config::load(file.as_deref(), variables)?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok::<_, Error>(config)
    };
    match cli.command {
        Command::Serve => Ok(crate::serve::run(&load()?, load)?),
        Command::Quickstart(args) => quickstart(&args),
        Command::Config(ConfigCommand::Check) => {
            load()?;
            print(cli.json, &json!({ "valid": true }), || {
                println!("The configuration is valid.")
            });
            Ok(())
        }
        Command::Config(ConfigCommand::Show) => {
            let config = load()?;
            print(cli.json, &config.show_json(), || print!("{}", config.show()));
            Ok(())
        }
        Command::Import(args) => import(&args, cli.json),
        Command::Export(args) => {
            let done = transfer::export(&Client::new(&args.server.url), &args.collection, &args.file)?;
            let text = || {
                println!(
                    "Exported {} points to {} in {:.2} s",
                    done.points,
                    args.file.display(),
                    done.seconds
                )
            };
            print(cli.json, &done.to_json(), text);
            Ok(())
        }
        Command::Bench(args) => bench::run(&args, cli.json),
        Command::Storage(command) => storage::run(&load()?, command, cli.json),
        Command::Assign(command) => assign::run(&load()?, command, cli.json),
        Command::Verify => storage::run(&load()?, StorageCommand::Verify, cli.json),
        Command::Viper(ViperCommand::Clusters { collection }) => storage::clusters(&load()?, &collection, cli.json),
        Command::Wal(WalCommand::Stats) => {
            let report = offline::wal_stats(&load()?)?;
            print(cli.json, &report, || table::print(&report["logs"]));
            Ok(())
        }
        Command::Wal(WalCommand::Dump { collection }) => Ok(offline::wal_dump(&load()?, collection.as_deref())?),
    }
}

fn import(args: &ImportArgs, as_json: bool) -> Result<(), Failure> {
    let columns = Columns {
        id: args.id.clone(),
        vector: args.vector.clone(),
    };
    let target = Target {
        collection: args.collection.clone(),
        distance: args.distance.clone(),
        resume: args.resume,
    };
    let done = transfer::import(&Client::new(&args.server.url), &args.file, &columns, &target)?;
    print(as_json, &done.to_json(), || {
        println!(
            "Imported {} points in {:.2} s ({:.0} points/s)",
            done.points,
            done.seconds,
            done.rate()
        );
    });
    Ok(())
}

fn quickstart(args: &QuickstartArgs) -> Result<(), Failure> {
    let directory = std::path::absolute(&args.directory).map_err(|error| error.to_string())?;
    let written =
        write_configuration(&directory, &args.listen).map_err(|error| format!("{}: {error}", directory.display()))?;
    let config = Config::load(Some(&written), std::env::vars())?;
    let base = format!("http://{}", config.server.listen);
    println!(
        "ProximaDB quickstart: configuration {}, API {base}\n",
        written.display()
    );
    let exit = args.exit;
    let tour = move || quickstart::tour(&Client::new(&base), &base);
    Ok(crate::serve::run_with(&config, tour, exit)?)
}

fn write_configuration(directory: &Path, listen: &str) -> std::io::Result<PathBuf> {
    let file = directory.join("proximadb.toml");
    std::fs::create_dir_all(directory)?;
    std::fs::write(&file, quickstart::configuration(directory, listen))?;
    Ok(file)
}

fn print(as_json: bool, report: &Value, text: impl FnOnce()) {
    if as_json {
        println!("{report}");
    } else {
        text();
    }
}

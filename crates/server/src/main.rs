//! The ProximaDB binary: reads the command line and logs to stderr, as text or, with `PROXIMADB_LOG_FORMAT=json`, as one
//! JSON object a line.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use proximadb::cli::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    proximadb_store::heap::give_back_large_blocks();
    let cli = Cli::parse();
    // Before anything is loaded: loading a configuration may warn. RUST_LOG chooses what is shown.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(cli.log_filter()));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("PROXIMADB_LOG_FORMAT").is_some_and(|format| format == "json") {
        log.json().init();
    } else {
        log.init();
    }
    run(cli)
}

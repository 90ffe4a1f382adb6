//! The ProximaDB binary: reads the command line and logs to stderr.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use proximadb::cli::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything is loaded: loading a configuration may warn. RUST_LOG chooses what is shown.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    run(Cli::parse())
}

//! The ProximaDB server: only wires.

use std::process::ExitCode;
use std::sync::Arc;

use proximadb::api::{App, Settings};
use proximadb::serve::{serve, signalled};
use proximadb_db::Database;
use proximadb_db::config::Config;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(None, std::env::vars())?;
    let listener = TcpListener::bind(config.server.listen).await?;
    let app = App::new(Arc::new(Database::default()), Settings::from(&config.server));
    Ok(serve(listener, app, signalled()?).await?)
}

//! The ProximaDB server.

use std::process::ExitCode;
use std::sync::Arc;

use proximadb::api::{App, Settings};
use proximadb::serve::{serve, signalled};
use proximadb_db::Database;

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

async fn run() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6333".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let settings = Settings {
        max_request_bytes: 32 * 1024 * 1024,
        ..Settings::default()
    };
    serve(
        listener,
        App::new(Arc::new(Database::default()), settings),
        signalled()?,
    )
    .await
}

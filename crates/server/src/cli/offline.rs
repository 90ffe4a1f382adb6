//! Commands that read the files themselves. They lock the roots, so they refuse to run beside a server.

use proximadb_db::Database;
use proximadb_db::config::Config;
use proximadb_db::database::verify::{self, Finding};
use proximadb_db::error::{Error, Result};
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
            "/storage/assignments" => json!({ "assignments": storage::assignments(&database).await }),
            _ => storage::summary(&database).await,
        };
        database.close().await;
        Ok(report)
    })
}

//! The life of a collection, where only the database's own parts can be held still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::*;

async fn open(directory: &Path) -> Arc<Database> {
    let urls = format!("file://{}", directory.display());
    let variables = vec![("PROXIMADB__STORAGE__URLS".to_owned(), urls)];
    let config = Config::load(None, variables.into_iter()).unwrap();
    Database::open(config).await.unwrap()
}

fn schema() -> Schema {
    serde_json::from_value(json!({ "vectors": { "": { "size": 2, "distance": "Euclid" } } })).unwrap()
}

/// Files of collections below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().map(Result::unwrap);
    let below = entries
        .map(|entry| entry.path())
        .filter(|path| !path.ends_with("_proximadb"));
    below
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_looked_a_collection_up_before_its_drop_does_not_create_it_again() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path()).await;
    database.create_collection("c", schema()).await.unwrap();
    let entry = database.entry("c").unwrap();
    assert!(database.drop_collection("c").await.unwrap());
    let opened = database.open_entry(&entry).await.map(drop);
    assert!(matches!(opened, Err(Error::NotFound(_))), "{opened:?}");
    assert_eq!(files(directory.path()), Vec::<PathBuf>::new());
    database.close().await;
    assert_eq!(open(directory.path()).await.collection_names(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_opens_and_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path()).await;
    database.create_collection("c", schema()).await.unwrap();
    database.close().await;
    let before = files(directory.path());
    assert!(database.collection("c").await.is_err());
    assert!(database.create_collection("d", schema()).await.is_err());
    assert!(database.drop_collection("c").await.is_err());
    assert_eq!(files(directory.path()), before);
}

//! The life of a collection, where only the database's own parts can be held still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::*;

async fn open(directory: &Path) -> Arc<Database> {
    open_roots(&[directory.to_owned()]).await
}

async fn open_roots(directories: &[PathBuf]) -> Arc<Database> {
    let urls: Vec<String> = directories
        .iter()
        .map(|directory| format!("file://{}", directory.display()))
        .collect();
    let urls = serde_json::to_string(&urls).unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_could_not_be_created_does_not_exist() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path()).await;
    // The root of the log is gone after it was seen.
    let (wal, away) = (directory.path().join("wal"), directory.path().join("away"));
    std::fs::rename(&wal, &away).unwrap();
    std::fs::write(&wal, b"").unwrap();
    assert!(database.create_collection("c", schema()).await.is_err());
    assert!(!database.exists("c"));
    database.close().await;
    drop(database);
    std::fs::remove_file(&wal).unwrap();
    std::fs::rename(&away, &wal).unwrap();
    let database = open(directory.path()).await;
    assert_eq!(database.collection_names(), Vec::<String>::new());
    assert_eq!(files(directory.path()), Vec::<PathBuf>::new());
    database.create_collection("c", schema()).await.unwrap();
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_not_made_again_while_a_root_that_may_hold_the_data_is_away() {
    let directory = TempDir::new().unwrap();
    let places = ["a", "b", "c"].map(|name| directory.path().join(name));
    let database = open_roots(&places).await;
    database.create_collection("c", schema()).await.unwrap();
    let point = crate::point::Point {
        id: crate::point::PointId::Num(1),
        vectors: crate::point::NamedVectors::single(vec![1.0, 2.0]),
        payload: crate::point::Payload::new(),
    };
    let collection = database.collection("c").await.unwrap();
    collection.upsert(vec![point]).await.unwrap();
    collection.flush().await.unwrap();
    drop(collection);
    database.close().await;
    drop(database);
    // All records are lost, and the root of the segments is not mounted.
    for place in &places {
        files(&place.join("metadata"))
            .iter()
            .for_each(|file| std::fs::remove_file(file).unwrap());
    }
    let home = places.iter().map(|place| place.join("viper"));
    let home = home.into_iter().find(|viper| !files(viper).is_empty()).unwrap();
    let away = directory.path().join("away");
    std::fs::rename(&home, &away).unwrap();
    let database = open_roots(&places).await;
    assert_eq!(database.collection_names(), ["c"]);
    let unavailable = database.collection("c").await.map(drop);
    assert!(
        matches!(unavailable, Err(Error::RootUnavailable { .. })),
        "{unavailable:?}"
    );
    // It comes back, and with it the collection.
    let _ = std::fs::remove_dir_all(&home);
    std::fs::rename(&away, &home).unwrap();
    database.roots.probe().await;
    database.readmit().await;
    let collection = database.collection("c").await.unwrap();
    assert_eq!(collection.count(None).await.unwrap(), 1);
    drop(collection);
    database.close().await;
    drop(database);
    let collection = open_roots(&places).await.collection("c").await.unwrap();
    assert_eq!(collection.count(None).await.unwrap(), 1);
}

//! Writes, deletes, flushes and compactions at the same time, compared with a model, before and after a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proximadb_db::config::Config;
use proximadb_db::point::{NamedVectors, Payload, Point, PointId};
use proximadb_db::schema::Schema;
use proximadb_db::{Collection, Database, PointSelector, Selection};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;

const WRITERS: u64 = 4;
/// Ids of one writer.
const IDS: u64 = 12_000;
const BATCHES: u64 = 60;
const BATCH: u64 = 400;

/// What a writer's points must be: id to the number in its payload.
type Model = BTreeMap<u64, u64>;

async fn open(directory: &Path) -> Arc<Database> {
    let urls = format!("file://{}", directory.display());
    let settings = [
        ("PROXIMADB__STORAGE__URLS", urls.as_str()),
        ("PROXIMADB__STORAGE__WAL_CONFIG__MEMORY_FLUSH_SIZE_BYTES", "2000000"),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Database::open(Config::load(None, settings.into_iter()).unwrap())
        .await
        .unwrap()
}

async fn write(collection: Arc<Collection>, writer: u64) -> Model {
    let mut random = StdRng::seed_from_u64(writer);
    let mut model = Model::new();
    for batch in 0..BATCHES {
        let id = |random: &mut StdRng| writer * IDS + random.random_range(0..IDS);
        if batch % 5 == 4 {
            let ids: Vec<u64> = (0..BATCH).map(|_| id(&mut random)).collect();
            model.retain(|id, _| !ids.contains(id));
            let ids = ids.into_iter().map(PointId::Num).collect();
            collection.delete(PointSelector::Ids(ids)).await.unwrap();
            continue;
        }
        let mut points = Vec::new();
        for _ in 0..BATCH {
            let id = id(&mut random);
            model.insert(id, batch);
            let payload: Payload = json!({ "n": batch }).as_object().cloned().unwrap();
            points.push(Point {
                id: PointId::Num(id),
                vectors: NamedVectors::single((0..8).map(|axis| ((id * 31 + axis) % 97) as f32).collect()),
                payload,
            });
        }
        collection.upsert(points).await.unwrap();
    }
    model
}

async fn contents(collection: &Collection) -> Model {
    let select = Selection {
        payload: proximadb_db::PayloadSelector::All,
        ..Selection::default()
    };
    let (points, _) = collection.scroll(None, None, usize::MAX, &select).await.unwrap();
    let number = |payload: Option<Payload>| payload.unwrap()["n"].as_u64().unwrap();
    let ids = points.into_iter().map(|record| match record.id {
        PointId::Num(id) => (id, number(record.payload)),
        PointId::Uuid(_) => panic!("no such id was written"),
    });
    ids.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn writes_flushes_and_compactions_at_the_same_time_lose_and_resurrect_nothing() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path()).await;
    let schema: Schema =
        serde_json::from_value(json!({ "vectors": { "": { "size": 8, "distance": "Euclid" } } })).unwrap();
    database.create_collection("c", schema).await.unwrap();
    let collection = database.collection("c").await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let maintain = |flush: bool| {
        let (collection, done) = (collection.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                if flush {
                    collection.flush().await.unwrap();
                }
                collection.compact().await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let maintenance = [maintain(false), maintain(true)];
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(collection.clone(), writer)))
        .collect();
    let mut model = Model::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    for task in maintenance {
        task.await.unwrap();
    }
    assert!(contents(&collection).await == model);
    assert_eq!(collection.count(None).await.unwrap(), model.len() as u64);
    drop(collection);
    database.close().await;
    assert_eq!(database.memtable_bytes(), 0);
    let database = open(directory.path()).await;
    let collection = database.collection("c").await.unwrap();
    assert!(contents(&collection).await == model);
    collection.flush().await.unwrap();
    collection.compact().await.unwrap();
    assert!(contents(&collection).await == model);
    database.close().await;
}

//! Flushes, memory and indexes of a database on real directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proximadb_db::config::Config;
use proximadb_db::point::{NamedVectors, Payload, Point, PointId};
use proximadb_db::root::StorageComponentType;
use proximadb_db::schema::Schema;
use proximadb_db::{Collection, Database, Error, Query, ScoredPoint};
use proximadb_store::Op;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::patience::eventually;

const DIM: usize = 32;

async fn open(directory: &Path, settings: &[(&str, &str)]) -> Arc<Database> {
    let urls = format!("file://{}", directory.display());
    let variables = [("STORAGE__URLS", urls.as_str())];
    let variables = variables
        .iter()
        .chain(settings)
        .map(|(key, value)| (format!("PROXIMADB__{key}"), (*value).to_owned()));
    Database::open(Config::load(None, variables.collect::<Vec<_>>().into_iter()).unwrap())
        .await
        .unwrap()
}

async fn create(database: &Arc<Database>, name: &str) -> Arc<Collection> {
    create_with(database, name, json!({})).await
}

async fn create_with(database: &Arc<Database>, name: &str, settings: Value) -> Arc<Collection> {
    let schema = json!({ "vectors": { "": { "size": DIM, "distance": "Euclid" } }, "settings": settings });
    let schema: Schema = serde_json::from_value(schema).unwrap();
    database.create_collection(name, schema).await.unwrap();
    database.collection(name).await.unwrap()
}

fn points(ids: std::ops::Range<u64>) -> Vec<Point> {
    let number = |id: u64, at: u64| ((id * 7919 + at * 104_729) % 1009) as f32 / 1009.0;
    let vector = |id| NamedVectors::single((0..DIM as u64).map(|at| number(id, at)).collect());
    ids.map(|id| Point {
        id: PointId::Num(id),
        vectors: vector(id),
        payload: Payload::new(),
    })
    .collect()
}

/// Points in clumps, as real ones are.
fn clumped(ids: std::ops::Range<u64>) -> Vec<Point> {
    let scattered = |number: u64| {
        let mixed = (number ^ (number >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed >> 40) as f32 / (1 << 24) as f32
    };
    let value = |id: u64, at: u64| scattered(id % 50 * 1_000 + at) + 0.3 * scattered(1_000_000 + id * 1_000 + at);
    ids.map(|id| Point {
        id: PointId::Num(id),
        vectors: NamedVectors::single((0..DIM as u64).map(|at| value(id, at)).collect()),
        payload: Payload::new(),
    })
    .collect()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found
}

async fn nearest(collection: &Collection, exact: bool) -> Vec<ScoredPoint> {
    collection.query(query(exact)).await.unwrap()
}

fn query(exact: bool) -> Query {
    Query {
        exact,
        ..Query::nearest(vec![0.5; DIM], 10)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_whose_time_is_over_ends_and_the_next_one_is_answered() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path(), &[]).await;
    let collection = create(&database, "c").await;
    collection.upsert(clumped(0..50)).await.unwrap();
    collection.flush().await.unwrap();
    let late = Query {
        deadline: Some(Instant::now()),
        ..query(true)
    };
    assert!(matches!(collection.query(late).await, Err(Error::Timeout(_))));
    let in_time = Query {
        deadline: Some(Instant::now() + Duration::from_secs(3600)),
        ..query(true)
    };
    assert_eq!(collection.query(in_time).await.unwrap().len(), 10);
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_crossing_the_flush_size_makes_a_segment_without_any_timer() {
    let directory = TempDir::new().unwrap();
    let database = open(
        directory.path(),
        &[("STORAGE__WAL_CONFIG__MEMORY_FLUSH_SIZE_BYTES", "65536")],
    )
    .await;
    let collection = create(&database, "c").await;
    collection.upsert(points(0..10)).await.unwrap();
    assert_eq!(
        files(directory.path(), "parquet").len(),
        0,
        "a small memtable stays in memory"
    );
    collection.upsert(points(10..1000)).await.unwrap();
    eventually("the flush", async || !files(directory.path(), "parquet").is_empty()).await;
    assert!(
        collection.flushes().by_size.load(Ordering::Relaxed) >= 1,
        "the counter names the trigger"
    );
    assert_eq!(collection.flushes().by_memory.load(Ordering::Relaxed), 0);
    assert_eq!(collection.count(None).await.unwrap(), 1000);
    database.close().await;
}

/// Files written on the segments' root, manifests among them, while 2,000 points are written and flushed.
async fn puts(flush_size_bytes: &str) -> u64 {
    let directory = TempDir::new().unwrap();
    let settings = [("STORAGE__WAL_CONFIG__MEMORY_FLUSH_SIZE_BYTES", flush_size_bytes)];
    let database = open(directory.path(), &settings).await;
    let collection = create(&database, "c").await;
    for half in [0..1000, 1000..2000] {
        collection.upsert(points(half)).await.unwrap();
        if flush_size_bytes == "65536" {
            eventually("the flush", async || database.memtable_bytes() < 65_536).await;
        }
    }
    collection.flush().await.unwrap();
    let roots = database.roots().of_component(StorageComponentType::Viper);
    let written = roots
        .iter()
        .map(|root| [Op::Write, Op::Create].map(|op| root.fs().meter().stats(op).count));
    let puts = written.flatten().sum();
    database.close().await;
    puts
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_a_larger_flush_size_makes_fewer_larger_objects() {
    let (small, large) = (puts("65536").await, puts("16777216").await);
    assert!(small > large, "{small} and {large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f7_all_memtables_together_stay_below_the_global_threshold() {
    const THRESHOLD: u64 = 400_000;
    let directory = TempDir::new().unwrap();
    let threshold = THRESHOLD.to_string();
    let settings = [
        ("STORAGE__WAL_CONFIG__MEMORY_FLUSH_SIZE_BYTES", "1073741824"),
        ("STORAGE__WAL_CONFIG__GLOBAL_FLUSH_THRESHOLD", threshold.as_str()),
    ];
    let database = open(directory.path(), &settings).await;
    let collections = [
        create(&database, "a").await,
        create(&database, "b").await,
        create(&database, "c").await,
    ];
    let batch = points(0..100);
    let batch_bytes = 100 * (DIM as u64 * 4 + 200);
    for start in (0..3000).step_by(100) {
        for collection in &collections {
            collection.upsert(points(start..start + 100)).await.unwrap();
            assert!(
                database.memtable_bytes() <= THRESHOLD + batch_bytes,
                "{} bytes",
                database.memtable_bytes()
            );
        }
    }
    assert_eq!(batch.len(), 100);
    let forced: u64 = collections
        .iter()
        .map(|collection| collection.flushes().by_memory.load(Ordering::Relaxed))
        .sum();
    assert!(forced >= 3, "{forced} flushes were forced by memory");
    for collection in &collections {
        assert_eq!(collection.count(None).await.unwrap(), 3000);
    }
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_lost_or_damaged_index_changes_no_answer_and_comes_back() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path(), &[]).await;
    let collection = create(&database, "c").await;
    for start in (0..6000).step_by(500) {
        collection.upsert(points(start..start + 500)).await.unwrap();
    }
    collection.flush().await.unwrap();
    collection.compact().await.unwrap();
    let index = || files(directory.path(), "ivf");
    eventually("the index", async || index().len() == 1).await;
    let exact = nearest(&collection, true).await;
    let found = nearest(&collection, false).await;
    let both = exact.iter().filter(|hit| found.contains(hit)).count();
    assert!(both >= 7, "{both} of 10");
    database.close().await;
    drop(database);

    for damage in ["lost", "damaged"] {
        let file = index().pop().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let whole = bytes.clone();
        std::fs::remove_file(&file).unwrap();
        if damage == "damaged" {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
        }
        let database = open(directory.path(), &[]).await;
        let collection = database.collection("c").await.unwrap();
        assert_eq!(nearest(&collection, true).await, exact, "{damage}");
        eventually("the index", async || std::fs::read(&file).is_ok_and(|now| now == whole)).await;
        assert_eq!(collection.info().indexed_vectors, 6000);
        database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_collection_with_a_graph_finds_its_points_and_loads_the_graph_from_the_root_of_its_type() {
    let directory = TempDir::new().unwrap();
    let urls = [0, 1, 2].map(|root| format!("file://{}/index{root}", directory.path().display()));
    let urls = serde_json::to_string(&urls).unwrap();
    let settings = [
        ("STORAGE__INDEX_CONFIG__INDEX_URLS", urls.as_str()),
        ("STORAGE__INDEX_CONFIG__BACKUP_REPLICAS", "1"),
    ];
    let stranger = clumped(5000..5001).remove(0);
    let near = stranger.vectors.get("").unwrap().to_vec();
    let query = |exact| Query {
        vector: near.clone(),
        ..query(exact)
    };
    let nearest = async |collection: &Collection, exact| collection.query(query(exact)).await.unwrap();
    let database = open(directory.path(), &settings).await;
    let settings_of = |index: &str| json!({ "metadata": { "proximadb": { "index": index } }, "hnsw_config": { "m": 12, "ef_construct": 80 } });
    let collection = create_with(&database, "graph", settings_of("hnsw")).await;
    let lists = create_with(&database, "lists", settings_of("ivf")).await;
    for collection in [&collection, &lists] {
        for start in (0..5000).step_by(500) {
            collection.upsert(clumped(start..start + 500)).await.unwrap();
        }
        collection.flush().await.unwrap();
        collection.compact().await.unwrap();
    }
    let graphs = || files(directory.path(), "hnsw");
    let root_of = |file: &Path| {
        file.strip_prefix(directory.path())
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .to_owned()
    };
    eventually("the indexes", async || {
        graphs().len() == 1 && files(directory.path(), "ivf").len() == 1
    })
    .await;
    let [graph, lists] = [graphs(), files(directory.path(), "ivf")].map(|mut files| files.pop().unwrap());
    assert_ne!(root_of(&graph), root_of(&lists), "each type has roots of its own");

    let plan = collection.explain(Some(query(false))).await.unwrap();
    let (segment, index) = (&plan.segments[0], &plan.segments[0].indexes[0]);
    assert_eq!((index.kind, index.roots.len()), ("hnsw", 1));
    assert!(
        graph.ends_with(&index.file) && index.description.contains("12 neighbours"),
        "{index:?}"
    );
    assert!(segment.reason.contains("\"hnsw\""), "{}", segment.reason);
    let work = segment.work.unwrap();
    assert!(
        work.stats.codes > 0 && work.stats.codes < segment.rows && work.stats.exact < 500,
        "{work:?}"
    );
    let exact = nearest(&collection, true).await;
    let found = nearest(&collection, false).await;
    assert!(exact.iter().filter(|hit| found.contains(hit)).count() >= 8);
    let before = std::fs::metadata(&graph).unwrap().modified().unwrap();
    database.close().await;
    drop(database);

    let database = open(directory.path(), &settings).await;
    let collection = database.collection("graph").await.unwrap();
    assert_eq!(collection.info().indexed_vectors, 5000, "loaded when it was opened");
    assert_eq!(nearest(&collection, false).await, found);
    assert_eq!(
        std::fs::metadata(&graph).unwrap().modified().unwrap(),
        before,
        "not written again"
    );
    database.close().await;
    drop(database);

    std::fs::write(&graph, "damage").unwrap();
    let database = open(directory.path(), &settings).await;
    let collection = database.collection("graph").await.unwrap();
    assert_eq!(nearest(&collection, true).await, exact);
    eventually("the graph", async || {
        std::fs::metadata(&graph).is_ok_and(|file| file.len() > 1000)
    })
    .await;
    assert_eq!(
        nearest(&collection, false).await,
        found,
        "the same rows make the same graph"
    );
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_hybrid_index_names_its_parts_and_comes_back_from_its_file_or_without_it() {
    let directory = TempDir::new().unwrap();
    let query = |exact| Query {
        vector: clumped(5000..5001).remove(0).vectors.get("").unwrap().to_vec(),
        ..query(exact)
    };
    let nearest = async |collection: &Collection, exact| collection.query(query(exact)).await.unwrap();
    let database = open(directory.path(), &[]).await;
    let settings = json!({ "metadata": { "proximadb": { "index": "hybrid" } } });
    let collection = create_with(&database, "c", settings).await;
    for start in (0..5000).step_by(500) {
        collection.upsert(clumped(start..start + 500)).await.unwrap();
    }
    collection.flush().await.unwrap();
    collection.compact().await.unwrap();
    let lists = || files(directory.path(), "ivf");
    eventually("the index", async || {
        lists().len() == 1 && collection.info().indexed_vectors == 5000
    })
    .await;
    let file = lists().pop().unwrap();

    let plan = collection.explain(Some(query(false))).await.unwrap();
    let (segment, index) = (&plan.segments[0], &plan.segments[0].indexes[0]);
    assert!(index.kind == "hybrid" && file.ends_with(&index.file), "{index:?}");
    assert!(
        index.description.contains("graph")
            && index.description.contains(" centroids, ")
            && index.description.contains(" lists, "),
        "{index:?}"
    );
    assert!(segment.reason.contains("\"hybrid\""), "{}", segment.reason);
    let stats = segment.work.unwrap().stats;
    assert!(
        stats.means > 0 && stats.lists > 0 && stats.codes < segment.rows,
        "{stats:?}"
    );
    let (exact, found) = (nearest(&collection, true).await, nearest(&collection, false).await);
    assert!(exact.iter().filter(|hit| found.contains(hit)).count() >= 8);
    database.close().await;
    drop(database);

    for damage in ["none", "lost", "damaged"] {
        let whole = std::fs::read(&file).unwrap();
        match damage {
            "lost" => std::fs::remove_file(&file).unwrap(),
            "damaged" => std::fs::write(&file, &whole[..whole.len() / 2]).unwrap(),
            _ => {}
        }
        let database = open(directory.path(), &[]).await;
        let collection = database.collection("c").await.unwrap();
        eventually("the index", async || {
            collection.info().indexed_vectors == 5000 && std::fs::read(&file).is_ok_and(|now| now == whole)
        })
        .await;
        assert_eq!(
            nearest(&collection, false).await,
            found,
            "{damage}: the same rows make the same index"
        );
        database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d9_a_use_of_a_collection_moves_its_last_access() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path(), &[]).await;
    create(&database, "c").await;
    let accessed = || async { database.assignment_reports().await[0].assignment.last_accessed };
    let before = accessed().await;
    eventually("a later access", async || {
        database.collection("c").await.unwrap();
        accessed().await > before
    })
    .await;
    database.close().await;
}

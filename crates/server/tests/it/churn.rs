//! Recall does not wear off: after many deletions and updates, made under searches, it is that of a fresh build, and it
//! stays under filters (issue 5, shows 3 and 4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proximadb_db::filter::Filter;
use proximadb_db::point::{NamedVectors, Payload, Point, PointId};
use proximadb_db::{Collection, PointSelector, Query};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::packages::{self, BATCH, LIMIT, query, until_indexed};

const DIMENSIONS: usize = 64;
const POINTS: u64 = 20_000;
const QUERIES: usize = 1_000;
/// Centres of the data.
const GROUPS: usize = 200;
/// How much worse than a fresh build.
const WORSE_MAX: f64 = 0.01;
/// At the settings that a search has by default.
const RECALL_MIN: f64 = 0.95;

/// Vectors around common centres.
struct Generator {
    centres: Vec<Vec<f32>>,
    random: StdRng,
}

impl Generator {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut number = || random.random_range(-1.0..1.0);
        let centres = (0..GROUPS).map(|_| (0..DIMENSIONS).map(|_| number()).collect());
        Self {
            centres: centres.collect(),
            random,
        }
    }

    fn vector(&mut self) -> Vec<f32> {
        let group = self.random.random_range(0..GROUPS);
        self.near(group)
    }

    fn near(&mut self, group: usize) -> Vec<f32> {
        let random = &mut self.random;
        let centre = self.centres[group].iter();
        centre.map(|x| x + random.random_range(-0.6..0.6)).collect()
    }
}

async fn insert(collection: &Collection, points: impl Iterator<Item = (u64, Vec<f32>)>) {
    let point = |(id, vector)| Point {
        id: PointId::Num(id),
        vectors: NamedVectors::single(vector),
        payload: Default::default(),
    };
    let points: Vec<Point> = points.map(point).collect();
    for batch in points.chunks(BATCH) {
        collection.upsert(batch.to_vec()).await.unwrap();
    }
}

async fn ids(collection: &Collection, query: Query) -> Vec<PointId> {
    let found = collection.query(query).await.unwrap();
    found.into_iter().map(|hit| hit.id).collect()
}

/// Recall@10 of what a filter leaves.
async fn recall(collection: &Collection, queries: &[Vec<f32>], filter: Option<&Filter>) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for vector in queries {
        let ask = |exact| Query {
            filter: filter.cloned(),
            ..query(vector, exact)
        };
        let truth = ids(collection, ask(true)).await;
        let answer = ids(collection, ask(false)).await;
        found += answer.iter().filter(|id| truth.contains(id)).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_recall_after_deletions_and_updates_under_searches_is_that_of_a_fresh_build() {
    let settings = [("WAL_CONFIG__MEMORY_FLUSH_SIZE_BYTES", "2000000")];
    let directory = tempfile::tempdir().unwrap();
    let (database, collection) = packages::open(&directory.path().join("a"), DIMENSIONS, &settings).await;
    let mut generator = Generator::new(1);
    let mut model: BTreeMap<u64, Vec<f32>> = (0..POINTS).map(|id| (id, generator.vector())).collect();
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| generator.vector()).collect();
    insert(&collection, model.clone().into_iter()).await;

    let ended = Arc::new(AtomicBool::new(false));
    let searches = tokio::spawn({
        let (collection, queries, ended) = (Arc::clone(&collection), queries.clone(), Arc::clone(&ended));
        async move {
            let mut asked = 0;
            while !ended.load(Ordering::Relaxed) {
                let found = ids(&collection, query(&queries[asked % QUERIES], false)).await;
                assert_eq!(found.len(), LIMIT);
                asked += 1;
            }
        }
    });
    let deleted: Vec<u64> = (0..POINTS).filter(|id| id % 10 < 3).collect();
    model.retain(|id, _| id % 10 >= 3);
    for batch in deleted.chunks(BATCH) {
        let ids = batch.iter().copied().map(PointId::Num).collect();
        collection.delete(PointSelector::Ids(ids)).await.unwrap();
    }
    let updated: Vec<(u64, Vec<f32>)> = (0..POINTS)
        .filter(|id| id % 10 >= 5)
        .map(|id| (id, generator.vector()))
        .collect();
    insert(&collection, updated.iter().cloned()).await;
    model.extend(updated);
    ended.store(true, Ordering::Relaxed);
    searches.await.unwrap();
    collection.flush().await.unwrap();
    until_indexed(&collection).await;
    let worn = recall(&collection, &queries, None).await;
    assert_eq!(collection.info().points, model.len() as u64);
    database.close().await;

    let (database, collection) = packages::open(&directory.path().join("b"), DIMENSIONS, &settings).await;
    insert(&collection, model.into_iter()).await;
    collection.flush().await.unwrap();
    until_indexed(&collection).await;
    let fresh = recall(&collection, &queries, None).await;
    database.close().await;
    println!("recall@{LIMIT}: {worn:.4}, of a fresh build {fresh:.4}");
    assert!(
        worn >= fresh - WORSE_MAX,
        "{worn} after the changes, {fresh} of a fresh build"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_recall_under_filters_of_any_selectivity() {
    let directory = tempfile::tempdir().unwrap();
    let (database, collection) = packages::open(directory.path(), DIMENSIONS, &[]).await;
    let mut generator = Generator::new(2);
    let queries: Vec<Vec<f32>> = (0..QUERIES / 4).map(|_| generator.vector()).collect();
    let mut points = Vec::new();
    for id in 0..POINTS {
        let group = generator.random.random_range(0..GROUPS);
        let payload: Payload = json!({ "any": generator.random.random_range(0..1_000), "group": group })
            .as_object()
            .cloned()
            .unwrap();
        points.push(Point {
            id: PointId::Num(id),
            vectors: NamedVectors::single(generator.near(group)),
            payload,
        });
    }
    for batch in points.chunks(BATCH) {
        collection.upsert(batch.to_vec()).await.unwrap();
    }
    collection.flush().await.unwrap();
    until_indexed(&collection).await;
    // By chance, and so that whole neighbourhoods are allowed or not.
    for (field, below) in [
        ("any", 500),
        ("any", 100),
        ("any", 10),
        ("any", 1),
        ("group", 20),
        ("group", 2),
    ] {
        let filter = json!({ "must": [{ "key": field, "range": { "lt": below } }] });
        let filter: Filter = serde_json::from_value(filter).unwrap();
        let recall = recall(&collection, &queries, Some(&filter)).await;
        println!("recall@{LIMIT} where {field} < {below}: {recall:.4}");
        assert!(recall >= RECALL_MIN, "{recall} where {field} < {below}");
    }
    database.close().await;
}

//! The packages data (real descriptions with their embeddings): read, stored and asked for.

use std::path::Path;
use std::sync::Arc;

use proximadb::cli::formats::{self, Columns, FilePoint};
use proximadb_db::config::Config;
use proximadb_db::point::{NamedVectors, Point};
use proximadb_db::{Collection, Database, Query};
use serde_json::json;

/// The product's own sample.
pub const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/packages-5k.parquet");
/// Name of the collection.
pub const NAME: &str = "packages";
/// Number of points that every query asks for.
pub const LIMIT: usize = 10;
/// Points of one upsert; a request of `proximadb import` holds as many.
pub const BATCH: usize = 256;

/// The rows of a file; `id` is the column of ids, or any other where there are none.
pub fn read(path: &Path, id: &str) -> Result<impl Iterator<Item = FilePoint>, String> {
    let columns = Columns {
        id: id.to_owned(),
        vector: "vector".to_owned(),
    };
    Ok(formats::open(path, &columns)?.points.map(Result::unwrap))
}

pub fn read_points(path: &Path) -> Vec<Point> {
    let point = |row: FilePoint| Point {
        id: serde_json::from_value(row.id.clone()).unwrap(),
        vectors: NamedVectors::single(vector(&row)),
        payload: row.payload,
    };
    read(path, "id").unwrap().map(point).collect()
}

pub fn vector(row: &FilePoint) -> Vec<f32> {
    let numbers = row.vector.as_array().unwrap().iter();
    numbers.map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Opens the database below `directory` with a collection for `dimensions`, which is created if it is missing.
pub async fn open(directory: &Path, dimensions: usize, settings: &[(&str, &str)]) -> (Arc<Database>, Arc<Collection>) {
    let variable = |key: &str, value: &str| (format!("PROXIMADB__STORAGE__{key}"), value.to_owned());
    let urls = format!("file://{}", directory.display());
    let variables = settings.iter().copied().chain([("URLS", urls.as_str())]);
    let variables = variables.map(|(key, value)| variable(key, value));
    let database = Database::open(Config::load(None, variables).unwrap()).await.unwrap();
    if !database.exists(NAME) {
        let schema = json!({ "vectors": { "": { "size": dimensions, "distance": "Cosine" } } });
        let schema = serde_json::from_value(schema).unwrap();
        database.create_collection(NAME, schema).await.unwrap();
    }
    let collection = database.collection(NAME).await.unwrap();
    (database, collection)
}

pub fn query(vector: &[f32], exact: bool) -> Query {
    Query {
        exact,
        ..Query::nearest(vector.to_vec(), LIMIT)
    }
}

/// Waits until every segment that is large enough for an index has one.
pub async fn until_indexed(collection: &Collection) {
    let waits = async || {
        let plan = collection.explain(None).await.unwrap();
        plan.segments.iter().any(|segment| segment.waits_for_index)
    };
    let indexed = async {
        let mut look = tokio::time::interval(std::time::Duration::from_millis(10));
        while waits().await {
            look.tick().await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(600), indexed).await;
    assert!(in_time.is_ok(), "not indexed: {:?}", collection.info());
}

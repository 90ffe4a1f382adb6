//! The queries of a data set and their true neighbours.

use std::path::Path;

use futures::executor::block_on;
use proximadb_db::Collection;
use proximadb_db::point::PointId;
use serde_json::Value;

use super::super::formats::{self, Columns, FilePoint};
use super::BenchArgs;
use super::load::{LIMIT, query};

/// Queries taken from the vectors themselves: at most so many.
const OWN_QUERIES: usize = 500;

/// Queries, and for each the ids of the nearest points.
pub struct Queries {
    pub vectors: Vec<Vec<f32>>,
    pub truth: Vec<Vec<PointId>>,
}

/// The columns of a file; one without ids has row numbers in their place.
pub fn columns_of(file: &Path, columns: &Columns) -> Result<Columns, String> {
    let without = Columns {
        id: columns.vector.clone(),
        ..columns.clone()
    };
    match formats::open(file, columns) {
        Ok(_) => Ok(columns.clone()),
        Err(reason) => formats::open(file, &without).map(|_| without).map_err(|_| reason),
    }
}

/// The queries and their true neighbours.
pub fn queries(args: &BenchArgs, columns: &Columns, collection: &Collection) -> Result<Queries, String> {
    let file = args.queries.as_ref().unwrap_or(&args.file);
    let by_file = args.truth.as_ref().filter(|truth| truth.ends_with(".ivecs"));
    let by_column = args.truth.as_ref().filter(|truth| !truth.ends_with(".ivecs"));
    let columns = match by_column {
        Some(column) => Columns {
            id: column.clone(),
            ..columns.clone()
        },
        None => columns_of(file, columns)?,
    };
    let reader = formats::open(file, &columns)?;
    let step = match (&args.queries, reader.total) {
        (None, Some(total)) => (total as usize).div_ceil(OWN_QUERIES).max(1),
        _ => 1,
    };
    let rows: Vec<FilePoint> = reader.points.step_by(step).collect::<Result<_, _>>()?;
    let vectors = rows.iter().map(|row| formats::numbers(&row.vector));
    let vectors: Vec<Vec<f32>> = vectors.collect::<Result<_, _>>()?;
    if vectors.is_empty() {
        return Err(format!("{}: no queries", file.display()));
    }
    let truth = match (by_column, by_file) {
        (Some(column), _) => rows.iter().map(|row| ids(&row.id, column)).collect::<Result<_, _>>()?,
        (_, Some(file)) => formats::open_ivecs(Path::new(file))?,
        (None, None) => exact(collection, &vectors)?,
    };
    if truth.len() < vectors.len() || truth.iter().any(|ids| ids.len() < LIMIT) {
        return Err(format!("the true neighbours must be at least {LIMIT} for each query"));
    }
    Ok(Queries { vectors, truth })
}

fn ids(list: &Value, column: &str) -> Result<Vec<PointId>, String> {
    serde_json::from_value(list.clone()).map_err(|error| format!("column `{column}`: {error}"))
}

/// The nearest points by comparison with all, on two threads at once and more where there are cores.
fn exact(collection: &Collection, vectors: &[Vec<f32>]) -> Result<Vec<Vec<PointId>>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let find = |vector: &Vec<f32>| {
        let found = block_on(collection.query(query(vector, None))).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|hit| hit.id).collect())
    };
    let parts = vectors.chunks(vectors.len().div_ceil(cores));
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(find).collect::<Result<Vec<_>, String>>()))
            .collect();
        let found = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "an exact search failed".to_owned())?);
        found.collect::<Result<Vec<_>, String>>()
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// Share of the true neighbours that were found.
pub fn recall(found: &[Vec<PointId>], truth: &[Vec<PointId>]) -> f64 {
    let both = found.iter().zip(truth);
    let hits = both.map(|(found, truth)| truth.iter().take(LIMIT).filter(|id| found.contains(id)).count());
    hits.sum::<usize>() as f64 / (found.len() * LIMIT) as f64
}

//! ProximaDB's own: roots, assignments, clusters and totals. [`roots`] is the only place that turns the database's report
//! of a root into an answer; everything else, metrics too, works on its answers.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use proximadb_db::Database;
use proximadb_db::database::{Listing, OperationReport, RootReport};
use proximadb_db::root::StorageComponentType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AppState;
use super::envelope::Answer;
use super::extract::{Path, Query};
use crate::failure::Failure;
use crate::wire::storage::{CacheOut, LastErrorOut, OperationOut, RootOut, TrafficOut, stats};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/storage/roots", get(list_roots))
        .route("/storage/assignments", get(list_assignments))
        .route("/storage/stats", get(totals))
        .route("/collections/{name}/clusters", get(clusters))
}

/// Which segment, file and root holds each cluster of a collection.
async fn clusters(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    Answer::new(&json!({ "clusters": app.database.cluster_report(&name).await? }))
}

async fn list_roots(State(app): State<AppState>) -> Result<Answer, Failure> {
    Answer::new(&list(&app.database).await)
}

/// The answer of `GET /storage/roots`.
pub async fn list(database: &Database) -> Value {
    json!({ "roots": roots(database, Listing::All).await })
}

/// The component of `?component=`.
pub fn component(name: &str) -> Result<StorageComponentType, Failure> {
    name.parse()
        .map_err(|reason| Failure::parameters(format_args!("component: {reason}")))
}

#[derive(Debug, Deserialize)]
struct Wanted {
    collection: Option<String>,
    component: Option<String>,
}

async fn list_assignments(State(app): State<AppState>, Query(wanted): Query<Wanted>) -> Result<Answer, Failure> {
    let component = wanted.component.as_deref().map(component).transpose()?;
    if let Some(name) = &wanted.collection {
        app.collection(name).await?;
    }
    let mut found = app.database.assignment_reports().await;
    found.retain(|assignment| {
        wanted
            .collection
            .as_ref()
            .is_none_or(|name| *name == assignment.collection)
            && component.is_none_or(|component| component == assignment.component)
    });
    Answer::new(&json!({ "assignments": found }))
}

async fn totals(State(app): State<AppState>) -> Result<Answer, Failure> {
    Answer::new(&summary(&app.database).await)
}

/// The answer of `GET /storage/stats`.
pub async fn summary(database: &Database) -> Value {
    let roots = roots(database, Listing::All).await;
    let errors: u64 = roots.iter().map(RootOut::errors).sum();
    json!({
        "collections": database.collection_names().len(),
        "roots": roots.len(),
        "roots_online": roots.iter().filter(|root| root.state == "online").count(),
        "bytes": roots.iter().map(|root| root.bytes).sum::<u64>(),
        "files": roots.iter().map(|root| root.files).sum::<u64>(),
        "errors": errors,
        "cost_usd": roots.iter().map(|root| root.traffic.cost_usd).sum::<f64>(),
        "components": stats(&roots),
        "caches": caches(database),
    })
}

/// The caches of remote files by component.
pub fn caches(database: &Database) -> BTreeMap<&'static str, CacheOut> {
    let reports = database.cache_reports().into_iter();
    reports
        .map(|(component, stats)| (component.name(), stats.into()))
        .collect()
}

/// Every root of the database.
pub async fn roots(database: &Database, listing: Listing) -> Vec<RootOut> {
    let reports = database.root_reports(listing).await.into_iter();
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let operation = move |operation: OperationReport| OperationOut {
        count: operation.count,
        errors: operation.errors,
        bytes: operation.bytes,
        latency_ms_p50: ms(operation.p50),
        latency_ms_p99: ms(operation.p99),
        latency: operation.latency,
    };
    let root = |root: RootReport| RootOut {
        id: root.id,
        url: root.url,
        component: root.component.name().to_owned(),
        index: root.index,
        state: root.state.name().to_owned(),
        reason: root.reason,
        since_ms: root.since_ms,
        last_error: root.last_error.map(|error| LastErrorOut {
            message: error.message,
            at_ms: error.at_ms,
        }),
        bytes: root.bytes,
        files: root.files,
        collections: root.collections,
        assignments: root.assignments,
        capacity_bytes: root.capacity.map(|(total, _)| total),
        free_bytes: root.capacity.map(|(_, free)| free),
        request_limit: root.request_limit,
        throttled: root.throttled,
        operations: root
            .operations
            .into_iter()
            .map(|(name, report)| (name.to_owned(), operation(report)))
            .collect(),
        traffic: TrafficOut::new(&root.traffic, root.cost_usd),
    };
    reports.map(root).collect()
}

//! ProximaDB's own: roots, assignments and totals. [`roots`] and [`assignments`] are the only places that know the
//! database's types; everything else, metrics too, works on their answers.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use proximadb_db::Database;
use serde::Deserialize;
use serde_json::json;

use super::AppState;
use super::envelope::Answer;
use super::extract::Query;
use crate::failure::Failure;
use crate::wire::storage::{AssignmentOut, OperationOut, RootOut, stats};

/// The components, as `?component=` names them.
const COMPONENTS: [&str; 5] = ["wal", "viper", "lsm", "index", "metadata"];

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/storage/roots", get(list_roots))
        .route("/storage/assignments", get(list_assignments))
        .route("/storage/stats", get(totals))
}

async fn list_roots(State(app): State<AppState>) -> Result<Answer, Failure> {
    Answer::new(&json!({ "roots": roots(&app.database) }))
}

#[derive(Debug, Deserialize)]
struct Wanted {
    collection: Option<String>,
    component: Option<String>,
}

async fn list_assignments(State(app): State<AppState>, Query(wanted): Query<Wanted>) -> Result<Answer, Failure> {
    if let Some(component) = wanted
        .component
        .as_deref()
        .filter(|component| !COMPONENTS.contains(component))
    {
        let reason = format_args!("component {component:?} is none of {}", COMPONENTS.join(", "));
        return Err(Failure::parameters(reason));
    }
    if let Some(name) = &wanted.collection {
        app.collection(name).await?;
    }
    let mut found = assignments(&app.database);
    found.retain(|assignment| {
        wanted
            .collection
            .as_ref()
            .is_none_or(|name| *name == assignment.collection)
            && wanted
                .component
                .as_ref()
                .is_none_or(|component| *component == assignment.component)
    });
    Answer::new(&json!({ "assignments": found }))
}

async fn totals(State(app): State<AppState>) -> Result<Answer, Failure> {
    let roots = roots(&app.database);
    let errors: u64 = roots.iter().map(RootOut::errors).sum();
    Answer::new(&json!({
        "collections": app.database.collection_names().len(),
        "roots": roots.len(),
        "roots_online": roots.iter().filter(|root| root.state == "online").count(),
        "bytes": roots.iter().map(|root| root.bytes).sum::<u64>(),
        "files": roots.iter().map(|root| root.files).sum::<u64>(),
        "errors": errors,
        "components": stats(&roots),
    }))
}

/// Every root of the database.
pub fn roots(database: &Database) -> Vec<RootOut> {
    let roots = database.root_status().into_iter().map(|root| RootOut {
        id: root.id,
        url: root.url,
        component: root.component,
        index: root.index,
        state: root.state,
        reason: root.reason,
        bytes: root.bytes,
        files: root.files,
        collections: root.collections,
        capacity_bytes: root.capacity_bytes,
        free_bytes: root.free_bytes,
        operations: (root.operations.into_iter())
            .map(|(name, count, errors, bytes, latency_ms_p50, latency_ms_p99)| {
                (
                    name,
                    OperationOut {
                        count,
                        errors,
                        bytes,
                        latency_ms_p50,
                        latency_ms_p99,
                    },
                )
            })
            .collect(),
    });
    roots.collect()
}

/// Every assignment of the database.
fn assignments(database: &Database) -> Vec<AssignmentOut> {
    let assignments = database.assignment_list().into_iter().map(|assignment| AssignmentOut {
        collection: assignment.collection,
        component: assignment.component,
        root_id: assignment.root_id,
        resource_id: assignment.resource_id,
        storage_url: assignment.storage_url,
        directory_index: assignment.directory_index,
        assigned_at: assignment.assigned_at_ms,
        last_accessed: assignment.last_accessed_ms,
        file_count: assignment.file_count,
        total_size_bytes: assignment.total_size_bytes,
        resource_type: assignment.resource_type,
    });
    assignments.collect()
}

//! `/`, health probes, telemetry and metrics.

use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use proximadb_db::Collection;
use proximadb_db::database::Listing;
use serde_json::json;

use super::envelope::Answer;
use super::{AppState, QDRANT_API_VERSION, operate, storage};
use crate::failure::Failure;
use crate::metrics::{CollectionSample, StorageSample, render};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(version))
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/telemetry", get(telemetry))
        .route("/metrics", get(metrics))
}

/// Not wrapped: clients read it before anything else and compare `version` with their own.
async fn version() -> impl IntoResponse {
    axum::Json(json!({
        "title": "ProximaDB - vector database with the Qdrant API",
        "version": QDRANT_API_VERSION,
        "commit": null,
        "proximadb_version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn alive() -> &'static str {
    "healthz check passed"
}

/// Ready while the database takes requests; a lost root makes its collections unavailable, not the server.
async fn ready(State(app): State<AppState>) -> impl IntoResponse {
    match app.changes.try_read() {
        Ok(_) => (StatusCode::OK, "all shards are ready"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "some shards are not ready"),
    }
}

async fn telemetry(State(app): State<AppState>) -> Result<Answer, Failure> {
    Answer::new(&json!({
        "id": "00000000-0000-0000-0000-000000000000",
        "app": {
            // The JS client's own test compares this name.
            "name": "qdrant",
            "version": QDRANT_API_VERSION,
            "proximadb_version": env!("CARGO_PKG_VERSION"),
            "jwt_rbac": false,
            "startup": app.started_at.to_rfc3339(),
        },
        "collections": {"number_of_collections": app.database.collection_names().len()},
    }))
}

async fn metrics(State(app): State<AppState>) -> impl IntoResponse {
    let open = app.database.open_collections().await.into_iter();
    let samples: Vec<CollectionSample> = open.map(|(name, open)| sample(name, &open)).collect();
    let storage = StorageSample {
        collections: app.database.collection_names().len() as u64,
        memtable_bytes: app.database.memtable_bytes(),
        log_failovers: app.database.log_failovers(),
        roots: storage::roots(&app.database, Listing::Disks).await,
        caches: storage::caches(&app.database),
        moves: operate::moves(&app.database),
    };
    let text = render(&app.requests, &samples, &storage);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn sample(name: String, collection: &Collection) -> CollectionSample {
    let (info, wal, flushes) = (collection.info(), collection.wal_stats(), collection.flushes());
    CollectionSample {
        name,
        points: info.points,
        segments: info.segments,
        bytes: info.bytes,
        memtable_bytes: info.memtable_bytes,
        wal_entries: wal.appended_entries,
        wal_bytes: wal.appended_bytes,
        wal_commits: wal.commits,
        flushes: [
            ("size", flushes.by_size.load(Relaxed)),
            ("memory", flushes.by_memory.load(Relaxed)),
            ("request", flushes.by_request.load(Relaxed)),
        ],
    }
}

//! What clients ask about the cluster, answered by a single node.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde_json::json;

use super::AppState;
use super::envelope::Answer;
use super::extract::Path;
use crate::failure::Failure;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/cluster", get(cluster))
        .route("/collections/{name}/cluster", get(of_collection))
}

/// AnythingLLM's heartbeat.
async fn cluster() -> Result<Answer, Failure> {
    Answer::new(&json!({"status": "disabled"}))
}

async fn of_collection(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let shard = json!({"shard_id": 0, "points_count": collection.info().points, "state": "Active"});
    Answer::new(&json!({
        "peer_id": 0, "shard_count": 1, "local_shards": [shard], "remote_shards": [], "shard_transfers": [],
    }))
}

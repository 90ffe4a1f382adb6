//! Everything that changes points: upsert and delete, payloads, vectors, and batches of these. Each route turns its
//! body into an [`UpdateOperation`] and has it carried out, so a batch does what the single routes do. A wrong query
//! string is reported after the body is read: an unread body costs the client its connection.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{MethodFilter, MethodRouter, on, post};
use proximadb_db::Collection;
use serde::de::DeserializeOwned;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path, Query, Wait};
use crate::failure::Failure;
use crate::wire::points::{UpdateBatch, UpdateOperation, UpdateResult};

pub fn router() -> Router<AppState> {
    let (post_, put_) = (MethodFilter::POST, MethodFilter::PUT);
    Router::new()
        .route("/collections/{name}/points", single(put_, UpdateOperation::Upsert))
        .route(
            "/collections/{name}/points/delete",
            single(post_, UpdateOperation::Delete),
        )
        .route(
            "/collections/{name}/points/payload",
            single(post_, UpdateOperation::SetPayload),
        )
        .route(
            "/collections/{name}/points/payload",
            single(put_, UpdateOperation::OverwritePayload),
        )
        .route(
            "/collections/{name}/points/payload/delete",
            single(post_, UpdateOperation::DeletePayload),
        )
        .route(
            "/collections/{name}/points/payload/clear",
            single(post_, UpdateOperation::ClearPayload),
        )
        .route(
            "/collections/{name}/points/vectors",
            single(put_, UpdateOperation::UpdateVectors),
        )
        .route(
            "/collections/{name}/points/vectors/delete",
            single(post_, UpdateOperation::DeleteVectors),
        )
        .route("/collections/{name}/points/batch", post(batch))
}

/// A route that carries out one update.
fn single<B>(method: MethodFilter, operation: fn(B) -> UpdateOperation) -> MethodRouter<AppState>
where
    B: DeserializeOwned + Send + 'static,
{
    let handler = async move |State(app): State<AppState>,
                              Path(name): Path<String>,
                              wait: Result<Query<Wait>, Failure>,
                              Json(body): Json<B>| {
        let Query(Wait { wait }) = wait?;
        let collection = app.collection(&name).await?;
        Answer::new(&apply(&app, collection, operation(body), wait).await?)
    };
    on(method, handler)
}

/// Carries out the operations in order and stops at the first that fails, as Qdrant does.
async fn batch(
    State(app): State<AppState>,
    Path(name): Path<String>,
    wait: Result<Query<Wait>, Failure>,
    Json(body): Json<UpdateBatch>,
) -> Result<Answer, Failure> {
    let Query(Wait { wait }) = wait?;
    let collection = app.collection(&name).await?;
    let mut results = Vec::with_capacity(body.operations.len());
    for operation in body.operations {
        results.push(apply(&app, collection.clone(), operation, wait).await?);
    }
    Answer::new(&results)
}

async fn apply(
    app: &AppState,
    collection: Arc<Collection>,
    operation: UpdateOperation,
    wait: bool,
) -> Result<UpdateResult, Failure> {
    let seq = match operation {
        UpdateOperation::Upsert(body) => {
            let points = body.into_points()?;
            app.change(async move { collection.upsert(points).await }).await
        }
        UpdateOperation::Delete(body) => {
            let selector = body.resolve()?;
            app.change(async move { collection.delete(selector).await }).await
        }
        UpdateOperation::SetPayload(body) => {
            let selector = body.selector.resolve()?;
            app.change(async move { collection.set_payload(body.payload, body.key, selector).await })
                .await
        }
        UpdateOperation::OverwritePayload(body) => {
            if body.key.is_some() {
                return Err(Failure::unsupported("overwrites below a `key`"));
            }
            let selector = body.selector.resolve()?;
            app.change(async move { collection.overwrite_payload(body.payload, selector).await })
                .await
        }
        UpdateOperation::DeletePayload(body) => {
            let selector = body.selector.resolve()?;
            app.change(async move { collection.delete_payload(body.keys, selector).await })
                .await
        }
        UpdateOperation::ClearPayload(body) => {
            let selector = body.resolve()?;
            app.change(async move { collection.clear_payload(selector).await })
                .await
        }
        UpdateOperation::UpdateVectors(body) => {
            let updates = body.into_updates()?;
            app.change(async move { collection.update_vectors(updates).await })
                .await
        }
        UpdateOperation::DeleteVectors(body) => {
            let selector = body.selector.resolve()?;
            app.change(async move { collection.delete_vectors(body.vector, selector).await })
                .await
        }
    }?;
    Ok(UpdateResult::new(Some(seq), wait))
}

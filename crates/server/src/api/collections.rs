//! Collections: list, create, describe, change, drop; and ProximaDB's own flush and compact.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::json;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path};
use crate::failure::Failure;
use crate::wire::collection::{CollectionOut, CreateCollection, UpdateCollection, check_name};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/collections", get(list))
        .route(
            "/collections/{name}",
            get(describe).put(create).patch(update).delete(remove),
        )
        .route("/collections/{name}/exists", get(exists))
        .route("/collections/{name}/flush", post(flush))
        .route("/collections/{name}/compact", post(compact))
}

async fn list(State(app): State<AppState>) -> Result<Answer, Failure> {
    let names = app.database.collection_names();
    let collections: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    Answer::new(&json!({ "collections": collections }))
}

async fn exists(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    Answer::new(&json!({ "exists": app.database.exists(&name) }))
}

async fn describe(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let fields = collection.payload_fields().await?;
    Answer::new(&CollectionOut::new(
        &collection.description(),
        &collection.info(),
        &fields,
    ))
}

async fn create(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<CreateCollection>,
) -> Result<Answer, Failure> {
    check_name(&name)?;
    let schema = body.into_schema()?;
    let database = app.database.clone();
    app.change(async move { database.create_collection(&name, schema).await })
        .await?;
    Answer::new(&true)
}

async fn update(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<UpdateCollection>,
) -> Result<Answer, Failure> {
    let change = body.into_change(&app.collection(&name).await?.description().schema)?;
    let database = app.database.clone();
    app.change(async move { database.update_schema(&name, |schema| change.apply(schema)).await })
        .await?;
    Answer::new(&true)
}

/// Dropping what is not there is no error: the result is `false`.
async fn remove(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let database = app.database.clone();
    Answer::new(&app.change(async move { database.drop_collection(&name).await }).await?)
}

async fn flush(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    app.change(async move { collection.flush().await }).await?;
    Answer::new(&true)
}

async fn compact(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    app.change(async move { collection.compact().await }).await?;
    Answer::new(&true)
}

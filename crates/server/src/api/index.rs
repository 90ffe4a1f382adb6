//! Payload indexes of a collection: create and delete. Filters work without; the schema keeps what was asked for.

use axum::Router;
use axum::extract::State;
use axum::routing::{delete, put};

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path, Query, Wait};
use crate::failure::Failure;
use crate::wire::index::CreateIndex;
use crate::wire::points::UpdateResult;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/collections/{name}/index", put(create))
        .route("/collections/{name}/index/{field}", delete(remove))
}

async fn create(
    State(app): State<AppState>,
    Path(name): Path<String>,
    wait: Result<Query<Wait>, Failure>,
    Json(body): Json<CreateIndex>,
) -> Result<Answer, Failure> {
    let Query(Wait { wait }) = wait?;
    let (field, entry) = body.into_entry()?;
    let database = app.database.clone();
    let insert = async move {
        let change = |schema: &mut proximadb_db::schema::Schema| {
            schema.payload_indexes.insert(field, entry);
        };
        database.update_schema(&name, change).await
    };
    app.change(insert).await?;
    Answer::new(&UpdateResult::new(None, wait))
}

/// Deleting an index that is not there is no error.
async fn remove(
    State(app): State<AppState>,
    Path((name, field)): Path<(String, String)>,
    Query(Wait { wait }): Query<Wait>,
) -> Result<Answer, Failure> {
    let database = app.database.clone();
    let remove = async move {
        let change = |schema: &mut proximadb_db::schema::Schema| {
            schema.payload_indexes.remove(&field);
        };
        database.update_schema(&name, change).await
    };
    app.change(remove).await?;
    Answer::new(&UpdateResult::new(None, wait))
}

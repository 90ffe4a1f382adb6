//! Reading points: retrieve, scroll, count.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use proximadb_db::point::PointId;
use proximadb_db::{PayloadSelector, Selection, VectorSelector};
use serde_json::json;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path};
use crate::failure::Failure;
use crate::wire::points::{Count, PageOut, RecordOut, Retrieve, Scroll};
use crate::wire::query::positive;
use crate::wire::selection::selection;

/// Length of a page where the request does not say.
const DEFAULT_PAGE: usize = 10;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/collections/{name}/points", post(retrieve))
        .route("/collections/{name}/points/{id}", get(retrieve_one))
        .route("/collections/{name}/points/scroll", post(scroll))
        .route("/collections/{name}/points/count", post(count))
}

async fn retrieve(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<Retrieve>,
) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let select = selection(body.with_payload, body.with_vector, true);
    let records = collection.retrieve(&body.ids, &select).await?;
    let count = records.len();
    Answer::of_points(records.into_iter().map(RecordOut::from).collect::<Vec<_>>(), count).await
}

async fn retrieve_one(
    State(app): State<AppState>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Answer, Failure> {
    let unreadable = |_| Failure::input(format_args!("Can not recognize \"{id}\" as point id"));
    let id: PointId = id.parse().map_err(unreadable)?;
    let collection = app.collection(&name).await?;
    let select = Selection {
        payload: PayloadSelector::All,
        vectors: VectorSelector::All,
    };
    let record = collection.retrieve(&[id], &select).await?.pop();
    let record = record.ok_or_else(|| Failure::not_found(format_args!("Point with id {id} does not exists!")))?;
    Answer::new(&RecordOut::from(record))
}

async fn scroll(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<Scroll>,
) -> Result<Answer, Failure> {
    if body.order_by.is_some() {
        return Err(Failure::unsupported("scrolls ordered by a payload field"));
    }
    let limit = positive("limit", body.limit.unwrap_or(DEFAULT_PAGE))?;
    let collection = app.collection(&name).await?;
    let select = selection(body.with_payload, body.with_vector, true);
    let (records, next_page_offset) = collection
        .scroll(body.filter.as_ref(), body.offset, limit, &select)
        .await?;
    let points: Vec<_> = records.into_iter().map(RecordOut::from).collect();
    let count = points.len();
    Answer::of_points(
        PageOut {
            points,
            next_page_offset,
        },
        count,
    )
    .await
}

async fn count(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<Count>,
) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    Answer::new(&json!({ "count": collection.count(body.filter.as_ref()).await? }))
}

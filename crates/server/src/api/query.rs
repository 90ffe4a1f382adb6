//! Search: `points/query`, and the older `points/search` that pinned clients still send.

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use futures::future::try_join_all;
use proximadb_db::point::PointId;
use proximadb_db::{Collection, PayloadSelector, Query, ScoredPoint, Selection, VectorSelector};
use serde::Serialize;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path};
use crate::failure::Failure;
use crate::wire::points::ScoredOut;
use crate::wire::query::{QueryBatch, QueryRequest, SearchBatch, SearchRequest, Target};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/collections/{name}/points/query", post(query))
        .route("/collections/{name}/points/query/batch", post(query_batch))
        .route("/collections/{name}/points/search", post(search))
        .route("/collections/{name}/points/search/batch", post(search_batch))
}

async fn query(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<QueryRequest>,
) -> Result<Answer, Failure> {
    let found = run(&*app.collection(&name).await?, body).await?;
    let count = found.len();
    Answer::of_points(Points { points: found }, count).await
}

async fn query_batch(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<QueryBatch>,
) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let found = try_join_all(body.searches.into_iter().map(|request| run(&collection, request))).await?;
    let count = found.iter().map(Vec::len).sum();
    Answer::of_points(
        found.into_iter().map(|points| Points { points }).collect::<Vec<_>>(),
        count,
    )
    .await
}

async fn search(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<SearchRequest>,
) -> Result<Answer, Failure> {
    let found = run(&*app.collection(&name).await?, body.into()).await?;
    let count = found.len();
    Answer::of_points(found, count).await
}

async fn search_batch(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<SearchBatch>,
) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let found = try_join_all(
        body.searches
            .into_iter()
            .map(|request| run(&collection, request.into())),
    )
    .await?;
    let count = found.iter().map(Vec::len).sum();
    Answer::of_points(found, count).await
}

#[derive(Serialize)]
struct Points {
    points: Vec<ScoredOut>,
}

/// Carries out one query of any form.
async fn run(collection: &Collection, request: QueryRequest) -> Result<Vec<ScoredOut>, Failure> {
    let (target, query) = request.split()?;
    let found = match target {
        Some(Target::Vector(vector)) => collection.query(Query { vector, ..query }).await?,
        Some(Target::Point(id)) => near_point(collection, id, query).await?,
        None => by_id(collection, query).await?,
    };
    Ok(found.into_iter().map(ScoredOut::from).collect())
}

/// The points nearest to the vector of the point `id`, which is not among the results itself.
async fn near_point(collection: &Collection, id: PointId, query: Query) -> Result<Vec<ScoredPoint>, Failure> {
    let select = Selection {
        payload: PayloadSelector::None,
        vectors: VectorSelector::Names(vec![query.using.clone()]),
    };
    let record = collection.retrieve(&[id], &select).await?.pop();
    let record = record.ok_or_else(|| Failure::not_found(format_args!("No point with id {id} found")))?;
    let vector = record
        .vectors
        .as_ref()
        .and_then(|vectors| vectors.get(&query.using))
        .map(<[f32]>::to_vec);
    let missing = || Failure::input(format_args!("Not existing vector name error: {}", query.using));
    let vector = vector.ok_or_else(missing)?;
    let (offset, limit) = (query.offset, query.limit);
    let wider = Query {
        vector,
        offset: 0,
        limit: offset.saturating_add(limit).saturating_add(1),
        ..query
    };
    let found = collection.query(wider).await?;
    Ok(found
        .into_iter()
        .filter(|point| point.id != id)
        .skip(offset)
        .take(limit)
        .collect())
}

/// Without a target the points come by id, with a score of 0.
async fn by_id(collection: &Collection, query: Query) -> Result<Vec<ScoredPoint>, Failure> {
    let count = query.offset.saturating_add(query.limit);
    let (records, _) = collection
        .scroll(query.filter.as_ref(), None, count, &query.select)
        .await?;
    let scored = records.into_iter().skip(query.offset).map(|record| ScoredPoint {
        id: record.id,
        version: 0,
        score: 0.0,
        payload: record.payload,
        vectors: record.vectors,
    });
    Ok(scored.collect())
}

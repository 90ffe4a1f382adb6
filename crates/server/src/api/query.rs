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
use crate::wire::explain::ExplanationOut;
use crate::wire::points::ScoredOut;
use crate::wire::query::{QueryBatch, QueryRequest, SearchBatch, SearchRequest, Target};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/collections/{name}/points/query", post(query))
        .route("/collections/{name}/points/query/batch", post(query_batch))
        .route("/collections/{name}/points/search", post(search))
        .route("/collections/{name}/points/search/batch", post(search_batch))
        .route("/collections/{name}/explain", post(explain_query).get(explain))
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

async fn explain(State(app): State<AppState>, Path(name): Path<String>) -> Result<Answer, Failure> {
    let explanation = app.collection(&name).await?.explain(None).await?;
    Answer::new(&ExplanationOut::new(&explanation, app.database.roots()))
}

/// The same for the search that the body asks for, which is carried out.
async fn explain_query(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Json(body): Json<QueryRequest>,
) -> Result<Answer, Failure> {
    let collection = app.collection(&name).await?;
    let (target, query) = body.split()?;
    let query = match target {
        Some(Target::Vector(vector)) => Query { vector, ..query },
        Some(Target::Point(id)) => Query {
            vector: vector_of(&collection, id, &query.using).await?,
            ..query
        },
        None => {
            return Err(Failure::input(
                "query: expected a vector or the id of a point to explain a search",
            ));
        }
    };
    let explanation = collection.explain(Some(query)).await?;
    Answer::new(&ExplanationOut::new(&explanation, app.database.roots()))
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

/// The vector of a point.
async fn vector_of(collection: &Collection, id: PointId, using: &str) -> Result<Vec<f32>, Failure> {
    let select = Selection {
        payload: PayloadSelector::None,
        vectors: VectorSelector::Names(vec![using.to_owned()]),
    };
    let record = collection.retrieve(&[id], &select).await?.pop();
    let record = record.ok_or_else(|| Failure::not_found(format_args!("No point with id {id} found")))?;
    let vector = record.vectors.as_ref().and_then(|vectors| vectors.get(using));
    let missing = || Failure::input(format_args!("Not existing vector name error: {using}"));
    vector.map(<[f32]>::to_vec).ok_or_else(missing)
}

/// The points nearest to the vector of the point `id`, which is not among the results itself.
async fn near_point(collection: &Collection, id: PointId, query: Query) -> Result<Vec<ScoredPoint>, Failure> {
    let vector = vector_of(collection, id, &query.using).await?;
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

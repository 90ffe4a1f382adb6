//! Search: `points/query`, and the older `points/search` that pinned clients still send.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use futures::executor::block_on;
use futures::future::try_join_all;
use proximadb_db::point::PointId;
use proximadb_db::{Collection, PayloadSelector, Query, ScoredPoint, Selection, VectorSelector};
use serde::Serialize;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Deadline, Json, Path};
use crate::failure::Failure;
use crate::wire::explain::ExplanationOut;
use crate::wire::points::ScoredOut;
use crate::wire::query::{QueryBatch, QueryRequest, SearchBatch, SearchRequest, Target};

/// Numbers to look at in about 250 µs: searches that look at more are carried out away from the thread of their connection.
const QUICK_NUMBERS: usize = 1_000_000;
static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

const QUERY: &str = "/collections/{name}/points/query";
const QUERY_BATCH: &str = "/collections/{name}/points/query/batch";
const SEARCH: &str = "/collections/{name}/points/search";
const SEARCH_BATCH: &str = "/collections/{name}/points/search/batch";

/// The routes that search and do nothing else.
pub const SEARCHES: [&str; 4] = [QUERY, QUERY_BATCH, SEARCH, SEARCH_BATCH];

pub fn router() -> Router<AppState> {
    Router::new()
        .route(QUERY, post(query))
        .route(QUERY_BATCH, post(query_batch))
        .route(SEARCH, post(search))
        .route(SEARCH_BATCH, post(search_batch))
        .route("/collections/{name}/explain", post(explain_query).get(explain))
}

async fn query(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Deadline(deadline): Deadline,
    Json(body): Json<QueryRequest>,
) -> Result<Answer, Failure> {
    let mut found = run(&app, &name, deadline, [body]).await?;
    let points = found.pop().unwrap_or_default();
    let count = points.len();
    Answer::of_points(Points { points }, count).await
}

async fn query_batch(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Deadline(deadline): Deadline,
    Json(body): Json<QueryBatch>,
) -> Result<Answer, Failure> {
    let found = run(&app, &name, deadline, body.searches).await?;
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
    Deadline(deadline): Deadline,
    Json(body): Json<SearchRequest>,
) -> Result<Answer, Failure> {
    let mut found = run(&app, &name, deadline, [body.into()]).await?;
    let points = found.pop().unwrap_or_default();
    let count = points.len();
    Answer::of_points(points, count).await
}

async fn search_batch(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Deadline(deadline): Deadline,
    Json(body): Json<SearchBatch>,
) -> Result<Answer, Failure> {
    let found = run(&app, &name, deadline, body.searches.into_iter().map(QueryRequest::from)).await?;
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

/// Carries out queries of any form: here if that is a matter of microseconds, else where it holds up nobody, on all cores.
async fn run(
    app: &AppState,
    collection: &str,
    deadline: Option<Instant>,
    requests: impl IntoIterator<Item = QueryRequest>,
) -> Result<Vec<Vec<ScoredOut>>, Failure> {
    let collection = app.collection(collection).await?;
    let mut queries: Vec<_> = requests
        .into_iter()
        .map(QueryRequest::split)
        .collect::<Result<_, _>>()?;
    queries.iter_mut().for_each(|(_, query)| query.deadline = deadline);
    let numbers = queries.iter().map(|(_, query)| collection.numbers_of(query));
    let quick = numbers.fold(0, usize::saturating_add) <= QUICK_NUMBERS;
    if quick {
        return find_all(collection, queries).await;
    }
    let each = queries.len().div_ceil(*CORES);
    let mut parts = Vec::with_capacity(*CORES);
    while !queries.is_empty() {
        let others = queries.split_off(each.min(queries.len()));
        let part = find_all(collection.clone(), std::mem::replace(&mut queries, others));
        parts.push(tokio::task::spawn_blocking(|| block_on(part)));
    }
    let mut found = Vec::new();
    for part in try_join_all(parts).await.map_err(Failure::internal)? {
        found.extend(part?);
    }
    Ok(found)
}

async fn find_all(
    collection: Arc<Collection>,
    queries: Vec<(Option<Target>, Query)>,
) -> Result<Vec<Vec<ScoredOut>>, Failure> {
    let found = queries
        .into_iter()
        .map(|(target, query)| find(&collection, target, query));
    try_join_all(found).await
}

async fn find(collection: &Collection, target: Option<Target>, query: Query) -> Result<Vec<ScoredOut>, Failure> {
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

//! What handlers take from a request. Rejections are the API's JSON errors, not axum's plain text.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use bytes::BytesMut;
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::AppState;
use crate::failure::Failure;
use crate::wire::json;

/// Bodies larger than this are parsed on a thread of the blocking pool: at some 200 MB/s they would hold up the
/// other requests of an async thread for longer than handing over costs.
const PARSE_INLINE_BYTES: usize = 64 * 1024;

/// Longest time for a body to arrive: what is read counts against the memory for all bodies.
const MAX_READ: Duration = Duration::from_secs(300);

/// How much of an oversized body is read and thrown away, in multiples of the limit. Clients that send everything
/// before they read see the 413 only if somebody takes their bytes.
const DRAIN_LIMITS: usize = 4;

/// The JSON body; the content type does not matter.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<AppState> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Failure> {
        let body = read(request.into_body(), app.settings.max_request_bytes);
        let late = |_| Failure::timeout(format_args!("the body did not arrive within {MAX_READ:?}"));
        let bytes = tokio::time::timeout(MAX_READ, body).await.map_err(late)??;
        let few = bytes.len() <= PARSE_INLINE_BYTES;
        let parse = move || json::from_slice(&bytes).map(Self).map_err(Failure::format);
        if few {
            parse()
        } else {
            tokio::task::spawn_blocking(parse).await.map_err(Failure::internal)?
        }
    }
}

/// Reads a body of at most `limit` bytes.
async fn read(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(if announced <= limit { announced } else { 0 });
    let mut seen = 0_usize;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Failure::input(format_args!("the body cannot be read: {error}")))?;
        seen += chunk.len();
        if seen > limit.saturating_mul(DRAIN_LIMITS) {
            break;
        }
        if seen <= limit {
            bytes.extend_from_slice(&chunk);
        }
    }
    if seen > limit {
        Err(Failure::too_large(limit))
    } else {
        Ok(bytes.freeze())
    }
}

/// Segments of the path, percent-decoded.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Failure> {
        let path = axum::extract::Path::from_request_parts(parts, app).await;
        path.map(|path| Self(path.0))
            .map_err(|error: PathRejection| Failure::validation("path parameters", "name", error.body_text()))
    }
}

/// The query string.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Failure> {
        let query = axum::extract::Query::from_request_parts(parts, app).await;
        query
            .map(|query| Self(query.0))
            .map_err(|error: QueryRejection| Failure::parameters(error.body_text()))
    }
}

/// `?timeout` of a search, in seconds: when it is given up.
pub struct Deadline(pub Option<Instant>);

#[derive(Deserialize)]
struct Timeout {
    timeout: Option<NonZeroU32>,
}

impl FromRequestParts<AppState> for Deadline {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Failure> {
        let Query(Timeout { timeout }) = Query::from_request_parts(parts, app).await?;
        let seconds = timeout.map(|seconds| Duration::from_secs(u64::from(seconds.get())));
        Ok(Self(seconds.map(|seconds| Instant::now() + seconds)))
    }
}

/// `?wait` of the updates.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Wait {
    /// Whether the client wants to know that the change is visible.
    #[serde(default)]
    pub wait: bool,
}

//! How many bytes of request bodies may be in memory at once. Beyond that requests wait, and then are sent away
//! with 503: before memory runs out, not after.

use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_ENCODING;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use crate::failure::Failure;

/// The budget, in bodies of the largest size.
const LARGEST_BODIES: usize = 8;
/// Longest wait for a place in the budget.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Bodies up to this size are not counted: a connection needs that much memory anyway.
const FREE_BYTES: u64 = 16 * 1024;

/// The budget for a limit of `max_request_bytes`, in KiB.
pub fn budget_kib(max_request_bytes: usize) -> usize {
    LARGEST_BODIES * max_request_bytes.div_ceil(1024)
}

/// Lets a request in when its body fits, and holds its share until it is answered.
pub async fn admit(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let limit = app.settings.max_request_bytes as u64;
    let compressed = request.headers().contains_key(CONTENT_ENCODING);
    // A body of unknown or compressed length may become as large as the limit allows.
    let announced = request.body().size_hint().upper().filter(|_| !compressed);
    let bytes = announced.unwrap_or(limit).min(limit);
    if bytes <= FREE_BYTES {
        return next.run(request).await;
    }
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let share = tokio::time::timeout(MAX_WAIT, app.bodies.clone().acquire_many_owned(kib)).await;
    let Ok(Ok(_share)) = share else {
        return Failure::unavailable("too many large requests at once, retry later").into_response();
    };
    next.run(request).await
}

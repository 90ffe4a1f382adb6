//! The envelope `{"result": …, "status": "ok", "time": s}`, closed in one place because only here the time is known.
//!
//! Handlers answer with an [`Answer`] (the result as bytes) or a [`Failure`]; both become a response without a body
//! that carries them as an extension, and [`finish`] writes the body, counts the request and logs what is slow.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::AppState;
use crate::failure::Failure;

/// A successful result, already JSON: `{"result":…`, not closed yet.
#[derive(Debug, Clone)]
pub struct Answer(Vec<u8>);

/// Room for a small answer, so that it is written without growing.
const FIRST_CAPACITY: usize = 256;

/// Results with more points than this are written on a thread of the blocking pool.
const MANY_POINTS: usize = 256;

impl Answer {
    /// Writes a result of moderate size.
    ///
    /// # Errors
    /// 500 if it is no JSON, which is a defect.
    pub fn new(result: &impl Serialize) -> Result<Self, Failure> {
        let mut bytes = Vec::with_capacity(FIRST_CAPACITY);
        bytes.extend_from_slice(b"{\"result\":");
        serde_json::to_writer(&mut bytes, result).map_err(Failure::internal)?;
        Ok(Self(bytes))
    }

    /// Writes a result that holds `points` points, away from the async threads if they are many.
    ///
    /// # Errors
    /// 500 if it is no JSON, which is a defect.
    pub async fn of_points(result: impl Serialize + Send + 'static, points: usize) -> Result<Self, Failure> {
        if points <= MANY_POINTS {
            return Self::new(&result);
        }
        tokio::task::spawn_blocking(move || Self::new(&result))
            .await
            .map_err(Failure::internal)?
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// Closes the envelope and counts the request.
pub async fn finish(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let took = started.elapsed();
    let body = match (
        response.extensions_mut().remove::<Answer>(),
        response.extensions_mut().remove::<Failure>(),
    ) {
        (Some(Answer(mut bytes)), _) => {
            bytes.extend_from_slice(format!(",\"status\":\"ok\",\"time\":{}}}", took.as_secs_f64()).as_bytes());
            Some(bytes)
        }
        (None, Some(failure)) => {
            let envelope = json!({"status": {"error": failure.text}, "time": took.as_secs_f64()});
            Some(envelope.to_string().into_bytes())
        }
        (None, None) => None,
    };
    if let Some(bytes) = body {
        *response.body_mut() = Body::from(bytes);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    app.requests.record(method, route, response.status().as_u16(), took);
    tracing::debug!(
        method,
        route,
        status = response.status().as_u16(),
        took_ms = took.as_secs_f64() * 1e3,
        "request"
    );
    response
}

/// A label from a fixed set, so that made-up methods make no series.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

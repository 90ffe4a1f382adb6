//! API keys: `api-key: K` or `Authorization: Bearer K`; a second key may only read.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use proximadb_db::config::Secret;

use super::{AppState, Settings};
use crate::failure::Failure;

/// Routes that need no key: probes, and the version that clients ask before anything else.
const OPEN: [&str; 4] = ["/", "/healthz", "/livez", "/readyz"];

/// `POST` routes that only read, below `/collections/{name}/points`.
const READING_POSTS: [&str; 8] = [
    "",
    "/scroll",
    "/count",
    "/query",
    "/query/batch",
    "/search",
    "/search/batch",
    "/search/groups",
];

/// Sends away whoever has no key.
pub async fn check(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    match allow(&app.settings, request.headers(), request.method(), route) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Why a request is sent away.
enum Refusal {
    Missing,
    Unknown,
    ReadOnly,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // 401 is plain text, as Qdrant answers.
        let unauthorized = |text: &'static str| (StatusCode::UNAUTHORIZED, text).into_response();
        match self {
            Self::Missing => unauthorized("Must provide an API key or an Authorization bearer token"),
            Self::Unknown => unauthorized("Invalid API key or JWT"),
            Self::ReadOnly => Failure::forbidden("Global write access is required").into_response(),
        }
    }
}

fn allow(settings: &Settings, headers: &HeaderMap, method: &Method, route: &str) -> Result<(), Refusal> {
    if settings.api_key.is_none() && settings.read_only_api_key.is_none() || OPEN.contains(&route) {
        return Ok(());
    }
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let Some(key) = header("api-key").or_else(bearer) else {
        return Err(Refusal::Missing);
    };
    let is = |own: &Option<Secret>| {
        own.as_ref()
            .is_some_and(|own| same(own.expose().as_bytes(), key.as_bytes()))
    };
    if is(&settings.api_key) {
        return Ok(());
    }
    if !is(&settings.read_only_api_key) {
        return Err(Refusal::Unknown);
    }
    if reads(method, route) {
        Ok(())
    } else {
        Err(Refusal::ReadOnly)
    }
}

/// Whether a route changes nothing.
fn reads(method: &Method, route: &str) -> bool {
    let below_points = route.strip_prefix("/collections/{name}/points");
    match *method {
        Method::GET | Method::HEAD => true,
        Method::POST if route == "/collections/{name}/explain" => true,
        Method::POST => below_points.is_some_and(|rest| READING_POSTS.contains(&rest)),
        _ => false,
    }
}

/// Compares in a time that depends on the lengths only, so that a key cannot be guessed byte by byte.
fn same(own: &[u8], given: &[u8]) -> bool {
    let difference = own.iter().zip(given).fold(0, |difference, (a, b)| difference | (a ^ b));
    own.len() == given.len() && std::hint::black_box(difference) == 0
}

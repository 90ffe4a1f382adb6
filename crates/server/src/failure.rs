//! What goes wrong with a request, as the client sees it: a status, a text, and when to come back.
//!
//! The texts begin as Qdrant's do ("Wrong input: ", "Not found: ", …): programs compare them.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use proximadb_db::Error;

/// Seconds after which an overloaded or degraded server is worth another try.
const RETRY_AFTER_S: u32 = 1;

/// A failed request. As a response it has no body: `api::envelope` writes that, because it knows the time taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// The sentence in `status.error`.
    pub text: String,
    /// Seconds for the `Retry-After` header.
    pub retry_after_s: Option<u32>,
}

impl Failure {
    fn new(status: StatusCode, text: String) -> Self {
        Self {
            status,
            text,
            retry_after_s: None,
        }
    }

    /// 400: the body is not the JSON that the route expects.
    pub fn format(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("Format error in JSON body: {reason}"))
    }

    /// 400: well-formed, but asks for something impossible.
    pub fn input(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("Wrong input: {reason}"))
    }

    /// 400: a part of the Qdrant API that this version does not have. `feature` is a plural noun.
    pub fn unsupported(feature: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("Bad request: {feature} are not supported by this version of ProximaDB"),
        )
    }

    /// 400: the query string does not fit the route.
    pub fn parameters(reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("Deserialize error in query parameters: {reason}"),
        )
    }

    /// 422: a value outside its limits. `part` is "JSON body" or "path parameters".
    pub fn validation(part: &str, field: &str, reason: impl std::fmt::Display) -> Self {
        let text = format!("Validation error in {part}: [{field}: {reason}]");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    /// 404.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Not found: {what}"))
    }

    /// 403: the key may only read.
    pub fn forbidden(reason: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("Forbidden: {reason}"))
    }

    /// 408: the client or the work took too long.
    pub fn timeout(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, format!("Timeout: {reason}"))
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let text = format!("Payload error: JSON payload is larger than allowed (limit: {limit} bytes)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// 503: not now, but soon.
    pub fn unavailable(reason: impl std::fmt::Display) -> Self {
        let text = format!("Service unavailable: {reason}");
        Self {
            retry_after_s: Some(RETRY_AFTER_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }

    /// 500: a defect, written to the log as well, because the client can do nothing about it.
    pub fn internal(reason: impl std::fmt::Display) -> Self {
        tracing::error!("request failed: {reason}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Service internal error: {reason}"),
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidInput(reason) => Self::input(reason),
            Error::NotFound(what) => Self::not_found(what),
            Error::AlreadyExists(what) => Self::new(StatusCode::CONFLICT, format!("Wrong input: {what}")),
            Error::RootUnavailable { .. } => Self::unavailable(error),
            Error::StorageFull { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("Insufficient storage: {error}"),
            ),
            Error::Timeout(reason) => Self::timeout(reason),
            Error::Overloaded(reason) => {
                let text = format!("Rate limiting exceeded: {reason}");
                Self {
                    retry_after_s: Some(RETRY_AFTER_S),
                    ..Self::new(StatusCode::TOO_MANY_REQUESTS, text)
                }
            }
            Error::Config(_) | Error::Corruption(_) | Error::Internal(_) => Self::internal(error),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(axum::http::header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}

//! The HTTP API: one file a resource, each with its `router()`. Handlers translate and call; they decide nothing
//! about data. This file puts the routers together and wraps them.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use proximadb_db::config::{Secret, ServerConfig};
use proximadb_db::{Collection, Database, Error};
use tokio::sync::{RwLock, Semaphore};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::failure::Failure;
use crate::metrics::Requests;

mod admission;
mod auth;
mod cluster;
mod collections;
mod envelope;
mod extract;
mod index;
mod operate;
mod points;
mod query;
mod service;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod unread;
mod updates;

/// The API version that clients compare with theirs: same major, minor within one.
pub const QDRANT_API_VERSION: &str = "1.19.0";

/// Settings of the HTTP server, from `[server]` of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key that may do everything; none asks for no key unless there is a read-only one.
    pub api_key: Option<Secret>,
    /// Key that may only read.
    pub read_only_api_key: Option<Secret>,
    /// Largest request body in bytes.
    pub max_request_bytes: usize,
}

impl From<&ServerConfig> for Settings {
    fn from(server: &ServerConfig) -> Self {
        Self {
            api_key: server.api_key.clone(),
            read_only_api_key: server.read_only_api_key.clone(),
            max_request_bytes: usize::try_from(server.max_request_size_mb << 20).unwrap_or(usize::MAX),
        }
    }
}

/// What every handler shares.
pub struct App {
    database: Arc<Database>,
    settings: Settings,
    requests: Requests,
    started_at: DateTime<Utc>,
    /// KiB of request bodies that may be in memory at once.
    bodies: Arc<Semaphore>,
    /// Held shared by each running change, exclusively from the moment the database is closed.
    changes: Arc<RwLock<()>>,
}

/// The state as handlers take it.
pub type AppState = Arc<App>;

impl App {
    /// An API over `database`.
    pub fn new(database: Arc<Database>, settings: Settings) -> AppState {
        let bodies = Arc::new(Semaphore::new(admission::budget_kib(settings.max_request_bytes)));
        Arc::new(Self {
            database,
            settings,
            requests: Requests::default(),
            bodies,
            started_at: Utc::now(),
            changes: Arc::default(),
        })
    }

    /// The database below.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    async fn collection(&self, name: &str) -> Result<Arc<Collection>, Failure> {
        Ok(self.database.collection(name).await?)
    }

    /// Runs a change to its end even if the client hangs up: half a change must not depend on the network.
    ///
    /// # Errors
    /// Those of the change; 503 while the server stops.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Failure> {
        let running = self.changes.clone().try_read_owned();
        let running = running.map_err(|_| Failure::unavailable("the server is stopping"))?;
        let task = tokio::spawn(async move {
            let result = change.await;
            drop(running);
            result
        });
        Ok(task.await.map_err(Failure::internal)??)
    }

    /// Waits for the running changes, refuses further ones and closes the database.
    pub async fn close(&self) {
        let _forever = self.changes.clone().write_owned().await;
        self.database.close().await;
    }
}

/// All routes with everything around them.
pub fn router(app: AppState) -> Router {
    let routes = Router::new()
        .merge(service::router())
        .merge(collections::router())
        .merge(points::router())
        .merge(updates::router())
        .merge(query::router())
        .merge(index::router())
        .merge(cluster::router())
        .merge(storage::router())
        .merge(operate::router())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method);
    // The first layer sees a request first. Together they are one layer of axum, which boxes each.
    let layers = (
        CorsLayer::permissive(),
        CompressionLayer::new().gzip(true),
        from_fn_with_state(app.clone(), envelope::finish),
        from_fn_with_state(app.clone(), place),
        CatchPanicLayer::custom(panicked),
        from_fn(unread::discard),
        from_fn_with_state(app.clone(), auth::check),
        from_fn_with_state(app.clone(), admission::admit),
        RequestDecompressionLayer::new().gzip(true),
    );
    routes.layer(layers).with_state(app)
}

/// Chooses where a request is worked on: searches on the thread of their connection, everything else beside the tasks of the database,
/// because it may take long or start some. It goes on to its end even if the client hangs up.
async fn place(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    if route.is_some_and(|route| query::SEARCHES.contains(&route.as_str())) {
        return next.run(request).await;
    }
    let working = app.database.runtime().spawn(next.run(request)).await;
    working.unwrap_or_else(|error| Failure::internal(error).into_response())
}

/// 404 without a body, as Qdrant answers.
async fn unknown_path() -> StatusCode {
    StatusCode::NOT_FOUND
}

async fn wrong_method() -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Failure::internal(format_args!("a handler panicked: {text}")).into_response()
}

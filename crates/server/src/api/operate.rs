//! What operators do to roots while the server runs: add, drain, resume, remove, rebalance, move. All of them are
//! changes: they go on to their end when the client hangs up, and a read-only key may not ask for them.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{delete, post};
use proximadb_db::database::{Listing, MoveReport};
use proximadb_db::moves::PlannedMove;
use proximadb_db::root::{Root, RootId, StorageComponentType};
use proximadb_db::{Database, Error};
use serde::Deserialize;
use serde_json::json;

use super::AppState;
use super::envelope::Answer;
use super::extract::{Json, Path, Query};
use super::storage::{component, roots};
use crate::failure::Failure;
use crate::wire::storage::{AddRoot, MoveOut, MovesOut, PlanOut, PlannedMoveOut, StartMove};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/storage/roots", post(add))
        .route("/storage/roots/{id}", delete(remove))
        .route("/storage/roots/{id}/drain", post(drain))
        .route("/storage/roots/{id}/resume", post(resume))
        .route("/storage/rebalance", post(rebalance))
        .route("/storage/moves", post(start_move).get(list_moves))
}

/// The root of a path segment. What is no id is no root either.
fn root_id(text: &str) -> Result<RootId, Failure> {
    text.parse().map_err(|_| {
        Failure::not_found(format_args!(
            "Root {text} is not configured; GET /storage/roots has the ids"
        ))
    })
}

/// A root as `GET /storage/roots` has it.
async fn one_root(database: &Database, id: RootId) -> Result<Answer, Failure> {
    let wanted = id.to_string();
    let found = roots(database, Listing::All)
        .await
        .into_iter()
        .find(|root| root.id == wanted);
    Answer::new(&found.ok_or_else(|| Failure::not_found(format_args!("Root {id} is not configured")))?)
}

async fn add(State(app): State<AppState>, Json(body): Json<AddRoot>) -> Result<Answer, Failure> {
    let component = body.component()?;
    let database = app.database.clone();
    let id = app
        .change(async move { database.add_root(component, &body.url).await.map_err(refused) })
        .await?;
    one_root(&app.database, id).await
}

/// What a start would refuse as a wrong configuration is a wrong request here.
fn refused(error: Error) -> Error {
    match error {
        Error::Config(reason) => Error::InvalidInput(format!("url: {reason}")),
        other => other,
    }
}

async fn remove(State(app): State<AppState>, Path(id): Path<String>) -> Result<Answer, Failure> {
    let (id, database) = (root_id(&id)?, app.database.clone());
    app.change(async move { database.remove_root(id).await }).await?;
    Answer::new(&true)
}

async fn drain(State(app): State<AppState>, Path(id): Path<String>) -> Result<Answer, Failure> {
    let (id, database) = (root_id(&id)?, app.database.clone());
    app.change(async move { database.drain_root(id).await }).await?;
    one_root(&app.database, id).await
}

async fn resume(State(app): State<AppState>, Path(id): Path<String>) -> Result<Answer, Failure> {
    let (id, database) = (root_id(&id)?, app.database.clone());
    app.change(async move { database.resume_root(id).await }).await?;
    one_root(&app.database, id).await
}

#[derive(Debug, Deserialize)]
struct Rebalance {
    #[serde(default)]
    dry_run: bool,
    component: Option<String>,
}

async fn rebalance(State(app): State<AppState>, Query(wanted): Query<Rebalance>) -> Result<Answer, Failure> {
    let component = wanted.component.as_deref().map(component).transpose()?;
    let (database, dry_run) = (app.database.clone(), wanted.dry_run);
    let plan = app
        .change(async move {
            if dry_run {
                database.plan_rebalance(component).await
            } else {
                database.rebalance(component).await
            }
        })
        .await?;
    let moves = plan.iter().map(|planned| planned_out(&app.database, planned)).collect();
    Answer::new(&PlanOut::new(dry_run, moves))
}

async fn start_move(State(app): State<AppState>, Json(body): Json<StartMove>) -> Result<Answer, Failure> {
    let component = body.component()?;
    let to = named_root(&app.database, component, "to", &body.to)?;
    let from = body
        .from
        .as_deref()
        .map(|from| named_root(&app.database, component, "from", from));
    let from = from.transpose()?;
    let database = app.database.clone();
    let planned = app
        .change(async move { database.move_component(&body.collection, component, from, to).await })
        .await?;
    Answer::new(&planned_out(&app.database, &planned))
}

/// The root of a component that a field names by id or URL.
fn named_root(
    database: &Database,
    component: StorageComponentType,
    field: &str,
    name: &str,
) -> Result<RootId, Failure> {
    let id: Option<RootId> = name.parse().ok();
    let is_named = |root: &Arc<Root>| Some(root.id()) == id || root.url() == name;
    let found = database.roots().of_component(component).into_iter().find(is_named);
    found.map(|root| root.id()).ok_or_else(|| {
        Failure::input(format_args!(
            "{field}: no root of {component} has the id or URL {name:?}"
        ))
    })
}

async fn list_moves(State(app): State<AppState>) -> Result<Answer, Failure> {
    Answer::new(&moves(&app.database))
}

/// The answer of `GET /storage/moves`.
pub fn moves(database: &Database) -> MovesOut {
    let reports = database.moves().into_iter();
    MovesOut::new(reports.map(|report| move_out(database, report)).collect())
}

fn planned_out(database: &Database, planned: &PlannedMove) -> PlannedMoveOut {
    let name = database.collection_name(planned.collection);
    let url = |id| {
        let root = database.roots().by_id(id);
        root.map_or_else(|_| id.to_string(), |root| root.url().to_owned())
    };
    PlannedMoveOut {
        collection: name.unwrap_or_else(|| planned.collection.to_string()),
        component: planned.component.name(),
        from: planned.from.to_string(),
        to: planned.to.to_string(),
        from_url: url(planned.from),
        to_url: url(planned.to),
        bytes: planned.bytes,
        files: planned.files,
        requests: planned.requests(),
    }
}

fn move_out(database: &Database, report: MoveReport) -> MoveOut {
    let planned = PlannedMoveOut {
        // As it was named when it began: it may be gone.
        collection: report.collection,
        from_url: report.from_url,
        to_url: report.to_url,
        ..planned_out(database, &report.planned)
    };
    MoveOut {
        planned,
        state: json!(report.state).as_str().unwrap_or_default().to_owned(),
        moved_bytes: report.moved_bytes,
        moved_files: report.moved_files,
        error: report.error,
        begun_at_ms: report.begun_at_ms,
    }
}

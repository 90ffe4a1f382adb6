//! `with_payload` and `with_vector`: what of a point an answer carries.

use proximadb_db::payload::JsonPath;
use proximadb_db::{PayloadSelector, Selection, VectorSelector};
use serde::Deserialize;

/// `true`, `false`, a list of paths to include, or an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum WithPayload {
    /// All of it or nothing.
    Whole(bool),
    /// Only these paths.
    Paths(Vec<JsonPath>),
    /// `{"include": […]}`.
    Include {
        /// Paths to keep.
        include: Vec<JsonPath>,
    },
    /// `{"exclude": […]}`.
    Exclude {
        /// Paths to leave out.
        exclude: Vec<JsonPath>,
    },
}

/// `true`, `false` or a list of vector names.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum WithVector {
    /// All of them or none.
    Whole(bool),
    /// Only these.
    Names(Vec<String>),
}

/// The selection a request asks for; `payload_default` holds where it says nothing about the payload.
pub fn selection(payload: Option<WithPayload>, vector: Option<WithVector>, payload_default: bool) -> Selection {
    let payload = match payload.unwrap_or(WithPayload::Whole(payload_default)) {
        WithPayload::Whole(false) => PayloadSelector::None,
        WithPayload::Whole(true) => PayloadSelector::All,
        WithPayload::Paths(paths) | WithPayload::Include { include: paths } => PayloadSelector::Include(paths),
        WithPayload::Exclude { exclude } => PayloadSelector::Exclude(exclude),
    };
    let vectors = match vector.unwrap_or(WithVector::Whole(false)) {
        WithVector::Whole(false) => VectorSelector::None,
        WithVector::Whole(true) => VectorSelector::All,
        WithVector::Names(names) => VectorSelector::Names(names),
    };
    Selection { payload, vectors }
}

//! Bodies of the point routes: upsert, select, change, retrieve, scroll, count; and points in answers.

use proximadb_db::filter::Filter;
use proximadb_db::point::{NamedVectors, Payload, Point, PointId};
use proximadb_db::{PointSelector, Record, ScoredPoint};
use serde::{Deserialize, Serialize};

use super::selection::{WithPayload, WithVector};
use super::vectors::{PointVectors, Present, VectorColumns, VectorsOut};
use crate::failure::Failure;

/// One point of an upsert.
#[derive(Debug, Deserialize)]
pub struct PointIn {
    id: PointId,
    vector: PointVectors,
    #[serde(default)]
    payload: Option<Payload>,
}

/// Points by column.
#[derive(Debug, Deserialize)]
pub struct Columns {
    ids: Vec<PointId>,
    vectors: VectorColumns,
    #[serde(default)]
    payloads: Option<Vec<Option<Payload>>>,
}

/// `PUT …/points`: points by row or by column.
#[derive(Debug, Deserialize)]
pub struct Upsert {
    points: Option<Vec<PointIn>>,
    batch: Option<Columns>,
    #[serde(default)]
    update_filter: Present,
    #[serde(default)]
    update_mode: Option<String>,
}

impl Upsert {
    /// The points of either form.
    ///
    /// # Errors
    /// 400 if there are none, 422 if the columns differ in length.
    pub fn into_points(self) -> Result<Vec<Point>, Failure> {
        if self.update_filter.is_some() || self.update_mode.is_some_and(|mode| mode != "upsert") {
            return Err(Failure::unsupported("conditional updates"));
        }
        match (self.points, self.batch) {
            (Some(points), None) => Ok(points.into_iter().map(Point::from).collect()),
            (None, Some(columns)) => columns.into_points(),
            (None, None) => Err(Failure::format("missing field `points` or `batch`")),
            (Some(_), Some(_)) => Err(Failure::format("`points` and `batch` exclude each other")),
        }
    }
}

impl From<PointIn> for Point {
    fn from(point: PointIn) -> Self {
        Self {
            id: point.id,
            vectors: point.vector.0,
            payload: point.payload.unwrap_or_default(),
        }
    }
}

impl Columns {
    fn into_points(self) -> Result<Vec<Point>, Failure> {
        let count = self.ids.len();
        let same = |what: &str, length: usize| {
            let reason = format!("number of ids and {what} must be equal ({count} != {length})");
            if length == count {
                Ok(())
            } else {
                Err(Failure::validation("JSON body", "batch", reason))
            }
        };
        let mut vectors = vec![NamedVectors::default(); count];
        for (name, column) in self.vectors.0 {
            same("vectors", column.len())?;
            for (of_point, vector) in vectors.iter_mut().zip(column) {
                of_point.insert(name.clone(), vector);
            }
        }
        let payloads = self.payloads.unwrap_or_else(|| vec![None; count]);
        same("payloads", payloads.len())?;
        let points = self.ids.into_iter().zip(vectors).zip(payloads);
        Ok(points
            .map(|((id, vectors), payload)| Point {
                id,
                vectors,
                payload: payload.unwrap_or_default(),
            })
            .collect())
    }
}

/// Which points: a list of ids or a filter. Ids win where both are given.
#[derive(Debug, Deserialize)]
pub struct Selector {
    points: Option<Vec<PointId>>,
    filter: Option<Filter>,
}

impl Selector {
    /// The selector of the database.
    ///
    /// # Errors
    /// 422 if the request names no points: that must never mean "all of them".
    pub fn resolve(self) -> Result<PointSelector, Failure> {
        match (self.points, self.filter) {
            (Some(ids), _) => Ok(PointSelector::Ids(ids)),
            (None, Some(filter)) => Ok(PointSelector::Filter(filter)),
            (None, None) => {
                let reason = "either a list of point ids in `points` or a `filter` must be provided";
                Err(Failure::validation("JSON body", "points", reason))
            }
        }
    }
}

/// `POST …/points/payload` and `PUT …/points/payload`.
#[derive(Debug, Deserialize)]
pub struct SetPayload {
    /// What to set.
    pub payload: Payload,
    /// Sub-path to set it at.
    pub key: Option<String>,
    /// Of which points.
    #[serde(flatten)]
    pub selector: Selector,
}

/// `POST …/points/payload/delete`.
#[derive(Debug, Deserialize)]
pub struct DeletePayload {
    /// Paths to delete.
    pub keys: Vec<String>,
    /// Of which points.
    #[serde(flatten)]
    pub selector: Selector,
}

/// `PUT …/points/vectors`.
#[derive(Debug, Deserialize)]
pub struct UpdateVectors {
    points: Vec<VectorsOfPoint>,
    #[serde(default)]
    update_filter: Present,
}

#[derive(Debug, Deserialize)]
struct VectorsOfPoint {
    id: PointId,
    vector: PointVectors,
}

impl UpdateVectors {
    /// Ids with their new vectors.
    ///
    /// # Errors
    /// 400 for a conditional update.
    pub fn into_updates(self) -> Result<Vec<(PointId, NamedVectors)>, Failure> {
        if self.update_filter.is_some() {
            return Err(Failure::unsupported("conditional updates"));
        }
        Ok(self
            .points
            .into_iter()
            .map(|point| (point.id, point.vector.0))
            .collect())
    }
}

/// `POST …/points/vectors/delete`.
#[derive(Debug, Deserialize)]
pub struct DeleteVectors {
    /// Names of the vectors to delete.
    pub vector: Vec<String>,
    /// Of which points.
    #[serde(flatten)]
    pub selector: Selector,
}

/// One entry of `POST …/points/batch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the Qdrant API's own")]
pub enum UpdateOperation {
    Upsert(Upsert),
    Delete(Selector),
    SetPayload(SetPayload),
    OverwritePayload(SetPayload),
    DeletePayload(DeletePayload),
    ClearPayload(Selector),
    UpdateVectors(UpdateVectors),
    DeleteVectors(DeleteVectors),
}

/// `POST …/points/batch`.
#[derive(Debug, Deserialize)]
pub struct UpdateBatch {
    /// Carried out in order; each has its own result.
    pub operations: Vec<UpdateOperation>,
}

/// `POST …/points`.
#[derive(Debug, Deserialize)]
pub struct Retrieve {
    /// The points, in the order of the answer.
    pub ids: Vec<PointId>,
    /// Default true.
    pub with_payload: Option<WithPayload>,
    /// Default false.
    #[serde(alias = "with_vectors")]
    pub with_vector: Option<WithVector>,
}

/// `POST …/points/scroll`.
#[derive(Debug, Deserialize)]
pub struct Scroll {
    /// First id of the page.
    pub offset: Option<PointId>,
    /// Length of the page, default 10.
    pub limit: Option<usize>,
    /// Which points.
    pub filter: Option<Filter>,
    /// Default true.
    pub with_payload: Option<WithPayload>,
    /// Default false.
    #[serde(alias = "with_vectors")]
    pub with_vector: Option<WithVector>,
    /// Not supported yet.
    #[serde(default)]
    pub order_by: Present,
}

/// `POST …/points/count`. The count is always exact.
#[derive(Debug, Deserialize)]
pub struct Count {
    /// Which points.
    pub filter: Option<Filter>,
}

/// A point in an answer.
#[derive(Debug, Serialize)]
pub struct RecordOut {
    id: PointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<VectorsOut>,
}

impl From<Record> for RecordOut {
    fn from(record: Record) -> Self {
        Self {
            id: record.id,
            payload: record.payload,
            vector: record.vectors.map(VectorsOut),
        }
    }
}

/// A found point in an answer.
#[derive(Debug, Serialize)]
pub struct ScoredOut {
    id: PointId,
    version: u64,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<VectorsOut>,
}

impl From<ScoredPoint> for ScoredOut {
    fn from(point: ScoredPoint) -> Self {
        let vector = point.vectors.map(VectorsOut);
        Self {
            id: point.id,
            version: point.version,
            score: point.score,
            payload: point.payload,
            vector,
        }
    }
}

/// One page of a scroll.
#[derive(Debug, Serialize)]
pub struct PageOut {
    /// The points, by id.
    pub points: Vec<RecordOut>,
    /// Where the next page starts; null after the last one.
    pub next_page_offset: Option<PointId>,
}

/// What every update answers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct UpdateResult {
    operation_id: Option<u64>,
    status: &'static str,
}

impl UpdateResult {
    /// The result of the operation with this sequence number; a change of the schema has none. Every update is durable and visible when it is
    /// answered; without `wait` the word is still "acknowledged", because clients compare it.
    pub fn new(operation_id: Option<u64>, wait: bool) -> Self {
        Self {
            operation_id,
            status: if wait { "completed" } else { "acknowledged" },
        }
    }
}

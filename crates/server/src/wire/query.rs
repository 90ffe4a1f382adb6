//! Bodies of the search routes: `points/query` and the older `points/search`.

use std::fmt;

use proximadb_db::filter::Filter;
use proximadb_db::point::PointId;
use proximadb_db::{Quantization, Query};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::selection::{WithPayload, WithVector, selection};
use super::vectors::{Dense, Present, numbers, unsupported_object};
use crate::failure::Failure;

/// Number of results where the request does not say.
const DEFAULT_LIMIT: usize = 10;

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Points near this vector.
    Vector(Vec<f32>),
    /// Points near the vector of this point.
    Point(PointId),
}

struct TargetVisitor;

impl<'de> Visitor<'de> for TargetVisitor {
    type Value = Target;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers, a point ID or an object with `nearest`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Target, A::Error> {
        numbers(list).map(Target::Vector)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Target, E> {
        Ok(Target::Point(PointId::Num(number)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Target, E> {
        PointId::deserialize(de::value::StrDeserializer::new(text)).map(Target::Point)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Target, A::Error> {
        let mut nearest = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "nearest" => nearest = Some(map.next_value::<Target>()?),
                "mmr" => {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        return Err(unsupported_query("mmr"));
                    }
                }
                "recommend" | "discover" | "context" | "order_by" | "fusion" | "rrf" | "formula" | "sample"
                | "relevance_feedback" => return Err(unsupported_query(&key)),
                _ => return Err(de::Error::custom(unsupported_object(Some(&key)))),
            }
        }
        nearest.ok_or_else(|| de::Error::missing_field("nearest"))
    }
}

fn unsupported_query<E: de::Error>(kind: &str) -> E {
    E::custom(format_args!(
        "`{kind}` queries are not supported by this version of ProximaDB"
    ))
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

/// `params`: how to search. Settings of other index kinds are accepted and do nothing.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Params {
    hnsw_ef: Option<usize>,
    exact: Option<bool>,
    indexed_only: Option<bool>,
    quantization: Option<QuantizationParams>,
}

/// `params.quantization`. Hits are always scored by their floats in the end, so `rescore` changes nothing.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct QuantizationParams {
    ignore: Option<bool>,
    #[serde(rename = "rescore")]
    _rescore: Option<bool>,
    oversampling: Option<f64>,
}

impl QuantizationParams {
    /// # Errors
    /// 422 for a factor below 1.
    fn checked(self) -> Result<Quantization, Failure> {
        let oversampling = self.oversampling.unwrap_or(1.0);
        if oversampling < 1.0 {
            let reason = format_args!("value {oversampling} invalid, must be 1.0 or larger");
            return Err(Failure::validation(
                "JSON body",
                "params.quantization.oversampling",
                reason,
            ));
        }
        Ok(Quantization {
            ignore: self.ignore.unwrap_or(false),
            oversampling,
        })
    }
}

/// `POST …/points/query`.
#[derive(Debug, Deserialize)]
pub struct QueryRequest {
    /// Absent: all points by id.
    pub query: Option<Target>,
    /// Name of the vector, default the unnamed one.
    pub using: Option<String>,
    /// Which points.
    pub filter: Option<Filter>,
    limit: Option<usize>,
    offset: Option<usize>,
    score_threshold: Option<f32>,
    params: Option<Params>,
    with_payload: Option<WithPayload>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<WithVector>,
    #[serde(default)]
    prefetch: Present,
    #[serde(default)]
    lookup_from: Present,
}

impl QueryRequest {
    /// What to look for, and the query of the database with an empty vector in its place.
    ///
    /// # Errors
    /// 422 for limits, 400 for what is not supported.
    pub fn split(self) -> Result<(Option<Target>, Query), Failure> {
        if self.prefetch.is_some() {
            return Err(Failure::unsupported("prefetch queries"));
        }
        if self.lookup_from.is_some() {
            return Err(Failure::unsupported("look-ups from other collections"));
        }
        let params = self.params.unwrap_or_default();
        let query = Query {
            vector: Vec::new(),
            using: self.using.unwrap_or_default(),
            filter: self.filter,
            limit: positive("limit", self.limit.unwrap_or(DEFAULT_LIMIT))?,
            offset: self.offset.unwrap_or(0),
            score_threshold: self.score_threshold,
            exact: params.exact.unwrap_or(false),
            hnsw_ef: params.hnsw_ef,
            indexed_only: params.indexed_only.unwrap_or(false),
            quantization: params.quantization.unwrap_or_default().checked()?,
            deadline: None,
            select: selection(self.with_payload, self.with_vector, false),
        };
        Ok((self.query, query))
    }
}

/// The value, if it is at least 1.
///
/// # Errors
/// 422 naming the field.
pub fn positive(field: &str, value: usize) -> Result<usize, Failure> {
    if value >= 1 {
        return Ok(value);
    }
    Err(Failure::validation(
        "JSON body",
        field,
        format_args!("value {value} invalid, must be 1 or larger"),
    ))
}

/// `POST …/points/query/batch`.
#[derive(Debug, Deserialize)]
pub struct QueryBatch {
    /// Answered in this order.
    pub searches: Vec<QueryRequest>,
}

/// The vector of an old-style search: a list, or one under a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum SearchVector {
    Default(Dense),
    Named { name: String, vector: Dense },
}

/// `POST …/points/search`, gone from the 1.19 document but still sent by pinned clients.
#[derive(Debug, Deserialize)]
pub struct SearchRequest {
    vector: SearchVector,
    filter: Option<Filter>,
    limit: usize,
    offset: Option<usize>,
    score_threshold: Option<f32>,
    params: Option<Params>,
    with_payload: Option<WithPayload>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<WithVector>,
}

/// `POST …/points/search/batch`.
#[derive(Debug, Deserialize)]
pub struct SearchBatch {
    /// Answered in this order.
    pub searches: Vec<SearchRequest>,
}

impl From<SearchRequest> for QueryRequest {
    fn from(search: SearchRequest) -> Self {
        let (using, vector) = match search.vector {
            SearchVector::Default(vector) => (None, vector),
            SearchVector::Named { name, vector } => (Some(name), vector),
        };
        Self {
            query: Some(Target::Vector(vector.0)),
            using,
            filter: search.filter,
            limit: Some(search.limit),
            offset: search.offset,
            score_threshold: search.score_threshold,
            params: search.params,
            with_payload: search.with_payload,
            with_vector: search.with_vector,
            prefetch: None,
            lookup_from: None,
        }
    }
}

//! Filters of the Qdrant API: what they are, their JSON form, and which points match.
//!
//! ```text
//! JSON ── parse ──▶ Filter ──┬── check:  one point, the plain form that defines the meaning
//!                            └── select: many rows at once; bitsets from field indexes, the payload's text as last resort
//! ```
//!
//! Owns the meaning of every condition. Does not own where payloads are (the caller's [`PayloadSource`]) nor which rows
//! are alive (the caller's candidates). Invariant: `select` gives exactly the candidates that `matches` accepts.

mod check;
mod datetime;
mod error;
mod field_index;
mod geo;
mod parse;
mod select;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::payload::JsonPath;
use crate::point::PointId;

pub use datetime::Datetime;
pub use error::FilterError;
pub use field_index::FieldIndex;
pub use geo::{GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius, GeoRing};
pub use select::PayloadSource;

/// Clauses that must all hold; an empty list is an absent clause, and a filter without clauses matches every point.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Filter {
    /// All of these match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub must: Vec<Condition>,
    /// At least one of these matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub should: Vec<Condition>,
    /// None of these matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub must_not: Vec<Condition>,
    /// At least so many of these match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_should: Option<MinShould>,
}

/// The clause "at least `min_count` of `conditions`".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MinShould {
    /// What is counted.
    pub conditions: Vec<Condition>,
    /// How many must match; 0 is always met.
    pub min_count: usize,
}

/// One condition on a point.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The field has no value, or only `null` and `[]`.
    IsEmpty(FieldKey),
    /// A value of the field is `null`.
    IsNull(FieldKey),
    /// The id is one of these.
    #[serde(rename = "has_id")]
    Id(BTreeSet<PointId>),
    /// The point has the vector of this name (the default vector's name is empty).
    HasVector(String),
    /// One object in the array satisfies the whole filter.
    Nested(Nested),
    /// A value of the field passes a test.
    #[serde(untagged)]
    Field(FieldCondition),
    /// A filter as a condition.
    #[serde(untagged)]
    Filter(Filter),
}

/// A field and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldKey {
    /// Path of the field.
    pub key: JsonPath,
}

/// A filter over the objects of an array. Inside it paths start at the object; `has_id` and `has_vector` match nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nested {
    /// Path of the array; a final `[]` may be left out.
    pub key: JsonPath,
    /// What one object must satisfy.
    pub filter: Filter,
}

/// A field and a test of its values: it matches when any value passes, and an array stands for its elements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldCondition {
    /// Path of the field.
    pub key: JsonPath,
    /// The test.
    #[serde(flatten)]
    pub test: FieldTest,
}

/// Test of the values of a field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldTest {
    /// Equality or text match.
    Match(Match),
    /// Numbers or points in time within bounds.
    Range(Range),
    /// Places within a circle.
    GeoRadius(GeoRadius),
    /// Places within a rectangle.
    GeoBoundingBox(GeoBoundingBox),
    /// Places within a polygon.
    GeoPolygon(GeoPolygon),
    /// Number of values: of an array its elements, of `null` none, else one. A missing field never matches.
    ValuesCount(Bounds<u64>),
    /// Whether a value is `null` or `[]`; a missing field is empty.
    IsEmpty(bool),
    /// Whether a value is `null` or an array with a `null` in it; a missing field is not null.
    IsNull(bool),
}

/// Ways to match a single value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Equal to this.
    Value(MatchValue),
    /// Equal to one of these.
    Any(AnyOf),
    /// Not `null` and none of these.
    Except(AnyOf),
    /// A string with all words of this text.
    Text(String),
    /// A string with at least one word of this text.
    TextAny(String),
    /// A string with the words of this text one after the other.
    Phrase(String),
}

/// A value to compare with. Floating-point numbers are not compared for equality: use a range.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the variants are the JSON types")]
pub enum MatchValue {
    Keyword(String),
    Integer(i64),
    Bool(bool),
}

/// Values to compare with, of one type.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the variants are the JSON types")]
pub enum AnyOf {
    Keywords(BTreeSet<String>),
    Integers(BTreeSet<i64>),
}

/// Bounds on numbers or on points in time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the variants are what is bounded")]
pub enum Range {
    Number(Bounds<f64>),
    Datetime(Bounds<Datetime>),
}

/// Bounds that must all hold; an absent one holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds<T> {
    /// Less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<T>,
    /// Greater than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<T>,
    /// Greater than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<T>,
    /// Less than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<T>,
}

impl<T: PartialOrd> Bounds<T> {
    /// Whether `value` is within all bounds.
    pub fn contains(&self, value: &T) -> bool {
        self.lt.as_ref().is_none_or(|bound| value < bound)
            && self.gt.as_ref().is_none_or(|bound| value > bound)
            && self.gte.as_ref().is_none_or(|bound| value >= bound)
            && self.lte.as_ref().is_none_or(|bound| value <= bound)
    }

    /// The part of `sorted` (ascending by `value`) that is within all bounds.
    fn slice<'s, I>(&self, sorted: &'s [I], value: impl Fn(&I) -> &T) -> &'s [I] {
        let below = |item: &I| {
            self.gte.as_ref().is_some_and(|bound| value(item) < bound)
                || self.gt.as_ref().is_some_and(|bound| value(item) <= bound)
        };
        let not_above = |item: &I| {
            self.lt.as_ref().is_none_or(|bound| value(item) < bound)
                && self.lte.as_ref().is_none_or(|bound| value(item) <= bound)
        };
        let start = sorted.partition_point(below);
        let end = sorted.partition_point(not_above);
        sorted.get(start..end).unwrap_or_default()
    }
}

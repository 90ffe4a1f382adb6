//! Typed columns of indexed payload fields, for readers that know Parquet and not our JSON. ProximaDB itself reads
//! the JSON only.
//!
//! The column `payload.<path>` holds the value of a row if it has exactly one of the index's kind, else null: absent,
//! several, of another kind. So a reader may select by it, and must look into `payload` where it is null.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use chrono::DateTime;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::segment::PayloadColumn;
use crate::point::Payload;
use crate::schema::{PayloadKind, Schema};

/// What the names of all these columns start with.
pub const PREFIX: &str = "payload.";

/// The columns of a schema.
pub fn fields(schema: &Schema) -> Vec<Field> {
    indexed(schema)
        .map(|(path, kind)| Field::new(format!("{PREFIX}{path}"), data_type(kind), true))
        .collect()
}

/// Their values for some rows, in the order of [`fields`].
pub fn columns(schema: &Schema, payloads: &PayloadColumn, rows: Range<usize>) -> Vec<ArrayRef> {
    let indexed: Vec<_> = indexed(schema).collect();
    if indexed.is_empty() {
        return Vec::new();
    }
    // A payload that cannot be read has no values; it is reported when somebody asks for it.
    let parsed: Vec<Payload> = rows.map(|row| payloads.get(row).unwrap_or_default()).collect();
    indexed
        .iter()
        .map(|(path, kind)| column(*kind, parsed.iter().map(|payload| value_at(payload, path)).collect()))
        .collect()
}

/// Paths and kinds of the indexes whose kind we know.
fn indexed(schema: &Schema) -> impl Iterator<Item = (&str, PayloadKind)> {
    schema.payload_indexes.iter().filter_map(|(path, parameters)| {
        let kind = parameters.get("type").unwrap_or(parameters);
        Some((path.as_str(), PayloadKind::deserialize(kind).ok()?))
    })
}

fn geo_fields() -> Fields {
    ["lon", "lat"]
        .map(|name| Arc::new(Field::new(name, DataType::Float64, true)))
        .into_iter()
        .collect()
}

fn data_type(kind: PayloadKind) -> DataType {
    match kind {
        PayloadKind::Keyword | PayloadKind::Text | PayloadKind::Uuid => DataType::Utf8,
        PayloadKind::Integer => DataType::Int64,
        PayloadKind::Float => DataType::Float64,
        PayloadKind::Bool => DataType::Boolean,
        PayloadKind::Datetime => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PayloadKind::Geo => DataType::Struct(geo_fields()),
    }
}

fn column(kind: PayloadKind, values: Vec<Option<&Value>>) -> ArrayRef {
    let values = values.into_iter();
    match kind {
        PayloadKind::Keyword | PayloadKind::Text | PayloadKind::Uuid => {
            Arc::new(values.map(|value| value?.as_str()).collect::<StringArray>())
        }
        PayloadKind::Integer => Arc::new(values.map(|value| value?.as_i64()).collect::<Int64Array>()),
        PayloadKind::Float => Arc::new(values.map(|value| value?.as_f64()).collect::<Float64Array>()),
        PayloadKind::Bool => Arc::new(values.map(|value| value?.as_bool()).collect::<BooleanArray>()),
        PayloadKind::Datetime => {
            let micros = |text| Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros());
            let times = values
                .map(|value| value?.as_str().and_then(micros))
                .collect::<TimestampMicrosecondArray>();
            Arc::new(times.with_timezone("UTC"))
        }
        PayloadKind::Geo => {
            let points: Vec<_> = values
                .map(|value| Some((value?.get("lon")?.as_f64()?, value?.get("lat")?.as_f64()?)))
                .collect();
            let lon = points.iter().map(|point| Some((*point)?.0)).collect::<Float64Array>();
            let lat = points.iter().map(|point| Some((*point)?.1)).collect::<Float64Array>();
            let present: NullBuffer = points.iter().map(Option::is_some).collect();
            Arc::new(StructArray::new(
                geo_fields(),
                vec![Arc::new(lon), Arc::new(lat)],
                Some(present),
            ))
        }
    }
}

/// The value at a path of nested objects (`a.b`); of an array, its only element. A path through arrays (`a[].b`) has
/// no single value.
fn value_at<'a>(payload: &'a Payload, path: &str) -> Option<&'a Value> {
    let mut keys = path.split('.');
    let first = payload.get(keys.next()?)?;
    let value = keys.try_fold(first, |value, key| value.get(key))?;
    match value {
        Value::Array(values) => {
            if let [only] = values.as_slice() {
                Some(only)
            } else {
                None
            }
        }
        value => Some(value),
    }
}

//! Reading filters from JSON, strictly: an unknown key is an error, because a misspelled condition that is ignored would
//! return (or delete) the wrong points. Errors say where in the filter and on which field.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use serde_json::{Map, Value};

use super::error::FilterError;
use super::geo::{GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius, GeoRing};
use super::{
    AnyOf, Bounds, Condition, Datetime, FieldCondition, FieldKey, FieldTest, Filter, Match, MatchValue, MinShould,
    Nested, Range,
};
use crate::payload::JsonPath;
use crate::point::PointId;

const CLAUSES: &[&str] = &["must", "should", "must_not", "min_should"];
const CONDITIONS: &[&str] = &[
    "key",
    "is_empty",
    "is_null",
    "has_id",
    "has_vector",
    "nested",
    "must",
    "should",
    "must_not",
    "min_should",
];
const FIELD_TESTS: &[&str] = &[
    "match",
    "range",
    "geo_radius",
    "geo_bounding_box",
    "geo_polygon",
    "values_count",
    "is_empty",
    "is_null",
];
const MATCHES: &[&str] = &["value", "any", "except", "text", "text_any", "phrase"];
const BOUNDS: &[&str] = &["lt", "gt", "gte", "lte"];

/// Fewest points of a closed line: three corners and the first one again.
const MIN_RING_POINTS: usize = 4;

type Result<T> = std::result::Result<T, FilterError>;

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`] at the first thing that is not as the Qdrant API has it.
    pub fn from_value(value: &Value) -> Result<Self> {
        let map = object(value, CLAUSES)?;
        Ok(Self {
            must: conditions_at(map, "must")?,
            should: conditions_at(map, "should")?,
            must_not: conditions_at(map, "must_not")?,
            min_should: optional(map, "min_should", min_should)?,
        })
    }
}

/// An object whose keys are all `known`.
fn object<'v>(value: &'v Value, known: &[&str]) -> Result<&'v Map<String, Value>> {
    let map = value
        .as_object()
        .ok_or_else(|| FilterError::expected("an object", value))?;
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(map),
        Some(key) => Err(FilterError::new(format!(
            "unknown key `{key}`, expected one of `{}`",
            known.join("`, `")
        ))),
    }
}

/// What `read` makes of the value at `key`; an absent or `null` one is `None`.
fn optional<T>(map: &Map<String, Value>, key: &str, read: impl Fn(&Value) -> Result<T>) -> Result<Option<T>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).map_err(|error| error.inside(key)),
    }
}

fn required<T>(map: &Map<String, Value>, key: &str, read: impl Fn(&Value) -> Result<T>) -> Result<T> {
    optional(map, key, read)?.ok_or_else(|| FilterError::new(format!("missing `{key}`")))
}

/// What `read` makes of every element of a list.
fn list<C: FromIterator<T>, T>(value: &Value, read: impl Fn(&Value) -> Result<T>) -> Result<C> {
    let array = value.as_array().ok_or_else(|| FilterError::expected("a list", value))?;
    let read_at = |(at, element)| read(element).map_err(|error: FilterError| error.inside(&format!("[{at}]")));
    array.iter().enumerate().map(read_at).collect()
}

fn string(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| FilterError::expected("a string", value))
}

fn flag(value: &Value) -> Result<bool> {
    value
        .as_bool()
        .ok_or_else(|| FilterError::expected("true or false", value))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().ok_or_else(|| FilterError::expected("a number", value))
}

fn unsigned(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .ok_or_else(|| FilterError::expected("an unsigned integer", value))
}

fn integer(value: &Value) -> Result<i64> {
    value
        .as_i64()
        .ok_or_else(|| FilterError::expected("an integer of 64 bits", value))
}

fn datetime(value: &Value) -> Result<Datetime> {
    let parsed = value.as_str().and_then(Datetime::parse);
    parsed.ok_or_else(|| FilterError::expected("an RFC 3339 date-time as in \"2014-01-01T00:00:00Z\"", value))
}

fn path(value: &Value) -> Result<JsonPath> {
    string(value)?
        .parse()
        .map_err(|error| FilterError::new(format!("{error}")))
}

fn point_id(value: &Value) -> Result<PointId> {
    PointId::deserialize(value).map_err(|_| FilterError::expected("a point ID (an unsigned integer or a UUID)", value))
}

/// A clause: a list of conditions, one bare condition, or nothing.
fn conditions_at(map: &Map<String, Value>, key: &str) -> Result<Vec<Condition>> {
    let read = |value: &Value| match value {
        Value::Array(_) => list(value, condition),
        bare => condition(bare).map(|condition| vec![condition]),
    };
    Ok(optional(map, key, read)?.unwrap_or_default())
}

fn min_should(value: &Value) -> Result<MinShould> {
    let map = object(value, &["conditions", "min_count"])?;
    let min_count = required(map, "min_count", unsigned)?;
    Ok(MinShould {
        conditions: required(map, "conditions", |conditions| list(conditions, condition))?,
        min_count: usize::try_from(min_count).unwrap_or(usize::MAX),
    })
}

fn condition(value: &Value) -> Result<Condition> {
    let map = value
        .as_object()
        .ok_or_else(|| FilterError::expected("a condition (an object)", value))?;
    if let Some(key) = map.get("key") {
        let key = path(key).map_err(|error| error.inside("key"))?;
        return field_condition(map, &key).map_err(|error| error.on_field(&key));
    }
    // A condition of its own has exactly one key; anything else is read as a filter, which refuses these keys.
    let mut entries = map.iter().filter(|(_, value)| !value.is_null());
    let (Some((name, inner)), None) = (entries.next(), entries.next()) else {
        return Filter::from_value(value).map(Condition::Filter);
    };
    let read = match name.as_str() {
        "is_empty" => field_key(inner).map(Condition::IsEmpty),
        "is_null" => field_key(inner).map(Condition::IsNull),
        "has_id" => list(inner, point_id).map(Condition::Id),
        "has_vector" => string(inner).map(Condition::HasVector),
        "nested" => nested(inner).map(Condition::Nested),
        _ => {
            object(value, CONDITIONS)?;
            return Filter::from_value(value).map(Condition::Filter);
        }
    };
    read.map_err(|error| error.inside(name))
}

fn field_key(value: &Value) -> Result<FieldKey> {
    let map = object(value, &["key"])?;
    Ok(FieldKey {
        key: required(map, "key", path)?,
    })
}

fn nested(value: &Value) -> Result<Nested> {
    let map = object(value, &["key", "filter"])?;
    let key = required(map, "key", path)?;
    let filter = required(map, "filter", Filter::from_value).map_err(|error| error.on_field(&key))?;
    Ok(Nested { key, filter })
}

/// A condition on a field. Several tests of elements in one condition mean any of them, as in Qdrant, so they become a
/// `should` of single tests. A test of the whole value must stand alone: Qdrant ignores its companions, silently.
fn field_condition(map: &Map<String, Value>, key: &JsonPath) -> Result<Condition> {
    let mut tests = Vec::new();
    for (name, value) in map.iter().filter(|(name, value)| *name != "key" && !value.is_null()) {
        tests.push(field_test(name, value)?);
    }
    let of_whole_value = |test: &FieldTest| {
        matches!(
            test,
            FieldTest::ValuesCount(_) | FieldTest::IsEmpty(_) | FieldTest::IsNull(_)
        )
    };
    if tests.len() > 1 && tests.iter().any(of_whole_value) {
        return Err(FilterError::new(
            "`values_count`, `is_empty` and `is_null` stand alone: put the other tests into conditions of their own",
        ));
    }
    let single = |test| Condition::Field(FieldCondition { key: key.clone(), test });
    match tests.len() {
        0 => Err(FilterError::new("At least one field condition must be specified")),
        1 => tests
            .pop()
            .map(single)
            .ok_or_else(|| FilterError::new("the condition has no test")),
        _ => Ok(Condition::Filter(Filter {
            should: tests.into_iter().map(single).collect(),
            ..Filter::default()
        })),
    }
}

fn field_test(name: &str, value: &Value) -> Result<FieldTest> {
    let test = match name {
        "match" => match_test(value).map(FieldTest::Match),
        "range" => range(value).map(FieldTest::Range),
        "geo_radius" => geo_radius(value).map(FieldTest::GeoRadius),
        "geo_bounding_box" => geo_bounding_box(value).map(FieldTest::GeoBoundingBox),
        "geo_polygon" => geo_polygon(value).map(FieldTest::GeoPolygon),
        "values_count" => object(value, BOUNDS)
            .and_then(|map| bounds(map, unsigned))
            .map(FieldTest::ValuesCount),
        "is_empty" => flag(value).map(FieldTest::IsEmpty),
        "is_null" => flag(value).map(FieldTest::IsNull),
        unknown => {
            let known = FIELD_TESTS.join("`, `");
            return Err(FilterError::new(format!(
                "unknown key `{unknown}`, expected one of `key`, `{known}`"
            )));
        }
    };
    test.map_err(|error| error.inside(name))
}

fn match_test(value: &Value) -> Result<Match> {
    let map = object(value, MATCHES)?;
    let mut given = map.iter().filter(|(_, value)| !value.is_null());
    let (Some((name, wanted)), None) = (given.next(), given.next()) else {
        return Err(FilterError::new(format!(
            "expected exactly one of `{}`",
            MATCHES.join("`, `")
        )));
    };
    let read = match name.as_str() {
        "value" => match_value(wanted).map(Match::Value),
        "any" => any_of(wanted).map(Match::Any),
        "except" => any_of(wanted).map(Match::Except),
        "text" => string(wanted).map(Match::Text),
        "text_any" => string(wanted).map(Match::TextAny),
        _ => string(wanted).map(Match::Phrase),
    };
    read.map_err(|error| error.inside(name))
}

fn match_value(value: &Value) -> Result<MatchValue> {
    match value {
        Value::String(keyword) => Ok(MatchValue::Keyword(keyword.clone())),
        Value::Bool(flag) => Ok(MatchValue::Bool(*flag)),
        Value::Number(number) if number.is_f64() => Err(FilterError::expected(
            "a string, an integer or a boolean (match a float with `range`)",
            value,
        )),
        Value::Number(_) => integer(value).map(MatchValue::Integer),
        _ => Err(FilterError::expected("a string, an integer or a boolean", value)),
    }
}

fn any_of(value: &Value) -> Result<AnyOf> {
    let first = value.as_array().and_then(|array| array.first());
    if first.is_some_and(Value::is_number) {
        list::<BTreeSet<_>, _>(value, integer).map(AnyOf::Integers)
    } else {
        list::<BTreeSet<_>, _>(value, string).map(AnyOf::Keywords)
    }
}

fn bounds<T>(map: &Map<String, Value>, read: impl Fn(&Value) -> Result<T>) -> Result<Bounds<T>> {
    Ok(Bounds {
        lt: optional(map, "lt", &read)?,
        gt: optional(map, "gt", &read)?,
        gte: optional(map, "gte", &read)?,
        lte: optional(map, "lte", &read)?,
    })
}

/// One string among the bounds makes it a range of time, as in Qdrant.
fn range(value: &Value) -> Result<Range> {
    let map = object(value, BOUNDS)?;
    if map.values().any(Value::is_string) {
        bounds(map, datetime).map(Range::Datetime)
    } else {
        bounds(map, number).map(Range::Number)
    }
}

fn geo_point(value: &Value) -> Result<GeoPoint> {
    let map = object(value, &["lon", "lat"])?;
    let (lon, lat) = (required(map, "lon", number)?, required(map, "lat", number)?);
    if !(-180.0..=180.0).contains(&lon) || !(-90.0..=90.0).contains(&lat) {
        return Err(FilterError::expected(
            "`lat` within [-90;90] and `lon` within [-180;180]",
            value,
        ));
    }
    Ok(GeoPoint { lon, lat })
}

fn geo_radius(value: &Value) -> Result<GeoRadius> {
    let map = object(value, &["center", "radius"])?;
    Ok(GeoRadius {
        center: required(map, "center", geo_point)?,
        radius: required(map, "radius", number)?,
    })
}

fn geo_bounding_box(value: &Value) -> Result<GeoBoundingBox> {
    let map = object(value, &["top_left", "bottom_right"])?;
    let (top_left, bottom_right) = (
        required(map, "top_left", geo_point)?,
        required(map, "bottom_right", geo_point)?,
    );
    Ok(GeoBoundingBox { top_left, bottom_right })
}

fn geo_polygon(value: &Value) -> Result<GeoPolygon> {
    let map = object(value, &["exterior", "interiors"])?;
    let interiors = optional(map, "interiors", |rings| list(rings, ring))?.unwrap_or_default();
    Ok(GeoPolygon {
        exterior: required(map, "exterior", ring)?,
        interiors,
    })
}

fn ring(value: &Value) -> Result<GeoRing> {
    let map = object(value, &["points"])?;
    let points: Vec<GeoPoint> = required(map, "points", |points| list(points, geo_point))?;
    if points.len() < MIN_RING_POINTS {
        let problem = format!(
            "polygon invalid, the size must be at least {MIN_RING_POINTS}, got {}",
            points.len()
        );
        return Err(FilterError::new(problem));
    }
    if points.first() != points.last() {
        let problem = "polygon invalid, the first and the last points should be the same to form a closed line";
        return Err(FilterError::new(problem));
    }
    Ok(GeoRing { points })
}

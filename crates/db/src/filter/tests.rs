#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod random;

use std::collections::HashMap;

use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::*;
use crate::error::{Error, Result};
use crate::point::Payload;

fn filter(value: Value) -> Filter {
    Filter::from_value(&value).unwrap()
}

fn payload(value: Value) -> Payload {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// The point has id 7 and the vectors "" and "image".
fn matches(conditions: Value, on: &Value) -> bool {
    let has_vector = |name: &str| name.is_empty() || name == "image";
    filter(conditions).matches(PointId::Num(7), &payload(on.clone()), &has_vector)
}

/// One condition against one payload, alone and inside `must_not`.
#[track_caller]
fn check(condition: Value, on: Value, expected: bool) {
    assert_eq!(
        matches(json!({ "must": condition }), &on),
        expected,
        "{condition} on {on}"
    );
    assert_eq!(
        matches(json!({ "must_not": condition }), &on),
        !expected,
        "not {condition} on {on}"
    );
}

#[track_caller]
fn check_error(value: Value, expected: &str) {
    let error = Filter::from_value(&value).unwrap_err().to_string();
    assert_eq!(error, expected, "{value}");
    let error = serde_json::from_value::<Filter>(value).unwrap_err().to_string();
    assert_eq!(error, expected);
}

#[test]
fn clauses_must_all_hold_and_absent_ones_do() {
    let check = |clauses: Value, expected: bool| {
        assert_eq!(
            matches(clauses.clone(), &json!({"a": 1, "b": 2})),
            expected,
            "{clauses}"
        );
    };
    let a = |value: i64| json!({"key": "a", "match": {"value": value}});
    let b = |value: i64| json!({"key": "b", "match": {"value": value}});
    check(json!({}), true);
    check(json!({"must": [], "should": [], "must_not": null}), true);
    check(json!({"must": {"must": []}}), true);
    check(json!({"must_not": {}}), false);
    check(json!({"must": [a(1), b(2)]}), true);
    check(json!({"must": [a(1), b(1)]}), false);
    check(json!({"must": a(1)}), true);
    check(json!({"should": [a(0), b(2)]}), true);
    check(json!({"should": [a(0), b(0)]}), false);
    check(json!({"must": a(1), "should": b(0)}), false);
    check(json!({"must_not": [a(0), b(0)]}), true);
    check(json!({"must_not": [a(0), b(2)]}), false);
    check(json!({"must": [{"should": [a(0), a(1)]}, {"must_not": b(0)}]}), true);
    check(
        json!({"min_should": {"conditions": [a(1), b(0), b(2)], "min_count": 2}}),
        true,
    );
    check(
        json!({"min_should": {"conditions": [a(1), b(0), b(2)], "min_count": 3}}),
        false,
    );
    check(json!({"min_should": {"conditions": [a(0)], "min_count": 0}}), true);
    check(json!({"min_should": {"conditions": [a(1)], "min_count": 2}}), false);
    check(json!({"min_should": {"conditions": [], "min_count": 2}}), true);
}

#[test]
fn match_compares_values_of_the_same_type() {
    let value = |value: Value| json!({"key": "a", "match": {"value": value}});
    check(value(json!("x")), json!({"a": "x"}), true);
    check(value(json!("x")), json!({"a": "X"}), false);
    check(value(json!("x")), json!({"a": ["y", "x"]}), true);
    check(value(json!("x")), json!({"a": [["x"]]}), false);
    check(value(json!("1")), json!({"a": 1}), false);
    check(value(json!(1)), json!({"a": 1}), true);
    check(value(json!(1)), json!({"a": 1.0}), false);
    check(value(json!(true)), json!({"a": [false, true]}), true);
    check(value(json!(true)), json!({"a": "true"}), false);
    check(value(json!(1)), json!({"a": null}), false);
    check(value(json!(1)), json!({}), false);
    let any = |list: Value| json!({"key": "a", "match": {"any": list}});
    check(any(json!(["x", "y"])), json!({"a": ["z", "y"]}), true);
    check(any(json!(["x", "y"])), json!({"a": "z"}), false);
    check(any(json!([1, 2])), json!({"a": 2}), true);
    check(any(json!([])), json!({"a": "x"}), false);
    let except = |list: Value| json!({"key": "a", "match": {"except": list}});
    check(except(json!(["x"])), json!({"a": "y"}), true);
    check(except(json!(["x"])), json!({"a": "x"}), false);
    check(except(json!(["x"])), json!({"a": ["x", "y"]}), true);
    check(except(json!(["x"])), json!({"a": 1}), true);
    check(except(json!([1])), json!({"a": 1.5}), true);
    check(except(json!([1])), json!({"a": [[1]]}), true);
    check(except(json!([1])), json!({"a": null}), false);
    check(except(json!([1])), json!({"a": []}), false);
    check(except(json!([1])), json!({}), false);
}

#[test]
fn text_matches_whole_words_in_any_case() {
    let on = json!({"a": ["Quick, brown FOX", "lazy dog"], "b": 1});
    let text = |how: &str, query: &str| json!({"key": "a", "match": {how: query}});
    check(text("text", "fox quick"), on.clone(), true);
    check(text("text", "fox dog"), on.clone(), false);
    check(text("text", "qui"), on.clone(), false);
    check(text("text", "ÉTÉ"), json!({"a": "L'été à Paris"}), true);
    check(text("text", "ete"), json!({"a": "L'été à Paris"}), false);
    check(text("text", "..."), on.clone(), false);
    check(text("text_any", "cat DOG"), on.clone(), true);
    check(text("text_any", "cat"), on.clone(), false);
    check(text("phrase", "brown fox"), on.clone(), true);
    check(text("phrase", "fox brown"), on.clone(), false);
    check(text("phrase", "fox lazy"), on.clone(), false);
    check(text("phrase", ""), on.clone(), false);
    check(json!({"key": "b", "match": {"text": "1"}}), on, false);
}

#[test]
fn ranges_are_of_numbers_or_of_time() {
    let range = |bounds: Value| json!({"key": "a", "range": bounds});
    check(range(json!({"gte": 1, "lt": 2})), json!({"a": 1}), true);
    check(range(json!({"gte": 1, "lt": 2})), json!({"a": 2}), false);
    check(range(json!({"gt": 1, "lte": 2.5})), json!({"a": [0, 2.5]}), true);
    check(range(json!({"gt": 1, "lte": null})), json!({"a": 1}), false);
    check(range(json!({})), json!({"a": 1}), true);
    check(range(json!({})), json!({"a": "1"}), false);
    check(range(json!({"gt": 0, "lt": 10})), json!({"a": [-1, 11]}), false);
    check(
        range(json!({"gte": "2020-03-01"})),
        json!({"a": "2020-03-01T00:00:00Z"}),
        true,
    );
    check(
        range(json!({"gt": "2020-03-01"})),
        json!({"a": "2020-03-01T00:00:00Z"}),
        false,
    );
    check(
        range(json!({"gt": "2020-03-01"})),
        json!({"a": ["yesterday", "2020-03-02 00:00"]}),
        true,
    );
    check(range(json!({"gt": "2020-03-01"})), json!({"a": 1_600_000_000}), false);
    check(
        range(json!({"lt": "2020-03-01T00:00:00Z"})),
        json!({"a": "2020-03-01T00:00:00+01:00"}),
        true,
    );
}

#[test]
fn a_datetime_may_be_written_in_the_usual_ways() {
    let check = |text: &str, micros: i64| assert_eq!(Datetime::parse(text), Some(Datetime(micros)), "{text}");
    check("2020-03-01T00:00:00Z", 1_583_020_800_000_000);
    check("2020-03-01T00:00:00-09:00", 1_583_053_200_000_000);
    check("2020-03-01 00:00:00-0900", 1_583_053_200_000_000);
    check("2020-03-01T00:00:00-0900", 1_583_053_200_000_000);
    check("2020-03-01 00:00:00-09", 1_583_053_200_000_000);
    check("2020-03-01T00:00:00.123456Z", 1_583_020_800_123_456);
    check("2020-03-01T00:00:00", 1_583_020_800_000_000);
    check("2020-03-01T00:00:00.12", 1_583_020_800_120_000);
    check("2020-03-01 00:00:00.123456789", 1_583_020_800_123_456);
    check("2020-03-01T00:00", 1_583_020_800_000_000);
    check("2020-03-01 00:00", 1_583_020_800_000_000);
    check("2020-03-01", 1_583_020_800_000_000);
    check("1969-12-31T23:59:59.999999Z", -1);
    for text in ["", "2020", "2020-13-01", "soon", "12", "2014-01-01T00:00:00BAD"] {
        assert_eq!(Datetime::parse(text), None, "{text}");
    }
}

#[test]
fn places_lie_inside_areas_but_not_on_borders() {
    let on = |lon: f64, lat: f64| json!({"a": {"lon": lon, "lat": lat}});
    let circle = json!({"key": "a", "geo_radius": {"center": {"lon": 0.0, "lat": 0.0}, "radius": 80000.0}});
    check(circle.clone(), on(0.5, 0.5), true);
    check(circle.clone(), on(1.5, 1.5), false);
    check(
        circle.clone(),
        json!({"a": [{"lon": 1.5, "lat": 1.5}, {"lon": 0, "lat": 0}]}),
        true,
    );
    check(circle, json!({"a": {"lon": "0", "lat": 0}}), false);
    let corner = |lon: f64, lat: f64| json!({"lon": lon, "lat": lat});
    let area = |left: f64, top: f64, right: f64, bottom: f64| json!({"key": "a", "geo_bounding_box": {"top_left": corner(left, top), "bottom_right": corner(right, bottom)}});
    check(area(-1.0, 1.0, 1.0, -1.0), on(-0.5, 0.5), true);
    check(area(-1.0, 1.0, 1.0, -1.0), on(1.0, 0.0), false);
    // The United States cross the date line.
    check(area(167.0, 74.07, -66.88, 18.77), on(-73.99, 40.75), true);
    check(area(167.0, 74.07, -66.88, 18.77), on(13.41, 52.52), false);
    let ring = |corners: &[(f64, f64)]| json!({"points": corners.iter().map(|c| corner(c.0, c.1)).collect::<Vec<_>>()});
    let square = ring(&[(-1.0, -1.0), (1.5, -1.0), (1.5, 1.5), (-1.0, 1.5), (-1.0, -1.0)]);
    let hole = ring(&[(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)]);
    let polygon = |exterior: &Value, interiors: &[&Value]| json!({"key": "a", "geo_polygon": {"exterior": exterior, "interiors": interiors}});
    check(polygon(&square, &[]), on(0.0, 0.0), true);
    check(polygon(&square, &[]), on(1.5, 0.0), false);
    check(polygon(&square, &[]), on(2.0, 0.0), false);
    check(polygon(&square, &[&hole]), on(0.6, 0.6), true);
    check(polygon(&square, &[&hole]), on(0.5, 0.5), false);
    check(polygon(&square, &[&hole]), on(0.0, 0.0), false);
    // Places level with a corner: the edges that meet there count once.
    let diamond = ring(&[(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]);
    check(polygon(&diamond, &[]), on(0.5, 0.0), true);
    check(polygon(&diamond, &[]), on(-2.0, 0.0), false);
    check(polygon(&diamond, &[]), on(-2.0, 1.0), false);
    let notched = ring(&[(0.0, 0.0), (4.0, 0.0), (4.0, 2.0), (2.0, 1.0), (0.0, 2.0), (0.0, 0.0)]);
    check(polygon(&notched, &[]), on(1.0, 1.0), true);
    check(polygon(&notched, &[]), on(-1.0, 1.0), false);
    check(polygon(&notched, &[]), on(-1.0, 2.0), false);
    let twisted = ring(&[(-1.0, -1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)]);
    check(polygon(&twisted, &[]), on(0.5, 0.0), true);
    check(polygon(&twisted, &[]), on(0.0, 0.5), false);
    check(polygon(&twisted, &[]), on(0.0, 0.0), false);
}

#[test]
fn counts_look_at_the_whole_value() {
    let count = |bounds: Value| json!({"key": "a", "values_count": bounds});
    check(count(json!({"gt": 1})), json!({"a": [1, [2, 3]]}), true);
    check(count(json!({"gte": 3})), json!({"a": [1, [2, 3]]}), false);
    check(count(json!({"lt": 1})), json!({"a": []}), true);
    check(count(json!({"lt": 1})), json!({"a": null}), true);
    check(count(json!({"lt": 1})), json!({}), false);
    check(count(json!({"gte": 1})), json!({"a": {}}), true);
}

/// The table of Qdrant's own test, with its two forms of asking.
#[test]
fn empty_and_null_are_told_apart() {
    let ask = |on: &str, own_empty: bool, own_null: bool, inline_empty: bool, inline_null: bool| {
        let on: Value = serde_json::from_str(on).unwrap();
        check(json!({"is_empty": {"key": "a"}}), on.clone(), own_empty);
        check(json!({"is_null": {"key": "a"}}), on.clone(), own_null);
        check(json!({"key": "a", "is_empty": true}), on.clone(), inline_empty);
        check(json!({"key": "a", "is_empty": false}), on.clone(), !inline_empty);
        check(json!({"key": "a", "is_null": true}), on.clone(), inline_null);
        check(json!({"key": "a", "is_null": false}), on, !inline_null);
    };
    ask(r#"{}"#, true, false, true, false);
    ask(r#"{"a": null}"#, true, true, true, true);
    ask(r#"{"a": []}"#, true, false, true, false);
    ask(r#"{"a": [null]}"#, false, false, false, true);
    ask(r#"{"a": [true, null]}"#, false, false, false, true);
    ask(r#"{"a": [true]}"#, false, false, false, false);
    ask(r#"{"a": {}}"#, false, false, false, false);
    ask(r#"{"a": 0}"#, false, false, false, false);
    let on = json!({"a": [{"b": 1}, {"b": null}, {"d": []}]});
    check(json!({"is_empty": {"key": "a[].b"}}), on.clone(), false);
    check(json!({"is_empty": {"key": "a[].d"}}), on.clone(), true);
    check(json!({"is_null": {"key": "a[].b"}}), on.clone(), true);
    check(json!({"key": "a[].b", "is_empty": true}), on.clone(), true);
    check(json!({"key": "a[].b", "is_empty": false}), on, true);
}

#[test]
fn ids_and_vectors_are_of_the_point() {
    check(json!({"has_id": [1, 7]}), json!({}), true);
    check(
        json!({"has_id": [1, "936DA01F9ABD4d9d80C702AF85C822A8"]}),
        json!({}),
        false,
    );
    check(json!({"has_id": []}), json!({}), false);
    check(json!({"has_vector": ""}), json!({}), true);
    check(json!({"has_vector": "image"}), json!({}), true);
    check(json!({"has_vector": "text"}), json!({}), false);
}

#[test]
fn nested_wants_one_object_that_satisfies_everything() {
    let on = json!({"d": [{"food": "leaves", "likes": false}, {"food": "meat", "likes": true}, 5]});
    let eats = |key: &str, food: &str, likes: bool| {
        let food = json!({"key": "food", "match": {"value": food}});
        let likes = json!({"key": "likes", "match": {"value": likes}});
        json!({"nested": {"key": key, "filter": {"must": [food, likes]}}})
    };
    check(eats("d", "meat", true), on.clone(), true);
    check(eats("d[]", "meat", true), on.clone(), true);
    check(eats("d[1]", "meat", true), on.clone(), false);
    check(eats("d", "leaves", true), on.clone(), false);
    check(eats("food", "leaves", true), on.clone(), false);
    // Objects have no ids and no vectors.
    check(
        json!({"nested": {"key": "d", "filter": {"must": {"has_id": [7]}}}}),
        on.clone(),
        false,
    );
    check(
        json!({"nested": {"key": "d", "filter": {"must_not": {"has_vector": ""}}}}),
        on,
        true,
    );
}

#[test]
fn several_tests_of_one_field_mean_any_of_them() {
    let both = json!({"key": "a", "match": {"value": 1}, "range": {"gt": 10}});
    check(both.clone(), json!({"a": 1}), true);
    check(both.clone(), json!({"a": 11}), true);
    check(both, json!({"a": 5}), false);
}

#[test]
fn wrong_filters_are_refused_with_place_and_field() {
    check_error(json!([]), "filter: expected an object, got []");
    check_error(
        json!({"wrong": []}),
        "filter: unknown key `wrong`, expected one of `must`, `should`, `must_not`, `min_should`",
    );
    check_error(
        json!({"must": 5}),
        "filter.must: expected a condition (an object), got 5",
    );
    check_error(
        json!({"must": [{"has_id": [1]}, {"has_ids": [1]}]}),
        "filter.must[1]: unknown key `has_ids`, expected one of `key`, `is_empty`, `is_null`, `has_id`, `has_vector`, \
         `nested`, `must`, `should`, `must_not`, `min_should`",
    );
    check_error(
        json!({"must": {"key": "a.b", "match": {"value": 1.5}}}),
        "filter.must.match.value (field `a.b`): expected a string, an integer or a boolean (match a float with \
         `range`), got 1.5",
    );
    check_error(
        json!({"should": [{"key": "a", "match": {"any": ["x", 1]}}]}),
        "filter.should[0].match.any[1] (field `a`): expected a string, got 1",
    );
    check_error(
        json!({"must": {"key": "a", "match": {"value": 1, "text": "x"}}}),
        "filter.must.match (field `a`): expected exactly one of `value`, `any`, `except`, `text`, `text_any`, `phrase`",
    );
    check_error(
        json!({"must": {"key": "a", "match": {"value": 9_223_372_036_854_775_808_u64}}}),
        "filter.must.match.value (field `a`): expected an integer of 64 bits, got 9223372036854775808",
    );
    check_error(
        json!({"must": {"key": "a", "range": {"gte": "2014-01-01T00:00:00BAD"}}}),
        "filter.must.range.gte (field `a`): expected an RFC 3339 date-time as in \"2014-01-01T00:00:00Z\", got \
         \"2014-01-01T00:00:00BAD\"",
    );
    check_error(
        json!({"must": {"key": "a", "range": {"from": 1}}}),
        "filter.must.range (field `a`): unknown key `from`, expected one of `lt`, `gt`, `gte`, `lte`",
    );
    check_error(
        json!({"must": {"key": "a", "equals": 1}}),
        "filter.must (field `a`): unknown key `equals`, expected one of `key`, `match`, `range`, `geo_radius`, \
         `geo_bounding_box`, `geo_polygon`, `values_count`, `is_empty`, `is_null`",
    );
    check_error(
        json!({"must": {"key": "a"}}),
        "filter.must (field `a`): At least one field condition must be specified",
    );
    check_error(
        json!({"must": {"key": "a", "is_empty": true, "match": {"value": 1}}}),
        "filter.must (field `a`): `values_count`, `is_empty` and `is_null` stand alone: put the other tests into \
         conditions of their own",
    );
    check_error(
        json!({"must": {"key": "a b", "is_empty": true}}),
        "filter.must.key: Invalid json path: 'a b': expected '.' or '[' at byte 1",
    );
    check_error(
        json!({"must": {"has_id": ["x"]}}),
        "filter.must.has_id[0]: expected a point ID (an unsigned integer or a UUID), got \"x\"",
    );
    check_error(
        json!({"must": {"nested": {"key": "a", "filter": {"must": [{"key": "b", "values_count": {"gt": -1}}]}}}}),
        "filter.must.nested.filter.must[0].values_count.gt (field `b`): expected an unsigned integer, got -1",
    );
    check_error(
        json!({"min_should": {"conditions": []}}),
        "filter.min_should: missing `min_count`",
    );
    check_error(
        json!({"must": {"key": "a", "geo_radius": {"center": {"lon": 0, "lat": 91}, "radius": 1}}}),
        "filter.must.geo_radius.center (field `a`): expected `lat` within [-90;90] and `lon` within [-180;180], got \
         {\"lat\":91,\"lon\":0}",
    );
    check_error(
        json!({"must": {"key": "a", "geo_polygon": {"exterior": {"points": [{"lon": 0, "lat": 0}]}}}}),
        "filter.must.geo_polygon.exterior (field `a`): polygon invalid, the size must be at least 4, got 1",
    );
    let corner = |lon: i64| json!({"lon": lon, "lat": 0});
    let open = json!({"points": [corner(0), corner(1), corner(2), corner(3)]});
    check_error(
        json!({"must": {"key": "a", "geo_polygon": {"exterior": open}}}),
        "filter.must.geo_polygon.exterior (field `a`): polygon invalid, the first and the last points should be the \
         same to form a closed line",
    );
}

/// Rows in memory; counts how often a payload is read.
struct Rows {
    texts: Vec<String>,
    indexes: Mutex<HashMap<JsonPath, Arc<FieldIndex>>>,
    reads: Mutex<Vec<usize>>,
}

impl Rows {
    fn new(payloads: &[Payload]) -> Self {
        // A point without payload has an empty text.
        let text = |payload: &Payload| match payload.is_empty() {
            true => String::new(),
            false => serde_json::to_string(payload).unwrap(),
        };
        Self {
            texts: payloads.iter().map(text).collect(),
            indexes: Mutex::default(),
            reads: Mutex::default(),
        }
    }

    fn candidates(&self) -> FixedBitSet {
        let mut all = FixedBitSet::with_capacity(self.texts.len());
        all.insert_range(..);
        all
    }

    fn select(&self, clauses: Value) -> Vec<usize> {
        filter(clauses)
            .select(self, self.candidates())
            .unwrap()
            .ones()
            .collect()
    }
}

fn row_has_vector(row: usize, name: &str) -> bool {
    name.is_empty() || row.is_multiple_of(2)
}

impl PayloadSource for Rows {
    fn id(&self, row: usize) -> PointId {
        PointId::Num(row as u64)
    }

    fn payload_text(&self, row: usize) -> &str {
        self.reads.lock().push(row);
        &self.texts[row]
    }

    fn has_vector(&self, row: usize, name: &str) -> bool {
        row_has_vector(row, name)
    }

    fn field_index(&self, path: &JsonPath) -> Result<Arc<FieldIndex>> {
        if let Some(index) = self.indexes.lock().get(path) {
            return Ok(index.clone());
        }
        let index = Arc::new(FieldIndex::build(path, self.texts.iter().map(String::as_str))?);
        self.indexes.lock().insert(path.clone(), index.clone());
        Ok(index)
    }
}

#[test]
fn only_rows_still_possible_are_read() {
    let payloads: Vec<Payload> = (0..100)
        .map(|row| payload(json!({"n": row, "t": format!("word{row} common")})))
        .collect();
    let rows = Rows::new(&payloads);
    let number = json!({"key": "n", "range": {"gte": 10, "lt": 13}});
    let text = json!({"key": "t", "match": {"text": "common"}});
    assert_eq!(rows.select(json!({"must": [text, number]})), [10, 11, 12]);
    assert_eq!(*rows.reads.lock(), [10, 11, 12]);
    rows.reads.lock().clear();
    // The second text is asked only where the first did not match.
    let texts = [
        json!({"key": "t", "match": {"text": "word11"}}),
        json!({"key": "t", "match": {"text": "word12"}}),
    ];
    assert_eq!(rows.select(json!({"should": texts, "must": number})), [11, 12]);
    assert_eq!(*rows.reads.lock(), [10, 11, 12, 10, 12]);
    rows.reads.lock().clear();
    assert_eq!(
        rows.select(json!({"must": number, "must_not": {"has_id": [11]}})),
        [10, 12]
    );
    assert!(rows.reads.lock().is_empty());
}

#[test]
fn a_damaged_payload_is_corruption_not_a_miss() {
    let mut rows = Rows::new(&[payload(json!({"a": "x"}))]);
    rows.texts[0].pop();
    for condition in [
        json!({"key": "a", "match": {"value": "x"}}),
        json!({"key": "a", "match": {"text": "x"}}),
    ] {
        let result = filter(json!({ "must": condition })).select(&rows, rows.candidates());
        assert!(matches!(result, Err(Error::Corruption(_))), "{result:?}");
    }
}

#[test]
fn dates_are_indexed_by_time_not_by_text() {
    let texts = [
        "2020-03-01T00:00:00-09:00",
        "2020-03-01T00:00:00Z",
        "2020-03-01 10:00",
        "soon",
    ];
    let rows = Rows::new(&texts.map(|text| payload(json!({ "a": text }))));
    let after = |bound: &str| rows.select(json!({"must": {"key": "a", "range": {"gt": bound}}}));
    assert_eq!(after("2020-03-01T00:00:00Z"), [0, 2]);
    assert_eq!(after("2020-03-01T09:00:00Z"), [2]);
    assert_eq!(after("2020-02-28"), [0, 1, 2]);
}

#[test]
fn a_field_index_counts_rows_that_have_a_value() {
    let payloads = [
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": []}),
        json!({}),
        json!({"a": [null, "x"]}),
    ];
    let rows = Rows::new(&payloads.map(payload));
    let index = rows.field_index(&"a".parse().unwrap()).unwrap();
    assert_eq!((index.rows(), index.filled_rows()), (5, 2));
    assert!(index.memory_bytes() > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_filter_reads_back_from_its_json(own in random::filter()) {
        let text = serde_json::to_string(&own).unwrap();
        prop_assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), own, "{}", text);
    }

    /// L4: the fast form is the plain form.
    #[test]
    fn selecting_rows_equals_matching_each(
        payloads in prop::collection::vec(random::payload(), 0..40),
        filters in prop::collection::vec(random::filter(), 1..8),
        dead in prop::collection::vec(0_usize..40, 0..5),
    ) {
        let rows = Rows::new(&payloads);
        let mut candidates = rows.candidates();
        dead.into_iter().filter(|row| *row < payloads.len()).for_each(|row| candidates.remove(row));
        for own in filters {
            let selected: Vec<usize> = own.select(&rows, candidates.clone()).unwrap().ones().collect();
            let expected: Vec<usize> = candidates
                .ones()
                .filter(|row| own.matches(rows.id(*row), &payloads[*row], &|name| row_has_vector(*row, name)))
                .collect();
            prop_assert_eq!(selected, expected, "{}", serde_json::to_string(&own).unwrap());
        }
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;

fn payload(value: Value) -> Payload {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn path(text: &str) -> JsonPath {
    text.parse().unwrap()
}

fn document() -> Payload {
    payload(json!({
        "a": {"b": [{"c": 1}, {"c": 2}, {"d": {"e": 3}}]},
        "f": 3,
        "g": ["g0", "g1"],
        "n": null,
        "with.dot": {"x y": 1},
    }))
}

#[test]
fn a_path_reads_back_from_its_text() {
    for text in [
        "a",
        "a.b",
        "a[].b",
        "a[0].b",
        "a[1][50].bar-baz[].\"qux[.]quux\"",
        "\"\".a",
        "Müesli_1",
        "\"a b\"[]",
    ] {
        assert_eq!(path(text).to_string(), text);
        assert_eq!(serde_json::from_value::<JsonPath>(json!(text)).unwrap(), path(text));
    }
    assert_eq!(path("\"plain\".b"), path("plain.b"));
}

#[test]
fn a_wrong_path_says_where_and_what() {
    let check = |text: &str, offset, reason| {
        let path = text.to_owned();
        assert_eq!(
            text.parse::<JsonPath>(),
            Err(PathError { path, offset, reason }),
            "{text}"
        );
    };
    check("", 0, PathErrorReason::Key);
    check("a.", 2, PathErrorReason::Key);
    check("a..b", 2, PathErrorReason::Key);
    check("[0]", 0, PathErrorReason::Key);
    check("a b", 1, PathErrorReason::Step);
    check("a[", 2, PathErrorReason::Index);
    check("a[-1]", 2, PathErrorReason::Index);
    check("a[1", 3, PathErrorReason::Index);
    check("a[99999999999999999999]", 2, PathErrorReason::Index);
    check("\"a", 2, PathErrorReason::Quote);
    check("\"a\\\"b\"", 2, PathErrorReason::Quote);
    check("\"a\"b", 3, PathErrorReason::Step);
    check(&format!("a{}", "[]".repeat(65)), 129, PathErrorReason::TooLong);
    let message = "a..b".parse::<JsonPath>().unwrap_err().to_string();
    assert!(
        message.starts_with("Invalid json path: 'a..b': expected a key"),
        "{message}"
    );
}

#[test]
fn values_are_found_through_objects_and_arrays() {
    let check = |text: &str, expected: Value| {
        let document = document();
        let found: Vec<Value> = values_at(&document, &path(text)).into_iter().cloned().collect();
        assert_eq!(Value::Array(found), expected, "{text}");
    };
    check("f", json!([3]));
    check("n", json!([null]));
    check("g", json!([["g0", "g1"]]));
    check("g[]", json!(["g0", "g1"]));
    check("g[1]", json!(["g1"]));
    check("g[2]", json!([]));
    check("a.b[].c", json!([1, 2]));
    check("a.b[1].c", json!([2]));
    check("a.b.c", json!([]));
    check("f[]", json!([]));
    check("f.x", json!([]));
    check("n[]", json!([]));
    check("missing", json!([]));
    check("\"with.dot\".\"x y\"", json!([1]));
}

#[test]
fn merging_sets_top_level_keys_and_null_removes() {
    let mut own = payload(json!({"a": {"x": 1}, "b": 2, "c": 3}));
    merge(&mut own, &payload(json!({"a": {"y": 2}, "b": null, "d": 4, "e": null})));
    assert_eq!(own, payload(json!({"a": {"y": 2}, "c": 3, "d": 4})));
}

#[test]
fn setting_at_a_path_merges_into_the_object_there() {
    let check = |before: Value, text: &str, source: Value, after: Value| {
        let mut own = payload(before);
        set_at(&mut own, &path(text), &payload(source)).unwrap();
        assert_eq!(own, payload(after), "{text}");
    };
    check(
        json!({"a": {"x": 1}}),
        "a",
        json!({"y": 2}),
        json!({"a": {"x": 1, "y": 2}}),
    );
    check(json!({"a": {"x": 1}}), "a", json!({"x": null}), json!({"a": {}}));
    check(json!({}), "k.l", json!({"c": 1}), json!({"k": {"l": {"c": 1}}}));
    check(
        json!({"a": 10}),
        "a.b.c",
        json!({"x": 1}),
        json!({"a": {"b": {"c": {"x": 1}}}}),
    );
    check(
        json!({"a": [{"c": 1}, {"c": 2}]}),
        "a[1]",
        json!({"c": 5}),
        json!({"a": [{"c": 1}, {"c": 5}]}),
    );
    check(
        json!({"a": [{"c": 1}, 7]}),
        "a[]",
        json!({"d": 5}),
        json!({"a": [{"c": 1, "d": 5}, {"d": 5}]}),
    );
    check(json!({}), "k.l[3]", json!({"c": 1}), json!({"k": {"l": []}}));
    check(json!({}), "k.l[].m", json!({"c": 1}), json!({"k": {"l": []}}));
    check(json!({"a": {"x": 1}}), "a[0]", json!({"c": 1}), json!({"a": []}));
}

#[test]
fn a_payload_never_grows_deeper_than_can_be_read() {
    let mut source = json!(1);
    for _ in 0..60 {
        source = json!({"k": source});
    }
    let mut own = Payload::new();
    let fits = format!("a{}", ".a".repeat(59));
    set_at(&mut own, &path(&fits), &payload(source.clone())).unwrap();
    let text = serde_json::to_string(&own).unwrap();
    assert_eq!(parse_keys(&text, &["a"]).unwrap(), own);
    let before = own.clone();
    assert!(set_at(&mut own, &path(&format!("{fits}.a")), &payload(source)).is_err());
    assert_eq!(own, before);
}

#[test]
fn deleting_removes_what_is_at_the_path_only() {
    let check = |text: &str, any: bool, after: Value| {
        let mut own = payload(json!({"a": 1, "b": {"c": 2, "i": [{"j": 1, "k": 2}, {"j": 3}]}, "e": [1]}));
        assert_eq!(delete_at(&mut own, &path(text)), any, "{text}");
        assert_eq!(own, payload(after), "{text}");
    };
    let whole = json!({"a": 1, "b": {"c": 2, "i": [{"j": 1, "k": 2}, {"j": 3}]}, "e": [1]});
    check(
        "a",
        true,
        json!({"b": {"c": 2, "i": [{"j": 1, "k": 2}, {"j": 3}]}, "e": [1]}),
    );
    check(
        "b.c",
        true,
        json!({"a": 1, "b": {"i": [{"j": 1, "k": 2}, {"j": 3}]}, "e": [1]}),
    );
    check(
        "b.i[0].j",
        true,
        json!({"a": 1, "b": {"c": 2, "i": [{"k": 2}, {"j": 3}]}, "e": [1]}),
    );
    check(
        "b.i[].j",
        true,
        json!({"a": 1, "b": {"c": 2, "i": [{"k": 2}, {}]}, "e": [1]}),
    );
    check(
        "b.i[].k",
        true,
        json!({"a": 1, "b": {"c": 2, "i": [{"j": 1}, {"j": 3}]}, "e": [1]}),
    );
    check("b.i[]", true, json!({"a": 1, "b": {"c": 2, "i": []}, "e": [1]}));
    check("b.i[0]", false, whole.clone());
    check("b.x", false, whole.clone());
    check("a.x", false, whole.clone());
    check("z", false, whole);
}

#[test]
fn a_projection_includes_or_excludes_paths() {
    let paths = |texts: &[&str]| texts.iter().map(|text| path(text)).collect::<Vec<_>>();
    let check_include = |texts: &[&str], expected: Value| {
        assert_eq!(include(&document(), &paths(texts)), payload(expected), "{texts:?}");
    };
    check_include(&["f", "n", "missing"], json!({"f": 3, "n": null}));
    check_include(&["a.b[].c"], json!({"a": {"b": [{"c": 1}, {"c": 2}, {}]}}));
    check_include(&["a.b"], json!({"a": {"b": [{"c": 1}, {"c": 2}, {"d": {"e": 3}}]}}));
    check_include(&["g"], json!({"g": ["g0", "g1"]}));
    check_include(&["f.x"], json!({"f": 3}));
    check_include(&["g[0]"], json!({"g": []}));
    check_include(&[], json!({}));
    let check_exclude = |texts: &[&str], expected: Value| {
        assert_eq!(exclude(&document(), &paths(texts)), payload(expected), "{texts:?}");
    };
    check_exclude(
        &["a.b[].c", "\"with.dot\"", "g[]"],
        json!({"a": {"b": [{}, {}, {"d": {"e": 3}}]}, "f": 3, "g": [], "n": null}),
    );
    check_exclude(&["a", "g", "n", "with"], json!({"f": 3, "with.dot": {"x y": 1}}));
    check_exclude(&[], Value::Object(document()));
}

#[test]
fn reading_some_keys_skips_the_others() {
    let text = r#"{"a": {"b": [1, "x"]}, "a\u0062": 5, "c": [[{}]]}"#;
    assert_eq!(
        parse_keys(text, &["ab", "c"]).unwrap(),
        payload(json!({"ab": 5, "c": [[{}]]}))
    );
    assert_eq!(parse_keys(text, &[]).unwrap(), Payload::new());
    assert_eq!(parse_keys("", &["a"]).unwrap(), Payload::new());
    for damaged in ["[1]", "{\"a\": 1", "{\"a\": 1}}", "x"] {
        assert!(parse_keys(damaged, &["b"]).is_err(), "{damaged}");
    }
}

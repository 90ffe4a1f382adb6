//! Bad input gets a 4xx that says what is wrong, and nothing is written.

use serde_json::{Value, json};

use super::{Server, with_points};

#[track_caller]
fn check(server: &Server, request: (&str, &str, &str), status: u16, text: &str) {
    let (method, path, body) = request;
    let error = server.request(method, path, &[], Some(body.as_bytes())).error(status);
    assert!(error.contains(text), "{error}");
}

#[test]
fn the_texts_that_programs_compare_are_letter_for_letter() {
    let server = with_points();
    assert_eq!(
        server.get("/collections/x").error(404),
        "Not found: Collection `x` doesn't exist!"
    );
    let again = server.send(
        "PUT",
        "/collections/c",
        &json!({"vectors": {"size": 4, "distance": "Dot"}}),
    );
    assert_eq!(again.error(409), "Wrong input: Collection `c` already exists!");
    let short = server.send(
        "PUT",
        "/collections/c/points",
        &json!({"points": [{"id": 1, "vector": [1]}]}),
    );
    assert_eq!(
        short.error(400),
        "Wrong input: Vector dimension error: expected dim: 4, got 1"
    );
    let other = server.send(
        "POST",
        "/collections/c/points/query",
        &json!({"query": [1, 2, 3, 4], "using": "x"}),
    );
    assert_eq!(other.error(400), "Wrong input: Not existing vector name error: x");
}

#[test]
fn a_body_that_does_not_fit_changes_nothing() {
    let server = with_points();
    let upsert = |point: &str| format!("{{\"points\":[{{\"id\":50,\"vector\":[1,2,3,4]}},{point}]}}");
    let put = |point: &str, text: &str| {
        check(
            &server,
            ("PUT", "/collections/c/points?wait=true", &upsert(point)),
            400,
            text,
        );
    };
    put("{\"id\":-1,\"vector\":[1,2,3,4]}", "-1 is not a valid point ID");
    put("{\"id\":1.5,\"vector\":[1,2,3,4]}", "Format error in JSON body: ");
    put("{\"id\":\"12\",\"vector\":[1,2,3,4]}", "12 is not a valid point ID");
    put(
        "{\"id\":18446744073709551616,\"vector\":[1,2,3,4]}",
        "Format error in JSON body: ",
    );
    put("{\"id\":3}", "missing field `vector`");
    put("{\"id\":3,\"vector\":[1,2,3,NaN]}", "Format error in JSON body: ");
    put("{\"id\":3,\"vector\":[1,2,3,1e999]}", "number out of range");
    put("{\"id\":3,\"vector\":[1,2,3,1e39]}", "finite");
    put("{\"id\":3,\"vector\":[1,2,3,\"4\"]}", "expected a number");
    put("{\"id\":3,\"vector\":[[1,2,3,4]]}", "multivectors are not supported");
    put(
        "{\"id\":3,\"vector\":{\"x\":{\"indices\":[1],\"values\":[1]}}}",
        "sparse vectors are not supported",
    );
    put(
        "{\"id\":3,\"vector\":{\"text\":\"t\",\"model\":\"m\"}}",
        "inference is not supported",
    );
    check(
        &server,
        ("PUT", "/collections/c/points", "{\"points\":[]} x"),
        400,
        "trailing characters",
    );
    check(
        &server,
        ("PUT", "/collections/c/points", "{}"),
        400,
        "missing field `points` or `batch`",
    );
    check(
        &server,
        ("PUT", "/collections/c/points?wait=maybe", "{}"),
        400,
        "Deserialize error in query parameters",
    );
    for path in ["query?timeout=0", "search/batch?timeout=soon"] {
        check(
            &server,
            ("POST", &format!("/collections/c/points/{path}"), "{}"),
            400,
            "Deserialize error in query parameters",
        );
    }
    assert_eq!(
        server.ok("POST", "/collections/c/points/count", &json!({})),
        json!({"count": 3})
    );
}

#[test]
fn an_update_that_names_no_points_never_means_all_of_them() {
    let server = with_points();
    for (path, body) in [
        ("delete", "{}"),
        ("delete", "{\"points\":null,\"filter\":null}"),
        ("payload", "{\"payload\":{}}"),
        ("payload/clear", "{}"),
        ("vectors/delete", "{\"vector\":[\"\"]}"),
    ] {
        check(
            &server,
            ("POST", &format!("/collections/c/points/{path}"), body),
            422,
            "must be provided",
        );
    }
    check(
        &server,
        ("POST", "/collections/c/points/delete", "{\"filter\":{\"musst\":[]}}"),
        400,
        "unknown key",
    );
    assert_eq!(
        server.ok("POST", "/collections/c/points/count", &json!({})),
        json!({"count": 3})
    );
}

#[test]
fn queries_that_are_not_supported_say_so() {
    let server = with_points();
    for (body, text) in [
        (
            "{\"query\":{\"fusion\":\"rrf\"},\"prefetch\":[]}",
            "`fusion` queries are not supported",
        ),
        (
            "{\"query\":{\"recommend\":{\"positive\":[1]}}}",
            "`recommend` queries are not supported",
        ),
        (
            "{\"query\":{\"indices\":[1],\"values\":[1]}}",
            "sparse vectors are not supported",
        ),
        (
            "{\"query\":{\"nearest\":{\"indices\":[1],\"values\":[1]}}}",
            "sparse vectors are not supported",
        ),
        (
            "{\"query\":{\"nearest\":[1,2,3,4],\"mmr\":{\"diversity\":0.5}}}",
            "`mmr` queries are not supported",
        ),
        (
            "{\"query\":{\"text\":\"x\",\"model\":\"y\"}}",
            "inference is not supported",
        ),
        ("{\"query\":[[1,2,3,4]]}", "multivectors are not supported"),
        (
            "{\"query\":[1,2,3,4],\"prefetch\":{\"limit\":1}}",
            "prefetch queries are not supported",
        ),
    ] {
        check(&server, ("POST", "/collections/c/points/query", body), 400, text);
    }
    check(
        &server,
        ("POST", "/collections/c/points/query", "{\"query\":1,\"limit\":0}"),
        422,
        "[limit: value 0 invalid, must be 1 or larger]",
    );
    check(
        &server,
        (
            "POST",
            "/collections/c/points/query",
            "{\"query\":[1,2,3,4],\"params\":{\"quantization\":{\"oversampling\":0.5}}}",
        ),
        422,
        "[params.quantization.oversampling: value 0.5 invalid, must be 1.0 or larger]",
    );
    check(
        &server,
        ("POST", "/collections/c/points/scroll", "{\"order_by\":\"a\"}"),
        400,
        "not supported",
    );
}

#[test]
fn a_collection_that_cannot_be_is_refused() {
    let server = Server::start();
    for (body, status, text) in [
        (
            "{\"vectors\":{\"size\":0,\"distance\":\"Dot\"}}",
            422,
            "[vectors.size: value 0 invalid",
        ),
        (
            "{\"vectors\":{\"size\":65536,\"distance\":\"Dot\"}}",
            422,
            "vectors.size",
        ),
        (
            "{\"vectors\":{\"v\":{\"size\":0,\"distance\":\"Dot\"}}}",
            422,
            "vectors.v.size",
        ),
        ("{\"vectors\":{\"size\":4}}", 400, "missing field `distance`"),
        (
            "{\"vectors\":{\"size\":4,\"distance\":\"Near\"}}",
            400,
            "Cosine, Dot, Euclid, Manhattan",
        ),
        (
            "{\"vectors\":{\"size\":4,\"distance\":\"Dot\",\"datatype\":\"uint8\"}}",
            400,
            "vectors.datatype",
        ),
        (
            "{\"vectors\":{\"size\":4,\"distance\":\"Dot\",\"multivector_config\":{\"comparator\":\"max_sim\"}}}",
            400,
            "multivectors",
        ),
        ("{\"vectors\":{},\"sparse_vectors\":{\"s\":{}}}", 400, "sparse vectors"),
        (
            "{\"hnsw_config\":{\"m\":\"x\"}}",
            400,
            "`hnsw_config.m` must be an unsigned integer",
        ),
        (
            "{\"quantization_config\":{\"scalar\":{\"type\":\"int4\"}}}",
            400,
            "`quantization_config.scalar.type` must be one of int8",
        ),
        (
            "{\"quantization_config\":{\"scalar\":{\"quantile\":0.9}}}",
            400,
            "missing field `type` in `quantization_config.scalar`",
        ),
        (
            "{\"quantization_config\":{\"scalar\":{\"type\":\"int8\",\"quantile\":0.3}}}",
            422,
            "[quantization_config.scalar.quantile: value 0.3 invalid, must be from 0.5 to 1]",
        ),
        (
            "{\"quantization_config\":{}}",
            400,
            "`quantization_config` must be an object with one of scalar, product, binary, turbo",
        ),
        (
            "{\"vectors\":{\"size\":4,\"distance\":\"Dot\",\"quantization_config\":{\"product\":{\"compression\":\"x5\"}}}}",
            400,
            "`vectors.quantization_config.product.compression` must be one of x4",
        ),
        (
            "{\"metadata\":{\"proximadb\":{\"storage_engine\":\"tape\"}}}",
            400,
            "`metadata.proximadb.storage_engine` must be \"viper\" or \"lsm\"",
        ),
        (
            "{\"metadata\":{\"proximadb\":{\"storage_engin\":\"lsm\"}}}",
            400,
            "unknown key `metadata.proximadb.storage_engin`: there are storage_engine, region",
        ),
        (
            "{\"metadata\":{\"proximadb\":{\"region\":4}}}",
            400,
            "`metadata.proximadb.region` must be a string",
        ),
        (
            "{\"metadata\":{\"proximadb\":\"lsm\"}}",
            400,
            "`metadata.proximadb` must be an object",
        ),
        ("{\"vectors\":4}", 400, "`vectors` must be an object"),
    ] {
        check(&server, ("PUT", "/collections/c", body), status, text);
    }
    assert_eq!(
        server.ok("GET", "/collections", &Value::Null),
        json!({"collections": []})
    );
}

#[test]
fn names_that_cannot_be_are_refused_and_others_are_not() {
    let server = Server::start();
    for name in [
        "a%2Fb",
        "..%2Fup",
        "a%00b",
        "%0A",
        "a%3Ab",
        "%3C",
        "a%5Cb",
        "%2E%2E",
        "%2E",
        &"x".repeat(256),
        "%FF",
    ] {
        check(
            &server,
            ("PUT", &format!("/collections/{name}"), "{}"),
            422,
            "Validation error in path parameters: [name: ",
        );
    }
    // Clients tidy such paths away; a raw connection does not.
    let raw =
        server.raw(b"PUT /collections/.. HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}");
    assert!(raw.starts_with("HTTP/1.1 422"), "{raw}");
    assert_eq!(
        server.ok("GET", "/collections", &Value::Null),
        json!({"collections": []})
    );
    for name in ["..x", "a%20b", "%C3%BC", &"x".repeat(255)] {
        server.ok("PUT", &format!("/collections/{name}"), &json!({}));
    }
}

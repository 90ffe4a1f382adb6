//! What a client does in a normal session.

use serde_json::{Value, json};

use super::{Server, with_points};

const UUID: &str = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26";

#[test]
fn a_collection_is_created_listed_described_and_dropped() {
    let server = Server::start();
    let body = json!({
        "vectors": {"size": 4, "distance": "Cosine", "on_disk": true, "hnsw_config": {"m": 8, "unknown": 1}, "unknown": 1},
        "hnsw_config": {"m": 32}, "metadata": {"proximadb": {"placement": "archive"}}, "unknown": {"x": 1},
    });
    assert_eq!(server.ok("PUT", "/collections/c?timeout=60", &body), true);
    assert_eq!(
        server.ok("GET", "/collections", &Value::Null),
        json!({"collections": [{"name": "c"}]})
    );
    assert_eq!(
        server.ok("GET", "/collections/c/exists", &Value::Null),
        json!({"exists": true})
    );
    let info = server.ok("GET", "/collections/c", &Value::Null);
    let space = json!({"size": 4, "distance": "Cosine", "on_disk": true, "hnsw_config": {"m": 8}});
    assert_eq!(
        info["config"]["params"]["vectors"], space,
        "unknown fields are not answered"
    );
    assert_eq!(
        (&info["status"], &info["optimizer_status"]),
        (&json!("green"), &json!("ok"))
    );
    assert_eq!(
        (
            &info["config"]["hnsw_config"]["m"],
            &info["config"]["hnsw_config"]["ef_construct"]
        ),
        (&json!(32), &json!(100))
    );
    assert_eq!(info["config"]["metadata"], body["metadata"]);
    assert_eq!(server.ok("DELETE", "/collections/c", &Value::Null), true);
    assert_eq!(server.ok("DELETE", "/collections/c", &Value::Null), false);
    assert_eq!(
        server.ok("GET", "/collections/c/exists", &Value::Null),
        json!({"exists": false})
    );
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let server = Server::start();
    let body = json!({
        "vectors": {"v": {"size": 2, "distance": "Dot", "on_disk": true}}, "hnsw_config": {"m": 32},
        "quantization_config": {"scalar": {"type": "int8"}}, "metadata": {"a": 1},
    });
    server.ok("PUT", "/collections/c", &body);
    let patch = json!({
        "vectors": {"v": {"on_disk": false}}, "hnsw_config": {"ef_construct": 7}, "params": {"on_disk_payload": false},
        "quantization_config": "Disabled", "metadata": {"b": 2},
    });
    assert_eq!(server.ok("PATCH", "/collections/c", &patch), true);
    let config = &server.ok("GET", "/collections/c", &Value::Null)["config"];
    assert_eq!(
        config["params"]["vectors"],
        json!({"v": {"size": 2, "distance": "Dot", "on_disk": false}})
    );
    assert_eq!(
        (&config["hnsw_config"]["m"], &config["hnsw_config"]["ef_construct"]),
        (&json!(32), &json!(7))
    );
    assert_eq!(
        (&config["params"]["on_disk_payload"], &config["quantization_config"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(config["metadata"], json!({"a": 1, "b": 2}));
    let engine = json!({"metadata": {"proximadb": {"storage_engine": "lsm"}}});
    let refused = server.send("PATCH", "/collections/c", &engine).error(400);
    assert!(refused.contains("cannot be changed"), "{refused}");
    let unknown = server.send("PATCH", "/collections/c", &json!({"vectors": {"x": {"on_disk": true}}}));
    assert_eq!(unknown.error(400), "Wrong input: Not existing vector name error: x");
}

#[test]
fn points_are_answered_in_the_order_asked_and_ids_hyphenated() {
    let server = with_points();
    let simple = UUID.replace('-', "");
    let body = json!({"ids": [2, simple, 77, 1], "with_payload": ["a"], "with_vector": true});
    let expected = json!([
        {"id": 2, "payload": {"a": 2}, "vector": [0.0, 1.0, 0.0, 0.0]},
        {"id": UUID, "payload": {}, "vector": [0.0, 0.0, 1.0, 0.0]},
        {"id": 1, "payload": {"a": 1}, "vector": [1.0, 0.0, 0.0, 0.0]},
    ]);
    assert_eq!(server.ok("POST", "/collections/c/points", &body), expected);
    assert_eq!(
        server.ok("GET", &format!("/collections/c/points/{simple}"), &Value::Null),
        expected[1]
    );
    assert_eq!(
        server.get("/collections/c/points/9").error(404),
        "Not found: Point with id 9 does not exists!"
    );
}

#[test]
fn the_column_form_and_named_vectors_round_trip() {
    let server = Server::start();
    server.ok(
        "PUT",
        "/collections/c",
        &json!({"vectors": {"x": {"size": 2, "distance": "Dot"}, "": {"size": 1, "distance": "Dot"}}}),
    );
    let body = json!({"batch": {"ids": [1, 2], "vectors": {"x": [[1, 2], [3, 4]], "": [[5], [6]]}, "payloads": [null, {"a": [1, "b"]}]}});
    let result = server.ok("PUT", "/collections/c/points", &body);
    assert_eq!(result["status"], "acknowledged", "no wait, no `completed`");
    let records = server.ok(
        "POST",
        "/collections/c/points",
        &json!({"ids": [1, 2], "with_vector": ["x"]}),
    );
    assert_eq!(
        records,
        json!([
            {"id": 1, "payload": {}, "vector": {"x": [1.0, 2.0]}},
            {"id": 2, "payload": {"a": [1, "b"]}, "vector": {"x": [3.0, 4.0]}},
        ])
    );
    let short = json!({"batch": {"ids": [1, 2], "vectors": [[1]]}});
    assert!(
        server
            .send("PUT", "/collections/c/points", &short)
            .error(422)
            .contains("must be equal (2 != 1)")
    );
}

#[test]
fn queries_take_a_vector_nearest_an_id_or_nothing() {
    let server = with_points();
    let query = |body: Value| -> Vec<Value> {
        let found = server.ok("POST", "/collections/c/points/query", &body);
        found["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["id"].clone())
            .collect()
    };
    assert_eq!(query(json!({"query": [0, 2, 1, 0]})), [json!(2), json!(UUID), json!(1)]);
    assert_eq!(
        query(json!({"query": {"nearest": [1, 0, 0, 0], "mmr": null}, "limit": 1})),
        [json!(1)]
    );
    assert_eq!(
        query(json!({"query": [0, 2, 1, 0], "limit": 1, "offset": 1, "using": ""})),
        [json!(UUID)]
    );
    assert_eq!(
        query(json!({"query": 1})).len(),
        2,
        "the point itself is not among the results"
    );
    assert_eq!(
        query(json!({"query": {"nearest": UUID}, "limit": 1, "offset": 1})).len(),
        1
    );
    assert_eq!(query(json!({"limit": 2})), [json!(1), json!(2)]);
    let filter = json!({"must": [{"key": "a", "match": {"value": 2}}]});
    assert_eq!(
        query(json!({"query": [1, 0, 0, 0], "filter": filter, "params": {"exact": true, "hnsw_ef": 64, "acorn": {}}})),
        [json!(2)]
    );
    let full = server.ok(
        "POST",
        "/collections/c/points/query",
        &json!({"query": [1, 0, 0, 0], "limit": 1, "with_payload": true, "with_vector": true}),
    );
    let point = &full["points"][0];
    assert_eq!(
        (&point["score"], &point["payload"], &point["vector"]),
        (&json!(1.0), &json!({"a": 1}), &json!([1.0, 0.0, 0.0, 0.0]))
    );
    assert!(point["version"].is_u64());
    assert_eq!(
        server
            .send("POST", "/collections/c/points/query", &json!({"query": 9}))
            .error(404),
        "Not found: No point with id 9 found"
    );
}

#[test]
fn batches_and_the_old_search_answer_in_their_own_shapes() {
    let server = with_points();
    let one = json!({"query": [1, 0, 0, 0], "limit": 1});
    let batch = server.ok(
        "POST",
        "/collections/c/points/query/batch",
        &json!({"searches": [one, {"query": 1, "limit": 1}]}),
    );
    assert_eq!(
        (&batch[0]["points"][0]["id"], batch.as_array().unwrap().len()),
        (&json!(1), 2)
    );
    let found = server.ok(
        "POST",
        "/collections/c/points/search",
        &json!({"vector": [1, 0, 0, 0], "limit": 1}),
    );
    assert_eq!(found[0]["id"], 1, "a bare list");
    let named = json!({"vector": {"name": "", "vector": [0, 1, 0, 0]}, "limit": 1, "with_payload": {"exclude": ["a"]}});
    let found = server.ok(
        "POST",
        "/collections/c/points/search/batch",
        &json!({"searches": [named]}),
    );
    assert_eq!((&found[0][0]["id"], &found[0][0]["payload"]), (&json!(2), &json!({})));
}

#[test]
fn a_batch_that_is_shared_out_among_the_cores_answers_as_its_queries_one_by_one() {
    let server = with_points();
    // So many hits make it one that takes long.
    let query = |at: usize| json!({"query": [at, 1, 7 - at, 0], "limit": 500 - at, "with_vector": true});
    let queries: Vec<_> = (0..7).map(query).collect();
    let one_by_one = queries
        .iter()
        .map(|query| server.ok("POST", "/collections/c/points/query", query));
    let path = "/collections/c/points/query/batch";
    let batch = server.ok("POST", path, &json!({ "searches": queries }));
    assert_eq!(batch, one_by_one.collect::<serde_json::Value>());
    let wrong = [queries, vec![json!({"query": [1], "limit": 1})]].concat();
    assert_eq!(server.send("POST", path, &json!({ "searches": wrong })).status, 400);
}

#[test]
fn scroll_pages_by_id_and_ends_with_null() {
    let server = with_points();
    let page = server.ok("POST", "/collections/c/points/scroll", &json!({"limit": 2}));
    assert_eq!(
        (&page["points"][1], &page["next_page_offset"]),
        (&json!({"id": 2, "payload": {"a": 2}}), &json!(UUID))
    );
    let last = server.ok(
        "POST",
        "/collections/c/points/scroll",
        &json!({"limit": 2, "offset": UUID, "with_payload": false}),
    );
    assert_eq!(last, json!({"points": [{"id": UUID}], "next_page_offset": null}));
    assert_eq!(
        server.ok("POST", "/collections/c/points/count", &json!({"exact": true})),
        json!({"count": 3})
    );
}

#[test]
fn a_batch_does_what_the_single_updates_do() {
    let server = with_points();
    let operations = json!({"operations": [
        {"upsert": {"points": [{"id": 7, "vector": [0, 0, 0, 1], "payload": {"a": 7, "b": 7}}]}},
        {"delete": {"points": [1]}},
        {"set_payload": {"payload": {"c": 1}, "points": [2]}},
        {"overwrite_payload": {"payload": {"d": 1}, "points": [UUID]}},
        {"delete_payload": {"keys": ["b"], "filter": {"must": [{"has_id": [7]}]}}},
        {"clear_payload": {"points": [2]}},
        {"update_vectors": {"points": [{"id": 2, "vector": [9, 9, 9, 9]}]}},
        {"delete_vectors": {"vector": [""], "points": [7]}},
    ]});
    let results = server.ok("POST", "/collections/c/points/batch?wait=true", &operations);
    assert!(
        results
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["status"] == "completed")
    );
    let all = server.ok("POST", "/collections/c/points/scroll", &json!({"with_vector": true}));
    assert_eq!(
        all["points"],
        json!([
            {"id": 2, "payload": {}, "vector": [9.0, 9.0, 9.0, 9.0]},
            {"id": 7, "payload": {"a": 7}, "vector": {}},
            {"id": UUID, "payload": {"d": 1}, "vector": [0.0, 0.0, 1.0, 0.0]},
        ])
    );
}

#[test]
fn payload_and_vector_routes_change_points() {
    let server = with_points();
    let points = "/collections/c/points";
    server.ok(
        "POST",
        &format!("{points}/payload?wait=true"),
        &json!({"payload": {"z": 1}, "points": [1, 2]}),
    );
    server.ok(
        "PUT",
        &format!("{points}/payload"),
        &json!({"payload": {"y": 1}, "points": [2]}),
    );
    server.ok(
        "POST",
        &format!("{points}/payload/delete"),
        &json!({"keys": ["a"], "points": [1]}),
    );
    server.ok(
        "PUT",
        &format!("{points}/vectors"),
        &json!({"points": [{"id": 1, "vector": {"": [4, 4, 4, 4]}}]}),
    );
    server.ok(
        "POST",
        &format!("{points}/vectors/delete"),
        &json!({"vector": [""], "points": [2]}),
    );
    server.ok(
        "POST",
        &format!("{points}/delete"),
        &json!({"filter": {"must": [{"has_id": [UUID]}]}}),
    );
    let all = server.ok("POST", &format!("{points}/scroll"), &json!({"with_vector": true}));
    assert_eq!(
        all["points"],
        json!([
            {"id": 1, "payload": {"z": 1}, "vector": [4.0, 4.0, 4.0, 4.0]}, {"id": 2, "payload": {"y": 1}, "vector": {}},
        ])
    );
    server.ok("POST", &format!("{points}/payload/clear"), &json!({"points": [1]}));
    assert_eq!(
        server.ok("GET", &format!("{points}/1"), &Value::Null)["payload"],
        json!({})
    );
}

#[test]
fn payload_indexes_come_back_with_the_fields_their_kind_has() {
    let server = with_points();
    let index = json!({"field_name": "a.b[]", "field_schema": {"type": "integer", "lookup": true, "tokenizer": "word", "x": 1}});
    assert_eq!(
        server.ok("PUT", "/collections/c/index?wait=true", &index)["status"],
        "completed"
    );
    server.ok(
        "PUT",
        "/collections/c/index",
        &json!({"field_name": "k", "field_schema": "keyword"}),
    );
    let schema = &server.ok("GET", "/collections/c", &Value::Null)["payload_schema"];
    let expected = json!({"data_type": "integer", "params": {"type": "integer", "lookup": true}, "points": 0});
    assert_eq!(
        *schema,
        json!({"a.b[]": expected, "k": {"data_type": "keyword", "points": 0}})
    );
    server.ok("DELETE", "/collections/c/index/a.b%5B%5D?wait=true", &Value::Null);
    let schema = &server.ok("GET", "/collections/c", &Value::Null)["payload_schema"];
    assert_eq!(*schema, json!({"k": {"data_type": "keyword", "points": 0}}));
    let wrong = json!({"field_name": "k", "field_schema": "words"});
    assert!(
        server
            .send("PUT", "/collections/c/index", &wrong)
            .error(400)
            .contains("field_schema")
    );
}

#[test]
fn flush_and_compact_wait_until_done() {
    let server = with_points();
    assert_eq!(server.ok("POST", "/collections/c/flush", &Value::Null), true);
    assert_eq!(server.ok("POST", "/collections/c/compact", &Value::Null), true);
    assert_eq!(server.request("POST", "/collections/x/flush", &[], None).status, 404);
}

#[test]
fn explain_names_what_a_search_uses_and_what_it_did() {
    let server = with_points();
    server.ok("POST", "/collections/c/flush", &Value::Null);
    let uses = server.ok("GET", "/collections/c/explain", &Value::Null);
    let segment = &uses["segments"][0];
    assert_eq!(segment["indexes"], json!([]));
    assert!(
        segment["root"]["url"]
            .as_str()
            .is_some_and(|url| url.starts_with("file://"))
    );
    assert!(
        segment["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("fewer than"))
    );
    assert_eq!(segment["search"], Value::Null);
    let did = server.ok(
        "POST",
        "/collections/c/explain",
        &json!({"query": [1, 0, 0, 0], "limit": 2}),
    );
    let rows = &did["segments"][0]["live_rows"];
    assert!(rows.as_u64() > Some(0));
    assert_eq!(did["segments"][0]["search"]["exact_rows"], *rows);
    assert_eq!(
        did["storage"],
        json!({"rounds": 0, "bytes": 0, "requests": 0, "roots": []})
    );
    let nothing = server.send("POST", "/collections/c/explain", &json!({"limit": 2}));
    assert!(nothing.error(400).contains("query"));
    assert_eq!(server.request("GET", "/collections/x/explain", &[], None).status, 404);
}

#[test]
fn a_collection_can_ask_for_an_index_or_none() {
    let server = Server::start();
    let create = |index: Value| {
        let vectors = json!({"size": 4, "distance": "Dot"});
        json!({"vectors": vectors, "metadata": {"proximadb": {"index": index}}})
    };
    server.ok("PUT", "/collections/flat", &create(json!("flat")));
    let refused = server.send("PUT", "/collections/other", &create(json!("tree")));
    assert!(refused.error(400).contains("metadata.proximadb.index"));
}

#[test]
fn quantisation_is_kept_and_searches_trust_codes_as_far_as_they_ask() {
    let server = Server::start();
    let quantization = json!({"scalar": {"type": "int8", "quantile": 0.99, "always_ram": true}});
    let own = json!({"binary": {"encoding": "one_bit"}});
    let vectors = json!({"size": 8, "distance": "Euclid", "quantization_config": own});
    let body = json!({"vectors": vectors, "quantization_config": quantization});
    server.ok("PUT", "/collections/c", &body);
    let number = |id: u32, at: u32| (id * 8 + at).wrapping_mul(2_654_435_761) >> 22;
    let point = |id: u32| json!({"id": id, "vector": (0..8).map(|at| number(id, at)).collect::<Vec<_>>()});
    let points: Vec<Value> = (0..3_000).map(point).collect();
    server.ok("PUT", "/collections/c/points", &json!({"points": points}));
    server.ok("POST", "/collections/c/flush", &Value::Null);
    let info = loop {
        let info = server.ok("GET", "/collections/c", &Value::Null);
        if info["indexed_vectors_count"] == 3_000 {
            break info;
        }
    };
    assert_eq!(info["config"]["quantization_config"], quantization);
    assert_eq!(info["config"]["params"]["vectors"]["quantization_config"], own);
    assert!(info["index_bytes_per_vector"].as_u64() > Some(0), "{info}");
    let search = |quantization: Value| {
        let query =
            json!({"query": [500, 100, 200, 900, 300, 800, 700, 400], "params": {"quantization": quantization}});
        server.ok("POST", "/collections/c/explain", &query)["segments"][0]["search"].clone()
    };
    let plain = search(json!({"rescore": true}));
    assert!(
        plain["codes"].as_u64() > Some(0) && plain["exact_rows"].as_u64() < Some(3_000),
        "{plain}"
    );
    let wider = search(json!({"oversampling": 4.0}));
    assert!(
        wider["exact_rows"].as_u64() >= Some(40) && wider["exact_rows"].as_u64() > plain["exact_rows"].as_u64(),
        "{wider}"
    );
    let exact = search(json!({"ignore": true}));
    assert_eq!((&exact["codes"], &exact["exact_rows"]), (&json!(0), &json!(3_000)));
}

#[test]
fn names_arrive_percent_encoded() {
    let server = Server::start();
    server.ok("PUT", "/collections/with%20space%20%C3%BC", &json!({}));
    assert_eq!(
        server.ok("GET", "/collections", &Value::Null),
        json!({"collections": [{"name": "with space ü"}]})
    );
    assert_eq!(
        server.ok("GET", "/collections/with%20space%20%C3%BC/exists", &Value::Null),
        json!({"exists": true})
    );
}

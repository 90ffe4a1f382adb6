//! What operators ask for, and what they are told when it cannot be.

use serde_json::{Value, json};

use super::{Server, with_points};

/// Id of the viper root.
fn viper(server: &Server) -> String {
    let report = server.ok("GET", "/storage/roots", &Value::Null);
    let roots = report["roots"].as_array().unwrap();
    let root = roots.iter().find(|root| root["component"] == "viper").unwrap();
    root["id"].as_str().unwrap().to_owned()
}

#[test]
fn k4_wrong_requests_of_operators_name_the_field_and_change_nothing() {
    let server = with_points();
    let before = server.ok("GET", "/storage/assignments", &Value::Null);
    let root = viper(&server);
    let refused = |status: u16, method: &str, path: &str, body: &Value, word: &str| {
        let reply = server.send(method, path, body);
        let error = reply.error(status);
        assert!(error.contains(word), "{method} {path} {body}: {error}");
    };
    let moving = |component: &str, to: &str| json!({"collection": "c", "component": component, "to": to});
    refused(404, "POST", "/storage/roots/none/drain", &json!({}), "none");
    refused(
        404,
        "POST",
        "/storage/roots/00000000-0000-0000-0000-000000000000/resume",
        &json!({}),
        "0000",
    );
    refused(
        400,
        "POST",
        &format!("/storage/roots/{root}/drain"),
        &json!({}),
        "no other root of viper",
    );
    refused(
        400,
        "DELETE",
        &format!("/storage/roots/{root}"),
        &json!({}),
        "1 collections: c",
    );
    refused(
        400,
        "POST",
        "/storage/roots",
        &json!({"component": "disk", "url": "file:///x"}),
        "component",
    );
    refused(400, "POST", "/storage/roots", &json!({"component": "wal"}), "url");
    refused(
        400,
        "POST",
        "/storage/roots",
        &json!({"component": "wal", "url": "file:///x", "size": 1}),
        "size",
    );
    refused(
        400,
        "POST",
        "/storage/rebalance?component=disk",
        &json!({}),
        "component",
    );
    refused(400, "POST", "/storage/rebalance?dry_run=perhaps", &json!({}), "dry_run");
    refused(400, "POST", "/storage/moves", &moving("disk", &root), "component");
    refused(400, "POST", "/storage/moves", &moving("viper", "elsewhere"), "to: ");
    refused(400, "POST", "/storage/moves", &moving("viper", &root), "to: ");
    refused(
        400,
        "POST",
        "/storage/moves",
        &json!({"collection": "c", "component": "viper"}),
        "to",
    );
    let after = server.ok("GET", "/storage/assignments", &Value::Null);
    let homes = |report: &Value| {
        let rows = report["assignments"].as_array().unwrap().iter();
        rows.map(|row| row["root_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(homes(&after), homes(&before));
    assert_eq!(server.ok("GET", "/storage/moves", &Value::Null)["moves"], json!([]));
}

#[test]
fn a_plan_for_even_roots_is_empty_and_moves_have_counts() {
    let server = with_points();
    let plan = server.ok("POST", "/storage/rebalance?dry_run=true&component=viper", &json!({}));
    assert_eq!(
        plan,
        json!({"dry_run": true, "moves": [], "bytes": 0, "files": 0, "requests": 0})
    );
    let moves = server.ok("GET", "/storage/moves", &Value::Null);
    assert_eq!(
        moves,
        json!({"moves": [], "queued": 0, "running": 0, "waiting": 0, "done": 0, "bytes_left": 0})
    );
}

#[test]
fn g3_clusters_name_the_segment_and_cover_its_rows() {
    let server = with_points();
    server.ok("POST", "/collections/c/flush", &json!({}));
    let report = server.ok("GET", "/collections/c/clusters", &Value::Null);
    let clusters = report["clusters"].as_array().unwrap();
    assert_eq!(
        clusters
            .iter()
            .map(|cluster| cluster["rows"].as_u64().unwrap())
            .sum::<u64>(),
        3
    );
    for cluster in clusters {
        let url = cluster["url"].as_str().unwrap().trim_start_matches("file://");
        let file = std::path::Path::new(url).join(cluster["file"].as_str().unwrap());
        assert!(file.is_file(), "{cluster}");
        assert!(
            cluster["file"]
                .as_str()
                .unwrap()
                .contains(cluster["segment"].as_str().unwrap())
        );
    }
    server.get("/collections/x/clusters").error(404);
}

#[test]
fn a_read_only_key_sees_the_roots_and_may_not_change_them() {
    let server = Server::with(&[
        ("PROXIMADB__SERVER__API_KEY_ENV", "TEST_KEY"),
        ("PROXIMADB__SERVER__READ_ONLY_API_KEY_ENV", "TEST_READER"),
        ("TEST_KEY", "writer"),
        ("TEST_READER", "reader"),
    ]);
    let ask = |method: &str, path: &str, key: &str| {
        let body = (method != "GET").then_some(&b"{}"[..]);
        server.request(method, path, &[("api-key", key)], body).status
    };
    assert_eq!(ask("GET", "/storage/moves", "reader"), 200);
    for (method, path) in [
        ("POST", "/storage/roots"),
        ("DELETE", "/storage/roots/x"),
        ("POST", "/storage/roots/x/drain"),
        ("POST", "/storage/roots/x/resume"),
        ("POST", "/storage/rebalance"),
        ("POST", "/storage/moves"),
    ] {
        assert_eq!(ask(method, path, "reader"), 403, "{method} {path}");
        assert_ne!(ask(method, path, "writer"), 403, "{method} {path}");
    }
}

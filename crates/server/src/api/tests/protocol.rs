//! The contract around the bodies: envelope, limits, keys, compression, CORS, connections, shutdown.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Server, with_points};

const KEYS: [(&str, &str); 2] = [("PROXIMADB_API_KEY", "all"), ("PROXIMADB_READ_ONLY_API_KEY", "read")];

#[test]
fn the_version_is_plain_json_and_the_probes_are_text() {
    let server = Server::start();
    let reply = server.get("/");
    assert_eq!(
        (&reply.json()["version"], reply.json().get("status")),
        (&json!("1.19.0"), None)
    );
    assert!(reply.json()["title"].is_string());
    for path in ["/healthz", "/livez"] {
        assert_eq!(server.get(path).text, "healthz check passed");
    }
    assert_eq!(server.get("/readyz").text, "all shards are ready");
    let app = &server.ok("GET", "/telemetry", &Value::Null)["app"];
    assert_eq!((&app["name"], &app["jwt_rbac"]), (&json!("qdrant"), &json!(false)));
    assert_eq!(
        server.ok("GET", "/cluster", &Value::Null),
        json!({"status": "disabled"})
    );
}

#[test]
fn an_unknown_path_is_404_without_a_body() {
    let server = Server::start();
    for path in ["/nothing", "/collections/", "/collections/a/b/c"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.text.as_str()), (404, ""), "{path}");
    }
}

#[test]
fn a_single_node_describes_its_one_shard() {
    let server = with_points();
    let cluster = server.ok("GET", "/collections/c/cluster", &Value::Null);
    assert_eq!(
        cluster["local_shards"],
        json!([{"shard_id": 0, "points_count": 3, "state": "Active"}])
    );
}

#[test]
fn a_body_over_the_limit_is_413_and_the_connection_is_not_cut() {
    let server = Server::with(&[("PROXIMADB__SERVER__MAX_REQUEST_SIZE_MB", "1")]);
    server.ok("PUT", "/collections/c", &json!({}));
    let body = vec![b' '; (1 << 20) + 1];
    let reply = server.request("PUT", "/collections/c/points", &[], Some(&body));
    assert!(reply.error(413).contains("1048576"));
    let reply = server.request("PUT", "/collections/c/points", &[], Some(&body[1..]));
    assert!(
        reply.error(400).contains("EOF while parsing"),
        "a body of the limit is read"
    );
    let mut chunked =
        b"PUT /collections/c/points HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    chunked.extend_from_slice(b"100001\r\n");
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert!(server.raw(&chunked).starts_with("HTTP/1.1 413"));
}

#[test]
fn a_large_body_is_parsed_as_a_small_one() {
    let server = with_points();
    let points: Vec<Value> = (0..5_000)
        .map(|id| json!({"id": id, "vector": [id, 0, 0, 1]}))
        .collect();
    server.ok("PUT", "/collections/c/points", &json!({ "points": points }));
    let page = server.ok(
        "POST",
        "/collections/c/points/scroll",
        &json!({"limit": 5_000, "with_vector": true}),
    );
    assert_eq!(page["points"][4_999]["vector"], json!([4999.0, 0.0, 0.0, 1.0]));
}

#[test]
fn the_content_type_does_not_matter_and_compressed_bodies_are_read() {
    let server = with_points();
    let count = "/collections/c/points/count";
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        assert_eq!(
            server
                .request("POST", count, &[("content-type", kind)], Some(b"{}"))
                .status,
            200
        );
    }
    // `printf '{}' | gzip -n`
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    let reply = server.request("POST", count, &[("content-encoding", "gzip")], Some(gzip));
    assert_eq!(
        (reply.status, &reply.json()["result"]["count"]),
        (200, &json!(3)),
        "{}",
        reply.text
    );
}

#[test]
fn answers_are_compressed_on_request_only() {
    let server = with_points();
    let request = |encoding: &str| {
        let head = "GET /collections/c HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept-encoding: ";
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream
            .write_all(format!("{head}{encoding}\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(request("gzip").contains("content-encoding: gzip"));
    let plain = request("identity");
    assert!(
        !plain.contains("content-encoding") && plain.contains("\"status\":\"ok\""),
        "{plain}"
    );
}

#[test]
fn any_origin_may_call_and_a_preflight_needs_no_key() {
    let server = Server::with(&KEYS);
    let headers = [
        ("origin", "http://a.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "api-key"),
    ];
    let reply = server.request("OPTIONS", "/collections/c", &headers, None);
    assert_eq!(
        (reply.status, reply.headers["access-control-allow-origin"].as_bytes()),
        (200, b"*".as_slice())
    );
    let refused = server.request("GET", "/collections", &[("origin", "http://a.example")], None);
    assert_eq!(
        (
            refused.status,
            refused.headers["access-control-allow-origin"].as_bytes()
        ),
        (401, b"*".as_slice())
    );
}

#[test]
fn keys_open_what_they_should() {
    let server = Server::with(&KEYS);
    let status = |method: &str, path: &str, key: &[(&str, &str)]| server.request(method, path, key, Some(b"{}")).status;
    let (all, read, bearer) = (
        [("api-key", "all")],
        [("api-key", "read")],
        [("authorization", "Bearer all")],
    );
    let missing = server.get("/collections");
    assert_eq!(
        (missing.status, missing.text.as_str()),
        (401, "Must provide an API key or an Authorization bearer token")
    );
    let wrong = server.request("GET", "/collections", &[("api-key", "al")], None);
    assert_eq!((wrong.status, wrong.text.as_str()), (401, "Invalid API key or JWT"));
    for path in ["/", "/healthz", "/livez", "/readyz"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/metrics", "/telemetry", "/storage/roots", "/nothing"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    assert_eq!(status("PUT", "/collections/c", &all), 200);
    assert_eq!(status("PATCH", "/collections/c", &bearer), 200);
    assert_eq!(status("POST", "/collections/c/points/count", &read), 200);
    assert_eq!(status("POST", "/collections/c/points/query", &read), 200);
    for (method, path) in [
        ("DELETE", "/collections/c"),
        ("POST", "/collections/c/points/delete"),
        ("POST", "/collections/c/flush"),
    ] {
        let refused = server.request(method, path, &read, Some(b"{}"));
        assert!(refused.error(403).starts_with("Forbidden: "), "{method} {path}");
    }
}

#[test]
fn a_connection_serves_many_requests() {
    let server = Server::start();
    let twice = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(server.raw(twice.as_bytes()).matches("healthz check passed").count(), 2);
}

#[test]
fn a_refusal_without_reading_the_body_keeps_the_connection() {
    let server = Server::with(&KEYS);
    let body = "x".repeat(100_000);
    let mut text = String::new();
    for (method, path, key) in [
        ("PUT", "/collections/c", "wrong"),
        ("PUT", "/collections/c", "read"),
        ("PUT", "/nothing", "all"),
        ("DELETE", "/collections", "all"),
        ("PUT", "/collections/c/points?wait=maybe", "all"),
    ] {
        text +=
            &format!("{method} {path} HTTP/1.1\r\nhost: x\r\napi-key: {key}\r\ncontent-length: 100000\r\n\r\n{body}");
    }
    text += "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = server.raw(text.as_bytes());
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["401", "403", "404", "405", "400", "200"], "{answers}");
}

/// Some clients send `null` with a request that needs no body, in a packet of its own after the head.
#[test]
fn a_body_that_nobody_asked_for_keeps_the_connection() {
    let server = with_points();
    let mut stream = TcpStream::connect(server.address).unwrap();
    for (method, path) in [
        ("GET", "/collections/c"),
        ("POST", "/collections/c/flush"),
        ("DELETE", "/collections/nothing"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The answer may be ready long before the body comes.
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(b"null").unwrap();
    }
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "200", "200"], "{answers}");
}

#[test]
fn stopping_finishes_the_running_request_and_then_ends() {
    let mut server = with_points();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head =
        "POST /collections/c/points/count HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"), "the handler waits for the body");
    drop(server.stop.take());
    stream.write_all(b"{}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"count\":3"), "{answer}");
    server.stop();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn storage_routes_say_where_everything_lives() {
    let server = with_points();
    let roots = server.ok("GET", "/storage/roots", &Value::Null);
    let root = &roots["roots"][0];
    for field in [
        "id",
        "url",
        "component",
        "index",
        "state",
        "bytes",
        "files",
        "collections",
        "capacity_bytes",
        "free_bytes",
    ] {
        assert!(!root[field].is_null(), "{field}: {root}");
    }
    assert!(root["operations"]["write"]["latency_ms_p99"].is_f64());
    let all = server.ok("GET", "/storage/assignments?collection=c&component=wal", &Value::Null);
    let assignment = &all["assignments"][0];
    let eight = [
        "resource_id",
        "storage_url",
        "directory_index",
        "assigned_at",
        "last_accessed",
        "file_count",
        "total_size_bytes",
        "resource_type",
    ];
    for field in eight.iter().chain(&["collection", "component", "root_id"]) {
        assert!(!assignment[*field].is_null(), "{field}: {assignment}");
    }
    let every = server.ok("GET", "/storage/assignments", &Value::Null);
    let components: Vec<&str> = (every["assignments"].as_array().unwrap().iter())
        .map(|a| a["component"].as_str().unwrap())
        .collect();
    assert_eq!(
        components,
        ["wal", "viper", "lsm", "index", "metadata"],
        "D3: five independent assignments"
    );
    assert!(
        server
            .get("/storage/assignments?component=tape")
            .error(400)
            .contains("wal, viper, lsm, index or metadata")
    );
    assert_eq!(server.get("/storage/assignments?collection=x").status, 404);
    let stats = server.ok("GET", "/storage/stats", &Value::Null);
    assert_eq!(
        (&stats["collections"], &stats["components"]["wal"]["skew"]),
        (&json!(1), &json!(1.0))
    );
}

#[test]
fn metrics_have_series_of_requests_collections_and_roots() {
    let server = with_points();
    server.get("/collections/x");
    let text = server.get("/metrics").text;
    for line in [
        "collections_total 1\n",
        "collection_points{collection=\"c\"} 3\n",
        "rest_responses_total{method=\"PUT\",endpoint=\"/collections/{name}\",status=\"200\"} 1\n",
        "rest_responses_total{method=\"GET\",endpoint=\"/collections/{name}\",status=\"404\"} 1\n",
        "rest_responses_duration_seconds_bucket{method=\"PUT\",endpoint=\"/collections/{name}\",status=\"200\",le=\"+Inf\"} 1\n",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    for family in [
        "proximadb_root_up",
        "proximadb_root_bytes",
        "proximadb_root_operations_total",
        "proximadb_root_latency_seconds_bucket",
    ] {
        assert!(
            text.contains(&format!("# TYPE {} ", family.trim_end_matches("_bucket")))
                && text.contains(&format!("{family}{{root=")),
            "{family}\n{text}"
        );
    }
}

//! The API over real connections: one server a test, on a free loopback port.

mod bad_input;
mod operate;
mod protocol;
mod session;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use proximadb_db::Database;
use proximadb_db::config::Config;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{App, Settings};
use crate::serve::serve;

/// A running server; stops when dropped.
struct Server {
    address: SocketAddr,
    agent: ureq::Agent,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// An answer: status, headers and body.
struct Reply {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {:?}", self.text))
    }

    /// `status.error`, for a reply that must have this status.
    #[track_caller]
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert!(body.get("result").is_none() && body["time"].is_f64(), "{body}");
        body["status"]["error"].as_str().unwrap().to_owned()
    }
}

impl Server {
    fn start() -> Self {
        Self::with(&[])
    }

    /// A server with these configuration variables.
    fn with(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let urls = format!("file://{}", directory.path().display());
        let urls = [("PROXIMADB__STORAGE__URLS", urls.as_str())];
        let variables = variables.iter().chain(&urls);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(None, variables.collect::<Vec<_>>().into_iter()).unwrap();
        let settings = Settings::from(&config.server);
        let (stop, stopped) = oneshot::channel::<()>();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let app = App::new(Database::open(config).await.unwrap(), settings);
                let stop = async {
                    let _ = stopped.await;
                };
                serve(listener, app, stop).await.unwrap();
            });
            drop(directory);
        });
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Self {
            address: receiver.recv().unwrap(),
            agent,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        let uri = format!("http://{}{path}", self.address);
        let mut request = ureq::http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = match body {
            Some(body) => self.agent.run(request.body(body).unwrap()),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut reply = reply.unwrap();
        let text = reply.body_mut().with_config().limit(1 << 30).read_to_string().unwrap();
        Reply {
            status: reply.status().as_u16(),
            headers: reply.headers().clone(),
            text,
        }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.request(method, path, &[], Some(body.to_string().as_bytes()))
    }

    fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], None)
    }

    /// The `result` of a request that must succeed.
    #[track_caller]
    fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let reply = if body.is_null() {
            self.request(method, path, &[], None)
        } else {
            self.send(method, path, body)
        };
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text);
        let mut body = reply.json();
        assert!(body["status"] == "ok" && body["time"].is_f64(), "{body}");
        body["result"].take()
    }

    /// Sends bytes as they are and returns everything until the server closes the connection.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

/// A server with the collection `c` (4 dimensions, Dot) and three points.
fn with_points() -> Server {
    let server = Server::start();
    assert_eq!(
        server.ok(
            "PUT",
            "/collections/c",
            &json!({"vectors": {"size": 4, "distance": "Dot"}})
        ),
        true
    );
    let points = json!({"points": [
        {"id": 1, "vector": [1, 0, 0, 0], "payload": {"a": 1}},
        {"id": 2, "vector": [0, 1, 0, 0], "payload": {"a": 2}},
        {"id": "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "vector": [0, 0, 1, 0]},
    ]});
    server.ok("PUT", "/collections/c/points?wait=true", &points);
    server
}

//! Test tool: real object-store servers for Rust tests, started by `tests/servers/servers.py`, with faults on request.
//!
//! A server of a kind is started once for a test process, at its first use, and ends with the process, however that ends.
//! Each test works in a [`Bucket`] of its own: a prefix that no other test has. It panics when a server does not start:
//! that is a failed test.
//!
//! ```no_run
//! let bucket = testservers::bucket(testservers::Kind::S3);
//! // FilesystemFactory::get_filesystem(&StorageUrl::parse(&bucket.url)?, &bucket.options)
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long [`until`] waits: much longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A protocol of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Amazon S3.
    S3,
    /// Azure blob storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::S3, Self::Azure, Self::Gcs];

    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::Gcs => "gcs",
        }
    }
}

/// A place for one test: a prefix of a bucket that no other test has.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// URL of the prefix.
    pub url: String,
    /// What opens it: endpoint and credentials, named as in `[storage.credentials]`.
    pub options: BTreeMap<String, String>,
}

impl Bucket {
    /// The same place through a proxy that misbehaves on request. The proxy is this test's own, and ends with the value.
    ///
    /// # Panics
    /// When the proxy does not start.
    pub fn with_faults(&self) -> (Bucket, Faults) {
        let endpoint = self.option("endpoint");
        let (server, path) = split(&endpoint);
        let proxy = Server::start("faults", &["--target", server]);
        let (proxied, _) = split(proxy.fact("ENDPOINT"));
        let mut bucket = self.clone();
        let through = format!("http://{proxied}{path}");
        bucket.options.insert("endpoint".to_owned(), through);
        let address = proxied.to_owned();
        (bucket, Faults { proxy, address })
    }

    fn option(&self, name: &str) -> String {
        self.options.get(name).cloned().unwrap_or_default()
    }
}

/// `host:port` and path of an endpoint.
fn split(endpoint: &str) -> (&str, &str) {
    let rest = endpoint.trim_start_matches("http://");
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// A place of its own on the server of this kind, which is started when it does not run.
///
/// # Panics
/// When the server does not start.
pub fn bucket(kind: Kind) -> Bucket {
    static SERVERS: [OnceLock<Server>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    static PLACES: AtomicU64 = AtomicU64::new(0);
    let server = SERVERS
        .get(kind as usize)
        .expect("one cell for each kind")
        .get_or_init(|| Server::start(kind.name(), &[]));
    let number = PLACES.fetch_add(1, Ordering::Relaxed);
    Bucket {
        url: format!("{}/place-{number}", server.fact("URL")),
        options: server.options(),
    }
}

/// A bucket of a server that this test has for itself; `arguments` are those of `servers.py`. It ends with the value.
///
/// # Panics
/// When the server does not start.
pub fn own_server(kind: Kind, arguments: &[&str]) -> (Bucket, Server) {
    let server = Server::start(kind.name(), arguments);
    let bucket = Bucket {
        url: server.fact("URL").to_owned(),
        options: server.options(),
    };
    (bucket, server)
}

/// Faults of the requests to one server; see `tests/servers/fault-proxy.mjs` for the rules.
#[derive(Debug)]
pub struct Faults {
    proxy: Server,
    address: String,
}

impl Faults {
    /// Puts these rules in force instead of the old ones, and forgets the log.
    ///
    /// # Panics
    /// When the proxy refuses them.
    pub fn set(&self, rules: &serde_json::Value) {
        let url = format!("http://{}/_fault/rules", self.address);
        ureq::put(&url).send_json(rules).expect("the proxy takes the rules");
    }

    /// Ends all faults.
    ///
    /// # Panics
    /// When the proxy does not answer.
    pub fn clear(&self) {
        self.set(&serde_json::json!([]));
    }

    /// How often each rule fired.
    ///
    /// # Panics
    /// When the proxy does not answer.
    pub fn hits(&self) -> Vec<u64> {
        let rules = self.get("rules");
        rules.iter().map(|rule| rule["hit"].as_u64().unwrap_or(0)).collect()
    }

    /// The last 1,000 requests (method, path, query, status, fault) since the rules were set.
    ///
    /// # Panics
    /// When the proxy does not answer.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.get("log")
    }

    fn get(&self, what: &str) -> Vec<serde_json::Value> {
        let url = format!("http://{}/_fault/{what}", self.address);
        let mut answer = ureq::get(&url).call().expect("the proxy answers");
        answer.body_mut().read_json().expect("a JSON list")
    }

    /// Ends the proxy: from now on nothing listens at its address.
    pub fn stop(self) {
        drop(self.proxy);
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The script, which ends when its standard input is closed: with this value, or with the process.
    script: Mutex<Child>,
    facts: BTreeMap<String, String>,
}

impl Server {
    fn start(kind: &str, arguments: &[&str]) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers/servers.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(kind)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs the test servers");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut facts = BTreeMap::new();
        let mut ready = false;
        for line in out.lines() {
            let line = line.expect("lines of text");
            if let Some((key, value)) = line.split_once('=') {
                facts.insert(key.to_owned(), value.to_owned());
            }
            ready = line == "READY";
            if ready {
                break;
            }
        }
        assert!(ready, "the {kind} server did not start");
        let script = Mutex::new(child);
        Self { script, facts }
    }

    fn fact(&self, key: &str) -> &str {
        self.facts.get(key).map_or("", String::as_str)
    }

    fn options(&self) -> BTreeMap<String, String> {
        let named = |(key, value): (&String, &String)| Some((key.strip_prefix("OPTION_")?.to_owned(), value.clone()));
        self.facts.iter().filter_map(named).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let script = self.script.get_mut();
        drop(script.stdin.take());
        // It ends by itself now; an error leaves nothing to do.
        let _ = script.wait();
    }
}

/// Waits until the condition holds, looking again after short sleeps; generous, for busy machines.
///
/// # Panics
/// When it does not hold within 60 seconds; `what` says what was waited for.
pub async fn until(what: impl Display, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_of_all_kinds_start_and_places_differ() {
        for kind in Kind::ALL {
            let (one, two) = (bucket(kind), bucket(kind));
            assert_ne!(one.url, two.url);
            assert_eq!(one.options, two.options);
            assert!(one.options["endpoint"].starts_with("http://127.0.0.1:"));
        }
    }

    #[tokio::test]
    async fn a_server_ends_with_its_value() {
        let (_bucket, server) = own_server(Kind::Gcs, &[]);
        let (address, _) = split(server.fact("ENDPOINT"));
        let address = address.to_owned();
        assert!(std::net::TcpStream::connect(&address).is_ok());
        drop(server);
        until("the server is gone", async || {
            std::net::TcpStream::connect(&address).is_err()
        })
        .await;
    }

    #[tokio::test]
    async fn faults_are_set_counted_and_cleared() {
        let (bucket, faults) = bucket(Kind::Gcs).with_faults();
        faults.set(&serde_json::json!([{"action": "status", "status": 503}]));
        let look = format!("{}/_emulator/health", bucket.option("endpoint"));
        assert!(ureq::get(&look).call().is_err());
        assert_eq!((faults.hits(), faults.log().len()), (vec![1], 1));
        faults.clear();
        assert!(ureq::get(&look).call().is_ok());
    }
}

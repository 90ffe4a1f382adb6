//! What a bucket bills: every attempt of an HTTP request and every byte of a body, counted where they leave the process.
//!
//! Owns the classes of requests and their prices. A repeated request counts as often as it was sent, which is why this
//! is not the meter, where an operation counts once. Requests for credentials go elsewhere and are not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};

/// Kind of request, as clouds bill them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Writes: PUT, POST of parts, copies.
    Put,
    /// Listings.
    List,
    /// Reads: GET and HEAD.
    Get,
    /// Deletes, single or many at once.
    Delete,
}

impl Request {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Put, Self::List, Self::Get, Self::Delete];

    /// Name in metrics, lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::List => "list",
            Self::Get => "get",
            Self::Delete => "delete",
        }
    }

    /// The class of a request by its method and the query of its URL.
    fn of(method: &str, query: &str) -> Self {
        let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
        match method {
            "DELETE" => Self::Delete,
            // Many deletes as one request: `?delete` of S3, `comp=batch` of Azure.
            "POST" if has("delete") || query.contains("comp=batch") => Self::Delete,
            "GET" if has("list-type") || query.contains("comp=list") => Self::List,
            "GET" | "HEAD" => Self::Get,
            _ => Self::Put,
        }
    }
}

/// Requests and bytes of one bucket since it was opened.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: [AtomicU64; Request::ALL.len()],
    sent: AtomicU64,
    received: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
}

/// A look at [`Traffic`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficStats {
    requests: [u64; Request::ALL.len()],
    /// Bytes of request bodies.
    pub sent_bytes: u64,
    /// Bytes of answers, listings and errors among them.
    pub received_bytes: u64,
    /// Reads that were sent a second time because the first took long.
    pub hedged: u64,
    /// Those among them whose second request answered first.
    pub hedges_won: u64,
}

/// What a cloud charges, in US dollars. Deletes are free in all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// For 1,000 writes.
    pub put: f64,
    /// For 1,000 listings.
    pub list: f64,
    /// For 1,000 reads.
    pub get: f64,
    /// For a GB (10^9 bytes) that leaves the bucket.
    pub egress_gb: f64,
}

impl Traffic {
    /// What was counted so far.
    pub fn stats(&self) -> TrafficStats {
        TrafficStats {
            requests: std::array::from_fn(|at| self.requests.get(at).map_or(0, |count| count.load(Relaxed))),
            sent_bytes: self.sent.load(Relaxed),
            received_bytes: self.received.load(Relaxed),
            hedged: self.hedged.load(Relaxed),
            hedges_won: self.hedges_won.load(Relaxed),
        }
    }

    fn count(&self, request: Request, sent: u64) {
        if let Some(count) = self.requests.get(request as usize) {
            count.fetch_add(1, Relaxed);
        }
        self.sent.fetch_add(sent, Relaxed);
    }
}

impl TrafficStats {
    /// Requests of a class, repeated ones included.
    pub fn requests(&self, of: Request) -> u64 {
        self.requests.get(of as usize).copied().unwrap_or(0)
    }

    /// What it costs, in US dollars.
    pub fn cost(&self, prices: &Prices) -> f64 {
        let thousands = |of: Request| self.requests(of) as f64 / 1e3;
        thousands(Request::Put) * prices.put
            + thousands(Request::List) * prices.list
            + thousands(Request::Get) * prices.get
            + self.received_bytes as f64 / 1e9 * prices.egress_gb
    }
}

/// Makes HTTP clients that count the requests to one bucket.
#[derive(Debug)]
pub(crate) struct CountingConnector {
    pub(crate) traffic: Arc<Traffic>,
    /// Bucket or container: what is sent elsewhere is not billed by it.
    pub(crate) bucket: String,
}

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Counting {
            client: ReqwestConnector::default().connect(options)?,
            traffic: Arc::clone(&self.traffic),
            bucket: self.bucket.clone(),
        }))
    }
}

#[derive(Debug)]
struct Counting {
    client: HttpClient,
    traffic: Arc<Traffic>,
    bucket: String,
}

#[async_trait]
impl HttpService for Counting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        if !names_bucket(uri.host().unwrap_or_default(), uri.path(), &self.bucket) {
            return self.client.execute(request).await;
        }
        let class = Request::of(request.method().as_str(), uri.query().unwrap_or_default());
        self.traffic.count(class, request.body().content_length() as u64);
        let answer = self.client.execute(request).await?;
        let traffic = Arc::clone(&self.traffic);
        Ok(answer.map(|body| {
            HttpResponseBody::new(body.map_frame(move |frame| {
                let bytes = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
                traffic.received.fetch_add(bytes, Relaxed);
                frame
            }))
        }))
    }
}

/// Whether a URL is one of the bucket: `https://<bucket>.host/…` or `https://host/…/<bucket>/…`.
fn names_bucket(host: &str, path: &str, bucket: &str) -> bool {
    let of_host = host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
    of_host || path.split('/').any(|segment| segment == bucket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn requests_have_the_class_that_their_cloud_bills() {
        let cases = [
            ("GET", "", Request::Get),
            ("HEAD", "", Request::Get),
            ("GET", "list-type=2&prefix=a", Request::List),
            ("GET", "restype=container&comp=list&prefix=a", Request::List),
            ("PUT", "", Request::Put),
            ("PUT", "partNumber=1&uploadId=x", Request::Put),
            ("POST", "uploads", Request::Put),
            ("POST", "delete", Request::Delete),
            ("POST", "restype=container&comp=batch", Request::Delete),
            ("DELETE", "", Request::Delete),
        ];
        for (method, query, class) in cases {
            assert_eq!(Request::of(method, query), class, "{method} ?{query}");
        }
    }

    #[test]
    fn only_requests_to_the_bucket_itself_count() {
        assert!(names_bucket("b.s3.eu-west-1.amazonaws.com", "/key", "b"));
        assert!(names_bucket("127.0.0.1", "/b/key", "b"));
        assert!(names_bucket("127.0.0.1", "/storage/v1/b/bucket/o/key", "bucket"));
        assert!(!names_bucket("169.254.169.254", "/latest/meta-data/iam", "b"));
        assert!(!names_bucket("backup.s3.amazonaws.com", "/key", "b"));
    }

    #[test]
    fn a_bill_is_the_sum_of_its_classes() {
        let traffic = Traffic::default();
        for _ in 0..2_000 {
            traffic.count(Request::Put, 10);
        }
        traffic.count(Request::Delete, 0);
        traffic.received.fetch_add(3_000_000_000, Relaxed);
        let stats = traffic.stats();
        assert_eq!((stats.requests(Request::Put), stats.sent_bytes), (2_000, 20_000));
        let prices = Prices {
            put: 0.005,
            egress_gb: 0.09,
            ..Prices::default()
        };
        assert!((stats.cost(&prices) - (0.01 + 0.27)).abs() < 1e-9);
    }
}

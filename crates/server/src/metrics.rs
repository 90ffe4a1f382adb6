//! Counts and times of requests, and the text form in which Prometheus reads them and the state of the roots.
//!
//! Series are looked up under a read lock and counted with atomics, so requests do not wait for each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

use crate::wire::storage::{OperationOut, RootOut};

/// Upper bounds of the duration histogram, in seconds.
const BOUNDS_S: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0,
];

/// What a series counts: method, route pattern, status. The pattern, never the path: names must not make series.
type Labels = (&'static str, String, u16);

/// Name and help of a family, and its value for one thing.
type Family<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// All requests since the start.
#[derive(Debug, Default)]
pub struct Requests {
    series: RwLock<HashMap<Labels, Arc<Series>>>,
}

#[derive(Debug, Default)]
struct Series {
    buckets: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Requests {
    /// Counts one answered request.
    pub fn record(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = (method, route.to_owned(), status);
        let found = self.series.read().get(&labels).cloned();
        let series = found.unwrap_or_else(|| self.series.write().entry(labels).or_default().clone());
        let seconds = took.as_secs_f64();
        if let Some((_, bucket)) = BOUNDS_S
            .iter()
            .zip(&series.buckets)
            .find(|(bound, _)| seconds <= **bound)
        {
            bucket.fetch_add(1, Relaxed);
        }
        series.count.fetch_add(1, Relaxed);
        series
            .micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, text: &mut Text) {
        let series: BTreeMap<Labels, Arc<Series>> = self
            .series
            .read()
            .iter()
            .map(|(labels, series)| (labels.clone(), series.clone()))
            .collect();
        text.family("rest_responses_total", "counter", "Answered requests");
        for ((method, route, status), series) in &series {
            let labels = [
                ("method", *method),
                ("endpoint", route),
                ("status", &status.to_string()),
            ];
            text.sample("rest_responses_total", &labels, series.count.load(Relaxed) as f64);
        }
        text.family(
            "rest_responses_duration_seconds",
            "histogram",
            "Time from the head of a request to its answer",
        );
        for ((method, route, status), series) in &series {
            let status = status.to_string();
            let method = ("method", *method);
            let endpoint = ("endpoint", route.as_str());
            let status = ("status", status.as_str());
            let mut below = 0;
            for (bound, bucket) in BOUNDS_S.iter().zip(&series.buckets) {
                below += bucket.load(Relaxed);
                let bound = bound.to_string();
                let labels = [method, endpoint, status, ("le", bound.as_str())];
                text.sample("rest_responses_duration_seconds_bucket", &labels, below as f64);
            }
            let count = series.count.load(Relaxed) as f64;
            let all = [method, endpoint, status, ("le", "+Inf")];
            let labels = [method, endpoint, status];
            text.sample("rest_responses_duration_seconds_bucket", &all, count);
            let seconds = series.micros.load(Relaxed) as f64 / 1e6;
            text.sample("rest_responses_duration_seconds_sum", &labels, seconds);
            text.sample("rest_responses_duration_seconds_count", &labels, count);
        }
    }
}

/// One collection, as far as metrics go.
#[derive(Debug)]
pub struct CollectionSample {
    /// Its name.
    pub name: String,
    /// Live points.
    pub points: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Everything in the Prometheus text format, version 0.0.4.
pub fn render(requests: &Requests, collections: &[CollectionSample], roots: &[RootOut]) -> String {
    let mut text = Text(String::new());
    text.family("app_info", "gauge", "Name and version of the server");
    text.sample(
        "app_info",
        &[("name", "proximadb"), ("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    text.family("collections_total", "gauge", "Number of collections");
    text.sample("collections_total", &[], collections.len() as f64);
    let of_collection: [Family<CollectionSample, u64>; 3] = [
        ("collection_points", "Points of the collection", |sample| sample.points),
        (
            "proximadb_collection_segments",
            "Segments of the collection",
            |sample| sample.segments,
        ),
        (
            "proximadb_collection_bytes",
            "Bytes of the collection's files",
            |sample| sample.bytes,
        ),
    ];
    for (name, help, value) in of_collection {
        text.family(name, "gauge", help);
        for sample in collections {
            text.sample(name, &[("collection", &sample.name)], value(sample) as f64);
        }
    }
    write_roots(&mut text, roots);
    requests.write(&mut text);
    text.0
}

fn write_roots(text: &mut Text, roots: &[RootOut]) {
    let gauges: [Family<RootOut, Option<u64>>; 6] = [
        ("proximadb_root_up", "1 if the root is online", |root| {
            Some(u64::from(root.state == "online"))
        }),
        ("proximadb_root_bytes", "Bytes of collections on the root", |root| {
            Some(root.bytes)
        }),
        ("proximadb_root_files", "Files of collections on the root", |root| {
            Some(root.files)
        }),
        (
            "proximadb_root_collections",
            "Collections with files on the root",
            |root| Some(root.collections),
        ),
        (
            "proximadb_root_capacity_bytes",
            "Size of the root's file system",
            |root| root.capacity_bytes,
        ),
        (
            "proximadb_root_free_bytes",
            "Free space of the root's file system",
            |root| root.free_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        text.family(name, "gauge", help);
        for root in roots {
            if let Some(value) = value(root) {
                text.sample(name, &root_labels(root), value as f64);
            }
        }
    }
    let operations: [Family<OperationOut, f64>; 5] = [
        ("proximadb_root_operations_total", "Requests to the root", |of| {
            of.count as f64
        }),
        ("proximadb_root_errors_total", "Failed requests to the root", |of| {
            of.errors as f64
        }),
        (
            "proximadb_root_moved_bytes_total",
            "Bytes moved to or from the root",
            |of| of.bytes as f64,
        ),
        ("proximadb_root_latency_p50_seconds", "Median latency", |of| {
            of.latency_ms_p50 / 1e3
        }),
        (
            "proximadb_root_latency_p99_seconds",
            "99th percentile of the latency",
            |of| of.latency_ms_p99 / 1e3,
        ),
    ];
    for (name, help, value) in operations {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        text.family(name, kind, help);
        for root in roots {
            for (operation, counts) in &root.operations {
                let [id, component, url] = root_labels(root);
                text.sample(name, &[id, component, url, ("operation", operation)], value(counts));
            }
        }
    }
}

fn root_labels(root: &RootOut) -> [(&str, &str); 3] {
    [("root", &root.id), ("component", &root.component), ("url", &root.url)]
}

/// The text being written.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail; so below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (position, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if position == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}

//! Series of the roots, the components and the moves.

use std::collections::BTreeMap;

use super::Family;
use super::text::Text;
use crate::wire::storage::{CacheOut, MovesOut, OperationOut, RootOut, TrafficOut, stats};

/// Everything that is stored, as far as metrics go.
#[derive(Debug)]
pub struct StorageSample {
    /// Number of collections, open or not.
    pub collections: u64,
    /// Bytes of all memtables.
    pub memtable_bytes: u64,
    /// Logs that went on at another root.
    pub log_failovers: u64,
    /// The roots.
    pub roots: Vec<RootOut>,
    /// The caches of remote files by component.
    pub caches: BTreeMap<&'static str, CacheOut>,
    /// The moves since the start.
    pub moves: MovesOut,
}

/// The states of a root, in the order of a bad day.
const STATES: [&str; 5] = ["online", "suspect", "read-only", "draining", "offline"];

const GAUGES: [Family<RootOut, Option<u64>>; 9] = [
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
        "proximadb_root_assignments",
        "Collections that are assigned to the root",
        |root| Some(root.assignments),
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
    (
        "proximadb_root_request_limit",
        "Requests that the bucket gets at once now",
        |root| root.request_limit,
    ),
    (
        "proximadb_root_throttled",
        "Answers of the bucket that asked for fewer requests since the start",
        |root| root.throttled,
    ),
];

const OPERATIONS: [Family<OperationOut, u64>; 3] = [
    ("proximadb_root_operations_total", "Requests to the root", |of| of.count),
    ("proximadb_root_errors_total", "Failed requests to the root", |of| {
        of.errors
    }),
    (
        "proximadb_root_moved_bytes_total",
        "Bytes moved to or from the root",
        |of| of.bytes,
    ),
];

/// A number of one thing.
type Count<T> = fn(&T) -> u64;

/// Requests to a bucket, by what it bills.
const REQUESTS: [(&str, Count<TrafficOut>); 4] = [
    ("put", |of| of.put),
    ("list", |of| of.list),
    ("get", |of| of.get),
    ("delete", |of| of.delete),
];

const TRAFFIC: [Family<TrafficOut, f64>; 5] = [
    (
        "proximadb_root_sent_bytes_total",
        "Bytes of request bodies to the bucket",
        |of| of.sent_bytes as f64,
    ),
    (
        "proximadb_root_received_bytes_total",
        "Bytes of answers of the bucket",
        |of| of.received_bytes as f64,
    ),
    (
        "proximadb_root_hedged_reads_total",
        "Reads that were sent twice because the first request took long",
        |of| of.hedged as f64,
    ),
    (
        "proximadb_root_hedged_reads_won_total",
        "Reads whose second request was faster",
        |of| of.hedges_won as f64,
    ),
    (
        "proximadb_root_cost_usd_total",
        "US dollars for requests and bytes, at the configured prices",
        |of| of.cost_usd,
    ),
];

const CACHES: [(&str, &str, &str, Count<CacheOut>); 6] = [
    (
        "proximadb_cache_hits_total",
        "counter",
        "Blocks of remote files that were in the cache",
        |of| of.hits,
    ),
    (
        "proximadb_cache_misses_total",
        "counter",
        "Blocks of remote files that were not",
        |of| of.misses,
    ),
    (
        "proximadb_cache_hit_bytes_total",
        "counter",
        "Bytes of the blocks that were",
        |of| of.hit_bytes,
    ),
    (
        "proximadb_cache_dropped_total",
        "counter",
        "Blocks that the cache's disk was too slow for",
        |of| of.dropped,
    ),
    (
        "proximadb_cache_failures_total",
        "counter",
        "Failed reads of the cache's disk",
        |of| of.failures,
    ),
    (
        "proximadb_cache_memory_bytes",
        "gauge",
        "Bytes of the cache in memory",
        |of| of.memory_bytes,
    ),
];

pub(super) fn write(text: &mut Text, storage: &StorageSample) {
    text.family("collections_total", "gauge", "Number of collections");
    text.sample("collections_total", &[], storage.collections as f64);
    text.family("proximadb_memtable_bytes", "gauge", "Bytes of all memtables together");
    text.sample("proximadb_memtable_bytes", &[], storage.memtable_bytes as f64);
    let (name, help) = (
        "proximadb_wal_failovers_total",
        "Logs that went on at another root because theirs failed",
    );
    text.family(name, "counter", help);
    text.sample(name, &[], storage.log_failovers as f64);
    write_roots(text, &storage.roots);
    write_operations(text, &storage.roots);
    write_traffic(text, &storage.roots);
    for (name, kind, help, value) in CACHES {
        text.family(name, kind, help);
        for (component, cache) in &storage.caches {
            text.sample(name, &[("component", component)], value(cache) as f64);
        }
    }
    let skew = "proximadb_component_skew";
    text.family(
        skew,
        "gauge",
        "Bytes of the component's fullest root over the mean of its roots",
    );
    for (component, stats) in stats(&storage.roots) {
        text.sample(skew, &[("component", &component)], stats.skew);
    }
    write_moves(text, &storage.moves);
}

fn write_roots(text: &mut Text, roots: &[RootOut]) {
    for (name, help, value) in GAUGES {
        text.family(name, "gauge", help);
        for root in roots {
            if let Some(value) = value(root) {
                text.sample(name, &labels(root), value as f64);
            }
        }
    }
    let name = "proximadb_root_state";
    text.family(name, "gauge", "1 for the state that the root is in");
    for root in roots {
        for state in STATES {
            let [id, component, url] = labels(root);
            let is_in = u8::from(root.state == state);
            text.sample(name, &[id, component, url, ("state", state)], f64::from(is_in));
        }
    }
}

fn write_operations(text: &mut Text, roots: &[RootOut]) {
    let each = || {
        roots
            .iter()
            .flat_map(|root| root.operations.iter().map(move |(name, of)| (root, name, of)))
    };
    for (name, help, value) in OPERATIONS {
        text.family(name, "counter", help);
        for (root, operation, counts) in each() {
            let [id, component, url] = labels(root);
            text.sample(
                name,
                &[id, component, url, ("operation", operation)],
                value(counts) as f64,
            );
        }
    }
    let name = "proximadb_root_latency_seconds";
    text.family(name, "histogram", "Time of requests to the root");
    for (root, operation, counts) in each() {
        let [id, component, url] = labels(root);
        let latency = &counts.latency;
        let bounds = latency.bounds.iter().map(|bound| bound.as_secs_f64());
        let buckets = bounds.zip(latency.cumulative.iter().copied());
        let labels = [id, component, url, ("operation", operation)];
        text.histogram(name, &labels, buckets, latency.count, latency.sum.as_secs_f64());
    }
}

fn write_traffic(text: &mut Text, roots: &[RootOut]) {
    let name = "proximadb_root_requests_total";
    let help = "HTTP requests to the bucket as it bills them, attempts that were repeated included";
    text.family(name, "counter", help);
    let buckets = || roots.iter().filter(|root| !root.url.starts_with("file://"));
    for root in buckets() {
        for (class, count) in REQUESTS {
            let [id, component, url] = labels(root);
            let labels = [id, component, url, ("class", class)];
            text.sample(name, &labels, count(&root.traffic) as f64);
        }
    }
    for (name, help, value) in TRAFFIC {
        text.family(name, "counter", help);
        for root in buckets() {
            text.sample(name, &labels(root), value(&root.traffic));
        }
    }
}

fn write_moves(text: &mut Text, moves: &MovesOut) {
    text.family(
        "proximadb_moves",
        "gauge",
        "Moves by state; of the done ones those that are remembered",
    );
    let counts = [
        ("queued", moves.queued),
        ("running", moves.running),
        ("waiting", moves.waiting),
        ("done", moves.done),
    ];
    for (state, count) in counts {
        text.sample("proximadb_moves", &[("state", state)], count as f64);
    }
    text.family(
        "proximadb_moves_left_bytes",
        "gauge",
        "Bytes that the moves under way have still to move",
    );
    text.sample("proximadb_moves_left_bytes", &[], moves.bytes_left as f64);
    let moved: u64 = moves.moves.iter().map(|step| step.moved_bytes).sum();
    text.family(
        "proximadb_moves_moved_bytes",
        "gauge",
        "Bytes moved by the moves under way and those that are remembered",
    );
    text.sample("proximadb_moves_moved_bytes", &[], moved as f64);
}

fn labels(root: &RootOut) -> [(&str, &str); 3] {
    [("root", &root.id), ("component", &root.component), ("url", &root.url)]
}

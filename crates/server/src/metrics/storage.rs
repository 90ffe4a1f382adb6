//! Series of the roots, the components and the moves.

use super::Family;
use super::text::Text;
use crate::wire::storage::{MovesOut, OperationOut, RootOut, stats};

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

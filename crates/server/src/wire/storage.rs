//! Answers of ProximaDB's own `/storage` routes.

use std::collections::BTreeMap;

use proximadb_db::root::StorageComponentType;
use proximadb_store::{CacheStats, Histogram, Request, TrafficStats};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One root.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RootOut {
    /// Identity of the root, kept in the root itself.
    pub id: String,
    /// As configured.
    pub url: String,
    /// `wal`, `viper`, `lsm`, `index` or `metadata`.
    pub component: String,
    /// Position in the configured list; information only.
    pub index: usize,
    /// `online`, `suspect`, `read-only`, `draining` or `offline`.
    pub state: String,
    /// Why it is not online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when its state is what it is, ms since 1970 UTC.
    pub since_ms: u64,
    /// The last failed operation, whatever the state is now; null if none failed since the start.
    pub last_error: Option<LastErrorOut>,
    /// Bytes of all collections' files.
    pub bytes: u64,
    /// Their number.
    pub files: u64,
    /// Collections with files here.
    pub collections: u64,
    /// Collections that are assigned to it, with or without files.
    pub assignments: u64,
    /// Size of the file system; null for a bucket.
    pub capacity_bytes: Option<u64>,
    /// What is left of it; null for a bucket.
    pub free_bytes: Option<u64>,
    /// Requests that a bucket gets at once now; null for a disk.
    pub request_limit: Option<u64>,
    /// How often the bucket asked for fewer since the start of the server; null for a disk.
    pub throttled: Option<u64>,
    /// Requests to the root by operation.
    pub operations: BTreeMap<String, OperationOut>,
    /// What the bucket bills; all zero for a disk.
    pub traffic: TrafficOut,
}

/// HTTP requests to buckets since the start, attempts that were repeated included, and what they cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrafficOut {
    /// Writes.
    pub put: u64,
    /// Listings.
    pub list: u64,
    /// Reads.
    pub get: u64,
    /// Deletes.
    pub delete: u64,
    /// Bytes of request bodies.
    pub sent_bytes: u64,
    /// Bytes of answers.
    pub received_bytes: u64,
    /// Reads that were sent twice because the first request took long.
    pub hedged: u64,
    /// Those among them whose second request was faster.
    pub hedges_won: u64,
    /// US dollars at the configured prices.
    pub cost_usd: f64,
}

impl TrafficOut {
    /// Counts as they are reported.
    pub fn new(traffic: &TrafficStats, cost_usd: f64) -> Self {
        let of = |request| traffic.requests(request);
        Self {
            put: of(Request::Put),
            list: of(Request::List),
            get: of(Request::Get),
            delete: of(Request::Delete),
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            hedged: traffic.hedged,
            hedges_won: traffic.hedges_won,
            cost_usd,
        }
    }

    fn add(&mut self, other: &Self) {
        self.put += other.put;
        self.list += other.list;
        self.get += other.get;
        self.delete += other.delete;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.hedged += other.hedged;
        self.hedges_won += other.hedges_won;
        self.cost_usd += other.cost_usd;
    }
}

/// What a component's cache of remote files did since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CacheOut {
    /// Blocks found, in memory or on the disk.
    pub hits: u64,
    /// Blocks that had to be read from a bucket.
    pub misses: u64,
    /// Bytes of the blocks found.
    pub hit_bytes: u64,
    /// Blocks that were not written to the disk because it was too slow.
    pub dropped: u64,
    /// Reads of the disk that failed.
    pub failures: u64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
    /// Most bytes on the disk; 0 without a directory.
    pub disk_limit_bytes: u64,
}

impl From<CacheStats> for CacheOut {
    fn from(stats: CacheStats) -> Self {
        Self {
            hits: stats.hits,
            misses: stats.misses,
            hit_bytes: stats.hit_bytes,
            dropped: stats.dropped,
            failures: stats.failures,
            memory_bytes: stats.memory_bytes,
            disk_limit_bytes: stats.disk_limit_bytes,
        }
    }
}

/// A failed operation of a root.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastErrorOut {
    /// What failed and why.
    pub message: String,
    /// When, ms since 1970 UTC.
    pub at_ms: u64,
}

impl RootOut {
    /// Failed requests of all operations.
    pub fn errors(&self) -> u64 {
        self.operations.values().map(|operation| operation.errors).sum()
    }
}

/// Requests of one kind to one root since the start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationOut {
    /// Number of requests.
    pub count: u64,
    /// Failed ones among them.
    pub errors: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Median latency in milliseconds.
    pub latency_ms_p50: f64,
    /// 99th percentile of the latency in milliseconds.
    pub latency_ms_p99: f64,
    /// All latencies, for the metrics.
    #[serde(skip)]
    pub latency: Histogram,
}

/// Totals of one component.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ComponentStats {
    /// Number of roots.
    pub roots: usize,
    /// Bytes on all of them.
    pub bytes: u64,
    /// Files on all of them.
    pub files: u64,
    /// Collections by root URL.
    pub collections_by_root: BTreeMap<String, u64>,
    /// Bytes by root URL.
    pub bytes_by_root: BTreeMap<String, u64>,
    /// Bytes of the fullest root over the average; 1 is perfectly even, 0 without bytes.
    pub skew: f64,
    /// Requests to its buckets, and what they cost.
    #[serde(flatten)]
    pub traffic: TrafficOut,
}

/// Totals by component.
pub fn stats(roots: &[RootOut]) -> BTreeMap<String, ComponentStats> {
    let mut components: BTreeMap<String, ComponentStats> = BTreeMap::new();
    for root in roots {
        let stats = components.entry(root.component.clone()).or_default();
        stats.roots += 1;
        stats.bytes += root.bytes;
        stats.files += root.files;
        stats.traffic.add(&root.traffic);
        stats.collections_by_root.insert(root.url.clone(), root.collections);
        stats.bytes_by_root.insert(root.url.clone(), root.bytes);
    }
    for stats in components.values_mut() {
        let fullest = stats.bytes_by_root.values().copied().max().unwrap_or(0);
        if stats.bytes > 0 {
            stats.skew = fullest as f64 * stats.roots as f64 / stats.bytes as f64;
        }
    }
    components
}

/// Body of `POST /storage/roots`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRoot {
    component: String,
    /// Where it is.
    pub url: String,
}

impl AddRoot {
    /// The component whose files it is to hold.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn component(&self) -> Result<StorageComponentType, Failure> {
        component(&self.component)
    }
}

/// Body of `POST /storage/moves`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartMove {
    /// Name of the collection.
    pub collection: String,
    component: String,
    /// Id or URL of the root that it goes to.
    pub to: String,
    /// Id or URL of the root that it leaves; its home if absent.
    pub from: Option<String>,
}

impl StartMove {
    /// The component that moves.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn component(&self) -> Result<StorageComponentType, Failure> {
        component(&self.component)
    }
}

fn component(name: &str) -> Result<StorageComponentType, Failure> {
    name.parse()
        .map_err(|reason| Failure::input(format_args!("component: {reason}")))
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedMoveOut {
    /// Name of the collection.
    pub collection: String,
    /// Component.
    pub component: &'static str,
    /// Id of the root that it leaves.
    pub from: String,
    /// Id of the root that it goes to.
    pub to: String,
    /// URL of the root that it leaves.
    pub from_url: String,
    /// URL of the root that it goes to.
    pub to_url: String,
    /// Bytes to move.
    pub bytes: u64,
    /// Files to move.
    pub files: u64,
    /// About how many requests that takes.
    pub requests: u64,
}

/// Answer of `POST /storage/rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanOut {
    /// Whether it was only planned.
    pub dry_run: bool,
    /// The steps.
    pub moves: Vec<PlannedMoveOut>,
    /// Bytes of all steps.
    pub bytes: u64,
    /// Files of all steps.
    pub files: u64,
    /// Requests of all steps.
    pub requests: u64,
}

impl PlanOut {
    /// A plan with its totals.
    pub fn new(dry_run: bool, moves: Vec<PlannedMoveOut>) -> Self {
        let sum = |of: fn(&PlannedMoveOut) -> u64| moves.iter().map(of).sum();
        Self {
            dry_run,
            bytes: sum(|step| step.bytes),
            files: sum(|step| step.files),
            requests: sum(|step| step.requests),
            moves,
        }
    }
}

/// A move with its progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MoveOut {
    /// What was planned.
    #[serde(flatten)]
    pub planned: PlannedMoveOut,
    /// `queued`, `running`, `waiting` (it failed and is tried again), `done` or `ended` (the collection was dropped).
    pub state: String,
    /// Bytes that are on the new root.
    pub moved_bytes: u64,
    /// Their files.
    pub moved_files: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When it was begun or found, ms since 1970 UTC.
    pub begun_at_ms: u64,
}

impl MoveOut {
    fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "ended")
    }
}

/// Answer of `GET /storage/moves`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovesOut {
    /// The moves since the start, those under way first.
    pub moves: Vec<MoveOut>,
    /// How many wait for their turn.
    pub queued: u64,
    /// How many are being carried out.
    pub running: u64,
    /// How many failed and are tried again.
    pub waiting: u64,
    /// How many are done.
    pub done: u64,
    /// Bytes that those under way have still to move.
    pub bytes_left: u64,
}

impl MovesOut {
    /// Moves with their counts.
    pub fn new(moves: Vec<MoveOut>) -> Self {
        let count = |state: &str| moves.iter().filter(|step| step.state == state).count() as u64;
        let left = |step: &MoveOut| step.planned.bytes.saturating_sub(step.moved_bytes);
        Self {
            queued: count("queued"),
            running: count("running"),
            waiting: count("waiting"),
            done: count("done"),
            bytes_left: moves.iter().filter(|step| !step.is_over()).map(left).sum(),
            moves,
        }
    }
}

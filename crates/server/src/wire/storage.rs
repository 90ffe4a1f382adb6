//! Answers of ProximaDB's own `/storage` routes.

use std::collections::BTreeMap;

use serde::Serialize;

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
    /// Size of the file system; null for a bucket.
    pub capacity_bytes: Option<u64>,
    /// What is left of it; null for a bucket.
    pub free_bytes: Option<u64>,
    /// Requests to the root by operation.
    pub operations: BTreeMap<String, OperationOut>,
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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
}

/// Totals by component.
pub fn stats(roots: &[RootOut]) -> BTreeMap<String, ComponentStats> {
    let mut components: BTreeMap<String, ComponentStats> = BTreeMap::new();
    for root in roots {
        let stats = components.entry(root.component.clone()).or_default();
        stats.roots += 1;
        stats.bytes += root.bytes;
        stats.files += root.files;
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

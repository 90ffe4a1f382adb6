//! The answer of `…/explain`: which segments, indexes and roots a search uses, and what it did in each.

use proximadb_db::root::{RootId, Roots};
use proximadb_db::shard::Reads;
use proximadb_db::shard::explain::{Explanation, IndexUse, MemtableUse, SegmentUse, Work};
use serde::Serialize;

/// Everything that a search of a collection looks at.
#[derive(Debug, Serialize)]
pub struct ExplanationOut {
    segments: Vec<SegmentOut>,
    memtables: Vec<MemtableOut>,
    storage: StorageOut,
}

/// What the search read from buckets that was neither in memory nor in the cache. Disks are mapped, and not counted.
#[derive(Debug, Serialize)]
struct StorageOut {
    /// Rounds of requests, one after the other.
    rounds: u64,
    bytes: u64,
    requests: u64,
    roots: Vec<ReadsOut>,
}

#[derive(Debug, Serialize)]
struct ReadsOut {
    url: String,
    bytes: u64,
    requests: u64,
}

#[derive(Debug, Serialize)]
struct SegmentOut {
    id: String,
    root: RootOut,
    bytes: u64,
    rows: usize,
    live_rows: usize,
    indexes: Vec<IndexOut>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<WorkOut>,
}

#[derive(Debug, Serialize)]
struct RootOut {
    id: String,
    /// Absent for a root that is not configured any more.
    url: Option<String>,
}

#[derive(Debug, Serialize)]
struct IndexOut {
    /// Name of the vector, empty for the default one.
    vector: String,
    kind: &'static str,
    description: String,
    memory_bytes: usize,
    file: String,
    roots: Vec<RootOut>,
}

#[derive(Debug, Serialize)]
struct MemtableOut {
    rows: usize,
    live_rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<WorkOut>,
}

#[derive(Debug, Serialize)]
struct WorkOut {
    /// Rows that could be found.
    allowed_rows: usize,
    /// Means of lists that were compared to choose the lists that are read.
    means: usize,
    lists: usize,
    codes: usize,
    refined_rows: usize,
    exact_rows: usize,
    hits: usize,
}

impl ExplanationOut {
    /// The answer, with the URLs of the roots.
    pub fn new(explanation: &Explanation, roots: &Roots) -> Self {
        Self {
            segments: explanation.segments.iter().map(|of| segment(of, roots)).collect(),
            memtables: explanation.memtables.iter().map(memtable).collect(),
            storage: storage(&explanation.reads),
        }
    }
}

fn storage(reads: &Reads) -> StorageOut {
    let roots = reads.roots.iter().map(|(url, fetched)| ReadsOut {
        url: url.clone(),
        bytes: fetched.bytes,
        requests: fetched.requests,
    });
    StorageOut {
        rounds: reads.rounds,
        bytes: reads.roots.values().map(|fetched| fetched.bytes).sum(),
        requests: reads.roots.values().map(|fetched| fetched.requests).sum(),
        roots: roots.collect(),
    }
}

fn segment(segment: &SegmentUse, roots: &Roots) -> SegmentOut {
    SegmentOut {
        id: segment.id.to_string(),
        root: root(segment.root, roots),
        bytes: segment.bytes,
        rows: segment.rows,
        live_rows: segment.live_rows,
        indexes: segment.indexes.iter().map(|of| index(of, roots)).collect(),
        reason: segment.reason.clone(),
        search: segment.work.map(work),
    }
}

fn root(id: RootId, roots: &Roots) -> RootOut {
    let url = roots.by_id(id).ok().map(|root| root.url().to_owned());
    RootOut {
        id: id.to_string(),
        url,
    }
}

fn index(index: &IndexUse, roots: &Roots) -> IndexOut {
    IndexOut {
        vector: index.space.clone(),
        kind: index.kind,
        description: index.description.clone(),
        memory_bytes: index.memory_bytes,
        file: index.file.clone(),
        roots: index.roots.iter().map(|id| root(*id, roots)).collect(),
    }
}

fn memtable(memtable: &MemtableUse) -> MemtableOut {
    MemtableOut {
        rows: memtable.rows,
        live_rows: memtable.live_rows,
        search: memtable.work.map(work),
    }
}

fn work(work: Work) -> WorkOut {
    WorkOut {
        allowed_rows: work.allowed,
        means: work.stats.means,
        lists: work.stats.lists,
        codes: work.stats.codes,
        refined_rows: work.stats.refined,
        exact_rows: work.stats.exact,
        hits: work.found,
    }
}

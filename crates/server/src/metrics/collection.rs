//! Series of the collections that are open: reading the metrics opens none.

use super::Family;
use super::text::Text;

/// One collection, as far as metrics go.
#[derive(Debug, Default)]
pub struct CollectionSample {
    /// Its name.
    pub name: String,
    /// Live points.
    pub points: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Estimated bytes in its memtables.
    pub memtable_bytes: u64,
    /// Operations made durable in its log since it was opened.
    pub wal_entries: u64,
    /// Their bytes.
    pub wal_bytes: u64,
    /// Group commits of its log since it was opened.
    pub wal_commits: u64,
    /// Flushes since it was opened, by what led to them.
    pub flushes: [(&'static str, u64); 3],
}

const GAUGES: [Family<CollectionSample, u64>; 4] = [
    ("collection_points", "Points of the collection", |of| of.points),
    ("proximadb_collection_segments", "Segments of the collection", |of| {
        of.segments
    }),
    ("proximadb_collection_bytes", "Bytes of the collection's files", |of| {
        of.bytes
    }),
    (
        "proximadb_collection_memtable_bytes",
        "Estimated bytes in the collection's memtables",
        |of| of.memtable_bytes,
    ),
];

const COUNTERS: [Family<CollectionSample, u64>; 3] = [
    (
        "proximadb_wal_entries_total",
        "Operations made durable in the collection's log",
        |of| of.wal_entries,
    ),
    ("proximadb_wal_bytes_total", "Bytes of these operations", |of| {
        of.wal_bytes
    }),
    (
        "proximadb_wal_commits_total",
        "Group commits of the collection's log, each one sync",
        |of| of.wal_commits,
    ),
];

pub(super) fn write(text: &mut Text, collections: &[CollectionSample]) {
    let gauges = GAUGES.iter().map(|family| ("gauge", family));
    for (kind, (name, help, value)) in gauges.chain(COUNTERS.iter().map(|family| ("counter", family))) {
        text.family(name, kind, help);
        for sample in collections {
            text.sample(name, &[("collection", &sample.name)], value(sample) as f64);
        }
    }
    let name = "proximadb_flushes_total";
    text.family(
        name,
        "counter",
        "Flushes of the collection's memtable, by what led to them",
    );
    for sample in collections {
        for (trigger, count) in sample.flushes {
            text.sample(
                name,
                &[("collection", &sample.name), ("trigger", trigger)],
                count as f64,
            );
        }
    }
}

//! The sources of a shard's rows, each with the liveness of its rows.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::fields::{FieldIndexes, SegmentPayloads};
use crate::axis::SegmentIndexes;
use crate::engine::absent::{Absent, Miss};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::SegmentData;
use crate::filter::Filter;
use crate::memtable::Memtable;
use crate::point::Seq;
use crate::schema::Schema;

/// Number of a source within the life of an open shard.
pub type SourceId = u32;

/// Where the newest version of a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The source that holds it.
    pub source: SourceId,
    /// Its row there.
    pub row: u32,
}

/// A memtable with the liveness of its rows.
pub struct MemSource {
    /// Its number.
    pub source: SourceId,
    /// Rows and tombstones; shared once frozen.
    pub table: Arc<Memtable>,
    /// Rows that are the newest version of their point.
    pub live: FixedBitSet,
}

/// A segment in memory with the liveness of its rows. Cheap to clone: searches work on clones, outside the lock.
#[derive(Clone)]
pub struct SegmentSource {
    /// Its number.
    pub source: SourceId,
    /// What the manifest says of it.
    pub meta: SegmentMeta,
    /// Its rows.
    pub data: Arc<SegmentData>,
    /// Rows that are the newest version of their point.
    pub live: Arc<FixedBitSet>,
    /// Number of live rows.
    pub live_rows: usize,
    /// Vector indexes; empty until built.
    pub indexes: SegmentIndexes,
    /// Payload indexes, built by the first filter that needs one.
    pub fields: Arc<FieldIndexes>,
}

/// Rows of a new segment and where each came from, in the order of its rows.
pub struct NewSegment {
    /// What the manifest says of it.
    pub meta: SegmentMeta,
    /// Its rows.
    pub data: Arc<SegmentData>,
    /// For each row the location it was copied from.
    pub origins: Vec<Location>,
}

/// A memtable on its way into a segment.
pub struct FrozenMemtable {
    /// Its number as a source.
    pub source: SourceId,
    /// It and the segments hold all operations through this one.
    pub through: Seq,
    /// Its rows and tombstones.
    pub table: Arc<Memtable>,
    /// Its rows that are live.
    pub live: FixedBitSet,
}

impl MemSource {
    pub(super) fn new(source: SourceId, schema: &Schema) -> Self {
        Self {
            source,
            table: Arc::new(Memtable::new(schema)),
            live: FixedBitSet::new(),
        }
    }

    /// The live rows that match `filter`.
    pub fn select(&self, filter: &Filter) -> FixedBitSet {
        let mut matching = FixedBitSet::with_capacity(self.live.len());
        for row in self.live.ones() {
            let has_vector = |name: &str| self.table.has_vector(row as u32, name);
            let (id, payload) = (self.table.id(row as u32), self.table.payload(row as u32));
            matching.set(row, filter.matches(id, payload, &has_vector));
        }
        matching
    }
}

impl SegmentSource {
    pub(super) fn new(source: SourceId, meta: SegmentMeta, data: Arc<SegmentData>) -> Self {
        let live = Arc::new(FixedBitSet::with_capacity(data.ids.len()));
        Self {
            source,
            meta,
            data,
            live,
            live_rows: 0,
            indexes: SegmentIndexes::default(),
            fields: Arc::default(),
        }
    }

    /// The live rows that match `filter`.
    ///
    /// # Errors
    /// [`Miss`]: payloads were not read yet, or one is damaged.
    pub fn select(&self, filter: &Filter) -> Result<FixedBitSet, Miss> {
        if filter.asks_payloads() {
            let mut absent = Absent::default();
            self.data.note_payloads(&mut absent);
            absent.check()?;
        }
        let payloads = SegmentPayloads {
            data: &self.data,
            fields: &self.fields,
        };
        Ok(filter.select(&payloads, (*self.live).clone())?)
    }

    /// The live rows as a restriction for a scan: `None` when all are live, which is faster.
    pub fn restriction(&self) -> Option<&FixedBitSet> {
        (self.live_rows < self.data.ids.len()).then_some(&*self.live)
    }

    pub(super) fn revive(&mut self, row: u32) {
        if !Arc::make_mut(&mut self.live).put(row as usize) {
            self.live_rows += 1;
        }
    }

    pub(super) fn kill(&mut self, row: u32) {
        if self.live.contains(row as usize) {
            Arc::make_mut(&mut self.live).remove(row as usize);
            self.live_rows -= 1;
        }
    }
}

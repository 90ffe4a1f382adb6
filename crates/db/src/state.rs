//! What a shard knows in memory: its sources of rows and where the newest version of every point is.
//!
//! A *source* is the active memtable, the frozen one while it is being flushed, or a segment; each has a number that is
//! never reused. Invariant: for every point that exists, `locations` names exactly one row, and that row is the only
//! one of its point whose `live` bit is set. So a search restricted to live rows sees each point once, in its newest
//! version, and merging results needs no look at sequence numbers. Pure state: no I/O, no clock, no lock of its own.

mod fields;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::axis::SegmentIndexes;
use crate::engine::absent::{Absent, Miss};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::SegmentData;
use crate::memtable::memory_bytes;
use crate::point::{NamedVectors, Operation, Payload, Point, PointId, Seq};
use crate::schema::Schema;

pub use fields::FieldIndexes;
pub use source::{FrozenMemtable, Location, MemSource, NewSegment, SegmentSource, SourceId};

/// The state of one shard.
pub struct State {
    schema: Arc<Schema>,
    locations: BTreeMap<PointId, Location>,
    next_source: SourceId,
    active: MemSource,
    frozen: Option<MemSource>,
    /// Operations through this one are frozen or flushed.
    frozen_seq: Seq,
    segments: BTreeMap<SourceId, SegmentSource>,
    applied_seq: Seq,
}

impl State {
    /// The state of a shard whose manifest names `segments` and says that all operations through `flushed_seq` are in them.
    pub fn load(schema: Arc<Schema>, flushed_seq: Seq, segments: Vec<(SegmentMeta, Arc<SegmentData>)>) -> Self {
        let mut versions: Vec<(PointId, Seq, Option<Location>)> = Vec::new();
        let mut sources = BTreeMap::new();
        for (source, (meta, data)) in (0..).zip(segments) {
            let rows = data.ids.iter().zip(&data.seqs).zip(0..);
            versions.extend(rows.map(|((&id, &seq), row)| (id, seq, Some(Location { source, row }))));
            versions.extend(data.tombstones.iter().map(|&(id, seq)| (id, seq, None)));
            sources.insert(source, SegmentSource::new(source, meta, data));
        }
        versions.sort_unstable();
        // Sorted by id, then sequence number: the last version of an id is its newest, and wins.
        versions.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                *kept = *later;
            }
            same
        });
        let newest = versions
            .into_iter()
            .filter_map(|(id, _, location)| Some((id, location?)));
        let locations: BTreeMap<PointId, Location> = newest.collect();
        let next_source = sources.len() as SourceId;
        let active = MemSource::new(next_source, &schema);
        let mut state = Self {
            schema,
            locations,
            next_source: next_source + 1,
            active,
            frozen: None,
            frozen_seq: flushed_seq,
            segments: sources,
            applied_seq: flushed_seq,
        };
        for location in state.locations.values() {
            if let Some(segment) = state.segments.get_mut(&location.source) {
                segment.revive(location.row);
            }
        }
        state
    }

    /// Applies one durable operation. Operations arrive in the order of their sequence numbers.
    pub fn apply(&mut self, seq: Seq, operation: Operation) {
        assert!(seq > self.applied_seq, "operations are applied once, in order");
        self.applied_seq = seq;
        let bytes = memory_bytes(&operation);
        // The active table is shared only from the moment it is frozen, when another one takes its place.
        let Some(table) = Arc::get_mut(&mut self.active.table) else {
            unreachable!("the active memtable has one owner")
        };
        table.account(bytes);
        let (id, newest) = match operation {
            Operation::Delete(id) => {
                table.push_tombstone(seq, id);
                (id, None)
            }
            Operation::Upsert(point) => {
                let id = point.id;
                let row = table.push(seq, point);
                self.active.live.grow_and_insert(row as usize);
                (
                    id,
                    Some(Location {
                        source: self.active.source,
                        row,
                    }),
                )
            }
        };
        let previous = match newest {
            Some(location) => self.locations.insert(id, location),
            None => self.locations.remove(&id),
        };
        if let Some(location) = previous {
            self.kill(location);
        }
    }

    fn kill(&mut self, location: Location) {
        if location.source == self.active.source {
            self.active.live.remove(location.row as usize);
        } else if let Some(segment) = self.segments.get_mut(&location.source) {
            segment.kill(location.row);
        } else if let Some(frozen) = self.frozen.as_mut().filter(|frozen| frozen.source == location.source) {
            frozen.live.remove(location.row as usize);
        }
    }

    /// Puts an empty memtable in place of the active one, to be flushed. False if there is nothing to freeze or a frozen
    /// table still waits for its flush.
    pub fn freeze(&mut self) -> bool {
        if self.frozen.is_some() || self.active.table.is_empty() {
            return false;
        }
        let fresh = MemSource::new(self.next_source, &self.schema);
        self.next_source += 1;
        self.frozen = Some(std::mem::replace(&mut self.active, fresh));
        self.frozen_seq = self.applied_seq;
        true
    }

    /// Puts a flushed or compacted segment in place, all rows dead until [`State::adopt`] moves them. Returns its number.
    pub fn add_segment(&mut self, meta: SegmentMeta, data: Arc<SegmentData>) -> SourceId {
        let source = self.next_source;
        self.next_source += 1;
        self.segments.insert(source, SegmentSource::new(source, meta, data));
        source
    }

    /// Moves liveness of `rows` of `source` over from the rows they were copied from. Rows that changed since are left dead.
    pub fn adopt(&mut self, source: SourceId, rows: std::ops::Range<usize>, origins: &[Location]) {
        let Some(data) = self.segments.get(&source).map(|segment| segment.data.clone()) else {
            return;
        };
        for row in rows {
            let Some(location) = self.locations.get_mut(&data.ids[row]).filter(|at| **at == origins[row]) else {
                continue;
            };
            *location = Location {
                source,
                row: row as u32,
            };
            self.kill(origins[row]);
            if let Some(segment) = self.segments.get_mut(&source) {
                segment.revive(row as u32);
            }
        }
    }

    /// Forgets the frozen memtable, whose rows a segment has adopted; returns the bytes it held.
    pub fn drop_frozen(&mut self) -> u64 {
        self.frozen.take().map_or(0, |frozen| {
            assert_eq!(
                frozen.live.count_ones(..),
                0,
                "every live row was adopted by the flushed segment"
            );
            frozen.table.bytes()
        })
    }

    /// Forgets segments whose rows others have adopted.
    pub fn drop_segments(&mut self, sources: &[SourceId]) {
        for source in sources {
            if let Some(segment) = self.segments.remove(source) {
                assert_eq!(segment.live_rows, 0, "every live row was adopted by the merged segment");
            }
        }
    }

    /// Takes over what a manifest says of segments that are on other roots now.
    pub fn relocate(&mut self, metas: Vec<SegmentMeta>) {
        for meta in metas {
            if let Some(segment) = self.segments.values_mut().find(|segment| segment.meta.id == meta.id) {
                segment.meta = meta;
            }
        }
    }

    /// Attaches vector indexes to a segment, if it still exists.
    pub fn set_indexes(&mut self, source: SourceId, indexes: SegmentIndexes) {
        if let Some(segment) = self.segments.get_mut(&source) {
            segment.indexes = indexes;
        }
    }

    /// The same rows of a segment, if it still exists, in another place: in a file instead of in memory, or the other way round.
    pub fn set_rows(&mut self, source: SourceId, data: Arc<SegmentData>) {
        if let Some(segment) = self.segments.get_mut(&source) {
            assert_eq!(segment.data.len(), data.len(), "the same rows");
            segment.data = data;
        }
    }

    /// Takes over a changed schema; payload settings only, the vector spaces stay.
    pub fn set_schema(&mut self, schema: Arc<Schema>) {
        self.schema = schema;
    }

    /// The memtables, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &MemSource> {
        std::iter::once(&self.active).chain(&self.frozen)
    }

    /// What a flush needs of the frozen memtable: its number, rows, and which of them are live now.
    pub fn frozen_for_flush(&self) -> Option<FrozenMemtable> {
        let frozen = self.frozen.as_ref()?;
        Some(FrozenMemtable {
            source: frozen.source,
            through: self.frozen_seq,
            table: frozen.table.clone(),
            live: frozen.live.clone(),
        })
    }

    /// The segments, oldest source first.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentSource> {
        self.segments.values()
    }

    /// The newest version of every point in order of ids, from `start` on.
    pub fn points_from(&self, start: Option<PointId>) -> impl Iterator<Item = (PointId, Location)> {
        let start = start.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        self.locations
            .range((start, std::ops::Bound::Unbounded))
            .map(|(&id, &location)| (id, location))
    }

    /// Where a point is.
    pub fn locate(&self, id: PointId) -> Option<Location> {
        self.locations.get(&id).copied()
    }

    /// Where a point is that was seen at a place: mostly still there, which is told without looking for it.
    pub fn locate_again(&self, id: PointId, seen: Location) -> Option<Location> {
        let live = match (self.memtable(seen.source), self.segments.get(&seen.source)) {
            (Some(memtable), _) => memtable.live.contains(seen.row as usize),
            (None, Some(segment)) => segment.live.contains(seen.row as usize),
            (None, None) => false,
        };
        if live { Some(seen) } else { self.locate(id) }
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.locations.len()
    }

    /// Sequence number of the newest applied operation.
    pub fn applied_seq(&self) -> Seq {
        self.applied_seq
    }

    /// Estimated bytes of the active and of the frozen memtable.
    pub fn memtable_bytes(&self) -> (u64, u64) {
        (
            self.active.table.bytes(),
            self.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes()),
        )
    }

    /// Notes what was not read yet of a row's payload and vectors, as far as they are wanted.
    pub fn note_absent(&self, location: Location, (payload, vectors): (bool, bool), absent: &mut Absent) {
        if let Some(segment) = self.segments.get(&location.source) {
            let row = location.row as usize;
            if payload {
                segment.data.note_payload(row, absent);
            }
            if vectors {
                segment.data.note_vectors(row, absent);
            }
        }
    }

    /// The payload of a row.
    ///
    /// # Errors
    /// [`Miss`]: it was not read yet, or is damaged.
    pub fn payload(&self, location: Location) -> Result<Arc<Payload>, Miss> {
        self.check_present(location, (true, false))?;
        match (self.memtable(location.source), self.segments.get(&location.source)) {
            (Some(memtable), _) => Ok(memtable.table.payload(location.row).clone()),
            (None, Some(segment)) => Ok(segment.data.payloads.get(location.row as usize).map(Arc::new)?),
            (None, None) => unreachable!("locations name sources that exist"),
        }
    }

    /// The vectors of a row.
    ///
    /// # Errors
    /// [`Miss`]: they were not read yet.
    pub fn vectors(&self, location: Location) -> Result<NamedVectors, Miss> {
        self.check_present(location, (false, true))?;
        match (self.memtable(location.source), self.segments.get(&location.source)) {
            (Some(memtable), _) => Ok(memtable.table.vectors(location.row)),
            (None, Some(segment)) => Ok(segment.data.named_vectors(location.row as usize)),
            (None, None) => unreachable!("locations name sources that exist"),
        }
    }

    /// The newest version of a point, in full.
    ///
    /// # Errors
    /// [`Miss`]: it was not read yet, or is damaged.
    pub fn point(&self, id: PointId, location: Location) -> Result<Point, Miss> {
        self.check_present(location, (true, true))?;
        Ok(Point {
            id,
            vectors: self.vectors(location)?,
            payload: Arc::unwrap_or_clone(self.payload(location)?),
        })
    }

    fn check_present(&self, location: Location, wanted: (bool, bool)) -> Result<(), Miss> {
        let mut absent = Absent::default();
        self.note_absent(location, wanted, &mut absent);
        absent.check()
    }

    /// The sequence number of a row.
    pub fn seq(&self, location: Location) -> Seq {
        match (self.memtable(location.source), self.segments.get(&location.source)) {
            (Some(memtable), _) => memtable.table.seq(location.row),
            (None, Some(segment)) => segment.data.seqs[location.row as usize],
            (None, None) => unreachable!("locations name sources that exist"),
        }
    }

    fn memtable(&self, source: SourceId) -> Option<&MemSource> {
        self.memtables().find(|memtable| memtable.source == source)
    }
}

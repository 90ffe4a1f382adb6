//! Reading a shard: search, scroll, count and retrieval over all of its sources.

use std::collections::HashMap;
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::Shard;
use crate::axis;
use crate::engine::absent::{self, Absent, Miss};
use crate::error::Result;
use crate::filter::Filter;
use crate::payload;
use crate::point::{NamedVectors, PointId, Seq};
use crate::schema::Schema;
use crate::search::{self, Candidate, PayloadSelector, Query, Record, ScoredPoint, Selection, VectorSelector};
use crate::state::{Location, SegmentSource, SourceId, State};
use proximadb_index::Metric;

/// What takes as long as looking at so many numbers, roughly: a search through an index, …
const NUMBERS_PER_INDEX: usize = 100_000;
/// … a hit that is answered, …
const NUMBERS_PER_HIT: usize = 1_000;
/// … a row that a filter is tested on.
const NUMBERS_PER_FILTERED_ROW: usize = 8;

/// What a shard holds, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Points.
    pub points: u64,
    /// Vectors that an index covers.
    pub indexed_vectors: u64,
    /// Bytes that the indexes hold in memory.
    pub index_memory_bytes: u64,
    /// Segments on the data root.
    pub segments: u64,
    /// Bytes of their files.
    pub segment_bytes: u64,
    /// Estimated bytes in memtables.
    pub memtable_bytes: u64,
}

impl Shard {
    /// The segments, as searches see them.
    pub(crate) fn segments(&self) -> Vec<SegmentSource> {
        self.state.read().segments().cloned().collect()
    }

    /// The points nearest to the query, best first.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn search(self: &Arc<Self>, query: &Query, metric: Metric) -> Result<Vec<ScoredPoint>> {
        let search = || self.search_present(query, metric);
        let (found, _) = self.look_until(query.deadline, search).await?;
        Ok(found)
    }

    pub(super) fn search_present(&self, query: &Query, metric: Metric) -> Result<Vec<ScoredPoint>, Miss> {
        let (mut found, segments) = {
            let state = self.state.read();
            let memtables = state
                .memtables()
                .flat_map(|memtable| search::search_memtable(memtable, metric, query).candidates);
            (
                memtables.collect::<Vec<Candidate>>(),
                state.segments().cloned().collect::<Vec<_>>(),
            )
        };
        let schema = self.description();
        let asked = segments
            .iter()
            .filter(|segment| is_asked(segment, query, &schema.schema));
        for of_segment in absent::all(asked.map(|segment| search::search_segment(segment, metric, query)))? {
            found.extend(of_segment.candidates);
        }
        let best = search::merge(metric, query, found);
        // A point found above may have moved to another segment or changed since; it is answered as it is now. One that is
        // gone leaves its place to the next.
        let state = self.state.read();
        let located = best
            .into_iter()
            .filter_map(|hit| Some((hit, state.locate_again(hit.id, hit.location)?)));
        let located: Vec<_> = located.skip(query.offset).take(query.limit).collect();
        let fetch = |(hit, location): (Candidate, Location)| {
            let Record { id, payload, vectors } = record(&state, hit.id, location, &query.select)?;
            Ok(ScoredPoint {
                id,
                version: state.seq(location),
                score: hit.score,
                payload,
                vectors,
            })
        };
        absent::all(located.into_iter().map(fetch))
    }

    /// About how many numbers a search looks at, in a space of so many dimensions: tells microseconds from milliseconds.
    pub fn numbers_of(&self, query: &Query, dimensions: usize) -> usize {
        let state = self.state.read();
        let mut numbers = query.limit.saturating_add(query.offset).saturating_mul(NUMBERS_PER_HIT);
        let memtables = state.memtables().map(|memtable| (memtable.live.len(), false));
        let indexed = |segment: &SegmentSource| !query.is_exact() && segment.indexes.contains_key(&query.using);
        let segments = state.segments().map(|segment| (segment.data.len(), indexed(segment)));
        for (rows, indexed) in memtables.chain(segments) {
            let compared = if indexed { NUMBERS_PER_INDEX } else { rows * dimensions };
            let filtered = if query.filter.is_some() {
                rows * NUMBERS_PER_FILTERED_ROW
            } else {
                0
            };
            numbers = numbers.saturating_add(compared + filtered);
        }
        numbers
    }

    /// The points with these ids, in the order asked; missing ones are left out.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn retrieve(self: &Arc<Self>, ids: &[PointId], select: &Selection) -> Result<Vec<Record>> {
        let retrieve = || {
            let state = self.state.read();
            let located = ids.iter().filter_map(|&id| Some((id, state.locate(id)?)));
            absent::all(located.map(|(id, location)| record(&state, id, location, select)))
        };
        Ok(self.look(retrieve).await?.0)
    }

    /// Up to `limit` points in order of ids from `start` on, and the id where the next page starts.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn scroll(
        self: &Arc<Self>,
        filter: Option<&Filter>,
        start: Option<PointId>,
        limit: usize,
        select: &Selection,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        let scroll = || {
            let state = self.state.read();
            let matching = filter.map(|filter| Matching::new(&state, filter)).transpose()?;
            let wanted = |location| matching.as_ref().is_none_or(|matching| matching.contains(location));
            let mut points = state.points_from(start).filter(|&(_, location)| wanted(location));
            let page = points
                .by_ref()
                .take(limit)
                .map(|(id, location)| record(&state, id, location, select));
            let page = absent::all(page)?;
            Ok((page, points.next().map(|(id, _)| id)))
        };
        Ok(self.look(scroll).await?.0)
    }

    /// Number of points that match.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] for a damaged row; errors of the roots.
    pub async fn count(self: &Arc<Self>, filter: Option<&Filter>) -> Result<u64> {
        let count = || {
            let state = self.state.read();
            Ok(match filter {
                None => state.points() as u64,
                Some(filter) => Matching::new(&state, filter)?.count() as u64,
            })
        };
        Ok(self.look(count).await?.0)
    }

    /// What the shard holds.
    pub fn stats(&self) -> ShardStats {
        let state = self.state.read();
        let indexed = |segment: &crate::state::SegmentSource| {
            if segment.indexes.is_empty() {
                0
            } else {
                segment.live_rows as u64
            }
        };
        let indexes = state.segments().flat_map(|segment| segment.indexes.values());
        let (active, frozen) = state.memtable_bytes();
        ShardStats {
            points: state.points() as u64,
            indexed_vectors: state.segments().map(indexed).sum(),
            index_memory_bytes: indexes.map(|index| index.memory_bytes() as u64).sum(),
            segments: state.segments().count() as u64,
            segment_bytes: state.segments().map(|segment| segment.meta.bytes).sum(),
            memtable_bytes: active + frozen,
        }
    }

    /// Sequence number of the newest applied operation.
    pub fn applied_seq(&self) -> Seq {
        self.state.read().applied_seq()
    }
}

/// Whether a search looks at a segment: one that waits for its index can be left out.
pub(super) fn is_asked(segment: &SegmentSource, query: &Query, schema: &Schema) -> bool {
    !query.indexed_only || segment.indexes.contains_key(&query.using) || !axis::wants_index(&segment.data, schema)
}

/// The live rows of all sources that match a filter.
pub struct Matching(HashMap<SourceId, FixedBitSet>);

impl Matching {
    /// Evaluates `filter` over every source of `state`.
    ///
    /// # Errors
    /// [`Miss`]: payloads were not read yet, or one is damaged.
    pub fn new(state: &State, filter: &Filter) -> Result<Self, Miss> {
        let segments = state
            .segments()
            .map(|segment| Ok((segment.source, segment.select(filter)?)));
        let memtables = state
            .memtables()
            .map(|memtable| Ok((memtable.source, memtable.select(filter))));
        let sets = absent::all(segments.chain(memtables))?;
        Ok(Self(sets.into_iter().collect()))
    }

    /// Whether the row at `location` matches.
    pub fn contains(&self, location: Location) -> bool {
        self.0
            .get(&location.source)
            .is_some_and(|rows| rows.contains(location.row as usize))
    }

    /// Number of matching points.
    pub fn count(&self) -> usize {
        self.0.values().map(|rows| rows.count_ones(..)).sum()
    }
}

/// The point at `location` as `select` wants it.
fn record(state: &State, id: PointId, location: Location, select: &Selection) -> Result<Record, Miss> {
    let wanted = (
        select.payload != PayloadSelector::None,
        select.vectors != VectorSelector::None,
    );
    let mut absent = Absent::default();
    state.note_absent(location, wanted, &mut absent);
    absent.check()?;
    let payload = match &select.payload {
        PayloadSelector::None => None,
        PayloadSelector::All => Some(Arc::unwrap_or_clone(state.payload(location)?)),
        PayloadSelector::Include(paths) => Some(payload::include(&*state.payload(location)?, paths)),
        PayloadSelector::Exclude(paths) => Some(payload::exclude(&*state.payload(location)?, paths)),
    };
    let vectors = match &select.vectors {
        VectorSelector::None => None,
        VectorSelector::All => Some(state.vectors(location)?),
        VectorSelector::Names(names) => Some(only(&state.vectors(location)?, names)),
    };
    Ok(Record { id, payload, vectors })
}

fn only(vectors: &NamedVectors, names: &[String]) -> NamedVectors {
    let mut kept = NamedVectors::default();
    for (name, vector) in vectors
        .iter()
        .filter(|(name, _)| names.iter().any(|wanted| wanted == name))
    {
        kept.insert(name.to_owned(), vector.to_vec());
    }
    kept
}

//! What a search asks, what it answers, and how one source of rows is searched. Plain functions from values to values.

use std::time::Instant;

use fixedbitset::FixedBitSet;
use proximadb_index::{Chosen, Flat, Hit, Metric, RowSlice, SearchParams, SearchStats, TopK, VectorIndex, scan, score};

use crate::engine::absent::{Absent, Miss};
use crate::engine::segment::VectorColumn;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::payload::JsonPath;
use crate::point::{NamedVectors, Payload, PointId, Seq};
use crate::state::{Location, MemSource, SegmentSource};

/// Each source is asked for this many hits more than wanted, so that among equal scores at the cut the same ids are
/// kept whichever source their rows are in.
const TIE_MARGIN: usize = 8;

/// Graph candidates (`hnsw_ef`) that stand for an index's own idea of enough, the effort 1 …
const EF_DEFAULT: f32 = 100.0;
/// … and by how much each doubling of them raises the effort. Less than a graph's: an effort counts from an index that is tuned.
const EFFORT_PER_DOUBLING: f32 = 0.17;
const EFFORTS: (f32, f32) = (0.3, 4.0);

/// Which parts of the payload an answer carries.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum PayloadSelector {
    /// No payload.
    #[default]
    None,
    /// The whole payload.
    All,
    /// Only these paths.
    Include(Vec<JsonPath>),
    /// All but these paths.
    Exclude(Vec<JsonPath>),
}

/// Which vectors an answer carries.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum VectorSelector {
    /// No vector.
    #[default]
    None,
    /// All vectors.
    All,
    /// The vectors of these names.
    Names(Vec<String>),
}

/// What an answer carries besides ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Parts of the payload.
    pub payload: PayloadSelector,
    /// Vectors.
    pub vectors: VectorSelector,
}

/// A point as it is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: PointId,
    /// The selected payload; `None` if none was asked for.
    pub payload: Option<Payload>,
    /// The selected vectors; `None` if none were asked for.
    pub vectors: Option<NamedVectors>,
}

/// A point found by a search.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredPoint {
    /// Its id.
    pub id: PointId,
    /// Sequence number of its newest version.
    pub version: Seq,
    /// Similarity or distance, as the metric of the space says.
    pub score: f32,
    /// The selected payload; `None` if none was asked for.
    pub payload: Option<Payload>,
    /// The selected vectors; `None` if none were asked for.
    pub vectors: Option<NamedVectors>,
}

/// How far a search trusts the codes of an index (`params.quantization` of the Qdrant API). An index always has codes, chooses rows by them,
/// and scores those that are left by their floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// Not at all: compare with every point.
    pub ignore: bool,
    /// Score so many times the points wanted by their floats, at least 1.
    pub oversampling: f64,
}

impl Default for Quantization {
    fn default() -> Self {
        Self {
            ignore: false,
            oversampling: 1.0,
        }
    }
}

/// A nearest-neighbour search.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The vector to be near to, already normalised in a cosine space.
    pub vector: Vec<f32>,
    /// Vector space; the default one has the empty name.
    pub using: String,
    /// Restricts the points.
    pub filter: Option<Filter>,
    /// Number of points wanted.
    pub limit: usize,
    /// Number of best points to skip.
    pub offset: usize,
    /// Only points at least this good.
    pub score_threshold: Option<f32>,
    /// Compare with every point instead of using an index.
    pub exact: bool,
    /// How hard an index tries: `hnsw_ef` of the Qdrant API.
    pub hnsw_ef: Option<usize>,
    /// Leave out segments whose index is not built yet, instead of comparing with every row.
    pub indexed_only: bool,
    /// How far to trust the codes of an index.
    pub quantization: Quantization,
    /// When the search is given up; looked at between two segments.
    pub deadline: Option<Instant>,
    /// What the answer carries.
    pub select: Selection,
}

/// Which points an operation is about.
#[derive(Debug, Clone, PartialEq)]
pub enum PointSelector {
    /// The points with these ids.
    Ids(Vec<PointId>),
    /// The points that match.
    Filter(Filter),
}

/// A hit with what is needed to merge it and to fetch its point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The point.
    pub id: PointId,
    /// Its score.
    pub score: f32,
    /// Where it was found.
    pub location: Location,
}

impl Query {
    /// The `limit` points nearest to a vector of the default space: ids and scores, at the settings that a search has by default.
    pub fn nearest(vector: Vec<f32>, limit: usize) -> Self {
        Self {
            vector,
            using: String::new(),
            filter: None,
            limit,
            offset: 0,
            score_threshold: None,
            exact: false,
            hnsw_ef: None,
            indexed_only: false,
            quantization: Quantization::default(),
            deadline: None,
            select: Selection::default(),
        }
    }

    /// Whether there is time left.
    ///
    /// # Errors
    /// [`Error::Timeout`] if not.
    fn in_time(&self) -> Result<()> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let reason = "the search did not end within its timeout; ask for less, or give it more time";
            return Err(Error::Timeout(reason.to_owned()));
        }
        Ok(())
    }

    fn params(&self) -> SearchParams {
        let oversampled = self.wanted() as f64 * self.quantization.oversampling;
        SearchParams {
            k: (oversampled.ceil() as usize).saturating_add(TIE_MARGIN),
            effort: self.hnsw_ef.map_or(1.0, effort),
            exact: self.is_exact(),
        }
    }

    /// Whether every point is compared.
    pub fn is_exact(&self) -> bool {
        self.exact || self.quantization.ignore
    }

    fn wanted(&self) -> usize {
        self.limit.saturating_add(self.offset)
    }
}

/// The effort that a number of graph candidates asks for.
fn effort(hnsw_ef: usize) -> f32 {
    let doublings = (hnsw_ef.max(1) as f32 / EF_DEFAULT).log2();
    (1.0 + EFFORT_PER_DOUBLING * doublings).clamp(EFFORTS.0, EFFORTS.1)
}

/// What a search found in one source, and what that took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The best rows.
    pub candidates: Vec<Candidate>,
    /// Rows that were allowed by liveness, filter and vector space.
    pub allowed: usize,
    /// What was looked at.
    pub stats: SearchStats,
}

/// The best live rows of a memtable, by comparison with every row.
pub fn search_memtable(memtable: &MemSource, metric: Metric, query: &Query) -> Found {
    let Some((rows, present)) = memtable.table.column(&query.using) else {
        return Found::default();
    };
    let mut allowed = match &query.filter {
        Some(filter) => memtable.select(filter),
        None => memtable.live.clone(),
    };
    allowed.intersect_with(present);
    let mut top = TopK::new(metric, query.params().k);
    let rows = RowSlice::new(query.vector.len(), rows);
    scan(metric, rows, 0..rows.len(), &query.vector, Some(&allowed), &mut top);
    let hits = top.into_sorted().into_iter();
    let allowed = allowed.count_ones(..);
    Found {
        candidates: hits
            .map(|hit| candidate(hit, memtable.source, memtable.table.id(hit.row)))
            .collect(),
        allowed,
        stats: SearchStats {
            exact: allowed,
            ..SearchStats::default()
        },
    }
}

/// The best live rows of a segment: through its index if it has one, else by comparison with every row.
///
/// # Errors
/// [`Miss`]: of what it looks at something was not read yet; or a payload is damaged, if there is a filter; [`Error::Timeout`] after the
/// deadline.
pub fn search_segment(segment: &SegmentSource, metric: Metric, query: &Query) -> Result<Found, Miss> {
    query.in_time()?;
    let Some(column) = segment.data.vectors.get(&query.using) else {
        return Ok(Found::default());
    };
    let mut filtered = query.filter.as_ref().map(|filter| segment.select(filter)).transpose()?;
    if let Some(present) = &column.present {
        filtered
            .get_or_insert_with(|| (*segment.live).clone())
            .intersect_with(present);
    }
    let allowed = filtered.as_ref().or(segment.restriction());
    let params = query.params();
    let mut stats = SearchStats::default();
    let flat = Flat::build(metric, &column.rows);
    let built = segment.indexes.get(&query.using);
    let index = built.map_or(&flat as &dyn VectorIndex, |index| &**index);
    let chosen = index.choose_for(&column.rows, &query.vector, &params, allowed, &mut stats);
    note_chosen(segment, column, &chosen, allowed, query).check()?;
    let hits = score(
        metric,
        &column.rows,
        &query.vector,
        params.k,
        allowed,
        &chosen,
        &mut stats,
    );
    let rows = allowed.map_or(column.rows.len(), |allowed| allowed.count_ones(..));
    Ok(Found {
        candidates: hits
            .into_iter()
            .map(|hit| candidate(hit, segment.source, segment.data.ids[hit.row as usize]))
            .collect(),
        allowed: rows,
        stats,
    })
}

/// What was not read yet of the index, or of the vectors that are to be compared. If there is any of these, also of the payloads of the
/// rows that an index has chosen, if they are wanted: most are among the answers, and both come in one round of requests.
fn note_chosen(
    segment: &SegmentSource,
    column: &VectorColumn,
    chosen: &Chosen,
    allowed: Option<&FixedBitSet>,
    query: &Query,
) -> Absent {
    let mut absent = Absent::default();
    if let (Chosen::Absent(ranges), Some(file)) = (chosen, segment.indexes.partial()) {
        ranges.iter().for_each(|range| absent.add(file, range.clone()));
        return absent;
    }
    let Some(file) = segment.data.partial() else {
        return absent;
    };
    let mut note = |row: usize| absent.note(file, bytemuck::cast_slice(column.rows.get(row)));
    match (chosen, allowed) {
        (Chosen::Rows(rows), _) => rows.iter().for_each(|row| note(*row as usize)),
        (_, Some(allowed)) => allowed.ones().take_while(|row| *row < column.rows.len()).for_each(note),
        (_, None) => absent.note(file, bytemuck::cast_slice(column.rows.as_slice())),
    }
    if let Chosen::Rows(rows) = chosen
        && !absent.is_empty()
        && query.select.payload != PayloadSelector::None
    {
        rows.iter()
            .for_each(|row| segment.data.note_payload(*row as usize, &mut absent));
    }
    absent
}

/// Merges what the sources found: best first, equal scores by id.
pub fn merge(metric: Metric, query: &Query, found: Vec<Candidate>) -> Vec<Candidate> {
    let good = |score: f32| match query.score_threshold {
        Some(threshold) if metric.larger_is_better() => score >= threshold,
        Some(threshold) => score <= threshold,
        None => true,
    };
    let mut found: Vec<Candidate> = found.into_iter().filter(|candidate| good(candidate.score)).collect();
    let order = |a: &Candidate, b: &Candidate| {
        let by_score = if metric.larger_is_better() {
            b.score.total_cmp(&a.score)
        } else {
            a.score.total_cmp(&b.score)
        };
        by_score.then(a.id.cmp(&b.id))
    };
    found.sort_unstable_by(order);
    found
}

fn candidate(hit: Hit, source: u32, id: PointId) -> Candidate {
    Candidate {
        id,
        score: hit.score,
        location: Location { source, row: hit.row },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hnsw_ef_becomes_an_effort_around_one() {
        let efforts = [1, 50, 100, 200, 1_000, usize::MAX].map(effort);
        assert!(efforts.is_sorted());
        assert_eq!((efforts[0], efforts[2], efforts[5]), (0.3, 1.0, 4.0));
        assert!((efforts[3] - 1.17).abs() < 1e-6);
    }
}

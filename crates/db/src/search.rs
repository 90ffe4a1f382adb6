//! What a search asks, what it answers, and how one source of rows is searched. Plain functions from values to values.

use proximadb_index::{Hit, Metric, RowSlice, SearchParams, TopK, scan};

use crate::error::Result;
use crate::filter::Filter;
use crate::payload::JsonPath;
use crate::point::{NamedVectors, Payload, PointId, Seq};
use crate::state::{Location, MemSource, SegmentSource};

/// Each source is asked for this many hits more than wanted, so that among equal scores at the cut the same ids are
/// kept whichever source their rows are in.
const TIE_MARGIN: usize = 8;

/// Graph candidates (`hnsw_ef`) that stand for one list of an inverted file.
const EF_PER_LIST: usize = 4;

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
    fn params(&self) -> SearchParams {
        // `hnsw_ef` counts candidates of a graph; a list holds many, so a fraction of it is the same effort.
        let probes = self.hnsw_ef.map(|ef| ef.div_ceil(EF_PER_LIST));
        SearchParams {
            k: self.wanted().saturating_add(TIE_MARGIN),
            probes,
            exact: self.exact,
        }
    }

    fn wanted(&self) -> usize {
        self.limit.saturating_add(self.offset)
    }
}

/// The best live rows of a memtable, by comparison with every row.
pub fn search_memtable(memtable: &MemSource, metric: Metric, query: &Query) -> Vec<Candidate> {
    let Some((rows, present)) = memtable.table.column(&query.using) else {
        return Vec::new();
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
    hits.map(|hit| candidate(hit, memtable.source, memtable.table.id(hit.row)))
        .collect()
}

/// The best live rows of a segment: through its index if it has one, else by comparison with every row.
///
/// # Errors
/// [`Error::Corruption`](crate::Error::Corruption) for a damaged payload, if there is a filter.
pub fn search_segment(segment: &SegmentSource, metric: Metric, query: &Query) -> Result<Vec<Candidate>> {
    let Some(column) = segment.data.vectors.get(&query.using) else {
        return Ok(Vec::new());
    };
    let mut filtered = query.filter.as_ref().map(|filter| segment.select(filter)).transpose()?;
    if let Some(present) = &column.present {
        filtered
            .get_or_insert_with(|| (*segment.live).clone())
            .intersect_with(present);
    }
    let allowed = filtered.as_ref().or(segment.restriction());
    let params = query.params();
    let hits = match segment.indexes.get(&query.using) {
        Some(index) => index.search(&column.rows, &query.vector, &params, allowed),
        None => {
            let mut top = TopK::new(metric, params.k);
            scan(
                metric,
                &column.rows,
                0..column.rows.len(),
                &query.vector,
                allowed,
                &mut top,
            );
            top.into_sorted()
        }
    };
    Ok(hits
        .into_iter()
        .map(|hit| candidate(hit, segment.source, segment.data.ids[hit.row as usize]))
        .collect())
}

/// Merges what the sources found: best first, equal scores by id, cut to what the query wants.
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
    found.into_iter().skip(query.offset).take(query.limit).collect()
}

fn candidate(hit: Hit, source: u32, id: PointId) -> Candidate {
    Candidate {
        id,
        score: hit.score,
        location: Location { source, row: hit.row },
    }
}

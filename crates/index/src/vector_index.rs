//! The seam of all index kinds, and the frame of their bytes.
//!
//! An index does not hold the vectors it was built over: the caller passes the same rows with every search, wherever they live.
//! Its bytes are the same for every kind:
//!
//! ```text
//! 0      8         10     11       12    16     20            n
//! │ magic │ version │ kind │ metric │ dim │ rows │ kind's own … │ CRC-32 of 0..n │    little endian
//! ```

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use fixedbitset::FixedBitSet;

use crate::metric::Metric;
use crate::rows::Rows;
use crate::scan::{scan, scan_ids};
use crate::topk::{Hit, TopK};

const MAGIC: &[u8; 8] = b"PXMINDEX";
const VERSION: u16 = 2;
pub(crate) const HEADER_BYTES: usize = 20;
const CHECKSUM_BYTES: usize = 4;

/// The kinds of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// Every row is looked at.
    Flat,
    /// Inverted file: rows grouped by similarity, and only the groups near the query are looked at.
    Ivf,
    /// Hierarchical navigable small world: a graph from rows to similar rows.
    Hnsw,
    /// An inverted file of many small groups, with a graph that leads to those near the query.
    Hybrid,
}

impl IndexKind {
    /// Its name in settings, files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Ivf => "ivf",
            Self::Hnsw => "hnsw",
            Self::Hybrid => "hybrid",
        }
    }
}

/// What to search for, besides the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchParams {
    /// Number of hits wanted.
    pub k: usize,
    /// How far to look, as a multiple of what the index found to be enough when it was built. More finds more, and takes longer.
    pub effort: f32,
    /// Look at every row.
    pub exact: bool,
}

impl SearchParams {
    /// The best `k`, with the default effort.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            effort: 1.0,
            exact: false,
        }
    }
}

/// What a search did; counts of several searches add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// Means of lists that were compared with the query.
    pub means: usize,
    /// Lists that were read.
    pub lists: usize,
    /// Rows whose codes were looked at first.
    pub codes: usize,
    /// Rows of these that were looked at more closely, by their byte codes.
    pub refined: usize,
    /// Rows that were scored exactly.
    pub exact: usize,
}

/// The rows of which an index cannot tell which are the best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// All that are allowed.
    All,
    /// These, all of them allowed.
    Rows(Vec<u32>),
    /// These ranges of its file have to be read first: see [`Presence`].
    Absent(Vec<Range<u64>>),
}

/// Knows which bytes of a file are there, that is read part by part.
pub trait Presence: fmt::Debug + Send + Sync {
    /// Where in the file a part of its bytes is, if not all of it was read yet.
    fn absent(&self, part: &[u8]) -> Option<Range<u64>>;
}

/// A search structure over immutable rows.
pub trait VectorIndex: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> IndexKind;

    /// The rows it was built over, as (number, dimension): a cheap check that an index and rows that were read from
    /// two files belong together.
    fn shape(&self) -> (usize, usize);

    /// How rows are compared.
    fn metric(&self) -> Metric;

    /// The rows among which the best `params.k` of those in `allowed` (of all without a set) are, to be scored exactly by
    /// [`score`]: the part of a search that the index alone answers. The set may be shorter or longer than the rows;
    /// rows it does not reach are not allowed. What was done is added to `stats`.
    ///
    /// # Panics
    /// If the query has another dimension than the rows.
    fn choose(
        &self,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Chosen;

    /// [`choose`](Self::choose) of these rows: of all, if the index was built over rows of another shape. Slow, never wrong.
    ///
    /// # Panics
    /// If the query has another dimension than the rows.
    fn choose_for(
        &self,
        rows: &Rows,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Chosen {
        if self.shape() == (rows.len(), rows.dim()) {
            self.choose(query, params, allowed, stats)
        } else {
            Chosen::All
        }
    }

    /// The best `params.k` of the rows that are in `allowed`, best first, ties by row, with exact scores.
    /// `rows` are the ones the index was built over.
    ///
    /// # Panics
    /// If the query has another dimension than the rows.
    fn search_counted(
        &self,
        rows: &Rows,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Vec<Hit> {
        let chosen = self.choose_for(rows, query, params, allowed, stats);
        score(self.metric(), rows, query, params.k, allowed, &chosen, stats)
    }

    /// [`search_counted`](Self::search_counted) without the counts.
    fn search(&self, rows: &Rows, query: &[f32], params: &SearchParams, allowed: Option<&FixedBitSet>) -> Vec<Hit> {
        self.search_counted(rows, query, params, allowed, &mut SearchStats::default())
    }

    /// The index as bytes for [`decode`](crate::decode); the rows are not part of them.
    fn encode(&self) -> Vec<u8>;

    /// Of these, those at the beginning that every search needs; `None` if it needs all of them.
    fn head_bytes(&self) -> Option<usize> {
        None
    }

    /// Bytes it holds in memory, without the rows.
    fn memory_bytes(&self) -> usize;

    /// What it is made of, in one line for people.
    fn describe(&self) -> String;
}

/// The best `k` of the rows that an index has chosen, by comparison with each. What was done is added to `stats`.
///
/// # Panics
/// If the query has another dimension than the rows, or a chosen row does not exist.
pub fn score(
    metric: Metric,
    rows: &Rows,
    query: &[f32],
    k: usize,
    allowed: Option<&FixedBitSet>,
    chosen: &Chosen,
    stats: &mut SearchStats,
) -> Vec<Hit> {
    let mut top = TopK::new(metric, k);
    match chosen {
        Chosen::All | Chosen::Absent(_) => {
            scan(metric, rows, 0..rows.len(), query, allowed, &mut top);
            stats.exact += allowed.map_or(rows.len(), |set| set.count_ones(..).min(rows.len()));
        }
        Chosen::Rows(chosen) => {
            stats.exact += chosen.len();
            for row in chosen {
                rows.as_row_slice().prefetch(*row);
            }
            scan_ids(metric, rows.as_row_slice(), chosen, query, None, &mut top);
        }
    }
    top.into_sorted()
}

/// Why bytes are not an index. All of them mean: build it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The bytes do not begin as an index does.
    #[error("not a ProximaDB index file")]
    NotAnIndex,
    /// Written by a newer release.
    #[error("index format version {0}, expected {VERSION}")]
    Version(u16),
    /// Bytes were changed or lost.
    #[error("damaged index: {0}")]
    Damaged(&'static str),
}

/// What every index file says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: IndexKind,
    pub metric: Metric,
    pub dim: usize,
    pub rows: usize,
}

/// Header, the kind's own bytes, checksum.
pub(crate) fn frame(header: &Header, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.push(match header.kind {
        IndexKind::Flat => 0,
        IndexKind::Ivf => 1,
        IndexKind::Hnsw => 2,
        IndexKind::Hybrid => 3,
    });
    bytes.push(match header.metric {
        Metric::Dot => 0,
        Metric::Euclidean => 1,
        Metric::Manhattan => 2,
    });
    bytes.extend_from_slice(&(header.dim as u32).to_le_bytes());
    bytes.extend_from_slice(&(header.rows as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Takes [`frame`]d bytes apart again; without a look at the checksum if not all of them are there.
///
/// # Errors
/// Every kind of [`IndexError`].
pub(crate) fn unframe(bytes: &Bytes, is_whole: bool) -> Result<(Header, Reader), IndexError> {
    let mut reader = Reader { rest: bytes.clone() };
    if !reader.take(MAGIC.len()).is_ok_and(|magic| *magic == *MAGIC) {
        return Err(IndexError::NotAnIndex);
    }
    let version = u16::from_le_bytes(reader.array()?);
    if version != VERSION {
        return Err(IndexError::Version(version));
    }
    let (covered, crc) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(IndexError::Damaged("cut short"))?;
    if is_whole && crc32(covered) != u32::from_le_bytes(*crc) {
        return Err(IndexError::Damaged("checksum"));
    }
    let [kind, metric] = reader.array()?;
    let kind = match kind {
        0 => IndexKind::Flat,
        1 => IndexKind::Ivf,
        2 => IndexKind::Hnsw,
        3 => IndexKind::Hybrid,
        _ => return Err(IndexError::Damaged("unknown kind")),
    };
    let metric = match metric {
        0 => Metric::Dot,
        1 => Metric::Euclidean,
        2 => Metric::Manhattan,
        _ => return Err(IndexError::Damaged("unknown metric")),
    };
    let (dim, rows) = (reader.u32()? as usize, reader.u32()? as usize);
    if dim == 0 {
        return Err(IndexError::Damaged("no dimensions"));
    }
    if covered.len() < HEADER_BYTES {
        return Err(IndexError::Damaged("cut short"));
    }
    let body = bytes.slice(HEADER_BYTES..covered.len());
    Ok((
        Header {
            kind,
            metric,
            dim,
            rows,
        },
        Reader { rest: body },
    ))
}

fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Reads values off the front of bytes that may be damaged.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    /// The next `count` bytes, shared with the whole.
    pub fn take(&mut self, count: usize) -> Result<Bytes, IndexError> {
        if count > self.rest.len() {
            return Err(IndexError::Damaged("cut short"));
        }
        Ok(self.rest.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let bytes = self.take(N)?;
        bytes.first_chunk().copied().ok_or(IndexError::Damaged("cut short"))
    }

    /// The next `u32`.
    pub fn u32(&mut self) -> Result<u32, IndexError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next float.
    pub fn f32(&mut self) -> Result<f32, IndexError> {
        self.array().map(f32::from_le_bytes)
    }

    /// The next `count` values. Reserves nothing that the bytes do not cover, whatever a damaged count says.
    pub fn u32s(&mut self, count: usize) -> Result<Vec<u32>, IndexError> {
        let bytes = self.take(count.checked_mul(4).ok_or(IndexError::Damaged("cut short"))?)?;
        Ok(bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes).collect())
    }

    /// The next `count` floats.
    pub fn f32s(&mut self, count: usize) -> Result<Vec<f32>, IndexError> {
        Ok(self.u32s(count)?.into_iter().map(f32::from_bits).collect())
    }

    /// # Errors
    /// `Damaged` if something is left.
    pub fn finish(self) -> Result<(), IndexError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(IndexError::Damaged("bytes after the end"))
        }
    }
}

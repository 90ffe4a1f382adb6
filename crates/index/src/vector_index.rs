//! The seam of all index kinds, and the frame of their bytes.
//!
//! An index does not hold the vectors it was built over: the caller passes the same rows with every search, wherever they live.
//! Its bytes are the same for every kind:
//!
//! ```text
//! 0      8         10     11       12    16     20            n
//! │ magic │ version │ kind │ metric │ dim │ rows │ kind's own … │ CRC-32 of 0..n │    little endian
//! ```

use crc_fast::{CrcAlgorithm, checksum};
use fixedbitset::FixedBitSet;

use crate::metric::Metric;
use crate::rows::Rows;
use crate::topk::Hit;

const MAGIC: &[u8; 8] = b"PXMINDEX";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 20;
const CHECKSUM_BYTES: usize = 4;

/// The kinds of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// Every row is looked at.
    Flat,
    /// Inverted file: rows grouped by similarity, and only the groups near the query are looked at.
    Ivf,
}

/// What to search for, besides the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchParams {
    /// Number of hits wanted.
    pub k: usize,
    /// How far to look: lists for IVF. `None` lets the index stop when looking further no longer pays.
    pub probes: Option<usize>,
    /// Look at every row.
    pub exact: bool,
}

impl SearchParams {
    /// The best `k`, with the default effort.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            probes: None,
            exact: false,
        }
    }
}

/// A search structure over immutable rows.
pub trait VectorIndex: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> IndexKind;

    /// The rows it was built over, as (number, dimension): a cheap check that an index and rows that were read from
    /// two files belong together.
    fn shape(&self) -> (usize, usize);

    /// The best `params.k` of the rows that are in `allowed` (of all without a set), best first, ties by row, with exact scores.
    /// The set may be shorter or longer than the rows; rows it does not reach are not allowed.
    /// `rows` are the ones the index was built over. Rows of another shape are scanned exactly: slow, never wrong.
    ///
    /// # Panics
    /// If the query has another dimension than the rows.
    fn search(&self, rows: &Rows, query: &[f32], params: &SearchParams, allowed: Option<&FixedBitSet>) -> Vec<Hit>;

    /// The index as bytes for [`decode`](crate::decode); the rows are not part of them.
    fn encode(&self) -> Vec<u8>;

    /// Bytes it holds in memory, without the rows.
    fn memory_bytes(&self) -> usize;
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

/// Takes [`frame`]d bytes apart again.
///
/// # Errors
/// Every kind of [`IndexError`].
pub(crate) fn unframe(bytes: &[u8]) -> Result<(Header, Reader<'_>), IndexError> {
    let mut reader = Reader { rest: bytes };
    if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
        return Err(IndexError::NotAnIndex);
    }
    let version = u16::from_le_bytes(reader.array()?);
    if version != VERSION {
        return Err(IndexError::Version(version));
    }
    let (covered, crc) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(IndexError::Damaged("cut short"))?;
    if crc32(covered) != u32::from_le_bytes(*crc) {
        return Err(IndexError::Damaged("checksum"));
    }
    let [kind, metric] = reader.array()?;
    let kind = match kind {
        0 => IndexKind::Flat,
        1 => IndexKind::Ivf,
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
    let body = covered.get(HEADER_BYTES..).ok_or(IndexError::Damaged("cut short"))?;
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
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], IndexError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(IndexError::Damaged("cut short"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(IndexError::Damaged("cut short"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `u32`.
    pub fn u32(&mut self) -> Result<u32, IndexError> {
        self.array().map(u32::from_le_bytes)
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

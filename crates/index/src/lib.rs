//! Vectors in memory: metrics, kernels, exact and approximate search. No I/O, no locks, no knowledge of files or collections.
//!
//! The caller owns the vectors ([`Rows`]) and passes them to every search; an index only says where to look:
//!
//! ```
//! use proximadb_index::{Ivf, Metric, Rows, SearchParams, VectorIndex, decode, kmeans};
//!
//! let rows = Rows::from_vec(2, (0..2000).map(|i| (i % 97) as f32).collect());
//! let clusters = kmeans::train(Metric::Euclidean, &rows, kmeans::cluster_count(rows.len()), 10, 42);
//! let index = Ivf::build(Metric::Euclidean, &rows, &clusters);
//! let index = decode(&index.encode().into())?;
//! let hits = index.search(&rows, &[5.0, 6.0], &SearchParams::new(10), None);
//! assert_eq!(hits[0].score, 0.0);
//! # Ok::<(), proximadb_index::IndexError>(())
//! ```
//!
//! The modules stand in the order of their use: each uses only those above it.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "the only module that needs it: kernels by std::arch")]
pub mod simd;
pub mod rows;
pub mod metric;
pub mod topk;
pub mod scan;
pub mod vector_index;
mod parallel;
mod rotation;
mod space;
mod byte_codes;
mod bit_codes;
pub mod flat;
pub mod recall;
pub mod kmeans;
mod truth;
mod graph;
pub mod hnsw;
pub mod ivf;

use std::sync::Arc;

use bytes::Bytes;

pub use bit_codes::bits_per_coordinate;
pub use flat::Flat;
pub use hnsw::{Hnsw, HnswParams};
pub use ivf::Ivf;
pub use metric::Metric;
pub use recall::recall_at_k;
pub use rows::{RowSlice, Rows};
pub use scan::scan;
pub use topk::{Hit, TopK};
pub use vector_index::{Chosen, IndexError, IndexKind, Presence, SearchParams, SearchStats, VectorIndex, score};

/// Reads an index of any kind from [`VectorIndex::encode`]d bytes. Codes are not copied: the index keeps the bytes, which may be a
/// memory map.
///
/// # Errors
/// Every kind of [`IndexError`]: the bytes are not an index, of a newer format, or damaged. In each case: build it again.
pub fn decode(bytes: &Bytes) -> Result<Box<dyn VectorIndex>, IndexError> {
    let (header, body) = vector_index::unframe(bytes, true)?;
    Ok(match header.kind {
        IndexKind::Flat => Box::new(Flat::decode(&header, body)?),
        IndexKind::Ivf | IndexKind::Hybrid => Box::new(Ivf::decode(&header, body, None)?),
        IndexKind::Hnsw => Box::new(Hnsw::decode(&header, body)?),
    })
}

/// The same of bytes of which only the first [`head_bytes`](VectorIndex::head_bytes) have to be there: of those, the caller knows that they
/// are what was written. A search says which of the others it needs ([`Chosen::Absent`]).
///
/// # Errors
/// As [`decode`]; also for an index that needs all of its bytes.
pub fn decode_partial(bytes: &Bytes, presence: Arc<dyn Presence>) -> Result<Box<dyn VectorIndex>, IndexError> {
    let (header, body) = vector_index::unframe(bytes, false)?;
    match header.kind {
        IndexKind::Ivf => Ok(Box::new(Ivf::decode(&header, body, Some(presence))?)),
        IndexKind::Flat | IndexKind::Hnsw | IndexKind::Hybrid => {
            Err(IndexError::Damaged("of a kind that is not read in parts"))
        }
    }
}

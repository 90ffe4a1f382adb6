//! The bytes of a graph index, after the frame of [`crate::vector_index`]; all numbers little endian, 4 bytes each:
//!
//! ```text
//! ef: f32 │ ef with a filter: f32 │ codes looked at: f32 │ margin: f32 │ length: f32
//! outliers │ outliers × row
//! centre: f32 × dim
//! graph: m │ linked rows │ rows above level 0 │ neighbours: rows × 2 m × row │ level by level above: m × place among the rows above
//! byte codes of the rows
//! ```

use super::{Hnsw, Tuning};
use crate::byte_codes::ByteCodes;
use crate::graph::Graph;
use crate::space::Space;
use crate::vector_index::{Header, IndexError, IndexKind, Reader, VectorIndex, frame};

pub(super) fn encode(index: &Hnsw) -> Vec<u8> {
    let mut body = Vec::with_capacity(index.memory_bytes());
    let mut put = |value: u32| body.extend_from_slice(&value.to_le_bytes());
    let Tuning {
        ef,
        ef_filtered,
        looked,
        margin,
        length,
    } = index.tuning;
    [ef, ef_filtered, looked, margin, length]
        .iter()
        .for_each(|value| put(value.to_bits()));
    put(index.outliers.len() as u32);
    index.outliers.iter().for_each(|row| put(*row));
    index.space.centre().iter().for_each(|value| put(value.to_bits()));
    index.graph.encode(&mut body);
    body.extend_from_slice(index.bytes.data());
    let header = Header {
        kind: IndexKind::Hnsw,
        metric: index.space.metric(),
        dim: index.space.dim(),
        rows: index.bytes.len(),
    };
    frame(&header, &body)
}

impl Hnsw {
    /// # Errors
    /// `Damaged` if a search could stumble over what the bytes say.
    pub(crate) fn decode(header: &Header, mut body: Reader) -> Result<Self, IndexError> {
        let tuning = Tuning {
            ef: body.f32()?,
            ef_filtered: body.f32()?,
            looked: body.f32()?,
            margin: body.f32()?,
            length: body.f32()?,
        };
        let count = body.u32()? as usize;
        let outliers = body.u32s(count)?;
        if outliers.iter().any(|row| *row as usize >= header.rows) {
            return Err(IndexError::Damaged("outliers that are no rows"));
        }
        let space = Space::new(header.metric, body.f32s(header.dim)?);
        let graph = Graph::decode(header.rows, &mut body)?;
        let size = header.rows.checked_mul(ByteCodes::stride(space.padded()));
        let codes = body.take(size.ok_or(IndexError::Damaged("cut short"))?)?;
        body.finish()?;
        Ok(Self {
            bytes: ByteCodes::of(space.padded(), codes),
            space,
            graph,
            outliers,
            tuning,
        })
    }
}

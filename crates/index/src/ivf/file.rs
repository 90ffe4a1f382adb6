//! The bytes of an IVF index, after the frame of [`crate::vector_index`]; all numbers little endian, 4 bytes each:
//!
//! ```text
//! lists │ members │ outliers │ has members │ reach │ reach wide │ slack │ margin │ length
//! centre: f32 × dim
//! lists × (start, end, first block, squared length: f32, radius: f32)
//! members × row, if there are            outliers × row
//! byte codes of the means │ blocks of bit codes │ byte codes of the members
//! the graph over the means (`hnsw/file.rs` draws it), if the index is a hybrid
//! ```

use std::sync::Arc;

use crate::bit_codes::BitCodes;
use crate::byte_codes::ByteCodes;
use crate::graph::Graph;
use crate::ivf::{Factors, Ivf, List, Tuning};
use crate::simd::codes::BLOCK_ROWS;
use crate::space::Space;
use crate::vector_index::{HEADER_BYTES, Header, IndexError, IndexKind, Presence, Reader, VectorIndex, frame};

/// Numbers before the centre.
const NUMBERS: usize = 9;
const NUMBERS_PER_LIST: usize = 5;

pub(super) fn encode(index: &Ivf) -> Vec<u8> {
    let mut body = Vec::with_capacity(index.memory_bytes());
    let mut put = |value: u32| body.extend_from_slice(&value.to_le_bytes());
    put(index.lists.len() as u32);
    put(index.bytes.len() as u32);
    put(index.outliers.len() as u32);
    put(u32::from(index.members.is_some()));
    let Tuning {
        reach,
        reach_wide,
        slack,
        margin,
        length,
    } = index.tuning;
    [reach, reach_wide, slack, margin, length]
        .iter()
        .for_each(|value| put(value.to_bits()));
    index.space.centre().iter().for_each(|value| put(value.to_bits()));
    for list in &index.lists {
        [list.start, list.end, list.block].into_iter().for_each(&mut put);
        put(list.squared.to_bits());
        put(list.radius.to_bits());
    }
    index.members.iter().flatten().for_each(|row| put(*row));
    index.outliers.iter().for_each(|row| put(*row));
    body.extend_from_slice(index.means.data());
    body.extend_from_slice(&index.blocks);
    body.extend_from_slice(index.bytes.data());
    if let Some(graph) = &index.router {
        graph.encode(&mut body);
    }
    let header = Header {
        kind: index.kind(),
        metric: index.space.metric(),
        dim: index.space.dim(),
        rows: index.rows,
    };
    frame(&header, &body)
}

/// Bytes of the encoded index before the blocks.
pub(super) fn head_bytes(index: &Ivf) -> usize {
    let members = index.members.as_ref().map_or(0, Vec::len) + index.outliers.len();
    let numbers = NUMBERS + index.space.dim() + index.lists.len() * NUMBERS_PER_LIST + members;
    HEADER_BYTES + numbers * 4 + index.means.data().len()
}

impl Ivf {
    /// With a `presence` blocks and bytes may be absent.
    ///
    /// # Errors
    /// `Damaged` if a search could stumble over what the bytes say.
    pub(crate) fn decode(
        header: &Header,
        mut body: Reader,
        presence: Option<Arc<dyn Presence>>,
    ) -> Result<Self, IndexError> {
        let damaged = IndexError::Damaged("lists do not fit the rows");
        let (lists, count, outliers) = (body.u32()? as usize, body.u32()? as usize, body.u32()? as usize);
        let has_members = body.u32()? != 0;
        let tuning = Tuning {
            reach: body.f32()?,
            reach_wide: body.f32()?,
            slack: body.f32()?,
            margin: body.f32()?,
            length: body.f32()?,
        };
        let space = Space::new(header.metric, body.f32s(header.dim)?);
        let bits = BitCodes::new(header.dim, space.padded());
        let mut read = Vec::new();
        let (mut member, mut block) = (0, 0);
        for _ in 0..lists {
            let [start, end, first] = [body.u32()?, body.u32()?, body.u32()?];
            let list = List {
                start,
                end,
                block: first,
                squared: body.f32()?,
                radius: body.f32()?,
            };
            // A search slices by these without asking again.
            if (start, first) != (member, block) || end < start {
                return Err(damaged);
            }
            member = end;
            block += ((end - start) as usize).div_ceil(BLOCK_ROWS) as u32;
            read.push(list);
        }
        let members = if has_members { Some(body.u32s(count)?) } else { None };
        let outliers = body.u32s(outliers)?;
        let in_range = members
            .iter()
            .flatten()
            .chain(&outliers)
            .all(|row| (*row as usize) < header.rows);
        if member as usize != count || count > header.rows || !in_range {
            return Err(damaged);
        }
        let stride = ByteCodes::stride(space.padded());
        let size = |count: usize, each: usize| count.checked_mul(each).ok_or(IndexError::Damaged("cut short"));
        let means = ByteCodes::of(space.padded(), body.take(size(lists, stride)?)?);
        let blocks = body.take(size(block as usize, bits.block_bytes())?)?;
        let bytes = ByteCodes::of(space.padded(), body.take(size(count, stride)?)?);
        let router = match header.kind {
            IndexKind::Hybrid => Some(Graph::decode(lists, &mut body)?),
            _ => None,
        };
        body.finish()?;
        Ok(Self {
            rows: header.rows,
            space,
            factors: Factors::new(&means, &read),
            means,
            lists: read,
            router,
            members,
            bits,
            blocks,
            bytes,
            outliers,
            tuning,
            presence,
        })
    }
}

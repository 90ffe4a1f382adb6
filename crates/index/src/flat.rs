//! The index that is none: every search looks at every row. The reference for all others.

use fixedbitset::FixedBitSet;

use crate::metric::Metric;
use crate::rows::Rows;
use crate::vector_index::{
    Chosen, Header, IndexError, IndexKind, Reader, SearchParams, SearchStats, VectorIndex, frame,
};

/// Exact search over all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flat {
    metric: Metric,
    rows: usize,
    dim: usize,
}

impl Flat {
    /// An index over these rows.
    pub fn build(metric: Metric, rows: &Rows) -> Self {
        Self {
            metric,
            rows: rows.len(),
            dim: rows.dim(),
        }
    }

    pub(crate) fn decode(header: &Header, body: Reader) -> Result<Self, IndexError> {
        body.finish()?;
        Ok(Self {
            metric: header.metric,
            rows: header.rows,
            dim: header.dim,
        })
    }
}

impl VectorIndex for Flat {
    fn kind(&self) -> IndexKind {
        IndexKind::Flat
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.dim)
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn choose(&self, _: &[f32], _: &SearchParams, _: Option<&FixedBitSet>, _: &mut SearchStats) -> Chosen {
        Chosen::All
    }

    fn encode(&self) -> Vec<u8> {
        let header = Header {
            kind: IndexKind::Flat,
            metric: self.metric,
            dim: self.dim,
            rows: self.rows,
        };
        frame(&header, &[])
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
    }

    fn describe(&self) -> String {
        format!("{} rows, each compared exactly", self.rows)
    }
}

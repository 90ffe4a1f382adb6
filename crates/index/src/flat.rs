//! The index that is none: every search looks at every row. The reference for all others.

use fixedbitset::FixedBitSet;

use crate::metric::Metric;
use crate::rows::Rows;
use crate::scan::{scan, scan_ids};
use crate::topk::{Hit, TopK};
use crate::vector_index::{Header, IndexError, IndexKind, Reader, SearchParams, SearchStats, VectorIndex, frame};

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

    fn search_counted(
        &self,
        rows: &Rows,
        query: &[f32],
        params: &SearchParams,
        allowed: Option<&FixedBitSet>,
        stats: &mut SearchStats,
    ) -> Vec<Hit> {
        scan_all(self.metric, rows, query, params.k, allowed, stats)
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

/// The best `k` of all allowed rows, by comparison with each.
pub(crate) fn scan_all(
    metric: Metric,
    rows: &Rows,
    query: &[f32],
    k: usize,
    allowed: Option<&FixedBitSet>,
    stats: &mut SearchStats,
) -> Vec<Hit> {
    let mut top = TopK::new(metric, k);
    scan(metric, rows, 0..rows.len(), query, allowed, &mut top);
    stats.exact += allowed.map_or(rows.len(), |set| set.count_ones(..).min(rows.len()));
    top.into_sorted()
}

/// The best `k` of these rows, by comparison with each.
pub(crate) fn scan_chosen(
    metric: Metric,
    rows: &Rows,
    query: &[f32],
    k: usize,
    chosen: &[u32],
    stats: &mut SearchStats,
) -> Vec<Hit> {
    stats.exact += chosen.len();
    for row in chosen {
        rows.as_row_slice().prefetch(*row);
    }
    let mut top = TopK::new(metric, k);
    scan_ids(metric, rows.as_row_slice(), chosen, query, None, &mut top);
    top.into_sorted()
}

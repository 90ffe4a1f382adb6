//! What a search uses and does, source by source.

use std::sync::Arc;

use proximadb_index::{Metric, SearchStats};

use super::read::is_asked;
use super::{Reads, Shard};
use crate::axis;
use crate::engine::segment::SegmentId;
use crate::error::Result;
use crate::root::RootId;
use crate::search::{self, Query};
use crate::state::SegmentSource;

/// What the sources of a shard are, and what a query did in each.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Rows that are not in a segment yet, all compared exactly.
    pub memtables: Vec<MemtableUse>,
    /// Segments.
    pub segments: Vec<SegmentUse>,
    /// What the query has read from buckets; on disks and in the cache nothing is counted.
    pub reads: Reads,
}

/// A memtable.
#[derive(Debug, Clone, PartialEq)]
pub struct MemtableUse {
    /// Its rows.
    pub rows: usize,
    /// Those that are the newest version of their point.
    pub live_rows: usize,
    /// What the query did.
    pub work: Option<Work>,
}

/// A segment and its index.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentUse {
    /// Its id.
    pub id: SegmentId,
    /// The root of its file.
    pub root: RootId,
    /// Bytes of its file.
    pub bytes: u64,
    /// Its rows.
    pub rows: usize,
    /// Those that are the newest version of their point.
    pub live_rows: usize,
    /// Its indexes, by vector space.
    pub indexes: Vec<IndexUse>,
    /// Why it has these, or none.
    pub reason: String,
    /// Whether they are still being built.
    pub waits_for_index: bool,
    /// What the query did; `None` without a query, and for segments that it left out.
    pub work: Option<Work>,
}

/// The index of a vector space of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexUse {
    /// The vector space.
    pub space: String,
    /// `ivf`, …
    pub kind: &'static str,
    /// What it is made of.
    pub description: String,
    /// Bytes that it holds in memory.
    pub memory_bytes: usize,
    /// Its file, below each of its roots.
    pub file: String,
    /// The roots with a copy of the file; none until it is stored.
    pub roots: Vec<RootId>,
}

/// What a query did in one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Rows that it could find: live, of the vector space, matching the filter.
    pub allowed: usize,
    /// Hits that it brought into the merge.
    pub found: usize,
    /// What was looked at.
    pub stats: SearchStats,
}

impl From<search::Found> for Work {
    fn from(found: search::Found) -> Self {
        Self {
            allowed: found.allowed,
            found: found.candidates.len(),
            stats: found.stats,
        }
    }
}

impl Shard {
    /// What a search uses; with a query and its metric also what that did.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] for a damaged row.
    pub async fn explain(self: &Arc<Self>, query: Option<(&Query, Metric)>) -> Result<Explanation> {
        let mut reads = Reads::default();
        if let Some((query, metric)) = query {
            // As it is answered, so that what the sources do below finds everything there.
            reads = self.look(|| self.search_present(query, metric)).await?.1;
        }
        let memtables = {
            let state = self.state.read();
            let memtables = state.memtables().map(|memtable| MemtableUse {
                rows: memtable.live.len(),
                live_rows: memtable.live.count_ones(..),
                work: query.map(|(query, metric)| search::search_memtable(memtable, metric, query).into()),
            });
            memtables.collect()
        };
        let mut segments = Vec::new();
        for segment in self.segments() {
            segments.push(self.explain_segment(&segment, query).await?);
        }
        Ok(Explanation {
            memtables,
            segments,
            reads,
        })
    }

    async fn explain_segment(
        self: &Arc<Self>,
        segment: &SegmentSource,
        query: Option<(&Query, Metric)>,
    ) -> Result<SegmentUse> {
        let description = self.description();
        let asked = query.filter(|(query, _)| is_asked(segment, query, &description.schema));
        let found = match asked {
            Some((query, metric)) => {
                let search = || {
                    // A file that it lacks may be replaced by another meanwhile.
                    let now = self.segments().into_iter().find(|now| now.source == segment.source);
                    search::search_segment(now.as_ref().unwrap_or(segment), metric, query)
                };
                Some(self.look(search).await?.0)
            }
            None => None,
        };
        let mut indexes = Vec::new();
        for (space, index) in segment.indexes.iter() {
            let (file, roots) = match axis::type_of(index.kind()) {
                Some(of) => self.axis.copies(segment.meta.id, of).await,
                None => Default::default(),
            };
            indexes.push(IndexUse {
                space: space.clone(),
                kind: index.kind().name(),
                description: index.describe(),
                memory_bytes: index.memory_bytes(),
                file,
                roots,
            });
        }
        Ok(SegmentUse {
            id: segment.meta.id,
            root: segment.meta.root_id,
            bytes: segment.meta.bytes,
            rows: segment.data.len(),
            live_rows: segment.live_rows,
            indexes,
            reason: axis::reason(&segment.data, &segment.indexes, &description.schema),
            waits_for_index: segment.indexes.is_empty() && axis::wants_index(&segment.data, &description.schema),
            work: found.map(Work::from),
        })
    }
}

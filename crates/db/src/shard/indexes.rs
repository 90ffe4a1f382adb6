//! The index files of the shard in use: indexes built, attached and repaired; rows mapped, verified, and brought back from the
//! segments where their file is lost.
//!
//! The files are written by [`Axis`]. Wherever one is stored on a disk the shard works on it, not on what it was made from: so
//! memory is free again as soon as a segment is indexed, and what runs is what was saved.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use super::Shard;
use super::building::BuildReservation;
use super::engine::Engine;
use crate::axis::{self, Attached, Loaded, SegmentIndexes};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{Place, SegmentId};
use crate::error::Result;
use crate::root::{IndexType, Root};
use crate::state::{SegmentSource, SourceId};

impl Shard {
    /// Attaches the indexes that were loaded, and builds those that are missing in the background. Rows that were mapped are
    /// verified there.
    pub(super) async fn attach_indexes(self: &Arc<Self>, mut loaded: BTreeMap<SegmentId, SegmentIndexes>) {
        let segments = self.segments();
        self.verify_in_background(&segments).await;
        let mut missing = Vec::new();
        let schema = self.description().schema.clone();
        for segment in segments
            .into_iter()
            .filter(|segment| axis::wants_index(&segment.data, &schema))
        {
            match loaded.remove(&segment.meta.id) {
                Some(indexes) => self.state.write().set_indexes(segment.source, indexes),
                None => missing.push(segment.source),
            }
        }
        self.index_in_background(missing, None);
        let shard = self.clone();
        tokio::spawn(async move { shard.repair_indexes().await });
    }

    /// Brings back copies of index files that are missing or damaged, and deletes those of segments that are gone.
    /// Cheap when nothing is missing: one listing of each index root. Returns the number of files written.
    pub async fn repair_indexes(self: &Arc<Self>) -> usize {
        if self.take_over().await.is_err() {
            return 0;
        }
        let attached = |segment: SegmentSource| Attached {
            segment: segment.meta,
            indexes: segment.indexes,
            rows: segment.data,
        };
        let attached = || self.segments().into_iter().map(attached).collect();
        let repaired = self.axis.repair(&self.description(), attached).await;
        if repaired.written > 0 || repaired.misplaced {
            self.work_on_files().await;
        }
        repaired.written
    }

    /// Builds the indexes of these segments and stores their files, one after the other, while they are searched exactly; in memory that is
    /// `reserved` for all of them, or set aside for each.
    pub(super) fn index_in_background(self: &Arc<Self>, sources: Vec<SourceId>, reserved: Option<BuildReservation>) {
        let schema = self.description().schema.clone();
        let wanted = |segment: &SegmentSource| {
            sources.contains(&segment.source)
                && (axis::wants_index(&segment.data, &schema) || axis::wants_rows(&segment.data))
        };
        let segments: Vec<SegmentSource> = self.segments().into_iter().filter(wanted).collect();
        if !segments.is_empty() {
            let shard = self.clone();
            tokio::spawn(async move {
                if shard.take_over().await.is_err() {
                    return;
                }
                drop(shard.unverified.read().await);
                for segment in segments {
                    let bytes = segment.meta.data_bytes;
                    let _own = match reserved {
                        Some(_) => None,
                        None => shard.options.build_memory.reserve(bytes).await.ok(),
                    };
                    shard.index(segment.source).await;
                }
                drop(reserved);
            });
        }
    }

    /// Builds, attaches and stores the index of a segment, and its rows. A failure is logged: the segment is searched exactly.
    async fn index(self: &Arc<Self>, source: SourceId) {
        let segment = self.segments().into_iter().find(|segment| segment.source == source);
        let Some(mut segment) = segment else { return };
        let description = self.description();
        segment.data = match self.whole(&segment).await {
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(%error, segment = %segment.meta.id, "no index: its rows cannot be read");
                return;
            }
        };
        let (data, of) = (segment.data.clone(), description.clone());
        let Ok(indexes) = tokio::task::spawn_blocking(move || axis::build(&data, &of.schema)).await else {
            tracing::error!(segment = %segment.meta.id, "index build panicked");
            return;
        };
        self.state.write().set_indexes(source, indexes.clone());
        segment.indexes = indexes;
        let wanted = || self.wants_files_of(source);
        let saved = self
            .axis
            .save(&segment.meta, &description, &segment.indexes, &segment.data, wanted);
        if let Err(error) = saved.await {
            tracing::warn!(%error, segment = %segment.meta.id, "index is in memory only; it is built again after a restart");
        }
        self.attach_files(slice::from_ref(&segment), None).await;
        self.options.bucket_memory.check(&self.runtime);
    }

    /// Whether a file that is made of a segment is still of use when its turn comes to be written.
    fn wants_files_of(&self, source: SourceId) -> bool {
        !self.is_closed() && self.state.read().segments().any(|segment| segment.source == source)
    }

    /// Whether rows can be read from index files again. Those of a tree that were once in a file on a bucket could not be brought back.
    pub(super) fn rows_are_in_files(&self) -> bool {
        matches!(self.engine, Engine::Viper)
    }

    /// Works on the files of segments as far as they are there, and returns which; not on those of the root with the URL to `avoid`.
    /// Rows and indexes in memory stay there, unless a disk has them: of a bucket they would have to be read again.
    pub(super) async fn attach_files(
        &self,
        segments: &[SegmentSource],
        avoid: Option<&str>,
    ) -> BTreeSet<(SegmentId, IndexType)> {
        self.attach(segments, avoid, false).await
    }

    /// The same; `from_buckets`: files on buckets take the place of what is in memory, too.
    pub(super) async fn attach(
        &self,
        segments: &[SegmentSource],
        avoid: Option<&str>,
        from_buckets: bool,
    ) -> BTreeSet<(SegmentId, IndexType)> {
        let metas: Vec<SegmentMeta> = segments.iter().map(|segment| segment.meta.clone()).collect();
        let ids = |wanted: &dyn Fn(&SegmentSource) -> bool| -> BTreeSet<SegmentId> {
            let segments = segments.iter().filter(|segment| wanted(segment));
            segments.map(|segment| segment.meta.id).collect()
        };
        let rows = ids(&|segment| self.rows_are_in_files() && (from_buckets || segment.data.is_in_file()));
        // Indexes are mapped where rows are.
        let indexes = ids(&|segment| {
            let is_in_file = segment.indexes.partial().is_some() || segment.data.is_in_file();
            from_buckets || segment.indexes.is_empty() || is_in_file
        });
        let wanted = |root: &Root, (id, of): (SegmentId, IndexType)| {
            let in_files = if of == IndexType::Idx { &rows } else { &indexes };
            (root.fs().is_local() || in_files.contains(&id)) && avoid.is_none_or(|avoid| root.url() != avoid)
        };
        let Loaded { mut indexes, mut rows } = self.axis.load(&metas, wanted).await;
        let mut attached = BTreeSet::new();
        for segment in segments {
            let (indexes, rows) = (indexes.remove(&segment.meta.id), rows.remove(&segment.meta.id));
            let mut state = self.state.write();
            if let Some(indexes) = indexes {
                let types = indexes.values().filter_map(|index| axis::type_of(index.kind()));
                attached.extend(types.map(|of| (segment.meta.id, of)));
                state.set_indexes(segment.source, indexes);
            }
            if let Some(rows) = rows {
                attached.insert((segment.meta.id, IndexType::Idx));
                state.set_rows(segment.source, rows);
            }
        }
        attached
    }

    /// Works on the files that are there now: after a repair or a move they are others than before, and what was mapped then may
    /// be the last that is left of a deleted file.
    pub(super) async fn work_on_files(self: &Arc<Self>) {
        let segments = self.segments();
        let attached = self.attach_files(&segments, None).await;
        for segment in segments {
            if segment.data.is_in_file() && !attached.contains(&(segment.meta.id, IndexType::Idx)) {
                self.restore_or_warn(&segment).await;
            }
            if segment.indexes.partial().is_some() && !attached.contains(&(segment.meta.id, IndexType::Ivf)) {
                self.drop_indexes(&segment);
            }
        }
    }

    /// Searches a segment exactly until its indexes are built anew.
    pub(super) fn drop_indexes(self: &Arc<Self>, segment: &SegmentSource) {
        self.state
            .write()
            .set_indexes(segment.source, SegmentIndexes::default());
        self.index_in_background(vec![segment.source], None);
    }

    /// Reads mapped rows through once, and brings those back from their segments that are damaged.
    async fn verify_in_background(self: &Arc<Self>, segments: &[SegmentSource]) {
        let is_mapped = |segment: &&SegmentSource| matches!(segment.data.place, Place::Mapped);
        let mapped: Vec<SegmentSource> = segments.iter().filter(is_mapped).cloned().collect();
        if mapped.is_empty() {
            return;
        }
        let (shard, unverified) = (self.clone(), self.unverified.clone().write_owned().await);
        tokio::spawn(async move {
            for segment in mapped {
                if !shard.axis.verify_rows(segment.meta.id, || !shard.is_closed()).await {
                    shard.restore_or_warn(&segment).await;
                }
            }
            drop(unverified);
        });
    }

    async fn restore_or_warn(&self, segment: &SegmentSource) {
        if let Err(error) = self.restore_rows(segment).await {
            tracing::error!(%error, segment = %segment.meta.id, "the rows of a segment cannot be brought back from its file");
        }
    }

    /// Reads the rows of a segment again, and stores them as a file. Those of an LSM are not read again: their files are made
    /// anew at every opening.
    async fn restore_rows(&self, segment: &SegmentSource) -> Result<()> {
        self.read_rows(segment).await?;
        self.take_over().await?;
        let now = self.segments().into_iter().find(|now| now.source == segment.source);
        if let Some(now) = now {
            let wanted = || self.wants_files_of(now.source);
            let (description, nothing) = (self.description(), SegmentIndexes::default());
            self.axis
                .save(&now.meta, &description, &nothing, &now.data, wanted)
                .await?;
            self.attach_files(slice::from_ref(&now), None).await;
        }
        Ok(())
    }
}

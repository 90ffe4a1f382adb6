//! Putting segments in force: the manifest names them, then they take over their rows in memory.
//!
//! A commit whose outcome is unknown (the disk failed after the file may have become visible) is not given up and not
//! repeated under another content: it is kept, and finished before the next one.

use std::sync::Arc;

use super::Shard;
use super::building::BuildReservation;
use crate::engine::manifest::{Manifest, SegmentMeta};
use crate::error::Result;
use crate::point::Seq;
use crate::state::{NewSegment, SegmentSource, SourceId};

/// Rows adopted under one hold of the state's lock, so that searches and writes get their turn.
const ADOPT_ROWS: usize = 8_192;

/// Segments to be put in force.
pub(super) struct Commit {
    /// The new segments with the origins of their rows.
    pub segments: Vec<NewSegment>,
    /// Operations through this one are in segments afterwards.
    pub flushed_seq: Seq,
    /// What they replace.
    pub takeover: Takeover,
    /// Memory that is set aside for the rows until their indexes are built and they are in files.
    pub reserved: Option<BuildReservation>,
}

/// What new segments take the rows of.
pub(super) enum Takeover {
    /// The frozen memtable.
    Frozen,
    /// Other segments.
    Segments(Vec<SegmentSource>),
    /// Nothing: these segments are named as they are now, on other roots.
    Relocated(Vec<SegmentMeta>),
}

/// The newest manifest, and a commit that may or may not have become the next one.
pub(super) struct Ledger {
    /// The manifest in force.
    pub manifest: Manifest,
    /// A manifest that was tried, with what it puts in force.
    pub unfinished: Option<(Manifest, Commit)>,
}

impl Shard {
    /// Puts segments in force. From here on they are the durable home of their rows.
    ///
    /// # Errors
    /// Errors of the root; then [`finish_commit`](Self::finish_commit) tries it again.
    pub(super) async fn commit(self: &Arc<Self>, commit: Commit) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        self.finish(&mut ledger).await?;
        let mut segments = ledger.manifest.segments.clone();
        match &commit.takeover {
            Takeover::Frozen => {}
            Takeover::Segments(inputs) => {
                segments.retain(|segment| inputs.iter().all(|input| input.meta.id != segment.id));
            }
            Takeover::Relocated(metas) => {
                for segment in &mut segments {
                    if let Some(meta) = metas.iter().find(|meta| meta.id == segment.id) {
                        *segment = meta.clone();
                    }
                }
            }
        }
        segments.extend(commit.segments.iter().map(|segment| segment.meta.clone()));
        let flushed_seq = commit.flushed_seq.max(ledger.manifest.flushed_seq);
        let description = (*self.description()).clone();
        let next = ledger.manifest.next(description, flushed_seq, segments);
        ledger.unfinished = Some((next, commit));
        self.finish(&mut ledger).await
    }

    /// Finishes a commit that failed earlier, if there is one.
    ///
    /// # Errors
    /// Errors of the root; it is kept.
    pub(super) async fn finish_commit(self: &Arc<Self>) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        self.finish(&mut ledger).await
    }

    pub(super) async fn finish(self: &Arc<Self>, ledger: &mut Ledger) -> Result<()> {
        let Some((manifest, commit)) = &ledger.unfinished else {
            return Ok(());
        };
        self.persist(manifest, commit).await?;
        let Some((manifest, commit)) = ledger.unfinished.take() else {
            return Ok(());
        };
        ledger.manifest = manifest;
        self.put_in_force(commit);
        Ok(())
    }

    fn put_in_force(self: &Arc<Self>, commit: Commit) {
        let mut added = Vec::with_capacity(commit.segments.len());
        for segment in commit.segments {
            let rows = segment.origins.len();
            let source = self.state.write().add_segment(segment.meta, segment.data);
            for start in (0..rows).step_by(ADOPT_ROWS) {
                self.state
                    .write()
                    .adopt(source, start..rows.min(start + ADOPT_ROWS), &segment.origins);
            }
            added.push(source);
        }
        match commit.takeover {
            Takeover::Frozen => {
                let freed = self.state.write().drop_frozen();
                self.options.budget.release(freed);
            }
            Takeover::Segments(inputs) => {
                let sources: Vec<SourceId> = inputs.iter().map(|input| input.source).collect();
                self.state.write().drop_segments(&sources);
                let replaced = inputs.into_iter().map(|input| input.meta);
                self.replaced.lock().extend(replaced);
            }
            Takeover::Relocated(metas) => self.state.write().relocate(metas),
        }
        self.index_in_background(added, commit.reserved);
    }

    /// Deletes the files of segments that no manifest names any more.
    ///
    /// # Errors
    /// Errors of the roots; what is left is deleted later.
    pub(super) async fn delete_replaced(&self) -> Result<()> {
        let next = || -> Option<SegmentMeta> { self.replaced.lock().last().cloned() };
        while let Some(meta) = next() {
            self.delete_segment(&meta).await?;
            self.axis.delete(meta.id).await;
            self.replaced.lock().retain(|other| other.id != meta.id);
        }
        Ok(())
    }
}

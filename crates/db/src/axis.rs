//! AXIS: the vector indexes of segments, as files on the index roots.
//!
//! Owns which segments get an index, how it is built, and its files: which roots hold copies of them, and bringing copies
//! back that are lost. Everything here is derived: a file that is lost, damaged or stale is copied from another root or built
//! again from the segment, and until then the segment is searched exactly. So no failure of an index root is one of
//! the shard.
//!
//! ```text
//! <index root>/<collection id>/<shard>/<segment id>.<ivf | hnsw>      one file of a segment for each type of index
//! <index root>/<collection id>/<shard>/<segment id>.idx               its rows as they are searched
//!
//! open     one listing of every root: who holds what
//! load     the first good copy; bad ones are noted
//! save     to every home of the type at once; done when one has it
//! repair   one listing of every root, then what is missing or bad is written from a good copy, or from memory
//! move     file after file to the new root, read back and compared; then it is the home; then the old root is cleared
//! ```
//!
//! All changes of files happen under one lock, and whether a segment is still there is asked under it: so the files of a
//! segment that is gone are never written again.

mod choose;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod homes;
mod moves;
mod places;
mod read;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use proximadb_index::{Hnsw, IndexKind, Ivf, VectorIndex, kmeans};
use tokio::sync::Mutex as AsyncMutex;

use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{SegmentData, SegmentId};
use crate::engine::viper::cpu;
use crate::error::{Error, Result};
use crate::root::{IndexType, Root, RootId, RootState};
use crate::schema::{CollectionDescription, CollectionId, IndexChoice, Schema, StorageEngineKind};

pub use choose::reason;
use choose::{ROWS_MIN, choose};
use file::Identity;
pub use file::{SegmentIndexes, check, parse_name, type_of};
pub use homes::IndexHomes;
use places::{Copy, FileKey, Places, list};
pub use read::Loaded;

/// Rounds of k-means for vector spaces that the rows are not sorted by, and any fixed number.
const ITERATIONS: usize = 10;
const SEED: u64 = 1;

/// The index files of one shard.
pub struct Axis {
    collection: CollectionId,
    directory: String,
    places: AsyncMutex<Places>,
}

/// Whether a segment is to be indexed: it is large enough, and its collection did not ask for none.
pub fn wants_index(data: &SegmentData, schema: &Schema) -> bool {
    let is_large = data.len() >= ROWS_MIN;
    match schema.index() {
        IndexChoice::Flat => false,
        IndexChoice::Hnsw => is_large,
        IndexChoice::Auto | IndexChoice::Ivf | IndexChoice::Hybrid => is_large && data.clustering.is_some(),
    }
}

/// Builds an index for each vector space of a segment that is to be indexed; lists over the clusters that its rows are sorted by, or over
/// clusters of its own.
/// CPU work on all cores; no I/O.
pub fn build(data: &SegmentData, schema: &Schema) -> SegmentIndexes {
    if !wants_index(data, schema) {
        return SegmentIndexes::default();
    }
    let indexable = data.vectors.iter().filter_map(|(name, column)| {
        let (metric, rows) = (schema.vectors.get(name)?.distance.metric(), &column.rows);
        let clusters = || {
            let count = kmeans::cluster_count(rows.len());
            let of_its_own = || kmeans::train(metric, rows, count, ITERATIONS, SEED);
            data.clusters(name).unwrap_or_else(of_its_own)
        };
        let (kind, _) = choose(schema.index(), rows.len(), rows.dim());
        let index: Box<dyn VectorIndex> = match kind {
            IndexKind::Flat => return None,
            IndexKind::Ivf => Box::new(Ivf::build(metric, rows, &clusters())),
            IndexKind::Hybrid => Box::new(Ivf::hybrid(metric, rows, &clusters())),
            IndexKind::Hnsw => Box::new(Hnsw::build(metric, rows, column.present.as_ref(), schema.hnsw(name))),
        };
        Some((name.clone(), index))
    });
    indexable.collect::<BTreeMap<_, _>>().into()
}

/// Whether the rows of a segment are stored as an index file: there are enough to be worth one.
pub fn wants_rows(data: &SegmentData) -> bool {
    data.len() >= ROWS_MIN
}

/// The files of a segment by type, each in pieces that follow each other. Of rows that lie in a file none is made, nor of indexes of which
/// parts may not be there.
fn encode(of: &Identity, indexes: &SegmentIndexes, rows: &SegmentData) -> Result<BTreeMap<IndexType, Vec<Bytes>>> {
    let mut files = match indexes.partial() {
        Some(_) => BTreeMap::new(),
        None => file::encode(of.clone(), indexes)?,
    };
    if wants_rows(rows) && !rows.is_in_file() {
        files.insert(IndexType::Idx, rows::encode(of.clone(), rows)?);
    }
    Ok(files)
}

/// A segment of an open shard, with what its files are made of.
pub struct Attached {
    /// What the manifest says of it.
    pub segment: SegmentMeta,
    /// Its indexes.
    pub indexes: SegmentIndexes,
    /// Its rows.
    pub rows: Arc<SegmentData>,
}

/// What a repair did, and what it could not do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Files that were written.
    pub written: usize,
    /// Whether the rows of a segment are in memory although a disk has a file of them, or rows or indexes lie in a file that is gone.
    pub misplaced: bool,
}

impl Axis {
    /// The index files of a shard, after one listing of every root. Roots that cannot be listed are looked at again by
    /// [`repair`](Self::repair).
    pub async fn open(homes: IndexHomes, collection: CollectionId, shard: &str) -> Self {
        let mut places = Places {
            homes,
            files: BTreeMap::new(),
            listed: BTreeSet::new(),
            closed: false,
        };
        let directory = format!("{collection}/{shard}");
        list(&mut places, collection, &directory).await;
        Self {
            collection,
            directory,
            places: AsyncMutex::new(places),
        }
    }

    /// Takes over where files belong, as a changed record says.
    pub async fn set_homes(&self, homes: IndexHomes) {
        self.places.lock().await.homes = homes;
    }

    /// Stores the indexes of a segment, and its rows if there are enough of them, if it is still `wanted` when its turn comes.
    /// Done when one root has each file; further copies follow by [`repair`](Self::repair).
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] or [`Error::StorageFull`] of the index roots; the segment stays searchable.
    pub async fn save(
        &self,
        segment: &SegmentMeta,
        of: &CollectionDescription,
        indexes: &SegmentIndexes,
        rows: &Arc<SegmentData>,
        wanted: impl FnOnce() -> bool + Send,
    ) -> Result<()> {
        let identity = Identity::new(&self.directory, segment, of);
        let (indexes, rows) = (indexes.clone(), rows.clone());
        let files = cpu(move || encode(&identity, &indexes, &rows)).await??;
        let mut places = self.places.lock().await;
        if places.closed || !wanted() {
            return Ok(());
        }
        for (kind, pieces) in files {
            let key = (segment.id, kind);
            let targets = self.lacking(&places, key, &BTreeSet::new(), of);
            if kind == IndexType::Idx && targets.is_empty() {
                continue;
            }
            let saved = self.write(&mut places, key, &targets, &pieces).await;
            // What was saved before has other content.
            let copies = places.files.get(&key).into_iter().flatten().map(|(root, _)| *root);
            let others: Vec<RootId> = copies
                .filter(|root| targets.iter().all(|target| target.id() != *root))
                .collect();
            for root in others {
                self.delete_copy(&mut places, key, root).await;
            }
            saved?;
        }
        Ok(())
    }

    /// Deletes the index files of a segment wherever they are. What cannot be deleted now is deleted by a later
    /// [`repair`](Self::repair).
    pub async fn delete(&self, segment: SegmentId) {
        let mut places = self.places.lock().await;
        self.retain(&mut places, |other| other != segment).await;
    }

    /// Brings back copies that are missing or bad, and deletes the files of segments that are gone: a crash may have come between
    /// the deletion of a segment and that of its index. `attached` gives the segments of the shard with their indexes and rows.
    pub async fn repair(
        &self,
        of: &CollectionDescription,
        attached: impl FnOnce() -> Vec<Attached> + Send,
    ) -> Repaired {
        let mut repaired = Repaired::default();
        let mut places = self.places.lock().await;
        if places.closed {
            return repaired;
        }
        let attached = attached();
        list(&mut places, self.collection, &self.directory).await;
        let ids: BTreeSet<SegmentId> = attached.iter().map(|attached| attached.segment.id).collect();
        self.retain(&mut places, |segment| ids.contains(&segment)).await;
        for attached in &attached {
            if let Err(error) = self.repair_segment(&mut places, of, attached, &mut repaired).await {
                tracing::warn!(%error, segment = %attached.segment.id, "index files not repaired");
            }
        }
        repaired
    }

    async fn repair_segment(
        &self,
        places: &mut Places,
        of: &CollectionDescription,
        attached: &Attached,
        repaired: &mut Repaired,
    ) -> Result<()> {
        let Attached { segment, indexes, rows } = attached;
        let mut kinds = file::types(indexes);
        kinds.extend(wants_rows(rows).then_some(IndexType::Idx));
        for kind in kinds {
            let key = (segment.id, kind);
            let holders = places.holders(key);
            let in_file = match kind {
                IndexType::Idx => rows.is_in_file(),
                _ => indexes.partial().is_some(),
            };
            repaired.misplaced |= kind == IndexType::Idx && !in_file && places.is_on_disk(&holders);
            let mut targets = self.lacking(places, key, &holders, of);
            // Others would refuse the file, each time anew.
            targets.retain(|root| matches!(root.state(), RootState::Online | RootState::Draining));
            if targets.is_empty() {
                continue;
            }
            let pieces = match self.read(places, key, Some(segment)).await {
                Some(bytes) => vec![bytes],
                // It is the file that was found to be bad, or one that is gone.
                None if in_file => {
                    repaired.misplaced = true;
                    continue;
                }
                None => {
                    let of = Identity::new(&self.directory, segment, of);
                    let (indexes, rows) = (indexes.clone(), rows.clone());
                    let mut files = cpu(move || encode(&of, &indexes, &rows)).await??;
                    files.remove(&kind).unwrap_or_default()
                }
            };
            self.write(places, key, &targets, &pieces).await?;
            tracing::info!(segment = %segment.id, kind = kind.name(), copies = targets.len(), "index file repaired");
            repaired.written += targets.len();
        }
        Ok(())
    }

    /// The roots that hold good copies of a segment's file, and its name.
    pub async fn copies(&self, segment: SegmentId, of: IndexType) -> (String, Vec<RootId>) {
        let key = (segment, of);
        (
            self.path(key),
            self.places.lock().await.holders(key).into_iter().collect(),
        )
    }

    /// Notes that the copy of a file on the root of this URL is lost or damaged.
    pub async fn note_bad(&self, key: (SegmentId, IndexType), url: &str) {
        let mut places = self.places.lock().await;
        if let Some(root) = places.homes.all().into_iter().find(|root| root.url() == url) {
            places.mark_bad(key, root.id());
        }
    }

    /// Waits for the file that is being written; none is written or repaired afterwards.
    pub async fn close(&self) {
        self.places.lock().await.closed = true;
    }

    fn path(&self, (segment, of): FileKey) -> String {
        format!("{}/{}", self.directory, file::name(segment, of))
    }

    /// The roots that should hold a copy besides those that do. The rows of a tree are read from the tree at every opening: on a disk they
    /// are stored to be out of memory, on a bucket they would be so for nothing.
    fn lacking(
        &self,
        places: &Places,
        key: FileKey,
        holders: &BTreeSet<RootId>,
        of: &CollectionDescription,
    ) -> Vec<Arc<Root>> {
        let (file, number) = (file::name(key.0, key.1), places.files.len() as u64);
        let mut lacking = places.homes.lacking(key.1, self.collection, &file, number, holders);
        if key.1 == IndexType::Idx && of.schema.storage_engine == StorageEngineKind::Lsm {
            lacking.retain(|root| root.fs().is_local());
        }
        lacking
    }

    /// Writes a file to all of these roots at once.
    ///
    /// # Errors
    /// That of a root if none of them has it now.
    async fn write(&self, places: &mut Places, key: FileKey, targets: &[Arc<Root>], pieces: &[Bytes]) -> Result<()> {
        let path = self.path(key);
        let writes = targets.iter().map(|root| root.write_pieces(&path, pieces));
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let (mut stored, mut failure) = (false, None);
        for (root, outcome) in targets.iter().zip(join_all(writes).await) {
            match outcome {
                Ok(()) => {
                    stored = true;
                    if let Some(before) = places.forget(key, root.id()) {
                        root.remove_usage(self.collection, before.bytes, 1);
                    }
                    root.add_usage(self.collection, bytes, 1);
                    places.note(
                        key,
                        root.id(),
                        Copy {
                            bytes,
                            tag: 0,
                            bad: false,
                        },
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "index file not written to one of its roots");
                    failure = Some(error);
                }
            }
        }
        if stored {
            return Ok(());
        }
        Err(failure.unwrap_or_else(|| Error::RootUnavailable {
            url: path,
            reason: "none of its index roots is configured and writable".to_owned(),
        }))
    }

    /// Deletes the files of all segments that are not wanted.
    async fn retain(&self, places: &mut Places, wanted: impl Fn(SegmentId) -> bool) {
        let files = places.files.iter().filter(|((segment, _), _)| !wanted(*segment));
        let gone: Vec<(FileKey, RootId)> = files
            .flat_map(|(key, copies)| copies.keys().map(|root| (*key, *root)))
            .collect();
        for (key, root) in gone {
            self.delete_copy(places, key, root).await;
        }
    }

    async fn delete_copy(&self, places: &mut Places, key: FileKey, root: RootId) {
        let Some(root) = places.homes.all().into_iter().find(|other| other.id() == root) else {
            places.forget(key, root);
            return;
        };
        match root.delete(&self.path(key)).await {
            Ok(()) => {
                if let Some(copy) = places.forget(key, root.id()) {
                    root.remove_usage(self.collection, copy.bytes, 1);
                }
            }
            Err(error) => tracing::warn!(%error, "index file of a segment that is gone not deleted"),
        }
    }
}

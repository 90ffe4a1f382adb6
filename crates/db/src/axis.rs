//! AXIS: the vector indexes of segments, as files on the index roots.
//!
//! Owns which segments get an index, how it is built, and its files: which roots hold copies of them, and bringing copies
//! back that are lost. Everything here is derived: a file that is lost, damaged or stale is copied from another root or built
//! again from the segment, and until then the segment is searched exactly. So no failure of an index root is one of
//! the shard.
//!
//! ```text
//! <index root>/<collection id>/<shard>/<segment id>.<ivf | hnsw>      one file of a segment for each type of index
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

mod file;
mod homes;
mod moves;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use proximadb_index::{Hnsw, Ivf, VectorIndex, kmeans};
use proximadb_store::FileInfo;
use tokio::sync::Mutex as AsyncMutex;

use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{SegmentData, SegmentId};
use crate::error::{Error, Result};
use crate::root::{IndexType, Root, RootId, RootState};
use crate::schema::{CollectionDescription, CollectionId, IndexChoice, Schema};

pub use file::{check, parse_name, type_of};
pub use homes::IndexHomes;
use places::{Copy, Fault, FileKey, Places, list};

/// Vector indexes of one segment by vector space. Cheap to clone.
pub type SegmentIndexes = Arc<BTreeMap<String, Box<dyn VectorIndex>>>;

/// Segments with fewer rows are scanned: that is as fast as probing an index, and exact.
const ROWS_MIN: usize = 2_048;
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
        IndexChoice::Auto | IndexChoice::Ivf => is_large && data.clustering.is_some(),
    }
}

/// Why a segment has the index that it has, or none.
pub fn reason(data: &SegmentData, schema: &Schema) -> String {
    let choice = schema.index();
    if choice != IndexChoice::Flat && !wants_index(data, schema) {
        return format!("fewer than {ROWS_MIN} rows are compared exactly as fast as through an index");
    }
    match choice {
        IndexChoice::Flat => "metadata.proximadb.index = \"flat\"",
        IndexChoice::Ivf => "metadata.proximadb.index = \"ivf\"",
        IndexChoice::Hnsw => "metadata.proximadb.index = \"hnsw\"",
        IndexChoice::Auto => {
            "automatic: lists of quantised rows are the fastest index measured at every size from here on"
        }
    }
    .to_owned()
}

/// Builds an index for each vector space of a segment; lists over the clusters that its rows are sorted by, or over clusters of its own.
/// CPU work on all cores; no I/O.
pub fn build(data: &SegmentData, schema: &Schema) -> SegmentIndexes {
    let indexable = data.vectors.iter().filter_map(|(name, column)| {
        let metric = schema.vectors.get(name)?.distance.metric();
        if schema.index() == IndexChoice::Hnsw {
            let graph = Hnsw::build(metric, &column.rows, column.present.as_ref(), schema.hnsw(name));
            return Some((name.clone(), Box::new(graph) as Box<dyn VectorIndex>));
        }
        let clusters = data.clusters(name).unwrap_or_else(|| {
            let count = kmeans::cluster_count(column.rows.len());
            kmeans::train(metric, &column.rows, count, ITERATIONS, SEED)
        });
        let index = Ivf::build(metric, &column.rows, &clusters);
        Some((name.clone(), Box::new(index) as Box<dyn VectorIndex>))
    });
    Arc::new(indexable.collect())
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

    /// Stores the indexes of a segment, if it is still `wanted` when its turn comes. Done when one root has each file; further
    /// copies follow by [`repair`](Self::repair).
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] or [`Error::StorageFull`] of the index roots; the segment stays searchable.
    pub async fn save(
        &self,
        segment: &SegmentMeta,
        of: &CollectionDescription,
        indexes: &SegmentIndexes,
        wanted: impl FnOnce() -> bool + Send,
    ) -> Result<()> {
        let files = file::encode(&self.directory, segment, of, indexes)?;
        let mut places = self.places.lock().await;
        if places.closed || !wanted() {
            return Ok(());
        }
        for (of, bytes) in files {
            let key = (segment.id, of);
            let targets = self.lacking(&places, key, &BTreeSet::new());
            let saved = self.write(&mut places, key, &targets, &bytes).await;
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

    /// Loads the indexes of segments from the first good copies, all at once. Segments with none that can be used are left
    /// out; the reasons are logged.
    pub async fn load(&self, segments: &[SegmentMeta]) -> BTreeMap<SegmentId, SegmentIndexes> {
        let mut places = self.places.lock().await;
        let keys = segments.iter().flat_map(|segment| {
            let keys = places.files.keys().filter(|(id, _)| *id == segment.id);
            keys.map(move |key| (*key, segment))
        });
        let keys: Vec<(FileKey, &SegmentMeta)> = keys.collect();
        // Boxed and collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
        let looks: Vec<_> = keys
            .iter()
            .map(|(key, segment)| self.look(&places, *key, Some(segment)).boxed())
            .collect();
        let mut loaded: BTreeMap<SegmentId, (BTreeSet<IndexType>, BTreeSet<IndexType>, BTreeMap<_, _>)> =
            BTreeMap::new();
        for ((key, _), (found, faults)) in keys.iter().zip(join_all(looks).await) {
            places.note_faults(*key, faults);
            if let Some((_, content)) = found {
                let (types, wanted, indexes) = loaded.entry(key.0).or_default();
                types.insert(key.1);
                wanted.extend(content.types);
                indexes.extend(content.indexes);
            }
        }
        let whole = loaded
            .into_iter()
            .filter(|(_, (types, wanted, _))| wanted.is_subset(types));
        whole
            .map(|(segment, (.., indexes))| (segment, Arc::new(indexes)))
            .collect()
    }

    /// Deletes the index files of a segment wherever they are. What cannot be deleted now is deleted by a later
    /// [`repair`](Self::repair).
    pub async fn delete(&self, segment: SegmentId) {
        let mut places = self.places.lock().await;
        self.retain(&mut places, |other| other != segment).await;
    }

    /// Deletes the index files of all other segments: a crash may have come between the deletion of a segment and that of
    /// its index.
    pub async fn keep_only(&self, segments: &[SegmentId]) {
        let mut places = self.places.lock().await;
        self.retain(&mut places, |segment| segments.contains(&segment)).await;
    }

    /// Brings back copies that are missing or bad, and deletes the files of segments that are gone. `attached` gives the
    /// segments of the shard with their indexes. Returns the number of files written.
    pub async fn repair(
        &self,
        of: &CollectionDescription,
        attached: impl FnOnce() -> Vec<(SegmentMeta, SegmentIndexes)> + Send,
    ) -> usize {
        let mut places = self.places.lock().await;
        if places.closed {
            return 0;
        }
        let attached = attached();
        list(&mut places, self.collection, &self.directory).await;
        let ids: BTreeSet<SegmentId> = attached.iter().map(|(segment, _)| segment.id).collect();
        self.retain(&mut places, |segment| ids.contains(&segment)).await;
        let mut written = 0;
        for (segment, indexes) in &attached {
            match self.repair_segment(&mut places, of, segment, indexes).await {
                Ok(files) => written += files,
                Err(error) => tracing::warn!(%error, segment = %segment.id, "index files not repaired"),
            }
        }
        written
    }

    async fn repair_segment(
        &self,
        places: &mut Places,
        of: &CollectionDescription,
        segment: &SegmentMeta,
        indexes: &SegmentIndexes,
    ) -> Result<usize> {
        let mut written = 0;
        for kind in file::types(indexes) {
            let key = (segment.id, kind);
            let mut targets = self.lacking(places, key, &places.holders(key));
            // Others would refuse the file, each time anew.
            targets.retain(|root| matches!(root.state(), RootState::Online | RootState::Draining));
            if targets.is_empty() {
                continue;
            }
            let bytes = match self.read(places, key, Some(segment)).await {
                Some((bytes, _)) => bytes,
                None => match file::encode(&self.directory, segment, of, indexes)?.remove(&kind) {
                    Some(bytes) => bytes,
                    None => continue,
                },
            };
            self.write(places, key, &targets, &bytes).await?;
            tracing::info!(segment = %segment.id, kind = kind.name(), copies = targets.len(), "index file repaired");
            written += targets.len();
        }
        Ok(written)
    }

    /// The roots that hold good copies of a segment's file, and its name.
    pub async fn copies(&self, segment: SegmentId, of: IndexType) -> (String, Vec<RootId>) {
        let key = (segment, of);
        (
            self.path(key),
            self.places.lock().await.holders(key).into_iter().collect(),
        )
    }

    /// Waits for the file that is being written; none is written or repaired afterwards.
    pub async fn close(&self) {
        self.places.lock().await.closed = true;
    }

    fn path(&self, (segment, of): FileKey) -> String {
        format!("{}/{}", self.directory, file::name(segment, of))
    }

    /// The roots that should hold a copy besides those that do.
    fn lacking(&self, places: &Places, key: FileKey, holders: &BTreeSet<RootId>) -> Vec<Arc<Root>> {
        let (file, number) = (file::name(key.0, key.1), places.files.len() as u64);
        places.homes.lacking(key.1, self.collection, &file, number, holders)
    }

    /// The first good copy of a file; copies that are not good are noted.
    async fn read(
        &self,
        places: &mut Places,
        key: FileKey,
        segment: Option<&SegmentMeta>,
    ) -> Option<(Bytes, file::Content)> {
        let (found, faults) = self.look(places, key, segment).await;
        places.note_faults(key, faults);
        found
    }

    /// The first good copy of a file, and what is wrong with those before it.
    async fn look(
        &self,
        places: &Places,
        key: FileKey,
        segment: Option<&SegmentMeta>,
    ) -> (Option<(Bytes, file::Content)>, Vec<(RootId, Fault)>) {
        let path = self.path(key);
        let mut roots = places.homes.of(key.1).to_vec();
        roots.extend(places.homes.all());
        let (mut tried, mut faults) = (BTreeSet::new(), Vec::new());
        for root in roots {
            let copy = places.files.get(&key).and_then(|copies| copies.get(&root.id()));
            let Some(copy) = copy.filter(|copy| !copy.bad && tried.insert(root.id())) else {
                continue;
            };
            let file = FileInfo {
                path: path.clone(),
                size: copy.bytes,
                tag: copy.tag,
            };
            match root.read_stored(&file, file::is_whole).await {
                Ok(Some(bytes)) => match file::decode(&bytes, &path, segment) {
                    Ok(content) => return (Some((bytes, content)), faults),
                    Err(reason) => {
                        tracing::warn!(
                            root = root.url(),
                            path,
                            reason,
                            "index file cannot be used; it is replaced"
                        );
                        faults.push((root.id(), Fault::Bad));
                    }
                },
                Ok(None) => faults.push((root.id(), Fault::Gone)),
                Err(error) => tracing::warn!(%error, "index file not read"),
            }
        }
        (None, faults)
    }

    /// Writes a file to all of these roots at once.
    ///
    /// # Errors
    /// That of a root if none of them has it now.
    async fn write(&self, places: &mut Places, key: FileKey, targets: &[Arc<Root>], bytes: &Bytes) -> Result<()> {
        let path = self.path(key);
        let writes = targets.iter().map(|root| root.write_atomic(&path, bytes.clone()));
        let (mut stored, mut failure) = (false, None);
        for (root, outcome) in targets.iter().zip(join_all(writes).await) {
            match outcome {
                Ok(()) => {
                    stored = true;
                    if let Some(before) = places.forget(key, root.id()) {
                        root.remove_usage(self.collection, before.bytes, 1);
                    }
                    let bytes = bytes.len() as u64;
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

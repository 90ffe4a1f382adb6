//! Reading index files: the first good copy, mapped where it lies on a disk, and of a bucket what is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use proximadb_index::VectorIndex;
use proximadb_store::{BLOCK_BYTES, Blocks, FileInfo, Partial, Stored};

use super::file::{self, Ranges, check};
use super::places::{Fault, FileKey, Places};
use super::{Axis, SegmentIndexes, parse_name, rows};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{Place, SegmentData, SegmentId};
use crate::engine::viper::cpu;
use crate::error::Result;
use crate::root::{IndexType, Root, RootId};
use crate::schema::Schema;

/// Bytes that are read at a time to verify a file: the allocator keeps a few such buffers.
const VERIFIED_BYTES: u64 = 4 * BLOCK_BYTES;

/// What is made of the bytes of a file.
struct Decode<T> {
    /// Given a path and the segment that it belongs to; or what is wrong with the bytes.
    decode: fn(&Stored, &str, Option<&SegmentMeta>) -> Result<T, String>,
    /// Bytes at the beginning of the file that it looks at, about.
    needed: fn(&FileInfo, &SegmentMeta) -> u64,
    /// Those that it looks at of a file at this path, if it is read in parts.
    loaded: fn(&Blocks, &str) -> Result<Ranges, String>,
}

/// Any file as it is, for a copy of it.
const WHOLE: Decode<()> = Decode {
    decode: |stored, path, segment| check(stored.bytes(), path, segment),
    needed: |_, _| u64::MAX,
    loaded: |_, _| Ok(Vec::new()),
};
const INDEXES: Decode<(file::Content, Option<Arc<Partial>>)> = Decode {
    decode: |stored, path, segment| Ok((file::decode(stored, path, segment)?, stored.partial().cloned())),
    needed: |file, _| match parse_name(&file.path) {
        Some((_, IndexType::Ivf)) => file::ivf_needed(file.size),
        _ => u64::MAX,
    },
    loaded: file::loaded,
};
const ROWS: Decode<SegmentData> = Decode {
    decode: |stored, path, segment| {
        let mut rows = rows::decode(stored.bytes(), path, segment)?;
        if let Some(partial) = stored.partial() {
            rows.place = Place::Bucket(partial.clone());
        }
        Ok(rows)
    },
    needed: |_, segment| rows::needed(segment.rows),
    loaded: rows::loaded,
};

/// What files of segments were good for. Segments are left out that have none which can be used; the reasons are logged.
#[derive(Default)]
pub struct Loaded {
    /// Indexes.
    pub indexes: BTreeMap<SegmentId, SegmentIndexes>,
    /// Rows, mapped or on a bucket; all but vectors and payloads is verified.
    pub rows: BTreeMap<SegmentId, Arc<SegmentData>>,
}

/// The indexes of a segment, file by file.
#[derive(Default)]
struct Parts {
    by_space: BTreeMap<String, Box<dyn VectorIndex>>,
    file: Option<Arc<Partial>>,
}

/// What a look at a file found: the bytes and what is made of them, and what is wrong with copies.
type Look<T> = (Option<(Bytes, T)>, Vec<(RootId, Fault)>);

impl Axis {
    /// Loads the indexes and rows of segments from the first good copies that are wanted, all at once. Mapped rows are to be
    /// [verified](Self::verify_rows).
    pub async fn load(
        &self,
        segments: &[SegmentMeta],
        wanted: impl Fn(&Root, (SegmentId, IndexType)) -> bool + Send + Sync,
    ) -> Loaded {
        let mut places = self.places.lock().await;
        let is_rows = |of: IndexType| of == IndexType::Idx;
        let (indexes, rows) = tokio::join!(
            self.look_at_all(&places, segments, |of| !is_rows(of), &wanted, &INDEXES),
            self.look_at_all(&places, segments, is_rows, &wanted, &ROWS),
        );
        let mut loaded = Loaded::default();
        let mut by_segment: BTreeMap<SegmentId, (BTreeSet<IndexType>, BTreeSet<IndexType>, Parts)> = BTreeMap::new();
        for (key, (found, faults)) in indexes {
            places.note_faults(key, faults);
            if let Some((_, (content, file))) = found {
                let (types, needed, indexes) = by_segment.entry(key.0).or_default();
                types.insert(key.1);
                needed.extend(content.types);
                indexes.by_space.extend(content.indexes);
                indexes.file = file.or(indexes.file.take());
            }
        }
        for (segment, (types, needed, indexes)) in by_segment {
            if needed.is_subset(&types) {
                let Parts { by_space, file } = indexes;
                let by_space = Arc::new(by_space);
                loaded.indexes.insert(segment, SegmentIndexes { by_space, file });
            }
        }
        for (key, (found, faults)) in rows {
            places.note_faults(key, faults);
            loaded.rows.extend(found.map(|(_, rows)| (key.0, Arc::new(rows))));
        }
        loaded
    }

    /// Reads what [`load`](Self::load) will look at into the cache, as far as the listing says what that is: while the manifest is read,
    /// which says what is to be loaded.
    pub async fn prefetch(&self, schema: &Schema) {
        let places = self.places.lock().await;
        let reads = places.files.keys().filter_map(|key| {
            let (root, file) = self.copies_of(&places, *key).into_iter().next()?;
            root.fs().cache()?;
            let needed = match key.1 {
                IndexType::Idx => rows::needed(rows::rows_max(file.size, schema)),
                IndexType::Ivf => file::ivf_needed(file.size),
                _ => return None,
            };
            Some(async move { root.map_stored(&file, file::is_whole, needed).await.map(drop) }.boxed())
        });
        for read in join_all(reads.collect::<Vec<_>>()).await {
            if let Err(error) = read {
                tracing::debug!(%error, "index file not read ahead");
            }
        }
    }

    async fn look_at_all<T: Send + 'static>(
        &self,
        places: &Places,
        segments: &[SegmentMeta],
        of_type: impl Fn(IndexType) -> bool,
        wanted: &(impl Fn(&Root, FileKey) -> bool + Sync),
        decode: &Decode<T>,
    ) -> Vec<(FileKey, Look<T>)> {
        let keys = segments.iter().flat_map(|segment| {
            let keys = places.files.keys().filter(|(id, of)| *id == segment.id && of_type(*of));
            keys.map(move |key| (*key, segment))
        });
        let keys: Vec<(FileKey, &SegmentMeta)> = keys.collect();
        // Boxed and collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
        let looks: Vec<_> = keys
            .iter()
            .map(|(key, segment)| {
                let mut copies = self.copies_of(places, *key);
                copies.retain(|(root, _)| wanted(root, *key));
                self.look(copies, Some(segment), decode).boxed()
            })
            .collect();
        keys.iter().map(|(key, _)| *key).zip(join_all(looks).await).collect()
    }

    /// Whether the vectors and payloads that [`load`](Self::load) has mapped are what was written: reads the file through
    /// once, for as long as it is `wanted`. A copy that is not good is noted.
    pub async fn verify_rows(&self, segment: SegmentId, wanted: impl Fn() -> bool) -> bool {
        let key = (segment, IndexType::Idx);
        let Some((root, file)) = self.copies_of(&*self.places.lock().await, key).into_iter().next() else {
            return false;
        };
        match self.is_whole(&root, &file, wanted).await {
            Ok(true) => true,
            Ok(false) => {
                tracing::warn!(
                    root = root.url(),
                    path = file.path,
                    "rows file is damaged; it is replaced"
                );
                self.places.lock().await.mark_bad(key, root.id());
                false
            }
            Err(error) => {
                tracing::warn!(%error, "rows file not verified; the rows are read from the segment");
                false
            }
        }
    }

    /// By reading, not through the map: that has a deadline, and fills no memory of the process.
    async fn is_whole(&self, root: &Root, file: &FileInfo, wanted: impl Fn() -> bool) -> Result<bool> {
        let Some(stored) = root.map_stored(file, |_| true, BLOCK_BYTES).await? else {
            return Ok(false);
        };
        let Ok(blocks) = Blocks::of(stored.bytes()) else {
            return Ok(false);
        };
        let body = blocks.body();
        for start in body.clone().step_by(VERIFIED_BYTES as usize) {
            if !wanted() {
                return Ok(true);
            }
            let end = body.end.min(start + VERIFIED_BYTES);
            let read = root.read_range(&file.path, start..end).await?;
            let mut numbered = (start - body.start) / BLOCK_BYTES..;
            let mut read = read.chunks(BLOCK_BYTES as usize).zip(&mut numbered);
            if !read.all(|(bytes, block)| blocks.is_good(block, bytes)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first good copy of a file; copies that are not good are noted.
    pub(super) async fn read(&self, places: &mut Places, key: FileKey, segment: Option<&SegmentMeta>) -> Option<Bytes> {
        let (found, faults) = self.look(self.copies_of(places, key), segment, &WHOLE).await;
        places.note_faults(key, faults);
        found.map(|(bytes, ())| bytes)
    }

    /// The copies of a file that are not known to be bad, in the order in which they are tried: those on disks first.
    fn copies_of(&self, places: &Places, key: FileKey) -> Vec<(Arc<Root>, FileInfo)> {
        let mut roots = places.homes.of(key.1).to_vec();
        roots.extend(places.homes.all());
        roots.sort_by_key(|root| !root.fs().is_local());
        let mut tried = BTreeSet::new();
        let copy = |root: Arc<Root>| {
            let copy = places.files.get(&key)?.get(&root.id())?;
            let file = FileInfo {
                path: self.path(key),
                size: copy.bytes,
                tag: copy.tag,
            };
            (!copy.bad && tried.insert(root.id())).then_some((root, file))
        };
        roots.into_iter().filter_map(copy).collect()
    }

    /// The first good one of the copies of a file, and what is wrong with those before it.
    async fn look<T: Send + 'static>(
        &self,
        copies: Vec<(Arc<Root>, FileInfo)>,
        segment: Option<&SegmentMeta>,
        parse: &Decode<T>,
    ) -> Look<T> {
        let mut faults = Vec::new();
        for (root, file) in copies {
            let stored = match open(&root, &file, segment, parse).await {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    faults.push((root.id(), Fault::Gone));
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "index file not read");
                    continue;
                }
            };
            let (opened, path, segment) = (stored.clone(), file.path.clone(), segment.cloned());
            let decode = parse.decode;
            let decoded = cpu(move || decode(&opened, &path, segment.as_ref())).await;
            stored.release_pages();
            match decoded.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(content) => return (Some((stored.bytes().clone(), content)), faults),
                Err(reason) => {
                    let path = file.path;
                    tracing::warn!(
                        root = root.url(),
                        path,
                        reason,
                        "index file cannot be used; it is replaced"
                    );
                    faults.push((root.id(), Fault::Bad));
                }
            }
        }
        (None, faults)
    }
}

/// A file with what is looked at of it.
async fn open<T>(
    root: &Root,
    file: &FileInfo,
    segment: Option<&SegmentMeta>,
    parse: &Decode<T>,
) -> Result<Option<Stored>> {
    let needed = segment.map_or(u64::MAX, |segment| (parse.needed)(file, segment));
    let Some(stored) = root.map_stored(file, file::is_whole, needed).await? else {
        return Ok(None);
    };
    if let Some(partial) = stored.partial()
        && let Ok(ranges) = (parse.loaded)(partial.blocks(), &file.path)
    {
        // What is damaged stays absent, and its reader sees that the checksums do not match.
        root.fetch(partial, &ranges).await?;
        partial.note_needed();
    }
    Ok(Some(stored))
}

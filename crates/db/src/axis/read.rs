//! Reading index files: the first good copy, mapped where it lies on a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use proximadb_store::FileInfo;

use super::file::{self, check};
use super::places::{Fault, FileKey, Places};
use super::{Axis, SegmentIndexes, rows};
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::{SegmentData, SegmentId};
use crate::engine::viper::cpu;
use crate::error::Result;
use crate::root::{IndexType, Root, RootId};
use crate::sealed::Crc32;

/// Bytes that are read at a time to verify a file: the allocator keeps a few such buffers.
const VERIFIED_BYTES: u64 = 256 << 10;

/// What is made of the bytes of a file.
struct Decode<T> {
    /// Given a path and the segment that it belongs to; or what is wrong with the bytes.
    decode: fn(&Bytes, &str, Option<&SegmentMeta>) -> Result<T, String>,
    /// Bytes at the beginning of the file that it looks at, about.
    needed: fn(&SegmentMeta) -> u64,
}

impl Axis {
    /// Loads the indexes of segments from the first good copies, all at once. Segments with none that can be used are left
    /// out; the reasons are logged.
    pub async fn load(&self, segments: &[SegmentMeta]) -> BTreeMap<SegmentId, SegmentIndexes> {
        let is_index = |of: IndexType| of != IndexType::Idx;
        let mut loaded: BTreeMap<SegmentId, (BTreeSet<IndexType>, BTreeSet<IndexType>, BTreeMap<_, _>)> =
            BTreeMap::new();
        let decode = Decode {
            decode: file::decode,
            needed: |_| u64::MAX,
        };
        for ((segment, of), content) in self.load_all(segments, is_index, &decode).await {
            let (types, wanted, indexes) = loaded.entry(segment).or_default();
            types.insert(of);
            wanted.extend(content.types);
            indexes.extend(content.indexes);
        }
        let whole = loaded
            .into_iter()
            .filter(|(_, (types, wanted, _))| wanted.is_subset(types));
        whole
            .map(|(segment, (.., indexes))| (segment, Arc::new(indexes)))
            .collect()
    }

    /// Maps the rows of segments, all at once, verified but for vectors and payloads: see [`verify_rows`](Self::verify_rows).
    /// Segments without a rows file that can be used are left out.
    pub async fn load_rows(&self, segments: &[SegmentMeta]) -> BTreeMap<SegmentId, Arc<SegmentData>> {
        let is_rows = |of: IndexType| of == IndexType::Idx;
        let decode = Decode {
            decode: rows::decode,
            needed: rows::needed,
        };
        let loaded = self.load_all(segments, is_rows, &decode).await;
        let rows = loaded.into_iter().map(|((segment, _), data)| (segment, Arc::new(data)));
        rows.collect()
    }

    async fn load_all<T: Send + 'static>(
        &self,
        segments: &[SegmentMeta],
        wanted: impl Fn(IndexType) -> bool,
        decode: &Decode<T>,
    ) -> Vec<(FileKey, T)> {
        let mut places = self.places.lock().await;
        let keys = segments.iter().flat_map(|segment| {
            let keys = places.files.keys().filter(|(id, of)| *id == segment.id && wanted(*of));
            keys.map(move |key| (*key, segment))
        });
        let keys: Vec<(FileKey, &SegmentMeta)> = keys.collect();
        // Boxed and collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
        let looks: Vec<_> = keys
            .iter()
            .map(|(key, segment)| self.look(&places, *key, Some(segment), decode).boxed())
            .collect();
        let mut loaded = Vec::with_capacity(keys.len());
        for ((key, _), (found, faults)) in keys.iter().zip(join_all(looks).await) {
            places.note_faults(*key, faults);
            loaded.extend(found.map(|(_, content)| (*key, content)));
        }
        loaded
    }

    /// Whether the vectors and payloads that [`load_rows`](Self::load_rows) has mapped are what was written: reads the file through
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
        let Some(stored) = root.map_stored(file, |_| true, rows::HEADER_BYTES).await? else {
            return Ok(false);
        };
        let Ok(parts) = rows::bulk(stored.bytes()) else {
            return Ok(false);
        };
        for part in parts {
            let (mut crc32, mut at) = (Crc32::default(), part.range.start);
            while at < part.range.end {
                if !wanted() {
                    return Ok(true);
                }
                let end = part.range.end.min(at + VERIFIED_BYTES);
                crc32.update(&root.read_range(&file.path, at..end).await?);
                at = end;
            }
            if crc32.value() != part.crc32 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first good copy of a file; copies that are not good are noted.
    pub(super) async fn read(&self, places: &mut Places, key: FileKey, segment: Option<&SegmentMeta>) -> Option<Bytes> {
        let decode = Decode {
            decode: check,
            needed: |_| u64::MAX,
        };
        let (found, faults) = self.look(places, key, segment, &decode).await;
        places.note_faults(key, faults);
        found.map(|(bytes, ())| bytes)
    }

    /// The copies of a file that are not known to be bad, in the order in which they are tried.
    fn copies_of(&self, places: &Places, key: FileKey) -> Vec<(Arc<Root>, FileInfo)> {
        let mut roots = places.homes.of(key.1).to_vec();
        roots.extend(places.homes.all());
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

    /// The first good copy of a file, and what is wrong with those before it.
    async fn look<T: Send + 'static>(
        &self,
        places: &Places,
        key: FileKey,
        segment: Option<&SegmentMeta>,
        parse: &Decode<T>,
    ) -> (Option<(Bytes, T)>, Vec<(RootId, Fault)>) {
        let mut faults = Vec::new();
        for (root, file) in self.copies_of(places, key) {
            let needed = segment.map_or(u64::MAX, parse.needed);
            let stored = match root.map_stored(&file, file::is_whole, needed).await {
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
            let (bytes, path, segment) = (stored.bytes().clone(), file.path.clone(), segment.cloned());
            let decode = parse.decode;
            let decoded = cpu(move || decode(&bytes, &path, segment.as_ref())).await;
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

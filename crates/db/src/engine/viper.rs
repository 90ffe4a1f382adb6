//! The segment files of one shard on one root: written once, durably, read whole, deleted.
//!
//! ```text
//! <collection id>/<shard>/<segment id>.parquet          (.vpr is read as the same)
//! ```
//!
//! Owns the files. Does not decide what is flushed, merged or deleted, and commits no manifest: until one names it, a
//! segment is an orphan. Clustering, encoding and decoding are work for a core and run on tokio's blocking threads;
//! the bytes move on the root's own.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use proximadb_store::FileInfo;

use crate::engine::cluster::sort_by_cluster;
use crate::engine::footer::SegmentFooter;
use crate::engine::manifest::{KEPT_VERSIONS, Manifest, SegmentMeta, version_of};
use crate::engine::parquet::{decode, encode};
use crate::engine::segment::{SegmentData, SegmentId};
use crate::error::{Error, Result};
use crate::point::Seq;
use crate::root::{Root, RootId};
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::crc32;

/// Segments of a shard that are read at a time: enough to overlap a disk with a core, and at most so many files in
/// memory twice.
const CONCURRENT_READS: usize = 4;
/// Extensions of segment files; the first is written.
const EXTENSIONS: [&str; 2] = ["parquet", "vpr"];

/// What a write is about, besides the rows.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// The collection as it is now.
    pub description: Arc<CollectionDescription>,
    /// Every operation up to this one that is not yet in another segment is in these rows: the flush's last, or the
    /// largest of the inputs.
    pub max_seq: Seq,
    /// The segments that the new ones replace; empty for a flush.
    pub replaces: Vec<SegmentId>,
    /// Largest size of a segment; more rows make more segments.
    pub segment_size_bytes: u64,
}

/// A segment that was written.
#[derive(Debug)]
pub struct Written {
    /// For the manifest.
    pub meta: SegmentMeta,
    /// Its rows as they are in the file.
    pub data: Arc<SegmentData>,
    /// Where they were in the rows given (`order[row] = old row`).
    pub order: Vec<u32>,
}

/// Rows on their way into one segment.
#[derive(Debug)]
pub struct Piece {
    footer: SegmentFooter,
    rows: SegmentData,
    /// Where they were in the rows given.
    order: Vec<u32>,
}

impl Piece {
    /// The segment that they become.
    pub fn id(&self) -> SegmentId {
        self.footer.id
    }
}

/// Segments of `<collection>/<shard>` on one root.
#[derive(Debug, Clone)]
pub struct Viper {
    root: Arc<Root>,
    collection: CollectionId,
    shard: String,
}

impl Viper {
    /// The shard's segments on this root; nothing is touched yet.
    pub fn new(root: Arc<Root>, collection: CollectionId, shard: &str) -> Self {
        Self {
            root,
            collection,
            shard: shard.to_owned(),
        }
    }

    /// The root that holds the files.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Sorts the rows by cluster and writes them as one or more segments, in the order of their sequence numbers,
    /// durably. Rows need not be in any order; without rows and tombstones nothing is written.
    ///
    /// # Errors
    /// Errors of the root: some segments may be there, and none is in a manifest. [`Error::Internal`] if the rows do
    /// not fit the schema.
    pub async fn write_segments(&self, data: SegmentData, request: &WriteRequest) -> Result<Vec<Written>> {
        let pieces = self.pieces(data, request).await?;
        let mut written = Vec::with_capacity(pieces.len());
        for piece in pieces {
            written.push(self.write_piece(piece).await?);
        }
        Ok(written)
    }

    /// The rows as the segments that they will be, in the order of their sequence numbers.
    ///
    /// # Errors
    /// [`Error::Internal`] if the program is being stopped.
    pub async fn pieces(&self, data: SegmentData, request: &WriteRequest) -> Result<Vec<Piece>> {
        assert!(request.description.id == self.collection, "rows of this collection");
        if data.seq_range().is_none() {
            return Ok(Vec::new());
        }
        let max_bytes = usize::try_from(request.segment_size_bytes).unwrap_or(usize::MAX);
        let parts = cpu(move || data.split(max_bytes)).await?;
        let ids: Vec<SegmentId> = parts.iter().map(|_| SegmentId::generate()).collect();
        let count = ids.len();
        let piece = |(number, (rows, order)): (usize, (SegmentData, Vec<u32>))| {
            let (min_seq, max_seq) = rows.seq_range().unwrap_or_default();
            let id = ids[number];
            let footer = SegmentFooter {
                id,
                description: (*request.description).clone(),
                shard: self.shard.clone(),
                min_seq,
                max_seq: if number + 1 == count {
                    max_seq.max(request.max_seq)
                } else {
                    max_seq
                },
                replaces: request.replaces.clone(),
                outputs: if request.replaces.is_empty() {
                    vec![id]
                } else {
                    ids.clone()
                },
            };
            Piece { footer, rows, order }
        };
        Ok(parts.into_iter().enumerate().map(piece).collect())
    }

    /// Writes one segment, durably.
    ///
    /// # Errors
    /// As [`write_segments`](Self::write_segments).
    pub async fn write_piece(&self, piece: Piece) -> Result<Written> {
        let root_id = self.root.id();
        let encoding = move || {
            let Piece { footer, rows, order } = piece;
            let (data, sorted) = sort_by_cluster(&footer.description.schema, &rows);
            // Large rows are here once, not twice, while they are encoded.
            drop(rows);
            let order = sorted.iter().map(|row| order[*row as usize]).collect();
            let bytes =
                encode(&footer, &data).map_err(|error| Error::Internal(format!("segment {}: {error}", footer.id)))?;
            Ok::<_, Error>((
                Written {
                    meta: meta(&footer, &data, &bytes, root_id),
                    data: Arc::new(data),
                    order,
                },
                bytes,
            ))
        };
        let (written, bytes) = cpu(encoding).await??;
        self.root
            .write_atomic(&self.path(written.meta.id, EXTENSIONS[0]), bytes)
            .await?;
        self.root.add_usage(self.collection, written.meta.bytes, 1);
        Ok(written)
    }

    /// The rows of a segment.
    ///
    /// # Errors
    /// [`Error::Corruption`] naming the file if it is missing, a byte differs, or it is another segment. Errors of
    /// the root.
    pub async fn read_segment(&self, meta: &SegmentMeta) -> Result<SegmentData> {
        let mut path = self.path(meta.id, EXTENSIONS[0]);
        let mut bytes = self.read_stored(meta, &path).await?;
        if bytes.is_none() {
            path = self.path(meta.id, EXTENSIONS[1]);
            bytes = self.read_stored(meta, &path).await?;
        }
        let bytes = bytes.ok_or_else(|| self.corrupt(&self.path(meta.id, EXTENSIONS[0]), "the file is missing"))?;
        let (found, _, data) = self.check(path.clone(), bytes).await?;
        // Which of two copies this is does not matter for what it holds.
        let found = SegmentMeta {
            root_id: meta.root_id,
            copy: meta.copy,
            ..found
        };
        if found != *meta {
            return Err(self.corrupt(
                &path,
                &format!("is not what the manifest names: {found:?} instead of {meta:?}"),
            ));
        }
        Ok(data)
    }

    async fn read_stored(&self, meta: &SegmentMeta, path: &str) -> Result<Option<Bytes>> {
        // The name is never used again; the checksum is there for whoever replaces a file by hand.
        let file = FileInfo {
            path: path.to_owned(),
            size: meta.bytes,
            tag: u64::from(meta.crc32),
        };
        self.root.read_stored(&file, |bytes| crc32(bytes) == meta.crc32).await
    }

    /// What the segment files among these say about themselves, for [`Manifest::rebuild`]; every byte is read and
    /// verified. Paths are relative to the root.
    ///
    /// # Errors
    /// [`Error::Corruption`] naming a damaged file: without it rows would be missing silently. Errors of the root.
    pub async fn inspect(&self, files: &[FileInfo]) -> Result<Vec<(SegmentFooter, SegmentMeta)>> {
        let segments: Vec<&FileInfo> = files.iter().filter(|file| segment_of(&file.path).is_some()).collect();
        let reads: Vec<_> = segments
            .into_iter()
            .map(|file| self.inspect_one(file).boxed())
            .collect();
        futures::stream::iter(reads)
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await
    }

    async fn inspect_one(&self, file: &FileInfo) -> Result<(SegmentFooter, SegmentMeta)> {
        let bytes = self.root.read(&file.path).await?;
        let (meta, footer, _) = self.check(file.path.clone(), bytes).await?;
        Ok((footer, meta))
    }

    /// Deletes a segment's file, durably; a missing one is fine. Only after a manifest without it is committed.
    ///
    /// Until this succeeds, do not compact the shard again: should all manifests be lost, the file would be taken for
    /// data, while the next compaction may drop tombstones that hide its rows.
    ///
    /// # Errors
    /// Errors of the root; try again later.
    pub async fn delete_segment(&self, meta: &SegmentMeta) -> Result<()> {
        for extension in EXTENSIONS {
            self.root.delete(&self.path(meta.id, extension)).await?;
        }
        if meta.root_id == self.root.id() {
            self.root.remove_usage(self.collection, meta.bytes, 1);
        }
        Ok(())
    }

    /// Copies a segment's file to the same place on another root, durably, and reads the copy back to verify it.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the original or the copy is not what `meta` says; errors of the roots.
    pub async fn copy_segment(&self, meta: &SegmentMeta, to: &Self) -> Result<()> {
        let path = self.path(meta.id, EXTENSIONS[0]);
        let bytes = match self.root.read_if_exists(&path).await? {
            Some(bytes) => bytes,
            None => self.root.read(&self.path(meta.id, EXTENSIONS[1])).await?,
        };
        if crc32(&bytes) != meta.crc32 {
            return Err(self.corrupt(&path, "its checksum is not that of the manifest"));
        }
        to.root.write_atomic(&path, bytes).await?;
        if crc32(&to.root.read(&path).await?) != meta.crc32 {
            return Err(to.corrupt(&path, "the copy that was just written reads back differently"));
        }
        to.root.add_usage(self.collection, meta.bytes, 1);
        Ok(())
    }

    /// The files that the newest manifest does not need: segments of unfinished writes, replaced segments and old
    /// manifests. The caller deletes them while nothing is being written.
    pub fn orphans(&self, manifest: &Manifest, files: &[FileInfo]) -> Vec<FileInfo> {
        let named = |id| {
            manifest
                .segments
                .iter()
                .any(|meta| meta.id == id && (meta.root_id == self.root.id() || meta.copy == Some(self.root.id())))
        };
        let is_orphan = |file: &&FileInfo| match (segment_of(&file.path), version_of(&file.path)) {
            (Some(id), _) => !named(id),
            (None, Some(version)) => version + KEPT_VERSIONS <= manifest.version,
            (None, None) => false,
        };
        files.iter().filter(is_orphan).cloned().collect()
    }

    /// Verifies a file's bytes and that they are the segment that its name says.
    async fn check(&self, path: String, bytes: Bytes) -> Result<(SegmentMeta, SegmentFooter, SegmentData)> {
        let root_id = self.root.id();
        let decoding =
            move || decode(&bytes).map(|(footer, data)| (meta(&footer, &data, &bytes, root_id), footer, data));
        let (meta, footer, data) = cpu(decoding).await?.map_err(|error| self.corrupt(&path, &error.0))?;
        let is_ours = footer.description.id == self.collection && footer.shard == self.shard;
        if !is_ours || segment_of(&path) != Some(footer.id) {
            let owner = format!("{}/{}/{}", footer.description.id, footer.shard, footer.id);
            return Err(self.corrupt(&path, &format!("says that it is {owner}")));
        }
        Ok((meta, footer, data))
    }

    fn path(&self, id: SegmentId, extension: &str) -> String {
        format!("{}/{}/{id}.{extension}", self.collection, self.shard)
    }

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        Error::Corruption(format!("segment {}/{path}: {reason}", self.root.url()))
    }
}

/// The segment in a file's name, `None` for other files.
pub fn segment_of(path: &str) -> Option<SegmentId> {
    let (stem, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
    EXTENSIONS.contains(&extension).then(|| stem.parse().ok())?
}

fn meta(footer: &SegmentFooter, data: &SegmentData, bytes: &Bytes, root_id: RootId) -> SegmentMeta {
    SegmentMeta {
        id: footer.id,
        root_id,
        copy: None,
        rows: data.len() as u64,
        tombstones: data.tombstones.len() as u64,
        min_seq: footer.min_seq,
        max_seq: footer.max_seq,
        bytes: bytes.len() as u64,
        data_bytes: data.bytes() as u64,
        crc32: crc32(bytes),
        replaces: footer.replaces.clone(),
    }
}

/// Runs work that keeps a core busy where it holds up nobody's requests.
pub(crate) async fn cpu<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Internal(format!("a segment's encoding or decoding: {error}")))
}

#[cfg(test)]
#[path = "viper/tests.rs"]
mod tests;

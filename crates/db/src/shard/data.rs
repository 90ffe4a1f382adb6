//! The flushed data of a shard over its roots: segments written side by side, read back, deleted where they are.
//!
//! Owns which root a segment goes to and is read from. Does not own the file (`engine::viper`) or when it counts
//! (`commit`).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::Shard;
use super::engine::{Engine, in_memory};
use super::homes::{Homes, Located};
use crate::engine::cluster::sort_by_cluster;
use crate::engine::manifest::{Manifest, ManifestStore, SegmentMeta, version_of};
use crate::engine::segment::{SegmentData, SegmentId};
use crate::engine::viper::{Viper, WriteRequest, Written, cpu, segment_of};
use crate::error::{Error, Result};
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::CollectionDescription;

/// Segments of a disk that are read at a time: enough to overlap it with a core, and few files in memory twice.
const READS_PER_DISK: usize = 4;
/// Segments of a bucket that are read at a time: all of most shards, as each round of requests takes long.
const READS_PER_BUCKET: usize = 32;
/// Rows of fewer bytes are not worth a segment of their own on a further root: segments of one root are merged among
/// themselves, so many small ones would stay, searched one by one.
const STRIPE_BYTES_MIN: u64 = 1 << 20;

/// Whether rows may be shared out over several roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// One segment for each root, written at the same time.
    Wide,
    /// As few segments as their size allows, on this root if it takes files.
    On(RootId),
}

/// What the files of a shard say that it consists of.
pub(super) enum Found {
    /// The newest manifest over all roots.
    Stored(Manifest),
    /// Every manifest was lost: one made from what the segments say of themselves.
    Rebuilt(Manifest),
    /// Neither manifests nor segments.
    Nothing,
}

impl Found {
    /// Whether there is a manifest or a segment.
    pub(super) fn exists(files: &[Located]) -> bool {
        let ours =
            |located: &Located| version_of(&located.file.path).is_some() || segment_of(&located.file.path).is_some();
        files.iter().any(ours)
    }

    /// Reads the newest manifest, or the segments if there is none.
    ///
    /// # Errors
    /// [`Error::Corruption`] for damaged files; errors of the roots.
    pub(super) async fn load(
        homes: &Homes,
        description: &CollectionDescription,
        shard: &str,
        files: &[Located],
    ) -> Result<Self> {
        let versions = files
            .iter()
            .filter_map(|located| Some((version_of(&located.file.path)?, located)));
        if let Some((_, newest)) = versions.max_by_key(|(version, _)| *version) {
            let store = ManifestStore::new(newest.root.clone(), description.id, shard);
            let manifest = store.latest(std::slice::from_ref(&newest.file)).await?;
            return Ok(manifest.map_or(Self::Nothing, Self::Stored));
        }
        let mut segments = Vec::new();
        for root in homes.all(StorageComponentType::Viper)? {
            let on_root = files.iter().filter(|located| located.root.id() == root.id());
            let on_root: Vec<_> = on_root.map(|located| located.file.clone()).collect();
            segments.extend(Viper::new(root, description.id, shard).inspect(&on_root).await?);
        }
        if segments.is_empty() {
            return Ok(Self::Nothing);
        }
        Manifest::rebuild(description.id, shard, &segments).map(Self::Rebuilt)
    }
}

/// Whether a listed file is that of a segment, of the size that its manifest says.
pub(super) fn is_file_of(located: &Located, meta: &SegmentMeta) -> bool {
    let root = located.root.id();
    segment_of(&located.file.path) == Some(meta.id)
        && located.file.size == meta.bytes
        && (root == meta.root_id || meta.copy == Some(root))
}

/// The rows of segments, in their order: those that are mapped, and the others as they are read, a few of each root at a time.
///
/// # Errors
/// [`Error::Corruption`] naming the first file that is missing or damaged and has no good copy; errors of the roots.
pub(super) async fn read_segments(
    homes: &Homes,
    description: &CollectionDescription,
    shard: &str,
    metas: &[SegmentMeta],
    mapped: BTreeMap<SegmentId, Arc<SegmentData>>,
) -> Result<Vec<(SegmentMeta, Arc<SegmentData>)>> {
    let read = async |at: usize, meta: &SegmentMeta| {
        if let Some(data) = mapped.get(&meta.id) {
            return Ok((at, (meta.clone(), data.clone())));
        }
        let on = |id| Ok::<_, Error>(Viper::new(homes.root(id)?, description.id, shard));
        let first = async { on(meta.root_id)?.read_segment(meta).await }.await;
        let data = match (first, meta.copy) {
            (Err(error), Some(copy)) => {
                tracing::warn!(segment = %meta.id, %error, "a segment is read from its second copy");
                on(copy)?.read_segment(meta).await?
            }
            (first, _) => first?,
        };
        Ok::<_, Error>((at, (meta.clone(), Arc::new(data))))
    };
    // Boxed and collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
    let mut by_root: BTreeMap<RootId, Vec<_>> = BTreeMap::new();
    for (at, meta) in metas.iter().enumerate() {
        by_root.entry(meta.root_id).or_default().push(read(at, meta).boxed());
    }
    let of_roots = by_root.into_iter().map(|(root, reads)| {
        let is_local = homes.root(root).is_ok_and(|root| root.fs().is_local());
        let at_once = if is_local { READS_PER_DISK } else { READS_PER_BUCKET };
        futures::stream::iter(reads)
            .buffer_unordered(at_once)
            .try_collect::<Vec<_>>()
    });
    let mut segments = try_join_all(of_roots).await?.concat();
    segments.sort_unstable_by_key(|(at, _)| *at);
    Ok(segments.into_iter().map(|(_, segment)| segment).collect())
}

/// What an unfinished or replaced write has left; nothing is being written yet.
pub(super) fn orphans(
    description: &CollectionDescription,
    shard: &str,
    manifest: &Manifest,
    files: &[Located],
) -> Vec<Located> {
    let is_orphan = |located: &&Located| {
        let viper = Viper::new(located.root.clone(), description.id, shard);
        !viper.orphans(manifest, std::slice::from_ref(&located.file)).is_empty()
    };
    files.iter().filter(is_orphan).cloned().collect()
}

/// Deletes them.
pub(super) async fn delete_orphans(orphans: Vec<Located>) -> Result<()> {
    for Located { root, file } in orphans {
        let (root_url, file) = (root.url(), &file.path);
        tracing::info!(root = root_url, file, "file of an unfinished or replaced write deleted");
        root.delete(file).await?;
    }
    Ok(())
}

impl Shard {
    /// The segments on one root.
    pub(super) fn viper(&self, root: Arc<Root>) -> Viper {
        Viper::new(root, self.description().id, &self.number)
    }

    /// The manifests at home.
    pub(super) fn manifests(&self) -> Result<ManifestStore> {
        let home = self.options.homes.home(StorageComponentType::Viper)?;
        Ok(ManifestStore::new(home, self.description().id, &self.number))
    }

    /// Writes rows as segments, durably, on the roots where they belong. No manifest names them yet.
    ///
    /// # Errors
    /// Errors of the roots; some segments may be there.
    pub(super) async fn write_segments(
        &self,
        rows: SegmentData,
        request: &WriteRequest,
        spread: Spread,
    ) -> Result<Vec<Written>> {
        let homes = &self.options.homes;
        if let Engine::Lsm(_) = self.engine {
            return self.rows_in_memory(rows, request).await;
        }
        let lanes = match spread {
            Spread::Wide => homes.lanes(StorageComponentType::Viper)?.len(),
            Spread::On(_) => 1,
        };
        let mut request = request.clone();
        if lanes > 1 {
            let share = (rows.bytes() as u64).div_ceil(lanes as u64).max(STRIPE_BYTES_MIN);
            request.segment_size_bytes = request.segment_size_bytes.min(share);
        }
        let home = self.viper(homes.home(StorageComponentType::Viper)?);
        let pieces = home.pieces(rows, &request).await?;
        let files: Vec<String> = pieces.iter().map(|piece| piece.id().to_string()).collect();
        let wanted = match spread {
            Spread::Wide => None,
            Spread::On(root) => Some(root),
        };
        let roots = homes.targets(StorageComponentType::Viper, &files, wanted)?;
        let write = |(piece, root)| {
            let viper = self.viper(root);
            async move { viper.write_piece(piece).await }.boxed()
        };
        let writes: Vec<_> = pieces.into_iter().zip(roots).map(write).collect();
        // As many at a time as there are disks to write to.
        futures::stream::iter(writes).buffered(lanes).try_collect().await
    }

    /// Rows of an LSM as one segment, sorted like any other. The commit writes them.
    async fn rows_in_memory(&self, rows: SegmentData, request: &WriteRequest) -> Result<Vec<Written>> {
        if rows.seq_range().is_none() {
            return Ok(Vec::new());
        }
        let root_id = self.options.homes.home(StorageComponentType::Lsm)?.id();
        let (description, replaces) = (request.description.clone(), request.replaces.clone());
        let sorting = move || {
            let (data, order) = sort_by_cluster(&description.schema, &rows);
            let (meta, data) = in_memory(data, root_id, replaces);
            Written { meta, data, order }
        };
        Ok(vec![cpu(sorting).await?])
    }

    /// Deletes a segment that no manifest names, on every root where a move may have put it.
    ///
    /// # Errors
    /// Errors of the roots; try again later.
    pub(super) async fn delete_segment(&self, meta: &SegmentMeta) -> Result<()> {
        if let Engine::Lsm(_) = self.engine {
            return Ok(());
        }
        for root in self.options.homes.all(StorageComponentType::Viper)? {
            self.viper(root).delete_segment(meta).await?;
        }
        Ok(())
    }
}

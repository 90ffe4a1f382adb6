//! What keeps the flushed rows of a shard: VIPER segments named by manifests, or an LSM tree.
//!
//! Owns what differs between the two when a shard is opened and when rows are committed. In memory both are the same:
//! segments of rows with their liveness and indexes. An LSM's segments have no files of their own; they are cut from the
//! tree anew at every opening, and merging them is work in memory only.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::RwLock as AsyncRwLock;

use super::Shard;
use super::commit::{Commit, Takeover};
use super::data::{self, Found};
use super::homes::{Homes, Located};
use crate::engine::lsm::Lsm;
use crate::engine::manifest::{Manifest, ManifestStore, SegmentMeta};
use crate::engine::segment::{SegmentData, SegmentId};
use crate::error::{Error, Result};
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::{CollectionDescription, StorageEngineKind};
use crate::wal::{Wal, WalFile, log_begins};

/// The engine of an open shard.
pub(super) enum Engine {
    /// Segments and manifests; their files are found through the homes.
    Viper,
    /// A tree on the home of the LSM component. Held exclusively while it moves to another root.
    Lsm(AsyncRwLock<Lsm>),
}

/// The flushed data of a shard as it is found at the opening.
pub(super) struct Flushed {
    pub manifest: Manifest,
    pub rest: Rest,
}

/// Segments with their rows.
pub(super) type Segments = Vec<(SegmentMeta, Arc<SegmentData>)>;

/// What only the engine needs.
pub(super) enum Rest {
    Viper {
        files: Vec<Located>,
        is_stored: bool,
    },
    Lsm {
        tree: Option<Lsm>,
        /// What the tree held.
        segments: Segments,
    },
}

impl Flushed {
    /// Reads what the shard consists of; `files` are those of the engine's component, `log` those of the log. Changes nothing
    /// but an LSM's own bookkeeping.
    ///
    /// # Errors
    /// [`Error::Corruption`] for damaged or missing files, also when log and data cannot belong together; errors of the
    /// roots.
    pub(super) async fn find(
        homes: &Homes,
        description: &CollectionDescription,
        shard: &str,
        files: Vec<Located>,
        log: &[WalFile],
    ) -> Result<Self> {
        let directory = format!("{}/{shard}", description.id);
        let engine = description.schema.storage_engine;
        let component = component_of(engine);
        let exists = match engine {
            StorageEngineKind::Viper => Found::exists(&files),
            StorageEngineKind::Lsm => files.iter().any(|located| located.file.path.ends_with(".manifest")),
        };
        check_log_meets_data(&directory, homes, component, exists, log).await?;
        let manifest = Manifest::empty(description.clone(), shard);
        match engine {
            StorageEngineKind::Viper => Self::find_viper(homes, description, shard, log, files).await,
            StorageEngineKind::Lsm if exists => Self::find_lsm(homes, description, shard, manifest).await,
            StorageEngineKind::Lsm => Ok(Self {
                manifest,
                rest: Rest::Lsm {
                    tree: None,
                    segments: Vec::new(),
                },
            }),
        }
    }

    async fn find_viper(
        homes: &Homes,
        description: &CollectionDescription,
        shard: &str,
        log: &[WalFile],
        files: Vec<Located>,
    ) -> Result<Self> {
        let (manifest, is_stored) = match Found::load(homes, description, shard, &files).await? {
            Found::Stored(manifest) => (manifest, true),
            Found::Rebuilt(manifest) => {
                // A flush that was cut short may have left holes in the segments; the log has all that is not in a manifest.
                let begins = log_begins(&format!("{}/{shard}", description.id), log).await?;
                let flushed_seq = begins.map_or(manifest.flushed_seq, |first| first.saturating_sub(1));
                let manifest = Manifest {
                    flushed_seq,
                    ..manifest
                };
                (manifest, false)
            }
            Found::Nothing => {
                let first = Manifest::empty(description.clone(), shard).next(description.clone(), 0, Vec::new());
                (first, false)
            }
        };
        Ok(Self {
            manifest,
            rest: Rest::Viper { files, is_stored },
        })
    }

    /// The segments with their rows, which are read unless they are `mapped` and the segment's file is there; they can be asked
    /// for once.
    ///
    /// # Errors
    /// [`Error::Corruption`] for damaged or missing files; errors of the roots.
    pub(super) async fn segments(
        &mut self,
        homes: &Homes,
        description: &CollectionDescription,
        mut mapped: BTreeMap<SegmentId, Arc<SegmentData>>,
    ) -> Result<Segments> {
        let Manifest { shard, segments, .. } = &self.manifest;
        match &mut self.rest {
            Rest::Viper { files, .. } => {
                let lacks = |meta: &SegmentMeta| !files.iter().any(|located| data::is_file_of(located, meta));
                segments.iter().filter(|meta| lacks(meta)).for_each(|meta| {
                    mapped.remove(&meta.id);
                });
                data::read_segments(homes, description, shard, segments, mapped).await
            }
            Rest::Lsm { segments, .. } => Ok(std::mem::take(segments)),
        }
    }

    async fn find_lsm(
        homes: &Homes,
        description: &CollectionDescription,
        shard: &str,
        manifest: Manifest,
    ) -> Result<Self> {
        let root = tree_root(homes, description, shard).await?;
        let lsm = Lsm::open(root.clone(), description.id, shard, description).await?;
        let contents = lsm.load(LSM_SEGMENT_BYTES).await?;
        let segments: Vec<_> = contents
            .segments
            .into_iter()
            .map(|rows| in_memory(rows, root.id(), Vec::new()))
            .collect();
        let metas = segments.iter().map(|(meta, _)| meta.clone()).collect();
        Ok(Self {
            manifest: manifest.next(description.clone(), contents.flushed_seq, metas),
            rest: Rest::Lsm {
                tree: Some(lsm),
                segments,
            },
        })
    }

    /// Makes durable what was not there yet, after the log's first file, so that data without a log is always a loss, never a
    /// beginning. Searches of a VIPER collection that needs none of it do not wait for the log to be taken over.
    ///
    /// # Errors
    /// Errors of the roots.
    pub(super) async fn settle(
        manifest: &mut Manifest,
        rest: Rest,
        homes: &Homes,
        description: &CollectionDescription,
        shard: &str,
        wal: &Wal,
    ) -> Result<Engine> {
        match rest {
            Rest::Viper { files, is_stored } => {
                // Here, and not later: a move may bring a file of the same name again.
                let orphans = data::orphans(description, shard, manifest, &files);
                if is_stored && orphans.is_empty() {
                    return Ok(Engine::Viper);
                }
                wal.take_over().await?;
                let home = homes.home(StorageComponentType::Viper)?;
                let is_shared = !home.fs().is_local();
                if is_stored && is_shared {
                    // What another process is still writing to a bucket must not come into force when it is deleted.
                    *manifest = manifest.next(description.clone(), manifest.flushed_seq, manifest.segments.clone());
                }
                if !is_stored || is_shared {
                    ManifestStore::new(home, description.id, shard).commit(manifest).await?;
                }
                data::delete_orphans(orphans).await?;
                Ok(Engine::Viper)
            }
            Rest::Lsm { tree: Some(lsm), .. } => {
                wal.take_over().await?;
                // Nobody else has a disk.
                if !lsm.root().fs().is_local() {
                    lsm.check_newest(manifest.flushed_seq).await?;
                }
                Ok(Engine::Lsm(AsyncRwLock::new(lsm)))
            }
            Rest::Lsm { tree: None, .. } => {
                wal.take_over().await?;
                let root = homes.home(StorageComponentType::Lsm)?;
                let lsm = Lsm::open(root, description.id, shard, description).await?;
                Ok(Engine::Lsm(AsyncRwLock::new(lsm)))
            }
        }
    }
}

/// Rows of an LSM that are searched, indexed and merged together.
const LSM_SEGMENT_BYTES: usize = 64 << 20;

/// The component that holds the rows of an engine.
pub(super) fn component_of(engine: StorageEngineKind) -> StorageComponentType {
    match engine {
        StorageEngineKind::Viper => StorageComponentType::Viper,
        StorageEngineKind::Lsm => StorageComponentType::Lsm,
    }
}

/// The root whose tree counts. While a move is under way there may be two: the one with more commits is the newer, and of
/// equal ones the home. An incomplete copy does not verify.
async fn tree_root(homes: &Homes, description: &CollectionDescription, shard: &str) -> Result<Arc<Root>> {
    let home = homes.home(StorageComponentType::Lsm)?;
    let all = homes.all(StorageComponentType::Lsm)?;
    if all.len() == 1 {
        return Ok(home);
    }
    let (mut newest, mut chosen) = (None, home);
    for root in all {
        match Lsm::verify(&root, description.id, shard).await {
            Ok(found) if newest.is_none_or(|newest| found.flushed_seq > newest) => {
                newest = Some(found.flushed_seq);
                chosen = root;
            }
            Ok(_) => {}
            Err(error @ Error::Corruption(_)) => tracing::info!(%error, "a tree that is only partly there is not used"),
            Err(error) => return Err(error),
        }
    }
    Ok(chosen)
}

/// Rows as a segment without a file.
pub(super) fn in_memory(
    rows: SegmentData,
    root_id: RootId,
    replaces: Vec<SegmentId>,
) -> (SegmentMeta, Arc<SegmentData>) {
    let (min_seq, max_seq) = rows.seq_range().unwrap_or_default();
    let bytes = rows.bytes() as u64;
    let meta = SegmentMeta {
        id: SegmentId::generate(),
        root_id,
        copy: None,
        rows: rows.len() as u64,
        tombstones: rows.tombstones.len() as u64,
        min_seq,
        max_seq,
        bytes,
        data_bytes: bytes,
        crc32: 0,
        replaces,
    };
    (meta, Arc::new(rows))
}

/// Refuses a shard that has lost its log, or its flushed data, as a whole. Holes inside the log are the replay's to find.
async fn check_log_meets_data(
    directory: &str,
    homes: &Homes,
    component: StorageComponentType,
    has_data: bool,
    log: &[WalFile],
) -> Result<()> {
    let begins = match has_data {
        true => None,
        false => log_begins(directory, log).await?,
    };
    let url = |component| homes.home(component).map(|root| root.url().to_owned());
    let lost = match begins {
        _ if has_data && log.is_empty() => format!(
            "the log of shard {directory} is missing on {}",
            url(StorageComponentType::Wal)?
        ),
        Some(first) if first > 1 => {
            format!(
                "the flushed data of shard {directory} is missing on {}",
                url(component)?
            )
        }
        _ => return Ok(()),
    };
    Err(Error::Corruption(format!("{lost}; restore it, or drop the collection")))
}

impl Shard {
    /// Makes a commit durable.
    ///
    /// # Errors
    /// Errors of the root. The outcome may be unknown: the same commit is tried again before any other.
    pub(super) async fn persist(&self, manifest: &Manifest, commit: &Commit) -> Result<()> {
        self.take_over().await?;
        match (&self.engine, &commit.takeover) {
            (Engine::Viper, _) => self.manifests()?.commit(manifest).await,
            (Engine::Lsm(lsm), Takeover::Frozen) => {
                let nothing = SegmentData::default();
                let rows = commit.segments.first().map_or(&nothing, |segment| &segment.data);
                lsm.read()
                    .await
                    .commit(&manifest.description, manifest.flushed_seq, rows)
                    .await
            }
            // The tree is as it was; only its rows in memory lie together differently.
            (Engine::Lsm(_), Takeover::Segments(_) | Takeover::Relocated(_)) => Ok(()),
        }
    }
}

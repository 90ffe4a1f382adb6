//! A shard: one log, one memtable, one manifest and its segments. The unit of placement, recovery and flushing.
//!
//! Owns the order of things that makes data safe: log, then memory, then acknowledgement; segment, then manifest, then
//! release of the log. Does not own formats (wal, engine), placement, or names.
//!
//! Two locks order the work, taken in this order and never the other way round:
//! `flushing` or `compacting` (one flush and one compaction at a time) → `manifest` (one commit at a time).
//! `gate` is shared by blind writes and exclusive for read-modify-write operations, which must see all earlier ones.

pub mod budget;
mod compact;
mod flush;
pub mod read;
pub mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, RwLock as AsyncRwLock};

use crate::axis::{self, Axis};
use crate::engine::manifest::{Manifest, ManifestStore};
use crate::engine::viper::Viper;
use crate::error::{Error, Result};
use crate::memtable::memory_bytes;
use crate::point::{Operation, Seq};
use crate::root::Root;
use crate::schema::CollectionDescription;
use crate::wal::{Wal, WalOptions};

use budget::MemoryBudget;
use state::State;

/// Segments read at once when a shard is opened: enough to keep a disk or a bucket busy, bounded in memory.
const PARALLEL_READS: usize = 4;

/// Where a shard lives and how it behaves.
#[derive(Clone)]
pub struct ShardOptions {
    /// Root of its log.
    pub wal_root: Arc<Root>,
    /// Root of its segments and manifests.
    pub viper_root: Arc<Root>,
    /// Root of its vector indexes.
    pub index_root: Arc<Root>,
    /// A memtable of this many bytes is flushed.
    pub memory_flush_size_bytes: u64,
    /// Segments grow to this many bytes.
    pub segment_size_bytes: u64,
    /// Memory shared by all memtables.
    pub budget: Arc<MemoryBudget>,
}

/// Why memtables were flushed, counted.
#[derive(Default)]
pub struct FlushCounters {
    /// The memtable reached `memory_flush_size_bytes`.
    pub by_size: AtomicU64,
    /// All memtables together reached `global_flush_threshold`.
    pub by_memory: AtomicU64,
    /// Somebody asked for it.
    pub by_request: AtomicU64,
}

/// One open shard.
pub struct Shard {
    description: RwLock<Arc<CollectionDescription>>,
    directory: String,
    options: ShardOptions,
    state: Arc<RwLock<State>>,
    wal: Wal,
    viper: Viper,
    manifests: ManifestStore,
    manifest: AsyncMutex<Manifest>,
    axis: Axis,
    flushing: AsyncMutex<()>,
    compacting: AsyncMutex<()>,
    gate: AsyncRwLock<()>,
    flush_error: Mutex<Option<Error>>,
    closed: AtomicBool,
    /// Flushes by trigger.
    pub flushes: FlushCounters,
}

impl Shard {
    /// Opens a shard: reads its newest manifest and segments, replays the log above them, and attaches its indexes.
    /// A shard that has nothing yet gets its first log file and manifest, which pin its homes.
    ///
    /// # Errors
    /// [`Error::Corruption`] for damaged or missing files; [`Error::RootUnavailable`] if a root cannot be read.
    pub async fn open(description: CollectionDescription, shard: &str, options: ShardOptions) -> Result<Arc<Self>> {
        let directory = format!("{}/{shard}", description.id);
        let description = Arc::new(description);
        let wal_files = options.wal_root.list(&directory).await?;
        let data_files = options.viper_root.list(&directory).await?;
        let viper = Viper::new(options.viper_root.clone(), directory.clone());
        let manifests = ManifestStore::new(options.viper_root.clone(), directory.clone());

        let existing = match manifests.latest(&data_files).await? {
            Some(manifest) => Some(manifest),
            None => viper.rebuild_manifest(&data_files, &description).await?,
        };
        let first_logged = crate::wal::first_seq(&wal_files)?;
        check_log_meets_manifest(&directory, &options, existing.as_ref(), first_logged)?;

        let metas = existing.as_ref().map_or_else(Vec::new, |manifest| manifest.segments.clone());
        let reads = metas.into_iter().map(|meta| {
            let viper = &viper;
            async move { viper.read_segment(&meta).await.map(|data| (meta, Arc::new(data))) }
        });
        let segments: Vec<_> = stream::iter(reads).buffered(PARALLEL_READS).try_collect().await?;
        let flushed_seq = existing.as_ref().map_or(0, |manifest| manifest.flushed_seq);
        let schema = Arc::new(description.schema.clone());
        let state = Arc::new(RwLock::new(State::load(schema, flushed_seq, segments)));

        let wal = open_wal(&description, &directory, &options, wal_files, flushed_seq, &state).await?;
        let manifest = match existing {
            Some(manifest) => manifest,
            // The log's first file exists by now, so a manifest without a log is always a loss, never a beginning.
            None => manifests.commit(Manifest::first(&description, shard)).await?,
        };
        viper.delete_orphans(&data_files, &manifest).await?;
        let axis = Axis::new(options.index_root.clone(), directory.clone());
        let shard = Arc::new(Self {
            description: RwLock::new(description),
            directory,
            state,
            wal,
            viper,
            manifests,
            manifest: AsyncMutex::new(manifest),
            axis,
            flushing: AsyncMutex::default(),
            compacting: AsyncMutex::default(),
            gate: AsyncRwLock::default(),
            flush_error: Mutex::default(),
            closed: AtomicBool::new(false),
            flushes: FlushCounters::default(),
            options,
        });
        shard.options.budget.register(&shard);
        shard.attach_indexes().await;
        shard.flush_if_large();
        Ok(shard)
    }

    /// The collection as this shard's files describe it.
    pub fn description(&self) -> Arc<CollectionDescription> {
        self.description.read().clone()
    }

    /// Takes over changed settings; they are written into the files from now on.
    pub fn set_description(&self, description: Arc<CollectionDescription>) {
        self.state.write().set_schema(Arc::new(description.schema.clone()));
        *self.description.write() = description;
    }

    /// Logs operations that do not depend on the present state; they are durable and visible when this returns.
    /// All of them survive a crash or none does.
    ///
    /// # Errors
    /// [`Error::StorageFull`], [`Error::RootUnavailable`] or [`Error::Overloaded`]; then nothing was applied.
    pub async fn write(self: &Arc<Self>, operations: Vec<Operation>) -> Result<Seq> {
        let _order = self.gate.read().await;
        self.log(operations).await
    }

    /// Logs the operations that `plan` derives from the present state, with no other write in between.
    ///
    /// # Errors
    /// Those of `plan`, and as [`Shard::write`].
    pub async fn read_modify_write(self: &Arc<Self>, plan: impl FnOnce(&State) -> Result<Vec<Operation>> + Send) -> Result<Seq> {
        let _order = self.gate.write().await;
        let operations = plan(&self.state.read())?;
        self.log(operations).await
    }

    async fn log(self: &Arc<Self>, operations: Vec<Operation>) -> Result<Seq> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotFound(format!("Collection `{}` doesn't exist!", self.description().name)));
        }
        if operations.is_empty() {
            return Ok(self.state.read().applied_seq());
        }
        let bytes = operations.iter().map(memory_bytes).sum();
        let _reservation = self.options.budget.reserve(bytes).await?;
        self.wait_for_room().await?;
        let seqs = self.wal.append(operations).await?;
        self.flush_if_large();
        Ok(seqs.end - 1)
    }

    /// Stops background work and closes the log. Nothing is written afterwards; unflushed operations stay in the log.
    pub async fn close(&self) {
        let _order = self.gate.write().await;
        self.closed.store(true, Ordering::Release);
        let _flushing = self.flushing.lock().await;
        let _compacting = self.compacting.lock().await;
        self.wal.close().await;
        let (active, frozen) = self.state.read().memtable_bytes();
        self.options.budget.release(active + frozen);
    }

    /// Loads the index of every segment, and builds those that are missing in the background.
    async fn attach_indexes(self: &Arc<Self>) {
        let segments: Vec<_> = self.state.read().segments().cloned().collect();
        let mut missing = Vec::new();
        for segment in segments.into_iter().filter(|segment| axis::wants_index(&segment.data)) {
            match self.axis.load(segment.meta.id).await {
                Ok(Some(indexes)) => self.state.write().set_indexes(segment.source, indexes),
                Ok(None) => missing.push(segment),
                Err(error) => {
                    tracing::warn!(%error, segment = %segment.meta.id, "index not loaded; it is built again");
                    missing.push(segment);
                }
            }
        }
        if !missing.is_empty() {
            let shard = self.clone();
            tokio::spawn(async move {
                for segment in missing {
                    shard.build_index(segment).await;
                }
            });
        }
    }

    /// Builds, attaches and stores the index of a segment. A failure is logged: the segment is searched exactly.
    async fn build_index(&self, segment: state::SegmentSource) {
        if !axis::wants_index(&segment.data) || self.closed.load(Ordering::Acquire) {
            return;
        }
        let description = self.description();
        let (data, schema) = (segment.data.clone(), description.clone());
        let Ok(indexes) = tokio::task::spawn_blocking(move || axis::build(&data, &schema.schema)).await else {
            tracing::error!(segment = %segment.meta.id, "index build panicked");
            return;
        };
        self.state.write().set_indexes(segment.source, indexes.clone());
        if let Err(error) = self.axis.save(segment.meta.id, &description, &indexes).await {
            tracing::warn!(%error, segment = %segment.meta.id, "index is in memory only; it is built again after a restart");
        }
    }
}

async fn open_wal(
    description: &CollectionDescription,
    directory: &str,
    options: &ShardOptions,
    files: Vec<proximadb_store::FileInfo>,
    flushed_seq: Seq,
    state: &Arc<RwLock<State>>,
) -> Result<Wal> {
    let budget = options.budget.clone();
    let target = state.clone();
    let apply = move |operations: Vec<(Seq, Operation)>| {
        let mut state = target.write();
        for (seq, operation) in operations {
            budget.add(memory_bytes(&operation));
            state.apply(seq, operation);
        }
    };
    let mut replay = |seq, operation: Operation| {
        options.budget.add(memory_bytes(&operation));
        state.write().apply(seq, operation);
    };
    let root = options.wal_root.clone();
    let opening = Wal::open(root, directory, description, files, flushed_seq, WalOptions::default(), &mut replay, Arc::new(apply));
    opening.await
}

/// Refuses a shard whose log and manifest do not meet: operations between them, or the whole log, are lost.
fn check_log_meets_manifest(directory: &str, options: &ShardOptions, manifest: Option<&Manifest>, first_logged: Option<Seq>) -> Result<()> {
    let flushed = manifest.map(|manifest| manifest.flushed_seq);
    let lost = match (flushed, first_logged) {
        (None, None) => None,
        (Some(_), None) => Some(format!("the log of shard {directory} is missing on {}", options.wal_root.url())),
        (None, Some(first)) if first > 1 => {
            Some(format!("the segments and manifests of shard {directory} are missing on {}", options.viper_root.url()))
        }
        (Some(flushed), Some(first)) if first > flushed + 1 => Some(format!(
            "shard {directory}: the log on {} starts at sequence number {first}, but the manifest on {} ends at {flushed}",
            options.wal_root.url(),
            options.viper_root.url()
        )),
        _ => None,
    };
    lost.map_or(Ok(()), |reason| Err(Error::Corruption(format!("{reason}; restore it, or drop the collection"))))
}

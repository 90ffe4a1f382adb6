//! A shard: one log, one memtable, one manifest and its segments. The unit of placement, recovery and flushing.
//!
//! Owns the order of things that makes data safe: log, then memory, then acknowledgement; segment, then manifest, then
//! release of the log. Does not own formats (wal, engine), placement, or names.
//!
//! Two locks order the work, taken in this order and never the other way round:
//! `flushing` or `compacting` (one flush and one compaction at a time) → `ledger` (one commit at a time).
//! `gate` is shared by blind writes and exclusive for read-modify-write operations, which must see all earlier ones.

pub mod budget;
mod commit;
mod flush;
mod compact;
pub mod read;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use proximadb_store::FileInfo;
use tokio::sync::{Mutex as AsyncMutex, RwLock as AsyncRwLock};

use crate::axis::{self, Axis};
use crate::config::WalFormat;
use crate::discovery::belongs_to;
use crate::engine::manifest::{Manifest, ManifestStore, SegmentMeta};
use crate::engine::segment::SegmentId;
use crate::engine::viper::Viper;
use crate::error::{Error, Result};
use crate::memtable::memory_bytes;
use crate::point::{Operation, Seq};
use crate::root::{Root, StorageComponentType};
use crate::schema::CollectionDescription;
use crate::wal::{Wal, WalFile, WalOptions, WalStart, WalStats};

use crate::state::{SegmentSource, SourceId, State};
use budget::MemoryBudget;
use commit::Ledger;

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
    options: ShardOptions,
    state: Arc<RwLock<State>>,
    wal: Wal,
    viper: Viper,
    manifests: ManifestStore,
    ledger: AsyncMutex<Ledger>,
    /// Segments that no manifest names any more and whose files are still there.
    replaced: Mutex<Vec<SegmentMeta>>,
    axis: Axis,
    flushing: AsyncMutex<()>,
    compacting: AsyncMutex<()>,
    gate: AsyncRwLock<()>,
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
        let mut wal_files = options.wal_root.list(&directory).await?;
        let mut data_files = options.viper_root.list(&directory).await?;
        // What somebody else has put there is neither read nor deleted.
        wal_files.retain(|file| belongs_to(StorageComponentType::Wal, file));
        data_files.retain(|file| belongs_to(StorageComponentType::Viper, file));
        let viper = Viper::new(options.viper_root.clone(), description.id, shard);
        let manifests = ManifestStore::new(options.viper_root.clone(), description.id, shard);

        let newest = manifests.latest(&data_files).await?;
        let found = if newest.is_none() {
            viper.inspect(&data_files).await?
        } else {
            Vec::new()
        };
        check_log_meets_manifest(&directory, &options, newest.as_ref(), !found.is_empty(), &wal_files)?;
        let (manifest, is_stored) = match newest {
            Some(manifest) => (manifest, true),
            None if found.is_empty() => (
                Manifest::empty((*description).clone(), shard).next((*description).clone(), 0, Vec::new()),
                false,
            ),
            None => (Manifest::rebuild(description.id, shard, &found)?, false),
        };
        let data = viper.read_segments(&manifest.segments).await?.into_iter().map(Arc::new);
        let segments = manifest.segments.iter().cloned().zip(data).collect();
        let schema = Arc::new(description.schema.clone());
        let state = Arc::new(RwLock::new(State::load(schema, manifest.flushed_seq, segments)));

        let after = manifest.flushed_seq;
        let wal = open_wal(&description, &directory, &options, &wal_files, after, &state).await?;
        if !is_stored {
            // The log's first file exists by now, so a manifest without a log is always a loss, never a beginning.
            manifests.commit(&manifest).await?;
        }
        delete_orphans(&viper, &manifest, &data_files).await?;
        let axis = Axis::new(options.index_root.clone(), directory);
        let shard = Arc::new(Self {
            description: RwLock::new(description),
            state,
            wal,
            viper,
            manifests,
            ledger: AsyncMutex::new(Ledger {
                manifest,
                unfinished: None,
            }),
            replaced: Mutex::default(),
            axis,
            flushing: AsyncMutex::default(),
            compacting: AsyncMutex::default(),
            gate: AsyncRwLock::default(),
            closed: AtomicBool::new(false),
            flushes: FlushCounters::default(),
            options,
        });
        // What the replay brought counts from here on: an opening that failed above leaves nothing behind.
        shard.options.budget.add(shard.memtable_bytes());
        shard.options.budget.register(&shard);
        shard.attach_indexes().await;
        shard.flush_if_large();
        shard.compact_in_background();
        Ok(shard)
    }

    /// The collection as this shard's files describe it.
    pub fn description(&self) -> Arc<CollectionDescription> {
        self.description.read().clone()
    }

    /// Takes over changed settings; they are written into the files from now on.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the log's root is being closed.
    pub async fn set_description(&self, description: Arc<CollectionDescription>) -> Result<()> {
        self.wal.set_description(to_json(&description)?).await?;
        self.state.write().set_schema(Arc::new(description.schema.clone()));
        *self.description.write() = description;
        Ok(())
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
    pub async fn read_modify_write(
        self: &Arc<Self>,
        plan: impl FnOnce(&State) -> Result<Vec<Operation>> + Send,
    ) -> Result<Seq> {
        let _order = self.gate.write().await;
        let operations = plan(&self.state.read())?;
        self.log(operations).await
    }

    async fn log(self: &Arc<Self>, operations: Vec<Operation>) -> Result<Seq> {
        if self.is_closed() {
            return Err(Error::NotFound(format!(
                "Collection `{}` doesn't exist!",
                self.description().name
            )));
        }
        if operations.is_empty() {
            return Ok(self.state.read().applied_seq());
        }
        let bytes = operations.iter().map(memory_bytes).sum();
        let _reservation = self.options.budget.reserve(bytes).await?;
        self.wait_for_room().await?;
        let appended = self.wal.append(operations).await;
        let seqs = appended.inspect_err(|error| self.options.wal_root.note_failure(error))?;
        self.flush_if_large();
        Ok(seqs.end - 1)
    }

    /// Stops background work and closes the log. Nothing is written afterwards; unflushed operations stay in the log.
    pub async fn close(&self) {
        let _order = self.gate.write().await;
        self.closed.store(true, Ordering::Release);
        let _flushing = self.flushing.lock().await;
        let _compacting = self.compacting.lock().await;
        // An index may be on its way into a file; a drop deletes the directory next.
        let _ledger = self.ledger.lock().await;
        self.wal.close().await;
        let (active, frozen) = self.state.read().memtable_bytes();
        self.options.budget.release(active + frozen);
    }

    /// Whether it is closed: somebody may still hold it, and its memory counts no more.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What the log holds, in numbers.
    pub fn wal_stats(&self) -> WalStats {
        self.wal.stats()
    }

    /// Loads the index of every segment, and builds those that are missing in the background.
    async fn attach_indexes(self: &Arc<Self>) {
        let segments: Vec<_> = self.state.read().segments().cloned().collect();
        let ids: Vec<SegmentId> = segments.iter().map(|segment| segment.meta.id).collect();
        if let Err(error) = self.axis.keep_only(&ids).await {
            tracing::warn!(%error, "indexes of segments that are gone may be left over");
        }
        let mut missing = Vec::new();
        for segment in segments.into_iter().filter(|segment| axis::wants_index(&segment.data)) {
            match self.axis.load(segment.meta.id).await {
                Ok(Some(indexes)) => self.state.write().set_indexes(segment.source, indexes),
                Ok(None) => missing.push(segment.source),
                Err(error) => {
                    tracing::warn!(%error, segment = %segment.meta.id, "index not loaded; it is built again");
                    missing.push(segment.source);
                }
            }
        }
        self.index_in_background(missing);
    }

    /// Builds the indexes of these segments, one after the other, while they are searched exactly.
    fn index_in_background(self: &Arc<Self>, sources: Vec<SourceId>) {
        let wanted = |segment: &&SegmentSource| sources.contains(&segment.source) && axis::wants_index(&segment.data);
        let segments: Vec<SegmentSource> = self.state.read().segments().filter(wanted).cloned().collect();
        if !segments.is_empty() {
            let shard = self.clone();
            tokio::spawn(async move {
                for segment in segments {
                    shard.build_index(segment).await;
                }
            });
        }
    }

    /// Builds, attaches and stores the index of a segment. A failure is logged: the segment is searched exactly.
    async fn build_index(&self, segment: SegmentSource) {
        let description = self.description();
        let (data, of) = (segment.data.clone(), description.clone());
        let Ok(indexes) = tokio::task::spawn_blocking(move || axis::build(&data, &of.schema)).await else {
            tracing::error!(segment = %segment.meta.id, "index build panicked");
            return;
        };
        self.state.write().set_indexes(segment.source, indexes.clone());
        // Held so that the segment is not replaced, nor the collection dropped, between the look and the write.
        let _ledger = self.ledger.lock().await;
        let alive = self.state.read().segments().any(|other| other.source == segment.source);
        if !alive || self.is_closed() {
            return;
        }
        if let Err(error) = self.axis.save(segment.meta.id, &description, &indexes).await {
            tracing::warn!(%error, segment = %segment.meta.id, "index is in memory only; it is built again after a restart");
        }
    }
}

/// Deletes what an unfinished or replaced write has left; nothing is being written yet.
async fn delete_orphans(viper: &Viper, manifest: &Manifest, files: &[FileInfo]) -> Result<()> {
    for orphan in viper.orphans(manifest, files) {
        let (root, file) = (viper.root().url(), &orphan.path);
        tracing::info!(root, file, "file of an unfinished or replaced write deleted");
        viper.root().delete(&orphan.path).await?;
    }
    Ok(())
}

async fn open_wal(
    description: &CollectionDescription,
    directory: &str,
    options: &ShardOptions,
    files: &[FileInfo],
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
    let mut replay = |seq, operation: Operation| state.write().apply(seq, operation);
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let start = WalStart {
        lanes: vec![options.wal_root.clone()],
        spare: None,
        directory: directory.to_owned(),
        description: to_json(description)?,
        files: files
            .iter()
            .map(|file| WalFile {
                root: options.wal_root.clone(),
                name: name(&file.path),
                bytes: file.size,
            })
            .collect(),
        after: flushed_seq,
        format: WalFormat::default(),
        options: WalOptions::default(),
        apply: Arc::new(apply),
    };
    Wal::open(start, &mut replay).await
}

fn to_json(description: &CollectionDescription) -> Result<String> {
    serde_json::to_string(description).map_err(|error| Error::Internal(format!("description: {error}")))
}

/// Refuses a shard that has lost its log, or its segments, as a whole. Holes inside the log are the replay's to find.
fn check_log_meets_manifest(
    directory: &str,
    options: &ShardOptions,
    manifest: Option<&Manifest>,
    has_segments: bool,
    log: &[FileInfo],
) -> Result<()> {
    let first_logged = log.iter().filter_map(|file| crate::wal::first_seq(&file.path)).min();
    let lost = match (manifest.is_some() || has_segments, first_logged) {
        (true, None) => format!("the log of shard {directory} is missing on {}", options.wal_root.url()),
        (false, Some(first)) if first > 1 => {
            format!(
                "the segments and manifests of shard {directory} are missing on {}",
                options.viper_root.url()
            )
        }
        _ => return Ok(()),
    };
    Err(Error::Corruption(format!("{lost}; restore it, or drop the collection")))
}

#[cfg(test)]
mod tests;

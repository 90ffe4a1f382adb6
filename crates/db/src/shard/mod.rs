//! A shard: one log, one memtable, one manifest and its segments. The unit of placement, recovery and flushing.
//!
//! Owns the order of things that makes data safe: log, then memory, then acknowledgement; segment, then manifest, then
//! release of the log. Does not own formats (wal, engine), placement, or names.
//!
//! Two locks order the work, taken in this order and never the other way round:
//! `flushing` or `compacting` (one flush and one compaction at a time) → `ledger` (one commit at a time).
//! A move of files holds `relocating`, which comes before all of them.
//! `gate` is shared by blind writes and exclusive for read-modify-write operations, which must see all earlier ones.

pub mod bucket_memory;
pub mod budget;
pub mod building;
mod homes;
mod data;
mod engine;
mod commit;
mod flush;
mod compact;
pub mod read;
pub mod explain;
mod relocate;
mod indexes;
mod fetch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, RwLock as AsyncRwLock};

use crate::axis::{Axis, Loaded, SegmentIndexes};
use crate::config::WalFormat;
use crate::engine::absent::Miss;
use crate::engine::manifest::{Manifest, SegmentMeta, version_of};
use crate::engine::segment::SegmentId;
use crate::error::{Error, Result};
use crate::memtable::memory_bytes;
use crate::point::{Operation, Seq};
use crate::root::StorageComponentType;
use crate::schema::{CollectionDescription, StorageEngineKind};
use crate::state::State;
use crate::wal::{
    Confirm, FULL_OBJECT_BYTES, MAX_OBJECT_BYTES, Spare, Wal, WalFile, WalOptions, WalStart, WalStats, read_ahead,
};

use bucket_memory::BucketMemory;
use budget::MemoryBudget;
use building::BuildMemory;
use commit::Ledger;
use engine::{Engine, Flushed};
pub use fetch::Reads;
pub use homes::Homes;
use homes::Located;
pub use relocate::Pace;

/// How long a shard that cannot be written stays open, at least.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// Where a shard lives and how it behaves.
#[derive(Clone)]
pub struct ShardOptions {
    /// Where its files are and go.
    pub homes: Arc<Homes>,
    /// The format of new log files.
    pub wal_format: WalFormat,
    /// Finds another root for the log when one fails.
    pub spare: Option<Spare>,
    /// A memtable of this many bytes is flushed.
    pub memory_flush_size_bytes: u64,
    /// Segments grow to this many bytes.
    pub segment_size_bytes: u64,
    /// Memory shared by all memtables.
    pub budget: Arc<MemoryBudget>,
    /// Memory shared by all merges and index builds.
    pub build_memory: Arc<BuildMemory>,
    /// Memory shared by all that lies on buckets.
    pub bucket_memory: Arc<BucketMemory>,
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
    /// Three digits.
    number: String,
    options: ShardOptions,
    state: Arc<RwLock<State>>,
    wal: Wal,
    engine: Engine,
    ledger: AsyncMutex<Ledger>,
    /// Segments that no manifest names any more and whose files are still there.
    replaced: Mutex<Vec<SegmentMeta>>,
    axis: Axis,
    flushing: AsyncMutex<()>,
    compacting: AsyncMutex<()>,
    relocating: AsyncMutex<()>,
    gate: AsyncRwLock<()>,
    /// Held exclusively after the opening until mapped rows are verified. What copies rows waits for it, so that no damage
    /// is copied with them.
    unverified: Arc<AsyncRwLock<()>>,
    closed: AtomicBool,
    opened: Instant,
    /// That of the database.
    runtime: Handle,
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
        let homes = options.homes.clone();
        // What is there, what of it counts, and its content: each of the three is one round of requests.
        let component = engine::component_of(description.schema.storage_engine);
        let (wal_files, files, axis) = tokio::join!(
            homes.list(StorageComponentType::Wal, &directory),
            homes.list(component, &directory),
            Axis::open(homes.index()?, description.id, shard),
        );
        let (mut log, files) = (log_files(wal_files?), files?);
        let find = Flushed::find(&homes, &description, shard, files, &log);
        let (flushed, (), contents) =
            tokio::join!(find, axis.prefetch(&description.schema), read_ahead(&log, &directory));
        let mut flushed = flushed?;
        log.iter_mut()
            .zip(contents)
            .for_each(|(file, content)| file.content = content);
        let (state, wal, indexes) = read_content(&description, &directory, &options, log, &mut flushed, &axis).await?;
        let Flushed { mut manifest, rest } = flushed;
        let replayed = memtable_bytes(&state);
        let settled = Flushed::settle(&mut manifest, rest, &homes, &description, shard, &wal).await;
        // What another process had logged after the listing counts since it was applied.
        let engine = settled.inspect_err(|_| options.budget.release(memtable_bytes(&state) - replayed))?;
        let shard = Arc::new(Self {
            description: RwLock::new(description),
            number: shard.to_owned(),
            state,
            wal,
            engine,
            ledger: AsyncMutex::new(Ledger {
                manifest,
                unfinished: None,
            }),
            replaced: Mutex::default(),
            axis,
            flushing: AsyncMutex::default(),
            compacting: AsyncMutex::default(),
            relocating: AsyncMutex::default(),
            gate: AsyncRwLock::default(),
            unverified: Arc::default(),
            closed: AtomicBool::new(false),
            opened: Instant::now(),
            runtime: Handle::current(),
            flushes: FlushCounters::default(),
            options,
        });
        // What the replay brought counts from here on: an opening that failed above leaves nothing behind.
        shard.options.budget.add(replayed);
        shard.options.budget.register(&shard);
        shard.options.bucket_memory.register(&shard);
        shard.attach_indexes(indexes).await;
        let begun = shard.clone();
        // Searches need not wait until no other process writes here.
        tokio::spawn(async move {
            match begun.take_over().await {
                Ok(()) => {
                    begun.flush_if_large();
                    begun.compact_in_background();
                }
                Err(_) if begun.is_closed() => {}
                Err(error) => tracing::warn!(%error, directory, "nothing can be written here for now"),
            }
        });
        Ok(shard)
    }

    /// Waits until this process is the only one that writes the shard. Whatever changes its files does so first.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if it could not become that: then the shard [must be opened anew](Self::must_reopen).
    pub async fn take_over(&self) -> Result<()> {
        self.wal.take_over().await
    }

    /// Whether it cannot be written, because another process may have changed what was read at its opening, and is to be opened
    /// anew. Not at once: where that fails again and again it should be searched meanwhile.
    pub fn must_reopen(&self) -> bool {
        self.wal.refusal().is_some() && self.opened.elapsed() >= REOPEN_AFTER
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

    /// Logs the operations that `plan` derives from the present state, with no other write in between. It is asked again when it
    /// lacked something.
    ///
    /// # Errors
    /// Those of `plan`, and as [`Shard::write`].
    pub async fn read_modify_write(
        self: &Arc<Self>,
        plan: impl Fn(&State) -> Result<Vec<Operation>, Miss> + Send,
    ) -> Result<Seq> {
        // It may bring what another process has logged.
        self.take_over().await?;
        drop(self.unverified.read().await);
        let mut reads = Reads::default();
        loop {
            let order = self.gate.write().await;
            let planned = plan(&self.state.read());
            let absent = match planned {
                Ok(operations) => return self.log(operations).await,
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::Absent(absent)) => absent,
            };
            // Others may write meanwhile: the plan is made anew.
            drop(order);
            reads = self.fetch(absent, reads).await?;
        }
    }

    async fn log(self: &Arc<Self>, operations: Vec<Operation>) -> Result<Seq> {
        self.check_open()?;
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
        let _relocating = self.relocating.lock().await;
        let _flushing = self.flushing.lock().await;
        let _compacting = self.compacting.lock().await;
        // An index may be on its way into a file; a drop deletes the directory next.
        self.axis.close().await;
        self.wal.close().await;
        if let Engine::Lsm(lsm) = &self.engine {
            lsm.read().await.close().await;
        }
        self.options.budget.release(self.memtable_bytes());
    }

    /// Refuses what comes after the end: somebody may still hold it.
    fn check_open(&self) -> Result<()> {
        if !self.is_closed() {
            return Ok(());
        }
        let dropped = || Error::NotFound(format!("Collection `{}` doesn't exist!", self.description().name));
        Err(self.wal.refusal().unwrap_or_else(dropped))
    }

    /// Whether it is closed: somebody may still hold it, and its memory counts no more.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What the log holds, in numbers.
    pub fn wal_stats(&self) -> WalStats {
        self.wal.stats()
    }
}

/// Reads everything that counts at the same time: the rows of the segments, the log above them, the indexes. Rows that an
/// index root has ready to be used are taken from there, and the files of their segments are not read.
///
/// # Errors
/// [`Error::Corruption`] for damaged or missing files; errors of the roots. The log is closed then.
async fn read_content(
    description: &CollectionDescription,
    directory: &str,
    options: &ShardOptions,
    log: Vec<WalFile>,
    flushed: &mut Flushed,
    axis: &Axis,
) -> Result<(Arc<RwLock<State>>, Wal, BTreeMap<SegmentId, SegmentIndexes>)> {
    let schema = Arc::new(description.schema.clone());
    let manifest = flushed.manifest.clone();
    let after = manifest.flushed_seq;
    let state = Arc::new(RwLock::new(State::load(schema.clone(), after, Vec::new())));
    let mut replayed = Vec::new();
    let content = async {
        let Loaded { indexes, rows } = axis.load(&manifest.segments, |_, _| true).await;
        (flushed.segments(&options.homes, description, rows).await, indexes)
    };
    let ((segments, indexes), wal) = tokio::join!(
        content,
        open_wal(description, directory, options, log, (&manifest, &mut replayed), &state),
    );
    let (segments, wal) = match (segments, wal) {
        (Ok(segments), Ok(wal)) => (segments, wal),
        (Err(error), Ok(wal)) => {
            wal.close().await;
            return Err(error);
        }
        (Err(error), Err(_)) | (Ok(_), Err(error)) => return Err(error),
    };
    {
        let mut state = state.write();
        *state = State::load(schema, after, segments);
        for (seq, operation) in replayed {
            state.apply(seq, operation);
        }
    }
    Ok((state, wal, indexes))
}

async fn open_wal(
    description: &CollectionDescription,
    directory: &str,
    options: &ShardOptions,
    files: Vec<WalFile>,
    (manifest, replayed): (&Manifest, &mut Vec<(Seq, Operation)>),
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
    let mut replay = |seq, operation: Operation| replayed.push((seq, operation));
    let roots = options.homes.all(StorageComponentType::Wal)?;
    let confirm = (description.schema.storage_engine == StorageEngineKind::Viper)
        .then(|| still_newest(directory, options.homes.clone(), manifest.version));
    let mut sizes = WalOptions::default();
    if roots.iter().any(|root| !root.fs().is_local()) {
        let full = usize::try_from(options.memory_flush_size_bytes).unwrap_or(FULL_OBJECT_BYTES);
        (sizes.object_bytes, sizes.max_batch_bytes) = (full.min(FULL_OBJECT_BYTES), MAX_OBJECT_BYTES);
    }
    let start = WalStart {
        lanes: options.homes.lanes(StorageComponentType::Wal)?,
        roots,
        spare: options.spare.clone(),
        directory: directory.to_owned(),
        description: to_json(description)?,
        files,
        after: manifest.flushed_seq,
        format: options.wal_format,
        options: sizes,
        apply: Arc::new(apply),
        confirm,
    };
    Wal::open(start, &mut replay).await
}

/// Bytes of all memtables.
fn memtable_bytes(state: &RwLock<State>) -> u64 {
    let (active, frozen) = state.read().memtable_bytes();
    active + frozen
}

/// Makes sure that no other process has committed a manifest after `version`: it may have deleted some of the log since that was
/// listed.
fn still_newest(directory: &str, homes: Arc<Homes>, version: u64) -> Confirm {
    let directory = directory.to_owned();
    Arc::new(move || {
        let (homes, directory) = (homes.clone(), directory.clone());
        Box::pin(async move {
            let files = homes.list(StorageComponentType::Viper, &directory).await?;
            let newer = files
                .iter()
                .find(|located| version_of(&located.file.path) > Some(version));
            newer.map_or(Ok(()), |newer| {
                Err(Error::RootUnavailable {
                    url: newer.root.url().to_owned(),
                    reason: format!(
                        "another process has flushed {directory} while this one opened it: try again, and let one process serve it"
                    ),
                })
            })
        })
    })
}

/// The files of a log as the log knows them.
fn log_files(files: Vec<Located>) -> Vec<WalFile> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let file = |located: Located| WalFile {
        name: name(&located.file.path),
        bytes: located.file.size,
        content: None,
        root: located.root,
    };
    files.into_iter().map(file).collect()
}

fn to_json(description: &CollectionDescription) -> Result<String> {
    serde_json::to_string(description).map_err(|error| Error::Internal(format!("description: {error}")))
}

#[cfg(test)]
mod tests;

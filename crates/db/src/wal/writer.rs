//! The log as its callers see it: `append` from any task, and what is done with the files.
//!
//! Owns waiting and waking. Does not own batches and numbers (`queue`), blocks and files (`log`), writing (`worker`) or
//! what happens when a root fails (`failover`).
//!
//! ```text
//! append: serialise JSON ─ wait for room ─ [queue lock: number, encode into the last batch] ─ wake a lane ─ wait
//! ```
//!
//! Lock order: log, then queue. Both are held for moments in memory, never during I/O. Dropping the future of an
//! `append` neither loses nor repeats anything: before the operations are queued nothing has happened, afterwards they are
//! written and applied and only the answer goes nowhere.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell, Semaphore, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::WalFormat;
use crate::error::{Error, Result};
use crate::point::{Operation, Seq};
use crate::root::{Root, RootId};

use super::block::{Author, MAX_RAW_BYTES};
use super::codec::{PayloadTexts, codec, entry_bound};
use super::fence::Rivalry;
use super::file::Faults;
use super::flight::Lane;
use super::log::{Log, SealedFile};
use super::queue::{Queue, Waiter};
use super::replay::{Replay, replay};
use super::{Home, WalFile, WalOptions, WalStats};

/// Applies the operations of one commit to memory. Called in order of their numbers, after the sync and before the
/// callers wake, on a thread of a root's pool or, for what another process has logged, of the runtime; must not call the log.
pub type Apply = Arc<dyn Fn(Vec<(Seq, Operation)>) + Send + Sync>;

/// Asked for the root where the log goes on, when a write to this root has failed or stalled with this error. Before it
/// answers it has made durable that the collection may have files there.
pub type Spare = Arc<dyn Fn(RootId, Error) -> BoxFuture<'static, Result<Arc<Root>>> + Send + Sync>;

/// Asked when all other writers are stopped: whether the data that was read before the log is still the newest.
pub type Confirm = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Bytes that may be queued, in KiB (permits of a semaphore). Callers beyond wait in line: a slow disk must not fill
/// the memory.
const QUEUE_KIB: u32 = 64 * 1024;

/// How a log is opened.
pub struct WalStart {
    /// The roots where it is written: one, or several side by side.
    pub lanes: Vec<Arc<Root>>,
    /// Finds another root when one fails; without it callers get the error.
    pub spare: Option<Spare>,
    /// Directory below the roots: `<collection id>/<shard>`.
    pub directory: String,
    /// The collection's `CollectionDescription` as JSON, for the headers of new files.
    pub description: String,
    /// Every root that may hold files of the log, and be written by another process that takes it for its own.
    pub roots: Vec<Arc<Root>>,
    /// The files that discovery found in the directory, on all roots.
    pub files: Vec<WalFile>,
    /// Last sequence number that is in flushed segments; only later operations are replayed.
    pub after: Seq,
    /// The format of new files. Those that are there may have any.
    pub format: WalFormat,
    /// Sizes and patience.
    pub options: WalOptions,
    /// Receives the operations of each commit, and those that another process has logged since the listing.
    pub apply: Apply,
    /// On buckets: makes sure that no other process has flushed since.
    pub confirm: Option<Confirm>,
}

/// The log of one shard. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wal {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) apply: Apply,
    pub(super) spare: Option<Spare>,
    pub(super) runtime: Handle,
    pub(super) stall: Duration,
    room: Arc<Semaphore>,
    pub(super) log: Mutex<Log>,
    pub(super) queue: Mutex<Queue>,
    pub(super) rivalry: Rivalry,
    /// Whether this writer is the only one, once that is decided.
    taken: OnceCell<Result<()>>,
    /// Told when a block is applied, a lane rests or a root is replaced.
    pub(super) progress: Notify,
    /// Held by whoever keeps the log still.
    pub(super) only: Arc<tokio::sync::Mutex<()>>,
}

impl Wal {
    /// Opens the log: hands every operation after `start.after` to `replayed` in order and cuts a torn tail. A log on disks gets
    /// its first file, a header only, if there is none; one on buckets has yet to be [taken over](Self::take_over).
    ///
    /// # Errors
    /// `Corruption` naming file and offset; nothing is cut then, and what `replayed` has seen must be thrown away.
    /// `RootUnavailable` or `StorageFull` as the root answers.
    pub async fn open(start: WalStart, mut replayed: Replay<'_>) -> Result<Self> {
        let directory: Arc<str> = start.directory.into();
        let home = |root: &Arc<Root>| Home::new(root, &directory);
        let homes: Vec<Home> = start.lanes.iter().map(home).collect();
        let mut buckets: Vec<Home> = start.lanes.iter().chain(&start.roots).map(home).collect();
        buckets.retain(|home| !home.is_local());
        buckets.sort_by_key(|home| home.root.id());
        buckets.dedup_by_key(|home| home.root.id());
        let found = replay(&directory, &start.files, start.after, &mut replayed).await?;
        let mut log = Log {
            directory,
            description: start.description,
            format: start.format,
            options: start.options,
            lanes: Vec::new(),
            width: 0,
            sealed: Vec::new(),
            flights: BTreeMap::new(),
            durable: found.last,
            hole: None,
            gap: found.gap,
            paused: false,
            applying: false,
            totals: WalStats::default(),
            faults: Faults::default(),
            issued: 0,
            author: Author {
                writer: Uuid::new_v4(),
                epoch: 0,
                fence: None,
            },
            presence: BTreeMap::new(),
            alarm: None,
            trouble: None,
        };
        log.set_lanes(homes);
        let next = log.adopt(found).await;
        let on_disks = buckets.is_empty();
        let lanes = log.shares();
        let shared = Shared {
            apply: start.apply,
            spare: start.spare,
            runtime: Handle::current(),
            stall: start.options.stall,
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            queue: Mutex::new(Queue::new(
                next,
                start.options.max_batch_bytes,
                lanes,
                codec(start.format),
            )),
            log: Mutex::new(log),
            rivalry: Rivalry::new(buckets, &start.files, start.format, start.confirm),
            taken: OnceCell::new(),
            progress: Notify::new(),
            only: Arc::default(),
        };
        let wal = Self {
            shared: Arc::new(shared),
        };
        if on_disks {
            wal.take_over().await?;
        }
        Ok(wal)
    }

    /// Makes this process the one that writes the log; at once if it is. Everything that changes files waits for it, so
    /// that a search need not.
    ///
    /// # Errors
    /// `RootUnavailable` or `StorageFull` as the roots answer; then the log is to be opened anew, because what was read of it is
    /// too old to be written to.
    pub async fn take_over(&self) -> Result<()> {
        if let Some(taken) = self.shared.taken.get() {
            return taken.clone();
        }
        // A task of its own, which goes on to its end, once, when a request that waits for it is cancelled.
        let shared = Arc::clone(&self.shared);
        let taking = async move { shared.taken.get_or_init(|| shared.take_over()).await.clone() };
        let taken = self.shared.runtime.spawn(taking).await;
        taken.unwrap_or_else(|_| Err(unknown_outcome()))
    }

    /// Why it could not be [taken over](Self::take_over), if that was tried.
    pub fn refusal(&self) -> Option<Error> {
        self.shared.taken.get()?.clone().err()
    }

    /// Logs and applies the operations of one call as a whole and returns their sequence numbers, in order. When it
    /// returns they are durable and applied. No operation, no write.
    ///
    /// # Errors
    /// `StorageFull` or `RootUnavailable`: not applied, and if a part has reached the disk the next write excludes it
    /// (until then a restart may still find it: the outcome is open, as with any lost answer). `InvalidInput` for more
    /// than 4 GiB at once. `Internal` when the log is closed.
    pub async fn append(&self, operations: Vec<Operation>) -> Result<Range<Seq>> {
        if operations.is_empty() {
            let next = self.shared.queue.lock().next;
            return Ok(next..next);
        }
        let payloads = PayloadTexts::of(&operations)
            .map_err(|error| Error::Internal(format!("a payload could not be written as JSON: {error}")))?;
        let bound = payloads.len() + operations.iter().map(entry_bound).sum::<usize>();
        if bound > MAX_RAW_BYTES {
            let reason = format!(
                "{} operations of {bound} bytes are too many for one call: send parts",
                operations.len()
            );
            return Err(Error::InvalidInput(reason));
        }
        self.take_over().await?;
        let wanted = u32::try_from(bound / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(wanted).await;
        let room = room.map_err(|_| closed_error())?;
        let (done, answer) = oneshot::channel();
        let waiter = Waiter {
            done,
            _room: Some(room),
        };
        // No await between here and the queue: a dropped future stops before or after, never inside.
        let numbers = self.shared.enqueue(operations, &payloads, bound, waiter)?;
        self.shared.answered(answer).await?;
        Ok(numbers)
    }

    /// Ends what is being written if it holds entries and at least `min_bytes`, so that a flush can release it.
    /// Everything appended and acknowledged before is in it.
    ///
    /// # Errors
    /// Those of [`take_over`](Self::take_over). A new file that cannot be created (a full disk) is created by the next write.
    pub async fn roll(&self, min_bytes: u64) -> Result<()> {
        self.take_over().await?;
        let _still = self.shared.still().await;
        if self.shared.end_files(min_bytes).await
            && let Err(error) = self.shared.begin_file().await
        {
            let directory = Arc::clone(&self.shared.log.lock().directory);
            tracing::warn!(%directory, %error, "the next log file could not be created; the next write tries again");
        }
        Ok(())
    }

    /// Lets every lane begin a new file with its next block, if the present ones hold at least `min_bytes` together. Nobody
    /// waits for anything: what was appended before may share a file with a few later blocks.
    pub fn end_large_files(&self, min_bytes: u64) {
        self.shared.log.lock().end_large_files(min_bytes);
    }

    /// Goes on on these roots, one block after the other on one or side by side on several. What was written ends; when
    /// it returns a file lies on the first of the new roots, durably.
    ///
    /// # Errors
    /// As the first root answers; the log then goes on where it was.
    pub async fn continue_on(&self, lanes: Vec<Arc<Root>>) -> Result<()> {
        self.take_over().await?;
        self.shared.continue_on(&lanes).await
    }

    /// Deletes the files whose operations are all at or below `through`, on each root oldest first, durably; never the
    /// newest file of the log. Returns the bytes freed. Call it only when a manifest that names the flushed data is
    /// durable.
    ///
    /// # Errors
    /// The first error of a root, when all roots are done; the files that remain can be released later.
    pub async fn release(&self, through: Seq) -> Result<u64> {
        self.take_over().await?;
        // A file of the same name must not be created meanwhile.
        let _only = self.shared.only.lock().await;
        let mut by_root: BTreeMap<RootId, Vec<SealedFile>> = BTreeMap::new();
        for file in self.shared.log.lock().releasable(through) {
            by_root.entry(file.home.root.id()).or_default().push(file);
        }
        let freed = join_all(by_root.into_values().map(|files| self.shared.delete(files))).await;
        freed.into_iter().sum()
    }

    /// The roots that hold a file of this log now.
    pub fn roots_in_use(&self) -> Vec<RootId> {
        self.shared.log.lock().roots()
    }

    /// The roots that the log is written to now.
    pub fn lanes(&self) -> Vec<RootId> {
        self.shared.log.lock().lane_roots()
    }

    /// Deletes what the log has left on a root that it is not written to any more; nothing to do on a disk.
    ///
    /// # Errors
    /// `Overloaded` while files with entries are there, or while a writer before this one may take the root for its own;
    /// errors of the root.
    pub async fn leave(&self, root: &Arc<Root>) -> Result<()> {
        self.take_over().await?;
        self.shared.leave(root).await
    }

    /// Whether the log may leave a root now.
    ///
    /// # Errors
    /// `Overloaded` while a writer before this one may take the root for its own.
    pub fn may_leave(&self, root: &Arc<Root>) -> Result<()> {
        self.shared.may_leave(root)
    }

    /// Files, bytes and totals.
    pub fn stats(&self) -> WalStats {
        self.shared.log.lock().stats()
    }

    /// Last sequence number that is durable.
    pub fn last_seq(&self) -> Seq {
        self.stats().last_seq
    }

    /// Sets the description that the headers of later files carry.
    ///
    /// # Errors
    /// None now.
    pub async fn set_description(&self, description: String) -> Result<()> {
        self.shared.log.lock().description = description;
        Ok(())
    }

    /// Waits for what was appended, refuses everything after, and ends the files at their true length.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.queue.lock().closed.get_or_insert_with(closed_error);
        shared.kick();
        // A log that has failed is closed all the same; its callers have got the error.
        let done = |log: &Log, queue: &Queue| queue.is_empty() && log.flights.is_empty() && !log.applying;
        let stopped = |log: &Log, queue: &Queue| queue.is_empty() && log.flights.is_empty() && log.is_still();
        shared.until(|log, queue| done(log, queue) || stopped(log, queue)).await;
        let _still = shared.still().await;
        shared.end_files(0).await;
        let (empty, durable) = {
            let mut log = shared.log.lock();
            (log.take_files(), log.durable)
        };
        shared.seal(empty, durable).await;
    }

    /// Looks at the files.
    #[cfg(test)]
    pub(super) fn log_for_test<T>(&self, look: impl FnOnce(&mut Log) -> T) -> T {
        look(&mut self.shared.log.lock())
    }
}

impl Shared {
    /// Creates the first file unless appending can go on in one.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<()> {
        let begun = |lane: &Lane| lane.file.is_some() || !lane.home.is_local();
        if self.log.lock().lanes.iter().any(begun) {
            return Ok(());
        }
        let Err(error) = self.begin_file().await else {
            return Ok(());
        };
        let failed = self.log.lock().lanes.first().map(|lane| lane.home.root.id());
        let (Some(spare), Some(failed)) = (&self.spare, failed) else {
            return Err(error);
        };
        let root = spare(failed, error.clone()).await.map_err(|_| error)?;
        {
            let mut log = self.log.lock();
            let home = Home::new(&root, &log.directory);
            log.rehome(failed, Some(home));
        }
        self.begin_file().await
    }

    /// Numbers the operations, adds them to the last batch or begins a new one, and sees to it that a lane writes.
    fn enqueue(
        self: &Arc<Self>,
        operations: Vec<Operation>,
        payloads: &PayloadTexts,
        bound: usize,
        waiter: Waiter,
    ) -> Result<Range<Seq>> {
        let mut queue = self.queue.lock();
        if let Some(error) = &queue.closed {
            return Err(error.clone());
        }
        // Whoever has room waits for an answer.
        let unanswered = (QUEUE_KIB as usize).saturating_sub(self.room.available_permits()) * 1024;
        let numbers = queue.push(operations, payloads, (bound, unanswered), waiter);
        let watched = queue.watched;
        drop(queue);
        if watched {
            self.kick();
        }
        numbers.map_err(|damage| Error::Internal(format!("an operation could not be encoded: {damage}")))
    }

    /// Waits for the answer, and looks after hung roots meanwhile.
    async fn answered(self: &Arc<Self>, mut answer: oneshot::Receiver<Result<()>>) -> Result<()> {
        let (tick, began) = (self.tick(), Instant::now());
        loop {
            match tokio::time::timeout(tick, &mut answer).await {
                Ok(answer) => return answer.map_err(|_| unknown_outcome())?,
                Err(_) => self.watch(),
            }
            let log = self.log.lock();
            if let Some(trouble) = log
                .trouble
                .as_ref()
                .filter(|_| began.elapsed() >= log.options.bucket_patience)
            {
                return Err(open_outcome(trouble));
            }
        }
    }

    /// Deletes files of one root; returns the bytes freed.
    async fn delete(&self, files: Vec<SealedFile>) -> Result<u64> {
        if let Some(first) = files.first().filter(|file| !file.home.is_local()) {
            let home = first.home.clone();
            return self.delete_objects(&home, files).await;
        }
        let mut freed = 0;
        let patience = self.patience();
        for file in files {
            let path = file.home.path(&file.name);
            let deleted = tokio::time::timeout(patience, file.home.root.delete(&path));
            deleted.await.unwrap_or_else(|_| Err(file.home.no_answer(patience)))?;
            if self.log.lock().forget(&file) {
                freed += file.bytes;
            }
        }
        Ok(freed)
    }
}

/// The error of a caller that does not wait any longer for a block that is being put again.
fn open_outcome(trouble: &Error) -> Error {
    match trouble {
        Error::RootUnavailable { url, reason } => Error::RootUnavailable {
            url: url.clone(),
            reason: format!("{reason}; the write goes on and may still succeed"),
        },
        other => other.clone(),
    }
}

fn closed_error() -> Error {
    Error::Internal("the log is closed".to_owned())
}

fn unknown_outcome() -> Error {
    Error::Internal(
        "the program failed while it was writing; after a restart the operations are there or not".to_owned(),
    )
}

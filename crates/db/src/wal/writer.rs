//! The log as its callers see it: `append` from any task, one leader at a time that writes.
//!
//! Owns leadership, waiting and waking. Does not own batches and numbers (`queue`) or files (`log`).
//!
//! ```text
//! append: serialise JSON ─ wait for room ─ [queue lock: number, encode into the last batch] ─ start a leader if none ─ wait
//! leader: [log lock: take the oldest batch, write, sync] ─ [apply] ─ wake its callers ─ again until the queue is empty
//! ```
//!
//! Lock order: log, then queue or applying. A leader with a large batch lets a successor write while it applies. The
//! queue lock is held for copies in memory only; the log lock during I/O, on threads of the root's pool. Dropping the
//! future of an `append` neither loses nor repeats anything: before the operations are queued nothing has happened,
//! afterwards they are written and applied and only the answer goes nowhere.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use proximadb_store::Filesystem;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::point::{Operation, Seq};

use super::block::MAX_RAW_BYTES;
use super::codec::{PayloadTexts, size_bound};
use super::log::Log;
use super::queue::{Queue, Waiter};
use super::replay::{Replay, replay};
use super::{Home, WalFile, WalOptions, WalStats, to_error};

/// Applies the operations of one commit to memory. Called in order of their numbers, after the sync and before the
/// callers wake, on a thread of the root's pool; must not call the log.
pub type Apply = Arc<dyn Fn(Vec<(Seq, Operation)>) + Send + Sync>;

/// Bytes that may be queued, in KiB (permits of a semaphore). Callers beyond wait in line: a slow disk must not fill
/// the memory.
const QUEUE_KIB: u32 = 64 * 1024;
/// Commits that one leader does before it queues up again behind other work of the root: a busy log must not keep a
/// thread forever.
const LEADER_COMMITS: usize = 64;
/// From this size on the next batch is written while this one is applied: below it waking a second thread costs more.
const HAND_OVER_BYTES: usize = 256 * 1024;

/// How a log is opened.
pub struct WalStart {
    /// Directory below the root: `<collection id>/<shard>`.
    pub directory: String,
    /// The collection's `CollectionDescription` as JSON, for the headers of new files.
    pub description: String,
    /// The files that discovery found in the directory.
    pub files: Vec<WalFile>,
    /// Last sequence number that is in flushed segments; only later operations are replayed.
    pub after: Seq,
    /// Sizes.
    pub options: WalOptions,
    /// Receives the operations of each commit.
    pub apply: Apply,
}

/// The log of one shard. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wal {
    shared: Arc<Shared>,
}

struct Shared {
    fs: Filesystem,
    apply: Apply,
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
    log: Mutex<Log>,
    /// Held while a batch is applied.
    applying: Mutex<()>,
    /// A copy that can be read while the log lock is held during a sync.
    stats: Mutex<WalStats>,
}

impl Wal {
    /// Opens the log: hands every operation after `start.after` to `replayed` in order, cuts a torn tail, and creates
    /// the first file, a header only, if there is none.
    ///
    /// # Errors
    /// `Corruption` naming file and offset; nothing is cut then, and what `replayed` has seen must be thrown away.
    /// `RootUnavailable` or `StorageFull` as the root answers; `Config` if the root is no local directory.
    pub async fn open(fs: &Filesystem, start: WalStart, replayed: Replay<'_>) -> Result<Self> {
        let home = Home::new(fs.clone(), start.directory)?;
        let found = replay(&home, &start.files, start.after, replayed).await?;
        let log = Log {
            home,
            description: start.description,
            segment_bytes: start.options.segment_bytes,
            sealed: found.sealed,
            active: found.active,
            durable: found.last,
            totals: WalStats::default(),
        };
        let shared = Shared {
            fs: fs.clone(),
            apply: start.apply,
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            queue: Mutex::new(Queue::new(found.next, start.options.max_batch_bytes)),
            stats: Mutex::new(log.stats()),
            log: Mutex::new(log),
            applying: Mutex::new(()),
        };
        let wal = Self {
            shared: Arc::new(shared),
        };
        wal.with_log(|log, next| if log.active.is_none() { log.begin(next) } else { Ok(()) })
            .await??;
        Ok(wal)
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
        let bound = payloads.len() + operations.iter().map(size_bound).sum::<usize>();
        if bound > MAX_RAW_BYTES {
            let reason = format!(
                "{} operations of {bound} bytes are too many for one call: send parts",
                operations.len()
            );
            return Err(Error::InvalidInput(reason));
        }
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
        answer.await.map_err(|_| unknown_outcome())??;
        Ok(numbers)
    }

    /// Ends the active file if it holds entries and at least `min_bytes`, so that a flush can release it. Everything
    /// appended and acknowledged before is in it.
    ///
    /// # Errors
    /// `RootUnavailable` when the root is being closed. A new file that cannot be created (a full disk) is not an
    /// error: the next write tries again.
    pub async fn roll(&self, min_bytes: u64) -> Result<()> {
        self.with_log(move |log, next| log.roll(min_bytes, next)).await
    }

    /// Deletes the files whose operations are all at or below `through`, oldest first, durably; never the newest.
    /// Returns the bytes freed. Call it only when a manifest that names the flushed data is durable.
    ///
    /// # Errors
    /// As the root answers; the remaining files stay and can be released later.
    pub async fn release(&self, through: Seq) -> Result<u64> {
        let mut freed = 0;
        while let Some((file, path)) = self.with_log(move |log, _| log.releasable(through)).await? {
            self.shared.fs.delete(&path).await.map_err(|error| to_error(&error))?;
            if self.with_log(move |log, _| log.forget(file)).await? {
                freed += file.bytes;
            }
        }
        Ok(freed)
    }

    /// Files, bytes and totals.
    pub fn stats(&self) -> WalStats {
        *self.shared.stats.lock()
    }

    /// Last sequence number that is durable.
    pub fn last_seq(&self) -> Seq {
        self.stats().last_seq
    }

    /// Sets the description that the headers of later files carry.
    ///
    /// # Errors
    /// `RootUnavailable` when the root is being closed.
    pub async fn set_description(&self, description: String) -> Result<()> {
        self.with_log(move |log, _| log.description = description).await
    }

    /// Waits for what was appended, refuses everything after, and ends the active file at its true length.
    pub async fn close(&self) {
        self.shared.queue.lock().closed.get_or_insert_with(closed_error);
        // A log that has failed is closed all the same; its callers have got the error.
        let _ = self.drained().await;
        let _ = self
            .with_log(|log, _| {
                if let Some(active) = &mut log.active {
                    active.seal()
                }
            })
            .await;
    }

    /// Waits until everything queued now is answered and applied.
    async fn drained(&self) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.shared
            .enqueue(Vec::new(), &PayloadTexts::none(), 0, Waiter { done, _room: None })?;
        answer.await.map_err(|_| unknown_outcome())?
    }

    /// Looks at the files.
    #[cfg(test)]
    pub(super) fn log_for_test<T>(&self, look: impl FnOnce(&mut Log) -> T) -> T {
        look(&mut self.shared.log.lock())
    }

    /// Runs `work` with the log lock on the root's pool, with the number that will be written next.
    async fn with_log<T: Send + 'static>(&self, work: impl FnOnce(&mut Log, Seq) -> T + Send + 'static) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let result = self.shared.fs.blocking(move || {
            let mut log = shared.log.lock();
            let next = shared.queue.lock().first_queued();
            let result = work(&mut log, next);
            *shared.stats.lock() = log.stats();
            result
        });
        result.await.map_err(|error| to_error(&error))
    }
}

impl Shared {
    /// Numbers the operations, adds them to the last batch or begins a new one, and sees to it that a leader is
    /// running.
    fn enqueue(
        self: &Arc<Self>,
        operations: Vec<Operation>,
        payloads: &PayloadTexts,
        bound: usize,
        waiter: Waiter,
    ) -> Result<Range<Seq>> {
        let mut queue = self.queue.lock();
        // Nothing to write is answered even then: it is how `close` waits.
        if let Some(error) = queue.closed.as_ref().filter(|_| !operations.is_empty()) {
            return Err(error.clone());
        }
        let numbers = queue.push(operations, payloads, bound, waiter);
        let lead = !std::mem::replace(&mut queue.leading, true);
        drop(queue);
        if lead {
            Leadership {
                shared: Arc::clone(self),
                resigned: false,
            }
            .start();
        }
        Ok(numbers)
    }
}

/// The right and the duty to write the queue. However it ends, nobody waits forever: dropped without a regular end (a
/// panic, a root that is being closed) it refuses what is queued and everything after, because memory and log may then
/// differ.
struct Leadership {
    shared: Arc<Shared>,
    resigned: bool,
}

impl Leadership {
    fn start(self) {
        let fs = self.shared.fs.clone();
        fs.spawn_blocking(move || self.lead());
    }

    fn lead(mut self) {
        for _ in 0..LEADER_COMMITS {
            if !self.commit_next() {
                self.resigned = true;
                return;
            }
        }
        self.start();
    }

    /// Writes, applies and answers the oldest batch; false when the leadership has ended, because there was none or
    /// because a successor writes the next one already.
    fn commit_next(&self) -> bool {
        let shared = &self.shared;
        let mut log = shared.log.lock();
        let Some(mut batch) = shared.queue.lock().take_or_resign() else {
            return false;
        };
        let operations = std::mem::take(&mut batch.operations);
        let result = match operations.first() {
            Some((first, _)) => log.commit(*first, operations.len(), &mut batch.entries),
            None => Ok(()),
        };
        *shared.stats.lock() = log.stats();
        // Taken before the log is let go: batches are applied in the order in which they were written.
        let applying = shared.applying.lock();
        drop(log);
        let hand_over = batch.entries.raw_len() >= HAND_OVER_BYTES && !shared.queue.lock().is_empty();
        if hand_over {
            Self::start(Self {
                shared: Arc::clone(shared),
                resigned: false,
            });
        }
        if result.is_ok() && !operations.is_empty() {
            (shared.apply)(operations);
        }
        drop(applying);
        shared.queue.lock().keep(batch.entries.into_memory());
        for waiter in batch.waiters {
            // The caller may have gone.
            let _ = waiter.done.send(result.clone());
        }
        !hand_over
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        if self.resigned {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.leading = false;
        let error =
            Error::Internal("the log has stopped after a failure of the program; restart to replay it".to_owned());
        queue.closed.get_or_insert_with(|| error.clone());
        let abandoned = queue.abandon();
        drop(queue);
        for waiter in abandoned {
            let _ = waiter.done.send(Err(error.clone()));
        }
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

//! Carrying out moves: one record at a time says that a move is under way, and whatever it says is finished, after an
//! error later, after a crash at the next start.
//!
//! Owns the order of a move's steps over the record and the shard, and which moves run now. Does not own what to move
//! (`moves`) or how files are copied (`shard::relocate`).

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::entry::Entry;
use super::{Database, now_ms};
use crate::error::{Error, Result};
use crate::metadata::CollectionRecord;
use crate::moves::PlannedMove;
use crate::placement::{Moving, Placement};
use crate::root::{RootId, StorageComponentType};
use crate::schema::CollectionId;
use crate::shard::Pace;
use crate::throttle::Throttle;

/// Pause after a failed attempt of a move.
const RETRY: Duration = Duration::from_secs(2);
/// Finished moves that are remembered.
const HISTORY: usize = 1_000;

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// It waits for its turn.
    Queued,
    /// Files are being copied.
    Running,
    /// The last attempt failed; it is tried again.
    Waiting,
    /// Nothing is left on the old root.
    Done,
    /// The collection was dropped meanwhile.
    Ended,
}

/// A move as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct MoveReport {
    /// Name of the collection.
    pub collection: String,
    /// What moves.
    #[serde(flatten)]
    pub planned: PlannedMove,
    /// URL of the root that it leaves.
    pub from_url: String,
    /// URL of the root that it goes to.
    pub to_url: String,
    /// How far it is.
    pub state: MoveState,
    /// Bytes that are on the new root.
    pub moved_bytes: u64,
    /// Their files.
    pub moved_files: u64,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was begun or found, ms since 1970 UTC.
    pub begun_at_ms: u64,
}

/// A move under way.
struct Job {
    report: Mutex<MoveReport>,
    pace: Pace,
}

/// The moves of a database.
pub(super) struct Mover {
    throttle: Arc<Throttle>,
    parallel: usize,
    turns: Arc<Semaphore>,
    jobs: Mutex<BTreeMap<(CollectionId, StorageComponentType), Arc<Job>>>,
    finished: Mutex<VecDeque<MoveReport>>,
    /// Whether a drain may have a move to begin.
    look: AtomicBool,
}

impl Mover {
    pub(super) fn new(bytes_per_second: u64, parallel: usize) -> Self {
        Self {
            throttle: Arc::new(Throttle::new(bytes_per_second)),
            parallel,
            turns: Arc::new(Semaphore::new(parallel)),
            jobs: Mutex::default(),
            finished: Mutex::default(),
            look: AtomicBool::new(true),
        }
    }

    /// Something has changed for the drains: one was begun, or a move has ended.
    pub(super) fn look_at_drains(&self) {
        self.look.store(true, Ordering::Release);
    }

    /// Whether something has changed for the drains since the last call.
    pub(super) fn take_look(&self) -> bool {
        self.look.swap(false, Ordering::AcqRel)
    }

    /// Moves to each root that are not finished.
    pub(super) fn under_way_to(&self) -> BTreeMap<RootId, u64> {
        let mut counts = BTreeMap::new();
        for job in self.jobs.lock().values() {
            *counts.entry(job.report.lock().planned.to).or_default() += 1;
        }
        counts
    }

    /// How many more moves could run at once.
    pub(super) fn room(&self) -> usize {
        let active = |job: &&Arc<Job>| matches!(job.report.lock().state, MoveState::Queued | MoveState::Running);
        self.parallel
            .saturating_sub(self.jobs.lock().values().filter(active).count())
    }

    fn finish(&self, key: (CollectionId, StorageComponentType), job: &Job, state: MoveState) {
        let mut report = job.view();
        (report.state, report.error) = (state, None);
        self.jobs.lock().remove(&key);
        self.look_at_drains();
        let mut finished = self.finished.lock();
        finished.push_back(report);
        while finished.len() > HISTORY {
            finished.pop_front();
        }
    }
}

impl Job {
    fn view(&self) -> MoveReport {
        let mut report = self.report.lock().clone();
        report.moved_bytes = self.pace.moved_bytes.load(Ordering::Relaxed);
        report.moved_files = self.pace.moved_files.load(Ordering::Relaxed);
        report
    }

    fn runs(&self) {
        self.report.lock().state = MoveState::Running;
    }

    /// Notes why it has to wait; whether that is another reason than the last.
    fn waits(&self, error: &Error) -> bool {
        let mut report = self.report.lock();
        report.state = MoveState::Waiting;
        let last = report.error.replace(error.to_string());
        last != report.error
    }
}

impl Database {
    /// The moves since the start, those under way first.
    pub fn moves(&self) -> Vec<MoveReport> {
        let mut reports: Vec<MoveReport> = self.mover.jobs.lock().values().map(|job| job.view()).collect();
        reports.extend(self.mover.finished.lock().iter().rev().cloned());
        reports
    }

    /// Writes into the record that a move is under way, and starts it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it cannot be begun; errors of the metadata roots.
    pub(super) async fn begin_move(self: &Arc<Self>, entry: &Arc<Entry>, planned: PlannedMove) -> Result<()> {
        let PlannedMove {
            component, from, to, ..
        } = planned;
        let begin = |record: &mut CollectionRecord| {
            self.roots.by_id(to)?;
            let placement = placement(record, component)?;
            if placement.moving.is_some() || !placement.all_roots().contains(&from) {
                let reason = format!("{component} is being moved already, or is not on that root any more");
                return Err(Error::InvalidInput(reason));
            }
            placement.begin_move(Moving { from, to });
            Ok(())
        };
        self.change_record(entry, begin).await?;
        self.run_move(entry, planned);
        Ok(())
    }

    /// Takes up the moves that the records of a start say are under way.
    pub(super) fn resume_moves(self: &Arc<Self>) {
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        for entry in entries.iter().filter(|entry| entry.unavailable.is_none()) {
            let record = entry.record.read().clone();
            for (&component, placement) in &record.placement {
                if let Some(Moving { from, to }) = placement.moving {
                    let planned = PlannedMove {
                        collection: record.description.id,
                        component,
                        from,
                        to,
                        bytes: 0,
                        files: 0,
                    };
                    tracing::info!(collection = record.description.name, %component, "a move is taken up again");
                    self.run_move(entry, planned);
                }
            }
        }
    }

    fn run_move(self: &Arc<Self>, entry: &Arc<Entry>, planned: PlannedMove) {
        let key = (planned.collection, planned.component);
        let url = |id| {
            self.roots
                .by_id(id)
                .map_or_else(|_| id.to_string(), |root| root.url().to_owned())
        };
        let report = MoveReport {
            collection: entry.record.read().description.name.clone(),
            from_url: url(planned.from),
            to_url: url(planned.to),
            planned,
            state: MoveState::Queued,
            moved_bytes: 0,
            moved_files: 0,
            error: None,
            begun_at_ms: now_ms(),
        };
        let job = Arc::new(Job {
            report: Mutex::new(report),
            pace: Pace::new(self.mover.throttle.clone()),
        });
        // One that runs already goes on.
        if let MapEntry::Vacant(vacant) = self.mover.jobs.lock().entry(key) {
            vacant.insert(job.clone());
            tokio::spawn(keep_moving(Arc::downgrade(self), Arc::downgrade(entry), key, job));
        }
    }

    async fn attempt_move(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        component: StorageComponentType,
        pace: &Pace,
    ) -> Result<()> {
        let moving = placement(&mut entry.record.read().clone(), component)?.moving;
        let Some(moving) = moving else { return Ok(()) };
        let switch = || {
            let change = move |record: &mut CollectionRecord| {
                placement(record, component)?.switch_to_target();
                Ok(())
            };
            async move { self.change_record(entry, change).await.map(drop) }.boxed()
        };
        if component == StorageComponentType::Metadata {
            switch().await?;
        } else {
            let collection = self.open_entry(entry).await?;
            collection.shard().relocate(component, moving, pace, &switch).await?;
        }
        self.change_record(entry, move |record| {
            placement(record, component)?.end_move();
            Ok(())
        })
        .await?;
        if component == StorageComponentType::Metadata {
            // Its copies are gone, or it stands in for a home that is away; a directory without files is of no use.
            let (root, directory) = (self.roots.by_id(moving.from)?, entry.directory());
            if root.list(&directory).await?.is_empty() {
                root.delete_dir(&directory).await?;
            }
        }
        Ok(())
    }
}

/// Tries a move until it is done or its collection is gone.
async fn keep_moving(
    database: Weak<Database>,
    entry: Weak<Entry>,
    key: (CollectionId, StorageComponentType),
    job: Arc<Job>,
) {
    let Some(turns) = database.upgrade().map(|database| database.mover.turns.clone()) else {
        return;
    };
    loop {
        let Ok(turn) = turns.acquire().await else { return };
        let Some(database) = database.upgrade() else { return };
        let Some(entry) = entry.upgrade() else {
            return database.mover.finish(key, &job, MoveState::Ended);
        };
        if database.closed.load(Ordering::Acquire) {
            return;
        }
        job.runs();
        match database.attempt_move(&entry, key.1, &job.pace).await {
            Ok(()) => {
                tracing::info!(collection = %key.0, component = %key.1, "a move is done");
                return database.mover.finish(key, &job, MoveState::Done);
            }
            Err(Error::NotFound(_)) => return database.mover.finish(key, &job, MoveState::Ended),
            Err(error) => {
                // Said once, and seen in the list of moves for as long as it lasts.
                if job.waits(&error) {
                    tracing::warn!(collection = %key.0, component = %key.1, %error, "a move is tried again");
                }
            }
        }
        drop((turn, database, entry));
        tokio::time::sleep(RETRY).await;
    }
}

fn placement(record: &mut CollectionRecord, component: StorageComponentType) -> Result<&mut Placement> {
    let missing = || Error::Corruption(format!("the record names no {component} root"));
    record.placement.get_mut(&component).ok_or_else(missing)
}

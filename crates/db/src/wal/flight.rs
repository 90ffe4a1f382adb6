//! Blocks on their way to the disk: which lane writes which block, and what becomes of it.
//!
//! Owns the rule that blocks are numbered in order, written side by side, and durable in order. No I/O and no waiting:
//! this is the part of `Log` that workers ask between two blocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::point::{Operation, Seq};

use super::Home;
use super::block::{FrameBuffer, Framed, Header};
use super::fence::WINDOW;
use super::file::{ActiveFile, Faults};
use super::log::{FileKind, Log, SealedFile};
use super::queue::{Batch, Queue, Waiter};

/// From this size on a block is worth a sync of its own beside one that is being written. Smaller ones would have to
/// wait for that one anyway, as they are acknowledged in order.
pub(super) const LANE_BYTES: usize = 64 * 1024;
/// Bytes per second of a root that is slow and not stalled: half of what a root must do at least, as a flush may write
/// beside the log.
const SLOWEST: u64 = 2 << 20;
/// A block that failed so often fails for good: somebody hands out roots that do not work.
const MAX_ATTEMPTS: u32 = 8;

/// One place where blocks are written, one at a time.
pub(super) struct Lane {
    pub(super) id: u64,
    pub(super) home: Home,
    /// Taken out while it is written.
    pub(super) file: Option<ActiveFile>,
    pub(super) work: Option<Work>,
    /// Whether another root is being sought for it.
    pub(super) recovering: bool,
    /// Whether its next block begins a new file.
    pub(super) is_ending: bool,
}

/// What a lane does now.
pub(super) struct Work {
    /// Whoever comes back with another ticket was given up meanwhile.
    pub(super) ticket: u64,
    /// Since when the root owes an answer.
    pub(super) waiting_since: Option<Instant>,
    /// The block that is written.
    pub(super) first: Option<Seq>,
    /// The files it may touch, as they are if it never comes back.
    pub(super) files: Vec<SealedFile>,
}

impl Work {
    /// The block is written; the next one is taken when what is durable is applied.
    pub(super) fn finish(&mut self) {
        (self.waiting_since, self.first) = (None, None);
        self.files.clear();
    }
}

/// A block on its way: taken from the queue, not yet applied.
pub(super) struct Flight {
    pub(super) operations: Vec<(Seq, Operation)>,
    pub(super) waiters: Vec<Waiter>,
    /// Its bytes, once they are complete.
    pub(super) block: Option<Arc<Framed>>,
    pub(super) raw_bytes: usize,
    stage: Stage,
    pub(super) attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Writing,
    Durable,
}

/// The order to write one block.
pub(super) struct Job {
    pub(super) home: Home,
    pub(super) target: Target,
    pub(super) first: Seq,
    pub(super) count: usize,
    /// Its bytes from an earlier attempt, or its entries.
    pub(super) block: Result<Arc<Framed>, FrameBuffer>,
    pub(super) raw_bytes: usize,
    /// Last durable number, as the block will say.
    pub(super) durable: Seq,
    /// Whether there is no other file.
    pub(super) is_only: bool,
    pub(super) faults: Faults,
}

/// The file that a block goes to.
pub(super) enum Target {
    Append(ActiveFile),
    /// A new one; the one before ends. Impossible if its name `is_taken` by a file that somebody may still be writing.
    Begin {
        header: Header,
        old: Option<ActiveFile>,
        is_taken: bool,
    },
}

impl Log {
    /// The lane with this id, unless it was replaced.
    pub(super) fn lane(&mut self, id: u64) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// Lanes that should begin to work now, each with the ticket it got.
    pub(super) fn start_lanes(&mut self, queue: &mut Queue) -> Vec<(u64, u64)> {
        let mut started = Vec::new();
        let working = |lane: &&Lane| lane.work.is_some();
        let busy = self.lanes.iter().filter(working).count();
        let starting = self
            .lanes
            .iter()
            .filter(|lane| lane.work.as_ref().is_some_and(|work| work.first.is_none()));
        let starting = starting.count();
        let wanted = |takeable: usize| (self.waiting() + takeable).saturating_sub(starting);
        let wanted_on_disk = wanted(self.takeable(queue, busy > 0));
        let wanted_on_bucket = wanted(usize::from(self.is_due(queue)));
        let now = Instant::now();
        for at in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get(at) else { break };
            let wanted = if lane.home.is_local() {
                wanted_on_disk
            } else {
                wanted_on_bucket
            };
            let root = lane.home.root.id();
            let recovering = self
                .lanes
                .iter()
                .any(|lane| lane.recovering && lane.home.root.id() == root);
            if started.len() >= wanted || lane.work.is_some() || recovering {
                continue;
            }
            let ticket = self.issue();
            if let Some(lane) = self.lanes.get_mut(at) {
                lane.work = Some(Work {
                    ticket,
                    waiting_since: Some(now),
                    first: None,
                    files: Vec::new(),
                });
                started.push((lane.id, ticket));
            }
        }
        // Small loads alternate between the lanes.
        if !started.is_empty() && self.lanes.len() > 1 {
            self.lanes.rotate_left(started.len());
        }
        queue.watched = self.lanes.iter().any(|lane| lane.work.is_none() && !lane.recovering);
        started
    }

    /// Blocks that have to be written again.
    fn waiting(&self) -> usize {
        let waiting = |flight: &&Flight| flight.stage == Stage::Waiting;
        self.flights.values().filter(waiting).count()
    }

    /// Batches of the queue that may be written beside what is written now.
    fn takeable(&self, queue: &Queue, beside_others: bool) -> usize {
        match (self.paused, beside_others) {
            (true, _) => 0,
            (false, true) => queue.batches_of(LANE_BYTES),
            (false, false) => queue.batches_of(LANE_BYTES).max(usize::from(!queue.is_empty())),
        }
    }

    /// Whether the oldest batch may leave for a bucket now.
    fn is_due(&self, queue: &Queue) -> bool {
        let now = tokio::time::Instant::now();
        self.leaves_at(queue, now).is_some_and(|due| due <= now)
    }

    /// When the oldest batch may leave for a bucket; `None` if there is none, or if something else has to happen first.
    pub(super) fn leaves_at(&self, queue: &Queue, now: tokio::time::Instant) -> Option<tokio::time::Instant> {
        let next = self.hole.map_or(0, |hole| hole.first).max(self.durable + 1);
        let is_near = queue.first_queued() < next + WINDOW;
        let due = queue.due(now, self.options.object_bytes)?;
        (is_near && !self.paused).then_some(due)
    }

    /// The next block for a lane; `None` when there is none, and then the lane rests, or when the lane was given up.
    pub(super) fn take(&mut self, lane: u64, ticket: u64, queue: &mut Queue) -> Option<Job> {
        let on_disk = self.working(lane, ticket)?.home.is_local();
        let others = self.lanes.iter().any(|other| other.id != lane && other.work.is_some());
        let waiting = self.flights.iter().find(|(_, flight)| flight.stage == Stage::Waiting);
        let next = match waiting.map(|(first, _)| *first) {
            Some(first) => Some((first, None)),
            None if on_disk && self.takeable(queue, others) > 0 => queue.take().map(|batch| self.board(batch)),
            None if !on_disk && self.is_due(queue) => {
                queue.pace.leaves(tokio::time::Instant::now());
                queue.take().map(|batch| self.board(batch))
            }
            None => None,
        };
        let Some((first, entries)) = next else {
            self.lane(lane)?.work = None;
            queue.watched = true;
            if queue.is_empty() && !others {
                queue.forget_memory();
            }
            return None;
        };
        self.job(lane, first, entries)
    }

    /// Makes a batch a block on its way.
    fn board(&mut self, batch: Batch) -> (Seq, Option<FrameBuffer>) {
        let first = batch.operations.first().map_or(0, |(seq, _)| *seq);
        let flight = Flight {
            operations: batch.operations,
            waiters: batch.waiters,
            block: None,
            raw_bytes: batch.entries.raw_len(),
            stage: Stage::Waiting,
            attempts: 0,
        };
        self.flights.insert(first, flight);
        (first, Some(batch.entries))
    }

    fn job(&mut self, lane: u64, first: Seq, entries: Option<FrameBuffer>) -> Option<Job> {
        let flight = self.flights.get_mut(&first)?;
        flight.stage = Stage::Writing;
        let (count, raw_bytes) = (flight.operations.len(), flight.raw_bytes);
        let block = entries.map_or_else(|| flight.block.clone().map(Ok), |entries| Some(Err(entries)))?;
        let last = first + count as u64 - 1;
        let (is_striped, hole) = (self.width > 1, self.hole);
        let limit = self.options.segment_bytes.saturating_sub(raw_bytes as u64);
        let is_only = self.sealed.is_empty();
        let at = self.lanes.iter().position(|candidate| candidate.id == lane)?;
        let home = self.lanes.get(at)?.home.clone();
        let lane = self.lanes.get_mut(at)?;
        let (file, is_ending) = (lane.file.take(), std::mem::take(&mut lane.is_ending));
        let fits = |file: &ActiveFile| {
            let follows = if is_striped {
                file.next <= first
            } else {
                file.next == first
            };
            let declares = hole.is_none_or(|hole| hole.first != first || file.first == first);
            follows && declares && (file.is_empty() || (file.end <= limit && !is_ending))
        };
        let mut files: Vec<SealedFile> = file.iter().map(ActiveFile::as_sealed).collect();
        let target = match file {
            Some(file) if fits(&file) => {
                files.iter_mut().for_each(|file| file.last = last);
                Target::Append(file)
            }
            old => {
                let name = super::file_name(first, self.format);
                let is_taken = self.ended_as(&home, &name).is_some();
                files.push(SealedFile {
                    home: home.clone(),
                    name,
                    first,
                    last,
                    bytes: 0,
                    kind: FileKind::Entries,
                });
                let header = self.header(&home, first);
                Target::Begin { header, old, is_taken }
            }
        };
        let work = self.lanes.get_mut(at)?.work.as_mut()?;
        (work.waiting_since, work.first, work.files) = (Some(Instant::now()), Some(first), files);
        Some(Job {
            home,
            target,
            first,
            count,
            block,
            raw_bytes,
            durable: self.durable,
            is_only,
            faults: self.faults.clone(),
        })
    }

    /// The lane, if this ticket still counts.
    pub(super) fn working(&mut self, lane: u64, ticket: u64) -> Option<&mut Lane> {
        let lane = self.lane(lane)?;
        let counts = lane.work.as_ref().is_some_and(|work| work.ticket == ticket);
        counts.then_some(lane)
    }

    /// A block is durable, and with it perhaps others that have waited for it.
    pub(super) fn written(&mut self, first: Seq) {
        let Some(flight) = self.flights.get_mut(&first) else {
            return;
        };
        flight.stage = Stage::Durable;
        self.trouble = None;
        self.totals.appended_entries += flight.operations.len() as u64;
        self.totals.appended_bytes += flight.raw_bytes as u64;
        self.totals.commits += 1;
        for (first, flight) in &self.flights {
            if flight.stage != Stage::Durable {
                break;
            }
            self.durable = self.durable.max(first + flight.operations.len() as u64 - 1);
        }
    }

    /// The oldest block, if it is durable: it is to be applied now.
    pub(super) fn next_to_apply(&mut self) -> Option<Flight> {
        let oldest = self.flights.first_entry()?;
        (oldest.get().stage == Stage::Durable).then(|| oldest.remove())
    }

    /// Ends what a lane does without success: its block is to be written again, and its files end as `ended` says, or
    /// wherever they are if nobody knows.
    pub(super) fn drop_work(&mut self, lane: u64, ended: Option<Vec<SealedFile>>) {
        let Some(lane) = self.lane(lane) else { return };
        let Some(work) = lane.work.take() else { return };
        for file in ended.unwrap_or(work.files) {
            self.end_file(file);
        }
        if let Some(flight) = work.first.and_then(|first| self.flights.get_mut(&first)) {
            flight.stage = Stage::Waiting;
            flight.attempts += 1;
        }
    }

    /// Whether the block has been tried often enough.
    pub(super) fn is_hopeless(&self) -> bool {
        !self.knows_a_bucket() && self.flights.values().any(|flight| flight.attempts >= MAX_ATTEMPTS)
    }

    /// Lanes whose root owes an answer for longer than `patience` and what their block may take, with the error that says so.
    pub(super) fn stalled(&self, patience: Duration) -> Vec<(u64, Error)> {
        let is_stalled = |lane: &&Lane| {
            let Some(work) = &lane.work else { return false };
            let bytes = match work.first.map(|first| self.flights.get(&first)) {
                None => 0,
                Some(Some(flight)) if flight.block.is_some() => flight.raw_bytes as u64,
                // As long as the bytes of the block are not complete the root was not asked.
                Some(_) => return false,
            };
            let patience = patience.saturating_add(Duration::from_millis(bytes * 1000 / SLOWEST));
            lane.home.is_local() && work.waiting_since.is_some_and(|since| since.elapsed() >= patience)
        };
        let stalled = self.lanes.iter().filter(is_stalled);
        stalled.map(|lane| (lane.id, lane.home.no_answer(patience))).collect()
    }

    /// Whether nothing is being written and nothing has to be.
    pub(super) fn is_still(&self) -> bool {
        let durable = |flight: &Flight| flight.stage == Stage::Durable;
        let resting = |lane: &Lane| lane.work.is_none() && !lane.recovering;
        self.flights.values().all(durable) && self.lanes.iter().all(resting)
    }
}

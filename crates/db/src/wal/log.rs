//! What a log is at one moment: its lanes and files, the blocks on their way, and how far it is durable.
//!
//! Owns which lane writes what, when a file ends, what a failed write means for the numbers, and which files may be
//! deleted. No I/O and no waiting: the lock around it is held for moments only, so that nothing a hung disk holds is
//! needed to go on. Writing is `worker`'s, deleting `writer`'s.
//!
//! Invariants: every file but those of the lanes is sealed; a file whose write failed or stalled is never appended to
//! again; the numbers in a file ascend; the newest file is never deleted, so that a directory always describes its
//! collection and pins its home.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::config::WalFormat;
use crate::error::Error;
use crate::point::{Operation, Seq};
use crate::root::RootId;

use super::block::{FORMAT_VERSION, FrameBuffer, Framed, Header};
use super::file::{ActiveFile, Faults};
use super::queue::{Batch, Queue, Waiter};
use super::{Home, WalOptions, WalStats};

/// From this size on a block is worth a sync of its own beside one that is being written. Smaller ones would have to
/// wait for that one anyway, as they are acknowledged in order.
const LANE_BYTES: usize = 64 * 1024;
/// A block that failed so often fails for good: somebody hands out roots that do not work.
const MAX_ATTEMPTS: u32 = 8;

/// A file that is not written any more.
#[derive(Clone)]
pub(super) struct SealedFile {
    pub(super) home: Home,
    pub(super) name: String,
    pub(super) first: Seq,
    /// No entry in it has a larger number; `first - 1` when it has no entry.
    pub(super) last: Seq,
    pub(super) bytes: u64,
}

impl SealedFile {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.home.root.id() == other.home.root.id()
    }
}

/// Numbers that belong to nothing: operations that failed, or that were written behind a gap when the process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    /// Last number before it.
    pub(super) previous: Seq,
    /// First number after it: the block that begins with it stands in a new file, whose header declares the hole.
    pub(super) first: Seq,
}

/// One place where blocks are written, one at a time.
pub(super) struct Lane {
    pub(super) id: u64,
    pub(super) home: Home,
    /// Taken out while it is written.
    pub(super) file: Option<ActiveFile>,
    pub(super) work: Option<Work>,
    /// Whether another root is being sought for it.
    pub(super) recovering: bool,
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
    files: Vec<SealedFile>,
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
    attempts: u32,
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
    /// A new one; the one before ends.
    Begin {
        header: Header,
        old: Option<ActiveFile>,
    },
}

/// The state of one log.
pub(super) struct Log {
    pub(super) directory: Arc<str>,
    /// `CollectionDescription` as JSON, for the next header.
    pub(super) description: String,
    pub(super) format: WalFormat,
    pub(super) options: WalOptions,
    pub(super) lanes: Vec<Lane>,
    /// Number of lanes that were asked for: more than there are if some were lost.
    pub(super) width: u32,
    pub(super) sealed: Vec<SealedFile>,
    /// By first number.
    pub(super) flights: BTreeMap<Seq, Flight>,
    /// Last sequence number that is durable with all before it.
    pub(super) durable: Seq,
    pub(super) hole: Option<Hole>,
    /// Whether new blocks wait.
    pub(super) paused: bool,
    /// Whether somebody applies a block now.
    pub(super) applying: bool,
    /// Running totals since the log was opened; files and bytes are computed.
    pub(super) totals: WalStats,
    pub(super) faults: Faults,
    /// Numbers for lanes and tickets.
    pub(super) issued: u64,
}

impl Log {
    /// A number that was never given out.
    pub(super) fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// The lanes become these, and no others.
    pub(super) fn set_lanes(&mut self, homes: Vec<Home>) {
        self.width = homes.len() as u32;
        self.lanes.clear();
        for home in homes {
            let id = self.issue();
            self.lanes.push(Lane {
                id,
                home,
                file: None,
                work: None,
                recovering: false,
            });
        }
    }

    /// The lane with this id, unless it was replaced.
    pub(super) fn lane(&mut self, id: u64) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// The header of a file that begins with `first`.
    pub(super) fn header(&self, home: &Home, first: Seq) -> Header {
        let hole = self.hole.filter(|hole| hole.first == first);
        Header {
            format: self.format,
            version: FORMAT_VERSION,
            description: self.description.clone(),
            shard: home.shard().to_owned(),
            first_seq: first,
            previous_seq: hole.map_or(first - 1, |hole| hole.previous),
            acknowledged: self.durable,
            lanes: self.width,
            marker: Uuid::new_v4().into_bytes(),
        }
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
        let mut wanted = self.waiting() + self.takeable(queue, busy > 0);
        wanted = wanted.saturating_sub(starting.count());
        let now = Instant::now();
        for at in 0..self.lanes.len() {
            if started.len() == wanted {
                break;
            }
            if self
                .lanes
                .get(at)
                .is_none_or(|lane| lane.work.is_some() || lane.recovering)
            {
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

    /// The next block for a lane; `None` when there is none, and then the lane rests, or when the lane was given up.
    pub(super) fn take(&mut self, lane: u64, ticket: u64, queue: &mut Queue) -> Option<Job> {
        self.working(lane, ticket)?;
        let others = self.lanes.iter().any(|other| other.id != lane && other.work.is_some());
        let waiting = self.flights.iter().find(|(_, flight)| flight.stage == Stage::Waiting);
        let next = match waiting.map(|(first, _)| *first) {
            Some(first) => Some((first, None)),
            None if self.takeable(queue, others) > 0 => queue.take().map(|batch| self.board(batch)),
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
        let file = self.lanes.get_mut(at)?.file.take();
        let fits = |file: &ActiveFile| {
            let follows = if is_striped {
                file.next <= first
            } else {
                file.next == first
            };
            let declares = hole.is_none_or(|hole| hole.first != first || file.first == first);
            follows && declares && (file.is_empty() || file.end <= limit)
        };
        let mut files: Vec<SealedFile> = file.iter().map(ActiveFile::as_sealed).collect();
        let target = match file {
            Some(file) if fits(&file) => {
                files.iter_mut().for_each(|file| file.last = last);
                Target::Append(file)
            }
            old => {
                files.push(SealedFile {
                    home: home.clone(),
                    name: super::file_name(first, self.format),
                    first,
                    last,
                    bytes: 0,
                });
                let header = self.header(&home, first);
                Target::Begin { header, old }
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

    /// Puts a file on the list of those that are not written any more.
    pub(super) fn end_file(&mut self, file: SealedFile) {
        match self.sealed.iter_mut().find(|known| known.is_same(&file)) {
            Some(known) => *known = file,
            None => self.sealed.push(file),
        }
    }

    /// Notes how a file on that list has really ended.
    pub(super) fn correct(&mut self, file: SealedFile) {
        if let Some(known) = self.sealed.iter_mut().find(|known| known.is_same(&file)) {
            *known = file;
        }
    }

    /// Whether the block has been tried often enough.
    pub(super) fn is_hopeless(&self) -> bool {
        self.flights.values().any(|flight| flight.attempts >= MAX_ATTEMPTS)
    }

    /// Gives up every block that is not durable; their numbers become a hole. Returns who waits for them.
    pub(super) fn give_up(&mut self, queue: &Queue) -> Vec<Waiter> {
        let dead = self.flights.split_off(&(self.durable + 1));
        let busy: Vec<u64> = self
            .lanes
            .iter()
            .filter(|lane| lane.work.is_some())
            .map(|lane| lane.id)
            .collect();
        busy.into_iter().for_each(|lane| self.drop_work(lane, None));
        self.hole = Some(Hole {
            previous: self.durable,
            first: queue.first_queued(),
        });
        dead.into_values().flat_map(|flight| flight.waiters).collect()
    }

    /// Lanes whose root owes an answer for longer than `patience`, with the error that says so.
    pub(super) fn stalled(&self, patience: Duration) -> Vec<(u64, Error)> {
        let is_stalled = |lane: &&Lane| {
            let Some(work) = &lane.work else { return false };
            // As long as the bytes of the block are not complete the root was not asked.
            let framed = work.first.is_none_or(|first| {
                let flight = self.flights.get(&first);
                flight.is_some_and(|flight| flight.block.is_some())
            });
            framed && work.waiting_since.is_some_and(|since| since.elapsed() >= patience)
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

    /// The files that may be deleted when everything through `through` is in segments, oldest first.
    pub(super) fn releasable(&self, through: Seq) -> Vec<SealedFile> {
        let is_written = self.lanes.iter().any(|lane| lane.file.is_some());
        let newest = if is_written {
            None
        } else {
            self.sealed.iter().max_by_key(|file| file.first)
        };
        let mut files: Vec<SealedFile> = self
            .sealed
            .iter()
            .filter(|file| file.last <= through && newest.is_none_or(|newest| !newest.is_same(file)))
            .cloned()
            .collect();
        files.sort_by_key(|file| file.first);
        files
    }

    /// Takes a deleted file off the list; false if another caller did.
    pub(super) fn forget(&mut self, file: &SealedFile) -> bool {
        let known = self.sealed.len();
        self.sealed.retain(|sealed| !sealed.is_same(file));
        self.sealed.len() < known
    }

    /// The roots that hold a file of the log.
    pub(super) fn roots(&self) -> Vec<RootId> {
        let written = self
            .lanes
            .iter()
            .filter(|lane| lane.file.is_some() || lane.work.is_some());
        let mut roots: Vec<RootId> = self.sealed.iter().map(|file| file.home.root.id()).collect();
        roots.extend(written.map(|lane| lane.home.root.id()));
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// Files and bytes as listings show them, and the totals.
    pub(super) fn stats(&self) -> WalStats {
        let written = self.lanes.iter().flat_map(|lane| {
            let under_way = lane
                .work
                .iter()
                .flat_map(|work| work.files.iter().map(|file| file.bytes));
            lane.file.iter().map(|file| file.len).chain(under_way)
        });
        let bytes: Vec<u64> = self.sealed.iter().map(|file| file.bytes).chain(written).collect();
        WalStats {
            files: bytes.len() as u64,
            bytes: bytes.iter().sum(),
            last_seq: self.durable,
            ..self.totals
        }
    }
}

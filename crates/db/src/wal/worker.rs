//! The thread that writes a lane: block after block, on the threads of the lane's root, without a lock.
//!
//! ```text
//! take a block ─ frame it ─ write, sync ─▶ durable? ─▶ apply what is next in order ─▶ wake its callers ─▶ again
//!                                          failed?  ─▶ failover
//! ```
//!
//! A worker that is given up because its root does not answer holds a ticket that does not count any more: when it comes
//! back it changes nothing. A worker with a large block lets another one write the next while it applies.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use proximadb_store::Op;

use crate::error::{Error, Result};
use crate::point::Seq;

use super::block::Framed;
use super::codec::codec;
use super::file::ActiveFile;
use super::flight::{Job, Target};
use super::log::SealedFile;
use super::writer::Shared;

/// Commits that one worker does before it queues up again behind other work of the root: a busy log must not keep a
/// thread forever.
const COMMITS: usize = 64;
/// From this size on the next block is written while this one is applied: below it waking a second thread costs more.
const HAND_OVER_BYTES: usize = 256 * 1024;

/// The right and the duty to write the blocks of one lane. However it ends, nobody waits forever: dropped without a
/// regular end (a panic, a root that is being closed) it stops the log, because memory and log may then differ.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: u64,
    pub(super) ticket: u64,
    pub(super) resigned: bool,
}

impl Worker {
    /// Goes to work on the threads of the lane's root.
    pub(super) fn start(mut self) {
        let mut log = self.shared.log.lock();
        let home = log.working(self.lane, self.ticket).map(|lane| lane.home.clone());
        // Before anything is dropped: a worker that is dropped asks the log.
        drop(log);
        match home {
            Some(home) if home.is_local() => home.root.fs().spawn_blocking(move || self.work()),
            Some(_) => {
                let runtime = self.shared.runtime.clone();
                runtime.spawn(self.put_next());
            }
            None => self.resigned = true,
        }
    }

    fn work(mut self) {
        for _ in 0..COMMITS {
            if !self.commit_next() {
                self.resigned = true;
                self.shared.progress.notify_waiters();
                return;
            }
        }
        let mut log = self.shared.log.lock();
        if let Some(work) = log.working(self.lane, self.ticket).and_then(|lane| lane.work.as_mut()) {
            work.waiting_since = Some(Instant::now());
        }
        drop(log);
        self.start();
    }

    /// Writes one block and applies what is in turn; false when the work has ended.
    fn commit_next(&self) -> bool {
        let shared = &self.shared;
        let job = {
            let mut log = shared.log.lock();
            let mut queue = shared.queue.lock();
            log.take(self.lane, self.ticket, &mut queue)
        };
        let Some(job) = job else { return false };
        let (first, raw_bytes, root) = (job.first, job.raw_bytes, Arc::clone(&job.home.root));
        let began = Instant::now();
        let mut ended = Vec::new();
        let result = job.write(&mut ended, |block| {
            let mut log = shared.log.lock();
            if log.working(self.lane, self.ticket).is_some()
                && let Some(flight) = log.flights.get_mut(&first)
            {
                flight.block = Some(block);
            }
        });
        let meter = root.fs().meter();
        meter.record(Op::Sync, began.elapsed(), raw_bytes as u64, result.is_ok());
        match result {
            Ok(file) => {
                let large = raw_bytes >= HAND_OVER_BYTES && !shared.queue.lock().is_empty();
                let counts = self.finish(first, file, ended, large);
                if large && counts {
                    shared.kick();
                }
                shared.apply_in_order();
                counts && !large
            }
            Err(error) => {
                shared.write_failed(self.lane, self.ticket, error, Some(ended));
                false
            }
        }
    }

    /// The block is durable; false if nobody waits for this worker any more. It leaves the lane to another one if the
    /// block is large.
    fn finish(&self, first: Seq, file: ActiveFile, ended: Vec<SealedFile>, large: bool) -> bool {
        let mut log = self.shared.log.lock();
        let Some(lane) = log.working(self.lane, self.ticket) else {
            return false;
        };
        lane.file = Some(file);
        match &mut lane.work {
            Some(work) if !large => work.finish(),
            work => *work = None,
        }
        ended.into_iter().for_each(|file| log.end_file(file));
        log.written(first);
        true
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.resigned && self.shared.log.lock().working(self.lane, self.ticket).is_some() {
            self.shared.stop();
        }
    }
}

impl Job {
    /// Writes the block durably and returns the file that it is in; adds to `ended` what is not written any more.
    /// `publish` gets the block's bytes before the root is asked for anything.
    fn write(self, ended: &mut Vec<SealedFile>, publish: impl FnOnce(Arc<Framed>)) -> Result<ActiveFile> {
        let (format, marker) = match &self.target {
            Target::Append(file) => (file.format, file.marker),
            Target::Begin { header, .. } => (header.format, header.marker),
        };
        let block = Arc::new(match self.block {
            Err(entries) => entries.seal(codec(format), self.count, self.durable, &marker),
            Ok(block) => block.with_marker(&marker),
        });
        publish(Arc::clone(&block));
        let mut file = match self.target {
            Target::Append(file) => file,
            Target::Begin { header, old, is_taken } => {
                if let Some(mut old) = old {
                    old.seal(self.durable);
                    ended.push(old.as_sealed());
                }
                let free = if is_taken {
                    Err(ErrorKind::AlreadyExists.into())
                } else {
                    Ok(())
                };
                let created = free.and_then(|()| ActiveFile::create(&self.home, &header, &self.faults));
                created.map_err(|error: io::Error| {
                    let name = super::file_name(header.first_seq, header.format);
                    self.home.io_error(&name, &error)
                })?
            }
        };
        match file.append(self.first, self.count, block.bytes()) {
            Ok(()) => Ok(file),
            Err(error) => {
                let error = self.home.io_error(&file.name, &error);
                let is_only = self.is_only && ended.is_empty();
                ended.extend(file.fail(is_only));
                Err(error)
            }
        }
    }
}

impl Shared {
    /// Sees to it that every lane that has something to write does.
    pub(super) fn kick(self: &Arc<Self>) {
        let started = {
            let mut log = self.log.lock();
            let mut queue = self.queue.lock();
            log.start_lanes(&mut queue)
        };
        for (lane, ticket) in started {
            let worker = Worker {
                shared: Arc::clone(self),
                lane,
                ticket,
                resigned: false,
            };
            worker.start();
        }
        self.set_alarm();
    }

    /// Applies the blocks that are durable, in order, and answers their callers. One thread does it at a time, and what
    /// becomes durable meanwhile is its work too.
    pub(super) fn apply_in_order(self: &Arc<Self>) {
        loop {
            let flight = {
                let mut log = self.log.lock();
                if log.applying {
                    return;
                }
                let Some(flight) = log.next_to_apply() else { return };
                log.applying = true;
                flight
            };
            let mut applying = Applying {
                shared: self,
                done: false,
            };
            (self.apply)(flight.operations);
            applying.done = true;
            drop(applying);
            if let Some(block) = flight.block.and_then(Arc::into_inner) {
                self.queue.lock().keep(block.into_memory());
            }
            // A caller may have gone.
            let answered = flight.waiters.into_iter().map(|waiter| waiter.done.send(Ok(())));
            let answered = answered.filter(|sent| sent.is_ok()).count();
            self.queue.lock().pace.answered(answered);
            self.progress.notify_waiters();
        }
    }

    /// Refuses what is queued and everything after: the program has failed in the middle.
    pub(super) fn stop(&self) {
        let error = "the log has stopped after a failure of the program; restart to replay it";
        self.refuse(Error::Internal(error.to_owned()));
    }

    /// Refuses what is not durable and everything after.
    pub(super) fn refuse(&self, error: Error) {
        tracing::error!(directory = &*self.log.lock().directory, %error, "the log has ended");
        let mut log = self.log.lock();
        let mut queue = self.queue.lock();
        queue.closed.get_or_insert_with(|| error.clone());
        let mut abandoned = log.give_up(&queue);
        let durable = std::mem::take(&mut log.flights);
        abandoned.extend(durable.into_values().flat_map(|flight| flight.waiters));
        abandoned.extend(queue.abandon());
        drop((queue, log));
        for waiter in abandoned {
            let _ = waiter.done.send(Err(error.clone()));
        }
        self.progress.notify_waiters();
    }
}

/// Held while a block is applied: if that panics, memory and log differ.
struct Applying<'a> {
    shared: &'a Shared,
    done: bool,
}

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        if self.done {
            self.shared.log.lock().applying = false;
        } else {
            self.shared.stop();
        }
    }
}

//! Writing a block as an object of its own: the second way to be durable, beside the append file.
//!
//! ```text
//! object = header | block          <first number, 20 digits>.avro | .bincode, created only if absent, never changed
//! ```
//!
//! Owns the request and what its answers mean; which block goes where is `flight`'s, when is `pace`'s, and why a name that
//! is taken ends the writer is in `fence`. A bucket has several lanes, each one request under way; blocks are acknowledged in
//! the order of their numbers like those of several disks.
//!
//! An answer that does not come, or says that the server failed, leaves the outcome open: the block is kept and put again
//! under the same name, for as long as it takes. It never gets another number, and its callers are never told that it was not
//! written. They hear of the trouble after a while, and it goes on without them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proximadb_store::Created;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::point::Seq;

use super::Home;
use super::block::Header;
use super::codec::codec;
use super::fence::{Refusal, check_ours};
use super::flight::{Job, Target};
use super::log::{FileKind, SealedFile};
use super::replay::{Found, read_header};
use super::worker::Worker;
use super::writer::Shared;

/// Requests to one bucket at once: at 11 blocks a second answers may take 700 ms before a block has to wait.
pub(super) const REQUESTS: usize = 8;
/// A block gathers so much while the requests before it are under way, in bytes: eight of them are the memory of a log. At 11 blocks a
/// second that is 185 MB/s.
pub const MAX_OBJECT_BYTES: usize = 16 << 20;
/// A block of this size waits for nobody, in bytes: its request costs little beside it.
pub const FULL_OBJECT_BYTES: usize = 8 << 20;
/// Pause after a failed request, doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A block on its way to a bucket.
struct Object {
    home: Home,
    header: Header,
    /// Header and block.
    bytes: Bytes,
    last: Seq,
}

/// Why a request was not repeated.
enum End {
    /// The lane was given up meanwhile.
    Dropped,
    /// Nothing more is written: the log is closed, or another writer has replaced this one.
    Stop(Error),
    /// Another root is to be tried.
    Elsewhere(Error),
}

impl Object {
    fn name(&self) -> String {
        super::file_name(self.header.first_seq, self.header.format)
    }
}

impl Worker {
    /// Puts the next block, if one is due, and has what is in turn applied.
    pub(super) async fn put_next(mut self) {
        let shared = Arc::clone(&self.shared);
        let object = self.next_object();
        let Some(object) = object else {
            self.resigned = true;
            shared.progress.notify_waiters();
            return shared.kick();
        };
        match self.put(&object).await {
            Ok(()) => {
                self.put_done(&object);
                self.resigned = true;
                // Applying is work for a thread, not for the runtime.
                let applier = Arc::clone(&shared);
                shared.runtime.spawn_blocking(move || applier.apply_in_order());
            }
            Err(End::Dropped) => {}
            Err(End::Stop(error)) => shared.refuse(error),
            Err(End::Elsewhere(error)) => shared.write_failed(self.lane, self.ticket, error, None),
        }
        shared.progress.notify_waiters();
        shared.kick();
    }

    fn next_object(&self) -> Option<Object> {
        let mut log = self.shared.log.lock();
        let job = log.take(self.lane, self.ticket, &mut self.shared.queue.lock())?;
        let Job {
            home,
            target: Target::Begin { header, .. },
            first,
            count,
            block,
            durable,
            ..
        } = job
        else {
            return None;
        };
        drop(log);
        let block = Arc::new(match block {
            Err(entries) => entries.seal(codec(header.format), count, durable, &header.marker),
            Ok(block) => block.with_marker(&header.marker),
        });
        let mut bytes = header.encode();
        bytes.extend_from_slice(block.bytes());
        if let Some(flight) = self.shared.log.lock().flights.get_mut(&first) {
            flight.block = Some(block);
        }
        Some(Object {
            home,
            header,
            bytes: bytes.into(),
            last: first + count as u64 - 1,
        })
    }

    /// Until it is there.
    async fn put(&self, object: &Object) -> Result<(), End> {
        let shared = &self.shared;
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            let error = match shared.put_once(object).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Fenced(error)) => return Err(End::Stop(error)),
                Err(Refusal::Unknown(error)) => error,
            };
            {
                let mut log = shared.log.lock();
                log.trouble = Some(error.clone());
                let root = object.home.root.id();
                let alternative = shared.spare.is_some() || log.lanes.iter().any(|lane| lane.home.root.id() != root);
                if log.working(self.lane, self.ticket).is_none() {
                    return Err(End::Dropped);
                }
                if shared.queue.lock().closed.is_some() {
                    return Err(End::Stop(error));
                }
                if alternative && began.elapsed() >= log.options.bucket_patience {
                    return Err(End::Elsewhere(error));
                }
            }
            // Spread, so that many logs do not come back at once.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = PAUSE_MAX.min(2 * pause);
        }
    }

    /// The block is durable.
    fn put_done(&self, object: &Object) {
        let mut log = self.shared.log.lock();
        let Some(lane) = log.working(self.lane, self.ticket) else {
            return;
        };
        lane.work = None;
        log.end_file(SealedFile {
            home: object.home.clone(),
            name: object.name(),
            first: object.header.first_seq,
            last: object.last,
            bytes: object.bytes.len() as u64,
            kind: FileKind::Entries,
        });
        log.written(object.header.first_seq);
    }
}

impl Shared {
    async fn put_once(&self, object: &Object) -> Result<(), Refusal> {
        let Object {
            home, header, bytes, ..
        } = object;
        self.arrive(home).await?;
        let (name, began) = (object.name(), Instant::now());
        let created = home.root.create(&home.path(&name), bytes.clone()).await;
        if let Created::Conflict(other) = created.map_err(Refusal::Unknown)? {
            let writer = self.log.lock().author.writer;
            check_ours(home, &name, &other, header.first_seq, writer)?;
        }
        self.check_licence(home, began).await
    }

    /// Deletes flushed objects of one bucket, with few requests; returns the bytes freed.
    pub(super) async fn delete_objects(&self, home: &Home, files: Vec<SealedFile>) -> Result<u64> {
        let mut blocks = Vec::with_capacity(files.len());
        for file in files {
            if file.kind != FileKind::Unread || !self.is_fence(&file).await? {
                blocks.push(file);
            }
        }
        home.root.available()?;
        let paths: Vec<String> = blocks.iter().map(|file| home.path(&file.name)).collect();
        let deleted = home.root.fs().delete_all(&paths).await;
        deleted.map_err(|error| home.error(error))?;
        let mut log = self.log.lock();
        blocks.retain(|file| log.forget(file));
        Ok(blocks.iter().map(|file| file.bytes).sum())
    }

    /// Whether an object that was not read is a fence, which stays; notes it.
    async fn is_fence(&self, file: &SealedFile) -> Result<bool> {
        let found = Found {
            home: file.home.clone(),
            name: file.name.clone(),
            first: file.first,
            bytes: file.bytes,
            content: None,
        };
        let is_fence = read_header(&found).await?.is_fence();
        if is_fence {
            self.log.lock().correct(SealedFile {
                kind: FileKind::Fence,
                ..file.clone()
            });
        }
        Ok(is_fence)
    }

    /// Looks again when the next block is due, unless that is under way. Nothing waits, no timer.
    pub(super) fn set_alarm(self: &Arc<Self>) {
        let now = Instant::now();
        let due = {
            let mut log = self.log.lock();
            let rests = |lane: &super::flight::Lane| !lane.home.is_local() && lane.work.is_none() && !lane.recovering;
            if !log.lanes.iter().any(rests) {
                return;
            }
            let due = log.leaves_at(&self.queue.lock(), now);
            let Some(due) = due.filter(|due| *due > now && log.alarm.is_none_or(|alarm| *due < alarm)) else {
                return;
            };
            log.alarm = Some(due);
            due
        };
        self.kick_at(due);
    }

    /// Sees to it, later, that what waits is written.
    pub(super) fn kick_at(self: &Arc<Self>, due: Instant) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep_until(due).await;
            let mut log = shared.log.lock();
            log.alarm = log.alarm.filter(|alarm| *alarm > due);
            drop(log);
            shared.kick();
        });
    }
}

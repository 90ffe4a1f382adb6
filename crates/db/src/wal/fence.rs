//! The one writer of a log on buckets, held by the buckets themselves.
//!
//! ```text
//! <M - 1>.avro   last block that a reader finds, with all before it
//! <M>.avro       a fence: created only if absent, so the block that the old writer needs next can never be there
//! <M + k>.avro   blocks of the old writer that were in flight behind it: not acknowledged, because acks are in order
//! <N>.avro       first block of the new writer, N = M + WINDOW + 1; says that M to N - 1 belong to nothing
//! ```
//!
//! **Why a stalled writer acknowledges nothing.** Its blocks are numbered without holes and acknowledged in order; all
//! through M - 1 were found. Whatever it acknowledges next has to create the name M first, and M is taken. (Its numbers
//! are never given up: a log that knows a bucket keeps a block whose outcome is open, under the same name.)
//!
//! **Why nothing comes back.** No block is put whose number is more than `WINDOW` beyond what is durable. So every name that
//! the old writer used, or may still use with a request that is under way, is below N, and the first block from N on
//! declares M to N - 1 as a hole: replay passes over what lies there, whenever it arrives. Until that block exists M is missing,
//! nothing says that it was acknowledged, and each opening stops there again; it finds the fence M, goes on at N, and
//! fences the writer before it. Names of two writers never meet, so whoever finds a name taken by another was replaced.
//!
//! **Before the fence** a log can be read: what was acknowledged before the listing is in it. Whoever wants to write waits for
//! the fence; what came between is applied by then, and if the other has flushed and deleted it meanwhile, the data that was
//! opened is not the newest (`confirm`), and this log never writes: it is opened anew.
//!
//! **Several buckets.** The next block of the old writer may go to any of them, so the name M is taken on all. The first, in
//! the order of root ids, decides between two that open at the same time. A block found at M is one more to replay, and M moves.
//!
//! **Fences stay** as long as the log is on the root. When it leaves (a move), they are deleted in the order of their
//! numbers, not before `licence` has passed since the log was last taken over. A writer trusts an answer that came within `licence` of
//! the start of its last good create; after more it looks whether its own fence is still there, and if not it was replaced.
//! An invalid create succeeds only after the fence in its way was deleted, hence after the writer's own one was, and later than
//! `licence` after its last valid create began: either check sees it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proximadb_store::Created;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::WalFormat;
use crate::error::{Error, Result};
use crate::point::Seq;
use crate::root::{Root, RootId};

use super::block::{Author, Header};
use super::codec::Damage;
use super::log::{FileKind, Hole, Log, SealedFile};
use super::replay::check_place;
use super::scan::{corruption, read_log_file};
use super::writer::{Confirm, Shared};
use super::{Home, WalFile};

/// No block is put whose first number is so far beyond the last durable one. Far above what 8 blocks hold, far below what
/// 2^63 numbers allow.
pub(super) const WINDOW: Seq = 1 << 20;
/// A log whose other writer keeps on writing cannot be taken over.
const MAX_STEPS: usize = 1000;

/// What shows that the log is still this writer's on a bucket.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    /// The writer's own fence there.
    pub(super) name: String,
    /// When the last valid create began.
    pub(super) proof: Instant,
    /// When it was there, if there were other writers before this one.
    pub(super) since: Option<Instant>,
}

/// What it takes to become the one writer.
pub(super) struct Rivalry {
    /// Names that have to be taken, by root id: a bucket, and a format that the log has there or will have. None for a log on
    /// disks, which no other process can have open.
    pub(super) places: Vec<(Home, WalFormat)>,
    /// Whether nothing was listed.
    pub(super) is_new: bool,
    pub(super) confirm: Option<Confirm>,
}

impl Rivalry {
    pub(super) fn new(buckets: Vec<Home>, files: &[WalFile], own: WalFormat, confirm: Option<Confirm>) -> Self {
        let mut places = Vec::new();
        for home in buckets {
            let here = files.iter().filter(|file| file.root.id() == home.root.id());
            let mut formats: BTreeSet<&str> = here.filter_map(|file| Some(file.name.split_once('.')?.1)).collect();
            formats.insert(own.name());
            places.extend(
                formats
                    .into_iter()
                    .filter_map(|name| Some((home.clone(), name.parse().ok()?))),
            );
        }
        Self {
            places,
            is_new: files.is_empty(),
            confirm,
        }
    }
}

/// What has the name that we wanted.
enum Found {
    /// An object of this writer.
    Ours,
    /// Another's fence, and the number where it went on.
    Fence(Seq),
    /// Another's block.
    Block,
}

/// Judges the object that has a name of this log.
fn judge(home: &Home, name: &str, bytes: &[u8], first: Seq, writer: Uuid) -> Result<Found> {
    let shown = home.display(name);
    let header = Header::decode(bytes).and_then(|(header, _)| {
        check_place(home, &header, first)?;
        let author = header.author.ok_or_else(|| Damage::new("is no object of a log"))?;
        Ok((header, author))
    });
    let (header, author) = header.map_err(|damage| corruption(&shown, 0, &damage))?;
    Ok(match author.fence {
        _ if author.writer == writer => Found::Ours,
        Some(next) if header.is_fence() => Found::Fence(next),
        _ => Found::Block,
    })
}

/// What another object under the name of our block or fence means: ours after a lost answer, or the end of this writer.
pub(super) fn check_ours(home: &Home, name: &str, bytes: &[u8], first: Seq, writer: Uuid) -> Result<(), Refusal> {
    match judge(home, name, bytes, first, writer) {
        Ok(Found::Ours) => Ok(()),
        Ok(Found::Fence(_) | Found::Block) => Err(fenced(home, name, "was written by another process")),
        Err(error) => Err(fenced(home, name, &format!("is in the way ({error})"))),
    }
}

/// Why a block is not acknowledged.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// Another writer has replaced this one.
    Fenced(Error),
    /// The outcome is open: the same again.
    Unknown(Error),
}

impl Refusal {
    /// What to tell the caller.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Fenced(error) | Self::Unknown(error) => error,
        }
    }
}

/// The end of a writer that was replaced.
fn fenced(home: &Home, name: &str, why: &str) -> Refusal {
    Refusal::Fenced(Error::RootUnavailable {
        url: home.root.url().to_owned(),
        reason: format!(
            "fenced: {} {why}: another process has taken over this log; restart this one if it should serve it",
            home.path(name)
        ),
    })
}

impl Log {
    /// The header of a fence at `at`, whose writer goes on at `next`.
    fn fence_header(&self, home: &Home, at: Seq, next: Seq) -> Header {
        Header {
            author: Some(Author {
                fence: Some(next),
                ..self.author
            }),
            previous_seq: at.saturating_sub(1),
            ..self.header(home, at)
        }
    }

    fn fence_file(home: &Home, name: String, first: Seq, bytes: u64) -> SealedFile {
        SealedFile {
            home: home.clone(),
            name,
            first,
            last: first.saturating_sub(1),
            bytes,
            kind: FileKind::Fence,
        }
    }

    fn settle(&mut self, root: RootId, name: String, proof: Instant, since: Option<Instant>) {
        self.presence.insert(root, Presence { name, proof, since });
    }
}

impl Shared {
    /// Makes this writer the only one and lets it write. Nobody writes before, so what the log does not know yet (its next number,
    /// blocks that came after the listing) is not needed before.
    ///
    /// # Errors
    /// Errors of the roots, and of `confirm`.
    pub(super) async fn take_over(self: &Arc<Self>) -> Result<()> {
        // Who closes the log waits for this: nothing appears in a directory that is deleted next.
        let _only = self.only.lock().await;
        if !self.rivalry.places.is_empty() {
            let begin = self.fence().await?;
            let (mut log, mut queue) = (self.log.lock(), self.queue.lock());
            queue.next = queue.next.max(begin);
            log.hole = Some(Hole {
                previous: log.durable,
                first: queue.next,
            });
        }
        self.begin().await
    }

    /// Stops every earlier writer of the log on its buckets, in the order of their ids, and applies what one has written
    /// since the listing. Returns the number where this writer begins.
    async fn fence(&self) -> Result<Seq> {
        let mut at = self.log.lock().gap;
        for _ in 0..MAX_STEPS {
            if let Some(error) = &self.queue.lock().closed {
                return Err(error.clone());
            }
            let Some(next) = self.take_name(at).await? else {
                // Before the fence another may have flushed what was not listed, and deleted its blocks: their names are free.
                if let Some(confirm) = self.rivalry.confirm.as_ref().filter(|_| !self.rivalry.is_new) {
                    confirm().await?;
                }
                return Ok(at + WINDOW + 1);
            };
            at = next;
            self.log.lock().gap = at;
        }
        let reason = "another process keeps on writing to this log".to_owned();
        let first = self.rivalry.places.first();
        let url = first.map_or_else(String::new, |(home, _)| home.root.url().to_owned());
        Err(Error::RootUnavailable { url, reason })
    }

    /// Puts a fence at `at` everywhere; the number to try next if another writer has got further.
    async fn take_name(&self, at: Seq) -> Result<Option<Seq>> {
        for (index, (home, format)) in self.rivalry.places.iter().enumerate() {
            let (header, writer) = {
                let mut log = self.log.lock();
                log.author.epoch = at;
                let header = log.fence_header(home, at, at + WINDOW + 1);
                (header, log.author.writer)
            };
            let header = Header {
                format: *format,
                ..header
            };
            let (name, bytes) = (super::file_name(at, *format), Bytes::from(header.encode()));
            let (began, length) = (Instant::now(), bytes.len() as u64);
            let found = match home.root.create(&home.path(&name), bytes).await? {
                Created::Committed => None,
                Created::Conflict(other) => match judge(home, &name, &other, at, writer)? {
                    Found::Ours => None,
                    Found::Fence(_) if index > 0 => continue,
                    Found::Fence(next) => {
                        let fence = Log::fence_file(home, name, at, other.len() as u64);
                        self.log.lock().end_file(fence);
                        return Ok(Some(next));
                    }
                    Found::Block => Some(other),
                },
            };
            match found {
                Some(block) => return self.apply_late(home, name, at, &block).map(Some),
                None => {
                    let mut log = self.log.lock();
                    log.end_file(Log::fence_file(home, name.clone(), at, length));
                    let since = (!self.rivalry.is_new).then(Instant::now);
                    log.settle(home.root.id(), name, began, since);
                }
            }
        }
        Ok(None)
    }

    /// Applies a block that came after the listing.
    fn apply_late(&self, home: &Home, name: String, first: Seq, bytes: &[u8]) -> Result<Seq> {
        let mut operations = Vec::new();
        let summary = read_log_file(&home.display(&name), bytes, &mut |seq, operation| {
            operations.push((seq, operation));
        })?;
        (self.apply)(operations);
        let mut log = self.log.lock();
        log.durable = summary.next_seq - 1;
        let last = log.durable;
        log.end_file(SealedFile {
            home: home.clone(),
            name,
            first,
            last,
            bytes: bytes.len() as u64,
            kind: FileKind::Entries,
        });
        Ok(summary.next_seq)
    }

    /// Sees to it that a fence of this writer is on a bucket that the log comes to: it describes the collection there, and
    /// shows later that the log was not moved away by somebody else.
    pub(super) async fn arrive(&self, home: &Home) -> Result<(), Refusal> {
        let (at, header, writer) = {
            let log = self.log.lock();
            if log.presence.contains_key(&home.root.id()) {
                return Ok(());
            }
            let queued = self.queue.lock().first_queued();
            let next = log.flights.keys().next().map_or(queued, |first| queued.min(*first));
            // A name that no block here has; if numbers are left out, the one that a later opening looks for.
            let at = if next > log.durable + 1 {
                log.durable + 1
            } else {
                log.durable
            };
            (at, log.fence_header(home, at, next), log.author.writer)
        };
        let (name, bytes) = (super::file_name(at, header.format), Bytes::from(header.encode()));
        let (began, length) = (Instant::now(), bytes.len() as u64);
        let created = home.root.create(&home.path(&name), bytes).await;
        if let Created::Conflict(other) = created.map_err(Refusal::Unknown)? {
            check_ours(home, &name, &other, at, writer)?;
        }
        let mut log = self.log.lock();
        log.end_file(Log::fence_file(home, name.clone(), at, length));
        log.settle(home.root.id(), name, began, None);
        Ok(())
    }

    /// Whether an answer to a create that began at `began` can be trusted; looks after this writer's fence if that is not sure.
    pub(super) async fn check_licence(&self, home: &Home, began: Instant) -> Result<(), Refusal> {
        let (presence, licence, writer) = {
            let log = self.log.lock();
            let presence = log.presence.get(&home.root.id()).cloned();
            (presence, log.options.licence, log.author.writer)
        };
        let Some(presence) = presence else {
            return Err(fenced(home, "", "was left"));
        };
        if presence.proof.elapsed() > licence {
            let path = home.path(&presence.name);
            match home.root.read_if_exists(&path).await.map_err(Refusal::Unknown)? {
                Some(bytes) => {
                    let first = super::first_seq(&presence.name).unwrap_or(0);
                    check_ours(home, &presence.name, &bytes, first, writer)?;
                }
                None => return Err(fenced(home, &presence.name, "was deleted")),
            }
        }
        if let Some(presence) = self.log.lock().presence.get_mut(&home.root.id()) {
            presence.proof = presence.proof.max(began);
        }
        Ok(())
    }

    /// Deletes what the log has left on a bucket that it is not written to any more.
    pub(super) async fn leave(&self, root: &Arc<Root>) -> Result<()> {
        self.may_leave(root)?;
        let _only = self.only.lock().await;
        let home = {
            let log = self.log.lock();
            let here = |file: &&SealedFile| file.home.root.id() == root.id();
            let written = log.lanes.iter().any(|lane| lane.home.root.id() == root.id());
            if written || log.sealed.iter().filter(here).any(|file| file.kind != FileKind::Fence) {
                return Err(Error::Overloaded(format!("{} still has files of the log", root.url())));
            }
            Home::new(root, &log.directory)
        };
        if home.is_local() {
            return Ok(());
        }
        // The listing is sorted by name, hence by number.
        for file in root.list(&home.directory).await? {
            root.delete(&file.path).await?;
        }
        let mut log = self.log.lock();
        log.sealed.retain(|file| file.home.root.id() != root.id());
        log.presence.remove(&root.id());
        Ok(())
    }

    /// Whether the fences on a bucket have been there long enough.
    pub(super) fn may_leave(&self, root: &Arc<Root>) -> Result<()> {
        let log = self.log.lock();
        let since = log.presence.get(&root.id()).and_then(|presence| presence.since);
        let young = |since: Instant| since.elapsed() <= log.options.licence;
        if since.is_some_and(young) {
            return Err(Error::Overloaded(format!(
                "the log on {} waits until no earlier writer can hold its place there for its own any more: {} s after it was taken over",
                root.url(),
                log.options.licence.as_secs()
            )));
        }
        Ok(())
    }
}

/// A licence of default length.
pub(super) const LICENCE: Duration = Duration::from_secs(20);

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
//! **Several buckets.** The next block of the old writer may go to any of them, so the name M is taken on all. The first, in
//! the order of root ids, decides between two that open at the same time. A block found at M is one more to replay, and M moves.
//!
//! **Fences stay** as long as the log is on the root. When it leaves (a move), they are deleted in the order of their
//! numbers, not before `licence` has passed since the last opening. A writer trusts an answer that came within `licence` of
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
use super::log::{FileKind, Log, SealedFile};
use super::replay::{Replay, check_place};
use super::scan::{corruption, read_log_file};
use super::writer::Shared;
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

/// A name that has to be taken: a bucket, and a format that the log has there or will have.
fn places(homes: &[Home], files: &[WalFile], own: WalFormat) -> Vec<(Home, WalFormat)> {
    let mut places = Vec::new();
    for home in homes {
        let here = files.iter().filter(|file| file.root.id() == home.root.id());
        let mut formats: BTreeSet<&str> = here.filter_map(|file| Some(file.name.split_once('.')?.1)).collect();
        formats.insert(own.name());
        places.extend(
            formats
                .into_iter()
                .filter_map(|name| Some((home.clone(), name.parse().ok()?))),
        );
    }
    places
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

    /// Stops every earlier writer of the log on these buckets, in the order of their ids, and replays what one has written
    /// since the listing. `gap` is the first number that was not found. Returns the number where this writer begins.
    pub(super) async fn take_over(
        &mut self,
        buckets: &[Home],
        files: &[WalFile],
        gap: Seq,
        each: &mut Replay<'_>,
    ) -> Result<Seq> {
        let places = places(buckets, files, self.format);
        let is_new = files.is_empty() && gap == 1;
        let mut at = gap;
        for _ in 0..MAX_STEPS {
            match self.take_name(&places, at, is_new, each).await? {
                None => return Ok(at + WINDOW + 1),
                Some(next) => at = next,
            }
        }
        let reason = "another process keeps on writing to this log".to_owned();
        let url = buckets
            .first()
            .map_or_else(String::new, |home| home.root.url().to_owned());
        Err(Error::RootUnavailable { url, reason })
    }

    /// Puts a fence at `at` everywhere; the number to try next if another writer has got further.
    async fn take_name(
        &mut self,
        places: &[(Home, WalFormat)],
        at: Seq,
        is_new: bool,
        each: &mut Replay<'_>,
    ) -> Result<Option<Seq>> {
        self.author.epoch = at;
        for (index, (home, format)) in places.iter().enumerate() {
            let header = Header {
                format: *format,
                ..self.fence_header(home, at, at + WINDOW + 1)
            };
            let (name, bytes) = (super::file_name(at, *format), Bytes::from(header.encode()));
            let (began, length) = (Instant::now(), bytes.len() as u64);
            let found = match home.root.create(&home.path(&name), bytes).await? {
                Created::Committed => None,
                Created::Conflict(other) => match judge(home, &name, &other, at, self.author.writer)? {
                    Found::Ours => None,
                    Found::Fence(_) if index > 0 => continue,
                    Found::Fence(next) => {
                        self.end_file(Self::fence_file(home, name, at, other.len() as u64));
                        return Ok(Some(next));
                    }
                    Found::Block => Some(other),
                },
            };
            match found {
                Some(block) => return self.replay_late(home, name, at, &block, each).map(Some),
                None => {
                    self.end_file(Self::fence_file(home, name.clone(), at, length));
                    let since = (!is_new).then(Instant::now);
                    self.settle(home.root.id(), name, began, since);
                }
            }
        }
        Ok(None)
    }

    /// Replays a block that came after the listing.
    fn replay_late(
        &mut self,
        home: &Home,
        name: String,
        first: Seq,
        bytes: &[u8],
        each: &mut Replay<'_>,
    ) -> Result<Seq> {
        let summary = read_log_file(&home.display(&name), bytes, &mut |seq, operation| each(seq, operation))?;
        self.durable = summary.next_seq - 1;
        self.end_file(SealedFile {
            home: home.clone(),
            name,
            first,
            last: self.durable,
            bytes: bytes.len() as u64,
            kind: FileKind::Entries,
        });
        Ok(summary.next_seq)
    }

    fn settle(&mut self, root: RootId, name: String, proof: Instant, since: Option<Instant>) {
        self.presence.insert(root, Presence { name, proof, since });
    }
}

impl Shared {
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
                "the log on {} waits until no earlier writer can hold its place there for its own any more: {} s after its opening",
                root.url(),
                log.options.licence.as_secs()
            )));
        }
        Ok(())
    }
}

/// A licence of default length.
pub(super) const LICENCE: Duration = Duration::from_secs(20);

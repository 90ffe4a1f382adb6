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

use tokio::time::Instant;
use uuid::Uuid;

use crate::config::WalFormat;
use crate::error::Error;
use crate::point::Seq;
use crate::root::RootId;

use super::block::{Author, FORMAT_VERSION, Header, OBJECT_VERSION};
use super::bucket::REQUESTS;
use super::fence::Presence;
use super::file::Faults;
use super::flight::{Flight, Lane};
use super::queue::{Queue, Waiter};
use super::{Home, WalOptions, WalStats};

/// A file that is not written any more.
#[derive(Clone)]
pub(super) struct SealedFile {
    pub(super) home: Home,
    pub(super) name: String,
    pub(super) first: Seq,
    /// No entry in it has a larger number; `first - 1` when it has no entry.
    pub(super) last: Seq,
    pub(super) bytes: u64,
    pub(super) kind: FileKind,
}

/// What a file that is not written any more holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Entries, perhaps none.
    Entries,
    /// Nothing: it keeps other writers off its name on a bucket, and stays.
    Fence,
    /// An object below the flushed numbers that was not read: one or the other.
    Unread,
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
    /// First number that was not found when the log was read, all before it counted: where other writers are stopped.
    pub(super) gap: Seq,
    /// Whether new blocks wait.
    pub(super) paused: bool,
    /// Whether somebody applies a block now.
    pub(super) applying: bool,
    /// Running totals since the log was opened; files and bytes are computed.
    pub(super) totals: WalStats,
    pub(super) faults: Faults,
    /// Numbers for lanes and tickets.
    pub(super) issued: u64,
    /// Who this writer is to others.
    pub(super) author: Author,
    /// The buckets that hold a fence of this writer.
    pub(super) presence: BTreeMap<RootId, Presence>,
    /// When a waiting block is looked at again.
    pub(super) alarm: Option<Instant>,
    /// The last failure of a root, while nothing has succeeded since.
    pub(super) trouble: Option<Error>,
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
        self.add_lanes(&homes);
    }

    /// Adds a lane on each disk, and on each bucket those of the requests that it gets at once; in turn, so that small loads
    /// reach all.
    fn add_lanes(&mut self, homes: &[Home]) {
        for request in 0..REQUESTS {
            for home in homes.iter().filter(|home| request == 0 || !home.is_local()) {
                let id = self.issue();
                self.lanes.push(Lane {
                    id,
                    home: home.clone(),
                    file: None,
                    work: None,
                    recovering: false,
                    is_ending: false,
                });
            }
        }
    }

    /// What is written on one root is written on another one from now on, or on those that are left. What is under way there
    /// is written again.
    pub(super) fn rehome(&mut self, from: RootId, to: Option<Home>) {
        let here = |lane: &&Lane| lane.home.root.id() == from;
        let left: Vec<u64> = self.lanes.iter().filter(here).map(|lane| lane.id).collect();
        left.into_iter().for_each(|lane| self.drop_work(lane, None));
        self.lanes.retain(|lane| lane.home.root.id() != from);
        self.add_lanes(to.as_slice());
    }

    /// Whether the log is, or has been, on a bucket: then no number may be left out, see `fence`.
    pub(super) fn knows_a_bucket(&self) -> bool {
        !self.presence.is_empty()
    }

    /// Lanes that what waits is shared out among. Requests to a bucket are few and large, so there nothing is.
    pub(super) fn shares(&self) -> usize {
        if self.lanes.iter().all(|lane| lane.home.is_local()) {
            self.lanes.len()
        } else {
            1
        }
    }

    /// The files that are written end with their next block, if they hold at least so many bytes together.
    pub(super) fn end_large_files(&mut self, min_bytes: u64) {
        let resting = self.lanes.iter().filter_map(|lane| lane.file.as_ref());
        let under_way = self.lanes.iter().filter_map(|lane| lane.work.as_ref());
        let under_way = under_way.flat_map(|work| &work.files).map(|file| file.bytes);
        let bytes: u64 = resting.map(|file| file.end).chain(under_way).sum();
        if bytes >= min_bytes {
            self.lanes.iter_mut().for_each(|lane| lane.is_ending = true);
        }
    }

    /// The header of a file that begins with `first`.
    pub(super) fn header(&self, home: &Home, first: Seq) -> Header {
        let hole = self.hole.filter(|hole| hole.first == first);
        Header {
            format: self.format,
            version: if home.is_local() {
                FORMAT_VERSION
            } else {
                OBJECT_VERSION
            },
            description: self.description.clone(),
            shard: home.shard().to_owned(),
            first_seq: first,
            previous_seq: hole.map_or(first.saturating_sub(1), |hole| hole.previous),
            acknowledged: self.durable,
            lanes: self.width,
            marker: Uuid::new_v4().into_bytes(),
            author: (!home.is_local()).then_some(self.author),
        }
    }

    /// Puts a file on the list of those that are not written any more.
    pub(super) fn end_file(&mut self, file: SealedFile) {
        match self.sealed.iter_mut().find(|known| known.is_same(&file)) {
            Some(known) => *known = file,
            None => self.sealed.push(file),
        }
    }

    /// The file of this name on that list.
    pub(super) fn ended_as(&self, home: &Home, name: &str) -> Option<SealedFile> {
        let same = |file: &&SealedFile| file.name == name && file.home.root.id() == home.root.id();
        self.sealed.iter().find(same).cloned()
    }

    /// Notes how a file on that list has really ended.
    pub(super) fn correct(&mut self, file: SealedFile) {
        if let Some(known) = self.sealed.iter_mut().find(|known| known.is_same(&file)) {
            *known = file;
        }
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

    /// The files that may be deleted when everything through `through` is in segments, oldest first.
    pub(super) fn releasable(&self, through: Seq) -> Vec<SealedFile> {
        let is_written = self.lanes.iter().any(|lane| lane.file.is_some());
        let newest = self.sealed.iter().filter(|file| file.kind != FileKind::Fence);
        let newest = newest.max_by_key(|file| file.first).filter(|newest| {
            let root = newest.home.root.id();
            // Where the log is not written any more, nothing has to stay: it is described on the bucket that it is on.
            let left = self.knows_a_bucket() && !self.lane_roots().contains(&root);
            !is_written && !left
        });
        let mut files: Vec<SealedFile> = self
            .sealed
            .iter()
            .filter(|file| file.kind != FileKind::Fence && file.last <= through)
            .filter(|file| newest.is_none_or(|newest| !newest.is_same(file)))
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

    /// The roots that the log is written to.
    pub(super) fn lane_roots(&self) -> Vec<RootId> {
        let mut roots: Vec<RootId> = self.lanes.iter().map(|lane| lane.home.root.id()).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// The roots that hold a file of the log, or are about to.
    pub(super) fn roots(&self) -> Vec<RootId> {
        let mut roots: Vec<RootId> = self.sealed.iter().map(|file| file.home.root.id()).collect();
        roots.extend(self.lanes.iter().map(|lane| lane.home.root.id()));
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

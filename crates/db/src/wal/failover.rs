//! Where the log goes on when a root fails or does not answer.
//!
//! Owns the decision; the bytes are written again by `worker`. The callers that wait are the watchmen: a log in which
//! nobody waits needs none, and so an idle log has no timer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::root::{Root, RootId};

use super::Home;
use super::flight::Lane;
use super::log::{Log, SealedFile};
use super::writer::Shared;

/// Pause before a block that no root takes is tried again.
const PAUSE: Duration = Duration::from_secs(1);

impl Shared {
    /// A write has failed; its files have ended as `ended` says, or nobody knows how.
    pub(super) fn write_failed(self: &Arc<Self>, lane: u64, ticket: u64, error: Error, ended: Option<Vec<SealedFile>>) {
        let mut log = self.log.lock();
        if log.working(lane, ticket).is_none() {
            return;
        }
        log.drop_work(lane, ended);
        drop(log);
        self.replace(lane, error);
    }

    /// Gives up the writes that take too long, if there is another root for them. A late one changes nothing: its file
    /// has ended.
    pub(super) fn watch(self: &Arc<Self>) {
        let mut log = self.log.lock();
        let roots = log.lane_roots();
        if self.spare.is_none() && roots.len() == 1 {
            return;
        }
        let stalled = log.stalled(log.options.stall);
        stalled.iter().for_each(|(lane, _)| log.drop_work(*lane, None));
        drop(log);
        stalled.into_iter().for_each(|(lane, error)| self.replace(lane, error));
    }

    /// Seeks another root for a lane that has failed with `error`.
    fn replace(self: &Arc<Self>, lane: u64, error: Error) {
        let mut log = self.log.lock();
        let hopeless = log.is_hopeless();
        let Some(failed) = log.lane(lane) else { return };
        let root = failed.home.root.id();
        let Some(spare) = self.spare.clone().filter(|_| !hopeless) else {
            drop(log);
            return self.found(lane, Err(error.clone()), error);
        };
        failed.recovering = true;
        drop(log);
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let found = shared.runtime.spawn(spare(root, error.clone())).await;
            let found = found.unwrap_or_else(|failed| Err(Error::Internal(format!("seeking a root: {failed}"))));
            shared.found(lane, found, error);
        });
    }

    /// The lane goes on on `root`; or without it the others do; or the callers get the `first` error.
    fn found(self: &Arc<Self>, lane: u64, root: Result<Arc<Root>>, first: Error) {
        let mut log = self.log.lock();
        let Some(from) = log.lane(lane).map(|lane| Arc::clone(&lane.home.root)) else {
            return;
        };
        let home = root.map(|root| Home::new(&root, &log.directory));
        let is_written = |log: &Log, root: RootId| {
            let other = |lane: &Lane| lane.home.root.id() != from.id() && lane.home.root.id() == root;
            log.lanes.iter().any(other)
        };
        let elsewhere = log.lanes.iter().any(|other| other.home.root.id() != from.id());
        let mut refused = Vec::new();
        match home {
            Ok(home) if !is_written(&log, home.root.id()) => {
                tracing::warn!(directory = &*home.directory, from = from.url(), to = home.root.url(), error = %first, "the log goes on on another root");
                log.rehome(from.id(), Some(home));
            }
            _ if elsewhere && !log.is_hopeless() => {
                tracing::warn!(directory = &*log.directory, error = %first, "the log goes on on its other roots");
                log.rehome(from.id(), None);
            }
            outcome => {
                if let (Err(error), Some(_)) = (outcome, &self.spare) {
                    tracing::warn!(directory = &*log.directory, %first, %error, "no root takes the log's writes");
                }
                if let Some(lane) = log.lane(lane) {
                    lane.recovering = false;
                }
                if log.knows_a_bucket() {
                    // No number may be left out: the same again, when the root has had some rest.
                    log.trouble = Some(first.clone());
                    drop(log);
                    return self.kick_at(Instant::now() + PAUSE);
                }
                refused = log.give_up(&self.queue.lock());
            }
        }
        drop(log);
        for waiter in refused {
            let _ = waiter.done.send(Err(first.clone()));
        }
        self.kick();
        self.progress.notify_waiters();
    }
}

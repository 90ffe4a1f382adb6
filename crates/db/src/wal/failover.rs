//! Where the log goes on when a root fails or does not answer.
//!
//! Owns the decision; the bytes are written again by `worker`. The callers that wait are the watchmen: a log in which
//! nobody waits needs none, and so an idle log has no timer.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::root::Root;

use super::Home;
use super::log::SealedFile;
use super::writer::Shared;

impl Shared {
    /// A write has failed; its files have ended as `ended` says.
    pub(super) fn write_failed(self: &Arc<Self>, lane: u64, ticket: u64, error: Error, ended: Vec<SealedFile>) {
        let mut log = self.log.lock();
        if log.working(lane, ticket).is_none() {
            return;
        }
        log.drop_work(lane, Some(ended));
        drop(log);
        self.replace(lane, error);
    }

    /// Gives up the writes that take too long, if there is another root for them. A late one changes nothing: its file
    /// has ended.
    pub(super) fn watch(self: &Arc<Self>) {
        let mut log = self.log.lock();
        if self.spare.is_none() && log.lanes.len() == 1 {
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
            let found = spare(root, error.clone()).await;
            shared.found(lane, found, error);
        });
    }

    /// The lane goes on on `root`; or without it the others do; or the callers get the `first` error.
    fn found(self: &Arc<Self>, lane: u64, root: Result<Arc<Root>>, first: Error) {
        let mut log = self.log.lock();
        let home = root.and_then(|root| Home::new(&root, &log.directory));
        let mut refused = Vec::new();
        match home {
            Ok(home)
                if !log
                    .lanes
                    .iter()
                    .any(|other| other.id != lane && other.home.root.id() == home.root.id()) =>
            {
                if let Some(lane) = log.lane(lane) {
                    tracing::warn!(directory = &*home.directory, from = lane.home.root.url(), to = home.root.url(), error = %first, "the log goes on on another root");
                    (lane.home, lane.recovering) = (home, false);
                }
            }
            _ if log.lanes.len() > 1 && !log.is_hopeless() => {
                tracing::warn!(directory = &*log.directory, error = %first, "the log goes on on its other roots");
                log.lanes.retain(|other| other.id != lane);
            }
            outcome => {
                if let Err(error) = outcome {
                    tracing::warn!(directory = &*log.directory, %first, %error, "no root takes the log's writes");
                }
                if let Some(lane) = log.lane(lane) {
                    lane.recovering = false;
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

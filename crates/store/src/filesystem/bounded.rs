//! Every operation has a deadline, is counted, and is refused at once while the root does not answer.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::Filesystem;
use crate::breaker;
use crate::error::{StoreError, detail};
use crate::meter::Op;

impl Filesystem {
    /// The same root for a look whether it answers: operations are tried although it did not, and have no deadline. So
    /// a root that hangs keeps one thread for its probe and not one for each attempt.
    pub fn probing(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            probing: true,
        }
    }

    /// How long the root has not answered; `None` while it does.
    pub fn silent_for(&self) -> Option<Duration> {
        self.inner.breaker.silent_for()
    }

    /// A probe came back: operations are tried again.
    pub fn answers(&self) {
        self.inner.breaker.close();
    }

    /// Whether the root answers, as far as is known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] that says for how long it has not.
    pub fn check_answers(&self) -> Result<(), StoreError> {
        match self.silent_for() {
            Some(silence) if !self.probing => Err(self.silent("", silence)),
            _ => Ok(()),
        }
    }

    /// Waits for work on this root that moves `bytes`, but not longer than such work may take. What does not come back in
    /// time may still happen; from then on the root counts as one that does not answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the root does not answer; those of the work.
    pub async fn bounded<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.within("", breaker::deadline(bytes), work).await
    }

    pub(super) async fn within<T>(
        &self,
        path: &str,
        deadline: Duration,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.probing {
            return work.await;
        }
        self.check_answers()?;
        let began = Instant::now();
        let Ok(outcome) = tokio::time::timeout(deadline, work).await else {
            self.inner.breaker.trip(began);
            return Err(self.silent(path, began.elapsed()));
        };
        outcome
    }

    /// Work that a bucket had no good answer to is tried once more: what the client below does not repeat by itself are
    /// answers that were cut (listings) and requests that it does not know to be harmless (deletions of many).
    pub(super) async fn again<T, F>(&self, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match work().await {
            Err(StoreError::Unavailable(_)) if !self.is_local() => work().await,
            outcome => outcome,
        }
    }

    fn silent(&self, path: &str, silence: Duration) -> StoreError {
        let reason = format!("has not answered for {} s", silence.as_secs());
        StoreError::Unavailable(detail(self.url(), path, reason))
    }

    /// Counts an operation. A missing file is an answer, not an error of the root. What is refused at once is not
    /// counted: nothing was asked of the root.
    pub(super) async fn measured<T>(
        &self,
        op: Op,
        work: impl Future<Output = Result<T, StoreError>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StoreError> {
        self.check_answers()?;
        let start = Instant::now();
        let outcome = work.await;
        let succeeded = outcome.as_ref().map_or_else(StoreError::is_not_found, |_| true);
        self.meter()
            .record(op, start.elapsed(), outcome.as_ref().map_or(0, bytes), succeeded);
        outcome
    }
}

#[cfg(test)]
mod tests;

//! What a root can do, found out by doing it: the probe before a bucket is used for the first time, and for operators.
//!
//! Writes a few small files under a name that nobody else has, and deletes them. Names without a promise are not tried:
//! what the rest of the program relies on is what is asked here.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Created, Filesystem};
use crate::error::StoreError;

/// Creators that race for one name.
const RACERS: usize = 8;
/// Services refuse signatures that are further off than 15 minutes.
const TOLERATED_SKEW_MS: u64 = 5 * 60 * 1000;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Of several creators of one name exactly one succeeds, and a later one changes nothing.
    pub exclusive_create: bool,
    /// A file is read as it was written, as soon as the write is answered.
    pub read_after_write: bool,
    /// A listing shows a file as soon as its write is answered.
    pub list_after_write: bool,
    /// A part of a file can be read.
    pub range_reads: bool,
    /// A deleted file is gone, from reads and listings.
    pub deletes: bool,
    /// Replaced and deleted files are kept as old versions, which cost money and are never read.
    pub versioning: bool,
    /// How far the clock of the service is ahead of this machine's, ms; about half a request's time exact.
    pub clock_skew_ms: i64,
}

impl Capabilities {
    /// Why the root cannot be used, in one sentence; `None` if it can.
    pub fn problem(&self) -> Option<String> {
        let needs = [
            (
                self.exclusive_create,
                "several creators of one name succeed (create-if-absent is ignored), so two processes could both believe that they committed",
            ),
            (self.read_after_write, "a file is not read as it was just written"),
            (
                self.list_after_write,
                "a listing does not show a file that was just written",
            ),
            (self.range_reads, "parts of files cannot be read"),
            (self.deletes, "a deleted file is still there"),
        ];
        let missing: Vec<&str> = needs
            .iter()
            .filter(|(met, _)| !met)
            .map(|(_, missing)| *missing)
            .collect();
        if missing.is_empty() {
            return None;
        }
        let missing = missing.join("; ");
        Some(format!(
            "the service does not keep what a root needs: {missing}; use another service or bucket"
        ))
    }

    /// What an operator should know although the root can be used.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.versioning {
            advice.push("versioning is on: deleted and replaced files are kept and paid for until a lifecycle rule removes them".to_owned());
        }
        if self.clock_skew_ms.unsigned_abs() > TOLERATED_SKEW_MS {
            let seconds = self.clock_skew_ms / 1000;
            advice.push(format!("the clock of the service is {seconds} s ahead of this machine's: services refuse requests that are 900 s off"));
        }
        advice
    }
}

impl Filesystem {
    /// Finds out what the root can do by doing it, under names below `directory` that nobody else has. Leaves nothing behind
    /// when it succeeds.
    ///
    /// # Errors
    /// When the root cannot be used at all: wrong credentials, a missing bucket, no answer, no permission to write.
    pub async fn probe_capabilities(&self, directory: &str) -> Result<Capabilities, StoreError> {
        let place = format!("{directory}/{}", Uuid::new_v4());
        let (first, raced) = (format!("{place}/first"), format!("{place}/raced"));
        let text = Bytes::from(format!("probe {place}"));
        let sent = now_ms();
        let created = self.create(&first, text.clone()).await?;
        let again = self.create(&first, Bytes::from_static(b"another")).await?;
        let exclusive_create =
            created == Created::Committed && again == Created::Conflict(text.clone()) && self.one_wins(&raced).await?;
        let read_after_write = self.read(&first).await? == text;
        let listed = self.list(&place).await?;
        let list_after_write = listed
            .iter()
            .any(|file| file.path == first && file.size == text.len() as u64);
        let range_reads = range_is(self.read_range(&first, 2..6), &text.slice(2..6)).await?;
        let location = self.location(&first)?;
        let clock_skew_ms = self.clock_skew(&location, &first, sent).await?;
        let versioning = self.keeps_versions(&format!("{place}/versions")).await?;
        self.delete_dir(&place).await?;
        let deletes = !self.exists(&first).await? && self.list(&place).await?.is_empty();
        Ok(Capabilities {
            exclusive_create,
            read_after_write,
            list_after_write,
            range_reads,
            deletes,
            versioning,
            clock_skew_ms,
        })
    }

    async fn one_wins(&self, path: &str) -> Result<bool, StoreError> {
        let racers = (0..RACERS).map(|n| self.create(path, Bytes::from(format!("racer {n} {path}"))));
        let mut winners = 0;
        for outcome in join_all(racers).await {
            winners += usize::from(outcome? == Created::Committed);
        }
        Ok(winners == 1)
    }

    /// The time of a file that was written since `sent`, against the middle of the time in which it was.
    async fn clock_skew(&self, location: &Path, path: &str, sent: i64) -> Result<i64, StoreError> {
        let head = self.within(path, crate::breaker::deadline(0), async {
            let head = self.inner.store.head(location).await;
            head.map_err(|error| self.error(path, &error))
        });
        let written = head.await?.last_modified.timestamp_millis();
        let now = now_ms();
        // Times of files are in whole seconds at some services.
        Ok(match written {
            ahead if ahead > now => ahead - now,
            behind if behind + 1000 < sent => behind + 1000 - sent,
            _ => 0,
        })
    }

    /// Whether the bytes of a deleted file can still be read.
    async fn keeps_versions(&self, path: &str) -> Result<bool, StoreError> {
        if self.is_local() {
            return Ok(false);
        }
        let location = self.location(path)?;
        let look = async {
            let text = PutPayload::from_static(b"old");
            let put = self.inner.store.put(&location, text).await;
            let Some(version) = put.map_err(|error| self.error(path, &error))?.version else {
                return Ok(false);
            };
            // Not a second version of the same name: some services take one write of it a second.
            let deleted = self.inner.store.delete(&location).await;
            deleted.map_err(|error| self.error(path, &error))?;
            let options = GetOptions {
                version: Some(version),
                ..GetOptions::default()
            };
            // A service without versions refuses the request, or finds nothing.
            match self.inner.store.get_opts(&location, options).await {
                Ok(found) => Ok(found.bytes().await.is_ok_and(|bytes| bytes == "old")),
                Err(_) => Ok(false),
            }
        };
        self.within(path, crate::breaker::deadline(0), look).await
    }
}

/// Whether a range read brings these bytes. A service that does not know ranges fails or sends everything.
async fn range_is(read: impl Future<Output = Result<Bytes, StoreError>>, expected: &Bytes) -> Result<bool, StoreError> {
    match read.await {
        Ok(bytes) => Ok(bytes == *expected),
        Err(error) if error.is_unavailable() => Err(error),
        Err(_) => Ok(false),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

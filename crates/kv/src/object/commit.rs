//! Changing a key: the one way for sets, swaps, increments and deletions. See the crate's page for the argument.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::MutexGuard;

use super::requests::NotCreated;
use super::{LOCKS, ObjectKv};
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::record::Record;
use crate::store::{Swap, Version};

/// A create without a clear outcome is repeated this often, under the same name and with the same bytes.
const ATTEMPTS: u32 = 8;
/// A change is decided anew this often because another writer was faster: minutes. Whoever has just won knows the newest version and wins
/// again and again, so that among dozens of busy writers one may lose a thousand times in a row.
const CONFLICTS: u32 = 100_000;
/// Longest wait between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What to do about a key, given its newest record.
pub(super) enum Decision {
    /// Write this next version; `None` deletes.
    Write(Option<Bytes>),
    /// Leave it as it is.
    Stop,
}

enum Outcome {
    Committed(Version),
    /// Another writer has made a change first; the newest record.
    Conflict(Arc<Record>),
}

impl ObjectKv {
    /// Decides and writes until the decision was about the newest version.
    pub(super) async fn change(
        &self,
        key: &str,
        decide: impl FnMut(Option<&Record>) -> Result<Decision> + Send,
    ) -> Result<Swap> {
        let name = self.name(key)?;
        let _turn = self.turn(&name).await;
        self.change_in_turn(key, &name, decide).await
    }

    /// Waits for the other changes of the key in this process.
    pub(super) async fn turn(&self, name: &KeyName) -> MutexGuard<'_, ()> {
        self.shared.locks[lock_of(name)].lock().await
    }

    /// A [change](Self::change) of the holder of the key's [turn](Self::turn).
    pub(super) async fn change_in_turn(
        &self,
        key: &str,
        name: &KeyName,
        mut decide: impl FnMut(Option<&Record>) -> Result<Decision> + Send,
    ) -> Result<Swap> {
        // What is known may be outdated: enough to try a write, which then fails, and not enough to refuse one.
        let mut head = self.known(name);
        let mut is_newest = false;
        if head.is_none() {
            head = self.newest(key, name).await?;
            is_newest = true;
        }
        for conflict in 0..CONFLICTS {
            match decide(head.as_deref()) {
                Ok(Decision::Write(value)) => match self.commit(key, name, head.as_deref(), value).await? {
                    Outcome::Committed(version) => return Ok(Swap::Swapped(version)),
                    Outcome::Conflict(newest) => {
                        self.shared.requests.count_conflict();
                        head = Some(newest);
                        pause(Duration::from_micros(200), conflict.min(6)).await;
                    }
                },
                undecided if !is_newest => {
                    drop(undecided);
                    head = self.newest(key, name).await?;
                }
                Ok(Decision::Stop) => return Ok(Swap::Lost(head.and_then(|record| record.entry()))),
                Err(error) => return Err(error),
            }
            is_newest = true;
        }
        let reason = "other writers were faster every time";
        Err(Error::new(ErrorKind::Contended, &self.url, key, reason))
    }

    /// Makes the next version after `head`.
    async fn commit(&self, key: &str, name: &KeyName, head: Option<&Record>, value: Option<Bytes>) -> Result<Outcome> {
        let record = Arc::new(Record::after(head, self.shared.writer, self.next_sequence(), value));
        let number = record.version.number;
        let bytes = record.encode(&name.version(number));
        let (mut failure, mut may_come) = (None, false);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                pause(Duration::from_millis(10), attempt).await;
            }
            let created = match self.create_object(key, name, number, bytes.clone()).await {
                Ok(()) => true,
                Err(NotCreated::Refused(error)) if !may_come => return Err(error),
                Err(NotCreated::Refused(error)) => {
                    failure = Some(error);
                    break;
                }
                Err(NotCreated::Doubtful { error, pending }) => {
                    self.shared.requests.count_doubt();
                    failure = Some(error);
                    may_come |= pending;
                    false
                }
            };
            match self.outcome(key, name, &record, created).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => may_come |= created,
                Err(error) if error.kind() == ErrorKind::Indeterminate => return Err(error),
                Err(error) => (failure, may_come) = (Some(error), true),
            }
        }
        let failure = failure.unwrap_or_else(|| {
            let reason = "the store says that the version exists, and does not show it";
            Error::new(ErrorKind::Unavailable, &self.url, key, reason)
        });
        Err(if may_come {
            failure.with_kind(ErrorKind::Indeterminate)
        } else {
            failure
        })
    }

    /// What has become of the change; `None`: nothing so far. `created`: the store has said that it made the object.
    async fn outcome(&self, key: &str, name: &KeyName, record: &Arc<Record>, created: bool) -> Result<Option<Outcome>> {
        let version = record.version;
        let Some(mut seen) = self.look(key, name).await? else {
            return Ok(None);
        };
        if seen.number < version.number {
            return Ok(None);
        }
        let outdated = std::mem::take(&mut seen.outdated);
        if created && seen.number == version.number {
            self.remember(name, Arc::clone(record));
            self.clean(outdated);
            return Ok(Some(Outcome::Committed(version)));
        }
        let Some(newest) = self.newest_seen(key, name, seen).await? else {
            return Ok(None);
        };
        self.clean(outdated);
        if newest.follows(version) {
            return Ok(Some(Outcome::Committed(version)));
        }
        if newest.version.number > version.number && newest.is_forgetful() {
            let reason = "too many other writers have changed it since";
            return Err(Error::new(ErrorKind::Indeterminate, &self.url, key, reason));
        }
        Ok(Some(Outcome::Conflict(newest)))
    }
}

fn lock_of(name: &KeyName) -> usize {
    (xxhash_rust::xxh3::xxh3_64(name.as_str().as_bytes()) % LOCKS as u64) as usize
}

/// Waits for a random part of `first` doubled `times` times, so that writers that met do not meet again.
async fn pause(first: Duration, times: u32) {
    let most = first.saturating_mul(1 << times.min(16)).min(MAX_PAUSE);
    tokio::time::sleep(most.mul_f64(rand::random())).await;
}

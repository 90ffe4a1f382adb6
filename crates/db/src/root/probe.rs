//! Looks at doubtful roots: one that is what it was comes back, and after several good looks it is online.
//!
//! Each root has at most one probe under way. One that hangs keeps its thread until the disk answers, and is looked at
//! again in the next round; the other roots do not wait for it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proximadb_store::{Capacity, Detail, Filesystem, LockError, RootLock, StoreError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::identity::{self, Found, Identity};
use super::open::{LOOK_DEADLINE, MISSING_IDENTITY, initialise, offline, stranger, two_places, within};
use super::{Root, RootId, RootState, Roots};
use crate::error::{Error, Result};

/// A round of probes takes no longer; what is not back by then is asked for in a later round.
const ROUND: Duration = Duration::from_secs(2);
/// A root that was full is writable again with a hundredth of the disk free, or this much.
const FREE_ENOUGH: u64 = 64 << 20;

/// What a probe found.
#[derive(Debug)]
pub(super) enum Probed {
    /// The root is what it was, and the lock if it was taken now. Whether it can be written.
    There(Identity, Option<RootLock>, Result<(), StoreError>),
    /// It cannot be used.
    Away(String),
}

/// What a probe has to know; it runs beside everything else.
struct Task {
    root: Arc<Root>,
    cluster_id: Uuid,
    /// Whether the identity of this root is known, so that another one there is another disk.
    registered: bool,
    /// Take the lock, and make durable what a killed process left.
    take_up: bool,
}

impl Roots {
    /// Looks again at every root that is not in order, and takes back those that are what they were. Returns those that
    /// were offline and can be used now. Disks that are in order are asked for their size, so that one that hangs or is
    /// gone is noticed although nobody uses it. Ends soon, whatever the roots do.
    pub async fn probe(&self) -> Vec<Arc<Root>> {
        let doubtful =
            |root: &Arc<Root>| *root.condition.read().health() != RootState::Online || root.fs().silent_for().is_some();
        let (doubtful, healthy): (Vec<Arc<Root>>, Vec<Arc<Root>>) = self.all().into_iter().partition(doubtful);
        healthy.iter().for_each(watch);
        let probes = doubtful.iter().map(|root| self.probe_one(root));
        let back: Vec<Arc<Root>> = join_all(probes).await.into_iter().flatten().collect();
        if !back.is_empty()
            && let Err(error) = self.record(true).await
        {
            tracing::warn!(%error, "the list of roots could not be brought up to date");
        }
        back
    }

    async fn probe_one(&self, root: &Arc<Root>) -> Option<Arc<Root>> {
        let under_way = root.probe.lock().take();
        let mut probe = under_way.unwrap_or_else(|| {
            let task = Task {
                root: root.clone(),
                cluster_id: self.cluster_id(),
                registered: self.registry.read().roots.contains_key(&root.id()),
                take_up: self.exclusive && root.condition.read().is_offline(),
            };
            tokio::spawn(task.run())
        });
        match tokio::time::timeout(ROUND, &mut probe).await {
            Err(_) => {
                *root.probe.lock() = Some(probe);
                let reason = "it does not answer a probe".to_owned();
                root.change(|condition| match condition.health() {
                    RootState::Online | RootState::Suspect => condition.set(RootState::Suspect, Some(reason)),
                    _ => {}
                });
                None
            }
            Ok(Err(panicked)) => {
                tracing::error!(root = root.url(), error = %panicked, "a probe failed");
                None
            }
            Ok(Ok(Probed::Away(reason))) => {
                root.set_state(RootState::Offline { reason });
                None
            }
            Ok(Ok(Probed::There(identity, lock, writable))) => self.admit(root, &identity, lock, writable),
        }
    }

    fn admit(
        &self,
        root: &Arc<Root>,
        identity: &Identity,
        lock: Option<RootLock>,
        writable: Result<(), StoreError>,
    ) -> Option<Arc<Root>> {
        let root = match self.identified(root, identity) {
            Ok(root) => root,
            Err(error) => {
                root.set_state(offline(&error.to_string()));
                return None;
            }
        };
        let was_offline = root.condition.read().is_offline();
        if lock.is_some() {
            *root.lock.lock() = lock;
        }
        *root.missing_identity.write() = false;
        *root.placement_key.write() = Some(identity.placement_key());
        root.fs().answers();
        match writable {
            Ok(()) => root.change(|condition| condition.probed()),
            Err(error) => {
                if was_offline {
                    root.set_state(RootState::Suspect);
                }
                root.note(&error);
            }
        }
        was_offline.then_some(root)
    }

    /// The root of an identity that was read at the place of `root`. A root that was never seen since the start has a
    /// stand-in id, and is replaced by one with its own.
    fn identified(&self, root: &Arc<Root>, identity: &Identity) -> Result<Arc<Root>> {
        if identity.root_id == root.id() {
            return Ok(Arc::clone(root));
        }
        let mut roots = self.roots.write();
        if let Some(twin) = roots.iter().find(|twin| twin.id() == identity.root_id) {
            return Err(two_places(twin.url(), root.url()));
        }
        let state = offline("not taken up yet");
        let (config, fs) = (root.config.clone(), root.fs.clone());
        let replacement = Arc::new(Root::new(identity.root_id, config, root.index, fs, state));
        if self.registry.read().is_draining(identity.root_id) {
            replacement.set_state(RootState::Draining);
        }
        for slot in roots.iter_mut().filter(|slot| slot.id() == root.id()) {
            *slot = Arc::clone(&replacement);
        }
        Ok(replacement)
    }

    /// Initialises again the known roots whose identity is missing and that no collection names (B7): their directory was
    /// deleted. Those in `used` stay offline. Call it when all collections are known, and no root that could name one is
    /// offline. Returns the roots that came back.
    ///
    /// # Errors
    /// [`Error::Config`] when another process initialised the root at the same time.
    pub async fn initialise_missing(&self, used: &HashSet<RootId>) -> Result<Vec<Arc<Root>>> {
        let missing = |root: &Arc<Root>| *root.missing_identity.read() && !used.contains(&root.id());
        let missing: Vec<Arc<Root>> = self.all().into_iter().filter(missing).collect();
        let mut back = Vec::new();
        for root in missing {
            // It may have been mounted since it was looked at.
            if !matches!(within(LOOK_DEADLINE, identity::look(root.fs())).await, Ok(Found::Blank)) {
                continue;
            }
            let state = initialise(root.fs(), root.id(), self.cluster_id(), root.component()).await?;
            *root.placement_key.write() = Some(identity::first_placement_key(&root.config.url));
            self.take_up(&root, state).await?;
            back.push(root);
        }
        self.record(!back.is_empty()).await?;
        Ok(back)
    }
}

/// Asks a disk for its size unless it is being asked. What that says about the root is noted by the question itself.
fn watch(root: &Arc<Root>) {
    if !root.fs().is_local() {
        return;
    }
    let mut watch = root.watch.lock();
    if watch.as_ref().is_none_or(JoinHandle::is_finished) {
        let root = root.clone();
        *watch = Some(tokio::spawn(async move {
            if let Err(error) = root.capacity().await {
                tracing::debug!(%error, "a disk does not tell its size");
            }
        }));
    }
}

impl Task {
    async fn run(self) -> Probed {
        self.look().await.unwrap_or_else(Probed::Away)
    }

    async fn look(&self) -> Result<Probed, String> {
        let fs = self.root.fs().probing();
        let identity = match identity::look(&fs).await {
            Found::Known(identity) => identity,
            Found::Blank | Found::DataWithoutIdentity(_) => return Err(MISSING_IDENTITY.to_owned()),
            Found::Unseen(reason) => return Err(reason),
        };
        self.check(&identity).map_err(|error| error.to_string())?;
        let mut lock = None;
        if self.take_up {
            if self.root.lock.lock().is_none() {
                lock = acquire(&fs).await?;
            }
            fs.sync_all().await.map_err(|error| error.detail().reason.clone())?;
        }
        let mut writable = identity::write_probe(&fs).await;
        if writable.is_ok() && *self.root.condition.read().health() == RootState::ReadOnly {
            writable = has_space(&fs).await;
        }
        Ok(Probed::There(identity, lock, writable))
    }

    fn check(&self, identity: &Identity) -> Result<()> {
        let (url, component) = (self.root.url(), self.root.component());
        if identity.cluster_id != self.cluster_id || identity.component != component {
            return Err(stranger(url, identity, self.cluster_id, component));
        }
        if self.registered && identity.root_id != self.root.id() {
            return Err(Error::Config(format!(
                "root {url}: expected root id {}, found {}: another disk is mounted there",
                self.root.id(),
                identity.root_id
            )));
        }
        Ok(())
    }
}

/// The lock of a local root; `None` for a bucket and on a disk that is mounted read-only.
async fn acquire(fs: &Filesystem) -> Result<Option<RootLock>, String> {
    let Some(base) = fs.url().local_path().map(Path::to_owned) else {
        return Ok(None);
    };
    let locked = fs.blocking(move || RootLock::acquire(&base)).await;
    match locked.map_err(|error| error.to_string())? {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Io(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// A few free bytes would only bring the next failure.
async fn has_space(fs: &Filesystem) -> Result<(), StoreError> {
    match fs.capacity().await? {
        Some(Capacity {
            total_bytes,
            free_bytes,
        }) if free_bytes < FREE_ENOUGH.min(total_bytes / 100) => Err(StoreError::Full(Detail {
            root: fs.url().as_str().to_owned(),
            path: String::new(),
            reason: format!("{free_bytes} of {total_bytes} bytes are free"),
        })),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

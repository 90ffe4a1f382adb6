//! Roots: the configured URLs, each of one component, with identity, state and usage.
//!
//! Owns who a root is (`_proximadb/root.json`), which roots the cluster knows (`_proximadb/roots/`), whether a root can be
//! used now, and how much each collection holds on it. Does not own which root a collection lives on (placement) or what
//! lies on it (discovery). A root that cannot be seen is unknown, never empty.

mod capabilities;
mod change;
mod component;
mod condition;
mod identity;
mod inspect;
mod open;
mod probe;
mod registry;
mod roots;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proximadb_store::{Capacity, Created, Fetched, FileInfo, Filesystem, Partial, RootLock};
use proximadb_store::{StorageUrl, StoreError, Stored};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::schema::CollectionId;

pub use capabilities::probe_capabilities;
pub use component::{IndexType, RootId, StorageComponentType};
use condition::{Condition, verdict};
pub use condition::{LastError, RootState};
pub(crate) use inspect::check_reserved;
use probe::Probed;
pub use roots::Roots;
pub use usage::Usage;

/// Directory of what is about the root itself; never a collection.
pub const RESERVED_DIRECTORY: &str = "_proximadb";

/// One configured root.
#[derive(Clone)]
pub struct RootConfig {
    /// The component whose files it holds.
    pub component: StorageComponentType,
    /// Where it is.
    pub url: StorageUrl,
    /// Options of the cloud, credentials among them; never shown.
    pub options: BTreeMap<String, String>,
    /// Labels for placement policies.
    pub tags: BTreeMap<String, String>,
    /// Share of placements by Hash relative to the other roots.
    pub weight: f64,
}

impl fmt::Debug for RootConfig {
    /// Options by name only: their values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<&String> = self.options.keys().collect();
        f.debug_struct("RootConfig")
            .field("component", &self.component)
            .field("url", &self.url)
            .field("options", &options)
            .field("tags", &self.tags)
            .field("weight", &self.weight)
            .finish()
    }
}

/// One root of one component. Shared; its state and usage change, its identity does not.
#[derive(Debug)]
pub struct Root {
    id: RootId,
    config: RootConfig,
    index: usize,
    fs: Filesystem,
    condition: RwLock<Condition>,
    /// Set while the identity file of a known root is missing: it may be initialised again if no collection needs it.
    missing_identity: RwLock<bool>,
    /// From the identity file; `None` while that was not seen.
    placement_key: RwLock<Option<String>>,
    usage: Mutex<HashMap<CollectionId, Usage>>,
    last_capacity: Mutex<Option<Capacity>>,
    lock: Mutex<Option<RootLock>>,
    /// The probe that has not come back yet: there is never a second one beside it.
    probe: Mutex<Option<JoinHandle<Probed>>>,
    /// The last question for its size, which shows whether a disk that nobody uses answers.
    watch: Mutex<Option<JoinHandle<()>>>,
    /// Held by the one who lists the root for a report.
    listing: Arc<AsyncMutex<()>>,
}

impl Root {
    fn new(id: RootId, config: RootConfig, index: usize, fs: Filesystem, state: RootState) -> Self {
        Self {
            id,
            config,
            index,
            fs,
            condition: RwLock::new(Condition::new(state)),
            missing_identity: RwLock::new(false),
            placement_key: RwLock::default(),
            usage: Mutex::default(),
            last_capacity: Mutex::default(),
            lock: Mutex::default(),
            probe: Mutex::default(),
            watch: Mutex::default(),
            listing: Arc::default(),
        }
    }

    /// A root of the log over any store, online.
    #[cfg(test)]
    pub(crate) fn over(index: usize, fs: Filesystem) -> Arc<Self> {
        let config = RootConfig {
            component: StorageComponentType::Wal,
            url: fs.url().clone(),
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        };
        let id = RootId(uuid::Uuid::from_u128(100 + index as u128));
        Arc::new(Self::new(id, config, index, fs, RootState::Online))
    }

    /// Identity.
    pub fn id(&self) -> RootId {
        self.id
    }

    /// What the Hash strategy knows it by. Written when the root was initialised, and never changed.
    pub fn placement_key(&self) -> String {
        self.placement_key.read().clone().unwrap_or_else(|| self.id.to_string())
    }

    /// The component whose files it holds.
    pub fn component(&self) -> StorageComponentType {
        self.config.component
    }

    /// URL as configured, byte for byte.
    pub fn url(&self) -> &str {
        self.config.url.as_str()
    }

    /// Position in its component's list; information only, nothing depends on it.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Labels for placement policies.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.config.tags
    }

    /// Share of placements by Hash relative to the other roots.
    pub fn weight(&self) -> f64 {
        self.config.weight
    }

    /// The bytes of the root; its errors go through [`map_error`](Self::map_error).
    pub fn fs(&self) -> &Filesystem {
        &self.fs
    }

    /// Whether it can be used.
    pub fn state(&self) -> RootState {
        self.condition.read().state()
    }

    /// Why it is not online; `None` while it is.
    pub fn reason(&self) -> Option<String> {
        let condition = self.condition.read();
        match self.fs.silent_for() {
            Some(silence) if !condition.is_offline() => Some(silent(silence)),
            _ => condition.reason(),
        }
    }

    /// Since when its state is what it is, ms since 1970 UTC.
    pub fn since_ms(&self) -> u64 {
        self.condition.read().since_ms()
    }

    /// Its last failed operation, whatever its state is now.
    pub fn last_error(&self) -> Option<LastError> {
        self.condition.read().last_error()
    }

    /// Changes the state, and says so in the log. `Draining` is beside the others: see [`Roots::set_draining`] for a drain
    /// that lasts.
    pub fn set_state(&self, state: RootState) {
        self.change(|condition| condition.set(state, None));
    }

    /// Whether it is being emptied by request, whatever its state is otherwise.
    pub fn is_draining(&self) -> bool {
        self.condition.read().is_draining()
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        let mut condition = self.condition.write();
        let before = condition.state();
        change(&mut condition);
        let (state, reason) = (condition.state(), condition.reason());
        drop(condition);
        match &state {
            same if *same == before => {}
            RootState::Online => tracing::info!(root = self.url(), component = %self.component(), "root is online"),
            other => {
                let state = other.name();
                tracing::warn!(root = self.url(), component = %self.component(), state, reason, "root changed its state")
            }
        }
    }

    /// Whether new collections may be placed on it.
    pub fn accepts_placements(&self) -> bool {
        self.state() == RootState::Online && self.fs.silent_for().is_none()
    }

    /// Whether it may be used at all.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] with the reason while it is offline or does not answer.
    pub fn available(&self) -> Result<()> {
        if let RootState::Offline { reason } = self.state() {
            return Err(self.unavailable(reason));
        }
        self.fs
            .silent_for()
            .map_or(Ok(()), |silence| Err(self.unavailable(silent(silence))))
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::RootUnavailable {
            url: self.url().to_owned(),
            reason,
        }
    }

    /// The database's error of a failed operation; also notes in the state what it says about the root.
    pub fn map_error(&self, error: StoreError) -> Error {
        self.note(&error);
        let detail = error.detail();
        let reason = match detail.path.as_str() {
            "" => detail.reason.clone(),
            path => format!("{path}: {}", detail.reason),
        };
        match error {
            StoreError::Full(_) => Error::StorageFull {
                url: self.url().to_owned(),
                reason,
            },
            StoreError::NotFound(_) => Error::Corruption(format!("a file is missing: {error}")),
            StoreError::Config(_) => Error::Internal(error.to_string()),
            StoreError::ReadOnly(_)
            | StoreError::Unavailable(_)
            | StoreError::Denied(_)
            | StoreError::Indeterminate(_)
            | StoreError::Io(_) => self.unavailable(reason),
        }
    }

    /// Notes in the state what a failed write says about the root; [`map_error`](Self::map_error) does it by itself.
    pub fn note_failure(&self, error: &Error) {
        let worse = match error {
            Error::StorageFull { .. } => RootState::ReadOnly,
            Error::RootUnavailable { .. } => RootState::Suspect,
            _ => return,
        };
        self.change(|condition| condition.fail(worse, error.to_string()));
    }

    fn note(&self, error: &StoreError) {
        if let Some(worse) = verdict(error) {
            self.change(|condition| condition.fail(worse, error.to_string()));
        }
    }

    /// Releases the lock. Closing a file on a disk that hangs can hang too: nobody waits for that.
    fn unlock(&self) {
        let Some(lock) = self.lock.lock().take() else { return };
        let healthy = *self.condition.read().health() == RootState::Online;
        if healthy && self.fs.silent_for().is_none() {
            drop(lock);
        } else {
            self.fs.spawn_blocking(move || drop(lock));
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`Error::Corruption`] when it is missing; errors of the root.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        self.available()?;
        self.fs.read(path).await.map_err(|error| self.map_error(error))
    }

    /// Exactly these bytes of a file.
    ///
    /// # Errors
    /// [`Error::Corruption`] when it is missing; errors of the root, also when it is shorter.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.available()?;
        let read = self.fs.read_range(path, range).await;
        read.map_err(|error| self.map_error(error))
    }

    /// The whole file, `None` when it is missing.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn read_if_exists(&self, path: &str) -> Result<Option<Bytes>> {
        self.available()?;
        match self.fs.read(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.map_error(error)),
        }
    }

    /// The whole of a file that never changes, as it was listed or as its manifest names it; `None` when it is missing. Of a
    /// bucket it comes through the cache, which keeps what is `good`.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn read_stored(&self, file: &FileInfo, good: impl Fn(&[u8]) -> bool + Send) -> Result<Option<Bytes>> {
        self.available()?;
        match self.fs.read_stored(file, good).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.map_error(error)),
        }
    }

    /// The same without reading all of it where that is possible: of a disk it is mapped, and the first `needed` bytes are read.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn map_stored(
        &self,
        file: &FileInfo,
        good: impl Fn(&[u8]) -> bool + Send,
        needed: u64,
    ) -> Result<Option<Stored>> {
        self.available()?;
        match self.fs.map_stored(file, good, needed).await {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.map_error(error)),
        }
    }

    /// Reads what is absent of these ranges of a file of this root. `None` if the file is not there any more, or damaged.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn fetch(&self, file: &Partial, ranges: &[Range<u64>]) -> Result<Option<Fetched>> {
        self.available()?;
        match file.fetch(ranges).await {
            Ok(fetched) => Ok(fetched),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.map_error(error)),
        }
    }

    /// The whole files of a listing that never change, each with its own outcome, in the same order: far cheaper than one by
    /// one. Of a bucket they come through the cache, which keeps those that are `good`.
    ///
    /// # Errors
    /// Of each file, as [`read`](Self::read).
    pub async fn read_all(&self, files: &[FileInfo], good: fn(&[u8]) -> bool) -> Vec<Result<Bytes>> {
        if let Err(error) = self.available() {
            return files.iter().map(|_| Err(error.clone())).collect();
        }
        let read = self.fs.read_all(files, good).await.into_iter();
        read.map(|outcome| outcome.map_err(|error| self.map_error(error)))
            .collect()
    }

    /// Writes the file durably: a reader sees old or new.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn write_atomic(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.available()?;
        self.fs
            .write_atomic(path, bytes)
            .await
            .map_err(|error| self.map_error(error))
    }

    /// The same of a file in pieces that follow each other; on a disk they are not joined in memory first.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn write_pieces(&self, path: &str, pieces: &[Bytes]) -> Result<()> {
        self.available()?;
        self.fs
            .write_pieces(path, pieces)
            .await
            .map_err(|error| self.map_error(error))
    }

    /// Creates the file durably unless it exists; the bytes hold a nonce.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created> {
        self.available()?;
        self.fs.create(path, bytes).await.map_err(|error| self.map_error(error))
    }

    /// Deletes the file durably; a missing one is fine.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.available()?;
        self.fs.delete(path).await.map_err(|error| self.map_error(error))
    }

    /// Deletes everything below a directory; returns the number of files.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn delete_dir(&self, path: &str) -> Result<u64> {
        self.available()?;
        self.fs.delete_dir(path).await.map_err(|error| self.map_error(error))
    }

    /// All files below a directory, with paths relative to the root, sorted.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        self.available()?;
        self.fs.list(path).await.map_err(|error| self.map_error(error))
    }

    /// Size of the file system below; `None` for buckets.
    ///
    /// # Errors
    /// Errors of the root.
    pub async fn capacity(&self) -> Result<Option<Capacity>> {
        self.available()?;
        let capacity = self.fs.capacity().await.map_err(|error| self.map_error(error))?;
        *self.last_capacity.lock() = capacity;
        Ok(capacity)
    }

    /// The one turn of listing this root for a report.
    pub(crate) fn listing(&self) -> Arc<AsyncMutex<()>> {
        self.listing.clone()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.unlock();
    }
}

fn silent(silence: Duration) -> String {
    format!("it has not answered for {} s", silence.as_secs())
}

//! Roots: the configured URLs, each of one component, with identity, state and usage.
//!
//! Owns who a root is (`_proximadb/root.json`), which roots the cluster knows (`_proximadb/roots/`), whether a root can be
//! used now, and how much each collection holds on it. Does not own which root a collection lives on (placement) or what
//! lies on it (discovery). A root that cannot be seen is unknown, never empty.

mod component;
mod identity;
mod inspect;
mod open;
mod registry;
mod roots;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proximadb_store::{Capacity, Created, FileInfo, Filesystem, RootLock, StorageUrl, StoreError};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::schema::CollectionId;

pub use component::{IndexType, RootId, StorageComponentType};
pub(crate) use inspect::check_reserved;
pub use roots::Roots;

/// Directory of what is about the root itself; never a collection.
pub const RESERVED_DIRECTORY: &str = "_proximadb";

/// One configured root.
#[derive(Debug, Clone)]
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

/// Whether a root can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum RootState {
    /// Reads and writes.
    Online,
    /// Failed lately: still used, no new collections.
    Suspect,
    /// Full or read-only: reads; writes are tried; no new collections.
    ReadOnly,
    /// Being emptied by request: no new collections.
    Draining,
    /// Not used: its collections are unavailable and are not placed again.
    Offline {
        /// Why, in one sentence.
        reason: String,
    },
}

impl RootState {
    /// Name as in answers: online, suspect, read-only, draining, offline.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::ReadOnly => "read-only",
            Self::Draining => "draining",
            Self::Offline { .. } => "offline",
        }
    }
}

/// What lies on a root: of one collection, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes of the files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// One root of one component. Shared; its state and usage change, its identity does not.
#[derive(Debug)]
pub struct Root {
    id: RootId,
    config: RootConfig,
    index: usize,
    fs: Filesystem,
    state: RwLock<RootState>,
    /// Set while the identity file of a known root is missing: it may be initialised again if no collection needs it.
    missing_identity: RwLock<bool>,
    /// From the identity file; `None` while that was not seen.
    placement_key: RwLock<Option<String>>,
    usage: Mutex<HashMap<CollectionId, Usage>>,
    lock: Mutex<Option<RootLock>>,
}

impl Root {
    fn new(id: RootId, config: RootConfig, index: usize, fs: Filesystem, state: RootState) -> Self {
        Self {
            id,
            config,
            index,
            fs,
            state: RwLock::new(state),
            missing_identity: RwLock::new(false),
            placement_key: RwLock::default(),
            usage: Mutex::default(),
            lock: Mutex::default(),
        }
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
        self.state.read().clone()
    }

    /// Changes the state, and says so in the log.
    pub fn set_state(&self, state: RootState) {
        let mut current = self.state.write();
        if *current != state {
            match &state {
                RootState::Online => tracing::info!(root = self.url(), component = %self.component(), "root is online"),
                other => {
                    tracing::warn!(root = self.url(), component = %self.component(), state = ?other, "root changed its state")
                }
            }
            *current = state;
        }
    }

    /// Whether new collections may be placed on it.
    pub fn accepts_placements(&self) -> bool {
        *self.state.read() == RootState::Online
    }

    /// Whether it may be used at all.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] with the reason while it is offline.
    pub fn available(&self) -> Result<()> {
        match &*self.state.read() {
            RootState::Offline { reason } => Err(self.unavailable(reason.clone())),
            _ => Ok(()),
        }
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
        match error {
            Error::StorageFull { .. } => self.degrade(RootState::ReadOnly),
            Error::RootUnavailable { .. } => self.degrade(RootState::Suspect),
            _ => {}
        }
    }

    fn note(&self, error: &StoreError) {
        self.degrade(match error {
            StoreError::Full(_) | StoreError::ReadOnly(_) => RootState::ReadOnly,
            StoreError::NotFound(_) | StoreError::Config(_) => return,
            _ => RootState::Suspect,
        });
    }

    fn degrade(&self, worse: RootState) {
        // A drain or an outage outlasts a single failure.
        if matches!(
            self.state(),
            RootState::Online | RootState::Suspect | RootState::ReadOnly
        ) {
            self.set_state(worse);
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
        self.fs.capacity().await.map_err(|error| self.map_error(error))
    }

    /// Counts files that were written for a collection.
    pub fn add_usage(&self, collection: CollectionId, bytes: u64, files: u64) {
        let mut usage = self.usage.lock();
        let usage = usage.entry(collection).or_default();
        usage.bytes = usage.bytes.saturating_add(bytes);
        usage.files = usage.files.saturating_add(files);
    }

    /// Counts files of a collection that were deleted.
    pub fn remove_usage(&self, collection: CollectionId, bytes: u64, files: u64) {
        if let Some(usage) = self.usage.lock().get_mut(&collection) {
            usage.bytes = usage.bytes.saturating_sub(bytes);
            usage.files = usage.files.saturating_sub(files);
        }
    }

    /// Sets what all collections hold here, as discovery counted it.
    pub fn set_usage(&self, counted: HashMap<CollectionId, Usage>) {
        *self.usage.lock() = counted;
    }

    /// Forgets a dropped collection.
    pub fn clear_usage(&self, collection: CollectionId) {
        self.usage.lock().remove(&collection);
    }

    /// What lies here of all collections.
    pub fn usage(&self) -> Usage {
        self.usage.lock().values().fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            files: sum.files + usage.files,
        })
    }

    /// What lies here of one collection.
    pub fn usage_of(&self, collection: CollectionId) -> Usage {
        self.usage.lock().get(&collection).copied().unwrap_or_default()
    }

    /// Number of collections with files here.
    pub fn collections(&self) -> usize {
        self.usage.lock().values().filter(|usage| usage.files > 0).count()
    }
}

//! The one handle of a root: whole files by relative path, measured, with its own threads.
//!
//! Owns path rules, the create-if-absent outcome (invariant 3), listings and metering. Does not own identity, placement
//! or what a file means. Paths are `/`-separated, relative, without `.`, `..` or empty segments.

mod batch;
mod bounded;
mod capabilities;
mod create;
mod delete;
mod disk;
mod metered;
mod partial;
mod path;
mod stored;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

pub use capabilities::Capabilities;
pub use create::Created;
pub use partial::{Fetched, Partial};

use crate::breaker::{self, Breaker};
use crate::cache::Cache;
use crate::error::{StoreError, detail};
use crate::local::LocalDisk;
use crate::meter::{Meter, Op};
use crate::pool::Pool;
use crate::remote::{self, Pace, Remote};
use crate::traffic::Traffic;
use crate::url::StorageUrl;
use path::{check_path, is_staging};

/// Opens roots by the scheme of their URL.
#[derive(Debug, Clone, Copy)]
pub struct FilesystemFactory;

impl FilesystemFactory {
    /// Opens the place of a URL; the place itself is not touched yet. `options` are those of the cloud (as
    /// `endpoint`, `region`, `access_key_id`), on top of its usual environment variables.
    ///
    /// # Errors
    /// [`StoreError::Config`] for an unknown option, any option on a local URL, or credentials that do not fit together.
    pub fn get_filesystem(url: &StorageUrl, options: &BTreeMap<String, String>) -> Result<Filesystem, StoreError> {
        let pool = new_pool(url)?;
        let Some(path) = url.local_path() else {
            let Remote { store, pace } = remote::open(url, options)?;
            return Ok(Filesystem::new(url, store, None, Some(pace), pool));
        };
        if let Some(option) = options.keys().next() {
            return Err(StoreError::Config(detail(
                url,
                "",
                format!("unknown option `{option}`: a directory takes none"),
            )));
        }
        let disk = LocalDisk::new(path.to_owned(), Arc::clone(&pool));
        Ok(Filesystem::new(url, Arc::new(disk.clone()), Some(disk), None, pool))
    }
}

/// A file of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// Path below the root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Tells this content from an earlier one under the same name, on a bucket. 0 on a disk, and where nothing is known.
    pub tag: u64,
}

impl FileInfo {
    fn of(meta: ObjectMeta, is_local: bool) -> Self {
        let tag = if is_local {
            0
        } else {
            let content = (meta.e_tag.as_deref().unwrap_or_default(), meta.last_modified, meta.size);
            xxh3_64(format!("{content:?}").as_bytes())
        };
        Self {
            path: meta.location.into(),
            size: meta.size,
            tag,
        }
    }
}

/// Everything below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Files, sorted by path.
    pub files: Vec<FileInfo>,
    /// Leftovers of writers that were killed (`<name>#<n>`), sorted by path.
    pub staging: Vec<FileInfo>,
}

/// Size of the file system that holds a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes that this process may still use.
    pub free_bytes: u64,
}

/// Handle of one root. Clones share everything.
#[derive(Clone)]
pub struct Filesystem {
    inner: Arc<Inner>,
    /// See [`probing`](Self::probing).
    probing: bool,
}

struct Inner {
    url: StorageUrl,
    store: Arc<dyn ObjectStore>,
    local: Option<LocalDisk>,
    /// How many requests a bucket gets at once.
    pace: Option<Arc<Pace>>,
    pool: Arc<Pool>,
    meter: Meter,
    traffic: Arc<Traffic>,
    cache: OnceLock<Cache>,
    /// Large reads under way; see [`read_stored`](Filesystem::read_stored).
    reads: Semaphore,
    /// Bytes that they have not brought yet.
    pending: AtomicU64,
    breaker: Breaker,
}

impl Filesystem {
    fn new(
        url: &StorageUrl,
        store: Arc<dyn ObjectStore>,
        local: Option<LocalDisk>,
        pace: Option<Arc<Pace>>,
        pool: Arc<Pool>,
    ) -> Self {
        let traffic = pace.as_ref().map(|pace| pace.traffic().clone()).unwrap_or_default();
        Self {
            inner: Arc::new(Inner {
                url: url.clone(),
                store,
                local,
                pace,
                pool,
                meter: Meter::default(),
                traffic,
                cache: OnceLock::new(),
                reads: Semaphore::new(stored::READS_AT_ONCE),
                pending: AtomicU64::new(0),
                breaker: Breaker::default(),
            }),
            probing: false,
        }
    }

    /// A root over any object store: layers and stores that have no URL scheme of their own.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the threads cannot be set up.
    pub fn over(url: &StorageUrl, store: Arc<dyn ObjectStore>) -> Result<Self, StoreError> {
        Ok(Self::new(url, store, None, None, new_pool(url)?))
    }

    /// URL as configured.
    pub fn url(&self) -> &StorageUrl {
        &self.inner.url
    }

    /// Whether the root is a directory of this machine.
    pub fn is_local(&self) -> bool {
        self.inner.local.is_some()
    }

    /// The bytes alone, for a protocol with deadlines and counters of its own: [`object_store`](Self::object_store) without
    /// meter and breaker, and with listings that begin at an offset where the bucket can do that.
    pub fn plain_object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner.store)
    }

    /// What was measured on this root.
    pub fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// What was sent to the bucket and came from it; nothing on a disk.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// Requests that a bucket may have under way now; it shrinks when the service asks for fewer (429, 503). `None` for
    /// a disk.
    pub fn request_limit(&self) -> Option<usize> {
        self.inner.pace.as_ref().map(|pace| pace.limit())
    }

    /// How often the service asked for fewer requests since the start; retries count too. `None` for a disk.
    pub fn throttled(&self) -> Option<u64> {
        self.inner.pace.as_ref().map(|pace| pace.throttled())
    }

    /// Whether the file exists.
    ///
    /// # Errors
    /// When the root could not be looked at.
    pub async fn exists(&self, path: &str) -> Result<bool, StoreError> {
        let location = self.location(path)?;
        let head = self.within(path, breaker::deadline(0), self.size(&location, path));
        match self.measured(Op::Read, head, |_| 0).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn size(&self, location: &Path, path: &str) -> Result<u64, StoreError> {
        let head = self.inner.store.head(location).await;
        head.map(|meta| meta.size).map_err(|error| self.error(path, &error))
    }

    /// Files below `prefix` at any depth, sorted by path, without leftovers of killed writers. An empty prefix lists all.
    ///
    /// # Errors
    /// When the root could not be listed; a missing prefix is an empty listing.
    pub async fn list(&self, prefix: &str) -> Result<Vec<FileInfo>, StoreError> {
        Ok(self.scan(prefix).await?.files)
    }

    /// As [`list`](Self::list), with the leftovers of killed writers.
    ///
    /// # Errors
    /// When the root could not be listed; a missing prefix is an empty listing.
    pub async fn scan(&self, prefix: &str) -> Result<Scan, StoreError> {
        let location = self.prefix(prefix)?;
        let listing = self.again(|| async {
            let metas = self
                .inner
                .store
                .list(Some(&location))
                .map_err(|error| self.error(prefix, &error));
            metas.try_collect::<Vec<_>>().await
        });
        let metas = self
            .measured(
                Op::List,
                self.within(prefix, breaker::listing_deadline(prefix), listing),
                |_| 0,
            )
            .await?;
        let mut files: Vec<FileInfo> = metas
            .into_iter()
            .map(|meta| FileInfo::of(meta, self.is_local()))
            .collect();
        files.sort_unstable();
        let (staging, files) = files.into_iter().partition(|file| is_staging(&file.path));
        Ok(Scan { files, staging })
    }

    /// Names (files and directories) directly below `prefix`, sorted.
    ///
    /// # Errors
    /// When the root could not be listed.
    pub async fn list_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let location = self.prefix(prefix)?;
        let listing = self.again(|| async {
            self.inner
                .store
                .list_with_delimiter(Some(&location))
                .await
                .map_err(|error| self.error(prefix, &error))
        });
        let found = self
            .measured(Op::List, self.within(prefix, breaker::deadline(0), listing), |_| 0)
            .await?;
        let objects = found.objects.iter().map(|meta| &meta.location);
        let mut names: Vec<String> = objects
            .chain(&found.common_prefixes)
            .filter_map(|path| path.filename())
            .filter(|name| !is_staging(name))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the root could not be looked at.
    pub async fn read(&self, path: &str) -> Result<Bytes, StoreError> {
        let location = self.location(path)?;
        // A disk reads the file in one go, a bucket tells its size first. How long it may take depends on it.
        let size = if self.is_local() {
            let size = self.size(&location, path);
            self.within(path, breaker::deadline(0), size).await?
        } else {
            0
        };
        let read = async {
            let get = async {
                let found = self.hedged(0, || self.inner.store.get(&location)).await;
                found.map_err(|error| self.error(path, &error))
            };
            let found = self.within(path, breaker::deadline(size), get).await?;
            let deadline = breaker::deadline(found.meta.size);
            let bytes = async { found.bytes().await.map_err(|error| self.error(path, &error)) };
            self.within(path, deadline, bytes).await
        };
        self.measured(Op::Read, read, |bytes| bytes.len() as u64).await
    }

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Io`] when the file is shorter; or when the root could not be looked at.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let location = self.location(path)?;
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let read = async {
            let ask = || self.inner.store.get_range(&location, range.clone());
            let read = self.hedged(length, ask).await;
            let bytes = read.map_err(|error| self.error(path, &error))?;
            if bytes.len() as u64 != length {
                let reason = format!(
                    "the file ends before byte {}: {} bytes were read",
                    range.end,
                    bytes.len()
                );
                return Err(StoreError::Io(detail(self.url(), path, reason)));
            }
            Ok(bytes)
        };
        self.measured(Op::Read, self.within(path, breaker::deadline(length), read), |bytes| {
            bytes.len() as u64
        })
        .await
    }

    fn location(&self, path: &str) -> Result<Path, StoreError> {
        let wrong = |reason: String| StoreError::Config(detail(self.url(), path, reason));
        check_path(path).map_err(|reason| wrong(reason.to_owned()))?;
        Path::parse(path).map_err(|error| wrong(error.to_string()))
    }

    fn prefix(&self, prefix: &str) -> Result<Path, StoreError> {
        match prefix.trim_end_matches('/') {
            "" if !prefix.starts_with('/') => Ok(Path::default()),
            prefix => self.location(prefix),
        }
    }

    fn error(&self, path: &str, error: &object_store::Error) -> StoreError {
        StoreError::from_object_store(self.url(), path, error)
    }
}

impl fmt::Debug for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filesystem({})", self.url())
    }
}

fn new_pool(url: &StorageUrl) -> Result<Arc<Pool>, StoreError> {
    Pool::new()
        .map(Arc::new)
        .map_err(|error| StoreError::Io(detail(url, "", error.to_string())))
}

#[cfg(test)]
mod tests;

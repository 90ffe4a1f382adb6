//! [`ObjectKv`]: the store over any object store.

mod clean;
mod commit;
mod increment;
mod list;
mod read;
mod requests;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use lru::LruCache;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use proximadb_store::{Filesystem, FilesystemFactory, Scheme, StorageUrl};
use tokio::sync::Semaphore;

use crate::error::{BatchError, Error, ErrorKind, Result};
use crate::name::{KeyName, Namespace};
use crate::record::Record;
use crate::store::{Entry, Expected, Page, Store, Swap};
use commit::Decision;
pub use requests::Requests;

/// Keys of a batch that are worked on side by side.
const BATCH_WIDTH: usize = 64;
/// Changes of keys that share one of these locks wait for each other within this process, so that they need not compete
/// for the next version.
const LOCKS: usize = 256;
/// Newest records that are kept in memory, with values of at most [`MAX_HEAD_VALUE`] bytes: 4 MiB.
const HEADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_023);
const MAX_HEAD_VALUE: usize = 4_096;
/// Largest value: what one request may carry everywhere, and what a reader can hold.
pub(crate) const MAX_VALUE: usize = 64 << 20;
/// Removals of old versions that may be under way; beyond, the next change of a key removes what this one leaves.
const CLEANERS: usize = 16;

/// How a kind of object store behaves where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Listings are sorted by name, so that a page can end before the listing does.
    pub lists_sorted: bool,
    /// A create that was answered with an error has no effect later. True where no network is between.
    pub errors_are_final: bool,
    /// A request without an answer is given up after this time.
    pub request_timeout: Duration,
}

impl Behaviour {
    /// A bucket behind a network.
    pub const BUCKET: Self = Self {
        lists_sorted: true,
        errors_are_final: false,
        request_timeout: Duration::from_secs(60),
    };
    /// A directory of this machine.
    pub const DIRECTORY: Self = Self {
        lists_sorted: false,
        errors_are_final: true,
        request_timeout: Duration::from_secs(60),
    };
    /// Memory of this process.
    pub const MEMORY: Self = Self {
        lists_sorted: true,
        errors_are_final: true,
        request_timeout: Duration::from_secs(60),
    };
}

/// Opens a store by its URL: `file:///path` (created when missing), `s3://bucket/prefix` (also R2 and others, by the
/// `endpoint` option), `gcs://bucket/prefix`, `adls://account.dfs.core.windows.net/container/prefix`, or `memory://name` (new
/// and empty each time). `options` are those of the cloud, on top of its environment variables. Buckets are not touched.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what is not such a URL or option; any failure to create the directory.
pub async fn open(url: &str, options: &BTreeMap<String, String>) -> Result<ObjectKv> {
    if url.starts_with("memory://") {
        return Ok(ObjectKv::over(Arc::new(InMemory::new()), url, Behaviour::MEMORY));
    }
    let parsed = StorageUrl::parse(url);
    // The text is not repeated: it may hold a secret.
    let parsed = parsed.map_err(|error| Error::new(ErrorKind::Invalid, "store", "", error.to_string()))?;
    let failed = |error| Error::of_place(url, "", &error);
    let place = FilesystemFactory::get_filesystem(&parsed, options).map_err(failed)?;
    place.create_dir_all().await.map_err(failed)?;
    let behaviour = match parsed.scheme() {
        Scheme::File => Behaviour::DIRECTORY,
        // Directory buckets of S3 Express list in no order.
        _ => Behaviour {
            lists_sorted: !parsed.lexical().contains("--x-s3"),
            ..Behaviour::BUCKET
        },
    };
    Ok(ObjectKv::new(place.plain_object_store(), url, behaviour, Some(place)))
}

/// A key-value store over an object store. Clones share everything.
#[derive(Clone)]
pub struct ObjectKv {
    shared: Arc<Shared>,
    namespace: Namespace,
    url: String,
}

struct Shared {
    url: String,
    /// Says what an answer means, where the place was opened by its URL.
    place: Option<Filesystem>,
    objects: Arc<dyn ObjectStore>,
    behaviour: Behaviour,
    /// Tells the changes of this store from those of all others; the sequence tells them from each other.
    writer: u64,
    sequence: AtomicU64,
    locks: Vec<tokio::sync::Mutex<()>>,
    /// The newest records as far as this process knows, by key name: a record never changes, so it is right as long as
    /// its number is the newest.
    heads: Mutex<LruCache<String, Arc<Record>>>,
    cleaners: Arc<Semaphore>,
    increments: increment::Waiting,
    requests: requests::Counters,
}

impl ObjectKv {
    /// A store over any object store that creates "if absent" atomically and lists what was created before. `url` stands
    /// in errors.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str, behaviour: Behaviour) -> Self {
        Self::new(objects, url, behaviour, None)
    }

    fn new(objects: Arc<dyn ObjectStore>, url: &str, behaviour: Behaviour, place: Option<Filesystem>) -> Self {
        let shared = Shared {
            url: url.to_owned(),
            place,
            objects,
            behaviour,
            writer: rand::random(),
            sequence: AtomicU64::new(0),
            locks: (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            heads: Mutex::new(LruCache::new(HEADS)),
            cleaners: Arc::new(Semaphore::new(CLEANERS)),
            increments: increment::Waiting::default(),
            requests: requests::Counters::default(),
        };
        Self {
            shared: Arc::new(shared),
            namespace: Namespace::default(),
            url: url.to_owned(),
        }
    }

    /// What was asked of the object store since it was opened, in all namespaces.
    pub fn requests(&self) -> Requests {
        self.shared.requests.snapshot()
    }

    fn name(&self, key: &str) -> Result<KeyName> {
        let name = self.namespace.key(key);
        name.map_err(|reason| Error::new(ErrorKind::Invalid, &self.url, key, reason))
    }

    fn check_value(&self, key: &str, value: &Bytes) -> Result<()> {
        if value.len() <= MAX_VALUE {
            return Ok(());
        }
        let reason = format!(
            "the value has {} bytes, and at most {MAX_VALUE} are possible",
            value.len()
        );
        Err(Error::new(ErrorKind::Invalid, &self.url, key, reason))
    }

    fn next_sequence(&self) -> u64 {
        self.shared.sequence.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
#[warn(clippy::missing_trait_methods)]
impl Store for ObjectKv {
    fn url(&self) -> &str {
        &self.url
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.get_versioned(key).await?.map(|entry| entry.value))
    }

    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>> {
        let newest = self.newest(key, &self.name(key)?).await?;
        Ok(newest.and_then(|record| record.entry()))
    }

    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let mut found = BTreeMap::new();
        let reads = keys.iter().cloned().map(|key| async move {
            let value = self.get(&key).await;
            (key, value)
        });
        let mut reads = stream::iter(reads).buffer_unordered(BATCH_WIDTH);
        while let Some((key, value)) = reads.next().await {
            if let Some(value) = value? {
                found.insert(key, value);
            }
        }
        Ok(found)
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        self.check_value(key, &value)?;
        let set = |_: Option<&Record>| Ok(Decision::Write(Some(value.clone())));
        self.change(key, set).await.map(drop)
    }

    async fn set_batch(&self, items: Vec<(String, Bytes)>) -> Result<(), BatchError> {
        let items: BTreeMap<String, Bytes> = items.into_iter().collect();
        let sets = items.into_iter().map(|(key, value)| async move {
            let outcome = self.set(&key, value).await;
            (key, outcome)
        });
        all(sets).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let delete = |head: Option<&Record>| match head {
            Some(Record { value: Some(_), .. }) => Ok(Decision::Write(None)),
            _ => Ok(Decision::Stop),
        };
        self.change(key, delete).await.map(drop)
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        let deletes = keys.iter().cloned().map(|key| async move {
            let outcome = self.delete(&key).await;
            (key, outcome)
        });
        all(deletes).await
    }

    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        if let Some(new) = &new {
            self.check_value(key, new)?;
        }
        let swap = |head: Option<&Record>| {
            let value = head.and_then(|record| record.value.as_ref());
            let as_expected = match &expected {
                Expected::Missing => value.is_none(),
                Expected::Value(expected) => value == Some(expected),
                Expected::Version(version) => value.is_some() && head.is_some_and(|record| record.version == *version),
            };
            Ok(if as_expected {
                Decision::Write(new.clone())
            } else {
                Decision::Stop
            })
        };
        self.change(key, swap).await
    }

    async fn create_if_absent(&self, key: &str, value: Bytes) -> Result<Swap> {
        self.compare_and_swap(key, Expected::Missing, Some(value)).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        self.increment_with_others(key, delta).await
    }

    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>> {
        let nested = self.namespace.nested(namespace);
        let nested = nested.map_err(|reason| Error::new(ErrorKind::Invalid, &self.url, "", reason))?;
        let base = &self.shared.url;
        let slash = if base.ends_with('/') { "" } else { "/" };
        Ok(Arc::new(Self {
            shared: Arc::clone(&self.shared),
            url: format!("{base}{slash}{}", nested.as_str()),
            namespace: nested,
        }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        self.page(prefix, start_after, limit).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// Runs the changes of a batch side by side and gathers those that failed.
async fn all<F>(changes: impl Iterator<Item = F>) -> Result<(), BatchError>
where
    F: Future<Output = (String, Result<()>)>,
{
    let outcomes = stream::iter(changes).buffer_unordered(BATCH_WIDTH);
    let failed = outcomes.filter_map(|(key, outcome)| async { Some((key, outcome.err()?)) });
    BatchError::check(failed.collect().await)
}

impl fmt::Debug for ObjectKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKv({})", self.url)
    }
}

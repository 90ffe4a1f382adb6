//! The seam: what every key-value store and every layer can do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{BatchError, Error, ErrorKind, Result};

/// A swap of [`Store::increment`] that was lost to other writers is tried again this often.
const INCREMENT_ATTEMPTS: usize = 1_000;

/// Names one change of one key; no other change of the key ever has the same. Only to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub(crate) number: u64,
    pub(crate) writer: u64,
    pub(crate) sequence: u64,
}

impl Version {
    /// The version of a store of one's own: the number of the change of its key, and who made it as which of its changes.
    pub fn new(number: u64, writer: u64, sequence: u64) -> Self {
        Self {
            number,
            writer,
            sequence,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}-{}", self.number, self.writer, self.sequence)
    }
}

/// A value and the change that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The change that wrote it.
    pub version: Version,
}

/// What a key must hold for a swap to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the key must not exist.
    Missing,
    /// These bytes, whoever wrote them.
    Value(Bytes),
    /// Exactly what this change wrote: a value that was changed and changed back is not it.
    Version(Version),
}

/// Outcome of a swap. Anything else (not made, or not known) is an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Swap {
    /// Made, durably.
    Swapped(Version),
    /// Not made: the key held this instead (`None`: nothing).
    Lost(Option<Entry>),
}

impl Swap {
    /// Whether the swap was made.
    pub fn is_swapped(&self) -> bool {
        matches!(self, Self::Swapped(_))
    }
}

/// Some keys of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in the fixed order of the listing.
    pub keys: Vec<String>,
    /// Where the next page begins: pass it as `start_after`. `None` at the end.
    pub next: Option<String>,
}

/// Keys with values, and changes of one key that are atomic for every process that uses the same place.
///
/// Keys are any UTF-8 text; values are any bytes. A store is a handle of one *namespace*: its keys are independent of those
/// of every other namespace, nested ones included.
///
/// # Errors
/// Every method fails with an [`Error`] whose [`kind`](Error::kind) says what to do next. A failure is never reported as a
/// missing key or as a lost swap.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// URL of the store, with the namespace.
    fn url(&self) -> &str;

    /// The value of the key, or `None` when it does not exist.
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.get_versioned(key).await?.map(|entry| entry.value))
    }

    /// As [`get`](Self::get), from the store itself and with the version to expect in a swap.
    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>>;

    /// The values of those of the keys that exist, read side by side.
    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>>;

    /// Sets the value, whatever the key held before.
    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        single(key, self.set_batch(vec![(key.to_owned(), value)]).await)
    }

    /// Sets many values, side by side; not atomic as a whole. The last of several values of one key counts.
    async fn set_batch(&self, items: Vec<(String, Bytes)>) -> Result<(), BatchError>;

    /// Removes the key; a missing one is fine.
    async fn delete(&self, key: &str) -> Result<()> {
        single(key, self.delete_batch(&[key.to_owned()]).await)
    }

    /// Removes many keys, side by side; not atomic as a whole.
    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError>;

    /// Sets the key to `new` (`None` removes it) if it holds what is expected; atomic.
    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap>;

    /// Sets the key if it does not exist: of any number of racing callers exactly one is told [`Swap::Swapped`].
    async fn create_if_absent(&self, key: &str, value: Bytes) -> Result<Swap> {
        self.compare_and_swap(key, Expected::Missing, Some(value)).await
    }

    /// Adds to a counter and returns its new value; atomic. A missing counter is 0, a counter is stored as decimal text.
    async fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        for _ in 0..INCREMENT_ATTEMPTS {
            let entry = self.get_versioned(key).await?;
            let sum = add(self.url(), key, entry.as_ref().map(|entry| &entry.value), delta)?;
            let expected = entry.map_or(Expected::Missing, |entry| Expected::Version(entry.version));
            let new = Bytes::from(sum.to_string());
            if self.compare_and_swap(key, expected, Some(new)).await?.is_swapped() {
                return Ok(sum);
            }
        }
        let reason = "other writers were faster every time";
        Err(Error::new(ErrorKind::Contended, self.url(), key, reason))
    }

    /// The namespace of this name inside this one. Any text is a name; `a/b` is one name and not `b` inside `a`.
    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>>;

    /// The keys of this namespace (not of nested ones) that begin with `prefix` and come after `start_after`, at most
    /// `limit` (0 lists nothing). The order is fixed; among keys of ASCII letters, digits, `-`, `.` and `_` it is that of
    /// their bytes.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page>;

    /// Waits until everything that was accepted before is stored. Only a layer that buffers has something to do; call it
    /// before the process ends.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// The result for the only key of a batch.
fn single(key: &str, outcome: Result<(), BatchError>) -> Result<()> {
    match outcome.map_err(|mut batch| batch.failed.remove(key)) {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(error)) => Err(error),
    }
}

/// The sum that [`Store::increment`] stores.
pub(crate) fn add(url: &str, key: &str, value: Option<&Bytes>, delta: i64) -> Result<i64> {
    let invalid = |reason: &str| Error::new(ErrorKind::Invalid, url, key, reason);
    let old = match value {
        Some(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        None => Some(0),
    };
    let old: i64 = old.ok_or_else(|| invalid("the value is not a counter: it is not decimal text"))?;
    old.checked_add(delta)
        .ok_or_else(|| invalid("the counter would leave the range of 64 bits"))
}

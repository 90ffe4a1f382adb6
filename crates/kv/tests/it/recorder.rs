//! A store of a few lines, with a list of its calls and faults on request: what a foreign adapter looks like.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proximadb_kv::{BatchError, Entry, Error, ErrorKind, Expected, Page, Result, Store, Swap, Version};

#[derive(Debug, Default)]
struct Inner {
    values: BTreeMap<(String, String), Entry>,
    changes: u64,
    calls: Vec<String>,
    failing: Option<String>,
}

/// Values in memory.
#[derive(Debug, Clone)]
pub struct Recorder {
    url: String,
    inner: Arc<Mutex<Inner>>,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            url: "recorder:/".to_owned(),
            inner: Arc::default(),
        }
    }

    /// The calls since the last question.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().calls)
    }

    /// From now on batches fail for keys that begin so.
    pub fn fail(&self, prefix: Option<&str>) {
        self.inner.lock().failing = prefix.map(str::to_owned);
    }

    fn change(&self, key: &str, value: Option<Bytes>) -> Version {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        let version = Version::new(inner.changes, 0, 0);
        let slot = (self.url.clone(), key.to_owned());
        match value {
            Some(value) => drop(inner.values.insert(slot, Entry { value, version })),
            None => drop(inner.values.remove(&slot)),
        }
        version
    }

    fn write(&self, items: Vec<(String, Option<Bytes>)>) -> Result<(), BatchError> {
        let failing = self.inner.lock().failing.clone();
        let mut failed = BTreeMap::new();
        for (key, value) in items {
            if failing.as_deref().is_some_and(|prefix| key.starts_with(prefix)) {
                let error = Error::new(ErrorKind::Unavailable, &self.url, &key, "failing");
                failed.insert(key, error);
            } else {
                self.change(&key, value);
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(BatchError { failed })
        }
    }

    fn note(&self, call: String) {
        self.inner.lock().calls.push(call);
    }
}

#[async_trait]
impl Store for Recorder {
    fn url(&self) -> &str {
        &self.url
    }

    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>> {
        self.note(format!("get {key}"));
        let slot = (self.url.clone(), key.to_owned());
        let value = self.inner.lock().values.get(&slot).cloned();
        tokio::task::yield_now().await;
        Ok(value)
    }

    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>> {
        self.note(format!("get_batch {}", keys.len()));
        let inner = self.inner.lock();
        let find = |key: &String| inner.values.get(&(self.url.clone(), key.clone()));
        let found = keys
            .iter()
            .filter_map(|key| Some((key.clone(), find(key)?.value.clone())));
        Ok(found.collect())
    }

    async fn set_batch(&self, items: Vec<(String, Bytes)>) -> Result<(), BatchError> {
        self.note(format!("set_batch {}", items.len()));
        tokio::task::yield_now().await;
        self.write(items.into_iter().map(|(key, value)| (key, Some(value))).collect())
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        self.note(format!("delete_batch {}", keys.len()));
        self.write(keys.iter().map(|key| (key.clone(), None)).collect())
    }

    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        let version = Version::new(inner.changes, 0, 0);
        let slot = (self.url.clone(), key.to_owned());
        let now = inner.values.get(&slot).cloned();
        let as_expected = match expected {
            Expected::Missing => now.is_none(),
            Expected::Value(value) => now.as_ref().is_some_and(|entry| entry.value == value),
            Expected::Version(version) => now.as_ref().is_some_and(|entry| entry.version == version),
        };
        if !as_expected {
            return Ok(Swap::Lost(now));
        }
        match new {
            Some(value) => drop(inner.values.insert(slot, Entry { value, version })),
            None => drop(inner.values.remove(&slot)),
        }
        Ok(Swap::Swapped(version))
    }

    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>> {
        if namespace.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, &self.url, "", "a namespace has a name"));
        }
        Ok(Arc::new(Self {
            url: format!("{}/{}", self.url, namespace.replace('/', "=2F")),
            inner: Arc::clone(&self.inner),
        }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        let inner = self.inner.lock();
        let all = inner.values.keys().filter(|(url, _)| *url == self.url);
        let mut keys: Vec<String> = all
            .map(|(_, key)| key.clone())
            .filter(|key| key.starts_with(prefix) && start_after.is_none_or(|after| key.as_str() > after))
            .collect();
        let is_more = keys.len() > limit;
        keys.truncate(limit);
        let next = if is_more { keys.last().cloned() } else { None };
        Ok(Page { keys, next })
    }
}

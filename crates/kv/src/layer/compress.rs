//! [`Compressed`]: values above 1,024 bytes are stored as gzip when that is shorter.
//!
//! ```text
//! {"_compressed":true,"data":"<base64 of gzip>"}     a compressed value
//! <spaces>{"_compressed":true,"data":"...            a value that looks like one: one space more than it has
//! anything else                                      the value as it is
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::error::{BatchError, Error, ErrorKind, Result};
use crate::object::MAX_VALUE;
use crate::store::{Entry, Expected, Page, Store, Swap};

/// Values of more bytes are compressed.
pub const COMPRESS_ABOVE_BYTES: usize = 1_024;

const HEAD: &[u8] = br#"{"_compressed":true,"data":""#;
const TAIL: &[u8] = br#""}"#;
/// Work on more bytes than this goes to a thread of its own: it takes milliseconds.
const INLINE: usize = 64 << 10;
/// A swap of a value is tried again this often when the value was written again meanwhile.
const ATTEMPTS: usize = 1_000;

/// A layer that compresses. What it has not compressed it reads as well.
pub struct Compressed {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    values: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

/// What was saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompressStats {
    /// Values that were stored compressed.
    pub compressed_values: u64,
    /// Their bytes.
    pub value_bytes: u64,
    /// The bytes that were stored for them.
    pub stored_bytes: u64,
}

impl Compressed {
    /// Puts the layer over a store.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            counters: Arc::default(),
        }
    }

    /// What was saved so far, in all namespaces.
    pub fn stats(&self) -> CompressStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CompressStats {
            compressed_values: read(&self.counters.values),
            value_bytes: read(&self.counters.bytes),
            stored_bytes: read(&self.counters.stored),
        }
    }

    async fn encode(&self, value: Bytes) -> Bytes {
        let length = value.len();
        let stored = aside(length, move || encode(value)).await;
        if stored.len() < length {
            self.counters.values.fetch_add(1, Ordering::Relaxed);
            self.counters.bytes.fetch_add(length as u64, Ordering::Relaxed);
            self.counters.stored.fetch_add(stored.len() as u64, Ordering::Relaxed);
        }
        stored
    }

    async fn decode(&self, key: &str, stored: Bytes) -> Result<Bytes> {
        let decoded = aside(stored.len(), move || decode(stored)).await;
        decoded.map_err(|reason| Error::new(ErrorKind::Corrupt, self.inner.url(), key, reason))
    }

    async fn decode_entry(&self, key: &str, entry: Option<Entry>) -> Result<Option<Entry>> {
        let Some(Entry { value, version }) = entry else {
            return Ok(None);
        };
        let value = self.decode(key, value).await?;
        Ok(Some(Entry { value, version }))
    }

    async fn swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        match self.inner.compare_and_swap(key, expected, new).await? {
            Swap::Lost(entry) => Ok(Swap::Lost(self.decode_entry(key, entry).await?)),
            swapped => Ok(swapped),
        }
    }

    /// The same value may be stored in more than one form, so it is compared here, and swapped by its version.
    async fn swap_value(&self, key: &str, expected: &Bytes, new: Option<Bytes>) -> Result<Swap> {
        let mut now = self.get_versioned(key).await?;
        for _ in 0..ATTEMPTS {
            let version = match now {
                Some(entry) if entry.value == *expected => entry.version,
                other => return Ok(Swap::Lost(other)),
            };
            match self.swap(key, Expected::Version(version), new.clone()).await? {
                Swap::Lost(entry) => now = entry,
                swapped => return Ok(swapped),
            }
        }
        let reason = "other writers were faster every time";
        Err(Error::new(ErrorKind::Contended, self.url(), key, reason))
    }
}

#[async_trait]
#[warn(clippy::missing_trait_methods)]
impl Store for Compressed {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.inner.get(key).await? {
            Some(stored) => Ok(Some(self.decode(key, stored).await?)),
            None => Ok(None),
        }
    }

    async fn get_versioned(&self, key: &str) -> Result<Option<Entry>> {
        let entry = self.inner.get_versioned(key).await?;
        self.decode_entry(key, entry).await
    }

    async fn get_batch(&self, keys: &[String]) -> Result<BTreeMap<String, Bytes>> {
        let mut found = self.inner.get_batch(keys).await?;
        for (key, value) in &mut found {
            *value = self.decode(key, std::mem::take(value)).await?;
        }
        Ok(found)
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<()> {
        self.inner.set(key, self.encode(value).await).await
    }

    async fn set_batch(&self, mut items: Vec<(String, Bytes)>) -> Result<(), BatchError> {
        for (_, value) in &mut items {
            *value = self.encode(std::mem::take(value)).await;
        }
        self.inner.set_batch(items).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), BatchError> {
        self.inner.delete_batch(keys).await
    }

    async fn compare_and_swap(&self, key: &str, expected: Expected, new: Option<Bytes>) -> Result<Swap> {
        let new = match new {
            Some(new) => Some(self.encode(new).await),
            None => None,
        };
        match expected {
            Expected::Value(value) => self.swap_value(key, &value, new).await,
            other => self.swap(key, other, new).await,
        }
    }

    async fn create_if_absent(&self, key: &str, value: Bytes) -> Result<Swap> {
        self.compare_and_swap(key, Expected::Missing, Some(value)).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64> {
        // Counters are short: never compressed.
        self.inner.increment(key, delta).await
    }

    fn with_namespace(&self, namespace: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(Self {
            inner: self.inner.with_namespace(namespace)?,
            counters: Arc::clone(&self.counters),
        }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
}

impl fmt::Debug for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressed({:?})", self.inner)
    }
}

/// Runs work on `length` bytes where it holds nobody up.
async fn aside<T: Send + 'static>(length: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if length <= INLINE {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn encode(value: Bytes) -> Bytes {
    // Larger ones are refused below, and could not be read.
    if (COMPRESS_ABOVE_BYTES + 1..=MAX_VALUE).contains(&value.len())
        && let Some(compressed) = compress(&value)
    {
        return compressed;
    }
    if looks_compressed(&value) {
        return [b" ", &value[..]].concat().into();
    }
    value
}

/// The stored form, if it is shorter.
fn compress(value: &[u8]) -> Option<Bytes> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(value).ok()?;
    let data = STANDARD.encode(gzip.finish().ok()?);
    let stored = [HEAD, data.as_bytes(), TAIL].concat();
    (stored.len() < value.len()).then(|| stored.into())
}

fn decode(stored: Bytes) -> Result<Bytes, String> {
    if !looks_compressed(&stored) {
        return Ok(stored);
    }
    if stored.starts_with(b" ") {
        return Ok(stored.slice(1..));
    }
    let data = stored.strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(TAIL));
    let data = data.ok_or_else(|| "the compressed value has no end".to_owned())?;
    let gzip = STANDARD
        .decode(data)
        .map_err(|error| format!("the compressed value is no base64: {error}"))?;
    let mut value = Vec::new();
    // Not more than could have been set, whatever the data promises.
    let limit = MAX_VALUE as u64 + 1;
    let read = GzDecoder::new(&gzip[..]).take(limit).read_to_end(&mut value);
    read.map_err(|error| format!("the compressed value is no gzip: {error}"))?;
    if value.len() > MAX_VALUE {
        return Err(format!("the compressed value has more than {MAX_VALUE} bytes"));
    }
    Ok(value.into())
}

/// Whether the bytes are the beginning of a stored form, after any number of spaces.
fn looks_compressed(bytes: &[u8]) -> bool {
    let spaces = bytes.iter().take_while(|byte| **byte == b' ').count();
    bytes[spaces..].starts_with(HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn s6_1024_bytes_are_stored_as_they_are_and_1025_compressed() {
        let value = |length| Bytes::from(vec![b'x'; length]);
        assert_eq!(encode(value(1_024)), value(1_024));
        let stored = encode(value(1_025));
        assert!(stored.len() < 1_025);
        let json: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        assert_eq!(json["_compressed"], true);
        let gzip = STANDARD.decode(json["data"].as_str().unwrap()).unwrap();
        let mut plain = Vec::new();
        GzDecoder::new(&gzip[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, value(1_025));
    }

    #[test]
    fn s7_values_with_a_marker_of_their_own_come_back() {
        for text in [
            r#"{"_compressed":true,"data":"abc"}"#,
            r#"  {"_compressed":true,"data":""#,
            r#"{"_compressed":true}"#,
            "",
            " ",
        ] {
            let value = Bytes::from(text);
            assert_eq!(decode(encode(value.clone())), Ok(value), "{text}");
        }
    }

    proptest! {
        #[test]
        fn s6_s7_any_value_comes_back_and_is_stored_in_no_more_bytes(
            unit in vec(any::<u8>(), 1..1_500), times in 1..4usize, head in 0..4usize
        ) {
            let plain = unit.repeat(times);
            let marked = [&b" ".repeat(head), HEAD, &unit].concat();
            for (value, more) in [(Bytes::from(plain), 0), (marked.into(), 1)] {
                let stored = encode(value.clone());
                prop_assert!(stored.len() <= value.len() + more);
                prop_assert_eq!(decode(stored), Ok(value));
            }
        }

        #[test]
        fn any_stored_bytes_are_read_or_refused_without_a_panic(data in vec(any::<u8>(), 0..200), at in any::<usize>(), gzip in any::<bool>()) {
            let _ = decode([HEAD, &data, TAIL].concat().into());
            let _ = decode([HEAD, STANDARD.encode(&data).as_bytes(), TAIL].concat().into());
            let mut stored = encode(data.repeat(30).into()).to_vec();
            if gzip && !stored.is_empty() {
                let at = at % stored.len();
                stored[at] ^= 0x15;
                let _ = decode(stored.into());
            }
        }
    }
}

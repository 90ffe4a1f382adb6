//! An object store whose answers lie, at random from a seed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A store with faults in the given share of requests.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    random: Mutex<StdRng>,
    /// Of 100 requests so many have a fault.
    percent: u32,
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, percent: u32) -> Self {
        Self {
            inner,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            percent,
        }
    }

    /// One of `faults`, or `None` for a request without.
    fn fault(&self, faults: Range<u32>) -> Option<u32> {
        let mut random = self.random.lock();
        let is_faulty = random.random_range(0..100) < self.percent;
        is_faulty.then(|| random.random_range(faults))
    }
}

fn unavailable() -> Error {
    Error::Generic {
        store: "faulty",
        source: "503 SlowDown".into(),
    }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists {
        path: location.to_string(),
        source: "409".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.fault(0..6) {
            // Not done, and said so.
            Some(0) => Err(unavailable()),
            // Not done, and "exists": S3's 409 to racing creates.
            Some(1) => Err(exists(location)),
            // Done, and the answer is lost; or repeated by the client, which sees its own object.
            Some(2) => {
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(unavailable())
            }
            Some(3) => {
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(exists(location))
            }
            // Done later, long after the error, when the name may be free again.
            Some(4) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                let turns = self.random.lock().random_range(1..400);
                tokio::spawn(async move {
                    for _ in 0..turns {
                        tokio::time::sleep(std::time::Duration::from_micros(100)).await;
                    }
                    let _ = inner.put_opts(&location, payload, options).await;
                });
                Err(unavailable())
            }
            // Done, and the answer takes its time.
            Some(_) => {
                let outcome = self.inner.put_opts(location, payload, options).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                outcome
            }
            None => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let found = self.inner.get_opts(location, options).await?;
        match self.fault(0..3) {
            Some(0) => Err(unavailable()),
            Some(kind) => {
                let (meta, range) = (found.meta.clone(), found.range.clone());
                let mut bytes = found.bytes().await?.to_vec();
                // Changed, or the end is missing.
                match (kind, bytes.len()) {
                    (1, length) if length > 0 => bytes[length / 2] ^= 0x55,
                    (_, length) => bytes.truncate(length * 2 / 3),
                }
                let bytes = Bytes::from(bytes);
                Ok(GetResult {
                    payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
                    meta,
                    range,
                    attributes: Default::default(),
                    extensions: Default::default(),
                })
            }
            None => Ok(found),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.fault(0..2) {
            Some(0) => stream::once(async { Err(unavailable()) }).boxed(),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fault(0..2) {
            Some(0) => stream::once(async { Err(unavailable()) }).boxed(),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;
use crate::{Created, StorageUrl};

/// A store in memory that hangs while told to.
#[derive(Debug, Default)]
struct Hanging {
    store: InMemory,
    hangs: AtomicBool,
    asked: AtomicUsize,
}

impl Hanging {
    async fn pass(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hanging")
    }
}

#[async_trait]
impl ObjectStore for Hanging {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass().await;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass().await;
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.hangs.load(Ordering::Relaxed) {
            return stream::pending().boxed();
        }
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.hangs.load(Ordering::Relaxed) {
            return stream::pending().boxed();
        }
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass().await;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

fn hanging() -> (Arc<Hanging>, Filesystem) {
    let store = Arc::new(Hanging::default());
    let url = StorageUrl::parse("s3://bucket/slow").unwrap();
    let fs = Filesystem::over(&url, store.clone()).unwrap();
    store.hangs.store(true, Ordering::Relaxed);
    (store, fs)
}

/// Each operation on a root of its own, so that none is refused because of another.
#[tokio::test(start_paused = true)]
async fn k3_every_operation_of_a_root_that_hangs_ends_and_names_the_root() {
    let text = Bytes::from_static(b"text");
    for n in 0..9 {
        let (store, fs) = hanging();
        let outcome = match n {
            0 => fs.read("a").await.map(drop),
            1 => fs.read_range("a", 0..4).await.map(drop),
            2 => fs.write_atomic("a", text.clone()).await,
            3 => fs.create("a", text.clone()).await.map(drop),
            4 => fs.delete("a").await,
            5 => fs.delete_dir("a").await.map(drop),
            6 => fs.list("").await.map(drop),
            7 => fs.list_names("a").await.map(drop),
            _ => fs.exists("a").await.map(drop),
        };
        let error = outcome.unwrap_err();
        assert!(error.is_unavailable(), "{n}: {error}");
        let message = error.to_string();
        assert!(
            message.starts_with("s3://bucket/slow") && message.contains("has not answered for"),
            "{n}: {message}"
        );
        let asked = store.asked.load(Ordering::Relaxed);
        assert!(fs.read("other").await.unwrap_err().is_unavailable(), "{n}");
        assert_eq!(store.asked.load(Ordering::Relaxed), asked, "{n}: refused at once");
    }
}

#[tokio::test(start_paused = true)]
async fn k3_a_root_that_answers_a_probe_is_used_again() {
    let (store, fs) = hanging();
    assert_eq!(fs.silent_for(), None);
    fs.read("a").await.unwrap_err();
    assert!(fs.silent_for().unwrap() >= Duration::from_secs(10));
    assert_eq!(fs.meter().errors(), 1);

    store.hangs.store(false, Ordering::Relaxed);
    assert!(
        fs.read("a").await.unwrap_err().is_unavailable(),
        "nobody has looked yet"
    );
    assert!(fs.probing().read("a").await.unwrap_err().is_not_found());
    fs.answers();
    let created = fs.create("a", Bytes::from_static(b"text")).await.unwrap();
    assert_eq!(created, Created::Committed);
    assert_eq!(fs.read("a").await.unwrap(), "text");
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::blocks;
use crate::cache::CacheConfig;
use crate::filesystem::{Fetched, Partial};
use crate::url::StorageUrl;

/// What a bucket does to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Good,
    Damaged,
    Never,
    Late(Duration),
    Refused,
}

/// A bucket in memory that counts its reads and answers them as it is told, then well.
#[derive(Debug, Default)]
struct Bucket {
    store: InMemory,
    script: Mutex<VecDeque<Answer>>,
    reads: Mutex<Vec<Option<GetRange>>>,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.lock().push(options.range.clone());
        let answer = self.script.lock().pop_front().unwrap_or(Answer::Good);
        match answer {
            Answer::Never => std::future::pending().await,
            Answer::Late(delay) => tokio::time::sleep(delay).await,
            Answer::Refused => {
                return Err(object_store::Error::NotImplemented {
                    operation: "get".to_owned(),
                    implementer: "Bucket".to_owned(),
                });
            }
            Answer::Good | Answer::Damaged => {}
        }
        let found = self.store.get_opts(at, options).await?;
        if answer != Answer::Damaged {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let mut bytes = found.bytes().await?.to_vec();
        bytes[0] ^= 1;
        let payload = GetResultPayload::Stream(Box::pin(futures::stream::iter([Ok(Bytes::from(bytes))])));
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes,
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// A root over such a bucket with one file, and a place for caches.
struct World {
    bucket: Arc<Bucket>,
    fs: Filesystem,
    bytes: Bytes,
    directory: TempDir,
}

impl World {
    async fn new(size: u64) -> Self {
        let bucket = Arc::new(Bucket::default());
        let bytes: Bytes = (0..size)
            .map(|at| (at / 1_000 * 7 + at) as u8)
            .collect::<Vec<_>>()
            .into();
        bucket
            .store
            .put(&Path::from("c/file"), bytes.clone().into())
            .await
            .unwrap();
        Self {
            fs: open(&bucket),
            bucket,
            bytes,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    async fn file(&self) -> FileInfo {
        self.fs.list("c").await.unwrap().remove(0)
    }

    async fn cache(&self) -> Cache {
        let config = CacheConfig {
            memory_bytes: 64 << 20,
            directory: Some(self.directory.path().to_owned()),
            disk_bytes: 64 << 20,
        };
        Cache::open(&config).await.unwrap()
    }

    /// Reads the file; returns the number of requests.
    async fn read(&self, fs: &Filesystem) -> usize {
        let file = self.file().await;
        let before = self.bucket.reads.lock().len();
        let read = fs.read_stored(&file, |bytes| bytes == self.bytes).await.unwrap();
        assert!(read == self.bytes);
        self.bucket.reads.lock().len() - before
    }

    fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.bucket.script.lock().extend(answers);
    }
}

fn open(bucket: &Arc<Bucket>) -> Filesystem {
    Filesystem::over(&StorageUrl::parse("s3://bucket/prefix").unwrap(), bucket.clone()).unwrap()
}

const LARGE: u64 = 20 * BLOCK_BYTES + 7;
const SMALL: u64 = blocks::BLOCK_BYTES;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_in_parts_and_then_from_the_cache_also_after_a_restart() {
    let world = World::new(LARGE).await;
    let cache = world.cache().await;
    world.fs.set_cache(cache.clone());
    assert_eq!(world.read(&world.fs).await, 3, "8 MiB at a time");
    assert_eq!(world.read(&world.fs).await, 0);
    cache.settle().await;
    drop(cache);
    let (bucket, bytes, directory) = (world.bucket.clone(), world.bytes.clone(), world.directory);
    drop(world.fs);
    let fs = open(&bucket);
    let world = World {
        bucket,
        fs,
        bytes,
        directory,
    };
    world.fs.set_cache(world.cache().await);
    assert_eq!(world.read(&world.fs).await, 0, "the directory has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_replaced_is_read_anew() {
    let mut world = World::new(100_000).await;
    world.fs.set_cache(world.cache().await);
    assert_eq!(world.read(&world.fs).await, 1);
    world.bytes = world.bytes.iter().rev().copied().collect::<Vec<_>>().into();
    world.fs.write_atomic("c/file", world.bytes.clone()).await.unwrap();
    assert_eq!(world.read(&world.fs).await, 1, "its tag is another one");
    assert_eq!(world.read(&world.fs).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_answer_is_asked_for_again_and_not_kept() {
    let world = World::new(100_000).await;
    world.fs.set_cache(world.cache().await);
    world.script([Answer::Damaged]);
    assert_eq!(world.read(&world.fs).await, 2);
    assert_eq!(world.read(&world.fs).await, 1, "nothing was kept");
    assert_eq!(world.read(&world.fs).await, 0);
}

#[tokio::test]
async fn a_file_of_another_size_is_read_as_it_is() {
    let world = World::new(100_000).await;
    let file = world.file().await;
    for size in [99_000, 101_000, 5 * BLOCK_BYTES] {
        let listed = FileInfo { size, ..file.clone() };
        assert!(
            world.fs.read_stored(&listed, |_| true).await.unwrap() == world.bytes,
            "{size}"
        );
    }
    let missing = FileInfo {
        path: "c/none".to_owned(),
        ..file
    };
    assert!(
        world
            .fs
            .read_stored(&missing, |_| true)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_is_sent_twice_and_the_first_good_answer_counts() {
    let world = World::new(100_000).await;
    let hedged = || (world.fs.traffic().stats().hedged, world.fs.traffic().stats().hedges_won);
    world.script([Answer::Never]);
    assert_eq!(world.read(&world.fs).await, 2);
    assert_eq!(hedged(), (1, 1));
    // The first one comes after all, or is the only good one.
    world.script([Answer::Late(Duration::from_millis(1_500)), Answer::Never]);
    assert_eq!(world.read(&world.fs).await, 2);
    assert_eq!(hedged(), (2, 1));
    world.script([Answer::Late(Duration::from_secs(5)), Answer::Refused]);
    assert_eq!(world.read(&world.fs).await, 2);
    assert_eq!(hedged(), (3, 1));
    // One that fails at once is no slow one.
    world.script([Answer::Refused]);
    let file = world.file().await;
    assert!(world.fs.read_stored(&file, |_| true).await.is_err());
    assert_eq!(hedged(), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_slow_as_a_whole_is_not_sent_everything_twice() {
    let world = World::new(1_000).await;
    world.script([Answer::Late(Duration::from_secs(3)); 200]);
    for _ in 0..60 {
        world.read(&world.fs).await;
    }
    let hedged = world.fs.traffic().stats().hedged;
    assert!(hedged <= 60 / HEDGE_SHARE + HEDGE_FREE + 1, "{hedged}");
    assert!(
        world.fs.hedge_delay(1_000) >= Duration::from_secs(3),
        "three seconds are usual here"
    );
}

#[test]
fn neighbouring_blocks_are_one_request_of_a_limited_size() {
    let check = |known: &[u64], count: u64, expected: &[(u64, u64)]| {
        let unknown = (0..count).filter(|number| !known.contains(number));
        let runs: Vec<_> = runs(unknown, COARSE)
            .into_iter()
            .map(|run| (run.start, run.end))
            .collect();
        assert_eq!(runs, expected, "{known:?} of {count}");
    };
    check(&[], 0, &[]);
    check(&[], 3, &[(0, 3)]);
    check(&[], 20, &[(0, 8), (8, 16), (16, 20)]);
    check(&[0, 1, 2], 3, &[]);
    check(&[1], 3, &[(0, 3)]);
    check(&[1, 2], 4, &[(0, 1), (3, 4)]);
    check(&[0, 9], 12, &[(1, 9), (10, 12)]);
}

/// A bucket with a file of blocks.
async fn world_of_blocks(body: u64) -> World {
    let mut world = World::new(body).await;
    let file: Bytes = blocks::encode(b"TESTFILE", b"header", vec![world.bytes.clone()])
        .concat()
        .into();
    world
        .bucket
        .store
        .put(&Path::from("c/file"), file.clone().into())
        .await
        .unwrap();
    world.bytes = file;
    world
}

async fn partial(world: &World, fs: &Filesystem, needed: u64) -> Arc<Partial> {
    let stored = fs.map_stored(&world.file().await, |_| true, needed).await.unwrap();
    stored.partial().unwrap().clone()
}

async fn fetch(file: &Partial, range: Range<u64>) -> Result<Option<Fetched>, StoreError> {
    file.fetch(std::slice::from_ref(&range)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_of_blocks_only_those_are_read_that_are_asked_for_and_then_they_are_there() {
    let world = world_of_blocks(50 * SMALL).await;
    let cache = world.cache().await;
    world.fs.set_cache(cache.clone());
    let opened = partial(&world, &world.fs, 100).await;
    assert_eq!(opened.bytes().len(), world.bytes.len());
    assert_eq!(*world.bucket.reads.lock(), [Some(GetRange::Bounded(0..SMALL))]);
    let part = |at: u64| opened.bytes().slice(at as usize..at as usize + 10);
    let far = 20 * SMALL - 5;
    assert_eq!(opened.absent(&part(far)), Some(far..far + 10));
    assert_eq!(opened.absent(&[]), None);
    // Near ones come with one request, and what is there is not asked for again.
    let wanted = [far..far + 10, 23 * SMALL..23 * SMALL + 1, 40 * SMALL..40 * SMALL + 1];
    let fetched = opened.fetch(&wanted).await.unwrap().unwrap();
    assert_eq!(
        fetched,
        Fetched {
            requests: 2,
            bytes: 6 * SMALL
        }
    );
    assert_eq!(opened.fetch(&wanted).await.unwrap(), Some(Fetched::default()));
    for range in wanted {
        assert!(opened.has(range.clone()));
        let range = range.start as usize..range.end as usize;
        assert_eq!(opened.bytes()[range.clone()], world.bytes[range]);
    }
    assert!(!opened.has(30 * SMALL..30 * SMALL + 1));
    // Another reader, and one after a restart, have them from the cache.
    let before = world.bucket.reads.lock().len();
    let again = partial(&world, &world.fs, 100).await;
    assert_eq!(fetch(&again, far..far + 10).await.unwrap(), Some(Fetched::default()));
    assert_eq!(world.bucket.reads.lock().len(), before);
    fetch(&again, 0..u64::MAX).await.unwrap().unwrap();
    assert_eq!(again.bytes(), &world.bytes);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_is_read_again_and_then_reported_and_never_there() {
    let world = world_of_blocks(10 * SMALL).await;
    let opened = partial(&world, &world.fs, 3 * SMALL).await;
    assert!(opened.has(0..3 * SMALL) && !opened.has(0..3 * SMALL + 1));
    world.script([Answer::Damaged]);
    let fetched = fetch(&opened, 5 * SMALL..6 * SMALL).await.unwrap().unwrap();
    assert_eq!(fetched.requests, 2);
    assert!(opened.has(5 * SMALL..6 * SMALL));
    world.script([Answer::Damaged, Answer::Damaged]);
    assert_eq!(fetch(&opened, 7 * SMALL..8 * SMALL).await.unwrap(), None);
    assert!(!opened.has(7 * SMALL..8 * SMALL));
    // A damaged head is no head: the whole is read, and its reader decides.
    world.script([Answer::Damaged]);
    let stored = world.fs.map_stored(&world.file().await, |_| true, 100).await.unwrap();
    assert!(stored.partial().is_none() && stored.bytes() == &world.bytes);
    // Another file of the same name.
    world
        .bucket
        .store
        .put(&Path::from("c/file"), world.bytes.slice(1..).into())
        .await
        .unwrap();
    assert_eq!(fetch(&opened, 7 * SMALL..8 * SMALL).await.unwrap(), None);
    world.bucket.store.delete(&Path::from("c/file")).await.unwrap();
    assert!(fetch(&opened, 7 * SMALL..8 * SMALL).await.unwrap_err().is_not_found());
    assert!(opened.has(5 * SMALL..6 * SMALL), "what is there stays");
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use parking_lot::RwLock;
use proximadb_store::StorageUrl;
use tokio::sync::Notify;

use super::super::registry::Registry;
use super::super::{RootConfig, StorageComponentType};
use super::*;
use crate::discovery::{Discovery, discover, refresh};

/// A store in memory that hangs while told to; what hangs goes on afterwards.
#[derive(Debug, Default)]
struct Disk {
    store: InMemory,
    hangs: AtomicBool,
    goes_on: Notify,
    waiting: AtomicUsize,
}

impl Disk {
    async fn pass(&self) {
        let goes_on = self.goes_on.notified();
        if self.hangs.load(Ordering::Relaxed) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            goes_on.await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
        self.goes_on.notify_waiters();
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("disk")
    }
}

type Outcome<T> = object_store::Result<T>;

#[async_trait]
impl ObjectStore for Disk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Outcome<PutResult> {
        self.pass().await;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Outcome<GetResult> {
        self.pass().await;
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Outcome<Path>>) -> BoxStream<'static, Outcome<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Outcome<ObjectMeta>> {
        if self.hangs.load(Ordering::Relaxed) {
            return Box::pin(futures::stream::pending());
        }
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        self.pass().await;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Outcome<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Roots of the log in memory: the disks, and the set.
async fn in_memory(count: usize) -> (Vec<Arc<Disk>>, Roots) {
    let cluster = Uuid::from_u128(7);
    let disks: Vec<Arc<Disk>> = (0..count).map(|_| Arc::default()).collect();
    let mut roots = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let url = StorageUrl::parse(&format!("s3://bucket/disk{index}")).unwrap();
        let fs = Filesystem::over(&url, disk.clone()).unwrap();
        let id = RootId(Uuid::from_u128(index as u128 + 100));
        initialise(&fs, id, cluster, StorageComponentType::Wal).await.unwrap();
        let config = RootConfig {
            component: StorageComponentType::Wal,
            url,
            options: Default::default(),
            tags: Default::default(),
            weight: 1.0,
        };
        roots.push(Arc::new(Root::new(id, config, index, fs, RootState::Online)));
    }
    let mut registry = Registry::new(cluster);
    roots.iter().for_each(|root| registry.see(root));
    let roots = Roots {
        roots: RwLock::new(roots),
        registry: RwLock::new(registry),
        exclusive: true,
        changing: Default::default(),
    };
    (disks, roots)
}

#[tokio::test(start_paused = true)]
async fn k3_a_root_that_hangs_is_suspect_refuses_at_once_and_is_back_after_two_good_probes() {
    let (disks, roots) = in_memory(2).await;
    let all = roots.all();
    let (hung, other) = (&all[0], &all[1]);
    disks[0].hang(true);
    let error = hung.read("a").await.unwrap_err().to_string();
    assert!(
        error.contains("s3://bucket/disk0") && error.contains("has not answered for 10 s"),
        "{error}"
    );
    assert_eq!(hung.state(), RootState::Suspect);
    assert!(!hung.accepts_placements());
    assert!(hung.available().is_err() && other.available().is_ok());
    let waiting = disks[0].waiting.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert!(matches!(
            hung.write_atomic("b", "b".into()).await,
            Err(Error::RootUnavailable { url, .. }) if url == hung.url()
        ));
    }
    assert_eq!(
        disks[0].waiting.load(Ordering::Relaxed),
        waiting,
        "nothing queues behind what hangs"
    );
    assert!(hung.reason().unwrap().contains("has not answered for"));

    for _ in 0..10 {
        roots.probe().await;
    }
    assert_eq!(
        disks[0].waiting.load(Ordering::Relaxed),
        waiting + 1,
        "one probe hangs, not ten"
    );
    assert_eq!(hung.state(), RootState::Suspect);
    disks[0].hang(false);
    roots.probe().await;
    assert_eq!(hung.state(), RootState::Suspect);
    hung.write_atomic("b", "b".into()).await.unwrap();
    roots.probe().await;
    assert_eq!((hung.state(), hung.reason()), (RootState::Online, None));
    assert!(hung.last_error().unwrap().message.contains("disk0/a: unavailable"));
    assert_eq!((other.state(), other.last_error()), (RootState::Online, None));
}

#[tokio::test(start_paused = true)]
async fn k3_a_probe_that_hangs_does_not_keep_another_root_from_coming_back() {
    let (disks, roots) = in_memory(2).await;
    for root in roots.all() {
        root.set_state(offline("unplugged"));
    }
    disks[0].hang(true);
    let start = tokio::time::Instant::now();
    let back = roots.probe().await;
    assert!(start.elapsed() <= ROUND);
    assert_eq!(
        back.iter().map(|root| root.url()).collect::<Vec<_>>(),
        ["s3://bucket/disk1"]
    );
    assert_eq!(roots.all()[0].state(), offline("unplugged"));
    disks[0].hang(false);
    assert_eq!(roots.probe().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn k3_a_report_shows_a_root_that_hangs_as_it_was_and_the_others_as_they_are() {
    let (disks, roots) = in_memory(2).await;
    let all = roots.all();
    let file = "0190a5b0-0000-7000-8000-000000000001/000/1.avro";
    for root in &all {
        root.write_atomic(file, "four".into()).await.unwrap();
    }
    let known: Discovery = discover(&roots).await;
    assert_eq!((all[0].usage().bytes, all[1].usage().bytes), (4, 4));
    disks[0].hang(true);
    all[1].write_atomic(file, "longer".into()).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut seen = refresh(&roots, &known).await;
    for _ in 0..20 {
        seen = refresh(&roots, &seen).await;
    }
    assert_eq!((seen.bytes_on(all[0].id()), seen.bytes_on(all[1].id())), (4, 6));
    assert_eq!(all[0].usage().bytes, 4);
    let failed: Vec<&str> = seen.failures().map(|(root, _)| root.url()).collect();
    assert_eq!(failed, ["s3://bucket/disk0"]);
    assert!(start.elapsed() <= Duration::from_secs(21 * 2));
    assert_ne!(all[0].state(), offline(""), "a slow report is no outage");
}

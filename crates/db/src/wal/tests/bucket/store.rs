//! A bucket in memory whose creates fail as those of real services do, and logs on it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreFailure, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proximadb_store::{Filesystem, FilesystemFactory, StorageUrl};
use tokio::sync::Semaphore;

use super::super::*;

type Outcome<T> = object_store::Result<T>;

/// What becomes of a create.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Nothing wrong.
    None,
    /// It is refused before it is applied.
    Fails,
    /// It is applied, and the answer is lost.
    Lost,
    /// It is applied, and a second attempt of the client sees it.
    Exists,
    /// It never answers; it is applied when the semaphore has a permit, also when the caller is gone by then.
    Late(Arc<Semaphore>),
    /// It waits until the semaphore has a permit, then all is well.
    Held(Arc<Semaphore>),
}

/// A bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    store: Arc<InMemory>,
    faults: Mutex<VecDeque<Fault>>,
    /// So many reads fail from now on.
    pub(super) unreadable: Mutex<usize>,
    /// How long a create takes.
    pub(super) latency: Mutex<Duration>,
    /// Names of the creates, and when they began.
    pub(super) creates: Mutex<Vec<(String, tokio::time::Instant)>>,
    /// Requests of any kind.
    pub(super) requests: Mutex<usize>,
    /// While set every request fails.
    pub(super) is_down: Mutex<bool>,
}

impl Bucket {
    /// The next creates, in order.
    pub(super) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().extend(faults);
    }

    /// Nothing wrong from now on.
    pub(super) fn clear(&self) {
        self.faults.lock().clear();
    }

    fn request(&self) -> Outcome<()> {
        *self.requests.lock() += 1;
        if *self.is_down.lock() { Err(failure()) } else { Ok(()) }
    }

    /// Deletes behind the log's back.
    pub(super) async fn lose(&self, name: &str) {
        use object_store::ObjectStoreExt;
        self.store.delete(&self.path(name)).await.unwrap();
    }

    pub(super) async fn bytes(&self, name: &str) -> Vec<u8> {
        use object_store::ObjectStoreExt;
        let found = self.store.get(&self.path(name)).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    /// Changes an object behind the log's back.
    pub(super) async fn replace(&self, name: &str, bytes: Vec<u8>) {
        use object_store::ObjectStoreExt;
        self.store.put(&self.path(name), bytes.into()).await.unwrap();
    }

    fn path(&self, name: &str) -> Path {
        Path::parse(format!("{COLLECTION}/000/{name}")).unwrap()
    }
}

fn failure() -> StoreFailure {
    StoreFailure::Generic {
        store: "bucket",
        source: "503 Slow Down".into(),
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Outcome<PutResult> {
        self.request()?;
        assert!(
            matches!(options.mode, PutMode::Create),
            "objects of a log are never replaced"
        );
        let name = location.filename().unwrap().to_owned();
        self.creates.lock().push((name.clone(), tokio::time::Instant::now()));
        let latency = *self.latency.lock();
        tokio::time::sleep(latency).await;
        let fault = self.faults.lock().pop_front().unwrap_or(Fault::None);
        let store = Arc::clone(&self.store);
        let location = location.clone();
        let apply = async move { store.put_opts(&location, payload, options).await };
        match fault {
            Fault::None => apply.await,
            Fault::Fails => Err(failure()),
            Fault::Lost => {
                apply.await?;
                Err(failure())
            }
            Fault::Exists => {
                apply.await?;
                Err(StoreFailure::AlreadyExists {
                    path: name,
                    source: "412".into(),
                })
            }
            Fault::Held(gate) => {
                let _permit = gate.acquire().await.unwrap();
                apply.await
            }
            Fault::Late(gate) => {
                tokio::spawn(async move {
                    let _permit = gate.acquire().await.unwrap();
                    let _ = apply.await;
                });
                std::future::pending().await
            }
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Outcome<GetResult> {
        self.request()?;
        {
            let mut unreadable = self.unreadable.lock();
            if *unreadable > 0 {
                *unreadable -= 1;
                return Err(failure());
            }
        }
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Outcome<Path>>) -> BoxStream<'static, Outcome<Path>> {
        *self.requests.lock() += 1;
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Outcome<ObjectMeta>> {
        *self.requests.lock() += 1;
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        self.request()?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Outcome<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Buckets, and the logs that processes open on them.
pub(super) struct Buckets {
    pub(super) buckets: Vec<Arc<Bucket>>,
    pub(super) format: WalFormat,
    pub(super) options: WalOptions,
    pub(super) spare: Option<Spare>,
    /// A bucket of a real server.
    pub(super) server: Option<testservers::Bucket>,
    /// Further roots: disks.
    pub(super) disks: Vec<Arc<Root>>,
}

/// A log as one process has it.
pub(super) struct Process {
    pub(super) wal: Wal,
    pub(super) operations: Entries,
    pub(super) applied: Arc<Mutex<Entries>>,
    pub(super) roots: Vec<Arc<Root>>,
}

impl Buckets {
    pub(super) fn new(count: usize) -> Self {
        Self {
            buckets: (0..count).map(|_| Arc::default()).collect(),
            format: WalFormat::Avro,
            options: WalOptions::default(),
            spare: None,
            server: None,
            disks: Vec::new(),
        }
    }

    /// Roots of their own, as another process has them.
    pub(super) fn roots(&self) -> Vec<Arc<Root>> {
        let root = |(at, bucket): (usize, &Arc<Bucket>)| {
            let url = StorageUrl::parse(&format!("s3://bucket/r{at}")).unwrap();
            Root::over(at, Filesystem::over(&url, bucket.clone()).unwrap())
        };
        let mut roots: Vec<Arc<Root>> = self.buckets.iter().enumerate().map(root).collect();
        let server = |server: &testservers::Bucket| {
            let url = StorageUrl::parse(&server.url).unwrap();
            Root::over(50, FilesystemFactory::get_filesystem(&url, &server.options).unwrap())
        };
        roots.extend(self.server.iter().map(server));
        roots.extend(self.disks.iter().cloned());
        roots
    }

    pub(super) async fn files(&self, roots: &[Arc<Root>]) -> Vec<WalFile> {
        let mut files = Vec::new();
        for root in roots {
            for file in root.list(&format!("{COLLECTION}/000")).await.unwrap() {
                files.push(WalFile {
                    root: root.clone(),
                    name: file.path.rsplit('/').next().unwrap().to_owned(),
                    bytes: file.size,
                    content: None,
                });
            }
        }
        files
    }

    /// Names of the objects, on all buckets.
    pub(super) async fn names(&self) -> Vec<String> {
        let files = self.files(&self.roots()).await;
        files.into_iter().map(|file| file.name).collect()
    }

    /// Opens the log on these of the roots, as another process.
    pub(super) async fn open_on(&self, lanes: &[usize], after: Seq) -> Result<Process> {
        let roots = self.roots();
        let applied: Arc<Mutex<Entries>> = Arc::default();
        let memory = applied.clone();
        let start = WalStart {
            lanes: lanes.iter().map(|at| roots[*at].clone()).collect(),
            spare: self.spare.clone(),
            directory: format!("{COLLECTION}/000"),
            description: format!(r#"{{"id":"{COLLECTION}","name":"packages"}}"#),
            files: self.files(&roots).await,
            roots: roots.clone(),
            after,
            format: self.format,
            options: self.options,
            apply: Arc::new(move |operations| memory.lock().extend(operations)),
            confirm: None,
        };
        let mut operations = Vec::new();
        let wal = Wal::open(start, &mut |seq, operation| operations.push((seq, operation))).await?;
        wal.take_over().await?;
        operations.append(&mut applied.lock());
        Ok(Process {
            wal,
            operations,
            applied,
            roots,
        })
    }

    pub(super) async fn open(&self, after: Seq) -> Result<Process> {
        let all: Vec<usize> = (0..self.roots().len()).collect();
        self.open_on(&all, after).await
    }

    /// Ids of the points that a restart finds.
    pub(super) async fn found(&self) -> BTreeSet<u64> {
        let process = self.open(0).await.unwrap();
        ids(&process.operations)
    }
}

/// Ids of the points of some operations.
pub(super) fn ids(operations: &Entries) -> BTreeSet<u64> {
    let id = |(_, operation): &(Seq, Operation)| match operation.id() {
        PointId::Num(id) => id,
        PointId::Uuid(_) => panic!("no such id here"),
    };
    operations.iter().map(id).collect()
}

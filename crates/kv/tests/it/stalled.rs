//! Writers that stall between deciding and writing, until the name of their version is free again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proximadb_kv::{Behaviour, ErrorKind, Expected, ObjectKv, Store, Swap};
use testservers::until;
use tokio::sync::Semaphore;

const THROUGH: u8 = 0;
const WAIT_THEN_PUT: u8 = 1;
const PUT_THEN_WAIT_THEN_FAIL: u8 = 2;
const WAIT_THEN_GET: u8 = 3;

/// A store whose next create or read stops at a gate.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn ObjectStore>,
    mode: AtomicU8,
    reached: Semaphore,
    open: Semaphore,
}

impl Gated {
    fn take_mode(&self) -> u8 {
        self.mode.swap(THROUGH, Ordering::SeqCst)
    }
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gated")
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.take_mode() {
            WAIT_THEN_PUT => {
                self.reached.add_permits(1);
                self.open.acquire().await.unwrap().forget();
                self.inner.put_opts(location, payload, options).await
            }
            PUT_THEN_WAIT_THEN_FAIL => {
                self.inner.put_opts(location, payload, options).await?;
                self.reached.add_permits(1);
                self.open.acquire().await.unwrap().forget();
                Err(Error::Generic {
                    store: "gated",
                    source: "the answer is lost".into(),
                })
            }
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }
    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.take_mode() == WAIT_THEN_GET {
            self.reached.add_permits(1);
            self.open.acquire().await.unwrap().forget();
        }
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct World {
    memory: Arc<dyn ObjectStore>,
    gate: Arc<Gated>,
    stalled: ObjectKv,
}

impl World {
    async fn new() -> Self {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = Arc::new(Gated {
            inner: Arc::clone(&memory),
            mode: AtomicU8::new(THROUGH),
            reached: Semaphore::new(0),
            open: Semaphore::new(0),
        });
        let stalled = ObjectKv::over(
            Arc::clone(&gate) as Arc<dyn ObjectStore>,
            "memory://gated",
            Behaviour::BUCKET,
        );
        stalled.set("k", Bytes::from("old")).await.unwrap();
        Self { memory, gate, stalled }
    }

    fn other(&self) -> ObjectKv {
        ObjectKv::over(Arc::clone(&self.memory), "memory://other", Behaviour::MEMORY)
    }

    async fn objects(&self) -> Vec<String> {
        let found: Vec<ObjectMeta> = self.memory.list(None).try_collect().await.unwrap();
        found.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    /// Lets the stalled store swap "old" for "late", and others write while it stands at the gate.
    async fn swap_while(&self, mode: u8, others: impl Future<Output = ()>) -> proximadb_kv::Result<Swap> {
        self.gate.mode.store(mode, Ordering::SeqCst);
        let store = self.stalled.clone();
        let swap = async move {
            let expected = Expected::Value("old".into());
            store.compare_and_swap("k", expected, Some(Bytes::from("late"))).await
        };
        let swap = tokio::spawn(swap);
        self.gate.reached.acquire().await.unwrap().forget();
        others.await;
        self.gate.open.add_permits(1);
        swap.await.unwrap()
    }

    async fn write_by_others(&self, writers: usize) {
        for n in 0..writers {
            self.other().set("k", Bytes::from(format!("other {n}"))).await.unwrap();
        }
        until("old versions are gone", async || self.objects().await.len() <= 2).await;
    }
}

#[tokio::test]
async fn n5_a_stalled_writer_that_finds_its_name_free_again_has_lost_and_changes_nothing() {
    for writers in [1, 2, 6] {
        let world = World::new().await;
        let outcome = world
            .swap_while(WAIT_THEN_PUT, world.write_by_others(writers))
            .await
            .unwrap();
        let Swap::Lost(Some(now)) = outcome else {
            panic!("{writers}: {outcome:?}");
        };
        let newest = Bytes::from(format!("other {}", writers - 1));
        assert_eq!(now.value, newest);
        for store in [&world.stalled, &world.other()] {
            assert_eq!(store.get("k").await.unwrap(), Some(newest.clone()));
        }
        until("its object is removed", async || world.objects().await.len() <= 2).await;
    }
}

#[tokio::test]
async fn n5_a_stalled_set_comes_after_what_overtook_it() {
    let world = World::new().await;
    world.gate.mode.store(WAIT_THEN_PUT, Ordering::SeqCst);
    let store = world.stalled.clone();
    let set = tokio::spawn(async move { store.set("k", Bytes::from("late")).await });
    world.gate.reached.acquire().await.unwrap().forget();
    world.write_by_others(5).await;
    world.gate.open.add_permits(1);
    set.await.unwrap().unwrap();
    assert_eq!(world.other().get("k").await.unwrap(), Some(Bytes::from("late")));
}

#[tokio::test]
async fn n5_a_swap_whose_answer_is_lost_is_known_to_be_made_after_others_have_overtaken_it() {
    for writers in [0, 1, 2, 64] {
        let world = World::new().await;
        let outcome = world
            .swap_while(PUT_THEN_WAIT_THEN_FAIL, world.write_by_others(writers))
            .await;
        assert!(outcome.unwrap().is_swapped(), "{writers}");
    }
}

/// More writers than a record remembers: the truth cannot be known any more, and neither outcome is claimed.
#[tokio::test]
async fn n5_a_swap_that_sixty_five_others_have_overtaken_is_unknown() {
    for mode in [WAIT_THEN_PUT, PUT_THEN_WAIT_THEN_FAIL] {
        let world = World::new().await;
        let outcome = world.swap_while(mode, world.write_by_others(70)).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Indeterminate);
    }
}

#[tokio::test]
async fn a_name_is_never_used_again_after_a_deletion() {
    let world = World::new().await;
    let others = async {
        let other = world.other();
        other.delete("k").await.unwrap();
        other.set("k", Bytes::from("old")).await.unwrap();
        other.delete("k").await.unwrap();
        other.delete("k").await.unwrap();
        until("old versions are gone", async || world.objects().await.len() <= 2).await;
    };
    let outcome = world.swap_while(WAIT_THEN_PUT, others).await.unwrap();
    assert_eq!(outcome, Swap::Lost(None));
    assert_eq!(world.other().get("k").await.unwrap(), None);
    assert!(world.other().list("", None, 10).await.unwrap().keys.is_empty());
}

/// Between its listing and its read, the version is outdated and removed, and a stalled writer puts its own under the name.
#[tokio::test]
async fn n5_a_reader_is_not_given_what_a_stalled_writer_has_put_under_a_free_name() {
    let elsewhere: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let first = Path::from("=keys/k!/00000000000000000001");
    let never = ObjectKv::over(Arc::clone(&elsewhere), "memory://never", Behaviour::MEMORY);
    never.set("k", Bytes::from("never")).await.unwrap();
    let never = elsewhere.get(&first).await.unwrap().bytes().await.unwrap();

    let world = World::new().await;
    let reader = ObjectKv::over(
        Arc::clone(&world.gate) as Arc<dyn ObjectStore>,
        "memory://r",
        Behaviour::MEMORY,
    );
    world.gate.mode.store(WAIT_THEN_GET, Ordering::SeqCst);
    let read = tokio::spawn(async move { reader.get("k").await });
    world.gate.reached.acquire().await.unwrap().forget();
    world.write_by_others(4).await;
    world.memory.put(&first, never.into()).await.unwrap();
    world.gate.open.add_permits(1);
    assert_eq!(read.await.unwrap().unwrap(), Some(Bytes::from("other 3")));
}

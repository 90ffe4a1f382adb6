//! N5: a fault is an error or is overcome; it is never "lost", "won" or "missing".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proximadb_kv::{Behaviour, ErrorKind, Expected, ObjectKv, Store, Swap};

use crate::faulty::Faulty;

/// What writers were told about their marks.
#[derive(Debug, Default)]
pub struct Told {
    made: BTreeSet<String>,
    lost: BTreeSet<String>,
    unknown: BTreeSet<String>,
    not_made: BTreeSet<String>,
}

/// Appends marks by swaps and counts by increments, through stores that have faults, and checks what was told against
/// what the sound store holds.
pub async fn told_outcomes_are_true(
    faulty: &[Arc<dyn Store>],
    sound: &Arc<dyn Store>,
    tasks: usize,
    each: usize,
) -> Told {
    let work = (0..tasks).map(|task| {
        let store = Arc::clone(&faulty[task % faulty.len()]);
        tokio::spawn(async move {
            let mut told = Told::default();
            for n in 0..each {
                append(&store, format!("{task}.{n}"), &mut told).await;
            }
            told
        })
    });
    let mut told = Told::default();
    for one in join_all(work).await {
        let mut one = one.unwrap();
        told.made.append(&mut one.made);
        told.lost.append(&mut one.lost);
        told.unknown.append(&mut one.unknown);
        told.not_made.append(&mut one.not_made);
    }
    let stored = sound.get("log").await.unwrap().unwrap_or_default();
    let stored: Vec<String> = String::from_utf8_lossy(&stored)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let distinct: BTreeSet<String> = stored.iter().cloned().collect();
    assert_eq!(distinct.len(), stored.len(), "a mark is there twice");
    assert_eq!(told.made.difference(&distinct).next(), None, "won and not there");
    assert_eq!(told.lost.intersection(&distinct).next(), None, "lost and there");
    assert_eq!(told.not_made.intersection(&distinct).next(), None, "not made and there");
    assert!(
        distinct
            .iter()
            .all(|mark| told.made.contains(mark) || told.unknown.contains(mark))
    );
    told
}

async fn append(store: &Arc<dyn Store>, mark: String, told: &mut Told) {
    // A failed read changes nothing: once more.
    let mut now = store.get_versioned("log").await;
    for _ in 0..50 {
        if now.is_ok() {
            break;
        }
        now = store.get_versioned("log").await;
    }
    let now = now.unwrap();
    let text = now.as_ref().map_or(String::new(), |entry| {
        String::from_utf8_lossy(&entry.value).into_owned()
    });
    let expected = now.map_or(Expected::Missing, |entry| Expected::Version(entry.version));
    let new = Bytes::from(format!("{text} {mark}"));
    let list = match store.compare_and_swap("log", expected, Some(new)).await {
        Ok(Swap::Swapped(_)) => &mut told.made,
        Ok(Swap::Lost(_)) => &mut told.lost,
        Err(error) if error.kind() == ErrorKind::Indeterminate => &mut told.unknown,
        Err(error) => {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Contended
                ),
                "{error}"
            );
            &mut told.not_made
        }
    };
    list.insert(mark);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn n5_a_faulty_store_never_lies_about_a_swap() {
    for (seed, percent) in [(1u64, 10), (2, 25), (3, 40), (4, 60)] {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = |n: u64| {
            let faulty = Faulty::new(Arc::clone(&memory), seed * 100 + n, percent);
            Arc::new(ObjectKv::over(Arc::new(faulty), "memory://faulty", Behaviour::BUCKET)) as Arc<dyn Store>
        };
        let faulty: Vec<Arc<dyn Store>> = (0..6).map(open).collect();
        let sound = ObjectKv::over(Arc::clone(&memory), "memory://sound", Behaviour::MEMORY);
        let sound: Arc<dyn Store> = Arc::new(sound);
        let told = told_outcomes_are_true(&faulty, &sound, 12, 25).await;
        assert!(!told.made.is_empty(), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn n5_reads_under_faults_never_go_back() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = |n| {
        ObjectKv::over(
            Arc::new(Faulty::new(Arc::clone(&memory), n, 30)),
            "memory://f",
            Behaviour::BUCKET,
        )
    };
    let acknowledged = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let order = std::sync::atomic::Ordering::SeqCst;
    let writers = (0..4).map(|n| {
        let (store, acknowledged) = (open(n), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            for _ in 0..60 {
                if let Ok(value) = store.increment("n", 1).await {
                    acknowledged.fetch_max(value, order);
                }
            }
        })
    });
    let readers = (10..14).map(|n| {
        let (store, acknowledged) = (open(n), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..300 {
                let least = acknowledged.load(order).max(last);
                match store.get("n").await {
                    Ok(value) => {
                        let value = value.map_or(0, |value| String::from_utf8_lossy(&value).parse().unwrap());
                        assert!(value >= least, "{value} after {least}");
                        last = value;
                    }
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt),
                        "{error}"
                    ),
                }
            }
        })
    });
    let (writers, readers) = (writers.collect::<Vec<_>>(), readers.collect::<Vec<_>>());
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
    assert!(acknowledged.load(order) > 0);
}

#[tokio::test]
async fn m1_n5_a_store_that_only_fails_is_an_error_with_url_and_key() {
    let store = ObjectKv::over(Arc::new(Refusing), "s3://b/p", Behaviour::MEMORY);
    let check = |error: proximadb_kv::Error| {
        assert_eq!((error.url(), error.key()), ("s3://b/p/n", "k"));
        assert!(
            error.to_string().starts_with("s3://b/p/n: key \"k\": unavailable: "),
            "{error}"
        );
    };
    let store = store.with_namespace("n").unwrap();
    check(store.get("k").await.unwrap_err());
    check(store.set("k", Bytes::new()).await.unwrap_err());
    check(store.delete("k").await.unwrap_err());
    check(store.increment("k", 1).await.unwrap_err());
    check(store.create_if_absent("k", Bytes::new()).await.unwrap_err());
    let failed = store
        .set_batch(vec![("k".to_owned(), Bytes::new())])
        .await
        .unwrap_err()
        .failed;
    failed.into_values().for_each(check);
    assert_eq!(
        store.get_batch(&["k".to_owned()]).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(
        store.list("", None, 1).await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

/// Every answer is 503.
#[derive(Debug)]
struct Refusing;

mod refusing {
    use super::Refusing;
    use async_trait::async_trait;
    use futures::stream::{self, BoxStream, StreamExt};
    use object_store::path::Path;
    use object_store::*;

    fn no<T>() -> Result<T> {
        Err(Error::Generic {
            store: "refusing",
            source: "503".into(),
        })
    }

    impl std::fmt::Display for Refusing {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Refusing")
        }
    }

    #[async_trait]
    impl ObjectStore for Refusing {
        async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
            no()
        }
        async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            no()
        }
        async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
            no()
        }
        fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            stream::once(async { no() }).boxed()
        }
        fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            stream::once(async { no() }).boxed()
        }
        async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
            no()
        }
        async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
            no()
        }
    }
}

#[tokio::test]
async fn n5_damage_is_reported_and_not_taken_for_a_missing_key() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = || ObjectKv::over(Arc::clone(&memory), "memory://d", Behaviour::MEMORY);
    open().set("k", Bytes::from("value")).await.unwrap();
    let path = object_store::path::Path::from("=keys/k!/00000000000000000001");
    object_store::ObjectStoreExt::put(
        &memory,
        &path,
        "PXKV rubbish of some length, longer than a header".into(),
    )
    .await
    .unwrap();
    let error = open().get("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("00000000000000000001"), "{error}");
    assert_eq!(open().increment("k", 1).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A store that does not answer at all: reads are errors after the deadline, swaps are unknown.
#[tokio::test(start_paused = true)]
async fn n5_no_answer_is_unknown() {
    let behaviour = Behaviour {
        request_timeout: Duration::from_secs(1),
        ..Behaviour::MEMORY
    };
    let slow = object_store::throttle::ThrottleConfig {
        wait_put_per_call: Duration::from_secs(100),
        ..Default::default()
    };
    let slow = object_store::throttle::ThrottledStore::new(InMemory::new(), slow);
    let store = ObjectKv::over(Arc::new(slow), "memory://slow", behaviour);
    let error = store.set("k", Bytes::from("v")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    assert!(error.to_string().contains("no answer after 1s"), "{error}");
    assert_eq!(store.list("", None, 10).await.unwrap().keys.len(), 0);
    let _: BTreeMap<String, Bytes> = store.get_batch(&["k".to_owned()]).await.unwrap();
}

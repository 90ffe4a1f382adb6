//! What the operations cost: requests to the object store.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use proximadb_kv::{Expected, Store};
use testservers::until;

use crate::places::Memory;

#[tokio::test]
async fn a_key_that_changes_often_keeps_two_objects_and_costs_what_is_promised() {
    let memory = Memory::new();
    let store = memory.open();
    store.set("k", Bytes::from("v")).await.unwrap();
    let first = store.requests();
    assert_eq!((first.lists, first.reads, first.creates), (2, 0, 1));
    for n in 0..50 {
        store.set("k", Bytes::from(n.to_string())).await.unwrap();
    }
    let after = store.requests();
    // Known newest version: one create and one listing a change.
    assert_eq!(
        (after.lists - first.lists, after.reads, after.creates - first.creates),
        (50, 0, 50)
    );
    // A value that is known is confirmed by one listing.
    store.get("k").await.unwrap();
    assert_eq!((store.requests().lists - after.lists, store.requests().reads), (1, 0));
    let other = memory.open();
    other.get("k").await.unwrap();
    assert_eq!((other.requests().lists, other.requests().reads), (1, 1));
    // Removals go on beside the changes; what they leave is removed with a later change.
    until("old versions are gone", async || {
        store.set("k", Bytes::from("v")).await.unwrap();
        tokio::task::yield_now().await;
        let objects: Vec<_> = memory.0.list(None).try_collect().await.unwrap();
        objects.len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_refused_swap_of_a_known_version_is_decided_by_the_store() {
    let memory = Memory::new();
    let (a, b) = (memory.open(), memory.open());
    a.set("k", Bytes::from("1")).await.unwrap();
    b.set("k", Bytes::from("2")).await.unwrap();
    // `a` still knows 1, and must neither refuse nor make what the store does not.
    let swap =
        |expected: &'static str| a.compare_and_swap("k", Expected::Value(expected.into()), Some(Bytes::from("3")));
    assert!(!swap("1").await.unwrap().is_swapped());
    b.set("k", Bytes::from("4")).await.unwrap();
    assert!(swap("4").await.unwrap().is_swapped());
    b.set("k", Bytes::from("not a number")).await.unwrap();
    assert!(a.increment("k", 1).await.is_err());
    b.set("k", Bytes::from("7")).await.unwrap();
    assert_eq!(a.increment("k", 1).await.unwrap(), 8);
    b.delete("k").await.unwrap();
    assert!(a.create_if_absent("k", Bytes::from("x")).await.unwrap().is_swapped());
}

#[tokio::test]
async fn m4_a_batch_waits_for_few_requests_one_after_the_other() {
    use std::time::Duration;
    tokio::time::pause();
    let delay = object_store::throttle::ThrottleConfig {
        wait_get_per_call: Duration::from_millis(50),
        wait_list_per_call: Duration::from_millis(50),
        wait_put_per_call: Duration::from_millis(50),
        ..Default::default()
    };
    let slow = object_store::throttle::ThrottledStore::new(object_store::memory::InMemory::new(), delay);
    let store = proximadb_kv::ObjectKv::over(
        std::sync::Arc::new(slow),
        "memory://slow",
        proximadb_kv::Behaviour::MEMORY,
    );
    let keys: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    let start = tokio::time::Instant::now();
    store
        .set_batch(keys.iter().map(|key| (key.clone(), Bytes::from("v"))).collect())
        .await
        .unwrap();
    let written = start.elapsed();
    assert_eq!(store.get_batch(&keys).await.unwrap().len(), 1_000);
    // On a clock that only moves while all wait: 1,000 single operations take 1,000 to 3,000 times 50 ms.
    assert!(written < Duration::from_secs(12), "{written:?}");
    assert!(
        start.elapsed() - written < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
}

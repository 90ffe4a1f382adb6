//! S1 to S3: writes that gather.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proximadb_kv::{BatchOptions, Batched, Expected, Store};
use tokio::time::{Instant, sleep};

use crate::places::{Directory, Memory};
use crate::recorder::Recorder;

fn batched() -> (Recorder, Batched) {
    let recorder = Recorder::new();
    let store = Batched::new(Arc::new(recorder.clone()), BatchOptions::default());
    (recorder, store)
}

async fn set(store: &dyn Store, keys: std::ops::Range<usize>) {
    for n in keys {
        store.set(&format!("k{n}"), Bytes::from(n.to_string())).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn s1_999_sets_are_one_batch_after_100_ms() {
    let (recorder, store) = batched();
    set(&store, 0..999).await;
    sleep(Duration::from_millis(99)).await;
    assert!(recorder.calls().is_empty());
    assert_eq!(store.stats().waiting, 999);
    sleep(Duration::from_millis(2)).await;
    assert_eq!(recorder.calls(), ["set_batch 999"]);
    assert_eq!((store.stats().waiting, store.stats().batches), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn s1_the_1000th_set_writes_the_batch_at_once() {
    let (recorder, store) = batched();
    let start = Instant::now();
    set(&store, 0..1_000).await;
    assert_eq!(recorder.calls(), ["set_batch 1000"]);
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Changing a key again takes no further place.
    for _ in 0..1_500 {
        set(&store, 0..1).await;
    }
    assert!(recorder.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn s2_steady_load_strands_no_entry() {
    let (recorder, store) = batched();
    for n in 0..500 {
        let set_at = Instant::now();
        set(&store, n..n + 1).await;
        sleep(Duration::from_millis(7)).await;
        // Whatever still waits was set no longer than 100 ms ago: at most 15 of these.
        assert!(store.stats().waiting <= 15, "{n} {:?} {:?}", set_at, store.stats());
    }
    sleep(Duration::from_millis(101)).await;
    assert_eq!(store.stats().waiting, 0);
    let written: usize = recorder
        .calls()
        .iter()
        .map(|call| call["set_batch ".len()..].parse::<usize>().unwrap())
        .sum();
    assert_eq!(written, 500);
}

#[tokio::test(start_paused = true)]
async fn s3_buffered_writes_are_read_and_everything_else_sees_them() {
    let (recorder, store) = batched();
    set(&store, 0..3).await;
    store.delete("k1").await.unwrap();
    assert_eq!(store.get("k0").await.unwrap(), Some(Bytes::from("0")));
    assert_eq!(store.get("k1").await.unwrap(), None);
    let keys = ["k0".to_owned(), "k1".to_owned(), "k2".to_owned()];
    assert_eq!(store.get_batch(&keys).await.unwrap().len(), 2);
    assert!(recorder.calls().is_empty());
    let swapped = store
        .compare_and_swap("k0", Expected::Value("0".into()), Some("9".into()))
        .await
        .unwrap();
    assert!(swapped.is_swapped());
    set(&store, 5..6).await;
    assert_eq!(store.list("", None, 10).await.unwrap().keys, ["k0", "k2", "k5"]);
    assert_eq!(store.increment("k2", 1).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn s3_a_failed_batch_is_told_kept_and_written_by_the_next_try() {
    let (recorder, store) = batched();
    recorder.fail(Some("k1"));
    set(&store, 0..20).await;
    let error = store.flush().await.unwrap_err();
    assert!(error.key().starts_with("k1"), "{error}");
    assert_eq!(store.stats().waiting, 11);
    // Readers see them all the same; what did not fail is stored.
    assert_eq!(store.get("k17").await.unwrap(), Some(Bytes::from("17")));
    assert_eq!(Store::get(&recorder, "k2").await.unwrap(), Some(Bytes::from("2")));
    // A newer value is not overwritten by the one that failed.
    store.set("k17", Bytes::from("new")).await.unwrap();
    recorder.fail(None);
    sleep(Duration::from_millis(201)).await;
    assert_eq!(store.stats().waiting, 0);
    assert_eq!(Store::get(&recorder, "k17").await.unwrap(), Some(Bytes::from("new")));
    store.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn s3_a_buffer_full_of_failed_keys_refuses_further_ones_and_no_refused_key_is_written() {
    let (recorder, store) = batched();
    recorder.fail(Some("k"));
    set(&store, 0..999).await;
    for n in 999..1_100 {
        let error = store.set(&format!("k{n}"), Bytes::from("x")).await.unwrap_err();
        assert!(error.to_string().contains("failing"), "{error}");
    }
    assert_eq!(store.stats().waiting, 999);
    recorder.fail(None);
    store.flush().await.unwrap();
    let stored = Store::list(&recorder, "", None, 2_000).await.unwrap();
    assert_eq!(stored.keys.len(), 999);
    assert!(!stored.keys.contains(&"k1050".to_owned()));
}

#[tokio::test]
async fn s3_flushed_and_closed_everything_is_there_again() {
    let directory = Directory::new();
    let store = Batched::new(Arc::new(directory.open().await), BatchOptions::default());
    let nested = store.with_namespace("n").unwrap();
    set(&store, 0..30).await;
    set(&*nested, 0..30).await;
    store.flush().await.unwrap();
    drop((store, nested));
    let again = directory.open().await;
    assert_eq!(again.list("", None, 100).await.unwrap().keys.len(), 30);
    assert_eq!(
        again
            .with_namespace("n")
            .unwrap()
            .list("", None, 100)
            .await
            .unwrap()
            .keys
            .len(),
        30
    );
}

#[tokio::test(start_paused = true)]
async fn s2_a_dropped_layer_still_writes_what_it_accepted() {
    let memory = Memory::new();
    let store = Batched::new(Arc::new(memory.open()), BatchOptions::default());
    set(&store, 0..5).await;
    drop(store);
    sleep(Duration::from_millis(150)).await;
    assert_eq!(memory.open().list("", None, 100).await.unwrap().keys.len(), 5);
}

//! S4, S5, N4: reads from memory.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proximadb_kv::{CacheOptions, Cached, Compressed, Expected, Store};

use crate::places::Memory;
use crate::recorder::Recorder;

fn cached() -> (Recorder, Cached) {
    let recorder = Recorder::new();
    let store = Cached::new(Arc::new(recorder.clone()), CacheOptions::default());
    (recorder, store)
}

#[tokio::test]
async fn s4_the_10001st_key_evicts_the_oldest_and_a_hit_asks_no_store() {
    let (recorder, store) = cached();
    let keys: Vec<String> = (0..10_001).map(|n| format!("k{n}")).collect();
    store
        .set_batch(keys.iter().map(|key| (key.clone(), "v".into())).collect())
        .await
        .unwrap();
    for key in &keys[..10_000] {
        store.get(key).await.unwrap();
    }
    recorder.calls();
    // Used again, the first one is not the oldest any more.
    for key in &keys[..10_000] {
        assert_eq!(store.get(key).await.unwrap().unwrap(), "v");
        if key == "k1" {
            store.get("k0").await.unwrap();
        }
    }
    assert!(recorder.calls().is_empty());
    store.get("k10000").await.unwrap();
    assert_eq!(recorder.calls(), ["get k10000"]);
    assert_eq!((store.stats().evictions, store.stats().entries), (1, 10_000));
    store.get("k1").await.unwrap();
    store.get_batch(&keys[5_000..5_010]).await.unwrap();
    store.get("k0").await.unwrap();
    // k0 and k1 were the least used ones, in this order; k1 was evicted after k0 by its own reading.
    assert!(!recorder.calls().iter().any(|call| call.starts_with("get_batch")));
}

#[tokio::test]
async fn s5_every_kind_of_write_invalidates() {
    let (_, store) = cached();
    let now = async || String::from_utf8(store.get("k").await.unwrap().unwrap_or_default().to_vec()).unwrap();
    store.set("k", "1".into()).await.unwrap();
    assert_eq!((now().await, now().await), ("1".into(), "1".into()));
    store.set("k", "2".into()).await.unwrap();
    assert_eq!(now().await, "2");
    store.set_batch(vec![("k".into(), "3".into())]).await.unwrap();
    assert_eq!(now().await, "3");
    store.increment("k", 1).await.unwrap();
    assert_eq!(now().await, "4");
    assert!(
        store
            .compare_and_swap("k", Expected::Value("4".into()), Some("5".into()))
            .await
            .unwrap()
            .is_swapped()
    );
    assert_eq!(now().await, "5");
    store.delete("k").await.unwrap();
    assert_eq!(now().await, "");
    assert!(store.create_if_absent("k", "6".into()).await.unwrap().is_swapped());
    assert_eq!(now().await, "6");
    store.delete_batch(&["k".to_owned()]).await.unwrap();
    assert_eq!(now().await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s5_no_read_is_older_than_a_set_that_has_returned() {
    let memory = Memory::new();
    let store: Arc<dyn Store> = Arc::new(Cached::new(Arc::new(memory.open()), CacheOptions::default()));
    let returned = Arc::new(AtomicU64::new(0));
    store.set("k", "0".into()).await.unwrap();
    let mut tasks = Vec::new();
    for reader in 0..63 {
        let (store, returned) = (Arc::clone(&store), Arc::clone(&returned));
        tasks.push(tokio::spawn(async move {
            for _ in 0..200 {
                let least = returned.load(Ordering::SeqCst);
                let value = if reader % 2 == 0 {
                    store.get("k").await.unwrap()
                } else {
                    store.get_batch(&["k".to_owned()]).await.unwrap().remove("k")
                };
                let value: u64 = String::from_utf8_lossy(&value.unwrap()).parse().unwrap();
                assert!(value >= least, "{value} after {least}");
            }
        }));
    }
    for n in 1..=300u64 {
        store.set("k", Bytes::from(n.to_string())).await.unwrap();
        returned.store(n, Ordering::SeqCst);
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn s5_a_lost_swap_shows_what_another_process_has_written() {
    let memory = Memory::new();
    let (here, there) = (
        Cached::new(Arc::new(memory.open()), CacheOptions::default()),
        memory.open(),
    );
    here.set("k", "1".into()).await.unwrap();
    here.get("k").await.unwrap();
    there.set("k", "2".into()).await.unwrap();
    let lost = here
        .compare_and_swap("k", Expected::Value("1".into()), Some("3".into()))
        .await
        .unwrap();
    assert!(!lost.is_swapped());
    assert_eq!(here.get("k").await.unwrap().unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn s4_a_value_is_read_again_when_it_is_too_old() {
    let recorder = Recorder::new();
    let options = CacheOptions {
        max_entries: NonZeroUsize::MIN,
        max_age: Duration::from_secs(5),
    };
    let store = Cached::new(Arc::new(recorder.clone()), options);
    store.set("k", "1".into()).await.unwrap();
    store.get("k").await.unwrap();
    Store::set(&recorder, "k", "2".into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(store.get("k").await.unwrap().unwrap(), "1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.get("k").await.unwrap().unwrap(), "2");
}

#[tokio::test]
async fn s6_compressed_values_take_less_room_in_the_store() {
    let memory = Memory::new();
    let base = memory.open();
    let store = Compressed::new(Arc::new(base.clone()));
    let value = Bytes::from("proximadb ".repeat(1_000));
    for length in [1_024, 1_025, 10_000] {
        store.set("k", value.slice(..length)).await.unwrap();
        let stored = base.get("k").await.unwrap().unwrap();
        assert_eq!(stored.starts_with(br#"{"_compressed":true,"data":""#), length > 1_024);
        assert!(stored.len() <= length);
        assert_eq!(store.get("k").await.unwrap().unwrap(), value.slice(..length));
    }
    let stats = store.stats();
    assert_eq!((stats.compressed_values, stats.value_bytes), (2, 11_025));
    assert!(stats.stored_bytes * 5 < stats.value_bytes);
    // Written without the layer, read with it.
    base.set("raw", value.clone()).await.unwrap();
    assert_eq!(store.get("raw").await.unwrap().unwrap(), value);
}

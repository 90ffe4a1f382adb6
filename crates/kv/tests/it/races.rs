//! Many writers of one key, each with a store of its own as in a process of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use proximadb_kv::{Expected, Store, Swap};

use crate::places::{Directory, Memory, is_full};

/// Creates one key with all stores at the same moment, several keys one after the other.
pub async fn m7_one_creator_wins(stores: &[Arc<dyn Store>], racers: usize) {
    for round in 0..3 {
        let key = format!("race {round}");
        let tasks = (0..racers).map(|racer| {
            let (store, key) = (Arc::clone(&stores[racer % stores.len()]), key.clone());
            tokio::spawn(async move { store.create_if_absent(&key, Bytes::from(racer.to_string())).await })
        });
        let outcomes = join_all(tasks).await.into_iter().map(|task| task.unwrap().unwrap());
        let outcomes: Vec<Swap> = outcomes.collect();
        let winners: Vec<usize> = (0..racers).filter(|racer| outcomes[*racer].is_swapped()).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let stored = Bytes::from(winners[0].to_string());
        for store in stores {
            assert_eq!(store.get(&key).await.unwrap(), Some(stored.clone()));
        }
        // Who lost was told who won.
        for outcome in outcomes {
            assert!(!matches!(outcome, Swap::Lost(entry) if entry.as_ref().map(|entry| &entry.value) != Some(&stored)));
        }
    }
}

/// `tasks` × `each` increments: the sum is exact, and no value is returned twice.
pub async fn m8_increments_are_exact(stores: &[Arc<dyn Store>], tasks: usize, each: usize) {
    let work = (0..tasks).map(|task| {
        let store = Arc::clone(&stores[task % stores.len()]);
        tokio::spawn(async move {
            let mut values = Vec::new();
            for _ in 0..each {
                values.push(store.increment("sum", 1).await.unwrap());
            }
            values
        })
    });
    let values: Vec<i64> = join_all(work)
        .await
        .into_iter()
        .flat_map(|task| task.unwrap())
        .collect();
    let distinct: BTreeSet<i64> = values.iter().copied().collect();
    let sum = (tasks * each) as i64;
    assert_eq!((distinct.len(), distinct.last()), (values.len(), Some(&sum)));
    for store in stores {
        assert_eq!(store.get("sum").await.unwrap(), Some(Bytes::from(sum.to_string())));
    }
}

/// Each task appends its marks by swaps, by value and by version: every swap that was made is there once, no other is.
pub async fn m6_made_swaps_are_changes(stores: &[Arc<dyn Store>], tasks: usize, each: usize) {
    let work = (0..tasks).map(|task| {
        let store = Arc::clone(&stores[task % stores.len()]);
        tokio::spawn(async move {
            let mut made = Vec::new();
            for n in 0..each {
                let mark = format!("{task}.{n}");
                let now = store.get_versioned("log").await.unwrap();
                let text = now.as_ref().map_or(String::new(), |entry| {
                    String::from_utf8_lossy(&entry.value).into_owned()
                });
                let expected = match now {
                    None => Expected::Missing,
                    Some(entry) if n % 2 == 0 => Expected::Version(entry.version),
                    Some(entry) => Expected::Value(entry.value),
                };
                let new = Bytes::from(format!("{text} {mark}"));
                if store
                    .compare_and_swap("log", expected, Some(new))
                    .await
                    .unwrap()
                    .is_swapped()
                {
                    made.push(mark);
                }
            }
            made
        })
    });
    let mut made: Vec<String> = join_all(work)
        .await
        .into_iter()
        .flat_map(|task| task.unwrap())
        .collect();
    let stored = stores[0].get("log").await.unwrap().unwrap();
    let mut stored: Vec<String> = String::from_utf8_lossy(&stored)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    made.sort();
    stored.sort();
    assert_eq!(made, stored);
}

/// All races; `each` operations by each task.
pub async fn all(stores: &[Arc<dyn Store>], tasks: usize, each: usize) {
    m7_one_creator_wins(stores, 64).await;
    m6_made_swaps_are_changes(stores, tasks.min(16), each.min(30)).await;
    m8_increments_are_exact(stores, tasks, each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m6_m7_m8_races_in_memory() {
    let memory = Memory::new();
    let stores: Vec<Arc<dyn Store>> = (0..8).map(|_| Arc::new(memory.open()) as Arc<dyn Store>).collect();
    all(&stores, 64, if is_full() { 1_000 } else { 100 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m6_m7_m8_races_in_a_directory() {
    let directory = Directory::new();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Arc::new(directory.open().await) as Arc<dyn Store>);
    }
    all(
        &stores,
        if is_full() { 64 } else { 16 },
        if is_full() { 1_000 } else { 20 },
    )
    .await;
}

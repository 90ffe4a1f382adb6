//! Random histories over random stacks against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proximadb_kv::{Expected, Store};

use crate::places::{Memory, all_stacks, stack};

#[derive(Debug, Clone)]
enum Step {
    Set(u8, u16),
    SetBatch(Vec<(u8, u16)>),
    Delete(u8),
    DeleteBatch(Vec<u8>),
    Swap(u8, Option<u16>, Option<u16>),
    Create(u8, u16),
    Increment(u8, i8),
    Get(u8),
    GetBatch(Vec<u8>),
    List(u8, usize),
    Flush,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, value) = (0..6u8, 0..4u16);
    let maybe = proptest::option::of(0..4u16);
    let step = prop_oneof![
        3 => (key.clone(), value.clone()).prop_map(|(k, v)| Step::Set(k, v)),
        1 => vec((key.clone(), value.clone()), 0..5).prop_map(Step::SetBatch),
        2 => key.clone().prop_map(Step::Delete),
        1 => vec(key.clone(), 0..5).prop_map(Step::DeleteBatch),
        3 => (key.clone(), maybe.clone(), maybe).prop_map(|(k, old, new)| Step::Swap(k, old, new)),
        1 => (key.clone(), value).prop_map(|(k, v)| Step::Create(k, v)),
        2 => (key.clone(), any::<i8>()).prop_map(|(k, n)| Step::Increment(k, n)),
        4 => key.clone().prop_map(Step::Get),
        1 => vec(key.clone(), 0..5).prop_map(Step::GetBatch),
        1 => (key, 1..5usize).prop_map(|(k, limit)| Step::List(k, limit)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..60)
}

fn key(n: u8) -> String {
    ["a", "b", "b/1", "ü", "", "c.d"][usize::from(n)].to_owned()
}

/// Every second value is long enough to be compressed.
fn value(n: u16) -> Bytes {
    Bytes::from(n.to_string().repeat(if n.is_multiple_of(2) { 1 } else { 1_500 }))
}

async fn run(layers: &[crate::places::Layer], steps: Vec<Step>) {
    let memory = Memory::new();
    let open = || stack(Arc::new(memory.open()), layers).with_namespace("n").unwrap();
    let mut store = open();
    let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
    for step in steps {
        check(&step, &store, &mut model).await;
        if matches!(step, Step::Reopen) {
            store.flush().await.unwrap();
            store = open();
        }
    }
    store.flush().await.unwrap();
    let listed = open().list("", None, 100).await.unwrap().keys;
    assert_eq!(listed.len(), model.len());
    for (key, value) in model {
        assert_eq!(open().get(&key).await.unwrap(), Some(value));
    }
}

async fn check(step: &Step, store: &Arc<dyn Store>, model: &mut BTreeMap<String, Bytes>) {
    match step {
        Step::Set(k, v) => {
            store.set(&key(*k), value(*v)).await.unwrap();
            model.insert(key(*k), value(*v));
        }
        Step::SetBatch(items) => {
            let items: Vec<(String, Bytes)> = items.iter().map(|(k, v)| (key(*k), value(*v))).collect();
            store.set_batch(items.clone()).await.unwrap();
            model.extend(items);
        }
        Step::Delete(k) => {
            store.delete(&key(*k)).await.unwrap();
            model.remove(&key(*k));
        }
        Step::DeleteBatch(keys) => {
            let keys: Vec<String> = keys.iter().map(|k| key(*k)).collect();
            store.delete_batch(&keys).await.unwrap();
            keys.iter().for_each(|key| drop(model.remove(key)));
        }
        Step::Swap(k, old, new) => {
            let expected = old.map_or(Expected::Missing, |old| Expected::Value(value(old)));
            let new = new.map(value);
            let outcome = store.compare_and_swap(&key(*k), expected, new.clone()).await.unwrap();
            assert_eq!(outcome.is_swapped(), model.get(&key(*k)).cloned() == old.map(value));
            if outcome.is_swapped() {
                model.remove(&key(*k));
                model.extend(new.map(|new| (key(*k), new)));
            }
        }
        Step::Create(k, v) => {
            let outcome = store.create_if_absent(&key(*k), value(*v)).await.unwrap();
            assert_eq!(outcome.is_swapped(), !model.contains_key(&key(*k)));
            model.entry(key(*k)).or_insert(value(*v));
        }
        Step::Increment(k, delta) => {
            let old = model
                .get(&key(*k))
                .map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
            let sum = old.map(|old| old + i64::from(*delta));
            assert_eq!(store.increment(&key(*k), i64::from(*delta)).await.ok(), sum);
            model.extend(sum.map(|sum| (key(*k), Bytes::from(sum.to_string()))));
        }
        Step::Get(k) => {
            assert_eq!(store.get(&key(*k)).await.unwrap(), model.get(&key(*k)).cloned());
            let entry = store.get_versioned(&key(*k)).await.unwrap();
            assert_eq!(entry.map(|entry| entry.value), model.get(&key(*k)).cloned());
        }
        Step::GetBatch(keys) => {
            let keys: Vec<String> = keys.iter().map(|k| key(*k)).collect();
            let found = store.get_batch(&keys).await.unwrap();
            let expected = keys
                .iter()
                .filter_map(|key| Some((key.clone(), model.get(key)?.clone())));
            assert_eq!(found, expected.collect());
        }
        Step::List(k, limit) => {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store.list(&key(*k), after.as_deref(), *limit).await.unwrap();
                assert!(page.keys.len() <= *limit);
                listed.extend(page.keys);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            listed.sort();
            let expected: Vec<String> = model
                .keys()
                .filter(|key2| key2.starts_with(&key(*k)))
                .cloned()
                .collect();
            assert_eq!(listed, expected);
        }
        Step::Flush | Step::Reopen => store.flush().await.unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if crate::places::is_full() { 3_000 } else { 250 }, ..Default::default() })]
    #[test]
    fn m11_any_history_over_any_stack_is_that_of_a_map(steps in steps(), choice in any::<prop::sample::Index>()) {
        let stacks = all_stacks();
        let layers = stacks.get(choice.index(stacks.len())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(layers, steps));
    }
}

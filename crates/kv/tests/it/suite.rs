//! What every store and every stack of layers does. Each check works in a namespace of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proximadb_kv::{ErrorKind, Expected, JsonStore, Store, Swap};
use serde_json::{Value, json};

/// All checks; `size` is the number of keys of the larger ones.
pub async fn conforms(store: &Arc<dyn Store>, size: usize) {
    m1_m3_values_come_and_go(&inside(store, "values")).await;
    m2_json_comes_back(&inside(store, "json")).await;
    s6_s7_values_of_all_sizes_come_back(&inside(store, "sizes")).await;
    m4_m5_batches(&inside(store, "batches"), size).await;
    m6_m7_swaps(&inside(store, "swaps")).await;
    m8_increments(&inside(store, "counters")).await;
    m9_namespaces_are_apart(&inside(store, "apart")).await;
    m9_any_text_is_a_key(&inside(store, "texts")).await;
    m10_listings_page(&inside(store, "pages"), size.min(60)).await;
    store.flush().await.unwrap();
}

fn inside(store: &Arc<dyn Store>, name: &str) -> Arc<dyn Store> {
    store.with_namespace(name).unwrap()
}

async fn m1_m3_values_come_and_go(store: &Arc<dyn Store>) {
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(store.get_versioned("k").await.unwrap(), None);
    store.delete("k").await.unwrap();
    store.set("k", Bytes::from("1")).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from("1")));
    store.set("k", Bytes::from("2")).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from("2")));
    assert_eq!(store.get_versioned("k").await.unwrap().unwrap().value, Bytes::from("2"));
    store.delete("k").await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(store.get_versioned("k").await.unwrap(), None);
    store.delete("k").await.unwrap();
    store.set("k", Bytes::new()).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::new()));
}

async fn m2_json_comes_back(store: &Arc<dyn Store>) {
    assert_eq!(store.get_json::<Value>("missing").await.unwrap(), None);
    let marked = json!({"_compressed": true, "data": "H4sIAAAA"});
    for value in [
        json!(null),
        json!(0),
        json!(""),
        json!(false),
        json!([]),
        json!({"a": [1.5, "ü"]}),
        marked,
    ] {
        store.set_json("k", &value).await.unwrap();
        assert_eq!(store.get_json::<Value>("k").await.unwrap(), Some(value));
    }
    store.set("k", Bytes::from("no json")).await.unwrap();
    let error = store.get_json::<Value>("k").await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, "k"));
}

async fn s6_s7_values_of_all_sizes_come_back(store: &Arc<dyn Store>) {
    let plain = |length: usize| Bytes::from("proximadb ".repeat(length / 10 + 1)).slice(..length);
    let noise = |length: usize| Bytes::from((0..length).map(|n| ((n * n * 31) >> 3) as u8).collect::<Vec<_>>());
    for length in [0, 1, 2, 1_023, 1_024, 1_025, 5_000, 200_001] {
        for value in [plain(length), noise(length)] {
            store.set("k", value.clone()).await.unwrap();
            assert_eq!(store.get("k").await.unwrap(), Some(value.clone()));
            let swapped = store
                .compare_and_swap("k", Expected::Value(value.clone()), Some(value.clone()))
                .await;
            assert!(swapped.unwrap().is_swapped(), "{length}");
            assert_eq!(store.get("k").await.unwrap(), Some(value));
        }
    }
}

async fn m4_m5_batches(store: &Arc<dyn Store>, size: usize) {
    let key = |n: usize| format!("key {n}");
    let items = (0..size).map(|n| (key(n), Bytes::from(n.to_string())));
    store.set_batch(items.collect()).await.unwrap();
    let twice = vec![(key(0), Bytes::from("first")), (key(0), Bytes::from("last"))];
    store.set_batch(twice).await.unwrap();
    store.set(&key(1), Bytes::from("set")).await.unwrap();
    store.delete(&key(2)).await.unwrap();
    let keys: Vec<String> = (0..size + 10).map(key).collect();
    let found = store.get_batch(&keys).await.unwrap();
    assert_eq!(found.len(), size - 1);
    for n in 0..size {
        let expected = match n {
            0 => Some("last".to_owned()),
            1 => Some("set".to_owned()),
            2 => None,
            n => Some(n.to_string()),
        };
        assert_eq!(found.get(&key(n)).cloned(), expected.map(Bytes::from), "{n}");
    }
    store.delete_batch(&keys).await.unwrap();
    assert!(store.get_batch(&keys).await.unwrap().is_empty());
    assert!(store.get_batch(&[]).await.unwrap().is_empty());
}

async fn m6_m7_swaps(store: &Arc<dyn Store>) {
    let one = Bytes::from("1");
    let Swap::Swapped(first) = store.create_if_absent("k", one.clone()).await.unwrap() else {
        panic!("the key did not exist");
    };
    let entry = store.get_versioned("k").await.unwrap().unwrap();
    assert_eq!((entry.version, &entry.value), (first, &one));
    assert_eq!(
        store.create_if_absent("k", Bytes::from("x")).await.unwrap(),
        Swap::Lost(Some(entry.clone()))
    );
    let swap = |expected, new: Option<&'static str>| store.compare_and_swap("k", expected, new.map(Bytes::from));
    assert_eq!(
        swap(Expected::Value("0".into()), Some("x")).await.unwrap(),
        Swap::Lost(Some(entry))
    );
    assert!(
        swap(Expected::Value(one.clone()), Some("2"))
            .await
            .unwrap()
            .is_swapped()
    );
    // Changed back, and yet another version.
    store.set("k", one.clone()).await.unwrap();
    assert!(!swap(Expected::Version(first), Some("x")).await.unwrap().is_swapped());
    assert_eq!(store.get("k").await.unwrap(), Some(one.clone()));
    let second = store.get_versioned("k").await.unwrap().unwrap().version;
    assert!(swap(Expected::Version(second), Some("3")).await.unwrap().is_swapped());
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from("3")));
    // Removed by a swap: missing for everything.
    assert!(!swap(Expected::Value(one.clone()), None).await.unwrap().is_swapped());
    assert!(swap(Expected::Value("3".into()), None).await.unwrap().is_swapped());
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(
        swap(Expected::Value("3".into()), Some("x")).await.unwrap(),
        Swap::Lost(None)
    );
    assert_eq!(
        swap(Expected::Version(second), Some("x")).await.unwrap(),
        Swap::Lost(None)
    );
    assert!(swap(Expected::Missing, Some("4")).await.unwrap().is_swapped());
    // A set is seen by a swap, and a deletion as well.
    store.set("k", Bytes::from("5")).await.unwrap();
    assert!(!swap(Expected::Missing, Some("x")).await.unwrap().is_swapped());
    assert!(swap(Expected::Value("5".into()), Some("6")).await.unwrap().is_swapped());
    store.delete("k").await.unwrap();
    assert!(swap(Expected::Missing, Some("7")).await.unwrap().is_swapped());
    assert_eq!(store.get("k").await.unwrap(), Some(Bytes::from("7")));
}

async fn m8_increments(store: &Arc<dyn Store>) {
    assert_eq!(store.increment("n", 5).await.unwrap(), 5);
    assert_eq!(store.increment("n", -7).await.unwrap(), -2);
    assert_eq!(store.get("n").await.unwrap(), Some(Bytes::from("-2")));
    store.set("n", Bytes::from("40")).await.unwrap();
    assert_eq!(store.increment("n", 2).await.unwrap(), 42);
    store.delete("n").await.unwrap();
    assert_eq!(store.increment("n", 1).await.unwrap(), 1);
    store.set("text", Bytes::from("many")).await.unwrap();
    let error = store.increment("text", 1).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, "text"));
    assert_eq!(store.get("text").await.unwrap(), Some(Bytes::from("many")));
    store.set("most", Bytes::from(i64::MAX.to_string())).await.unwrap();
    assert_eq!(store.increment("most", 1).await.unwrap_err().kind(), ErrorKind::Invalid);
}

async fn m9_namespaces_are_apart(store: &Arc<dyn Store>) {
    let (a, ab) = (inside(store, "a"), inside(&inside(store, "a"), "b/c"));
    let places = [
        Arc::clone(store),
        Arc::clone(&a),
        Arc::clone(&ab),
        inside(&inside(store, "a/b"), "c"),
        inside(store, "a/b/c"),
        inside(&a, "../a"),
        inside(store, ".."),
        inside(store, "=keys"),
    ];
    for (n, place) in places.iter().enumerate() {
        for key in ["k", "b/k", "../k"] {
            assert_eq!(place.get(key).await.unwrap(), None, "{} {key}", place.url());
            place.set(key, Bytes::from(format!("{n} {key}"))).await.unwrap();
        }
    }
    for (n, place) in places.iter().enumerate() {
        for key in ["k", "b/k", "../k"] {
            let expected = Bytes::from(format!("{n} {key}"));
            assert_eq!(place.get(key).await.unwrap(), Some(expected), "{} {key}", place.url());
        }
        assert_eq!(place.list("", None, 10).await.unwrap().keys.len(), 3, "{}", place.url());
    }
    // Another handle of a namespace is the same namespace, at once.
    a.set("k", Bytes::from("new")).await.unwrap();
    assert_eq!(inside(store, "a").get("k").await.unwrap(), Some(Bytes::from("new")));
    assert_eq!(store.with_namespace("").unwrap_err().kind(), ErrorKind::Invalid);
}

async fn m9_any_text_is_a_key(store: &Arc<dyn Store>) {
    let long = "long/".repeat(60);
    let texts = [
        "", ".", "..", "/", "//", "a/", "/a", "a b", "a#1", "ä/ö", "\u{0}", "%2F", "=2F", "a\\b", "日本", &long, "A",
        "a",
    ];
    for text in texts {
        store.set(text, Bytes::from(format!("<{text}>"))).await.unwrap();
    }
    for text in texts {
        let expected = Bytes::from(format!("<{text}>"));
        assert_eq!(store.get(text).await.unwrap(), Some(expected), "{text:?}");
    }
    let listed = store.list("", None, 100).await.unwrap();
    assert_eq!(
        listed.keys.into_iter().collect::<BTreeSet<_>>(),
        texts.map(str::to_owned).into()
    );
    assert_eq!(listed.next, None);
}

async fn m10_listings_page(store: &Arc<dyn Store>, size: usize) {
    assert_eq!(store.list("", None, 10).await.unwrap().keys, Vec::<String>::new());
    let mut all: Vec<String> = (0..size).map(|n| format!("k{}/{n:03}", n % 3)).collect();
    let items = all.iter().map(|key| (key.clone(), Bytes::from("v")));
    store.set_batch(items.collect()).await.unwrap();
    // Further versions, removed and removed and set keys, and keys of other namespaces change nothing.
    store.set(&all[0], Bytes::from("w")).await.unwrap();
    store.delete(&all[1]).await.unwrap();
    store.set(&all[1], Bytes::from("w")).await.unwrap();
    store.set("k0/gone", Bytes::from("x")).await.unwrap();
    store.delete("k0/gone").await.unwrap();
    inside(store, "k1").set("k1/other", Bytes::from("x")).await.unwrap();
    all.sort();
    for limit in [1, 7, size, size + 1] {
        for prefix in ["", "k1", "k1/0", "k2/001", "none"] {
            let expected: Vec<&String> = all.iter().filter(|key| key.starts_with(prefix)).collect();
            if limit == 1 && expected.len() > 20 {
                continue;
            }
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store.list(prefix, after.as_deref(), limit).await.unwrap();
                assert!(page.keys.len() <= limit);
                assert_eq!(page.next.is_some(), listed.len() + page.keys.len() < expected.len());
                listed.extend(page.keys);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "{prefix} {limit}");
        }
    }
    // A key that does not exist is a place to go on from, too.
    let page = store.list("", Some("k1/"), size).await.unwrap();
    assert_eq!(
        page.keys,
        all.iter()
            .filter(|key| key.as_str() > "k1/")
            .cloned()
            .collect::<Vec<_>>()
    );
    assert!(store.list("", None, 0).await.unwrap().keys.is_empty());
}

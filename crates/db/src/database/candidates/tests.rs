#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::config::Config;
use crate::database::operate::Wishes;
use crate::error::Error;
use crate::placement::Placements;
use crate::root::StorageComponentType::{Index, Viper, Wal};

const ROOT: RootId = RootId(Uuid::nil());

#[test]
fn c8_the_average_follows_the_latest_operations() {
    let latencies = Latencies::default();
    let now = Instant::now();
    let note = |count, ms| latencies.note(ROOT, count, Duration::from_millis(ms), now);
    assert_eq!(note(0, 0), None, "nothing was measured");
    assert_eq!(note(100, 100), Some(1.0));
    assert_eq!(note(100, 100), Some(1.0), "nothing new");
    let slower = note(110, 600).unwrap();
    assert!((10.0..25.0).contains(&slower), "ten operations of 50 ms: {slower}");
    let slow = note(300, 600 + 190 * 50).unwrap();
    assert!((49.0..=50.0).contains(&slow), "{slow}");
    let recovered = note(600, 600 + 190 * 50 + 300).unwrap();
    assert!(recovered < 1.1, "{recovered}");
}

#[test]
fn c8_a_measurement_that_is_old_is_forgotten_and_one_that_is_refreshed_is_not() {
    let latencies = Latencies::default();
    let start = Instant::now();
    let note = |count, after| latencies.note(ROOT, count, Duration::from_millis(50 * count), start + after);
    assert_eq!(note(1, Duration::ZERO), Some(50.0));
    assert_eq!(note(1, Latencies::AGE_MAX - Duration::from_secs(1)), Some(50.0));
    assert_eq!(note(2, Latencies::AGE_MAX), Some(50.0));
    assert_eq!(note(2, Latencies::AGE_MAX * 2), None);
    assert_eq!(note(3, Latencies::AGE_MAX * 2), Some(50.0));
}

#[test]
fn d12_the_device_of_a_directory_that_is_not_there_yet_is_that_of_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let number = device_number(directory.path()).unwrap();
    assert_eq!(device_number(&directory.path().join("a/b")), Some(number));
}

/// A database over `disks` directories, with these further keys.
async fn open(directory: &Path, disks: usize, keys: &str) -> Arc<Database> {
    let urls: Vec<String> = (0..disks)
        .map(|disk| format!("file://{}/disk{disk}", directory.display()))
        .collect();
    let keys = keys.replace("$DIR", &format!("file://{}", directory.display()));
    let file = directory.join("proximadb.toml");
    std::fs::write(&file, format!("storage.urls = {urls:?}\n{keys}")).unwrap();
    let config = Config::load(Some(&file), std::iter::empty()).unwrap();
    Database::open(config).await.unwrap()
}

fn schema(region: Option<&str>) -> Schema {
    let metadata = json!({ "proximadb": { "region": region } });
    serde_json::from_value(json!({
        "vectors": { "": { "size": 2, "distance": "Euclid" } }, "settings": { "metadata": metadata },
    }))
    .unwrap()
}

fn placements(database: &Database, name: &str) -> Placements {
    database.entry(name).unwrap().record.read().placement.clone()
}

fn keys(database: &Database) -> Vec<(String, String)> {
    let roots = database.roots().all();
    let mut keys: Vec<_> = roots
        .iter()
        .map(|root| (root.url().to_owned(), root.placement_key()))
        .collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_fresh_server_with_the_same_configuration_gives_its_roots_the_same_keys() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path(), 3, "").await;
    let before = keys(&database);
    assert!(before.iter().all(|(url, key)| url == key), "{before:?}");
    database.close().await;
    drop(database);
    for disk in 0..3 {
        std::fs::remove_dir_all(directory.path().join(format!("disk{disk}"))).unwrap();
    }
    assert_eq!(keys(&*open(directory.path(), 3, "").await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_c15_a_root_keeps_its_key_at_another_url_and_one_of_an_earlier_release_is_known_by_its_id() {
    let directory = TempDir::new().unwrap();
    let database = open(directory.path(), 2, "").await;
    let of = |database: &Database, disk: &str, component: &str| {
        let roots = database.roots().all();
        let root = roots
            .iter()
            .find(|root| root.url().ends_with(&format!("{disk}/{component}")))
            .unwrap();
        (root.id(), root.placement_key())
    };
    let (first, second) = (of(&database, "disk0", "viper"), of(&database, "disk1", "viper"));
    database.close().await;
    drop(database);
    let path = |name: &str| directory.path().join(name);
    std::fs::rename(path("disk0"), path("x")).unwrap();
    std::fs::rename(path("disk1"), path("disk0")).unwrap();
    std::fs::rename(path("x"), path("disk1")).unwrap();
    let identity = path("disk1/viper/_proximadb/root.json");
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
    assert_eq!(
        old.as_object_mut().unwrap().remove("placement_key"),
        Some(json!(first.1))
    );
    std::fs::write(&identity, old.to_string()).unwrap();
    let database = open(directory.path(), 2, "").await;
    assert_eq!(of(&database, "disk0", "viper"), second);
    assert_eq!(of(&database, "disk1", "viper"), (first.0, first.0.to_string()));
}

#[test]
fn c3_two_roots_that_began_at_one_url_draw_apart() {
    let candidate = |number: u128| Candidate {
        root_id: RootId(Uuid::from_u128(number)),
        hash_key: "file:///a".to_owned(),
        url: format!("file:///{number}"),
        index: 0,
        tags: Default::default(),
        weight: 1.0,
        cost_per_gb_month: None,
        latency_ms: None,
        device: None,
        collections: 0,
        bytes: 0,
        writable: true,
    };
    let mut candidates = [candidate(2), candidate(1)];
    tell_apart(&mut candidates);
    assert_eq!(candidates[0].hash_key, candidates[0].root_id.to_string());
    assert_eq!(candidates[1].hash_key, "file:///a");
}

#[tokio::test(flavor = "multi_thread")]
async fn c10_a_collection_is_created_in_its_region_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let keys = "[storage.viper_config]\ndistribution_strategy = \"RegionAffinityBased\"\n\
                [storage.roots.\"$DIR/disk0\"]\nregion = \"us\"\n[storage.roots.\"$DIR/disk2\"]\nregion = \"eu\"\n";
    let database = open(directory.path(), 3, keys).await;
    for (name, region, disk) in [
        ("a", Some("eu"), "disk2"),
        ("b", Some("us"), "disk0"),
        ("c", None, "disk1"),
    ] {
        database.create_collection(name, schema(region)).await.unwrap();
        let home = database
            .roots()
            .by_id(placements(&database, name)[&Viper].roots[0])
            .unwrap();
        assert!(home.url().contains(disk), "{name} on {}", home.url());
    }
    let error = database.create_collection("d", schema(Some("moon"))).await.unwrap_err();
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("`moon`: there are eu, us")),
        "{error}"
    );
    assert!(!database.exists("d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn d12_devices_come_from_the_configuration_else_from_the_file_system() {
    let directory = TempDir::new().unwrap();
    let device = |disk: usize| format!("[storage.roots.\"$DIR/disk{disk}\"]\ndevice = \"d{disk}\"\n");
    let policies = "[storage.placement.policies]\nsame_device = [[\"wal\", \"viper\"]]\ndifferent_device = [[\"wal\", \"index\"]]\n";
    let keys = (0..3).fold(policies.to_owned(), |keys, disk| keys + &device(disk));
    let database = open(directory.path(), 3, &keys).await;
    for name in ["a", "b", "c", "d"] {
        database.create_collection(name, schema(None)).await.unwrap();
        let placements = placements(&database, name);
        let disk = |root: RootId| {
            let url = database.roots().by_id(root).unwrap().url().to_owned();
            url.rsplit('/').nth(1).unwrap().to_owned()
        };
        let wal = disk(placements[&Wal].roots[0]);
        assert_eq!(wal, disk(placements[&Viper].roots[0]));
        assert!(placements[&Index].homes().into_iter().all(|root| disk(root) != wal));
    }
    // Without labels all directories are on one file system, so nothing can be apart.
    let other = TempDir::new().unwrap();
    let database = open(other.path(), 3, policies).await;
    let error = database.create_collection("a", schema(None)).await.unwrap_err();
    assert!(error.to_string().contains("different_device = [wal, index]"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn d12_a_rebalance_keeps_the_policies_and_a_drain_keeps_them_where_it_can() {
    let directory = TempDir::new().unwrap();
    // The first two disks share a device; the log is apart from the segments.
    let device = |disk: usize| format!("[storage.roots.\"$DIR/disk{disk}\"]\ndevice = \"d{}\"\n", disk / 2);
    let keys = (0..3).fold(String::new(), |keys, disk| keys + &device(disk));
    let keys = format!("[storage.placement.policies]\ndifferent_device = [[\"wal\", \"viper\"]]\n{keys}");
    let database = open(directory.path(), 3, &keys).await;
    database.create_collection("a", schema(None)).await.unwrap();
    let placements = placements(&database, "a");
    let devices = database.devices().await;
    let disks = |component: StorageComponentType, wishes: &Wishes| -> Vec<usize> {
        let roots = database.roots().of_component(component);
        let targets = database.targets(component, &placements, placements[&component].roots[0], wishes);
        (0..3).filter(|disk| targets.contains(&roots[*disk].id())).collect()
    };
    // The log is on the first disk, so the segments are on the third, and have no other place.
    for (component, kept, preferred, told) in [
        (Wal, vec![1], vec![1], vec![1, 2]),
        (Viper, vec![], vec![0, 1], vec![0, 1]),
    ] {
        assert_eq!(disks(component, &Wishes::Kept(devices.clone())), kept, "{component}");
        assert_eq!(
            disks(component, &Wishes::Preferred(devices.clone())),
            preferred,
            "{component}"
        );
        assert_eq!(disks(component, &Wishes::None), told, "{component}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_c12_a_new_record_names_stripes_and_index_types() {
    let directory = TempDir::new().unwrap();
    let keys = "storage.viper_config.collection_affinity = false\n";
    let database = open(directory.path(), 3, keys).await;
    database.create_collection("a", schema(None)).await.unwrap();
    let placements = placements(&database, "a");
    assert_eq!(placements[&Viper].all_roots().len(), 3);
    assert_eq!(placements[&Wal].all_roots().len(), 1);
    assert_eq!(placements[&Index].types.len(), 3);
    assert_eq!(placements[&Index].homes().len(), 3, "each type has a root of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_c9_slow_and_dear_roots_get_no_new_collections() {
    let directory = TempDir::new().unwrap();
    let keys = "[storage.wal_config]\ndistribution_strategy = \"PerformanceBased\"\n\
                [storage.viper_config]\ndistribution_strategy = \"CostOptimized\"\n\
                [storage.roots.\"$DIR/disk0\"]\ncost_per_gb_month = 0.05\n[storage.roots.\"$DIR/disk2\"]\ncost_per_gb_month = 0.04\n";
    let database = open(directory.path(), 3, keys).await;
    let roots = database.roots().of_component(Wal);
    let slow = roots.iter().find(|root| root.url().contains("disk1")).unwrap();
    for _ in 0..500 {
        slow.fs().meter().record(Op::Sync, Duration::from_millis(50), 100, true);
    }
    for number in 0..6 {
        let name = format!("c{number}");
        database.create_collection(&name, schema(None)).await.unwrap();
        let placements = placements(&database, &name);
        assert_ne!(placements[&Wal].roots[0], slow.id());
        let cheap = database.roots().by_id(placements[&Viper].roots[0]).unwrap();
        assert!(cheap.url().contains("disk2"), "{}", cheap.url());
    }
}

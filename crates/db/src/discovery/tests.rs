#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::Path;

use proximadb_store::{Op, StorageUrl};
use tempfile::TempDir;

use super::*;
use crate::root::RootConfig;

const WAL: StorageComponentType = StorageComponentType::Wal;
const VIPER: StorageComponentType = StorageComponentType::Viper;
const METADATA: StorageComponentType = StorageComponentType::Metadata;

fn id(n: u64) -> CollectionId {
    format!("0190a5b0-0000-7000-8000-{n:012}").parse().unwrap()
}

fn put(dir: &TempDir, path: &str, bytes: usize) {
    let path = dir.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![b'x'; bytes]).unwrap();
}

async fn open(dir: &TempDir, names: &[(StorageComponentType, &str)]) -> Roots {
    let config = |(component, name): &(StorageComponentType, &str)| RootConfig {
        component: *component,
        url: StorageUrl::parse(&format!("file://{}/{name}", dir.path().display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    Roots::open(names.iter().map(config).collect(), true).await.unwrap()
}

/// What `find -type f` and `du -b` say.
fn find(path: &Path) -> Usage {
    let mut usage = Usage::default();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let below = match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => find(&entry.path()),
            metadata => Usage {
                bytes: metadata.len(),
                files: 1,
            },
        };
        usage = Usage {
            bytes: usage.bytes + below.bytes,
            files: usage.files + below.files,
        };
    }
    usage
}

fn check(component: StorageComponentType, path: &str, belongs: bool) {
    assert_eq!(has_place(component, path), belongs, "{component} {path}");
}

#[test]
fn e2_only_files_with_the_extensions_of_the_component_make_a_collection() {
    check(WAL, "000/00000000000000000001.avro", true);
    check(WAL, "001/1.bincode", true);
    check(WAL, "000/1.parquet", false);
    check(WAL, "000/manifest/1.json", false);
    check(VIPER, "000/a.parquet", true);
    check(VIPER, "000/a.vpr", true);
    check(VIPER, "000/manifest/1.json", true);
    check(VIPER, "000/manifest/deep/1.json", false);
    check(VIPER, "000/1.json", false);
    check(VIPER, "0000/a.parquet", false);
    check(VIPER, "x00/a.parquet", false);
    check(VIPER, "a.parquet", false);
    check(VIPER, "000/.parquet", false);
    check(StorageComponentType::Lsm, "000/a.sst", true);
    check(StorageComponentType::Lsm, "000/a.lsm", true);
    check(
        StorageComponentType::Lsm,
        "000/compacted/01M7Y2GZ08PF6D81GFJA668EM9.sst",
        true,
    );
    check(
        StorageComponentType::Lsm,
        "000/manifest/00000000000000000001.manifest",
        true,
    );
    check(
        StorageComponentType::Lsm,
        "000/compactions/00000000000000000001.compactions",
        true,
    );
    check(StorageComponentType::Lsm, "000/compacted/deep/a.sst", false);
    check(StorageComponentType::Lsm, "000/manifest/1.sst", false);
    check(StorageComponentType::Lsm, "x/compacted/a.sst", false);
    check(VIPER, "000/manifest/1.manifest", false);
    check(StorageComponentType::Index, "000/a.idx", true);
    check(StorageComponentType::Index, "000/a.hnsw", true);
    check(StorageComponentType::Index, "000/a.ivf", true);
    check(METADATA, "1.json", true);
    check(METADATA, "1.meta", true);
    check(METADATA, "000/1.json", false);
    check(METADATA, "readme.txt", false);
}

#[test]
fn e5_a_collection_directory_is_its_id_as_we_write_it() {
    let name = id(7).to_string();
    assert_eq!(collection_of(&name), Some(id(7)));
    // Ours are of version 7; any other UUID is as legal.
    for id in [
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "9b2e9c5e-0d3f-4b5c-8a47-1f0d6a3b2c11",
        "00000000-0000-0000-0000-000000000000",
    ] {
        assert_eq!(collection_of(id), Some(id.parse().unwrap()));
    }
    for other in [
        "",
        "readme",
        "_proximadb",
        &name.to_uppercase().replace('0', "A"),
        &name.replace('-', ""),
    ] {
        assert_eq!(collection_of(other), None, "{other}");
    }
}

#[tokio::test]
async fn e1_e4_collections_are_found_and_counted_as_find_and_du_do() {
    let dir = TempDir::new().unwrap();
    let names = [(WAL, "w0"), (WAL, "w1"), (WAL, "w2"), (WAL, "w3"), (METADATA, "m")];
    let roots = open(&dir, &names).await;
    for n in 0..11 {
        put(
            &dir,
            &format!("w{}/{}/000/00000000000000000001.avro", n % 4, id(n)),
            10 + n as usize,
        );
        put(&dir, &format!("w{}/{}/000/00000000000000000100.avro", n % 4, id(n)), 5);
        put(&dir, &format!("m/{}/00000000000000000001.json", id(n)), 3);
    }
    put(&dir, &format!("w0/{}/000/notes.txt", id(0)), 7);
    put(&dir, &format!("w1/{}/readme.txt", id(99)), 7);
    put(&dir, "w1/readme.txt", 7);
    put(&dir, &format!("w2/{}/000/00000000000000000200.avro#1", id(2)), 7);

    let discovery = discover(&roots).await;
    assert_eq!(discovery.collections().len(), 11);
    assert_eq!(discovery.failures().count(), 0);
    let strays: Vec<_> = discovery
        .roots
        .iter()
        .flat_map(|r| r.strays.iter().map(|s| s.path.clone()))
        .collect();
    assert_eq!(strays.len(), 3, "{strays:?}");
    let leftover = dir.path().join(format!("w2/{}/000/00000000000000000200.avro#1", id(2)));
    assert!(leftover.exists(), "it may be of a writer at work");
    remove_leftovers(&discovery).await;
    assert!(!leftover.exists());

    for found in &discovery.roots {
        for (collection, files) in &found.collections {
            let on_disk = find(&found.root.fs().local_file(&collection.to_string()).unwrap());
            assert_eq!((files.usage, found.root.usage_of(*collection)), (on_disk, on_disk));
        }
    }
    let files = discovery.files(roots.all()[0].id(), id(4)).unwrap();
    let paths: Vec<_> = files.by_shard()["000"]
        .iter()
        .map(|file| (file.path.as_str(), file.size))
        .collect();
    let expected = ["00000000000000000001", "00000000000000000100"].map(|seq| format!("{}/000/{seq}.avro", id(4)));
    assert_eq!(paths, [(expected[0].as_str(), 14), (expected[1].as_str(), 5)]);
    assert_eq!(
        discovery.files(roots.all()[4].id(), id(4)).unwrap().by_shard()[""].len(),
        1
    );
    assert_eq!(discovery.files(roots.all()[1].id(), id(4)), None);
    assert_eq!(roots.all()[4].usage(), Usage { bytes: 33, files: 11 });
}

#[tokio::test]
async fn e11_a_collection_on_two_roots_is_seen_with_the_larger_home_first() {
    let dir = TempDir::new().unwrap();
    let roots = open(&dir, &[(VIPER, "v0"), (VIPER, "v1"), (WAL, "w")]).await;
    put(&dir, &format!("v0/{}/000/a.parquet", id(1)), 10);
    put(&dir, &format!("v1/{}/000/b.parquet", id(1)), 20);
    put(&dir, &format!("v1/{}/000/manifest/1.json", id(2)), 1);
    let discovery = discover(&roots).await;
    let [v0, v1] = [roots.all()[0].id(), roots.all()[1].id()];
    let homes = discovery.homes(VIPER);
    assert_eq!((homes[&id(1)].clone(), homes[&id(2)].clone()), (vec![v1, v0], vec![v1]));
    assert!(discovery.homes(WAL).is_empty());
    assert_eq!((discovery.bytes_on(v0), discovery.bytes_on(v1)), (10, 21));
    let listed: Vec<_> = discovery
        .of_component(VIPER)
        .map(|(root, id, files)| (root.id(), id, files.len()))
        .collect();
    assert_eq!(listed, [(v0, id(1), 1), (v1, id(1), 1), (v1, id(2), 1)]);
}

#[tokio::test]
async fn e10_a_root_that_cannot_be_listed_is_unknown_and_offline_and_the_others_are_found() {
    let dir = TempDir::new().unwrap();
    let roots = open(&dir, &[(WAL, "w0"), (WAL, "w1")]).await;
    put(&dir, &format!("w0/{}/000/1.avro", id(1)), 1);
    put(&dir, &format!("w1/{}/000/1.avro", id(2)), 1);
    // The disk goes away after the roots were opened.
    std::fs::rename(dir.path().join("w1"), dir.path().join("w1.gone")).unwrap();
    let discovery = discover(&roots).await;
    assert_eq!(discovery.collections(), BTreeSet::from([id(1)]));
    let failures: Vec<_> = discovery
        .failures()
        .map(|(root, reason)| (root.id(), reason.to_owned()))
        .collect();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].0 == roots.all()[1].id() && failures[0].1.contains("mounted"),
        "{failures:?}"
    );
    assert!(matches!(roots.all()[1].state(), RootState::Offline { .. }));
    assert!(roots.all()[1].available().is_err());
    // Found again when it is back.
    std::fs::rename(dir.path().join("w1.gone"), dir.path().join("w1")).unwrap();
    let back = roots.probe().await.remove(0);
    assert!(discover_root(back).await.collections.contains_key(&id(2)));
}

#[tokio::test]
async fn e1_a_thousand_collections_take_as_many_listings_as_ten() {
    let dir = TempDir::new().unwrap();
    let roots = open(&dir, &[(WAL, "w0"), (WAL, "w1"), (WAL, "w2"), (WAL, "w3")]).await;
    let listings = || -> u64 {
        let counts = roots
            .all()
            .into_iter()
            .map(|root| root.fs().meter().stats(Op::List).count);
        counts.sum()
    };
    let mut made = 0;
    let mut counts = Vec::new();
    for total in [10, 1_000] {
        for n in made..total {
            put(&dir, &format!("w{}/{}/000/00000000000000000001.avro", n % 4, id(n)), 1);
        }
        made = total;
        let before = listings();
        assert_eq!(discover(&roots).await.collections().len() as u64, total);
        counts.push(listings() - before);
    }
    assert_eq!(counts, [4, 4]);
}

#[tokio::test]
async fn e3_what_is_discovered_of_a_component_is_recorded_with_the_service() {
    let dir = TempDir::new().unwrap();
    let roots = open(&dir, &[(VIPER, "v0"), (VIPER, "v1"), (WAL, "w")]).await;
    put(&dir, &format!("v0/{}/000/a.parquet", id(1)), 10);
    put(&dir, &format!("v1/{}/000/b.parquet", id(1)), 20);
    put(&dir, &format!("v0/{}/000/c.parquet", id(2)), 1);
    put(&dir, &format!("w/{}/000/00000000000000000001.avro", id(3)), 1);
    put(&dir, &format!("v0/{}/000/d.parquet", id(4)), 1);
    let discovery = discover(&roots).await;
    let config = crate::config::Config::load(None, std::iter::empty())
        .unwrap()
        .storage
        .viper
        .component;
    let service = AssignmentService::default();
    // The fourth has a record.
    let wanted = BTreeSet::from([id(1), id(2), id(3)]);
    assert_eq!(
        discovery.discover_and_record_assignments(VIPER, &config, &wanted, &service, 7),
        2
    );
    let [v0, v1] = [roots.all()[0].id(), roots.all()[1].id()];
    let placement = |n| Some(service.get_assignment(id(n), VIPER)?.placement);
    let first = placement(1).unwrap();
    assert_eq!((first.roots, first.also, first.assigned_at_ms), (vec![v1], vec![v0], 7));
    assert_eq!(placement(2).unwrap().all_roots(), [v0]);
    assert_eq!((placement(3), placement(4)), (None, None));
}

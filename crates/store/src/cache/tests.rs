#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::*;

const ENTRIES: usize = 24;

fn config(directory: &Path) -> CacheConfig {
    CacheConfig {
        memory_bytes: 64 << 20,
        directory: Some(directory.to_owned()),
        disk_bytes: 64 << 20,
    }
}

fn entry(number: usize) -> (String, Bytes) {
    let bytes: Vec<u8> = (0..60_000).map(|at| (at * 31 + number * 7) as u8).collect();
    (format!("s3://b/x {number}"), Bytes::from(bytes))
}

async fn filled(directory: &Path) -> Cache {
    let cache = Cache::open(&config(directory)).await.unwrap();
    for (key, bytes) in (0..ENTRIES).map(entry) {
        cache.insert(key, &bytes);
    }
    cache.settle().await;
    cache
}

/// How many entries are found; each is as it was inserted.
async fn found(cache: &Cache) -> usize {
    let mut count = 0;
    for (key, bytes) in (0..ENTRIES).map(entry) {
        if let Some(cached) = cache.get(&key).await {
            assert!(cached == bytes, "{key} is not what was inserted");
            count += 1;
        }
    }
    count
}

fn blocks(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory.join("blocks")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let cache = filled(directory.path()).await;
    assert_eq!(found(&cache).await, ENTRIES);
    assert!(cache.get("s3://b/y 0").await.is_none());
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.dropped), (ENTRIES as u64, 1, 0));
    assert!(stats.memory_bytes >= ENTRIES as u64 * 60_000);
    drop(cache);
    let cache = Cache::open(&config(directory.path())).await.unwrap();
    assert_eq!(cache.stats().disk_limit_bytes, 64 << 20);
    assert_eq!(found(&cache).await, ENTRIES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_directory_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    drop(filled(directory.path()).await);
    // Every 4 KiB page that holds anything: headers, keys, values, and the index of the file.
    for path in blocks(directory.path()) {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        for page in (0..bytes).step_by(4096 * 3) {
            let (at, mut byte) = (page + 1_000, [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
    }
    let cache = Cache::open(&config(directory.path())).await.unwrap();
    let found = found(&cache).await;
    assert!(found < ENTRIES, "none of the damaged entries was hit by a flip");
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_the_directory_can_be_deleted_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let cache = filled(directory.path()).await;
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(found(&cache).await, ENTRIES);
    cache.insert("s3://b/z 0".to_owned(), &Bytes::from_static(b"new"));
    cache.settle().await;
    assert_eq!(cache.get("s3://b/z 0").await.unwrap(), "new");
    drop(cache);
    let cache = Cache::open(&config(directory.path())).await.unwrap();
    assert_eq!(found(&cache).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_leaves_the_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = filled(&file.join("cache")).await;
    assert_eq!(cache.stats().disk_limit_bytes, 0);
    assert_eq!(found(&cache).await, ENTRIES);
    // As one that another process has.
    let first = filled(directory.path()).await;
    let second = Cache::open(&config(directory.path())).await.unwrap();
    assert_eq!(
        (first.stats().disk_limit_bytes, second.stats().disk_limit_bytes),
        (64 << 20, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_tiers_keep_their_limits() {
    let directory = tempfile::tempdir().unwrap();
    let small = CacheConfig {
        memory_bytes: 1 << 20,
        disk_bytes: 16 << 20,
        ..config(directory.path())
    };
    let cache = Cache::open(&small).await.unwrap();
    for number in 0..1_000 {
        cache.insert(format!("k {number}"), &entry(number).1);
    }
    cache.settle().await;
    assert!(cache.stats().memory_bytes <= 1 << 20, "{:?}", cache.stats());
    let on_disk: u64 = blocks(directory.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert!(on_disk <= 16 << 20, "{on_disk}");
    // What was read last is still there.
    assert_eq!(cache.get("k 999").await.unwrap(), entry(999).1);
}

//! A log over several roots, of which some are buckets: lanes, failover, moves.

use futures::FutureExt;
use std::collections::BTreeMap;

use proximadb_store::StorageUrl;

use super::*;
use crate::root::{RootConfig, Roots, StorageComponentType};

/// A directory and the root in it.
async fn disk() -> (tempfile::TempDir, Arc<Root>) {
    let directory = tempfile::tempdir().unwrap();
    let config = RootConfig {
        component: StorageComponentType::Wal,
        url: StorageUrl::parse(&format!("file://{}", directory.path().display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    let roots = Roots::open(vec![config], false).await.unwrap();
    let root = roots.of_component(StorageComponentType::Wal).remove(0);
    (directory, root)
}

async fn append(log: &Wal, numbers: std::ops::Range<u64>) {
    let calls = numbers.map(|id| log.append(vec![upsert(id)]));
    for outcome in futures::future::join_all(calls).await {
        outcome.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_log_is_striped_over_disks_and_buckets() {
    for buckets in [1, 2] {
        let mut place = Buckets::new(buckets);
        let (_directory, root) = disk().await;
        place.disks.push(root);
        // Small enough that every lane gets some.
        place.options.object_bytes = 1;
        place.options.max_batch_bytes = 1_000;
        let mut id = 0;
        for _ in 0..3 {
            let log = place.open(0).await.unwrap();
            assert_eq!(ids(&log.operations), (0..id).collect());
            for _ in 0..5 {
                append(&log.wal, id..id + 40).await;
                id += 40;
                // A bucket gets a block each 90 ms.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(log.applied.lock().is_sorted_by_key(|(seq, _)| *seq));
        }
        assert_eq!(place.found().await, (0..id).collect());
        for bucket in &place.buckets {
            assert!(
                bucket.creates.lock().len() > 5,
                "three fences, and a share of the blocks"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_log_fails_over_from_a_disk_to_a_bucket_and_from_a_bucket_to_a_disk() {
    let (_directory, root) = disk().await;
    for (from, to) in [(1, 0), (0, 1)] {
        let mut place = Buckets::new(1);
        place.disks.push(root.clone());
        place.options.stall = Duration::from_secs(3600);
        place.options.bucket_patience = Duration::from_secs(1);
        let spare: Arc<Mutex<Option<Arc<Root>>>> = Arc::default();
        let answer = spare.clone();
        place.spare = Some(Arc::new(move |_, _| {
            let root = answer.lock().clone();
            async move { root.ok_or_else(|| Error::Internal("none".into())) }.boxed()
        }));
        let log = place.open_on(&[from], 0).await.unwrap();
        *spare.lock() = Some(log.roots[to].clone());
        append(&log.wal, 0..3).await;
        if from == 1 {
            let failure = super::super::super::file::faults::Fault::Error(std::io::ErrorKind::Other);
            log.wal.faults().always("sync", Some(root.id()), failure);
        } else {
            *place.buckets[0].is_down.lock() = true;
        }
        // A call may hear of the trouble before the log has left the root.
        let early = log.wal.append(vec![upsert(3)]).await;
        append(&log.wal, 4..8).await;
        assert_eq!(log.wal.lanes(), [log.roots[to].id()], "{early:?}");
        *place.buckets[0].is_down.lock() = false;
        assert_eq!(ids(&log.applied.lock()), (0..8).collect());
        assert!(log.applied.lock().is_sorted_by_key(|(seq, _)| *seq));
        // And back.
        log.wal.faults().clear();
        log.wal.continue_on(vec![log.roots[from].clone()]).await.unwrap();
        append(&log.wal, 8..12).await;
        assert_eq!(log.wal.lanes(), [log.roots[from].id()]);
        drop(log);
        assert_eq!(place.found().await, (0..12).collect());
        root.fs().delete_dir(COLLECTION).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv10_a_log_moves_between_disks_and_buckets_while_it_is_written() {
    let mut place = Buckets::new(2);
    let (_directory, root) = disk().await;
    place.disks.push(root);
    let log = place.open_on(&[2], 0).await.unwrap();
    let wal = log.wal.clone();
    let writing = tokio::spawn(async move {
        for id in 0..25 {
            wal.append(vec![upsert(id)]).await.unwrap();
        }
    });
    for to in [0, 1, 0, 2, 1] {
        tokio::time::sleep(Duration::from_millis(250)).await;
        log.wal.continue_on(vec![log.roots[to].clone()]).await.unwrap();
        let files = place.files(&place.roots()[to..=to]).await;
        assert!(!files.is_empty(), "a file is there when it returns");
    }
    writing.await.unwrap();
    assert_eq!(ids(&log.applied.lock()), (0..25).collect());
    let last = log.wal.last_seq();
    log.wal.release(last).await.unwrap();
    for from in [0, 2] {
        log.wal.leave(&log.roots[from]).await.unwrap();
    }
    assert_eq!(log.wal.roots_in_use(), [log.roots[1].id()]);
    log.wal.append(vec![upsert(60)]).await.unwrap();
    drop(log);
    let again = place.open_on(&[1], last).await.unwrap();
    assert_eq!(ids(&again.operations), [60].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_log_moves_to_and_fro_between_buckets_and_disks() {
    let mut place = Buckets::new(2);
    let (_directory, root) = disk().await;
    place.disks.push(root);
    let log = place.open_on(&[0], 0).await.unwrap();
    for to in [1, 0, 0, 2, 1, 2, 0] {
        log.wal.continue_on(vec![log.roots[to].clone()]).await.unwrap();
    }
    drop(log);
    let log = place.open_on(&[0], 0).await.unwrap();
    assert!(log.operations.is_empty());
    for to in [2, 1, 0] {
        log.wal.continue_on(vec![log.roots[to].clone()]).await.unwrap();
    }
    log.wal.append(vec![upsert(1)]).await.unwrap();
    drop(log);
    assert_eq!(place.found().await, [1].into());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_closes_during_an_outage_answers_its_callers() {
    let place = Buckets::new(1);
    let log = place.open(0).await.unwrap();
    *place.buckets[0].is_down.lock() = true;
    let wal = log.wal.clone();
    let call = tokio::spawn(async move { wal.append(vec![upsert(1)]).await });
    let bucket = place.buckets[0].clone();
    let before = *bucket.requests.lock();
    eventually("a request", async || *bucket.requests.lock() > before).await;
    log.wal.close().await;
    assert!(call.await.unwrap().is_err());
    *place.buckets[0].is_down.lock() = false;
    place.found().await;
}

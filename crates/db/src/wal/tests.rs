//! Tests of the log as a whole: through `Wal`, on a temporary directory. Those of the bytes are in `tests/bytes.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bucket;
mod bytes;
mod failover;
mod failures;
mod formats;
mod lanes;
mod place;

use std::sync::Arc;

use parking_lot::Mutex;
use place::Place;

use super::*;
use crate::config::WalFormat;
use crate::patience::eventually;
use crate::point::{NamedVectors, Operation, Payload, Point, PointId};

const COLLECTION: &str = "01930000-0000-7000-8000-000000000001";

type Entries = Vec<(Seq, Operation)>;

fn upsert(id: u64) -> Operation {
    let mut vectors = NamedVectors::single(vec![id as f32, -0.5, f32::MIN_POSITIVE]);
    vectors.insert("title".into(), vec![0.25; 2]);
    let payload: Payload = serde_json::from_str(&format!(r#"{{"name":"päckage {id}","size":{id}}}"#)).unwrap();
    Operation::Upsert(Point {
        id: PointId::Num(id),
        vectors,
        payload,
    })
}

fn delete(id: u64) -> Operation {
    Operation::Delete(PointId::Num(id))
}

#[tokio::test]
async fn f5_an_acknowledged_append_is_on_disk_and_applied() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    assert_eq!(wal.append(vec![upsert(1), delete(2)]).await.unwrap(), 1..3);
    assert_eq!(wal.append(vec![upsert(3)]).await.unwrap(), 3..4);
    let expected = vec![(1, upsert(1)), (2, delete(2)), (3, upsert(3))];
    assert_eq!(*place.applied.lock(), expected);
    // No close: as after kill -9.
    assert_eq!(place.open(0).await.unwrap().1, expected);
    assert_eq!(place.open(2).await.unwrap().1, vec![(3, upsert(3))]);
}

#[tokio::test]
async fn f4_a_new_log_is_one_numbered_file_with_a_header_and_no_open_handle() {
    let place = Place::new().await;
    let (wal, replayed) = place.open(0).await.unwrap();
    assert_eq!(replayed, vec![]);
    assert_eq!(place.files().len(), 1);
    assert_eq!(place.files()[0].name, "00000000000000000001.avro");
    let bytes = std::fs::read(place.path(0)).unwrap();
    let summary = read_log_file("it", &bytes, &mut |_, _| panic!("no entry")).unwrap();
    assert!(summary.description.contains(COLLECTION));
    assert_eq!((summary.shard.as_str(), summary.end), ("000", FileEnd::Complete));
    assert!(wal.handle_is_closed());
    wal.append(vec![upsert(1)]).await.unwrap();
    assert!(!wal.handle_is_closed());
    wal.close().await;
    assert!(wal.handle_is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_concurrent_writers_share_commits_and_are_applied_in_the_order_of_their_numbers() {
    let place = Place::with(WalOptions {
        segment_bytes: 20_000,
        max_batch_bytes: 2_000,
        ..WalOptions::default()
    })
    .await;
    let (wal, _) = place.open(0).await.unwrap();
    let writers: Vec<_> = (0..32_u64)
        .map(|writer| {
            let wal = wal.clone();
            tokio::spawn(async move {
                for call in 0..20 {
                    let id = writer * 1000 + call * 10;
                    let numbers = wal.append(vec![upsert(id), upsert(id + 1), delete(id)]).await.unwrap();
                    assert_eq!(numbers.end - numbers.start, 3);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let applied = place.applied.lock().clone();
    assert!(applied.iter().map(|(seq, _)| *seq).eq(1..=32 * 20 * 3));
    let stats = wal.stats();
    assert!(
        stats.commits < 640,
        "{} commits for 640 calls: nothing was shared",
        stats.commits
    );
    assert!(stats.files > 3);
    // The operations of a call are neighbours.
    for call in applied.chunks(3) {
        assert_eq!(call[0].1.id(), call[2].1.id());
    }
    assert_eq!(place.open(0).await.unwrap().1, applied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_large_batches_are_applied_in_order_although_the_next_is_written_meanwhile() {
    let place = Place::with(WalOptions {
        max_batch_bytes: 300_000,
        ..WalOptions::default()
    })
    .await;
    let (wal, _) = place.open(0).await.unwrap();
    let call = |id: u64| {
        let vectors = NamedVectors::single(vec![id as f32; 80_000]);
        let point = Point {
            id: PointId::Num(id),
            vectors,
            payload: Payload::new(),
        };
        wal.append(vec![Operation::Upsert(point), delete(id)])
    };
    let numbers = futures::future::join_all((0..60).map(call)).await;
    assert!(numbers.into_iter().all(|numbers| numbers.is_ok()));
    assert!(place.applied.lock().iter().map(|(seq, _)| *seq).eq(1..=120));
    assert_eq!(
        wal.stats().commits,
        60,
        "each call is a batch of its own, large enough to be handed over"
    );
    assert_eq!(place.replayed(0).await.len(), 120);
}

#[tokio::test]
async fn f9_statistics_equal_the_disk() {
    let place = Place::with(WalOptions {
        segment_bytes: 3_000,
        max_batch_bytes: 1_000,
        ..WalOptions::default()
    })
    .await;
    let (wal, _) = place.open(0).await.unwrap();
    let check = || {
        let files = place.files();
        let stats = wal.stats();
        assert_eq!(
            (stats.files, stats.bytes),
            (files.len() as u64, files.iter().map(|file| file.bytes).sum())
        );
        stats
    };
    check();
    for id in 1..=50 {
        wal.append(vec![upsert(id)]).await.unwrap();
        check();
    }
    let stats = check();
    assert_eq!((stats.last_seq, stats.appended_entries, stats.commits), (50, 50, 50));
    wal.roll(0).await.unwrap();
    check();
    wal.release(20).await.unwrap();
    check();
    wal.close().await;
    check();
}

#[tokio::test]
async fn f12_release_deletes_only_files_whose_every_entry_is_flushed_and_never_the_newest() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    let first = |at: usize| place.files()[at].name.trim_start_matches('0').to_owned();
    for _ in 0..3 {
        wal.append(vec![upsert(1), upsert(2)]).await.unwrap();
        wal.roll(0).await.unwrap();
    }
    assert_eq!(place.files().len(), 4);
    assert_eq!(wal.release(0).await.unwrap(), 0);
    assert_eq!(wal.release(1).await.unwrap(), 0);
    assert!(wal.release(3).await.unwrap() > 0);
    assert_eq!((place.files().len(), first(0)), (3, "3.avro".to_owned()));
    assert_eq!(place.replayed(3).await, vec![4, 5, 6]);
    wal.release(1_000).await.unwrap();
    assert_eq!((place.files().len(), first(0)), (1, "7.avro".to_owned()));
    // The numbers go on, in the process and after a restart.
    assert_eq!(wal.append(vec![upsert(7)]).await.unwrap(), 7..8);
    let (wal, replayed) = place.open(6).await.unwrap();
    assert_eq!(replayed, vec![(7, upsert(7))]);
    assert_eq!(wal.append(vec![upsert(8)]).await.unwrap(), 8..9);
}

#[tokio::test]
async fn roll_leaves_an_empty_or_a_small_file_alone() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.roll(0).await.unwrap();
    assert_eq!(place.files().len(), 1);
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.roll(1 << 20).await.unwrap();
    assert_eq!(place.files().len(), 1);
    wal.roll(0).await.unwrap();
    wal.roll(0).await.unwrap();
    assert_eq!(place.files().len(), 2);
}

#[tokio::test]
async fn f12_large_files_end_with_the_next_block_and_nobody_waits_for_it() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.end_large_files(1 << 20);
    wal.append(vec![upsert(2)]).await.unwrap();
    assert_eq!(place.files().len(), 1, "it is small");
    wal.end_large_files(1);
    assert_eq!(place.files().len(), 1, "nothing was written since");
    wal.append(vec![upsert(3)]).await.unwrap();
    wal.append(vec![upsert(4)]).await.unwrap();
    assert_eq!(place.files().len(), 2);
    assert_eq!(place.replayed(0).await, vec![1, 2, 3, 4]);
    assert!(wal.release(2).await.unwrap() > 0);
    assert_eq!(place.replayed(2).await, vec![3, 4]);
}

#[tokio::test]
async fn f8_flushed_files_are_not_read_again() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.roll(0).await.unwrap();
    wal.append(vec![upsert(2)]).await.unwrap();
    std::fs::write(place.path(0), b"unreadable").unwrap();
    assert_eq!(place.replayed(1).await, vec![2]);
    assert!(place.open(0).await.is_err());
}

#[tokio::test]
async fn a_flush_that_is_ahead_of_the_log_goes_on_in_a_new_file() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.close().await;
    let (wal, replayed) = place.open(10).await.unwrap();
    assert_eq!(replayed, vec![]);
    assert_eq!(wal.append(vec![upsert(11)]).await.unwrap(), 11..12);
    assert_eq!(place.replayed(10).await, vec![11]);
    // Without the flushed data the numbers 2 to 10 are lost, and that is said.
    let error = place.open(0).await.err().unwrap();
    assert!(error.to_string().contains("entries 2 to 10 are missing"), "{error}");
}

#[tokio::test]
async fn f3_one_huge_call_is_one_block() {
    let place = Place::with(WalOptions {
        segment_bytes: 4_000,
        max_batch_bytes: 1_000,
        ..WalOptions::default()
    })
    .await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append((1..=500).map(upsert).collect()).await.unwrap();
    wal.append(vec![delete(1)]).await.unwrap();
    assert_eq!(wal.stats().commits, 2);
    wal.close().await;
    let bytes = std::fs::read(place.path(0)).unwrap();
    let summary = read_log_file("it", &bytes, &mut |_, _| {}).unwrap();
    assert_eq!((summary.blocks, summary.upserts, summary.deletes), (1, 500, 0));
    assert_eq!(place.replayed(0).await.len(), 501);
}

#[tokio::test]
async fn an_empty_call_writes_nothing() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    assert_eq!(wal.append(vec![]).await.unwrap(), 1..1);
    assert_eq!(wal.stats().commits, 0);
}

#[tokio::test]
async fn later_files_carry_the_new_description() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    let renamed = format!(r#"{{"id":"{COLLECTION}","name":"renamed"}}"#);
    wal.set_description(renamed.clone()).await.unwrap();
    wal.roll(0).await.unwrap();
    let bytes = std::fs::read(place.path(1)).unwrap();
    assert_eq!(
        read_log_file("it", &bytes, &mut |_, _| {}).unwrap().description,
        renamed
    );
}

#[tokio::test]
async fn a_closed_log_refuses_and_leaves_a_file_without_zeros() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.close().await;
    wal.close().await;
    assert!(matches!(wal.append(vec![upsert(2)]).await, Err(Error::Internal(_))));
    let bytes = std::fs::read(place.path(0)).unwrap();
    let summary = read_log_file("it", &bytes, &mut |_, _| {}).unwrap();
    assert_eq!(
        (summary.end, summary.valid_bytes),
        (FileEnd::Complete, bytes.len() as u64)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_neither_loses_nor_doubles_anything() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    for id in 0..200 {
        let mut append = Box::pin(wal.append(vec![upsert(id)]));
        // Polled once: the operation is queued, then the caller is cancelled. (Without the yield tokio's budget would
        // keep the future from getting so far.)
        let _ = futures::poll!(&mut append);
        drop(append);
        tokio::task::yield_now().await;
    }
    wal.append(vec![upsert(200)]).await.unwrap();
    let expected: Entries = (0..=200).map(|id| (id + 1, upsert(id))).collect();
    assert!(*place.applied.lock() == expected);
    assert!(place.open(0).await.unwrap().1 == expected);
}

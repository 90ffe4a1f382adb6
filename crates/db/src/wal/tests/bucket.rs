//! Tests of a log on buckets (F13), over stores in memory that fail as real ones do. Time is virtual.

mod fencing;
mod random;
mod roots;
mod servers;
mod store;

use std::time::Duration;

use store::{Buckets, Fault, ids};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn f13_every_group_commit_is_one_object_that_describes_itself_and_stock_readers_open() {
    let place = Buckets::new(1);
    let log = place.open(0).await.unwrap();
    let first = log.wal.append(vec![upsert(1), delete(2)]).await.unwrap();
    let second = log.wal.append(vec![upsert(3)]).await.unwrap();
    let names = place.names().await;
    let expected = [1, first.start, second.start].map(|seq| format!("{seq:020}.avro"));
    assert_eq!(names, expected);
    assert_eq!(
        (
            first.end,
            *log.applied.lock()
                == vec![
                    (first.start, upsert(1)),
                    (first.start + 1, delete(2)),
                    (second.start, upsert(3))
                ]
        ),
        (second.start, true)
    );
    for (name, entries) in names.iter().zip([0, 2, 1]) {
        let bytes = place.buckets[0].bytes(name).await;
        let summary = read_log_file(name, &bytes, &mut |_, _| ()).unwrap();
        assert_eq!(
            (summary.upserts + summary.deletes, summary.end),
            (entries, FileEnd::Complete)
        );
        assert!(summary.description.contains(COLLECTION));
        let reader = apache_avro::Reader::new(&bytes[..]).unwrap();
        let keys: Vec<String> = reader.user_metadata().keys().cloned().collect();
        for key in ["proximadb.writer", "proximadb.epoch", "proximadb.fence"] {
            assert!(keys.contains(&key.to_owned()), "{keys:?}");
        }
        assert_eq!(reader.map(Result::unwrap).count() as u64, entries);
    }
    assert_eq!(place.open(0).await.unwrap().operations, *log.applied.lock());
}

#[tokio::test(start_paused = true)]
async fn f2_the_same_in_bincode_and_in_both_formats_side_by_side() {
    let mut place = Buckets::new(1);
    let mut expected = Vec::new();
    for (format, id) in [WalFormat::Bincode, WalFormat::Avro, WalFormat::Bincode]
        .into_iter()
        .zip(1..)
    {
        place.format = format;
        let log = place.open(0).await.unwrap();
        assert_eq!(log.operations, expected);
        let numbers = log.wal.append(vec![upsert(id)]).await.unwrap();
        expected.push((numbers.start, upsert(id)));
        // A writer of either format is stopped by the next one.
        if let Some(other) = [WalFormat::Avro, WalFormat::Bincode]
            .into_iter()
            .find(|other| *other != format)
        {
            place.format = other;
        }
        let next = place.open(0).await.unwrap();
        assert_eq!(next.operations, expected);
        assert!(log.wal.append(vec![upsert(99)]).await.is_err());
    }
    assert_eq!(place.open(0).await.unwrap().operations, expected);
}

#[tokio::test(start_paused = true)]
async fn f13_a_lost_answer_is_read_back_and_acknowledged_once() {
    let cases: [(&str, Vec<Fault>, usize); 7] = [
        ("refused", vec![Fault::Fails], 0),
        ("applied, answer lost", vec![Fault::Lost], 0),
        ("applied, then exists", vec![Fault::Exists], 0),
        ("applied, unreadable for a while", vec![Fault::Lost], 5),
        ("exists, unreadable for a while", vec![Fault::Exists], 3),
        ("refused and unreadable", vec![Fault::Fails, Fault::Lost], 4),
        ("fails often", vec![Fault::Fails; 12], 0),
    ];
    for (case, faults, unreadable) in cases {
        let place = Buckets::new(1);
        let log = place.open(0).await.unwrap();
        log.wal.append(vec![upsert(1)]).await.unwrap();
        place.buckets[0].plan(faults);
        *place.buckets[0].unreadable.lock() = unreadable;
        let calls = (2..6).map(|id| log.wal.append(vec![upsert(id)]));
        for outcome in futures::future::join_all(calls).await {
            outcome.unwrap_or_else(|error| panic!("{case}: {error}"));
        }
        assert_eq!(ids(&log.applied.lock()), (1..6).collect(), "{case}");
        assert_eq!(log.applied.lock().len(), 5, "{case}: applied once");
        assert_eq!(place.open(0).await.unwrap().operations, *log.applied.lock(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn f13_during_an_outage_callers_hear_of_it_nothing_is_lost_and_writes_go_on_by_themselves() {
    let place = Buckets::new(1);
    let log = place.open(0).await.unwrap();
    log.wal.append(vec![upsert(1)]).await.unwrap();
    *place.buckets[0].is_down.lock() = true;
    let began = Instant::now();
    let error = log.wal.append(vec![upsert(2)]).await.unwrap_err();
    assert!(matches!(error, Error::RootUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("may still succeed"), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert_eq!(log.applied.lock().len(), 1, "nobody knows yet");
    *place.buckets[0].is_down.lock() = false;
    log.wal.append(vec![upsert(3)]).await.unwrap();
    assert_eq!(ids(&log.applied.lock()), (1..4).collect());
    assert_eq!(place.found().await, (1..4).collect());
}

#[tokio::test(start_paused = true)]
async fn f13_several_puts_are_in_flight_and_acknowledged_in_order() {
    let mut place = Buckets::new(1);
    place.options.object_bytes = 1;
    let log = place.open(0).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    place.buckets[0].plan([Fault::Held(gate.clone())]);
    let bucket = place.buckets[0].clone();
    let mut calls = Vec::new();
    for id in 1..6 {
        let wal = log.wal.clone();
        calls.push(tokio::spawn(async move { wal.append(vec![upsert(id)]).await }));
        // After the fence, a block of its own.
        eventually("a create", async || bucket.creates.lock().len() > id as usize).await;
    }
    assert!(log.applied.lock().is_empty() && calls.iter().all(|call| !call.is_finished()));
    gate.add_permits(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(log.applied.lock().is_sorted_by_key(|(seq, _)| *seq));
    assert_eq!(place.found().await, (1..6).collect());
}

#[tokio::test(start_paused = true)]
async fn f13_64_writers_make_at_most_12_requests_a_second_and_an_idle_log_none() {
    let place = Buckets::new(1);
    let log = place.open(0).await.unwrap();
    *place.buckets[0].latency.lock() = Duration::from_millis(50);
    let began = Instant::now();
    let writers: Vec<_> = (0..64_u64)
        .map(|writer| {
            let wal = log.wal.clone();
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                for call in 0..30 {
                    let began = Instant::now();
                    wal.append(vec![upsert(writer * 1000 + call)]).await.unwrap();
                    slowest = slowest.max(began.elapsed());
                }
                slowest
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let (seconds, requests) = (
        began.elapsed().as_secs_f64(),
        place.buckets[0].creates.lock().len() as f64,
    );
    assert!(requests <= 12.0 * seconds + 3.0, "{requests} in {seconds} s");
    assert!(
        log.wal.stats().commits < 200,
        "{} objects for 1,920 calls",
        log.wal.stats().commits
    );
    let before = *place.buckets[0].requests.lock();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(*place.buckets[0].requests.lock(), before, "idle");
    assert!(log.wal.shared.log.lock().alarm.is_none());
}

#[tokio::test(start_paused = true)]
async fn f13_a_larger_size_makes_fewer_objects() {
    let mut counts = Vec::new();
    for object_bytes in [2_000, 200_000] {
        let mut place = Buckets::new(1);
        place.options.object_bytes = object_bytes;
        let log = place.open(0).await.unwrap();
        *place.buckets[0].latency.lock() = Duration::from_millis(20);
        for round in 0..40 {
            let calls = (0..20).map(|id| log.wal.append(vec![upsert(round * 100 + id)]));
            futures::future::try_join_all(calls).await.unwrap();
        }
        counts.push(log.wal.stats().commits);
    }
    assert!(counts[1] <= counts[0], "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn f8_a_missing_or_damaged_object_is_reported_and_not_skipped() {
    let place = Buckets::new(1);
    let log = place.open(0).await.unwrap();
    for id in 1..5 {
        log.wal.append(vec![upsert(id)]).await.unwrap();
    }
    drop(log);
    let names = place.names().await;
    let whole = place.buckets[0].bytes(&names[3]).await;
    for length in 0..whole.len() {
        place.buckets[0].replace(&names[3], whole[..length].to_vec()).await;
        let error = place.open(0).await.err().unwrap_or_else(|| panic!("cut to {length}"));
        assert!(
            matches!(error, Error::Corruption(_)) && error.to_string().contains(&names[3]),
            "{error}"
        );
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        place.buckets[0].replace(&names[3], bytes).await;
        let error = place.open(0).await.err().unwrap_or_else(|| panic!("flipped at {at}"));
        assert!(matches!(error, Error::Corruption(_)), "{error}");
    }
    place.buckets[0].lose(&names[3]).await;
    let error = place.open(0).await.err().expect("an object in the middle is missing");
    assert!(
        error
            .to_string()
            .contains("are missing, although they were acknowledged"),
        "{error}"
    );
    assert_eq!(place.names().await.len(), 4, "nothing was written or deleted");
}

#[tokio::test(start_paused = true)]
async fn f12_release_deletes_what_is_flushed_and_never_a_fence() {
    let place = Buckets::new(1);
    let mut last = 0;
    for id in 1..4 {
        let log = place.open(last).await.unwrap();
        last = log.wal.append(vec![upsert(id)]).await.unwrap().start;
        let kept = log.wal.append(vec![upsert(10 + id)]).await.unwrap().start;
        assert!(log.wal.release(last).await.unwrap() > 0);
        assert!(place.names().await.contains(&format!("{kept:020}.avro")));
        last = kept;
        // Not released before the crash.
    }
    let log = place.open(last).await.unwrap();
    log.wal.release(last).await.unwrap();
    let names = place.names().await;
    assert_eq!(
        names.len(),
        5,
        "a fence of each opening, and the newest block: {names:?}"
    );
    let stats = log.wal.stats();
    assert_eq!(stats.files, 5);
    log.wal.append(vec![upsert(9)]).await.unwrap();
    log.wal.release(last).await.unwrap();
    assert_eq!(place.names().await.len(), 5, "the newest block is another one now");
    let begins = log_begins(&format!("{COLLECTION}/000"), &place.files(&log.roots).await)
        .await
        .unwrap();
    assert_eq!(begins, Some(log.wal.last_seq()));
    assert_eq!(place.open(last).await.unwrap().operations.len(), 1);
}

//! Two writers of one log: the older one acknowledges nothing any more, and nothing of it comes back.

use super::*;

fn assert_fenced(error: &Error) {
    assert!(matches!(error, Error::RootUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("fenced"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn inv11_a_stalled_writer_is_stopped_with_a_clear_error_and_acknowledges_nothing() {
    for format in WalFormat::ALL {
        let mut place = Buckets::new(1);
        place.format = format;
        let old = place.open(0).await.unwrap();
        old.wal.append(vec![upsert(1)]).await.unwrap();
        let new = place.open(0).await.unwrap();
        assert_eq!(ids(&new.operations), [1].into());
        let error = old.wal.append(vec![upsert(2)]).await.unwrap_err();
        assert_fenced(&error);
        // For good.
        assert_fenced(&old.wal.append(vec![upsert(3)]).await.unwrap_err());
        new.wal.append(vec![upsert(4)]).await.unwrap();
        assert_eq!(ids(&old.applied.lock()), [1].into());
        assert_eq!(place.found().await, [1, 4].into());
        old.wal.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn inv11_every_writer_is_stopped_by_the_next_also_when_nothing_was_written() {
    let place = Buckets::new(1);
    let mut logs = Vec::new();
    for _ in 0..4 {
        logs.push(place.open(0).await.unwrap());
    }
    let last = logs.pop().unwrap();
    for old in &logs {
        assert_fenced(&old.wal.append(vec![upsert(1)]).await.unwrap_err());
    }
    last.wal.append(vec![upsert(2)]).await.unwrap();
    for old in &logs {
        assert_fenced(&old.wal.append(vec![upsert(3)]).await.unwrap_err());
    }
    assert_eq!(place.found().await, [2].into());
}

#[tokio::test(start_paused = true)]
async fn inv7_blocks_behind_a_hole_are_discarded_and_never_come_back() {
    // Blocks 1 and 3 arrive, 2 is on its way when the process dies, and arrives late.
    for late_arrives_after in 0..3 {
        let mut place = Buckets::new(1);
        place.options.object_bytes = 1;
        let old = place.open(0).await.unwrap();
        old.wal.append(vec![upsert(1)]).await.unwrap();
        let (gate, behind) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        place.buckets[0].plan([Fault::Late(gate.clone()), Fault::None, Fault::Late(behind.clone())]);
        let mut calls = Vec::new();
        for id in 2..5 {
            let wal = old.wal.clone();
            calls.push(tokio::spawn(async move { wal.append(vec![upsert(id)]).await }));
            let bucket = place.buckets[0].clone();
            eventually("a create", async || bucket.creates.lock().len() > id as usize).await;
        }
        let before = place.names().await.len();
        assert_eq!(before, 3, "the fence, the first block, the third");
        let release = |step| {
            if step == late_arrives_after {
                gate.add_permits(1);
                behind.add_permits(1);
            }
        };
        let new = place.open(0).await.unwrap();
        assert_eq!(ids(&new.operations), [1].into());
        release(0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let newer = place.open(0).await.unwrap();
        assert_eq!(ids(&newer.operations), [1].into());
        release(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        newer.wal.append(vec![upsert(9)]).await.unwrap();
        release(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(place.found().await, [1, 9].into());
        for call in calls {
            assert!(call.await.unwrap().is_err(), "not acknowledged");
        }
        assert_eq!(place.found().await, [1, 9].into());
    }
}

/// A log that is opened with the listing of an earlier moment, and not taken over yet; what it has read, and what it applies later.
async fn open_late(place: &Buckets, files: Vec<WalFile>, confirm: Confirm) -> (Wal, Entries, Arc<Mutex<Entries>>) {
    let (roots, late) = (place.roots(), Arc::<Mutex<Entries>>::default());
    let memory = late.clone();
    let start = WalStart {
        lanes: roots.clone(),
        spare: None,
        directory: format!("{COLLECTION}/000"),
        description: format!(r#"{{"id":"{COLLECTION}","name":"packages"}}"#),
        files,
        roots,
        after: 0,
        format: WalFormat::Avro,
        options: place.options,
        apply: Arc::new(move |operations| memory.lock().extend(operations)),
        confirm: Some(confirm),
    };
    let mut operations = Vec::new();
    let wal = Wal::open(start, &mut |seq, operation| operations.push((seq, operation)))
        .await
        .unwrap();
    (wal, operations, late)
}

#[tokio::test(start_paused = true)]
async fn inv11_a_block_that_arrives_between_listing_and_fence_counts() {
    let place = Buckets::new(1);
    let old = place.open(0).await.unwrap();
    old.wal.append(vec![upsert(1)]).await.unwrap();
    let files = place.files(&place.roots()).await;
    old.wal.append(vec![upsert(2)]).await.unwrap();
    let (new, operations, late) = open_late(&place, files, Arc::new(|| Box::pin(async { Ok(()) }))).await;
    assert_eq!(ids(&operations), [1].into());
    // To read it nobody has to be stopped.
    old.wal.append(vec![upsert(3)]).await.unwrap();
    new.append(vec![upsert(5)]).await.unwrap();
    assert_eq!(ids(&late.lock()), [2, 3, 5].into());
    assert_fenced(&old.wal.append(vec![upsert(4)]).await.unwrap_err());
    assert_eq!(place.found().await, [1, 2, 3, 5].into());
}

#[tokio::test(start_paused = true)]
async fn inv11_a_log_whose_blocks_were_flushed_and_deleted_meanwhile_is_never_written() {
    let place = Buckets::new(1);
    let old = place.open(0).await.unwrap();
    old.wal.append(vec![upsert(1)]).await.unwrap();
    let files = place.files(&place.roots()).await;
    let outdated = || Error::NotFound("another process has flushed".to_owned());
    let confirm: Confirm = Arc::new(move || Box::pin(async move { Err(outdated()) }));
    let (new, operations, late) = open_late(&place, files, confirm).await;
    let flushed = old.wal.append(vec![upsert(2)]).await.unwrap().start;
    old.wal.append(vec![upsert(3)]).await.unwrap();
    old.wal.release(flushed).await.unwrap();
    for id in [7, 8] {
        assert!(matches!(new.append(vec![upsert(id)]).await, Err(Error::NotFound(_))));
    }
    assert_eq!((ids(&operations), late.lock().len()), ([1].into(), 0));
    old.wal.append(vec![upsert(4)]).await.unwrap();
    let found = place.open(flushed).await.unwrap();
    assert_eq!(ids(&found.operations), [3, 4].into());
}

#[tokio::test(start_paused = true)]
async fn inv11_two_that_open_at_the_same_time_end_as_one_writer() {
    for buckets in [1, 2] {
        let place = Buckets::new(buckets);
        *place.buckets[0].latency.lock() = Duration::from_millis(5);
        place.open(0).await.unwrap().wal.append(vec![upsert(1)]).await.unwrap();
        let (a, b) = futures::join!(place.open(0), place.open(0));
        let logs = [a.unwrap(), b.unwrap()];
        let calls = futures::future::join_all([2, 3].map(|id| {
            let log = &logs[id as usize - 2];
            log.wal.append(vec![upsert(id)])
        }));
        let outcomes = calls.await;
        let acknowledged: Vec<u64> = (2..4).filter(|id| outcomes[*id as usize - 2].is_ok()).collect();
        assert_eq!(acknowledged.len(), 1, "{outcomes:?}");
        assert_eq!(place.found().await, [1, acknowledged[0]].into());
    }
}

#[tokio::test(start_paused = true)]
async fn inv11_a_writer_whose_root_was_left_notices_it() {
    let place = Buckets::new(2);
    let old = place.open_on(&[0], 0).await.unwrap();
    let last = old.wal.append(vec![upsert(1)]).await.unwrap().start;
    let new = place.open_on(&[0], last).await.unwrap();
    let from = new.roots[0].clone();
    new.wal.continue_on(vec![new.roots[1].clone()]).await.unwrap();
    new.wal.append(vec![upsert(2)]).await.unwrap();
    new.wal.release(last).await.unwrap();
    let error = new.wal.leave(&from).await.unwrap_err();
    assert!(
        matches!(error, Error::Overloaded(_)) && error.to_string().contains("waits"),
        "{error}"
    );
    tokio::time::sleep(place.options.licence + Duration::from_secs(1)).await;
    new.wal.leave(&from).await.unwrap();
    assert!(place.files(&place.roots()[..1]).await.is_empty(), "nothing is left");
    assert_eq!(new.wal.roots_in_use(), [new.roots[1].id()]);
    // No fence is in its way any more.
    assert_fenced(&old.wal.append(vec![upsert(3)]).await.unwrap_err());
    assert_eq!(ids(&old.applied.lock()), [1].into());
}

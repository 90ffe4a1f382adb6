//! Tests of crashes and failing disks, through `Wal`.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::file::ActiveFile;
use super::super::file::faults::{Fault, Planned};
use super::*;

impl Wal {
    /// Lets the next `step` ("create", "write", "grow", "sync") fail.
    fn fail_next(&self, step: &'static str, kind: ErrorKind) {
        self.faults().once(step, None, Fault::Error(kind));
    }

    pub(super) fn faults(&self) -> Planned {
        self.log_for_test(|log| log.faults.planned.clone())
    }

    pub(super) fn handle_is_closed(&self) -> bool {
        self.with_active(|file| file.handle.is_none()).unwrap_or(true)
    }

    fn with_active<T>(&self, look: impl FnOnce(&mut ActiveFile) -> T) -> Option<T> {
        self.log_for_test(|log| log.lanes[0].file.as_mut().map(look))
    }
}

#[tokio::test]
async fn f8_replay_survives_a_cut_of_the_last_file_at_every_byte_and_writing_goes_on() {
    let origin = Place::new().await;
    let (wal, _) = origin.open(0).await.unwrap();
    wal.append(vec![upsert(1), upsert(2)]).await.unwrap();
    wal.roll(0).await.unwrap();
    let header = origin.files()[1].bytes as usize;
    wal.append(vec![upsert(3)]).await.unwrap();
    let first_block = wal.with_active(|file| file.end).unwrap() as usize;
    wal.append(vec![upsert(4), delete(1)]).await.unwrap();
    let second_block = wal.with_active(|file| file.end).unwrap() as usize;
    wal.close().await;
    let (sealed, last) = (
        std::fs::read(origin.path(0)).unwrap(),
        std::fs::read(origin.path(1)).unwrap(),
    );
    let names: Vec<String> = origin.files().into_iter().map(|file| file.name).collect();
    for cut in header..=last.len() {
        let place = Place::new().await;
        std::fs::create_dir_all(place.directory()).unwrap();
        std::fs::write(place.directory().join(&names[0]), &sealed).unwrap();
        std::fs::write(place.directory().join(&names[1]), &last[..cut]).unwrap();
        let expected: Vec<Seq> = match cut {
            cut if cut >= second_block => vec![1, 2, 3, 4, 5],
            cut if cut >= first_block => vec![1, 2, 3],
            _ => vec![1, 2],
        };
        let (wal, replayed) = place.open(0).await.unwrap();
        assert!(
            replayed.iter().map(|(seq, _)| *seq).eq(expected.iter().copied()),
            "cut at {cut}"
        );
        let kept = if cut == last.len() {
            cut
        } else {
            [header, first_block, second_block, second_block][expected.len() - 2]
        };
        assert_eq!(
            place.files()[1].bytes as usize,
            kept,
            "the torn tail is cut, nothing else; cut at {cut}"
        );
        let next = expected.len() as u64 + 1;
        assert_eq!(wal.append(vec![upsert(9)]).await.unwrap(), next..next + 1);
        assert!(place.replayed(0).await.into_iter().eq(1..=next), "cut at {cut}");
    }
}

#[tokio::test]
async fn f8_damage_in_the_middle_stops_the_open_and_changes_no_file() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    for id in 1..=3 {
        wal.append(vec![upsert(id)]).await.unwrap();
    }
    let path = place.path(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = wal.with_active(|file| file.end).unwrap() as usize;
    bytes[end / 2 + 200] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let Err(Error::Corruption(message)) = place.open(0).await.map(|_| ()) else {
        panic!("damage was not noticed")
    };
    assert!(message.contains("00000000000000000001.avro at offset "), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn f8_a_missing_file_in_the_middle_is_corruption() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    for id in 1..=3 {
        wal.append(vec![upsert(id)]).await.unwrap();
        wal.roll(0).await.unwrap();
    }
    std::fs::remove_file(place.path(1)).unwrap();
    let error = place.open(0).await.err().unwrap();
    assert!(matches!(error, Error::Corruption(_)));
    assert!(error.to_string().contains("entries 2 to 2 are missing"), "{error}");
    assert!(error.to_string().contains("00000000000000000003.avro"), "{error}");
    // Flushed entries are not missed.
    assert_eq!(place.replayed(2).await, vec![3]);
}

#[tokio::test]
async fn f8_a_sealed_file_that_lost_its_end_is_corruption() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.append(vec![upsert(2)]).await.unwrap();
    let kept = wal.with_active(|file| file.end).unwrap() as usize - 10;
    wal.roll(0).await.unwrap();
    wal.append(vec![upsert(3)]).await.unwrap();
    let bytes = std::fs::read(place.path(0)).unwrap();
    std::fs::write(place.path(0), &bytes[..kept]).unwrap();
    let error = place.open(0).await.err().unwrap();
    assert!(error.to_string().contains("entries 2 to 2 are missing"), "{error}");
    assert_eq!(
        std::fs::metadata(place.path(0)).unwrap().len() as usize,
        kept,
        "nothing was cut"
    );
}

#[tokio::test]
async fn f8_a_file_of_another_collection_is_refused() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    let mut start = place.start(0);
    start.directory = "01930000-0000-7000-8000-000000000002/000".to_owned();
    let directory = place.root().join(&start.directory);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(place.path(0), directory.join("00000000000000000001.avro")).unwrap();
    let error = Wal::open(start, &mut |_, _| {}).await.err().unwrap();
    assert!(error.to_string().contains("belongs to"), "{error}");
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    for step in ["write", "sync", "create"] {
        let place = Place::new().await;
        let (wal, _) = place.open(0).await.unwrap();
        wal.append(vec![upsert(1)]).await.unwrap();
        if step == "create" {
            // The next file is needed because the one before has failed.
            wal.fail_next("write", ErrorKind::StorageFull);
            wal.append(vec![upsert(2)]).await.unwrap_err();
        }
        for _ in 0..3 {
            wal.fail_next(step, ErrorKind::StorageFull);
            let error = wal.append(vec![upsert(2), upsert(3)]).await.unwrap_err();
            assert!(matches!(error, Error::StorageFull { .. }), "{step}: {error}");
        }
        assert_eq!(wal.last_seq(), 1);
        assert!(place.files().len() <= 2, "{step}: a full disk gathers no files");
        // Space returns. The failed numbers are not used again, and replay does not miss them.
        let numbers = wal.append(vec![upsert(4)]).await.unwrap();
        assert!(numbers.start > 2, "{step}");
        assert!(
            place.applied.lock().iter().map(|(seq, _)| *seq).eq([1, numbers.start]),
            "{step}"
        );
        assert_eq!(place.replayed(0).await, vec![1, numbers.start], "{step}");
        let (wal, _) = place.open(0).await.unwrap();
        assert_eq!(wal.append(vec![upsert(5)]).await.unwrap().start, numbers.end);
        assert_eq!(place.replayed(0).await, vec![1, numbers.start, numbers.end], "{step}");
    }
}

#[tokio::test]
async fn an_entry_that_failed_but_reached_the_disk_stays_failed() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    let path = place.path(0);
    wal.fail_next("sync", ErrorKind::Other);
    let before = wal.append(vec![upsert(2)]).await.unwrap_err();
    assert!(matches!(before, Error::RootUnavailable { .. }), "{before}");
    wal.append(vec![upsert(3)]).await.unwrap();
    // The cut of the failed file did not reach the disk either.
    let (mut bytes, marker) = wal.log_for_test(|_| {
        let bytes = std::fs::read(&path).unwrap();
        let (header, _) = super::super::block::Header::decode(&bytes).unwrap();
        (bytes, header.marker)
    });
    bytes.extend_from_slice(&super::bytes::block(WalFormat::Avro, 2, &[upsert(2)], 1, &marker));
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(place.open(0).await.unwrap().1, vec![(1, upsert(1)), (3, upsert(3))]);
}

#[tokio::test]
async fn a_disk_too_full_for_zeros_still_takes_entries() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.fail_next("grow", ErrorKind::StorageFull);
    wal.append(vec![upsert(1)]).await.unwrap();
    let bytes = std::fs::read(place.path(0)).unwrap();
    assert_eq!(
        read_log_file("it", &bytes, &mut |_, _| {}).unwrap().end,
        FileEnd::Complete
    );
    assert_eq!(wal.stats().bytes, bytes.len() as u64);
    assert_eq!(place.replayed(0).await, vec![1]);
}

#[tokio::test]
async fn roll_and_release_work_while_the_disk_is_full() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.roll(0).await.unwrap();
    wal.append(vec![upsert(2)]).await.unwrap();
    wal.fail_next("create", ErrorKind::StorageFull);
    wal.roll(0).await.unwrap();
    assert!(wal.release(2).await.unwrap() > 0);
    assert_eq!(
        place.files().len(),
        1,
        "the newest file stays: it describes the collection"
    );
    assert_eq!(wal.append(vec![upsert(3)]).await.unwrap(), 3..4);
    assert_eq!(place.replayed(2).await, vec![3]);
}

#[tokio::test]
async fn a_missing_root_is_unavailable_and_is_not_created() {
    let place = Place::new().await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.close().await;
    let root = place.root();
    let moved = root.with_extension("unmounted");
    std::fs::rename(&root, &moved).unwrap();
    let error = Wal::open(
        WalStart {
            files: Vec::new(),
            ..place.start(0)
        },
        &mut |_, _| {},
    )
    .await;
    assert!(matches!(error, Err(Error::RootUnavailable { .. })));
    assert!(!root.exists());
    std::fs::rename(&moved, &root).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_applying_answers_every_waiter_and_stops_the_log() {
    let place = Place::new().await;
    let armed = Arc::new(AtomicBool::new(false));
    let mut start = place.start(0);
    let trigger = Arc::clone(&armed);
    start.apply = Arc::new(move |_| assert!(!trigger.load(Ordering::SeqCst), "a defect of the memtable"));
    let wal = Wal::open(start, &mut |_, _| {}).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let calls = (2..20).map(|id| wal.append(vec![upsert(id)]));
    for result in futures::future::join_all(calls).await {
        assert!(matches!(result, Err(Error::Internal(_))));
    }
    armed.store(false, Ordering::SeqCst);
    assert!(matches!(wal.append(vec![upsert(30)]).await, Err(Error::Internal(_))));
    assert!(place.replayed(0).await.contains(&1));
}

//! Tests of roots that fail or hang (K3), and of a log over several roots, through `Wal`.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt;

use super::super::file::faults::{Fault, Gate};
use super::*;
use crate::root::{RootId, RootState};

type Asked = Arc<Mutex<Vec<(RootId, Error)>>>;

/// Short enough for a test, long enough for a busy disk that works.
const STALL: Duration = Duration::from_millis(600);
/// Where nothing hangs.
const NEVER: Duration = Duration::from_secs(3600);

fn options(stall: Duration) -> WalOptions {
    WalOptions {
        stall,
        ..WalOptions::default()
    }
}

/// Two roots; the log is on the first, the second is the spare.
async fn pair(format: WalFormat, stall: Duration) -> (Place, Asked) {
    let mut place = Place {
        format,
        ..Place::with_roots(2, options(stall)).await
    };
    let asked = Asked::default();
    let (root, seen) = (place.roots[1].clone(), asked.clone());
    place.spare = Some(Arc::new(move |failed, error| {
        seen.lock().push((failed, error));
        let root = root.clone();
        async move { Ok(root) }.boxed()
    }));
    (place, asked)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// What a restart finds in a copy of these directories, as after a crash now.
async fn after_crash(place: &Place) -> Vec<Seq> {
    let directory = tempfile::tempdir().unwrap();
    copy(place.directory.path(), directory.path());
    let copied = Place {
        format: place.format,
        lanes: place.lanes,
        ..Place::over(directory, place.roots.len(), WalOptions::default()).await
    };
    let found = copied.replayed(0).await;
    assert_eq!(copied.replayed(0).await, found, "a second restart finds the same");
    found
}

#[tokio::test]
async fn k3_a_root_that_fails_is_left_and_no_client_sees_an_error() {
    let errors = [
        ("write", ErrorKind::Other),
        ("sync", ErrorKind::Other),
        ("write", ErrorKind::StorageFull),
        ("sync", ErrorKind::ReadOnlyFilesystem),
    ];
    for (format, (step, kind)) in WalFormat::ALL
        .into_iter()
        .flat_map(|format| errors.map(|error| (format, error)))
    {
        let (place, asked) = pair(format, NEVER).await;
        let (wal, _) = place.open(0).await.unwrap();
        wal.append(vec![upsert(1)]).await.unwrap();
        wal.faults().always(step, Some(place.roots[0].id()), Fault::Error(kind));
        let calls = (2..6).map(|id| wal.append(vec![upsert(id), delete(id)]));
        for (at, numbers) in futures::future::join_all(calls).await.into_iter().enumerate() {
            let first = 2 + 2 * at as u64;
            assert_eq!(numbers.unwrap(), first..first + 2);
        }
        assert!(
            place.applied.lock().iter().map(|(seq, _)| *seq).eq(1..10),
            "{step} {kind}"
        );
        let asked = asked.lock().clone();
        assert_eq!(asked.len(), 1, "{step} {kind}: {asked:?}");
        assert_eq!(asked[0].0, place.roots[0].id());
        assert_eq!(
            matches!(asked[0].1, Error::StorageFull { .. }),
            kind == ErrorKind::StorageFull
        );
        assert_eq!(wal.roots_in_use().len(), 2);
        assert_eq!(place.files_on(1)[0].name, format!("00000000000000000002.{format}"));
        assert!(after_crash(&place).await.into_iter().eq(1..10), "{step} {kind}");
    }
}

#[tokio::test]
async fn k3_without_a_root_that_works_callers_get_the_first_error_and_replay_misses_nothing() {
    let mut place = Place::with_roots(1, options(NEVER)).await;
    place.spare = Some(Arc::new(|_, _| {
        async { Err(Error::Internal("none left".to_owned())) }.boxed()
    }));
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.faults().once("sync", None, Fault::Error(ErrorKind::StorageFull));
    let error = wal.append(vec![upsert(2)]).await.unwrap_err();
    assert!(matches!(error, Error::StorageFull { .. }), "{error}");
    wal.append(vec![upsert(3)]).await.unwrap();
    assert_eq!(place.replayed(0).await, [1, 3]);
}

#[tokio::test]
async fn k3_a_spare_that_always_fails_too_is_not_asked_for_ever() {
    let (place, asked) = pair(WalFormat::Avro, NEVER).await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.faults().always("write", None, Fault::Error(ErrorKind::Other));
    let error = wal.append(vec![upsert(2)]).await.unwrap_err();
    assert!(matches!(error, Error::RootUnavailable { .. }), "{error}");
    assert!(asked.lock().len() < 20);
    assert_eq!(wal.last_seq(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_root_that_hangs_is_left_and_its_late_answer_changes_nothing() {
    for (format, step) in WalFormat::ALL
        .into_iter()
        .flat_map(|format| ["write", "grow", "sync"].map(|step| (format, step)))
    {
        let (place, asked) = pair(format, STALL).await;
        let (wal, _) = place.open(0).await.unwrap();
        if step != "grow" {
            wal.append(vec![upsert(100)]).await.unwrap();
        }
        let before = wal.last_seq();
        let gate = Gate::default();
        wal.faults()
            .once(step, Some(place.roots[0].id()), Fault::Block(gate.clone()));
        for id in 1..4 {
            wal.append(vec![upsert(id), delete(id)]).await.unwrap();
        }
        assert!(gate.reached());
        assert_eq!(asked.lock().len(), 1, "{step}");
        let expected: Vec<Seq> = (1..before + 7).collect();
        assert_eq!(after_crash(&place).await, expected, "{step}: while it hangs");
        // Neither of these waits for the hung root.
        wal.roll(0).await.unwrap();
        wal.append(vec![upsert(9)]).await.unwrap();
        gate.open();
        // Every thread has ended when nobody else holds the log.
        eventually("the end of the threads", async || Arc::strong_count(&wal.shared) == 1).await;
        wal.append(vec![upsert(10)]).await.unwrap();
        let expected: Vec<Seq> = (1..before + 9).collect();
        assert!(
            place
                .applied
                .lock()
                .iter()
                .map(|(seq, _)| *seq)
                .eq(expected.iter().copied()),
            "{step}"
        );
        assert_eq!(after_crash(&place).await, expected, "{step}: after the late answer");
        wal.close().await;
        assert_eq!(place.replayed(0).await, expected, "{step}: after a clean end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_crash_between_the_stall_and_the_new_root_loses_nothing_that_was_acknowledged() {
    for step in ["write", "sync"] {
        let (mut place, _) = pair(WalFormat::Avro, STALL).await;
        let copied = Arc::new(tempfile::tempdir().unwrap());
        let (from, to, root) = (
            place.directory.path().to_owned(),
            copied.clone(),
            place.roots[1].clone(),
        );
        place.spare = Some(Arc::new(move |_, _| {
            copy(&from, to.path());
            let root = root.clone();
            async move { Ok(root) }.boxed()
        }));
        let (wal, _) = place.open(0).await.unwrap();
        wal.append(vec![upsert(1)]).await.unwrap();
        let gate = Gate::default();
        wal.faults()
            .once(step, Some(place.roots[0].id()), Fault::Block(gate.clone()));
        wal.append(vec![upsert(2)]).await.unwrap();
        gate.open();
        place.spare = None;
        drop((wal, place));
        // The write that was held up ends by itself, and lets go of the log.
        eventually("the end of the log", async || Arc::strong_count(&copied) == 1).await;
        let directory = Arc::into_inner(copied).unwrap();
        let crashed = Place::over(directory, 2, options(STALL)).await;
        let found = crashed.replayed(0).await;
        assert!(found == [1] || found == [1, 2], "{step}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_root_without_an_alternative_is_waited_for() {
    let place = Place::with_roots(1, options(STALL)).await;
    let (wal, _) = place.open(0).await.unwrap();
    let gate = Gate::default();
    wal.faults().once("sync", None, Fault::Block(gate.clone()));
    let writer = wal.clone();
    let call = tokio::spawn(async move { writer.append(vec![upsert(1)]).await });
    eventually("the sync", async || gate.reached()).await;
    wal.shared.watch();
    assert!(!call.is_finished());
    gate.open();
    assert_eq!(call.await.unwrap().unwrap(), 1..2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_moves_to_another_root_and_back_while_it_is_written() {
    let place = Place::with_roots(2, WalOptions::default()).await;
    let (wal, _) = place.open(0).await.unwrap();
    let writer = wal.clone();
    let writing = tokio::spawn(async move {
        for id in 0..300 {
            writer.append(vec![upsert(id), delete(id)]).await.unwrap();
        }
    });
    for root in [1, 0, 1] {
        wal.continue_on(vec![place.roots[root].clone()]).await.unwrap();
        assert!(!place.files_on(root).is_empty(), "a file is there when it returns");
    }
    writing.await.unwrap();
    let last = wal.last_seq();
    assert!(after_crash(&place).await.into_iter().eq(1..=last));
    // What the old root holds is released, the newest file is elsewhere.
    wal.release(last).await.unwrap();
    assert_eq!(place.files_on(0).len(), 0);
    assert_eq!(wal.roots_in_use(), [place.roots[1].id()]);
    assert_eq!(
        wal.stats().bytes,
        place.files().iter().map(|file| file.bytes).sum::<u64>()
    );
}

#[tokio::test]
async fn an_idle_log_moves_to_and_fro() {
    let place = Place::with_roots(2, WalOptions::default()).await;
    let (wal, _) = place.open(0).await.unwrap();
    for root in [1, 0, 0, 1, 0] {
        wal.continue_on(vec![place.roots[root].clone()]).await.unwrap();
    }
    assert!(after_crash(&place).await.is_empty());
    wal.append(vec![upsert(1)]).await.unwrap();
    assert_eq!(place.replayed(0).await, [1]);
    wal.roll(0).await.unwrap();
    wal.release(1).await.unwrap();
    assert_eq!((place.files_on(0).len(), place.files_on(1).len()), (1, 0));
}

#[tokio::test]
async fn f8_replay_merges_the_files_of_two_roots_by_number() {
    let place = Place::with_roots(2, WalOptions::default()).await;
    let (wal, _) = place.open(0).await.unwrap();
    for round in 0..4_usize {
        wal.append(vec![upsert(1), upsert(2)]).await.unwrap();
        wal.continue_on(vec![place.roots[(round + 1) % 2].clone()])
            .await
            .unwrap();
    }
    wal.append(vec![upsert(3)]).await.unwrap();
    assert!(place.replayed(0).await.into_iter().eq(1..10));
    assert_eq!(place.replayed(4).await, [5, 6, 7, 8, 9]);
    // One of them missing is a loss, and it is said.
    std::fs::remove_file(place.directory_on(1).join(&place.files_on(1)[0].name)).unwrap();
    let error = place.open(0).await.err().unwrap();
    assert!(error.to_string().contains("entries 3 to 4 are missing"), "{error}");
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_log_where_it_was() {
    let place = Place::with_roots(2, WalOptions::default()).await;
    let (wal, _) = place.open(0).await.unwrap();
    wal.append(vec![upsert(1)]).await.unwrap();
    wal.faults().once(
        "create",
        Some(place.roots[1].id()),
        Fault::Error(ErrorKind::StorageFull),
    );
    let error = wal.continue_on(vec![place.roots[1].clone()]).await.unwrap_err();
    assert!(matches!(error, Error::StorageFull { .. }), "{error}");
    wal.append(vec![upsert(2)]).await.unwrap();
    assert_eq!((place.files_on(0).len(), place.files_on(1).len()), (1, 0));
    // To where it is already, with an empty file or not.
    wal.continue_on(vec![place.roots[0].clone()]).await.unwrap();
    wal.continue_on(vec![place.roots[0].clone()]).await.unwrap();
    wal.append(vec![upsert(3)]).await.unwrap();
    assert_eq!(place.replayed(0).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_root_that_fails_does_not_keep_the_files_of_another_from_being_released() {
    let place = Place::with_roots(3, WalOptions::default()).await;
    let (wal, _) = place.open(0).await.unwrap();
    for root in [1, 2] {
        wal.append(vec![upsert(1)]).await.unwrap();
        wal.continue_on(vec![place.roots[root].clone()]).await.unwrap();
    }
    let reason = "pulled".to_owned();
    place.roots[0].set_state(RootState::Offline { reason });
    let error = wal.release(10).await.unwrap_err();
    assert!(error.to_string().contains("pulled"), "{error}");
    assert_eq!((place.files_on(0).len(), place.files_on(1).len()), (1, 0));
    place.roots[0].set_state(RootState::Online);
    assert!(wal.release(10).await.unwrap() > 0);
    assert_eq!(wal.roots_in_use(), [place.roots[2].id()]);
}

#[tokio::test]
async fn k3_a_log_whose_home_is_full_opens_on_the_spare() {
    let (place, asked) = pair(WalFormat::Avro, NEVER).await;
    std::fs::create_dir_all(place.root().join(COLLECTION)).unwrap();
    // The directory of the shard cannot be made where a file has its name.
    std::fs::write(place.directory(), b"in the way").unwrap();
    let wal = Wal::open(place.start_without_files(0), &mut |_, _| {}).await.unwrap();
    assert_eq!(asked.lock().len(), 1);
    assert_eq!(wal.append(vec![upsert(1)]).await.unwrap(), 1..2);
    assert_eq!(wal.roots_in_use(), [place.roots[1].id()]);
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use object_store::memory::InMemory;
use tempfile::TempDir;

use super::*;

mod buckets;

fn local(dir: &TempDir) -> Filesystem {
    let url = StorageUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap()
}

fn memory() -> Filesystem {
    Filesystem::over(
        &StorageUrl::parse("s3://memory/root").unwrap(),
        Arc::new(InMemory::new()),
    )
    .unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

async fn paths(fs: &Filesystem, prefix: &str) -> Vec<String> {
    fs.list(prefix)
        .await
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect()
}

/// What every backend promises (B11). Run over each of them.
async fn conformance(fs: &Filesystem) {
    reads_and_writes(fs).await;
    reads_many(fs).await;
    creates(fs).await;
    lists_and_deletes(fs).await;
    refuses_paths_outside(fs).await;
}

async fn reads_many(fs: &Filesystem) {
    let text = |number: usize| "x".repeat(number % 7);
    for number in (0..200).filter(|number| number % 50 != 3) {
        let path = format!("many/{number}");
        fs.write_atomic(&path, bytes(&text(number))).await.unwrap();
    }
    let file = |number: usize| FileInfo {
        path: format!("many/{number}"),
        size: text(number).len() as u64,
        tag: 0,
    };
    let files: Vec<FileInfo> = (0..200).map(file).collect();
    let before = fs.meter().stats(Op::Read);
    let read = fs.read_all(&files, |_| true).await;
    let after = fs.meter().stats(Op::Read);
    assert_eq!((after.count - before.count, after.errors - before.errors), (200, 0));
    assert_eq!(read.len(), 200);
    for (number, outcome) in read.into_iter().enumerate() {
        match outcome {
            Ok(found) => assert_eq!(found, bytes(&text(number))),
            Err(error) => assert!(number % 50 == 3 && error.is_not_found(), "{number}: {error}"),
        }
    }
    assert!(fs.read_all(&[], |_| true).await.is_empty());
    fs.delete_dir("many").await.unwrap();
}

async fn reads_and_writes(fs: &Filesystem) {
    assert!(!fs.exists("a/b/one").await.unwrap());
    assert!(fs.read("a/b/one").await.unwrap_err().is_not_found());
    fs.write_atomic("a/b/one", bytes("old")).await.unwrap();
    fs.write_atomic("a/b/one", bytes("hello world")).await.unwrap();
    assert!(fs.exists("a/b/one").await.unwrap());
    assert!(!fs.exists("a/b").await.unwrap(), "a directory is not a file");
    assert!(fs.read("a/b").await.unwrap_err().is_not_found());
    assert_eq!(fs.read("a/b/one").await.unwrap(), bytes("hello world"));
    assert_eq!(fs.read_range("a/b/one", 6..11).await.unwrap(), bytes("world"));
    assert_eq!(fs.read_range("a/b/one", 3..3).await.unwrap(), Bytes::new());
    assert!(
        fs.read_range("a/b/one", 6..12).await.is_err(),
        "a short read is an error"
    );
    assert!(fs.read_range("a/b/one", 20..22).await.is_err());
    fs.write_atomic("a/empty", Bytes::new()).await.unwrap();
    assert_eq!(fs.read("a/empty").await.unwrap(), Bytes::new());
}

async fn creates(fs: &Filesystem) {
    assert_eq!(
        fs.create("c/1.json", bytes("first, nonce 1")).await.unwrap(),
        Created::Committed
    );
    let second = fs.create("c/1.json", bytes("second, nonce 2")).await.unwrap();
    assert_eq!(second, Created::Conflict(bytes("first, nonce 1")));
    // The same bytes again: a retry after an unknown outcome finds its own commit.
    assert_eq!(
        fs.create("c/1.json", bytes("first, nonce 1")).await.unwrap(),
        Created::Committed
    );
}

async fn lists_and_deletes(fs: &Filesystem) {
    assert_eq!(paths(fs, "").await, ["a/b/one", "a/empty", "c/1.json"]);
    assert_eq!(paths(fs, "a").await, ["a/b/one", "a/empty"]);
    assert_eq!(paths(fs, "a/").await, ["a/b/one", "a/empty"]);
    assert_eq!(paths(fs, "missing").await, Vec::<String>::new());
    assert_eq!(fs.list("a/b").await.unwrap()[0].size, 11);
    assert_eq!(fs.list_names("").await.unwrap(), ["a", "c"]);
    assert_eq!(fs.list_names("a").await.unwrap(), ["b", "empty"]);
    assert_eq!(fs.list_names("missing").await.unwrap(), Vec::<String>::new());
    fs.delete("a/b/one").await.unwrap();
    fs.delete("a/b/one").await.unwrap();
    fs.delete("never/was").await.unwrap();
    assert_eq!(paths(fs, "").await, ["a/empty", "c/1.json"]);
    fs.write_atomic("a/b/c/two", bytes("2")).await.unwrap();
    fs.write_atomic("ab/three", bytes("3")).await.unwrap();
    assert_eq!(fs.delete_dir("a").await.unwrap(), 2);
    assert_eq!(fs.delete_dir("a").await.unwrap(), 0);
    assert_eq!(paths(fs, "").await, ["ab/three", "c/1.json"]);
    fs.write_atomic("a/again", bytes("4")).await.unwrap();
    assert_eq!(fs.read("a/again").await.unwrap(), bytes("4"));
}

async fn refuses_paths_outside(fs: &Filesystem) {
    for path in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "a\\..\\b",
        "a\0b",
    ] {
        let wrong = |outcome: Result<(), StoreError>| assert!(matches!(outcome, Err(StoreError::Config(_))), "{path}");
        wrong(fs.write_atomic(path, bytes("x")).await);
        wrong(fs.create(path, bytes("x")).await.map(drop));
        wrong(fs.read(path).await.map(drop));
        wrong(fs.delete(path).await);
        wrong(fs.delete_dir(path).await.map(drop));
        assert_eq!(fs.local_file(path), None);
    }
    assert!(matches!(fs.list("../x").await, Err(StoreError::Config(_))));
    assert!(matches!(fs.list("/").await, Err(StoreError::Config(_))));
}

#[tokio::test]
async fn b1_b11_a_local_disk_keeps_the_promises_of_the_suite() {
    let dir = TempDir::new().unwrap();
    conformance(&local(&dir)).await;
}

#[tokio::test]
async fn b11_an_object_store_keeps_the_promises_of_the_suite() {
    conformance(&memory()).await;
}

#[tokio::test]
async fn b2_b3_b4_buckets_open_from_options_and_unknown_options_are_refused_by_name() {
    let open = |url: &str, options: &[(&str, &str)]| {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        FilesystemFactory::get_filesystem(&StorageUrl::parse(url).unwrap(), &options)
    };
    for (url, options) in [
        (
            "s3://bucket/p",
            &[
                ("region", "eu-west-1"),
                ("endpoint", "http://127.0.0.1:1"),
                ("allow_http", "true"),
            ][..],
        ),
        (
            "gcs://bucket/p",
            &[
                ("bearer_token", "hunter2"),
                ("base_url", "http://127.0.0.1:1"),
                ("allow_http", "true"),
            ],
        ),
        (
            "adls://acc.dfs.core.windows.net/c/p",
            &[("account_key", "aHVudGVyMg==")],
        ),
    ] {
        let fs = open(url, options).unwrap();
        assert!(!fs.is_local());
        assert_eq!(fs.local_file("x"), None);
        assert_eq!(fs.capacity().await.unwrap(), None);
        assert!(!format!("{fs:?}").contains("hunter2"));
        let error = open(url, &[("regoin", "hunter2")]).unwrap_err().to_string();
        assert!(
            error.contains("unknown option `regoin`") && !error.contains("hunter2"),
            "{error}"
        );
    }
    let error = open("s3://bucket", &[("allow_http", "hunter2")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("s3://bucket") && !error.contains("hunter2"),
        "{error}"
    );
    let error = open("file:///d", &[("region", "x")]).unwrap_err().to_string();
    assert!(error.contains("unknown option `region`"), "{error}");
}

#[tokio::test]
async fn an_unreachable_bucket_is_unavailable_and_never_empty() {
    let url = StorageUrl::parse("s3://bucket/p").unwrap();
    let options = [
        ("endpoint", "http://127.0.0.1:1"),
        ("allow_http", "true"),
        ("access_key_id", "x"),
        ("secret_access_key", "hunter2"),
    ];
    let options = options
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let fs = FilesystemFactory::get_filesystem(&url, &options).unwrap();
    let error = fs.list("").await.unwrap_err();
    assert!(
        error.is_unavailable() && !error.to_string().contains("hunter2"),
        "{error}"
    );
    assert_eq!(fs.meter().stats(Op::List).errors, 1);
    let error = fs.create("x", bytes("x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Indeterminate(_)), "{error}");
}

/// Invariant 2: of 64 threads that race for one name exactly one commits, and all others see its bytes.
fn one_of_64_commits(fs: &Filesystem) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for round in 0..8 {
        let path = format!("race/{round}.json");
        let barrier = Barrier::new(64);
        let outcomes: Vec<(usize, Created)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|n| {
                    let (fs, path, barrier, handle) = (fs, &path, &barrier, runtime.handle());
                    scope.spawn(move || {
                        barrier.wait();
                        (
                            n,
                            handle.block_on(fs.create(path, bytes(&format!("writer {n}")))).unwrap(),
                        )
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<usize> = outcomes
            .iter()
            .filter(|(_, created)| *created == Created::Committed)
            .map(|(n, _)| *n)
            .collect();
        assert_eq!(winners.len(), 1);
        let stored = bytes(&format!("writer {}", winners[0]));
        let losers = outcomes
            .iter()
            .filter(|(_, created)| *created == Created::Conflict(stored.clone()))
            .count();
        assert_eq!(losers, 63);
        assert_eq!(runtime.block_on(fs.read(&path)).unwrap(), stored);
    }
    assert!(runtime.block_on(fs.scan("")).unwrap().staging.is_empty());
}

#[test]
fn create_is_exclusive_among_64_threads_on_a_local_disk() {
    let dir = TempDir::new().unwrap();
    one_of_64_commits(&local(&dir));
}

#[test]
fn create_is_exclusive_among_64_threads_on_an_object_store() {
    one_of_64_commits(&memory());
}

#[tokio::test]
async fn b7_a_missing_base_directory_is_created_when_asked_and_never_by_a_write() {
    let dir = TempDir::new().unwrap();
    let url = StorageUrl::parse(&format!("file://{}/x/y", dir.path().display())).unwrap();
    let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
    for error in [
        fs.write_atomic("c/1", bytes("x")).await.unwrap_err(),
        fs.write_atomic("1", bytes("x")).await.unwrap_err(),
        fs.create("c/1", bytes("x")).await.unwrap_err(),
        fs.read("c/1").await.unwrap_err(),
        fs.exists("c/1").await.unwrap_err(),
        fs.list("").await.unwrap_err(),
        fs.list("c").await.unwrap_err(),
        fs.list_names("").await.unwrap_err(),
        fs.delete("c/1").await.unwrap_err(),
        fs.delete_dir("c").await.unwrap_err(),
    ] {
        assert!(
            error.is_unavailable() || matches!(error, StoreError::Indeterminate(_)),
            "{error}"
        );
        assert!(error.to_string().contains("is the disk mounted?"), "{error}");
    }
    assert!(
        !dir.path().join("x").exists(),
        "nothing may be written below a missing root"
    );
    assert!(fs.create_dir_all().await.unwrap());
    assert!(!fs.create_dir_all().await.unwrap());
    fs.write_atomic("c/1", bytes("x")).await.unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let url = StorageUrl::parse(&format!("file://{}/file/y", dir.path().display())).unwrap();
    let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
    assert!(
        fs.create_dir_all()
            .await
            .unwrap_err()
            .to_string()
            .contains(url.as_str())
    );
}

#[tokio::test]
async fn leftovers_of_killed_writers_are_hidden_counted_and_removed() {
    let dir = TempDir::new().unwrap();
    let fs = local(&dir);
    fs.write_atomic("c/000/1.json", bytes("x")).await.unwrap();
    std::fs::write(dir.path().join("c/000/2.json#1"), "half").unwrap();
    std::fs::write(dir.path().join("c/000/note#a"), "not ours").unwrap();
    assert_eq!(paths(&fs, "").await, ["c/000/1.json", "c/000/note#a"]);
    assert_eq!(fs.list_names("c/000").await.unwrap(), ["1.json", "note#a"]);
    // A leftover does not stand in the way of the next writer.
    fs.create("c/000/2.json", bytes("whole")).await.unwrap();
    assert_eq!(fs.remove_staging().await.unwrap(), 1);
    assert_eq!(fs.read("c/000/2.json").await.unwrap(), bytes("whole"));
    assert!(!dir.path().join("c/000/2.json#1").exists());
}

#[tokio::test]
async fn symbolic_links_are_followed_and_loops_and_dangling_ones_do_no_harm() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(other.path().join("f"), "x").unwrap();
    std::os::unix::fs::symlink(other.path(), dir.path().join("linked")).unwrap();
    std::os::unix::fs::symlink("/does/not/exist", dir.path().join("dangling")).unwrap();
    let fs = local(&dir);
    assert_eq!(paths(&fs, "").await, ["linked/f"]);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
    assert!(paths(&fs, "").await.contains(&"linked/f".to_owned()));
}

#[tokio::test]
async fn k2_every_operation_is_measured_and_a_missing_file_is_no_error() {
    let fs = memory();
    fs.write_atomic("a", bytes("12345")).await.unwrap();
    fs.read("a").await.unwrap();
    fs.read("b").await.unwrap_err();
    fs.create("c", bytes("123")).await.unwrap();
    fs.list("").await.unwrap();
    fs.delete("a").await.unwrap();
    let stats = |op| {
        let stats = fs.meter().stats(op);
        (stats.count, stats.errors, stats.bytes)
    };
    assert_eq!(stats(Op::Write), (1, 0, 5));
    assert_eq!(stats(Op::Read), (2, 0, 5));
    assert_eq!(stats(Op::Create), (1, 0, 3));
    assert_eq!((stats(Op::List), stats(Op::Delete)), ((1, 0, 0), (1, 0, 0)));
}

#[tokio::test]
async fn k3_a_hanging_root_keeps_its_own_threads_only() {
    let (dir, healthy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (hanging, healthy) = (local(&dir), local(&healthy));
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = Arc::new(parking_lot::Mutex::new(hold));
    for _ in 0..100 {
        let hold = Arc::clone(&hold);
        hanging.spawn_blocking(move || {
            let _ = hold.lock().recv();
        });
    }
    let write = hanging.write_atomic("x", bytes("x"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), write).await.is_err(),
        "every thread hangs"
    );
    let write = healthy.write_atomic("x", bytes("x"));
    tokio::time::timeout(Duration::from_secs(30), write)
        .await
        .unwrap()
        .unwrap();
    drop(release);
    assert_eq!(hanging.blocking(|| 7).await.unwrap(), 7);
}

#[tokio::test]
async fn a_panic_on_a_pool_thread_is_an_error_and_the_pool_goes_on() {
    let fs = memory();
    assert!(matches!(fs.blocking(|| panic!("boom")).await, Err(StoreError::Io(_))));
    // A task started from there runs on the caller's runtime.
    let task = fs.blocking(|| tokio::spawn(async { 8 })).await.unwrap();
    assert_eq!(task.await.unwrap(), 8);
}

#[tokio::test]
async fn capacity_is_that_of_the_file_system() {
    let dir = TempDir::new().unwrap();
    let capacity = local(&dir).capacity().await.unwrap().unwrap();
    assert!(capacity.total_bytes > capacity.free_bytes && capacity.free_bytes > 0);
    local(&dir).sync_all().await.unwrap();
}

/// Set for the child of the test below; names its directory.
const KILL_DIR: &str = "PROXIMADB_TEST_KILL_DIR";

/// A file that verifies: its version, then a body made of that version.
fn versioned(version: u64) -> Bytes {
    let mut body = version.to_le_bytes().to_vec();
    body.resize(40_000, version.to_le_bytes()[0]);
    body.into()
}

#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(KILL_DIR) else { return };
    let url = StorageUrl::parse(&format!("file://{dir}")).unwrap();
    let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for version in 1.. {
        runtime.block_on(async {
            fs.write_atomic(&format!("c/{}", version % 7), versioned(version))
                .await
                .unwrap();
            assert_eq!(
                fs.create(&format!("n/{version:020}"), versioned(version))
                    .await
                    .unwrap(),
                Created::Committed
            );
        });
        println!("{version}");
    }
}

#[tokio::test]
async fn b9_after_kill_9_every_file_is_old_or_new_and_acknowledged_ones_are_there() {
    for round in 0..5 {
        let dir = TempDir::new().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "filesystem::tests::child_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(KILL_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = 0;
        for line in std::io::BufRead::lines(output) {
            acknowledged = line.unwrap().parse().unwrap_or(acknowledged);
            if acknowledged == 20 + 13 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let fs = local(&dir);
        let mut seen = HashSet::new();
        for file in fs.list("").await.unwrap() {
            let stored = fs.read(&file.path).await.unwrap();
            let version = u64::from_le_bytes(stored[..8].try_into().unwrap());
            assert_eq!(stored, versioned(version), "{}", file.path);
            if file.path.starts_with("n/") {
                seen.insert(version);
            }
        }
        assert!(acknowledged >= 20 && (1..=acknowledged).all(|version| seen.contains(&version)));
        fs.remove_staging().await.unwrap();
        assert!(fs.scan("").await.unwrap().staging.is_empty());
    }
}

/// Set for the child of the test below; names its directory.
const TRACE_DIR: &str = "PROXIMADB_TEST_TRACE_DIR";

#[tokio::test]
async fn child_that_does_one_of_each_under_a_trace() {
    let Ok(dir) = std::env::var(TRACE_DIR) else { return };
    let url = StorageUrl::parse(&format!("file://{dir}")).unwrap();
    let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
    fs.create("new/000/created", bytes("x")).await.unwrap();
    fs.write_atomic("new/000/written", bytes("x")).await.unwrap();
    fs.delete("new/000/written").await.unwrap();
    let mut upload = fs.object_store().put_multipart(&"new/000/parts".into()).await.unwrap();
    upload.put_part("x".into()).await.unwrap();
    upload.complete().await.unwrap();
    fs.delete_dir("new/000").await.unwrap();
    let log = crate::AppendFile::create_new(&fs.local_file("log/000/1.avro").unwrap(), b"header").unwrap();
    log.write_all_at(b"x", 0).unwrap();
    log.sync_data().unwrap();
}

/// What changes names or makes them durable, in order, as `<call> <path below the root>`. Empty where there is no strace.
fn trace(dir: &TempDir) -> Vec<String> {
    let output = Command::new("strace")
        // Quiet: it would say that a thread has come in the middle of another line.
        .args(["-f", "-q", "-y", "-s", "300", "-e"])
        .arg("trace=fsync,fdatasync,mkdir,link,linkat,rename,unlink,unlinkat,rmdir")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "filesystem::tests::child_that_does_one_of_each_under_a_trace",
        ])
        .env(TRACE_DIR, dir.path())
        .output();
    let Ok(output) = output else { return Vec::new() };
    let base = dir.path().to_str().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // A call during which another thread said something is printed in two lines; the first has the path.
    let done = |line: &&str| line.contains(base) && (line.ends_with("= 0") || line.ends_with("<unfinished ...>"));
    let call = |line: &str| {
        let line = line.rsplit_once("] ").map_or(line, |(_, call)| call);
        let (name, arguments) = line.split_once('(')?;
        let last = arguments.rsplit(base).next()?;
        let path: String = last.chars().take_while(|c| !matches!(c, '"' | '>')).collect();
        let name = name.trim_end_matches("at").trim();
        // A directory and what is below it may be removed relative to an open parent.
        let below = arguments
            .split('"')
            .nth(1)
            .filter(|below| name == "unlink" && !below.starts_with('/'));
        Some(below.map_or(format!("{name} {path}"), |below| format!("{name} {path}/{below}")))
    };
    text.lines().filter(done).filter_map(call).collect()
}

#[test]
fn every_write_create_and_delete_is_followed_by_a_sync_of_its_directory() {
    let dir = TempDir::new().unwrap();
    let calls = trace(&dir);
    if calls.is_empty() {
        return;
    }
    let expected = [
        // create
        "mkdir /new",
        "fsync ",
        "mkdir /new/000",
        "fsync /new",
        "fsync /new/000/created#1",
        "link /new/000/created",
        "unlink /new/000/created#1",
        "fsync /new/000",
        // write_atomic
        "fsync /new/000/written#1",
        "rename /new/000/written",
        "fsync /new/000",
        // delete
        "unlink /new/000/written",
        "fsync /new/000",
        // upload in parts
        "fsync /new/000/parts#1",
        "rename /new/000/parts",
        "fsync /new/000",
    ];
    assert_eq!(calls[..expected.len()], expected);
    // delete_dir: the last removal is of the directory itself; its parent is synced next.
    let removed = calls.iter().rposition(|call| call.starts_with("unlink /new")).unwrap();
    assert_eq!(calls[removed + 1], "fsync /new", "{calls:#?}");
    let expected = [
        "fsync /log/000/1.avro#1",
        "link /log/000/1.avro",
        "unlink /log/000/1.avro#1",
        "fsync /log/000",
        "fsync /log",
        "fsync ",
    ];
    let (last, before) = calls.split_last().unwrap();
    assert_eq!(before[before.len() - expected.len()..], expected);
    // The open file goes by either of the two names that it has had.
    assert_eq!(last.trim_end_matches("#1"), "fdatasync /log/000/1.avro");
}

#[tokio::test]
async fn e10_a_mount_point_without_its_disk_is_neither_written_nor_empty() {
    let dir = TempDir::new().unwrap();
    let url = StorageUrl::parse(&format!("file://{}", dir.path().display())).unwrap();
    let fs = FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap();
    let device = fs.device().await.unwrap().unwrap();
    fs.write_atomic("a/b", "kept".into()).await.unwrap();
    // As if the disk had been mounted, and were not any more.
    fs.settle(device + 1);
    let outcomes = [
        fs.write_atomic("a/c", "x".into()).await,
        fs.create("a/d", "x".into()).await.map(drop),
        fs.delete("a/b").await,
        fs.delete_dir("a").await.map(drop),
        fs.list("").await.map(drop),
        fs.list_names("").await.map(drop),
        fs.read("gone").await.map(drop),
        fs.capacity().await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("is the disk mounted?"), "{error}");
    }
    assert!(fs.check_place().is_err());
    fs.settle(device);
    let names: Vec<String> = fs.list("").await.unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(names, ["a/b"], "nothing was written or deleted");
}

/// A version is removed only after its successor was created: whatever moment a listing shows, one of them is there.
#[test]
fn a_listing_shows_a_version_or_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let file = |n: u64| dir.path().join("d").join(format!("{n:020}"));
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(file(0), "").unwrap();
    let (newest, done) = (
        std::sync::atomic::AtomicU64::new(0),
        std::sync::atomic::AtomicBool::new(false),
    );
    let order = std::sync::atomic::Ordering::SeqCst;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let fs = local(&dir);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..3_000 {
                std::fs::write(file(n), "").unwrap();
                newest.store(n, order);
                std::fs::remove_file(file(n - 1)).unwrap();
            }
            done.store(true, order);
        });
        while !done.load(order) {
            let least = newest.load(order);
            let listed = runtime.block_on(paths(&fs, "d"));
            let highest = listed.last().expect("a version is always there");
            assert!(*highest >= format!("d/{least:020}"), "{highest} after {least}");
        }
    });
}

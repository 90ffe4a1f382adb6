#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proximadb_store::{Op, StorageUrl};
use tempfile::TempDir;

use super::tree::read_row;
use super::*;
use crate::discovery::belongs_to;
use crate::engine::samples::{contents, data, description, point};
use crate::engine::segment::SegmentBuilder;
use crate::patience::eventually;
use crate::point::Point;
use crate::root::{RootConfig, Roots, StorageComponentType};

const DIM: usize = 4;
const SHARD: &str = "000";

/// Two LSM roots, `a` and `b`, in a directory; the same directory gives the same roots again.
async fn roots(directory: &Path) -> (Roots, Vec<Arc<Root>>) {
    let config = |component, name: &str| RootConfig {
        component,
        url: StorageUrl::parse(&format!("file://{}/{name}", directory.display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    let configs = vec![
        config(StorageComponentType::Lsm, "a"),
        config(StorageComponentType::Lsm, "b"),
        config(StorageComponentType::Metadata, "metadata"),
    ];
    let roots = Roots::open(configs, false).await.unwrap();
    let lsm = roots.of_component(StorageComponentType::Lsm);
    (roots, lsm)
}

struct Fixture {
    directory: TempDir,
    _roots: Roots,
    root: Arc<Root>,
    other: Arc<Root>,
    description: CollectionDescription,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (roots, mut lsm) = roots(directory.path()).await;
        let other = lsm.remove(1);
        Self {
            directory,
            _roots: roots,
            root: lsm.remove(0),
            other,
            description: description(DIM),
        }
    }

    async fn open(&self) -> Lsm {
        self.open_on(&self.root).await.unwrap()
    }

    async fn open_on(&self, root: &Arc<Root>) -> Result<Lsm> {
        Lsm::open(Arc::clone(root), self.description.id, SHARD, &self.description).await
    }

    /// Rows `numbers`, their numbers as sequence numbers, and deletions.
    async fn commit(&self, lsm: &Lsm, numbers: std::ops::Range<u64>, deleted: &[(u64, Seq)]) {
        let flushed = deleted
            .iter()
            .map(|(_, seq)| *seq)
            .chain(numbers.clone())
            .max()
            .unwrap();
        let data = data(&self.description, numbers, deleted);
        lsm.commit(&self.description, flushed, &data).await.unwrap();
    }

    fn shard_directory(&self, root: &str) -> PathBuf {
        self.directory
            .path()
            .join(root)
            .join(self.description.id.to_string())
            .join(SHARD)
    }
}

/// All rows by id.
async fn rows(lsm: &Lsm) -> BTreeMap<PointId, (Seq, Point)> {
    by_id(&lsm.load(2_000).await.unwrap())
}

fn by_id(contents_of: &LsmContents) -> BTreeMap<PointId, (Seq, Point)> {
    let mut rows = BTreeMap::new();
    for segment in &contents_of.segments {
        let (found, tombstones) = contents(segment);
        assert!(tombstones.is_empty());
        for (seq, point) in found {
            assert!(rows.insert(point.id, (seq, point)).is_none(), "an id occurs once");
        }
    }
    rows
}

fn expected(numbers: impl IntoIterator<Item = u64>) -> BTreeMap<PointId, (Seq, Point)> {
    numbers
        .into_iter()
        .map(|number| (point(number, DIM).id, (number, point(number, DIM))))
        .collect()
}

async fn writer(lsm: &Lsm) -> Db {
    lsm.ready(&mut *lsm.writer.lock().await, Seq::MAX).await.unwrap()
}

/// A point as the tree itself has it.
async fn get(lsm: &Lsm, id: PointId) -> Option<Seq> {
    let value = writer(lsm).await.get(codec::key(id)).await.unwrap()?;
    Some(codec::decode(&value).unwrap().seq)
}

/// Ids and numbers from an id on, as the tree has them.
async fn scan(lsm: &Lsm, from: PointId, limit: usize) -> Vec<(PointId, Seq)> {
    let db = writer(lsm).await;
    let mut rows = db.scan(codec::key(from)..).await.unwrap();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next().await.unwrap()
    {
        let (id, point) = read_row(&row).unwrap();
        found.push((id, point.seq));
    }
    found
}

/// All files below a directory, relative, sorted.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                pending.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(directory).unwrap().display().to_string();
                found.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[tokio::test]
async fn h1_a_tree_returns_what_was_committed_and_its_files_lie_on_its_root_only() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    assert!(rows(&lsm).await.is_empty(), "a new tree has no rows");
    fixture.commit(&lsm, 1..40, &[]).await;
    fixture.commit(&lsm, 40..60, &[(2, 60), (1_000, 61)]).await;
    let loaded = lsm.load(2_000).await.unwrap();
    assert_eq!(loaded.flushed_seq, 61);
    assert_eq!(loaded.description, fixture.description);
    assert!(loaded.segments.len() > 2, "cut into pieces");
    assert!(loaded.segments.iter().all(|segment| segment.clustering.is_some()));
    assert_eq!(by_id(&loaded), expected((1..60).filter(|number| *number != 2)));
    lsm.close().await;
    assert_eq!(rows(&fixture.open().await).await, by_id(&loaded));
    let all = files(fixture.directory.path());
    let strays: Vec<&String> = all.keys().filter(|path| !path.contains("_proximadb")).collect();
    let shard = format!("a/{}/{SHARD}/", fixture.description.id);
    assert!(strays.iter().all(|path| path.starts_with(&shard)), "{strays:?}");
}

#[tokio::test]
async fn h2_every_file_of_a_tree_is_known_to_discovery_and_counted() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    for number in 1..12 {
        fixture.commit(&lsm, number..number + 1, &[]).await;
        lsm.maintain().await.unwrap();
    }
    let found = fixture.root.list(&fixture.description.id.to_string()).await.unwrap();
    for file in &found {
        assert!(belongs_to(StorageComponentType::Lsm, file), "{}", file.path);
    }
    assert!(found.iter().any(|file| file.path.ends_with(".sst")));
    let usage = fixture.root.usage_of(fixture.description.id);
    assert_eq!(usage.files, found.len() as u64);
    assert_eq!(usage.bytes, found.iter().map(|file| file.size).sum::<u64>());
}

#[tokio::test]
async fn h2_a_tree_describes_its_collection_to_a_reader_that_writes_nothing() {
    let fixture = Fixture::new().await;
    let id = fixture.description.id;
    let none = Lsm::describe(&fixture.root, id, SHARD).await.unwrap_err();
    assert!(matches!(none, Error::Corruption(_)), "{none}");
    let lsm = fixture.open().await;
    assert_eq!(
        Lsm::describe(&fixture.root, id, SHARD).await.unwrap(),
        fixture.description
    );
    let mut renamed = fixture.description.clone();
    renamed.name = "renamed".to_owned();
    lsm.commit(&renamed, 7, &SegmentData::default()).await.unwrap();
    let before = files(&fixture.shard_directory("a"));
    assert_eq!(Lsm::describe(&fixture.root, id, SHARD).await.unwrap(), renamed);
    let verified = Lsm::verify(&fixture.root, id, SHARD).await.unwrap();
    assert_eq!((verified.rows, verified.flushed_seq), (0, 7));
    assert_eq!(files(&fixture.shard_directory("a")), before);
    fixture.commit(&lsm, 8..9, &[]).await;
    assert_eq!(rows(&lsm).await, expected(8..9), "the writer was not disturbed");
}

#[tokio::test]
async fn h4_compaction_reads_and_writes_one_directory_and_deletes_what_it_replaced() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    for number in 1..=20 {
        fixture
            .commit(&lsm, number..number + 1, &[(number.saturating_sub(1), number)])
            .await;
    }
    let before = files(&fixture.shard_directory("a"));
    lsm.compact().await.unwrap();
    let after = files(&fixture.shard_directory("a"));
    let tables = |files: &BTreeMap<String, Vec<u8>>| files.keys().filter(|path| path.ends_with(".sst")).count();
    assert_eq!(tables(&before), 21);
    assert!(
        tables(&after) <= 2,
        "the newest of the replaced tables may stay until the next compaction"
    );
    assert!(
        files(&fixture.directory.path().join("b"))
            .keys()
            .all(|path| path.starts_with("_proximadb"))
    );
    let kept = expected((1..=20).filter(|number| number % 3 == 0 || *number == 20));
    assert_eq!(rows(&lsm).await, kept);
    fixture.commit(&lsm, 21..22, &[]).await;
    lsm.compact().await.unwrap();
    assert_eq!(rows(&lsm).await.len(), kept.len() + 1);
    let verified = Lsm::verify(&fixture.root, fixture.description.id, SHARD).await.unwrap();
    assert_eq!((verified.rows as usize, verified.tables.len()), (kept.len() + 1, 1));
}

#[tokio::test]
async fn h4_a_table_larger_than_one_request_is_written_and_merged_whole() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    let big = |seq: Seq| {
        let mut builder = SegmentBuilder::new(&fixture.description.schema);
        for number in seq..seq + 16 {
            let mut point = point(number, DIM);
            point.payload.insert("text".to_owned(), "x".repeat(1 << 20).into());
            builder.push(number, &point).unwrap();
        }
        builder.build()
    };
    for seq in [1, 17] {
        lsm.commit(&fixture.description, seq + 15, &big(seq)).await.unwrap();
    }
    lsm.compact().await.unwrap();
    let verified = Lsm::verify(&fixture.root, fixture.description.id, SHARD).await.unwrap();
    assert_eq!((verified.rows, verified.flushed_seq), (32, 32));
    assert_eq!(
        lsm.load(4 << 20).await.unwrap().segments.len(),
        11,
        "at most three rows of a megabyte each"
    );
}

#[tokio::test]
async fn h4_maintenance_keeps_the_number_of_files_small_while_commits_go_on() {
    let fixture = Fixture::new().await;
    let lsm = Arc::new(fixture.open().await);
    for number in 1..=40 {
        let maintaining = tokio::spawn({
            let lsm = Arc::clone(&lsm);
            async move { lsm.maintain().await }
        });
        fixture.commit(&lsm, number..number + 1, &[]).await;
        maintaining.await.unwrap().unwrap();
    }
    assert_eq!(rows(&lsm).await, expected(1..=40));
    let files = files(&fixture.shard_directory("a"));
    assert!(files.len() < 40, "{:?}", files.keys());
}

#[tokio::test]
async fn an_idle_tree_makes_no_request() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..2, &[]).await;
    let count = || Op::ALL.map(|op| fixture.root.fs().meter().stats(op).count);
    let before = count();
    lsm.maintain().await.unwrap();
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(3_600)).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
    assert_eq!(count(), before);
}

#[tokio::test]
async fn a_closed_or_dropped_tree_and_a_finished_compaction_leave_no_task_behind() {
    let fixture = Fixture::new().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let none = tasks();
    let mut next = 1;
    for is_closed in [true, false] {
        let lsm = fixture.open().await;
        for _ in 0..TABLES_TO_COMPACT {
            fixture.commit(&lsm, next..next + 1, &[]).await;
            next += 1;
        }
        let open = tasks();
        lsm.maintain().await.unwrap();
        settle(open, tasks).await;
        if is_closed {
            lsm.close().await;
        }
        drop(lsm);
        settle(none, tasks).await;
    }
}

#[tokio::test]
async fn inv11_who_opened_the_tree_before_another_has_flushed_commits_nothing_older() {
    let fixture = Fixture::new().await;
    let old = fixture.open().await;
    let new = fixture.open().await;
    fixture.commit(&new, 1..20, &[]).await;
    let outdated = data(&fixture.description, 1..5, &[]);
    let refused = old.commit(&fixture.description, 4, &outdated).await.unwrap_err();
    assert!(matches!(refused, Error::RootUnavailable { .. }), "{refused}");
    assert_eq!(rows(&fixture.open().await).await, expected(1..20));
    old.close().await;
    new.close().await;
}

#[tokio::test]
async fn a_tree_is_opened_and_read_without_a_write() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..20, &[]).await;
    lsm.close().await;
    let before = files(fixture.directory.path());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    settle(0, tasks).await;
    let lsm = fixture.open().await;
    assert_eq!(rows(&lsm).await, expected(1..20));
    settle(0, tasks).await;
    drop(lsm);
    assert_eq!(files(fixture.directory.path()), before);
}

/// Waits until so many tasks are left.
async fn settle(expected: usize, tasks: impl Fn() -> usize) {
    eventually("the end of the tasks", async || tasks() == expected).await;
}

#[tokio::test]
async fn a_later_operation_of_a_batch_wins_and_a_repeated_commit_changes_nothing() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..3, &[]).await;
    // Point 2 was deleted and written again; point 1 only deleted.
    let mut again = data(&fixture.description, [2], &[(1, 5), (2, 4)]);
    again.seqs[0] = 6;
    for _ in 0..2 {
        lsm.commit(&fixture.description, 6, &again).await.unwrap();
        let found = rows(&lsm).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), [&PointId::Num(2)]);
        assert_eq!(found[&PointId::Num(2)].0, 6);
    }
}

#[tokio::test]
async fn a_closed_tree_is_moved_to_another_root_by_copying_its_files() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    for start in [1, 11, 21, 31, 41, 51, 61, 71, 81] {
        fixture.commit(&lsm, start..start + 10, &[(start, start + 10)]).await;
    }
    lsm.maintain().await.unwrap();
    let before = rows(&lsm).await;
    lsm.close().await;
    for (path, bytes) in files(&fixture.shard_directory("a")) {
        let root = fixture.root.url().as_bytes().strip_prefix(b"file://").unwrap();
        assert!(
            !bytes.windows(root.len()).any(|window| window == root),
            "{path} names its root"
        );
        let path = format!("{}/{SHARD}/{path}", fixture.description.id);
        fixture.other.write_atomic(&path, bytes.into()).await.unwrap();
    }
    let moved = fixture.open_on(&fixture.other).await.unwrap();
    assert_eq!(rows(&moved).await, before);
    fixture.commit(&moved, 100..101, &[]).await;
    moved.compact().await.unwrap();
    assert_eq!(rows(&moved).await.len(), before.len() + 1);
}

#[tokio::test]
async fn a_copy_that_lacks_the_last_commit_says_so() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..5, &[]).await;
    let directory = format!("{}/{SHARD}", fixture.description.id);
    for file in fixture.root.list(&directory).await.unwrap() {
        let bytes = fixture.root.read(&file.path).await.unwrap();
        fixture.other.write_atomic(&file.path, bytes).await.unwrap();
    }
    fixture.commit(&lsm, 5..9, &[]).await;
    let copy = fixture.open_on(&fixture.other).await.unwrap();
    assert_eq!(lsm.flushed_seq().await.unwrap(), Some(8));
    assert_eq!(copy.flushed_seq().await.unwrap(), Some(4));
}

#[tokio::test]
async fn a_tree_of_another_shard_and_tables_without_a_manifest_are_refused() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..5, &[]).await;
    lsm.close().await;
    let shard = fixture.shard_directory("a");
    std::fs::rename(&shard, shard.with_file_name("001")).unwrap();
    let other = Lsm::open(
        Arc::clone(&fixture.root),
        fixture.description.id,
        "001",
        &fixture.description,
    )
    .await;
    assert!(matches!(other, Err(Error::Corruption(_))), "{other:?}");
    std::fs::rename(shard.with_file_name("001"), &shard).unwrap();
    std::fs::remove_dir_all(shard.join("manifest")).unwrap();
    let error = fixture.open_on(&fixture.root).await.unwrap_err();
    assert!(matches!(error, Error::Corruption(_)), "{error}");
}

#[test]
fn a_killed_process_leaves_a_prefix_of_the_commits_and_the_tree_opens_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut committed = 0;
    for life in 0..12 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        committed = runtime.block_on(async {
            let (_roots, mut lsm) = roots(directory.path()).await;
            let description = description(DIM);
            let lsm = Lsm::open(lsm.remove(0), description.id, SHARD, &description)
                .await
                .unwrap();
            let found = lsm.load(1 << 20).await.unwrap();
            let flushed = found.flushed_seq;
            assert!(flushed >= committed, "what was acknowledged is there");
            assert_eq!(by_id(&found), expected(1..=flushed), "whole commits");
            let write = |from: u64| data(&description, from + 1..from + 4, &[]);
            lsm.commit(&description, flushed + 3, &write(flushed)).await.unwrap();
            // The next commit is cut off at some point: its future, and then its runtime with all tasks, is dropped.
            let next = write(flushed + 3);
            let next = lsm.commit(&description, flushed + 6, &next);
            tokio::pin!(next);
            for _ in 0..life * 2 {
                if futures::poll!(&mut next).is_ready() {
                    return flushed + 6;
                }
                tokio::task::yield_now().await;
            }
            flushed + 3
        });
        runtime.shutdown_background();
    }
    assert!(committed > 30);
}

#[tokio::test]
async fn damaged_files_are_reported_as_corruption_and_never_panic() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..30, &[]).await;
    lsm.compact().await.unwrap();
    fixture.commit(&lsm, 30..40, &[]).await;
    compaction::collect_garbage(lsm.directory.clone(), lsm.files.clone())
        .await
        .unwrap();
    lsm.close().await;
    let directory = fixture.shard_directory("a");
    let id = fixture.description.id;
    let mut reported = 0;
    let whole = files(&directory);
    let newest_manifest = whole.keys().rfind(|path| path.ends_with(".manifest")).unwrap().clone();
    for (path, bytes) in whole
        .iter()
        .filter(|(path, _)| path.ends_with(".sst") || **path == newest_manifest)
    {
        let file = directory.join(path);
        let mut damages: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec())];
        for at in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            damages.push(Some(flipped));
        }
        for damaged in damages {
            match &damaged {
                Some(damaged) => std::fs::write(&file, damaged).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            match Lsm::verify(&fixture.root, id, SHARD).await {
                // Bytes that mean nothing to a reader: statistics of a table.
                Ok(verified) if damaged.is_some() => assert_eq!((verified.rows, verified.flushed_seq), (39, 39)),
                Ok(_) if *path == newest_manifest => {}
                Ok(_) => panic!("{path} is missing and nobody noticed"),
                Err(Error::Corruption(message)) => {
                    assert!(message.contains(fixture.root.url()), "{message}");
                    reported += 1;
                }
                Err(error) => panic!("{path}: {error}"),
            }
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert!(reported > 80, "{reported}");
    assert_eq!(rows(&fixture.open().await).await, expected(1..40));
}

#[tokio::test]
async fn a_failed_commit_names_the_root_and_the_next_one_succeeds() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    fixture.commit(&lsm, 1..5, &[]).await;
    // A file where the directory of the tables should be: every write of a table fails.
    let tables = fixture.shard_directory("a").join("compacted");
    let aside = tables.with_file_name("aside");
    std::fs::rename(&tables, &aside).unwrap();
    std::fs::write(&tables, b"").unwrap();
    let next = data(&fixture.description, 5..9, &[]);
    let error = lsm.commit(&fixture.description, 8, &next).await.unwrap_err();
    assert!(
        matches!(&error, Error::RootUnavailable { url, .. } if url == fixture.root.url()),
        "{error}"
    );
    std::fs::remove_file(&tables).unwrap();
    std::fs::rename(&aside, &tables).unwrap();
    lsm.commit(&fixture.description, 8, &next).await.unwrap();
    assert_eq!(rows(&lsm).await, expected(1..9));
}

#[tokio::test]
async fn a_failed_compaction_names_the_root_and_the_tree_stays_as_it_was() {
    let fixture = Fixture::new().await;
    let lsm = fixture.open().await;
    let tables = TABLES_TO_COMPACT as u64;
    for number in 1..=tables {
        fixture.commit(&lsm, number..number + 1, &[]).await;
    }
    // A file where the compactor's directory should be.
    let notes = fixture.shard_directory("a").join("compactions");
    std::fs::write(&notes, b"").unwrap();
    let error = lsm.maintain().await.unwrap_err();
    assert!(error.to_string().contains(fixture.root.url()), "{error}");
    fixture.commit(&lsm, tables + 1..tables + 2, &[]).await;
    std::fs::remove_file(&notes).unwrap();
    lsm.maintain().await.unwrap();
    assert_eq!(rows(&lsm).await, expected(1..=tables + 1));
    let verified = Lsm::verify(&fixture.root, fixture.description.id, SHARD).await.unwrap();
    assert!(verified.tables.len() < TABLES_TO_COMPACT, "merged");
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Upsert(u64),
    Delete(u64),
    Commit,
    Reopen,
    Maintain,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0u64..40).prop_map(Step::Upsert),
        5 => (0u64..40).prop_map(Step::Delete),
        6 => Just(Step::Commit),
        1 => Just(Step::Reopen),
        2 => Just(Step::Maintain),
        1 => Just(Step::Compact),
    ]
}

/// The memtable of a history: newest operation of each id since the last commit.
type Pending = BTreeMap<PointId, (Seq, Option<Point>)>;

async fn commit_pending(lsm: &Lsm, description: &CollectionDescription, seq: Seq, pending: &Pending) {
    let mut builder = SegmentBuilder::new(&description.schema);
    for (id, (seq, point)) in pending {
        match point {
            Some(point) => builder.push(*seq, point).unwrap(),
            None => builder.tombstone(*id, *seq),
        }
    }
    lsm.commit(description, seq, &builder.build()).await.unwrap();
}

async fn agree(lsm: &Lsm, model: &BTreeMap<PointId, (Seq, Point)>) {
    assert_eq!(&rows(lsm).await, model);
    let all: Vec<(PointId, Seq)> = model.iter().map(|(id, (seq, _))| (*id, *seq)).collect();
    assert_eq!(scan(lsm, PointId::Num(0), usize::MAX).await, all);
    let middle = all.get(all.len() / 2).map_or(PointId::Num(7), |(id, _)| *id);
    let after: Vec<_> = all.iter().copied().filter(|(id, _)| *id >= middle).take(3).collect();
    assert_eq!(scan(lsm, middle, 3).await, after);
    for number in 0..40 {
        let id = point(number, DIM).id;
        assert_eq!(get(lsm, id).await, model.get(&id).map(|(seq, _)| *seq));
    }
}

async fn check_history(steps: Vec<Step>) {
    let fixture = Fixture::new().await;
    let mut lsm = fixture.open().await;
    let (mut model, mut pending, mut seq) = (BTreeMap::new(), Pending::new(), 0);
    for step in steps.into_iter().chain([Step::Commit]) {
        match step {
            Step::Upsert(number) => {
                seq += 1;
                let mut point = point(number, DIM);
                point.payload.insert("written".to_owned(), seq.into());
                pending.insert(point.id, (seq, Some(point)));
            }
            Step::Delete(number) => {
                seq += 1;
                pending.insert(point(number, DIM).id, (seq, None));
            }
            Step::Commit => {
                commit_pending(&lsm, &fixture.description, seq, &pending).await;
                for (id, (seq, point)) in std::mem::take(&mut pending) {
                    match point {
                        Some(point) => model.insert(id, (seq, point)),
                        None => model.remove(&id),
                    };
                }
                agree(&lsm, &model).await;
            }
            Step::Reopen => {
                lsm.close().await;
                lsm = fixture.open().await;
                agree(&lsm, &model).await;
            }
            Step::Maintain => lsm.maintain().await.unwrap(),
            Step::Compact => {
                lsm.compact().await.unwrap();
                agree(&lsm, &model).await;
            }
        }
    }
    let verified = Lsm::verify(&fixture.root, fixture.description.id, SHARD).await.unwrap();
    assert_eq!((verified.rows as usize, verified.flushed_seq), (model.len(), seq));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn h5_any_history_of_commits_compactions_and_restarts_agrees_with_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check_history(steps));
    }

    #[test]
    fn keys_sort_as_ids_and_come_back(one in any_id(), other in any_id()) {
        prop_assert_eq!(codec::key(one).cmp(&codec::key(other)), one.cmp(&other));
        prop_assert_eq!(codec::id(&codec::key(one)), Some(one));
        prop_assert!(codec::point_keys().contains(&[codec::key(one)[0]]));
        prop_assert!(codec::MARKER < &codec::key(one)[..]);
    }

    #[test]
    fn a_damaged_row_is_an_error_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), number in 0u64..50, at in any::<prop::sample::Index>()) {
        let _any = codec::decode(&bytes);
        let row = codec::encode(&data(&description(DIM), [number], &[]), 0);
        prop_assert!(codec::decode(&row[..at.index(row.len())]).is_none(), "cut");
        let mut changed = row.to_vec();
        changed[at.index(row.len())] ^= 0x80;
        let _any = codec::decode(&changed);
    }
}

fn any_id() -> impl Strategy<Value = PointId> {
    prop_oneof![
        any::<u64>().prop_map(PointId::Num),
        (0u64..300).prop_map(PointId::Num),
        any::<u128>().prop_map(|bits| PointId::Uuid(uuid::Uuid::from_u128(bits)))
    ]
}

#[test]
fn vectors_come_back_to_the_bit() {
    let description = description(DIM);
    let odd = vec![f32::MIN_POSITIVE / 2.0, -0.0, f32::MAX, 1.0e-40];
    let mut builder = SegmentBuilder::new(&description.schema);
    let mut point = point(1, DIM);
    point.vectors.insert(String::new(), odd.clone());
    builder.push(9, &point).unwrap();
    let value = codec::encode(&builder.build(), 0);
    let found = codec::decode(&value).unwrap();
    let bits = |vector: &[f32]| vector.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(found.vector("").unwrap()), bits(&odd));
    assert_eq!(found.seq, 9);
    let names: BTreeSet<&str> = found.vectors.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, BTreeSet::from(["", "title"]));
}

//! The order of things inside a shard, where only its own parts can be held still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cold;

use std::collections::BTreeMap;
use std::time::Duration;

use proximadb_store::StorageUrl;
use tempfile::TempDir;

use super::*;
use crate::engine::samples::{description, point};
use crate::engine::viper::WriteRequest;
use crate::patience::eventually;
use crate::root::{RootConfig, RootState, Roots, StorageComponentType};
use crate::search::Query;
use crate::state::Location;

const DIM: usize = 4;
/// How long something is watched that must not happen.
const WATCHED: Duration = Duration::from_millis(300);

struct Fixture {
    directory: TempDir,
    roots: Arc<Roots>,
    budget: Arc<MemoryBudget>,
    bucket_memory: Arc<BucketMemory>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with_memory(1 << 30).await
    }

    async fn with_memory(bytes: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let config = |component: StorageComponentType| RootConfig {
            component,
            url: StorageUrl::parse(&format!("file://{}/{component}", directory.path().display())).unwrap(),
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        };
        let roots = Roots::open(StorageComponentType::ALL.into_iter().map(config).collect(), false);
        let roots = Arc::new(roots.await.unwrap());
        Self {
            directory,
            roots,
            budget: MemoryBudget::new(bytes),
            bucket_memory: BucketMemory::new(1 << 30),
        }
    }

    fn options(&self, id: crate::schema::CollectionId) -> ShardOptions {
        let place = |component| {
            let placement = crate::placement::Placement {
                roots: vec![self.roots.of_component(component).remove(0).id()],
                strategy: crate::config::DistributionStrategy::Hash,
                affinity: true,
                sequence: None,
                assigned_at_ms: 1,
                also: Vec::new(),
                types: BTreeMap::new(),
                moving: None,
            };
            (component, placement)
        };
        let placements = StorageComponentType::ALL.into_iter().map(place).collect();
        ShardOptions {
            homes: Arc::new(Homes::new(id, self.roots.clone(), placements)),
            wal_format: WalFormat::default(),
            spare: None,
            memory_flush_size_bytes: 1 << 30,
            segment_size_bytes: 1 << 30,
            budget: self.budget.clone(),
            build_memory: BuildMemory::new(1 << 30),
            bucket_memory: self.bucket_memory.clone(),
        }
    }

    async fn open(&self) -> Result<Arc<Shard>> {
        Shard::open(description(DIM), "000", self.options(description(DIM).id)).await
    }

    /// A shard of another collection.
    async fn open_other(&self, number: u128) -> Arc<Shard> {
        let mut description = description(DIM);
        description.id = crate::schema::CollectionId(uuid::Uuid::from_u128(number));
        {
            let id = description.id;
            Shard::open(description, "000", self.options(id))
        }
        .await
        .unwrap()
    }

    /// The index files of the shard, without the unfinished one of a writer at work.
    fn index_files(&self) -> Vec<std::path::PathBuf> {
        let mut files = self.files(StorageComponentType::Index);
        files.retain(|file| file.extension().is_some_and(|extension| extension == "ivf"));
        files
    }

    /// The files of the shard on the root of a component.
    fn files(&self, component: StorageComponentType) -> Vec<std::path::PathBuf> {
        let shard = format!("{component}/{}/000", description(DIM).id);
        let entries = std::fs::read_dir(self.directory.path().join(shard));
        entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

fn upserts(numbers: std::ops::Range<u64>) -> Vec<Operation> {
    numbers.map(|number| Operation::Upsert(point(number, DIM))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_has_adopted_half_of_its_rows_is_not_compacted() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..100)).await.unwrap();
    // A flush, stopped between two chunks of rows.
    assert!(shard.state.write().freeze());
    let frozen = shard.state.read().frozen_for_flush().unwrap();
    let (rows, kept) = frozen.table.to_segment(&frozen.live);
    let request = WriteRequest {
        description: shard.description(),
        max_seq: frozen.through,
        replaces: Vec::new(),
        segment_size_bytes: 1 << 30,
    };
    let segment = shard
        .write_segments(rows, &request, data::Spread::Wide)
        .await
        .unwrap()
        .remove(0);
    let origin = |row: &u32| Location {
        source: frozen.source,
        row: kept[*row as usize],
    };
    let origins: Vec<Location> = segment.order.iter().map(origin).collect();
    let mut ledger = shard.ledger.lock().await;
    let segments = vec![segment.meta.clone()];
    let next = ledger
        .manifest
        .next((*shard.description()).clone(), frozen.through, segments);
    shard.manifests().unwrap().commit(&next).await.unwrap();
    ledger.manifest = next;
    let source = shard.state.write().add_segment(segment.meta, segment.data);
    shard.state.write().adopt(source, 0..50, &origins);

    let mut compaction = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.compact().await })
    };
    let _ = tokio::time::timeout(WATCHED, &mut compaction).await;
    shard.state.write().adopt(source, 50..100, &origins);
    shard.state.write().drop_frozen();
    drop(ledger);
    compaction.await.unwrap().unwrap();
    assert_eq!(shard.count(None).await.unwrap(), 100);
    shard.close().await;
    assert_eq!(fixture.open().await.unwrap().count(None).await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_cannot_be_opened_holds_no_memory() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    for start in [0, 100, 200] {
        shard.write(upserts(start..start + 100)).await.unwrap();
    }
    shard.close().await;
    assert_eq!(fixture.budget.used(), 0);
    let log = fixture.files(StorageComponentType::Wal).remove(0);
    let whole = std::fs::read(&log).unwrap();
    // Damage in the second block of three: the first is replayed before it is seen.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&log, damaged).unwrap();
    for _ in 0..3 {
        let opened = fixture.open().await.map(drop);
        assert!(matches!(opened, Err(Error::Corruption(_))), "{opened:?}");
        assert_eq!(fixture.budget.used(), 0);
    }
    std::fs::write(&log, whole).unwrap();
    let shard = fixture.open().await.unwrap();
    assert_eq!(fixture.budget.used(), shard.memtable_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drop_waits_for_an_index_that_is_being_stored() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    let (started, wait_for_start) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let storing = {
        let shard = shard.clone();
        let attached = move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
            Vec::new()
        };
        tokio::spawn(async move { shard.axis.repair(&shard.description(), attached).await })
    };
    wait_for_start.recv().unwrap();
    let mut closing = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.close().await })
    };
    assert!(tokio::time::timeout(WATCHED, &mut closing).await.is_err());
    go_on.send(()).unwrap();
    storing.await.unwrap();
    closing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_closed_or_cannot_be_flushed_keeps_no_memory_from_the_others() {
    const MEMORY: u64 = 200_000;
    let fixture = Fixture::with_memory(MEMORY).await;
    let (closed, stuck, healthy) = (
        fixture.open_other(1).await,
        fixture.open_other(2).await,
        fixture.open_other(3).await,
    );
    closed.write(upserts(0..400)).await.unwrap();
    closed.close().await;
    stuck.write(upserts(0..200)).await.unwrap();
    // Its segments have nowhere to go: a file stands in the place of their directory.
    let viper = fixture.directory.path().join("viper");
    let place = viper.join(stuck.description().id.to_string());
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, b"").unwrap();
    assert!(closed.memtable_bytes() > stuck.memtable_bytes() && stuck.memtable_bytes() > MEMORY / 3);
    for start in (0..3000).step_by(50) {
        healthy.write(upserts(start..start + 50)).await.unwrap();
    }
    assert_eq!(healthy.count(None).await.unwrap(), 3000);
    assert!(fixture.budget.used() <= MEMORY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_finished_late_releases_the_log_as_well() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..100)).await.unwrap();
    // The manifest cannot be written: a file stands in the place of the directory of its versions.
    let manifests = fixture.directory.path().join("viper");
    let manifests = manifests.join(shard.description().id.to_string()).join("000/manifest");
    let away = manifests.with_extension("away");
    std::fs::rename(&manifests, &away).unwrap();
    std::fs::write(&manifests, b"").unwrap();
    assert!(shard.flush().await.is_err());
    assert!(shard.compact().await.is_err());
    std::fs::remove_file(&manifests).unwrap();
    std::fs::rename(&away, &manifests).unwrap();
    // A compaction finishes the commit of the flush.
    shard.compact().await.unwrap();
    shard.flush().await.unwrap();
    assert_eq!(fixture.files(StorageComponentType::Wal).len(), 1);
    assert_eq!(fixture.budget.used(), 0);
    shard.close().await;
    assert_eq!(fixture.open().await.unwrap().count(None).await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_a_segment_that_is_gone_is_deleted_when_the_shard_is_opened() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..3000)).await.unwrap();
    shard.flush().await.unwrap();
    let stored = || fixture.index_files();
    eventually("the index", async || stored().len() == 1).await;
    shard.close().await;
    // As a crash between the deletion of a replaced segment and that of its index leaves it.
    let index = stored().remove(0);
    let left = index.with_file_name(format!("{}.ivf", uuid::Uuid::now_v7()));
    std::fs::copy(&index, &left).unwrap();
    let shard = fixture.open().await.unwrap();
    eventually("only the index", async || stored() == [index.clone()]).await;
    shard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_below_a_shard_that_are_not_its_own_are_left_alone() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..100)).await.unwrap();
    shard.flush().await.unwrap();
    shard.write(upserts(100..200)).await.unwrap();
    shard.close().await;
    // An operator's copies, in a directory of their own, and a note.
    let mut copies = Vec::new();
    for component in [StorageComponentType::Wal, StorageComponentType::Viper] {
        let files: Vec<_> = fixture
            .files(component)
            .into_iter()
            .filter(|file| file.is_file())
            .collect();
        let copy = files[0].with_file_name("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::write(files[0].with_file_name("note.txt"), b"mine").unwrap();
        for file in &files {
            let target = copy.join(file.file_name().unwrap());
            std::fs::copy(file, &target).unwrap();
            copies.push(target);
        }
        // And one of a segment that is gone.
        let other = copy.join(format!("{}.parquet", uuid::Uuid::now_v7()));
        std::fs::write(&other, b"").unwrap();
        copies.push(other);
    }
    let shard = fixture.open().await.unwrap();
    assert_eq!(shard.count(None).await.unwrap(), 200);
    assert!(copies.iter().all(|copy| copy.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_without_its_index_files_or_its_index_root_a_shard_opens_answers_the_same_and_builds_them_again() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..3000)).await.unwrap();
    shard.flush().await.unwrap();
    let query = Query::nearest(vec![105.0, 103.0, 101.0, 109.0], 10);
    let metric = proximadb_index::Metric::Euclidean;
    let expected = shard.search(&query, metric).await.unwrap();
    let stored = || fixture.index_files();
    eventually("the index", async || stored().len() == 1).await;
    shard.close().await;
    std::fs::remove_file(&stored()[0]).unwrap();
    let root = fixture.roots.of_component(StorageComponentType::Index).remove(0);
    root.set_state(RootState::Offline {
        reason: "unplugged".to_owned(),
    });
    let shard = fixture.open().await.unwrap();
    assert_eq!(shard.search(&query, metric).await.unwrap(), expected);
    eventually("the index in memory", async || shard.stats().indexed_vectors > 0).await;
    assert!(stored().is_empty());
    root.set_state(RootState::Online);
    eventually("the repair", async || {
        shard.repair_indexes().await > 0 || !stored().is_empty()
    })
    .await;
    assert_eq!(stored().len(), 1);
    assert_eq!(shard.search(&query, metric).await.unwrap(), expected);
    shard.close().await;
}

/// What a user sees of all points: their values, and what searches find.
async fn everything(shard: &Arc<Shard>) -> (Vec<crate::point::Point>, Vec<Vec<crate::search::ScoredPoint>>) {
    let points = {
        let state = shard.state.read();
        let points = state.points_from(None);
        points.map(|(id, at)| state.point(id, at).unwrap()).collect()
    };
    let query = |number: u64, exact| Query {
        exact,
        ..Query::nearest(vec![number as f32; DIM], 10)
    };
    let mut found = Vec::new();
    for exact in [true, false] {
        for number in (0..300u64).step_by(37) {
            let search = shard
                .search(&query(number, exact), proximadb_index::Metric::Euclidean)
                .await;
            found.push(search.unwrap());
        }
    }
    (points, found)
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_rows_are_used_from_their_file_and_come_back_when_it_is_lost_or_damaged() {
    let fixture = Fixture::new().await;
    let shard = fixture.open().await.unwrap();
    shard.write(upserts(0..3_000)).await.unwrap();
    shard.flush().await.unwrap();
    let mapped = |shard: &Shard| {
        shard
            .segments()
            .iter()
            .filter(|segment| segment.data.is_in_file())
            .count()
    };
    eventually("mapped rows", async || mapped(&shard) == 1).await;
    let expected = everything(&shard).await;
    shard.close().await;
    drop(shard);
    let file = || {
        let mut files = fixture.files(StorageComponentType::Index);
        files.retain(|file| file.extension().is_some_and(|extension| extension == "idx"));
        assert_eq!(files.len(), 1);
        files.remove(0)
    };
    let good = std::fs::read(file()).unwrap();
    let segment = fixture.files(StorageComponentType::Viper).into_iter();
    let segment = segment
        .filter(|file| file.extension().is_some())
        .collect::<Vec<_>>()
        .remove(0);
    let flipped = |at: usize| {
        let mut damaged = good.clone();
        damaged[at] ^= 16;
        Some(damaged)
    };
    let damages = [
        Some(good.clone()),
        None,
        Some(Vec::new()),
        Some(good[..good.len() / 2].to_vec()),
        flipped(20),
        flipped(good.len() / 3),
        flipped(good.len() - 1),
    ];
    for damage in damages {
        std::fs::remove_file(file()).unwrap();
        if let Some(bytes) = &damage {
            std::fs::write(file_path(&fixture, &segment), bytes).unwrap();
        }
        let shard = fixture.open().await.unwrap();
        // Damage of vectors and payloads is found a moment after the opening; nothing is copied from them before.
        shard.compact().await.unwrap();
        assert_eq!(everything(&shard).await, expected);
        eventually("the file", async || {
            std::fs::read(file_path(&fixture, &segment)).is_ok_and(|bytes| bytes == good) && mapped(&shard) == 1
        })
        .await;
        assert_eq!(everything(&shard).await, expected);
        shard.close().await;
    }
    // The segment stays the truth: it is not read, and has to be there all the same.
    let parquet = std::fs::read(&segment).unwrap();
    std::fs::remove_file(&segment).unwrap();
    assert!(matches!(fixture.open().await, Err(Error::Corruption(_))));
    std::fs::write(&segment, &parquet[..parquet.len() - 1]).unwrap();
    assert!(matches!(fixture.open().await, Err(Error::Corruption(_))));
    std::fs::write(&segment, &parquet).unwrap();
    let shard = fixture.open().await.unwrap();
    assert_eq!(everything(&shard).await, expected);
    shard.close().await;
}

fn file_path(fixture: &Fixture, segment: &std::path::Path) -> std::path::PathBuf {
    let name = segment.with_extension("idx").file_name().unwrap().to_owned();
    let directory = fixture
        .directory
        .path()
        .join(format!("index/{}/000", description(DIM).id));
    directory.join(name)
}

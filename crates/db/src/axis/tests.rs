#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proximadb_index::SearchParams;
use proximadb_store::{Blocks, StorageUrl, blocks};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::engine::cluster::sort_by_cluster;
use crate::engine::samples::{data, description};
use crate::placement::Placement;
use crate::root::{RootConfig, Roots, StorageComponentType};

const DIM: usize = 4;

/// Index roots in a directory of their own, and one segment with its indexes.
struct World {
    dir: TempDir,
    roots: Arc<Roots>,
    segment: SegmentMeta,
    data: Arc<SegmentData>,
    indexes: SegmentIndexes,
    /// What is stored beside the indexes: nothing, or `data`.
    rows: Arc<SegmentData>,
}

impl World {
    async fn new(count: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let config = |number| RootConfig {
            component: StorageComponentType::Index,
            url: StorageUrl::parse(&format!("file://{}/index{number}", dir.path().display())).unwrap(),
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
        };
        let roots = Arc::new(Roots::open((0..count).map(config).collect(), false).await.unwrap());
        let description = description(DIM);
        let (data, _) = sort_by_cluster(&description.schema, &data(&description, 1..2_500, &[]));
        let segment = serde_json::from_value(json!({
            "id": SegmentId::generate(), "root_id": roots.all()[0].id(), "rows": data.len(), "tombstones": 0,
            "min_seq": 1, "max_seq": 2_499, "bytes": 1, "data_bytes": 1, "crc32": 77, "replaces": [],
        }))
        .unwrap();
        let indexes = build(&data, &description.schema);
        assert_eq!(
            indexes.len(),
            description.schema.vectors.len(),
            "every space has its index"
        );
        Self {
            dir,
            roots,
            segment,
            data: Arc::new(data),
            indexes,
            rows: Arc::default(),
        }
    }

    /// The same with rows instead of indexes.
    async fn with_rows(count: usize) -> Self {
        let world = Self::new(count).await;
        Self {
            rows: world.data.clone(),
            indexes: SegmentIndexes::default(),
            ..world
        }
    }

    fn root(&self, number: usize) -> Arc<Root> {
        self.roots.all()[number].clone()
    }

    fn placement(&self, homes: &[usize]) -> Placement {
        let roots: Vec<RootId> = homes.iter().map(|&home| self.root(home).id()).collect();
        let placement =
            json!({ "roots": roots, "strategy": "RoundRobin", "affinity": true, "sequence": 0, "assigned_at_ms": 1 });
        serde_json::from_value(placement).unwrap()
    }

    /// As after a restart.
    async fn open(&self, homes: &[usize]) -> Axis {
        self.open_at(&self.placement(homes)).await
    }

    async fn open_at(&self, placement: &Placement) -> Axis {
        Axis::open(IndexHomes::new(placement, &self.roots), description(DIM).id, "000").await
    }

    async fn save(&self, axis: &Axis) {
        axis.save(&self.segment, &description(DIM), &self.indexes, &self.rows, || true)
            .await
            .unwrap();
    }

    async fn repair(&self, axis: &Axis) -> usize {
        let attached = self.attached(&self.segment);
        axis.repair(&description(DIM), || vec![attached]).await.written
    }

    fn attached(&self, segment: &SegmentMeta) -> Attached {
        Attached {
            segment: segment.clone(),
            indexes: self.indexes.clone(),
            rows: self.rows.clone(),
        }
    }

    fn path(&self, root: usize) -> PathBuf {
        let (id, of) = (description(DIM).id, if self.rows.is_empty() { "ivf" } else { "idx" });
        self.dir
            .path()
            .join(format!("index{root}/{id}/000/{}.{of}", self.segment.id))
    }

    /// The bytes of the file on each root, where there is one.
    fn copies(&self) -> Vec<Option<Vec<u8>>> {
        (0..self.roots.all().len())
            .map(|root| fs::read(self.path(root)).ok())
            .collect()
    }

    fn holders(&self) -> Vec<usize> {
        let copies = self.copies().into_iter().enumerate();
        copies.filter_map(|(root, copy)| copy.map(|_| root)).collect()
    }

    fn away(&self, root: usize) {
        let reason = "unplugged".to_owned();
        self.root(root).set_state(RootState::Offline { reason });
    }

    fn back(&self, root: usize) {
        self.root(root).set_state(RootState::Online);
    }

    /// That what was loaded answers as what was built.
    fn assert_serves(&self, loaded: Option<SegmentIndexes>) {
        let loaded = loaded.expect("an index");
        let rows = &self.data.vectors[""].rows;
        for row in (0..self.data.len()).step_by(301) {
            let search =
                |indexes: &SegmentIndexes| indexes[""].search(rows, rows.get(row), &SearchParams::new(5), None);
            assert_eq!(search(&loaded), search(&self.indexes));
        }
    }

    fn assert_usage(&self) {
        for root in 0..self.roots.all().len() {
            let usage = self.root(root).usage_of(description(DIM).id);
            let bytes = self.copies()[root].as_ref().map_or(0, Vec::len);
            assert_eq!(
                (usage.bytes, usage.files),
                (bytes as u64, u64::from(bytes > 0)),
                "root {root}"
            );
        }
    }
}

/// Moves every file; returns the bytes written.
async fn move_all(axis: &Axis, from: &Arc<Root>, to: &Arc<Root>) -> u64 {
    let mut bytes = 0;
    while let Some(copied) = axis.move_next(from, to).await.unwrap() {
        bytes += copied;
    }
    bytes
}

async fn load(axis: &Axis, segment: &SegmentMeta) -> Option<SegmentIndexes> {
    let loaded = axis.load(std::slice::from_ref(segment), |_, _| true).await;
    loaded.indexes.into_values().next()
}

#[tokio::test]
async fn i6_every_home_gets_an_equal_copy_and_usage_follows() {
    let world = World::new(3).await;
    let axis = world.open(&[2, 0]).await;
    world.save(&axis).await;
    assert_eq!(world.holders(), [0, 2]);
    assert_eq!(world.copies()[0], world.copies()[2]);
    world.assert_usage();
    world.save(&axis).await;
    world.assert_usage();
    axis.delete(world.segment.id).await;
    assert!(world.holders().is_empty());
    world.assert_usage();
}

#[tokio::test]
async fn i6_a_lost_or_damaged_primary_is_served_from_the_copy_and_then_repaired() {
    let world = World::new(2).await;
    world.save(&world.open(&[0, 1]).await).await;
    let good = world.copies();
    for damage in [
        None,
        Some(Vec::new()),
        Some(vec![7; 100]),
        good[0].clone().map(|file| file[1..].to_vec()),
    ] {
        match damage {
            None => fs::remove_file(world.path(0)).unwrap(),
            Some(bytes) => fs::write(world.path(0), bytes).unwrap(),
        }
        let axis = world.open(&[0, 1]).await;
        world.assert_serves(load(&axis, &world.segment).await);
        assert_eq!(world.repair(&axis).await, 1);
        assert_eq!(world.copies(), good);
        assert_eq!(world.repair(&axis).await, 0, "nothing is missing");
    }
}

#[tokio::test]
async fn i6_a_primary_that_is_deleted_while_serving_comes_back() {
    let world = World::new(2).await;
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    let good = world.copies();
    fs::remove_file(world.path(0)).unwrap();
    assert_eq!(world.repair(&axis).await, 1);
    assert_eq!(world.copies(), good);
    world.assert_usage();
}

#[tokio::test]
async fn i7_with_all_copies_lost_or_stale_nothing_is_loaded_and_memory_brings_them_back() {
    let world = World::new(2).await;
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    let good = world.copies();
    for root in 0..2 {
        fs::remove_file(world.path(root)).unwrap();
    }
    assert!(load(&world.open(&[0, 1]).await, &world.segment).await.is_none());
    assert_eq!(world.repair(&axis).await, 2);
    assert_eq!(world.copies(), good);
    let axis = world.open(&[0, 1]).await;
    let mut others = [world.segment.clone(), world.segment.clone()];
    others[0].crc32 += 1;
    others[1].rows += 1;
    for other in others {
        assert!(load(&axis, &other).await.is_none(), "an index of other rows");
        assert!(load(&axis, &world.segment).await.is_none(), "it is known to be bad");
    }
    world.save(&axis).await;
    world.assert_serves(load(&axis, &world.segment).await);
}

#[tokio::test]
async fn i7_every_flipped_byte_and_every_cut_is_refused() {
    let world = World::new(1).await;
    world.save(&world.open(&[0]).await).await;
    let (file, path) = (
        Bytes::from(world.copies()[0].clone().unwrap()),
        format!("{}/000/{}.ivf", description(DIM).id, world.segment.id),
    );
    let check = |file: &[u8], segment| check(&Bytes::copy_from_slice(file), &path, segment);
    check(&file, Some(&world.segment)).unwrap();
    // Every byte of the headers, and some of the codes.
    let places = || (0..file.len() - 4).filter(|at| *at < 1_500 || at % 499 == 0);
    for at in places() {
        let mut damaged = file.to_vec();
        damaged[at] ^= 1 << (at % 8);
        check(&damaged, None).unwrap_err();
        check(&file[..at], None).unwrap_err();
    }
    // With checksums that match, what is inside is still refused or read, and never a panic.
    let blocks = Blocks::of(&file).unwrap();
    let (header, body) = (blocks.header().to_vec(), file.slice(blocks.body().start as usize..));
    let encode = |header: &[u8], body: Vec<u8>| -> Bytes {
        let pieces = blocks::encode(blocks.magic(), header, vec![body.into()]);
        pieces.concat().into()
    };
    for at in (0..body.len()).filter(|at| *at < 1_500 || at % 499 == 0) {
        let mut damaged = body.to_vec();
        damaged[at] ^= 1 << (at % 8);
        let index = damaged.len() - 4;
        let crc = crate::sealed::crc32(&damaged[..index]);
        damaged[index..].copy_from_slice(&crc.to_le_bytes());
        drop(check(&encode(&header, damaged), Some(&world.segment)));
        check(&encode(&header, body[..at].to_vec()), None).unwrap_err();
    }
    for at in 0..header.len() {
        let mut damaged = header.clone();
        damaged[at] ^= 1 << (at % 8);
        drop(check(&encode(&damaged, body.to_vec()), Some(&world.segment)));
    }
}

#[tokio::test]
async fn i7_the_file_of_another_segment_shard_or_type_is_refused() {
    let world = World::new(1).await;
    world.save(&world.open(&[0]).await).await;
    let (file, id) = (world.copies()[0].clone().unwrap(), description(DIM).id);
    let other = SegmentId::generate();
    for path in [
        format!("{id}/000/{other}.ivf"),
        format!("{id}/001/{}.ivf", world.segment.id),
        format!("{id}/000/{}.hnsw", world.segment.id),
        format!("{id}/000/{}.txt", world.segment.id),
        format!("{}.ivf", world.segment.id),
    ] {
        check(&Bytes::from(file.clone()), &path, None).unwrap_err();
    }
}

#[tokio::test]
async fn i6_a_home_that_is_away_gets_its_copy_when_it_returns_and_loses_what_was_deleted() {
    let world = World::new(2).await;
    world.away(0);
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    assert_eq!(world.holders(), [1]);
    world.assert_serves(load(&axis, &world.segment).await);
    assert_eq!(world.repair(&axis).await, 0);
    world.back(0);
    assert_eq!(world.repair(&axis).await, 1);
    assert_eq!(world.copies()[0], world.copies()[1]);
    world.away(0);
    axis.delete(world.segment.id).await;
    assert_eq!(world.holders(), [0]);
    world.back(0);
    assert_eq!(axis.repair(&description(DIM), Vec::new).await, Repaired::default());
    assert!(world.holders().is_empty());
}

#[tokio::test]
async fn i7_with_no_root_at_all_saving_fails_and_nothing_else() {
    let world = World::new(1).await;
    world.away(0);
    let axis = world.open(&[0]).await;
    let error = axis
        .save(&world.segment, &description(DIM), &world.indexes, &world.rows, || true)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::RootUnavailable { .. }), "{error}");
    let mut nowhere = world.placement(&[0]);
    nowhere.roots = vec![RootId(uuid::Uuid::nil())];
    let axis = world.open_at(&nowhere).await;
    axis.save(&world.segment, &description(DIM), &world.indexes, &world.rows, || true)
        .await
        .unwrap_err();
    assert!(load(&axis, &world.segment).await.is_none());
}

#[tokio::test]
async fn a_segment_that_is_gone_or_a_closed_shard_gets_no_file() {
    let world = World::new(1).await;
    let axis = world.open(&[0]).await;
    axis.save(&world.segment, &description(DIM), &world.indexes, &world.rows, || false)
        .await
        .unwrap();
    axis.close().await;
    world.save(&axis).await;
    assert_eq!(world.repair(&axis).await, 0);
    assert!(world.holders().is_empty());
}

#[tokio::test]
async fn files_of_segments_that_are_gone_vanish_from_every_root_and_strangers_stay() {
    let world = World::new(3).await;
    let mut placement = world.placement(&[0, 1]);
    placement.also = vec![world.root(2).id()];
    world.save(&world.open_at(&placement).await).await;
    let id = SegmentId::generate();
    let left: Vec<PathBuf> = (0..3)
        .map(|root| world.path(root).with_file_name(format!("{id}.ivf")))
        .collect();
    fs::create_dir_all(world.path(2).parent().unwrap()).unwrap();
    let note = world.path(2).with_file_name("note.txt");
    left.iter()
        .chain([&note])
        .for_each(|path| fs::write(path, "x").unwrap());
    let axis = world.open_at(&placement).await;
    world.repair(&axis).await;
    assert!(left.iter().all(|path| !path.exists()));
    assert!(note.exists());
    assert_eq!(world.holders(), [0, 1]);
}

#[tokio::test]
async fn c12_types_have_homes_of_their_own() {
    let world = World::new(3).await;
    let mut placement = world.placement(&[0]);
    placement.types = BTreeMap::from([
        (IndexType::Hnsw, vec![world.root(1).id()]),
        (IndexType::Ivf, vec![world.root(2).id()]),
    ]);
    let axis = world.open_at(&placement).await;
    world.save(&axis).await;
    assert_eq!(world.holders(), [2]);
    let places = axis.places.lock().await;
    for (of, home) in [(IndexType::Hnsw, 1), (IndexType::Ivf, 2), (IndexType::Idx, 0)] {
        let key = (SegmentId::generate(), of);
        let targets: Vec<RootId> = axis
            .lacking(&places, key, &BTreeSet::new(), &description(DIM))
            .iter()
            .map(|root| root.id())
            .collect();
        assert_eq!(targets, [world.root(home).id()]);
        assert!(axis.path(key).ends_with(&format!(".{}", of.name())));
    }
}

#[tokio::test]
async fn c6_without_affinity_the_files_of_segments_are_spread_and_found_again() {
    let world = World::new(3).await;
    let mut placement = world.placement(&[0]);
    placement.affinity = false;
    placement.also = vec![world.root(1).id(), world.root(2).id()];
    let axis = world.open_at(&placement).await;
    let mut segments = Vec::new();
    for _ in 0..6 {
        let segment = SegmentMeta {
            id: SegmentId::generate(),
            ..world.segment.clone()
        };
        axis.save(&segment, &description(DIM), &world.indexes, &world.rows, || true)
            .await
            .unwrap();
        segments.push(segment);
    }
    for root in 0..3 {
        assert_eq!(world.root(root).usage_of(description(DIM).id).files, 2, "root {root}");
    }
    let axis = world.open_at(&placement).await;
    for segment in &segments {
        world.assert_serves(load(&axis, segment).await);
    }
    let attached: Vec<_> = segments.iter().map(|segment| world.attached(segment)).collect();
    assert_eq!(axis.repair(&description(DIM), || attached).await, Repaired::default());
}

#[tokio::test]
async fn a_move_copies_every_file_then_switches_then_clears() {
    let world = World::new(3).await;
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    let bytes = world.copies()[0].as_ref().unwrap().len() as u64;
    axis.clear(&world.root(0)).await.unwrap_err();
    assert_eq!(
        axis.move_next(&world.root(0), &world.root(2)).await.unwrap(),
        Some(bytes)
    );
    assert_eq!(move_all(&axis, &world.root(0), &world.root(2)).await, 0);
    assert_eq!(world.holders(), [0, 1, 2]);
    assert_eq!(axis.clear(&world.root(0)).await.unwrap(), bytes);
    assert_eq!(world.holders(), [1, 2]);
    assert_eq!(world.copies()[1], world.copies()[2]);
    assert_eq!(world.repair(&axis).await, 0, "the old home is none any more");
    world.assert_usage();
    world.assert_serves(load(&world.open(&[2, 1]).await, &world.segment).await);
}

#[tokio::test]
async fn a_move_from_a_root_that_is_away_or_damaged_takes_the_copy_or_memory() {
    let world = World::new(3).await;
    let axis = world.open(&[0, 1]).await;
    world.save(&axis).await;
    world.away(0);
    assert!(move_all(&axis, &world.root(0), &world.root(2)).await > 0);
    assert_eq!(world.copies()[1], world.copies()[2]);

    let world = World::new(2).await;
    let axis = world.open(&[0]).await;
    world.save(&axis).await;
    fs::write(world.path(0), "damage").unwrap();
    assert_eq!(move_all(&axis, &world.root(0), &world.root(1)).await, 0);
    assert_eq!(world.repair(&axis).await, 1);
    world.assert_serves(load(&world.open(&[1]).await, &world.segment).await);
}

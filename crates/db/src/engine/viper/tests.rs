#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::engine::compaction::{Candidate, choose, choose_all, merge, oldest_dead_outside};
use crate::engine::manifest::ManifestStore;
use crate::engine::samples::{contents, data, description, point, root};
use crate::engine::segment::SegmentBuilder;
use crate::point::{Point, PointId};
use fixedbitset::FixedBitSet;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap};

const SHARD: &str = "000";
const LARGE: u64 = 512 << 20;

struct Fixture {
    directory: tempfile::TempDir,
    viper: Viper,
    description: Arc<CollectionDescription>,
}

impl Fixture {
    async fn new(dim: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let description = Arc::new(description(dim));
        let viper = Viper::new(root(directory.path()).await, description.id, SHARD);
        Self {
            directory,
            viper,
            description,
        }
    }

    fn request(&self) -> WriteRequest {
        WriteRequest {
            description: Arc::clone(&self.description),
            max_seq: 0,
            replaces: Vec::new(),
            segment_size_bytes: LARGE,
        }
    }

    async fn write(&self, data: SegmentData) -> Written {
        let mut written = self.viper.write_segments(data, &self.request()).await.unwrap();
        assert_eq!(written.len(), 1);
        written.remove(0)
    }

    async fn read(&self, metas: &[SegmentMeta]) -> Vec<SegmentData> {
        let mut read = Vec::new();
        for meta in metas {
            read.push(self.viper.read_segment(meta).await.unwrap());
        }
        read
    }

    async fn files(&self) -> Vec<FileInfo> {
        self.viper.root().list(&self.description.id.to_string()).await.unwrap()
    }
}

#[tokio::test]
async fn g8_a_segment_is_read_as_it_was_written() {
    let fixture = Fixture::new(3).await;
    let rows = data(&fixture.description, 1..500, &[(9000, 600)]);
    let before = contents(&rows);
    let written = fixture.write(rows).await;
    let read = fixture.viper.read_segment(&written.meta).await.unwrap();
    assert_eq!(contents(&read), contents(&written.data));
    assert_eq!(read.clustering, written.data.clustering);
    for (row, old) in written.order.iter().enumerate() {
        assert_eq!(contents(&read).0[row], before.0[*old as usize]);
    }
    let meta = &written.meta;
    assert_eq!(
        (meta.rows, meta.tombstones, meta.min_seq, meta.max_seq),
        (499, 1, 1, 600)
    );
    assert_eq!(
        fixture.files().await.iter().map(|file| file.size).collect::<Vec<_>>(),
        [meta.bytes]
    );
}

#[tokio::test]
async fn nothing_to_write_writes_nothing() {
    let fixture = Fixture::new(3).await;
    let written = fixture
        .viper
        .write_segments(data(&fixture.description, [], &[]), &fixture.request())
        .await
        .unwrap();
    assert!(written.is_empty() && fixture.files().await.is_empty());
}

#[tokio::test]
async fn g5_no_segment_is_larger_than_the_size_and_the_pieces_cover_it_all() {
    let fixture = Fixture::new(64).await;
    let rows = data(&fixture.description, 1..2000, &[(9000, 2500)]);
    let mut before = contents(&rows).0;
    let request = WriteRequest {
        segment_size_bytes: 200_000,
        max_seq: 3000,
        ..fixture.request()
    };
    let written = fixture.viper.write_segments(rows, &request).await.unwrap();
    assert!(written.len() > 2);
    let metas: Vec<SegmentMeta> = written.iter().map(|written| written.meta.clone()).collect();
    assert!(metas.iter().all(|meta| meta.bytes <= 200_000), "{metas:?}");
    assert!(metas.windows(2).all(|pair| pair[0].max_seq < pair[1].min_seq));
    assert_eq!(metas.last().unwrap().max_seq, 3000);
    let mut after: Vec<_> = Vec::new();
    for (segment, written) in fixture.read(&metas).await.iter().zip(&written) {
        let points = contents(segment).0;
        assert!(
            points
                .iter()
                .zip(&written.order)
                .all(|(point, old)| *point == before[*old as usize])
        );
        after.extend(points);
    }
    after.sort_by_key(|(seq, _)| *seq);
    before.sort_by_key(|(seq, _)| *seq);
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_damaged_missing_or_exchanged_segment_is_corruption_that_names_it() {
    let fixture = Fixture::new(3).await;
    let written = fixture.write(data(&fixture.description, 1..50, &[])).await;
    let other = fixture.write(data(&fixture.description, 50..60, &[])).await;
    let path = fixture.files().await[0].path.clone();
    let intact = fixture.viper.root().read(&path).await.unwrap();
    let check = async |bytes: Option<Bytes>| {
        match bytes {
            Some(bytes) => fixture.viper.root().write_atomic(&path, bytes).await.unwrap(),
            None => fixture.viper.root().delete(&path).await.unwrap(),
        }
        let error = fixture.viper.read_segment(&written.meta).await.unwrap_err();
        assert!(
            matches!(&error, Error::Corruption(reason) if reason.contains(&path)),
            "{error}"
        );
    };
    let mut damaged = intact.to_vec();
    damaged[100] ^= 1;
    check(Some(damaged.into())).await;
    check(Some(intact.slice(..intact.len() - 1))).await;
    let (_, exchanged) = (
        other.meta.id,
        fixture.viper.root().read(&fixture.files().await[1].path).await.unwrap(),
    );
    check(Some(exchanged)).await;
    check(None).await;
}

#[tokio::test]
async fn a_sound_file_that_is_not_what_the_manifest_names_is_corruption() {
    let fixture = Fixture::new(3).await;
    let meta = fixture.write(data(&fixture.description, 1..50, &[])).await.meta;
    let others = [
        SegmentMeta {
            crc32: meta.crc32 ^ 1,
            ..meta.clone()
        },
        SegmentMeta {
            rows: 48,
            ..meta.clone()
        },
    ];
    for other in others {
        let error = fixture.viper.read_segment(&other).await.unwrap_err();
        assert!(matches!(error, Error::Corruption(_)), "{error}");
    }
    fixture.viper.read_segment(&meta).await.unwrap();
}

#[tokio::test]
async fn g5_compaction_of_rows_that_compress_well_comes_to_an_end() {
    let fixture = Fixture::new(2).await;
    let request = WriteRequest {
        segment_size_bytes: 400_000,
        ..fixture.request()
    };
    let mut segments: Vec<(SegmentMeta, Arc<SegmentData>)> = Vec::new();
    for seq in 0..300 {
        let mut builder = SegmentBuilder::new(&fixture.description.schema);
        let mut large = point(seq, 2);
        large.payload.insert("text".to_owned(), "x".repeat(30_000).into());
        builder.push(seq, &large).unwrap();
        let written = fixture.viper.write_segments(builder.build(), &request).await.unwrap();
        segments.extend(written.into_iter().map(|written| (written.meta, written.data)));
        let mut merges = 0;
        let all_live = |meta: &SegmentMeta| Candidate {
            meta: meta.clone(),
            live_rows: meta.rows,
        };
        while let Some(inputs) = choose(
            &segments.iter().map(|(meta, _)| all_live(meta)).collect::<Vec<_>>(),
            400_000,
        ) {
            merges += 1;
            assert!(merges < 4, "compaction does not end");
            let (old, rest) = segments.into_iter().partition(|(meta, _)| inputs.contains(&meta.id));
            segments = rest;
            let old: Vec<(SegmentMeta, Arc<SegmentData>)> = old;
            let all: Vec<_> = old
                .into_iter()
                .map(|(_, data)| (Arc::clone(&data), live(data.len())))
                .collect();
            let merged = merge(&fixture.description.schema, &all, None).unwrap();
            let request = WriteRequest {
                replaces: inputs,
                ..request.clone()
            };
            let written = fixture.viper.write_segments(merged, &request).await.unwrap();
            segments.extend(written.into_iter().map(|written| (written.meta, written.data)));
        }
    }
    assert!(segments.len() < 60, "{} segments", segments.len());
    assert!(
        segments
            .iter()
            .all(|(meta, _)| meta.bytes * 3 < meta.data_bytes && meta.data_bytes <= 400_000)
    );
}

/// All rows.
fn live(rows: usize) -> FixedBitSet {
    let mut live = FixedBitSet::with_capacity(rows);
    live.insert_range(..);
    live
}

#[tokio::test]
async fn g6_a_vpr_file_is_read_as_the_same() {
    let fixture = Fixture::new(3).await;
    let written = fixture.write(data(&fixture.description, 1..50, &[])).await;
    let path = fixture.files().await[0].path.clone();
    let bytes = fixture.viper.root().read(&path).await.unwrap();
    fixture
        .viper
        .root()
        .write_atomic(&path.replace(".parquet", ".vpr"), bytes)
        .await
        .unwrap();
    fixture.viper.root().delete(&path).await.unwrap();
    assert_eq!(fixture.viper.read_segment(&written.meta).await.unwrap().len(), 49);
    assert_eq!(
        fixture.viper.inspect(&fixture.files().await).await.unwrap()[0].1,
        written.meta
    );
    fixture.viper.delete_segment(&written.meta).await.unwrap();
    assert!(fixture.files().await.is_empty());
}

#[tokio::test]
async fn e6_a_lost_manifest_is_rebuilt_from_the_footers() {
    let fixture = Fixture::new(3).await;
    let first = fixture.write(data(&fixture.description, 1..50, &[])).await;
    let second = fixture.write(data(&fixture.description, 50..90, &[(3, 90)])).await;
    let found = fixture.viper.inspect(&fixture.files().await).await.unwrap();
    let manifest = Manifest::rebuild(fixture.description.id, SHARD, &found).unwrap();
    let mut expected = vec![first.meta, second.meta];
    expected.sort_by_key(|meta| meta.id);
    assert_eq!((manifest.segments, manifest.flushed_seq), (expected, 90));
    assert_eq!(manifest.description, *fixture.description);
}

#[tokio::test]
async fn e6_a_damaged_segment_stops_the_rebuilding_and_is_named() {
    let fixture = Fixture::new(3).await;
    fixture.write(data(&fixture.description, 1..50, &[])).await;
    let path = fixture.files().await[0].path.clone();
    let mut bytes = fixture.viper.root().read(&path).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fixture.viper.root().write_atomic(&path, bytes.into()).await.unwrap();
    let error = fixture.viper.inspect(&fixture.files().await).await.unwrap_err();
    assert!(
        matches!(&error, Error::Corruption(reason) if reason.contains(&path)),
        "{error}"
    );
}

#[tokio::test]
async fn orphans_are_what_the_newest_manifest_does_not_need() {
    let fixture = Fixture::new(3).await;
    let named = fixture.write(data(&fixture.description, 1..5, &[])).await;
    let unfinished = fixture.write(data(&fixture.description, 5..9, &[])).await;
    let store = ManifestStore::new(Arc::clone(fixture.viper.root()), fixture.description.id, SHARD);
    let mut manifest = Manifest::empty((*fixture.description).clone(), SHARD);
    for seq in 1..=6 {
        manifest = manifest.next((*fixture.description).clone(), seq, vec![named.meta.clone()]);
        store.commit(&manifest).await.unwrap();
    }
    // Left by a crash between a commit and the deletion of the manifest that became too old.
    let old = format!("{}/{SHARD}/manifest/{:020}.json", fixture.description.id, 2);
    fixture.viper.root().write_atomic(&old, Bytes::new()).await.unwrap();
    let files = fixture.files().await;
    let orphans: Vec<String> = fixture
        .viper
        .orphans(&manifest, &files)
        .into_iter()
        .map(|file| file.path)
        .collect();
    let segment = format!("{}/{SHARD}/{}.parquet", fixture.description.id, unfinished.meta.id);
    assert_eq!(orphans, [segment, old]);
}

#[tokio::test]
async fn g7_every_file_lies_in_the_shard_directory_of_its_root() {
    let fixture = Fixture::new(3).await;
    fixture.write(data(&fixture.description, 1..50, &[])).await;
    let prefix = format!("{}/{SHARD}/", fixture.description.id);
    let files = fixture.viper.root().list("").await.unwrap();
    assert!(
        files
            .iter()
            .all(|file| file.path.starts_with(&prefix) || file.path.starts_with("_proximadb/")),
        "{files:?}"
    );
    assert!(fixture.directory.path().join("viper").join(&prefix).is_dir());
}

/// A shard as plain as can be: what its segments and manifest make of liveness, against a map.
struct Model {
    fixture: Fixture,
    store: ManifestStore,
    manifest: Manifest,
    segments: Vec<(SegmentMeta, Arc<SegmentData>)>,
    memtable: HashMap<PointId, (Seq, Option<Point>)>,
    truth: BTreeMap<PointId, (Seq, Point)>,
    seq: Seq,
}

impl Model {
    async fn new() -> Self {
        let fixture = Fixture::new(2).await;
        let store = ManifestStore::new(Arc::clone(fixture.viper.root()), fixture.description.id, SHARD);
        let manifest = Manifest::empty((*fixture.description).clone(), SHARD);
        let (segments, memtable, truth) = (Vec::new(), HashMap::new(), BTreeMap::new());
        Self {
            fixture,
            store,
            manifest,
            segments,
            memtable,
            truth,
            seq: 0,
        }
    }

    fn change(&mut self, random: &mut StdRng) {
        self.seq += 1;
        let id = PointId::Num(random.random_range(0..300));
        if random.random_bool(0.4) {
            self.truth.remove(&id);
            self.memtable.insert(id, (self.seq, None));
        } else {
            let point = Point {
                id,
                ..point(random.random_range(0..10_000), 2)
            };
            self.truth.insert(id, (self.seq, point.clone()));
            self.memtable.insert(id, (self.seq, Some(point)));
        }
    }

    async fn commit(&mut self) {
        let metas = self.segments.iter().map(|(meta, _)| meta.clone()).collect();
        self.manifest = self.manifest.next((*self.fixture.description).clone(), self.seq, metas);
        self.store.commit(&self.manifest).await.unwrap();
    }

    async fn flush(&mut self) {
        let mut builder = SegmentBuilder::new(&self.fixture.description.schema);
        for (id, (seq, point)) in self.memtable.drain() {
            match point {
                Some(point) => builder.push(seq, &point).unwrap(),
                None => builder.tombstone(id, seq),
            }
        }
        let request = WriteRequest {
            max_seq: self.seq,
            segment_size_bytes: 8000,
            ..self.fixture.request()
        };
        self.write(builder.build(), request).await;
        self.commit().await;
    }

    async fn write(&mut self, data: SegmentData, request: WriteRequest) {
        let written = self.fixture.viper.write_segments(data, &request).await.unwrap();
        self.segments
            .extend(written.into_iter().map(|written| (written.meta, written.data)));
    }

    /// The newest entry of each id: a sequence number, and the segment and row unless it is a tombstone.
    fn newest(&self) -> HashMap<PointId, (Seq, Option<(usize, usize)>)> {
        let mut newest: HashMap<PointId, (Seq, Option<(usize, usize)>)> = HashMap::new();
        for (at, (_, data)) in self.segments.iter().enumerate() {
            let rows = data
                .ids
                .iter()
                .zip(&data.seqs)
                .enumerate()
                .map(|(row, (id, seq))| (*id, *seq, Some((at, row))));
            for (id, seq, place) in rows.chain(data.tombstones.iter().map(|(id, seq)| (*id, *seq, None))) {
                let entry = newest.entry(id).or_insert((seq, place));
                if entry.0 < seq {
                    *entry = (seq, place);
                }
            }
        }
        newest
    }

    fn live(&self) -> Vec<FixedBitSet> {
        let mut live: Vec<_> = self
            .segments
            .iter()
            .map(|(_, data)| FixedBitSet::with_capacity(data.len()))
            .collect();
        self.newest()
            .into_values()
            .filter_map(|(_, place)| place)
            .for_each(|(at, row)| live[at].insert(row));
        live
    }

    async fn compact(&mut self, random: &mut StdRng) {
        let live = self.live();
        let candidates: Vec<Candidate> = (self.segments.iter().zip(&live))
            .map(|((meta, _), live)| Candidate {
                meta: meta.clone(),
                live_rows: live.count_ones(..) as u64,
            })
            .collect();
        let Some(mut inputs) = choose_all(&candidates, LARGE, LARGE).pop() else {
            return;
        };
        // Any part of them is a legal compaction too.
        inputs.retain(|_| random.random_bool(0.7));
        let oldest = oldest_dead_outside(&candidates, &inputs);
        let (old, rest): (Vec<_>, Vec<_>) = self
            .segments
            .drain(..)
            .zip(live)
            .partition(|((meta, _), _)| inputs.contains(&meta.id));
        self.segments = rest.into_iter().map(|(segment, _)| segment).collect();
        let max_seq = old.iter().map(|((meta, _), _)| meta.max_seq).max().unwrap_or_default();
        let (metas, merging): (Vec<_>, Vec<_>) =
            old.into_iter().map(|((meta, data), live)| (meta, (data, live))).unzip();
        let merged = merge(&self.fixture.description.schema, &merging, oldest).unwrap();
        let request = WriteRequest {
            max_seq,
            replaces: inputs,
            segment_size_bytes: 20_000,
            ..self.fixture.request()
        };
        self.write(merged, request).await;
        self.commit().await;
        for meta in &metas {
            self.fixture.viper.delete_segment(meta).await.unwrap();
        }
    }

    async fn restart(&mut self, from_manifest: bool) {
        let files = self.fixture.files().await;
        assert_eq!(self.fixture.viper.orphans(&self.manifest, &files), []);
        let metas = if from_manifest {
            let latest = self.store.latest(&files).await.unwrap();
            latest.map_or(Vec::new(), |manifest| manifest.segments)
        } else {
            let found = self.fixture.viper.inspect(&files).await.unwrap();
            if found.is_empty() {
                Vec::new()
            } else {
                Manifest::rebuild(self.fixture.description.id, SHARD, &found)
                    .unwrap()
                    .segments
            }
        };
        let read = self.fixture.read(&metas).await;
        self.segments = metas.into_iter().zip(read.into_iter().map(Arc::new)).collect();
    }

    fn check(&self) {
        let mut found = BTreeMap::new();
        for (at, live) in self.live().iter().enumerate() {
            let data = &self.segments[at].1;
            let rows = contents(data).0;
            found.extend(live.ones().map(|row| (data.ids[row], rows[row].clone())));
        }
        assert_eq!(found, self.truth);
    }
}

/// G4 and G8.
#[tokio::test]
async fn g8_random_changes_survive_flush_compaction_restart_and_a_lost_manifest() {
    let mut model = Model::new().await;
    let mut random = StdRng::seed_from_u64(8);
    for round in 0..40 {
        (0..250).for_each(|_| model.change(&mut random));
        model.flush().await;
        model.check();
        if round % 3 == 2 {
            model.compact(&mut random).await;
            model.check();
        }
        model.restart(round % 2 == 0).await;
        model.check();
    }
    let bytes: u64 = model.segments.iter().map(|(meta, _)| meta.bytes).sum();
    assert!(bytes < 2 << 20, "dead rows and tombstones go away: {bytes} bytes");
}

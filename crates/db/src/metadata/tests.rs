#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod outages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use futures::future::join_all;
use proptest::prelude::*;
use proximadb_store::StorageUrl;
use tempfile::TempDir;

use super::*;
use crate::config::DistributionStrategy;
use crate::discovery::discover;
use crate::patience::eventually;
use crate::placement::Placement;
use crate::root::{RootConfig, RootId, RootState};
use crate::schema::Schema;
use crate::sealed;

const METADATA: StorageComponentType = StorageComponentType::Metadata;

/// Metadata roots in a directory of their own, and the store over them.
struct World {
    dir: TempDir,
    roots: Arc<Roots>,
    store: MetadataStore,
}

impl World {
    async fn new(count: usize) -> Self {
        let dir = TempDir::new().unwrap();
        let roots = open(&dir, count).await;
        Self {
            dir,
            store: MetadataStore::new(roots.clone()),
            roots,
        }
    }

    /// A restart: everything in memory is gone.
    async fn restart(self) -> Self {
        let Self { dir, roots, store } = self;
        let count = roots.all().len();
        drop((roots, store));
        let roots = open(&dir, count).await;
        Self {
            dir,
            store: MetadataStore::new(roots.clone()),
            roots,
        }
    }

    async fn load(&self) -> LoadedRecords {
        self.store
            .load_all(&discover(&self.roots).await, &BTreeSet::new())
            .await
    }

    async fn load_one(&self) -> CollectionRecord {
        let loaded = self.load().await;
        assert!(loaded.unreadable.is_empty(), "{:?}", loaded.unreadable);
        loaded.records.into_values().next().expect("one record")
    }

    fn root(&self, number: usize) -> Arc<Root> {
        self.roots.all()[number].clone()
    }

    fn away(&self, number: usize) {
        self.root(number).set_state(RootState::Offline {
            reason: "unplugged".to_owned(),
        });
    }

    fn back(&self, number: usize) {
        self.root(number).set_state(RootState::Online);
    }

    fn placement(&self, homes: &[usize]) -> Placements {
        let roots = homes.iter().map(|&home| self.root(home).id()).collect();
        placement(roots)
    }

    async fn create(&self, number: u64, homes: &[usize]) -> Result<CollectionRecord> {
        self.store.create(description(number), self.placement(homes)).await
    }

    /// The collection's files on a root, by name.
    fn files(&self, root: usize, number: u64) -> BTreeMap<String, Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.directory(root, number)) else {
            return BTreeMap::new();
        };
        let file = |entry: fs::DirEntry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        };
        entries.map(|entry| file(entry.unwrap())).collect()
    }

    fn versions(&self, root: usize, number: u64) -> Vec<u64> {
        self.files(root, number)
            .keys()
            .filter_map(|name| version_of(name))
            .collect()
    }

    fn directory(&self, root: usize, number: u64) -> PathBuf {
        self.dir.path().join(format!("meta{root}/{}", description(number).id))
    }

    fn file(&self, root: usize, number: u64, version: u64) -> PathBuf {
        self.directory(root, number).join(format!("{version:020}.json"))
    }
}

async fn open(dir: &TempDir, count: usize) -> Arc<Roots> {
    let config = |number| RootConfig {
        component: METADATA,
        url: StorageUrl::parse(&format!("file://{}/meta{number}", dir.path().display())).unwrap(),
        options: BTreeMap::new(),
        tags: BTreeMap::new(),
        weight: 1.0,
    };
    let mut opened = None;
    eventually("the end of the world before this one", async || {
        opened = match Roots::open((0..count).map(&config).collect(), true).await {
            // What a world before this one began may still be ending: it holds its roots, and their locks, until then.
            Err(Error::Config(reason)) if reason.contains("uses this root") => None,
            answer => Some(Arc::new(answer.unwrap())),
        };
        opened.is_some()
    })
    .await;
    opened.unwrap()
}

fn description(number: u64) -> CollectionDescription {
    let settings = serde_json::json!({ "ratio": 0.1, "tiny": 5e-324, "z": 1, "a": 2.5000000000000004 });
    CollectionDescription {
        id: format!("0190a5b0-0000-7000-8000-{number:012}").parse().unwrap(),
        name: format!("collection {number}"),
        schema: Schema {
            vectors: BTreeMap::new(),
            storage_engine: Default::default(),
            payload_indexes: BTreeMap::new(),
            settings: settings.as_object().unwrap().clone(),
        },
        created_at_ms: 7,
    }
}

fn placement(roots: Vec<RootId>) -> Placements {
    let strategy = DistributionStrategy::RoundRobin;
    let placement = Placement {
        roots,
        strategy,
        affinity: true,
        sequence: Some(3),
        assigned_at_ms: 42,
        also: Vec::new(),
        types: BTreeMap::new(),
        moving: None,
    };
    StorageComponentType::ALL
        .into_iter()
        .map(|component| (component, placement.clone()))
        .collect()
}

fn renamed(record: &CollectionRecord, name: &str) -> CollectionRecord {
    let mut record = record.clone();
    record.description.name = name.to_owned();
    record
}

fn dropping(record: &CollectionRecord) -> CollectionRecord {
    CollectionRecord {
        state: CollectionState::Dropping,
        ..record.clone()
    }
}

#[tokio::test]
async fn j1_records_lie_on_their_assigned_roots_and_nowhere_else() {
    let world = World::new(3).await;
    for number in 0..6 {
        world.create(number, &[number as usize % 3]).await.unwrap();
    }
    for number in 0..6 {
        for root in 0..3 {
            let expected = if number as usize % 3 == root { vec![1] } else { vec![] };
            assert_eq!(
                world.versions(root, number),
                expected,
                "collection {number} on root {root}"
            );
        }
    }
}

#[tokio::test]
async fn j2_two_copies_on_two_roots_have_equal_bytes_through_create_and_update() {
    let world = World::new(3).await;
    let record = world.create(1, &[2, 0]).await.unwrap();
    assert_eq!(world.files(2, 1), world.files(0, 1));
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    let record = world.store.update(renamed(&record, "c")).await.unwrap();
    assert_eq!(record.version, 3);
    assert_eq!(
        world.versions(2, 1),
        [2, 3],
        "two newer versions exist, so the first is gone"
    );
    assert_eq!(world.files(2, 1), world.files(0, 1));
    assert!(world.files(1, 1).is_empty());
}

#[tokio::test]
async fn d8_a_restart_finds_the_record_as_it_was_with_homes_and_times() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let updated = world.store.update(renamed(&record, "b")).await.unwrap();
    assert_eq!(world.restart().await.load_one().await, updated);
}

/// What a kill -9 between the two copies leaves: the new version on the first home only, or on none.
#[tokio::test]
async fn j3_after_a_crash_between_the_copies_both_are_equal_and_old_or_new() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let updated = world.store.update(renamed(&record, "new")).await.unwrap();
    fs::remove_file(world.file(1, 1, 2)).unwrap();
    let world = world.restart().await;
    assert_eq!(world.load_one().await, updated, "committed on the first home: new");
    assert_eq!(world.files(0, 1), world.files(1, 1));
    for root in 0..2 {
        fs::remove_file(world.file(root, 1, 2)).unwrap();
    }
    let world = world.restart().await;
    assert_eq!(world.load_one().await, record, "committed nowhere: old");
    assert_eq!(world.files(0, 1), world.files(1, 1));
}

#[tokio::test]
async fn j3_a_crash_after_the_first_copy_of_a_new_collection_is_completed() {
    let world = World::new(2).await;
    let record = world.create(1, &[1, 0]).await.unwrap();
    fs::remove_dir_all(world.directory(0, 1)).unwrap();
    let world = world.restart().await;
    assert_eq!(world.load_one().await, record);
    assert_eq!(world.files(0, 1), world.files(1, 1));
}

#[tokio::test]
async fn j4_json_and_meta_files_are_read_and_other_names_are_not() {
    let world = World::new(1).await;
    let record = world.create(1, &[0]).await.unwrap();
    fs::rename(world.file(0, 1, 1), world.file(0, 1, 1).with_extension("meta")).unwrap();
    for stray in ["2.json", "0000000000000000000x.json", "notes.json"] {
        fs::write(world.directory(0, 1).join(stray), "{}").unwrap();
    }
    assert_eq!(world.load_one().await, record);
}

#[tokio::test]
async fn j5_with_either_home_away_records_are_created_changed_and_read_and_the_copies_are_equal_later() {
    for away in [0, 1] {
        let world = World::new(2).await;
        let record = world.create(1, &[0, 1]).await.unwrap();
        world.away(away);
        assert_eq!(world.load_one().await, record);
        let updated = world.store.update(renamed(&record, "b")).await.unwrap();
        let updated = world.store.update(renamed(&updated, "c")).await.unwrap();
        world.create(2, &[0, 1]).await.unwrap();
        assert_eq!(world.versions(away, 1), [1]);
        world.back(away);
        let loaded = world.load().await;
        assert_eq!(loaded.records[&description(1).id], updated, "home {away} was away");
        assert_eq!(world.versions(away, 1), [3], "what the lagging home had is outdated");
        assert_eq!(
            world.files(away, 1)[&format!("{:020}.json", 3)],
            world.files(1 - away, 1)[&format!("{:020}.json", 3)]
        );
        assert_eq!(world.files(0, 2), world.files(1, 2));
    }
}

#[tokio::test]
async fn e10_homes_on_roots_that_are_away_stay_in_the_record() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let world = world.restart().await;
    world.away(0);
    assert_eq!(world.load_one().await.placement, record.placement);
    assert!(world.files(2, 1).is_empty(), "no copy was made elsewhere");
}

#[tokio::test]
async fn nothing_exists_when_no_home_took_the_first_version() {
    let world = World::new(2).await;
    world.away(0);
    world.away(1);
    let error = world.create(1, &[0, 1]).await.unwrap_err();
    assert!(
        matches!(&error, Error::RootUnavailable { reason, .. } if reason == "unplugged"),
        "{error}"
    );
    world.back(0);
    world.back(1);
    assert!(world.load().await.records.is_empty());
}

#[tokio::test]
async fn an_update_that_no_home_took_leaves_the_old_version() {
    let world = World::new(1).await;
    let record = world.create(1, &[0]).await.unwrap();
    world.away(0);
    world.store.update(renamed(&record, "b")).await.unwrap_err();
    world.back(0);
    assert_eq!(world.load_one().await, record);
    world.store.update(renamed(&record, "c")).await.unwrap();
}

#[tokio::test]
async fn a_damaged_copy_is_replaced_by_the_good_one() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let good = world.files(1, 1);
    let bytes = fs::read(world.file(0, 1, 1)).unwrap();
    for damage in [
        &b""[..],
        &bytes[..bytes.len() / 2],
        b"{\"crc32\":0,\"record\":{}}",
        &[0; 100],
    ] {
        fs::write(world.file(0, 1, 1), damage).unwrap();
        assert_eq!(world.load_one().await, record);
        assert_eq!(world.files(0, 1), good);
    }
}

#[tokio::test]
async fn a_record_that_is_damaged_everywhere_is_an_error_with_its_file_and_the_others_load() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.store.update(renamed(&record, "b")).await.unwrap();
    let other = world.create(2, &[1]).await.unwrap();
    for root in 0..2 {
        fs::write(world.file(root, 1, 2), "{").unwrap();
    }
    let before = world.files(0, 1);
    let loaded = world.load().await;
    assert_eq!(
        loaded.records.into_values().collect::<Vec<_>>(),
        [other],
        "the version before is not taken instead"
    );
    let error = &loaded.unreadable[&record.description.id];
    assert!(matches!(error, Error::Corruption(_)), "{error}");
    for root in 0..2 {
        let file = format!("meta{root}/{}", record_path(record.description.id, 2));
        assert!(error.to_string().contains(&file), "{error}");
    }
    assert_eq!(world.files(0, 1), before, "nothing was touched");
}

#[tokio::test]
async fn every_flipped_bit_of_a_record_is_noticed() {
    let world = World::new(1).await;
    let record = world.create(1, &[0]).await.unwrap();
    let bytes = fs::read(world.file(0, 1, 1)).unwrap();
    assert_eq!(sealed::unseal::<CollectionRecord>(&bytes).unwrap(), record);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let read = sealed::unseal::<CollectionRecord>(&damaged);
        assert!(read.is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(
            sealed::unseal::<CollectionRecord>(&bytes[..length]).is_err(),
            "cut at {length}"
        );
    }
}

#[tokio::test]
async fn a_record_of_a_later_release_is_refused_with_its_version() {
    #[derive(Serialize)]
    struct Later {
        format_version: u32,
        something: &'static str,
    }
    let bytes = seal(&Later {
        format_version: 2,
        something: "new",
    })
    .unwrap();
    let reason = sealed::unseal::<CollectionRecord>(&bytes).unwrap_err();
    assert!(reason.contains("format version 2"), "{reason}");
}

#[tokio::test]
async fn a_record_under_the_name_of_another_is_damage() {
    let world = World::new(1).await;
    world.create(1, &[0]).await.unwrap();
    world.create(2, &[0]).await.unwrap();
    fs::copy(world.file(0, 1, 1), world.file(0, 2, 1)).unwrap();
    let loaded = world.load().await;
    assert!(
        loaded.unreadable[&description(2).id]
            .to_string()
            .contains(&description(1).id.to_string())
    );
}

#[tokio::test]
async fn copies_that_differ_at_one_version_are_an_error_and_none_is_chosen() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let other = CollectionRecord {
        nonce: Uuid::new_v4(),
        ..renamed(&record, "other")
    };
    fs::write(world.file(1, 1, 1), seal(&other).unwrap()).unwrap();
    let error = world
        .load()
        .await
        .unreadable
        .remove(&record.description.id)
        .unwrap()
        .to_string();
    assert!(
        error.contains("differs") && error.contains("meta0") && error.contains("meta1"),
        "{error}"
    );
}

/// The record was loaded from the home that had missed an update: changing it would undo what the other home knows.
#[tokio::test]
async fn an_update_of_an_outdated_record_is_refused_when_the_newer_one_returns() {
    let world = World::new(2).await;
    let old = world.create(1, &[0, 1]).await.unwrap();
    world.away(1);
    let newer = world.store.update(renamed(&old, "b")).await.unwrap();
    let newer = world.store.update(renamed(&newer, "c")).await.unwrap();
    let newer = world.store.update(renamed(&newer, "d")).await.unwrap();
    world.back(1);
    world.away(0);
    assert_eq!(world.load_one().await, old);
    world.back(0);
    let error = world.store.update(renamed(&old, "x")).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!(world.load_one().await, newer);
}

#[tokio::test]
async fn of_64_racing_creators_one_commits_and_the_copies_are_its() {
    let world = World::new(2).await;
    let racers = (0..64).map(|racer| {
        let described = CollectionDescription {
            name: format!("racer {racer}"),
            ..description(1)
        };
        world.store.create(described, world.placement(&[0, 1]))
    });
    let outcomes = join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(
        lost.iter()
            .all(|outcome| matches!(outcome, Err(Error::AlreadyExists(_))))
    );
    assert_eq!(world.files(0, 1), world.files(1, 1));
    assert_eq!(world.load_one().await, *won[0].as_ref().unwrap());
}

#[tokio::test]
async fn d14_a_dropped_collection_leaves_nothing_and_its_neighbour_everything() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.create(2, &[0, 1]).await.unwrap();
    let record = world.store.update(dropping(&record)).await.unwrap();
    world.store.remove(&record).await.unwrap();
    for root in 0..2 {
        assert!(!world.directory(root, 1).exists());
        assert_eq!(world.versions(root, 2), [1]);
        assert_eq!(world.root(root).usage_of(record.description.id).files, 0);
    }
    assert_eq!(world.load_one().await.description, description(2));
}

#[tokio::test]
async fn a_record_that_is_not_dropping_is_not_removed() {
    let world = World::new(1).await;
    let record = world.create(1, &[0]).await.unwrap();
    assert!(matches!(world.store.remove(&record).await, Err(Error::Internal(_))));
    assert_eq!(world.load_one().await, record);
}

/// Deleted stays deleted: the home that was away still says Active.
#[tokio::test]
async fn a_drop_with_a_home_away_waits_for_it_and_nothing_comes_back() {
    for away in [0, 1] {
        let world = World::new(2).await;
        let record = world.create(1, &[0, 1]).await.unwrap();
        world.away(away);
        let record = world.store.update(dropping(&record)).await.unwrap();
        assert!(matches!(
            world.store.remove(&record).await,
            Err(Error::RootUnavailable { .. })
        ));
        assert_eq!(world.load_one().await.state, CollectionState::Dropping);
        world.back(away);
        world.store.remove(&record).await.unwrap();
        assert!(world.load().await.records.is_empty(), "home {away} was away");
    }
}

/// A crash at any point of a removal: whatever is left says Dropping, and removing again finishes.
#[tokio::test]
async fn a_removal_cut_short_at_any_point_is_finished_after_a_restart() {
    for (removed, lagging) in [(0, false), (0, true), (1, false), (1, true)] {
        let world = World::new(2).await;
        let record = world.create(1, &[0, 1]).await.unwrap();
        let record = world.store.update(dropping(&record)).await.unwrap();
        fs::remove_dir_all(world.directory(removed, 1)).unwrap();
        if lagging {
            fs::remove_file(world.file(1 - removed, 1, 1)).unwrap();
        }
        let world = world.restart().await;
        let found = world.load_one().await;
        assert_eq!(found, record);
        world.store.remove(&found).await.unwrap();
        assert!(world.load().await.records.is_empty());
        assert!(!world.directory(0, 1).exists() && !world.directory(1, 1).exists());
    }
}

/// A crash after the first home was emptied leaves the second one alone: it must not be one that still says Active.
#[tokio::test]
async fn before_the_first_copy_goes_every_home_says_dropping() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.away(1);
    let record = world.store.update(dropping(&record)).await.unwrap();
    world.back(1);
    assert_eq!(world.versions(1, 1), [1]);
    world.store.tell_all_holders(&record).await.unwrap();
    fs::remove_dir_all(world.directory(0, 1)).unwrap();
    assert_eq!(world.load_one().await, record);
}

#[tokio::test]
async fn a_lost_race_on_the_first_home_writes_nothing_on_the_others() {
    let world = World::new(2).await;
    let theirs = world.create(1, &[0]).await.unwrap();
    let error = world.create(1, &[0, 1]).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert!(world.files(1, 1).is_empty());
    assert_eq!(world.load_one().await, theirs);
}

#[tokio::test]
async fn k1_usage_follows_the_files() {
    let world = World::new(2).await;
    let mut record = world.create(1, &[0, 1]).await.unwrap();
    for name in ["b", "cc", "ddd"] {
        record = world.store.update(renamed(&record, name)).await.unwrap();
    }
    for root in 0..2 {
        let files = world.files(root, 1);
        let usage = world.root(root).usage_of(record.description.id);
        assert_eq!(usage.files, files.len() as u64);
        assert_eq!(usage.bytes, files.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    }
}

fn counters(wal: u64, viper: u64) -> BTreeMap<StorageComponentType, u64> {
    BTreeMap::from([(StorageComponentType::Wal, wal), (StorageComponentType::Viper, viper)])
}

#[tokio::test]
async fn c2_saved_counters_survive_a_restart_and_never_fall() {
    let world = World::new(2).await;
    assert!(world.store.load_counters().await.is_empty());
    for (saved, expected) in [((3, 1), (3, 1)), ((2, 5), (3, 5)), ((0, 0), (3, 5)), ((9, 9), (9, 9))] {
        world.store.save_counters(&counters(saved.0, saved.1)).await.unwrap();
        assert_eq!(world.store.load_counters().await, counters(expected.0, expected.1));
    }
    let world = world.restart().await;
    assert_eq!(world.store.load_counters().await, counters(9, 9));
    let files = fs::read_dir(world.dir.path().join("meta0/_proximadb/counters"))
        .unwrap()
        .count();
    assert_eq!(files, 2, "the newest and the one before");
}

#[tokio::test]
async fn counters_are_the_highest_of_the_roots_that_can_be_read() {
    let world = World::new(2).await;
    world.store.save_counters(&counters(1, 1)).await.unwrap();
    world.away(1);
    world.store.save_counters(&counters(5, 2)).await.unwrap();
    world.back(1);
    assert_eq!(world.store.load_counters().await, counters(5, 2));
    world.away(0);
    assert_eq!(world.store.load_counters().await, counters(1, 1));
    world.store.save_counters(&counters(1, 8)).await.unwrap();
    world.back(0);
    assert_eq!(
        world.store.load_counters().await,
        counters(5, 8),
        "two contents of one number only add up"
    );
    world.away(0);
    world.away(1);
    assert!(world.store.load_counters().await.is_empty());
}

#[tokio::test]
async fn damaged_counters_fall_back_to_the_version_before() {
    let world = World::new(1).await;
    world.store.save_counters(&counters(1, 1)).await.unwrap();
    world.store.save_counters(&counters(2, 2)).await.unwrap();
    fs::write(
        world
            .dir
            .path()
            .join(format!("meta0/_proximadb/counters/{:020}.json", 2)),
        "x",
    )
    .unwrap();
    assert_eq!(world.store.load_counters().await, counters(1, 1));
    world.store.save_counters(&counters(4, 4)).await.unwrap();
    assert_eq!(world.store.load_counters().await, counters(4, 4));
}

#[tokio::test]
async fn racing_savers_lose_nothing() {
    let world = World::new(2).await;
    let savers = (0..4).map(|number| {
        let bound = if number % 2 == 0 {
            counters(number, 0)
        } else {
            counters(0, number)
        };
        let store = &world.store;
        async move { store.save_counters(&bound).await }
    });
    assert!(join_all(savers).await.iter().all(Result::is_ok));
    assert_eq!(world.store.load_counters().await, counters(2, 3));
}

#[derive(Debug, Clone)]
enum Step {
    Update,
    Away(usize),
    Load,
    Restart,
    LoseCopy(usize),
    DamageCopy(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Update),
        1 => (0usize..2).prop_map(Step::Away),
        1 => Just(Step::Load),
        1 => Just(Step::Restart),
        1 => (0usize..2).prop_map(Step::LoseCopy),
        1 => (0usize..2).prop_map(Step::DamageCopy),
    ];
    prop::collection::vec(step, 1..16)
}

/// Any history in which one home at a time is away, loses its copy or is damaged, and the copies are made equal before the
/// other one fails: the record is always the last acknowledged one.
async fn check_history(steps: Vec<Step>) {
    let mut world = World::new(2).await;
    let mut last = world.create(1, &[0, 1]).await.unwrap();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Update => {
                last = world
                    .store
                    .update(renamed(&last, &format!("name {number}")))
                    .await
                    .unwrap();
                continue;
            }
            Step::Away(home) => {
                world.away(home);
                last = world
                    .store
                    .update(renamed(&last, &format!("away {number}")))
                    .await
                    .unwrap();
                world.back(home);
            }
            Step::Load => {}
            Step::Restart => world = world.restart().await,
            Step::LoseCopy(home) => fs::remove_dir_all(world.directory(home, 1)).unwrap(),
            Step::DamageCopy(home) => fs::write(world.file(home, 1, last.version), "damage").unwrap(),
        }
        assert_eq!(world.load_one().await, last);
        let newest = format!("{:020}.json", last.version);
        assert_eq!(world.files(0, 1)[&newest], world.files(1, 1)[&newest]);
        assert!(world.files(0, 1).len() <= 2 && world.files(1, 1).len() <= 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn j3_j5_any_history_of_single_failures_ends_with_equal_copies_of_the_last_acknowledged_version(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_history(steps));
    }
}

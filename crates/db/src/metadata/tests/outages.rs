//! The rule of the copies, under outages of one root after the other.

use std::collections::BTreeSet;

use super::*;

/// A record whose name lists all changes, so that a change that got lost is missed in it.
fn changed(record: &CollectionRecord, number: usize) -> CollectionRecord {
    renamed(record, &format!("{},{number}", record.description.name))
}

fn changes(record: &CollectionRecord) -> BTreeSet<usize> {
    let names = record.description.name.split(',').skip(1);
    names.map(|number| number.parse().unwrap()).collect()
}

#[tokio::test]
async fn j5_with_a_home_away_another_root_stands_in_until_it_is_back() {
    for away in [0, 1] {
        let world = World::new(3).await;
        let record = world.create(1, &[0, 1]).await.unwrap();
        world.away(away);
        let record = world.store.update(renamed(&record, "b")).await.unwrap();
        let record = world.store.update(renamed(&record, "c")).await.unwrap();
        assert_eq!(world.versions(2, 1).last(), Some(&3), "it stands in");
        assert_eq!(world.store.repair_lagging(&record).await, 0);
        world.back(away);
        assert_eq!(world.store.repair_lagging(&record).await, 1, "without a restart");
        assert_eq!(world.files(0, 1).last_key_value(), world.files(1, 1).last_key_value());
        assert!(world.files(2, 1).is_empty(), "and has gone");
        for root in 0..3 {
            let usage = world.root(root).usage_of(record.description.id);
            assert_eq!(usage.files, world.files(root, 1).len() as u64);
        }
        assert_eq!(world.restart().await.load_one().await, record);
    }
}

/// The newest version was written without home 0, and is then read without home 1.
#[tokio::test]
async fn j3_alternating_outages_lose_nothing_when_a_root_can_stand_in() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    let world = world.restart().await;
    world.away(1);
    assert_eq!(world.load_one().await, record);
    let record = world.store.update(renamed(&record, "c")).await.unwrap();
    let world = world.restart().await;
    world.away(0);
    assert_eq!(world.load_one().await, record);
    world.back(0);
    assert_eq!(world.load_one().await, record);
    assert_eq!(world.files(0, 1).last_key_value(), world.files(1, 1).last_key_value());
}

#[tokio::test]
async fn j3_two_histories_of_two_roots_are_refused_and_not_merged() {
    for (first, second) in [(1, 1), (1, 3), (3, 1)] {
        let world = World::new(2).await;
        let old = world.create(1, &[0, 1]).await.unwrap();
        for (away, updates) in [(0, first), (1, second)] {
            world.away(away);
            let mut record = world.load_one().await;
            assert_eq!(record, old);
            for update in 0..updates {
                record = world
                    .store
                    .update(renamed(&record, &format!("{away} {update}")))
                    .await
                    .unwrap();
            }
            world.back(away);
        }
        let before = [world.files(0, 1), world.files(1, 1)];
        let error = world.load().await.unreadable.remove(&old.description.id).unwrap();
        assert!(matches!(error, Error::Corruption(_)), "{error}");
        assert_eq!([world.files(0, 1), world.files(1, 1)], before, "nothing was touched");
        // The operator decides.
        fs::remove_dir_all(world.directory(0, 1)).unwrap();
        assert_eq!(world.load_one().await.description.name, format!("0 {}", first - 1));
    }
}

#[tokio::test]
async fn j3_a_home_that_returns_with_a_history_of_its_own_is_not_overwritten_by_repair_or_update() {
    let world = World::new(2).await;
    let old = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    world.store.update(renamed(&old, "hidden")).await.unwrap();
    let world = world.restart().await;
    world.away(1);
    let record = world.load_one().await;
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    let record = world.store.update(renamed(&record, "c")).await.unwrap();
    world.back(1);
    let before = world.files(1, 1);
    assert_eq!(world.store.repair_lagging(&record).await, 0);
    let error = world.store.update(renamed(&record, "d")).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    assert_eq!(world.files(1, 1), before);
}

#[tokio::test]
async fn a_record_without_any_of_its_homes_is_read_from_the_stand_in_and_not_changed() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    world.away(1);
    assert_eq!(world.load_one().await, record);
    let error = world.store.update(renamed(&record, "c")).await.unwrap_err();
    assert!(matches!(error, Error::RootUnavailable { .. }), "{error}");
    world.back(1);
    world.store.update(renamed(&record, "d")).await.unwrap();
}

/// The next start completes what a killed writer began, also on the root that stands in for the home that is away.
#[tokio::test]
async fn j3_a_version_that_a_killed_writer_left_on_one_home_is_seen_when_the_other_is_away() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    let torn = world.store.next_version(renamed(&record, "torn"), 2, &[world.root(2)]);
    let bytes = seal(&torn).unwrap();
    world.store.create_copy(&world.root(1), &torn, &bytes).await.unwrap();
    let world = world.restart().await;
    world.away(0);
    assert_eq!(world.load_one().await, torn);
    let world = world.restart().await;
    world.away(1);
    let seen = world.load_one().await;
    assert_eq!(seen, torn);
    world.store.update(renamed(&seen, "next")).await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.load_one().await.description.name, "next");
    assert!(world.files(2, 1).is_empty(), "the stand-in is dismissed");
}

/// Deleted stays deleted: what a stand-in that is away still has must not come back.
#[tokio::test]
async fn a_drop_waits_for_a_stand_in_that_may_have_a_copy() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    world.back(0);
    world.away(2);
    assert_eq!(world.store.repair_lagging(&record).await, 1);
    let record = world.store.update(dropping(&record)).await.unwrap();
    world.store.remove(&record).await.unwrap_err();
    let world = world.restart().await;
    let record = world.load_one().await;
    world.store.remove(&record).await.unwrap();
    assert!(world.load().await.records.is_empty());
    assert!((0..3).all(|root| !world.directory(root, 1).exists()));
}

#[tokio::test]
async fn a_home_whose_writes_fail_lags_and_another_root_takes_its_copy() {
    let world = World::new(3).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    // A file stands in the place of its directory.
    fs::remove_dir_all(world.directory(1, 1)).unwrap();
    fs::write(world.directory(1, 1), b"").unwrap();
    let record = world.store.update(renamed(&record, "b")).await.unwrap();
    assert_eq!(world.versions(0, 1).last(), world.versions(2, 1).last());
    fs::remove_file(world.directory(1, 1)).unwrap();
    world.back(1);
    assert_eq!(world.store.repair_lagging(&record).await, 1);
    assert_eq!(world.files(0, 1).last_key_value(), world.files(1, 1).last_key_value());
    assert!(world.files(2, 1).is_empty());
}

#[tokio::test]
async fn a_change_that_was_refused_and_stored_all_the_same_is_followed_by_the_next_one() {
    let world = World::new(2).await;
    let record = world.create(1, &[0, 1]).await.unwrap();
    let attempt = world.store.next_version(renamed(&record, "refused"), 2, &[]);
    world
        .store
        .change_known(&record, |known| known.note_attempt(Some(record.nonce), &attempt));
    world
        .store
        .create_copy(&world.root(0), &attempt, &seal(&attempt).unwrap())
        .await
        .unwrap();
    let last = world.store.update(renamed(&record, "next")).await.unwrap();
    assert_eq!(last.version, 3);
    fs::remove_file(world.file(0, 1, 3)).unwrap();
    let world = world.restart().await;
    assert_eq!(
        world.load_one().await,
        last,
        "the refused one lags, and is no other history"
    );
    assert_eq!(world.files(0, 1).last_key_value(), world.files(1, 1).last_key_value());
}

#[tokio::test]
async fn during_a_move_old_and_new_home_get_every_version_and_then_the_old_one_has_none() {
    let world = World::new(3).await;
    let mut record = world.create(1, &[0, 1]).await.unwrap();
    let metadata = |record: &mut CollectionRecord, change: &dyn Fn(&mut Placement)| {
        change(record.placement.get_mut(&METADATA).unwrap());
    };
    let ids: Vec<RootId> = (0..3).map(|root| world.root(root).id()).collect();
    metadata(&mut record, &|placement| placement.also = vec![ids[2]]);
    let mut record = world.store.update(record).await.unwrap();
    for root in 0..3 {
        assert_eq!(world.versions(root, 1).last(), Some(&2), "root {root}");
    }
    metadata(&mut record, &|placement| {
        (placement.roots, placement.also) = (vec![ids[2], ids[1]], vec![ids[0]])
    });
    let mut record = world.store.update(record).await.unwrap();
    assert_eq!(world.versions(0, 1).last(), Some(&3));
    metadata(&mut record, &|placement| placement.also.clear());
    let record = world.store.update(record).await.unwrap();
    assert!(world.files(0, 1).is_empty());
    assert_eq!(world.files(1, 1), world.files(2, 1));
    assert_eq!(world.restart().await.load_one().await, record);
}

#[tokio::test]
async fn the_copy_on_a_former_home_that_is_away_goes_when_it_returns() {
    let world = World::new(3).await;
    let mut record = world.create(1, &[0, 1]).await.unwrap();
    world.away(0);
    record.placement.get_mut(&METADATA).unwrap().roots = vec![world.root(2).id(), world.root(1).id()];
    let record = world.store.update(record).await.unwrap();
    assert_eq!(world.versions(0, 1), [1]);
    let world = world.restart().await;
    assert_eq!(world.load_one().await, record);
    assert!(world.files(0, 1).is_empty());
    assert_eq!(world.files(1, 1).last_key_value(), world.files(2, 1).last_key_value());
}

#[derive(Debug, Clone)]
enum Step {
    Update,
    /// This root is away from now on, and the one that was away is back.
    Away(usize),
    AllBack,
    Repair,
    Restart,
    /// A kill after the version is on so many of its roots.
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => Just(Step::Update),
        3 => (0usize..4).prop_map(Step::Away),
        1 => Just(Step::AllBack),
        1 => Just(Step::Repair),
        3 => Just(Step::Restart),
        2 => (0usize..4).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..24)
}

/// The world, its record in memory, and what was acknowledged.
struct History {
    world: World,
    record: Option<CollectionRecord>,
    away: Option<usize>,
    acknowledged: BTreeSet<usize>,
}

impl History {
    /// Starts again with the same root away; the record is gone if it is refused.
    async fn restart(self) -> Self {
        let Self {
            world,
            away,
            acknowledged,
            ..
        } = self;
        let world = world.restart().await;
        if let Some(away) = away {
            world.away(away);
        }
        let mut loaded = world.load().await;
        let record = loaded.records.remove(&description(1).id);
        if record.is_none() {
            let error = loaded.unreadable.remove(&description(1).id).unwrap();
            assert!(matches!(error, Error::Corruption(_)), "{error}");
        }
        Self {
            world,
            record,
            away,
            acknowledged,
        }
    }

    async fn step(mut self, number: usize, step: Step) -> Self {
        let Some(record) = self.record.clone() else { return self };
        let store = &self.world.store;
        match step {
            Step::Update => {
                if let Ok(record) = store.update(changed(&record, number)).await {
                    self.acknowledged.insert(number);
                    self.record = Some(record);
                }
            }
            Step::Away(root) if root < self.world.roots.all().len() => {
                self.away.into_iter().for_each(|root| self.world.back(root));
                self.world.away(root);
                self.away = Some(root);
            }
            Step::Away(_) => {}
            Step::AllBack => self.away.take().into_iter().for_each(|root| self.world.back(root)),
            Step::Repair => drop(store.repair_lagging(&record).await),
            Step::Restart => return self.restart().await,
            Step::Crash(stored) => {
                if let Ok((newest, _)) = store.survey(&record).await {
                    let homes = store.target_homes(&record, &BTreeSet::new());
                    let stand_ins = store.choose_stand_ins(&record, &BTreeSet::new(), 2 - homes.len().min(2));
                    let attempt = store.next_version(changed(&record, number), newest + 1, &stand_ins);
                    let bytes = seal(&attempt).unwrap();
                    for root in homes.iter().chain(&stand_ins).take(stored) {
                        store.create_copy(root, &attempt, &bytes).await.unwrap();
                    }
                }
                return self.restart().await;
            }
        }
        self
    }
}

async fn check_outages(roots: usize, steps: Vec<Step>) {
    let world = World::new(roots).await;
    let record = Some(world.create(1, &[0, 1]).await.unwrap());
    let mut history = History {
        world,
        record,
        away: None,
        acknowledged: BTreeSet::new(),
    };
    for (number, step) in steps.into_iter().enumerate() {
        history = history.step(number, step).await;
        if roots > 2 {
            let record = history
                .record
                .as_ref()
                .expect("no outage of a single root makes it unreadable");
            assert!(changes(record).is_superset(&history.acknowledged), "{record:?}");
        }
    }
    history.away = None;
    let history = history.restart().await;
    // Two roots: either nothing is lost, or the collection is refused.
    let Some(record) = history.record else {
        return assert_eq!(roots, 2);
    };
    assert!(changes(&record).is_superset(&history.acknowledged), "{record:?}");
    let world = history.world;
    assert_eq!(world.files(0, 1).last_key_value(), world.files(1, 1).last_key_value());
    assert!(
        (2..roots).all(|root| world.files(root, 1).is_empty()),
        "stand-ins are dismissed"
    );
    world.store.update(changed(&record, 99)).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn j3_j5_outages_of_one_root_after_another_and_crashes_lose_and_mix_nothing(roots in 2usize..=4, steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_outages(roots, steps));
    }
}

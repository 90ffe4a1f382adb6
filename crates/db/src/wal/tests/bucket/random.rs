//! Random histories of faults, crashes and takeovers against a model: what was acknowledged is found, in order; what was once
//! not found never comes back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// So many calls side by side, and the faults of the creates to come.
    Write(u8, Vec<u8>),
    /// Reads fail for a while.
    Unreadable(u8),
    /// The writer dies, or only stalls, and another one opens the log.
    TakeOver,
    /// What was on its way arrives.
    Arrive,
    /// A writer that was replaced tries to write.
    Stale,
    /// Everything found so far is flushed and released.
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u8, prop::collection::vec(0..6_u8, 0..5)).prop_map(|(calls, faults)| Step::Write(calls, faults)),
        1 => (1..5_u8).prop_map(Step::Unreadable),
        3 => Just(Step::TakeOver),
        1 => Just(Step::Arrive),
        1 => Just(Step::Stale),
        1 => Just(Step::Flush),
    ]
}

/// What is known of every point, by id.
#[derive(Default)]
struct Model {
    acknowledged: BTreeMap<u64, Seq>,
    /// Neither acknowledged nor seen to be missing.
    open: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    flushed: BTreeSet<u64>,
}

impl Model {
    fn check(&mut self, found: &Entries) {
        assert!(found.is_sorted_by_key(|(seq, _)| *seq));
        let seen = ids(found);
        assert_eq!(seen.len(), found.len(), "nothing twice");
        for id in self.acknowledged.keys() {
            assert!(
                seen.contains(id) || self.flushed.contains(id),
                "point {id} was acknowledged and is lost"
            );
        }
        for id in &seen {
            assert!(!self.gone.contains(id), "point {id} came back");
        }
        for id in std::mem::take(&mut self.open) {
            if seen.contains(&id) {
                self.acknowledged.insert(id, 0);
            } else {
                self.gone.insert(id);
            }
        }
    }
}

async fn run(buckets: usize, steps: Vec<Step>) {
    let mut place = Buckets::new(buckets);
    place.options.object_bytes = 1;
    place.options.max_batch_bytes = 400;
    let mut model = Model::default();
    let mut after = 0;
    let mut log = place.open(after).await.unwrap();
    let mut stale = Vec::new();
    let late = Arc::new(Semaphore::new(0));
    let mut next_id = 0;
    for step in steps {
        match step {
            Step::Write(calls, faults) => {
                for bucket in &place.buckets {
                    bucket.plan(faults.iter().map(|fault| match fault {
                        0 => Fault::Fails,
                        1 => Fault::Lost,
                        2 => Fault::Exists,
                        3 => Fault::Late(late.clone()),
                        _ => Fault::None,
                    }));
                }
                let calls = (0..calls).map(|_| {
                    next_id += 1;
                    let (id, wal) = (next_id, log.wal.clone());
                    tokio::spawn(async move {
                        (
                            id,
                            tokio::time::timeout(Duration::from_secs(3), wal.append(vec![upsert(id)])).await,
                        )
                    })
                });
                for call in calls.collect::<Vec<_>>() {
                    match call.await.unwrap() {
                        (id, Ok(Ok(numbers))) => drop(model.acknowledged.insert(id, numbers.start)),
                        (id, _) => drop(model.open.insert(id)),
                    }
                }
            }
            Step::Unreadable(reads) => *place.buckets[0].unreadable.lock() = reads.into(),
            Step::TakeOver => {
                for bucket in &place.buckets {
                    *bucket.unreadable.lock() = 0;
                    bucket.clear();
                }
                let new = place.open(after).await.unwrap();
                model.check(&new.operations);
                stale.push(std::mem::replace(&mut log, new));
            }
            Step::Arrive => {
                late.add_permits(1000);
                tokio::time::sleep(Duration::from_millis(10)).await;
                let _ = late.forget_permits(usize::MAX >> 4);
            }
            Step::Stale => {
                for old in &stale {
                    next_id += 1;
                    let call =
                        tokio::time::timeout(Duration::from_secs(60), old.wal.append(vec![upsert(next_id)])).await;
                    assert!(
                        !matches!(call, Ok(Ok(_))),
                        "a writer that was replaced acknowledged {next_id}"
                    );
                    model.gone.insert(next_id);
                }
            }
            Step::Flush => {
                after = log.wal.last_seq();
                model.flushed.extend(model.acknowledged.keys().copied());
                for id in std::mem::take(&mut model.open) {
                    // What becomes durable later is checked by the next opening.
                    model.flushed.insert(id);
                }
                if log.wal.release(after).await.is_err() {
                    for bucket in &place.buckets {
                        *bucket.unreadable.lock() = 0;
                    }
                }
            }
        }
    }
    for bucket in &place.buckets {
        *bucket.unreadable.lock() = 0;
        bucket.clear();
    }
    model.check(&place.open(after).await.unwrap().operations);
    late.add_permits(1000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    model.check(&place.open(after).await.unwrap().operations);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn inv3_inv7_inv11_random_faults_and_takeovers_lose_nothing_and_bring_nothing_back(
        buckets in 1..3_usize,
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(buckets, steps));
    }
}

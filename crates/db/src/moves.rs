//! What to move where: plans for emptying a root and for evening out the roots. Pure; the database carries them out.
//!
//! A *unit* is what moves as a whole: the files of one component of one collection on one root.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::root::{RootId, StorageComponentType};
use crate::schema::CollectionId;

/// The files of one component of one collection on one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The collection.
    pub collection: CollectionId,
    /// The component.
    pub component: StorageComponentType,
    /// The root.
    pub root: RootId,
    /// Bytes of the files.
    pub bytes: u64,
    /// Their number.
    pub files: u64,
    /// Roots that it may go to: not those that hold another copy.
    pub targets: BTreeSet<RootId>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedMove {
    /// The collection.
    pub collection: CollectionId,
    /// The component.
    pub component: StorageComponentType,
    /// The root that it leaves.
    pub from: RootId,
    /// The root that it goes to.
    pub to: RootId,
    /// Bytes that leave `from`.
    pub bytes: u64,
    /// Files that leave it.
    pub files: u64,
}

impl PlannedMove {
    /// About how many requests it costs: each file is read, written, read back and deleted, and three versions of the
    /// metadata record and up to three manifests are written.
    pub fn requests(&self) -> u64 {
        self.files * 4 + 6
    }
}

/// Largest load of a root relative to the mean at which a component counts as even.
const EVEN: f64 = 1.05;

/// The moves that even out the roots of one component; empty if they are even or nothing can be improved.
///
/// `roots` are those that take part: online, not draining. The load of a root is its bytes; for logs it is the number of
/// collections, because their bytes come and go with each flush.
pub fn plan_rebalance(roots: &BTreeSet<RootId>, units: &[Unit]) -> Vec<PlannedMove> {
    let load = |unit: &Unit| match unit.component {
        StorageComponentType::Wal => 1,
        _ => unit.bytes,
    };
    let mut loads: BTreeMap<RootId, u64> = roots.iter().map(|root| (*root, 0)).collect();
    let mut left: Vec<&Unit> = units
        .iter()
        .filter(|unit| roots.contains(&unit.root) && load(unit) > 0)
        .collect();
    for unit in &left {
        *loads.entry(unit.root).or_default() += load(unit);
    }
    // The largest that still helps goes first: few moves.
    left.sort_by_key(|unit| (std::cmp::Reverse(load(unit)), unit.collection));
    let mut plan = Vec::new();
    while let Some((at, to)) = best_step(&loads, &left, load) {
        let unit = left.remove(at);
        *loads.entry(unit.root).or_default() -= load(unit);
        *loads.entry(to).or_default() += load(unit);
        plan.push(planned(unit, to));
        // One move of a collection's component at a time: a second copy might be sent to the same root.
        left.retain(|other| other.collection != unit.collection);
    }
    plan
}

/// The unit to move next, and where to: off the fullest root, and never so that the target becomes as full as it was.
fn best_step(loads: &BTreeMap<RootId, u64>, left: &[&Unit], load: impl Fn(&Unit) -> u64) -> Option<(usize, RootId)> {
    let mean = loads.values().sum::<u64>() as f64 / loads.len().max(1) as f64;
    let mut fullest: Vec<(&RootId, &u64)> = loads.iter().filter(|(_, load)| **load as f64 > mean * EVEN).collect();
    fullest.sort_by_key(|(root, load)| (std::cmp::Reverse(**load), **root));
    fullest.into_iter().find_map(|(from, &from_load)| {
        left.iter()
            .enumerate()
            .filter(|(_, unit)| unit.root == *from)
            .find_map(|(at, unit)| {
                let (to_load, to) = emptiest_target(unit, loads)?;
                (to_load + load(unit) < from_load).then_some((at, to))
            })
    })
}

/// Where each unit on a root that is emptied goes: the root with the least load among those it may go to. Units without
/// any are left out.
pub fn plan_drain(loads: &BTreeMap<RootId, u64>, units: &[Unit]) -> Vec<PlannedMove> {
    let mut loads = loads.clone();
    let step = |unit: &Unit| {
        let (_, to) = emptiest_target(unit, &loads)?;
        *loads.entry(to).or_default() += unit.bytes;
        Some(planned(unit, to))
    };
    units.iter().filter_map(step).collect()
}

/// The least loaded root that the unit may go to, with its load.
fn emptiest_target(unit: &Unit, loads: &BTreeMap<RootId, u64>) -> Option<(u64, RootId)> {
    let targets = unit.targets.iter();
    targets.filter_map(|root| Some((*loads.get(root)?, *root))).min()
}

fn planned(unit: &Unit, to: RootId) -> PlannedMove {
    PlannedMove {
        collection: unit.collection,
        component: unit.component,
        from: unit.root,
        to,
        bytes: unit.bytes,
        files: unit.files,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn root(number: u128) -> RootId {
        RootId(Uuid::from_u128(number))
    }

    fn unit(number: u128, on: u128, bytes: u64, roots: u128) -> Unit {
        Unit {
            collection: CollectionId(Uuid::from_u128(number)),
            component: StorageComponentType::Viper,
            root: root(on),
            bytes,
            files: 2,
            targets: (0..roots).filter(|target| *target != on).map(root).collect(),
        }
    }

    fn skew(roots: u128, units: &[Unit], plan: &[PlannedMove]) -> f64 {
        let mut loads = vec![0.0; roots as usize];
        for unit in units {
            let moved = plan.iter().find(|step| step.collection == unit.collection);
            let at = moved.map_or(unit.root, |step| step.to);
            loads[at.0.as_u128() as usize] += unit.bytes as f64;
        }
        let mean = loads.iter().sum::<f64>() / loads.len() as f64;
        loads.into_iter().fold(0.0, f64::max) / mean
    }

    #[test]
    fn k4_an_empty_fifth_root_gets_its_share_and_no_more_moves_than_that() {
        let units: Vec<Unit> = (0..100).map(|number| unit(number, number % 4, 1000, 5)).collect();
        let plan = plan_rebalance(&(0..5).map(root).collect(), &units);
        assert!(plan.len() <= 20, "{}", plan.len());
        assert!(plan.iter().all(|step| step.to == root(4)));
        assert!(skew(5, &units, &plan) < 1.1);
    }

    #[test]
    fn d12_a_unit_goes_only_where_it_may_and_a_drain_leaves_none_that_can_go() {
        let mut units: Vec<Unit> = (0..9).map(|number| unit(number, 0, 10, 4)).collect();
        units[0].targets = BTreeSet::from([root(2)]);
        units[1].targets = BTreeSet::new();
        let loads = (1..4).map(|number| (root(number), 0)).collect();
        let plan = plan_drain(&loads, &units);
        assert_eq!(plan.len(), 8);
        assert_eq!(plan[0].to, root(2));
        assert!(plan.iter().all(|step| step.to != root(0) && step.bytes == 10));
    }

    proptest! {
        #[test]
        fn k5_a_rebalance_never_makes_it_worse_and_moves_each_unit_once(
            sizes in prop::collection::vec((0u64..1 << 30, 0u128..6), 1..80),
        ) {
            let units: Vec<Unit> = sizes.iter().zip(0..).map(|((bytes, on), number)| unit(number, *on, *bytes, 6)).collect();
            let plan = plan_rebalance(&(0..6).map(root).collect(), &units);
            let moved: BTreeSet<_> = plan.iter().map(|step| step.collection).collect();
            prop_assert_eq!(moved.len(), plan.len());
            if units.iter().any(|unit| unit.bytes > 0) {
                prop_assert!(skew(6, &units, &plan) <= skew(6, &units, &[]) + 1e-9);
            }
        }
    }
}

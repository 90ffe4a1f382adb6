//! Where further files go: striping without affinity (C6), and the homes of index types (C12, I5).

use IndexType::{Hnsw, Idx, Ivf};

use super::*;
use crate::root::IndexType;

fn place(service: &AssignmentService, number: usize, config: &StorageAssignmentConfig) -> Placement {
    let result = service
        .assign_storage_url(collection(number), std::slice::from_ref(config), 1)
        .unwrap();
    let placement = result.placements()[&config.component].clone();
    result.record();
    placement
}

fn ids<const N: usize>(numbers: [usize; N]) -> Vec<RootId> {
    numbers.map(root_id).to_vec()
}

#[test]
fn c6_without_affinity_every_writable_root_of_log_segments_and_index_may_hold_files() {
    for (component, spreads) in [
        (Wal, true),
        (Viper, true),
        (Lsm, false),
        (Index, true),
        (Metadata, false),
    ] {
        for strategy in DistributionStrategy::ALL {
            let mut config = config(component, strategy, 4);
            config.candidates[2].writable = false;
            assert!(
                place(&AssignmentService::new(), 0, &config).also.is_empty(),
                "with affinity"
            );
            config.affinity = false;
            let placement = place(&AssignmentService::new(), 0, &config);
            let mut all = placement.all_roots();
            all.sort_unstable();
            if spreads {
                assert_eq!(all, ids([0, 1, 3]), "{component} {strategy}");
            } else {
                assert_eq!(all, placement.roots, "{component} has one home");
            }
        }
    }
}

#[test]
fn c6_a_file_goes_only_where_the_record_says_and_never_to_a_root_that_takes_no_writes() {
    for strategy in DistributionStrategy::ALL {
        let mut roots = candidates(5);
        roots[1].writable = false;
        let mut placement = Placement {
            roots: ids([0]),
            strategy,
            affinity: false,
            sequence: None,
            assigned_at_ms: 1,
            also: ids([1, 3]),
            types: BTreeMap::new(),
            moving: None,
        };
        let place = |placement: &Placement, roots: &[Candidate]| -> BTreeSet<RootId> {
            let file = |number| place_file(collection(1), placement, &format!("{number}"), number, roots).unwrap();
            (0..50).map(file).collect()
        };
        assert!(
            place(&placement, &roots).is_subset(&BTreeSet::from([root_id(0), root_id(3)])),
            "{strategy}"
        );
        placement.moving = Some(Moving {
            from: root_id(0),
            to: root_id(3),
        });
        assert_eq!(
            place(&placement, &roots),
            BTreeSet::from([root_id(3)]),
            "{strategy}: root 0 is being left"
        );
        roots.iter_mut().for_each(|root| root.writable = false);
        assert_eq!(
            place(&placement, &roots),
            BTreeSet::from([root_id(0)]),
            "{strategy}: tried at home"
        );
    }
}

fn typed(strategy: DistributionStrategy, roots: usize) -> StorageAssignmentConfig {
    StorageAssignmentConfig {
        index_types: true,
        ..config(Index, strategy, roots)
    }
}

#[test]
fn c12_i5_all_indexes_of_a_type_are_under_one_url_and_each_type_under_another() {
    for strategy in DistributionStrategy::ALL {
        let service = AssignmentService::new();
        let mut config = typed(strategy, 3);
        for number in 0..50 {
            config.candidates.rotate_left(1);
            for (index, candidate) in config.candidates.iter_mut().enumerate() {
                candidate.index = index;
            }
            let placement = place(&service, number, &config);
            assert_eq!(placement.roots_of(Ivf), ids([0]), "{strategy}");
            assert_eq!(placement.roots_of(Hnsw), ids([1]), "{strategy}");
            assert_eq!(placement.roots_of(Idx), ids([2]), "{strategy}");
            assert_eq!(placement.roots, ids([0]));
        }
    }
}

#[test]
fn c12_i5_inside_its_group_a_type_is_balanced() {
    let service = AssignmentService::new();
    let config = typed(LoadBalanced, 7);
    let placements: Vec<Placement> = (0..12).map(|number| place(&service, number, &config)).collect();
    for (kind, group) in [(Ivf, vec![0, 3, 6]), (Hnsw, vec![1, 4]), (Idx, vec![2, 5])] {
        for &root in &group {
            let count = placements
                .iter()
                .filter(|placement| placement.roots_of(kind)[0] == root_id(root))
                .count();
            assert_eq!(count, 12 / group.len(), "{kind:?} on root {root}");
        }
    }
}

#[test]
fn i5_fewer_roots_than_types_are_shared_and_a_group_that_is_down_lends_from_the_others() {
    let service = AssignmentService::new();
    let two = place(&service, 0, &typed(Hash, 2));
    assert_eq!(
        [two.roots_of(Ivf), two.roots_of(Hnsw), two.roots_of(Idx)],
        [ids([0]), ids([1]), ids([0])]
    );
    let one = place(&service, 1, &typed(Hash, 1));
    assert!(IndexType::ALL.iter().all(|kind| one.types[kind] == ids([0])));
    let mut config = typed(Hash, 3);
    config.candidates[1].writable = false;
    let placement = place(&service, 2, &config);
    assert_eq!(
        [placement.roots_of(Ivf), placement.roots_of(Idx)],
        [ids([0]), ids([2])],
        "these stay where they are"
    );
    assert_ne!(placement.roots_of(Hnsw), ids([1]));
    config.index_types = false;
    assert!(place(&service, 3, &config).types.is_empty());
}

#[test]
fn d4_further_roots_are_shown_once_they_hold_files() {
    let service = AssignmentService::new();
    let mut config = config(Viper, RoundRobin, 3);
    config.affinity = false;
    place(&service, 0, &config);
    let assignment = service.get_assignment(collection(0), Viper).unwrap();
    let root_use = |id: RootId| RootUse {
        url: id.to_string(),
        directory_index: None,
        file_count: u64::from(id == root_id(2)),
        total_size_bytes: 0,
    };
    let views = StorageAssignment::views(collection(0), Viper, &assignment, root_use);
    let shown: Vec<RootId> = views.iter().map(|view| view.root_id).collect();
    assert_eq!(shown, ids([0, 2]));
}

#[test]
fn i5_i6_copies_of_a_type_are_on_distinct_roots_its_own_first() {
    let service = AssignmentService::new();
    let mut config = typed(RoundRobin, 6);
    config.copies = 3;
    let placement = place(&service, 0, &config);
    for (kind, group) in [(Ivf, [0, 3]), (Hnsw, [1, 4]), (Idx, [2, 5])] {
        let roots = placement.roots_of(kind);
        assert_eq!(BTreeSet::from_iter(roots).len(), 3);
        assert_eq!(
            BTreeSet::from_iter(&roots[..2]),
            BTreeSet::from_iter(&group.map(root_id))
        );
    }
    let view = service.get_assignment(collection(0), Index).unwrap().placement;
    assert_eq!(view.all_roots().len(), 6);
    assert_eq!(
        service.get_assignment_stats().components[&Index].copies,
        6,
        "each root counts once"
    );
    service.remove_assignment(collection(0));
    assert!(service.get_assignment_stats().components[&Index].roots.is_empty());
}

proptest! {
    #[test]
    fn c12_types_have_distinct_copies_on_writable_homes(
        candidates in any_candidates(), copies in 1usize..5, turn in 0usize..12, number in 0usize..1000,
    ) {
        prop_assume!(candidates.iter().any(|candidate| candidate.writable) && copies <= candidates.len());
        for strategy in DistributionStrategy::ALL {
            let mut config = StorageAssignmentConfig { copies, candidates: candidates.clone(), ..typed(strategy, 0) };
            let placement = place(&AssignmentService::new(), number, &config);
            config.candidates.rotate_left(turn % candidates.len());
            prop_assert_eq!(&placement, &place(&AssignmentService::new(), number, &config));
            prop_assert_eq!(&placement.roots, &placement.types[&Ivf]);
            for kind in IndexType::ALL {
                let roots = placement.roots_of(kind);
                prop_assert_eq!(BTreeSet::from_iter(roots).len(), copies);
                prop_assert!(candidates.iter().any(|root| root.root_id == roots[0] && root.writable));
            }
        }
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod policies;
mod spread;
mod strategies;

use std::collections::BTreeSet;
use std::sync::Barrier;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::error::Error;
use crate::root::StorageComponentType::{self, Index, Lsm, Metadata, Viper, Wal};
use DistributionStrategy::{Hash, LoadBalanced, RoundRobin};

const GB: u64 = 1 << 30;

fn root_id(number: usize) -> RootId {
    RootId(Uuid::from_u128(
        0x0190_0000_0000_7000_8000_0000_0000_0000 + number as u128,
    ))
}

fn collection(number: usize) -> CollectionId {
    CollectionId(Uuid::from_u128(
        0x0191_0000_0000_7000_9000_0000_0000_0000 + number as u128,
    ))
}

fn candidate(number: usize) -> Candidate {
    Candidate {
        root_id: root_id(number),
        hash_key: format!("file:///disk{number}"),
        url: format!("file:///disk{number}"),
        index: number,
        tags: BTreeMap::new(),
        weight: 1.0,
        cost_per_gb_month: None,
        latency_ms: None,
        device: None,
        collections: 0,
        bytes: 0,
        writable: true,
    }
}

fn candidates(count: usize) -> Vec<Candidate> {
    (0..count).map(candidate).collect()
}

fn config(component: StorageComponentType, strategy: DistributionStrategy, roots: usize) -> StorageAssignmentConfig {
    StorageAssignmentConfig {
        component,
        strategy,
        affinity: true,
        copies: 1,
        index_types: false,
        region: None,
        reserve_bytes: 0,
        candidates: candidates(roots),
    }
}

/// Assigns and records, and answers with the index of the home.
fn assign(service: &AssignmentService, number: usize, config: &StorageAssignmentConfig) -> usize {
    let result = service
        .assign_storage_url(collection(number), std::slice::from_ref(config), 1000)
        .unwrap();
    let home = result.placements()[&config.component].roots[0];
    result.record();
    config
        .candidates
        .iter()
        .find(|candidate| candidate.root_id == home)
        .unwrap()
        .index
}

fn homes(service: &AssignmentService, numbers: std::ops::Range<usize>, config: &StorageAssignmentConfig) -> Vec<usize> {
    numbers.map(|number| assign(service, number, config)).collect()
}

fn distribution(homes: &[usize], roots: usize) -> Vec<usize> {
    (0..roots)
        .map(|root| homes.iter().filter(|&&home| home == root).count())
        .collect()
}

/// What a restart does: a new service learns the records, then the counters.
fn restart(service: &AssignmentService, complete: bool) -> AssignmentService {
    let restarted = AssignmentService::new();
    for component in StorageComponentType::ALL {
        for (collection, assignment) in service.get_all_assignments(component) {
            restarted.record_assignment(collection, BTreeMap::from([(component, assignment.placement)]));
        }
    }
    restarted.restore_counters(&BTreeMap::new(), complete);
    restarted
}

fn next(service: &AssignmentService, component: StorageComponentType) -> u64 {
    service.counters()[&component]
}

fn request(key: &str, sequence: u64) -> PlacementRequest {
    PlacementRequest {
        key: key.to_owned(),
        sequence,
        region: None,
    }
}

fn hash_home(key: &str, candidates: &[Candidate]) -> RootId {
    ranked(Hash, &request(key, 0), candidates.iter().collect())[0].root_id
}

#[test]
fn c1_four_collections_on_three_roots_land_on_0_1_2_0() {
    let service = AssignmentService::new();
    assert_eq!(homes(&service, 0..4, &config(Wal, RoundRobin, 3)), [0, 1, 2, 0]);
}

#[test]
fn c1_each_component_has_its_own_counter() {
    let service = AssignmentService::new();
    homes(&service, 0..4, &config(Wal, RoundRobin, 3));
    assert_eq!(homes(&service, 0..2, &config(Viper, RoundRobin, 3)), [0, 1]);
    assert_eq!(
        (next(&service, Wal), next(&service, Viper), next(&service, Lsm)),
        (4, 2, 0)
    );
}

#[test]
fn c2_ten_collections_over_four_roots_give_3_3_2_2_with_a_restart_anywhere() {
    for at in 0..=10 {
        let service = AssignmentService::new();
        let config = config(Wal, RoundRobin, 4);
        let mut all = homes(&service, 0..at, &config);
        let restarted = restart(&service, true);
        all.extend(homes(&restarted, at..10, &config));
        assert_eq!(distribution(&all, 4), [3, 3, 2, 2], "restart after {at}");
    }
}

#[test]
fn c3_two_services_place_1000_ids_alike_in_any_order() {
    let config = config(Viper, Hash, 7);
    let (one, two) = (AssignmentService::new(), AssignmentService::new());
    let forward = homes(&one, 0..1000, &config);
    let mut backward: Vec<usize> = (0..1000).rev().map(|number| assign(&two, number, &config)).collect();
    backward.reverse();
    assert_eq!(forward, backward);
}

/// Computed by another implementation (Python, the xxhash package). These vectors are frozen: another answer needs another name of the algorithm.
#[test]
fn c3_the_frozen_vectors_of_rendezvous_xxh3_v2_hold() {
    assert_eq!(RENDEZVOUS, "rendezvous-xxh3-v2");
    let mut roots = candidates(5);
    let home = |key: &str, roots: &[Candidate]| {
        let home = hash_home(key, roots);
        roots.iter().find(|root| root.root_id == home).unwrap().index
    };
    let keys: Vec<String> = (0..16).map(|number| collection(number).to_string()).collect();
    let equal: Vec<usize> = keys.iter().map(|key| home(key, &roots)).collect();
    assert_eq!(
        equal,
        [3, 4, 3, 0, 0, 4, 1, 1, 0, 0, 3, 0, 4, 1, 2, 4],
        "five roots of equal weight"
    );
    for (root, weight) in roots.iter_mut().zip([1.0, 0.5, 4.0, 2.5, 1.0]) {
        root.weight = weight;
    }
    let weighted: Vec<usize> = keys.iter().map(|key| home(key, &roots)).collect();
    assert_eq!(
        weighted,
        [3, 4, 3, 2, 2, 4, 2, 1, 0, 2, 3, 3, 2, 2, 2, 2],
        "five roots of different weights"
    );
    let ranking = strategy(Hash).rank(&request("a", 0), &roots);
    assert_eq!(ranking, [2, 3, 0, 4, 1]);
}

#[test]
fn c3_hash_follows_the_weights() {
    let mut roots = candidates(4);
    for (root, weight) in roots.iter_mut().zip([1.0, 2.0, 3.0, 4.0]) {
        root.weight = weight;
    }
    let keys = 20_000;
    for root in &roots {
        let wins = (0..keys)
            .filter(|&key| hash_home(&collection(key).to_string(), &roots) == root.root_id)
            .count();
        let share = wins as f64 / keys as f64;
        assert!((share - root.weight / 10.0).abs() < 0.015, "{}: {share}", root.url);
    }
}

#[test]
fn c4_a_root_with_a_gigabyte_is_avoided() {
    let service = AssignmentService::new();
    let mut config = config(Lsm, LoadBalanced, 3);
    config.candidates[0].bytes = GB;
    assert_eq!(homes(&service, 0..4, &config), [1, 2, 1, 2]);
}

#[test]
fn c4_100_equal_collections_differ_by_at_most_one_per_root() {
    let service = AssignmentService::new();
    let mut config = config(Lsm, LoadBalanced, 7);
    let mut all = Vec::new();
    for number in 0..100 {
        let home = assign(&service, number, &config);
        config.candidates[home].bytes += 123_456_789;
        all.push(home);
    }
    let counts = distribution(&all, 7);
    assert!(
        counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
        "{counts:?}"
    );
}

#[test]
fn c4_reserved_bytes_count_until_the_assignment_is_recorded_or_undone() {
    let service = AssignmentService::new();
    let mut config = config(Lsm, LoadBalanced, 2);
    config.reserve_bytes = 10 * GB;
    let first = service.assign_storage_url(collection(0), &[config.clone()], 1).unwrap();
    assert_eq!(first.placements()[&Lsm].roots, [root_id(0)]);
    config.reserve_bytes = 0;
    // Root 0 has one collection and 10 GB reserved: the next ones go to root 1 until it has as much.
    assert_eq!(homes(&service, 1..4, &config), [1, 1, 1]);
    drop(first);
    assert_eq!(homes(&service, 4..7, &config), [0, 0, 0]);
}

#[test]
fn c5_the_names_are_exact_and_the_error_lists_them() {
    for name in DistributionStrategy::ALL {
        assert_eq!(name.name().parse(), Ok(name));
    }
    let message = "roundrobin".parse::<DistributionStrategy>().unwrap_err().to_string();
    for name in ["roundrobin", "RoundRobin", "Hash", "LoadBalanced"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn c6_c7_affinity_keeps_all_files_at_home_under_every_strategy_and_without_it_they_spread() {
    for strategy in DistributionStrategy::ALL {
        let mut placement = Placement {
            roots: vec![root_id(2)],
            strategy,
            affinity: true,
            sequence: Some(2),
            assigned_at_ms: 1,
            also: (0..4).map(root_id).collect(),
            types: BTreeMap::new(),
            moving: None,
        };
        let place = |placement: &Placement| -> BTreeSet<RootId> {
            let mut roots = candidates(4);
            let files = 0..40u64;
            let home = |number| {
                let root = place_file(collection(1), placement, &format!("{number}.parquet"), number, &roots).unwrap();
                roots
                    .iter_mut()
                    .find(|candidate| candidate.root_id == root)
                    .unwrap()
                    .bytes += GB;
                root
            };
            files.map(home).collect()
        };
        assert_eq!(place(&placement), BTreeSet::from([root_id(2)]), "{strategy}");
        placement.affinity = false;
        assert_eq!(place(&placement).len(), 4, "{strategy}");
    }
}

#[test]
fn c6_round_robin_files_go_on_from_the_home() {
    let placement = Placement {
        roots: vec![root_id(2)],
        strategy: RoundRobin,
        affinity: false,
        sequence: Some(6),
        assigned_at_ms: 1,
        also: (0..4).map(root_id).collect(),
        types: BTreeMap::new(),
        moving: None,
    };
    let place = |number| place_file(collection(1), &placement, "x", number, &candidates(4)).unwrap();
    assert_eq!([0, 1, 2, 3].map(place), [2, 3, 0, 1].map(root_id));
}

#[test]
fn c13_adding_a_root_moves_0_of_1000_and_new_collections_reach_it() {
    for strategy in DistributionStrategy::ALL {
        let service = AssignmentService::new();
        let before = homes(&service, 0..1000, &config(Viper, strategy, 3));
        let restarted = restart(&service, true);
        let larger = config(Viper, strategy, 4);
        assert_eq!(homes(&restarted, 0..1000, &larger), before, "{strategy}");
        assert!(homes(&restarted, 1000..1050, &larger).contains(&3), "{strategy}");
    }
}

#[test]
fn c15_shuffling_the_list_changes_nothing_and_a_removed_root_keeps_its_collections() {
    for strategy in DistributionStrategy::ALL {
        let service = AssignmentService::new();
        let mut config = config(Viper, strategy, 5);
        homes(&service, 0..100, &config);
        let before = service.get_all_assignments(Viper);
        config.candidates.reverse();
        for (index, candidate) in config.candidates.iter_mut().enumerate() {
            candidate.index = index;
        }
        config.candidates.remove(1);
        let restarted = restart(&service, true);
        homes_by_id(&restarted, 0..100, &config);
        assert_eq!(restarted.get_all_assignments(Viper), before, "{strategy}");
    }
}

/// As [`homes`], where the home may be missing from the candidates.
fn homes_by_id(
    service: &AssignmentService,
    numbers: std::ops::Range<usize>,
    config: &StorageAssignmentConfig,
) -> Vec<RootId> {
    let assign = |number| {
        let result = service
            .assign_storage_url(collection(number), std::slice::from_ref(config), 9)
            .unwrap();
        assert!(!result.newly_assigned());
        result.placements()[&config.component].roots[0]
    };
    numbers.map(assign).collect()
}

fn five(roots: usize) -> Vec<StorageAssignmentConfig> {
    let strategies = [RoundRobin, Hash, LoadBalanced, LoadBalanced, RoundRobin];
    StorageComponentType::ALL
        .into_iter()
        .zip(strategies)
        .map(|(c, s)| config(c, s, roots))
        .collect()
}

#[test]
fn d1_d3_five_components_are_assigned_in_one_step() {
    let service = AssignmentService::new();
    let result = service.assign_storage_url(collection(0), &five(3), 77).unwrap();
    assert!(result.newly_assigned());
    assert_eq!(result.placements().len(), 5);
    assert_eq!(service.get_assignment(collection(0), Wal), None, "only reserved");
    let placements = result.placements().clone();
    result.record();
    for component in StorageComponentType::ALL {
        let assignment = service.get_assignment(collection(0), component).unwrap();
        assert_eq!(assignment.placement, placements[&component]);
        assert_eq!(
            assignment.placement.sequence.is_some(),
            [Wal, Metadata].contains(&component)
        );
        assert_eq!(assignment.placement.assigned_at_ms, 77);
    }
}

#[test]
fn d3_a_creation_that_failed_leaves_no_trace() {
    let service = AssignmentService::new();
    let result = service.assign_storage_url(collection(0), &five(3), 1).unwrap();
    assert_eq!(service.get_assignment_stats().components[&Wal].reservations, 1);
    drop(result);
    let untouched = AssignmentService::new();
    assert_eq!(service.counters(), untouched.counters());
    assert_eq!(service.get_assignment_stats(), untouched.get_assignment_stats());
    assert_eq!(homes(&service, 1..5, &config(Wal, RoundRobin, 3)), [0, 1, 2, 0]);
}

#[test]
fn d3_a_failed_creation_between_others_leaves_no_gap() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 4);
    let failing = service
        .assign_storage_url(collection(99), std::slice::from_ref(&config), 1)
        .unwrap();
    let mut all = homes(&service, 0..5, &config);
    drop(failing);
    all.extend(homes(&service, 5..10, &config));
    assert_eq!(distribution(&all, 4), [3, 3, 2, 2]);
    assert_eq!(next(&service, Wal), 10);
}

#[test]
fn d3_nothing_is_reserved_when_one_component_has_no_writable_root() {
    let service = AssignmentService::new();
    let mut configs = five(2);
    configs[4]
        .candidates
        .iter_mut()
        .for_each(|candidate| candidate.writable = false);
    let error = service.assign_storage_url(collection(0), &configs, 1).unwrap_err();
    assert!(
        matches!(&error, Error::RootUnavailable { url, .. } if url.contains("file:///disk1")),
        "{error}"
    );
    assert_eq!(service.counters(), AssignmentService::new().counters());
    assert_eq!(
        service.get_assignment_stats(),
        AssignmentService::new().get_assignment_stats()
    );
}

#[test]
fn a14_no_roots_and_more_copies_than_roots_are_refused() {
    let service = AssignmentService::new();
    let mut config = config(Wal, RoundRobin, 0);
    let message = service
        .assign_storage_url(collection(0), &[config.clone()], 1)
        .unwrap_err()
        .to_string();
    assert_eq!(message, "No WAL URLs configured");
    config.candidates = candidates(1);
    config.copies = 2;
    let message = service
        .assign_storage_url(collection(0), &[config], 1)
        .unwrap_err()
        .to_string();
    assert!(message.contains("2 copies"), "{message}");
}

#[test]
fn d4_the_view_has_the_eight_fields_and_the_root() {
    let service = AssignmentService::new();
    let mut config = config(Metadata, RoundRobin, 3);
    config.copies = 2;
    assign(&service, 0, &config);
    let assignment = service.get_assignment(collection(0), Metadata).unwrap();
    let root_use = |root: RootId| RootUse {
        url: format!("file:///{root}"),
        directory_index: Some(0),
        file_count: 3,
        total_size_bytes: 4096,
    };
    let views = StorageAssignment::views(collection(0), Metadata, &assignment, root_use);
    assert_eq!(views.len(), 2);
    let json = serde_json::to_value(&views[1]).unwrap();
    let expected = serde_json::json!({
        "resource_id": collection(0).to_string(), "storage_url": format!("file:///{}", root_id(1)),
        "root_id": root_id(1).to_string(), "directory_index": 0, "assigned_at": 1000, "last_accessed": 1000,
        "file_count": 3, "total_size_bytes": 4096, "resource_type": "Metadata",
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<StorageAssignment>(json).unwrap(), views[1]);
}

#[test]
fn d5_the_wal_view_has_five_fields() {
    let service = AssignmentService::new();
    assign(&service, 0, &config(Wal, RoundRobin, 1));
    let root_use = |_| RootUse {
        url: "file:///w".into(),
        directory_index: Some(0),
        file_count: 1,
        total_size_bytes: 9,
    };
    let assignment = service.get_assignment(collection(0), Wal).unwrap();
    let view = StorageAssignment::views(collection(0), Wal, &assignment, root_use).remove(0);
    let json = serde_json::to_value(view.wal_view()).unwrap();
    let expected = serde_json::json!({
        "collection_id": collection(0).to_string(), "wal_directory_url": "file:///w", "directory_index": 0,
        "assigned_at": 1000, "total_size_bytes": 9,
    });
    assert_eq!(json, expected);
}

/// 64 threads use one new id at the same time; some of them fail and undo, at least one records.
fn race(record: impl Fn(usize) -> bool + Sync) -> AssignmentService {
    let service = AssignmentService::new();
    let configs = five(8);
    let barrier = Barrier::new(64);
    let run = |thread: usize| {
        barrier.wait();
        let result = service
            .assign_storage_url(collection(7), &configs, thread as u64)
            .unwrap();
        let placements = result.placements().clone();
        // Nobody lets go before all have asked: the question here is who is given what.
        barrier.wait();
        if record(thread) {
            result.record();
        }
        placements
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "one home each");
    service
}

#[test]
fn d6_64_threads_on_one_new_id_get_one_home_and_the_counter_moves_once() {
    let service = race(|_| true);
    assert_eq!((next(&service, Wal), next(&service, Metadata)), (1, 1));
    let stats = &service.get_assignment_stats().components[&Wal];
    assert_eq!((stats.collections, stats.copies, stats.reservations), (1, 1, 0));
}

#[test]
fn d6_one_success_of_64_keeps_the_assignment_and_64_failures_undo_it() {
    assert_eq!(next(&race(|thread| thread == 63), Wal), 1);
    let service = race(|_| false);
    assert_eq!(
        service.get_assignment_stats(),
        AssignmentService::new().get_assignment_stats()
    );
}

#[test]
fn d6_64_threads_creating_and_failing_at_random_leave_a_fair_distribution() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 4);
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (service, config) = (&service, std::slice::from_ref(&config));
            scope.spawn(move || {
                for number in 0..50 {
                    let result = service
                        .assign_storage_url(collection(thread * 50 + number), config, 1)
                        .unwrap();
                    if (thread * 7 + number * 13) % 5 != 0 {
                        result.record();
                    }
                }
            });
        }
    });
    let sequences: BTreeSet<u64> = service
        .get_all_assignments(Wal)
        .values()
        .filter_map(|assignment| assignment.placement.sequence)
        .collect();
    assert_eq!(
        sequences.len() as u64,
        service.get_assignment_stats().components[&Wal].collections,
        "none twice"
    );
    // The gaps that failures left are filled first.
    let recorded = sequences.len() as u64;
    let gaps = next(&service, Wal) - recorded;
    homes(&service, 10_000..10_000 + gaps as usize, &config);
    assert_eq!(next(&service, Wal), recorded + gaps);
}

#[test]
fn d7_the_first_home_stays() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 3);
    let first = assign(&service, 0, &config);
    homes(&service, 1..3, &config);
    assert!((0..100).all(|_| assign(&service, 0, &config) == first));
    assert_eq!(assign(&restart(&service, true), 0, &config), first);
    assert_eq!(next(&service, Wal), 3);
}

#[test]
fn d8_assigned_at_and_counters_survive_a_restart() {
    let service = AssignmentService::new();
    for number in 0..5 {
        service
            .assign_storage_url(collection(number), &five(3), 5000 + number as u64)
            .unwrap()
            .record();
    }
    let restarted = restart(&service, true);
    assert_eq!(restarted.counters(), service.counters());
    for component in StorageComponentType::ALL {
        assert_eq!(
            restarted.get_all_assignments(component),
            service.get_all_assignments(component)
        );
    }
}

#[test]
fn d8_a_dropped_last_collection_does_not_move_the_counter_back_when_the_floor_is_kept() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 3);
    homes(&service, 0..2, &config);
    let floors = service.counters();
    assert!(service.remove_assignment(collection(1)));
    let restarted = AssignmentService::new();
    let first = service.get_assignment(collection(0), Wal).unwrap().placement;
    restarted.record_assignment(collection(0), BTreeMap::from([(Wal, first)]));
    restarted.restore_counters(&floors, true);
    assert_eq!(assign(&restarted, 2, &config), 2);
}

/// A kill -9 between concurrent creations: number 1 was reserved and never committed, number 2 was.
#[test]
fn d8_a_crash_between_concurrent_creations_leaves_no_gap() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 3);
    homes(&service, 0..3, &config);
    service.remove_assignment(collection(1));
    assert_eq!(homes(&restart(&service, true), 5..7, &config), [1, 0]);
    // With a metadata root that cannot be read, the missing record may be there: its number stays used.
    assert_eq!(homes(&restart(&service, false), 5..7, &config), [0, 1]);
}

#[test]
fn e6_without_any_record_the_counter_is_the_number_of_assignments() {
    let service = AssignmentService::new();
    let config = config(Wal, RoundRobin, 4);
    homes(&service, 0..6, &config);
    let rebuilt = AssignmentService::new();
    for (collection, assignment) in service.get_all_assignments(Wal) {
        let placement = Placement {
            sequence: None,
            ..assignment.placement
        };
        rebuilt.record_assignment(collection, BTreeMap::from([(Wal, placement)]));
    }
    rebuilt.restore_counters(&BTreeMap::new(), true);
    assert_eq!(next(&rebuilt, Wal), 6);
    assert_eq!(homes(&rebuilt, 6..10, &config), [2, 3, 0, 1]);
    assert_eq!(rebuilt.counters(), restart(&rebuilt, true).counters());
}

#[test]
fn d9_a_read_moves_last_accessed_within_the_granularity() {
    let service = AssignmentService::new();
    assign(&service, 0, &config(Wal, RoundRobin, 1));
    let last = |service: &AssignmentService| service.get_assignment(collection(0), Wal).unwrap().last_accessed_ms;
    assert_eq!(last(&service), 1000);
    for (at, expected) in [(1999, 1000), (2000, 2000), (2500, 2000), (9000, 9000), (100, 9000)] {
        service.touch(collection(0), Wal, at);
        assert_eq!(last(&service), expected, "after a read at {at}");
    }
}

#[test]
fn d10_the_statistics_sum_up() {
    let service = AssignmentService::new();
    let mut configs = five(4);
    configs[4].copies = 2;
    for number in 0..10 {
        service
            .assign_storage_url(collection(number), &configs, 1)
            .unwrap()
            .record();
    }
    let stats = service.get_assignment_stats();
    assert_eq!(stats.components.len(), 5);
    for (component, stats) in &stats.components {
        assert_eq!(stats.collections, 10, "{component}");
        assert_eq!(stats.roots.values().sum::<u64>(), stats.copies, "{component}");
        assert_eq!(
            stats.copies,
            if *component == Metadata { 20 } else { 10 },
            "{component}"
        );
    }
    assert_eq!(
        stats.components[&Wal].roots.values().copied().collect::<Vec<_>>(),
        [3, 3, 2, 2]
    );
}

#[test]
fn d14_a_dropped_collection_is_forgotten_and_its_neighbours_are_not() {
    let service = AssignmentService::new();
    for number in 0..2 {
        service
            .assign_storage_url(collection(number), &five(2), 1)
            .unwrap()
            .record();
    }
    assert!(service.remove_assignment(collection(0)));
    assert!(!service.remove_assignment(collection(0)));
    for component in [Wal, Viper, Lsm, Index, Metadata] {
        assert_eq!(service.get_assignment(collection(0), component), None);
        assert!(service.get_assignment(collection(1), component).is_some());
    }
    assert_eq!(service.get_assignment_stats().components[&Wal].copies, 1);
}

#[test]
fn d14_a_late_holder_does_not_bring_a_dropped_collection_back() {
    let service = AssignmentService::new();
    let config = [config(Wal, RoundRobin, 2)];
    let late = service.assign_storage_url(collection(0), &config, 1).unwrap();
    service.assign_storage_url(collection(0), &config, 1).unwrap().record();
    service.remove_assignment(collection(0));
    late.record();
    assert_eq!(service.get_assignment(collection(0), Wal), None);
    assert_eq!(next(&service, Wal), 1, "the number stays used");
}

/// Another process committed the collection first: its record wins, and our number goes back.
#[test]
fn d6_the_record_of_another_process_replaces_a_reservation() {
    let service = AssignmentService::new();
    let config = [config(Wal, RoundRobin, 4)];
    assign(&service, 1, &config[0]);
    let ours = service.assign_storage_url(collection(0), &config, 1).unwrap();
    let theirs = Placement {
        roots: vec![root_id(3)],
        sequence: Some(3),
        ..ours.placements()[&Wal].clone()
    };
    service.record_assignment(collection(0), BTreeMap::from([(Wal, theirs.clone())]));
    ours.record();
    assert_eq!(service.get_assignment(collection(0), Wal).unwrap().placement, theirs);
    assert_eq!(assign(&service, 2, &config[0]), 1, "the number that was put back");
    assert_eq!(service.get_assignment_stats().components[&Wal].roots.len(), 3);
}

#[test]
fn j2_copies_are_on_distinct_roots_in_order() {
    let service = AssignmentService::new();
    let mut config = config(Metadata, RoundRobin, 3);
    config.copies = 2;
    let copies = |number| {
        let result = service
            .assign_storage_url(collection(number), &[config.clone()], 1)
            .unwrap();
        let roots = result.placements()[&Metadata].roots.clone();
        result.record();
        roots
    };
    assert_eq!(copies(0), [root_id(0), root_id(1)]);
    assert_eq!(copies(1), [root_id(1), root_id(2)]);
    assert_eq!(copies(2), [root_id(2), root_id(0)]);
    // A root that is down is the second copy when there is no other, and never the first.
    config.candidates.truncate(2);
    config.candidates[0].writable = false;
    let result = service.assign_storage_url(collection(3), &[config], 1).unwrap();
    assert_eq!(result.placements()[&Metadata].roots, [root_id(1), root_id(0)]);
}

#[test]
fn k3_new_collections_avoid_a_root_that_is_not_writable() {
    for strategy in DistributionStrategy::ALL {
        let service = AssignmentService::new();
        let mut config = config(Wal, strategy, 3);
        config.candidates[1].writable = false;
        let counts = distribution(&homes(&service, 0..30, &config), 3);
        assert_eq!(counts[1], 0, "{strategy}");
        assert!(counts[0] > 0 && counts[2] > 0, "{strategy}");
    }
}

#[test]
fn a_placement_is_stored_under_these_names() {
    let placement = Placement {
        roots: vec![root_id(0)],
        strategy: RoundRobin,
        affinity: true,
        sequence: Some(4),
        assigned_at_ms: 12,
        also: Vec::new(),
        types: BTreeMap::new(),
        moving: None,
    };
    let json = serde_json::to_value(&placement).unwrap();
    let expected = serde_json::json!({
        "roots": [root_id(0).to_string()], "strategy": "RoundRobin", "affinity": true, "sequence": 4,
        "assigned_at_ms": 12,
    });
    assert_eq!(json, expected);
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (1u32..100, 0u64..50, 0u64..(1 << 40), any::<bool>());
    prop::collection::vec(one, 1..12).prop_map(|values| {
        let candidate = |(index, (weight, collections, bytes, writable)): (usize, (u32, u64, u64, bool))| Candidate {
            weight: f64::from(weight) / 10.0,
            collections,
            bytes,
            writable,
            ..candidate(index)
        };
        values.into_iter().enumerate().map(candidate).collect()
    })
}

proptest! {
    #[test]
    fn every_strategy_ranks_everything_once_and_whatever_the_order_of_the_slice(
        candidates in any_candidates(), key in "[a-z0-9-]{0,40}", sequence in any::<u64>(), turn in 0usize..12,
    ) {
        let request = request(&key, sequence);
        for name in DistributionStrategy::ALL {
            let ids = |candidates: &[Candidate]| -> Vec<RootId> {
                strategy(name).rank(&request, candidates).into_iter().map(|at| candidates[at].root_id).collect()
            };
            let order = ids(&candidates);
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), candidates.len());
            let mut turned = candidates.clone();
            turned.rotate_left(turn % candidates.len());
            prop_assert_eq!(ids(&turned), order);
        }
    }

    #[test]
    fn hash_moves_a_key_only_to_an_added_root_and_ignores_positions(
        candidates in any_candidates(), key in "[a-z0-9-]{0,40}", seed in any::<u64>(),
    ) {
        let before = hash_home(&key, &writable(&candidates));
        let mut larger = writable(&candidates);
        let added = Candidate { weight: (seed % 50 + 1) as f64, ..candidate(50) };
        larger.push(added);
        let count = larger.len();
        for (position, candidate) in larger.iter_mut().enumerate() {
            candidate.index = count - position;
        }
        let after = hash_home(&key, &larger);
        prop_assert!(after == before || after == root_id(50));
    }

    #[test]
    fn the_least_loaded_root_never_has_more_collections_and_more_bytes_than_another(candidates in any_candidates()) {
        let request = request("", 0);
        let first = &candidates[strategy(LoadBalanced).rank(&request, &candidates)[0]];
        for other in &candidates {
            prop_assert!(first.collections <= other.collections || first.bytes <= other.bytes);
        }
    }

    /// Any history of creations (that fail or not), drops and restarts: the numbers in use are distinct, and without drops
    /// they have no gap.
    #[test]
    fn sequence_numbers_are_distinct_and_without_gaps(steps in prop::collection::vec((0u8..8, 0usize..30), 1..120)) {
        let mut service = AssignmentService::new();
        let config = [config(Wal, RoundRobin, 4)];
        let (mut dropped, mut created, mut open) = (false, 100, Vec::new());
        for (step, number) in steps {
            match step {
                0..=2 => {
                    created += 1;
                    open.push(service.assign_storage_url(collection(created), &config, 1).unwrap());
                }
                3 | 4 if !open.is_empty() => open.swap_remove(number % open.len()).record(),
                5 if !open.is_empty() => drop(open.swap_remove(number % open.len())),
                6 => dropped |= service.remove_assignment(collection(100 + number)),
                7 => {
                    let after = restart(&service, !dropped);
                    open.clear();
                    service = after;
                }
                _ => {}
            }
            let all = service.get_all_assignments(Wal);
            let recorded = all.values().filter_map(|assignment| assignment.placement.sequence);
            let reserved = open.iter().filter_map(|result| result.placements()[&Wal].sequence);
            let numbers: Vec<u64> = recorded.chain(reserved).collect();
            let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
            prop_assert_eq!(distinct.len(), numbers.len());
            prop_assert!(distinct.last().is_none_or(|&last| last < next(&service, Wal)));
        }
        drop(open);
        if !dropped {
            let used = service.get_all_assignments(Wal).len() as u64;
            let gaps = next(&service, Wal) - used;
            for number in 0..gaps {
                service.assign_storage_url(collection(9000 + number as usize), &config, 1).unwrap().record();
            }
            prop_assert_eq!(next(&service, Wal), used + gaps);
        }
    }
}

fn writable(candidates: &[Candidate]) -> Vec<Candidate> {
    candidates
        .iter()
        .map(|candidate| Candidate {
            writable: true,
            ..candidate.clone()
        })
        .collect()
}

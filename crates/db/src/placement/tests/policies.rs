//! D12: components of one collection on one device, or on different ones.

use super::*;
use crate::config::PolicyConfig;

fn policies(same: &[&[&str]], different: &[&[&str]]) -> Policies {
    let groups = |groups: &[&[&str]]| {
        groups
            .iter()
            .map(|group| group.iter().map(|&name| name.to_owned()).collect())
            .collect()
    };
    let config = PolicyConfig {
        same_device: groups(same),
        different_device: groups(different),
    };
    Policies::new(&config).unwrap()
}

/// A component whose roots are on these devices.
fn on(component: StorageComponentType, strategy: DistributionStrategy, devices: &[&str]) -> StorageAssignmentConfig {
    let first = 100
        * StorageComponentType::ALL
            .iter()
            .position(|other| *other == component)
            .unwrap();
    let root = |(index, device): (usize, &&str)| Candidate {
        index,
        device: Some((*device).to_owned()),
        ..candidate(first + index)
    };
    StorageAssignmentConfig {
        candidates: devices.iter().enumerate().map(root).collect(),
        ..config(component, strategy, 0)
    }
}

fn devices(placement: &Placement, config: &StorageAssignmentConfig) -> BTreeSet<String> {
    let roots = placement.all_roots();
    let placed = config
        .candidates
        .iter()
        .filter(|candidate| roots.contains(&candidate.root_id));
    placed.map(|candidate| candidate.device.clone().unwrap()).collect()
}

fn device(placement: &Placement, config: &StorageAssignmentConfig) -> String {
    let all = devices(placement, config);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

#[test]
fn d12_log_and_segments_of_a_collection_are_on_the_same_device() {
    let service = AssignmentService::with_policies(policies(&[&["wal", "viper"]], &[]));
    let configs = [
        on(Wal, RoundRobin, &["a", "b", "c"]),
        on(Viper, Hash, &["c", "a", "b", "d"]),
    ];
    let mut used = BTreeSet::new();
    for number in 0..30 {
        let result = service.assign_storage_url(collection(number), &configs, 1).unwrap();
        let wal = device(&result.placements()[&Wal], &configs[0]);
        assert_eq!(wal, device(&result.placements()[&Viper], &configs[1]));
        result.record();
        used.insert(wal);
    }
    assert_eq!(used.len(), 3, "the log still goes round");
}

#[test]
fn d12_a_later_component_that_has_no_root_there_sends_the_first_elsewhere() {
    let service = AssignmentService::with_policies(policies(&[&["wal", "viper"], &["viper", "lsm"]], &[]));
    let configs = [
        on(Wal, RoundRobin, &["a", "b", "c"]),
        on(Viper, Hash, &["a", "b", "c"]),
        on(Lsm, LoadBalanced, &["c", "x"]),
    ];
    for number in 0..5 {
        let result = service.assign_storage_url(collection(number), &configs, 1).unwrap();
        for config in &configs {
            assert_eq!(device(&result.placements()[&config.component], config), "c");
        }
        result.record();
    }
    assert_eq!(next(&service, Wal), 5, "each collection used one number");
}

#[test]
fn d12_different_devices_bind_all_index_types_and_stripes() {
    let service = AssignmentService::with_policies(policies(&[], &[&["wal", "index"]]));
    let mut configs = [on(Wal, Hash, &["a", "b"]), on(Index, Hash, &["b", "a", "c", "b"])];
    configs[0].affinity = false;
    configs[1].index_types = true;
    for number in 0..20 {
        let result = service.assign_storage_url(collection(number), &configs, 1).unwrap();
        let wal = devices(&result.placements()[&Wal], &configs[0]);
        let index = devices(&result.placements()[&Index], &configs[1]);
        assert!(wal.is_disjoint(&index), "{wal:?} {index:?}");
        assert_eq!(result.placements()[&Index].types.len(), 3);
    }
}

#[test]
fn d12_a_policy_that_cannot_be_kept_is_an_error_with_its_name_and_the_devices() {
    let service = AssignmentService::with_policies(policies(&[&["wal", "viper"]], &[]));
    let mut configs = [on(Wal, RoundRobin, &["a", "b"]), on(Viper, Hash, &["c", "a"])];
    configs[1].candidates[1].writable = false;
    let error = service
        .assign_storage_url(collection(0), &configs, 1)
        .unwrap_err()
        .to_string();
    for part in ["same_device = [wal, viper]", "wal can be on a, b", "viper can be on c"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(service.counters(), AssignmentService::new().counters());
    assert_eq!(
        service.get_assignment_stats(),
        AssignmentService::new().get_assignment_stats()
    );
    configs[1].candidates[1].writable = true;
    assert!(service.assign_storage_url(collection(0), &configs, 1).is_ok());
}

#[test]
fn d12_a_component_that_has_its_place_decides_for_the_others() {
    let service = AssignmentService::with_policies(policies(&[&["wal", "viper"]], &[]));
    let configs = [on(Wal, RoundRobin, &["a", "b"]), on(Viper, RoundRobin, &["a", "b"])];
    let second = configs[1].candidates[1].root_id;
    let viper = Placement {
        roots: vec![second],
        ..assigned(second)
    };
    service.record_assignment(collection(0), BTreeMap::from([(Viper, viper)]));
    let result = service.assign_storage_url(collection(0), &configs, 1).unwrap();
    assert_eq!(device(&result.placements()[&Wal], &configs[0]), "b");
    // Where its device has no root of the other component, it is recovered all the same.
    service.record_assignment(collection(1), BTreeMap::from([(Viper, assigned(root_id(77)))]));
    assert!(service.assign_storage_url(collection(1), &configs, 1).is_ok());
}

fn assigned(root: RootId) -> Placement {
    Placement {
        roots: vec![root],
        strategy: Hash,
        affinity: true,
        sequence: None,
        assigned_at_ms: 1,
        also: Vec::new(),
        types: BTreeMap::new(),
        moving: None,
    }
}

#[test]
fn d12_a_move_is_permitted_where_a_creation_would_be() {
    let policies = policies(&[&["wal", "viper"]], &[&["wal", "index"]]);
    let others = Devices::from([
        (Viper, BTreeSet::from(["a".to_owned()])),
        (Index, BTreeSet::from(["b".to_owned()])),
        (Wal, BTreeSet::from(["a".to_owned()])),
    ]);
    for (component, device, expected) in [
        (Wal, "a", true),
        (Wal, "b", false),
        (Wal, "c", false),
        (Viper, "a", true),
        (Viper, "b", false),
        (Index, "a", false),
        (Index, "c", true),
        (Lsm, "a", true),
    ] {
        assert_eq!(
            policies.permit(component, device, &others),
            expected,
            "{component} on {device}"
        );
    }
}

proptest! {
    /// Any policies over any devices: either every policy holds, or no choice of homes could have kept them all.
    #[test]
    fn d12_policies_hold_or_nothing_could_keep_them(
        roots in prop::collection::vec(prop::collection::vec(0usize..4, 1..4), 4),
        rules in prop::collection::vec((any::<bool>(), prop::sample::subsequence(vec![Wal, Viper, Lsm, Metadata], 2..4)), 0..4),
        number in 0usize..1000,
    ) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let of = |wanted: bool| rules.iter().filter(move |(same, _)| *same == wanted)
            .map(|(_, group)| group.iter().map(|component| component.name().to_owned()).collect()).collect();
        let policies = Policies::new(&PolicyConfig { same_device: of(true), different_device: of(false) }).unwrap();
        let components = [Wal, Viper, Lsm, Metadata];
        let configs: Vec<StorageAssignmentConfig> = components.iter().zip(&roots).map(|(&component, devices)| {
            let names: Vec<&str> = devices.iter().map(|&device| NAMES[device]).collect();
            on(component, if component == Wal { RoundRobin } else { Hash }, &names)
        }).collect();
        let keeps = |choice: &[usize]| {
            rules.iter().all(|(same, group)| {
                let devices: Vec<usize> = components.iter().zip(choice).filter(|(c, _)| group.contains(c)).map(|(_, d)| *d).collect();
                let distinct = devices.iter().collect::<BTreeSet<_>>().len();
                if *same { distinct == 1 } else { distinct == devices.len() }
            })
        };
        let service = AssignmentService::with_policies(policies);
        match service.assign_storage_url(collection(number), &configs, 1) {
            Ok(result) => {
                let at = |config: &StorageAssignmentConfig| device(&result.placements()[&config.component], config);
                let choice: Vec<usize> = configs.iter().map(|config| NAMES.iter().position(|name| *name == at(config)).unwrap()).collect();
                prop_assert!(keeps(&choice), "{choice:?}");
            }
            Err(error) => {
                prop_assert!(error.to_string().contains("_device = ["), "{error}");
                for number in 0..256 {
                    let choice: Vec<usize> = (0..4).map(|at| number / 4usize.pow(at) % 4).collect();
                    let possible = choice.iter().zip(&roots).all(|(device, devices)| devices.contains(device));
                    prop_assert!(!(possible && keeps(&choice)), "{choice:?} would do: {error}");
                }
            }
        }
    }
}

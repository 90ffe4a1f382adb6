//! The strategies of FEATURES C8 to C10, and what all six have in common.

use DistributionStrategy::{CostOptimized, PerformanceBased, RegionAffinityBased};

use super::*;

fn order(name: DistributionStrategy, candidates: &[Candidate]) -> Vec<usize> {
    strategy(name).rank(&request("a", 0), candidates)
}

fn with_tags<const N: usize>(tags: [&[(&str, &str)]; N]) -> Vec<Candidate> {
    let text = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    let tagged = |(candidate, tags): (Candidate, &[(&str, &str)])| Candidate {
        tags: tags.iter().map(text).collect(),
        ..candidate
    };
    candidates(N).into_iter().zip(tags).map(tagged).collect()
}

#[test]
fn c8_a_root_with_50_ms_of_delay_gets_no_new_collections() {
    let service = AssignmentService::new();
    let mut config = config(Viper, PerformanceBased, 3);
    for (candidate, latency) in config.candidates.iter_mut().zip([0.9, 50.0, 1.1]) {
        candidate.latency_ms = Some(latency);
    }
    let counts = distribution(&homes(&service, 0..100, &config), 3);
    assert_eq!(counts, [50, 0, 50], "roots about as fast as the fastest share");
    config.candidates[0].latency_ms = Some(20.0);
    let counts = distribution(&homes(&service, 100..110, &config), 3);
    assert_eq!(counts, [0, 0, 10], "and one that slows down gets no more");
    config.candidates[2].writable = false;
    assert_eq!(assign(&service, 110, &config), 0, "the faster of those that are left");
}

#[test]
fn c8_a_root_that_was_not_measured_is_tried_and_latencies_near_each_other_are_equal() {
    let mut roots = candidates(4);
    roots[0].collections = 5;
    assert_eq!(
        order(PerformanceBased, &roots),
        [1, 2, 3, 0],
        "nothing is known: by load"
    );
    roots[0].latency_ms = Some(1.0);
    roots[2].latency_ms = Some(1.51);
    assert_eq!(order(PerformanceBased, &roots), [1, 3, 0, 2]);
    roots[2].latency_ms = Some(1.5);
    assert_eq!(order(PerformanceBased, &roots), [1, 2, 3, 0]);
    for (root, latency) in roots.iter_mut().zip([0.02, 0.12, 0.11, 0.13]) {
        root.latency_ms = Some(latency);
    }
    assert_eq!(order(PerformanceBased, &roots), [1, 2, 0, 3], "0.1 ms more is noise");
}

#[test]
fn c9_new_collections_go_to_the_cheapest_root_and_equal_ones_share() {
    let service = AssignmentService::new();
    let mut config = config(Viper, CostOptimized, 4);
    for (candidate, cost) in config.candidates.iter_mut().zip([0.125, 0.02, 0.02, 0.08]) {
        candidate.cost_per_gb_month = Some(cost);
    }
    assert_eq!(distribution(&homes(&service, 0..10, &config), 4), [0, 5, 5, 0]);
    config.candidates[1].writable = false;
    config.candidates[2].writable = false;
    assert_eq!(assign(&service, 10, &config), 3, "the next in price");
}

#[test]
fn c9_a_price_comes_from_the_key_the_cost_tag_the_tier_or_the_scheme() {
    let mut roots = with_tags([
        &[("cost", "0.5"), ("tier", "archive")],
        &[("cost", "0.3")],
        &[("cost", "0.4")],
    ]);
    roots[0].cost_per_gb_month = Some(0.1);
    assert_eq!(order(CostOptimized, &roots), [0, 1, 2]);
    roots[0].cost_per_gb_month = None;
    assert_eq!(order(CostOptimized, &roots), [1, 2, 0]);
    let tiers = with_tags([
        &[("tier", "NVMe")],
        &[("tier", "hot")],
        &[("tier", "cold"), ("cost", "low")],
        &[("tier", "archive")],
    ]);
    assert_eq!(order(CostOptimized, &tiers), [3, 2, 1, 0]);
    let mut schemes = candidates(3);
    schemes[1].url = "s3://b/p".to_owned();
    schemes[2].url = "gs://b/p".to_owned();
    assert_eq!(order(CostOptimized, &schemes), [2, 1, 0]);
    let aliases = ["s3a://b", "abfss://c@a", "adls://a/c", "gcs://b"];
    assert!(aliases.iter().all(|url| {
        let bucket = Candidate {
            url: (*url).to_owned(),
            ..candidate(1)
        };
        order(CostOptimized, &[candidate(0), bucket]) == [1, 0]
    }));
}

#[test]
fn c10_a_collection_stays_in_its_region() {
    let service = AssignmentService::new();
    let mut config = config(Viper, RegionAffinityBased, 5);
    let regions = [Some("us"), Some("eu"), None, Some("eu"), Some("ap")];
    for (candidate, region) in config.candidates.iter_mut().zip(regions) {
        candidate
            .tags
            .extend(region.map(|region| ("region".to_owned(), region.to_owned())));
    }
    config.region = Some("eu".to_owned());
    assert_eq!(distribution(&homes(&service, 0..10, &config), 5), [0, 5, 0, 5, 0]);
    config.affinity = false;
    let striped = service
        .assign_storage_url(collection(10), &[config.clone()], 1)
        .unwrap();
    let mut all = striped.placements()[&Viper].all_roots();
    all.sort_unstable();
    assert_eq!(all, [root_id(1), root_id(3)], "nor are its files striped out of it");
    config.region = None;
    assert_eq!(
        assign(&service, 11, &config),
        2,
        "without a region first where no region is"
    );
    config.candidates.remove(2);
    assert_eq!(assign(&service, 12, &config), 0, "else anywhere, by load");
}

#[test]
fn c10_a_region_without_roots_is_an_error_that_names_it_and_the_others() {
    let service = AssignmentService::new();
    let mut config = config(Metadata, RegionAffinityBased, 3);
    config.region = Some("moon".to_owned());
    let refusal = |config: &StorageAssignmentConfig| {
        let result = service.assign_storage_url(collection(0), std::slice::from_ref(config), 1);
        result.unwrap_err()
    };
    let untagged = refusal(&config).to_string();
    assert!(untagged.contains("`moon`: no root has the tag `region`"), "{untagged}");
    for (candidate, region) in config.candidates.iter_mut().zip(["us", "eu", "us"]) {
        candidate.tags.insert("region".to_owned(), region.to_owned());
    }
    let error = refusal(&config);
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("region `moon`: there are eu, us")),
        "{error}"
    );
    config.region = Some("eu".to_owned());
    config.copies = 2;
    let error = refusal(&config);
    assert!(
        matches!(&error, Error::InvalidInput(text) if text.contains("2 copies of metadata need 2 roots")),
        "{error}"
    );
    config.copies = 1;
    config.candidates[1].writable = false;
    let error = refusal(&config);
    assert!(
        matches!(&error, Error::RootUnavailable { url, .. } if url == "file:///disk1"),
        "{error}"
    );
    assert_eq!(
        service.get_assignment_stats(),
        AssignmentService::new().get_assignment_stats()
    );
}

#[test]
fn c5_further_names_follow_the_three_in_the_error() {
    let message = "hash".parse::<DistributionStrategy>().unwrap_err().to_string();
    let expected = "unknown distribution strategy `hash`: choose RoundRobin, Hash, LoadBalanced \
                    (further: PerformanceBased, CostOptimized, RegionAffinityBased)";
    assert_eq!(message, expected);
}

/// Two servers that are set up with one configuration: other root ids, the same URLs, in another order.
#[test]
fn c3_two_fresh_servers_with_one_configuration_place_1000_ids_alike() {
    let one = config(Viper, Hash, 6);
    let mut two = one.clone();
    for candidate in &mut two.candidates {
        candidate.root_id = RootId(Uuid::from_u128(u128::from(candidate.index as u32 * 7919 % 6) + 1));
    }
    two.candidates.rotate_left(2);
    let (first, second) = (AssignmentService::new(), AssignmentService::new());
    assert_eq!(homes(&first, 0..1000, &one), homes(&second, 0..1000, &two));
}

proptest! {
    #[test]
    fn c8_the_first_root_is_about_as_fast_as_the_fastest(
        latencies in prop::collection::vec(prop::option::of(0.0f64..100.0), 1..10), loads in prop::collection::vec(0u64..50, 10),
    ) {
        let mut roots = candidates(latencies.len());
        for ((root, latency), load) in roots.iter_mut().zip(&latencies).zip(loads) {
            (root.latency_ms, root.collections) = (*latency, load);
        }
        let fastest = latencies.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let first = &roots[order(PerformanceBased, &roots)[0]];
        let is_near = |root: &Candidate| root.latency_ms.is_none_or(|ms| ms <= (fastest * 1.5).max(fastest + 0.1));
        prop_assert!(is_near(first));
        prop_assert!(roots.iter().filter(|root| is_near(root)).all(|root| first.collections <= root.collections));
    }

    #[test]
    fn c9_the_first_root_is_never_dearer_than_another(costs in prop::collection::vec(0u8..4, 1..10), loads in prop::collection::vec(0u64..50, 10)) {
        let mut roots = candidates(costs.len());
        for ((root, cost), load) in roots.iter_mut().zip(costs).zip(loads) {
            (root.cost_per_gb_month, root.collections) = (Some(f64::from(cost)), load);
        }
        let first = &roots[order(CostOptimized, &roots)[0]];
        for root in &roots {
            prop_assert!(first.cost_per_gb_month <= root.cost_per_gb_month);
            prop_assert!(first.cost_per_gb_month < root.cost_per_gb_month || first.collections <= root.collections);
        }
    }
}

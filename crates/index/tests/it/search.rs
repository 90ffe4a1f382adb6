//! What a search promises, whichever index answers it.

use fixedbitset::FixedBitSet;
use proptest::prelude::*;
use proximadb_index::{Flat, Hit, Rows, SearchParams, VectorIndex, kmeans, recall_at_k};

use crate::{METRICS, Numbers, build_both, clumped, exact, rows_and_queries};

fn rows_of(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.row).collect()
}

/// Mean recall at default effort, with queries that are no rows.
fn check_recall(selectivity: f32, k: usize, clumps: usize) {
    for metric in METRICS {
        let (rows, queries) = rows_and_queries(3000, 200, 24, clumps);
        let mut numbers = Numbers(9);
        let set: FixedBitSet = (0..rows.len())
            .filter(|_| numbers.next() < 2.0 * selectivity - 1.0)
            .collect();
        let allowed = (selectivity < 1.0).then_some(&set);
        for (rows, index) in build_both(metric, &rows, kmeans::cluster_count(rows.len())) {
            let recall = |query: usize| {
                let query = queries.get(query);
                let found = index.search(&rows, query, &SearchParams::new(k), allowed);
                recall_at_k(&rows_of(&found), &rows_of(&exact(metric, &rows, query, k, allowed)))
            };
            let mean = (0..queries.len()).map(recall).sum::<f64>() / queries.len() as f64;
            assert!(mean >= 0.95, "{metric:?} selectivity {selectivity} k {k}: {mean}");
        }
    }
}

#[test]
fn ivf_finds_what_it_promises_for_any_number_of_hits() {
    check_recall(1.0, 1, 60);
    check_recall(1.0, 10, 60);
    check_recall(1.0, 100, 15);
}

#[test]
fn ivf_finds_what_it_promises_under_filters() {
    check_recall(0.5, 10, 60);
    check_recall(0.1, 10, 60);
    check_recall(0.01, 10, 60);
    check_recall(0.001, 10, 60);
}

#[test]
fn more_probes_find_more_and_all_lists_find_everything() {
    let (rows, queries) = rows_and_queries(3000, 30, 16, 40);
    for metric in METRICS {
        for (rows, index) in build_both(metric, &rows, 60) {
            let recall = |probes: usize| -> f64 {
                let params = SearchParams {
                    k: 10,
                    probes: Some(probes),
                    exact: false,
                };
                let one = |query: &[f32]| {
                    let truth = exact(metric, &rows, query, 10, None);
                    recall_at_k(&rows_of(&index.search(&rows, query, &params, None)), &rows_of(&truth))
                };
                (0..queries.len()).map(|query| one(queries.get(query))).sum::<f64>() / queries.len() as f64
            };
            let (one, few, all) = (recall(1), recall(2), recall(60));
            assert!(one < few && few <= all && all == 1.0, "{metric:?}: {one} {few} {all}");
        }
    }
}

#[test]
fn a_filter_that_leaves_fewer_rows_than_wanted_gives_them_all() {
    let rows = clumped(3000, 8, 20, 3);
    // Enough allowed rows that the lists are used, in places far from the query as well.
    let set: FixedBitSet = (0..rows.len()).filter(|row| row % 3 == 0).collect();
    for metric in METRICS {
        for (rows, index) in build_both(metric, &rows, 30) {
            for probes in [None, Some(1)] {
                let params = SearchParams {
                    k: 2000,
                    probes,
                    exact: false,
                };
                assert_eq!(
                    index.search(&rows, rows.get(5), &params, Some(&set)),
                    exact(metric, &rows, rows.get(5), 2000, Some(&set))
                );
            }
        }
    }
}

#[test]
fn nan_and_infinity_never_panic_and_nan_is_never_a_hit() {
    let mut data = clumped(500, 4, 10, 3).as_slice().to_vec();
    data[0] = f32::NAN;
    data[41] = f32::INFINITY;
    data[82..84].fill(f32::MAX);
    let rows = Rows::from_vec(4, data);
    for metric in METRICS {
        for (rows, index) in build_both(metric, &rows, 20) {
            for query in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::MAX; 4], [0.0; 4]] {
                for params in [
                    SearchParams::new(600),
                    SearchParams {
                        k: 600,
                        probes: Some(3),
                        exact: false,
                    },
                ] {
                    let hits = index.search(&rows, &query, &params, None);
                    assert_eq!(hits, exact(metric, &rows, &query, 600, None));
                }
            }
        }
    }
}

#[test]
fn an_index_of_other_rows_answers_exactly() {
    let (rows, other) = (clumped(500, 4, 10, 3), clumped(300, 4, 10, 5));
    for metric in METRICS {
        for (_, index) in build_both(metric, &rows, 20) {
            assert_eq!(
                index.search(&other, other.get(7), &SearchParams::new(9), None),
                exact(metric, &other, other.get(7), 9, None)
            );
        }
    }
}

#[test]
fn rows_beyond_the_clusters_are_found_by_exact_search() {
    let rows = clumped(400, 4, 10, 3);
    let clusters = kmeans::train(
        METRICS[1],
        &Rows::from_vec(4, rows.as_slice()[..1200].to_vec()),
        10,
        10,
        1,
    );
    let index = proximadb_index::Ivf::build(METRICS[1], &rows, &clusters);
    let params = SearchParams {
        exact: true,
        ..SearchParams::new(1)
    };
    assert_eq!(rows_of(&index.search(&rows, rows.get(350), &params, None)), [350]);
    assert!(
        rows_of(&index.search(&rows, rows.get(350), &SearchParams::new(400), None))
            .iter()
            .all(|row| *row < 300)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hits_are_allowed_rows_with_their_true_scores_in_order(
        values in prop::collection::vec((-4i8..4).prop_map(f32::from), 1..600), dim in 1usize..6, query in prop::array::uniform6(-4i8..4),
        bits in prop::collection::vec(any::<bool>(), 0..600), with_set: bool, k in 0usize..40, probes in prop::option::of(0usize..9), lists in 1usize..30,
    ) {
        let rows = Rows::from_vec(dim, values[..values.len() / dim * dim].to_vec());
        let query = &query.map(f32::from)[..dim];
        let set: FixedBitSet = bits.iter().enumerate().filter(|(_, on)| **on).map(|(bit, _)| bit).collect();
        let allowed = with_set.then_some(&set);
        for metric in METRICS {
            for (rows, index) in build_both(metric, &rows, lists) {
                let truth = exact(metric, &rows, query, k, allowed);
                let found = index.search(&rows, query, &SearchParams { k, probes, exact: false }, allowed);
                prop_assert_eq!(found.len(), truth.len(), "as many as there are");
                let all = exact(metric, &rows, query, usize::MAX, allowed);
                // A subsequence of the whole sorted list: right rows, scores, order and ties.
                let mut rest = all.iter();
                prop_assert!(found.iter().all(|hit| rest.any(|other| other == hit)));
                let params = SearchParams { k, probes, exact: true };
                prop_assert_eq!(&index.search(&rows, query, &params, allowed), &truth);
                prop_assert_eq!(&Flat::build(metric, &rows).search(&rows, query, &params, allowed), &truth);
            }
        }
    }
}

//! What a search promises, whichever index answers it.

use fixedbitset::FixedBitSet;
use proptest::prelude::*;
use proximadb_index::{Flat, Rows, SearchParams, SearchStats, VectorIndex, kmeans};

use crate::{
    METRICS, Numbers, build_all, build_sorted, clumped, exact, recall, rows_and_queries, rows_of, with_outliers,
};

/// Mean recall at default effort, with queries that are no rows.
fn check_recall(selectivity: f32, k: usize, clumps: usize) {
    for metric in METRICS {
        let (rows, queries) = rows_and_queries(3000, 200, 24, clumps);
        let mut numbers = Numbers(9);
        let set: FixedBitSet = (0..rows.len())
            .filter(|_| numbers.next() < 2.0 * selectivity - 1.0)
            .collect();
        let allowed = (selectivity < 1.0).then_some(&set);
        for (rows, index) in build_all(metric, &rows, kmeans::cluster_count(rows.len())) {
            let mean = recall(metric, &rows, &index, &queries, &SearchParams::new(k), allowed);
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

/// Mean recall@10 of clustered data that queries come from, too.
fn recall_of(dim: usize, effort: f32, selectivity: Option<usize>) -> [f64; 3] {
    let (rows, queries) = rows_and_queries(3000, 60, dim, 60);
    let set: FixedBitSet = (0..rows.len())
        .filter(|row| row * 7 % 11 * 3 % selectivity.unwrap_or(1) == 0)
        .collect();
    let allowed = selectivity.map(|_| &set);
    METRICS.map(|metric| {
        let (rows, index) = build_sorted(metric, &rows, kmeans::cluster_count(rows.len()));
        let params = SearchParams {
            effort,
            ..SearchParams::new(10)
        };
        recall(metric, &rows, &index, &queries, &params, allowed)
    })
}

#[test]
fn ivf_finds_what_it_promises_in_any_number_of_dimensions() {
    for dim in [2, 32, 100, 128, 384, 1536] {
        let recalls = recall_of(dim, 1.0, None);
        assert!(
            recalls.iter().all(|recall| *recall >= 0.95),
            "{dim} dimensions: {recalls:?}"
        );
    }
}

#[test]
fn the_unit_and_the_origin_of_the_data_do_not_matter() {
    let (rows, queries) = rows_and_queries(3000, 60, 48, 60);
    for (scale, shift) in [(1e-4, 0.0), (1e4, 0.0), (100.0, 250.0)] {
        let moved = |rows: &Rows| Rows::from_vec(48, rows.as_slice().iter().map(|x| x * scale + shift).collect());
        let (rows, queries) = (moved(&rows), moved(&queries));
        for metric in METRICS {
            let (rows, index) = build_sorted(metric, &rows, kmeans::cluster_count(rows.len()));
            let mean = recall(metric, &rows, &index, &queries, &SearchParams::new(10), None);
            assert!(mean >= 0.95, "{metric:?} × {scale} + {shift}: {mean}");
            let mut stats = SearchStats::default();
            index.search_counted(&rows, queries.get(0), &SearchParams::new(10), None, &mut stats);
            assert!(stats.codes < rows.len(), "not by reading everything");
        }
    }
}

#[test]
fn more_effort_finds_more() {
    let recalls = [0.1, 0.4, 1.0, 3.0].map(|effort| recall_of(48, effort, None));
    for metric in 0..3 {
        let of = recalls.map(|recalls| recalls[metric]);
        assert!(of.is_sorted() && of[0] < of[3] && of[3] >= 0.98, "{metric}: {of:?}");
    }
}

#[test]
fn a_search_looks_at_a_part_of_the_rows_and_says_so() {
    let (rows, queries) = rows_and_queries(6000, 20, 64, 100);
    for metric in METRICS {
        let (rows, index) = build_sorted(metric, &rows, kmeans::cluster_count(rows.len()));
        let mut stats = SearchStats::default();
        for query in queries.as_slice().chunks_exact(64) {
            index.search_counted(&rows, query, &SearchParams::new(10), None, &mut stats);
        }
        assert!(
            stats.lists >= 20 && stats.codes < 20 * rows.len() / 2,
            "{metric:?}: {stats:?}"
        );
        assert!(
            stats.refined < stats.codes && stats.exact <= stats.refined && stats.exact >= 200,
            "{metric:?}: {stats:?}"
        );
        let mut exact = SearchStats::default();
        let params = SearchParams {
            exact: true,
            ..SearchParams::new(10)
        };
        index.search_counted(&rows, rows.get(0), &params, None, &mut exact);
        assert_eq!(
            exact,
            SearchStats {
                exact: 6000,
                ..SearchStats::default()
            }
        );
    }
}

/// Rows far from all others, and rows that are no numbers, spoil nothing.
#[test]
fn outliers_are_found_and_spoil_nothing() {
    let (rows, queries) = rows_and_queries(4000, 50, 32, 60);
    let rows = with_outliers(&rows);
    for metric in METRICS {
        for (rows, index) in build_all(metric, &rows, kmeans::cluster_count(rows.len())) {
            let mean = recall(metric, &rows, &index, &queries, &SearchParams::new(10), None);
            assert!(mean >= 0.95, "{metric:?}: {mean}");
            // From so far away all rows are at about one distance, so it only matters that there are as many hits as asked for.
            let far: Vec<f32> = queries.get(1).iter().map(|value| value * 2e6).collect();
            assert_eq!(index.search(&rows, &far, &SearchParams::new(10), None).len(), 10);
        }
    }
}

#[test]
fn rows_that_are_not_allowed_are_never_found_whatever_their_number() {
    let (rows, queries) = rows_and_queries(4000, 10, 32, 60);
    // As deletions leave them: all but every third, and a whole region.
    let set: FixedBitSet = (0..rows.len())
        .filter(|row| row % 3 != 0 && !(1000..2500).contains(row))
        .collect();
    for metric in METRICS {
        for (rows, index) in build_all(metric, &rows, kmeans::cluster_count(rows.len())) {
            let mean = recall(metric, &rows, &index, &queries, &SearchParams::new(10), Some(&set));
            assert!(mean >= 0.95, "{metric:?}: {mean}");
        }
    }
}

#[test]
fn a_filter_that_leaves_fewer_rows_than_wanted_gives_them_all() {
    let rows = clumped(3000, 8, 20, 3);
    // Enough allowed rows that the lists are used, in places far from the query as well.
    let set: FixedBitSet = (0..rows.len()).filter(|row| row % 3 == 0).collect();
    for metric in METRICS {
        for (rows, index) in build_all(metric, &rows, 30) {
            for effort in [1.0, 0.1] {
                let params = SearchParams {
                    effort,
                    ..SearchParams::new(2000)
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
        for (rows, index) in build_all(metric, &rows, 20) {
            for query in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::MAX; 4], [0.0; 4]] {
                let hits = index.search(&rows, &query, &SearchParams::new(600), None);
                let all = exact(metric, &rows, &query, 600, None);
                assert_eq!(hits, all);
                let few = index.search(&rows, &query, &SearchParams::new(5), None);
                assert!(few.iter().all(|hit| all.contains(hit)), "{metric:?} {query:?}: {few:?}");
            }
        }
    }
}

#[test]
fn an_index_of_other_rows_answers_exactly() {
    let (rows, other) = (clumped(500, 4, 10, 3), clumped(300, 4, 10, 5));
    for metric in METRICS {
        for (_, index) in build_all(metric, &rows, 20) {
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
    let by_lists = index.search(&rows, rows.get(350), &SearchParams::new(10), None);
    assert!(by_lists.len() == 10 && by_lists.iter().all(|hit| hit.row < 300));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hits_are_allowed_rows_with_their_true_scores_in_order(
        values in prop::collection::vec((-4i8..4).prop_map(f32::from), 1..600), dim in 1usize..6, query in prop::array::uniform6(-4i8..4),
        bits in prop::collection::vec(any::<bool>(), 0..600), with_set: bool, k in 0usize..40, effort in 0f32..3.0, lists in 1usize..30,
    ) {
        let rows = Rows::from_vec(dim, values[..values.len() / dim * dim].to_vec());
        let query = &query.map(f32::from)[..dim];
        let set: FixedBitSet = bits.iter().enumerate().filter(|(_, on)| **on).map(|(bit, _)| bit).collect();
        let allowed = with_set.then_some(&set);
        for metric in METRICS {
            for (rows, index) in build_all(metric, &rows, lists) {
                let truth = exact(metric, &rows, query, k, allowed);
                let found = index.search(&rows, query, &SearchParams { k, effort, exact: false }, allowed);
                prop_assert_eq!(found.len(), truth.len(), "as many as there are");
                let all = exact(metric, &rows, query, usize::MAX, allowed);
                // A subsequence of the whole sorted list: right rows, scores, order and ties.
                let mut rest = all.iter();
                prop_assert!(found.iter().all(|hit| rest.any(|other| other == hit)));
                let params = SearchParams { k, effort, exact: true };
                prop_assert_eq!(&index.search(&rows, query, &params, allowed), &truth);
                prop_assert_eq!(&Flat::build(metric, &rows).search(&rows, query, &params, allowed), &truth);
            }
        }
    }
}

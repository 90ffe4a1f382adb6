//! The graph index against plain exact search.

use std::sync::LazyLock;

use fixedbitset::FixedBitSet;
use proptest::prelude::*;
use proximadb_index::{Hnsw, HnswParams, Metric, Rows, SearchParams, SearchStats, VectorIndex};

use crate::{METRICS, Numbers, clumped, exact, recall, rows_and_queries, rows_of, with_outliers};

fn build(metric: Metric, rows: &Rows) -> Hnsw {
    Hnsw::build(metric, rows, None, HnswParams::default())
}

struct World {
    rows: Rows,
    queries: Rows,
    indexes: Vec<(Metric, Hnsw)>,
}

/// Rows, queries that are no rows, and an index for each metric.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (rows, queries) = rows_and_queries(6000, 100, 24, 60);
    let indexes = METRICS.map(|metric| (metric, build(metric, &rows)));
    World {
        rows,
        queries,
        indexes: indexes.into(),
    }
});

fn check_recall(k: usize, allowed: Option<&FixedBitSet>, least: f64) {
    for (metric, index) in &WORLD.indexes {
        let recall = recall(
            *metric,
            &WORLD.rows,
            index,
            &WORLD.queries,
            &SearchParams::new(k),
            allowed,
        );
        let count = allowed.map(|set| set.count_ones(..));
        assert!(recall >= least, "{metric:?} k {k} allowed {count:?}: {recall}");
    }
}

#[test]
fn i1_hnsw_finds_what_it_promises_for_any_number_of_hits() {
    for k in [1, 10, 100, 1000] {
        check_recall(k, None, 0.95);
    }
}

#[test]
fn i1_hnsw_finds_what_it_promises_under_filters() {
    for selectivity in [0.7, 0.5, 0.3, 0.1, 0.01, 0.001] {
        let mut numbers = Numbers(9);
        let chosen = |_: &usize| numbers.next() < 2.0 * selectivity - 1.0;
        let allowed = (0..WORLD.rows.len()).filter(chosen).collect();
        check_recall(10, Some(&allowed), 0.95);
    }
}

#[test]
fn i1_hnsw_finds_allowed_rows_far_from_where_the_query_is() {
    // Whole clumps are allowed, and others are not: most queries are in one of the others.
    for clumps in [45, 20, 8] {
        let allowed = (0..WORLD.rows.len()).filter(|row| row * 7 % 60 < clumps).collect();
        check_recall(10, Some(&allowed), 0.94);
    }
}

#[test]
fn i1_hnsw_looks_at_a_part_of_the_rows_and_says_so() {
    let half: FixedBitSet = (0..WORLD.rows.len()).filter(|row| row % 2 == 0).collect();
    for (metric, index) in &WORLD.indexes {
        for allowed in [None, Some(&half)] {
            let mut stats = SearchStats::default();
            for query in 0..WORLD.queries.len() {
                let query = WORLD.queries.get(query);
                index.search_counted(&WORLD.rows, query, &SearchParams::new(10), allowed, &mut stats);
            }
            let (queries, rows) = (WORLD.queries.len(), WORLD.rows.len());
            assert!(stats.codes + stats.exact <= queries * rows / 2, "{metric:?}: {stats:?}");
            assert!(stats.exact >= 10 * queries, "{metric:?}: {stats:?}");
            assert!(stats.lists >= queries || allowed.is_some(), "{metric:?}: {stats:?}");
        }
    }
}

#[test]
fn i1_hnsw_finds_more_with_more_effort() {
    for (metric, index) in &WORLD.indexes {
        let of = [0.1, 1.0, 1.6].map(|effort| {
            let params = SearchParams {
                effort,
                ..SearchParams::new(10)
            };
            recall(*metric, &WORLD.rows, index, &WORLD.queries, &params, None)
        });
        assert!(of.is_sorted() && of[2] >= 0.98, "{metric:?}: {of:?}");
    }
}

#[test]
fn i1_hnsw_finds_what_it_promises_in_any_number_of_dimensions_and_unit() {
    for (dim, scale, shift) in [(2, 1.0, 0.0), (100, 1e-4, 0.0), (384, 1e4, 0.0), (48, 100.0, 250.0)] {
        let (rows, queries) = rows_and_queries(2000, 50, dim, 60);
        let moved = |rows: &Rows| Rows::from_vec(dim, rows.as_slice().iter().map(|x| x * scale + shift).collect());
        let (rows, queries) = (moved(&rows), moved(&queries));
        for metric in METRICS {
            let index = build(metric, &rows);
            let recall = recall(metric, &rows, &index, &queries, &SearchParams::new(10), None);
            assert!(recall >= 0.95, "{metric:?} {dim} × {scale} + {shift}: {recall}");
        }
    }
}

/// Rows far from all others, and rows that are no numbers, spoil nothing.
#[test]
fn i1_hnsw_finds_outliers_and_they_spoil_nothing() {
    let (rows, queries) = rows_and_queries(3000, 50, 32, 60);
    let rows = with_outliers(&rows);
    for metric in METRICS {
        let index = build(metric, &rows);
        let recall = recall(metric, &rows, &index, &queries, &SearchParams::new(10), None);
        assert!(recall >= 0.95, "{metric:?}: {recall}");
    }
}

#[test]
fn i1_hnsw_of_rows_that_are_all_alike_finds_as_many_as_are_wanted_and_the_others() {
    let others = clumped(300, 8, 10, 3);
    let mut data = vec![0.25; 8 * 2000];
    data.extend(others.as_slice());
    let rows = Rows::from_vec(8, data);
    for metric in METRICS {
        let index = build(metric, &rows);
        let hits = index.search(&rows, &[0.25; 8], &SearchParams::new(100), None);
        assert_eq!(hits.len(), 100, "{metric:?}");
        let params = SearchParams::new(1);
        let found = (2000..2300).filter(|row| {
            let query = rows.get(*row);
            index.search(&rows, query, &params, None)[0].score == exact(metric, &rows, query, 1, None)[0].score
        });
        assert!(found.count() >= 285, "{metric:?}");
    }
}

#[test]
fn i1_hnsw_has_the_rows_that_are_present() {
    let rows = clumped(1500, 4, 10, 3);
    let present: FixedBitSet = (0..1500).filter(|row| row % 3 != 0).collect();
    let index = Hnsw::build(METRICS[1], &rows, Some(&present), HnswParams::default());
    for row in (0..1500).step_by(30) {
        let hits = index.search(&rows, rows.get(row), &SearchParams::new(10), None);
        assert!(hits.len() == 10 && hits.iter().all(|hit| hit.row % 3 != 0));
        let params = SearchParams {
            exact: true,
            ..SearchParams::new(1)
        };
        assert_eq!(
            rows_of(&index.search(&rows, rows.get(row), &params, None)),
            [row as u32]
        );
    }
}

#[test]
fn i1_hnsw_is_the_same_for_the_same_rows_and_larger_with_more_neighbours() {
    let rows = clumped(2000, 8, 20, 3);
    let [small, again, large] = [8, 8, 24].map(|m| {
        let params = HnswParams { m, ef_construct: 60 };
        Hnsw::build(METRICS[0], &rows, None, params)
    });
    assert_eq!(small.encode(), again.encode());
    assert!(large.memory_bytes() > small.memory_bytes());
    assert!(large.describe().contains("24 neighbours"), "{}", large.describe());
}

#[test]
fn i1_hnsw_answers_exactly_where_it_cannot_help() {
    let mut data = clumped(500, 4, 10, 3).as_slice().to_vec();
    data[0] = f32::NAN;
    data[41] = f32::INFINITY;
    data[82..84].fill(f32::MAX);
    let (rows, other) = (Rows::from_vec(4, data), clumped(300, 4, 10, 5));
    for metric in METRICS {
        let index = build(metric, &rows);
        for query in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::MAX; 4], [0.0; 4]] {
            let all = exact(metric, &rows, &query, 600, None);
            assert_eq!(index.search(&rows, &query, &SearchParams::new(600), None), all);
            let few = index.search(&rows, &query, &SearchParams::new(5), None);
            assert!(few.iter().all(|hit| all.contains(hit)), "{metric:?} {query:?}: {few:?}");
        }
        let of_other = index.search(&other, other.get(7), &SearchParams::new(9), None);
        assert_eq!(of_other, exact(metric, &other, other.get(7), 9, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn i1_hnsw_hits_are_allowed_rows_with_their_true_scores_in_order(
        values in prop::collection::vec((-4i8..4).prop_map(f32::from), 1..900), dim in 1usize..6, query in prop::array::uniform6(-4i8..4),
        bits in prop::collection::vec(any::<bool>(), 0..900), with_set: bool, k in 0usize..40, effort in 0f32..3.0,
        m in 0usize..12, ef_construct in 0usize..40,
    ) {
        let rows = Rows::from_vec(dim, values[..values.len() / dim * dim].to_vec());
        let query = &query.map(f32::from)[..dim];
        let set: FixedBitSet = bits.iter().enumerate().filter(|(_, on)| **on).map(|(bit, _)| bit).collect();
        let allowed = with_set.then_some(&set);
        for metric in METRICS {
            let index = Hnsw::build(metric, &rows, None, HnswParams { m, ef_construct });
            let truth = exact(metric, &rows, query, k, allowed);
            let found = index.search(&rows, query, &SearchParams { k, effort, exact: false }, allowed);
            prop_assert_eq!(found.len(), truth.len(), "as many as there are");
            let all = exact(metric, &rows, query, usize::MAX, allowed);
            // A subsequence of the whole sorted list: right rows, scores, order and ties.
            let mut rest = all.iter();
            prop_assert!(found.iter().all(|hit| rest.any(|other| other == hit)));
            let params = SearchParams { k, effort, exact: true };
            prop_assert_eq!(&index.search(&rows, query, &params, allowed), &truth);
        }
    }
}

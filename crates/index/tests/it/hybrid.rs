//! The hybrid index: a graph over centroids, short lists below. `search.rs` asks it for all that it asks of plain lists.

use fixedbitset::FixedBitSet;
use proximadb_index::kmeans::Clusters;
use proximadb_index::{IndexKind, Ivf, Metric, Rows, SearchParams, SearchStats, VectorIndex, kmeans};

use crate::{METRICS, Numbers, recall, rows_and_queries};

fn clusters(metric: Metric, rows: &Rows) -> Clusters {
    kmeans::train(metric, rows, kmeans::cluster_count(rows.len()), 10, 1)
}

fn build(metric: Metric, rows: &Rows) -> Ivf {
    Ivf::hybrid(metric, rows, &clusters(metric, rows))
}

fn searched(rows: &Rows, index: &Ivf, queries: &Rows, allowed: Option<&FixedBitSet>) -> SearchStats {
    let mut stats = SearchStats::default();
    for query in 0..queries.len() {
        index.search_counted(rows, queries.get(query), &SearchParams::new(10), allowed, &mut stats);
    }
    stats
}

#[test]
fn i3_a_hybrid_names_both_parts_and_looks_at_few_of_either() {
    let (rows, queries) = rows_and_queries(20_000, 50, 16, 200);
    for metric in METRICS {
        let index = build(metric, &rows);
        assert_eq!(index.kind(), IndexKind::Hybrid);
        let lists = index.lists();
        assert!((20_000 / 128..=20_000 / 32).contains(&lists), "{lists} lists");
        let parts = [format!("over {lists} centroids"), format!("{lists} lists")];
        assert!(
            parts.iter().all(|part| index.describe().contains(part)),
            "{}",
            index.describe()
        );
        let stats = searched(&rows, &index, &queries, None);
        assert!(
            stats.means > 0 && stats.means < queries.len() * lists,
            "{metric:?}: {stats:?}"
        );
        assert!(
            stats.lists >= queries.len() && stats.lists < stats.means,
            "{metric:?}: {stats:?}"
        );
        assert!(stats.codes < queries.len() * rows.len() / 4, "{metric:?}: {stats:?}");
        let recall = recall(metric, &rows, &index, &queries, &SearchParams::new(10), None);
        assert!(recall >= 0.95, "{metric:?}: {recall}");
    }
}

#[test]
fn i3_a_hybrid_finds_what_it_promises_in_any_number_of_dimensions() {
    for dim in [2, 100, 384] {
        let (rows, queries) = rows_and_queries(3000, 50, dim, 60);
        for metric in METRICS {
            let recall = recall(
                metric,
                &rows,
                &build(metric, &rows),
                &queries,
                &SearchParams::new(10),
                None,
            );
            assert!(recall >= 0.95, "{metric:?} {dim}: {recall}");
        }
    }
}

#[test]
fn i3_a_hybrid_finds_what_it_promises_under_filters_and_after_deletions() {
    let (rows, queries) = rows_and_queries(8000, 50, 24, 60);
    for metric in METRICS {
        let index = build(metric, &rows);
        for selectivity in [0.7, 0.3, 0.1, 0.02] {
            let mut numbers = Numbers(9);
            let allowed = (0..rows.len())
                .filter(|_| numbers.next() < 2.0 * selectivity - 1.0)
                .collect();
            let recall = recall(metric, &rows, &index, &queries, &SearchParams::new(10), Some(&allowed));
            assert!(recall >= 0.95, "{metric:?} {selectivity}: {recall}");
        }
        // Whole clumps are gone, and most queries are where nothing is left: as well as plain lists.
        let left: FixedBitSet = (0..rows.len()).filter(|row| row * 7 % 60 < 20).collect();
        let lists = Ivf::build(metric, &rows, &clusters(metric, &rows));
        let of = |index: &Ivf| recall(metric, &rows, index, &queries, &SearchParams::new(10), Some(&left));
        assert!(
            of(&index) >= of(&lists) - 0.03,
            "{metric:?}: {} {}",
            of(&index),
            of(&lists)
        );
    }
}

#[test]
fn i3_a_hybrid_finds_more_with_more_effort() {
    let (rows, queries) = rows_and_queries(6000, 100, 24, 60);
    for metric in METRICS {
        let index = build(metric, &rows);
        let recalls = [0.1, 1.0, 2.0].map(|effort| {
            let params = SearchParams {
                effort,
                ..SearchParams::new(10)
            };
            recall(metric, &rows, &index, &queries, &params, None)
        });
        assert!(
            recalls.is_sorted() && recalls[0] < recalls[2] && recalls[2] >= 0.98,
            "{metric:?}: {recalls:?}"
        );
    }
}

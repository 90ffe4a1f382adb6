#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::engine::cluster::sort_by_cluster;
use crate::engine::samples::{contents, data, description, point};
use crate::point::Point;

#[test]
fn rows_come_out_as_they_went_in() {
    let description = description(3);
    let rows = data(&description, 1..50, &[(900, 50), (800, 51)]);
    let (points, tombstones) = contents(&rows);
    assert_eq!(
        points,
        (1..50).map(|number| (number, point(number, 3))).collect::<Vec<_>>()
    );
    assert_eq!(tombstones, [(PointId::Num(800), 51), (PointId::Num(900), 50)]);
    assert_eq!(rows.seq_range(), Some((1, 51)));
    assert_eq!(rows.payloads.raw(2), "{}");
    assert_eq!(rows.vector("title", 3), None);
    assert_eq!(rows.vector("unknown", 3), None);
}

#[test]
fn a_vector_of_another_dimension_or_space_is_refused_and_nothing_is_added() {
    let mut builder = SegmentBuilder::new(&description(3).schema);
    builder.push(1, &point(1, 4)).unwrap_err();
    let mut other = point(1, 3);
    other.vectors.insert("unknown".to_owned(), vec![1.0]);
    builder.push(1, &other).unwrap_err();
    assert!(builder.build().is_empty());
}

#[test]
fn sorting_by_cluster_permutes_rows_and_puts_those_without_a_vector_last() {
    let description = description(3);
    let rows = data(&description, 1..400, &[(900, 500)]);
    let (sorted, order) = sort_by_cluster(&description.schema, &rows);
    let (before, after) = (contents(&rows), contents(&sorted));
    assert_eq!(before.1, after.1);
    for (new, old) in order.iter().enumerate() {
        assert_eq!(after.0[new], before.0[*old as usize]);
    }
    let mut all = order.clone();
    all.sort_unstable();
    assert_eq!(all, (0..399).collect::<Vec<u32>>());
    let offsets = sorted.clustering.clone().unwrap().offsets;
    let present = (1..400u64).filter(|number| number % 7 != 6).count();
    assert!(offsets.len() > 4 && offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    assert_eq!((offsets[0], offsets[offsets.len() - 1] as usize), (0, present));
    for cluster in offsets.windows(2) {
        let groups = (cluster[0]..cluster[1]).map(|row| sorted.vector("", row as usize).unwrap()[0] as u32 / 100);
        assert_eq!(
            groups.collect::<std::collections::HashSet<_>>().len(),
            1,
            "similar rows share a cluster"
        );
    }
    let clusters = sorted.clusters("").unwrap();
    assert_eq!(clusters.offsets(), offsets);
    assert!(sorted.clusters("title").is_none());
}

#[test]
fn rows_without_any_vector_are_not_clustered() {
    let description = description(3);
    let mut builder = SegmentBuilder::new(&description.schema);
    builder
        .push(
            1,
            &Point {
                vectors: NamedVectors::default(),
                ..point(1, 3)
            },
        )
        .unwrap();
    let (sorted, order) = sort_by_cluster(&description.schema, &builder.build());
    assert_eq!((sorted.len(), order, sorted.clustering), (1, vec![0], None));
}

#[test]
fn g5_a_large_flush_splits_into_ranges_of_sequence_numbers() {
    let description = description(30);
    let mut numbers: Vec<u64> = (1..300).collect();
    numbers.reverse();
    let rows = data(&description, numbers, &[(10_000, 300), (10_001, 301)]);
    let before = contents(&rows);
    let limit = rows.bytes() / 4;
    let pieces = rows.split(limit);
    assert!((4..8).contains(&pieces.len()), "{}", pieces.len());
    let mut last = 0;
    let (mut points, mut tombstones) = (Vec::new(), Vec::new());
    for (piece, order) in &pieces {
        assert!(piece.bytes() <= limit);
        assert!(
            order
                .iter()
                .zip(&piece.seqs)
                .all(|(old, seq)| 299 - u64::from(*old) == *seq)
        );
        let (min, max) = piece.seq_range().unwrap();
        assert!(min > last);
        last = max;
        let contents = contents(piece);
        points.extend(contents.0);
        tombstones.extend(contents.1);
    }
    points.reverse();
    tombstones.sort_unstable();
    assert_eq!((points, tombstones), before);
}

#[test]
fn a_row_larger_than_the_limit_is_a_piece_of_its_own() {
    let description = description(3);
    assert_eq!(data(&description, 1..4, &[]).split(1).len(), 3);
    assert_eq!(data(&description, 1..4, &[]).split(1 << 20).len(), 1);
}

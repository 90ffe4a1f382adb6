#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::engine::samples::{contents, data, description, point};
use crate::root::RootId;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const SEGMENT: u64 = 512 * MIB;

fn candidate(number: u64, bytes: u64, dead_percent: u64) -> Candidate {
    let meta = SegmentMeta {
        copy: None,
        id: SegmentId(Uuid::from_u128(u128::from(number))),
        root_id: RootId(Uuid::nil()),
        rows: 1000,
        tombstones: 0,
        min_seq: number,
        max_seq: number,
        bytes: bytes / 10,
        data_bytes: bytes,
        crc32: 0,
        replaces: Vec::new(),
    };
    Candidate {
        meta,
        live_rows: 1000 - dead_percent * 10,
    }
}

fn numbers(ids: Option<Vec<SegmentId>>) -> Option<Vec<u64>> {
    ids.map(|ids| ids.iter().map(|id| id.0.as_u128() as u64).collect())
}

fn check(candidates: &[(u64, u64, u64)], expected: Option<&[u64]>) {
    let candidates: Vec<Candidate> = candidates
        .iter()
        .map(|(number, bytes, dead)| candidate(*number, *bytes, *dead))
        .collect();
    assert_eq!(numbers(choose(&candidates, SEGMENT)), expected.map(<[u64]>::to_vec));
}

#[test]
fn g5_eight_small_segments_are_merged_the_oldest_first() {
    check(&[], None);
    let seven: Vec<_> = (1..8).map(|number| (number, 1000, 0)).collect();
    check(&seven, None);
    let nine: Vec<_> = (1..10).rev().map(|number| (number, 1000, 0)).collect();
    check(&nine, Some(&[1, 2, 3, 4, 5, 6, 7, 8]));
}

#[test]
fn c6_segments_of_different_roots_are_not_mixed() {
    let on = |number: u64, root: u128| {
        let mut candidate = candidate(number, 1000, 0);
        candidate.meta.root_id = RootId(Uuid::from_u128(root));
        candidate
    };
    let mut striped: Vec<Candidate> = (1..29).map(|number| on(number, u128::from(number % 4))).collect();
    assert_eq!(choose(&striped, SEGMENT), None, "seven on each root");
    striped.push(on(32, 0));
    let of_first = [4, 8, 12, 16, 20, 24, 28, 32];
    assert_eq!(numbers(choose(&striped, SEGMENT)), Some(of_first.to_vec()));
}

#[test]
fn g5_segments_of_different_tiers_are_not_mixed() {
    let mixed: Vec<_> = (1..5)
        .map(|number| (number, MIB, 0))
        .chain((5..9).map(|number| (number, 20 * MIB, 0)))
        .collect();
    check(&mixed, None);
}

#[test]
fn g5_a_merge_stays_below_the_size_of_a_segment() {
    let large: Vec<_> = (1..10).map(|number| (number, 120 * MIB, 0)).collect();
    check(&large, Some(&[1, 2, 3, 4]));
    let full: Vec<_> = (1..20).map(|number| (number, 300 * MIB, 0)).collect();
    check(&full, None);
}

#[test]
fn g5_merging_goes_on_until_all_is_well_and_rewrites_a_row_few_times() {
    let mut candidates: Vec<Candidate> = Vec::new();
    let (mut next, mut written, mut flushed) = (0, 0, 0);
    for _ in 0..2000 {
        next += 1;
        flushed += MIB;
        candidates.push(candidate(next, MIB, 0));
        while let Some(inputs) = choose(&candidates, SEGMENT) {
            let (merged, rest): (Vec<_>, Vec<_>) = candidates
                .into_iter()
                .partition(|candidate| inputs.contains(&candidate.meta.id));
            let bytes = merged.iter().map(|candidate| candidate.meta.data_bytes).sum();
            assert!(bytes <= SEGMENT && merged.len() > 1);
            written += bytes;
            next += 1;
            candidates = rest;
            candidates.push(candidate(next, bytes, 0));
        }
    }
    assert!(candidates.len() < 40, "{} segments", candidates.len());
    assert!(written < 4 * flushed, "{written} bytes rewritten for {flushed}");
}

#[test]
fn a_segment_with_many_dead_rows_is_rewritten_alone() {
    check(&[(1, 300 * MIB, 30), (2, 300 * MIB, 5)], None);
    check(&[(1, 300 * MIB, 31), (2, 300 * MIB, 40)], Some(&[2]));
}

#[test]
fn an_explicit_compaction_takes_all_that_it_can_improve_and_nothing_twice() {
    let all = |candidates: &[Candidate]| -> Vec<Vec<u64>> {
        let merges = choose_all(candidates, SEGMENT, SEGMENT);
        merges.into_iter().filter_map(|merge| numbers(Some(merge))).collect()
    };
    let none: [Vec<u64>; 0] = [];
    assert_eq!(all(&[]), none);
    assert_eq!(all(&[candidate(1, MIB, 0)]), none);
    assert_eq!(all(&[candidate(1, MIB, 1)]), [vec![1]]);
    assert_eq!(
        all(&[candidate(1, MIB, 0), candidate(2, 500 * MIB, 0), candidate(3, MIB, 0)]),
        [vec![1, 3]]
    );
    let mut deletions = candidate(1, MIB, 0);
    deletions.meta.tombstones = 1;
    assert_eq!(all(&[deletions]), [vec![1]]);
    let many = [4, 1, 3, 2, 5].map(|number| candidate(number, 200 * MIB, 0));
    assert_eq!(
        all(&many),
        [vec![1, 2], vec![3, 4]],
        "no merge is larger than asked for"
    );
    assert_eq!(all(&[candidate(1, 900 * MIB, 1), candidate(2, MIB, 0)]), [vec![1]]);
}

#[test]
fn a_tombstone_is_needed_only_while_an_older_segment_has_dead_rows() {
    let candidates = [
        candidate(5, MIB, 0),
        candidate(7, MIB, 10),
        candidate(9, MIB, 10),
        candidate(11, MIB, 0),
    ];
    let id = |at: usize| candidates[at].meta.id;
    assert_eq!(oldest_dead_outside(&candidates, &[id(3)]), Some(7));
    assert_eq!(oldest_dead_outside(&candidates, &[id(3), id(1)]), Some(9));
    assert_eq!(oldest_dead_outside(&candidates, &[id(1), id(2)]), None);
}

fn live(rows: &[usize], of: usize) -> FixedBitSet {
    let mut live = FixedBitSet::with_capacity(of);
    rows.iter().for_each(|row| live.insert(*row));
    live
}

#[test]
fn g8_a_merge_holds_the_live_rows_and_the_tombstones_still_needed() {
    let description = description(3);
    // Point 2 was rewritten (its older row is dead), point 4 deleted at 30, and 1000 and 1001 deleted at 8 and 40.
    let older = Arc::new(data(&description, 1..6, &[(1000, 8), (1001, 9)]));
    let newer = Arc::new(data(&description, [20, 22], &[(4, 30), (1001, 40)]));
    let inputs = [(older, live(&[0, 2, 4], 5)), (newer, live(&[0, 1], 2))];
    let check = |oldest_dead_outside: Option<Seq>, expected: &[(u64, Seq)]| {
        let merged = merge(&description.schema, &inputs, oldest_dead_outside).unwrap();
        let (points, tombstones) = contents(&merged);
        assert_eq!(points, [1, 3, 5, 20, 22].map(|number| (number, point(number, 3))));
        assert_eq!(
            tombstones,
            expected
                .iter()
                .map(|(id, seq)| (PointId::Num(*id), *seq))
                .collect::<Vec<_>>()
        );
    };
    check(None, &[]);
    check(Some(1), &[(4, 30), (1000, 8), (1001, 40)]);
    check(Some(8), &[(4, 30), (1001, 40)]);
    check(Some(30), &[(1001, 40)]);
}

#[test]
fn a_tombstone_that_a_newer_live_row_hides_is_dropped() {
    let description = description(3);
    let again = Arc::new(data(&description, [20], &[(20, 10)]));
    let merged = merge(&description.schema, &[(again, live(&[0], 1))], Some(1)).unwrap();
    assert_eq!((merged.len(), merged.tombstones), (1, vec![]));
}

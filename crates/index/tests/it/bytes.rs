//! Encoded indexes: read back the same, or refused.

use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use proptest::prelude::*;
use proximadb_index::{
    Chosen, Flat, Hnsw, HnswParams, IndexError, IndexKind, Metric, Presence, Rows, SearchParams, SearchStats,
    VectorIndex, decode, decode_partial,
};

use crate::{METRICS, build_all, clumped};

static SAMPLES: LazyLock<Vec<(Rows, Box<dyn VectorIndex>)>> = LazyLock::new(|| {
    let rows = clumped(200, 3, 9, 3);
    let empty = Rows::from_vec(3, Vec::new());
    let mut all: Vec<(Rows, Box<dyn VectorIndex>)> = vec![(rows.clone(), Box::new(Flat::build(Metric::Dot, &rows)))];
    for metric in METRICS {
        for rows in [&rows, &empty] {
            all.extend(
                build_all(metric, rows, 12).map(|(rows, index)| (rows, Box::new(index) as Box<dyn VectorIndex>)),
            );
            let graph = Hnsw::build(metric, rows, None, HnswParams::default());
            all.push((rows.clone(), Box::new(graph)));
        }
    }
    all
});

#[test]
fn i1_a_decoded_index_answers_as_the_original() {
    for (rows, index) in SAMPLES.iter() {
        let bytes = Bytes::from(index.encode());
        let read = decode(&bytes).unwrap();
        assert_eq!(
            (read.kind(), read.shape(), read.memory_bytes()),
            (index.kind(), (rows.len(), 3), index.memory_bytes())
        );
        assert_eq!(read.encode(), bytes);
        for query in clumped(20, 3, 9, 8).as_slice().chunks_exact(3) {
            let params = SearchParams::new(5);
            assert_eq!(
                read.search(rows, query, &params, None),
                index.search(rows, query, &params, None)
            );
        }
    }
}

/// A file of which only some bytes were read.
#[derive(Debug)]
struct InParts {
    bytes: Bytes,
    read: Mutex<Vec<Range<u64>>>,
}

impl Presence for InParts {
    fn absent(&self, part: &[u8]) -> Option<Range<u64>> {
        let start = (part.as_ptr().addr() - self.bytes.as_ptr().addr()) as u64;
        let part = start..start + part.len() as u64;
        let read = self.read.lock().unwrap();
        (!part.is_empty() && !read.contains(&part)).then_some(part)
    }
}

/// What is absent is zeros here, so that an answer made of it would be another one.
#[test]
fn issue5_an_index_read_in_parts_asks_for_what_it_needs_and_chooses_as_the_whole() {
    let rows = clumped(9_000, 24, 60, 5);
    let some: FixedBitSet = (0..9_000).filter(|row| row % 3 != 0).collect();
    for metric in METRICS {
        for (rows, index) in build_all(metric, &rows, 64).into_iter().take(2) {
            let whole = index.encode();
            let head = index.head_bytes().unwrap();
            for (k, allowed) in [(5, None), (60, None), (5, Some(&some))] {
                let params = SearchParams::new(k);
                let query = rows.get(77);
                let expected = index.choose(query, &params, allowed, &mut SearchStats::default());
                let mut bytes = whole.clone();
                bytes[head..].fill(0);
                let (mut read, mut rounds) = (Vec::new(), 0);
                let chosen = loop {
                    let file = InParts {
                        bytes: bytes.clone().into(),
                        read: Mutex::new(read.clone()),
                    };
                    let bytes_now = file.bytes.clone();
                    let part = decode_partial(&bytes_now, Arc::new(file)).unwrap();
                    match part.choose(query, &params, allowed, &mut SearchStats::default()) {
                        Chosen::Absent(ranges) => {
                            for range in &ranges {
                                let range = range.start as usize..range.end as usize;
                                bytes[range.clone()].copy_from_slice(&whole[range]);
                            }
                            read.extend(ranges);
                            rounds += 1;
                        }
                        chosen => break chosen,
                    }
                };
                assert_eq!(chosen, expected, "{metric:?} {k}");
                assert!((1..=3).contains(&rounds), "{metric:?} {k}: {rounds} rounds");
            }
        }
    }
    let (rows, _) = &build_all(Metric::Dot, &rows, 64)[0];
    let graph = Hnsw::build(Metric::Dot, rows, None, HnswParams::default());
    assert_eq!(graph.head_bytes(), None);
    let bytes = Bytes::from(graph.encode());
    let read = Mutex::default();
    let file = InParts {
        bytes: bytes.clone(),
        read,
    };
    assert!(decode_partial(&bytes, Arc::new(file)).is_err());
}

#[test]
fn i1_more_hits_than_rows_are_all_rows() {
    for (rows, index) in SAMPLES.iter() {
        let query = [1.0, 2.0, 3.0];
        for k in [201, usize::MAX / 4 + 2, usize::MAX] {
            assert_eq!(
                index.search(rows, &query, &SearchParams::new(k), None).len(),
                rows.len(),
                "{k}"
            );
        }
    }
}

#[test]
fn i1_bytes_cut_anywhere_are_refused() {
    for (_, index) in SAMPLES.iter() {
        let bytes = index.encode();
        let bytes = Bytes::from(bytes);
        assert!(
            (0..bytes.len())
                .step_by(7)
                .all(|len| decode(&bytes.slice(..len)).is_err())
        );
    }
}

#[test]
fn the_reason_for_a_refusal_is_told() {
    let bytes = Flat::build(Metric::Dot, &clumped(4, 3, 2, 1)).encode();
    assert_eq!(
        decode(&Bytes::from_static(b"PAR1 and more of it")).err(),
        Some(IndexError::NotAnIndex)
    );
    let mut newer = bytes.clone();
    newer[8] = 3;
    assert_eq!(decode(&newer.into()).err(), Some(IndexError::Version(3)));
    let mut changed = bytes.clone();
    changed[13] ^= 1;
    assert_eq!(decode(&changed.into()).err(), Some(IndexError::Damaged("checksum")));
    assert_eq!(decode(&bytes.into()).unwrap().kind(), IndexKind::Flat);
}

#[test]
fn i1_codes_of_places_without_a_row_are_never_hits() {
    for (rows, index) in SAMPLES
        .iter()
        .filter(|(rows, index)| !rows.is_empty() && index.kind() == IndexKind::Ivf)
    {
        let mut bytes = index.encode();
        let (head, end) = (index.head_bytes().unwrap(), bytes.len() - 4);
        let members = u32::from_le_bytes(*bytes[24..].first_chunk().unwrap()) as usize;
        // Dimension 3 has byte codes of 16 coordinates and two factors.
        let blocks = head..end - members * (16 + 8);
        for factor in bytes[blocks].chunks_exact_mut(4) {
            factor.copy_from_slice(&1f32.to_le_bytes());
        }
        let index = decode(&with_checksum(bytes).into()).unwrap();
        for query in clumped(20, 3, 9, 8).as_slice().chunks_exact(3) {
            assert_eq!(index.search(rows, query, &SearchParams::new(49), None).len(), 49);
        }
    }
}

/// Sets the checksum right, so that the damage reaches the code behind it.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len().saturating_sub(4);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes[..end]) as u32;
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn i1_a_flipped_bit_is_refused(which in 0usize..25, at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = SAMPLES[which].1.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes.into()).is_err());
    }

    #[test]
    fn i1_a_forged_file_is_refused_or_searches_without_panic(
        which in 0usize..25, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..4), small: bool, cut in 0usize..40, cuts: bool,
    ) {
        let mut bytes = SAMPLES[which].1.encode();
        let kept = bytes.len().saturating_sub(if cuts { cut } else { 0 });
        bytes.truncate(kept.max(24));
        for (at, value) in changes {
            let at = 8 + at.index(bytes.len() - 12) / 4 * 4;
            let value = if small { value % 500 } else { value };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        if let Ok(index) = decode(&with_checksum(bytes).into()) {
            let rows = clumped(200, 3, 9, 3);
            for k in [3, 30, 1000] {
                prop_assert!(index.search(&rows, rows.get(0), &SearchParams::new(k), None).len() <= k);
                prop_assert!(index.search(&rows, rows.get(0), &SearchParams::new(k), Some(&(0..150).collect())).len() <= k);
            }
        }
    }
}

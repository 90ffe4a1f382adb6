//! Encoded indexes: read back the same, or refused.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use proximadb_index::{Flat, Hnsw, HnswParams, IndexError, IndexKind, Metric, Rows, SearchParams, VectorIndex, decode};

use crate::{METRICS, build_both, clumped};

static SAMPLES: LazyLock<Vec<(Rows, Box<dyn VectorIndex>)>> = LazyLock::new(|| {
    let rows = clumped(200, 3, 9, 3);
    let empty = Rows::from_vec(3, Vec::new());
    let mut all: Vec<(Rows, Box<dyn VectorIndex>)> = vec![(rows.clone(), Box::new(Flat::build(Metric::Dot, &rows)))];
    for metric in METRICS {
        for rows in [&rows, &empty] {
            all.extend(
                build_both(metric, rows, 12).map(|(rows, index)| (rows, Box::new(index) as Box<dyn VectorIndex>)),
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

/// Sets the checksum right, so that the damage reaches the code behind it.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len().saturating_sub(4);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes[..end]) as u32;
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn i1_a_flipped_bit_is_refused(which in 0usize..19, at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = SAMPLES[which].1.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes.into()).is_err());
    }

    #[test]
    fn i1_a_forged_file_is_refused_or_searches_without_panic(
        which in 0usize..19, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..4), small: bool, cut in 0usize..40, cuts: bool,
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

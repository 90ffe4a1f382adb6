//! Files of indexes (`.ivf`, `.hnsw`) and of rows (`.idx`), raw and with right checksums. What loads is searched and looked at.
#![no_main]

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use libfuzzer_sys::fuzz_target;
use proximadb_db::axis::{self, fuzzing};
use proximadb_fuzz::index::{SEGMENT, of_indexes, of_rows, sealed};
use proximadb_fuzz::{DIRECTORY, look, parts};
use proximadb_index::{Chosen, Presence, Rows, SearchParams, SearchStats, VectorIndex, decode, decode_partial};

/// Floats up to which rows are made up for an index.
const FLOATS_MAX: usize = 1 << 14;

fuzz_target!(|input: &[u8]| {
    let Some((kind, content)) = input.split_first() else {
        return;
    };
    let path = |extension: &str| format!("{DIRECTORY}/{SEGMENT}.{extension}");
    let extension = if kind & 1 == 0 { "ivf" } else { "hnsw" };
    let raw = Bytes::copy_from_slice(content);
    match kind >> 1 {
        0 => {
            let index = sealed(content);
            for index in [
                decode(&index),
                decode_partial(&index, Arc::new(Here(0))),
                decode_partial(&index, Arc::new(Here(1))),
            ] {
                index.iter().for_each(|index| search(index.as_ref()));
            }
        }
        1 => {
            let parts = parts(content);
            let file = of_indexes(parts[0], &parts[1..]);
            let _ = axis::check(&file, &path(extension), None);
            let indexes = fuzzing::indexes(&file, &path(extension)).unwrap_or_default();
            indexes.values().for_each(|index| search(index.as_ref()));
        }
        2 => {
            let parts = parts(content);
            let file = of_rows(parts[0], &parts[1..]);
            let _ = axis::check(&file, &path("idx"), None);
            fuzzing::rows(&file, &path("idx")).iter().for_each(look);
        }
        3 => {
            let _ = axis::check(&raw, &path(extension), None);
            let _ = axis::check(&raw, &path("idx"), None);
        }
        _ => {
            let _ = decode(&raw);
        }
    }
});

/// Has all bytes, or lacks those at every other place.
#[derive(Debug)]
struct Here(usize);

impl Presence for Here {
    fn absent(&self, part: &[u8]) -> Option<Range<u64>> {
        (part.len() / 16 % 2 < self.0).then_some(0..1)
    }
}

fn search(index: &dyn VectorIndex) {
    let (rows, dim) = index.shape();
    let _ = (index.describe(), index.memory_bytes(), index.head_bytes());
    let query: Vec<f32> = (0..dim).map(|at| (at % 7) as f32 - 3.0).collect();
    let some: FixedBitSet = (0..rows.min(FLOATS_MAX)).filter(|row| row % 3 != 1).collect();
    for allowed in [None, Some(&some), Some(&FixedBitSet::new())] {
        for (k, effort, exact) in [
            (1, 1.0, false),
            (20, 4.0, false),
            (5, 0.1, false),
            (usize::MAX / 4 + 2, 1.0, false),
            (3, 1.0, true),
        ] {
            let params = SearchParams { k, effort, exact };
            let chosen = index.choose(&query, &params, allowed, &mut SearchStats::default());
            if let Chosen::Rows(chosen) = chosen {
                assert!(chosen.iter().all(|row| (*row as usize) < rows), "a row that is none");
            }
        }
    }
    if rows.saturating_mul(dim) <= FLOATS_MAX {
        let rows = Rows::from_vec(dim, (0..rows * dim).map(|at| (at % 11) as f32).collect());
        index.search(&rows, &query, &SearchParams::new(10), Some(&some));
    }
    let again = decode(&index.encode().into()).map(|index| index.encode());
    assert_eq!(again, Ok(index.encode()), "what is read can be written and read again");
}

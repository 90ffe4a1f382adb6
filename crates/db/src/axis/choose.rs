//! Which index a vector space of a segment gets, and why.

use std::collections::BTreeSet;

use proximadb_index::{IndexKind, bits_per_coordinate};

use super::SegmentIndexes;
use crate::engine::segment::SegmentData;
use crate::schema::{IndexChoice, Schema};

/// Segments with fewer rows are scanned: that is as fast as probing an index, and exact.
pub(super) const ROWS_MIN: usize = 2_048;

/// The kind of index for so many rows of a dimension, given what the collection asks for, and the reason for people.
///
/// Where the index lies and how much memory there is change nothing: lists are at the same time the fastest index of those measured from
/// [`ROWS_MIN`] rows to 3,000,000 (docs/benchmarks.md), the smallest, and the one that is read in few long ranges.
pub(super) fn choose(asked: IndexChoice, rows: usize, dim: usize) -> (IndexKind, String) {
    let chosen = |kind: IndexKind| (kind, format!("metadata.proximadb.index = \"{}\"", kind.name()));
    match asked {
        IndexChoice::Flat => chosen(IndexKind::Flat),
        _ if rows < ROWS_MIN => {
            let reason = format!("fewer than {ROWS_MIN} rows are compared exactly as fast as through an index");
            (IndexKind::Flat, reason)
        }
        IndexChoice::Ivf => chosen(IndexKind::Ivf),
        IndexChoice::Hnsw => chosen(IndexKind::Hnsw),
        IndexChoice::Hybrid => chosen(IndexKind::Hybrid),
        IndexChoice::Auto => {
            let bits = bits_per_coordinate(dim);
            let reason = format!(
                "automatic: ivf for {rows} rows of {dim} dimensions, because lists are the fastest and smallest index measured at every size from \
                 {ROWS_MIN} rows on, in memory and in few ranges of a file; codes of {bits} bit{} a coordinate are precise enough for so many \
                 dimensions",
                if bits == 1 { "" } else { "s" },
            );
            (IndexKind::Ivf, reason)
        }
    }
}

/// Why a segment has the indexes that it has, or none.
pub fn reason(data: &SegmentData, indexes: &SegmentIndexes, schema: &Schema) -> String {
    let reasons = data.vectors.iter().map(|(space, column)| {
        let (kind, reason) = choose(schema.index(), column.rows.len(), column.rows.dim());
        match indexes.get(space).map(|index| index.kind()) {
            Some(other) if other != kind => format!("{reason}; built as {} before the choice changed", other.name()),
            _ => reason,
        }
    });
    let reasons: BTreeSet<String> = reasons.collect();
    reasons.into_iter().collect::<Vec<String>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_the_choice_follows_size_and_dimension_and_says_why() {
        let auto = IndexChoice::Auto;
        let cases = [
            (auto, 2_047, 384, IndexKind::Flat, "fewer than 2048 rows"),
            (
                auto,
                2_048,
                1_536,
                IndexKind::Ivf,
                "ivf for 2048 rows of 1536 dimensions",
            ),
            (auto, 40_000, 384, IndexKind::Ivf, "codes of 1 bit "),
            (auto, 40_000, 128, IndexKind::Ivf, "codes of 2 bits "),
            (auto, 3_000_000, 32, IndexKind::Ivf, "codes of 4 bits "),
            (IndexChoice::Hnsw, 40_000, 384, IndexKind::Hnsw, "index = \"hnsw\""),
            (
                IndexChoice::Hybrid,
                40_000,
                384,
                IndexKind::Hybrid,
                "index = \"hybrid\"",
            ),
            (IndexChoice::Ivf, 9_000_000, 384, IndexKind::Ivf, "index = \"ivf\""),
            (IndexChoice::Ivf, 100, 384, IndexKind::Flat, "fewer than 2048 rows"),
            (IndexChoice::Flat, 40_000, 384, IndexKind::Flat, "index = \"flat\""),
        ];
        for (asked, rows, dim, kind, part) in cases {
            let (chosen, reason) = choose(asked, rows, dim);
            assert_eq!(chosen, kind, "{asked:?} {rows} {dim}");
            assert!(reason.contains(part), "{asked:?} {rows} {dim}: {reason}");
        }
    }
}

//! What the targets share: files made of content that the fuzzer chooses, with the lengths and checksums that belong to it. Of bytes that
//! are only changed here and there nothing comes past the checksum.

pub mod index;
pub mod log;

use crc_fast::{CrcAlgorithm, checksum};
use fixedbitset::FixedBitSet;
use proximadb_db::engine::segment::SegmentData;

/// The directory of a shard in a root.
pub const DIRECTORY: &str = "0198c5b1-0000-7000-8000-000000000001/000";

/// Stands between the parts of an input.
const SEPARATOR: &[u8] = b"\n%%\n";

/// The parts of an input.
pub fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(at) = input.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        parts.push(&input[..at]);
        input = &input[at + SEPARATOR.len()..];
    }
    parts.push(input);
    parts
}

/// The checksum of every file.
pub fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// A record of metadata or a manifest.
pub fn sealed_json(record: &[u8]) -> Vec<u8> {
    let head = format!(r#"{{"crc32":{},"record":"#, crc32(record));
    [head.as_bytes(), record, b"}"].concat()
}

/// What is done with the rows of a segment.
pub fn look(data: &SegmentData) {
    for row in 0..data.len() {
        let _ = (data.named_vectors(row), data.payloads.get(row), data.row_bytes(row));
    }
    for (space, column) in &data.vectors {
        let present = column.present.iter().flat_map(FixedBitSet::ones);
        assert!(present.into_iter().all(|row| row < data.len()), "a row that is none");
        let _ = data.clusters(space);
    }
    let _ = (data.seq_range(), data.bytes());
    let _ = data.clone().split(1000);
}

//! What the targets share: files made of content that the fuzzer chooses, with the lengths and checksums that belong to it. Of bytes that
//! are only changed here and there nothing comes past the checksum.

pub mod index;
pub mod log;

use crc_fast::{CrcAlgorithm, checksum};

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

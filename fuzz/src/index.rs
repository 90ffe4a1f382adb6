//! Index files.

use bytes::Bytes;
use proximadb_store::blocks;
use serde_json::Value;

use crate::crc32;

/// What the seeds and paths call the segment of an index file.
pub const SEGMENT: &str = "0198c5b1-0000-7000-8000-000000000002";
/// Parts of an index file begin at multiples of it, if they are rows.
const ALIGNMENT: usize = 64;

/// The bytes of an index without its checksum, with it.
pub fn sealed(index: &[u8]) -> Bytes {
    [index, &crc32(index).to_le_bytes()].concat().into()
}

/// A file of indexes: the header as JSON, in which the lengths of the parts are put right, and the parts.
pub fn of_indexes(header: &[u8], parts: &[&[u8]]) -> Bytes {
    let parts: Vec<Bytes> = parts.iter().map(|part| sealed(part)).collect();
    blocks::encode(b"PXAXIS05", &with_lengths(header, &parts), parts)
        .concat()
        .into()
}

/// A file of rows, in the same way.
pub fn of_rows(header: &[u8], parts: &[&[u8]]) -> Bytes {
    let parts: Vec<Bytes> = parts.iter().map(|part| Bytes::copy_from_slice(part)).collect();
    let header = with_lengths(header, &parts);
    let mut body: Vec<u8> = Vec::new();
    for part in parts {
        body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
        body.extend(&part);
    }
    blocks::encode(b"PXROWS02", &header, vec![body.into()]).concat().into()
}

/// The header with the lengths of the parts, unless it is none.
fn with_lengths(header: &[u8], parts: &[Bytes]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(header) else {
        return header.to_vec();
    };
    let described = value.get_mut("parts").and_then(Value::as_array_mut);
    for (described, part) in described.into_iter().flatten().zip(parts) {
        if let Some(bytes) = described.get_mut("bytes") {
            *bytes = part.len().into();
        }
    }
    value.to_string().into_bytes()
}

//! What the fuzz targets read index files by.

use std::collections::BTreeMap;

use bytes::Bytes;
use proximadb_index::VectorIndex;

use super::{file, rows};
use crate::engine::segment::SegmentData;

/// The indexes of a file, by vector space.
///
/// # Errors
/// What is wrong with the file.
pub fn indexes(file: &Bytes, path: &str) -> Result<BTreeMap<String, Box<dyn VectorIndex>>, String> {
    file::decode(&file.clone().into(), path, None).map(|content| content.indexes)
}

/// The rows of a file.
///
/// # Errors
/// What is wrong with the file.
pub fn rows(file: &Bytes, path: &str) -> Result<SegmentData, String> {
    rows::decode(file, path, None)
}

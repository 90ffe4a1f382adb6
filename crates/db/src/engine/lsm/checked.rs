//! A checksum at the end of the small files: SlateDB checks the blocks of tables, and not its manifests, so a flipped
//! bit there could hide a table.
//!
//! ```text
//! SlateDB's bytes │ CRC-32 of them: u32 LE
//! ```

use std::io::{Error as IoError, ErrorKind};

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Error, GetResult, GetResultPayload, PutPayload, Result};

use crate::sealed::crc32;

/// Extensions of the files that end in a checksum.
const CHECKED: [&str; 2] = ["manifest", "compactions"];

/// Whether a file ends in a checksum.
pub(super) fn is_checked(location: &Path) -> bool {
    location
        .extension()
        .is_some_and(|extension| CHECKED.contains(&extension))
}

/// The bytes with their checksum.
pub(super) fn with_checksum(payload: PutPayload) -> PutPayload {
    let bytes = Bytes::from(payload);
    let checksum = crc32(&bytes).to_le_bytes();
    PutPayload::from_iter([bytes, Bytes::copy_from_slice(&checksum)])
}

/// The whole file without its checksum.
///
/// # Errors
/// When it does not match.
pub(super) async fn verified(location: &Path, mut found: GetResult) -> Result<GetResult> {
    let (attributes, extensions) = (found.attributes.clone(), std::mem::take(&mut found.extensions));
    let mut meta = found.meta.clone();
    let bytes = found.bytes().await?;
    let content = bytes.split_last_chunk().and_then(|(content, checksum)| {
        (crc32(content) == u32::from_le_bytes(*checksum)).then(|| bytes.slice_ref(content))
    });
    let content = content.ok_or_else(|| Error::Generic {
        store: "root",
        source: IoError::new(ErrorKind::InvalidData, format!("{location}: its checksum is wrong")).into(),
    })?;
    meta.size = content.len() as u64;
    Ok(GetResult {
        range: 0..meta.size,
        meta,
        payload: GetResultPayload::Stream(futures::stream::once(async { Ok(content) }).boxed()),
        attributes,
        extensions,
    })
}

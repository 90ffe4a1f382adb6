//! `_proximadb/capabilities.json`: what a bucket was found able to do before it was used for the first time.
//!
//! Written before the identity: a root with an identity was probed, so a later start asks nothing.

use std::time::Duration;

use bytes::Bytes;
use proximadb_store::{Capabilities, Filesystem};
use serde::{Deserialize, Serialize};

use super::RESERVED_DIRECTORY;
use super::identity::now_ms;
use super::open::within;
use crate::error::{Error, Result};

/// Where the record is, below the root.
pub(super) const PATH: &str = "_proximadb/capabilities.json";
/// The only version of the file so far.
const FORMAT_VERSION: u32 = 1;
/// A probe makes about twenty requests, most of them in turn.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format_version: u32,
    probed_at_ms: u64,
    capabilities: Capabilities,
}

/// Finds out what a root can do, for whoever asks; writes a few small files and deletes them.
///
/// # Errors
/// [`Error::RootUnavailable`] when it cannot be used at all, with what to do.
pub async fn probe_capabilities(fs: &Filesystem) -> Result<Capabilities> {
    let unavailable = |reason: String| Error::RootUnavailable {
        url: fs.url().as_str().to_owned(),
        reason,
    };
    let directory = format!("{RESERVED_DIRECTORY}/capabilities");
    let probed = within(DEADLINE, fs.probe_capabilities(&directory)).await;
    let probed = probed.map_err(unavailable)?;
    probed.map_err(|error| unavailable(error.detail().reason.clone()))
}

/// Refuses a bucket that does not keep what a root needs, and records what it can do. Disks are what they are.
pub(super) async fn require(fs: &Filesystem) -> std::result::Result<(), String> {
    if fs.is_local() {
        return Ok(());
    }
    let capabilities = probe_capabilities(fs).await.map_err(|error| match error {
        Error::RootUnavailable { reason, .. } => reason,
        other => other.to_string(),
    })?;
    if let Some(problem) = capabilities.problem() {
        return Err(problem);
    }
    for advice in capabilities.advice() {
        tracing::warn!(root = %fs.url(), advice, "a bucket is used for the first time");
    }
    let record = Record {
        format_version: FORMAT_VERSION,
        probed_at_ms: now_ms(),
        capabilities,
    };
    let bytes = serde_json::to_vec_pretty(&record).map_err(|error| error.to_string())?;
    let written = fs.write_atomic(PATH, Bytes::from(bytes)).await;
    written.map_err(|error| error.to_string())
}

/// Whether the bytes are such a record.
pub(super) fn check(bytes: &[u8]) -> std::result::Result<(), String> {
    let record = serde_json::from_slice::<Record>(bytes);
    record
        .map(|_| ())
        .map_err(|error| format!("{PATH} is damaged: {error}"))
}

#[cfg(test)]
mod tests;

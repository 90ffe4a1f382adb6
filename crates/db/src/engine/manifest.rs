//! The list of a shard's segments: immutable numbered files, one JSON object each.
//!
//! ```text
//! <collection id>/<shard>/manifest/00000000000000000007.json
//! {"format_version":1,"version":7,…,"checksum":"9a0c3f11"}
//! ```
//!
//! The checksum is the CRC-32 (hexadecimal) of all bytes before `,"checksum"`. Invariants: a version is created once
//! and never changed; the highest one is the truth, and must verify; what it names is durable before it. Owns no
//! segment files.

use std::sync::Arc;

use bytes::Bytes;
use proximadb_store::{Created, FileInfo};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::footer::{FormatError, SegmentFooter};
use crate::engine::segment::SegmentId;
use crate::error::{Error, Result};
use crate::point::Seq;
use crate::root::{Root, RootId};
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::{FORMAT_VERSION, seal, unseal};

/// Versions kept for a look at what happened; older ones are deleted.
pub const KEPT_VERSIONS: u64 = 4;
/// Directory of the manifests within that of the shard.
const DIRECTORY: &str = "manifest";

/// A segment of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMeta {
    /// The segment.
    pub id: SegmentId,
    /// The root that holds its file.
    pub root_id: RootId,
    /// Another root with a complete copy, while the segment moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<RootId>,
    /// Rows, dead ones included.
    pub rows: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// No row or tombstone has a smaller sequence number.
    pub min_seq: Seq,
    /// No row or tombstone has a larger one.
    pub max_seq: Seq,
    /// Size of the file.
    pub bytes: u64,
    /// Size of the rows and tombstones without compression, as
    /// [`SegmentData::bytes`](crate::engine::segment::SegmentData::bytes) has it: what limits a segment.
    pub data_bytes: u64,
    /// CRC-32 of the file.
    pub crc32: u32,
    /// The segments whose rows it took over, empty after a flush.
    pub replaces: Vec<SegmentId>,
}

/// What a shard consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format.
    pub format_version: u32,
    /// Number of this manifest, from 1.
    pub version: u64,
    /// Unique to whoever wrote it: tells our own commit from another's.
    pub nonce: Uuid,
    /// The collection when this was written.
    pub description: CollectionDescription,
    /// The shard, three digits.
    pub shard: String,
    /// Every operation up to this one is in the segments.
    pub flushed_seq: Seq,
    /// The segments, in no order that matters.
    pub segments: Vec<SegmentMeta>,
}

impl Manifest {
    /// The manifest before the first: nothing flushed. It is not stored; commit its [`next`](Self::next).
    pub fn empty(description: CollectionDescription, shard: &str) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            version: 0,
            nonce: Uuid::nil(),
            description,
            shard: shard.to_owned(),
            flushed_seq: 0,
            segments: Vec::new(),
        }
    }

    /// The one after this, with a nonce of its own.
    pub fn next(&self, description: CollectionDescription, flushed_seq: Seq, segments: Vec<SegmentMeta>) -> Self {
        assert!(flushed_seq >= self.flushed_seq, "what is flushed stays flushed");
        Self {
            format_version: FORMAT_VERSION,
            version: self.version + 1,
            nonce: Uuid::new_v4(),
            description,
            shard: self.shard.clone(),
            flushed_seq,
            segments,
        }
    }

    /// The segments as what their files say about them, when every manifest is lost: the manifest to commit.
    ///
    /// A compaction's inputs are left out when its outputs are complete: all there, or a missing one itself replaced,
    /// or an input already deleted (that happens after the commit only). Otherwise both stay: they hold the same rows
    /// under the same sequence numbers, so an id may occur twice with the *same* number. Of two copies of a segment on
    /// two roots (a move was cut short) the first counts.
    ///
    /// `flushed_seq` is the largest number in the segments; a flush that was cut short may have left holes below it, so
    /// the caller replays whatever the log still has.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the files are not all of this collection and shard, or there are none.
    pub fn rebuild(collection: CollectionId, shard: &str, found: &[(SegmentFooter, SegmentMeta)]) -> Result<Self> {
        if let Some((footer, _)) = found
            .iter()
            .find(|(footer, _)| footer.description.id != collection || footer.shard != shard)
        {
            let (id, other) = (footer.id, footer.description.id);
            return Err(Error::Corruption(format!(
                "segment {id} in {collection}/{shard} belongs to {other}/{}",
                footer.shard
            )));
        }
        let newest = found
            .iter()
            .map(|(footer, _)| footer)
            .max_by_key(|footer| (footer.max_seq, footer.id));
        let newest = newest.ok_or_else(|| {
            Error::Corruption(format!(
                "{collection}/{shard} has no segments to rebuild a manifest from"
            ))
        })?;
        let exists = |id: &SegmentId| found.iter().any(|(footer, _)| footer.id == *id);
        let is_replaced = |id: &SegmentId| found.iter().any(|(footer, _)| footer.replaces.contains(id));
        let is_complete = |footer: &SegmentFooter| {
            footer.outputs.iter().all(|id| exists(id) || is_replaced(id)) || !footer.replaces.iter().all(exists)
        };
        let complete = found.iter().filter(|(footer, _)| is_complete(footer));
        let obsolete: Vec<SegmentId> = complete
            .flat_map(|(footer, _)| footer.replaces.iter().copied())
            .collect();
        let mut segments: Vec<SegmentMeta> = Vec::new();
        for (footer, meta) in found {
            if !obsolete.contains(&footer.id) && segments.iter().all(|kept| kept.id != footer.id) {
                segments.push(meta.clone());
            }
        }
        Ok(Self::empty(newest.description.clone(), shard).next(newest.description.clone(), newest.max_seq, segments))
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is no JSON (it always is).
    pub fn encode(&self) -> Result<Bytes> {
        seal(self)
    }

    /// Reads [`encode`](Self::encode)'s bytes.
    ///
    /// # Errors
    /// If a single byte differs, or the format is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        unseal(bytes).map_err(FormatError)
    }
}

/// The manifests of one shard on the root that holds them.
#[derive(Debug, Clone)]
pub struct ManifestStore {
    root: Arc<Root>,
    collection: CollectionId,
    shard: String,
}

impl ManifestStore {
    /// Manifests of `<collection>/<shard>` on this root.
    pub fn new(root: Arc<Root>, collection: CollectionId, shard: &str) -> Self {
        Self {
            root,
            collection,
            shard: shard.to_owned(),
        }
    }

    /// The manifest with the highest version among the shard's files, as discovery lists them; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Corruption`] naming the file if it is damaged or another shard's: an older one would forget
    /// acknowledged data whose log is gone. Errors of the root.
    pub async fn latest(&self, files: &[FileInfo]) -> Result<Option<Manifest>> {
        let Some(version) = files.iter().filter_map(|file| version_of(&file.path)).max() else {
            return Ok(None);
        };
        let path = self.path(version);
        let bytes = self.root.read(&path).await?;
        let manifest = Manifest::decode(&bytes).map_err(|error| self.corrupt(&path, &error.0))?;
        if manifest.version != version {
            return Err(self.corrupt(&path, &format!("says that it is version {}", manifest.version)));
        }
        if manifest.description.id != self.collection || manifest.shard != self.shard {
            let owner = format!("{}/{}", manifest.description.id, manifest.shard);
            return Err(self.corrupt(&path, &format!("belongs to {owner}")));
        }
        Ok(Some(manifest))
    }

    /// Stores the manifest as its version, durably, and deletes the one that is now too old. After an error whose
    /// outcome is unknown, commit the *same* value again.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if somebody else has written this version: this process does not own the shard any
    /// more. Errors of the root.
    pub async fn commit(&self, manifest: &Manifest) -> Result<()> {
        assert!(manifest.version > 0, "the empty manifest is not stored");
        let path = self.path(manifest.version);
        if let Created::Conflict(_) = self.root.create(&path, manifest.encode()?).await? {
            let reason = format!("{path} was written by another process: does a second server use this root?");
            return Err(Error::RootUnavailable {
                url: self.root.url().to_owned(),
                reason,
            });
        }
        if let Some(old) = manifest.version.checked_sub(KEPT_VERSIONS).filter(|old| *old > 0)
            && let Err(error) = self.root.delete(&self.path(old)).await
        {
            // The commit stands; the file is listed among the orphans at the next start.
            tracing::warn!(root = self.root.url(), file = self.path(old), %error, "an old manifest stays");
        }
        Ok(())
    }

    fn path(&self, version: u64) -> String {
        format!("{}/{}/{DIRECTORY}/{version:020}.json", self.collection, self.shard)
    }

    fn corrupt(&self, path: &str, reason: &str) -> Error {
        Error::Corruption(format!("manifest {}/{path}: {reason}", self.root.url()))
    }
}

/// The version in a manifest's file name, `None` for other files.
pub fn version_of(name: &str) -> Option<u64> {
    let mut segments = name.rsplit('/');
    let digits = segments.next()?.strip_suffix(".json")?;
    let is_version =
        segments.next() == Some(DIRECTORY) && digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_version { digits.parse().ok() } else { None }
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;

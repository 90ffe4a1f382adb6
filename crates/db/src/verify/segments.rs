//! Manifests and segments of a shard: the newest manifest verifies, and each segment is byte for byte what it names.

use super::collection::Shelf;
use super::roots::{DELETED_AT_START, stray};
use super::{Finding, FindingKind, RESTORE, failure, read};
use crate::engine::manifest::{Manifest, SegmentMeta, version_of};
use crate::engine::segment::SegmentId;
use crate::engine::viper::{Viper, segment_of};
use crate::point::Seq;

/// What a shard's files say about its segments.
pub(super) enum Listed {
    /// The newest manifest.
    By(Box<Manifest>),
    /// There is neither a manifest nor a segment.
    Nothing,
    /// There is something, and it does not say.
    Unknown,
}

impl Listed {
    /// Whether the segment counts; `None` if that is unknown.
    pub(super) fn names(&self, id: SegmentId) -> Option<bool> {
        match self {
            Self::By(manifest) => Some(manifest.segments.iter().any(|meta| meta.id == id)),
            Self::Nothing => Some(false),
            Self::Unknown => None,
        }
    }

    /// Every operation up to this one may be absent from the log; `None` if unknown.
    pub(super) fn flushed_seq(&self) -> Option<Seq> {
        match self {
            Self::By(manifest) => Some(manifest.flushed_seq),
            Self::Nothing => Some(0),
            Self::Unknown => None,
        }
    }
}

/// Checks the files of a shard on its VIPER root.
pub(super) async fn check(shelf: &Shelf<'_>, findings: &mut Vec<Finding>) -> Listed {
    let has_segments = shelf.files.iter().any(|file| segment_of(&file.path).is_some());
    let listed = check_manifests(shelf, has_segments, findings).await;
    let viper = Viper::new(shelf.root.clone(), shelf.id, shelf.shard);
    let orphans = match &listed {
        Listed::By(manifest) => viper.orphans(manifest, &shelf.files),
        _ => Vec::new(),
    };
    for orphan in &orphans {
        let problem = "no manifest names it: left over by an unfinished or replaced write";
        findings.push(shelf.finding(FindingKind::Orphan, &orphan.path, problem, DELETED_AT_START));
    }
    for file in shelf.files.iter().filter(|file| !orphans.contains(file)) {
        let Some(id) = segment_of(&file.path) else {
            if version_of(&file.path).is_none() {
                findings.push(stray(&shelf.root, &file.path, "not named as a segment or a manifest"));
            }
            continue;
        };
        let found = match viper.inspect(std::slice::from_ref(file)).await {
            Ok(found) => found,
            Err(error) => {
                findings.push(failure(&shelf.root, &file.path, &error));
                continue;
            }
        };
        if let (Listed::By(manifest), Some((_, found))) = (&listed, found.first()) {
            let named = manifest.segments.iter().find(|meta| meta.id == id);
            let difference = named.and_then(|named| difference(named, found));
            findings
                .extend(difference.map(|problem| shelf.finding(FindingKind::Damaged, &file.path, problem, RESTORE)));
        }
    }
    if let Listed::By(manifest) = &listed {
        check_all_there(shelf, manifest, findings);
    }
    listed
}

/// Every segment that the manifest names has a file.
fn check_all_there(shelf: &Shelf<'_>, manifest: &Manifest, findings: &mut Vec<Finding>) {
    for meta in &manifest.segments {
        if !shelf.files.iter().any(|file| segment_of(&file.path) == Some(meta.id)) {
            let problem = format!("manifest {} names this segment ({} rows)", manifest.version, meta.rows);
            let path = format!("{}/{}.parquet", shelf.directory(), meta.id);
            findings.push(shelf.finding(FindingKind::Missing, &path, problem, RESTORE));
        }
    }
}

/// Every manifest verifies; the newest one counts.
async fn check_manifests(shelf: &Shelf<'_>, has_segments: bool, findings: &mut Vec<Finding>) -> Listed {
    let versions = shelf
        .files
        .iter()
        .filter_map(|file| Some((version_of(&file.path)?, file)));
    let Some(newest) = versions.clone().map(|(version, _)| version).max() else {
        if !has_segments {
            return Listed::Nothing;
        }
        let path = format!("{}/manifest", shelf.directory());
        let advice = "start the server: it makes a manifest again from the segments";
        findings.push(shelf.finding(FindingKind::Missing, &path, "segments without any manifest", advice));
        return Listed::Unknown;
    };
    let mut listed = Listed::Unknown;
    for (version, file) in versions {
        let bytes = match read(&shelf.root, &file.path).await {
            Ok(bytes) => bytes,
            Err(finding) => {
                findings.push(finding);
                continue;
            }
        };
        match decode(shelf, &bytes, version) {
            Ok(manifest) if version == newest => listed = Listed::By(Box::new(manifest)),
            Ok(_) => {}
            Err(reason) => {
                let advice = if version == newest {
                    "restore it from a backup, or move all manifests of this shard away: the server makes one from the segments"
                } else {
                    "it is an old version that nothing reads: delete it"
                };
                findings.push(shelf.finding(FindingKind::Damaged, &file.path, reason, advice));
            }
        }
    }
    listed
}

fn decode(shelf: &Shelf<'_>, bytes: &[u8], version: u64) -> Result<Manifest, String> {
    let manifest = Manifest::decode(bytes).map_err(|error| error.0)?;
    let place = format!("{}/{}", manifest.description.id, manifest.shard);
    if manifest.version != version || place != shelf.directory() {
        return Err(format!("it says that it is version {} of {place}", manifest.version));
    }
    Ok(manifest)
}

/// How a segment's file differs from what the manifest says about it.
fn difference(named: &SegmentMeta, found: &SegmentMeta) -> Option<String> {
    if named == found {
        return None;
    }
    if named.bytes != found.bytes {
        return Some(format!(
            "it has {} bytes, the manifest says {}",
            found.bytes, named.bytes
        ));
    }
    if named.crc32 != found.crc32 {
        return Some(format!(
            "its CRC-32 is {:08x}, the manifest says {:08x}",
            found.crc32, named.crc32
        ));
    }
    Some(format!("it is {found:?}, the manifest says {named:?}"))
}

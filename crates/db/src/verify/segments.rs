//! Manifests and segments of a shard: the newest manifest verifies, and each segment is byte for byte what it names.

use std::collections::BTreeSet;

use super::places::{Located, Shelf};
use super::roots::{DELETED_AT_START, stray};
use super::{Finding, FindingKind, RESTORE, failure, read};
use crate::engine::manifest::{Manifest, SegmentMeta, version_of};
use crate::engine::segment::SegmentId;
use crate::engine::viper::{Viper, segment_of};
use crate::placement::Placement;
use crate::point::Seq;
use crate::root::RootId;

/// What a shard's files say about its segments.
pub(super) enum Listed {
    /// The newest manifest.
    By {
        /// What it says.
        manifest: Box<Manifest>,
        /// Segments whose files are not what it says.
        differing: BTreeSet<SegmentId>,
    },
    /// A tree with every operation up to this one. Its segments exist in memory only.
    Tree(Seq),
    /// There is neither a manifest, a tree nor a segment.
    Nothing,
    /// There is something, and it does not say.
    Unknown,
}

impl Listed {
    /// Every operation up to this one may be absent from the log; `None` if unknown.
    pub(super) fn flushed_seq(&self) -> Option<Seq> {
        match self {
            Self::By { manifest, .. } => Some(manifest.flushed_seq),
            Self::Tree(flushed_seq) => Some(*flushed_seq),
            Self::Nothing => Some(0),
            Self::Unknown => None,
        }
    }
}

/// Checks the files of a shard on its VIPER roots.
pub(super) async fn check(shelf: &Shelf<'_>, findings: &mut Vec<Finding>) -> Listed {
    let mut listed = check_manifests(shelf, findings).await;
    for located in &shelf.files {
        let Some(id) = segment_of(&located.file.path) else {
            if version_of(&located.file.path).is_none() {
                let problem = "not named as a segment or a manifest";
                findings.push(stray(&located.root, &located.file.path, problem));
            }
            continue;
        };
        let viper = Viper::new(located.root.clone(), shelf.id, shelf.shard);
        let file = std::slice::from_ref(&located.file);
        if let Listed::By { manifest, .. } = &listed
            && !viper.orphans(manifest, file).is_empty()
        {
            let problem = "no manifest names it there: left over by an unfinished, moved or replaced write";
            findings.push(located.finding(FindingKind::Orphan, problem, DELETED_AT_START));
            continue;
        }
        let found = match viper.inspect(file).await {
            Ok(found) => found,
            Err(error) => {
                findings.push(failure(&located.root, &located.file.path, &error));
                continue;
            }
        };
        if let (Listed::By { manifest, differing }, Some((_, found))) = (&mut listed, found.first())
            && let Some(problem) = manifest
                .segments
                .iter()
                .find(|meta| meta.id == id)
                .and_then(|named| difference(named, found))
        {
            differing.insert(id);
            findings.push(located.finding(FindingKind::Damaged, problem, RESTORE));
        }
    }
    if let Listed::By { manifest, .. } = &listed {
        for meta in &manifest.segments {
            check_there(shelf, manifest, meta, findings);
        }
    }
    listed
}

/// A segment has a file on each root that the manifest names for it.
fn check_there(shelf: &Shelf<'_>, manifest: &Manifest, meta: &SegmentMeta, findings: &mut Vec<Finding>) {
    let is_on = |root: RootId| {
        shelf
            .on(root)
            .any(|other| segment_of(&other.file.path) == Some(meta.id))
    };
    let path = format!("{}/{}.parquet", shelf.directory(), meta.id);
    let what = format!("manifest {} names this segment ({} rows)", manifest.version, meta.rows);
    let all = shelf.placement.map(Placement::all_roots);
    for root_id in [Some(meta.root_id), meta.copy].into_iter().flatten() {
        match shelf.root(root_id) {
            Some(_) if is_on(root_id) => {}
            Some(root) => {
                let other = [Some(meta.root_id), meta.copy].into_iter().flatten();
                let advice = match other.filter(|other| *other != root_id).find(|other| is_on(*other)) {
                    Some(_) => "start the server: it reads the other copy and finishes the move",
                    None => RESTORE,
                };
                findings.push(Finding::new(FindingKind::Missing, root, &path, what.as_str(), advice));
            }
            // The root itself is reported as unreachable.
            None if !shelf.complete && all.as_ref().is_none_or(|all| all.contains(&root_id)) => {}
            None => {
                let problem = format!("{what} on root {root_id}, which the metadata record does not name");
                let advice = "configure that root, or restore the metadata record from a backup";
                findings.push(shelf.finding(FindingKind::Missing, &path, problem, advice));
            }
        }
    }
}

/// Every manifest verifies; the newest one over all roots counts.
async fn check_manifests(shelf: &Shelf<'_>, findings: &mut Vec<Finding>) -> Listed {
    let versions: Vec<(u64, &Located)> = shelf
        .files
        .iter()
        .filter_map(|located| Some((version_of(&located.file.path)?, located)))
        .collect();
    let Some(newest) = versions.iter().map(|(version, _)| *version).max() else {
        return without_manifest(shelf, findings);
    };
    let mut chosen: Option<(Box<Manifest>, &Located)> = None;
    for (version, located) in &versions {
        let is_newest = *version == newest;
        let Some(bytes) = read(&located.root, &located.file.path, findings).await else {
            continue;
        };
        match (decode(shelf, &bytes, *version), &chosen) {
            (Ok(manifest), Some((first, at))) if is_newest && **first != manifest => {
                let problem = format!("it differs from the manifest of the same version on {}", at.root.url());
                let advice = "two servers wrote it: keep one of the two, remove the other";
                findings.push(located.finding(FindingKind::Damaged, problem, advice));
            }
            (Ok(manifest), None) if is_newest => chosen = Some((Box::new(manifest), *located)),
            (Ok(_), _) => {}
            (Err(reason), _) => {
                let advice = if is_newest {
                    "restore it from a backup, or move all manifests of this shard away: the server makes one from the segments"
                } else {
                    "it is an old version that nothing reads: delete it"
                };
                findings.push(located.finding(FindingKind::Damaged, reason, advice));
            }
        }
    }
    if let Some((manifest, at)) = &chosen {
        report_old_manifests(shelf, manifest, at, &versions, findings);
    }
    // A root that is away may have a newer one.
    let is_known = shelf.complete || shelf.moving().is_none();
    match chosen.filter(|_| is_known) {
        Some((manifest, _)) => Listed::By {
            manifest,
            differing: BTreeSet::new(),
        },
        None => Listed::Unknown,
    }
}

fn without_manifest(shelf: &Shelf<'_>, findings: &mut Vec<Finding>) -> Listed {
    let segment = shelf
        .files
        .iter()
        .find(|located| segment_of(&located.file.path).is_some());
    match segment {
        None if shelf.complete => Listed::Nothing,
        Some(located) if shelf.complete => {
            let path = format!("{}/manifest", shelf.directory());
            let (problem, advice) = (
                "segments without any manifest",
                "start the server: it makes a manifest again from the segments",
            );
            findings.push(Finding::new(
                FindingKind::Missing,
                &located.root,
                &path,
                problem,
                advice,
            ));
            Listed::Unknown
        }
        _ => Listed::Unknown,
    }
}

/// Manifests that are too old, and those that a move has left on another root.
fn report_old_manifests(
    shelf: &Shelf<'_>,
    newest: &Manifest,
    at: &Located,
    versions: &[(u64, &Located)],
    findings: &mut Vec<Finding>,
) {
    for (_, located) in versions {
        let viper = Viper::new(located.root.clone(), shelf.id, shelf.shard);
        if !viper.orphans(newest, std::slice::from_ref(&located.file)).is_empty() {
            let problem = "an old manifest that nothing reads";
            findings.push(located.finding(FindingKind::Orphan, problem, DELETED_AT_START));
        } else if located.root.id() != at.root.id() {
            let problem = format!(
                "an older manifest; version {} on {} counts",
                newest.version,
                at.root.url()
            );
            let advice = "nothing: the server deletes it when the move is finished";
            findings.push(located.finding(FindingKind::Information, problem, advice));
        }
    }
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
    // Which of two copies this is does not matter for what it holds.
    let found = &SegmentMeta {
        root_id: named.root_id,
        copy: named.copy,
        ..found.clone()
    };
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

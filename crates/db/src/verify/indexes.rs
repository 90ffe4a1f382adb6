//! The index files of a shard: every copy against its checksum and its segment, and each where its type belongs.

use std::collections::{BTreeMap, BTreeSet};

use super::places::{Located, Shelf};
use super::roots::{DELETED_AT_START, stray};
use super::segments::Listed;
use super::{Finding, FindingKind, failure};
use crate::axis;
use crate::engine::manifest::SegmentMeta;
use crate::engine::segment::SegmentId;
use crate::root::{IndexType, RootId};

/// Roots that hold copies of each file, damaged ones too.
type Copies = BTreeMap<(SegmentId, IndexType), BTreeSet<RootId>>;

/// Checks the files of a shard on its index roots.
pub(super) async fn check(shelf: &Shelf<'_>, listed: &Listed, findings: &mut Vec<Finding>) {
    let mut copies = Copies::new();
    for located in &shelf.files {
        let Some((segment, of)) = axis::parse_name(&located.file.path) else {
            let problem = "not named as an index of this release";
            findings.push(stray(&located.root, &located.file.path, problem));
            continue;
        };
        // Of the segment as its manifest has it; unknown where the file is another.
        let (is_orphan, meta) = match listed {
            Listed::By { manifest, differing } => {
                let meta = manifest.segments.iter().find(|meta| meta.id == segment);
                (meta.is_none(), meta.filter(|_| !differing.contains(&segment)))
            }
            Listed::Nothing => (true, None),
            Listed::Tree(_) | Listed::Unknown => (false, None),
        };
        if is_orphan {
            let problem = "index of a segment that no manifest names";
            findings.push(located.finding(FindingKind::Orphan, problem, DELETED_AT_START));
            continue;
        }
        copies.entry((segment, of)).or_default().insert(located.root.id());
        if !belongs(shelf, located, of) {
            let problem = format!("an index of type {} on a root of other types", of.name());
            let advice = "nothing reads it there: delete it, or move it to the root of its type";
            findings.push(located.finding(FindingKind::Stray, problem, advice));
        }
        findings.extend(check_file(located, meta).await);
    }
    // The segments of a tree are cut anew at every opening, and so are their indexes.
    if matches!(listed, Listed::By { .. }) {
        check_copies(shelf, &copies, findings);
    }
}

async fn check_file(located: &Located, meta: Option<&SegmentMeta>) -> Option<Finding> {
    let path = &located.file.path;
    let bytes = match located.root.read(path).await {
        Ok(bytes) => bytes,
        Err(error) => return Some(failure(&located.root, path, &error)),
    };
    let reason = axis::check(&bytes, path, meta).err()?;
    let advice = "start the server: it copies the index from another root, or builds it again from its segment";
    Some(located.finding(FindingKind::Damaged, reason, advice))
}

/// Whether files of the type may be on the root: one of its homes, a root of striping or of a move.
fn belongs(shelf: &Shelf<'_>, located: &Located, of: IndexType) -> bool {
    let root = located.root.id();
    shelf.placement.is_none_or(|placement| {
        let is_leaving = placement.moving.is_some_and(|moving| moving.from == root);
        !placement.affinity || is_leaving || placement.roots_of(of).contains(&root) || placement.also.contains(&root)
    })
}

/// Each file has as many copies as its type has homes, those that are away not counted.
fn check_copies(shelf: &Shelf<'_>, copies: &Copies, findings: &mut Vec<Finding>) {
    let Some(placement) = shelf.placement else { return };
    for ((segment, of), holders) in copies {
        let homes = placement.roots_of(*of);
        let lacking: Vec<_> = homes
            .iter()
            .filter(|home| !holders.contains(home))
            .filter_map(|home| shelf.root(*home))
            .collect();
        let is_enough = if placement.affinity && placement.moving.is_none() {
            lacking.is_empty()
        } else {
            // Any root will do; one that is away may have it.
            holders.len() >= homes.len() || !shelf.complete
        };
        let Some(root) = lacking.first().filter(|_| !is_enough) else {
            continue;
        };
        let path = format!("{}/{segment}.{}", shelf.directory(), of.name());
        let problem = format!("{} of {} copies of this index are there", holders.len(), homes.len());
        let advice = "start the server: it makes the missing copies again";
        findings.push(Finding::new(FindingKind::Incomplete, root, &path, problem, advice));
    }
}

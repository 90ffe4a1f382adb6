//! What concerns a root as a whole: whether it could be read, its own files, and files that belong to nothing.

use std::collections::BTreeSet;

use super::{Finding, FindingKind, MAKE_READABLE, read};
use crate::discovery::{DiscoveredRoot, Discovery};
use crate::metadata::check_counters;
use crate::root::{RESERVED_DIRECTORY, Root, Usage, check_reserved};

/// Files of the reserved directory that have no content to check.
const PLAIN: [&str; 2] = ["lock", "probe"];

/// Unreachable roots, damaged files of the roots themselves, strays and leftovers.
pub(super) async fn check(discovery: &Discovery) -> Vec<Finding> {
    let mut findings = Vec::new();
    for found in &discovery.roots {
        let root = &found.root;
        if let Some(reason) = &found.failure {
            findings.push(Finding::new(FindingKind::Unreachable, root, "", reason, MAKE_READABLE));
            continue;
        }
        check_own_files(root, &mut findings).await;
        findings.extend(found.strays.iter().map(|file| {
            let problem = format!("no file of the {} component", root.component());
            stray(root, &file.path, problem)
        }));
        findings.extend(found.staging.iter().map(|file| {
            let problem = "unfinished file of a writer that was killed";
            Finding::new(FindingKind::Orphan, root, &file.path, problem, DELETED_AT_START)
        }));
    }
    findings
}

/// Files and bytes of collections on a root as `find` and `du` count them: unfinished files of killed writers included.
pub(super) fn usage(found: &DiscoveredRoot) -> Usage {
    let directories: BTreeSet<String> = found.collections.keys().map(ToString::to_string).collect();
    let leftovers = found.staging.iter().filter(|file| {
        let directory = file.path.split_once('/').map(|(directory, _)| directory);
        directory.is_some_and(|directory| directories.contains(directory))
    });
    let listed = found
        .collections
        .values()
        .map(|files| (files.usage.bytes, files.usage.files));
    let counted = listed.chain(leftovers.map(|file| (file.size, 1)));
    counted.fold(Usage::default(), |sum, (bytes, files)| Usage {
        bytes: sum.bytes + bytes,
        files: sum.files + files,
    })
}

/// What happens to files of interrupted work without anybody's doing.
pub(super) const DELETED_AT_START: &str = "nothing: the server deletes it when it opens the collection";

/// A file that nothing reads.
pub(super) fn stray(root: &Root, path: &str, problem: impl Into<String>) -> Finding {
    let advice = "nothing reads it: look whose it is, then move or delete it";
    Finding::new(FindingKind::Stray, root, path, problem, advice)
}

async fn check_own_files(root: &Root, findings: &mut Vec<Finding>) {
    let files = match root.list(RESERVED_DIRECTORY).await {
        Ok(files) => files,
        Err(error) => return findings.push(super::failure(root, RESERVED_DIRECTORY, &error)),
    };
    for file in files {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if PLAIN.contains(&name) {
            continue;
        }
        let Some(bytes) = read(root, &file.path, findings).await else {
            continue;
        };
        match check_reserved(&file.path, &bytes).or_else(|| check_counters(&file.path, &bytes)) {
            Some(Ok(())) => {}
            Some(Err(reason)) => {
                let advice = "start the server: other roots have a copy; the damaged file can be deleted";
                findings.push(Finding::new(FindingKind::Damaged, root, &file.path, reason, advice));
            }
            None => findings.push(stray(root, &file.path, "no file of a root")),
        }
    }
}

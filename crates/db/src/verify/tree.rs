//! The LSM tree of a shard: every file by its own checksums, then the tree that counts as a whole.

use std::sync::Arc;

use super::places::{Located, Shelf};
use super::segments::Listed;
use super::{Finding, FindingKind, RESTORE, failure};
use crate::engine::lsm::{Lsm, Verified};
use crate::error::{Error, Result};
use crate::root::Root;

/// The tree on one root.
struct Found {
    root: Arc<Root>,
    outcome: Result<Verified>,
}

/// Checks the files of a shard on its LSM roots.
pub(super) async fn check(shelf: &Shelf<'_>, findings: &mut Vec<Finding>) -> Listed {
    let mut trees = Vec::new();
    for root in &shelf.roots {
        let is_manifest = |located: &Located| located.file.path.ends_with(".manifest");
        if shelf.on(root.id()).any(is_manifest) {
            let outcome = Lsm::verify(root, shelf.id, shelf.shard).await;
            let root = root.clone();
            trees.push(Found { root, outcome });
        }
    }
    let Some(chosen) = newest(shelf, &trees) else {
        check_files(shelf, None, findings).await;
        if shelf.files.is_empty() {
            return if shelf.complete {
                Listed::Nothing
            } else {
                Listed::Unknown
            };
        }
        let problem = "LSM tables without a manifest";
        findings.push(shelf.finding(FindingKind::Missing, &shelf.directory(), problem, RESTORE));
        return Listed::Unknown;
    };
    let named = check_files(shelf, Some(chosen), findings).await;
    for tree in &trees {
        findings.extend(judge(shelf, tree, chosen, named));
    }
    match &chosen.outcome {
        Ok(verified) if shelf.complete || shelf.moving().is_none() => Listed::Tree(verified.flushed_seq),
        _ => Listed::Unknown,
    }
}

/// The tree that a start would take: the one with more commits, of equal ones the home's.
fn newest<'a>(shelf: &Shelf<'_>, trees: &'a [Found]) -> Option<&'a Found> {
    let mut chosen: Option<&Found> = None;
    let commits = |tree: &Found| tree.outcome.as_ref().ok().map(|verified| verified.flushed_seq);
    for tree in trees {
        if chosen.is_none_or(|chosen| commits(tree) > commits(chosen)) {
            chosen = Some(tree);
        }
    }
    // A damaged home is not replaced by the beginning of a copy.
    let home = trees.iter().find(|tree| tree.root.id() == shelf.home.id());
    home.filter(|home| home.outcome.is_err()).or(chosen)
}

/// What a tree means besides the one that counts; `named` if its damaged files are named already.
fn judge(shelf: &Shelf<'_>, tree: &Found, chosen: &Found, named: bool) -> Option<Finding> {
    let (directory, is_chosen) = (shelf.directory(), tree.root.id() == chosen.root.id());
    let is_moving = shelf.moving().is_some();
    match &tree.outcome {
        Ok(_) if is_chosen || is_moving => None,
        Ok(_) => {
            let problem = format!("a second tree; the one on {} counts", chosen.root.url());
            let advice =
                "look which of the two has the data you want, then remove the other while the server is stopped";
            Some(Finding::new(
                FindingKind::Duplicate,
                &tree.root,
                &directory,
                problem,
                advice,
            ))
        }
        Err(_) if is_chosen && named => None,
        // Partly copied, or partly deleted.
        Err(Error::Corruption(_)) if !is_chosen && is_moving => None,
        Err(error) => Some(failure(&tree.root, &directory, error)),
    }
}

/// Checks the files on the root of the tree that counts, or all of them without one; files elsewhere belong to a move.
/// Returns whether one of them is damaged.
async fn check_files(shelf: &Shelf<'_>, chosen: Option<&Found>, findings: &mut Vec<Finding>) -> bool {
    let mut damaged = false;
    let counts = |located: &&Located| chosen.is_none_or(|chosen| chosen.root.id() == located.root.id());
    for located in shelf.files.iter().filter(counts) {
        let path = &located.file.path;
        match Lsm::check_file(&located.root, shelf.id, shelf.shard, path).await {
            Ok(()) => {}
            Err(error) => {
                damaged = true;
                findings.push(failure(&located.root, path, &error));
            }
        }
        let verified = chosen.and_then(|chosen| chosen.outcome.as_ref().ok());
        if verified.is_some_and(|verified| is_unreferenced(path, verified)) {
            let problem = "no manifest in force names it: a merge has replaced it, or its commit was cut short";
            let advice = "nothing: the server deletes it after a later merge";
            findings.push(located.finding(FindingKind::Information, problem, advice));
        }
    }
    damaged
}

fn is_unreferenced(path: &str, verified: &Verified) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".sst")
        .is_some_and(|table| !verified.tables.contains(table))
}

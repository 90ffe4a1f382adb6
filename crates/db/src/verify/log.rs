//! The log of a shard: every block of every file, and then the files of all roots as one sequence, by the rules of replay.

use super::places::{Located, Shelf};
use super::{Finding, FindingKind, RESTORE, failure};
use crate::error::Error;
use crate::point::Seq;
use crate::wal::{FileEnd, FileSummary, WalFile, check_file, check_sequence, first_seq, log_begins};

/// Checks the files of a shard on its WAL roots. Operations up to `flushed` are in segments; `None` if that is unknown.
pub(super) async fn check(shelf: &Shelf<'_>, flushed: Option<Seq>, findings: &mut Vec<Finding>) {
    let directory = shelf.directory();
    let (mut files, mut torn, mut sound) = (Vec::new(), Vec::new(), true);
    for located in &shelf.files {
        let path = &located.file.path;
        if first_seq(path).is_none() {
            let advice = "move it away: a log with a file of another kind is not opened";
            let problem = "not named as a log file of this release";
            findings.push(located.finding(FindingKind::Damaged, problem, advice));
            sound = false;
            continue;
        }
        let file = log_file(located);
        match check_file(&directory, &file).await {
            Ok(summary) => torn.extend(torn_end(shelf, located, &summary)),
            Err(error) => {
                findings.push(failure(&located.root, path, &error));
                sound = false;
            }
        }
        files.push(file);
    }
    // Around a file that is damaged or cannot be read, what is missing is unknown.
    if sound && shelf.complete && !files.is_empty() {
        let after = match flushed {
            Some(flushed) => flushed,
            None => begins(shelf, true).await.unwrap_or(1).saturating_sub(1),
        };
        if let Err(error) = check_sequence(&directory, &files, after).await {
            findings.push(lost(shelf, &error, &mut torn));
        }
    }
    findings.append(&mut torn);
}

/// First number that the log still has; `exactly` reads headers where names do not tell. `None` without files.
pub(super) async fn begins(shelf: &Shelf<'_>, exactly: bool) -> Option<Seq> {
    let named = shelf
        .files
        .iter()
        .filter(|located| first_seq(&located.file.path).is_some());
    let files: Vec<WalFile> = named.map(log_file).collect();
    let by_name = files.iter().filter_map(|file| first_seq(&file.name)).min();
    match exactly {
        // A file that cannot be read has a finding of its own.
        true => log_begins(&shelf.directory(), &files).await.unwrap_or(by_name),
        false => by_name,
    }
}

fn log_file(located: &Located) -> WalFile {
    let path = &located.file.path;
    WalFile {
        root: located.root.clone(),
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        bytes: located.file.size,
        content: None,
    }
}

/// The finding of a sequence that is not whole. A torn tail after which acknowledged operations are missing is damage.
fn lost(shelf: &Shelf<'_>, error: &Error, torn: &mut Vec<Finding>) -> Finding {
    let Error::Corruption(reason) = error else {
        return failure(&shelf.home, &shelf.directory(), error);
    };
    let is_named = |located: &&Located| {
        let file = format!("{}/{}", located.root.url().trim_end_matches('/'), located.file.path);
        reason.contains(&file)
    };
    let Some(named) = shelf.files.iter().find(is_named) else {
        return shelf.finding(FindingKind::Missing, &shelf.directory(), reason.as_str(), RESTORE);
    };
    let before = torn.len();
    torn.retain(|finding| (&finding.root[..], &finding.path) != (named.root.url(), &named.file.path));
    let kind = if torn.len() < before {
        FindingKind::Damaged
    } else {
        FindingKind::Missing
    };
    named.finding(kind, reason.as_str(), RESTORE)
}

/// A write that was cut short and a damaged newest block look the same: nothing follows either.
fn torn_end(shelf: &Shelf<'_>, located: &Located, summary: &FileSummary) -> Option<Finding> {
    let FileEnd::Torn { reason } = &summary.end else {
        return None;
    };
    let (cut, end) = (summary.bytes - summary.valid_bytes, summary.valid_bytes);
    let problem = format!("torn tail: the last {cut} bytes, from offset {end}, are no complete block ({reason})");
    let is_newest = shelf
        .on(located.root.id())
        .all(|other| first_seq(&other.file.path) <= first_seq(&located.file.path));
    let advice = if is_newest {
        "after a crash nothing: it was never acknowledged, and the server cuts it when it opens the collection; after a clean stop restore the file from a backup before the next start"
    } else {
        "nothing: the next file goes on where the acknowledged operations end"
    };
    Some(located.finding(FindingKind::Information, problem, advice))
}

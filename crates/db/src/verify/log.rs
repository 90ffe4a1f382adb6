//! The log of a shard: every block's checksum, and that no acknowledged operation is missing between or before the files.

use super::collection::Shelf;
use super::{Finding, FindingKind, RESTORE, failure, read};
use crate::point::Seq;
use crate::schema::CollectionDescription;
use crate::wal::{FileEnd, FileSummary, first_seq, read_log_file};

/// Checks the files of a shard on its WAL root. Operations up to `flushed` are in segments; `None` if that is unknown.
///
/// The rule between files is that of replay: a hole is allowed exactly where the next header declares it.
pub(super) async fn check(shelf: &Shelf<'_>, flushed: Option<Seq>, findings: &mut Vec<Finding>) {
    // The last operation that is in segments or in the files so far.
    let mut last = flushed;
    // The paths are sorted, and their names are numbers of one width.
    for (at, file) in shelf.files.iter().enumerate() {
        let is_newest = at + 1 == shelf.files.len();
        let Some(first) = first_seq(&file.path) else {
            let advice = "move it away: a log with a file of another kind is not opened";
            findings.push(shelf.finding(
                FindingKind::Damaged,
                &file.path,
                "not named as a log file of this release",
                advice,
            ));
            continue;
        };
        let summary = match read(&shelf.root, &file.path).await {
            Ok(bytes) => read_log_file(&file.path, &bytes, &mut |_, _| ())
                .map_err(|error| failure(&shelf.root, &file.path, &error))
                .and_then(|summary| check_place(shelf, &file.path, first, summary)),
            Err(finding) => Err(finding),
        };
        let summary = match summary {
            Ok(summary) => summary,
            Err(finding) => {
                findings.push(finding);
                // What the next file continues is unknown now.
                last = None;
                continue;
            }
        };
        if let Some(last) = last.filter(|last| summary.previous_seq > *last) {
            let (from, to) = (last + 1, summary.previous_seq);
            let problem = format!("operations {from} to {to}, which belong before this file, are missing");
            findings.push(shelf.finding(FindingKind::Missing, &file.path, problem, RESTORE));
        }
        if let FileEnd::Torn { reason } = &summary.end {
            findings.push(torn(shelf, &summary, &file.path, reason, is_newest));
        }
        // Numbers of operations that failed here and yet reached the disk are never used again, so no later header can
        // name one of them as acknowledged: counting them hides no hole.
        last = Some((summary.next_seq - 1).max(last.unwrap_or(0)));
    }
}

fn torn(shelf: &Shelf<'_>, summary: &FileSummary, path: &str, reason: &str, is_newest: bool) -> Finding {
    let (cut, end) = (summary.bytes - summary.valid_bytes, summary.valid_bytes);
    let problem = format!(
        "the last {cut} bytes, from offset {end}, are no complete block ({reason}): a write that was never acknowledged"
    );
    let advice = if is_newest {
        "nothing: the server cuts them when it opens the collection"
    } else {
        "nothing: the next file goes on where the acknowledged operations end"
    };
    shelf.finding(FindingKind::Information, path, problem, advice)
}

/// A copy under another name or in another collection must not be replayed.
fn check_place(shelf: &Shelf<'_>, path: &str, first: Seq, summary: FileSummary) -> Result<FileSummary, Finding> {
    let damaged = |problem: String| shelf.finding(FindingKind::Damaged, path, problem, RESTORE);
    let description: CollectionDescription = serde_json::from_str(&summary.description)
        .map_err(|error| damaged(format!("its description is not readable: {error}")))?;
    let place = format!("{}/{}", description.id, summary.shard);
    if place != shelf.directory() || summary.first_seq != first {
        let problem = format!(
            "its header says that it is the file of {place} that begins with {}",
            summary.first_seq
        );
        return Err(damaged(problem));
    }
    Ok(summary)
}

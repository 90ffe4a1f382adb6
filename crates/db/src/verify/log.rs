//! The log of a shard: every block's checksum, and that no acknowledged operation is missing between or before the files.

use super::collection::Shelf;
use super::{Finding, FindingKind, RESTORE, failure, read};
use crate::point::Seq;
use crate::schema::CollectionDescription;
use crate::wal::{Coverage, FileEnd, FileSummary, first_seq, read_log_file};

/// Checks the files of a shard on the roots that hold its log. Operations up to `flushed` are in segments; `None` if that
/// is unknown.
///
/// The rule between files is that of replay: a number may be missing where a header declares it, or when nothing says that
/// it was acknowledged.
pub(super) async fn check(shelves: &[Shelf<'_>], flushed: Option<Seq>, findings: &mut Vec<Finding>) {
    let mut files = Vec::new();
    for (shelf, file) in shelves
        .iter()
        .flat_map(|shelf| shelf.files.iter().map(move |file| (shelf, file)))
    {
        match first_seq(&file.path) {
            Some(first) => files.push((first, shelf, file)),
            None => {
                let problem = "not named as a log file of this release";
                let advice = "move it away: a log with a file of another kind is not opened";
                findings.push(shelf.finding(FindingKind::Damaged, &file.path, problem, advice));
            }
        }
    }
    files.sort_by_key(|(first, ..)| *first);
    let newest = files.last().map_or(0, |(first, ..)| *first);
    let mut coverage = Coverage::default();
    let mut unreadable = Vec::new();
    let mut is_striped = false;
    for (at, (first, shelf, file)) in files.iter().enumerate() {
        match summary(shelf, &file.path, *first).await {
            Ok(summary) => {
                coverage.add(&summary);
                is_striped |= summary.lanes > 1;
                if let FileEnd::Torn { reason } = &summary.end {
                    findings.push(torn(shelf, &summary, &file.path, reason, *first == newest));
                }
            }
            Err(finding) => {
                findings.push(finding);
                unreadable.push(*first..files.get(at + 1).map_or(Seq::MAX, |(next, ..)| *next));
            }
        }
    }
    // What an unreadable file holds is unknown: with several files side by side it may be anything behind its start.
    for numbers in unreadable {
        coverage.add_unknown(if is_striped { numbers.start..Seq::MAX } else { numbers });
    }
    let oldest = files.first().map_or(1, |(first, ..)| *first);
    for gap in coverage.missing(flushed.unwrap_or(oldest - 1)) {
        let after = files.iter().find(|(first, ..)| *first > gap.start).or(files.last());
        let Some((_, shelf, file)) = after else { continue };
        let (from, to) = (gap.start, gap.end - 1);
        let problem = format!("operations {from} to {to}, which belong before the next ones here, are missing");
        findings.push(shelf.finding(FindingKind::Missing, &file.path, problem, RESTORE));
    }
}

/// What a file holds, if it is one of the log.
async fn summary(shelf: &Shelf<'_>, path: &str, first: Seq) -> Result<FileSummary, Finding> {
    let bytes = read(&shelf.root, path).await?;
    read_log_file(path, &bytes, &mut |_, _| ())
        .map_err(|error| failure(&shelf.root, path, &error))
        .and_then(|summary| check_place(shelf, path, first, summary))
}

/// A write that was cut short and a damaged newest block look the same: nothing follows either.
fn torn(shelf: &Shelf<'_>, summary: &FileSummary, path: &str, reason: &str, is_newest: bool) -> Finding {
    let (cut, end) = (summary.bytes - summary.valid_bytes, summary.valid_bytes);
    let problem = format!("torn tail: the last {cut} bytes, from offset {end}, are no complete block ({reason})");
    let advice = if is_newest {
        "after a crash nothing: it was never acknowledged, and the server cuts it when it opens the collection; after a clean stop restore the file from a backup before the next start"
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

//! Opening a log: which files to read, in which order, and what a gap between them means.
//!
//! Owns the rules between files; the rules within a file are in `scan` and `block`. Reads one file at a time.
//!
//! A failed write ends its file, and its sequence numbers are not used again. So the next file begins at a higher
//! number and its header names the last *acknowledged* one (`previous_seq`). Replay therefore accepts a hole in the
//! numbers exactly where a header declares it, drops entries that failed but reached the disk all the same, and calls
//! everything else corruption.

use crate::error::Result;
use crate::point::{Operation, Seq};

use super::block::{Header, SyncMarker};
use super::codec::Damage;
use super::file::ActiveFile;
use super::log::SealedFile;
use super::scan::{FileSummary, corruption, read_log_file};
use super::{Home, WalFile, file_name, to_error};

/// Bytes read to see a header; a longer one is read again with the larger limit.
const HEADER_READ: u64 = 64 * 1024;
const HEADER_LIMIT: u64 = 16 * 1024 * 1024;

/// Receives each replayed operation in order.
pub type Replay<'a> = &'a mut (dyn FnMut(Seq, Operation) + Send);

/// The state of a log after replay.
pub(super) struct Replayed {
    pub(super) sealed: Vec<SealedFile>,
    /// The newest file, when appending may go on in it.
    pub(super) active: Option<ActiveFile>,
    /// Last sequence number that counts: replayed or already flushed.
    pub(super) last: Seq,
    /// First sequence number that is free.
    pub(super) next: Seq,
}

/// Reads the files and hands every operation after `after` to `each`.
pub(super) async fn replay(home: &Home, files: &[WalFile], after: Seq, each: Replay<'_>) -> Result<Replayed> {
    let files = in_order(home, files)?;
    let mut state = Replayed {
        sealed: Vec::new(),
        active: None,
        last: after,
        next: after + 1,
    };
    for (at, (first, file)) in files.iter().enumerate() {
        let following = files.get(at + 1);
        match following {
            // Every entry is below the next file's first: a flushed file is not read again.
            Some((next_first, _)) if *next_first <= after + 1 => {
                state.sealed.push(SealedFile {
                    first: *first,
                    last: next_first - 1,
                    bytes: file.bytes,
                });
                continue;
            }
            _ => {}
        }
        let limit = match following {
            Some((_, next_file)) => read_header(home, next_file).await?.previous_seq,
            None => Seq::MAX,
        };
        let (summary, marker) = replay_file(home, *first, &mut state.last, after..=limit, each).await?;
        if following.is_some() {
            state.sealed.push(SealedFile {
                first: *first,
                last: summary.next_seq - 1,
                bytes: summary.bytes,
            });
        } else {
            state.next = summary.next_seq.max(state.last + 1);
            state.active = Some(newest(home, &summary, marker).await?);
        }
    }
    // Appending goes on in the newest file only if no number is missing there (a flush may be ahead of a log that lost
    // its end).
    if let Some(active) = state.active.take_if(|active| active.next != state.next) {
        state.sealed.push(SealedFile {
            first: active.first,
            last: active.next - 1,
            bytes: active.len,
        });
    }
    Ok(state)
}

/// The files by first sequence number, from their names.
fn in_order<'a>(home: &Home, files: &'a [WalFile]) -> Result<Vec<(Seq, &'a WalFile)>> {
    let mut ordered = Vec::with_capacity(files.len());
    for file in files {
        match super::first_seq(&file.name) {
            Some(first) => ordered.push((first, file)),
            None => {
                return Err(corruption(
                    &home.display(&file.name),
                    0,
                    &Damage::new("is not named as a log file"),
                ));
            }
        }
    }
    ordered.sort_by_key(|(first, _)| *first);
    Ok(ordered)
}

/// Replays one file; raises `last` to the last number in it that counts.
async fn replay_file(
    home: &Home,
    first: Seq,
    last: &mut Seq,
    wanted: std::ops::RangeInclusive<Seq>,
    each: Replay<'_>,
) -> Result<(FileSummary, SyncMarker)> {
    let name = file_name(first);
    let shown = home.display(&name);
    let bytes = home
        .fs
        .read(&home.path(&name))
        .await
        .map_err(|error| to_error(&error))?;
    let (header, _) = Header::decode(&bytes).map_err(|damage| corruption(&shown, 0, &damage))?;
    check_place(home, &header, first).map_err(|damage| corruption(&shown, 0, &damage))?;
    if header.previous_seq > *last {
        let (from, to) = (*last + 1, header.previous_seq);
        let reason = format!("it continues after entry {to}, but entries {from} to {to} are missing");
        return Err(corruption(&shown, 0, &Damage(reason)));
    }
    let summary = read_log_file(&shown, &bytes, &mut |seq, operation| {
        if seq > *wanted.start() && seq <= *wanted.end() {
            each(seq, operation);
        }
    })?;
    *last = (summary.next_seq - 1).min(*wanted.end()).max(*last);
    Ok((summary, header.marker))
}

/// Whether the file belongs where it was found: a copy under another name or in another collection must not be
/// replayed.
fn check_place(home: &Home, header: &Header, first: Seq) -> Result<(), Damage> {
    if header.first_seq != first {
        return Err(Damage::new(format!(
            "its header says that it begins with entry {}",
            header.first_seq
        )));
    }
    let description: serde_json::Value = serde_json::from_str(&header.description)
        .map_err(|error| Damage::new(format!("its description is not JSON: {error}")))?;
    let collection = description
        .get("id")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("none");
    let place = format!("{collection}/{}", header.shard);
    if home.directory != place {
        return Err(Damage::new(format!("its header says that it belongs to {place}")));
    }
    Ok(())
}

/// The newest file as the one to append to; what a crash left behind its blocks is cut.
async fn newest(home: &Home, summary: &FileSummary, marker: SyncMarker) -> Result<ActiveFile> {
    let name = file_name(summary.first_seq);
    let mut file = ActiveFile {
        path: home.local.join(&name),
        first: summary.first_seq,
        next: summary.next_seq,
        end: summary.valid_bytes,
        len: summary.bytes,
        marker,
        handle: None,
        faults: home.faults.clone(),
    };
    if file.len == file.end {
        return Ok(file);
    }
    let (end, bytes, state) = (file.end, file.len, &summary.end);
    tracing::info!(file = %home.display(&name), end, bytes, %state, "cutting the end of a log file");
    let cut = home.fs.blocking(move || {
        file.seal();
        file
    });
    cut.await.map_err(|error| to_error(&error))
}

/// Reads only the header of a file.
async fn read_header(home: &Home, file: &WalFile) -> Result<Header> {
    let mut read = file.bytes.min(HEADER_READ);
    loop {
        let bytes = home
            .fs
            .read_range(&home.path(&file.name), 0..read)
            .await
            .map_err(|error| to_error(&error))?;
        match Header::decode(&bytes) {
            Ok((header, _)) => return Ok(header),
            Err(damage) if read == file.bytes.min(HEADER_LIMIT) => {
                return Err(corruption(&home.display(&file.name), 0, &damage));
            }
            Err(_) => read = file.bytes.min(HEADER_LIMIT),
        }
    }
}

//! Opening a log: which files to read, and what can be appended to afterwards.
//!
//! Owns the reading of files; their order and the gaps between them are `merge`'s. Reads a file when its turn comes, small ones of
//! buckets ahead.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, Result};
use crate::point::{Operation, Seq};

use super::block::{FORMAT_VERSION, Header};
use super::codec::Damage;
use super::file::ActiveFile;
use super::log::{FileKind, Hole, Log, SealedFile};
use super::merge::{Merge, Reader};
use super::scan::{FileSummary, corruption, read_log_file};
use super::{Home, WalFile};

/// Bytes read to see a header; a longer one is read again with the larger limit.
const HEADER_READ: u64 = 64 * 1024;
const HEADER_LIMIT: u64 = 16 * 1024 * 1024;
/// Files that are looked at side by side.
const READS: usize = 16;
/// Files that are read ahead.
const READ_AHEAD: usize = 8;
/// Of a larger one only the header is. Bytes.
const SMALL_FILE: u64 = 1 << 20;

/// Receives each replayed operation in order.
pub type Replay<'a> = &'a mut (dyn FnMut(Seq, Operation) + Send);

/// A file of the log, by its name.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) home: Home,
    pub(super) name: String,
    pub(super) first: Seq,
    pub(super) bytes: u64,
    /// Its beginning, or all of it, if that is known.
    pub(super) content: Option<Bytes>,
}

impl Found {
    /// The file as messages name it.
    pub(super) fn shown(&self) -> String {
        self.home.display(&self.name)
    }
}

/// The state of a log after replay.
pub(super) struct Replayed {
    /// Files whose entries are all flushed, and that were not read.
    sealed: Vec<SealedFile>,
    /// Files that were read, by first number.
    read: Vec<Reader>,
    /// Last sequence number that counts: replayed or already flushed.
    pub(super) last: Seq,
    /// First sequence number that is free.
    next: Seq,
    /// First sequence number that was not found, all before it counted.
    pub(super) gap: Seq,
}

/// Reads what is small of the newest files on buckets, while it is not yet known which of them are needed: one round of
/// requests less. What fails is read again by the replay.
pub async fn read_ahead(files: &[WalFile], directory: &str) -> Vec<Option<Bytes>> {
    let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    let oldest = names.get(READ_AHEAD - 1).copied().unwrap_or_default();
    join_all(files.iter().map(async |file| {
        let fs = file.root.fs();
        if fs.is_local() || *file.name < *oldest {
            return None;
        }
        let end = if file.bytes <= SMALL_FILE {
            file.bytes
        } else {
            HEADER_READ
        };
        fs.read_range(&format!("{directory}/{}", file.name), 0..end).await.ok()
    }))
    .await
}

/// Reads one file block by block, as a check; changes nothing. `directory` is that of the log, `<collection id>/<shard>`.
///
/// # Errors
/// [`Error::Corruption`] naming the file and the offset, also if it is another log's; errors of the root.
pub async fn check_file(directory: &str, file: &WalFile) -> Result<FileSummary> {
    let found = in_order(&directory.into(), std::slice::from_ref(file))?.pop();
    let found = found.ok_or_else(|| Error::Internal(format!("{directory}: no file to check")))?;
    let bytes = read(&found).await?;
    let shown = found.shown();
    let (header, _) = Header::decode(&bytes).map_err(|damage| corruption(&shown, 0, &damage))?;
    check_place(&found.home, &header, found.first).map_err(|damage| corruption(&shown, 0, &damage))?;
    read_log_file(&shown, &bytes, &mut |_, _| ())
}

/// Reads all files as one sequence, as the next opening of the log will, and changes nothing. Operations up to `after` are
/// flushed.
///
/// # Errors
/// [`Error::Corruption`] naming the file and the offset where acknowledged operations are missing; errors of the root.
pub async fn check_sequence(directory: &str, files: &[WalFile], after: Seq) -> Result<()> {
    let mut each: Replay<'_> = &mut |_, _| ();
    replay(&directory.into(), files, after, &mut each).await.map(drop)
}

/// First number that the log still has, or that it would go on with if everything is flushed; `None` without files. Reads
/// headers, of fences too: only for who has lost the manifest.
///
/// # Errors
/// [`Error::Corruption`] for a damaged header; errors of the roots.
pub async fn log_begins(directory: &str, files: &[WalFile]) -> Result<Option<Seq>> {
    let (mut begins, mut fences) = (None, Vec::new());
    for file in in_order(&directory.into(), files)? {
        if file.home.is_local() {
            return Ok(Some(file.first));
        }
        let header = read_header(&file).await?;
        if let Some(next) = header.author.and_then(|author| author.fence) {
            fences.push((file.first, next));
            begins = Some(header.acknowledged + 1);
        } else if !fences.iter().any(|(at, next)| *at < file.first && file.first < *next) {
            // Behind a fence are only blocks of the writer before, which do not count.
            return Ok(Some(file.first));
        }
    }
    Ok(begins)
}

/// Reads the files and hands every operation after `after` to `each`.
pub(super) async fn replay(
    directory: &Arc<str>,
    files: &[WalFile],
    after: Seq,
    each: &mut Replay<'_>,
) -> Result<Replayed> {
    let files = in_order(directory, files)?;
    let from = first_needed(&files, after).await?;
    let (flushed, needed) = files.split_at(from);
    let last = needed.first().map_or(after, |file| file.first - 1);
    let sealed = flushed.iter().map(|file| SealedFile {
        home: file.home.clone(),
        name: file.name.clone(),
        first: file.first,
        last,
        bytes: file.bytes,
        kind: if file.home.is_local() {
            FileKind::Entries
        } else {
            FileKind::Unread
        },
    });
    let looked_at = futures::stream::iter(needed).map(look_at).buffered(READS);
    let (headers, objects): (Vec<Header>, Vec<Option<Bytes>>) =
        looked_at.try_collect::<Vec<_>>().await?.into_iter().unzip();
    let mut merge = Merge::new(after, &headers);
    let mut waiting = needed.iter().zip(objects);
    let mut upcoming = waiting.next();
    loop {
        // A file is read when the next number may be in it, or when it is in no other.
        let due = upcoming.as_ref().is_some_and(|(file, _)| file.first <= merge.expected);
        if !due && merge.step(each)? {
            continue;
        }
        let Some((file, object)) = upcoming else { break };
        let bytes = match object {
            Some(object) => object,
            None => read(file).await?,
        };
        let reader = Reader::new(file.clone(), bytes, &mut merge.known)?;
        merge.readers.push(reader);
        upcoming = waiting.next();
    }
    let next = merge.finish()?;
    let mut read = merge.done;
    read.sort_by_key(|reader| (reader.header.first_seq, reader.next_seq));
    Ok(Replayed {
        sealed: sealed.collect(),
        read,
        last: merge.last,
        next,
        gap: merge.expected,
    })
}

/// What is read of a file before its turn: its header, of an object all.
async fn look_at(file: &Found) -> Result<(Header, Option<Bytes>)> {
    if file.home.is_local() {
        return Ok((read_header(file).await?, None));
    }
    let bytes = read(file).await?;
    let (header, _) = Header::decode(&bytes).map_err(|damage| corruption(&file.shown(), 0, &damage))?;
    check_place(&file.home, &header, file.first).map_err(|damage| corruption(&file.shown(), 0, &damage))?;
    Ok((header, Some(bytes)))
}

async fn read(file: &Found) -> Result<Bytes> {
    if let Some(all) = file
        .content
        .as_ref()
        .filter(|content| content.len() as u64 == file.bytes)
    {
        return Ok(all.clone());
    }
    let bytes = file.home.root.fs().read(&file.home.path(&file.name)).await;
    bytes.map_err(|error| file.home.error(error))
}

/// The files by first sequence number, from their names.
fn in_order(directory: &Arc<str>, files: &[WalFile]) -> Result<Vec<Found>> {
    let mut ordered = Vec::with_capacity(files.len());
    for file in files {
        let home = Home::new(&file.root, directory);
        let Some(first) = super::first_seq(&file.name) else {
            let damage = Damage::new("is not named as a log file");
            return Err(corruption(&home.display(&file.name), 0, &damage));
        };
        ordered.push(Found {
            home,
            name: file.name.clone(),
            first,
            bytes: file.bytes,
            content: file.content.clone(),
        });
    }
    ordered.sort_by(|a, b| (a.first, &a.name).cmp(&(b.first, &b.name)));
    Ok(ordered)
}

/// Position of the first file that may hold an entry after `after`. A file that began when only one was written has
/// everything before it in older files; so these are flushed if it begins with a flushed number.
async fn first_needed(files: &[Found], after: Seq) -> Result<usize> {
    for (at, file) in files.iter().enumerate().rev() {
        if at > 0 && file.first <= after + 1 && read_header(file).await?.lanes == 1 {
            // Of several files that begin with the same number each may hold it.
            return Ok(files.iter().position(|other| other.first == file.first).unwrap_or(at));
        }
    }
    Ok(0)
}

/// Whether the file belongs where it was found: a copy under another name or in another collection must not be
/// replayed.
pub(super) fn check_place(home: &Home, header: &Header, first: Seq) -> Result<(), Damage> {
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
    if *home.directory != *place {
        return Err(Damage::new(format!("its header says that it belongs to {place}")));
    }
    Ok(())
}

/// Reads only the header of a file.
pub(super) async fn read_header(file: &Found) -> Result<Header> {
    let (home, shown) = (&file.home, file.shown());
    let mut read = file.bytes.min(HEADER_READ);
    loop {
        let bytes = match &file.content {
            Some(beginning) if beginning.len() as u64 >= read => beginning.clone(),
            _ => {
                let bytes = home.root.fs().read_range(&home.path(&file.name), 0..read).await;
                bytes.map_err(|error| home.error(error))?
            }
        };
        match Header::decode(&bytes) {
            Ok((header, _)) => {
                check_place(home, &header, file.first).map_err(|damage| corruption(&shown, 0, &damage))?;
                return Ok(header);
            }
            Err(damage) if read == file.bytes.min(HEADER_LIMIT) => return Err(corruption(&shown, 0, &damage)),
            Err(_) => read = file.bytes.min(HEADER_LIMIT),
        }
    }
}

impl Log {
    /// Takes over what a replay found, and cuts what a crash has left behind the blocks. Appending goes on in the
    /// newest file, if it can. Returns the number that is next.
    pub(super) async fn adopt(&mut self, found: Replayed) -> Seq {
        self.sealed = found.sealed;
        let mut next = found.next;
        let mut is_taken = false;
        let newest = found.read.len();
        for (at, reader) in found.read.into_iter().enumerate() {
            let goes_on = at + 1 == newest && self.goes_on_in(&reader, next);
            is_taken |= !goes_on && (reader.header.first_seq, reader.header.format) == (next, self.format);
            let mut file = self.file_of(&reader);
            if !file.home.is_local() {
                // Never cut, never appended to.
                let kind = if reader.header.is_fence() {
                    FileKind::Fence
                } else {
                    FileKind::Entries
                };
                let sealed = file.as_sealed();
                self.sealed.push(SealedFile { kind, ..sealed });
                continue;
            }
            if reader.len() > reader.end {
                let (file_name, end, bytes) = (reader.found.shown(), reader.end, reader.len());
                tracing::info!(file = file_name, end, bytes, "cutting the end of a log file");
                let (home, before) = (file.home.clone(), file.as_sealed());
                let cut = home.run(self.options.stall, move || {
                    file.cut();
                    file
                });
                // What is not cut now is cut before the file is appended to, or never counts.
                match cut.await {
                    Ok(cut) => file = cut,
                    Err(_) => {
                        self.sealed.push(before);
                        is_taken |= goes_on && reader.header.first_seq == next;
                        continue;
                    }
                }
            }
            let lane = self
                .lanes
                .iter_mut()
                .find(|lane| lane.home.root.id() == file.home.root.id());
            match lane.filter(|_| goes_on && !is_taken) {
                Some(lane) => lane.file = Some(file),
                None => self.sealed.push(file.as_sealed()),
            }
        }
        // Every number begins at most one file.
        if is_taken {
            next += 1;
        }
        if next > self.durable + 1 {
            self.hole = Some(Hole {
                previous: self.durable,
                first: next,
            });
        }
        next
    }

    /// Whether the file can be appended to: it has the present form, and its next number is the log's.
    fn goes_on_in(&self, reader: &Reader, next: Seq) -> bool {
        let header = &reader.header;
        reader.next_seq == next
            && header.format == self.format
            && header.version == FORMAT_VERSION
            && header.lanes == self.width
            && self
                .lanes
                .iter()
                .any(|lane| lane.home.root.id() == reader.found.home.root.id())
    }

    fn file_of(&self, reader: &Reader) -> ActiveFile {
        ActiveFile {
            home: reader.found.home.clone(),
            name: reader.found.name.clone(),
            format: reader.header.format,
            first: reader.header.first_seq,
            next: reader.next_seq,
            end: reader.closing.unwrap_or(reader.end) as u64,
            len: reader.len() as u64,
            closed: reader.closing.is_some() && reader.len() == reader.end,
            marker: reader.header.marker,
            handle: None,
            faults: self.faults.clone(),
        }
    }
}

//! A directory as an object store, durable: when a write, create or delete returns, it survives a power cut.
//!
//! Everything runs on the threads of its own root. Whole files only; the log appends through
//! [`AppendFile`](crate::AppendFile). Does not create its base directory: a missing one may be an unmounted disk.
//!
//! ```text
//! write:   name#1 ─ write ─ fsync ─ rename to name ─ fsync directory      a reader sees old or new
//! create:  name#1 ─ write ─ fsync ─ hard link name (fails if it exists) ─ fsync directory ─ unlink name#1
//! ```
//!
//! `object_store::local` is not used: it never syncs deletes, may acknowledge a file whose new directory another thread
//! has not yet synced, and reads on the threads of whoever asks.

mod multipart;
mod object;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, PutPayload};
use parking_lot::Mutex;

pub use object::LocalDisk;

/// Deepest directory below the base that is listed; our layout needs four. Bounds loops of symbolic links.
const MAX_DEPTH: usize = 16;
/// A staging name is tried this often before a write gives up: each failure is another writer of the same name, a
/// leftover of a killed one, or a directory that was just deleted.
const MAX_STAGING: u32 = 10_000;

/// A directory is listed anew this often when files vanish meanwhile.
const MAX_LISTINGS: usize = 1_000;

/// A name in a directory; size and time of a file, nothing of a directory.
type Entry = (String, Option<std::fs::Metadata>);

/// Files, and the names of directories that were not entered.
type Listed = (Vec<(String, Meta)>, BTreeSet<String>);

struct Disk {
    base: PathBuf,
    /// Held while directories are created and synced. Who finds a directory takes it once, so that nobody acknowledges
    /// a file in a directory that its creator has not synced yet.
    directories: Mutex<()>,
    /// Device of the base once it was seen to be the right one. An unmounted disk leaves a directory of another device.
    device: Mutex<Option<u64>>,
}

impl Disk {
    fn new(base: PathBuf) -> Self {
        Self {
            base,
            directories: Mutex::new(()),
            device: Mutex::new(None),
        }
    }

    /// A path below a missing base, or below a mount point without its disk, says nothing about the file.
    fn explain(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::NotFound => self.check_place().err().unwrap_or(error),
            _ => error,
        }
    }

    fn present_device(&self) -> io::Result<u64> {
        match std::fs::metadata(&self.base) {
            Ok(metadata) if metadata.is_dir() => Ok(metadata.dev()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Err(not_mounted(
                "the directory of the root is missing: is the disk mounted?",
            )),
        }
    }

    /// Fails while the base is missing, or on another device than the one that was settled on.
    fn check_place(&self) -> io::Result<()> {
        let device = self.present_device()?;
        match *self.device.lock() {
            Some(settled) if settled != device => Err(not_mounted(
                "the directory of the root is on another device than before: is the disk mounted?",
            )),
            _ => Ok(()),
        }
    }

    fn put(&self, relative: &str, payload: &PutPayload, create: bool) -> io::Result<()> {
        self.check_place()?;
        let target = self.base.join(relative);
        let directory = target.parent().ok_or(ErrorKind::InvalidInput)?;
        let (file, staging) = self.stage(&target, directory)?;
        let outcome = publish(file, payload, &staging, &target, create);
        if create || outcome.is_err() {
            // A leftover is harmless: it is excluded from listings and removed at the next start.
            let _ = std::fs::remove_file(&staging);
        }
        match outcome {
            // Unmounted meanwhile, the file may be below the mount point, where nobody would find it.
            Ok(()) => sync_directory(directory).and_then(|()| self.check_place()),
            // The winner's entry must be durable before anyone acts on having lost to it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => sync_directory(directory).and(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// Opens a new `<target>#<n>`, creating the directories below the base.
    fn stage(&self, target: &FsPath, directory: &FsPath) -> io::Result<(File, PathBuf)> {
        for n in 1..=MAX_STAGING {
            self.ensure_directory(directory)?;
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{n}"));
            let staging = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&staging) {
                Ok(file) => return Ok((file, staging)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Deleted since it was ensured; the base itself is checked each time.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(ErrorKind::AlreadyExists, "every staging name is taken"))
    }

    /// Creates the missing directories from the base (never the base itself) down to `directory`, each synced.
    fn ensure_directory(&self, directory: &FsPath) -> io::Result<()> {
        let _creating = self.directories.lock();
        if directory.is_dir() {
            return Ok(());
        }
        let below = directory
            .strip_prefix(&self.base)
            .map_err(|_| ErrorKind::InvalidInput)?;
        let mut parent = self.base.clone();
        for segment in below.components() {
            let child = parent.join(segment);
            match std::fs::create_dir(&child) {
                Ok(()) => sync_directory(&parent)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            parent = child;
        }
        if directory.is_dir() {
            Ok(())
        } else {
            Err(ErrorKind::NotFound.into())
        }
    }

    fn get(&self, relative: &str, options: &GetOptions) -> io::Result<(Bytes, Range<u64>, Meta)> {
        let file = File::open(self.base.join(relative))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::NotFound, "not a file"));
        }
        let meta = Meta {
            size: metadata.len(),
            modified: modified(&metadata),
        };
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| io::Error::new(ErrorKind::UnexpectedEof, error.to_string()))?,
            None => 0..meta.size,
        };
        if options.head {
            return Ok((Bytes::new(), range, meta));
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok((bytes.into(), range, meta))
    }

    fn remove(&self, relative: &str) -> io::Result<()> {
        self.check_place()?;
        let target = self.base.join(relative);
        let directory = target.parent().ok_or(ErrorKind::InvalidInput)?;
        match std::fs::remove_file(&target) {
            Ok(()) => sync_directory(directory),
            // Perhaps removed by a process that died before its sync: make it true now.
            Err(error) if error.kind() == ErrorKind::NotFound && directory.is_dir() => sync_directory(directory),
            Err(error) if error.kind() == ErrorKind::NotFound && self.base.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove_tree(&self, relative: &str) -> io::Result<u64> {
        self.check_place()?;
        let target = self.base.join(relative);
        let parent = target.parent().ok_or(ErrorKind::InvalidInput)?;
        let mut found = Vec::new();
        match self
            .walk(relative, MAX_DEPTH, &mut found, &mut BTreeSet::new())
            .and_then(|()| std::fs::remove_dir_all(&target))
        {
            Ok(()) => sync_directory(parent)?,
            // As for a single file: an earlier removal may not be synced yet.
            Err(error) if error.kind() == ErrorKind::NotFound && parent.is_dir() => sync_directory(parent)?,
            Err(error) if error.kind() == ErrorKind::NotFound && self.base.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(found.len() as u64)
    }

    /// The files below `relative`, and the names of directories that were not entered. What is not there is not empty.
    fn list(&self, relative: &str, depth: usize) -> io::Result<Listed> {
        let (mut files, mut directories) = (Vec::new(), BTreeSet::new());
        self.walk(relative, depth, &mut files, &mut directories)?;
        self.check_place()?;
        Ok((files, directories))
    }

    /// Adds the files below `relative`, and the names of directories that were not entered.
    fn walk(
        &self,
        relative: &str,
        depth: usize,
        files: &mut Vec<(String, Meta)>,
        directories: &mut BTreeSet<String>,
    ) -> io::Result<()> {
        let entries = match entries(&self.base.join(relative)) {
            Ok(entries) => entries,
            // Missing below an existing base is empty, as in a bucket. A missing base is an error.
            Err(error) if error.kind() == ErrorKind::NotFound && !relative.is_empty() && self.base.is_dir() => {
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(()),
            Err(error) => return Err(error),
        };
        for (name, metadata) in entries {
            let path = if relative.is_empty() {
                name.to_owned()
            } else {
                format!("{relative}/{name}")
            };
            if let Some(metadata) = metadata {
                files.push((
                    path,
                    Meta {
                        size: metadata.len(),
                        modified: modified(&metadata),
                    },
                ));
            } else if depth > 1 {
                self.walk(&path, depth - 1, files, directories)?;
            } else {
                directories.insert(path);
            }
        }
        Ok(())
    }
}

fn not_mounted(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::NotConnected, reason)
}

/// Writes, syncs and closes the staged file, then gives it its name.
fn publish(mut file: File, payload: &PutPayload, staging: &FsPath, target: &FsPath, create: bool) -> io::Result<()> {
    for part in payload {
        file.write_all(part)?;
    }
    file.sync_all()?;
    drop(file);
    if create {
        std::fs::hard_link(staging, target)
    } else {
        std::fs::rename(staging, target)
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &FsPath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates `directory` and its missing parents, and syncs every directory that got a new entry.
/// Returns whether anything was created.
pub(crate) fn create_directories(directory: &FsPath) -> io::Result<bool> {
    if directory.is_dir() {
        return Ok(false);
    }
    let parent = directory.parent().ok_or(ErrorKind::NotFound)?;
    create_directories(parent)?;
    match std::fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_directory(parent)?;
    Ok(true)
}

/// The names in a directory as of one moment, if it has no more than some dozens of them (one system call): were a name
/// left out that vanished before it was looked at, a listing could show neither a version nor the one that replaced it.
fn entries(directory: &FsPath) -> io::Result<Vec<Entry>> {
    for _ in 0..MAX_LISTINGS {
        if let Some(entries) = try_entries(directory)? {
            return Ok(entries);
        }
    }
    let reason = format!(
        "{}: its files change faster than they can be listed",
        directory.display()
    );
    Err(io::Error::new(ErrorKind::TimedOut, reason))
}

/// `None` when a file vanished meanwhile that was not a staging file.
fn try_entries(directory: &FsPath) -> io::Result<Option<Vec<Entry>>> {
    let found: Vec<std::fs::DirEntry> = std::fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    let mut entries = Vec::with_capacity(found.len());
    for entry in found {
        // The kind comes with the entry; only a file's size has to be asked for.
        if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_dir()) {
            entries.push((name, None));
            continue;
        }
        match (entry.file_name().into_string(), metadata_of(&entry)?) {
            (Ok(name), Some(metadata)) => entries.push((name, Some(metadata).filter(|metadata| !metadata.is_dir()))),
            (Ok(name), None) if !name.contains('#') && !entry.path().is_symlink() => return Ok(None),
            (Ok(_), None) => {}
            (Err(name), _) => {
                tracing::warn!(directory = %directory.display(), ?name, "ignored: the name is not UTF-8");
            }
        }
    }
    Ok(Some(entries))
}

/// Size and kind of an entry, symbolic links followed; `None` when it vanished or points nowhere.
fn metadata_of(entry: &std::fs::DirEntry) -> io::Result<Option<std::fs::Metadata>> {
    let metadata = match entry.metadata() {
        Ok(metadata) if metadata.is_symlink() => std::fs::metadata(entry.path()),
        other => other,
    };
    match metadata {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct Meta {
    size: u64,
    modified: DateTime<Utc>,
}

impl Meta {
    fn of(self, location: Path) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: self.modified,
            size: self.size,
            e_tag: None,
            version: None,
        }
    }
}

fn modified(metadata: &std::fs::Metadata) -> DateTime<Utc> {
    metadata.modified().map(DateTime::from).unwrap_or_default()
}

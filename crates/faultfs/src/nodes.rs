//! What the kernel holds on to: files and directories it looked up, and those it opened.
//!
//! A node is kept as a path descriptor (`O_PATH`), as hard links and renames leave no path that stays true.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileHandle, FileType, INodeNo};
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// A directory entry as it is listed: number, kind, name.
pub type Entry = (INodeNo, FileType, std::ffi::OsString);

/// Something that is open.
pub enum Open {
    /// A file.
    File(File),
    /// A directory, with its entries as of when it was opened.
    Directory(File, Vec<Entry>),
}

/// Nodes and open files by number.
pub struct Nodes {
    root: Arc<File>,
    known: Mutex<HashMap<INodeNo, (Arc<File>, u64)>>,
    open: Mutex<(u64, HashMap<FileHandle, Arc<Open>>)>,
}

impl Nodes {
    /// Those of a directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let root = openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self {
            root: Arc::new(File::from(root)),
            known: Mutex::default(),
            open: Mutex::default(),
        })
    }

    /// The path descriptor of a node.
    ///
    /// # Errors
    /// `ENOENT` if the kernel does not know it.
    pub fn get(&self, ino: INodeNo) -> io::Result<Arc<File>> {
        if ino == INodeNo::ROOT {
            return Ok(self.root.clone());
        }
        let known = self.known.lock();
        known
            .get(&ino)
            .map(|(node, _)| node.clone())
            .ok_or_else(|| rustix::io::Errno::NOENT.into())
    }

    /// Looks a name up; the kernel knows it from now on.
    ///
    /// # Errors
    /// As `openat`.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let parent = self.get(parent)?;
        let node: OwnedFd = openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let node = File::from(node);
        let attributes = attributes(&node.metadata()?);
        let mut known = self.known.lock();
        let (_, lookups) = known.entry(attributes.ino).or_insert_with(|| (Arc::new(node), 0));
        *lookups += 1;
        Ok(attributes)
    }

    /// The kernel forgot that many lookups.
    pub fn forget(&self, ino: INodeNo, count: u64) {
        let mut known = self.known.lock();
        if let Some((_, lookups)) = known.get_mut(&ino) {
            *lookups = lookups.saturating_sub(count);
            if *lookups == 0 {
                known.remove(&ino);
            }
        }
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn attributes(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let mut attributes = attributes(&self.get(ino)?.metadata()?);
        attributes.ino = ino;
        Ok(attributes)
    }

    /// Keeps something open.
    pub fn keep(&self, open: Open) -> FileHandle {
        let (last, handles) = &mut *self.open.lock();
        *last += 1;
        handles.insert(FileHandle(*last), Arc::new(open));
        FileHandle(*last)
    }

    /// What is open under a number.
    ///
    /// # Errors
    /// `EBADF` if nothing is.
    pub fn opened(&self, handle: FileHandle) -> io::Result<Arc<Open>> {
        let open = self.open.lock();
        open.1
            .get(&handle)
            .cloned()
            .ok_or_else(|| rustix::io::Errno::BADF.into())
    }

    /// Closes.
    pub fn close(&self, handle: FileHandle) {
        let closed = self.open.lock().1.remove(&handle);
        drop(closed);
    }
}

impl Open {
    /// The file or directory itself.
    pub fn file(&self) -> &File {
        match self {
            Self::File(file) | Self::Directory(file, _) => file,
        }
    }
}

/// A path by which a path descriptor can be opened.
pub fn path_of(node: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", node.as_raw_fd()))
}

/// Number of an inode of the backing directory; 1 is the root.
pub fn number(backing: u64) -> INodeNo {
    INodeNo(backing.wrapping_add(1))
}

fn attributes(metadata: &Metadata) -> FileAttr {
    let changed = u64::try_from(metadata.ctime()).unwrap_or(0);
    FileAttr {
        ino: number(metadata.ino()),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH),
        mtime: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        ctime: SystemTime::UNIX_EPOCH + Duration::from_secs(changed),
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0o600),
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

//! The file system: every operation passes the gate and then goes to the backing directory.
//!
//! Nothing is cached by the kernel, so that every read and write comes by here. Locks (`flock`) are the kernel's own.

use std::ffi::OsStr;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, CWD, Mode, OFlags};

use crate::answer::{FIRST, TTL, attributes, empty, entry, opened as answer_open};
use crate::faults::{Gate, Kind};
use crate::nodes::{Nodes, Open, number, path_of};

/// A directory behind a gate.
pub struct Passthrough {
    nodes: Nodes,
    gate: Arc<Gate>,
}

impl Passthrough {
    /// The directory's content, with the faults of `gate`.
    pub fn new(nodes: Nodes, gate: Arc<Gate>) -> Self {
        Self { nodes, gate }
    }

    /// Passes the gate, then does the work.
    fn run<T>(&self, kind: Kind, bytes: usize, work: impl FnOnce() -> io::Result<T>) -> Result<T, Errno> {
        self.gate.pass(kind, bytes)?;
        work().map_err(Errno::from)
    }

    fn open_node(&self, ino: INodeNo, flags: OFlags) -> io::Result<File> {
        let node = self.nodes.get(ino)?;
        Ok(File::from(sys::openat(CWD, path_of(&node), flags, Mode::empty())?))
    }

    fn open_directory(&self, ino: INodeNo) -> io::Result<FileHandle> {
        let directory = self.open_node(ino, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in sys::Dir::read_from(&directory)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                sys::FileType::Directory => FileType::Directory,
                sys::FileType::Symlink => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            entries.push((number(entry.ino()), kind, name));
        }
        Ok(self.nodes.keep(Open::Directory(directory, entries)))
    }

    fn make_directory(&self, parent: INodeNo, name: &OsStr, mode: u32) -> io::Result<FileAttr> {
        sys::mkdirat(self.nodes.get(parent)?, name, Mode::from_raw_mode(mode))?;
        self.nodes.look_up(parent, name)
    }

    fn make_file(&self, parent: INodeNo, name: &OsStr, mode: u32, flags: i32) -> io::Result<(FileAttr, FileHandle)> {
        let flags = OFlags::from_bits_retain(flags.cast_unsigned()) - OFlags::APPEND - OFlags::DIRECT;
        let directory = self.nodes.get(parent)?;
        let file = sys::openat(directory, name, flags | OFlags::CREATE, Mode::from_raw_mode(mode))?;
        let handle = self.nodes.keep(Open::File(File::from(file)));
        self.nodes
            .look_up(parent, name)
            .map(|attributes| (attributes, handle))
            .inspect_err(|_| self.nodes.close(handle))
    }

    fn make_link(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (node, directory) = (self.nodes.get(ino)?, self.nodes.get(parent)?);
        sys::linkat(CWD, path_of(&node), directory, name, AtFlags::SYMLINK_FOLLOW)?;
        self.nodes.look_up(parent, name)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        Ok(sys::unlinkat(self.nodes.get(parent)?, name, flags)?)
    }

    fn change(&self, ino: INodeNo, change: Change) -> io::Result<FileAttr> {
        let path = path_of(&*self.nodes.get(ino)?);
        if let Some(mode) = change.mode {
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            std::os::unix::fs::chown(&path, change.uid, change.gid)?;
        }
        match (change.size, change.handle) {
            (Some(size), Some(handle)) => self.nodes.opened(handle)?.file().set_len(size)?,
            (Some(size), None) => OpenOptions::new().write(true).open(&path)?.set_len(size)?,
            (None, _) => {}
        }
        let mut times = FileTimes::new();
        if let Some(accessed) = change.accessed {
            times = times.set_accessed(time(accessed));
        }
        if let Some(modified) = change.modified {
            times = times.set_modified(time(modified));
        }
        if change.accessed.is_some() || change.modified.is_some() {
            File::open(&path)?.set_times(times)?;
        }
        self.nodes.attributes(ino)
    }

    fn sync(&self, handle: FileHandle, data_only: bool) -> io::Result<()> {
        let open = self.nodes.opened(handle)?;
        if data_only {
            open.file().sync_data()
        } else {
            open.file().sync_all()
        }
    }
}

/// Attributes to set.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    accessed: Option<TimeOrNow>,
    modified: Option<TimeOrNow>,
    handle: Option<FileHandle>,
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Passthrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.run(Kind::Look, 0, || self.nodes.look_up(parent, name)), reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.nodes.forget(ino, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.run(Kind::Look, 0, || self.nodes.attributes(ino)), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
            accessed,
            modified,
            handle,
        };
        attributes(self.run(Kind::Write, 0, || self.change(ino, change)), reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let made = self.run(Kind::Write, 0, || self.make_directory(parent, name, mode));
        entry(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.run(Kind::Write, 0, || self.remove(parent, name, AtFlags::empty()));
        empty(removed, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.run(Kind::Write, 0, || self.remove(parent, name, AtFlags::REMOVEDIR));
        empty(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.run(Kind::Write, 0, || {
            let flags = sys::RenameFlags::from_bits_retain(flags.bits());
            let (from, to) = (self.nodes.get(parent)?, self.nodes.get(new_parent)?);
            Ok(sys::renameat_with(from, name, to, new_name, flags)?)
        });
        empty(renamed, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.run(Kind::Write, 0, || self.make_link(ino, parent, name)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // The rest was done by the kernel (truncation among it), or is not for us.
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned()) & (OFlags::RDWR | OFlags::WRONLY);
        let opened = self.run(Kind::Read, 0, || {
            self.open_node(ino, flags).map(|file| self.nodes.keep(Open::File(file)))
        });
        answer_open(opened, FopenFlags::FOPEN_DIRECT_IO, reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, flags: i32, reply: ReplyCreate) {
        match self.run(Kind::Write, 0, || self.make_file(parent, name, mode, flags)) {
            Ok((attributes, handle)) => reply.created(&TTL, &attributes, FIRST, handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let length = bytes.len();
        let read = self.run(Kind::Read, length, || {
            let open = self.nodes.opened(handle)?;
            let mut end = 0;
            while let Some(rest) = bytes.get_mut(end..).filter(|rest| !rest.is_empty()) {
                match open.file().read_at(rest, offset + end as u64)? {
                    0 => break,
                    count => end += count,
                }
            }
            Ok(end)
        });
        match read {
            Ok(end) => reply.data(bytes.get(..end).unwrap_or(&[])),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.run(Kind::Write, data.len(), || {
            self.nodes.opened(handle)?.file().write_at(data, offset)
        });
        match written {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.run(Kind::Write, 0, || {
            let flags = sys::FallocateFlags::from_bits_retain(mode.cast_unsigned());
            let open = self.nodes.opened(handle)?;
            Ok(sys::fallocate(open.file(), flags, offset, length)?)
        });
        empty(allocated, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        empty(self.gate.pass(Kind::Close, 0), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.nodes.close(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        empty(self.run(Kind::Write, 0, || self.sync(handle, data_only)), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.run(Kind::Read, 0, || self.open_directory(ino));
        answer_open(opened, FopenFlags::empty(), reply);
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let open = match self.run(Kind::Look, 0, || self.nodes.opened(handle)) {
            Ok(open) => open,
            Err(error) => return reply.error(error),
        };
        if let Open::Directory(_, entries) = &*open {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            for (position, (ino, kind, name)) in entries.iter().enumerate().skip(start) {
                if reply.add(*ino, position as u64 + 1, *kind, name) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.nodes.close(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        empty(self.run(Kind::Write, 0, || self.sync(handle, data_only)), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let stat = self.run(Kind::Look, 0, || {
            Ok(sys::fstatvfs(self.open_node(INodeNo::ROOT, OFlags::RDONLY)?)?)
        });
        match stat {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap_or(4096),
                u32::try_from(stat.f_namemax).unwrap_or(255),
                u32::try_from(stat.f_frsize).unwrap_or(4096),
            ),
            Err(error) => reply.error(error),
        }
    }
}

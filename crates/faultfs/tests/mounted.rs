//! A mounted `faultfs`: everything a root does to its disk, and each of the faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

struct Mounted {
    directory: TempDir,
    process: Child,
}

impl Mounted {
    /// `None`, with a message, where file systems cannot be mounted.
    fn new() -> Option<Self> {
        if !PathBuf::from("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs /dev/fuse and root");
            return None;
        }
        let directory = TempDir::new().unwrap();
        for name in ["backing", "mount"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let at = |name: &str| directory.path().join(name);
        let mut process = Command::new(env!("CARGO_BIN_EXE_faultfs"))
            .args([at("backing"), at("mount"), at("control")])
            .spawn()
            .unwrap();
        let device = |path| std::fs::metadata(path).unwrap().dev();
        while device(at("mount")) == device(directory.path().to_owned()) {
            if process.try_wait().unwrap().is_some() {
                eprintln!("skipped: mounting is not permitted here");
                return None;
            }
        }
        let mounted = Self { directory, process };
        mounted.set("");
        Some(mounted)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("mount").join(name)
    }

    /// Puts faults in force.
    fn set(&self, text: &str) {
        let control = self.directory.path().join("control");
        std::fs::write(control.with_extension("next"), text).unwrap();
        std::fs::rename(control.with_extension("next"), &control).unwrap();
        let applied = self.directory.path().join("control.applied");
        let start = Instant::now();
        while std::fs::read_to_string(&applied).ok().as_deref() != Some(text) {
            assert!(start.elapsed() < Duration::from_secs(60), "faultfs does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.directory.path().join("mount"), UnmountFlags::DETACH);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn files_and_directories_behave_as_on_the_disk_below() {
    let Some(disk) = Mounted::new() else { return };
    let (a, b) = (disk.path("d/a"), disk.path("d/b"));
    assert_eq!(File::create(&a).unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::create_dir_all(disk.path("d/e")).unwrap();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&a)
        .unwrap();
    let again = OpenOptions::new().write(true).create_new(true).open(&a);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    file.write_all(&[7; 3_000_000]).unwrap();
    file.write_all_at(b"hello", 10).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    file.set_len(15).unwrap();
    assert_eq!(
        std::fs::read(&a).unwrap(),
        b"\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07hello"
    );

    std::fs::hard_link(&a, &b).unwrap();
    assert_eq!(std::fs::hard_link(&a, &b).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::metadata(&b).unwrap().nlink(), 2);
    std::fs::remove_file(&a).unwrap();
    std::fs::rename(&b, disk.path("d/c")).unwrap();
    file.write_all_at(b"!", 15).unwrap();
    assert_eq!(
        std::fs::read(disk.path("d/c")).unwrap().last(),
        Some(&b'!'),
        "the same file by another name"
    );
    File::open(disk.path("d")).unwrap().sync_all().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(disk.path("d"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["c", "e"]);
    std::fs::remove_dir(disk.path("d/e")).unwrap();
    assert_eq!(
        std::fs::remove_dir(disk.path("d")).unwrap_err().kind(),
        ErrorKind::DirectoryNotEmpty
    );
    std::fs::write(disk.path("d/c"), b"short").unwrap();
    assert_eq!(std::fs::read(disk.path("d/c")).unwrap(), b"short", "truncated");
    assert!(statvfs(disk.path("d")).unwrap().f_blocks > 0);
    let backing = disk.directory.path().join("backing/d/c");
    assert_eq!(std::fs::read(backing).unwrap(), b"short");

    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let second = File::open(disk.path("d/c")).unwrap();
    assert!(flock(&second, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(file);
    std::fs::remove_dir_all(disk.path("d")).unwrap();
}

#[test]
fn errors_are_those_that_were_asked_for_and_end_with_the_fault() {
    let Some(disk) = Mounted::new() else { return };
    let file = disk.path("a");
    std::fs::write(&file, b"kept").unwrap();
    for (name, kind) in [
        ("ENOSPC", ErrorKind::StorageFull),
        ("EROFS", ErrorKind::ReadOnlyFilesystem),
    ] {
        disk.set(&format!("error {name}"));
        assert_eq!(std::fs::write(disk.path("b"), b"x").unwrap_err().kind(), kind);
        assert_eq!(std::fs::hard_link(&file, disk.path("c")).unwrap_err().kind(), kind);
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }
    disk.set("error_read EIO");
    assert_eq!(std::fs::read(&file).unwrap_err().raw_os_error(), Some(5));
    disk.set("");
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}

#[test]
fn what_hangs_goes_on_when_the_fault_ends_and_a_rate_holds_bytes_back() {
    let Some(disk) = Mounted::new() else { return };
    let file = disk.path("a");
    std::fs::write(&file, b"before").unwrap();
    disk.set("hang");
    let (done, finished) = mpsc::channel();
    for n in 0..100 {
        let (done, path) = (done.clone(), disk.path(&format!("new{n}")));
        std::thread::spawn(move || done.send(std::fs::write(path, b"after")));
    }
    assert_eq!(
        finished.recv_timeout(Duration::from_millis(100)).unwrap_err(),
        RecvTimeoutError::Timeout
    );
    disk.set("");
    for _ in 0..100 {
        finished.recv().unwrap().unwrap();
    }
    disk.set("rate 1000000");
    let start = Instant::now();
    std::fs::write(&file, vec![1; 500_000]).unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(450),
        "a lower bound holds on any machine"
    );
}

//! One process per local root: an exclusive `flock` on `_proximadb/lock`. The kernel releases it when the process dies.
//! While it is held the file stays open, so that a plain `umount` of the disk is refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// Where the lock is, below the base directory of the root.
pub const LOCK_PATH: &str = "_proximadb/lock";

/// A lock that was given up may still be held for a moment, by a child of its process that has not become another program yet.
const PATIENCE: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(10);

/// Why a root could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another process{0} uses this root: stop it first")]
    Taken(String),
    /// The lock file cannot be opened.
    #[error("the lock file cannot be opened: {0}")]
    Io(#[from] io::Error),
}

/// Exclusive use of a local root until dropped.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the lock of the root at `base`, whose `_proximadb` directory exists. Blocking: disk access, and a moment for another holder.
    ///
    /// # Errors
    /// [`LockError::Taken`] when another process (or another handle of this one) has it.
    pub fn acquire(base: &Path) -> Result<Self, LockError> {
        let path = base.join(LOCK_PATH);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let began = Instant::now();
        let taken = loop {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            if locked != Err(Errno::WOULDBLOCK) || began.elapsed() >= PATIENCE {
                break locked;
            }
            thread::sleep(STEP);
        };
        match taken {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // Only a hint for the message.
                let _ = file.read_to_string(&mut pid);
                let hint = pid
                    .trim()
                    .parse::<u32>()
                    .map(|pid| format!(" (pid {pid})"))
                    .unwrap_or_default();
                return Err(LockError::Taken(hint));
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
        // The hint may be missing on a full disk; the lock holds all the same.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_second_one_is_told_who_has_the_root_and_gets_it_after_release() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("_proximadb")).unwrap();
        let first = RootLock::acquire(dir.path()).unwrap();
        let message = RootLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("another process (pid {})", std::process::id())),
            "{message}"
        );
        drop(first);
        RootLock::acquire(dir.path()).unwrap();
    }
}

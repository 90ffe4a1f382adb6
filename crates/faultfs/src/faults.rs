//! The faults in force, and the gate that every operation passes.
//!
//! ```text
//! delay_ms 5        every operation takes 5 ms longer (looking up names and attributes aside)
//! rate 4000000      reads and writes together move at most so many bytes a second
//! hang              operations wait until this line is gone
//! error ENOSPC      what changes the disk fails: EIO, ENOSPC or EROFS
//! error_read EIO    what reads it fails
//! ```

use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::{Condvar, Mutex};

/// What an operation does to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Finds names and attributes: hangs, and never fails.
    Look,
    /// Opens, reads or lists.
    Read,
    /// Creates, changes or removes.
    Write,
    /// Closes: never waits, so that a process can end.
    Close,
}

/// The faults of a control file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    delay: Duration,
    rate: Option<u64>,
    hang: bool,
    error: Option<Errno>,
    error_read: Option<Errno>,
}

impl Faults {
    /// Reads a control file; an empty one means no faults.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let wrong = || format!("not understood: `{line}`");
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let number = || value.trim().parse::<u64>().map_err(|_| wrong());
            match key {
                "delay_ms" => faults.delay = Duration::from_millis(number()?),
                "rate" => faults.rate = Some(number()?).filter(|rate| *rate > 0),
                "hang" if value.is_empty() => faults.hang = true,
                "error" => faults.error = Some(errno(value).ok_or_else(wrong)?),
                "error_read" => faults.error_read = Some(errno(value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(faults)
    }
}

fn errno(name: &str) -> Option<Errno> {
    match name.trim() {
        "EIO" => Some(Errno::EIO),
        "ENOSPC" => Some(Errno::ENOSPC),
        "EROFS" => Some(Errno::EROFS),
        _ => None,
    }
}

/// Where operations wait for the faults.
#[derive(Debug, Default)]
pub struct Gate {
    faults: Mutex<Faults>,
    changed: Condvar,
    /// When the bytes that were let through so far have passed at the present rate.
    paid_until: Mutex<Option<Instant>>,
}

impl Gate {
    /// Puts other faults in force; operations that hang go on if these do not hang.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
        self.changed.notify_all();
    }

    /// Returns when an operation that moves `bytes` may go on.
    ///
    /// # Errors
    /// The error it has to fail with.
    pub fn pass(&self, kind: Kind, bytes: usize) -> Result<(), Errno> {
        if kind == Kind::Close {
            return Ok(());
        }
        let faults = {
            let mut faults = self.faults.lock();
            while faults.hang {
                self.changed.wait(&mut faults);
            }
            *faults
        };
        let error = match kind {
            Kind::Read => faults.error_read,
            Kind::Write => faults.error,
            Kind::Look | Kind::Close => return Ok(()),
        };
        if let Some(rate) = faults.rate.filter(|_| bytes > 0) {
            std::thread::sleep(self.pay(bytes, rate));
        }
        std::thread::sleep(faults.delay);
        error.map_or(Ok(()), Err)
    }

    /// How long `bytes` have to wait behind those before them.
    fn pay(&self, bytes: usize, rate: u64) -> Duration {
        let now = Instant::now();
        let mut paid_until = self.paid_until.lock();
        let start = paid_until.map_or(now, |until| until.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *paid_until = Some(end);
        end - now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_control_file_is_read_line_by_line_and_a_wrong_line_is_named() {
        let faults = Faults::parse("delay_ms 5\nrate 100\n\nhang\nerror ENOSPC\nerror_read EIO\n").unwrap();
        assert_eq!((faults.delay, faults.rate), (Duration::from_millis(5), Some(100)));
        assert!(faults.hang && faults.error == Some(Errno::ENOSPC) && faults.error_read == Some(Errno::EIO));
        assert_eq!(Faults::parse("").unwrap(), Faults::default());
        for wrong in ["hang 3", "rate", "rate -1", "error EPERM", "slow"] {
            assert!(Faults::parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn bytes_wait_behind_those_before_them_and_only_what_changes_the_disk_fails() {
        let gate = Gate::default();
        assert!(gate.pay(1_000, 1_000) >= Duration::from_millis(900));
        assert!(gate.pay(1_000, 1_000) >= Duration::from_millis(1_900));
        gate.set(Faults::parse("error EROFS").unwrap());
        assert_eq!(gate.pass(Kind::Write, 0), Err(Errno::EROFS));
        assert_eq!(gate.pass(Kind::Read, 9), Ok(()));
        gate.set(Faults::parse("hang").unwrap());
        assert_eq!(gate.pass(Kind::Close, 0), Ok(()));
    }
}

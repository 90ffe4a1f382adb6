//! `faultfs <backing directory> <mount point> <control file>`: a FUSE passthrough that fails as the control file says.
//!
//! A test tool, no part of ProximaDB. The control file is read again when it changes; `<control file>.applied` then holds
//! the text that is in force, so that a test can wait for it. A text that is not understood changes nothing. Operations
//! that hang keep a thread each; the control does not depend on them. SIGTERM unmounts. Needs `/dev/fuse` and root.

mod answer;
mod faults;
mod nodes;
mod passthrough;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, MountOption, Session};
use rustix::mount::UnmountFlags;
use tokio::signal::unix::{SignalKind, signal};

use faults::{Faults, Gate};
use nodes::Nodes;
use passthrough::Passthrough;

/// Operations at a time; more wait in the kernel.
const THREADS: usize = 32;
/// How often the control file is looked at.
const POLL: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [backing, mount_point, control] = arguments.as_slice() else {
        eprintln!("usage: faultfs <backing directory> <mount point> <control file>");
        return ExitCode::FAILURE;
    };
    match run(backing, mount_point, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faultfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(backing: &Path, mount_point: &Path, control: &Path) -> io::Result<()> {
    let gate = Arc::new(Gate::default());
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("faultfs".to_owned())];
    config.n_threads = Some(THREADS);
    let session = Session::new(
        Passthrough::new(Nodes::of(backing)?, gate.clone()),
        mount_point,
        &config,
    )?;
    // Ends with the process: joining it would wait for operations that hang.
    let _serving = session.spawn()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(control, &gate))?;
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH)?;
    std::process::exit(0)
}

/// Puts in force what the control file says, until SIGTERM.
async fn follow(control: &Path, gate: &Gate) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut applied = control.as_os_str().to_owned();
    applied.push(".applied");
    let mut last = None;
    loop {
        let text = std::fs::read_to_string(control).unwrap_or_default();
        if last.as_ref() != Some(&text) {
            match Faults::parse(&text) {
                Ok(faults) => {
                    gate.set(faults);
                    std::fs::write(&applied, &text)?;
                }
                Err(reason) => eprintln!("faultfs: {}: {reason}", control.display()),
            }
            last = Some(text);
        }
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

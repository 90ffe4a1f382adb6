//! Threads of one root. A disk that hangs keeps these and no others.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinHandle};

/// Most threads of one root: enough for parallel syncs of an SSD, few enough that sixteen hanging disks are no danger.
/// Further work waits in line.
const MAX_THREADS: usize = 32;

/// A bounded pool of blocking threads that start on demand and end when idle.
pub(crate) struct Pool {
    /// Never driven: only its blocking pool is used, which costs no thread while idle.
    runtime: Option<Runtime>,
}

impl Pool {
    pub(crate) fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(MAX_THREADS)
            .thread_name("root-io")
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `work` on a thread of this pool and waits for it. When nobody waits any more, work that has not begun is taken
    /// back: behind threads that hang, it would only pile up.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match &self.runtime {
            Some(runtime) => Waiting(runtime.spawn_blocking(in_callers_runtime(work))).await,
            None => unreachable!("the runtime is taken in drop only"),
        }
    }

    /// Runs `work` on a thread of this pool; nobody waits.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn_blocking(in_callers_runtime(work));
        }
    }
}

/// The outcome of work; dropped, the work is taken back if it has not begun.
struct Waiting<T>(JoinHandle<T>);

impl<T> Future for Waiting<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A task spawned by `work` belongs to the caller's runtime: on the pool's own, which nobody drives, it would never run.
fn in_callers_runtime<T>(work: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T + Send + 'static {
    let caller = Handle::try_current().ok();
    move || {
        let _entered = caller.as_ref().map(Handle::enter);
        work()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting here would hang with the disk, and is not allowed inside a task.
            runtime.shutdown_background();
        }
    }
}

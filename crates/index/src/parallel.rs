//! Work on all cores.

use std::ops::Range;
use std::thread;

/// Does the work of `0..count` on all cores, a range each; the results in order.
pub(crate) fn in_parallel<T: Send>(count: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let range = |core: usize| core * count / cores..(core + 1) * count / cores;
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (1..cores).map(|core| scope.spawn(move || work(range(core)))).collect();
        let mut results = vec![work(range(0))];
        // A panic of a part is one of the whole.
        results.extend(
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
        results
    })
}

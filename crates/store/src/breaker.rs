//! Whether a root answers at all. A disk that hangs must not collect threads and requests: after the first operation that
//! ran out of time the others fail at once, until a look at the root comes back.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What every operation may take, whatever it moves.
const PATIENCE: Duration = Duration::from_secs(10);
/// The deletion of a directory visits many files.
const TREE_PATIENCE: Duration = Duration::from_secs(30);
/// The listing of a whole root visits all of them; buckets list about 1,000 a request.
const ROOT_PATIENCE: Duration = Duration::from_secs(120);
/// A root that moves fewer bytes a second than this does not answer.
const SLOWEST: u64 = 4 << 20;

/// The time an operation may take that moves so many bytes.
pub(crate) fn deadline(bytes: u64) -> Duration {
    PATIENCE + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST)
}

/// The time the deletion of a directory may take.
pub(crate) fn tree_deadline() -> Duration {
    TREE_PATIENCE
}

/// The time a listing below `prefix` may take.
pub(crate) fn listing_deadline(prefix: &str) -> Duration {
    if prefix.is_empty() {
        ROOT_PATIENCE
    } else {
        TREE_PATIENCE
    }
}

/// Set while the root does not answer.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    silent_since: Mutex<Option<Instant>>,
}

impl Breaker {
    /// An operation that began then has not come back in time.
    pub(crate) fn trip(&self, began: Instant) {
        let mut silent_since = self.silent_since.lock();
        *silent_since = Some(silent_since.map_or(began, |earlier| earlier.min(began)));
    }

    /// The root answers.
    pub(crate) fn close(&self) {
        *self.silent_since.lock() = None;
    }

    /// How long the root has not answered; `None` if it does.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        (*self.silent_since.lock()).map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn k3_a_root_is_silent_since_its_oldest_lost_operation_until_it_answers() {
        let breaker = Breaker::default();
        assert_eq!(breaker.silent_for(), None);
        let now = Instant::now();
        breaker.trip(now);
        breaker.trip(now.checked_sub(Duration::from_secs(60)).unwrap());
        breaker.trip(now);
        assert!(breaker.silent_for().unwrap() >= Duration::from_secs(60));
        breaker.close();
        assert_eq!(breaker.silent_for(), None);
    }

    #[test]
    fn k3_large_files_get_more_time() {
        assert_eq!(deadline(0), Duration::from_secs(10));
        assert_eq!(deadline(256 << 20), Duration::from_secs(74));
        assert!(deadline(u64::MAX) > Duration::from_secs(3600));
    }
}

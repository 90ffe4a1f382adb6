//! When a block leaves for a bucket, where every object costs money and takes tens of milliseconds.
//!
//! A pure rule over instants. A block leaves 90 ms after the last one, once all callers that were answered since are back
//! with their next operation, at most 30 ms later, and at once from a size on. So writers that wait for their answers
//! share one object a round trip, a lone operation after a pause leaves at once, and a busy log makes 11 requests a second.

use std::time::Duration;

use tokio::time::Instant;

/// Least time between two blocks, on average: 11 requests a second.
const SPACING: Duration = Duration::from_millis(90);
/// How much longer a block waits for callers that were answered.
const COMPANY: Duration = Duration::from_millis(30);
/// Large blocks may leave so many spacings early; what they took is missing later.
const BURST: u32 = 2;

/// What has left, and who is expected back.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last block left.
    left: Option<Instant>,
    /// When the spacings of all blocks that have left are over.
    paid: Option<Instant>,
    /// Callers that were answered since, and have not come back.
    awaited: usize,
}

impl Pace {
    /// The earliest time at which a block may leave that waits now; a `full` one waits for nobody.
    pub(super) fn due(&self, now: Instant, full: bool) -> Instant {
        let (Some(left), Some(paid)) = (self.left, self.paid) else {
            return now;
        };
        let burst = paid.checked_sub(SPACING * BURST).unwrap_or(now);
        if full {
            return burst;
        }
        let company = if self.awaited > 0 { COMPANY } else { Duration::ZERO };
        burst.max(left + SPACING + company)
    }

    /// A block leaves.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.left = Some(now);
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + SPACING);
        self.awaited = 0;
    }

    /// So many callers were answered.
    pub(super) fn answered(&mut self, callers: usize) {
        self.awaited += callers;
    }

    /// A caller has come.
    pub(super) fn arrived(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn f13_a_first_operation_leaves_at_once_and_the_next_after_the_spacing() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.due(start, false), start);
        pace.leaves(start);
        assert_eq!(pace.due(start + ms(5), false), start + ms(90));
        assert!(pace.due(start + ms(400), false) <= start + ms(400));
    }

    #[test]
    fn f13_a_block_waits_for_callers_that_were_answered_but_not_for_long() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.leaves(start);
        pace.answered(2);
        pace.arrived();
        assert_eq!(pace.due(start + ms(60), false), start + ms(120));
        pace.arrived();
        assert_eq!(pace.due(start + ms(60), false), start + ms(90));
    }

    #[test]
    fn f13_full_blocks_leave_at_once_but_not_more_than_eleven_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut left = Vec::new();
        let mut now = start;
        while now < start + ms(10_000) {
            now = now.max(pace.due(now, true));
            pace.leaves(now);
            left.push(now);
        }
        assert!(left[2] == start, "three at once");
        assert!(left.len() <= 10_000 / 90 + 4, "{}", left.len());
    }
}

//! The RoundRobin counter of one component. Only in memory: the numbers in the metadata records are its durable form.

use std::collections::BTreeSet;

/// Hands out 0, 1, 2, … and takes back what was not used, so that a creation that failed leaves no gap.
#[derive(Debug, Default)]
pub(super) struct Counter {
    next: u64,
    /// Numbers below `next` that no collection uses; as many as creations failed at the same time.
    returned: BTreeSet<u64>,
}

impl Counter {
    /// The number that [`take`](Self::take) would hand out.
    pub(super) fn peek(&self) -> u64 {
        self.returned.first().copied().unwrap_or(self.next)
    }

    /// The next free number.
    pub(super) fn take(&mut self) -> u64 {
        self.returned.pop_first().unwrap_or_else(|| {
            let number = self.next;
            self.next += 1;
            number
        })
    }

    /// Takes back a number that was handed out and never became part of a record.
    pub(super) fn put_back(&mut self, number: u64) {
        assert!(number < self.next, "number {number} was never handed out");
        assert!(self.returned.insert(number), "number {number} was put back twice");
        while self.next > 0 && self.returned.remove(&(self.next - 1)) {
            self.next -= 1;
        }
    }

    /// A record uses this number.
    pub(super) fn mark_used(&mut self, number: u64) {
        self.next = self.next.max(number.saturating_add(1));
        self.returned.remove(&number);
    }

    /// Starts from the numbers in use; every number below `floor` counts as used. With `reuse_gaps`, the missing numbers
    /// above the floor are those of creations that a crash undid, and are handed out again.
    pub(super) fn restore(&mut self, used: &BTreeSet<u64>, floor: u64, reuse_gaps: bool) {
        let after_last = used.last().map_or(0, |last| last.saturating_add(1));
        self.next = after_last.max(floor);
        self.returned.clear();
        if reuse_gaps {
            // The gaps, found between neighbours: a walk over all numbers would trust a damaged number with our memory.
            let mut expected = floor;
            for &number in used.range(floor..) {
                let gaps = (expected..number).take(GAPS_MAX.saturating_sub(self.returned.len()));
                self.returned.extend(gaps);
                expected = number.saturating_add(1);
            }
        }
    }

    /// The number that follows all that were handed out.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

/// Most gaps remembered at a start: far more than creations run at one time, and little memory.
const GAPS_MAX: usize = 4096;

//! Counts and latencies of one root, by operation. Lock-free; read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Kind of operation that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Read of a file or a range of it, or a check that it exists.
    Read,
    /// Durable write that replaces.
    Write,
    /// Durable create-if-absent.
    Create,
    /// Listing.
    List,
    /// Delete.
    Delete,
    /// Sync of an append file (recorded by its writer).
    Sync,
}

impl Op {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Create,
        Self::List,
        Self::Delete,
        Self::Sync,
    ];

    /// Name in metrics, lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Sync => "sync",
        }
    }
}

/// Histogram buckets per doubling of the latency: quantiles are at most 25 % too high.
const STEPS: u64 = 4;
/// Buckets reach 2^27 µs, over two minutes; longer ones count in the last.
const BUCKETS: usize = 27 * STEPS as usize;

/// Upper bounds of the buckets of [`Meter::histogram`] in microseconds, each four times the one before: 64 µs to 67 s.
/// They are bounds of the fine buckets too.
const BOUNDS: [u64; 11] = {
    let mut bounds = [64; 11];
    let mut index = 1;
    while index < bounds.len() {
        bounds[index] = bounds[index - 1] * 4;
        index += 1;
    }
    bounds
};

/// Measurements of one root.
#[derive(Debug)]
pub struct Meter {
    ops: [OpMeter; Op::ALL.len()],
}

#[derive(Debug)]
struct OpMeter {
    count: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What was measured for one kind of operation since the root was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpStats {
    /// Finished operations, failed ones included.
    pub count: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes read or written.
    pub bytes: u64,
    /// Sum of all latencies.
    pub total: Duration,
    /// Half were faster than this (upper bound of a histogram bucket).
    pub p50: Duration,
    /// 99 % were faster than this (upper bound of a histogram bucket).
    pub p99: Duration,
}

/// Latencies of one kind of operation, in buckets that never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; one more without a bound follows.
    pub bounds: Vec<Duration>,
    /// Operations faster than each bound; those of all buckets before are among them.
    pub cumulative: Vec<u64>,
    /// All operations.
    pub count: u64,
    /// Sum of all latencies.
    pub sum: Duration,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            ops: std::array::from_fn(|_| OpMeter {
                count: AtomicU64::new(0),
                errors: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                micros: AtomicU64::new(0),
                buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
        }
    }
}

impl Meter {
    /// Counts one finished operation that took `elapsed` and moved `bytes`.
    pub fn record(&self, op: Op, elapsed: Duration, bytes: u64, succeeded: bool) {
        let Some(meter) = self.ops.get(op as usize) else { return };
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        meter.count.fetch_add(1, Relaxed);
        meter.errors.fetch_add(u64::from(!succeeded), Relaxed);
        meter.bytes.fetch_add(bytes, Relaxed);
        meter.micros.fetch_add(micros, Relaxed);
        if let Some(bucket) = meter.buckets.get(bucket_of(micros)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// Latencies of one kind of operation in fixed buckets.
    pub fn histogram(&self, op: Op) -> Histogram {
        let Some(meter) = self.ops.get(op as usize) else {
            unreachable!("Op::ALL lists every operation")
        };
        let mut fine = meter
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .enumerate()
            .peekable();
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS.len());
        for bound in BOUNDS {
            while let Some((_, more)) = fine.next_if(|(index, _)| bound_of(*index) <= bound) {
                count += more;
            }
            cumulative.push(count);
        }
        Histogram {
            bounds: BOUNDS.into_iter().map(Duration::from_micros).collect(),
            cumulative,
            count: count + fine.map(|(_, more)| more).sum::<u64>(),
            sum: Duration::from_micros(meter.micros.load(Relaxed)),
        }
    }

    /// What was measured for one kind of operation.
    pub fn stats(&self, op: Op) -> OpStats {
        let Some(meter) = self.ops.get(op as usize) else {
            unreachable!("Op::ALL lists every operation")
        };
        let buckets: Vec<u64> = meter.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        OpStats {
            count: meter.count.load(Relaxed),
            errors: meter.errors.load(Relaxed),
            bytes: meter.bytes.load(Relaxed),
            total: Duration::from_micros(meter.micros.load(Relaxed)),
            p50: quantile(&buckets, 50),
            p99: quantile(&buckets, 99),
        }
    }

    /// The latency below which so many percent of the operations of a kind were; `None` while fewer than `count_min` were
    /// seen.
    pub fn quantile(&self, op: Op, percent: u64, count_min: u64) -> Option<Duration> {
        let meter = self.ops.get(op as usize)?;
        if meter.count.load(Relaxed) < count_min {
            return None;
        }
        let buckets: Vec<u64> = meter.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        Some(quantile(&buckets, percent))
    }

    /// Failed operations of all kinds.
    pub fn errors(&self) -> u64 {
        self.ops.iter().map(|op| op.errors.load(Relaxed)).sum()
    }
}

/// Bucket of a latency: four per doubling.
fn bucket_of(micros: u64) -> usize {
    if micros < STEPS {
        return usize::try_from(micros).unwrap_or(0);
    }
    let exponent = u64::from(micros.ilog2());
    let step = (micros >> (exponent - 2)) & (STEPS - 1);
    usize::try_from((exponent - 1) * STEPS + step).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// Upper bound of a bucket in microseconds.
fn bound_of(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index + 1;
    }
    let (exponent, step) = (index / STEPS + 1, index % STEPS);
    (STEPS + step + 1) << (exponent - 2)
}

fn quantile(buckets: &[u64], percent: u64) -> Duration {
    let total: u64 = buckets.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    for (index, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= rank && seen > 0 {
            return Duration::from_micros(bound_of(index));
        }
    }
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_latency_lies_below_the_bound_of_its_bucket_and_above_the_one_before() {
        for micros in (0..5_000).chain((0..26).map(|e| (1 << e) + 1)) {
            let bucket = bucket_of(micros);
            assert!(micros < bound_of(bucket), "{micros}");
            assert!(bucket == 0 || micros >= bound_of(bucket - 1), "{micros}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn k2_counts_errors_bytes_and_quantiles_are_kept_per_operation() {
        let meter = Meter::default();
        for ms in 1..=100 {
            meter.record(Op::Sync, Duration::from_millis(ms), 10, ms != 7);
        }
        let stats = meter.stats(Op::Sync);
        assert_eq!((stats.count, stats.errors, stats.bytes), (100, 1, 1_000));
        assert_eq!(stats.total, Duration::from_millis(5_050));
        assert!((50..=63).contains(&stats.p50.as_millis()), "{:?}", stats.p50);
        assert!((99..=125).contains(&stats.p99.as_millis()), "{:?}", stats.p99);
        assert_eq!(meter.stats(Op::Read).count, 0);
        assert_eq!(meter.stats(Op::Read).p99, Duration::ZERO);
        let p95 = meter.quantile(Op::Sync, 95, 100).unwrap();
        assert!((95..=119).contains(&p95.as_millis()), "{p95:?}");
        assert_eq!(meter.quantile(Op::Sync, 95, 101), None);
    }

    #[test]
    fn k2_the_histogram_counts_every_operation_in_fixed_buckets() {
        let meter = Meter::default();
        for micros in [1, 63, 64, 1_000, 1_100, 500_000, 300_000_000] {
            meter.record(Op::Write, Duration::from_micros(micros), 0, true);
        }
        let histogram = meter.histogram(Op::Write);
        assert_eq!(histogram.bounds.first(), Some(&Duration::from_micros(64)));
        assert_eq!(histogram.bounds.last(), Some(&Duration::from_micros(64 << 20)));
        assert_eq!(histogram.cumulative, [2, 3, 4, 5, 5, 5, 5, 6, 6, 6, 6]);
        assert_eq!(
            (histogram.count, histogram.sum),
            (7, Duration::from_micros(300_502_228))
        );
        assert_eq!(meter.histogram(Op::Read).count, 0);
    }
}

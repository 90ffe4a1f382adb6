//! What a database does by itself, for as long as it lives.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Database;

/// How often roots that are not online are looked at: a disk that was mounted again serves within this time.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the copies of index files are looked after.
const REPAIR_INTERVAL: Duration = Duration::from_secs(30);
/// How soon further moves off drained roots are begun when one has ended.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);
/// How often drained roots are looked over, logs brought home and records repaired.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);

/// Looks again at roots that are not online, for as long as the database lives.
pub(super) async fn probe_roots(database: Weak<Database>) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let Some(database) = database.upgrade() else { return };
        if database.closed.load(Ordering::Acquire) {
            return;
        }
        if !database.roots.probe().await.is_empty() {
            database.readmit().await;
        }
    }
}

/// Does what is left to do by itself: moves off drained roots, logs that come home, copies that are missing. Apart from the
/// probes, because a root that does not answer holds it up for a while.
pub(super) async fn keep_house(database: Weak<Database>) {
    let (mut tidied, mut repaired) = (Instant::now(), Instant::now());
    loop {
        tokio::time::sleep(DRAIN_INTERVAL).await;
        let Some(database) = database.upgrade() else { return };
        if database.closed.load(Ordering::Acquire) {
            return;
        }
        let is_time = tidied.elapsed() >= TIDY_INTERVAL;
        if database.mover.take_look() || is_time {
            database.go_on_draining().await;
        }
        if is_time {
            tidied = Instant::now();
            database.close_refused().await;
            database.bring_logs_home().await;
            database.repair_records().await;
        }
        if repaired.elapsed() >= REPAIR_INTERVAL {
            repaired = Instant::now();
            database.repair_indexes().await;
        }
    }
}

//! A budget of bytes per second, shared by all who take from it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets through so many bytes a second, in the order of asking. What was not used is not saved up.
#[derive(Debug)]
pub struct Throttle {
    /// 0: no limit.
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// A budget; 0 means no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be moved.
    pub async fn take(&self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let begin = {
            let mut free_at = self.free_at.lock();
            let begin = (*free_at).max(Instant::now());
            *free_at = begin + takes;
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

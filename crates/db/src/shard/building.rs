//! The memory that merges and index builds of the process may hold together (`build_memory_mb`). Whoever would exceed it waits for
//! those before.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// Memory that a merge holds at most, in sizes of its rows: the merged rows, the same sorted, and the file that they become. The build
/// of an index needs less.
const SIZES_OF_ROWS: u64 = 3;
/// Bytes of one permit.
const UNIT_BYTES: u64 = 1 << 20;

/// Memory for merges and index builds.
pub struct BuildMemory {
    units: u32,
    free: Arc<Semaphore>,
}

/// Memory set aside; given back on drop.
pub struct BuildReservation {
    _units: OwnedSemaphorePermit,
}

impl BuildMemory {
    /// `limit` bytes, at least a MiB.
    pub fn new(limit: u64) -> Arc<Self> {
        let units = u32::try_from(limit / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Arc::new(Self {
            units,
            free: Arc::new(Semaphore::new(units as usize)),
        })
    }

    /// The most bytes of rows that are merged at a time.
    pub fn merge_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES / SIZES_OF_ROWS
    }

    /// Sets memory aside for work on `bytes` of rows, when its turn comes. Rows for which all of it is not enough are worked on alone.
    ///
    /// # Errors
    /// [`Error::Internal`] if the database is gone.
    pub async fn reserve(&self, bytes: u64) -> Result<BuildReservation> {
        let wanted = bytes.saturating_mul(SIZES_OF_ROWS).div_ceil(UNIT_BYTES);
        let units = u32::try_from(wanted).unwrap_or(u32::MAX).min(self.units);
        let reserved = self.free.clone().acquire_many_owned(units).await;
        let _units = reserved.map_err(|_| Error::Internal("the memory for builds is closed".to_owned()))?;
        Ok(BuildReservation { _units })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn builds_that_do_not_fit_together_wait_for_each_other() {
        let memory = BuildMemory::new(30 << 20);
        assert_eq!(memory.merge_bytes(), 10 << 20);
        let half = memory.reserve(5 << 20).await.unwrap();
        let other_half = memory.reserve(5 << 20).await.unwrap();
        let mut too_large = Box::pin(memory.reserve(1 << 40));
        assert!(too_large.as_mut().now_or_never().is_none(), "nothing is free");
        drop(half);
        assert!(too_large.as_mut().now_or_never().is_none(), "half is free");
        drop(other_half);
        let _alone = too_large.await.unwrap();
        assert!(memory.reserve(1).now_or_never().is_none());
    }
}

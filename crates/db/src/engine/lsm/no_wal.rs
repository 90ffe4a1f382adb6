//! SlateDB without its log: ours is the log. Its own would write a file at each open, only to fence off other writers,
//! and a local root is locked by its process.

use async_trait::async_trait;
use slatedb::RowEntry;
use slatedb::wal::{
    WalError, WalFlushResult, WalIterator, WalObserver, WalRows, WalStatus, WalStatusListener, WalWriter, WriterInit,
    WriterInitResult, WriterManifest,
};

/// Begins with no log.
pub(super) struct NoWal;

#[async_trait]
impl WriterInit for NoWal {
    async fn fence_and_init(&self, manifest: &mut WriterManifest) -> Result<WriterInitResult, WalError> {
        let status = WalStatus {
            closed_reason: Some(WalError::Closed),
            estimated_bytes: 0,
            last_flushed_wal_id: manifest.manifest().replay_after_wal_id(),
            last_flushed_seq: None,
            buffered_wal_entries_count: 0,
        };
        Ok(WriterInitResult {
            replay_iterator: Box::new(Nothing),
            wal_writer: Box::new(Closed(status)),
        })
    }
}

/// Nothing to replay.
struct Nothing;

#[async_trait]
impl WalIterator for Nothing {
    async fn next(&mut self) -> Result<Option<WalRows>, WalError> {
        Ok(None)
    }
}

/// A log that is closed from the start.
struct Closed(WalStatus);

#[async_trait]
impl WalWriter for Closed {
    async fn append(&mut self, _: &[RowEntry]) -> Result<(), WalError> {
        Err(WalError::Closed)
    }

    async fn flush(&mut self) -> Result<WalFlushResult, WalError> {
        Err(WalError::Closed)
    }

    fn observer(&self) -> Box<dyn WalObserver> {
        Box::new(Closed(self.0.clone()))
    }

    fn status(&self) -> Result<WalStatus, WalStatus> {
        Err(self.0.clone())
    }

    async fn close(&mut self) -> Result<(), WalError> {
        Ok(())
    }
}

#[async_trait]
impl WalObserver for Closed {
    fn status(&self) -> Result<WalStatus, WalStatus> {
        Err(self.0.clone())
    }

    fn subscribe(&self, _: WalStatusListener) -> Result<(), WalError> {
        Err(WalError::Closed)
    }
}

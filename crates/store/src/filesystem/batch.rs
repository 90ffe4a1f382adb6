//! Many small files read together: a start reads every metadata record, and one hop to a thread of the root for each of
//! 20,000 files costs far more than the reads themselves.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use super::{FileInfo, Filesystem};
use crate::breaker;
use crate::error::StoreError;
use crate::local::LocalDisk;
use crate::meter::Op;

/// Files of one piece of work on a disk: few enough to be done in the time of one operation on a slow disk.
const FILES_AT_ONCE: usize = 64;
/// Pieces of work at a time on one disk: a quarter of its threads.
const PIECES_AT_ONCE: usize = 8;
/// Requests at a time to one bucket.
const REQUESTS_AT_ONCE: usize = 32;

impl Filesystem {
    /// The whole files of a listing, each with its own outcome, in the same order.
    ///
    /// # Errors
    /// Of each file, as [`read`](Self::read).
    pub async fn read_all(&self, files: &[FileInfo], good: fn(&[u8]) -> bool) -> Vec<Result<Bytes, StoreError>> {
        let Some(disk) = &self.inner.local else {
            // Collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
            let reads: Vec<_> = files.iter().map(|file| self.read_stored(file, good)).collect();
            return stream::iter(reads).buffered(REQUESTS_AT_ONCE).collect().await;
        };
        let pieces: Vec<_> = files
            .chunks(FILES_AT_ONCE)
            .map(|piece| self.read_piece(disk, piece))
            .collect();
        let pieces: Vec<_> = stream::iter(pieces).buffered(PIECES_AT_ONCE).collect().await;
        pieces.into_iter().flatten().collect()
    }

    async fn read_piece(&self, disk: &LocalDisk, files: &[FileInfo]) -> Vec<Result<Bytes, StoreError>> {
        let paths: Result<Vec<_>, _> = files.iter().map(|file| self.location(&file.path)).collect();
        let bytes = files.iter().map(|file| file.size).sum();
        let read = async { disk.read_all(paths?).await.map_err(|error| self.error("", &error)) };
        let answered = self.within("", breaker::deadline(bytes), read).await;
        match answered {
            Ok(outcomes) => files
                .iter()
                .zip(outcomes)
                .map(|(file, (took, outcome))| self.outcome_of(file, took, outcome))
                .collect(),
            Err(error) => files.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn outcome_of(
        &self,
        file: &FileInfo,
        took: Duration,
        outcome: object_store::Result<Bytes>,
    ) -> Result<Bytes, StoreError> {
        let outcome = outcome.map_err(|error| self.error(&file.path, &error));
        let succeeded = outcome.as_ref().map_or_else(StoreError::is_not_found, |_| true);
        let length = outcome.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.meter().record(Op::Read, took, length, succeeded);
        outcome
    }
}

//! Writing whole files: in one request, or in parts side by side where a bucket takes large ones better so.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::Filesystem;
use crate::breaker;
use crate::error::StoreError;
use crate::meter::Op;

/// Files above this go to a bucket in parts: a lost connection then costs one part.
const WHOLE_BYTES: usize = 16 << 20;
/// Size of a part; services take at least 5 MiB, and 10,000 of them.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once for one file.
const PARTS_AT_ONCE: usize = 4;

impl Filesystem {
    /// Writes the file, replacing an older one: a reader sees the old or the new bytes, and the new ones are durable
    /// on return.
    ///
    /// # Errors
    /// Any failure of the root; the old or the new bytes are there.
    pub async fn write_atomic(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write_payload(path, bytes.into()).await
    }

    /// The same of a file in pieces that follow each other; a disk writes them without joining them first.
    ///
    /// # Errors
    /// As [`write_atomic`](Self::write_atomic).
    pub async fn write_pieces(&self, path: &str, pieces: &[Bytes]) -> Result<(), StoreError> {
        self.write_payload(path, pieces.iter().cloned().collect()).await
    }

    async fn write_payload(&self, path: &str, payload: PutPayload) -> Result<(), StoreError> {
        let location = self.location(path)?;
        let length = payload.content_length() as u64;
        let write = async {
            if self.is_local() || payload.content_length() <= WHOLE_BYTES {
                let written = self.inner.store.put(&location, payload).await;
                written.map(|_| ()).map_err(|error| self.error(path, &error))
            } else {
                self.write_in_parts(&location, path, payload.into()).await
            }
        };
        self.measured(Op::Write, self.within(path, breaker::deadline(length), write), |()| {
            length
        })
        .await
    }

    async fn write_in_parts(&self, location: &Path, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let began = self.inner.store.put_multipart(location).await;
        let mut upload = began.map_err(|error| self.error(path, &error))?;
        let Err(failure) = send_parts(upload.as_mut(), &bytes).await else {
            return Ok(());
        };
        // The last request may have been applied although its answer was lost; repeating it fails then.
        if matches!(self.read_back(location).await, Ok(Some(stored)) if stored == bytes) {
            return Ok(());
        }
        if let Err(error) = upload.abort().await {
            let error = self.error(path, &error);
            tracing::debug!(root = %self.url(), path, %error, "parts of a failed upload are left in the bucket");
        }
        Err(self.error(path, &failure))
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, bytes: &Bytes) -> object_store::Result<()> {
    let parts = (0..bytes.len()).step_by(PART_BYTES);
    let parts = parts.map(|start| bytes.slice(start..bytes.len().min(start + PART_BYTES)));
    let sent = stream::iter(parts).map(|part| upload.put_part(PutPayload::from_bytes(part)));
    sent.buffer_unordered(PARTS_AT_ONCE).try_collect::<()>().await?;
    upload.complete().await.map(|_| ())
}

//! The root as an `ObjectStore`, for libraries that want one: every request is measured like the root's own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::Filesystem;
use super::path::is_staging;
use crate::error::StoreError;
use crate::meter::Op;

impl Filesystem {
    /// The root as an `ObjectStore`: same bytes, same threads, same meter. Paths are relative to the root; leftovers of
    /// killed writers are not listed.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Metered(self.clone()))
    }

    /// What an error of [`object_store`](Self::object_store) says about this root.
    pub fn explain(&self, path: &str, error: &Error) -> StoreError {
        self.error(path, error)
    }

    /// Counts a request, which has a deadline like any other. That a file is missing, or exists already, is an answer and
    /// no error of the root.
    async fn counted<T>(
        &self,
        op: Op,
        work: impl Future<Output = Result<T>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let start = Instant::now();
        let answered = self.bounded(REQUEST_BYTES, async { Ok(work.await) }).await;
        let outcome = answered.unwrap_or_else(|silent| {
            Err(Error::Generic {
                store: STORE,
                source: silent.into(),
            })
        });
        let succeeded = match &outcome {
            Ok(_) => true,
            Err(error) => matches!(
                error,
                Error::NotFound { .. }
                    | Error::AlreadyExists { .. }
                    | Error::Precondition { .. }
                    | Error::NotModified { .. }
            ),
        };
        self.meter()
            .record(op, start.elapsed(), outcome.as_ref().map_or(0, bytes), succeeded);
        outcome
    }
}

/// Name of this store in errors.
const STORE: &str = "root";
/// No request of a library moves more bytes than this at once; decides how long it may take.
const REQUEST_BYTES: u64 = 64 << 20;

/// The store of a root with its meter.
#[derive(Clone)]
struct Metered(Filesystem);

impl Metered {
    fn store(&self) -> &dyn ObjectStore {
        self.0.inner.store.as_ref()
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.url())
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metered({})", self.0.url())
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let op = match options.mode {
            PutMode::Create => Op::Create,
            PutMode::Overwrite | PutMode::Update(_) => Op::Write,
        };
        let length = payload.content_length() as u64;
        let put = self.store().put_opts(location, payload, options);
        self.0.counted(op, put, |_| length).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.store().put_multipart_opts(location, options);
        let upload = self.0.counted(Op::Write, upload, |_| 0).await?;
        let fs = self.0.clone();
        Ok(Box::new(MeteredUpload { upload, fs }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let get = self.store().get_opts(location, options);
        let length = |found: &GetResult| {
            if head {
                0
            } else {
                found.range.end.saturating_sub(found.range.start)
            }
        };
        self.0.counted(Op::Read, get, length).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (fs, mut start) = (self.0.clone(), Instant::now());
        let deleted = self.store().delete_stream(locations);
        deleted
            .inspect(move |outcome| {
                let succeeded = matches!(outcome, Ok(_) | Err(Error::NotFound { .. }));
                fs.meter().record(Op::Delete, start.elapsed(), 0, succeeded);
                start = Instant::now();
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (metered, prefix) = (self.clone(), prefix.cloned());
        // Read to its end at once, so that the whole listing is one measured request.
        let listing = async move {
            let found = metered.store().list(prefix.as_ref()).try_collect::<Vec<_>>();
            let metas: Vec<Result<ObjectMeta>> = match metered.0.counted(Op::List, found, |_| 0).await {
                Ok(metas) => metas.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(metas)
        };
        let found = stream::once(listing).flatten();
        found.filter(|meta| std::future::ready(!is_leftover(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listing = self.store().list_with_delimiter(prefix);
        let mut found = self.0.counted(Op::List, listing, |_| 0).await?;
        found.objects.retain(|meta| !is_staging(meta.location.as_ref()));
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = self.store().copy_opts(from, to, options);
        self.0.counted(Op::Write, copy, |()| 0).await
    }
}

fn is_leftover(meta: &Result<ObjectMeta>) -> bool {
    meta.as_ref().is_ok_and(|meta| is_staging(meta.location.as_ref()))
}

/// An upload in parts, each a measured write.
#[derive(Debug)]
struct MeteredUpload {
    upload: Box<dyn MultipartUpload>,
    fs: Filesystem,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (length, fs) = (data.content_length() as u64, self.fs.clone());
        let part = self.upload.put_part(data);
        Box::pin(async move { fs.counted(Op::Write, part, |()| length).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.fs.counted(Op::Write, self.upload.complete(), |_| 0).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.fs.counted(Op::Delete, self.upload.abort(), |()| 0).await
    }
}

#[cfg(test)]
mod tests;

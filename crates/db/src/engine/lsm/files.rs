//! The root as SlateDB sees it: failures are final, small files are checked, and what is written and deleted is counted as
//! the collection's.
//!
//! SlateDB repeats a failed upload for ever, which would turn a full disk into a hanging flush. Roots repeat what is worth
//! repeating by themselves, so their failures are marked as final here and come back to whoever commits.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use slatedb_common::retry::NonRetryable;

use super::checked::{is_checked, verified, with_checksum};
use crate::root::Root;
use crate::schema::CollectionId;

/// One shard's files on a root.
#[derive(Clone)]
pub(super) struct Files {
    store: Arc<dyn ObjectStore>,
    usage: Arc<Counted>,
}

/// What the shard's files weigh, to keep the root's figures true.
struct Counted {
    root: Arc<Root>,
    collection: CollectionId,
    sizes: Mutex<HashMap<String, u64>>,
}

impl Files {
    /// The files of `collection`; `sizes` are those that were there, which the root has counted already.
    pub(super) fn new(root: &Arc<Root>, collection: CollectionId, sizes: HashMap<String, u64>) -> Self {
        Self {
            store: root.fs().object_store(),
            usage: Arc::new(Counted {
                root: Arc::clone(root),
                collection,
                sizes: Mutex::new(sizes),
            }),
        }
    }
}

impl Counted {
    fn written(&self, path: &Path, size: u64) {
        let before = self.sizes.lock().insert(path.to_string(), size);
        if let Some(before) = before {
            self.root.remove_usage(self.collection, before, 1);
        }
        self.root.add_usage(self.collection, size, 1);
    }

    fn deleted(&self, path: &Path) {
        if let Some(size) = self.sizes.lock().remove(path.as_ref()) {
            self.root.remove_usage(self.collection, size, 1);
        }
    }
}

/// Marks failures as final; answers (missing, exists, not supported) stay what they are.
fn last_word(error: Error) -> Error {
    match error {
        Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::Precondition { .. }
        | Error::NotModified { .. }
        | Error::NotImplemented { .. }
        | Error::NotSupported { .. } => error,
        failure => Error::Generic {
            store: "root",
            source: Box::new(NonRetryable(Box::new(failure))),
        },
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.store)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files({})", self.store)
    }
}

#[async_trait]
impl ObjectStore for Files {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let payload = if is_checked(location) {
            with_checksum(payload)
        } else {
            payload
        };
        let size = payload.content_length() as u64;
        let put = self.store.put_opts(location, payload, options).await;
        put.inspect(|_| self.usage.written(location, size)).map_err(last_word)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.store.put_multipart_opts(location, options).await;
        Ok(Box::new(Upload {
            upload: upload.map_err(last_word)?,
            location: location.clone(),
            size: 0,
            usage: Arc::clone(&self.usage),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let whole = !options.head && options.range.is_none();
        let found = self.store.get_opts(location, options).await.map_err(last_word)?;
        if whole && is_checked(location) {
            return verified(location, found).await.map_err(last_word);
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let usage = Arc::clone(&self.usage);
        let deleted = self.store.delete_stream(locations);
        deleted
            .map(move |outcome| outcome.inspect(|path| usage.deleted(path)).map_err(last_word))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix).map(|meta| meta.map_err(last_word)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await.map_err(last_word)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await.map_err(last_word)
    }
}

/// A file written in parts, counted once it is complete.
struct Upload {
    upload: Box<dyn MultipartUpload>,
    location: Path,
    size: u64,
    usage: Arc<Counted>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.location)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.size += data.content_length() as u64;
        let part = self.upload.put_part(data);
        Box::pin(async move { part.await.map_err(last_word) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.upload.complete().await;
        completed
            .inspect(|_| self.usage.written(&self.location, self.size))
            .map_err(last_word)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await.map_err(last_word)
    }
}

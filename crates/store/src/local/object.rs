//! The `object_store` face of a local disk: each call is one piece of work on the threads of its root.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::multipart::LocalUpload;
use super::{Disk, MAX_DEPTH, Meta};
use crate::map::Stored;
use crate::pool::Pool;

/// Name of this store in errors.
pub(super) const STORE: &str = "local disk";

/// A base directory and its threads. Cheap to clone.
#[derive(Clone)]
pub struct LocalDisk {
    disk: Arc<Disk>,
    pool: Arc<Pool>,
}

impl LocalDisk {
    pub(crate) fn new(base: PathBuf, pool: Arc<Pool>) -> Self {
        Self {
            disk: Arc::new(Disk::new(base)),
            pool,
        }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&Disk) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = Arc::clone(&self.disk);
        let result = self
            .pool
            .run(move || work(&disk).map_err(|error| disk.explain(error)))
            .await?;
        result.map_err(|error| store_error(location, error))
    }

    /// Work on the threads of the root for which nobody waits.
    pub(super) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.pool.spawn(work);
    }

    /// The device that the base is on now. Blocking.
    pub(crate) fn present_device(&self) -> io::Result<u64> {
        self.disk.present_device()
    }

    /// From now on the root is what lies on this device.
    pub(crate) fn settle(&self, device: u64) {
        *self.disk.device.lock() = Some(device);
    }

    /// Fails while the base is not on the device that was settled on. Blocking.
    pub(crate) fn check_place(&self) -> io::Result<()> {
        self.disk.check_place()
    }

    /// Reads whole files one after the other, as one piece of work; each with the time that it took.
    pub(crate) async fn read_all(&self, locations: Vec<Path>) -> Result<Vec<(Duration, Result<Bytes>)>> {
        let disk = Arc::clone(&self.disk);
        let read = move |location: Path| {
            let began = Instant::now();
            let read = disk.get(location.as_ref(), &GetOptions::default());
            let outcome = read.map_err(|error| store_error(&location, disk.explain(error)));
            (began.elapsed(), outcome.map(|(bytes, ..)| bytes))
        };
        Ok(self.pool.run(move || locations.into_iter().map(read).collect()).await?)
    }

    /// The file as memory; its first `needed` bytes are read.
    pub(crate) async fn map(&self, location: &Path, needed: u64) -> Result<Stored> {
        let relative = location.to_string();
        self.run(location, move |disk| crate::map::map(&disk.base.join(relative), needed))
            .await
    }

    /// Removes the directory and all below it; returns the number of files. The parent is synced.
    pub(crate) async fn remove_tree(&self, prefix: &Path) -> Result<u64> {
        let relative = prefix.to_string();
        self.run(prefix, move |disk| disk.remove_tree(&relative)).await
    }
}

fn store_error(location: &Path, error: io::Error) -> Error {
    let path = location.to_string();
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound {
            path,
            source: error.into(),
        },
        ErrorKind::AlreadyExists => Error::AlreadyExists {
            path,
            source: error.into(),
        },
        _ => Error::Generic {
            store: STORE,
            source: error.into(),
        },
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: STORE.to_owned(),
    }
}

impl fmt::Display for LocalDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalDisk({})", self.disk.base.display())
    }
}

impl fmt::Debug for LocalDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[async_trait]
impl ObjectStore for LocalDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(not_implemented("conditional update")),
        };
        let relative = location.to_string();
        self.run(location, move |disk| disk.put(&relative, &payload, create))
            .await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(LocalUpload::begin(self.clone(), location).await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.if_match.is_some() || options.if_none_match.is_some() || options.version.is_some() {
            return Err(not_implemented("conditional get"));
        }
        let relative = location.to_string();
        let (bytes, range, meta) = self.run(location, move |disk| disk.get(&relative, &options)).await?;
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta: meta.of(location.clone()),
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let relative = location.to_string();
                    store.run(&location, move |disk| disk.remove(&relative)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let listing = async move {
            let relative = prefix.to_string();
            let walk = move |disk: &Disk| disk.list(&relative, MAX_DEPTH);
            let metas: Vec<Result<ObjectMeta>> = match store.run(&prefix, walk).await {
                Ok((files, _)) => files.into_iter().map(object_meta).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(metas)
        };
        stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let relative = prefix.to_string();
        let (files, directories) = self.run(&prefix, move |disk| disk.list(&relative, 1)).await?;
        Ok(ListResult {
            objects: files.into_iter().map(object_meta).collect::<Result<_>>()?,
            common_prefixes: directories
                .into_iter()
                .map(|path| Ok(Path::parse(path)?))
                .collect::<Result<_>>()?,
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("copy"))
    }
}

fn object_meta((path, meta): (String, Meta)) -> Result<ObjectMeta> {
    Ok(meta.of(Path::parse(path)?))
}

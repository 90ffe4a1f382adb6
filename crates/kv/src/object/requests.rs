//! The requests to the object store: each with a deadline, counted.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutPayload};

use super::ObjectKv;
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;

/// How much was asked of the object store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Listings.
    pub lists: u64,
    /// Reads of an object.
    pub reads: u64,
    /// Creates of an object, also those that failed.
    pub creates: u64,
    /// Objects that were asked to be deleted.
    pub deletes: u64,
    /// Changes that found another writer's in their place and were decided anew.
    pub conflicts: u64,
    /// Creates that were answered by neither "created" nor by another's record: repeated, or read back as made.
    pub doubts: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    lists: AtomicU64,
    reads: AtomicU64,
    creates: AtomicU64,
    deletes: AtomicU64,
    conflicts: AtomicU64,
    doubts: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Requests {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            lists: read(&self.lists),
            reads: read(&self.reads),
            creates: read(&self.creates),
            deletes: read(&self.deletes),
            conflicts: read(&self.conflicts),
            doubts: read(&self.doubts),
        }
    }

    pub(super) fn count_list(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_deletes(&self, count: usize) {
        self.deletes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn count_conflict(&self) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a create ended that did not succeed.
pub(super) enum NotCreated {
    /// The store has not done it and will not.
    Refused(Error),
    /// It may have been done.
    Doubtful {
        error: Error,
        /// It may still be done later.
        pending: bool,
    },
}

/// An object as it was read.
pub(super) struct Object {
    pub bytes: Bytes,
    pub e_tag: Option<String>,
}

impl ObjectKv {
    /// The objects below a name, in no order.
    pub(super) async fn list_below(&self, key: &str, name: &str) -> Result<Vec<ObjectMeta>> {
        self.shared.requests.count_list();
        let prefix = self.path(key, name)?;
        let listing = self.shared.objects.list(Some(&prefix)).try_collect();
        self.answered(key, listing).await
    }

    /// The object, or `None` when there is none of this name.
    pub(super) async fn read_object(&self, key: &str, name: &str) -> Result<Option<Object>> {
        self.shared.requests.reads.fetch_add(1, Ordering::Relaxed);
        let path = self.path(key, name)?;
        let read = async {
            match self.shared.objects.get(&path).await {
                Ok(found) => {
                    let e_tag = found.meta.e_tag.clone();
                    let bytes = found.bytes().await?;
                    Ok(Some(Object { bytes, e_tag }))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.answered(key, read).await
    }

    /// Creates the object unless the name is taken.
    pub(super) async fn create_object(
        &self,
        key: &str,
        name: &KeyName,
        number: u64,
        bytes: Bytes,
    ) -> Result<(), NotCreated> {
        self.shared.requests.creates.fetch_add(1, Ordering::Relaxed);
        let path = self.path(key, &name.version(number)).map_err(NotCreated::Refused)?;
        let payload = PutPayload::from_bytes(bytes);
        let create = self.shared.objects.put_opts(&path, payload, PutMode::Create.into());
        let Ok(outcome) = tokio::time::timeout(self.shared.behaviour.request_timeout, create).await else {
            let error = self.no_answer(key);
            return Err(NotCreated::Doubtful { error, pending: true });
        };
        let Err(answer) = outcome else { return Ok(()) };
        let error = self.error(key, &answer);
        Err(match error.kind() {
            ErrorKind::Denied | ErrorKind::Invalid => NotCreated::Refused(error),
            _ => NotCreated::Doubtful {
                pending: !self.shared.behaviour.errors_are_final,
                error,
            },
        })
    }

    pub(super) fn path(&self, key: &str, name: &str) -> Result<Path> {
        Path::parse(name).map_err(|error| Error::new(ErrorKind::Invalid, &self.url, key, error.to_string()))
    }

    pub(super) async fn answered<T>(
        &self,
        key: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.shared.behaviour.request_timeout, request).await {
            Ok(outcome) => outcome.map_err(|error| self.error(key, &error)),
            Err(_) => Err(self.no_answer(key)),
        }
    }

    fn error(&self, key: &str, answer: &object_store::Error) -> Error {
        match &self.shared.place {
            Some(place) => Error::of_place(&self.url, key, &place.explain("", answer)),
            None => Error::of_answer(&self.url, key, answer),
        }
    }

    fn no_answer(&self, key: &str) -> Error {
        let after = self.shared.behaviour.request_timeout;
        Error::new(
            ErrorKind::Unavailable,
            &self.url,
            key,
            format!("no answer after {after:?}"),
        )
    }
}

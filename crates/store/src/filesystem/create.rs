//! Create-if-absent, the one commit primitive: "already exists" is a question that reading back answers (invariant 3).

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::Filesystem;
use crate::breaker;
use crate::error::{StoreError, detail};
use crate::meter::Op;

/// A create is tried again this often when the store says "exists" and then shows nothing (S3's 409 to racing creates).
const CREATE_ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(30);
/// Outcome of a create-if-absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// Our bytes are stored, durably.
    Committed,
    /// Another file has the name; its bytes.
    Conflict(Bytes),
}

impl Filesystem {
    /// Creates the file unless it exists; exactly one of any number of racing creators commits. The bytes must hold a
    /// nonce: a store may apply a create and then answer "exists" or fail, so the outcome is decided by reading back.
    ///
    /// # Errors
    /// [`StoreError::Indeterminate`] when the outcome could not be read back; any failure after which nothing is stored.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let location = self.location(path)?;
        let length = bytes.len() as u64;
        let create = self.create_and_confirm(&location, path, bytes);
        let create = self.within(path, breaker::deadline(length), create);
        self.measured(Op::Create, create, |_| length).await
    }

    async fn create_and_confirm(&self, location: &Path, path: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let mut failure = None;
        for attempt in 0..CREATE_ATTEMPTS {
            if attempt > 0 {
                // Whoever races for the name has a moment to finish.
                tokio::time::sleep(PAUSE * attempt).await;
            }
            let payload = PutPayload::from_bytes(bytes.clone());
            let exists = match self
                .inner
                .store
                .put_opts(location, payload, PutMode::Create.into())
                .await
            {
                Ok(_) => return Ok(Created::Committed),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => true,
                Err(error) => {
                    failure = Some(self.error(path, &error));
                    false
                }
            };
            match self.read_back(location).await {
                Ok(Some(stored)) if stored == bytes => return Ok(Created::Committed),
                Ok(Some(other)) => return Ok(Created::Conflict(other)),
                // The request may still be on its way, and be applied later: the same bytes under the same name again.
                Ok(None) if exists || self.may_have_been_sent(failure.as_ref()) => {}
                Ok(None) => break,
                Err(error) => {
                    let reason = failure.map_or_else(String::new, |failure| format!("{failure}; "));
                    let reason = format!("{reason}reading back: {}", self.error(path, &error).detail().reason);
                    return Err(StoreError::Indeterminate(detail(self.url(), path, reason)));
                }
            }
        }
        match failure {
            Some(failure) if self.may_have_been_sent(Some(&failure)) => {
                Err(StoreError::Indeterminate(failure.detail().clone()))
            }
            Some(failure) => Err(failure),
            None => {
                let reason = "the store says that the file exists, and does not show it".to_owned();
                Err(StoreError::Unavailable(detail(self.url(), path, reason)))
            }
        }
    }

    /// Whether a create that failed so can be applied after its answer: a service that answered with a refusal has not.
    fn may_have_been_sent(&self, failure: Option<&StoreError>) -> bool {
        let refused = matches!(
            failure,
            None | Some(StoreError::Denied(_) | StoreError::Config(_) | StoreError::Full(_) | StoreError::ReadOnly(_))
        );
        !self.is_local() && !refused
    }

    pub(super) async fn read_back(&self, location: &Path) -> Result<Option<Bytes>, object_store::Error> {
        match self.inner.store.get(location).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

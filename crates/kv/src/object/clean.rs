//! Removing outdated versions. Late, twice or never is all the same to readers and writers.

use std::sync::Arc;

use futures::{StreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use super::ObjectKv;

impl ObjectKv {
    /// Removes versions (and staging files of killed writers) below the newest one that was seen, in the background.
    pub(super) fn clean(&self, outdated: Vec<Path>) {
        if outdated.is_empty() {
            return;
        }
        // Nothing waits in line: the next change of the key sees what is left.
        let Ok(permit) = Arc::clone(&self.shared.cleaners).try_acquire_owned() else {
            return;
        };
        self.shared.requests.count_deletes(outdated.len());
        let objects = Arc::clone(&self.shared.objects);
        let timeout = self.shared.behaviour.request_timeout;
        tokio::spawn(async move {
            let _permit = permit;
            let removal = objects.delete_stream(stream::iter(outdated).map(Ok).boxed());
            // Missing ones were removed by another writer.
            let removal = removal.for_each(|outcome| async {
                match outcome {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => tracing::debug!(%error, "outdated version not removed; the next change tries again"),
                }
            });
            let _ = tokio::time::timeout(timeout, removal).await;
        });
    }
}

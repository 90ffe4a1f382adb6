//! What lies on a root: by collection, and of the disk as a whole.

use std::collections::HashMap;

use proximadb_store::Capacity;
use serde::Serialize;

use super::Root;
use crate::schema::CollectionId;

/// What lies on a root: of one collection, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes of the files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
}

impl Root {
    /// Counts files that were written for a collection.
    pub fn add_usage(&self, collection: CollectionId, bytes: u64, files: u64) {
        let mut usage = self.usage.lock();
        let usage = usage.entry(collection).or_default();
        usage.bytes = usage.bytes.saturating_add(bytes);
        usage.files = usage.files.saturating_add(files);
    }

    /// Counts files of a collection that were deleted.
    pub fn remove_usage(&self, collection: CollectionId, bytes: u64, files: u64) {
        if let Some(usage) = self.usage.lock().get_mut(&collection) {
            usage.bytes = usage.bytes.saturating_sub(bytes);
            usage.files = usage.files.saturating_sub(files);
        }
    }

    /// Sets what all collections hold here, as discovery counted it.
    pub fn set_usage(&self, counted: HashMap<CollectionId, Usage>) {
        *self.usage.lock() = counted;
    }

    /// Forgets a dropped collection.
    pub fn clear_usage(&self, collection: CollectionId) {
        self.usage.lock().remove(&collection);
    }

    /// What lies here of all collections.
    pub fn usage(&self) -> Usage {
        self.usage.lock().values().fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            files: sum.files + usage.files,
        })
    }

    /// What lies here of one collection.
    pub fn usage_of(&self, collection: CollectionId) -> Usage {
        self.usage.lock().get(&collection).copied().unwrap_or_default()
    }

    /// Number of collections with files here.
    pub fn collections(&self) -> usize {
        self.usage.lock().values().filter(|usage| usage.files > 0).count()
    }

    /// Size of the file system below as it was last seen; `None` for buckets, and before the first look.
    pub fn last_capacity(&self) -> Option<Capacity> {
        *self.last_capacity.lock()
    }
}

//! Blocks of tables on a bucket in the cache of the component, so that a start on the same machine does not pay for them again.
//!
//! Tables never change and their names are never used again. SlateDB checks a block before it hands it over, and the cache checks what
//! it has kept: no damage comes out of it.

use async_trait::async_trait;
use proximadb_store::Cache;
use slatedb::Error;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

use crate::root::Root;

/// The cached blocks of one tree.
pub(super) struct Blocks {
    cache: Cache,
    place: String,
}

impl Blocks {
    /// Those of the tree in a directory of the root; `None` on a disk, which needs no cache, and without one.
    pub(super) fn of(root: &Root, directory: &str) -> Option<Self> {
        let cache = root.fs().cache().filter(|_| !root.fs().is_local())?;
        Some(Self {
            cache: cache.clone(),
            place: format!("{} {directory}", root.url()),
        })
    }

    fn key(&self, key: &CachedKey) -> Option<String> {
        let block = serde_json::to_string(key).ok()?;
        Some(format!("{} {block}", self.place))
    }

    async fn get(&self, key: &CachedKey) -> Option<CachedEntry> {
        let bytes = self.cache.get(&self.key(key)?).await?;
        postcard::from_bytes(&bytes).ok()
    }
}

#[async_trait]
impl DbCache for Blocks {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key).await)
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key).await)
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key).await)
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        Ok(self.get(key).await)
    }

    /// What cannot be written as bytes is not kept.
    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        if let (Some(key), Ok(bytes)) = (self.key(&key), postcard::to_allocvec(&value)) {
            self.cache.insert(key, &bytes.into());
        }
    }

    /// What is not read any more makes room by itself.
    async fn remove(&self, _key: &CachedKey) {}

    fn entry_count(&self) -> u64 {
        0
    }
}

//! The caches in front of remote roots: one for each component, in one directory.

use std::collections::BTreeMap;

use proximadb_store::{Cache, CacheConfig, CacheStats};

use super::Database;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::root::{Root, StorageComponentType};

/// Bytes of an MB.
const MB: u64 = 1 << 20;

/// Caches by component; those without a remote root have none.
#[derive(Debug)]
pub(super) struct Caches(BTreeMap<StorageComponentType, Cache>);

impl Caches {
    /// Opens the cache of every component that has a bucket and any memory for it.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is no memory for one. A directory that cannot be used is no error.
    pub(super) async fn open(config: &Config) -> Result<Self> {
        let configs = configs(config);
        let mut caches = BTreeMap::new();
        for (component, config) in configs {
            let cache = Cache::open(&config).await;
            let cache = cache.map_err(|reason| Error::Internal(format!("cache of {component}: {reason}")))?;
            caches.insert(component, cache);
        }
        Ok(Self(caches))
    }

    /// From now on the root's files that never change are cached.
    pub(super) fn attach(&self, root: &Root) {
        if let Some(cache) = self.0.get(&root.component()) {
            root.fs().set_cache(cache.clone());
        }
    }

    /// Waits until what was cached is on the disk.
    pub(super) async fn settle(&self) {
        for cache in self.0.values() {
            cache.settle().await;
        }
    }
}

impl Database {
    /// What the caches hold and did, by component.
    pub fn cache_reports(&self) -> BTreeMap<StorageComponentType, CacheStats> {
        let stats = |(component, cache): (&StorageComponentType, &Cache)| (*component, cache.stats());
        self.caches.0.iter().map(stats).collect()
    }
}

/// The memory of each component, and its share of the directory in proportion to it.
fn configs(config: &Config) -> Vec<(StorageComponentType, CacheConfig)> {
    let storage = &config.storage;
    let memory_mb = |component| match component {
        StorageComponentType::Viper => storage.viper.cache_size_mb,
        StorageComponentType::Lsm => storage.lsm.cache_size_mb,
        StorageComponentType::Index => storage.index.cache_size_mb,
        StorageComponentType::Metadata => storage.metadata.cache_size_mb,
        // Each file of a log is read once.
        StorageComponentType::Wal => 0,
    };
    let is_remote = |url: &String| !url.starts_with("file://");
    let sizes: Vec<(StorageComponentType, u64)> = super::component_configs(config)
        .filter(|(_, section)| section.urls.iter().any(is_remote))
        .map(|(component, _)| (component, memory_mb(component)))
        .filter(|(_, memory_mb)| *memory_mb > 0)
        .collect();
    let all_mb: u64 = sizes.iter().map(|(_, memory_mb)| memory_mb).sum();
    let share = |(component, memory_mb): (StorageComponentType, u64)| {
        let directory = config.cache.directory.as_ref();
        let cache = CacheConfig {
            memory_bytes: memory_mb * MB,
            directory: directory.map(|directory| directory.join(component.name())),
            disk_bytes: config.cache.disk_size_mb * MB / all_mb * memory_mb,
        };
        (component, cache)
    };
    sizes.into_iter().map(share).collect()
}

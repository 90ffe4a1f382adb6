//! What lies on the roots: one listing of each, grouped by collection and shard, before the first write (FEATURES E).
//!
//! Owns reading directory names and counting. Does not own what a finding means for a collection's homes (placement,
//! metadata), nor the content of any file. A root that cannot be listed becomes offline: unknown, never empty.
//!
//! ```text
//! <root>/<collection id>/<shard>/<file>.<extension of the component>
//! <viper root>/<collection id>/<shard>/manifest/<version>.json
//! <metadata root>/<collection id>/<version>.json
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proximadb_store::{FileInfo, Scan};

use crate::root::{RESERVED_DIRECTORY, Root, RootId, RootState, Roots, StorageComponentType, Usage};
use crate::schema::CollectionId;

/// A root that is not listed within this time is offline. Buckets list about 1,000 files a request.
const LIST_DEADLINE: Duration = Duration::from_secs(120);

/// Files of one collection on one root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionFiles {
    /// Shard (three digits) to its files, paths relative to the root and sorted. Files of the metadata component lie
    /// directly below the collection: their shard is the empty text.
    pub shards: BTreeMap<String, Vec<FileInfo>>,
    /// Number and bytes of all files below the collection's directory, strays included: equal to `find` and `du -b`.
    pub usage: Usage,
}

/// What was found on one root.
#[derive(Debug, Clone)]
pub struct DiscoveredRoot {
    /// The root.
    pub root: Arc<Root>,
    /// Collections with at least one file of the component.
    pub collections: BTreeMap<CollectionId, CollectionFiles>,
    /// Files that are none of the component's, left alone.
    pub strays: Vec<FileInfo>,
    /// Why the root could not be listed; its collections are unknown then.
    pub failure: Option<String>,
}

/// What was found on all roots, in the order of the configuration.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// One entry for each root.
    pub roots: Vec<DiscoveredRoot>,
}

impl Discovery {
    /// All collections that have a file anywhere.
    pub fn collections(&self) -> BTreeSet<CollectionId> {
        self.roots
            .iter()
            .flat_map(|found| found.collections.keys().copied())
            .collect()
    }

    /// Roots of a component that hold files of each collection, the one with most bytes first; equal ones by root id,
    /// so that the order of the configuration does not matter.
    pub fn homes(&self, component: StorageComponentType) -> BTreeMap<CollectionId, Vec<RootId>> {
        let mut sized: BTreeMap<CollectionId, Vec<(u64, RootId)>> = BTreeMap::new();
        for found in self.roots.iter().filter(|found| found.root.component() == component) {
            for (collection, files) in &found.collections {
                sized
                    .entry(*collection)
                    .or_default()
                    .push((files.usage.bytes, found.root.id()));
            }
        }
        let order = |mut homes: Vec<(u64, RootId)>| {
            homes.sort_by_key(|(bytes, id)| (std::cmp::Reverse(*bytes), *id));
            homes.into_iter().map(|(_, id)| id).collect()
        };
        sized
            .into_iter()
            .map(|(collection, homes)| (collection, order(homes)))
            .collect()
    }

    /// Files of a collection on one root; `None` when it has none there.
    pub fn files(&self, root: RootId, collection: CollectionId) -> Option<&CollectionFiles> {
        self.roots
            .iter()
            .find(|found| found.root.id() == root)?
            .collections
            .get(&collection)
    }

    /// Roots that could not be listed, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&Arc<Root>, &str)> {
        self.roots
            .iter()
            .filter_map(|found| Some((&found.root, found.failure.as_deref()?)))
    }
}

/// Lists every root at the same time, sets the usage of each, and marks those that cannot be listed as offline. While the
/// roots are locked for this process, leftovers of killed writers are removed.
pub async fn discover(roots: &Roots) -> Discovery {
    let exclusive = roots.exclusive();
    let found = join_all(roots.all().into_iter().map(|root| discover_root(root, exclusive))).await;
    let discovery = Discovery { roots: found };
    let count = discovery.collections().len();
    tracing::info!(
        roots = discovery.roots.len(),
        "Discovery complete: {count} collections found"
    );
    discovery
}

/// Lists one root: at the start, and when a probe brings one back.
pub async fn discover_root(root: Arc<Root>, exclusive: bool) -> DiscoveredRoot {
    let scan = match list(&root).await {
        Ok(scan) => scan,
        Err(reason) => {
            return DiscoveredRoot {
                root,
                collections: BTreeMap::new(),
                strays: Vec::new(),
                failure: Some(reason),
            };
        }
    };
    if exclusive {
        for leftover in &scan.staging {
            // It is found again at the next start.
            if let Err(error) = root.delete(&leftover.path).await {
                tracing::warn!(root = root.url(), file = leftover.path, %error, "leftover of a killed writer stays");
            }
        }
    }
    let (collections, strays) = sort_out(root.component(), scan.files);
    for (collection, files) in &collections {
        root.set_usage(*collection, files.usage);
    }
    if let Some(first) = strays.first() {
        tracing::warn!(
            root = root.url(),
            count = strays.len(),
            first = first.path,
            "files that are not {}'s are left alone",
            root.component()
        );
    }
    tracing::info!(root = root.url(), component = %root.component(), collections = collections.len(), "root listed");
    DiscoveredRoot {
        root,
        collections,
        strays,
        failure: None,
    }
}

async fn list(root: &Root) -> Result<Scan, String> {
    root.available().map_err(|error| error.to_string())?;
    let reason = match tokio::time::timeout(LIST_DEADLINE, root.fs().scan("")).await {
        Ok(Ok(scan)) => return Ok(scan),
        Ok(Err(error)) => format!("it cannot be listed: {}", error.detail().reason),
        Err(_) => format!("it was not listed within {} s", LIST_DEADLINE.as_secs()),
    };
    root.set_state(RootState::Offline { reason: reason.clone() });
    Err(reason)
}

/// Groups the files of a listing by collection and shard; the second value are those that fit nowhere.
fn sort_out(
    component: StorageComponentType,
    files: Vec<FileInfo>,
) -> (BTreeMap<CollectionId, CollectionFiles>, Vec<FileInfo>) {
    let mut collections: BTreeMap<CollectionId, CollectionFiles> = BTreeMap::new();
    let mut strays = Vec::new();
    for file in files {
        let (first, rest) = file.path.split_once('/').unwrap_or(("", &file.path));
        if first == RESERVED_DIRECTORY {
            continue;
        }
        let Some(collection) = collection_of(first) else {
            strays.push(file);
            continue;
        };
        let shard = shard_of(component, rest).map(str::to_owned);
        let found = collections.entry(collection).or_default();
        found.usage.bytes += file.size;
        found.usage.files += 1;
        match shard {
            Some(shard) => found.shards.entry(shard).or_default().push(file),
            None => strays.push(file),
        }
    }
    // E2: a directory with nothing but strays is not a collection.
    collections.retain(|_, found| !found.shards.is_empty());
    (collections, strays)
}

/// The collection whose directory this is: its id exactly as we write it, so that one id has one directory.
fn collection_of(name: &str) -> Option<CollectionId> {
    name.parse::<CollectionId>().ok().filter(|id| id.to_string() == name)
}

/// The shard of a file of the component, given its path below the collection; `None` when it is none of the component's.
fn shard_of(component: StorageComponentType, path: &str) -> Option<&str> {
    let mut segments = path.split('/');
    let shard = match component {
        StorageComponentType::Metadata => "",
        _ => segments
            .next()
            .filter(|shard| shard.len() == 3 && shard.bytes().all(|b| b.is_ascii_digit()))?,
    };
    let (first, second, rest) = (segments.next()?, segments.next(), segments.next());
    let (name, extensions) = match (component, first, second) {
        (_, name, None) => (name, component.extensions()),
        (StorageComponentType::Viper, "manifest", Some(name)) => (name, &["json"][..]),
        _ => return None,
    };
    let (stem, extension) = name.rsplit_once('.')?;
    (rest.is_none() && !stem.is_empty() && extensions.contains(&extension)).then_some(shard)
}

#[cfg(test)]
mod tests;

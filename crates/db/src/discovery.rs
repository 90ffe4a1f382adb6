//! What lies on the roots: one listing of each, grouped by collection and shard, before the first write (FEATURES E).
//!
//! Owns reading directory names and counting. Does not own what a finding means for a collection's homes (placement,
//! metadata), nor the content of any file. A root that cannot be listed becomes offline: unknown, never empty.
//!
//! ```text
//! <root>/<collection id>/<shard>/<file>.<extension of the component>
//! <viper root>/<collection id>/<shard>/manifest/<version>.json
//! <lsm root>/<collection id>/<shard>/{compacted/*.sst, manifest/*.manifest, compactions/*.compactions}
//! <metadata root>/<collection id>/<version>.json
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proximadb_store::{FileInfo, Scan};

use crate::config::ComponentConfig;
use crate::placement::{AssignmentService, Placement};
use crate::root::{RESERVED_DIRECTORY, Root, RootId, RootState, Roots, StorageComponentType, Usage};
use crate::schema::CollectionId;

/// A report does not wait longer for a root; it shows what was known of it.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);

/// Files of one collection on one root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionFiles {
    /// Files of the component, paths relative to the root, sorted by path: shard by shard.
    pub files: Vec<FileInfo>,
    /// Number and bytes of all files below the collection's directory, strays included: equal to `find` and `du -b`.
    pub usage: Usage,
}

impl CollectionFiles {
    /// The files by shard (three digits). Files of the metadata component lie directly below the collection: their shard
    /// is the empty text.
    pub fn by_shard(&self) -> BTreeMap<&str, Vec<&FileInfo>> {
        let mut shards: BTreeMap<&str, Vec<&FileInfo>> = BTreeMap::new();
        for file in &self.files {
            let (_, below) = file.path.split_once('/').unwrap_or_default();
            shards
                .entry(below.split_once('/').map_or("", |(shard, _)| shard))
                .or_default()
                .push(file);
        }
        shards
    }
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
    /// Staging files of writers: of killed ones at the start, later also of those at work.
    pub staging: Vec<FileInfo>,
    /// Why the root could not be listed; its collections are unknown then, or as they were known before.
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

    /// The roots of a component, each with the collections found there and their files.
    pub fn of_component(
        &self,
        component: StorageComponentType,
    ) -> impl Iterator<Item = (&Arc<Root>, CollectionId, &[FileInfo])> {
        let found = self
            .roots
            .iter()
            .filter(move |found| found.root.component() == component);
        found.flat_map(|found| {
            found
                .collections
                .iter()
                .map(|(id, files)| (&found.root, *id, files.files.as_slice()))
        })
    }

    /// The roots of a component that hold files of one collection, each with these.
    pub fn of_collection(
        &self,
        component: StorageComponentType,
        collection: CollectionId,
    ) -> impl Iterator<Item = (&Arc<Root>, &[FileInfo])> {
        let found = self
            .roots
            .iter()
            .filter(move |found| found.root.component() == component);
        found.filter_map(move |found| Some((&found.root, found.collections.get(&collection)?.files.as_slice())))
    }

    /// Records in the service where files of a component were found of those among the `wanted` collections, and returns how
    /// many have any. For collections without a record: that is the authority.
    pub fn discover_and_record_assignments(
        &self,
        component: StorageComponentType,
        config: &ComponentConfig,
        wanted: &BTreeSet<CollectionId>,
        service: &AssignmentService,
        now_ms: u64,
    ) -> usize {
        let found = wanted.iter().filter_map(|id| {
            let placement = self.found_placement(component, config, *id, now_ms)?;
            service.record_assignment(*id, BTreeMap::from([(component, placement)]));
            Some(())
        });
        found.count()
    }

    /// Where the files of a component lie. On several roots (striping, a move, a copy by hand) all of them count: the one
    /// with most bytes is the home, and what occurs twice is the same file or the same operation.
    fn found_placement(
        &self,
        component: StorageComponentType,
        config: &ComponentConfig,
        id: CollectionId,
        now_ms: u64,
    ) -> Option<Placement> {
        let mut places: Vec<(u64, &Arc<Root>)> = self
            .of_collection(component, id)
            .map(|(root, files)| (files.iter().map(|file| file.size).sum(), root))
            .collect();
        places.sort_by_key(|(bytes, root)| (std::cmp::Reverse(*bytes), root.id()));
        if let [(_, chosen), (_, other), ..] = &places[..] {
            tracing::warn!(collection = %id, %component, chosen = chosen.url(), other = other.url(), "files on several roots and no record");
        }
        let ((_, home), others) = places.split_first()?;
        Some(Placement {
            roots: vec![home.id()],
            strategy: config.distribution_strategy,
            affinity: config.collection_affinity,
            sequence: None,
            assigned_at_ms: now_ms,
            also: others.iter().map(|(_, root)| root.id()).collect(),
            types: BTreeMap::new(),
            moving: None,
        })
    }

    /// Bytes of all collections on a root.
    pub fn bytes_on(&self, root: RootId) -> u64 {
        let found = self.roots.iter().filter(|found| found.root.id() == root);
        found
            .flat_map(|found| found.collections.values())
            .map(|files| files.usage.bytes)
            .sum()
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

/// Lists every root at the same time, sets the usage of each, and marks those that cannot be listed as offline.
pub async fn discover(roots: &Roots) -> Discovery {
    Discovery {
        roots: join_all(roots.all().into_iter().map(discover_root)).await,
    }
}

/// Lists every root again for a report, at the same time, with the sizes of their disks. A root that does not answer soon
/// is shown as it was `known`, with the failure; it does not go offline for that.
pub async fn refresh(roots: &Roots, known: &Discovery) -> Discovery {
    let listings = roots.all().into_iter().map(|root| async {
        let before = known.roots.iter().find(|found| found.root.id() == root.id());
        let failure = match tokio::time::timeout(REPORT_DEADLINE, refresh_root(root.clone())).await {
            Ok(Ok(found)) => return found,
            Ok(Err(reason)) => reason,
            Err(_) => format!("it was not listed within {} s", REPORT_DEADLINE.as_secs()),
        };
        let stale = before.map(|found| (found.collections.clone(), found.strays.clone(), found.staging.clone()));
        DiscoveredRoot::failed(root, stale.unwrap_or_default(), failure)
    });
    Discovery {
        roots: join_all(listings).await,
    }
}

/// Lists the disks again for a report that comes often: buckets charge for a listing, and their usage is kept up to date as
/// files come and go.
pub async fn refresh_disks(roots: &Roots) {
    let disks = roots.all().into_iter().filter(|root| root.fs().is_local());
    let listings = disks.map(|root| async {
        if let Ok(Err(reason)) = tokio::time::timeout(REPORT_DEADLINE, refresh_root(root)).await {
            tracing::debug!(reason, "a disk is shown as it was known");
        }
    });
    join_all(listings).await;
}

/// Lists a root in a task of its own, one at a time: reports come often, and each that gives up on a root that hangs must
/// not leave one more of its threads behind.
async fn refresh_root(root: Arc<Root>) -> Result<DiscoveredRoot, String> {
    root.available().map_err(|error| error.to_string())?;
    let turn = root.listing().lock_owned().await;
    let listing = tokio::spawn(async move {
        let _turn = turn;
        // First, as it has the shorter deadline: if it fails, the listing is not tried.
        root.capacity().await.map_err(|error| error.to_string())?;
        let scan = root.fs().scan("").await;
        let scan = scan.map_err(|error| root.map_error(error).to_string())?;
        Ok(found(root, scan))
    });
    listing.await.map_err(|error| error.to_string())?
}

/// Lists one root, as at the start and when a probe brought it back.
pub async fn discover_root(root: Arc<Root>) -> DiscoveredRoot {
    match list(&root).await {
        Ok(scan) => found(root, scan),
        Err(reason) => DiscoveredRoot::failed(root, Default::default(), reason),
    }
}

impl DiscoveredRoot {
    fn failed(
        root: Arc<Root>,
        (collections, strays, staging): (BTreeMap<CollectionId, CollectionFiles>, Vec<FileInfo>, Vec<FileInfo>),
        reason: String,
    ) -> Self {
        Self {
            root,
            collections,
            strays,
            staging,
            failure: Some(reason),
        }
    }
}

fn found(root: Arc<Root>, scan: Scan) -> DiscoveredRoot {
    let (collections, strays) = sort_out(root.component(), scan.files);
    root.set_usage(collections.iter().map(|(id, files)| (*id, files.usage)).collect());
    if let Some(first) = strays.first() {
        let component = root.component();
        tracing::warn!(
            root = root.url(),
            count = strays.len(),
            first = first.path,
            "files that are not {component}'s are left alone"
        );
    }
    tracing::debug!(root = root.url(), component = %root.component(), collections = collections.len(), "root listed");
    DiscoveredRoot {
        root,
        collections,
        strays,
        staging: scan.staging,
        failure: None,
    }
}

/// Removes the leftovers of killed writers. Only before the first write of this process, with the roots opened for it
/// alone: later the same names are those of writers at work.
pub async fn remove_leftovers(discovery: &Discovery) {
    for found in &discovery.roots {
        for leftover in &found.staging {
            // One that stays is found again at the next start.
            if let Err(error) = found.root.delete(&leftover.path).await {
                tracing::warn!(root = found.root.url(), file = leftover.path, %error, "leftover of a killed writer stays");
            }
        }
    }
}

async fn list(root: &Root) -> Result<Scan, String> {
    root.available().map_err(|error| error.to_string())?;
    let reason = match root.fs().scan("").await {
        Ok(scan) => return Ok(scan),
        Err(error) => format!("it cannot be listed: {}", error.detail().reason),
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
        let belongs = has_place(component, rest);
        let found = collections.entry(collection).or_default();
        found.usage.bytes += file.size;
        found.usage.files += 1;
        if belongs {
            found.files.push(file)
        } else {
            strays.push(file)
        }
    }
    // E2: a directory with nothing but strays is not a collection.
    collections.retain(|_, found| !found.files.is_empty());
    (collections, strays)
}

/// The collection whose directory this is: its id exactly as we write it, so that one id has one directory.
fn collection_of(name: &str) -> Option<CollectionId> {
    name.parse::<CollectionId>().ok().filter(|id| id.to_string() == name)
}

/// Whether a file below a collection's directory is the component's: by name and depth, so that copies in further
/// directories are not.
pub fn belongs_to(component: StorageComponentType, file: &FileInfo) -> bool {
    let below = file.path.split_once('/').map(|(_, below)| below);
    below.is_some_and(|below| has_place(component, below))
}

/// The same, given the path below the collection.
fn has_place(component: StorageComponentType, path: &str) -> bool {
    let is_shard = |name: &str| name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
    let segments: Vec<&str> = path.split('/').collect();
    let (name, extensions) = match (component, segments.as_slice()) {
        (StorageComponentType::Metadata, [name]) => (name, component.extensions()),
        (StorageComponentType::Metadata, _) => return false,
        (_, [shard, name]) if is_shard(shard) => (name, component.extensions()),
        (StorageComponentType::Viper, [shard, "manifest", name]) if is_shard(shard) => (name, &["json"][..]),
        (StorageComponentType::Lsm, [shard, directory, name]) if is_shard(shard) => match *directory {
            "compacted" => (name, component.extensions()),
            "manifest" => (name, &["manifest"][..]),
            "compactions" => (name, &["compactions"][..]),
            _ => return false,
        },
        _ => return false,
    };
    name.rsplit_once('.')
        .is_some_and(|(stem, extension)| !stem.is_empty() && extensions.contains(&extension))
}

#[cfg(test)]
mod tests;

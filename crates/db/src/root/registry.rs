//! `_proximadb/roots/<version>.json`: all roots that the cluster ever had, so that a missing one is noticed.
//!
//! Written to every root that is online whenever the set changes, read from all: any one that is left tells which roots
//! are missing. Versions are created, never overwritten; the newest one is the truth, older ones on roots that were away
//! add what only they know.

use std::collections::BTreeMap;

use proximadb_store::{Created, Filesystem, StorageUrl};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::now_ms;
use super::{Root, RootId, StorageComponentType};
use crate::sealed::{FORMAT_VERSION, seal, unseal};

/// Directory of the versions, below the root.
pub(super) const DIRECTORY: &str = "_proximadb/roots";
/// Versions that stay: more than one, so that a damaged newest one is survived.
const KEPT_VERSIONS: usize = 3;

/// A root that the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownRoot {
    pub(super) component: StorageComponentType,
    /// Where it was last seen, as configured then.
    pub(super) url: String,
    pub(super) added_at_ms: u64,
    /// It is being emptied; this outlasts restarts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) draining: bool,
    /// It was taken out of the set. The entry stays, so that an older copy of the list does not bring it back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) removed: bool,
}

// The signature is serde's.
fn is_false(value: &bool) -> bool {
    !value
}

/// All known roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registry {
    format_version: u32,
    pub(super) version: u64,
    nonce: Uuid,
    pub(super) cluster_id: Uuid,
    pub(super) roots: BTreeMap<RootId, KnownRoot>,
}

impl Registry {
    pub(super) fn new(cluster_id: Uuid) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            version: 0,
            nonce: Uuid::nil(),
            cluster_id,
            roots: BTreeMap::new(),
        }
    }

    /// Id of the root that was last seen at a place.
    pub(super) fn at(&self, component: StorageComponentType, url: &StorageUrl) -> Option<RootId> {
        let same_place = |known: &KnownRoot| {
            !known.removed
                && known.component == component
                && StorageUrl::parse(&known.url).is_ok_and(|known| known.lexical() == url.lexical())
        };
        self.roots
            .iter()
            .find(|(_, known)| same_place(known))
            .map(|(id, _)| *id)
    }

    /// Notes that a root is there, and where.
    pub(super) fn see(&mut self, root: &Root) {
        let known = self.roots.entry(root.id()).or_insert_with(|| KnownRoot {
            component: root.component(),
            url: String::new(),
            added_at_ms: now_ms(),
            draining: false,
            removed: false,
        });
        root.url().clone_into(&mut known.url);
        known.removed = false;
    }

    /// Whether a root is being emptied.
    pub(super) fn is_draining(&self, id: RootId) -> bool {
        self.roots.get(&id).is_some_and(|known| known.draining)
    }

    /// Adds what another copy knows; the newer version wins where both know a root.
    pub(super) fn merge(self, other: Self) -> Self {
        let (mut newer, older) = if other.version > self.version {
            (other, self)
        } else {
            (self, other)
        };
        for (id, known) in older.roots {
            newer.roots.entry(id).or_insert(known);
        }
        newer
    }
}

/// The newest valid version on a root; `None` when it has none.
pub(super) async fn load(fs: &Filesystem) -> Result<Option<Registry>, String> {
    let names = fs.list_names(DIRECTORY).await.map_err(|error| error.to_string())?;
    for name in names.iter().rev().filter(|name| name.ends_with(".json")) {
        let path = format!("{DIRECTORY}/{name}");
        let bytes = fs.read(&path).await.map_err(|error| error.to_string())?;
        match unseal(&bytes) {
            Ok(registry) => return Ok(Some(registry)),
            Err(reason) => {
                tracing::warn!(root = %fs.url(), file = path, reason, "list of roots is damaged; an older one is read")
            }
        }
    }
    Ok(None)
}

/// Creates the next version on a root and removes old ones.
pub(super) async fn store(fs: &Filesystem, registry: &Registry) -> Result<(), String> {
    let path = format!("{DIRECTORY}/{:020}.json", registry.version);
    let nonced = Registry {
        nonce: Uuid::new_v4(),
        ..registry.clone()
    };
    match fs
        .create(&path, seal(&nonced).map_err(|error| error.to_string())?)
        .await
        .map_err(|error| error.to_string())?
    {
        Created::Committed => {}
        Created::Conflict(_) => return Err(format!("{}/{path} was written by another process", fs.url())),
    }
    let names = fs.list_names(DIRECTORY).await.map_err(|error| error.to_string())?;
    for name in names.iter().rev().skip(KEPT_VERSIONS) {
        fs.delete(&format!("{DIRECTORY}/{name}"))
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn registry(version: u64, urls: &[(u128, &str)]) -> Registry {
        let mut registry = Registry {
            version,
            ..Registry::new(Uuid::from_u128(9))
        };
        for (id, url) in urls {
            let known = KnownRoot {
                component: StorageComponentType::Wal,
                url: (*url).to_owned(),
                added_at_ms: 1,
                draining: false,
                removed: false,
            };
            registry.roots.insert(RootId(Uuid::from_u128(*id)), known);
        }
        registry
    }

    #[test]
    fn every_flipped_byte_of_the_list_is_noticed() {
        let bytes = seal(&registry(3, &[(1, "file:///a"), (2, "s3://b/c")])).unwrap();
        assert_eq!(unseal::<Registry>(&bytes).unwrap().version, 3);
        for position in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[position] ^= 1;
            assert!(unseal::<Registry>(&damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn the_newest_copy_wins_and_an_older_one_adds_what_only_it_knows() {
        let merged = registry(1, &[(1, "file:///old"), (3, "file:///c")]).merge(registry(2, &[(1, "file:///new")]));
        assert_eq!(merged.version, 2);
        let url = |text| StorageUrl::parse(text).unwrap();
        let at = |text| merged.at(StorageComponentType::Wal, &url(text));
        assert_eq!(at("file:///new/"), Some(RootId(Uuid::from_u128(1))));
        assert_eq!(at("file:///old"), None);
        assert_eq!(at("file:///c"), Some(RootId(Uuid::from_u128(3))));
        assert_eq!(merged.at(StorageComponentType::Viper, &url("file:///c")), None);
    }
}

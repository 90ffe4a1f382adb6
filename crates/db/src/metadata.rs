//! Collection metadata: the record that makes a collection exist, carries its schema and its homes, in copies on several roots.
//!
//! ```text
//! <metadata root>/<collection id>/<version, 20 digits>.json      immutable, numbered, with a checksum; .meta is read too
//!
//! create   version 1 on the first home that takes it: committed. Then on the other homes.
//! update   version n + 1 in the same way; versions before n are deleted.
//! drop     update to Dropping ▸ caller deletes the files of all components ▸ counters saved ▸ record removed
//! start    newest version over all readable copies; lagging and damaged copies brought up to date
//! ```
//!
//! Owns the records, their copies and the durable bounds of the counters. Does not own which roots are chosen (placement)
//! nor what lies on them (discovery). Invariants: a version is never used for two contents; homes on roots that are away
//! stay homes; a dropped collection's record goes last, and only when no copy can come back without it.
//!
//! With one of two homes away, reads and writes go on with the other. What was committed on a home that then goes away
//! together with the return of one that missed it is not seen until both are there; the next update is refused if so.

mod counters;
mod load;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use proximadb_store::{Created, FileInfo};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::placement::Placements;
use crate::root::{Root, Roots, StorageComponentType};
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::{FORMAT_VERSION, seal, unseal};

pub(crate) use counters::check as check_counters;
pub use load::LoadedRecords;

/// Whether a collection is there or on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectionState {
    /// It is there.
    Active,
    /// Its files are being deleted; it is never shown again.
    Dropping,
}

/// Everything durable about a collection besides its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionRecord {
    /// Version of the record's form.
    pub format_version: u32,
    /// Version of this record; 1 creates the collection.
    pub version: u64,
    /// Tells this version from another writer's with the same number.
    pub nonce: Uuid,
    /// Whether it is there.
    pub state: CollectionState,
    /// Id, name, schema.
    pub description: CollectionDescription,
    /// The homes of all components.
    pub placement: Placements,
}

impl CollectionRecord {
    /// The first version of a new collection's record, stored nowhere yet.
    pub fn new(description: CollectionDescription, placement: Placements) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            version: 1,
            nonce: Uuid::new_v4(),
            state: CollectionState::Active,
            description,
            placement,
        }
    }

    /// Reads the bytes of a record's file.
    ///
    /// # Errors
    /// What is wrong with them: the checksum, the format version, or the form.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        unseal(bytes)
    }
}

/// The records of all collections.
#[derive(Debug)]
pub struct MetadataStore {
    roots: Arc<Roots>,
}

impl MetadataStore {
    /// The records on the metadata roots of `roots`.
    pub fn new(roots: Arc<Roots>) -> Self {
        Self { roots }
    }

    /// Creates the record of a new collection: from here on it exists, with all its homes.
    ///
    /// # Errors
    /// Errors of its metadata roots when none of them took it; the collection does not exist then.
    /// [`Error::AlreadyExists`] when another process created it first.
    pub async fn create(&self, description: CollectionDescription, placement: Placements) -> Result<CollectionRecord> {
        let record = CollectionRecord::new(description, placement);
        match self.commit(&record).await {
            Ok(()) => Ok(record),
            Err(error @ Error::AlreadyExists(_)) => Err(error),
            Err(error) => {
                self.abandon(&record).await;
                Err(error)
            }
        }
    }

    /// Stores a changed record as the next version and returns it; versions before the one that was changed are deleted.
    /// The caller makes one change of a collection at a time.
    ///
    /// # Errors
    /// Errors of its metadata roots when none of them took it; the last version stands. [`Error::AlreadyExists`] when there
    /// is a newer one, by another process or on a root that was away when the record was loaded.
    pub async fn update(&self, mut record: CollectionRecord) -> Result<CollectionRecord> {
        let mut listings = Vec::new();
        for root in self.homes(&record) {
            // A home that cannot be listed now is one that lags.
            let Ok(versions) = list(&root, record.description.id).await else {
                continue;
            };
            if let Some((newer, _)) = versions.iter().find(|(version, _)| *version > record.version) {
                return Err(taken(&root, &record_path(record.description.id, *newer)));
            }
            listings.push((root, versions));
        }
        record.version += 1;
        record.nonce = Uuid::new_v4();
        self.commit(&record).await?;
        for (root, versions) in listings {
            delete_outdated(&root, &record, &versions).await;
        }
        Ok(record)
    }

    /// Removes the record of a collection whose files are deleted. Every home must be there: one that missed the drop
    /// would bring the collection back when it returns.
    ///
    /// # Errors
    /// Errors of the roots; the drop has to be finished later. [`Error::Internal`] for a record that is not `Dropping`.
    pub async fn remove(&self, record: &CollectionRecord) -> Result<()> {
        let id = record.description.id;
        if record.state != CollectionState::Dropping {
            return Err(Error::Internal(format!(
                "collection {id} is removed before it is dropped"
            )));
        }
        let homes = self.tell_all_homes(record).await?;
        for (root, versions) in homes {
            // Ascending: as long as any version is there, the one that says Dropping is.
            for (_, file) in versions.iter().filter(|(version, _)| *version < record.version) {
                root.delete(&file.path).await?;
            }
            root.delete_dir(&id.to_string()).await?;
            root.clear_usage(id);
        }
        Ok(())
    }

    /// Makes every home of a dropping record hold it, before the first copy goes: a crash in between must not leave an
    /// older version alone. Returns the homes with the versions they had.
    async fn tell_all_homes(&self, record: &CollectionRecord) -> Result<Vec<(Arc<Root>, Vec<(u64, FileInfo)>)>> {
        let mut homes = Vec::new();
        for home in home_ids(record) {
            let root = self.roots.by_id(home)?;
            let versions = list(&root, record.description.id).await?;
            homes.push((root, versions));
        }
        let bytes = seal(record)?;
        for (root, versions) in &homes {
            // No file cannot come back; an older version could.
            if versions.last().is_some_and(|(newest, _)| *newest < record.version) {
                self.create_copy(root, record, &bytes).await?;
            }
        }
        Ok(homes)
    }

    /// Creates a version on the homes in order. The first one that takes it commits it.
    async fn commit(&self, record: &CollectionRecord) -> Result<()> {
        let bytes = seal(record)?;
        let (mut committed, mut refused) = (false, None);
        for root in self.homes(record) {
            match self.create_copy(&root, record, &bytes).await {
                Ok(()) => committed = true,
                Err(error) if committed => {
                    tracing::warn!(%error, "a metadata copy lags; it is brought up to date at the next start");
                }
                // Another writer's version: a copy of ours beside it would be a second content.
                Err(error @ Error::AlreadyExists(_)) => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
        let nowhere = || Error::Internal(format!("collection {} has no metadata root", record.description.id));
        if committed {
            Ok(())
        } else {
            Err(refused.unwrap_or_else(nowhere))
        }
    }

    async fn create_copy(&self, root: &Root, record: &CollectionRecord, bytes: &Bytes) -> Result<()> {
        let path = record_path(record.description.id, record.version);
        match root.create(&path, bytes.clone()).await? {
            Created::Committed => {
                root.add_usage(record.description.id, bytes.len() as u64, 1);
                Ok(())
            }
            Created::Conflict(_) => Err(taken(root, &path)),
        }
    }

    /// A create that failed may have stored the file all the same (an answer was lost): the collection was refused, so
    /// it must not appear at the next start. Only for a first version, whose id nobody else has.
    async fn abandon(&self, record: &CollectionRecord) {
        for root in self.homes(record).into_iter().filter(|root| root.available().is_ok()) {
            if let Err(error) = root.delete(&record_path(record.description.id, 1)).await {
                tracing::warn!(%error, "the record of a refused collection may be left over");
            }
        }
    }

    /// The configured homes of the record, in order.
    fn homes(&self, record: &CollectionRecord) -> Vec<Arc<Root>> {
        home_ids(record).filter_map(|id| self.roots.by_id(id).ok()).collect()
    }
}

fn home_ids(record: &CollectionRecord) -> impl Iterator<Item = crate::root::RootId> {
    let homes = record.placement.get(&StorageComponentType::Metadata);
    homes.into_iter().flat_map(|placement| &placement.roots).copied()
}

/// The versions of a record on one root, ascending.
async fn list(root: &Root, id: CollectionId) -> Result<Vec<(u64, FileInfo)>> {
    let files = root.list(&id.to_string()).await?;
    let mut versions: Vec<_> = files
        .into_iter()
        .filter_map(|file| Some((version_of(&file.path)?, file)))
        .collect();
    versions.sort_by_key(|(version, _)| *version);
    Ok(versions)
}

/// Deletes what is older than the version before the record's. A leftover costs a few hundred bytes and is never read.
async fn delete_outdated(root: &Root, record: &CollectionRecord, versions: &[(u64, FileInfo)]) {
    for (_, file) in versions.iter().filter(|(version, _)| version + 1 < record.version) {
        match root.delete(&file.path).await {
            Ok(()) => root.remove_usage(record.description.id, file.size, 1),
            Err(error) => tracing::warn!(%error, "outdated metadata record not deleted"),
        }
    }
}

fn taken(root: &Root, path: &str) -> Error {
    Error::AlreadyExists(format!("{}/{path} was written by another process", root.url()))
}

fn record_path(id: CollectionId, version: u64) -> String {
    format!("{id}/{version:020}.json")
}

/// The version in a path, if the file is one of ours: 20 digits and `.json` or `.meta`.
pub(crate) fn version_of(path: &str) -> Option<u64> {
    let (stem, extension) = path.rsplit('/').next()?.split_once('.')?;
    let ours =
        stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit()) && ["json", "meta"].contains(&extension);
    if ours { stem.parse().ok() } else { None }
}

//! Collection metadata: the record that makes a collection exist, carries its schema and its homes, in copies on several roots.
//!
//! ```text
//! <metadata root>/<collection id>/<version, 20 digits>.json      immutable, numbered, with a checksum; .meta is read too
//!
//! create   version 1 on the first home that takes it, which decides between racing writers. Then on all others at once.
//! update   version n + 1 in the same way; versions before n are deleted.
//! drop     update to Dropping ▸ caller deletes the files of all components ▸ counters saved ▸ record removed
//! start    newest version over all readable copies; lagging and damaged copies brought up to date
//! return   of a root while running: its copies are brought up to date
//! ```
//!
//! **The rule of the copies.** A record has `H` homes. A version is acknowledged when it is on one home at least, and on `H`
//! roots: stand-ins, other metadata roots, take the place of homes that are away. When there are no others, it is
//! acknowledged with the homes that are there. The start reads every metadata root. So:
//!
//! | what is away | what happens |
//! | --- | --- |
//! | fewer than `H` roots, whichever, also one after the other | everything works, and the newest version is always seen |
//! | with no root to stand in (`H` roots in all): one, then the other, with a start in between | the version before is seen. If it is changed, there are two histories: when both roots are there the collection is refused with the names of the two files. Nothing is merged or overwritten |
//! | all homes of a record | it is read from the stand-ins, and not changed: each history is on a home, so two of them always meet |
//! | a writer, in the middle | the version is on some roots or on none: the next start completes it, or never knew it |
//! | an answer, not the write | the change is refused and may be there all the same; the next change comes after it |
//!
//! What tells a home that lags from one with a history of its own is the [`Lineage`] of the newest version. Stand-ins lose
//! their copies when all homes have the newest version.
//!
//! Owns the records, their copies and the durable bounds of the counters. Does not own which roots are chosen (placement)
//! nor what lies on them (discovery). Invariants: a version is never used for two contents; homes on roots that are away
//! stay homes; the record names every root that may hold a copy, and a dropped collection's record goes last, when all of
//! these are there, so that no copy can come back without it.

mod commit;
mod counters;
mod lineage;
mod load;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proximadb_store::FileInfo;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::placement::{Placement, Placements};
use crate::root::{Root, RootId, Roots, StorageComponentType};
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::{FORMAT_VERSION, seal, unseal};

use lineage::Known;

pub(crate) use counters::check as check_counters;
pub use lineage::Lineage;
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
    /// Where this version comes from, and which copies may lag.
    #[serde(default, skip_serializing_if = "Lineage::is_empty")]
    pub lineage: Lineage,
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
            lineage: Lineage::default(),
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
    /// Where the copies of each record are.
    known: Mutex<HashMap<CollectionId, Known>>,
    /// Changes and repairs take turns.
    changing: AsyncMutex<()>,
}

impl MetadataStore {
    /// The records on the metadata roots of `roots`.
    pub fn new(roots: Arc<Roots>) -> Self {
        Self {
            roots,
            known: Mutex::default(),
            changing: AsyncMutex::default(),
        }
    }

    /// Creates the record of a new collection: from here on it exists, with all its homes.
    ///
    /// # Errors
    /// Errors of its homes when none of them took it; the collection does not exist then.
    /// [`Error::AlreadyExists`] when another process created it first.
    pub async fn create(&self, description: CollectionDescription, placement: Placements) -> Result<CollectionRecord> {
        let record = CollectionRecord::new(description, placement);
        match self.commit(record.clone(), 0).await {
            Err(error @ Error::AlreadyExists(_)) => Err(error),
            Err(error) => {
                self.abandon(&record).await;
                Err(error)
            }
            created => created,
        }
    }

    /// Stores a changed record as the next version and returns it; versions before the one that was changed are deleted.
    /// The caller makes one change of a collection at a time.
    ///
    /// # Errors
    /// Errors of its homes when none of them took it; the last version stands. [`Error::AlreadyExists`] when there is a newer one,
    /// by another process or on a root that was away when the record was loaded.
    pub async fn update(&self, record: CollectionRecord) -> Result<CollectionRecord> {
        let _one_at_a_time = self.changing.lock().await;
        let (newest, found) = self.survey(&record).await?;
        let record = self.commit(record, newest).await?;
        for (root, versions) in found {
            delete_outdated(&root, &record, &versions).await;
        }
        self.dismiss_stand_ins(&record).await;
        Ok(record)
    }

    /// Removes the record of a collection whose files are deleted. Every root that may hold a copy must be there:
    /// one that missed the drop would bring the collection back when it returns.
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
        let _one_at_a_time = self.changing.lock().await;
        let homes = self.tell_all_holders(record).await?;
        for (root, versions) in homes {
            // Ascending: as long as any version is there, the one that says Dropping is.
            for (_, file) in versions.iter().filter(|(version, _)| *version < record.version) {
                root.delete(&file.path).await?;
            }
            root.delete_dir(&id.to_string()).await?;
            root.clear_usage(id);
        }
        self.known.lock().remove(&id);
        Ok(())
    }

    /// Makes every root with a copy of a dropping record hold it, before the first copy goes: a crash in between must not leave an
    /// older version alone. Returns the roots with the versions they had.
    async fn tell_all_holders(&self, record: &CollectionRecord) -> Result<Vec<(Arc<Root>, Vec<(u64, FileInfo)>)>> {
        let mut homes = Vec::new();
        for home in home_ids(record).chain(record.lineage.stand_ins.iter().copied()) {
            // What was removed for good cannot bring an older version back: if it is added again, it is listed first.
            if self.roots.was_removed(home) {
                continue;
            }
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

    /// A create that failed may have stored the file all the same (an answer was lost): the collection was refused, so
    /// it must not appear at the next start. Only for a first version, whose id nobody else has.
    async fn abandon(&self, record: &CollectionRecord) {
        let id = record.description.id;
        for root in self
            .metadata_roots()
            .into_iter()
            .filter(|root| root.available().is_ok())
        {
            if let Err(error) = root.delete_dir(&id.to_string()).await {
                tracing::warn!(%error, "the record of a refused collection may be left over");
            }
            root.clear_usage(id);
        }
        self.known.lock().remove(&id);
    }

    /// The configured homes of the record, in order.
    fn homes(&self, record: &CollectionRecord) -> Vec<Arc<Root>> {
        home_ids(record).filter_map(|id| self.roots.by_id(id).ok()).collect()
    }
}

/// The roots that get every version: the homes in order, then those of a move under way.
fn home_ids(record: &CollectionRecord) -> impl Iterator<Item = RootId> + use<> {
    let homes = record.placement.get(&StorageComponentType::Metadata);
    homes.map(Placement::all_roots).unwrap_or_default().into_iter()
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

//! Loading at start: the newest version of every record over all copies, and bringing the copies up to date.
//!
//! The newest version counts even if its only copy is damaged: the one before it is what the collection *was*, and taking it
//! would undo an acknowledged change (or bring a dropped collection back). Such a collection is reported with the file's
//! name and left alone; the others load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use proximadb_store::FileInfo;

use super::commit::read_nonce;
use super::lineage::Known;
use super::{CollectionRecord, MetadataStore, delete_outdated, home_ids, record_path, version_of};
use crate::discovery::Discovery;
use crate::error::{Error, Result};
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::CollectionId;

/// Records read at the same time: enough to hide the latency of buckets, few enough for the threads of a disk.
const LOADS_AT_ONCE: usize = 32;

/// What the metadata roots say.
#[derive(Debug, Default)]
pub struct LoadedRecords {
    /// The newest record of each collection, also of those that are being dropped.
    pub records: BTreeMap<CollectionId, CollectionRecord>,
    /// Collections that have a record which cannot be read, and why. They exist: neither their name nor their homes
    /// may be given to others.
    pub unreadable: BTreeMap<CollectionId, Error>,
}

/// The files of a collection's record on one root.
struct Copy {
    root: Arc<Root>,
    versions: Vec<(u64, FileInfo)>,
}

/// What reading the newest version from its copies gave.
#[derive(Default)]
struct Newest {
    valid: Vec<(Arc<Root>, Bytes, CollectionRecord)>,
    damaged: Vec<(Arc<Root>, FileInfo, String)>,
    failure: Option<Error>,
}

impl MetadataStore {
    /// The newest record of every collection that discovery found on a metadata root. Copies that lag or are damaged are
    /// brought up to date where their root is available.
    pub async fn load_all(&self, discovery: &Discovery) -> LoadedRecords {
        let _one_at_a_time = self.changing.lock().await;
        let loads = copies(discovery)
            .into_iter()
            .map(|(id, copies)| async move { (id, self.load(id, &copies).await) });
        let mut loads = futures::stream::iter(loads).buffer_unordered(LOADS_AT_ONCE);
        let mut loaded = LoadedRecords::default();
        while let Some((id, outcome)) = loads.next().await {
            match outcome {
                Ok(record) => drop(loaded.records.insert(id, record)),
                Err(error) => {
                    tracing::error!(collection = %id, %error, "metadata record not readable");
                    loaded.unreadable.insert(id, error);
                }
            }
        }
        loaded
    }

    async fn load(&self, id: CollectionId, copies: &[Copy]) -> Result<CollectionRecord> {
        let version = copies
            .iter()
            .flat_map(|copy| &copy.versions)
            .map(|(version, _)| *version)
            .max()
            .unwrap_or(0);
        let newest = read_newest(id, version, copies).await;
        let Some((first_root, bytes, record)) = newest.valid.first() else {
            let damaged = |(root, file, reason): &(Arc<Root>, FileInfo, String)| {
                format!("metadata record {}/{} is damaged: {reason}", root.url(), file.path)
            };
            let damaged: Vec<String> = newest.damaged.iter().map(damaged).collect();
            return Err(newest.failure.unwrap_or_else(|| Error::Corruption(damaged.join("; "))));
        };
        if let Some((root, ..)) = newest.valid.iter().find(|(.., other)| other.nonce != record.nonce) {
            let (path, first, second) = (record_path(id, version), first_root.url(), root.url());
            return Err(Error::Corruption(format!(
                "metadata record {path} differs between {first} and {second}"
            )));
        }
        check_lineage(record, copies).await?;
        let whole = self.repair(record, bytes, copies, &newest.damaged).await;
        self.note_loaded(record, copies, &whole);
        self.dismiss_stand_ins(record).await;
        Ok(record.clone())
    }

    /// Notes which homes have the record, and what the others may have.
    fn note_loaded(&self, record: &CollectionRecord, copies: &[Copy], whole: &BTreeSet<RootId>) {
        let mut known = Known::of(record);
        let homes = home_ids(record);
        for home in homes.filter(|home| !whole.contains(home)) {
            let held = record.lineage.behind.get(&home).unwrap_or(&record.lineage.previous);
            known
                .behind
                .insert(home, held.iter().copied().chain([record.nonce]).collect());
        }
        let others = copies.iter().map(|copy| copy.root.id());
        known
            .stand_ins
            .extend(others.filter(|root| !known.homes.contains(root)));
        let mut all = self.known.lock();
        known.tried = all.remove(&record.description.id).unwrap_or_default().tried;
        all.insert(record.description.id, known);
    }

    /// Gives every available home of the record the same bytes, and returns the homes that have them. A copy that cannot
    /// be written stays as it is until its root is well: the record is readable without it.
    async fn repair(
        &self,
        record: &CollectionRecord,
        bytes: &Bytes,
        copies: &[Copy],
        damaged: &[(Arc<Root>, FileInfo, String)],
    ) -> BTreeSet<RootId> {
        let mut whole = BTreeSet::new();
        for root in self.homes(record).into_iter().filter(|root| root.available().is_ok()) {
            let copy = copies.iter().find(|copy| copy.root.id() == root.id());
            let versions = copy.map_or(&[][..], |copy| &copy.versions);
            let present = versions.iter().find(|(version, _)| *version == record.version);
            let bad = damaged.iter().find(|(other, ..)| other.id() == root.id());
            let outcome = match (present, bad) {
                (_, Some((_, file, reason))) => {
                    tracing::error!(
                        root = root.url(),
                        file = file.path,
                        reason,
                        "metadata copy is damaged; it is replaced"
                    );
                    replace(&root, record, file, bytes).await
                }
                (None, None) => {
                    tracing::warn!(root = root.url(), collection = %record.description.id, "metadata copy lags; it is brought up to date");
                    self.create_copy(&root, record, bytes).await
                }
                (Some(_), None) => Ok(()),
            };
            match outcome {
                Ok(()) => {
                    whole.insert(root.id());
                    delete_outdated(&root, record, versions).await;
                }
                Err(error) => tracing::warn!(%error, "metadata copy not brought up to date"),
            }
        }
        whole
    }
}

/// Overwrites a damaged file: its name stands for the content that the other copy still has.
async fn replace(root: &Root, record: &CollectionRecord, file: &FileInfo, bytes: &Bytes) -> Result<()> {
    root.write_atomic(&file.path, bytes.clone()).await?;
    let id = record.description.id;
    root.remove_usage(id, file.size, 1);
    root.add_usage(id, bytes.len() as u64, 1);
    Ok(())
}

/// Refuses a record of which a home has a history of its own: older versions that the newest one does not come from.
async fn check_lineage(record: &CollectionRecord, copies: &[Copy]) -> Result<()> {
    let homes: Vec<RootId> = home_ids(record).collect();
    for copy in copies.iter().filter(|copy| homes.contains(&copy.root.id())) {
        let Some((version, file)) = copy.versions.last().filter(|(version, _)| *version < record.version) else {
            continue;
        };
        // What cannot be read is brought up to date, as what is not there.
        let Ok(nonce) = read_nonce(&copy.root, record.description.id, *version, file).await else {
            continue;
        };
        if !record.lineage.knows(copy.root.id(), nonce) {
            let (url, path, newest) = (
                copy.root.url(),
                &file.path,
                record_path(record.description.id, record.version),
            );
            return Err(Error::Corruption(format!(
                "metadata record {url}/{path} was changed while other roots were away, and {newest} does not know of it: \
                 there are two histories; remove the files of one of them"
            )));
        }
    }
    Ok(())
}

async fn read_newest(id: CollectionId, version: u64, copies: &[Copy]) -> Newest {
    let mut newest = Newest::default();
    let with_newest = copies.iter().filter_map(|copy| {
        let (_, file) = copy.versions.iter().find(|(own, _)| *own == version)?;
        Some((copy, file))
    });
    let reads = with_newest.map(|(copy, file)| async move {
        let read = copy
            .root
            .read_stored(file, |bytes| CollectionRecord::decode(bytes).is_ok());
        (copy, file, read.await)
    });
    for (copy, file, bytes) in join_all(reads).await {
        let bytes = match bytes {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let (url, path) = (copy.root.url(), &file.path);
                newest.failure = Some(Error::Corruption(format!("metadata record {url}/{path} is missing")));
                continue;
            }
            Err(error) => {
                newest.failure = Some(error);
                continue;
            }
        };
        match CollectionRecord::decode(&bytes) {
            Ok(record) if record.description.id == id && record.version == version => {
                newest.valid.push((copy.root.clone(), bytes, record));
            }
            Ok(other) => {
                let reason = format!("it is version {} of collection {}", other.version, other.description.id);
                newest.damaged.push((copy.root.clone(), file.clone(), reason));
            }
            Err(reason) => newest.damaged.push((copy.root.clone(), file.clone(), reason)),
        }
    }
    newest
}

/// Collections on the metadata roots, each with its copies.
fn copies(discovery: &Discovery) -> BTreeMap<CollectionId, Vec<Copy>> {
    let mut copies: BTreeMap<CollectionId, Vec<Copy>> = BTreeMap::new();
    for (root, id, files) in discovery.of_component(StorageComponentType::Metadata) {
        let versions: Vec<_> = files
            .iter()
            .filter_map(|file| Some((version_of(&file.path)?, file.clone())))
            .collect();
        if !versions.is_empty() {
            copies.entry(id).or_default().push(Copy {
                root: root.clone(),
                versions,
            });
        }
    }
    copies
}

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

/// Records brought up to date at the same time: enough to hide the latency of buckets, few enough for the threads of a disk.
const REPAIRS_AT_ONCE: usize = 32;

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
    /// The newest record of every collection that discovery found on a metadata root, but of those that are `in_use`: what
    /// was listed of them may be old. Copies that lag or are damaged are brought up to date where their root is available.
    pub async fn load_all(&self, discovery: &Discovery, in_use: &BTreeSet<CollectionId>) -> LoadedRecords {
        let _one_at_a_time = self.changing.lock().await;
        let mut copies = copies(discovery);
        copies.retain(|id, _| !in_use.contains(id));
        let mut read = read_newest(&copies).await;
        let loads = copies.iter().map(|(id, copies)| {
            let newest = read.remove(id).unwrap_or_default();
            async move { (*id, self.load(*id, copies, newest).await) }
        });
        // Collected: a closure inside the stream ties the future to one lifetime, and it could not be spawned.
        let loads: Vec<_> = loads.collect();
        let mut loads = futures::stream::iter(loads).buffer_unordered(REPAIRS_AT_ONCE);
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

    /// Takes the newest version as it was read; asks the roots only for what is not as it should be.
    async fn load(&self, id: CollectionId, copies: &[Copy], newest: Newest) -> Result<CollectionRecord> {
        let Some((first_root, bytes, record)) = newest.valid.first() else {
            let damaged = |(root, file, reason): &(Arc<Root>, FileInfo, String)| {
                format!("metadata record {}/{} is damaged: {reason}", root.url(), file.path)
            };
            let damaged: Vec<String> = newest.damaged.iter().map(damaged).collect();
            return Err(newest.failure.unwrap_or_else(|| Error::Corruption(damaged.join("; "))));
        };
        if let Some((root, ..)) = newest.valid.iter().find(|(.., other)| other.nonce != record.nonce) {
            let (path, first, second) = (record_path(id, record.version), first_root.url(), root.url());
            return Err(Error::Corruption(format!(
                "metadata record {path} differs between {first} and {second}"
            )));
        }
        check_lineage(record, copies).await?;
        let whole = self.repair(record, bytes, copies, &newest.damaged).await;
        self.note_loaded(record, copies, &whole);
        self.complete(record, bytes, &newest.valid, &whole).await;
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

    /// Gives the record to the stand-ins that it names for homes that do not have it: whoever wrote it may have been killed before they
    /// had it, and what was seen once must be seen again when another root is away.
    async fn complete(
        &self,
        record: &CollectionRecord,
        bytes: &Bytes,
        valid: &[(Arc<Root>, Bytes, CollectionRecord)],
        whole: &BTreeSet<RootId>,
    ) {
        let missing = home_ids(record).filter(|home| !whole.contains(home)).count();
        for root in self.choose_stand_ins(record, &BTreeSet::new(), missing) {
            let is_named = record.lineage.stand_ins.contains(&root.id());
            if is_named
                && valid.iter().all(|(holder, ..)| holder.id() != root.id())
                && let Err(error) = self.create_copy(&root, record, bytes).await
            {
                tracing::warn!(%error, "metadata copy of a stand-in not completed");
            }
        }
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

/// Files of one root that are read together.
struct Batch {
    root: Arc<Root>,
    /// What each file should be.
    records: Vec<(CollectionId, u64)>,
    files: Vec<FileInfo>,
}

/// Reads the newest version of every record, from every root that has it: a copy of the same length may be damaged, or of
/// another history. The roots are read at the same time, each in large pieces.
async fn read_newest(copies: &BTreeMap<CollectionId, Vec<Copy>>) -> BTreeMap<CollectionId, Newest> {
    let mut batches: BTreeMap<RootId, Batch> = BTreeMap::new();
    for (id, copies) in copies {
        let versions = copies.iter().filter_map(|copy| copy.versions.last());
        let newest = versions.map(|(version, _)| *version).max();
        for copy in copies {
            let Some((version, file)) = copy.versions.last().filter(|(own, _)| Some(*own) == newest) else {
                continue;
            };
            let batch = batches.entry(copy.root.id()).or_insert_with(|| Batch {
                root: copy.root.clone(),
                records: Vec::new(),
                files: Vec::new(),
            });
            batch.records.push((*id, *version));
            batch.files.push(file.clone());
        }
    }
    let reads = batches.into_values().map(|batch| async move {
        let is_record = |bytes: &[u8]| CollectionRecord::decode(bytes).is_ok();
        let read = batch.root.read_all(&batch.files, is_record).await;
        (batch, read)
    });
    let mut newest: BTreeMap<CollectionId, Newest> = BTreeMap::new();
    for (batch, read) in join_all(reads).await {
        let Batch { root, records, files } = batch;
        for ((record, file), bytes) in records.into_iter().zip(files).zip(read) {
            newest.entry(record.0).or_default().add(&root, record, file, bytes);
        }
    }
    newest
}

impl Newest {
    fn add(&mut self, root: &Arc<Root>, (id, version): (CollectionId, u64), file: FileInfo, bytes: Result<Bytes>) {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return self.failure = Some(error),
        };
        // Copies are equal to the last byte, so the second need not be decoded.
        let equal = self.valid.iter().find(|(_, other, _)| *other == bytes);
        let decoded = equal.map_or_else(|| CollectionRecord::decode(&bytes), |(.., record)| Ok(record.clone()));
        match decoded {
            Ok(record) if record.description.id == id && record.version == version => {
                self.valid.push((root.clone(), bytes, record));
            }
            Ok(other) => {
                let reason = format!("it is version {} of collection {}", other.version, other.description.id);
                self.damaged.push((root.clone(), file, reason));
            }
            Err(reason) => self.damaged.push((root.clone(), file, reason)),
        }
    }
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

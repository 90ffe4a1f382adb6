//! Committing a version: which roots take it, in which order, and what is known afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use proximadb_store::{Created, FileInfo};
use uuid::Uuid;

use super::lineage::{Known, Lineage};
use super::{CollectionRecord, MetadataStore, home_ids, list, record_path};
use crate::error::{Error, Result};
use crate::root::{Root, RootId, RootState, StorageComponentType};
use crate::schema::CollectionId;
use crate::sealed::seal;

/// The versions of a record on one root, ascending.
pub(super) type Versions = Vec<(u64, FileInfo)>;

impl MetadataStore {
    /// Looks at every metadata root before a change: the highest version in use, and what each root has.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] for a version of another history; [`Error::Corruption`] for one that cannot be read.
    pub(super) async fn survey(&self, record: &CollectionRecord) -> Result<(u64, Vec<(Arc<Root>, Versions)>)> {
        let id = record.description.id;
        let roots = self.metadata_roots();
        let listings = join_all(roots.iter().map(|root| list(root, id))).await;
        // A root that cannot be listed now is one that lags.
        let found = roots
            .into_iter()
            .zip(listings)
            .filter_map(|(root, versions)| Some((root, versions.ok()?)));
        let found: Vec<(Arc<Root>, Versions)> = found.collect();
        let homes: Vec<RootId> = home_ids(record).collect();
        let mut newest = record.version;
        for (root, versions) in &found {
            let Some((version, file)) = versions.last() else {
                continue;
            };
            let known = self.known_of(record);
            let is_new_home = homes.contains(&root.id()) && !known.homes.contains(&root.id());
            let is_newer = *version > record.version;
            if is_newer || is_new_home || known.behind.contains_key(&root.id()) {
                match read_nonce(root, id, *version, file).await {
                    Ok(nonce) if nonce == record.nonce || known.knows(root.id(), nonce) => {}
                    Ok(nonce) if is_new_home && !is_newer => {
                        self.change_known(record, |known| known.behind.entry(root.id()).or_default().insert(nonce));
                    }
                    Ok(_) => return Err(taken(root, &file.path)),
                    Err(error) if is_newer => return Err(error),
                    // What it was does not matter: a newer version comes beside it.
                    Err(_) => {}
                }
            }
            newest = newest.max(*version);
        }
        Ok((newest, found))
    }

    /// Stores a record as the version after `newest`. When homes fail while it is written, once more with stand-ins.
    ///
    /// # Errors
    /// Those of the homes when none of them took it; [`Error::AlreadyExists`] when another writer has that version.
    pub(super) async fn commit(&self, mut record: CollectionRecord, mut newest: u64) -> Result<CollectionRecord> {
        let before = (newest > 0).then_some(record.nonce);
        let wanted = record
            .placement
            .get(&StorageComponentType::Metadata)
            .map_or(1, |of| of.roots.len());
        let mut failed = BTreeSet::new();
        loop {
            newest += 1;
            let homes = self.target_homes(&record, &failed);
            if homes.is_empty() {
                return Err(self.no_home(&record));
            }
            let stand_ins = self.choose_stand_ins(&record, &failed, wanted.saturating_sub(homes.len()));
            record = self.next_version(record, newest, &stand_ins);
            self.change_known(&record, |known| known.note_attempt(before, &record));
            let stored = self.write(&record, &homes, &stand_ins, &mut failed).await?;
            let others = self.choose_stand_ins(&record, &failed, usize::MAX);
            if stored.len() >= wanted || others.iter().all(|root| stored.contains(&root.id())) {
                self.change_known(&record, |known| known.note_success(&record, &stored, &failed));
                return Ok(record);
            }
        }
    }

    pub(super) fn next_version(
        &self,
        mut record: CollectionRecord,
        version: u64,
        stand_ins: &[Arc<Root>],
    ) -> CollectionRecord {
        let known = self.known_of(&record);
        let mut previous = known.tried;
        if version > 1 {
            previous.insert(record.nonce);
        }
        let homes: Vec<RootId> = home_ids(&record).collect();
        let left = known.homes.iter().filter(|home| !homes.contains(home));
        let mut others: BTreeSet<RootId> = known.stand_ins.iter().chain(left).copied().collect();
        others.extend(stand_ins.iter().map(|root| root.id()));
        others.retain(|root| !homes.contains(root));
        record.lineage = Lineage {
            previous,
            behind: known.behind,
            stand_ins: others,
        };
        record.version = version;
        record.nonce = Uuid::new_v4();
        record
    }

    /// The homes that are asked to take a version. One that lags and is not well has had its chance: it is brought up to
    /// date when it is.
    pub(super) fn target_homes(&self, record: &CollectionRecord, failed: &BTreeSet<RootId>) -> Vec<Arc<Root>> {
        let mut homes = self.homes(record);
        homes.retain(|root| root.available().is_ok() && !failed.contains(&root.id()));
        let known = self.known_of(record);
        let well = |root: &&Arc<Root>| is_well(root) || !known.behind.contains_key(&root.id());
        let chosen: Vec<Arc<Root>> = homes.iter().filter(well).cloned().collect();
        if chosen.is_empty() { homes } else { chosen }
    }

    /// Other metadata roots that take the place of homes that are away; those first that have stood in before.
    pub(super) fn choose_stand_ins(
        &self,
        record: &CollectionRecord,
        failed: &BTreeSet<RootId>,
        count: usize,
    ) -> Vec<Arc<Root>> {
        let homes: Vec<RootId> = home_ids(record).collect();
        let known = self.known_of(record).stand_ins;
        let mut roots = self.metadata_roots();
        roots.retain(|root| is_well(root) && !homes.contains(&root.id()) && !failed.contains(&root.id()));
        roots.sort_by_key(|root| !known.contains(&root.id()));
        roots.truncate(count);
        roots
    }

    /// Creates a version: on one home after the other until one takes it, which decides between racing writers; then on all
    /// others at once. Returns the roots that have it, and adds those that failed.
    async fn write(
        &self,
        record: &CollectionRecord,
        homes: &[Arc<Root>],
        stand_ins: &[Arc<Root>],
        failed: &mut BTreeSet<RootId>,
    ) -> Result<BTreeSet<RootId>> {
        let bytes = seal(record)?;
        let mut rest = homes.iter();
        let mut refused = None;
        let mut stored = BTreeSet::new();
        for home in rest.by_ref() {
            match self.create_copy(home, record, &bytes).await {
                Ok(()) => {
                    stored.insert(home.id());
                    break;
                }
                // Another writer's version: a copy of ours beside it would be a second content.
                Err(error @ Error::AlreadyExists(_)) => return Err(error),
                Err(error) => {
                    failed.insert(home.id());
                    refused = Some(error);
                }
            }
        }
        if stored.is_empty() {
            return Err(refused.unwrap_or_else(|| self.no_home(record)));
        }
        let rest: Vec<&Arc<Root>> = rest.chain(stand_ins).collect();
        let copies = rest.iter().map(|root| self.create_copy(root, record, &bytes));
        for (root, outcome) in rest.iter().zip(join_all(copies).await) {
            match outcome {
                Ok(()) => drop(stored.insert(root.id())),
                Err(error) => {
                    tracing::warn!(%error, "a metadata copy lags; it is brought up to date when its root is well");
                    failed.insert(root.id());
                }
            }
        }
        Ok(stored)
    }

    /// Why no home could be asked.
    fn no_home(&self, record: &CollectionRecord) -> Error {
        let reason = home_ids(record).find_map(|id| self.roots.by_id(id).and_then(|root| root.available()).err());
        reason.unwrap_or_else(|| Error::Internal(format!("collection {} has no metadata root", record.description.id)))
    }

    pub(super) async fn create_copy(&self, root: &Root, record: &CollectionRecord, bytes: &Bytes) -> Result<()> {
        let path = record_path(record.description.id, record.version);
        match root.create(&path, bytes.clone()).await? {
            Created::Committed => {
                root.add_usage(record.description.id, bytes.len() as u64, 1);
                Ok(())
            }
            Created::Conflict(_) => Err(taken(root, &path)),
        }
    }

    /// The metadata roots that are not away.
    pub(super) fn metadata_roots(&self) -> Vec<Arc<Root>> {
        let mut roots = self.roots.of_component(StorageComponentType::Metadata);
        roots.retain(|root| root.available().is_ok());
        roots
    }

    pub(super) fn known_of(&self, record: &CollectionRecord) -> Known {
        let known = self.known.lock();
        known
            .get(&record.description.id)
            .cloned()
            .unwrap_or_else(|| Known::of(record))
    }

    pub(super) fn change_known<R>(&self, record: &CollectionRecord, change: impl FnOnce(&mut Known) -> R) -> R {
        let mut known = self.known.lock();
        change(known.entry(record.description.id).or_insert_with(|| Known::of(record)))
    }
}

/// Whether writing to a root can be expected to succeed.
pub(super) fn is_well(root: &Root) -> bool {
    matches!(root.state(), RootState::Online | RootState::Draining)
}

/// The nonce of a version on a root.
pub(super) async fn read_nonce(root: &Root, id: CollectionId, version: u64, file: &FileInfo) -> Result<Uuid> {
    let reason = match CollectionRecord::decode(&root.read(&file.path).await?) {
        Ok(record) if record.description.id == id && record.version == version => return Ok(record.nonce),
        Ok(other) => format!("it is version {} of collection {}", other.version, other.description.id),
        Err(reason) => reason,
    };
    Err(Error::Corruption(format!(
        "metadata record {}/{} is damaged: {reason}",
        root.url(),
        file.path
    )))
}

pub(super) fn taken(root: &Root, path: &str) -> Error {
    Error::AlreadyExists(format!(
        "{}/{path} was written by another process, or while the other copies were away",
        root.url()
    ))
}

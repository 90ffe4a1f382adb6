//! What happens between opening the roots and the first request: records are loaded, lost ones are rebuilt from the files
//! that describe themselves, interrupted drops are finished. Nothing that cannot be seen is ever created again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proximadb_store::FileInfo;

use super::entry::Entry;
use super::{Database, SHARD, now_ms};
use crate::discovery::{self, Discovery};
use crate::engine::lsm::Lsm;
use crate::engine::manifest::{Manifest, version_of};
use crate::engine::parquet::decode;
use crate::error::{Error, Result};
use crate::metadata::{CollectionRecord, CollectionState, LoadedRecords};
use crate::placement::Placement;
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::{CollectionDescription, CollectionId};

/// Components whose files describe the collection they belong to and cannot be made again from others.
const SELF_DESCRIBING: [StorageComponentType; 3] = [
    StorageComponentType::Wal,
    StorageComponentType::Viper,
    StorageComponentType::Lsm,
];

/// Components that decide what a lost record said: where it was, and where the data is. Indexes are built again.
const DECISIVE: [StorageComponentType; 4] = [
    StorageComponentType::Metadata,
    StorageComponentType::Wal,
    StorageComponentType::Viper,
    StorageComponentType::Lsm,
];

/// Listings of the roots before creations and drops have to wait for one.
const LISTINGS: usize = 3;

impl Database {
    pub(super) async fn recover(&self, discovery: &Discovery) -> Result<()> {
        discovery::remove_leftovers(discovery).await;
        let nothing = BTreeSet::new();
        let (loaded, floors) = tokio::join!(
            self.metadata.load_all(discovery, &nothing),
            self.metadata.load_counters()
        );
        let LoadedRecords { records, unreadable } = loaded;
        for (id, record) in &records {
            self.assignments.record_assignment(*id, record.placement.clone());
            report_strays(record, discovery);
        }
        let lost = self.without_record(&records, discovery);
        self.record_found(&lost, discovery);
        let complete = self.all_seen(&[StorageComponentType::Metadata]);
        self.assignments
            .restore_counters(&floors, complete.is_ok() && unreadable.is_empty());

        // A record that cannot be read may name any root.
        if lost.is_empty() && unreadable.is_empty() && complete.is_ok() {
            let used: HashSet<RootId> = records.values().flat_map(homes).collect();
            self.roots.initialise_missing(&used).await?;
        }
        let (dropping, active): (Vec<_>, Vec<_>) = records
            .into_values()
            .partition(|record| record.state == CollectionState::Dropping);
        for record in active {
            self.insert(record, None);
        }
        self.rebuild_all(lost, &unreadable, discovery).await;
        for record in dropping {
            if let Err(error) = self.finish_drop(&record).await {
                tracing::warn!(collection = %record.description.id, %error, "drop not finished; it is tried again at the next start");
            }
        }
        let found = discovery.collections().len();
        tracing::info!(
            roots = discovery.roots.len(),
            "Discovery complete: {found} collections found"
        );
        Ok(())
    }

    /// Takes up collections whose records can be read now that a root is back. The roots are listed while others create
    /// and drop, as a root that does not answer may take its time; then the listing counts only if nobody has.
    pub(super) async fn readmit(self: &Arc<Self>) {
        for is_last in (1..=LISTINGS).map(|number| number == LISTINGS) {
            let before = self.changes.load(Ordering::Acquire);
            let waiting = if is_last { Some(self.change().await) } else { None };
            // Not the listing of a report, which may show what was known before the root went away.
            let discovery = discovery::discover(&self.roots).await;
            let change = match waiting {
                Some(change) => change,
                None => self.change().await,
            };
            let Ok(_one_change_at_a_time) = change else { return };
            if is_last || self.changes.load(Ordering::Acquire) == before + 1 {
                return self.take_up(&discovery).await;
            }
        }
    }

    async fn take_up(self: &Arc<Self>, discovery: &Discovery) {
        let in_use: BTreeSet<CollectionId> = self
            .catalog
            .read()
            .values()
            .filter(|entry| entry.unavailable.is_none())
            .map(|entry| entry.record.read().description.id)
            .collect();
        let LoadedRecords { records, unreadable } = self.metadata.load_all(discovery, &in_use).await;
        let mut lost = self.without_record(&records, discovery);
        lost.retain(|id| !in_use.contains(id));
        for (id, record) in records {
            let known = self.catalog.read().get(&record.description.name).cloned();
            let usable = known.is_some_and(|entry| entry.unavailable.is_none());
            if !usable && record.state == CollectionState::Active {
                self.assignments.record_assignment(id, record.placement.clone());
                tracing::info!(collection = record.description.name, %id, "collection is available again");
                self.insert(record, None);
            }
        }
        self.record_found(&lost, discovery);
        self.rebuild_all(lost, &unreadable, discovery).await;
    }

    /// Brings metadata copies up to date whose roots are well again. Free when none lags.
    pub(super) async fn repair_records(&self) {
        let lagging = self.metadata.lagging();
        if lagging.is_empty() {
            return;
        }
        let Ok(_one_change_at_a_time) = self.change().await else {
            return;
        };
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        for entry in entries.iter().filter(|entry| entry.unavailable.is_none()) {
            let record = entry.record.read().clone();
            if lagging.contains(&record.description.id) {
                self.metadata.repair_lagging(&record).await;
            }
        }
    }

    /// Makes the records of collections again that have none, or shows them where that must not be done yet.
    async fn rebuild_all(
        &self,
        lost: BTreeSet<CollectionId>,
        unreadable: &BTreeMap<CollectionId, Error>,
        discovery: &Discovery,
    ) {
        // A record that cannot be read is there all the same, and files on a root that is away are the collection's home
        // all the same: such a collection is shown and not touched.
        let unseen = self.all_seen(&DECISIVE).err();
        for id in lost {
            let unavailable = unreadable.get(&id).or(unseen.as_ref()).cloned();
            if let Err(error) = self.rebuild(id, discovery, unavailable).await {
                tracing::error!(collection = %id, %error, "a collection without metadata record could not be rebuilt");
            }
        }
    }

    /// Brings back missing copies of index files of open collections.
    pub(super) async fn repair_indexes(&self) {
        for (_, collection) in self.open_collections().await {
            collection.shard().repair_indexes().await;
        }
    }

    /// Deletes the files of a collection whose record says `dropping`, then the record.
    pub(super) async fn finish_drop(&self, record: &CollectionRecord) -> Result<()> {
        let id = record.description.id;
        for (component, placement) in record
            .placement
            .iter()
            .filter(|(c, _)| **c != StorageComponentType::Metadata)
        {
            for home in placement.all_roots() {
                let deleted = self.roots.by_id(home)?.delete_dir(&id.to_string()).await?;
                tracing::info!(collection = %id, %component, files = deleted, "files of a dropped collection deleted");
            }
        }
        self.metadata.save_counters(&self.assignments.counters()).await?;
        self.metadata.remove(record).await?;
        self.assignments.remove_assignment(id);
        Ok(())
    }

    /// Whether every root of these components could be read, so that what was not found there does not exist.
    fn all_seen(&self, components: &[StorageComponentType]) -> Result<()> {
        let mut roots = components.iter().flat_map(|of| self.roots.of_component(*of));
        roots.try_for_each(|root| root.available())
    }

    /// Collections that have files and no record that could be read.
    fn without_record(
        &self,
        records: &BTreeMap<CollectionId, CollectionRecord>,
        discovery: &Discovery,
    ) -> BTreeSet<CollectionId> {
        let found = SELF_DESCRIBING
            .into_iter()
            .flat_map(|component| discovery.of_component(component));
        found
            .map(|(_, id, _)| id)
            .filter(|id| !records.contains_key(id))
            .collect()
    }

    /// Makes the record of a collection again from its files: its homes are where they lie. With a reason why its own
    /// record cannot be read it is only shown, as unavailable.
    async fn rebuild(&self, id: CollectionId, discovery: &Discovery, unavailable: Option<Error>) -> Result<()> {
        let description = self.describe(id, discovery).await?;
        let namesake = self
            .catalog
            .read()
            .get(&description.name)
            .map(|entry| entry.record.read().description.id);
        if let Some(namesake) = namesake.filter(|namesake| *namesake != id) {
            let name = &description.name;
            return Err(Error::Corruption(format!(
                "its name `{name}` is that of {namesake}; its files are left alone"
            )));
        }
        if unavailable.is_some() {
            let homes = StorageComponentType::ALL.into_iter().filter_map(|component| {
                let assignment = self.assignments.get_assignment(id, component)?;
                Some((component, assignment.placement))
            });
            self.insert(CollectionRecord::new(description, homes.collect()), unavailable);
            return Ok(());
        }
        let configs = self.assignment_configs(&description.schema, discovery).await;
        let reserved = self.assignments.assign_storage_url(id, &configs, now_ms())?;
        let record = self.metadata.create(description, reserved.placements().clone()).await?;
        reserved.record();
        tracing::warn!(collection = record.description.name, %id, "metadata record was lost; rebuilt from the files");
        self.insert(record, None);
        Ok(())
    }

    /// Records where the files of collections lie that have no record; metadata is not asked.
    fn record_found(&self, lost: &BTreeSet<CollectionId>, discovery: &Discovery) {
        for (component, config) in super::component_configs(&self.config) {
            if component != StorageComponentType::Metadata {
                let service = &self.assignments;
                discovery.discover_and_record_assignments(component, config, lost, service, now_ms());
            }
        }
    }

    /// What the collection's own files say that it is: the newest log file, manifest or segment that can be read.
    async fn describe(&self, id: CollectionId, discovery: &Discovery) -> Result<CollectionDescription> {
        for component in SELF_DESCRIBING {
            for (root, files) in discovery.of_collection(component, id) {
                // A tree says it as a whole.
                let files = if component == StorageComponentType::Lsm {
                    &files[..1]
                } else {
                    files
                };
                for file in files.iter().rev() {
                    match describe_by(root, file, id).await {
                        Ok(description) if description.id == id => return Ok(description),
                        Ok(other) => {
                            tracing::error!(root = root.url(), file = file.path, other = %other.id, "file of another collection")
                        }
                        Err(error) => {
                            tracing::warn!(root = root.url(), file = file.path, %error, "file does not describe its collection")
                        }
                    }
                }
            }
        }
        Err(Error::Corruption(format!("no file of collection {id} says what it is")))
    }
}

async fn describe_by(root: &Arc<Root>, file: &FileInfo, id: CollectionId) -> Result<CollectionDescription> {
    if root.component() == StorageComponentType::Lsm {
        return Lsm::describe(root, id, SHARD).await;
    }
    let bytes = root.read(&file.path).await?;
    if root.component() == StorageComponentType::Wal {
        return crate::wal::describe(&file.path, &bytes);
    }
    if version_of(&file.path).is_some() {
        return describe_by_manifest(&bytes);
    }
    let segment = decode(&bytes).map_err(|error| Error::Corruption(error.0))?;
    Ok(segment.0.description)
}

fn describe_by_manifest(bytes: &[u8]) -> Result<CollectionDescription> {
    Manifest::decode(bytes)
        .map(|manifest| manifest.description)
        .map_err(|error| Error::Corruption(error.to_string()))
}

fn homes(record: &CollectionRecord) -> impl Iterator<Item = RootId> {
    record.placement.values().flat_map(Placement::all_roots)
}

/// Logs files of a collection on roots that are not its homes: an operator moved or copied them, or a drop was cut short.
fn report_strays(record: &CollectionRecord, discovery: &Discovery) {
    let id = record.description.id;
    for (component, placement) in &record.placement {
        for (root, files) in discovery.of_collection(*component, id) {
            let is_home = placement.all_roots().contains(&root.id()) || record.lineage.stand_ins.contains(&root.id());
            if !is_home {
                tracing::error!(collection = %id, %component, root = root.url(), files = files.len(), "files outside of the collection's home; the record decides, they are not used");
            }
        }
    }
}

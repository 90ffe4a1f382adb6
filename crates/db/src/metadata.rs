//! Collection metadata: the record that makes a collection exist, carries its schema and its homes, in copies on several roots.
//!
//! `<metadata root>/<collection id>/<version, 20 digits>.json`: immutable, numbered, checked. A version is committed when it
//! is created on the first usable root of the record's own list of homes; the other copies follow. Readers take the newest
//! version that verifies on any root; a copy that lags is brought up to date at start. Invariants: a version number is
//! never used for two contents; the record of a collection is the last thing of it that a drop deletes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proximadb_store::Created;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::discovery::Discovery;
use crate::error::{Error, Result};
use crate::placement::Placement;
use crate::root::{RESERVED_DIRECTORY, Root, Roots, StorageComponentType};
use crate::schema::{CollectionDescription, CollectionId};

/// Version of the record's form.
const FORMAT_VERSION: u32 = 1;

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
    pub placement: BTreeMap<StorageComponentType, Placement>,
}

impl CollectionRecord {
    /// The first record of a collection, not stored yet.
    pub fn first(description: CollectionDescription, placement: BTreeMap<StorageComponentType, Placement>) -> Self {
        let (format_version, state) = (FORMAT_VERSION, CollectionState::Active);
        Self {
            format_version,
            version: 1,
            nonce: Uuid::new_v4(),
            state,
            description,
            placement,
        }
    }
}

/// JSON with a checksum over the exact text of the record.
#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    crc32: u32,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// The records of all collections.
pub struct MetadataStore {
    roots: Arc<Roots>,
}

impl MetadataStore {
    /// The records on the metadata roots of `roots`.
    pub fn new(roots: Arc<Roots>) -> Self {
        Self { roots }
    }

    /// Creates the record of a new collection.
    ///
    /// # Errors
    /// Errors of the first of its metadata roots; then the collection does not exist.
    pub async fn create(&self, record: CollectionRecord) -> Result<CollectionRecord> {
        self.commit(&record).await?;
        Ok(record)
    }

    /// Stores a changed record as the next version and returns it; the one before the last is deleted.
    ///
    /// # Errors
    /// Errors of its metadata roots; then the last version stands.
    pub async fn update(&self, mut record: CollectionRecord) -> Result<CollectionRecord> {
        record.version += 1;
        record.nonce = Uuid::new_v4();
        self.commit(&record).await?;
        if let Some(outdated) = record.version.checked_sub(2).filter(|&version| version > 0) {
            for root in self.homes(&record) {
                // A leftover costs a few hundred bytes and is never read.
                if let Err(error) = root.delete(&path(record.description.id, outdated)).await {
                    tracing::warn!(%error, "outdated metadata record not deleted");
                }
            }
        }
        Ok(record)
    }

    /// Removes the record of a dropped collection from all roots.
    ///
    /// # Errors
    /// Errors of the roots; the drop has to be finished later.
    pub async fn remove(&self, record: &CollectionRecord) -> Result<()> {
        for home in record
            .placement
            .get(&StorageComponentType::Metadata)
            .iter()
            .flat_map(|placement| &placement.roots)
        {
            self.roots
                .by_id(*home)?
                .delete_dir(&record.description.id.to_string())
                .await?;
        }
        Ok(())
    }

    /// The newest record of every collection that discovery found on a metadata root, by collection. Copies that lag are
    /// brought up to date. A collection of which no copy of the newest version can be read is left out and logged.
    ///
    /// # Errors
    /// Errors of a root that was reachable a moment ago.
    pub async fn load_all(&self, discovery: &Discovery) -> Result<BTreeMap<CollectionId, CollectionRecord>> {
        let mut records = BTreeMap::new();
        for (id, copies) in versions(discovery) {
            if let Some(record) = self.load_newest(id, &copies).await? {
                self.repair(&record, &copies).await;
                records.insert(id, record);
            }
        }
        Ok(records)
    }

    /// Saves the counters before the record with the highest sequence may go.
    ///
    /// # Errors
    /// Errors of the metadata roots if none of them could be written.
    pub async fn save_counters(&self, counters: &BTreeMap<StorageComponentType, u64>) -> Result<()> {
        let text = serde_json::to_vec(counters).map_err(|e| Error::Internal(e.to_string()))?;
        let mut last_error = None;
        let mut saved = false;
        for root in self.roots.of_component(StorageComponentType::Metadata) {
            match root.write_atomic(&counters_path(), text.clone().into()).await {
                Ok(()) => saved = true,
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if !saved => Err(error),
            _ => Ok(()),
        }
    }

    /// The saved counters; the highest of all copies, since counters only grow.
    ///
    /// # Errors
    /// Errors of a root that was reachable a moment ago.
    pub async fn load_counters(&self) -> Result<BTreeMap<StorageComponentType, u64>> {
        let mut counters: BTreeMap<StorageComponentType, u64> = BTreeMap::new();
        for root in self.roots.of_component(StorageComponentType::Metadata) {
            let Ok(Some(text)) = root.read_if_exists(&counters_path()).await else {
                continue;
            };
            let copy: BTreeMap<StorageComponentType, u64> = serde_json::from_slice(&text)
                .map_err(|error| Error::Corruption(format!("{}/{}: {error}", root.url(), counters_path())))?;
            for (component, counter) in copy {
                let known = counters.entry(component).or_default();
                *known = counter.max(*known);
            }
        }
        Ok(counters)
    }

    async fn commit(&self, record: &CollectionRecord) -> Result<()> {
        let bytes = encode(record)?;
        let path = path(record.description.id, record.version);
        let mut committed = false;
        let mut refused = None;
        for root in self.homes(record) {
            match root.create(&path, bytes.clone()).await {
                Ok(Created::Committed) => committed = true,
                Ok(Created::Conflict(_)) => {
                    return Err(Error::Internal(format!(
                        "{}/{path} was written by somebody else",
                        root.url()
                    )));
                }
                Err(error) if committed => {
                    tracing::warn!(%error, "a metadata copy lags; it is brought up to date at the next start")
                }
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

    fn homes(&self, record: &CollectionRecord) -> Vec<Arc<Root>> {
        let homes = record.placement.get(&StorageComponentType::Metadata);
        homes
            .iter()
            .flat_map(|placement| &placement.roots)
            .filter_map(|id| self.roots.by_id(*id).ok())
            .collect()
    }

    async fn load_newest(&self, id: CollectionId, copies: &[(Arc<Root>, u64)]) -> Result<Option<CollectionRecord>> {
        let newest = copies.iter().map(|(_, version)| *version).max().unwrap_or(0);
        for (root, _) in copies.iter().filter(|(_, version)| *version == newest) {
            let path = path(id, newest);
            match decode(&root.read(&path).await?) {
                Ok(record) if record.description.id == id && record.version == newest => return Ok(Some(record)),
                Ok(_) => tracing::error!(root = root.url(), path, "metadata record describes something else"),
                Err(reason) => tracing::error!(root = root.url(), path, reason, "metadata record is damaged"),
            }
        }
        Ok(None)
    }

    async fn repair(&self, record: &CollectionRecord, copies: &[(Arc<Root>, u64)]) {
        for root in self.homes(record) {
            let up_to_date = copies
                .iter()
                .any(|(copy, version)| copy.id() == root.id() && *version == record.version);
            if up_to_date || root.available().is_err() {
                continue;
            }
            let Ok(bytes) = encode(record) else { continue };
            match root.create(&path(record.description.id, record.version), bytes).await {
                Ok(_) => {
                    tracing::info!(root = root.url(), collection = %record.description.id, "metadata copy brought up to date")
                }
                Err(error) => tracing::warn!(%error, "metadata copy still lags"),
            }
        }
    }
}

/// Collections on the metadata roots, each with its copies: the root and the newest version there.
fn versions(discovery: &Discovery) -> BTreeMap<CollectionId, Vec<(Arc<Root>, u64)>> {
    let mut copies: BTreeMap<CollectionId, Vec<(Arc<Root>, u64)>> = BTreeMap::new();
    for (root, id, files) in discovery.of_component(StorageComponentType::Metadata) {
        let version = |path: &str| path.rsplit('/').next()?.strip_suffix(".json")?.parse::<u64>().ok();
        if let Some(newest) = files.iter().filter_map(|file| version(&file.path)).max() {
            copies.entry(id).or_default().push((root.clone(), newest));
        }
    }
    copies
}

fn path(id: CollectionId, version: u64) -> String {
    format!("{id}/{version:020}.json")
}

fn counters_path() -> String {
    format!("{RESERVED_DIRECTORY}/counters.json")
}

fn checksum(text: &str) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, text.as_bytes()) as u32
}

fn encode(record: &CollectionRecord) -> Result<Bytes> {
    let failed = |error: serde_json::Error| Error::Internal(format!("metadata record: {error}"));
    let record = serde_json::value::to_raw_value(record).map_err(failed)?;
    let sealed = Sealed {
        crc32: checksum(record.get()),
        record: &record,
    };
    Ok(serde_json::to_vec(&sealed).map_err(failed)?.into())
}

fn decode(bytes: &[u8]) -> Result<CollectionRecord, String> {
    let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if checksum(sealed.record.get()) != sealed.crc32 {
        return Err("the checksum does not match".to_owned());
    }
    let record: CollectionRecord = serde_json::from_str(sealed.record.get()).map_err(|error| error.to_string())?;
    match record.format_version {
        FORMAT_VERSION => Ok(record),
        other => Err(format!(
            "format version {other} is not known; this release reads {FORMAT_VERSION}"
        )),
    }
}

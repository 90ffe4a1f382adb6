//! `_proximadb/counters/<version, 20 digits>.json` on the metadata roots: lower bounds of the RoundRobin counters.
//!
//! A counter is one more than the highest number in any record, so it needs no file until the record with that number is
//! dropped. Before that the bound is saved. Bounds only grow: what any root says holds, and a lost file costs evenness
//! and nothing else, which is why a damaged one is reported and does not stop the start.

use std::collections::BTreeMap;

use futures::future::join_all;
use proximadb_store::Created;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MetadataStore;
use crate::error::{Error, Result};
use crate::root::{Root, StorageComponentType};
use crate::sealed::{FORMAT_VERSION, seal, unseal};

/// Where the bounds are, below the root.
const DIRECTORY: &str = "_proximadb/counters";
/// A version taken by another writer is followed by a try with the next one, this often.
const ATTEMPTS: usize = 8;

/// Bounds by component.
type Counters = BTreeMap<StorageComponentType, u64>;

#[derive(Serialize, Deserialize)]
struct CountersRecord {
    format_version: u32,
    version: u64,
    nonce: Uuid,
    counters: Counters,
}

impl MetadataStore {
    /// Makes the counters durable lower bounds, before a record goes whose number they stand for.
    ///
    /// # Errors
    /// Errors of the metadata roots when none of them could be written; [`Error::Overloaded`] when other writers were faster
    /// every time.
    pub async fn save_counters(&self, counters: &Counters) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (version, known) = self.read_counters().await;
            let mut raised = known.clone();
            raise(&mut raised, counters);
            if raised == known || self.write_counters(version + 1, raised).await? {
                return Ok(());
            }
        }
        Err(Error::Overloaded(
            "other writers keep changing the placement counters".to_owned(),
        ))
    }

    /// The saved bounds: the highest of all copies that can be read.
    pub async fn load_counters(&self) -> Counters {
        self.read_counters().await.1
    }

    /// The newest version in use on any root, and the bounds.
    async fn read_counters(&self) -> (u64, Counters) {
        let roots = self.metadata_roots();
        let (mut newest, mut counters) = (0, Counters::new());
        for (version, saved) in join_all(roots.iter().map(|root| newest_on(root))).await {
            newest = newest.max(version);
            raise(&mut counters, &saved);
        }
        (newest, counters)
    }

    /// Creates a version on every root that can be written. `false` when another writer has taken it somewhere.
    async fn write_counters(&self, version: u64, counters: Counters) -> Result<bool> {
        let record = CountersRecord {
            format_version: FORMAT_VERSION,
            version,
            nonce: Uuid::new_v4(),
            counters,
        };
        let (bytes, path) = (seal(&record)?, path(version));
        let (mut committed, mut conflict, mut failure) = (false, false, None);
        for root in self.metadata_roots() {
            match root.create(&path, bytes.clone()).await {
                Ok(Created::Committed) => {
                    committed = true;
                    delete_outdated(&root, version).await;
                }
                Ok(Created::Conflict(_)) => conflict = true,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if !committed && !conflict => Err(error),
            _ => Ok(!conflict),
        }
    }
}

/// The newest version on a root, and the bounds of the newest one there that can be read.
async fn newest_on(root: &Root) -> (u64, Counters) {
    let versions = versions(root).await.unwrap_or_default();
    let newest = versions.last().map_or(0, |(version, _)| *version);
    for (_, path) in versions.into_iter().rev() {
        let bytes = root.read(&path).await.map_err(|error| error.to_string());
        match bytes.and_then(|bytes| unseal::<CountersRecord>(&bytes)) {
            Ok(record) => return (newest, record.counters),
            Err(reason) => tracing::error!(root = root.url(), path, reason, "placement counters not readable"),
        }
    }
    (newest, Counters::new())
}

/// Keeps the newest version and the one before it.
async fn delete_outdated(root: &Root, newest: u64) {
    let versions = versions(root).await.unwrap_or_default();
    for (_, path) in versions.into_iter().filter(|(version, _)| version + 1 < newest) {
        if let Err(error) = root.delete(&path).await {
            tracing::warn!(%error, "outdated placement counters not deleted");
        }
    }
}

/// The versions on a root in ascending order, with their paths.
async fn versions(root: &Root) -> Result<Vec<(u64, String)>> {
    let files = root.list(DIRECTORY).await?;
    Ok(files
        .into_iter()
        .filter_map(|file| Some((super::version_of(&file.path)?, file.path)))
        .collect())
}

/// Whether a file of the reserved directory is saved counters as its name says; `None` for other files.
pub(crate) fn check(path: &str, bytes: &[u8]) -> Option<Result<(), String>> {
    let (directory, _) = path.rsplit_once('/')?;
    (directory == DIRECTORY).then(|| unseal::<CountersRecord>(bytes).map(|_| ()))
}

fn raise(counters: &mut Counters, other: &Counters) {
    for (component, other) in other {
        let counter = counters.entry(*component).or_default();
        *counter = (*counter).max(*other);
    }
}

fn path(version: u64) -> String {
    format!("{DIRECTORY}/{version:020}.json")
}

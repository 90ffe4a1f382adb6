//! One collection: files where the record says, then shard by shard the manifests, segments, log and indexes.

use std::collections::BTreeSet;

use super::places::{Places, Shelf};
use super::records::Records;
use super::roots::stray;
use super::segments::Listed;
use super::{Finding, FindingKind, RESTORE, indexes, log, segments, tree};
use crate::database::SHARD;
use crate::discovery::Discovery;
use crate::metadata::{CollectionRecord, CollectionState};
use crate::root::{Roots, StorageComponentType};
use crate::schema::{CollectionId, StorageEngineKind};

/// A collection to be checked.
pub(super) struct Subject<'a> {
    pub(super) id: CollectionId,
    pub(super) record: Option<&'a CollectionRecord>,
    /// Whether a record that was not found is certainly not there.
    record_is_lost: bool,
    pub(super) roots: &'a Roots,
    pub(super) discovery: &'a Discovery,
}

/// Every collection that has a record or a file.
pub(super) fn all<'a>(roots: &'a Roots, discovery: &'a Discovery, records: &'a Records) -> Vec<Subject<'a>> {
    let ids: BTreeSet<CollectionId> = discovery
        .collections()
        .into_iter()
        .chain(records.readable.keys().copied())
        .collect();
    let subject = |id| Subject {
        id,
        record: records.readable.get(&id),
        record_is_lost: records.complete && !records.unreadable.contains(&id),
        roots,
        discovery,
    };
    ids.into_iter().map(subject).collect()
}

impl<'a> Subject<'a> {
    /// Everything that is wrong with the files of its data.
    pub(super) async fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.is_being_dropped(&mut findings) {
            return findings;
        }
        let [wal, viper, lsm, index] = [
            StorageComponentType::Wal,
            StorageComponentType::Viper,
            StorageComponentType::Lsm,
            StorageComponentType::Index,
        ]
        .map(|component| self.places(component, &mut findings));
        let (data, unused) = match self.engine() {
            StorageEngineKind::Viper => (&viper, &lsm),
            StorageEngineKind::Lsm => (&lsm, &viper),
        };
        self.check_record(wal.as_ref().or(data.as_ref()), &mut findings);
        self.report_moves(&mut findings);
        for located in unused.iter().flat_map(|places| self.files(places)) {
            let problem = "a file of the storage engine that this collection does not use";
            findings.push(stray(&located.root, &located.file.path, problem));
        }
        let mut shards = BTreeSet::from([SHARD.to_owned()]);
        for places in [&wal, data, &index].into_iter().flatten() {
            for root in &places.roots {
                let found = self.discovery.files(root.id(), self.id).map(|files| files.by_shard());
                shards.extend(found.into_iter().flatten().map(|(shard, _)| shard.to_owned()));
            }
        }
        for shard in &shards {
            let shelf = |places: &Option<Places<'a>>| Some(self.shelf(places.as_ref()?, shard));
            self.check_shard([shelf(&wal), shelf(data), shelf(&index)], &mut findings)
                .await;
        }
        findings
    }

    /// Whether its files are on their way out, so that none of them has to be there.
    fn is_being_dropped(&self, findings: &mut Vec<Finding>) -> bool {
        let Some(record) = self.record.filter(|record| record.state == CollectionState::Dropping) else {
            return false;
        };
        let homes = record.placement.get(&StorageComponentType::Metadata);
        let root = homes.and_then(|homes| self.roots.by_id(*homes.roots.first()?).ok());
        let problem = format!("collection `{}` is being dropped", record.description.name);
        let advice = "start the server: it deletes the remaining files";
        let path = self.id.to_string();
        findings.extend(root.map(|root| Finding::new(FindingKind::Information, &root, &path, problem, advice)));
        true
    }

    /// A collection with data has a record.
    fn check_record(&self, data: Option<&Places<'_>>, findings: &mut Vec<Finding>) {
        if self.record.is_some() || !self.record_is_lost {
            return;
        }
        let path = self.id.to_string();
        if let Some(Places { home: root, .. }) = data {
            let problem = "the collection has data here, and its metadata record is missing";
            let advice = "start the server: it makes the record again from this data";
            let mut finding = Finding::new(FindingKind::Missing, root, &path, problem, advice);
            finding.component = StorageComponentType::Metadata;
            findings.push(finding);
            return;
        }
        // Neither record nor data: what is left can be derived from data only, or belongs to no release.
        for found in &self.discovery.roots {
            if found.collections.contains_key(&self.id) {
                let problem = "files of a collection that has neither a metadata record nor data";
                let advice = "they are of no use: delete them";
                findings.push(Finding::new(FindingKind::Orphan, &found.root, &path, problem, advice));
            }
        }
    }

    /// The engine that keeps its rows; without a record, the one whose files are there.
    fn engine(&self) -> StorageEngineKind {
        let has = |component| self.discovery.of_collection(component, self.id).next().is_some();
        match self.record {
            Some(record) => record.description.schema.storage_engine,
            None if has(StorageComponentType::Lsm) && !has(StorageComponentType::Viper) => StorageEngineKind::Lsm,
            None => StorageEngineKind::Viper,
        }
    }

    async fn check_shard(&self, [wal, data, index]: [Option<Shelf<'_>>; 3], findings: &mut Vec<Finding>) {
        let listed = match (&data, self.engine()) {
            (None, _) => Listed::Unknown,
            (Some(shelf), StorageEngineKind::Viper) => segments::check(shelf, findings).await,
            (Some(shelf), StorageEngineKind::Lsm) => tree::check(shelf, findings).await,
        };
        if let (Some(wal), Some(data)) = (&wal, &data)
            && wal.complete
            && data.complete
        {
            check_both_there(wal, data, &listed, findings).await;
        }
        if let Some(shelf) = &wal {
            log::check(shelf, listed.flushed_seq(), findings).await;
        }
        if let Some(shelf) = &index {
            indexes::check(shelf, &listed, findings).await;
        }
    }
}

/// A log and the beginning of the flushed data are made when the collection is created, the log first; each without the
/// other is a loss.
async fn check_both_there(wal: &Shelf<'_>, data: &Shelf<'_>, listed: &Listed, findings: &mut Vec<Finding>) {
    let no_data = matches!(listed, Listed::Nothing);
    let first_logged = log::begins(wal, no_data).await;
    let missing = FindingKind::Missing;
    match (no_data, first_logged) {
        // Any other shard is known by its log or segments alone.
        (true, None) if wal.shard != SHARD => {}
        (true, None) => {
            let problem = "neither log nor flushed data: either both were lost, or the server was killed while the collection was created";
            let advice =
                "if it was used, restore it from a backup; if it was never used, start the server, which completes it";
            findings.push(wal.finding(missing, &wal.directory(), problem, advice));
        }
        (false, None) => findings.push(wal.finding(missing, &wal.directory(), "the log is missing", RESTORE)),
        (true, Some(first)) if first > 1 => {
            let problem = "the flushed data is missing, although the log has been flushed";
            findings.push(data.finding(missing, &data.directory(), problem, RESTORE));
        }
        (true, Some(_)) => {
            let problem = "there is no flushed data yet: the server was killed while the collection was created";
            let advice = "nothing: the server begins it when it opens the collection; the log has everything";
            findings.push(data.finding(FindingKind::Information, &data.directory(), problem, advice));
        }
        (false, Some(_)) => {}
    }
}

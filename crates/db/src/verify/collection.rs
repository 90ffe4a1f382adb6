//! One collection: files where the record says, then shard by shard the manifests, segments, log and indexes.

use std::collections::BTreeSet;
use std::sync::Arc;

use proximadb_store::FileInfo;

use super::records::Records;
use super::roots::stray;
use super::segments::Listed;
use super::{Finding, FindingKind, RESTORE, failure, log, segments};
use crate::axis;
use crate::database::SHARD;
use crate::discovery::Discovery;
use crate::metadata::{CollectionRecord, CollectionState};
use crate::root::{Root, Roots, StorageComponentType};
use crate::schema::CollectionId;

/// A collection to be checked.
pub(super) struct Subject<'a> {
    id: CollectionId,
    record: Option<&'a CollectionRecord>,
    /// Whether a record that was not found is certainly not there.
    record_is_lost: bool,
    roots: &'a Roots,
    discovery: &'a Discovery,
}

/// Where the files of one component of one shard are, and which.
pub(super) struct Shelf<'a> {
    /// The home.
    pub(super) root: Arc<Root>,
    /// The collection.
    pub(super) id: CollectionId,
    /// The shard, three digits.
    pub(super) shard: &'a str,
    /// Its files there.
    pub(super) files: Vec<FileInfo>,
}

impl Shelf<'_> {
    /// `<collection id>/<shard>`.
    pub(super) fn directory(&self) -> String {
        format!("{}/{}", self.id, self.shard)
    }

    pub(super) fn finding(&self, kind: FindingKind, path: &str, problem: impl Into<String>, advice: &str) -> Finding {
        Finding::new(kind, &self.root, path, problem, advice)
    }
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

impl Subject<'_> {
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
        .map(|component| self.home(component, &mut findings));
        self.check_record(wal.as_ref().or(viper.as_ref()), &mut findings);
        for file in lsm.iter().flat_map(|root| self.files(root)) {
            let problem = "this release has no LSM engine";
            findings.extend(lsm.as_ref().map(|root| stray(root, &file.path, problem)));
        }
        let mut shards = BTreeSet::from([SHARD.to_owned()]);
        for root in [&wal, &viper, &index].into_iter().flatten() {
            let found = self.discovery.files(root.id(), self.id).map(|files| files.by_shard());
            shards.extend(found.into_iter().flatten().map(|(shard, _)| shard.to_owned()));
        }
        for shard in &shards {
            let shelf = |root: &Option<Arc<Root>>| self.shelf(root.as_ref()?, shard);
            self.check_shard([shelf(&wal), shelf(&viper), shelf(&index)], &mut findings)
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
    fn check_record(&self, data: Option<&Arc<Root>>, findings: &mut Vec<Finding>) {
        if self.record.is_some() || !self.record_is_lost {
            return;
        }
        let path = self.id.to_string();
        if let Some(root) = data {
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

    /// The root whose files of a component count, if it can be read; files elsewhere are reported. Without a record it is
    /// the one that a start would choose.
    fn home(&self, component: StorageComponentType, findings: &mut Vec<Finding>) -> Option<Arc<Root>> {
        let chosen = match self.record {
            Some(record) => record
                .placement
                .get(&component)
                .map(|placement| placement.roots.clone()),
            None => self.discovery.homes(component).remove(&self.id),
        };
        let home = chosen.and_then(|roots| roots.first().copied());
        let root = home.map(|id| self.roots.by_id(id));
        let has_files = home.is_some_and(|home| self.discovery.files(home, self.id).is_some());
        let url = match &root {
            Some(Ok(root)) => root.url().to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "no root".to_owned(),
        };
        for (other, id, _) in self.discovery.of_component(component) {
            if id == self.id && Some(other.id()) != home {
                findings.push(self.elsewhere(other, &url, has_files));
            }
        }
        match root? {
            Ok(root) => root.available().is_ok().then_some(root),
            Err(error) => {
                findings.extend(self.away(component, &error));
                None
            }
        }
    }

    fn elsewhere(&self, root: &Root, home: &str, has_files: bool) -> Finding {
        let path = self.id.to_string();
        if has_files {
            let problem = format!("the collection lives on {home}; these files are not used");
            let advice =
                "look which of the two has the data you want, then remove the other while the server is stopped";
            return Finding::new(FindingKind::Duplicate, root, &path, problem, advice);
        }
        let problem = format!("the collection lives on {home}, which has no files of it");
        let advice = "if it was moved by hand, move it back while the server is stopped";
        Finding::new(FindingKind::Stray, root, &path, problem, advice)
    }

    /// The home of a component is not configured: reported where the record lies.
    fn away(&self, component: StorageComponentType, error: &crate::error::Error) -> Option<Finding> {
        let metadata = self.record?.placement.get(&StorageComponentType::Metadata)?;
        let root = self.roots.by_id(*metadata.roots.first()?).ok()?;
        let problem = format!("the {component} files cannot be checked: {error}");
        let advice = "add the root to the configuration again";
        let mut finding = Finding::new(FindingKind::Unreachable, &root, &self.id.to_string(), problem, advice);
        finding.component = component;
        Some(finding)
    }

    fn files(&self, root: &Root) -> Vec<FileInfo> {
        let found = self.discovery.files(root.id(), self.id);
        found.map_or_else(Vec::new, |found| found.files.clone())
    }

    fn shelf<'a>(&self, root: &Arc<Root>, shard: &'a str) -> Option<Shelf<'a>> {
        let directory = format!("{}/{shard}/", self.id);
        let mut files = self.files(root);
        files.retain(|file| file.path.starts_with(&directory));
        Some(Shelf {
            root: root.clone(),
            id: self.id,
            shard,
            files,
        })
    }

    async fn check_shard(&self, shelves: [Option<Shelf<'_>>; 3], findings: &mut Vec<Finding>) {
        let [wal, viper, index] = shelves;
        let listed = match &viper {
            Some(shelf) => segments::check(shelf, findings).await,
            None => Listed::Unknown,
        };
        if let (Some(wal), Some(viper)) = (&wal, &viper) {
            check_both_there(wal, viper, &listed, findings);
        }
        if let Some(shelf) = &wal {
            log::check(std::slice::from_ref(shelf), listed.flushed_seq(), findings).await;
        }
        if let Some(shelf) = &index {
            check_indexes(shelf, &listed, findings).await;
        }
    }
}

/// A log and a manifest are made when the collection is created, the log first; each without the other is a loss.
fn check_both_there(wal: &Shelf<'_>, viper: &Shelf<'_>, listed: &Listed, findings: &mut Vec<Finding>) {
    let first_logged = wal
        .files
        .iter()
        .filter_map(|file| crate::wal::first_seq(&file.path))
        .min();
    let no_data = matches!(listed, Listed::Nothing);
    let missing = FindingKind::Missing;
    match (no_data, first_logged) {
        // Any other shard is known by its log or segments alone.
        (true, None) if wal.shard != SHARD => {}
        (true, None) => {
            let problem = "neither log nor manifest: either both were lost, or the server was killed while the collection was created";
            let advice =
                "if it was used, restore it from a backup; if it was never used, start the server, which completes it";
            findings.push(wal.finding(missing, &wal.directory(), problem, advice));
        }
        (false, None) => findings.push(wal.finding(missing, &wal.directory(), "the log is missing", RESTORE)),
        (true, Some(first)) if first > 1 => {
            let problem = "the manifests and segments are missing, although the log has been flushed";
            findings.push(viper.finding(missing, &viper.directory(), problem, RESTORE));
        }
        (true, Some(_)) => {
            let problem = "there is no manifest yet: the server was killed while the collection was created";
            let advice = "nothing: the server writes it when it opens the collection; the log has everything";
            findings.push(viper.finding(FindingKind::Information, &viper.directory(), problem, advice));
        }
        (false, Some(_)) => {}
    }
}

async fn check_indexes(shelf: &Shelf<'_>, listed: &Listed, findings: &mut Vec<Finding>) {
    for file in &shelf.files {
        let Some((segment, _)) = axis::parse_name(&file.path) else {
            findings.push(stray(&shelf.root, &file.path, "not named as an index of this release"));
            continue;
        };
        if !listed.names(segment).unwrap_or(true) {
            let problem = "index of a segment that no manifest names";
            findings.push(shelf.finding(FindingKind::Orphan, &file.path, problem, "nothing reads it: delete it"));
            continue;
        }
        match shelf.root.read(&file.path).await {
            Ok(bytes) => findings.extend(axis::check(&bytes, &file.path, None).err().map(|reason| {
                let advice = "start the server: it builds the index again from its segment";
                shelf.finding(FindingKind::Damaged, &file.path, reason, advice)
            })),
            Err(error) => findings.push(failure(&shelf.root, &file.path, &error)),
        }
    }
}

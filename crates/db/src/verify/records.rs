//! Metadata records: every copy against its checksum, copies against each other, and each at its home.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::roots::stray;
use super::{Finding, FindingKind, RESTORE, read};
use crate::discovery::Discovery;
use crate::metadata::{CollectionRecord, version_of};
use crate::placement::Placement;
use crate::root::{Root, RootId, Roots, StorageComponentType};
use crate::schema::CollectionId;

/// What the metadata roots say about the collections.
#[derive(Default)]
pub(super) struct Records {
    /// The newest record of each collection, where it can be read.
    pub(super) readable: BTreeMap<CollectionId, CollectionRecord>,
    /// Collections whose newest record is damaged in every copy.
    pub(super) unreadable: BTreeSet<CollectionId>,
    /// Whether every metadata root could be listed: a record that was not found is not there.
    pub(super) complete: bool,
}

/// A file of a record that is what it should be.
struct Valid {
    root: Arc<Root>,
    path: String,
    record: CollectionRecord,
}

/// The files of one record over all roots.
#[derive(Default)]
struct Copies {
    valid: Vec<Valid>,
    /// Root, path, version, reason.
    damaged: Vec<(Arc<Root>, String, u64, String)>,
    roots: Vec<Arc<Root>>,
}

/// Checks all records and adds what is wrong with them to `findings`.
pub(super) async fn check(roots: &Roots, discovery: &Discovery, findings: &mut Vec<Finding>) -> Records {
    let metadata = StorageComponentType::Metadata;
    let mut all: BTreeMap<CollectionId, Copies> = BTreeMap::new();
    for (root, id, files) in discovery.of_component(metadata) {
        let copies = all.entry(id).or_default();
        copies.roots.push(root.clone());
        for file in files {
            let Some(version) = version_of(&file.path) else {
                findings.push(stray(root, &file.path, "not named as a metadata record"));
                continue;
            };
            let Some(bytes) = read(root, &file.path, findings).await else {
                continue;
            };
            match decode(&bytes, id, version) {
                Ok(record) => copies.valid.push(Valid {
                    root: root.clone(),
                    path: file.path.clone(),
                    record,
                }),
                Err(reason) => copies.damaged.push((root.clone(), file.path.clone(), version, reason)),
            }
        }
    }
    let mut records = Records {
        complete: discovery.failures().all(|(root, _)| root.component() != metadata),
        ..Records::default()
    };
    for (id, copies) in all {
        match judge(roots, id, &copies, findings) {
            Some(record) => drop(records.readable.insert(id, record)),
            None => drop(records.unreadable.insert(id)),
        }
    }
    records
}

fn decode(bytes: &[u8], id: CollectionId, version: u64) -> Result<CollectionRecord, String> {
    let record = CollectionRecord::decode(bytes)?;
    if record.description.id != id || record.version != version {
        let (other, of) = (record.version, record.description.id);
        return Err(format!("it says that it is version {other} of collection {of}"));
    }
    Ok(record)
}

/// Compares the copies of a record; returns the newest version if a copy of it is valid.
fn judge(roots: &Roots, id: CollectionId, copies: &Copies, findings: &mut Vec<Finding>) -> Option<CollectionRecord> {
    let valid = copies.valid.iter().map(|copy| copy.record.version);
    let newest = valid
        .chain(copies.damaged.iter().map(|(_, _, version, _)| *version))
        .max()?;
    let chosen = copies.valid.iter().find(|copy| copy.record.version == newest);
    for (root, path, version, reason) in &copies.damaged {
        let advice = match (version == &newest, chosen) {
            (false, _) => "it is an old version that nothing reads: delete it".to_owned(),
            (true, Some(good)) => format!("start the server: it is restored from the copy on {}", good.root.url()),
            (true, None) => RESTORE.to_owned(),
        };
        findings.push(Finding::new(FindingKind::Damaged, root, path, reason, advice));
    }
    let chosen = chosen?;
    let others = copies.valid.iter().filter(|copy| copy.record.version == newest);
    for other in others.filter(|other| other.record != chosen.record) {
        let problem = format!("it differs from the copy of the same version on {}", chosen.root.url());
        let advice = "two servers wrote it: keep one of the two, remove the other";
        findings.push(Finding::new(
            FindingKind::Damaged,
            &other.root,
            &other.path,
            problem,
            advice,
        ));
    }
    let homes: Vec<RootId> = chosen
        .record
        .placement
        .get(&StorageComponentType::Metadata)
        .map_or_else(Vec::new, Placement::all_roots);
    check_homes(roots, id, copies, chosen, &homes, findings);
    Some(chosen.record.clone())
}

/// Every home has the newest version; stand-ins of homes that were away are named; nobody else has any.
fn check_homes(
    roots: &Roots,
    id: CollectionId,
    copies: &Copies,
    newest: &Valid,
    homes: &[RootId],
    findings: &mut Vec<Finding>,
) {
    let standing = Standing::of(copies, newest, homes);
    for home in homes {
        let root = match roots.by_id(*home) {
            Ok(root) if root.available().is_ok() => root,
            Ok(_) => continue,
            Err(error) => {
                findings.push(super::failure(&newest.root, &newest.path, &error));
                continue;
            }
        };
        if !copies.has(&root, newest.record.version) {
            findings.push(lagging(id, copies, newest, &root, &standing));
        }
    }
    for root in copies.roots.iter().filter(|root| !homes.contains(&root.id())) {
        let (kind, problem, advice) = if newest.record.lineage.stand_ins.contains(&root.id()) {
            let problem = format!("a copy of the metadata record in place of a home that was away: {standing}");
            let advice = "nothing: the server deletes it when every home has the newest version";
            (FindingKind::Information, problem, advice)
        } else {
            let problem = "a copy of the metadata record on a root that is not its home".to_owned();
            (
                FindingKind::Duplicate,
                problem,
                "look whether it was copied by hand, then delete it",
            )
        };
        findings.push(Finding::new(kind, root, &id.to_string(), problem, advice));
    }
}

/// A home without the newest version: it was away when that was written, it has a history of its own, or it has lost it.
fn lagging(id: CollectionId, copies: &Copies, newest: &Valid, root: &Arc<Root>, standing: &Standing) -> Finding {
    let (record, path) = (&newest.record, id.to_string());
    let on_root = copies.valid.iter().filter(|copy| copy.root.id() == root.id());
    let held = on_root.max_by_key(|copy| copy.record.version);
    let advice = format!(
        "start the server: it is made again from the copy on {}",
        newest.root.url()
    );
    match held {
        Some(held) if !record.lineage.knows(root.id(), held.record.nonce) => {
            let problem = format!(
                "it was changed while other roots were away, and version {} on {} does not know of it: there are two histories",
                record.version,
                newest.root.url()
            );
            let advice = "look which of the two has what you want, and remove the files of the other";
            Finding::new(FindingKind::Damaged, root, &held.path, problem, advice)
        }
        Some(held) => {
            let problem = format!(
                "the copy of the metadata record lags at version {}: {standing}",
                held.record.version
            );
            Finding::new(FindingKind::Incomplete, root, &held.path, problem, advice)
        }
        None if record.lineage.behind.contains_key(&root.id()) => {
            let problem = format!("the copy of the metadata record was not written here yet: {standing}");
            Finding::new(FindingKind::Incomplete, root, &path, problem, advice)
        }
        None => {
            let problem = format!("the copy of the metadata record is missing: {standing}");
            Finding::new(FindingKind::Missing, root, &path, problem, advice)
        }
    }
}

impl Copies {
    /// Whether the root has a file of this version, damaged or not.
    fn has(&self, root: &Root, version: u64) -> bool {
        let valid = self.valid.iter().map(|copy| (copy.root.id(), copy.record.version));
        let damaged = self.damaged.iter().map(|(root, _, version, _)| (root.id(), *version));
        valid.chain(damaged).any(|found| found == (root.id(), version))
    }
}

/// How many copies there are of the newest version.
struct Standing {
    version: u64,
    at_home: usize,
    homes: usize,
    elsewhere: usize,
}

impl Standing {
    fn of(copies: &Copies, newest: &Valid, homes: &[RootId]) -> Self {
        let version = newest.record.version;
        let current = copies.valid.iter().filter(|copy| copy.record.version == version);
        let (at_home, elsewhere): (Vec<_>, Vec<_>) = current.partition(|copy| homes.contains(&copy.root.id()));
        Self {
            version,
            at_home: at_home.len(),
            homes: homes.len(),
            elsewhere: elsewhere.len(),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, at_home, homes) = (self.version, self.at_home, self.homes);
        write!(
            f,
            "version {version} is on {at_home} of {homes} homes and on {} other roots",
            self.elsewhere
        )
    }
}

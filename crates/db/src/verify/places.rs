//! Where the files of a collection may be, as its record says, and which are there; files elsewhere are reported.

use std::sync::Arc;

use proximadb_store::FileInfo;

use super::collection::Subject;
use super::{Finding, FindingKind, human_bytes};
use crate::error::Error;
use crate::placement::{Moving, Placement};
use crate::root::{Root, RootId, StorageComponentType};
use crate::schema::CollectionId;

/// The roots of one component of a collection.
pub(super) struct Places<'a> {
    /// What the record says; `None` without one.
    placement: Option<&'a Placement>,
    /// The home, or the first root that can be read.
    pub(super) home: Arc<Root>,
    /// The roots that may hold files and can be read.
    pub(super) roots: Vec<Arc<Root>>,
    /// Whether these are all: what was not found does not exist.
    complete: bool,
}

/// A file and the root that it lies on.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) root: Arc<Root>,
    pub(super) file: FileInfo,
}

/// The files of one component of one shard, over all of its roots.
pub(super) struct Shelf<'a> {
    pub(super) placement: Option<&'a Placement>,
    pub(super) home: Arc<Root>,
    pub(super) roots: Vec<Arc<Root>>,
    pub(super) complete: bool,
    /// The collection.
    pub(super) id: CollectionId,
    /// The shard, three digits.
    pub(super) shard: &'a str,
    /// By root, and by path on each.
    pub(super) files: Vec<Located>,
}

impl Located {
    pub(super) fn finding(&self, kind: FindingKind, problem: impl Into<String>, advice: &str) -> Finding {
        Finding::new(kind, &self.root, &self.file.path, problem, advice)
    }
}

impl Shelf<'_> {
    /// `<collection id>/<shard>`.
    pub(super) fn directory(&self) -> String {
        format!("{}/{}", self.id, self.shard)
    }

    /// A finding at the home.
    pub(super) fn finding(&self, kind: FindingKind, path: &str, problem: impl Into<String>, advice: &str) -> Finding {
        Finding::new(kind, &self.home, path, problem, advice)
    }

    /// The readable root with this identity.
    pub(super) fn root(&self, id: RootId) -> Option<&Arc<Root>> {
        self.roots.iter().find(|root| root.id() == id)
    }

    /// The files on one root.
    pub(super) fn on(&self, id: RootId) -> impl Iterator<Item = &Located> {
        self.files.iter().filter(move |located| located.root.id() == id)
    }

    /// The move under way.
    pub(super) fn moving(&self) -> Option<Moving> {
        self.placement.and_then(|placement| placement.moving)
    }
}

impl<'a> Subject<'a> {
    /// The roots whose files of a component count; files elsewhere are reported. Without a record they are those that a
    /// start would take: all that have files, the one with most bytes as the home.
    pub(super) fn places(&self, component: StorageComponentType, findings: &mut Vec<Finding>) -> Option<Places<'a>> {
        let placement = self.record.and_then(|record| record.placement.get(&component));
        let all = match (self.record, placement) {
            (Some(_), Some(placement)) => placement.all_roots(),
            (Some(_), None) => Vec::new(),
            (None, _) => self.discovery.homes(component).remove(&self.id).unwrap_or_default(),
        };
        self.report_elsewhere(component, &all, findings);
        let (mut roots, mut home, mut complete) = (Vec::new(), None, !all.is_empty());
        for id in &all {
            match self.roots.by_id(*id) {
                Ok(root) if root.available().is_ok() => {
                    if Some(id) == all.first() {
                        home = Some(root.clone());
                    }
                    roots.push(root);
                }
                Ok(_) => complete = false,
                Err(error) => {
                    complete = false;
                    findings.extend(self.away(component, &error));
                }
            }
        }
        let home = home.or_else(|| roots.first().cloned())?;
        Some(Places {
            placement,
            home,
            roots,
            complete,
        })
    }

    /// The files of one shard there.
    pub(super) fn shelf<'s>(&self, places: &Places<'s>, shard: &'s str) -> Shelf<'s> {
        let directory = format!("{}/{shard}/", self.id);
        let mut files = self.files(places);
        files.retain(|located| located.file.path.starts_with(&directory));
        Shelf {
            placement: places.placement,
            home: places.home.clone(),
            roots: places.roots.clone(),
            complete: places.complete,
            id: self.id,
            shard,
            files,
        }
    }

    /// All files there.
    pub(super) fn files(&self, places: &Places<'_>) -> Vec<Located> {
        let on = |root: &Arc<Root>| {
            let found = self.discovery.files(root.id(), self.id);
            let files = found.map_or_else(Vec::new, |found| found.files.clone());
            let root = root.clone();
            files.into_iter().map(move |file| Located {
                root: root.clone(),
                file,
            })
        };
        places.roots.iter().flat_map(on).collect()
    }

    /// A move that a restart will finish, and how much it has still to do.
    pub(super) fn report_moves(&self, findings: &mut Vec<Finding>) {
        let placements = self.record.iter().flat_map(|record| &record.placement);
        for (component, placement) in placements {
            let Some(Moving { from, to }) = placement.moving else {
                continue;
            };
            let is_home = placement.homes().contains(&from);
            let usage = |id| {
                let found = self.discovery.files(id, self.id);
                let usage = found.map(|found| found.usage).unwrap_or_default();
                format!("{} files ({})", usage.files, human_bytes(usage.bytes))
            };
            let problem = format!(
                "the {component} files are being moved from {} to {}: {} are left there, {} are here; {}",
                self.url(from),
                self.url(to),
                usage(from),
                usage(to),
                if is_home {
                    "the old root is still the home"
                } else {
                    "the new root is the home already"
                }
            );
            let root = self.roots.by_id(to).or_else(|_| self.roots.by_id(from));
            findings.extend(root.ok().map(|root| {
                let advice = "nothing: the server finishes it when it is started";
                Finding::new(FindingKind::Information, &root, &self.id.to_string(), problem, advice)
            }));
        }
    }

    fn url(&self, id: RootId) -> String {
        let root = self.roots.by_id(id);
        root.map_or_else(|error| error.to_string(), |root| root.url().to_owned())
    }

    fn report_elsewhere(&self, component: StorageComponentType, all: &[RootId], findings: &mut Vec<Finding>) {
        let has_files = all.iter().any(|root| self.discovery.files(*root, self.id).is_some());
        let urls: Vec<String> = all.iter().map(|id| self.url(*id)).collect();
        let urls = if urls.is_empty() {
            "no root".to_owned()
        } else {
            urls.join(", ")
        };
        for (root, _) in self.discovery.of_collection(component, self.id) {
            if !all.contains(&root.id()) {
                findings.push(self.elsewhere(root, &urls, has_files));
            }
        }
    }

    fn elsewhere(&self, root: &Root, urls: &str, has_files: bool) -> Finding {
        let path = self.id.to_string();
        if has_files {
            let problem = format!("the collection lives on {urls}; these files are not used");
            let advice =
                "look which of the two has the data you want, then remove the other while the server is stopped";
            return Finding::new(FindingKind::Duplicate, root, &path, problem, advice);
        }
        let problem = format!("the collection lives on {urls}, which has no files of it");
        let advice = "if it was moved by hand, move it back while the server is stopped";
        Finding::new(FindingKind::Stray, root, &path, problem, advice)
    }

    /// A root of a component is not configured: reported where the record lies.
    fn away(&self, component: StorageComponentType, error: &Error) -> Option<Finding> {
        let metadata = self.record?.placement.get(&StorageComponentType::Metadata)?;
        let root = self.roots.by_id(*metadata.roots.first()?).ok()?;
        let problem = format!("the {component} files cannot be checked: {error}");
        let advice = "add the root to the configuration again";
        let mut finding = Finding::new(FindingKind::Unreachable, &root, &self.id.to_string(), problem, advice);
        finding.component = component;
        Some(finding)
    }
}

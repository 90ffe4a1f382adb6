//! The roots of a shard's index files, by type of index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::placement::{Candidate, Placement, place_file};
use crate::root::{IndexType, Root, RootId, Roots};
use crate::schema::CollectionId;

/// Where the index files of a collection go, and where they may be besides. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IndexHomes {
    /// The roots that each hold a copy, by type of index; the first is the one that is read.
    pub by_type: BTreeMap<IndexType, Vec<Arc<Root>>>,
    /// Further roots that may hold files: of striping, or of a move under way.
    pub also: Vec<Arc<Root>>,
    /// Set when files are spread over all of these roots instead.
    spread: Option<Placement>,
}

impl IndexHomes {
    /// The homes that a placement of the index component names. Roots that are not configured any more are left out:
    /// indexes are derived, so what lies there is built again.
    pub fn new(placement: &Placement, roots: &Roots) -> Self {
        let configured = |ids: &[RootId]| -> Vec<Arc<Root>> {
            let root = |id: &RootId| {
                let found = roots.by_id(*id);
                found
                    .inspect_err(
                        |error| tracing::warn!(%error, "an index root is left out; its indexes are built again"),
                    )
                    .ok()
            };
            ids.iter().filter_map(root).collect()
        };
        let of = |of: IndexType| configured(placement.types.get(&of).unwrap_or(&placement.roots));
        Self {
            by_type: IndexType::ALL.into_iter().map(|kind| (kind, of(kind))).collect(),
            also: configured(&placement.also),
            spread: (!placement.affinity).then(|| placement.clone()),
        }
    }

    /// Every root that may hold a file, each once.
    pub fn all(&self) -> Vec<Arc<Root>> {
        let mut seen = BTreeSet::new();
        let every = self.by_type.values().flatten().chain(&self.also);
        every.filter(|root| seen.insert(root.id())).cloned().collect()
    }

    /// The roots that each should hold a copy of the files of a type.
    pub fn of(&self, of: IndexType) -> &[Arc<Root>] {
        self.by_type.get(&of).map_or(&[], Vec::as_slice)
    }

    /// Roots that lack a copy of a file of which there are good ones on `holders`; `number` counts the files of the
    /// collection.
    pub(super) fn lacking(
        &self,
        of: IndexType,
        collection: CollectionId,
        file: &str,
        number: u64,
        holders: &BTreeSet<RootId>,
    ) -> Vec<Arc<Root>> {
        let Some(placement) = &self.spread else {
            let lacks = |root: &&Arc<Root>| !holders.contains(&root.id());
            return self.of(of).iter().filter(lacks).cloned().collect();
        };
        let mut free = self.all();
        free.retain(|root| !holders.contains(&root.id()));
        let missing = self.of(of).len().saturating_sub(holders.len());
        let mut chosen = Vec::new();
        while chosen.len() < missing {
            let candidates: Vec<_> = free
                .iter()
                .map(|root| Candidate::of(root, root.usage().bytes))
                .collect();
            let Some(next) = place_file(collection, placement, file, number, &candidates) else {
                break;
            };
            let before = chosen.len();
            chosen.extend(free.extract_if(.., |root| root.id() == next));
            // No root takes files now: the answer was the home, which is none of the free ones.
            if chosen.len() == before {
                break;
            }
        }
        chosen
    }

    /// `to` takes the place of `from`, which may go on to hold files until it is cleared.
    pub(super) fn replace(&mut self, from: &Arc<Root>, to: &Arc<Root>) {
        for roots in self.by_type.values_mut() {
            let Some(at) = roots.iter().position(|root| root.id() == from.id()) else {
                continue;
            };
            if roots.iter().any(|root| root.id() == to.id()) {
                roots.remove(at);
            } else {
                roots.splice(at..=at, [to.clone()]);
            }
        }
        self.also.retain(|root| root.id() != to.id() && root.id() != from.id());
        self.also.push(from.clone());
        if let Some(placement) = &mut self.spread {
            for root in &mut placement.roots {
                if *root == from.id() {
                    *root = to.id();
                }
            }
        }
    }

    /// Whether files of some type belong on a root.
    pub(super) fn is_home(&self, root: RootId) -> bool {
        self.by_type.values().flatten().any(|home| home.id() == root)
    }
}

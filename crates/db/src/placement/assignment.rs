//! The values of placement: what is stored about an assignment, and the views of it that users and programs see.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::DistributionStrategy;
use crate::root::{IndexType, RootId, StorageComponentType};
use crate::schema::CollectionId;

/// Where one component of a collection lives, as its metadata record says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The roots in order, all different: the home first, then the further copies.
    pub roots: Vec<RootId>,
    /// Strategy that chose them, and that places files when `affinity` is off.
    pub strategy: DistributionStrategy,
    /// Whether all files go to the home.
    pub affinity: bool,
    /// The number that was used of the component's RoundRobin sequence. `None` under the other strategies, and when
    /// the record was lost and rebuilt from the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When the roots were chosen, ms since 1970 UTC.
    pub assigned_at_ms: u64,
    /// Further roots that may hold files of it: of striping, of a log that failed over, of a move under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<RootId>,
    /// Index only: the roots of each index type, in order as `roots`; types that are missing use `roots`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<IndexType, Vec<RootId>>,
    /// The move under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
}

/// A move of a collection's component from one root to another, until nothing is left on the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moving {
    /// The root that is emptied.
    pub from: RootId,
    /// The root that takes its place.
    pub to: RootId,
}

impl Placement {
    /// The roots that were chosen for it, each once, the home first: where it counts as load.
    pub fn homes(&self) -> Vec<RootId> {
        distinct(self.roots.iter().chain(self.types.values().flatten()))
    }

    /// The roots of an index type, in order: the home first, then the further copies.
    pub fn roots_of(&self, kind: IndexType) -> &[RootId] {
        self.types.get(&kind).unwrap_or(&self.roots)
    }

    /// The roots that policies bind: the home, the stripes, and the home of each index type.
    pub fn bound(&self) -> Vec<RootId> {
        let of_types = self.types.values().filter_map(|roots| roots.first());
        distinct(self.roots.first().into_iter().chain(&self.also).chain(of_types))
    }

    /// Every root that may hold a file of it, each once, the home first.
    pub fn all_roots(&self) -> Vec<RootId> {
        distinct(self.roots.iter().chain(self.types.values().flatten()).chain(&self.also))
    }

    /// The files are to go from one root to another: from now on both may hold some.
    pub fn begin_move(&mut self, moving: Moving) {
        if !self.all_roots().contains(&moving.to) {
            self.also.push(moving.to);
        }
        self.moving = Some(moving);
    }

    /// Whether `to` may take the place of `from`: every copy keeps a root of its own.
    pub fn can_move(&self, from: RootId, to: RootId) -> bool {
        let known = self.all_roots();
        let mut lists = std::iter::once(&self.roots).chain(self.types.values());
        from != to && lists.all(|list| !list.contains(&from) || substitute(list, from, to, &known).is_some())
    }

    /// Everything is on the new root: it takes the place of the old one, which may still hold files to be deleted.
    pub fn switch_to_target(&mut self) {
        let Some(Moving { from, to }) = self.moving else { return };
        self.also.retain(|root| *root != to);
        let known = self.all_roots();
        for list in std::iter::once(&mut self.roots).chain(self.types.values_mut()) {
            if let (Some(at), Some(instead)) = (
                list.iter().position(|root| *root == from),
                substitute(list, from, to, &known),
            ) {
                list[at] = instead;
            }
        }
        let all = self.all_roots();
        self.also
            .extend([from, to].into_iter().filter(|root| !all.contains(root)));
    }

    /// Nothing is left on the old root.
    pub fn end_move(&mut self) {
        if let Some(Moving { from, .. }) = self.moving.take() {
            self.also.retain(|root| *root != from);
        }
    }
}

/// What takes the place of `from` among the roots of one type's copies: `to`, or where that has a copy already another root
/// of the placement that has none.
fn substitute(list: &[RootId], from: RootId, to: RootId, known: &[RootId]) -> Option<RootId> {
    let mut candidates = std::iter::once(&to).chain(known.iter().filter(|root| **root != from));
    candidates.find(|root| !list.contains(root)).copied()
}

fn distinct<'a>(roots: impl Iterator<Item = &'a RootId>) -> Vec<RootId> {
    let mut all: Vec<RootId> = Vec::new();
    for &root in roots {
        if !all.contains(&root) {
            all.push(root);
        }
    }
    all
}

/// The placements of a collection by component: the field of its metadata record.
pub type Placements = BTreeMap<StorageComponentType, Placement>;

/// A placement as the service holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The roots.
    pub placement: Placement,
    /// Last access, ms since 1970 UTC, at most [`Assignment::ACCESS_GRANULARITY_MS`] too early. Not durable: a restart
    /// sets it to `assigned_at_ms`.
    pub last_accessed_ms: u64,
}

impl Assignment {
    /// How far `last_accessed_ms` may be behind the truth: a read within this time after another writes nothing.
    pub const ACCESS_GRANULARITY_MS: u64 = 1000;
}

/// Kind of an assigned resource, by the names that assignments are shown with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResourceType {
    /// Write-ahead log.
    Wal,
    /// Parquet segments.
    ViperData,
    /// LSM data.
    LsmData,
    /// Vector indexes.
    Index,
    /// Metadata record.
    Metadata,
}

impl From<StorageComponentType> for ResourceType {
    fn from(component: StorageComponentType) -> Self {
        match component {
            StorageComponentType::Wal => Self::Wal,
            StorageComponentType::Viper => Self::ViperData,
            StorageComponentType::Lsm => Self::LsmData,
            StorageComponentType::Index => Self::Index,
            StorageComponentType::Metadata => Self::Metadata,
        }
    }
}

/// What a root knows about itself and about one collection on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootUse {
    /// URL of the root as configured.
    pub url: String,
    /// Position in the configured list; `None` when the root is not configured now.
    pub directory_index: Option<usize>,
    /// Files of the collection on it.
    pub file_count: u64,
    /// Bytes of these files.
    pub total_size_bytes: u64,
}

/// One assignment as users see it: one component of one collection on one root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageAssignment {
    /// Id of the collection.
    pub resource_id: CollectionId,
    /// URL of the root as configured.
    pub storage_url: String,
    /// Identity of the root.
    pub root_id: RootId,
    /// Position of the URL in the configured list, for information; `None` when it is not configured now.
    pub directory_index: Option<usize>,
    /// When the root was chosen, ms since 1970 UTC.
    pub assigned_at: u64,
    /// Last access, ms since 1970 UTC.
    pub last_accessed: u64,
    /// Files of the collection on the root.
    pub file_count: u64,
    /// Bytes of these files.
    pub total_size_bytes: u64,
    /// What is stored.
    pub resource_type: ResourceType,
}

impl StorageAssignment {
    /// The views of an assignment, one for each of its roots in order, and then one for each further root that holds files
    /// of it (striped, or of an index type); `root_use` answers for a root.
    pub fn views(
        collection: CollectionId,
        component: StorageComponentType,
        assignment: &Assignment,
        root_use: impl Fn(RootId) -> RootUse,
    ) -> Vec<Self> {
        let placement = &assignment.placement;
        let view = |root_id: RootId| {
            let on_root = root_use(root_id);
            let shown = placement.roots.contains(&root_id) || on_root.file_count > 0;
            shown.then(|| Self {
                resource_id: collection,
                storage_url: on_root.url,
                root_id,
                directory_index: on_root.directory_index,
                assigned_at: placement.assigned_at_ms,
                last_accessed: assignment.last_accessed_ms,
                file_count: on_root.file_count,
                total_size_bytes: on_root.total_size_bytes,
                resource_type: component.into(),
            })
        };
        placement.all_roots().into_iter().filter_map(view).collect()
    }
}

/// The WAL view of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionWalAssignment {
    /// Id of the collection.
    pub collection_id: CollectionId,
    /// URL of the root as configured.
    pub wal_directory_url: String,
    /// Position of the URL in the configured list; `None` when it is not configured now.
    pub directory_index: Option<usize>,
    /// When the root was chosen, ms since 1970 UTC.
    pub assigned_at: u64,
    /// Bytes of the collection's WAL files on the root.
    pub total_size_bytes: u64,
}

impl StorageAssignment {
    /// The WAL view of an assignment; `None` for that of another component.
    pub fn wal_view(self) -> Option<CollectionWalAssignment> {
        (self.resource_type == ResourceType::Wal).then_some(CollectionWalAssignment {
            collection_id: self.resource_id,
            wal_directory_url: self.storage_url,
            directory_index: self.directory_index,
            assigned_at: self.assigned_at,
            total_size_bytes: self.total_size_bytes,
        })
    }
}

/// How the assignments of all components are spread. What is only reserved is counted apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AssignmentStats {
    /// By component; every component is present.
    pub components: BTreeMap<StorageComponentType, ComponentStats>,
}

/// How the assignments of one component are spread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ComponentStats {
    /// Collections with an assignment.
    pub collections: u64,
    /// Assigned copies: the sum over `roots`. Equals `collections` where there is one copy each, and one home for all index
    /// types.
    pub copies: u64,
    /// Copies by root. Roots without any are absent.
    pub roots: BTreeMap<RootId, u64>,
    /// Collections that are being created: they count in the load, not above.
    pub reservations: u64,
    /// The RoundRobin counter: the number that comes next when no creation was undone.
    pub next_sequence: u64,
}

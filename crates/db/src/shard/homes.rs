//! Which roots the files of a shard are on, and which one a new file goes to.
//!
//! Owns the present placement of an open shard; the durable one is in the metadata record and is changed first. So a
//! file is only ever written to a root that the record names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::try_join_all;
use parking_lot::RwLock;
use proximadb_store::FileInfo;

use crate::axis::IndexHomes;
use crate::discovery::belongs_to;
use crate::error::{Error, Result};
use crate::placement::{Candidate, Placement, Placements, place_file};
use crate::root::{Root, RootId, Roots, StorageComponentType};
use crate::schema::CollectionId;

/// A file and the root that it lies on.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub root: Arc<Root>,
    pub file: FileInfo,
}

/// The roots of a shard.
#[derive(Debug)]
pub struct Homes {
    collection: CollectionId,
    roots: Arc<Roots>,
    placements: RwLock<Arc<Placements>>,
    /// Files placed one by one since the shard was opened: RoundRobin goes on from here.
    placed: AtomicU64,
}

impl Homes {
    /// The homes that a metadata record names.
    pub fn new(collection: CollectionId, roots: Arc<Roots>, placements: Placements) -> Self {
        Self {
            collection,
            roots,
            placements: RwLock::new(Arc::new(placements)),
            placed: AtomicU64::new(0),
        }
    }

    /// Takes over what the record says now.
    pub fn set(&self, placements: Placements) {
        *self.placements.write() = Arc::new(placements);
    }

    /// The placement of a component.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the record names none.
    pub fn placement(&self, component: StorageComponentType) -> Result<Placement> {
        let placements = self.placements.read().clone();
        let missing = || Error::Corruption(format!("{} has no {component} root", self.collection));
        placements.get(&component).cloned().ok_or_else(missing)
    }

    /// The home of a component, whatever its state.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if it is not configured.
    pub fn home(&self, component: StorageComponentType) -> Result<Arc<Root>> {
        let placement = self.placement(component)?;
        let missing = || Error::Corruption(format!("{} has no {component} root", self.collection));
        self.roots.by_id(*placement.roots.first().ok_or_else(missing)?)
    }

    /// Where the indexes go. They are derived: a root that is away is no reason to be unavailable.
    ///
    /// # Errors
    /// [`Error::Corruption`] if the record names none.
    pub(super) fn index(&self) -> Result<IndexHomes> {
        Ok(IndexHomes::new(
            &self.placement(StorageComponentType::Index)?,
            &self.roots,
        ))
    }

    /// The root with this identity.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if it is not configured or offline.
    pub(super) fn root(&self, id: RootId) -> Result<Arc<Root>> {
        let root = self.roots.by_id(id)?;
        root.available()?;
        Ok(root)
    }

    /// Every root that may hold files of a component.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if one of them cannot be used: what is there is unknown.
    pub(super) fn all(&self, component: StorageComponentType) -> Result<Vec<Arc<Root>>> {
        let all = self.placement(component)?.all_roots();
        all.into_iter().map(|id| self.root(id)).collect()
    }

    /// The component's files below `directory` on all of its roots; what somebody else has put there is left out.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if one of the roots cannot be listed.
    pub(super) async fn list(&self, component: StorageComponentType, directory: &str) -> Result<Vec<Located>> {
        let list = async |root: Arc<Root>| {
            let files = root.list(directory).await?;
            Ok::<_, Error>((root, files))
        };
        let lists = try_join_all(self.all(component)?.into_iter().map(list)).await?;
        let located = |(root, files): (Arc<Root>, Vec<FileInfo>)| {
            let ours = files.into_iter().filter(|file| belongs_to(root.component(), file));
            ours.map(|file| Located {
                root: root.clone(),
                file,
            })
            .collect::<Vec<_>>()
        };
        Ok(lists.into_iter().flat_map(located).collect())
    }

    /// The roots among which the files of a component are shared out; one under affinity, where a move under way decides
    /// for its target.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the home is not configured.
    pub(super) fn lanes(&self, component: StorageComponentType) -> Result<Vec<Arc<Root>>> {
        let placement = self.placement(component)?;
        if placement.affinity {
            let home = self.home(component)?;
            let target = placement.moving.filter(|moving| moving.from == home.id());
            let target = target.and_then(|moving| self.roots.by_id(moving.to).ok());
            // A target that fails must not stop a home that is well.
            let target = target.filter(|target| target.accepts_placements());
            return Ok(vec![target.unwrap_or(home)]);
        }
        let leaving = placement.moving.map(|moving| moving.from);
        let configured = placement.all_roots().into_iter().filter(|id| Some(*id) != leaving);
        let configured: Vec<Arc<Root>> = configured.filter_map(|id| self.roots.by_id(id).ok()).collect();
        let writable: Vec<Arc<Root>> = configured
            .into_iter()
            .filter(|root| root.accepts_placements())
            .collect();
        if writable.is_empty() {
            return Ok(vec![self.home(component)?]);
        }
        Ok(writable)
    }

    /// The roots for new files that are written together: for each file the strategy's choice, but as long as a root has
    /// none of them no other root gets a second one. All on the `wanted` root, if there is one and it takes files.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if the home is not configured.
    pub(super) fn targets(
        &self,
        component: StorageComponentType,
        files: &[String],
        wanted: Option<RootId>,
    ) -> Result<Vec<Arc<Root>>> {
        let lanes = self.lanes(component)?;
        let wanted = lanes.iter().find(|root| Some(root.id()) == wanted);
        if let (Some(only), _) | (None, [only]) = (wanted, &lanes[..]) {
            return Ok(vec![only.clone(); files.len()]);
        }
        let placement = self.placement(component)?;
        let candidates: Vec<Candidate> = lanes
            .iter()
            .map(|root| Candidate::of(root, root.usage().bytes))
            .collect();
        let mut free: Vec<Candidate> = Vec::new();
        let mut targets = Vec::with_capacity(files.len());
        for file in files {
            if free.is_empty() {
                free.clone_from(&candidates);
            }
            let number = self.placed.fetch_add(1, Ordering::Relaxed);
            let choose = |among: &[Candidate]| place_file(self.collection, &placement, file, number, among);
            let is_free = |id: &RootId| free.iter().any(|candidate| candidate.root_id == *id);
            let chosen = choose(&candidates).filter(is_free).or_else(|| choose(&free));
            let root = lanes.iter().find(|root| Some(root.id()) == chosen).or(lanes.first());
            let root = root.ok_or_else(|| Error::Internal("no root to write to".to_owned()))?;
            free.retain(|candidate| candidate.root_id != root.id());
            targets.push(root.clone());
        }
        Ok(targets)
    }
}

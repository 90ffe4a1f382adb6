//! The assignment service: get-or-assign in one step for any number of components, shared by all engines.
//!
//! ```text
//! assign_storage_url ──▶ StorageAssignmentResult ──record()──▶ assigned, for good
//!   (reserved: counts in the load,  │
//!    holds its sequence numbers)    └── dropped ──▶ as if it had never been: numbers back, load back
//! ```
//!
//! A concrete type and no trait (FEATURES D1): there is one way to keep assignments, in memory, with the metadata records as
//! the durable form, and a trait with one implementation would only be a second list of these methods. What may differ has
//! seams of its own: how roots are chosen ([`PlacementStrategy`](super::PlacementStrategy), six of them), and where the
//! records are kept, which is below `metadata`, where etcd or Consul would be the second store (D11).
//!
//! Invariants: a collection has at most one placement per component, reserved or assigned; two placements never share
//! a sequence number; what is assigned changes only by `record_assignment` and `remove_assignment`. One lock covers all
//! components, so that the five homes of a new collection are one step. It is never held across I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::plan::{device_of, plan};
use super::policy::{Devices, Policies};
use super::state::State;
use super::{Assignment, AssignmentStats, Candidate, Placement};
use crate::config::DistributionStrategy;
use crate::error::{Error, Result};
use crate::root::StorageComponentType;
use crate::schema::CollectionId;

/// What one component needs to be placed.
#[derive(Debug, Clone)]
pub struct StorageAssignmentConfig {
    /// The component.
    pub component: StorageComponentType,
    /// How its first root is chosen.
    pub strategy: DistributionStrategy,
    /// Whether all files of the collection go there.
    pub affinity: bool,
    /// Number of copies, each on a root of its own; 0 and 1 both mean one.
    pub copies: usize,
    /// Index only: whether each index type has roots of its own.
    pub index_types: bool,
    /// The region that the collection asks for; only RegionAffinityBased looks at it.
    pub region: Option<String>,
    /// Bytes to count as used on the chosen roots until the assignment is recorded or undone.
    pub reserve_bytes: u64,
    /// The component's roots, writable or not.
    pub candidates: Vec<Candidate>,
}

impl StorageAssignmentConfig {
    /// Whether each index type is placed on its own.
    pub(super) fn by_index_type(&self) -> bool {
        self.index_types && self.component == StorageComponentType::Index
    }

    /// Whether its files may be on several roots. An LSM tree and a metadata record have one home; so has an index type,
    /// where the types have homes of their own.
    pub(super) fn spreads(&self) -> bool {
        !self.affinity
            && match self.component {
                StorageComponentType::Wal | StorageComponentType::Viper => true,
                StorageComponentType::Index => !self.index_types,
                StorageComponentType::Lsm | StorageComponentType::Metadata => false,
            }
    }
}

/// All assignments, in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AssignmentService {
    state: Arc<RwLock<State>>,
    policies: Arc<Policies>,
}

/// The answer of [`AssignmentService::assign_storage_url`]: a reservation until [`Self::record`]. Dropping the last
/// one of a collection undoes it.
#[derive(Debug)]
#[must_use = "dropping it undoes the assignment"]
pub struct StorageAssignmentResult {
    service: AssignmentService,
    collection: CollectionId,
    placements: BTreeMap<StorageComponentType, Placement>,
    newly_assigned: bool,
}

impl StorageAssignmentResult {
    /// The placements that were asked for.
    pub fn placements(&self) -> &BTreeMap<StorageComponentType, Placement> {
        &self.placements
    }

    /// Whether this call chose any of them. `false`: they were assigned, or reserved by someone else, before.
    pub fn newly_assigned(&self) -> bool {
        self.newly_assigned
    }

    /// The metadata record is committed: the placements hold for good. Changes nothing when another holder was first.
    pub fn record(self) {
        self.service.state.write().record_reserved(self.collection);
    }
}

impl Drop for StorageAssignmentResult {
    fn drop(&mut self) {
        self.service.state.write().let_go(self.collection);
    }
}

impl AssignmentService {
    /// A service without assignments and without policies.
    pub fn new() -> Self {
        Self::default()
    }

    /// A service without assignments, whose new ones keep these policies.
    pub fn with_policies(policies: Policies) -> Self {
        Self {
            policies: Arc::new(policies),
            ..Self::default()
        }
    }

    /// The policies, for those who move what was assigned.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Where these components of a collection live: as assigned, as reserved by a concurrent caller, or else chosen now.
    /// One step for all of them: whoever asks at the same time gets the same answer, and the counters move once.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] when a component to be placed has no writable root, or none that keeps the policies,
    /// [`Error::Config`] when it has none at all or fewer roots than copies, [`Error::InvalidInput`] when its strategy
    /// permits too few for this collection. Nothing is reserved then. Policies bind collections that are new; one that is
    /// recovered gets what it lacks even where they cannot be kept any more.
    pub fn assign_storage_url(
        &self,
        collection: CollectionId,
        configs: &[StorageAssignmentConfig],
        now_ms: u64,
    ) -> Result<StorageAssignmentResult> {
        let mut state = self.state.write();
        configs
            .iter()
            .filter(|config| state.placement(collection, config.component).is_none())
            .try_for_each(check)?;
        let mut placements = BTreeMap::new();
        let mut settled = Devices::new();
        let mut wants = Vec::new();
        for config in configs {
            if let Some(placement) = state.placement(collection, config.component) {
                settled.insert(config.component, devices(placement, config));
                placements.insert(config.component, placement.clone());
            } else {
                wants.push(state.want(collection, config));
            }
        }
        let newly_assigned = !wants.is_empty();
        let choices = match plan(&wants, settled, &self.policies) {
            // Its files are there: a policy of today must not keep a collection from being recovered.
            Err(_) if !placements.is_empty() => plan(&wants, Devices::new(), &Policies::default())?,
            planned => planned?,
        };
        for (want, choice) in wants.into_iter().zip(choices) {
            let placement = state.reserve(collection, want.config, choice, now_ms);
            placements.insert(want.config.component, placement);
        }
        state.pending.entry(collection).or_default().holders += 1;
        drop(state);
        Ok(StorageAssignmentResult {
            service: self.clone(),
            collection,
            placements,
            newly_assigned,
        })
    }

    /// The assignment of one component of a collection; `None` also while it is only reserved.
    pub fn get_assignment(&self, collection: CollectionId, component: StorageComponentType) -> Option<Assignment> {
        let state = self.state.read();
        Some(state.components.get(&component)?.assigned.get(&collection)?.view())
    }

    /// Takes over what a metadata record or discovery says. It replaces what was known about these components: the
    /// record is the authority.
    pub fn record_assignment(&self, collection: CollectionId, placements: BTreeMap<StorageComponentType, Placement>) {
        let mut state = self.state.write();
        for (component, placement) in placements {
            state.record(collection, component, placement);
        }
    }

    /// Forgets a dropped collection. Its sequence numbers stay used. Returns whether it had an assignment.
    pub fn remove_assignment(&self, collection: CollectionId) -> bool {
        let mut state = self.state.write();
        let mut found = false;
        for component in state.components.values_mut() {
            found |= component.remove(collection).is_some();
        }
        found
    }

    /// All assignments of a component, by collection.
    pub fn get_all_assignments(&self, component: StorageComponentType) -> BTreeMap<CollectionId, Assignment> {
        let state = self.state.read();
        let assigned = state
            .components
            .get(&component)
            .into_iter()
            .flat_map(|component| &component.assigned);
        assigned
            .map(|(&collection, assigned)| (collection, assigned.view()))
            .collect()
    }

    /// Counts and distribution of all components.
    pub fn get_assignment_stats(&self) -> AssignmentStats {
        let state = self.state.read();
        let stats = |component| (component, state.stats(component));
        AssignmentStats {
            components: StorageComponentType::ALL.into_iter().map(stats).collect(),
        }
    }

    /// Notes an access at `now_ms`. Cheap: a shared lock, and a write at most every
    /// [`Assignment::ACCESS_GRANULARITY_MS`].
    pub fn touch(&self, collection: CollectionId, component: StorageComponentType, now_ms: u64) {
        let state = self.state.read();
        if let Some(assigned) = state
            .components
            .get(&component)
            .and_then(|held| held.assigned.get(&collection))
        {
            let last = assigned.last_accessed_ms.load(Ordering::Relaxed);
            if now_ms >= last.saturating_add(Assignment::ACCESS_GRANULARITY_MS) {
                assigned.last_accessed_ms.fetch_max(now_ms, Ordering::Relaxed);
            }
        }
    }

    /// The RoundRobin counters: the number after all that were handed out, by component.
    pub fn counters(&self) -> BTreeMap<StorageComponentType, u64> {
        let state = self.state.read();
        let next = |component| state.components.get(component).map_or(0, |held| held.counter.next());
        StorageComponentType::ALL
            .iter()
            .map(|component| (*component, next(component)))
            .collect()
    }

    /// Sets the counters at start, after every known assignment was recorded. `floors` are the durable lower bounds that
    /// drops left. `complete` says that every metadata root was read: only then a missing number is one that a crash
    /// undid, and not one of a record that cannot be seen now.
    pub fn restore_counters(&self, floors: &BTreeMap<StorageComponentType, u64>, complete: bool) {
        let mut state = self.state.write();
        assert!(
            state.pending.is_empty(),
            "counters are restored before the first collection is created"
        );
        for component in StorageComponentType::ALL {
            let floor = floors.get(&component).copied().unwrap_or(0);
            state
                .components
                .entry(component)
                .or_default()
                .restore_counter(floor, complete);
        }
    }
}

/// The devices of a placement, as policies see them.
fn devices(placement: &Placement, config: &StorageAssignmentConfig) -> BTreeSet<String> {
    let device = |id| match config.candidates.iter().find(|candidate| candidate.root_id == id) {
        Some(candidate) => device_of(candidate),
        None => id.to_string(),
    };
    placement.bound().into_iter().map(device).collect()
}

/// Whether a component can be placed, before anything is reserved.
fn check(config: &StorageAssignmentConfig) -> Result<()> {
    let roots = config.candidates.len();
    if roots == 0 {
        return Err(Error::Config(format!(
            "No {} URLs configured",
            config.component.name().to_uppercase()
        )));
    }
    if config.copies > roots {
        let (copies, component) = (config.copies, config.component);
        return Err(Error::Config(format!(
            "{copies} copies of {component} need {copies} roots, but it has {roots}"
        )));
    }
    if config.candidates.iter().any(|candidate| candidate.writable) {
        return Ok(());
    }
    let urls: Vec<&str> = config
        .candidates
        .iter()
        .map(|candidate| candidate.url.as_str())
        .collect();
    let reason = format!("no root of component {} takes new collections now", config.component);
    Err(Error::RootUnavailable {
        url: urls.join(", "),
        reason,
    })
}

//! The assignment service: get-or-assign in one step for any number of components, shared by all engines.
//!
//! ```text
//! assign_storage_url ──▶ StorageAssignmentResult ──record()──▶ assigned, for good
//!   (reserved: counts in the load,  │
//!    holds its sequence numbers)    └── dropped ──▶ as if it had never been: numbers back, load back
//! ```
//!
//! A concrete type and no trait: there is one way to keep assignments, in memory, with the metadata records as the durable
//! form. What may differ (where the records are kept) differs below `metadata`, not here.
//!
//! Invariants: a collection has at most one placement per component, reserved or assigned; two placements never share
//! a sequence number; what is assigned changes only by `record_assignment` and `remove_assignment`. One lock covers all
//! components, so that the five homes of a new collection are one step. It is never held across I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::counter::Counter;
use super::{Assignment, AssignmentStats, Candidate, ComponentStats, Placement, PlacementRequest, choose};
use crate::config::DistributionStrategy;
use crate::error::{Error, Result};
use crate::root::{RootId, StorageComponentType};
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
    /// Bytes to count as used on the chosen roots until the assignment is recorded or undone.
    pub reserve_bytes: u64,
    /// The component's roots, writable or not.
    pub candidates: Vec<Candidate>,
}

/// All assignments, in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct AssignmentService {
    state: Arc<RwLock<State>>,
}

#[derive(Debug, Default)]
struct State {
    components: BTreeMap<StorageComponentType, Component>,
    pending: HashMap<CollectionId, Pending>,
}

/// The assignments of one component.
#[derive(Debug, Default)]
struct Component {
    assigned: HashMap<CollectionId, Assigned>,
    counter: Counter,
    loads: HashMap<RootId, Load>,
}

#[derive(Debug)]
struct Assigned {
    placement: Placement,
    last_accessed_ms: AtomicU64,
}

/// What assignments and reservations put on a root.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    collections: u64,
    reserved_bytes: u64,
}

/// What is reserved for one collection, by all who asked for it and are not done.
#[derive(Debug, Default)]
struct Pending {
    holders: usize,
    reserved: BTreeMap<StorageComponentType, Reserved>,
}

#[derive(Debug)]
struct Reserved {
    placement: Placement,
    bytes: u64,
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

    /// The metadata record is committed: the placements hold for good. A second holder's call changes nothing.
    pub fn record(self) -> BTreeMap<StorageComponentType, Placement> {
        self.service.record_assignment(self.collection, self.placements.clone());
        self.placements.clone()
    }
}

impl Drop for StorageAssignmentResult {
    fn drop(&mut self) {
        self.service.state.write().let_go(self.collection);
    }
}

impl AssignmentService {
    /// A service without assignments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where these components of a collection live: as assigned, as reserved by a concurrent caller, or else chosen now.
    /// One step for all of them: whoever asks at the same time gets the same answer, and the counters move once.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] when a component to be placed has no writable root, [`Error::Config`] when it has none
    /// at all or fewer roots than copies. Nothing is reserved then.
    pub fn assign_storage_url(
        &self,
        collection: CollectionId,
        configs: &[StorageAssignmentConfig],
        now_ms: u64,
    ) -> Result<StorageAssignmentResult> {
        let mut state = self.state.write();
        configs.iter().filter(|config| state.placement(collection, config.component).is_none()).try_for_each(check)?;
        let mut placements = BTreeMap::new();
        let mut newly_assigned = false;
        for config in configs {
            let placement = match state.placement(collection, config.component) {
                Some(placement) => placement.clone(),
                None => {
                    newly_assigned = true;
                    state.reserve(collection, config, now_ms)
                }
            };
            placements.insert(config.component, placement);
        }
        state.pending.entry(collection).or_default().holders += 1;
        drop(state);
        Ok(StorageAssignmentResult { service: self.clone(), collection, placements, newly_assigned })
    }

    /// The assignment of one component of a collection; `None` also while it is only reserved.
    pub fn get_assignment(&self, collection: CollectionId, component: StorageComponentType) -> Option<Assignment> {
        let state = self.state.read();
        Some(state.components.get(&component)?.assigned.get(&collection)?.view())
    }

    /// Takes over what a metadata record or discovery says. It replaces what was known about these components: the
    /// record is the authority.
    pub fn record_assignment(
        &self,
        collection: CollectionId,
        placements: BTreeMap<StorageComponentType, Placement>,
    ) {
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
        let assigned = state.components.get(&component).into_iter().flat_map(|component| &component.assigned);
        assigned.map(|(&collection, assigned)| (collection, assigned.view())).collect()
    }

    /// Counts and distribution of all components.
    pub fn get_assignment_stats(&self) -> AssignmentStats {
        let state = self.state.read();
        let stats = |component| (component, state.stats(component));
        AssignmentStats { components: StorageComponentType::ALL.into_iter().map(stats).collect() }
    }

    /// Notes an access at `now_ms`. Cheap: a shared lock, and a write at most every
    /// [`Assignment::ACCESS_GRANULARITY_MS`].
    pub fn touch(&self, collection: CollectionId, component: StorageComponentType, now_ms: u64) {
        let state = self.state.read();
        if let Some(assigned) = state.components.get(&component).and_then(|held| held.assigned.get(&collection)) {
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
        StorageComponentType::ALL.iter().map(|component| (*component, next(component))).collect()
    }

    /// Sets the counters at start, after every known assignment was recorded. `floors` are the durable lower bounds that
    /// drops left. `complete` says that every metadata root was read: only then a missing number is one that a crash
    /// undid, and not one of a record that cannot be seen now.
    pub fn restore_counters(&self, floors: &BTreeMap<StorageComponentType, u64>, complete: bool) {
        let mut state = self.state.write();
        assert!(state.pending.is_empty(), "counters are restored before the first collection is created");
        for component in StorageComponentType::ALL {
            let floor = floors.get(&component).copied().unwrap_or(0);
            state.components.entry(component).or_default().restore_counter(floor, complete);
        }
    }
}

/// Whether a component can be placed, before anything is reserved.
fn check(config: &StorageAssignmentConfig) -> Result<()> {
    let roots = config.candidates.len();
    if roots == 0 {
        return Err(Error::Config(format!("No {} URLs configured", config.component.name().to_uppercase())));
    }
    if config.copies > roots {
        let (copies, component) = (config.copies, config.component);
        return Err(Error::Config(format!("{copies} copies of {component} need {copies} roots, but it has {roots}")));
    }
    if config.candidates.iter().any(|candidate| candidate.writable) {
        return Ok(());
    }
    let urls: Vec<&str> = config.candidates.iter().map(|candidate| candidate.url.as_str()).collect();
    let reason = format!("no root of component {} takes new collections now", config.component);
    Err(Error::RootUnavailable { url: urls.join(", "), reason })
}

impl State {
    /// The placement of a component, assigned or reserved.
    fn placement(&self, collection: CollectionId, component: StorageComponentType) -> Option<&Placement> {
        let assigned = self.components.get(&component).and_then(|held| held.assigned.get(&collection));
        assigned.map(|assigned| &assigned.placement).or_else(|| {
            let reserved = self.pending.get(&collection)?.reserved.get(&component)?;
            Some(&reserved.placement)
        })
    }

    /// Chooses the roots of a component that [`check`] found placeable.
    fn reserve(&mut self, collection: CollectionId, config: &StorageAssignmentConfig, now_ms: u64) -> Placement {
        let component = self.components.entry(config.component).or_default();
        let sequence = (config.strategy == DistributionStrategy::RoundRobin).then(|| component.counter.take());
        let request = PlacementRequest { key: collection.to_string(), sequence: sequence.unwrap_or(0) };
        let candidates = component.with_loads(&config.candidates);
        let roots = choose(config.strategy, &request, &candidates, config.copies);
        assert_eq!(roots.len(), config.copies.max(1), "every copy has a root of its own");
        let (strategy, affinity) = (config.strategy, config.affinity);
        let placement = Placement { roots, strategy, affinity, sequence, assigned_at_ms: now_ms };
        component.add_load(&placement, config.reserve_bytes);
        let reserved = Reserved { placement: placement.clone(), bytes: config.reserve_bytes };
        self.pending.entry(collection).or_default().reserved.insert(config.component, reserved);
        placement
    }

    /// Makes a placement the assignment, in place of its reservation or of an earlier assignment.
    fn record(&mut self, collection: CollectionId, component: StorageComponentType, placement: Placement) {
        let held = self.components.entry(component).or_default();
        let reserved = self.pending.get_mut(&collection).and_then(|pending| pending.reserved.remove(&component));
        if let Some(reserved) = reserved {
            held.release(&reserved, placement.sequence);
        }
        let replaced = held.remove(collection);
        held.add_load(&placement, 0);
        if let Some(number) = placement.sequence {
            held.counter.mark_used(number);
        }
        let last_accessed_ms = AtomicU64::new(replaced.map_or(placement.assigned_at_ms, |assigned| {
            assigned.last_accessed_ms.into_inner().max(placement.assigned_at_ms)
        }));
        held.assigned.insert(collection, Assigned { placement, last_accessed_ms });
    }

    /// One holder of a reservation is done; the last one undoes what nobody recorded.
    fn let_go(&mut self, collection: CollectionId) {
        let Some(pending) = self.pending.get_mut(&collection) else { return };
        pending.holders -= 1;
        if pending.holders > 0 {
            return;
        }
        let reserved = self.pending.remove(&collection).map(|pending| pending.reserved).unwrap_or_default();
        for (component, reserved) in reserved {
            self.components.entry(component).or_default().release(&reserved, None);
        }
    }

    fn stats(&self, component: StorageComponentType) -> ComponentStats {
        let mut stats = ComponentStats::default();
        if let Some(held) = self.components.get(&component) {
            stats.next_sequence = held.counter.next();
            for assigned in held.assigned.values() {
                stats.collections += 1;
                for &root in &assigned.placement.roots {
                    stats.copies += 1;
                    *stats.roots.entry(root).or_default() += 1;
                }
            }
        }
        let reserved = self.pending.values().filter(|pending| pending.reserved.contains_key(&component));
        stats.reservations = reserved.map(|_| 1).sum();
        stats
    }
}

impl Component {
    /// The candidates with the collections assigned and reserved here, and the reserved bytes.
    fn with_loads(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let mut candidates = candidates.to_vec();
        for candidate in &mut candidates {
            let load = self.loads.get(&candidate.root_id).copied().unwrap_or_default();
            candidate.collections = load.collections;
            candidate.bytes = candidate.bytes.saturating_add(load.reserved_bytes);
        }
        candidates
    }

    fn add_load(&mut self, placement: &Placement, reserved_bytes: u64) {
        for &root in &placement.roots {
            let load = self.loads.entry(root).or_default();
            load.collections += 1;
            load.reserved_bytes += reserved_bytes;
        }
    }

    fn remove_load(&mut self, placement: &Placement, reserved_bytes: u64) {
        for &root in &placement.roots {
            let load = self.loads.entry(root).or_default();
            assert!(load.collections > 0, "a load was removed that was never added");
            load.collections -= 1;
            load.reserved_bytes -= reserved_bytes;
        }
    }

    /// Takes a reservation back. Its sequence number too, unless a record uses it (`used`).
    fn release(&mut self, reserved: &Reserved, used: Option<u64>) {
        self.remove_load(&reserved.placement, reserved.bytes);
        if let Some(number) = reserved.placement.sequence.filter(|&number| used != Some(number)) {
            self.counter.put_back(number);
        }
    }

    fn remove(&mut self, collection: CollectionId) -> Option<Assigned> {
        let assigned = self.assigned.remove(&collection)?;
        self.remove_load(&assigned.placement, 0);
        Some(assigned)
    }

    /// See [`AssignmentService::restore_counters`]. A record that was rebuilt from files has lost its number. Where there
    /// are such records, each RoundRobin placement counts as one number used: exact if nothing was ever dropped.
    fn restore_counter(&mut self, floor: u64, complete: bool) {
        let round_robin = || {
            let placements = self.assigned.values().map(|assigned| &assigned.placement);
            placements.filter(|placement| placement.strategy == DistributionStrategy::RoundRobin)
        };
        let rebuilt = round_robin().any(|placement| placement.sequence.is_none());
        let count = u64::try_from(round_robin().count()).unwrap_or(u64::MAX);
        let used: BTreeSet<u64> = round_robin().filter_map(|placement| placement.sequence).collect();
        self.counter.restore(&used, if rebuilt { floor.max(count) } else { floor }, complete);
    }
}

impl Assigned {
    fn view(&self) -> Assignment {
        Assignment {
            placement: self.placement.clone(),
            last_accessed_ms: self.last_accessed_ms.load(Ordering::Relaxed),
        }
    }
}

//! What the assignment service keeps: assignments, reservations, counters and loads, and the steps between them. Plain
//! data behind the service's one lock; see `service` for the invariants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use super::counter::Counter;
use super::plan::{Choice, Want};
use super::service::StorageAssignmentConfig;
use super::{Assignment, Candidate, ComponentStats, Placement, PlacementRequest};
use crate::config::DistributionStrategy;
use crate::root::{RootId, StorageComponentType};
use crate::schema::CollectionId;

/// All components under one lock.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) components: BTreeMap<StorageComponentType, Component>,
    pub(super) pending: HashMap<CollectionId, Pending>,
}

/// The assignments of one component.
#[derive(Debug, Default)]
pub(super) struct Component {
    pub(super) assigned: HashMap<CollectionId, Assigned>,
    pub(super) counter: Counter,
    loads: HashMap<RootId, Load>,
}

#[derive(Debug)]
pub(super) struct Assigned {
    placement: Placement,
    pub(super) last_accessed_ms: AtomicU64,
}

/// What assignments and reservations put on a root.
#[derive(Debug, Default, Clone, Copy)]
struct Load {
    collections: u64,
    reserved_bytes: u64,
}

/// What is reserved for one collection, by all who asked for it and are not done.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) holders: usize,
    reserved: BTreeMap<StorageComponentType, Reserved>,
}

#[derive(Debug)]
struct Reserved {
    placement: Placement,
    bytes: u64,
}

impl State {
    /// The placement of a component, assigned or reserved.
    pub(super) fn placement(&self, collection: CollectionId, component: StorageComponentType) -> Option<&Placement> {
        let assigned = self
            .components
            .get(&component)
            .and_then(|held| held.assigned.get(&collection));
        assigned.map(|assigned| &assigned.placement).or_else(|| {
            let reserved = self.pending.get(&collection)?.reserved.get(&component)?;
            Some(&reserved.placement)
        })
    }

    /// What a component of a collection needs, with what is assigned and reserved on its roots now.
    pub(super) fn want<'a>(&self, collection: CollectionId, config: &'a StorageAssignmentConfig) -> Want<'a> {
        let held = self.components.get(&config.component);
        let round_robin = config.strategy == DistributionStrategy::RoundRobin;
        let sequence = held.filter(|_| round_robin).map_or(0, |held| held.counter.peek());
        Want {
            config,
            request: PlacementRequest {
                key: collection.to_string(),
                sequence,
                region: config.region.clone(),
            },
            candidates: match held {
                Some(held) => held.with_loads(&config.candidates),
                None => config.candidates.clone(),
            },
        }
    }

    /// Reserves the roots that were chosen for a component, as [`want`](Self::want) asked.
    pub(super) fn reserve(
        &mut self,
        collection: CollectionId,
        config: &StorageAssignmentConfig,
        choice: Choice,
        now_ms: u64,
    ) -> Placement {
        assert_eq!(
            choice.roots.len(),
            config.copies.max(1),
            "every copy has a root of its own"
        );
        let component = self.components.entry(config.component).or_default();
        let sequence = (config.strategy == DistributionStrategy::RoundRobin).then(|| component.counter.take());
        let (strategy, affinity) = (config.strategy, config.affinity);
        let placement = Placement {
            roots: choice.roots,
            strategy,
            affinity,
            sequence,
            assigned_at_ms: now_ms,
            also: choice.also,
            types: choice.types,
            moving: None,
        };
        component.add_load(&placement, config.reserve_bytes);
        let reserved = Reserved {
            placement: placement.clone(),
            bytes: config.reserve_bytes,
        };
        self.pending
            .entry(collection)
            .or_default()
            .reserved
            .insert(config.component, reserved);
        placement
    }

    /// Makes a placement the assignment, in place of its reservation or of an earlier assignment.
    pub(super) fn record(&mut self, collection: CollectionId, component: StorageComponentType, placement: Placement) {
        let held = self.components.entry(component).or_default();
        // Before the reservation's own number goes back: below a used number it must be remembered as free.
        if let Some(number) = placement.sequence {
            held.counter.mark_used(number);
        }
        let reserved = self
            .pending
            .get_mut(&collection)
            .and_then(|pending| pending.reserved.remove(&component));
        if let Some(reserved) = reserved {
            held.release(&reserved, placement.sequence);
        }
        let replaced = held.remove(collection);
        held.add_load(&placement, 0);
        let last_accessed_ms = AtomicU64::new(replaced.map_or(placement.assigned_at_ms, |assigned| {
            assigned.last_accessed_ms.into_inner().max(placement.assigned_at_ms)
        }));
        held.assigned.insert(
            collection,
            Assigned {
                placement,
                last_accessed_ms,
            },
        );
    }

    /// Makes all that is still reserved for a collection its assignment.
    pub(super) fn record_reserved(&mut self, collection: CollectionId) {
        let reserved = self.pending.get(&collection).map(|pending| &pending.reserved);
        let placements: Vec<_> = reserved
            .into_iter()
            .flatten()
            .map(|(&component, reserved)| (component, reserved.placement.clone()))
            .collect();
        for (component, placement) in placements {
            self.record(collection, component, placement);
        }
    }

    /// One holder of a reservation is done; the last one undoes what nobody recorded.
    pub(super) fn let_go(&mut self, collection: CollectionId) {
        let Some(pending) = self.pending.get_mut(&collection) else {
            return;
        };
        pending.holders -= 1;
        if pending.holders > 0 {
            return;
        }
        let reserved = self
            .pending
            .remove(&collection)
            .map(|pending| pending.reserved)
            .unwrap_or_default();
        for (component, reserved) in reserved {
            self.components.entry(component).or_default().release(&reserved, None);
        }
    }

    pub(super) fn stats(&self, component: StorageComponentType) -> ComponentStats {
        let mut stats = ComponentStats::default();
        if let Some(held) = self.components.get(&component) {
            stats.next_sequence = held.counter.next();
            for assigned in held.assigned.values() {
                stats.collections += 1;
                for root in assigned.placement.homes() {
                    stats.copies += 1;
                    *stats.roots.entry(root).or_default() += 1;
                }
            }
        }
        let reserved = self
            .pending
            .values()
            .filter(|pending| pending.reserved.contains_key(&component));
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
        for root in placement.homes() {
            let load = self.loads.entry(root).or_default();
            load.collections += 1;
            load.reserved_bytes += reserved_bytes;
        }
    }

    fn remove_load(&mut self, placement: &Placement, reserved_bytes: u64) {
        for root in placement.homes() {
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

    pub(super) fn remove(&mut self, collection: CollectionId) -> Option<Assigned> {
        let assigned = self.assigned.remove(&collection)?;
        self.remove_load(&assigned.placement, 0);
        Some(assigned)
    }

    /// See [`AssignmentService::restore_counters`]. A record that was rebuilt from files has lost its number. Where there
    /// are such records, each RoundRobin placement counts as one number used: exact if nothing was ever dropped.
    pub(super) fn restore_counter(&mut self, floor: u64, complete: bool) {
        let round_robin = || {
            let placements = self.assigned.values().map(|assigned| &assigned.placement);
            placements.filter(|placement| placement.strategy == DistributionStrategy::RoundRobin)
        };
        let rebuilt = round_robin().any(|placement| placement.sequence.is_none());
        let count = u64::try_from(round_robin().count()).unwrap_or(u64::MAX);
        let used: BTreeSet<u64> = round_robin().filter_map(|placement| placement.sequence).collect();
        self.counter
            .restore(&used, if rebuilt { floor.max(count) } else { floor }, complete);
    }
}

impl Assigned {
    pub(super) fn view(&self) -> Assignment {
        Assignment {
            placement: self.placement.clone(),
            last_accessed_ms: self.last_accessed_ms.load(Ordering::Relaxed),
        }
    }
}

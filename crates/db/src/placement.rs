//! Placement: which root a collection's component lives on. Asked here for all five components, and nowhere else.
//!
//! ```text
//! candidates (roots, load) ─┐
//! request (key, sequence) ──┴▶ PlacementStrategy::rank ──▶ ordered roots ──▶ AssignmentService (get-or-assign,
//!                               round_robin hash load_balanced                 reservations, counters)
//!                               performance cost region  ▲
//! policies (same, different device), index types ── plan ┘  homes of all components chosen together
//! ```
//!
//! A strategy is a pure function from values to values. The service keeps the answers, because a collection moves only
//! when it is told to. Neither does I/O: the durable form of an answer is [`Placement`], a field of the collection's
//! metadata record. A new strategy is one file and one line in [`strategy`].

mod assignment;
mod cost;
mod counter;
mod hash;
mod load_balanced;
mod performance;
mod plan;
mod policy;
mod region;
mod round_robin;
mod service;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use assignment::{
    Assignment, AssignmentStats, CollectionWalAssignment, ComponentStats, Moving, Placement, Placements, ResourceType,
    RootUse, StorageAssignment,
};
pub use hash::RENDEZVOUS;
pub use policy::{Devices, Policies};
pub use service::{AssignmentService, StorageAssignmentConfig, StorageAssignmentResult};

use crate::config::DistributionStrategy;
use crate::root::{Root, RootId};
use crate::schema::CollectionId;

/// A root that a strategy may choose, with what is on it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Identity of the root.
    pub root_id: RootId,
    /// What Hash knows it by: as `root_id` it stays for good, and it is the same on servers that are configured alike.
    pub hash_key: String,
    /// Its URL, for messages.
    pub url: String,
    /// Position in the configured list: the order of RoundRobin, and how ties are decided. Unique.
    pub index: usize,
    /// Labels of the root.
    pub tags: BTreeMap<String, String>,
    /// Share of new collections under Hash, relative to the other roots. Above 0.
    pub weight: f64,
    /// Price of a GB for a month, if one is configured.
    pub cost_per_gb_month: Option<f64>,
    /// Moving average of its latency in milliseconds; `None` while nothing was measured.
    pub latency_ms: Option<f64>,
    /// What it shares with other roots, for policies: a disk, a bucket. `None`: not known, so nothing.
    pub device: Option<String>,
    /// Collections of this component on it. The [`AssignmentService`] counts them itself and replaces this value.
    pub collections: u64,
    /// Bytes on it. The [`AssignmentService`] adds what is reserved.
    pub bytes: u64,
    /// Whether it takes new collections now: online, not full, not draining.
    pub writable: bool,
}

impl Candidate {
    /// A root as it is now; `bytes` lie on it. Its price and its device are the caller's to know.
    pub fn of(root: &Root, bytes: u64) -> Self {
        Self {
            root_id: root.id(),
            hash_key: root.placement_key(),
            url: root.url().to_owned(),
            index: root.index(),
            tags: root.tags().clone(),
            weight: root.weight(),
            cost_per_gb_month: None,
            latency_ms: None,
            device: None,
            collections: 0,
            bytes,
            writable: root.accepts_placements(),
        }
    }
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRequest {
    /// The collection id, and for a file placed on its own also the file: `<id>` or `<id>/<file>`.
    pub key: String,
    /// Number of the placement in the component's RoundRobin sequence, from 0.
    pub sequence: u64,
    /// The region that the collection asks for.
    pub region: Option<String>,
}

/// Orders roots for a request, best first. Pure: no I/O, no clock, no randomness, no state, so that the same values
/// give the same answer on every machine and after every restart.
pub trait PlacementStrategy: Send + Sync {
    /// Positions in `candidates`, each at most once, best first; those left out are not permitted for this request.
    /// The answer must not depend on the order of the slice.
    fn rank(&self, request: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize>;

    /// Why none of the candidates is permitted, for the error. Only asked then.
    fn refusal(&self, _request: &PlacementRequest, _candidates: &[Candidate]) -> String {
        "no root is permitted".to_owned()
    }
}

/// The strategy of a name.
pub fn strategy(name: DistributionStrategy) -> &'static dyn PlacementStrategy {
    match name {
        DistributionStrategy::RoundRobin => &round_robin::RoundRobin,
        DistributionStrategy::Hash => &hash::Hash,
        DistributionStrategy::LoadBalanced => &load_balanced::LoadBalanced,
        DistributionStrategy::PerformanceBased => &performance::PerformanceBased,
        DistributionStrategy::CostOptimized => &cost::CostOptimized,
        DistributionStrategy::RegionAffinityBased => &region::RegionAffinityBased,
    }
}

/// The candidates that the strategy permits, in its order.
fn ranked<'a>(
    name: DistributionStrategy,
    request: &PlacementRequest,
    candidates: Vec<&'a Candidate>,
) -> Vec<&'a Candidate> {
    let values: Vec<Candidate> = candidates.iter().map(|&candidate| candidate.clone()).collect();
    let order = strategy(name).rank(request, &values);
    let distinct: BTreeSet<usize> = order.iter().copied().collect();
    assert!(
        distinct.len() == order.len() && distinct.last().is_none_or(|&last| last < candidates.len()),
        "{name} must rank candidates, each at most once"
    );
    order
        .into_iter()
        .filter_map(|position| candidates.get(position).copied())
        .collect()
}

/// The root for one new file of a collection: its home under affinity, else the strategy's choice for this file among
/// the roots that its record names, as far as they take writes. `number` counts the files of the component in this
/// collection, so that RoundRobin goes on from the home. Where none takes writes it is the home: there the write is
/// tried, and fails with the reason. `None` only for a placement without roots.
pub fn place_file(
    collection: CollectionId,
    placement: &Placement,
    file: &str,
    number: u64,
    candidates: &[Candidate],
) -> Option<RootId> {
    let home = placement.roots.first().copied();
    if placement.affinity {
        return home;
    }
    let named = placement.all_roots();
    let left = placement.moving.map(|moving| moving.from);
    let usable = candidates.iter().filter(|candidate| {
        candidate.writable && named.contains(&candidate.root_id) && left != Some(candidate.root_id)
    });
    let request = PlacementRequest {
        key: format!("{collection}/{file}"),
        sequence: placement.sequence.unwrap_or(0).wrapping_add(number),
        // The roots that the record names were chosen for the region.
        region: None,
    };
    let first = ranked(placement.strategy, &request, usable.collect())
        .first()
        .map(|candidate| candidate.root_id);
    first.or(home)
}

//! Placement: which root a collection's component lives on. Asked here for all five components, and nowhere else.
//!
//! ```text
//! candidates (roots, load) ─┐
//! request (key, sequence) ──┴▶ PlacementStrategy::rank ──▶ ordered roots ──▶ AssignmentService (get-or-assign,
//!                               round_robin hash load_balanced                 reservations, counters)
//! ```
//!
//! A strategy is a pure function from values to values. The service keeps the answers, because a collection moves only
//! when it is told to. Neither does I/O: the durable form of an answer is [`Placement`], a field of the collection's
//! metadata record. A new strategy is one file and one line in [`strategy`].

mod assignment;
mod counter;
mod hash;
mod load_balanced;
mod round_robin;
mod service;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use assignment::{
    Assignment, AssignmentStats, CollectionWalAssignment, ComponentStats, Moving, Placement, Placements, ResourceType,
    RootUse, StorageAssignment,
};
pub use hash::RENDEZVOUS;
pub use service::{AssignmentService, StorageAssignmentConfig, StorageAssignmentResult};

use crate::config::DistributionStrategy;
use crate::root::{Root, RootId};
use crate::schema::CollectionId;

/// A root that a strategy may choose, with what is on it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Identity of the root.
    pub root_id: RootId,
    /// Its URL, for messages.
    pub url: String,
    /// Position in the configured list: the order of RoundRobin, and how ties are decided. Unique.
    pub index: usize,
    /// Labels of the root.
    pub tags: BTreeMap<String, String>,
    /// Share of new collections under Hash, relative to the other roots. Above 0.
    pub weight: f64,
    /// Collections of this component on it. The [`AssignmentService`] counts them itself and replaces this value.
    pub collections: u64,
    /// Bytes on it. The [`AssignmentService`] adds what is reserved.
    pub bytes: u64,
    /// Whether it takes new collections now: online, not full, not draining.
    pub writable: bool,
}

impl Candidate {
    /// A root as it is now; `bytes` lie on it.
    pub fn of(root: &Root, bytes: u64) -> Self {
        Self {
            root_id: root.id(),
            url: root.url().to_owned(),
            index: root.index(),
            tags: root.tags().clone(),
            weight: root.weight(),
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
}

/// Orders roots for a request, best first. Pure: no I/O, no clock, no randomness, no state, so that the same values
/// give the same answer on every machine and after every restart.
pub trait PlacementStrategy: Send + Sync {
    /// Positions in `candidates`, each exactly once, best first. The answer must not depend on the order of the slice.
    fn rank(&self, request: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize>;
}

/// The strategy of a name.
pub fn strategy(name: DistributionStrategy) -> &'static dyn PlacementStrategy {
    match name {
        DistributionStrategy::RoundRobin => &round_robin::RoundRobin,
        DistributionStrategy::Hash => &hash::Hash,
        DistributionStrategy::LoadBalanced => &load_balanced::LoadBalanced,
    }
}

/// The candidates in the order of the strategy. With one candidate there is nothing to choose.
fn ranked<'a>(
    name: DistributionStrategy,
    request: &PlacementRequest,
    candidates: Vec<&'a Candidate>,
) -> Vec<&'a Candidate> {
    if candidates.len() < 2 {
        return candidates;
    }
    let values: Vec<Candidate> = candidates.iter().map(|&candidate| candidate.clone()).collect();
    let order = strategy(name).rank(request, &values);
    let mut seen = order.clone();
    seen.sort_unstable();
    assert!(
        seen.into_iter().eq(0..candidates.len()),
        "{name} must rank every candidate exactly once"
    );
    order
        .into_iter()
        .filter_map(|position| candidates.get(position).copied())
        .collect()
}

/// The first `copies` distinct roots for a request: writable ones first, and the others only as further copies, which
/// are written when their root comes back. Empty when no root is writable; shorter than `copies` when roots are few.
fn choose(
    name: DistributionStrategy,
    request: &PlacementRequest,
    candidates: &[Candidate],
    copies: usize,
) -> Vec<RootId> {
    let (writable, others): (Vec<_>, Vec<_>) = candidates.iter().partition(|candidate| candidate.writable);
    if writable.is_empty() {
        return Vec::new();
    }
    let mut chosen = ranked(name, request, writable);
    if chosen.len() < copies {
        chosen.extend(ranked(name, request, others));
    }
    chosen
        .into_iter()
        .take(copies.max(1))
        .map(|candidate| candidate.root_id)
        .collect()
}

/// The root for one new file of a collection: its home under affinity, else the strategy's choice for this file.
/// `number` counts the files of the component in this collection, so that RoundRobin goes on from the home.
/// `None` when no root is writable.
pub fn place_file(
    collection: CollectionId,
    placement: &Placement,
    file: &str,
    number: u64,
    candidates: &[Candidate],
) -> Option<RootId> {
    if placement.affinity {
        return placement.roots.first().copied();
    }
    let key = format!("{collection}/{file}");
    let sequence = placement.sequence.unwrap_or(0).wrapping_add(number);
    choose(placement.strategy, &PlacementRequest { key, sequence }, candidates, 1)
        .first()
        .copied()
}

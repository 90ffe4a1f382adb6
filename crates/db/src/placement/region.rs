//! RegionAffinityBased: a collection stays in its region.
//!
//! A root says its region with the tag `region`, a collection with `metadata.proximadb.region`. A collection without one
//! may live anywhere; it goes to roots without a region first, and leaves the others to those that need them.

use std::collections::BTreeSet;

use super::load_balanced::by_measure;
use super::{Candidate, PlacementRequest, PlacementStrategy};

/// The roots of the collection's region, balanced, and no others.
pub(super) struct RegionAffinityBased;

impl PlacementStrategy for RegionAffinityBased {
    fn rank(&self, request: &PlacementRequest, candidates: &[Candidate]) -> Vec<usize> {
        by_measure(candidates, |candidate| {
            match (&request.region, candidate.tags.get("region")) {
                (Some(wanted), region) => (Some(wanted) == region).then_some(0.0),
                (None, None) => Some(0.0),
                (None, Some(_)) => Some(1.0),
            }
        })
    }

    fn refusal(&self, request: &PlacementRequest, candidates: &[Candidate]) -> String {
        let regions: BTreeSet<&str> = candidates
            .iter()
            .filter_map(|candidate| candidate.tags.get("region").map(String::as_str))
            .collect();
        let there_are = if regions.is_empty() {
            "no root has the tag `region`".to_owned()
        } else {
            let regions: Vec<&str> = regions.into_iter().collect();
            format!("there are {}", regions.join(", "))
        };
        format!(
            "no root is in region `{}`: {there_are}",
            request.region.as_deref().unwrap_or_default()
        )
    }
}

//! The names of the distribution strategies. What they do is the placement module's; a configuration only names one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the first root of a collection's component is chosen among the URLs of that component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DistributionStrategy {
    /// The next root in sequence, by a durable counter for each component.
    RoundRobin,
    /// Weighted rendezvous hashing over the hash keys of the roots.
    Hash,
    /// The root with the fewest collections and bytes.
    LoadBalanced,
    /// The root that answers fastest.
    PerformanceBased,
    /// The cheapest root.
    CostOptimized,
    /// Only roots of the collection's region.
    RegionAffinityBased,
}

impl DistributionStrategy {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::Hash,
        Self::LoadBalanced,
        Self::PerformanceBased,
        Self::CostOptimized,
        Self::RegionAffinityBased,
    ];

    /// The exact name used in configurations, records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "RoundRobin",
            Self::Hash => "Hash",
            Self::LoadBalanced => "LoadBalanced",
            Self::PerformanceBased => "PerformanceBased",
            Self::CostOptimized => "CostOptimized",
            Self::RegionAffinityBased => "RegionAffinityBased",
        }
    }
}

impl fmt::Display for DistributionStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the exact name of a strategy; the message lists the names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown distribution strategy `{name}`: choose {}", Self::choices())]
pub struct UnknownStrategy {
    name: String,
}

impl UnknownStrategy {
    fn choices() -> String {
        let names = DistributionStrategy::ALL.map(DistributionStrategy::name);
        let (common, further) = names.split_at(3);
        format!("{} (further: {})", common.join(", "), further.join(", "))
    }
}

impl FromStr for DistributionStrategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let found = Self::ALL.into_iter().find(|strategy| strategy.name() == text);
        found.ok_or_else(|| UnknownStrategy { name: text.to_owned() })
    }
}

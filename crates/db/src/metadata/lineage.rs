//! What tells a copy that lags from a copy of another history.
//!
//! Every version says which versions it comes from, and what homes that missed some may still hold. A home that returns
//! with one of these lags. A home that returns with anything else has taken changes that this history does not know: it is
//! never overwritten.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CollectionRecord, home_ids};
use crate::root::RootId;

/// Where a version comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// Nonce of the version that this one changed, and of attempts in between that failed and may be on a root all the same.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub previous: BTreeSet<Uuid>,
    /// What homes that have not all the versions up to that one may hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<RootId, BTreeSet<Uuid>>,
    /// Roots that are no homes and may hold a copy: stand-ins, and homes of before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stand_ins: BTreeSet<RootId>,
}

impl Lineage {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a home with this older version merely lags. A version of an older release does not say where it comes from.
    pub(crate) fn knows(&self, home: RootId, nonce: Uuid) -> bool {
        self.previous.is_empty()
            || self.previous.contains(&nonce)
            || self.behind.get(&home).is_some_and(|held| held.contains(&nonce))
    }
}

/// What is known of the copies of a record while it is in use.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The version in force.
    pub version: u64,
    /// Its homes.
    pub homes: Vec<RootId>,
    /// Homes that may not have it, and what they may have.
    pub behind: BTreeMap<RootId, BTreeSet<Uuid>>,
    /// Other roots that may hold any version.
    pub stand_ins: BTreeSet<RootId>,
    /// Attempts that failed, and may be on a root all the same.
    pub tried: BTreeSet<Uuid>,
}

impl Known {
    /// Of a record that every home has.
    pub fn of(record: &CollectionRecord) -> Self {
        Self {
            version: record.version,
            homes: home_ids(record).collect(),
            behind: BTreeMap::new(),
            stand_ins: record.lineage.stand_ins.clone(),
            tried: BTreeSet::new(),
        }
    }

    /// Whether a copy that a root has is of this history.
    pub fn knows(&self, root: RootId, nonce: Uuid) -> bool {
        self.tried.contains(&nonce) || self.behind.get(&root).is_some_and(|held| held.contains(&nonce))
    }

    /// Notes the next version before it is written: if nobody hears of the outcome, every home may have it or not.
    pub fn note_attempt(&mut self, before: Option<Uuid>, attempt: &CollectionRecord) {
        let homes: Vec<RootId> = home_ids(attempt).collect();
        // A home that is none any more keeps a copy until all the others are well.
        let left = self.homes.iter().filter(|home| !homes.contains(home)).copied();
        self.stand_ins.extend(left);
        self.stand_ins.extend(&attempt.lineage.stand_ins);
        self.stand_ins.retain(|root| !homes.contains(root));
        self.behind.retain(|home, _| homes.contains(home));
        for home in &homes {
            self.behind.entry(*home).or_insert_with(|| before.into_iter().collect());
        }
        self.homes = homes;
        self.tried.insert(attempt.nonce);
    }

    /// Notes that a version is in force: on the `stored` roots, and perhaps on those that `failed`.
    pub fn note_success(&mut self, record: &CollectionRecord, stored: &BTreeSet<RootId>, failed: &BTreeSet<RootId>) {
        self.version = record.version;
        self.behind.retain(|home, _| !stored.contains(home));
        let tried = std::mem::take(&mut self.tried);
        for (home, held) in &mut self.behind {
            // One that was not asked has none of it; else the list would grow with every version.
            if failed.contains(home) || tried.len() > 1 {
                held.extend(&tried);
            }
        }
    }
}

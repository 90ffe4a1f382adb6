//! Policies: which components of a collection share a device, and which never do (`[storage.placement.policies]`).
//!
//! A policy binds where a component is at home (each index type's home is one of the index) and where its files are
//! striped. Further copies are free: they are there to be elsewhere. A rebalance keeps the policies, a drain keeps them
//! where it can, and a move that somebody asks for goes where it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::PolicyConfig;
use crate::error::{Error, Result};
use crate::root::StorageComponentType;

/// Devices of the components of one collection.
pub type Devices = BTreeMap<StorageComponentType, BTreeSet<String>>;

/// All policies, which hold for every collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies(Vec<Policy>);

/// One policy over a group of components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// On one device; else on a device of its own each.
    same: bool,
    pub(super) components: BTreeSet<StorageComponentType>,
}

impl Policies {
    /// The policies of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is no component.
    pub fn new(policies: &PolicyConfig) -> Result<Self> {
        let same = policies.same_device.iter().map(|group| (true, group));
        let different = policies.different_device.iter().map(|group| (false, group));
        let policy = |(same, group): (bool, &Vec<String>)| {
            let components = group.iter().map(|name| name.parse().map_err(Error::Config));
            Ok(Policy {
                same,
                components: components.collect::<Result<_>>()?,
            })
        };
        same.chain(different).map(policy).collect::<Result<_>>().map(Self)
    }

    /// Whether there is none, and nobody needs to know a device.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a component may be on a device, given the devices of the collection's other components.
    pub fn permit(&self, component: StorageComponentType, device: &str, others: &Devices) -> bool {
        self.violated(component, device, others).is_none()
    }

    /// Whether some policy binds this component.
    pub(super) fn bind(&self, component: StorageComponentType) -> bool {
        self.0.iter().any(|policy| policy.components.contains(&component))
    }

    /// The first policy that forbids this device for a component, given the devices of the others.
    pub(super) fn violated(&self, component: StorageComponentType, device: &str, others: &Devices) -> Option<&Policy> {
        let forbids = |policy: &&Policy| {
            let bound = others
                .iter()
                .filter(|(other, _)| **other != component && policy.components.contains(other));
            policy.components.contains(&component)
                && bound
                    .flat_map(|(_, devices)| devices)
                    .any(|other| (other == device) != policy.same)
        };
        self.0.iter().find(forbids)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.same { "same_device" } else { "different_device" };
        let components: Vec<&str> = self.components.iter().map(|component| component.name()).collect();
        write!(f, "{name} = [{}]", components.join(", "))
    }
}

//! `[storage.placement.policies]`: which components of a collection share a device, and which never do.

use std::collections::BTreeSet;

use toml::Value;

use crate::error::{Error, Result};

/// Names of the five components, as everywhere in a configuration.
const COMPONENTS: [&str; 5] = ["wal", "viper", "lsm", "index", "metadata"];

/// The policies, as groups of component names: what each demands holds between any two components of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Components that live on one device.
    pub same_device: Vec<Vec<String>>,
    /// Components that live on devices of their own.
    pub different_device: Vec<Vec<String>>,
}

impl PolicyConfig {
    /// Refuses two components that are to share a device, by any chain of groups, and also to be apart.
    pub(super) fn check(&self) -> Result<()> {
        for component in COMPONENTS {
            let together = self.together(component);
            for apart in &self.different_device {
                let both: Vec<&str> = together
                    .iter()
                    .copied()
                    .filter(|name| apart.iter().any(|other| other == name))
                    .collect();
                if let [one, other, ..] = both.as_slice() {
                    return Err(Error::Config(format!(
                        "[storage.placement.policies] asks for {one} and {other} on the same device and on different devices"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The components that share a device with this one, itself included.
    fn together<'a>(&'a self, component: &'a str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::from([component]);
        // Each round may join further groups; there are never more rounds than components.
        for _ in COMPONENTS {
            for group in &self.same_device {
                if group.iter().any(|name| found.contains(name.as_str())) {
                    found.extend(group.iter().map(String::as_str));
                }
            }
        }
        found
    }
}

/// Whether a value is a list of groups of two or more different components.
pub(super) fn is_groups(value: &Value) -> bool {
    let is_group = |group: &Value| {
        let names: Vec<&str> = group
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap_or_default())
            .collect();
        let different: BTreeSet<&str> = names.iter().copied().collect();
        names.len() >= 2 && different.len() == names.len() && names.iter().all(|name| COMPONENTS.contains(name))
    };
    value.as_array().is_some_and(|groups| groups.iter().all(is_group))
}

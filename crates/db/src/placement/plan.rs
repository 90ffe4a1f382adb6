//! The roots of all components of one new collection, chosen together: what a strategy prefers, as far as the policies
//! permit it.
//!
//! ```text
//! wants (config, candidates) ──▶ rank each by its strategy ──▶ homes that agree, by backtracking ──▶ copies, stripes, types
//! ```
//!
//! Pure. The index comes last: its types have a home each, and so no other component waits for a choice of three.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::{Devices, Policies, Policy};
use super::service::StorageAssignmentConfig;
use super::{Candidate, PlacementRequest, ranked, strategy};
use crate::error::{Error, Result};
use crate::root::{IndexType, RootId, StorageComponentType};

/// One component that needs a place.
#[derive(Debug)]
pub(super) struct Want<'a> {
    pub config: &'a StorageAssignmentConfig,
    pub request: PlacementRequest,
    /// The candidates of the configuration with what is assigned and reserved on them.
    pub candidates: Vec<Candidate>,
}

/// The roots of one component: the fields of its placement.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub roots: Vec<RootId>,
    pub also: Vec<RootId>,
    pub types: BTreeMap<IndexType, Vec<RootId>>,
}

/// The types in the order in which the roots are dealt out to them.
const DEALT: [IndexType; 3] = [IndexType::Ivf, IndexType::Hnsw, IndexType::Idx];

/// Chooses for all of them, in their order. `settled` holds the devices of the components that have a place already.
///
/// # Errors
/// [`Error::InvalidInput`] when a strategy permits too few roots for the collection, [`Error::RootUnavailable`] when those
/// that it permits take none, or when the policies cannot be kept: then it names the policy and the devices.
pub(super) fn plan<'a>(wants: &'a [Want<'a>], settled: Devices, policies: &'a Policies) -> Result<Vec<Choice>> {
    let ranked = wants.iter().map(Want::preferences).collect::<Result<Vec<_>>>()?;
    let mut search = Search {
        policies,
        options: wants.iter().zip(ranked).collect(),
        devices: settled,
        homes: BTreeMap::new(),
        obstacle: None,
    };
    search
        .options
        .sort_by_key(|(want, _)| want.config.component == StorageComponentType::Index);
    if !search.settle(0) {
        return Err(search.refusal());
    }
    let mut choices = search.complete();
    let choice = |want: &Want<'_>| choices.remove(&want.config.component).unwrap_or_default();
    Ok(wants.iter().map(choice).collect())
}

/// The order of the roots for one component, or for one type of index.
type Preference<'a> = Vec<&'a Candidate>;

impl<'a> Want<'a> {
    /// One order for the component; with index types one for each of [`DEALT`].
    fn preferences(&'a self) -> Result<Vec<Preference<'a>>> {
        let config = self.config;
        let permitted = strategy(config.strategy).rank(&self.request, &self.candidates);
        let mut permitted: Vec<&Candidate> = permitted.iter().filter_map(|&at| self.candidates.get(at)).collect();
        if permitted.len() < config.copies.max(1) {
            return Err(self.too_few(permitted.len()));
        }
        if !permitted.iter().any(|candidate| candidate.writable) {
            let urls: Vec<&str> = permitted.iter().map(|candidate| candidate.url.as_str()).collect();
            return Err(Error::RootUnavailable {
                url: urls.join(", "),
                reason: format!(
                    "no permitted root of component {} takes new collections now",
                    config.component
                ),
            });
        }
        if !config.by_index_type() {
            return Ok(vec![self.order(permitted)]);
        }
        // By hash key: a place in the list changes, and then the types would mix. Roots that are down are dealt out too.
        permitted.sort_by(|a, b| (&a.hash_key, a.root_id).cmp(&(&b.hash_key, b.root_id)));
        let roots = permitted.len();
        let of_type = |dealt: usize| {
            let member =
                |position: usize| position % DEALT.len() == dealt || (roots < DEALT.len() && position == dealt % roots);
            let (group, rest): (Vec<_>, Vec<_>) =
                permitted.iter().copied().enumerate().partition(|(at, _)| member(*at));
            let members = |of: Vec<(usize, &'a Candidate)>| self.order(of.into_iter().map(|(_, root)| root).collect());
            let mut order: Vec<&Candidate> = [members(group), members(rest)].concat();
            // Stable: the group stays in front among those that can be written, and among those that cannot.
            order.sort_by_key(|candidate| !candidate.writable);
            order
        };
        Ok((0..DEALT.len()).map(of_type).collect())
    }

    /// The candidates in the order of the strategy, those that can be written first.
    fn order(&self, candidates: Vec<&'a Candidate>) -> Vec<&'a Candidate> {
        let (writable, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.writable);
        let rank = |candidates| ranked(self.config.strategy, &self.request, candidates);
        [rank(writable), rank(others)].concat()
    }

    fn too_few(&self, permitted: usize) -> Error {
        let (component, copies) = (self.config.component, self.config.copies);
        let name = self.config.strategy;
        Error::InvalidInput(if permitted == 0 {
            let reason = strategy(name).refusal(&self.request, &self.candidates);
            format!("{name} cannot place component {component}: {reason}")
        } else {
            let region = self.request.region.as_deref().unwrap_or_default();
            format!(
                "{copies} copies of {component} need {copies} roots, but {name} permits {permitted} (region `{region}`)"
            )
        })
    }
}

/// The choice of homes, one component after the other.
struct Search<'a> {
    policies: &'a Policies,
    options: Vec<(&'a Want<'a>, Vec<Preference<'a>>)>,
    devices: Devices,
    homes: BTreeMap<StorageComponentType, Vec<&'a Candidate>>,
    /// The policy that left no root last.
    obstacle: Option<&'a Policy>,
}

impl<'a> Search<'a> {
    /// Gives homes to the components from this one on. Only devices matter to the others: each is tried once.
    fn settle(&mut self, at: usize) -> bool {
        let Some((want, preferences)) = self.options.get(at) else {
            return true;
        };
        let component = want.config.component;
        let preferences = preferences.clone();
        if preferences.len() > 1 {
            let homes: Option<Vec<_>> = preferences
                .iter()
                .map(|order| self.first_permitted(component, order))
                .collect();
            let Some(homes) = homes else { return false };
            self.take(component, homes);
            return self.settle(at + 1);
        }
        let mut tried = BTreeSet::new();
        for home in preferences.into_iter().flatten().filter(|home| home.writable) {
            let device = device_of(home);
            if !tried.insert(device.clone()) || !self.permit(component, &device) {
                continue;
            }
            self.take(component, vec![home]);
            if self.settle(at + 1) {
                return true;
            }
            self.devices.remove(&component);
            if !self.policies.bind(component) {
                return false;
            }
        }
        false
    }

    fn first_permitted(&mut self, component: StorageComponentType, order: &[&'a Candidate]) -> Option<&'a Candidate> {
        let mut writable = order.iter().copied().filter(|candidate| candidate.writable);
        writable.find(|candidate| self.permit(component, &device_of(candidate)))
    }

    fn permit(&mut self, component: StorageComponentType, device: &str) -> bool {
        let violated = self.policies.violated(component, device, &self.devices);
        self.obstacle = violated.or(self.obstacle);
        violated.is_none()
    }

    fn take(&mut self, component: StorageComponentType, homes: Vec<&'a Candidate>) {
        let devices = homes.iter().map(|home| device_of(home)).collect();
        self.devices.insert(component, devices);
        self.homes.insert(component, homes);
    }

    /// Adds copies, stripes and types to the homes.
    fn complete(mut self) -> BTreeMap<StorageComponentType, Choice> {
        let mut choices = BTreeMap::new();
        for (want, preferences) in std::mem::take(&mut self.options) {
            let component = want.config.component;
            let homes = self.homes.remove(&component).unwrap_or_default();
            let mut lists = preferences
                .iter()
                .zip(homes)
                .map(|(order, home)| copies(order, home, want.config.copies));
            let roots = lists.next().unwrap_or_default();
            let types = if want.config.by_index_type() {
                let lists = std::iter::once(roots.clone()).chain(lists);
                DEALT.into_iter().zip(lists).collect()
            } else {
                BTreeMap::new()
            };
            let mut also = Vec::new();
            let spread = preferences.iter().flatten().filter(|_| want.config.spreads());
            for candidate in spread {
                let device = device_of(candidate);
                let new = candidate.writable && !roots.contains(&candidate.root_id);
                if new && self.policies.violated(component, &device, &self.devices).is_none() {
                    also.push(candidate.root_id);
                    self.devices.entry(component).or_default().insert(device);
                }
            }
            choices.insert(component, Choice { roots, also, types });
        }
        choices
    }

    fn refusal(&self) -> Error {
        let Some(policy) = self.obstacle else {
            return Error::Internal("no home was found, and no policy forbids one".to_owned());
        };
        let devices = policy.components.iter().filter_map(|&component| {
            let option = self.options.iter().find(|(want, _)| want.config.component == component);
            let found: BTreeSet<String> = match option {
                Some((_, preferences)) => preferences
                    .iter()
                    .flatten()
                    .filter(|candidate| candidate.writable)
                    .map(|candidate| device_of(candidate))
                    .collect(),
                None => self.devices.get(&component)?.clone(),
            };
            Some(format!("{component} can be on {}", Vec::from_iter(found).join(", ")))
        });
        let devices: Vec<String> = devices.collect();
        let urls: BTreeSet<&str> = policy
            .components
            .iter()
            .flat_map(|component| {
                self.options
                    .iter()
                    .filter(move |(want, _)| want.config.component == *component)
            })
            .flat_map(|(want, _)| want.candidates.iter().map(|candidate| candidate.url.as_str()))
            .collect();
        Error::RootUnavailable {
            url: Vec::from_iter(urls).join(", "),
            reason: format!(
                "the policy {policy} of [storage.placement.policies] cannot be kept: {}",
                devices.join("; ")
            ),
        }
    }
}

/// The home and then as many further roots as there are copies, in order.
fn copies(order: &[&Candidate], home: &Candidate, copies: usize) -> Vec<RootId> {
    let others = order
        .iter()
        .map(|candidate| candidate.root_id)
        .filter(|id| *id != home.root_id);
    std::iter::once(home.root_id)
        .chain(others)
        .take(copies.max(1))
        .collect()
}

/// What a root shares with others; a root whose device is not known shares nothing.
pub(super) fn device_of(candidate: &Candidate) -> String {
    candidate.device.clone().unwrap_or_else(|| candidate.url.clone())
}

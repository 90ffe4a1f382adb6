//! What operators do to roots while the database serves: drain, rebalance, move.
//!
//! Owns which moves are begun. A drain is durable in the list of roots and begins its moves a few at a time until nothing
//! is left; a rebalance writes all of its moves into the records before it answers, so a crash forgets none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::{Database, root_config};
use crate::discovery::Discovery;
use crate::error::{Error, Result};
use crate::metadata::CollectionRecord;
use crate::moves::{PlannedMove, Unit, plan_drain, plan_rebalance};
use crate::placement::{Devices, Placement, Placements};
use crate::root::{Root, RootId, RootState, StorageComponentType, Usage};
use crate::schema::CollectionId;

/// Names that a message lists before it only counts.
const NAMES_SHOWN: usize = 10;
/// What a collection weighs on a root beside its bytes, so that thousands of small ones are spread as well.
const COLLECTION_BYTES: u64 = 1 << 20;

/// What the placement policies have to say about a move, with the devices of the roots.
pub(super) enum Wishes {
    /// Nothing: somebody says where it goes.
    None,
    /// No move may break a policy.
    Kept(HashMap<RootId, String>),
    /// Nor may this one, unless the root could not be emptied without it.
    Preferred(HashMap<RootId, String>),
}

impl Database {
    /// The moves that would even out the roots of a component, or of all.
    ///
    /// # Errors
    /// None today; the plan is empty if all is even.
    pub async fn plan_rebalance(&self, component: Option<StorageComponentType>) -> Result<Vec<PlannedMove>> {
        let usage = self.usage(Duration::ZERO).await;
        let wishes = Wishes::Kept(self.devices().await);
        let mut plan = Vec::new();
        for of in StorageComponentType::ALL
            .into_iter()
            .filter(|of| component.is_none_or(|wanted| wanted == *of))
        {
            let roots = self.roots.of_component(of);
            let taking_part: BTreeSet<RootId> = roots
                .iter()
                .filter(|root| root.accepts_placements())
                .map(|root| root.id())
                .collect();
            plan.extend(plan_rebalance(&taking_part, &self.units(of, None, &usage, &wishes)));
        }
        Ok(plan)
    }

    /// Carries out [`plan_rebalance`](Self::plan_rebalance): returns the plan when every move of it is durable.
    ///
    /// # Errors
    /// Errors of the metadata roots; the moves begun until then go on.
    pub async fn rebalance(self: &Arc<Self>, component: Option<StorageComponentType>) -> Result<Vec<PlannedMove>> {
        let plan = self.plan_rebalance(component).await?;
        for planned in &plan {
            if let Some(entry) = self.entry_of(planned.collection) {
                self.begin_move(&entry, planned.clone()).await?;
            }
        }
        Ok(plan)
    }

    /// Moves a component of a collection to another root, from its home or from `from`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown collection, [`Error::InvalidInput`] for a root that cannot take it.
    pub async fn move_component(
        self: &Arc<Self>,
        collection: &str,
        component: StorageComponentType,
        from: Option<RootId>,
        to: RootId,
    ) -> Result<PlannedMove> {
        let entry = self.entry(collection)?;
        let record = entry.record.read().clone();
        let home = record
            .placement
            .get(&component)
            .and_then(|placement| placement.roots.first().copied());
        let from = from
            .or(home)
            .ok_or_else(|| Error::InvalidInput(format!("{collection} has no {component} files")))?;
        let usage = self.usage(Duration::ZERO).await;
        let unit = self.unit(&entry, component, from, &usage, &Wishes::None);
        let unit =
            unit.ok_or_else(|| Error::InvalidInput(format!("from: {collection} has no {component} files there")))?;
        if !unit.targets.contains(&to) {
            let reason = format!(
                "to: root {to} cannot take the {component} files: it must be an online root of that component, without another copy of them"
            );
            return Err(Error::InvalidInput(reason));
        }
        let planned = PlannedMove {
            collection: unit.collection,
            component,
            from,
            to,
            bytes: unit.bytes,
            files: unit.files,
        };
        self.begin_move(&entry, planned.clone()).await?;
        Ok(planned)
    }

    /// Empties a root: it takes no new files, and everything on it moves to the other roots of its component.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown root, [`Error::InvalidInput`] if no other root could take its files.
    pub async fn drain_root(&self, id: RootId) -> Result<()> {
        let root = self.known_root(id)?;
        let component = root.component();
        let others = self.roots.of_component(component);
        let takes = others
            .iter()
            .any(|other| other.id() != id && other.accepts_placements());
        let stuck = self.units(component, Some(id), &self.known_usage(), &Wishes::None);
        if !takes || stuck.iter().any(|unit| unit.targets.is_empty()) {
            let url = root.url();
            return Err(Error::InvalidInput(format!(
                "root {url}: no other root of {component} can take what is there (each copy needs a root of its own); add one first"
            )));
        }
        self.roots.set_draining(id, true).await?;
        self.mover.look_at_drains();
        Ok(())
    }

    /// Ends a drain: the root takes files again. Moves that have begun are finished.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown root.
    pub async fn resume_root(&self, id: RootId) -> Result<()> {
        self.known_root(id)?;
        self.roots.set_draining(id, false).await
    }

    /// Takes a further root into service while the database runs; tags and weight are those that the configuration has for
    /// its URL. After a restart the configuration has to name it.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::InvalidInput`] for a URL that cannot be a root of `component`; errors of the roots.
    pub async fn add_root(self: &Arc<Self>, component: StorageComponentType, url: &str) -> Result<RootId> {
        let _one_change_at_a_time = self.change().await?;
        let root = self.roots.add(root_config(&self.config, component, url)?).await?;
        self.caches.attach(&root);
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        for entry in entries.iter().filter(|entry| entry.unavailable.is_none()) {
            if let Err(error) = self.stripe_over(entry, &root).await {
                tracing::warn!(root = root.url(), %error, "a striped collection does not use the new root yet");
            }
        }
        Ok(root.id())
    }

    /// Lets a collection whose files are shared out over the roots of a component use one more.
    async fn stripe_over(self: &Arc<Self>, entry: &Arc<Entry>, root: &Root) -> Result<()> {
        let (component, id) = (root.component(), root.id());
        let striped = |placement: &Placement| !placement.affinity && !placement.also.is_empty();
        if !entry.record.read().placement.get(&component).is_some_and(striped) {
            return Ok(());
        }
        let widen = move |record: &mut CollectionRecord| {
            if let Some(placement) = record.placement.get_mut(&component)
                && !placement.all_roots().contains(&id)
            {
                placement.also.push(id);
            }
            Ok(())
        };
        self.change_record(entry, widen).await?;
        if component == StorageComponentType::Wal {
            self.open_entry(entry).await?.shard().return_log().await?;
        }
        Ok(())
    }

    /// Takes an empty root out of service for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown root, [`Error::InvalidInput`] with the residents while anything lives on it.
    pub async fn remove_root(&self, id: RootId) -> Result<()> {
        let _one_change_at_a_time = self.change().await?;
        // No record may come to name it meanwhile.
        let _no_change_of_records = self.records.write().await;
        let root = self.known_root(id)?;
        let residents = self.residents(&root);
        if !residents.is_empty() {
            return Err(Error::InvalidInput(format!(
                "root {} still holds {} files of {} collections: {}; drain it first",
                root.url(),
                root.component(),
                residents.len(),
                shortened(&residents)
            )));
        }
        self.roots.remove(id).await
    }

    /// The name of a collection.
    pub fn collection_name(&self, id: CollectionId) -> Option<String> {
        self.entry_of(id)
            .map(|entry| entry.record.read().description.name.clone())
    }

    fn known_root(&self, id: RootId) -> Result<Arc<Root>> {
        self.roots
            .by_id(id)
            .map_err(|_| Error::NotFound(format!("Root {id} is not configured")))
    }

    /// Begins further moves off the roots that are drained, as many as may run at a time.
    pub(super) async fn go_on_draining(self: &Arc<Self>) {
        let mut draining = self.roots.all();
        draining.retain(|root| root.state() == RootState::Draining);
        if draining.is_empty() {
            return;
        }
        let wishes = Wishes::Preferred(self.devices().await);
        for root in draining {
            let usage = self.known_usage();
            let units = self.units(root.component(), Some(root.id()), &usage, &wishes);
            for planned in plan_drain(&self.loads(root.component()), &units) {
                if self.mover.room() == 0 {
                    return;
                }
                let Some(entry) = self.entry_of(planned.collection) else {
                    continue;
                };
                if let Err(error) = self.begin_move(&entry, planned).await {
                    tracing::warn!(root = root.url(), %error, "a move off a drained root was not begun; it is tried again");
                }
            }
        }
    }

    /// What still lives on a root, by collection; empty when it can be removed.
    pub fn residents(&self, root: &Root) -> Vec<String> {
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        let lives_there = |entry: &Arc<Entry>| {
            let record = entry.record.read();
            let placement = record.placement.get(&root.component())?;
            placement
                .all_roots()
                .contains(&root.id())
                .then(|| record.description.name.clone())
        };
        entries.iter().filter_map(lives_there).collect()
    }

    /// What could move, of one root or of all: everything that no move has yet.
    fn units(
        &self,
        component: StorageComponentType,
        on: Option<RootId>,
        usage: &Discovery,
        wishes: &Wishes,
    ) -> Vec<Unit> {
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        let mut units = Vec::new();
        for entry in entries.iter().filter(|entry| entry.unavailable.is_none()) {
            let placement = entry.record.read().placement.get(&component).cloned();
            for root in placement
                .iter()
                .filter(|placement| placement.moving.is_none())
                .flat_map(Placement::all_roots)
            {
                if on.is_none_or(|on| on == root) {
                    units.extend(self.unit(entry, component, root, usage, wishes));
                }
            }
        }
        units
    }

    fn unit(
        &self,
        entry: &Entry,
        component: StorageComponentType,
        root: RootId,
        usage: &Discovery,
        wishes: &Wishes,
    ) -> Option<Unit> {
        let record = entry.record.read().clone();
        let placement = record.placement.get(&component)?;
        if !placement.all_roots().contains(&root) {
            return None;
        }
        let collection = record.description.id;
        let Usage { bytes, files } = usage
            .files(root, collection)
            .map_or_else(Usage::default, |found| found.usage);
        Some(Unit {
            collection,
            component,
            root,
            bytes,
            files,
            targets: self.targets(component, &record.placement, root, wishes),
        })
    }

    /// Where files of a component on `from` may go: to roots that take new files, with a root of its own for every copy, and
    /// as the policies wish.
    pub(super) fn targets(
        &self,
        component: StorageComponentType,
        placements: &Placements,
        from: RootId,
        wishes: &Wishes,
    ) -> BTreeSet<RootId> {
        let Some(placement) = placements.get(&component) else {
            return BTreeSet::new();
        };
        let accepting = self.roots.of_component(component).into_iter();
        let accepting = accepting.filter(|root| root.accepts_placements() && placement.can_move(from, root.id()));
        let all: BTreeSet<RootId> = accepting.map(|root| root.id()).collect();
        let (Wishes::Kept(devices) | Wishes::Preferred(devices)) = wishes else {
            return all;
        };
        if !placement.bound().contains(&from) {
            return all;
        }
        let device = |root: &RootId| devices.get(root).cloned().unwrap_or_else(|| root.to_string());
        let others: Devices = placements
            .iter()
            .filter(|(other, _)| **other != component)
            .map(|(other, placement)| (*other, placement.bound().iter().map(device).collect()))
            .collect();
        let policies = self.assignments.policies();
        let permitted = all
            .iter()
            .filter(|root| policies.permit(component, &device(root), &others));
        let permitted: BTreeSet<RootId> = permitted.copied().collect();
        match wishes {
            Wishes::Preferred(_) if permitted.is_empty() => all,
            _ => permitted,
        }
    }

    /// What lies, and is about to lie, on the roots of a component that take new files.
    fn loads(&self, component: StorageComponentType) -> BTreeMap<RootId, u64> {
        let assigned = self.assignments.get_assignment_stats();
        let assigned = assigned
            .components
            .get(&component)
            .map(|stats| stats.roots.clone())
            .unwrap_or_default();
        let coming = self.mover.under_way_to();
        let load = |root: Arc<Root>| {
            let count = |counts: &BTreeMap<RootId, u64>| counts.get(&root.id()).copied().unwrap_or(0);
            let bytes = root.usage().bytes + (count(&assigned) + count(&coming)) * COLLECTION_BYTES;
            (root.id(), bytes)
        };
        let accepting = self
            .roots
            .of_component(component)
            .into_iter()
            .filter(|root| root.accepts_placements());
        accepting.map(load).collect()
    }
}

/// The first names of a list, for a message.
fn shortened(names: &[String]) -> String {
    let shown = &names[..names.len().min(NAMES_SHOWN)];
    let rest = if shown.len() < names.len() { ", …" } else { "" };
    format!("{}{rest}", shown.join(", "))
}

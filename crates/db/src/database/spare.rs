//! Where a log goes on when its root fails, and how it comes back.
//!
//! Invariant: the record names a root before the log writes there, and names it as long as it may hold a file.

use std::sync::Arc;

use super::Database;
use super::entry::Entry;
use crate::error::{Error, Result};
use crate::metadata::CollectionRecord;
use crate::placement::Placement;
use crate::root::{Root, RootId, StorageComponentType};
use crate::wal::Spare;

impl Database {
    /// Answers an open log whose root fails.
    pub(super) fn spare(self: &Arc<Self>, entry: &Arc<Entry>) -> Spare {
        let (database, entry) = (Arc::downgrade(self), Arc::downgrade(entry));
        Arc::new(move |failed, error| {
            let (database, entry) = (database.upgrade(), entry.upgrade());
            Box::pin(async move {
                match (database, entry) {
                    (Some(database), Some(entry)) => database.spare_root(&entry, failed, error).await,
                    _ => Err(error),
                }
            })
        })
    }

    /// The root with the fewest logs that takes new ones, named in the record. No policy is asked: a log on an unwanted
    /// device is better than none, and it comes back.
    async fn spare_root(&self, entry: &Entry, failed: RootId, error: Error) -> Result<Arc<Root>> {
        let assigned = self.assignments.get_assignment_stats();
        let logs = |root: &Root| {
            let of_component = assigned.components.get(&StorageComponentType::Wal);
            of_component
                .and_then(|stats| stats.roots.get(&root.id()).copied())
                .unwrap_or(0)
        };
        // What a move is emptying is deleted at its end.
        let leaving = log_placement(&mut entry.record.read().clone())?
            .moving
            .map(|moving| moving.from);
        let candidates = self
            .roots
            .of_component(StorageComponentType::Wal)
            .into_iter()
            .filter(|root| root.id() != failed && Some(root.id()) != leaving && root.accepts_placements());
        let Some(root) = candidates.min_by_key(|root| (logs(root), root.index())) else {
            return Err(error);
        };
        let id = root.id();
        entry.promised.lock().insert(id);
        let name = entry.record.read().description.name.clone();
        let name_it = |record: &mut CollectionRecord| {
            self.roots.by_id(id)?;
            let placement = log_placement(record)?;
            if placement.moving.is_some_and(|moving| moving.from == id) {
                return Err(error.clone());
            }
            if !placement.all_roots().contains(&id) {
                placement.also.push(id);
            }
            Ok(())
        };
        self.change_record(entry, name_it).await?;
        self.failovers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(collection = name, to = root.url(), %error, "the log goes on at another root");
        Ok(root)
    }

    /// Brings logs back to their homes once these are well, and forgets the roots that they have left.
    pub(super) async fn bring_logs_home(self: &Arc<Self>) {
        let entries: Vec<Arc<Entry>> = self.catalog.read().values().cloned().collect();
        for entry in entries {
            let placement = entry.record.read().placement.get(&StorageComponentType::Wal).cloned();
            let away = |of: &Placement| of.affinity && of.moving.is_none() && !of.also.is_empty();
            if let Some(placement) = placement.filter(away)
                && let Err(error) = self.bring_log_home(&entry, &placement).await
            {
                tracing::warn!(collection = %entry.directory(), %error, "a log stays where it is for now");
            }
        }
    }

    async fn bring_log_home(self: &Arc<Self>, entry: &Arc<Entry>, placement: &Placement) -> Result<()> {
        if let Some(collection) = entry.opened().await {
            // The log has arrived there: from now on its files tell.
            let written = collection.shard().log_lanes();
            entry.promised.lock().retain(|root| !written.contains(root));
        }
        let home = placement
            .roots
            .first()
            .map(|home| self.roots.by_id(*home))
            .transpose()?;
        if !home.is_some_and(|home| home.accepts_placements()) {
            return Ok(());
        }
        let collection = self.open_entry(entry).await?;
        collection.shard().take_over().await?;
        let away = |roots: &[RootId]| roots.iter().any(|root| !placement.roots.contains(root));
        if away(&collection.shard().log_roots()) {
            collection.shard().return_log().await?;
        }
        // Looked at while nobody else changes the record: a root is promised before it is named.
        let forget = |record: &mut CollectionRecord| {
            let in_use = collection.shard().log_roots();
            let promised = entry.promised.lock();
            log_placement(record)?
                .also
                .retain(|root| in_use.contains(root) || promised.contains(root));
            Ok(())
        };
        let mut after = entry.record.read().clone();
        forget(&mut after)?;
        if after.placement.get(&StorageComponentType::Wal) != Some(placement) {
            self.change_record(entry, forget).await?;
        }
        Ok(())
    }
}

fn log_placement(record: &mut CollectionRecord) -> Result<&mut Placement> {
    let missing = || Error::Corruption("the record names no root of the log".to_owned());
    record.placement.get_mut(&StorageComponentType::Wal).ok_or_else(missing)
}

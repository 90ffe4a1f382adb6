//! The set of all roots: finding them, and keeping the list of known ones up to date.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::open::{LOOK_DEADLINE, lock, within};
use super::registry::{self, Registry};
use super::{Root, RootId, RootState, StorageComponentType};
use crate::error::{Error, Result};

/// All roots of all components.
#[derive(Debug)]
pub struct Roots {
    pub(super) roots: RwLock<Vec<Arc<Root>>>,
    pub(super) registry: RwLock<Registry>,
    pub(super) exclusive: bool,
    /// The set of roots and the list of known ones change one at a time.
    pub(super) changing: Mutex<()>,
}

impl Roots {
    /// Every configured root, in the order of the configuration.
    pub fn all(&self) -> Vec<Arc<Root>> {
        self.roots.read().clone()
    }

    /// The roots of a component, in the order of the configuration.
    pub fn of_component(&self, component: StorageComponentType) -> Vec<Arc<Root>> {
        self.roots
            .read()
            .iter()
            .filter(|root| root.component() == component)
            .cloned()
            .collect()
    }

    /// The root with this identity, whatever its state.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] when it is not configured, with the URL where it was last seen.
    pub fn by_id(&self, id: RootId) -> Result<Arc<Root>> {
        if let Some(root) = self.roots.read().iter().find(|root| root.id() == id) {
            return Ok(Arc::clone(root));
        }
        Err(match self.registry.read().roots.get(&id) {
            Some(known) if known.removed => Error::RootUnavailable {
                url: known.url.clone(),
                reason: format!("it was removed from the roots of {}", known.component),
            },
            Some(known) => Error::RootUnavailable {
                url: known.url.clone(),
                reason: format!("it is not in the configuration of {} any more", known.component),
            },
            None => Error::RootUnavailable {
                url: id.to_string(),
                reason: "no root with this id is known".to_owned(),
            },
        })
    }

    /// Roots that the cluster knows and the configuration does not name: identity, component, and URL when last seen.
    pub fn not_configured(&self) -> Vec<(RootId, StorageComponentType, String)> {
        let configured: HashSet<RootId> = self.roots.read().iter().map(|root| root.id()).collect();
        let registry = self.registry.read();
        let others = registry
            .roots
            .iter()
            .filter(|(id, known)| !known.removed && !configured.contains(id));
        others
            .map(|(id, known)| (*id, known.component, known.url.clone()))
            .collect()
    }

    /// Whether the root was taken out of the set for good.
    pub fn was_removed(&self, id: RootId) -> bool {
        self.registry.read().roots.get(&id).is_some_and(|known| known.removed)
    }

    /// Identity of the cluster that the roots belong to.
    pub fn cluster_id(&self) -> Uuid {
        self.registry.read().cluster_id
    }

    /// Whether no other process can write to the local roots.
    pub fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// Locks a root if need be and lets it be used.
    pub(super) async fn take_up(&self, root: &Arc<Root>, state: RootState) -> Result<()> {
        let usable = !matches!(state, RootState::Offline { .. });
        let locked = root.lock.lock().is_some();
        let state = if self.exclusive && usable && !locked {
            lock(root, state).await?
        } else {
            state
        };
        *root.missing_identity.write() = false;
        root.set_state(state);
        Ok(())
    }

    /// Releases the locks of the local roots; nothing may be written afterwards.
    pub fn close(&self) {
        for root in self.roots.read().iter() {
            root.unlock();
        }
    }

    /// The roots that can be used now.
    pub(super) fn usable(&self) -> Vec<Arc<Root>> {
        let mut all = self.all();
        all.retain(|root| root.available().is_ok());
        all
    }

    /// Brings the list of known roots up to date on every usable root, when it changed or `force`d.
    pub(super) async fn record(&self, force: bool) -> Result<()> {
        let _one_change_at_a_time = self.changing.lock().await;
        let usable = self.usable();
        let before = self.registry.read().clone();
        let mut next = before.clone();
        usable.iter().for_each(|root| next.see(root));
        let changed = next.roots != before.roots;
        if !(changed || force) || usable.is_empty() {
            return Ok(());
        }
        match self.publish(next, &usable).await {
            // The roots are as known as they were.
            Err(_) if !changed => Ok(()),
            outcome => outcome,
        }
    }

    /// Stores the next version of the list of known roots on `holders`; one that takes it is enough.
    pub(super) async fn publish(&self, mut next: Registry, holders: &[Arc<Root>]) -> Result<()> {
        next.version += 1;
        let writes = holders
            .iter()
            .map(|root| within(LOOK_DEADLINE, registry::store(root.fs(), &next)));
        let outcomes = join_all(writes).await.into_iter();
        let failures: Vec<String> = outcomes.filter_map(|outcome| outcome.and_then(|o| o).err()).collect();
        for reason in &failures {
            // A full or read-only root: the others know.
            tracing::warn!(reason, "the list of roots was not written to one of them");
        }
        if failures.len() == holders.len() {
            let reason = failures
                .into_iter()
                .next()
                .unwrap_or_else(|| "no root can be used".to_owned());
            return Err(Error::Config(format!(
                "the list of roots could not be written anywhere: {reason}"
            )));
        }
        *self.registry.write() = next;
        Ok(())
    }
}

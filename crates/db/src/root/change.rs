//! Changes of the set of roots while the database runs: adding, draining, removing. Each is durable when it returns.

use std::sync::Arc;

use proximadb_store::{FilesystemFactory, LOCK_PATH};

use super::open::{Candidate, look, open_one, refuse_overlaps, stranger, two_places};
use super::registry;
use super::{RESERVED_DIRECTORY, Root, RootConfig, RootId, RootState, Roots};
use super::{capabilities, identity};
use crate::error::{Error, Result};

impl Roots {
    /// Takes up one more root: initialises it, or takes back one that the cluster knows and that was not configured. It is
    /// locked and in the list of known roots when this returns. The caller puts it into the configuration, which names
    /// the roots of the next start.
    ///
    /// # Errors
    /// [`Error::Config`] for what a start refuses too: duplicate, nested, foreign or misplaced roots, data without
    /// identity, a lock held by another process. [`Error::RootUnavailable`] when it cannot be used now.
    pub async fn add(&self, config: RootConfig) -> Result<Arc<Root>> {
        let _one_change_at_a_time = self.changing.lock().await;
        let fs = FilesystemFactory::get_filesystem(&config.url, &config.options)
            .map_err(|error| Error::Config(error.to_string()))?;
        let present = self.all();
        let same_component = present.iter().filter(|root| root.component() == config.component);
        let index = same_component.map(|root| root.index() + 1).max().unwrap_or(0);
        let mut candidates: Vec<Candidate> = present.iter().map(|root| Candidate::of(root)).collect();
        candidates.push(Candidate { config, index, fs });
        refuse_overlaps(&candidates).await?;
        let Some(candidate) = candidates.pop() else {
            return Err(Error::Internal("the root to add is lost".to_owned()));
        };
        let sight = look(&candidate).await;
        if let Some(identity) = sight.identity() {
            let (url, component) = (candidate.config.url.as_str(), candidate.config.component);
            if identity.cluster_id != self.cluster_id() || identity.component != component {
                return Err(stranger(url, identity, self.cluster_id(), component));
            }
            if let Some(twin) = present.iter().find(|root| root.id() == identity.root_id) {
                return Err(two_places(twin.url(), url));
            }
        }
        let mut next = self.registry.read().clone();
        if let Some(copy) = sight.registry {
            next = next.merge(copy);
        }
        let known = next.at(candidate.config.component, &candidate.config.url);
        let root = open_one(candidate, sight.found, known, self.cluster_id(), self.exclusive).await?;
        root.available()?;
        if next.is_draining(root.id()) {
            root.set_state(RootState::Draining);
        }
        next.see(&root);
        let mut holders = self.usable();
        holders.push(root.clone());
        self.publish(next, &holders).await?;
        self.roots.write().push(root.clone());
        tracing::info!(root = root.url(), component = %root.component(), id = %root.id(), "root added");
        Ok(root)
    }

    /// Begins or ends the drain of a root; it outlasts restarts. A draining root is read and written, and gets no new
    /// collections.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] for a root that is not configured; [`Error::Config`] when no root took the change.
    pub async fn set_draining(&self, id: RootId, draining: bool) -> Result<()> {
        let _one_change_at_a_time = self.changing.lock().await;
        let root = self.by_id(id)?;
        let mut next = self.registry.read().clone();
        next.see(&root);
        if let Some(known) = next.roots.get_mut(&id) {
            known.draining = draining;
        }
        self.publish(next, &self.usable()).await?;
        root.change(|condition| condition.set_draining(draining));
        Ok(())
    }

    /// Takes a root out of the set, so that its place can be used anew. The caller has made sure that nothing of any
    /// collection is there, and takes it out of the configuration. A root that cannot be reached is removed too; what it
    /// holds of ours is left there, and it is taken for what it was if it is added again.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] for a root that is not configured; [`Error::InvalidInput`] for the last one of its
    /// component; [`Error::Config`] when no root took the change. The root stays then.
    pub async fn remove(&self, id: RootId) -> Result<()> {
        let _one_change_at_a_time = self.changing.lock().await;
        let root = self.by_id(id)?;
        if self.of_component(root.component()).len() == 1 {
            let reason = format!("{} is the last root of {}", root.url(), root.component());
            return Err(Error::InvalidInput(reason));
        }
        let mut next = self.registry.read().clone();
        next.see(&root);
        if let Some(known) = next.roots.get_mut(&id) {
            (known.removed, known.draining) = (true, false);
        }
        let others: Vec<Arc<Root>> = self.usable().into_iter().filter(|other| other.id() != id).collect();
        self.publish(next, &others).await?;
        self.roots.write().retain(|other| other.id() != id);
        if let Err(error) = vacate(&root).await {
            tracing::warn!(root = root.url(), %error, "a removed root keeps its identity");
        }
        root.unlock();
        root.set_state(RootState::Offline {
            reason: "it was removed".to_owned(),
        });
        tracing::info!(root = root.url(), component = %root.component(), %id, "root removed");
        Ok(())
    }
}

/// Deletes what is about the root itself; the identity last, so that a crash before leaves a root and not a riddle.
async fn vacate(root: &Root) -> Result<()> {
    root.delete_dir(registry::DIRECTORY).await?;
    root.delete(&format!("{RESERVED_DIRECTORY}/{}", identity::PROBE))
        .await?;
    root.delete(capabilities::PATH).await?;
    root.delete(LOCK_PATH).await?;
    root.delete(identity::PATH).await
}

impl Candidate {
    fn of(root: &Root) -> Self {
        Self {
            config: root.config.clone(),
            index: root.index,
            fs: root.fs.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

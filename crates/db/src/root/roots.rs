//! The set of all roots: finding them, taking back those that return, and keeping the list of known ones up to date.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use parking_lot::RwLock;
use uuid::Uuid;

use super::identity::{self, Found, Identity};
use super::open::{LOOK_DEADLINE, MISSING_IDENTITY, initialise, lock, offline, stranger, sync, two_places, within};
use super::registry::{self, KnownRoot, Registry};
use super::{Root, RootId, RootState, StorageComponentType};
use crate::error::{Error, Result};

/// All roots of all components.
#[derive(Debug)]
pub struct Roots {
    pub(super) roots: RwLock<Vec<Arc<Root>>>,
    pub(super) registry: RwLock<Registry>,
    pub(super) exclusive: bool,
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
        let others = registry.roots.iter().filter(|(id, _)| !configured.contains(id));
        others
            .map(|(id, known)| (*id, known.component, known.url.clone()))
            .collect()
    }

    /// Identity of the cluster that the roots belong to.
    pub fn cluster_id(&self) -> Uuid {
        self.registry.read().cluster_id
    }

    /// Whether no other process can write to the local roots.
    pub fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// Initialises again the known roots whose identity is missing and that no collection names (B7): their directory was
    /// deleted. Those in `used` stay offline. Call it when all collections are known, and no root that could name one is
    /// offline. Returns the roots that came back.
    ///
    /// # Errors
    /// [`Error::Config`] when another process initialised the root at the same time.
    pub async fn initialise_missing(&self, used: &HashSet<RootId>) -> Result<Vec<Arc<Root>>> {
        let missing = |root: &Arc<Root>| *root.missing_identity.read() && !used.contains(&root.id());
        let missing: Vec<Arc<Root>> = self.all().into_iter().filter(missing).collect();
        let mut back = Vec::new();
        for root in missing {
            // It may have been mounted since it was looked at.
            if !matches!(within(LOOK_DEADLINE, identity::look(root.fs())).await, Ok(Found::Blank)) {
                continue;
            }
            let state = initialise(root.fs(), root.id(), self.cluster_id(), root.component()).await?;
            *root.placement_key.write() = Some(identity::first_placement_key(&root.config.url));
            self.take_up(&root, state).await?;
            back.push(root);
        }
        self.record(!back.is_empty()).await?;
        Ok(back)
    }

    /// Looks again at every root that is not online, and takes back those that are what they were. Returns them.
    ///
    /// # Errors
    /// [`Error::Config`] when another process has locked a root in the meantime, or its identity is another's.
    pub async fn probe(&self) -> Result<Vec<Arc<Root>>> {
        let doubtful = |root: &Arc<Root>| !matches!(root.state(), RootState::Online | RootState::Draining);
        let doubtful: Vec<Arc<Root>> = self.all().into_iter().filter(doubtful).collect();
        let looks = doubtful
            .iter()
            .map(|root| within(LOOK_DEADLINE, identity::look(root.fs())));
        let mut back = Vec::new();
        for (root, look) in doubtful.iter().zip(join_all(looks).await) {
            let found = look.unwrap_or_else(Found::Unseen);
            if let Some(root) = self.probe_one(root, found).await? {
                back.push(root);
            }
        }
        self.record(!back.is_empty()).await?;
        Ok(back)
    }

    async fn probe_one(&self, root: &Arc<Root>, found: Found) -> Result<Option<Arc<Root>>> {
        let was_offline = matches!(root.state(), RootState::Offline { .. });
        match found {
            Found::Known(identity) => {
                let root = self.identified(root, &identity)?;
                *root.placement_key.write() = Some(identity.placement_key());
                if was_offline {
                    let state = if self.exclusive {
                        sync(root.fs()).await
                    } else {
                        RootState::Online
                    };
                    self.take_up(&root, state).await?;
                }
                let writable = within(LOOK_DEADLINE, identity::write_probe(root.fs())).await;
                match writable {
                    _ if matches!(root.state(), RootState::Offline { .. }) => return Ok(None),
                    Ok(Ok(())) => root.set_state(RootState::Online),
                    Ok(Err(error)) => root.note(&error),
                    Err(_) => root.set_state(RootState::Suspect),
                }
                Ok(was_offline.then_some(root))
            }
            Found::Blank | Found::DataWithoutIdentity(_) => {
                root.set_state(offline(MISSING_IDENTITY));
                Ok(None)
            }
            Found::Unseen(reason) => {
                root.set_state(RootState::Offline { reason });
                Ok(None)
            }
        }
    }

    /// The root of an identity that was read at the place of `root`. A root that was never seen since the start has a
    /// stand-in id, and is replaced by one with its own.
    fn identified(&self, root: &Arc<Root>, identity: &Identity) -> Result<Arc<Root>> {
        if identity.cluster_id != self.cluster_id() || identity.component != root.component() {
            return Err(stranger(root.url(), identity, self.cluster_id(), root.component()));
        }
        if identity.root_id == root.id() {
            return Ok(Arc::clone(root));
        }
        let mut roots = self.roots.write();
        if let Some(twin) = roots.iter().find(|twin| twin.id() == identity.root_id) {
            return Err(two_places(twin.url(), root.url()));
        }
        if self.registry.read().roots.contains_key(&root.id()) {
            return Err(Error::Config(format!(
                "root {}: expected root id {}, found {}: another disk is mounted there",
                root.url(),
                root.id(),
                identity.root_id
            )));
        }
        let state = offline("not taken up yet");
        let replacement = Arc::new(Root::new(
            identity.root_id,
            root.config.clone(),
            root.index,
            root.fs.clone(),
            state,
        ));
        for slot in roots.iter_mut().filter(|slot| slot.id() == root.id()) {
            *slot = Arc::clone(&replacement);
        }
        Ok(replacement)
    }

    /// Locks a root if need be and lets it be used.
    async fn take_up(&self, root: &Arc<Root>, state: RootState) -> Result<()> {
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
            root.lock.lock().take();
        }
    }

    /// Brings the list of known roots up to date on every usable root, when it changed or `force`d.
    pub(super) async fn record(&self, force: bool) -> Result<()> {
        let usable = |root: &Arc<Root>| !matches!(root.state(), RootState::Offline { .. });
        let usable: Vec<Arc<Root>> = self.all().into_iter().filter(usable).collect();
        let before = self.registry.read().clone();
        let mut next = before.clone();
        for root in &usable {
            let entry = next.roots.entry(root.id()).or_insert_with(|| KnownRoot {
                component: root.component(),
                url: String::new(),
                added_at_ms: identity::now_ms(),
            });
            entry.url = root.url().to_owned();
        }
        let changed = next.roots != before.roots;
        if !(changed || force) || usable.is_empty() {
            return Ok(());
        }
        next.version += 1;
        let writes = usable
            .iter()
            .map(|root| within(LOOK_DEADLINE, registry::store(root.fs(), &next)));
        let outcomes = join_all(writes).await;
        let failures: Vec<String> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.and_then(|o| o).err())
            .collect();
        for reason in &failures {
            // A full or read-only root: the others know.
            tracing::warn!(reason, "the list of roots was not written to one of them");
        }
        if let (true, Some(reason)) = (changed && failures.len() == usable.len(), failures.into_iter().next()) {
            return Err(Error::Config(format!(
                "the list of roots could not be written anywhere: {reason}"
            )));
        }
        *self.registry.write() = next;
        Ok(())
    }
}

//! Opens the roots for a look: nothing below them is created, synced or recorded, and every local one is locked.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::capabilities;
use super::identity::{self, Found, Identity};
use super::open::{Candidate, MISSING_IDENTITY, Survey, lock, offline, survey};
use super::registry::{self, Registry};
use super::{Root, RootConfig, RootId, RootState, Roots};
use crate::error::Result;
use crate::sealed::unseal;

impl Roots {
    /// Opens the roots without changing what lies on them (the lock file aside). Those that were never used hold nothing
    /// and are left out; those that should be there and are not are offline.
    ///
    /// # Errors
    /// As [`Roots::open`]: what a server refuses to start with, a lock held by another process among it.
    pub async fn inspect(configs: Vec<RootConfig>) -> Result<Self> {
        let Survey {
            candidates,
            sights,
            registry,
        } = survey(configs).await?;
        let present: HashSet<RootId> = sights.iter().filter_map(|sight| sight.root_id()).collect();
        let mut roots = Vec::with_capacity(candidates.len());
        for (candidate, sight) in candidates.into_iter().zip(sights) {
            let known = registry
                .at(candidate.config.component, &candidate.config.url)
                .filter(|id| !present.contains(id));
            roots.extend(inspect_one(candidate, sight.found, known).await?);
        }
        Ok(Self {
            roots: RwLock::new(roots),
            registry: RwLock::new(registry),
            exclusive: true,
            changing: Mutex::default(),
        })
    }
}

/// `None` for a root that was never used.
async fn inspect_one(candidate: Candidate, found: Found, known: Option<RootId>) -> Result<Option<Arc<Root>>> {
    // Nothing names the stand-in of a root whose identity was not seen.
    let id = known.unwrap_or_else(|| RootId(Uuid::new_v4()));
    let (id, state) = match found {
        Found::Known(identity) => (identity.root_id, RootState::Online),
        Found::Blank if known.is_none() => return Ok(None),
        Found::Blank => (id, offline(MISSING_IDENTITY)),
        Found::DataWithoutIdentity(collection) => {
            let reason = format!("it holds data (collection {collection}) but no _proximadb/root.json");
            (id, RootState::Offline { reason })
        }
        Found::Unseen(reason) => (id, RootState::Offline { reason }),
    };
    let Candidate { config, index, fs } = candidate;
    let root = Arc::new(Root::new(id, config, index, fs, state.clone()));
    if state == RootState::Online {
        let state = lock(&root, state).await?;
        root.set_state(state);
    }
    Ok(Some(root))
}

/// Whether a file of the reserved directory is what its name says; `None` for files that are not the root's own.
pub(crate) fn check_reserved(path: &str, bytes: &[u8]) -> Option<Result<(), String>> {
    if path == identity::PATH {
        return Some(Identity::decode(bytes).map(|_| ()));
    }
    if path == capabilities::PATH {
        return Some(capabilities::check(bytes));
    }
    let is_registry = path
        .rsplit_once('/')
        .is_some_and(|(directory, _)| directory == registry::DIRECTORY);
    is_registry.then(|| unseal::<Registry>(bytes).map(|_| ()))
}

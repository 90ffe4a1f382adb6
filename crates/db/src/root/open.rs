//! Opens all roots: looks at each, refuses what cannot be right, initialises what is new, and leaves alone what is missing.
//!
//! | Seen at a configured URL | Cluster knows this URL | Outcome |
//! | --- | --- | --- |
//! | identity of this cluster and component | any | online (a new URL is recorded: the root was moved) |
//! | other cluster or component, or one identity at two URLs | any | refused |
//! | nothing, or files that are not ours | no | initialised |
//! | nothing | yes | offline until a collection is known not to need it (an unmounted disk looks like this) |
//! | collections without identity | no / yes | refused / offline |
//! | cannot be looked at | any | offline, probed |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::RwLock;
use proximadb_store::{Filesystem, FilesystemFactory, LockError, Overlap, RootLock, url};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::capabilities;
use super::identity::{self, Found, Identity};
use super::registry::{self, Registry};
use super::{Root, RootConfig, RootId, RootState, Roots, StorageComponentType};
use crate::error::{Error, Result};

/// A root that does not answer a look within this time is offline; others do not wait longer for it.
pub(super) const LOOK_DEADLINE: Duration = Duration::from_secs(10);
/// Writing out what a killed process left in the cache of the operating system takes longer on slow disks.
const SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// Reason of a known root without identity.
pub(super) const MISSING_IDENTITY: &str = "identity file missing: is the disk mounted?";

/// A configured root before anything is decided about it.
pub(super) struct Candidate {
    pub(super) config: RootConfig,
    pub(super) index: usize,
    pub(super) fs: Filesystem,
}

/// What a look at a candidate found.
pub(super) struct Sight {
    pub(super) found: Found,
    pub(super) registry: Option<Registry>,
}

/// What a look at all configured roots found, none of it wrong.
pub(super) struct Survey {
    pub(super) candidates: Vec<Candidate>,
    pub(super) sights: Vec<Sight>,
    /// The list of known roots, merged from all that have one; empty on the first start.
    pub(super) registry: Registry,
}

impl Roots {
    /// Opens the roots. With `exclusive` (a server, a command that writes) every local root is locked against other
    /// processes, and what a killed process left unsynced is made durable first.
    ///
    /// # Errors
    /// [`Error::Config`] for duplicate, nested, foreign or misplaced roots, data without identity, a lock held by another
    /// process; [`Error::RootUnavailable`] when the very first start does not reach every root.
    pub async fn open(configs: Vec<RootConfig>, exclusive: bool) -> Result<Self> {
        let Survey {
            candidates,
            sights,
            registry: before,
        } = survey(configs).await?;
        let cluster_id = before.cluster_id;
        let versions: BTreeSet<u64> = sights
            .iter()
            .filter(|sight| matches!(sight.found, Found::Known(_)))
            .map(Sight::registry_version)
            .collect();
        let present: HashSet<RootId> = sights.iter().filter_map(Sight::root_id).collect();
        let opened = candidates.into_iter().zip(sights).map(|(candidate, sight)| {
            let known = before
                .at(candidate.config.component, &candidate.config.url)
                .filter(|id| !present.contains(id));
            open_one(candidate, sight.found, known, cluster_id, exclusive)
        });
        let opened: Vec<Arc<Root>> = join_all(opened).await.into_iter().collect::<Result<_>>()?;

        let roots = Self {
            roots: RwLock::new(opened),
            registry: RwLock::new(before.clone()),
            exclusive,
            changing: Mutex::default(),
        };
        for root in roots.all().iter().filter(|root| before.is_draining(root.id())) {
            root.set_state(RootState::Draining);
        }
        let up_to_date = versions.len() == 1 && versions.contains(&before.version);
        roots.record(!up_to_date).await?;
        Ok(roots)
    }
}

/// Looks at every configured root and refuses what cannot be right; changes nothing.
pub(super) async fn survey(configs: Vec<RootConfig>) -> Result<Survey> {
    let candidates = prepare(configs)?;
    refuse_overlaps(&candidates).await?;
    let sights = join_all(candidates.iter().map(look)).await;
    let loaded = sights
        .iter()
        .filter_map(|sight| sight.registry.clone())
        .reduce(Registry::merge);
    let first_start = loaded.is_none() && !sights.iter().any(|sight| matches!(sight.found, Found::Known(_)));
    refuse_partial_first_start(first_start, &candidates, &sights)?;
    let cluster_id = cluster_of(&candidates, &sights)?;
    refuse_misplaced(&candidates, &sights)?;
    Ok(Survey {
        candidates,
        sights,
        registry: loaded.unwrap_or_else(|| Registry::new(cluster_id)),
    })
}

impl Sight {
    pub(super) fn identity(&self) -> Option<&Identity> {
        match &self.found {
            Found::Known(identity) => Some(identity),
            _ => None,
        }
    }

    pub(super) fn root_id(&self) -> Option<RootId> {
        self.identity().map(|identity| identity.root_id)
    }

    fn registry_version(&self) -> u64 {
        self.registry.as_ref().map_or(0, |registry| registry.version)
    }
}

fn prepare(configs: Vec<RootConfig>) -> Result<Vec<Candidate>> {
    let mut positions: BTreeMap<StorageComponentType, usize> = BTreeMap::new();
    let mut candidates = Vec::with_capacity(configs.len());
    for config in configs {
        let fs = FilesystemFactory::get_filesystem(&config.url, &config.options)
            .map_err(|error| Error::Config(error.to_string()))?;
        let position = positions.entry(config.component).or_default();
        candidates.push(Candidate {
            index: *position,
            fs,
            config,
        });
        *position += 1;
    }
    Ok(candidates)
}

pub(super) async fn refuse_overlaps(candidates: &[Candidate]) -> Result<()> {
    // Resolving links reads the disk: on the root's own threads, and a hanging one is compared as written.
    let keys = candidates.iter().map(|candidate| async {
        let url = candidate.config.url.clone();
        let key = within(LOOK_DEADLINE, candidate.fs.blocking(move || url.canonical())).await;
        key.ok()
            .and_then(std::result::Result::ok)
            .unwrap_or_else(|| candidate.config.url.lexical())
    });
    let keys = join_all(keys).await;
    for (position, (candidate, key)) in candidates.iter().zip(&keys).enumerate() {
        for (other, other_key) in candidates.iter().zip(&keys).take(position) {
            let (a, b) = (&other.config.url, &candidate.config.url);
            match url::compare(key, other_key) {
                Overlap::Apart => {}
                Overlap::Same => {
                    let (first, second) = (other.config.component, candidate.config.component);
                    return Err(Error::Config(format!(
                        "duplicate root: {first} {a} and {second} {b} are the same place"
                    )));
                }
                Overlap::Nested => {
                    return Err(Error::Config(format!(
                        "nested roots: one of {a} and {b} contains the other"
                    )));
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn look(candidate: &Candidate) -> Sight {
    let look = async {
        // A disk tells first which one it is; of a bucket both are one round of requests.
        let (found, registry) = if candidate.fs.is_local() {
            let found = identity::look(&candidate.fs).await;
            if !matches!(found, Found::Known(_)) {
                return Sight { found, registry: None };
            }
            (found, registry::load(&candidate.fs).await)
        } else {
            tokio::join!(identity::look(&candidate.fs), registry::load(&candidate.fs))
        };
        match (found, registry) {
            (Found::Known(_), Err(reason)) => Sight {
                found: Found::Unseen(reason),
                registry: None,
            },
            (found @ Found::Known(_), Ok(registry)) => Sight { found, registry },
            (found, _) => Sight { found, registry: None },
        }
    };
    within(LOOK_DEADLINE, look).await.unwrap_or_else(|reason| Sight {
        found: Found::Unseen(reason),
        registry: None,
    })
}

/// While nothing is known about a cluster, an unreachable root could be the one that knows that the others are only
/// unmounted.
fn refuse_partial_first_start(first_start: bool, candidates: &[Candidate], sights: &[Sight]) -> Result<()> {
    let unseen = candidates
        .iter()
        .zip(sights)
        .find_map(|(candidate, sight)| match &sight.found {
            Found::Unseen(reason) => Some((candidate, reason)),
            _ => None,
        });
    match unseen {
        Some((candidate, reason)) if first_start => Err(Error::RootUnavailable {
            url: candidate.config.url.as_str().to_owned(),
            reason: format!("{reason} (no root has an identity yet: the first start needs every root)"),
        }),
        _ => Ok(()),
    }
}

/// The cluster that the roots belong to; a new one on the first start.
/// The cluster that most roots belong to; one of another is foreign, and named.
fn cluster_of(candidates: &[Candidate], sights: &[Sight]) -> Result<Uuid> {
    let mut members: BTreeMap<Uuid, usize> = BTreeMap::new();
    for sight in sights {
        if let Found::Known(identity) = &sight.found {
            *members.entry(identity.cluster_id).or_default() += 1;
        }
    }
    let cluster = members
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map_or_else(Uuid::new_v4, |(cluster, _)| cluster);
    for (candidate, sight) in candidates.iter().zip(sights) {
        if let Found::Known(identity) = &sight.found
            && identity.cluster_id != cluster
        {
            let config = &candidate.config;
            return Err(stranger(config.url.as_str(), identity, cluster, config.component));
        }
    }
    Ok(cluster)
}

fn refuse_misplaced(candidates: &[Candidate], sights: &[Sight]) -> Result<()> {
    let mut places: HashMap<RootId, &str> = HashMap::new();
    for (candidate, sight) in candidates.iter().zip(sights) {
        if let Found::Known(identity) = &sight.found {
            let url = candidate.config.url.as_str();
            if identity.component != candidate.config.component {
                return Err(stranger(url, identity, identity.cluster_id, candidate.config.component));
            }
            if let Some(other) = places.insert(identity.root_id, url) {
                return Err(two_places(other, url));
            }
        }
    }
    Ok(())
}

pub(super) fn stranger(url: &str, identity: &Identity, cluster: Uuid, component: StorageComponentType) -> Error {
    if identity.cluster_id != cluster {
        let other = identity.cluster_id;
        return Error::Config(format!(
            "root {url} belongs to another cluster ({other}, not {cluster}): it is not touched"
        ));
    }
    Error::Config(format!(
        "root {url} is configured for {component}, but holds {}",
        identity.component
    ))
}

pub(super) fn two_places(a: &str, b: &str) -> Error {
    Error::Config(format!(
        "{a} and {b} are the same root (same root id): a disk or bucket was copied or mounted twice"
    ))
}

pub(super) async fn open_one(
    candidate: Candidate,
    found: Found,
    known: Option<RootId>,
    cluster_id: Uuid,
    exclusive: bool,
) -> Result<Arc<Root>> {
    let Candidate { config, index, fs } = candidate;
    let missing_identity = known.is_some() && matches!(found, Found::Blank);
    let seen_before = matches!(found, Found::Known(_));
    let placement_key = match &found {
        Found::Known(identity) => Some(identity.placement_key()),
        Found::Blank if known.is_none() => Some(identity::first_placement_key(&config.url)),
        _ => None,
    };
    let (id, state) = match (found, known) {
        (Found::Known(identity), _) => (identity.root_id, RootState::Online),
        (Found::Blank, None) => {
            let id = RootId(Uuid::new_v4());
            (id, initialise(&fs, id, cluster_id, config.component).await?)
        }
        (Found::DataWithoutIdentity(collection), None) => {
            return Err(Error::Config(format!(
                "root {} holds data (collection {collection}) but no _proximadb/root.json, and this cluster does not know it",
                config.url
            )));
        }
        (Found::Blank | Found::DataWithoutIdentity(_), Some(id)) => (id, offline(MISSING_IDENTITY)),
        // The stand-in id is never recorded; a probe that sees the root replaces it.
        (Found::Unseen(reason), known) => (known.unwrap_or(RootId(Uuid::new_v4())), RootState::Offline { reason }),
    };
    let root = Arc::new(Root::new(id, config, index, fs, state.clone()));
    *root.missing_identity.write() = missing_identity;
    *root.placement_key.write() = placement_key;
    if let RootState::Offline { reason } = &state {
        tracing::warn!(root = root.url(), component = %root.component(), reason, "root is offline");
    } else if exclusive {
        // Locked before anything is believed or written; synced, since what is visible may not be durable yet.
        let mut state = lock(&root, state).await?;
        if seen_before && state == RootState::Online {
            state = sync(root.fs()).await;
        }
        root.set_state(state);
    }
    Ok(root)
}

/// Writes the identity of a root at a place that was seen to have none.
pub(super) async fn initialise(
    fs: &Filesystem,
    id: RootId,
    cluster: Uuid,
    component: StorageComponentType,
) -> Result<RootState> {
    let wanted = Identity::new(id, cluster, component, fs.url());
    let refused = |reason: String| Error::Config(format!("root {} cannot be initialised: {reason}", fs.url()));
    capabilities::require(fs).await.map_err(refused)?;
    match within(LOOK_DEADLINE, identity::initialise(fs, wanted)).await {
        Ok(Ok(identity)) if identity.root_id == id => Ok(RootState::Online),
        Ok(Ok(_)) => Err(Error::Config(format!(
            "root {} was initialised by another process just now",
            fs.url()
        ))),
        Ok(Err(reason)) | Err(reason) => Err(refused(reason)),
    }
}

/// Takes the lock of a local root; returns the state that follows.
pub(super) async fn lock(root: &Arc<Root>, state: RootState) -> Result<RootState> {
    let Some(base) = root.fs().url().local_path().map(std::path::Path::to_owned) else {
        return Ok(state);
    };
    let locked = within(LOOK_DEADLINE, root.fs().blocking(move || RootLock::acquire(&base))).await;
    match locked.map(|outcome| outcome.map_err(|error| error.to_string())) {
        Ok(Ok(Ok(lock))) => {
            *root.lock.lock() = Some(lock);
            Ok(state)
        }
        Ok(Ok(Err(error @ LockError::Taken(_)))) => Err(Error::Config(format!("root {}: {error}", root.url()))),
        Ok(Ok(Err(LockError::Io(error)))) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            Ok(RootState::ReadOnly)
        }
        Ok(Ok(Err(error))) => Ok(offline(&error.to_string())),
        Ok(Err(reason)) | Err(reason) => Ok(RootState::Offline { reason }),
    }
}

pub(super) async fn sync(fs: &Filesystem) -> RootState {
    match within(SYNC_DEADLINE, fs.sync_all()).await {
        Ok(Ok(())) => RootState::Online,
        Ok(Err(error)) => offline(&error.detail().reason),
        Err(reason) => RootState::Offline { reason },
    }
}

pub(super) fn offline(reason: &str) -> RootState {
    RootState::Offline {
        reason: reason.to_owned(),
    }
}

pub(super) async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let outcome = tokio::time::timeout(deadline, work).await;
    outcome.map_err(|_| format!("no answer within {} s", deadline.as_secs()))
}

#[cfg(test)]
pub(super) mod tests;

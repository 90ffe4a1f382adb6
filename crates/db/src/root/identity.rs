//! `_proximadb/root.json`: who a root is, written once.

use bytes::Bytes;
use proximadb_store::{Created, Filesystem, StorageUrl, StoreError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{RESERVED_DIRECTORY, RootId, StorageComponentType};
use crate::schema::CollectionId;

/// Where the identity is, below the root.
pub(super) const PATH: &str = "_proximadb/root.json";
/// File that probes write, in the same directory.
pub(super) const PROBE: &str = "probe";
/// The only version of the file so far.
const FORMAT_VERSION: u32 = 1;

/// What the identity file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    format_version: u32,
    pub(super) root_id: RootId,
    pub(super) cluster_id: Uuid,
    pub(super) component: StorageComponentType,
    pub(super) created_at_ms: u64,
    /// What the Hash strategy knows the root by; absent in files of earlier releases, which mean the root id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement_key: Option<String>,
}

/// What a look at a root found.
#[derive(Debug)]
pub(super) enum Found {
    /// A root with this identity.
    Known(Identity),
    /// No identity, and no data either: a missing directory, an empty one, or one with files that are not ours.
    Blank,
    /// No identity, and directories that look like collections (the name of one).
    DataWithoutIdentity(String),
    /// The place could not be looked at, or its identity file is damaged.
    Unseen(String),
}

impl Identity {
    pub(super) fn new(root_id: RootId, cluster_id: Uuid, component: StorageComponentType, url: &StorageUrl) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            root_id,
            cluster_id,
            component,
            created_at_ms: now_ms(),
            placement_key: Some(first_placement_key(url)),
        }
    }

    pub(super) fn placement_key(&self) -> String {
        self.placement_key.clone().unwrap_or_else(|| self.root_id.to_string())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let identity: Self = serde_json::from_slice(bytes).map_err(|error| format!("{PATH} is damaged: {error}"))?;
        if identity.format_version != FORMAT_VERSION {
            return Err(format!(
                "{PATH} has format {}, this program reads {FORMAT_VERSION}",
                identity.format_version
            ));
        }
        Ok(identity)
    }

    fn encode(&self) -> Result<Bytes, String> {
        serde_json::to_vec_pretty(self)
            .map(Bytes::from)
            .map_err(|error| error.to_string())
    }
}

/// The placement key of a root that is initialised now: its URL in one spelling, so that servers of one configuration agree.
pub(super) fn first_placement_key(url: &StorageUrl) -> String {
    url.lexical().trim_end_matches('/').to_owned()
}

/// Looks at a root without changing it.
pub(super) async fn look(fs: &Filesystem) -> Found {
    let device = fs.device().await.ok().flatten();
    match fs.read(PATH).await {
        Ok(bytes) => match Identity::decode(&bytes) {
            Ok(identity) => {
                settle(fs, device).await;
                Found::Known(identity)
            }
            Err(reason) => Found::Unseen(reason),
        },
        Err(error) if error.is_not_found() => look_for_data(fs).await,
        Err(StoreError::Unavailable(_)) if base_is_missing(fs).await => Found::Blank,
        Err(error) => Found::Unseen(error.detail().reason.clone()),
    }
}

/// Remembers where the identity was found, unless a disk was mounted or unmounted while it was read.
async fn settle(fs: &Filesystem, before: Option<u64>) {
    if let (Some(before), Ok(Some(now))) = (before, fs.device().await)
        && before == now
    {
        fs.settle(now);
    }
}

async fn look_for_data(fs: &Filesystem) -> Found {
    match fs.list_names("").await {
        Ok(names) => match names.into_iter().find(|name| name.parse::<CollectionId>().is_ok()) {
            Some(collection) => Found::DataWithoutIdentity(collection),
            None => Found::Blank,
        },
        Err(error) => Found::Unseen(error.detail().reason.clone()),
    }
}

/// Whether the directory of a local root is certainly absent, and not only unreadable.
async fn base_is_missing(fs: &Filesystem) -> bool {
    let Some(path) = fs.url().local_path().map(std::path::Path::to_owned) else {
        return false;
    };
    let missing = fs.blocking(move || matches!(path.try_exists(), Ok(false))).await;
    missing.unwrap_or(false)
}

/// Creates base directory and identity. When another process was first, its identity is returned.
pub(super) async fn initialise(fs: &Filesystem, identity: Identity) -> Result<Identity, String> {
    let created = fs.create_dir_all().await.map_err(|error| error.to_string())?;
    let device = fs.device().await.map_err(|error| error.to_string())?;
    let outcome = fs
        .create(PATH, identity.encode()?)
        .await
        .map_err(|error| error.to_string())?;
    let action = if created { "created" } else { "exists" };
    tracing::info!(root = %fs.url(), component = %identity.component, directory = action, "root initialised");
    settle(fs, device).await;
    match outcome {
        Created::Committed => Ok(identity),
        Created::Conflict(other) => Identity::decode(&other),
    }
}

/// Checks that the root can be written: a small file, replaced each time.
pub(super) async fn write_probe(fs: &Filesystem) -> Result<(), StoreError> {
    let path = format!("{RESERVED_DIRECTORY}/{PROBE}");
    fs.write_atomic(&path, Bytes::from(now_ms().to_string())).await
}

/// Milliseconds since 1970 UTC.
pub(super) fn now_ms() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or(0)
}

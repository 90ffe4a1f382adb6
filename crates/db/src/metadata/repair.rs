//! Bringing copies up to date while the record is in use, and taking back those of stand-ins.

use bytes::Bytes;
use uuid::Uuid;

use super::commit::{is_well, read_nonce, taken};
use super::{CollectionRecord, MetadataStore, delete_outdated, list, record_path};
use crate::error::Result;
use crate::root::{Root, RootId};
use crate::schema::CollectionId;
use crate::sealed::seal;

impl MetadataStore {
    /// Collections with homes that lag, or with copies of stand-ins: those that [`repair_lagging`](Self::repair_lagging) has
    /// something to do for.
    pub fn lagging(&self) -> Vec<CollectionId> {
        let known = self.known.lock();
        let lagging = known
            .iter()
            .filter(|(_, known)| !known.behind.is_empty() || !known.stand_ins.is_empty());
        lagging.map(|(id, _)| *id).collect()
    }

    /// Brings the homes of a record up to date that missed versions and are well again; then the copies of stand-ins go.
    /// `record` is the version in use. Costs nothing when no home lags. Returns the number of homes that are whole again.
    pub async fn repair_lagging(&self, record: &CollectionRecord) -> usize {
        let _one_at_a_time = self.changing.lock().await;
        let known = self.known_of(record);
        if known.version != record.version {
            return 0;
        }
        let mut repaired = 0;
        for home in known.behind.keys() {
            let Some(root) = self.roots.by_id(*home).ok().filter(|root| is_well(root)) else {
                continue;
            };
            match self.repair_home(record, &root).await {
                Ok(()) => {
                    tracing::info!(root = root.url(), collection = %record.description.id, "metadata copy brought up to date");
                    self.change_known(record, |known| known.behind.remove(home));
                    repaired += 1;
                }
                Err(error) => tracing::warn!(%error, "metadata copy not brought up to date"),
            }
        }
        self.dismiss_stand_ins(record).await;
        repaired
    }

    async fn repair_home(&self, record: &CollectionRecord, root: &Root) -> Result<()> {
        let id = record.description.id;
        let versions = list(root, id).await?;
        if let Some((version, file)) = versions.last() {
            let nonce = read_nonce(root, id, *version, file).await;
            match nonce {
                Ok(nonce) if nonce == record.nonce => {
                    delete_outdated(root, record, &versions).await;
                    return Ok(());
                }
                // An attempt that failed: the next version comes after it.
                Ok(nonce) if *version < record.version && self.known_of(record).knows(root.id(), nonce) => {}
                Err(_) if *version < record.version => {}
                Ok(_) => return Err(taken(root, &file.path)),
                Err(error) => return Err(error),
            }
        }
        let bytes = match self.stored_bytes(record, root.id()).await {
            Some(bytes) => bytes,
            None => seal(record)?,
        };
        self.create_copy(root, record, &bytes).await?;
        delete_outdated(root, record, &versions).await;
        Ok(())
    }

    /// The bytes of a record from another root, so that the copies are equal to the last byte.
    async fn stored_bytes(&self, record: &CollectionRecord, but: RootId) -> Option<Bytes> {
        let is_it =
            |bytes: &Bytes, nonce: Uuid| CollectionRecord::decode(bytes).is_ok_and(|other| other.nonce == nonce);
        let path = record_path(record.description.id, record.version);
        for root in self.metadata_roots().into_iter().filter(|root| root.id() != but) {
            if let Ok(Some(bytes)) = root.read_if_exists(&path).await
                && is_it(&bytes, record.nonce)
            {
                return Some(bytes);
            }
        }
        None
    }

    /// Deletes the copies on roots that are no homes, once every home has the newest version.
    pub(super) async fn dismiss_stand_ins(&self, record: &CollectionRecord) {
        let known = self.known_of(record);
        if !known.behind.is_empty() {
            return;
        }
        for stand_in in known.stand_ins {
            let Some(root) = self.roots.by_id(stand_in).ok().filter(|root| root.available().is_ok()) else {
                continue;
            };
            match delete_all(record, &root).await {
                Ok(()) => {
                    self.change_known(record, |known| known.stand_ins.remove(&stand_in));
                }
                Err(error) => tracing::warn!(%error, "metadata copy of a stand-in not deleted"),
            }
        }
    }
}

/// Deletes every version on a root, the oldest first.
async fn delete_all(record: &CollectionRecord, root: &Root) -> Result<()> {
    let id = record.description.id;
    for (_, file) in list(root, id).await? {
        root.delete(&file.path).await?;
        root.remove_usage(id, file.size, 1);
    }
    Ok(())
}

//! One file of a tree by its own checksums, whether or not a manifest names it.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::SstReader;

use super::Lsm;
use super::checked::is_checked;
use super::fault::database_error;
use super::tree::uncounted;
use crate::error::{Error, Result};
use crate::root::Root;
use crate::schema::CollectionId;
use crate::sealed::crc32;

impl Lsm {
    /// Checks every checksum of one file.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged file, and for one that is not named as a tree's; errors of the root.
    pub async fn check_file(root: &Arc<Root>, collection: CollectionId, shard: &str, path: &str) -> Result<()> {
        let location = Path::from(path);
        let store: Arc<dyn ObjectStore> = Arc::new(uncounted(root, collection));
        if is_checked(&location) {
            // Reading the whole file compares its checksum.
            let read = async { store.get(&location).await?.bytes().await };
            return match read.await {
                Ok(_) => Ok(()),
                Err(_) => root
                    .read(path)
                    .await
                    .and(Err(corrupt(root, path, "its checksum is wrong"))),
            };
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let table = name.strip_suffix(".sst").and_then(|table| table.parse().ok());
        let Some(table) = table else {
            return Err(corrupt(root, path, "it is not named as a file of an LSM tree"));
        };
        let reader = SstReader::new(format!("{collection}/{shard}"), store, None, None);
        let ends = async {
            let file = reader.open(table).await?;
            // Nothing else reads the statistics.
            file.stats().await?;
            let info = file.info();
            let end = match info.filter_len {
                0 => info.index_offset,
                _ => info.filter_offset,
            };
            let begins = file.index().await?;
            let ends = begins.iter().map(|(offset, _)| offset).chain([end]);
            Ok(ends.collect())
        };
        let ends: Vec<u64> = ends.await.map_err(|error| database_error(root, path, &error))?;
        let bytes = root.read(path).await?;
        for block in ends.windows(2) {
            check_block(&bytes, block).map_err(|reason| corrupt(root, path, &reason))?;
        }
        Ok(())
    }
}

/// Whether a block, which ends in its CRC-32 (big endian), is what was written.
fn check_block(file: &[u8], ends: &[u64]) -> Result<(), String> {
    let [Ok(begin), Ok(end)] = [0, 1].map(|at| usize::try_from(ends.get(at).copied().unwrap_or(u64::MAX))) else {
        return Err("a block is out of bounds".to_owned());
    };
    let block = file.get(begin..end).and_then(<[u8]>::split_last_chunk);
    match block {
        Some((data, checksum)) if crc32(data) == u32::from_be_bytes(*checksum) => Ok(()),
        _ => Err(format!("the block at offset {begin} does not match its checksum")),
    }
}

fn corrupt(root: &Root, path: &str, reason: &str) -> Error {
    Error::Corruption(format!("{}/{path}: {reason}", root.url()))
}

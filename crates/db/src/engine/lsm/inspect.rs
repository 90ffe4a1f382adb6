//! A tree looked at without becoming its writer: nothing is written, not even a checkpoint.

use std::collections::HashMap;
use std::sync::Arc;

use slatedb::config::ScanOptions;
use slatedb::{DbReader, DbReaderMode, KeyValue};

use super::codec::{self, Marker, StoredPoint};
use super::fault::database_error;
use super::files::Files;
use super::{Lsm, READ_AHEAD, settings};
use crate::error::{Error, Result};
use crate::point::{Payload, PointId, Seq};
use crate::root::Root;
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::unseal;

/// What a whole reading of a tree found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The collection when the last commit was made.
    pub description: CollectionDescription,
    /// Every operation up to this one is in the rows.
    pub flushed_seq: Seq,
    /// Live rows.
    pub rows: u64,
    /// Tables that the manifest names.
    pub tables: u64,
}

impl Lsm {
    /// The collection as its tree describes it, for when every metadata record is lost.
    ///
    /// # Errors
    /// [`Error::Corruption`] when there is no tree, or files are damaged; errors of the root.
    pub async fn describe(root: &Arc<Root>, collection: CollectionId, shard: &str) -> Result<CollectionDescription> {
        let tree = Tree::open(root, collection, shard).await?;
        let marker = tree.marker().await;
        tree.close().await;
        Ok(marker?.description)
    }

    /// Reads every block of every table that is in force, which checks their checksums, and every row; changes nothing.
    ///
    /// # Errors
    /// [`Error::Corruption`] for anything damaged or missing; errors of the root.
    pub async fn verify(root: &Arc<Root>, collection: CollectionId, shard: &str) -> Result<Verified> {
        let tree = Tree::open(root, collection, shard).await?;
        let verified = tree.verify().await;
        tree.close().await;
        verified
    }
}

/// A reader of one tree.
struct Tree<'a> {
    root: &'a Arc<Root>,
    directory: String,
    reader: DbReader,
}

impl<'a> Tree<'a> {
    async fn open(root: &'a Arc<Root>, collection: CollectionId, shard: &str) -> Result<Self> {
        root.available()?;
        let directory = format!("{collection}/{shard}");
        // It only reads, so there is nothing to count.
        let files = Files::new(root, collection, HashMap::new());
        let reader = DbReader::builder(directory.clone(), Arc::new(files))
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(settings::reader())
            .with_db_cache_disabled()
            .build()
            .await
            .map_err(|error| database_error(root, &directory, &error))?;
        Ok(Self {
            root,
            directory,
            reader,
        })
    }

    async fn close(&self) {
        if let Err(error) = self.reader.close().await {
            tracing::debug!(directory = self.directory, %error, "reader of an LSM tree closed");
        }
    }

    async fn marker(&self) -> Result<Marker> {
        let found = self.reader.get(codec::MARKER).await;
        let bytes = found
            .map_err(|error| self.error(&error))?
            .ok_or_else(|| self.corrupt("the tree has no marker"))?;
        let marker = unseal(&bytes).map_err(|reason| self.corrupt(&format!("the marker: {reason}")))?;
        check_owner(self.root, &self.directory, &marker)?;
        Ok(marker)
    }

    async fn verify(&self) -> Result<Verified> {
        let marker = self.marker().await?;
        let options = ScanOptions {
            read_ahead_bytes: READ_AHEAD,
            cache_blocks: false,
            ..Default::default()
        };
        let scan = self.reader.scan_with_options::<std::ops::RangeFull>(.., &options).await;
        let mut entries = scan.map_err(|error| self.error(&error))?;
        let mut rows = 0;
        while let Some(entry) = entries.next().await.map_err(|error| self.error(&error))? {
            if entry.key == codec::MARKER {
                continue;
            }
            let (id, point) = read_row(&entry).map_err(|reason| self.corrupt(&reason))?;
            if point.seq > marker.flushed_seq {
                return Err(self.corrupt(&format!("point {id} is newer than the marker")));
            }
            serde_json::from_str::<Payload>(point.payload)
                .map_err(|error| self.corrupt(&format!("payload of point {id}: {error}")))?;
            rows += 1;
        }
        Ok(Verified {
            description: marker.description,
            flushed_seq: marker.flushed_seq,
            rows,
            tables: self.reader.manifest().all_sst_views().count() as u64,
        })
    }

    fn error(&self, error: &slatedb::Error) -> Error {
        database_error(self.root, &self.directory, error)
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::Corruption(format!("{}/{}: {reason}", self.root.url(), self.directory))
    }
}

/// The tree must be that of its directory.
pub(super) fn check_owner(root: &Root, directory: &str, marker: &Marker) -> Result<()> {
    let owner = format!("{}/{}", marker.description.id, marker.shard);
    if owner != directory {
        let url = root.url();
        return Err(Error::Corruption(format!(
            "{url}/{directory}: the LSM tree is that of {owner}"
        )));
    }
    Ok(())
}

/// Id and value of a row, or what is wrong with it.
pub(super) fn read_row(entry: &KeyValue) -> Result<(PointId, StoredPoint<'_>), String> {
    let id = codec::id(&entry.key).ok_or_else(|| format!("the key {:02x?} is no point's", entry.key))?;
    let point = codec::decode(&entry.value).ok_or_else(|| format!("the row of point {id} is damaged"))?;
    Ok((id, point))
}

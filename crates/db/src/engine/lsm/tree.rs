//! A tree read without becoming its writer: nothing is written, not even a checkpoint, so a full or read-only root is
//! read like any other.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use slatedb::config::ScanOptions;
use slatedb::{DbIterator, DbReader, DbReaderMode, KeyValue};

use super::blocks::Blocks;
use super::codec::{self, Marker, StoredPoint};
use super::fault::database_error;
use super::files::Files;
use super::{Lsm, settings};
use crate::error::{Error, Result};
use crate::point::{Payload, PointId, Seq};
use crate::root::Root;
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::unseal;

/// Read ahead of a scan: one request of a useful size instead of one a block.
const READ_AHEAD: usize = 1 << 20;

/// What a whole reading of a tree found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The collection when the last commit was made.
    pub description: CollectionDescription,
    /// Every operation up to this one is in the rows.
    pub flushed_seq: Seq,
    /// Live rows.
    pub rows: u64,
    /// Tables that the manifest names, without the extension.
    pub tables: BTreeSet<String>,
}

impl Lsm {
    /// The collection as its tree describes it, for when every metadata record is lost.
    ///
    /// # Errors
    /// [`Error::Corruption`] when there is no tree, or files are damaged; errors of the root.
    pub async fn describe(root: &Arc<Root>, collection: CollectionId, shard: &str) -> Result<CollectionDescription> {
        let directory = format!("{collection}/{shard}");
        let tree = Tree::open(root, &directory, uncounted(root, collection), None).await?;
        let marker = tree.required_marker().await;
        tree.close().await;
        Ok(marker?.description)
    }

    /// Reads every block of every table that is in force, which checks their checksums, and every row; changes nothing.
    ///
    /// # Errors
    /// [`Error::Corruption`] for anything damaged or missing; errors of the root.
    pub async fn verify(root: &Arc<Root>, collection: CollectionId, shard: &str) -> Result<Verified> {
        let directory = format!("{collection}/{shard}");
        let tree = Tree::open(root, &directory, uncounted(root, collection), None).await?;
        let verified = tree.verify().await;
        tree.close().await;
        verified
    }
}

/// For readers, which change no file: there is nothing to count.
pub(super) fn uncounted(root: &Arc<Root>, collection: CollectionId) -> Files {
    Files::new(root, collection, HashMap::new())
}

/// A reader of one tree, as it was when it was opened.
pub(super) struct Tree<'a> {
    root: &'a Root,
    directory: &'a str,
    reader: DbReader,
    keeps_blocks: bool,
}

impl<'a> Tree<'a> {
    /// Opens a reader. What it reads of tables comes from `blocks` and goes there, or else nothing is kept.
    pub(super) async fn open(root: &'a Root, directory: &'a str, files: Files, blocks: Option<Blocks>) -> Result<Self> {
        root.available()?;
        let builder = DbReader::builder(directory.to_owned(), Arc::new(files))
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(settings::reader());
        let keeps_blocks = blocks.is_some();
        let builder = match blocks {
            // The keys say which tree is meant, so it needs no number.
            Some(blocks) => builder.with_db_cache(Arc::new(blocks), 0),
            None => builder.with_db_cache_disabled(),
        };
        let reader = builder.build().await;
        Ok(Self {
            root,
            directory,
            reader: reader.map_err(|error| database_error(root, directory, &error))?,
            keeps_blocks,
        })
    }

    pub(super) async fn close(&self) {
        if let Err(error) = self.reader.close().await {
            tracing::debug!(directory = self.directory, %error, "reader of an LSM tree closed");
        }
    }

    /// What the tree says about itself; `None` while it is being created.
    pub(super) async fn marker(&self) -> Result<Option<Marker>> {
        let found = self.reader.get(codec::MARKER).await;
        let Some(bytes) = found.map_err(|error| self.error(&error))? else {
            // Every commit writes one.
            return match self.reader.manifest().last_l0_seq() {
                0 => Ok(None),
                _ => Err(self.corrupt("the tree has tables and no marker")),
            };
        };
        let marker: Marker = unseal(&bytes).map_err(|reason| self.corrupt(&format!("the marker: {reason}")))?;
        let owner = format!("{}/{}", marker.description.id, marker.shard);
        if owner != self.directory {
            return Err(self.corrupt(&format!("the tree is that of {owner}")));
        }
        Ok(Some(marker))
    }

    pub(super) async fn required_marker(&self) -> Result<Marker> {
        let marker = self.marker().await?;
        marker.ok_or_else(|| self.corrupt("the tree has no marker"))
    }

    /// The rows with these keys, in order.
    pub(super) async fn scan(&self, keys: Range<[u8; 1]>) -> Result<DbIterator> {
        let options = ScanOptions {
            read_ahead_bytes: READ_AHEAD,
            cache_blocks: self.keeps_blocks,
            ..Default::default()
        };
        let scan = self.reader.scan_with_options(keys, &options).await;
        scan.map_err(|error| self.error(&error))
    }

    async fn verify(&self) -> Result<Verified> {
        let marker = self.required_marker().await?;
        let mut entries = self.scan([u8::MIN]..[u8::MAX]).await?;
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
            tables: tables(&self.reader),
        })
    }

    pub(super) fn error(&self, error: &slatedb::Error) -> Error {
        database_error(self.root, self.directory, error)
    }

    pub(super) fn corrupt(&self, reason: &str) -> Error {
        Error::Corruption(format!("{}/{}: LSM tree: {reason}", self.root.url(), self.directory))
    }
}

/// The tables that the newest manifest names.
fn tables(reader: &DbReader) -> BTreeSet<String> {
    let manifest = reader.manifest();
    manifest
        .all_sst_views()
        .map(|view| view.sst.id.value().to_string())
        .collect()
}

/// Id and value of a row, or what is wrong with it.
pub(super) fn read_row(entry: &KeyValue) -> Result<(PointId, StoredPoint<'_>), String> {
    let id = codec::id(&entry.key).ok_or_else(|| format!("the key {:02x?} is no point's", entry.key))?;
    let point = codec::decode(&entry.value).ok_or_else(|| format!("the row of point {id} is damaged"))?;
    Ok((id, point))
}

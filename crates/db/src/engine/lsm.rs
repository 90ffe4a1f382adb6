//! The rows of one shard as a log-structured merge tree (SlateDB) on one root.
//!
//! ```text
//! <collection id>/<shard>/manifest/<n>.manifest       what the tree consists of; the highest is in force
//! <collection id>/<shard>/compacted/<ulid>.sst        tables
//! <collection id>/<shard>/compactions/<n>.compactions compactions, running and done
//!
//! commit: one batch (rows, deletions, marker) ─▶ one table, durable ─▶ manifest n+1 names it
//! ```
//!
//! Owns the shard's directory and what its keys and values mean ([`codec`]). Does not keep rows in memory, and does not
//! know the log: whoever commits releases it afterwards.
//!
//! Invariants: a commit is visible whole or not at all, since one manifest names its one table. Commits come in the order
//! of their sequence numbers, one at a time, so a smaller number never overwrites a larger one; within a batch the
//! largest of an id wins. Committing the same again changes nothing, so it is how an unknown outcome is settled. Nothing
//! in the files names the root: a closed tree is moved by copying its directory.

mod checked;
mod codec;
mod fault;
mod files;
mod no_wal;
mod settings;

mod compaction;
mod inspect;

use std::collections::HashMap;
use std::sync::Arc;

use slatedb::config::{CloseOptions, FlushOptions, FlushType, ScanOptions, WriteOptions};
use slatedb::{Db, WriteBatch};
use tokio::sync::Mutex;

pub use inspect::Verified;

use self::codec::{Marker, StoredPoint};
use self::compaction::Extent;
use self::fault::database_error;
use self::files::Files;
use self::no_wal::NoWal;
use crate::engine::cluster::sort_by_cluster;
use crate::engine::segment::{SegmentBuilder, SegmentData};
use crate::engine::viper::cpu;
use crate::error::{Error, Result};
use crate::point::{PointId, Seq};
use crate::root::Root;
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::{seal, unseal};

/// New tables that make [`Lsm::maintain`] compact: as many as SlateDB's tiers need.
const TABLES_TO_COMPACT: usize = 4;
/// Read ahead of a scan: one request of a useful size instead of one a block.
const READ_AHEAD: usize = 1 << 20;
/// Bytes of a row besides its vectors and payload, as a segment estimates them.
const ROW_OVERHEAD: usize = 64;

/// What a tree holds.
#[derive(Debug)]
pub struct LsmContents {
    /// The collection when the last commit was made.
    pub description: CollectionDescription,
    /// Every operation up to this one is in the rows.
    pub flushed_seq: Seq,
    /// All points, each id once, in pieces that are each sorted by cluster. No tombstones: what is deleted is not there.
    pub segments: Vec<SegmentData>,
}

/// The tree of one shard on one root. Closed with [`close`](Self::close); dropped otherwise, it loses nothing either.
#[derive(Debug)]
pub struct Lsm {
    root: Arc<Root>,
    shard: String,
    directory: String,
    files: Files,
    /// The writer; `None` after a failed commit, until the next one opens it again. Held during a commit and while
    /// garbage is collected, never during a compaction.
    writer: Mutex<Option<Writer>>,
    /// Held while a compaction runs, and while all rows are read, as the replaced tables are deleted after it.
    compacting: Mutex<()>,
}

struct Writer(Db);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Lsm {
    /// Opens the shard's tree. Where there is none it is created, with a durable marker, so that the directory pins the
    /// home and describes the collection; `description` is used for that only.
    ///
    /// # Errors
    /// [`Error::Corruption`] when files are damaged, tables lie there without a manifest, or the tree is another
    /// shard's; errors of the root.
    pub async fn open(
        root: Arc<Root>,
        collection: CollectionId,
        shard: &str,
        description: &CollectionDescription,
    ) -> Result<Self> {
        assert!(description.id == collection, "the description of this collection");
        let directory = format!("{collection}/{shard}");
        let found = root.list(&directory).await?;
        let is_manifest = |path: &str| path.ends_with(".manifest");
        let sizes: HashMap<String, u64> = found.into_iter().map(|file| (file.path, file.size)).collect();
        let is_new = !sizes.keys().any(|path| is_manifest(path));
        if is_new && sizes.keys().any(|path| path.ends_with(".sst")) {
            return Err(Error::Corruption(format!(
                "{}/{directory}: LSM tables without a manifest",
                root.url()
            )));
        }
        let lsm = Self {
            files: Files::new(&root, collection, sizes),
            root,
            shard: shard.to_owned(),
            directory,
            writer: Mutex::default(),
            compacting: Mutex::default(),
        };
        let db = lsm.open_writer().await?;
        *lsm.writer.lock().await = Some(Writer(db.clone()));
        if let Some(marker) = lsm.marker(&db).await? {
            inspect::check_owner(&lsm.root, &lsm.directory, &marker)?;
            return Ok(lsm);
        }
        // A process may have died between the first manifest and the marker; with rows there is always one.
        if db.manifest().last_l0_seq() > 0 {
            return Err(lsm.corrupt("the tree has tables and no marker"));
        }
        lsm.commit(description, 0, &SegmentData::default()).await?;
        Ok(lsm)
    }

    /// The root that holds the files.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// All rows, in pieces of about `max_bytes`, ready for search and for the building of indexes.
    ///
    /// # Errors
    /// [`Error::Corruption`] when files are damaged; errors of the root.
    pub async fn load(&self, max_bytes: usize) -> Result<LsmContents> {
        let _compacting = self.compacting.lock().await;
        let db = self.db().await?;
        let marker = self.marker(&db).await?;
        let marker = marker.ok_or_else(|| self.corrupt("the tree has no marker"))?;
        let schema = &marker.description.schema;
        let options = ScanOptions {
            read_ahead_bytes: READ_AHEAD,
            cache_blocks: false,
            ..Default::default()
        };
        let scan = db.scan_with_options(codec::point_keys(), &options).await;
        let mut rows = scan.map_err(|error| self.error(&error))?;
        let mut segments = Vec::new();
        let (mut builder, mut bytes) = (SegmentBuilder::new(schema), 0);
        while let Some(row) = rows.next().await.map_err(|error| self.error(&error))? {
            let (id, point) = inspect::read_row(&row).map_err(|reason| self.corrupt(&reason))?;
            let size = weight(&point);
            if bytes > 0 && bytes + size > max_bytes {
                let full = std::mem::replace(&mut builder, SegmentBuilder::new(schema));
                segments.push(self.clustered(full, schema).await?);
                bytes = 0;
            }
            bytes += size;
            self.push(&mut builder, schema, id, &point)?;
        }
        if bytes > 0 {
            segments.push(self.clustered(builder, schema).await?);
        }
        Ok(LsmContents {
            description: marker.description,
            flushed_seq: marker.flushed_seq,
            segments,
        })
    }

    /// Commits the rows and tombstones of a flushed memtable and the marker, as one batch: after a crash all of it is
    /// there or nothing. On return it is durable, and the log up to `flushed_seq` may be released.
    ///
    /// # Errors
    /// Errors of the root. The commit may or may not have happened: commit the same again before anything else.
    pub async fn commit(
        &self,
        description: &CollectionDescription,
        flushed_seq: Seq,
        data: &SegmentData,
    ) -> Result<()> {
        self.root.available()?;
        let batch = self.batch(&Marker::new(&self.shard, flushed_seq, description), data)?;
        let mut writer = self.writer.lock().await;
        let db = match writer.take() {
            Some(Writer(db)) => db,
            None => self.open_writer().await?,
        };
        let flush = FlushOptions {
            flush_type: FlushType::MemTable,
        };
        let committed = async {
            db.write_with_options(batch, &WriteOptions::default()).await?;
            db.flush_with_options(flush).await
        };
        match committed.await {
            Ok(()) => {
                *writer = Some(Writer(db));
                Ok(())
            }
            Err(error) => {
                let error = self.error(&error);
                // What it still holds in memory must not reach the disk after what is committed next.
                self.shut(&db).await;
                Err(error)
            }
        }
    }

    /// After commits: merges tables once enough have gathered, and deletes what no manifest needs any more. Commits may
    /// go on meanwhile. Does nothing, and makes no request, while there are few tables.
    ///
    /// # Errors
    /// Errors of the root; the rows are as they were.
    pub async fn maintain(&self) -> Result<()> {
        let fresh = match &*self.writer.lock().await {
            Some(Writer(db)) => db.manifest().l0().len(),
            None => 0,
        };
        if fresh < TABLES_TO_COMPACT {
            return Ok(());
        }
        self.merge(Extent::Tiered).await
    }

    /// Merges everything into one run without deleted and replaced rows.
    ///
    /// # Errors
    /// Errors of the root; the rows are as they were.
    pub async fn compact(&self) -> Result<()> {
        self.merge(Extent::Full).await
    }

    /// Closes the tree; everything is committed already. Its files may be copied afterwards.
    pub async fn close(&self) {
        let _compacting = self.compacting.lock().await;
        if let Some(Writer(db)) = self.writer.lock().await.take() {
            self.shut(&db).await;
        }
    }

    async fn merge(&self, extent: Extent) -> Result<()> {
        self.root.available()?;
        let _compacting = self.compacting.lock().await;
        // On a task of its own, as a compactor must be stopped even if nobody waits for it any more.
        let running = tokio::spawn(compaction::run(self.directory.clone(), self.files.clone(), extent));
        let outcome = running
            .await
            .map_err(|error| Error::Internal(format!("{}: compaction: {error}", self.directory)))?;
        if !outcome.map_err(|error| self.error(&error))? {
            tracing::warn!(
                root = self.root.url(),
                directory = self.directory,
                "a compaction failed; the tables stay as they are"
            );
        }
        let writer = self.writer.lock().await;
        let Some(Writer(db)) = &*writer else { return Ok(()) };
        // The writer must know the result before the tables and manifests it knew are deleted.
        db.refresh_manifest().await.map_err(|error| self.error(&error))?;
        let collected = compaction::collect_garbage(self.directory.clone(), self.files.clone()).await;
        collected.map_err(|error| self.error(&error))
    }

    async fn open_writer(&self) -> Result<Db> {
        self.root.available()?;
        let builder = Db::builder(self.directory.clone(), Arc::new(self.files.clone()))
            .with_settings(settings::writer())
            .with_db_cache_disabled()
            .with_wal_writer(Box::new(NoWal));
        builder.build().await.map_err(|error| self.error(&error))
    }

    async fn db(&self) -> Result<Db> {
        let mut writer = self.writer.lock().await;
        if let Some(Writer(db)) = &*writer {
            return Ok(db.clone());
        }
        let db = self.open_writer().await?;
        *writer = Some(Writer(db.clone()));
        Ok(db)
    }

    async fn marker(&self, db: &Db) -> Result<Option<Marker>> {
        let found = db.get(codec::MARKER).await.map_err(|error| self.error(&error))?;
        let Some(bytes) = found else { return Ok(None) };
        unseal(&bytes)
            .map(Some)
            .map_err(|reason| self.corrupt(&format!("the marker: {reason}")))
    }

    /// All operations in the order of their numbers, so that the last of an id wins, and the marker.
    fn batch(&self, marker: &Marker, data: &SegmentData) -> Result<WriteBatch> {
        let rows = data
            .seqs
            .iter()
            .enumerate()
            .map(|(row, seq)| (*seq, Some(row), data.ids[row]));
        let deletions = data.tombstones.iter().map(|(id, seq)| (*seq, None, *id));
        let mut operations: Vec<(Seq, Option<usize>, PointId)> = rows.chain(deletions).collect();
        operations.sort_unstable();
        let mut batch = WriteBatch::new();
        for (_, row, id) in operations {
            match row {
                Some(row) => batch.put_bytes(codec::key(id), codec::encode(data, row)),
                None => batch.delete(codec::key(id)),
            }
        }
        batch.put_bytes(codec::MARKER.into(), seal(marker)?);
        Ok(batch)
    }

    fn push(
        &self,
        builder: &mut SegmentBuilder,
        schema: &crate::schema::Schema,
        id: PointId,
        point: &StoredPoint<'_>,
    ) -> Result<()> {
        if let Some((name, _)) = point
            .vectors
            .iter()
            .find(|(name, _)| !schema.vectors.contains_key(*name))
        {
            return Err(self.corrupt(&format!("point {id} has a vector {name:?} that the schema lacks")));
        }
        builder
            .push_columns(id, point.seq, |name| point.vector(name), point.payload)
            .map_err(|error| self.corrupt(&error.to_string()))
    }

    async fn clustered(&self, builder: SegmentBuilder, schema: &crate::schema::Schema) -> Result<SegmentData> {
        let schema = schema.clone();
        cpu(move || sort_by_cluster(&schema, &builder.build()).0).await
    }

    /// Closes a writer without a flush: what a commit has not made durable does not count.
    async fn shut(&self, db: &Db) {
        let closed = db.close_with_options(CloseOptions { flush_type: None }).await;
        if let Err(error) = closed {
            tracing::debug!(root = self.root.url(), directory = self.directory, %error, "LSM tree closed");
        }
    }

    fn error(&self, error: &slatedb::Error) -> Error {
        database_error(&self.root, &self.directory, error)
    }

    fn corrupt(&self, reason: &str) -> Error {
        Error::Corruption(format!("{}/{}: {reason}", self.root.url(), self.directory))
    }
}

/// About the bytes of a row in memory.
fn weight(point: &StoredPoint<'_>) -> usize {
    let vectors: usize = point
        .vectors
        .iter()
        .map(|(_, vector)| size_of_val(vector.as_slice()))
        .sum();
    vectors + point.payload.len() + ROW_OVERHEAD
}

#[cfg(test)]
#[path = "lsm/tests.rs"]
mod tests;

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
//! Rows are read without a writer ([`Lsm::load`]); the first commit opens it.
//!
//! Owns the shard's directory and what its keys and values mean (`codec`). Does not keep rows in memory, and does not
//! know the log: whoever commits releases it afterwards.
//!
//! Invariants: a commit is visible whole or not at all, since one manifest names its one table. Commits come in the order
//! of their sequence numbers, one at a time, so a smaller number never overwrites a larger one; within a batch the
//! largest of an id wins. Committing the same again changes nothing, so it is how an unknown outcome is settled. Nothing
//! in the files names the root: a closed tree is moved by copying its directory.

mod blocks;
mod checked;
mod codec;
mod fault;
mod files;
mod inspect;
mod no_wal;
mod settings;

mod compaction;
mod tree;

mod load;

use std::collections::HashMap;
use std::sync::Arc;

use slatedb::config::{CloseOptions, FlushOptions, FlushType, WriteOptions};
use slatedb::{Db, WriteBatch};
use tokio::sync::Mutex;

pub use load::LsmContents;
pub use tree::Verified;

use self::blocks::Blocks;
use self::codec::Marker;
use self::compaction::Extent;
use self::fault::database_error;
use self::files::Files;
use self::no_wal::NoWal;
use self::tree::Tree;
use crate::engine::segment::SegmentData;
use crate::error::{Error, Result};
use crate::point::{PointId, Seq};
use crate::root::Root;
use crate::schema::{CollectionDescription, CollectionId};
use crate::sealed::seal;

/// New tables that make [`Lsm::maintain`] compact: as many as one compaction takes. A compaction costs about as many
/// requests for looking after itself as eight commits do.
const TABLES_TO_COMPACT: usize = 8;

/// The tree of one shard on one root. Closed with [`close`](Self::close); dropped otherwise, it loses nothing either.
#[derive(Debug)]
pub struct Lsm {
    root: Arc<Root>,
    shard: String,
    directory: String,
    files: Files,
    /// The writer; `None` until the first commit, and after a failed one until the next. Held during a commit and while
    /// garbage is collected, never during a compaction.
    writer: Mutex<Option<Writer>>,
    /// Held while a compaction runs, and while all rows are read, as the replaced tables are deleted after it.
    compacting: Arc<Mutex<()>>,
}

struct Writer(Db);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Lsm {
    /// Opens the shard's tree, which writes nothing. Where there is none it is created, with a durable marker, so that the
    /// directory pins the home and describes the collection; `description` is used for that only. Whether there should
    /// be one is for the caller to know: a lost directory looks like a new one.
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
            compacting: Arc::default(),
        };
        // A process may also have died between the first manifest and the marker.
        if is_new || lsm.flushed_seq().await?.is_none() {
            lsm.commit(description, 0, &SegmentData::default()).await?;
        }
        Ok(lsm)
    }

    /// The root that holds the files.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Whether nobody has flushed beyond `flushed_seq`.
    ///
    /// # Errors
    /// [`Error::RootUnavailable`] if another process has: this one lacks what it has flushed. As [`flushed_seq`](Self::flushed_seq).
    pub async fn check_newest(&self, flushed_seq: Seq) -> Result<()> {
        if self.flushed_seq().await? <= Some(flushed_seq) {
            return Ok(());
        }
        Err(Error::RootUnavailable {
            url: self.root.url().to_owned(),
            reason: format!(
                "{}: another process has flushed more than this one holds",
                self.directory
            ),
        })
    }

    /// Every operation up to this one is in the tree, as its files say it; `None` before its first commit.
    ///
    /// # Errors
    /// [`Error::Corruption`] when files are damaged; errors of the root.
    pub async fn flushed_seq(&self) -> Result<Option<Seq>> {
        let tree = self.tree().await?;
        let marker = tree.marker().await;
        tree.close().await;
        Ok(marker?.map(|marker| marker.flushed_seq))
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
        let db = self.ready(&mut writer, flushed_seq).await?;
        let flush = FlushOptions {
            flush_type: FlushType::MemTable,
        };
        let committed = async {
            db.write_with_options(batch, &WriteOptions::default()).await?;
            db.flush_with_options(flush).await
        };
        if let Err(error) = committed.await {
            let error = self.error(&error);
            // What it still holds in memory must not reach the disk after what is committed next.
            *writer = None;
            self.shut(&db).await;
            return Err(error);
        }
        Ok(())
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
        let compacting = Arc::clone(&self.compacting).lock_owned().await;
        let running = compaction::run(self.directory.clone(), self.files.clone(), extent);
        // On a task of its own, as a compactor must be stopped even if nobody waits for it any more.
        let running = tokio::spawn(async move { (running.await, compacting) });
        let (outcome, _compacting) = running
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
        if let Some(Writer(db)) = &*writer {
            // It must know the result before the tables and manifests it knew are deleted.
            db.refresh_manifest().await.map_err(|error| self.error(&error))?;
        }
        let collected = compaction::collect_garbage(self.directory.clone(), self.files.clone()).await;
        collected.map_err(|error| self.error(&error))
    }

    /// A reader that takes what the cache has.
    async fn tree(&self) -> Result<Tree<'_>> {
        let blocks = Blocks::of(&self.root, &self.directory);
        Tree::open(&self.root, &self.directory, self.files.clone(), blocks).await
    }

    async fn open_writer(&self) -> Result<Db> {
        self.root.available()?;
        let builder = Db::builder(self.directory.clone(), Arc::new(self.files.clone()))
            .with_settings(settings::writer())
            .with_sst_block_size(settings::BLOCK_SIZE)
            .with_db_cache_disabled()
            .with_wal_writer(Box::new(NoWal));
        builder.build().await.map_err(|error| self.error(&error))
    }

    /// The writer for a commit through `flushed_seq`, opened if it is not; also again after a failure of its own tasks, which
    /// ends it.
    async fn ready(&self, writer: &mut Option<Writer>, flushed_seq: Seq) -> Result<Db> {
        if let Some(Writer(db)) = writer {
            if db.status().close_reason.is_none() {
                return Ok(db.clone());
            }
            self.shut(db).await;
        }
        let db = self.open_writer().await?;
        // The writers before it can commit nothing more. What one of them has committed may be newer than what this process has.
        if let Err(error) = self.check_newest(flushed_seq).await {
            self.shut(&db).await;
            return Err(error);
        }
        *writer = Some(Writer(db.clone()));
        Ok(db)
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
}

impl Drop for Lsm {
    /// SlateDB's tasks would live on otherwise.
    fn drop(&mut self) {
        if let Some(Writer(db)) = self.writer.get_mut().take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                // Nothing is lost by not waiting: every commit is durable.
                let _closed = db.close_with_options(CloseOptions { flush_type: None }).await;
            });
        }
    }
}

#[cfg(test)]
#[path = "lsm/tests.rs"]
mod tests;

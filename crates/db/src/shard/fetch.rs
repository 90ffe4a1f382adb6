//! Rows and indexes that lie on buckets, read as they are needed.
//!
//! What looks at rows is plain code over the state ([`Miss`]): it says what it lacks, that is read here, in one round of requests, and it
//! is called again. So what it answers is never made of bytes that were not read. A file that is lost or damaged is replaced: by another
//! copy; rows by those of the segment's own file, an index by one that is built anew.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use proximadb_store::{Fetched, Partial};
use tokio::time::timeout_at;

use super::Shard;
use super::data;
use super::engine::Engine;
use crate::axis;
use crate::engine::absent::{Absent, Miss};
use crate::engine::segment::SegmentData;
use crate::error::{Error, Result};
use crate::root::IndexType;
use crate::state::SegmentSource;

/// A search takes three: lists, vectors, payloads; each may find a damaged file or a changed state. More is a defect.
const ROUNDS_MAX: u64 = 32;

/// What an operation has read from buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// Rounds of requests, one after the other.
    pub rounds: u64,
    /// By URL of the root.
    pub roots: BTreeMap<String, Fetched>,
}

impl Shard {
    /// Does what reads the state, again after each time that it lacked something. With what that has read.
    pub(super) async fn look<T>(self: &Arc<Self>, look: impl Fn() -> Result<T, Miss>) -> Result<(T, Reads)> {
        self.look_until(None, look).await
    }

    /// The same; past the deadline nothing is waited for, and `look` has to say so.
    pub(super) async fn look_until<T>(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        look: impl Fn() -> Result<T, Miss>,
    ) -> Result<(T, Reads)> {
        let mut reads = Reads::default();
        loop {
            let fetch = match look() {
                Ok(found) => {
                    if reads.rounds > 0 {
                        self.options.bucket_memory.check(&self.runtime);
                    }
                    return Ok((found, reads));
                }
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::Absent(absent)) => self.fetch(absent, reads.clone()),
            };
            match deadline {
                None => reads = fetch.await?,
                Some(deadline) => {
                    if let Ok(fetched) = timeout_at(deadline.into(), fetch).await {
                        reads = fetched?;
                    }
                }
            }
        }
    }

    /// Reads what is absent, all of it at once, and adds that to what was read before. Files that are no good any more are replaced.
    ///
    /// # Errors
    /// Errors of the roots.
    pub(super) async fn fetch(self: &Arc<Self>, absent: Absent, mut reads: Reads) -> Result<Reads> {
        // A task of its own: a search runs on the thread of its connection, which is not one for requests.
        let shard = self.clone();
        let fetch = async move { shard.fetch_all(absent, &mut reads).await.map(|()| reads) };
        let fetched = self.runtime.spawn(fetch).await;
        fetched.map_err(|error| Error::Internal(format!("reading from a bucket failed: {error}")))?
    }

    async fn fetch_all(self: &Arc<Self>, absent: Absent, reads: &mut Reads) -> Result<()> {
        if reads.rounds == ROUNDS_MAX {
            return Err(Error::Internal("what was read is absent again and again".to_owned()));
        }
        let homes = self.options.homes.index()?.all();
        let files: Vec<_> = absent.into_files().collect();
        let fetches = files.iter().map(|(file, ranges)| {
            let url = file.filesystem().url();
            let root = homes.iter().find(|root| root.fs().url() == url);
            async move {
                match root {
                    Some(root) => root.fetch(file, ranges).await,
                    // It was moved, and its root is none of ours any more.
                    None => Ok(None),
                }
            }
        });
        let fetched = join_all(fetches).await;
        reads.rounds += 1;
        for ((file, _), fetched) in files.iter().zip(fetched) {
            match fetched {
                Ok(Some(fetched)) => *reads.roots.entry(file.filesystem().url().to_string()).or_default() += fetched,
                Ok(None) => self.replace(file, None).await?,
                Err(error) => self.replace(file, Some(error)).await?,
            }
        }
        Ok(())
    }

    /// Works on something else than a file that cannot be read: it is no good any more, or its root has this against it.
    async fn replace(self: &Arc<Self>, file: &Arc<Partial>, error: Option<Error>) -> Result<()> {
        let Some((id, of)) = axis::parse_name(file.path()) else {
            return Err(Error::Internal(format!("{} is no index file", file.path())));
        };
        let segments = self.segments();
        // A segment that is gone is not looked at again.
        let Some(segment) = segments.iter().find(|segment| segment.meta.id == id) else {
            return Ok(());
        };
        let url = file.filesystem().url().to_string();
        tracing::warn!(
            root = url,
            path = file.path(),
            "index file not read; another copy or the segment takes its place"
        );
        if error.is_none() {
            self.axis.note_bad((id, of), &url).await;
        }
        let attached = self.attach_files(slice::from_ref(segment), Some(&url)).await;
        if attached.contains(&(id, of)) {
            return Ok(());
        }
        match error {
            _ if of == IndexType::Idx => self.read_rows(segment).await,
            Some(error) => Err(error),
            None => {
                self.drop_indexes(segment);
                Ok(())
            }
        }
    }

    /// All rows of a segment, to be copied.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged segment; errors of the roots.
    pub(super) async fn whole(self: &Arc<Self>, segment: &SegmentSource) -> Result<Arc<SegmentData>> {
        let data = || {
            let segments = self.segments();
            let now = segments.into_iter().find(|now| now.source == segment.source);
            let data = now.map_or_else(|| segment.data.clone(), |now| now.data);
            let mut absent = Absent::default();
            data.note_all(&mut absent);
            absent.check().map(|()| data)
        };
        Ok(self.look(data).await?.0)
    }

    /// Takes the rows of a segment into memory, from its own file. Those of a tree are in memory already.
    ///
    /// # Errors
    /// [`Error::Corruption`] for a damaged segment; errors of the roots.
    pub(super) async fn read_rows(&self, segment: &SegmentSource) -> Result<()> {
        let Engine::Viper = self.engine else { return Ok(()) };
        let (description, metas) = (self.description(), slice::from_ref(&segment.meta));
        let homes = &self.options.homes;
        let read = data::read_segments(homes, &description, &self.number, metas, BTreeMap::new());
        for (_, data) in read.await? {
            self.state.write().set_rows(segment.source, data);
        }
        Ok(())
    }
}

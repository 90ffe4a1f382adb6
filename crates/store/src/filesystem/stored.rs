//! Large files that never change: on a bucket read by ranges, all at once, through the cache, and asked for twice when slow.
//!
//! ```text
//! blocks of the file ─▶ in the cache? ─▶ the others, joined to requests of at most REQUEST_BYTES ─▶ all at once ─▶ cache
//! ```

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, join_all, select, try_join_all};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};

use super::{FileInfo, Filesystem};
use crate::breaker;
use crate::cache::{BLOCK_BYTES, Cache};
use crate::error::StoreError;
use crate::map::Stored;
use crate::meter::Op;

/// A request for more bytes is several: so one file comes over several connections.
const REQUEST_BYTES: u64 = 8 * BLOCK_BYTES;
/// Blocks of which a large file is read.
pub(super) const COARSE: Grain = Grain {
    bytes: BLOCK_BYTES,
    gap: 1,
};

/// How finely a file is read and cached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grain {
    /// Of a block.
    pub bytes: u64,
    /// So many blocks that are not wanted between two that are, are read with them: a request costs more than they do.
    pub gap: u64,
}

/// Requests of one root under way, so at most 512 MiB in memory twice.
pub(super) const READS_AT_ONCE: usize = 64;
/// A second request is sent no earlier, however fast the root is.
const HEDGE_MIN: Duration = Duration::from_millis(50);
/// The same while too few reads were seen to know how fast the root is.
const HEDGE_UNKNOWN: Duration = Duration::from_secs(1);
const HEDGE_SAMPLES: u64 = 32;
/// A root that moves fewer bytes a second than this is asked twice.
const HEDGE_BYTES_PER_SECOND: u64 = 16 << 20;
/// One in so many reads may be sent twice, and a few besides: where all are slow, a second request makes it worse.
const HEDGE_SHARE: u64 = 20;
const HEDGE_FREE: u64 = 10;

impl Filesystem {
    /// Files that never change are from now on kept in this cache. Only the first call counts; a disk needs none.
    pub fn set_cache(&self, cache: Cache) {
        // A second cache is the first one: a root belongs to one component.
        let _ = self.inner.cache.set(cache);
    }

    /// The cache, if there is one.
    pub fn cache(&self) -> Option<&Cache> {
        self.inner.cache.get()
    }

    /// The whole of a file that never changes, as it was listed or as its manifest names it. Of a bucket it is read in
    /// parts at the same time, and those that were read before come from the cache. Bytes that are not `good` are read
    /// again and never kept: an answer may be damaged on its way. A file without a tag is not cached.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the root could not be looked at.
    pub async fn read_stored(&self, file: &FileInfo, good: impl Fn(&[u8]) -> bool + Send) -> Result<Bytes, StoreError> {
        if self.is_local() || file.size == 0 {
            return self.read(&file.path).await;
        }
        let location = self.location(&file.path)?;
        let numbers: Vec<u64> = (0..file.size.div_ceil(BLOCK_BYTES)).collect();
        let blocks = self.cached(file, COARSE, &numbers).await;
        let absent = numbers.iter().zip(&blocks).filter(|(_, block)| block.is_none());
        let runs = runs(absent.map(|(number, _)| *number), COARSE);
        let read = self.read_runs(&location, file, COARSE, &runs).await?;
        let whole = read.map(|read| (assemble(file, blocks, &runs, &read), read));
        match whole {
            Some((whole, read)) if good(&whole) => {
                for (run, bytes) in runs.iter().zip(&read) {
                    for (number, block) in run.clone().zip(0..) {
                        self.keep(file, COARSE, number, &part(bytes, COARSE, block));
                    }
                }
                Ok(whole)
            }
            // What has another size or content: whoever knows what it should be decides about it.
            _ => self.read(&file.path).await,
        }
    }

    /// The same without reading all of it where that is possible: the first `needed` bytes are read. On a disk it is mapped; of
    /// a bucket, if it is a file of [blocks](crate::blocks), the rest can be read part by part.
    ///
    /// # Errors
    /// As [`read_stored`](Self::read_stored).
    pub async fn map_stored(
        &self,
        file: &FileInfo,
        good: impl Fn(&[u8]) -> bool + Send,
        needed: u64,
    ) -> Result<Stored, StoreError> {
        let Some(disk) = &self.inner.local else {
            return match self.open_partial(file, needed).await? {
                Some(partial) => Ok(Arc::new(partial).into()),
                None => self.read_stored(file, good).await.map(Stored::from),
            };
        };
        let (location, needed) = (self.location(&file.path)?, needed.min(file.size));
        let map = async {
            let map = disk.map(&location, needed).await;
            map.map_err(|error| self.error(&file.path, &error))
        };
        let map = self.within(&file.path, breaker::deadline(needed), map);
        self.measured(Op::Read, map, |_| needed).await
    }

    /// These blocks of a file, as far as the cache has them.
    pub(super) async fn cached(&self, file: &FileInfo, grain: Grain, numbers: &[u64]) -> Vec<Option<Bytes>> {
        match self.cache().filter(|_| file.tag != 0) {
            Some(cache) => {
                let keys: Vec<String> = numbers.iter().map(|number| self.key(file, grain, *number)).collect();
                join_all(keys.iter().map(|key| cache.get(key))).await
            }
            None => vec![None; numbers.len()],
        }
    }

    /// Puts a block of a file into the cache.
    pub(super) fn keep(&self, file: &FileInfo, grain: Grain, number: u64, block: &Bytes) {
        if let Some(cache) = self.cache().filter(|_| file.tag != 0) {
            cache.insert(self.key(file, grain, number), block);
        }
    }

    /// Block of a file in the cache. The URL is part of it: two buckets may hold files of one name.
    fn key(&self, file: &FileInfo, grain: Grain, number: u64) -> String {
        let (url, path, tag, size) = (self.url(), &file.path, file.tag, grain.bytes);
        format!("{url} {path} {tag:016x} {size} {number}")
    }

    /// Runs of neighbouring blocks, a request each, all at once; `None` if the file has another size.
    pub(super) async fn read_runs(
        &self,
        location: &Path,
        file: &FileInfo,
        grain: Grain,
        runs: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let ranges: Vec<Range<u64>> = runs.iter().map(|run| bytes_of(file, grain, run)).collect();
        let _pending = Pending::new(self, ranges.iter().map(|range| range.end - range.start).sum());
        let reads = ranges.into_iter().map(|range| self.read_run(location, file, range));
        Ok(try_join_all(reads).await?.into_iter().collect())
    }

    /// Neighbouring blocks with one request; `None` if the file has another size.
    async fn read_run(&self, location: &Path, file: &FileInfo, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let length = range.end - range.start;
        let _turn = self.inner.reads.acquire().await;
        // All of them share one connection to the world, so each may take as long as all together.
        let pending = self.inner.pending.load(Relaxed).max(length);
        let ask = || async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                ..GetOptions::default()
            };
            let found = self.inner.store.get_opts(location, options).await?;
            if found.meta.size != file.size {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        };
        let read = async {
            self.hedged(length, ask)
                .await
                .map_err(|error| self.error(&file.path, &error))
        };
        let read = self.within(&file.path, breaker::deadline(pending), read);
        let bytes = self.measured(Op::Read, read, |bytes| {
            bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
        });
        let bytes = bytes.await?;
        Ok(bytes.filter(|bytes| bytes.len() as u64 == length))
    }

    /// Asks a bucket a second time when the first answer takes longer than most; the first good answer counts.
    pub(super) async fn hedged<T, F: Future<Output = Result<T, object_store::Error>>>(
        &self,
        bytes: u64,
        ask: impl Fn() -> F,
    ) -> Result<T, object_store::Error> {
        let first = Box::pin(ask());
        // A probe asks once: it is about whether the root answers.
        if self.is_local() || self.probing {
            return first.await;
        }
        let patience = Box::pin(tokio::time::sleep(self.hedge_delay(bytes)));
        let first = match select(first, patience).await {
            Either::Left((answer, _)) => return answer,
            Either::Right((_, first)) => first,
        };
        let traffic = self.traffic();
        let reads = self.meter().stats(Op::Read).count;
        if traffic.hedged.load(Relaxed) >= reads / HEDGE_SHARE + HEDGE_FREE {
            return first.await;
        }
        traffic.hedged.fetch_add(1, Relaxed);
        match select(first, Box::pin(ask())).await {
            Either::Left((Err(_), second)) => second.await.inspect(|_| {
                traffic.hedges_won.fetch_add(1, Relaxed);
            }),
            Either::Left((answer, _)) => answer,
            Either::Right((Err(_), first)) => first.await,
            Either::Right((answer, _)) => {
                traffic.hedges_won.fetch_add(1, Relaxed);
                answer
            }
        }
    }

    fn hedge_delay(&self, bytes: u64) -> Duration {
        let usual = self
            .meter()
            .quantile(Op::Read, 95, HEDGE_SAMPLES)
            .unwrap_or(HEDGE_UNKNOWN);
        usual.max(HEDGE_MIN) + Duration::from_millis(bytes * 1000 / HEDGE_BYTES_PER_SECOND)
    }
}

/// Bytes that are asked for and have not come, until dropped.
struct Pending<'a>(&'a Filesystem, u64);

impl<'a> Pending<'a> {
    fn new(fs: &'a Filesystem, bytes: u64) -> Self {
        fs.inner.pending.fetch_add(bytes, Relaxed);
        Self(fs, bytes)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.inner.pending.fetch_sub(self.1, Relaxed);
    }
}

/// The bytes of neighbouring blocks.
fn bytes_of(file: &FileInfo, grain: Grain, run: &Range<u64>) -> Range<u64> {
    run.start * grain.bytes..(run.end * grain.bytes).min(file.size)
}

/// The file from its known blocks and the runs that were read.
fn assemble(file: &FileInfo, mut blocks: Vec<Option<Bytes>>, runs: &[Range<u64>], read: &[Bytes]) -> Bytes {
    if let [only] = read
        && u64::try_from(only.len()) == Ok(file.size)
    {
        return only.clone();
    }
    for (run, bytes) in runs.iter().zip(read) {
        for (at, block) in run.clone().zip(0..) {
            if let Some(slot) = usize::try_from(at).ok().and_then(|at| blocks.get_mut(at)) {
                *slot = Some(part(bytes, COARSE, block));
            }
        }
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(file.size).unwrap_or(0));
    blocks.iter().flatten().for_each(|block| whole.extend_from_slice(block));
    whole.freeze()
}

/// A block of bytes that begin with a block.
pub(super) fn part(bytes: &Bytes, grain: Grain, block: u64) -> Bytes {
    let at = |block: u64| usize::try_from(block * grain.bytes).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(at(block)..at(block + 1))
}

/// The blocks to read (in order), as runs of neighbours that are one request each. A run may contain blocks that are not wanted.
pub(super) fn runs(blocks: impl Iterator<Item = u64>, grain: Grain) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in blocks {
        match runs.last_mut() {
            Some(run) if number - run.end <= grain.gap && number - run.start < REQUEST_BYTES / grain.bytes => {
                run.end = number + 1;
            }
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests;

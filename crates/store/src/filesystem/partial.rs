//! A file of a bucket of which parts are in memory: those that were asked for.
//!
//! Its bytes lie in one region of memory, each at its place, zeros where it was not read yet; so what works on a mapped file works on
//! it, after it has asked [`Partial::absent`]. What is absent is read by [`Partial::fetch`]: in blocks that are verified, through the
//! cache, all at once. Invariant: a byte that is present is what was written, and never changes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, Range};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::stored::{Grain, part, runs};
use super::{FileInfo, Filesystem};
use crate::blocks::{BLOCK_BYTES, Blocks, HeadError};
use crate::error::StoreError;
use crate::map::Region;

/// A search needs a few blocks here and there.
const FINE: Grain = Grain {
    bytes: BLOCK_BYTES,
    gap: 2,
};

/// A file of a bucket that is read part by part. See the module.
pub struct Partial {
    fs: Filesystem,
    file: FileInfo,
    blocks: Blocks,
    region: Region,
    bytes: Bytes,
    /// A bit for each block of the body. Set after the bytes are in their place.
    present: Vec<AtomicU64>,
    /// One puts blocks into the region at a time.
    putting: Mutex<()>,
    /// Blocks that whoever opened it will always need.
    needed: AtomicU64,
}

/// What reading cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Requests that were sent.
    pub requests: u64,
    /// Bytes that they brought.
    pub bytes: u64,
}

impl AddAssign for Fetched {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

/// Blocks by number, and whether the cache lacks them.
type Read = BTreeMap<u64, (Bytes, bool)>;

impl Filesystem {
    /// A file of [blocks](crate::blocks) of this bucket, with its first `needed` bytes or a few more; `None` if the file is none,
    /// or if all of it is needed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the root could not be looked at.
    pub(super) async fn open_partial(&self, file: &FileInfo, mut needed: u64) -> Result<Option<Partial>, StoreError> {
        let mut read = Read::new();
        let mut start = BytesMut::new();
        let blocks = loop {
            if needed.max(BLOCK_BYTES) >= file.size {
                return Ok(None);
            }
            let wanted: Vec<u64> = (read.len() as u64..needed.max(1).div_ceil(BLOCK_BYTES)).collect();
            let Some((more, _)) = self.read_blocks(file, &wanted).await? else {
                return Ok(None);
            };
            more.values().for_each(|(block, _)| start.extend_from_slice(block));
            read.extend(more);
            match Blocks::parse(&start, file.size) {
                Ok(blocks) => break blocks,
                Err(HeadError::Short(short)) => needed = short,
                Err(HeadError::Damaged(_)) => return Ok(None),
            }
        };
        let region = Region::new(file.size).map_err(|error| StoreError::from_io(self.url(), &file.path, &error))?;
        let partial = Partial {
            fs: self.clone(),
            file: file.clone(),
            bytes: region.bytes(),
            present: (0..blocks.count().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            putting: Mutex::default(),
            needed: AtomicU64::new(0),
            region,
            blocks,
        };
        for (number, (bytes, is_new)) in read {
            match number.checked_sub(partial.head_blocks()) {
                None => partial.region.put(number * BLOCK_BYTES, &bytes),
                // One that is damaged stays absent: it is read again when it is needed.
                Some(block) if !partial.put(block, &bytes) => continue,
                Some(_) => {}
            }
            if is_new {
                self.keep(file, FINE, number, &bytes);
            }
        }
        Ok(Some(partial))
    }

    /// Blocks of a file, from the cache or else from the bucket, all at once; `None` if the file has another size.
    async fn read_blocks(&self, file: &FileInfo, numbers: &[u64]) -> Result<Option<(Read, Fetched)>, StoreError> {
        let known = self.cached(file, FINE, numbers).await;
        let absent = numbers.iter().zip(&known).filter(|(_, block)| block.is_none());
        let runs = runs(absent.map(|(number, _)| *number), FINE);
        let Some(read) = self.read_runs(&self.location(&file.path)?, file, FINE, &runs).await? else {
            return Ok(None);
        };
        let fetched = Fetched {
            requests: runs.len() as u64,
            bytes: read.iter().map(|bytes| bytes.len() as u64).sum(),
        };
        let mut blocks = Read::new();
        for (run, bytes) in runs.into_iter().zip(&read) {
            blocks.extend(run.zip(0..).map(|(number, at)| (number, (part(bytes, FINE, at), true))));
        }
        let known = numbers.iter().zip(known);
        blocks.extend(known.filter_map(|(number, block)| Some((*number, (block?, false)))));
        Ok(Some((blocks, fetched)))
    }
}

impl Partial {
    /// The whole file, with zeros where nothing was read yet.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its head.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Path of the file below its root.
    pub fn path(&self) -> &str {
        &self.file.path
    }

    /// The root that it is on.
    pub fn filesystem(&self) -> &Filesystem {
        &self.fs
    }

    /// What was read so far is what is always needed of it.
    pub fn note_needed(&self) {
        self.needed.store(self.present_blocks(), Ordering::Relaxed);
    }

    /// Bytes in memory that would be given up if it were opened anew, about.
    pub fn given_up_bytes(&self) -> u64 {
        let needed = self.needed.load(Ordering::Relaxed);
        self.present_blocks().saturating_sub(needed) * BLOCK_BYTES
    }

    fn present_blocks(&self) -> u64 {
        let ones = |bits: &AtomicU64| u64::from(bits.load(Ordering::Relaxed).count_ones());
        self.present.iter().map(ones).sum()
    }

    /// Where in the file a part of [`bytes`](Self::bytes) is, if not all of it was read yet.
    ///
    /// # Panics
    /// If it is no part of them.
    pub fn absent(&self, part: &[u8]) -> Option<Range<u64>> {
        if part.is_empty() {
            return None;
        }
        let start = part.as_ptr().addr().wrapping_sub(self.bytes.as_ptr().addr()) as u64;
        let end = start
            .checked_add(part.len() as u64)
            .filter(|end| *end <= self.file.size);
        let Some(end) = end else {
            unreachable!("whoever asks has the part from `bytes`")
        };
        let range = start..end;
        (!self.has(range.clone())).then_some(range)
    }

    /// Whether a range of the file was read.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.blocks.touched(&range).all(|block| self.is_present(block))
    }

    fn is_present(&self, block: u64) -> bool {
        let bits = self.present.get(block as usize / 64);
        bits.is_some_and(|bits| bits.load(Ordering::Acquire) >> (block % 64) & 1 == 1)
    }

    /// Reads what is absent of these ranges of the file. `None` if it is another file than before, or a damaged one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such file any more; or when the root could not be looked at.
    pub async fn fetch(&self, ranges: &[Range<u64>]) -> Result<Option<Fetched>, StoreError> {
        let mut wanted: Vec<u64> = ranges.iter().flat_map(|range| self.blocks.touched(range)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|block| !self.is_present(*block));
        let mut fetched = Fetched::default();
        let mut file = self.file.clone();
        // An answer may be damaged on its way, or be one of the cache: what is no good is asked for once more.
        for _ in 0..2 {
            if wanted.is_empty() {
                break;
            }
            let numbers: Vec<u64> = wanted.iter().map(|block| block + self.head_blocks()).collect();
            let Some((read, cost)) = self.fs.read_blocks(&file, &numbers).await? else {
                return Ok(None);
            };
            fetched += cost;
            for (number, (bytes, is_new)) in read {
                let block = number.checked_sub(self.head_blocks());
                if block.is_some_and(|block| self.put(block, &bytes)) && is_new {
                    self.fs.keep(&self.file, FINE, number, &bytes);
                }
            }
            wanted.retain(|block| !self.is_present(*block));
            file.tag = 0;
        }
        Ok(wanted.is_empty().then_some(fetched))
    }

    /// Blocks of the file before its body.
    fn head_blocks(&self) -> u64 {
        self.blocks.body().start / BLOCK_BYTES
    }

    /// Puts a block of the body in its place, if it is good.
    fn put(&self, block: u64, bytes: &Bytes) -> bool {
        if self.is_present(block) {
            return true;
        }
        if !self.blocks.is_good(block, bytes) {
            return false;
        }
        let _one_at_a_time = self.putting.lock();
        if !self.is_present(block) {
            self.region.put(self.blocks.range(block).start, bytes);
            self.present[block as usize / 64].fetch_or(1 << (block % 64), Ordering::Release);
        }
        true
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (present, all) = (self.present_blocks(), self.blocks.count());
        write!(f, "Partial({}: {present} of {all} blocks)", self.file.path)
    }
}

//! Files that never change, as memory: on a disk mapped, so that they cost address space instead of memory and are read when
//! and where they are needed; of a bucket in a region of memory, as far as they were read.
//!
//! **What a map risks.** A file that is cut short or a disk that fails ends the process with SIGBUS at the next touch of a page
//! that is not in memory; a disk that hangs holds the thread that touches it. The database never changes or truncates a
//! file that it maps: such files are written under a staging name, renamed, and only ever unlinked, which leaves a map as it
//! is. The lock of the root keeps other processes of ours away. Somebody else who truncates files of a running database
//! by hand stops it; it starts again without the damaged file.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions, MmapRaw, UncheckedAdvice};

use crate::filesystem::Partial;

/// A file that never changes, mapped or read. Clones share it.
#[derive(Debug, Clone)]
pub struct Stored {
    bytes: Bytes,
    map: Option<Arc<Mmap>>,
    partial: Option<Arc<Partial>>,
}

impl Stored {
    /// What knows which of the bytes are there, if some may not be.
    pub fn partial(&self) -> Option<&Arc<Partial>> {
        self.partial.as_ref()
    }

    /// All bytes; what is sliced off them shares them, and keeps the map for as long as it lives.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Takes the pages that were touched out of the process's memory: they come back, one by one, when they are touched again.
    /// For after a file was read through once to verify it.
    pub fn release_pages(&self) {
        let Some(map) = &self.map else { return };
        // SAFETY: the map is a shared one of a file and cannot be written, so that pages that are dropped hold nothing that the
        // file does not; they are read from it again.
        let dropped = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        // From here on searches jump about in it: reading ahead would fill memory with what nobody asked for.
        if let Err(error) = dropped.and_then(|()| map.advise(Advice::Random)) {
            tracing::debug!(%error, "the pages of a mapped file stay in memory");
        }
    }
}

impl From<Bytes> for Stored {
    fn from(bytes: Bytes) -> Self {
        Self {
            bytes,
            map: None,
            partial: None,
        }
    }
}

impl From<Arc<Partial>> for Stored {
    fn from(partial: Arc<Partial>) -> Self {
        Self {
            bytes: partial.bytes().clone(),
            map: None,
            partial: Some(partial),
        }
    }
}

/// Maps a file, which nobody writes to any more, and reads its first `needed` bytes: what the disk has against that is an error
/// here, and a signal later. Blocking.
pub(crate) fn map(path: &Path, needed: u64) -> io::Result<Stored> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a file"));
    }
    // An empty map is an error of the system call.
    if metadata.len() == 0 {
        return Ok(Bytes::new().into());
    }
    // SAFETY: the bytes stay what they are while the map lives, because nobody writes to a file of this kind once it has its
    // name: see the module, also for what happens if somebody does.
    let map = Arc::new(unsafe { Mmap::map(&file) }?);
    #[cfg(target_os = "linux")]
    match map.advise_range(
        Advice::PopulateRead,
        0,
        map.len().min(usize::try_from(needed).unwrap_or(usize::MAX)),
    ) {
        // Unknown to kernels before 5.14.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
        _ => {}
    }
    Ok(Stored {
        bytes: Bytes::from_owner(Owner(map.clone())),
        map: Some(map),
        partial: None,
    })
}

/// Memory for a file that comes piece by piece: zeros that cost nothing until bytes are put in their place.
///
/// **Who may read what.** Bytes are put in once, before anybody is told that they are there, and nobody reads bytes that he was
/// not told of: [`Partial`](crate::Partial) holds that, and all that reads such a file asks it first.
pub(crate) struct Region {
    map: Arc<MmapRaw>,
}

impl Region {
    pub fn new(bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(length).no_reserve_swap().map_anon()?;
        Ok(Self {
            map: Arc::new(map.into()),
        })
    }

    /// All of it, for as long as somebody holds it.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(RegionOwner(self.map.clone()))
    }

    /// Puts bytes where none were put before.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let end = at.checked_add(bytes.len() as u64);
        assert!(end.is_some_and(|end| end <= self.map.len() as u64), "within the region");
        // SAFETY: the place is within the map, which is writable and lives as long as `self`; `bytes` is other memory. Nobody
        // else writes there at the same time, as the caller puts each byte once, and nobody reads there yet: see the type.
        unsafe {
            let place = self.map.as_mut_ptr().add(at as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }
}

/// Lends the bytes of a region.
struct RegionOwner(Arc<MmapRaw>);

impl AsRef<[u8]> for RegionOwner {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the map is readable and lives as long as its owner. What of it is still written is not read: see `Region`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

/// Lends the bytes of a map for as long as somebody holds them.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use tempfile::TempDir;

    use super::*;
    use crate::filesystem::{FileInfo, Filesystem, FilesystemFactory};
    use crate::url::StorageUrl;

    fn filesystem(directory: &TempDir) -> Filesystem {
        let url = StorageUrl::parse(&format!("file://{}", directory.path().display())).unwrap();
        FilesystemFactory::get_filesystem(&url, &BTreeMap::new()).unwrap()
    }

    fn info(path: &str) -> FileInfo {
        FileInfo {
            path: path.to_owned(),
            size: 0,
            tag: 0,
        }
    }

    #[tokio::test]
    async fn a_mapped_file_is_its_bytes_also_after_it_was_replaced_or_deleted() {
        let directory = TempDir::new().unwrap();
        let fs = filesystem(&directory);
        let content: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        fs.write_atomic("a/b", content.clone().into()).await.unwrap();
        let mapped = fs.map_stored(&info("a/b"), |_| true, u64::MAX).await.unwrap();
        assert!(mapped.map.is_some());
        let part = mapped.bytes().slice(70_000..70_010);
        assert_eq!(part.as_ptr(), mapped.bytes()[70_000..].as_ptr(), "shared, not copied");
        fs.write_atomic("a/b", Bytes::from_static(b"other")).await.unwrap();
        assert_eq!(mapped.bytes(), &content);
        fs.delete("a/b").await.unwrap();
        mapped.release_pages();
        assert_eq!(mapped.bytes(), &content);
        drop(mapped);
        assert_eq!(part, content[70_000..70_010], "a part keeps the map");
    }

    #[tokio::test]
    async fn an_empty_a_missing_and_a_strange_file() {
        let directory = TempDir::new().unwrap();
        let fs = filesystem(&directory);
        fs.write_atomic("empty", Bytes::new()).await.unwrap();
        assert!(
            fs.map_stored(&info("empty"), |_| true, 0)
                .await
                .unwrap()
                .bytes()
                .is_empty()
        );
        assert!(
            fs.map_stored(&info("none"), |_| true, 0)
                .await
                .unwrap_err()
                .is_not_found()
        );
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        fs.map_stored(&info("directory"), |_| true, 0).await.unwrap_err();
        fs.map_stored(&info("../up"), |_| true, 0).await.unwrap_err();
        drop(directory);
        let away = fs.map_stored(&info("empty"), |_| true, 0).await.unwrap_err();
        assert!(
            !away.is_not_found(),
            "a missing disk says nothing about its files: {away}"
        );
    }
}

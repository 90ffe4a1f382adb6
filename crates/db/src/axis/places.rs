//! Which root has which index file, as it was listed or written.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::{IndexHomes, parse_name};
use crate::engine::segment::SegmentId;
use crate::root::{IndexType, RootId};
use crate::schema::CollectionId;

/// Where the files are, and where they should be.
pub(super) struct Places {
    pub homes: IndexHomes,
    pub files: BTreeMap<FileKey, BTreeMap<RootId, Copy>>,
    /// Buckets that were listed. They are not listed again, as that is billed: nobody else changes what is there.
    pub listed: BTreeSet<RootId>,
    pub closed: bool,
}

/// One file, whatever root it is on.
pub(super) type FileKey = (SegmentId, IndexType);

/// A file on one root, as it was listed or written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub bytes: u64,
    /// Of the listing; 0 for what was written since.
    pub tag: u64,
    /// Damaged, stale, or changed by somebody else.
    pub bad: bool,
}

/// What reading a copy found wrong with it.
pub(super) enum Fault {
    /// It is damaged or stale.
    Bad,
    /// It is not there any more.
    Gone,
}

impl Places {
    /// Notes what is wrong with copies.
    pub fn note_faults(&mut self, key: FileKey, faults: Vec<(RootId, Fault)>) {
        for (root, fault) in faults {
            match fault {
                Fault::Bad => self.mark_bad(key, root),
                Fault::Gone => drop(self.forget(key, root)),
            }
        }
    }

    /// The roots with a good copy of a file.
    pub fn holders(&self, key: FileKey) -> BTreeSet<RootId> {
        let copies = self.files.get(&key).into_iter().flatten();
        copies.filter(|(_, copy)| !copy.bad).map(|(root, _)| *root).collect()
    }

    /// Whether one of these roots is a disk.
    pub fn is_on_disk(&self, holders: &BTreeSet<RootId>) -> bool {
        let mut roots = self.homes.all().into_iter();
        roots.any(|root| holders.contains(&root.id()) && root.fs().is_local())
    }

    pub fn note(&mut self, key: FileKey, root: RootId, copy: Copy) {
        self.files.entry(key).or_default().insert(root, copy);
    }

    pub fn mark_bad(&mut self, key: FileKey, root: RootId) {
        if let Some(copy) = self.files.get_mut(&key).and_then(|copies| copies.get_mut(&root)) {
            copy.bad = true;
        }
    }

    pub fn forget(&mut self, key: FileKey, root: RootId) -> Option<Copy> {
        let copies = self.files.get_mut(&key)?;
        let copy = copies.remove(&root);
        if copies.is_empty() {
            self.files.remove(&key);
        }
        copy
    }
}

/// Looks at what every root holds; at a bucket once. What is known of a root that is not listed stays as it was.
pub(super) async fn list(places: &mut Places, collection: CollectionId, directory: &str) {
    let roots = places.homes.all();
    let listings = roots.iter().map(|root| async {
        if places.listed.contains(&root.id()) {
            return None;
        }
        Some(root.list(directory).await)
    });
    let listings = join_all(listings).await;
    let before = std::mem::take(&mut places.files);
    for (root, listing) in roots.iter().zip(listings) {
        let known = |key: &FileKey| before.get(key).and_then(|copies| copies.get(&root.id())).copied();
        let keep = |places: &mut Places| {
            let known = before.keys().filter_map(|key| Some((*key, known(key)?)));
            known.for_each(|(key, copy)| places.note(key, root.id(), copy));
        };
        match listing {
            None => keep(places),
            Some(Ok(files)) => {
                if !root.fs().is_local() {
                    places.listed.insert(root.id());
                }
                for file in files {
                    let Some(key) = key_of(directory, &file.path) else {
                        continue;
                    };
                    let (bytes, tag, before) = (file.size, file.tag, known(&key));
                    if let Some(before) = before.filter(|copy| copy.bytes != bytes) {
                        root.remove_usage(collection, before.bytes, 1);
                        root.add_usage(collection, bytes, 1);
                    }
                    let bad = before.is_some_and(|copy| copy.bad || copy.bytes != bytes);
                    places.note(key, root.id(), Copy { bytes, tag, bad });
                }
                // What somebody else has deleted counts no more.
                for (key, copy) in before.keys().filter_map(|key| Some((key, known(key)?))) {
                    if places
                        .files
                        .get(key)
                        .is_none_or(|copies| !copies.contains_key(&root.id()))
                    {
                        root.remove_usage(collection, copy.bytes, 1);
                    }
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "index root not listed; what it lacks is built again in memory");
                keep(places);
            }
        }
    }
}

/// The file that a path directly below `directory` is.
pub(super) fn key_of(directory: &str, path: &str) -> Option<FileKey> {
    let name = path.strip_prefix(directory)?.strip_prefix('/')?;
    if name.contains('/') { None } else { parse_name(name) }
}

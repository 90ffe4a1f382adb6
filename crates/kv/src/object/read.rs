//! Finding and reading the newest version of a key.
//!
//! One listing finds its number. A record that is known under this number is the newest one, without another request;
//! else it is read, and believed when it is the object that was listed (by its ETag) or, without ETags, when a second
//! listing shows the same number: between listing and reading, the version may have been outdated and removed, and a
//! stalled writer may have put its own under the free name.

use std::sync::Arc;

use object_store::path::Path;

use super::{MAX_HEAD_VALUE, ObjectKv};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{KeyName, leading_number, number};
use crate::record::Record;

/// Each further look means that other writers made two changes between a listing and a read.
const LOOKS: usize = 100;
/// A damaged answer may be the fault of the network: it is asked for again.
const READS: usize = 3;

/// The objects of a key.
pub(super) struct Seen {
    /// The newest version.
    pub number: u64,
    e_tag: Option<String>,
    /// All objects but the newest version and the one before it, with the numbers that their names begin with.
    pub outdated: Vec<Path>,
}

impl ObjectKv {
    /// The newest record of the key, which may be that of a deletion.
    pub(super) async fn newest(&self, key: &str, name: &KeyName) -> Result<Option<Arc<Record>>> {
        match self.look(key, name).await? {
            Some(seen) => self.newest_seen(key, name, seen).await,
            None => Ok(None),
        }
    }

    /// As [`newest`](Self::newest), after a look.
    pub(super) async fn newest_seen(&self, key: &str, name: &KeyName, mut seen: Seen) -> Result<Option<Arc<Record>>> {
        for _ in 0..LOOKS {
            if let Some(known) = self.known(name).filter(|known| known.version.number == seen.number) {
                return Ok(Some(known));
            }
            let read = self.read_record(key, name, seen.number).await?;
            let is_listed = |e_tag: &Option<String>| match (e_tag, &seen.e_tag) {
                (Some(read), Some(listed)) => bare(read) == bare(listed),
                _ => false,
            };
            if let Some((record, e_tag)) = &read
                && is_listed(e_tag)
            {
                return Ok(Some(self.remember(name, Arc::clone(record))));
            }
            let Some(again) = self.look(key, name).await? else {
                return Ok(None);
            };
            if let Some((record, _)) = read
                && again.number == seen.number
            {
                return Ok(Some(self.remember(name, record)));
            }
            seen = again;
        }
        let reason = "it changes faster than it can be read";
        Err(Error::new(ErrorKind::Unavailable, &self.url, key, reason))
    }

    /// What is there of the key; `None` when it never existed.
    pub(super) async fn look(&self, key: &str, name: &KeyName) -> Result<Option<Seen>> {
        let mut objects = self.list_below(key, name.as_str()).await?;
        let version = |path: &Path| path.filename().and_then(number);
        let newest = objects
            .iter_mut()
            .filter_map(|object| Some((version(&object.location)?, object.e_tag.take())));
        let Some((number, e_tag)) = newest.max_by_key(|(number, _)| *number) else {
            return Ok(None);
        };
        let outdated = |path: &Path| leading_number(path).is_some_and(|of| of + 1 < number);
        let paths = objects.into_iter().map(|object| object.location);
        Ok(Some(Seen {
            number,
            e_tag,
            outdated: paths.filter(outdated).collect(),
        }))
    }

    async fn read_record(
        &self,
        key: &str,
        name: &KeyName,
        number: u64,
    ) -> Result<Option<(Arc<Record>, Option<String>)>> {
        let name = name.version(number);
        let mut reason = String::new();
        for _ in 0..READS {
            let Some(object) = self.read_object(key, &name).await? else {
                return Ok(None);
            };
            match Record::decode(&name, &object.bytes) {
                Ok(record) if record.version.number == number => return Ok(Some((Arc::new(record), object.e_tag))),
                Ok(record) => reason = format!("it says that it is version {}", record.version.number),
                Err(wrong) => reason = wrong,
            }
        }
        let reason = format!("{name}: {reason}");
        Err(Error::new(ErrorKind::Corrupt, &self.url, key, reason))
    }

    /// The newest record as far as this process knows.
    pub(super) fn known(&self, name: &KeyName) -> Option<Arc<Record>> {
        self.shared.heads.lock().get(name.as_str()).cloned()
    }

    /// Keeps a record that was the newest one.
    pub(super) fn remember(&self, name: &KeyName, record: Arc<Record>) -> Arc<Record> {
        let mut heads = self.shared.heads.lock();
        let is_newer = |known: &Arc<Record>| known.version.number > record.version.number;
        if heads.peek(name.as_str()).is_some_and(is_newer) {
            return record;
        }
        if record.value.as_ref().is_none_or(|value| value.len() <= MAX_HEAD_VALUE) {
            heads.put(name.as_str().to_owned(), Arc::clone(&record));
        } else {
            heads.pop(name.as_str());
        }
        record
    }
}

/// Servers write an ETag with and without quotes.
fn bare(e_tag: &str) -> &str {
    e_tag.trim_matches('"')
}

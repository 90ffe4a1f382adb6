//! What has to be read of files on buckets before rows and indexes can be looked at.
//!
//! What reads rows is plain code that does not wait. It notes what it lacks, all of it at once, and gives up; whoever called it reads that
//! and calls it again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use proximadb_store::Partial;

use crate::error::Error;

/// Parts of files that were not read yet.
#[derive(Debug, Default)]
pub struct Absent {
    /// By the address of the file in memory: the same file may be open twice.
    files: BTreeMap<usize, (Arc<Partial>, Vec<Range<u64>>)>,
}

/// Why rows were not looked at.
#[derive(Debug)]
pub enum Miss {
    /// These were not read yet.
    Absent(Absent),
    /// Reading them would not help.
    Failed(Error),
}

impl Absent {
    /// Notes a part of a file's bytes, if not all of it is there.
    pub fn note(&mut self, file: &Arc<Partial>, part: &[u8]) {
        if let Some(range) = file.absent(part) {
            self.add(file, range);
        }
    }

    /// Adds a range of a file that is not there.
    pub fn add(&mut self, file: &Arc<Partial>, range: Range<u64>) {
        let new = || (file.clone(), Vec::new());
        let (_, ranges) = self.files.entry(Arc::as_ptr(file).addr()).or_insert_with(new);
        ranges.push(range);
    }

    /// Adds what another one has noted.
    pub fn extend(&mut self, other: Self) {
        for (file, ranges) in other.into_files() {
            ranges.into_iter().for_each(|range| self.add(&file, range));
        }
    }

    /// Whether nothing is absent.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// # Errors
    /// Itself, if something is absent.
    pub fn check(self) -> Result<(), Miss> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Miss::Absent(self))
        }
    }

    /// Each file with what is to be read of it.
    pub fn into_files(self) -> impl Iterator<Item = (Arc<Partial>, Vec<Range<u64>>)> {
        self.files.into_values()
    }
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// All results, or else what all of them together lack.
///
/// # Errors
/// The first failure, or everything that is absent.
pub fn all<T>(results: impl Iterator<Item = Result<T, Miss>>) -> Result<Vec<T>, Miss> {
    let (mut found, mut absent) = (Vec::new(), Absent::default());
    for result in results {
        match result {
            Ok(value) => found.push(value),
            Err(Miss::Absent(more)) => absent.extend(more),
            Err(failed) => return Err(failed),
        }
    }
    absent.check().map(|()| found)
}

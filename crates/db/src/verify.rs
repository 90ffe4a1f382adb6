//! Verification: every file of every root against its checksum, its manifest and its placement.
//!
//! Owns what counts as wrong and the words for it. Changes nothing: it opens the roots for a look and locks them, and runs
//! none of the repairs of a start, so that a finding is still there for whoever decides what to do about it.
//!
//! ```text
//! roots ─▶ listing ─▶ records ─▶ each collection: places ▸ segments or tree ▸ log ▸ indexes ─▶ findings
//! ```
//!
//! The places of a collection's component are all roots that its record names; files elsewhere are named and not read:
//! nothing uses them.

mod collection;
mod indexes;
mod log;
mod places;
mod records;
mod roots;
mod segments;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;

use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;

use crate::config::Config;
use crate::database::root_configs;
use crate::discovery::{Discovery, discover};
use crate::error::{Error, Result};
use crate::root::{Root, Roots, StorageComponentType, Usage};

/// Collections checked at the same time: enough to keep a disk busy, few enough that the log files and segments in memory,
/// one of each, stay below a gigabyte.
const COLLECTIONS_AT_ONCE: usize = 4;

/// What kind of thing was found, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A file is not what was written, or not what its name or its place says.
    Damaged,
    /// Something that a record or a manifest names is not there.
    Missing,
    /// A root or a file could not be read: what is there is unknown.
    Unreachable,
    /// Fewer copies than there should be; the data is there, and the server makes them again.
    Incomplete,
    /// Files of a collection on a root that its record does not name, besides those where it does.
    Duplicate,
    /// A file that nothing names: of an unfinished write, or replaced.
    Orphan,
    /// A file of no known kind, or of a collection that lives elsewhere.
    Stray,
    /// As it should be, and worth knowing.
    Information,
}

impl FindingKind {
    /// Whether the verification fails because of it. A root that cannot be read is not known to be well.
    pub fn is_damage(self) -> bool {
        matches!(self, Self::Damaged | Self::Missing | Self::Unreachable)
    }

    /// Whether somebody should look at it, although no data is concerned.
    pub fn is_warning(self) -> bool {
        matches!(self, Self::Incomplete | Self::Duplicate | Self::Orphan | Self::Stray)
    }

    /// Lower-case name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Unreachable => "unreachable",
            Self::Incomplete => "incomplete",
            Self::Duplicate => "duplicate",
            Self::Orphan => "orphan",
            Self::Stray => "stray",
            Self::Information => "information",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// URL of the root, as configured.
    pub root: String,
    /// The file or directory below the root; empty for the root itself.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
    #[serde(skip)]
    component: StorageComponentType,
}

impl Finding {
    fn new(kind: FindingKind, root: &Root, path: &str, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            kind,
            root: root.url().to_owned(),
            path: path.to_owned(),
            problem: problem.into(),
            advice: advice.into(),
            component: root.component(),
        }
    }
}

/// What lies on one root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootTotals {
    /// URL as configured.
    pub url: String,
    /// Directories of collections.
    pub collection_directories: u64,
    /// Files in them, as `find -type f` counts.
    pub files: u64,
    /// Their bytes, as `du -b` counts files.
    pub bytes: u64,
}

/// The outcome for one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The component.
    pub component: StorageComponentType,
    /// Its roots that were ever used, in the order of the configuration.
    pub roots: Vec<RootTotals>,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
}

impl Section {
    /// Whether nothing is damaged, missing or unreachable.
    pub fn passed(&self) -> bool {
        !self.findings.iter().any(|finding| finding.kind.is_damage())
    }

    /// Directories, files and bytes over all roots; the URL is empty.
    pub fn totals(&self) -> RootTotals {
        let zero = RootTotals {
            url: String::new(),
            collection_directories: 0,
            files: 0,
            bytes: 0,
        };
        self.roots.iter().fold(zero, |sum, root| RootTotals {
            collection_directories: sum.collection_directories + root.collection_directories,
            files: sum.files + root.files,
            bytes: sum.bytes + root.bytes,
            ..sum
        })
    }
}

/// The outcome for everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// One for each component, in the order of reports.
    pub sections: Vec<Section>,
}

impl Verification {
    /// All findings, section by section.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.sections.iter().flat_map(|section| &section.findings)
    }

    /// Number of findings that fail the verification.
    pub fn damaged(&self) -> usize {
        self.findings().filter(|finding| finding.kind.is_damage()).count()
    }

    /// Number of findings that somebody should look at.
    pub fn warnings(&self) -> usize {
        self.findings().filter(|finding| finding.kind.is_warning()).count()
    }
}

/// Checks every file of the configured roots, which are locked meanwhile.
///
/// # Errors
/// [`Error::Config`] if a server uses the roots, if they are not what the configuration says, or if none was ever used:
/// then there is nothing to verify, which must not look like success.
pub async fn verify(config: &Config) -> Result<Verification> {
    let configs = root_configs(config)?;
    let urls = configs.len();
    let roots = Roots::inspect(configs).await?;
    if roots.all().is_empty() {
        return Err(Error::Config(format!(
            "nothing to verify: none of the {urls} configured roots was ever used; is this the right configuration?"
        )));
    }
    let discovery = discover(&roots).await;
    let mut findings = roots::check(&discovery).await;
    let records = records::check(&roots, &discovery, &mut findings).await;
    let collections = collection::all(&roots, &discovery, &records);
    let checks: Vec<_> = collections.iter().map(|collection| collection.check()).collect();
    let mut checks = futures::stream::iter(checks).buffer_unordered(COLLECTIONS_AT_ONCE);
    while let Some(more) = checks.next().await {
        findings.extend(more);
    }
    drop(checks);
    let sections = StorageComponentType::ALL
        .into_iter()
        .map(|component| section(component, &discovery, &findings));
    let verification = Verification {
        sections: sections.collect(),
    };
    roots.close();
    Ok(verification)
}

fn section(component: StorageComponentType, discovery: &Discovery, findings: &[Finding]) -> Section {
    let roots = discovery
        .roots
        .iter()
        .filter(|found| found.root.component() == component);
    let mut findings: Vec<Finding> = findings
        .iter()
        .filter(|finding| finding.component == component)
        .cloned()
        .collect();
    findings.sort_by(|a, b| (a.kind, &a.root, &a.path).cmp(&(b.kind, &b.root, &b.path)));
    let totals = |found| {
        let Usage { bytes, files } = roots::usage(found);
        RootTotals {
            url: found.root.url().to_owned(),
            collection_directories: found.collections.len() as u64,
            files,
            bytes,
        }
    };
    Section {
        component,
        roots: roots.map(totals).collect(),
        findings,
    }
}

/// The bytes of a file; that they cannot be read is a finding.
async fn read(root: &Root, path: &str, findings: &mut Vec<Finding>) -> Option<Bytes> {
    let read = root.read(path).await;
    read.map_err(|error| findings.push(failure(root, path, &error))).ok()
}

/// The finding of a failed check: damage, or a root that could not be read.
fn failure(root: &Root, path: &str, error: &Error) -> Finding {
    match error {
        Error::Corruption(reason) => Finding::new(FindingKind::Damaged, root, path, reason.as_str(), RESTORE),
        other => Finding::new(FindingKind::Unreachable, root, path, other.to_string(), MAKE_READABLE),
    }
}

/// Bytes for people.
fn human_bytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1_048_576.0)
}

/// What helps when acknowledged data is damaged or gone.
const RESTORE: &str = "restore it from a backup, or drop the collection and import it again";
/// What helps when something cannot be read.
const MAKE_READABLE: &str = "make it readable (is the disk mounted, the bucket reachable?) and verify again";

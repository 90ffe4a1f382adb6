//! Names of things: the identity of a root, and the five components.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of a root: what manifests and assignments name instead of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootId(pub Uuid);

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

impl FromStr for RootId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

/// The five components; each has its own roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageComponentType {
    /// Write-ahead log.
    Wal,
    /// Parquet segments and manifests.
    Viper,
    /// LSM data.
    Lsm,
    /// Vector indexes.
    Index,
    /// Collection metadata.
    Metadata,
}

impl StorageComponentType {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Wal, Self::Viper, Self::Lsm, Self::Index, Self::Metadata];

    /// Lower-case name, as in URLs of the `[storage] urls` shorthand, metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Viper => "viper",
            Self::Lsm => "lsm",
            Self::Index => "index",
            Self::Metadata => "metadata",
        }
    }

    /// Extensions of the files that hold this component's data (FEATURES E2).
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Wal => &["avro", "bincode"],
            Self::Viper => &["parquet", "vpr"],
            Self::Lsm => &["sst", "lsm"],
            Self::Index => &["idx", "hnsw", "ivf"],
            Self::Metadata => &["json", "meta"],
        }
    }
}

impl fmt::Display for StorageComponentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StorageComponentType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|component| component.name() == text)
            .ok_or_else(|| format!("unknown component `{text}`: expected wal, viper, lsm, index or metadata"))
    }
}

/// Kinds of index files; each is a group of its own where `index_type_affinity` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexType {
    /// Graph.
    Hnsw,
    /// Clusters.
    Ivf,
    /// Any other kind.
    Idx,
}

impl IndexType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hnsw, Self::Ivf, Self::Idx];

    /// Its name, which is also the extension of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hnsw => "hnsw",
            Self::Ivf => "ivf",
            Self::Idx => "idx",
        }
    }
}

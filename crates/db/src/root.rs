//! Roots: one configured URL of one component each. Here only their identity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of a root, written once into the root itself. Records name it, never a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootId(pub Uuid);

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

/// What a root stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageComponentType {
    /// The write-ahead log.
    Wal,
    /// Parquet segments.
    Viper,
    /// LSM data.
    Lsm,
    /// Vector indexes.
    Index,
    /// Records of the collections.
    Metadata,
}

impl StorageComponentType {
    /// Every component.
    pub const ALL: [Self; 5] = [Self::Wal, Self::Viper, Self::Lsm, Self::Index, Self::Metadata];

    /// The lowercase name used in files, metrics and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Viper => "viper",
            Self::Lsm => "lsm",
            Self::Index => "index",
            Self::Metadata => "metadata",
        }
    }
}

impl fmt::Display for StorageComponentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StorageComponentType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|component| component.name() == text);
        found.ok_or_else(|| {
            format!(
                "unknown component `{text}`: choose {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

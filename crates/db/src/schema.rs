//! What a collection is: its vectors, its settings and its name. Pure data, carried by every self-describing file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use proximadb_index::{HnswParams, Metric};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Id of a collection, a UUID (v7). Paths carry the id, never the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CollectionId(pub Uuid);

impl fmt::Display for CollectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.hyphenated())
    }
}

impl FromStr for CollectionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Distance of a vector space, by the names of the Qdrant API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distance {
    /// Cosine similarity; vectors are stored normalised. Larger is better.
    Cosine,
    /// Inner product. Larger is better.
    Dot,
    /// Euclidean distance. Smaller is better.
    Euclid,
    /// Sum of absolute differences. Smaller is better.
    Manhattan,
}

impl Distance {
    /// The metric over stored vectors: cosine is the dot product of normalised vectors.
    pub fn metric(self) -> Metric {
        match self {
            Self::Cosine | Self::Dot => Metric::Dot,
            Self::Euclid => Metric::Euclidean,
            Self::Manhattan => Metric::Manhattan,
        }
    }
}

/// Most dimensions of a vector.
pub const MAX_DIMENSIONS: usize = 65_535;

/// One vector space of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorSpace {
    /// Number of dimensions, 1 to [`MAX_DIMENSIONS`].
    #[serde(deserialize_with = "dimensions")]
    pub size: usize,
    /// How two vectors compare.
    pub distance: Distance,
    /// Further fields of the Qdrant API (`on_disk`, `hnsw_config`, …), kept and answered as given.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Rows are made by this number, so a file must not say any.
fn dimensions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let size = usize::deserialize(deserializer)?;
    if (1..=MAX_DIMENSIONS).contains(&size) {
        return Ok(size);
    }
    Err(D::Error::custom(format_args!(
        "a vector space has from 1 to {MAX_DIMENSIONS} dimensions, not {size}"
    )))
}

/// Engine that keeps the segments of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageEngineKind {
    /// Parquet segments.
    #[default]
    Viper,
    /// A log-structured merge tree.
    Lsm,
}

/// Which vector index a collection asks for: `metadata.proximadb.index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexChoice {
    /// What suits the data.
    #[default]
    Auto,
    /// Lists of similar rows.
    Ivf,
    /// A graph of similar rows.
    Hnsw,
    /// Short lists of similar rows, and a graph that leads to them.
    Hybrid,
    /// None: every row is compared.
    Flat,
}

/// Kind of a payload index, by the names of the Qdrant API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the Qdrant API's own")]
pub enum PayloadKind {
    Keyword,
    Integer,
    Float,
    Geo,
    Text,
    Bool,
    Datetime,
    Uuid,
}

/// Everything about a collection that its creator chose. Serialised into its metadata record, its manifests,
/// and the header of every WAL and data file, so that the files alone describe it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Vector spaces by name; the default one has the empty name.
    pub vectors: BTreeMap<String, VectorSpace>,
    /// Engine of the data.
    #[serde(default)]
    pub storage_engine: StorageEngineKind,
    /// Indexed payload fields: path → the index parameters as given (a string or an object with `type`).
    #[serde(default)]
    pub payload_indexes: BTreeMap<String, serde_json::Value>,
    /// Further settings of the Qdrant API (`hnsw_config`, `optimizers_config`, `metadata`, …), answered as given.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Schema {
    /// The region that the collection is to stay in: `metadata.proximadb.region`.
    pub fn region(&self) -> Option<&str> {
        self.asked("region")?.as_str()
    }

    /// The vector index that the creator chose: `metadata.proximadb.index`. Unknown choices were refused when they were made.
    pub fn index(&self) -> IndexChoice {
        let choice = self.asked("index").map(IndexChoice::deserialize);
        choice.and_then(Result::ok).unwrap_or_default()
    }

    /// How the graph of a vector space is built: `hnsw_config` of the space, else of the collection, as in the Qdrant API.
    pub fn hnsw(&self, space: &str) -> HnswParams {
        let of_space = self.vectors.get(space).and_then(|space| space.other.get("hnsw_config"));
        let asked = |key: &str| {
            let of_collection = self.settings.get("hnsw_config");
            let mut settings = of_space.into_iter().chain(of_collection);
            settings.find_map(|settings| usize::try_from(settings.get(key)?.as_u64()?).ok())
        };
        let default = HnswParams::default();
        HnswParams {
            m: asked("m").unwrap_or(default.m),
            ef_construct: asked("ef_construct").unwrap_or(default.ef_construct),
        }
    }

    fn asked(&self, key: &str) -> Option<&serde_json::Value> {
        self.settings.get("metadata")?.get("proximadb")?.get(key)
    }
}

/// Identity and schema of a collection: what a self-describing file carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionDescription {
    /// The collection.
    pub id: CollectionId,
    /// Its name when the file was written.
    pub name: String,
    /// Its schema when the file was written.
    pub schema: Schema,
    /// When it was created, ms since 1970 UTC.
    pub created_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_a_number_of_dimensions_that_no_collection_has_is_refused() {
        let space = |size: u64| serde_json::from_str::<VectorSpace>(&format!(r#"{{"size":{size},"distance":"Dot"}}"#));
        for size in [1, 65_535] {
            assert!(space(size).is_ok(), "{size}");
        }
        for size in [0, 65_536, u64::MAX] {
            assert!(space(size).is_err(), "{size}");
        }
    }
}

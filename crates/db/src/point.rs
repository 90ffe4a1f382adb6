//! Points: ids, named vectors and payloads, as every component passes them around.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// Sequence number of one operation within a shard; starts at 1 and never repeats.
pub type Seq = u64;

/// JSON object attached to a point.
pub type Payload = serde_json::Map<String, serde_json::Value>;

/// Id of a point: an unsigned 64-bit number or a UUID. Numbers sort before UUIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointId {
    /// An unsigned integer.
    Num(u64),
    /// A UUID, always written hyphenated.
    Uuid(Uuid),
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => write!(f, "{number}"),
            Self::Uuid(uuid) => write!(f, "{}", uuid.hyphenated()),
        }
    }
}

/// The text is neither an unsigned 64-bit number nor a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid point ID, valid values are either an unsigned integer or a UUID")]
pub struct PointIdError(pub String);

impl FromStr for PointId {
    type Err = PointIdError;

    /// Reads a decimal number or a UUID in simple, hyphenated or `urn:uuid:` form.
    fn from_str(text: &str) -> Result<Self, PointIdError> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Num(number));
        }
        Uuid::try_parse(text)
            .map(Self::Uuid)
            .map_err(|_| PointIdError(text.to_owned()))
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Num(number) => serializer.serialize_u64(*number),
            Self::Uuid(uuid) => serializer.collect_str(&uuid.hyphenated()),
        }
    }
}

impl<'de> Deserialize<'de> for PointId {
    /// A JSON number or a UUID string; a number inside a string is refused, as Qdrant does.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = PointId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a point ID: an unsigned integer or a UUID string")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PointId, E> {
                Ok(PointId::Num(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PointId, E> {
                let number = u64::try_from(number).map_err(|_| E::custom(PointIdError(number.to_string())))?;
                Ok(PointId::Num(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PointId, E> {
                let uuid = Uuid::try_parse(text).map_err(|_| E::custom(PointIdError(text.to_owned())))?;
                Ok(PointId::Uuid(uuid))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// The vectors of one point by name; the default vector has the empty name. Sorted by name, names are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamedVectors(Vec<(String, Vec<f32>)>);

impl NamedVectors {
    /// One vector under the default (empty) name.
    pub fn single(vector: Vec<f32>) -> Self {
        Self(vec![(String::new(), vector)])
    }

    /// The vector called `name`, if the point has it.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, vector)| vector.as_slice())
    }

    /// Sets or replaces the vector called `name`.
    pub fn insert(&mut self, name: String, vector: Vec<f32>) {
        match self.0.binary_search_by(|(own, _)| own.as_str().cmp(&name)) {
            Ok(at) => self.0[at].1 = vector,
            Err(at) => self.0.insert(at, (name, vector)),
        }
    }

    /// Removes the vector called `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| own != name);
    }

    /// The vectors in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.0.iter().map(|(name, vector)| (name.as_str(), vector.as_slice()))
    }

    /// The same, to change values in place (normalisation).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Vec<f32>)> {
        self.0.iter_mut().map(|(name, vector)| (name.as_str(), vector))
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the point has no vector at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A point as it is stored: vectors of a cosine space are already normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The id, unique within the collection.
    pub id: PointId,
    /// Its vectors by name.
    pub vectors: NamedVectors,
    /// Its payload; empty when it has none.
    pub payload: Payload,
}

/// One logged operation. Partial updates (payload, single vectors) are logged as the full point that results,
/// so replay needs no earlier state and is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Insert the point or replace the one with the same id.
    Upsert(Point),
    /// Delete the point; deleting a missing one is fine.
    Delete(PointId),
}

impl Operation {
    /// The id of the point that changes.
    pub fn id(&self) -> PointId {
        match self {
            Self::Upsert(point) => point.id,
            Self::Delete(id) => *id,
        }
    }
}

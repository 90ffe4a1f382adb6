//! Vectors in requests and answers: a plain list is the default vector, an object is vectors by name.
//!
//! Read by visitors and not by untagged enums: those would copy every number twice, and vectors are most of the bytes.

use std::fmt;

use proximadb_db::point::NamedVectors;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

const MULTI: &str = "multivectors are not supported by this version of ProximaDB";
const SPARSE: &str = "sparse vectors are not supported by this version of ProximaDB";
const INFERENCE: &str = "inference is not supported: send a vector, not a document, an image or an object";

/// Room reserved at first for a list whose length is not known; it grows from here.
const FIRST_CAPACITY: usize = 1024;

/// One dense vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense(pub Vec<f32>);

/// One number of a vector; anything else says which kind of vector was sent instead.
struct Element(f32);

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Element, E> {
        Ok(Element(value as f32))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Element, E> {
        Ok(Element(value as f32))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Element, E> {
        Ok(Element(value as f32))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Element, A::Error> {
        Err(de::Error::custom(MULTI))
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

/// Reads the numbers of a list.
pub(super) fn numbers<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<f32>, A::Error> {
    let mut values = Vec::with_capacity(list.size_hint().unwrap_or(FIRST_CAPACITY));
    while let Some(Element(value)) = list.next_element()? {
        values.push(value);
    }
    values.shrink_to_fit();
    Ok(values)
}

struct DenseVisitor;

impl<'de> Visitor<'de> for DenseVisitor {
    type Value = Dense;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Dense, A::Error> {
        numbers(list).map(Dense)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dense, A::Error> {
        let first: Option<String> = map.next_key()?;
        Err(de::Error::custom(unsupported_object(first.as_deref())))
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Dense, E> {
        // `{"text": …, "model": …}` in place of an object of vectors by name.
        Err(E::custom(INFERENCE))
    }
}

/// Why an object in place of a vector is refused, by its first key.
pub(super) fn unsupported_object(first_key: Option<&str>) -> &'static str {
    match first_key {
        Some("indices" | "values") => SPARSE,
        _ => INFERENCE,
    }
}

impl<'de> Deserialize<'de> for Dense {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DenseVisitor)
    }
}

/// The vectors of one point: `[0.1, …]` or `{"name": [0.1, …], …}`.
#[derive(Debug, Clone, PartialEq)]
pub struct PointVectors(pub NamedVectors);

struct PointVectorsVisitor;

impl<'de> Visitor<'de> for PointVectorsVisitor {
    type Value = PointVectors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers or an object of such lists by vector name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<PointVectors, A::Error> {
        Ok(PointVectors(NamedVectors::single(numbers(list)?)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PointVectors, A::Error> {
        let mut vectors = NamedVectors::default();
        while let Some(name) = map.next_key::<String>()? {
            let Dense(vector) = map.next_value()?;
            vectors.insert(name, vector);
        }
        Ok(PointVectors(vectors))
    }
}

impl<'de> Deserialize<'de> for PointVectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PointVectorsVisitor)
    }
}

/// The vectors of a column-form upsert, one entry per point: a list of vectors, or an object of such lists by name.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorColumns(pub Vec<(String, Vec<Vec<f32>>)>);

struct VectorColumnsVisitor;

impl<'de> Visitor<'de> for VectorColumnsVisitor {
    type Value = VectorColumns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of vectors or an object of such lists by vector name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VectorColumns, A::Error> {
        let mut column = Vec::new();
        while let Some(Dense(vector)) = list.next_element()? {
            column.push(vector);
        }
        Ok(VectorColumns(vec![(String::new(), column)]))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VectorColumns, A::Error> {
        let mut columns = Vec::new();
        while let Some((name, column)) = map.next_entry::<String, Vec<Dense>>()? {
            columns.push((name, column.into_iter().map(|Dense(vector)| vector).collect()));
        }
        Ok(VectorColumns(columns))
    }
}

impl<'de> Deserialize<'de> for VectorColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VectorColumnsVisitor)
    }
}

/// A present and non-null value that only says that a feature was asked for.
pub type Present = Option<IgnoredAny>;

/// The vectors of a point in an answer: a plain list if there is only the default one.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorsOut(pub NamedVectors);

impl Serialize for VectorsOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let (1, Some(vector)) = (self.0.len(), self.0.get("")) {
            return vector.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, vector) in self.0.iter() {
            map.serialize_entry(name, vector)?;
        }
        map.end()
    }
}

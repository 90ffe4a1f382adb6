//! Bodies of the collection routes: create and change, and the description of a collection in answers.

use std::collections::BTreeMap;

use proximadb_db::CollectionInfo;
use proximadb_db::schema::{CollectionDescription, Distance, MAX_DIMENSIONS, Schema, VectorSpace};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::{self, checked, clean, wrong};
use super::index::IndexOut;
use super::proximadb::storage_engine;
use crate::failure::Failure;

/// Longest collection name, in bytes, as Qdrant has it.
const MAX_NAME_BYTES: usize = 255;
/// Characters that Qdrant refuses in the name of a new collection, beside control characters.
const REFUSED: [char; 9] = ['<', '>', ':', '"', '/', '\\', '|', '?', '*'];

/// Checks the name of a new collection. Names never become paths, so this is only about clients: `.` and `..` are
/// refused because URL libraries remove such segments and the collection could not be addressed.
///
/// # Errors
/// 422 that says what is wrong.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let refuse = |reason: String| Err(Failure::validation("path parameters", "name", reason));
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return refuse(format!(
            "value {name:?} invalid, must be from 1 to {MAX_NAME_BYTES} characters"
        ));
    }
    if name == "." || name == ".." {
        return refuse(format!("collection name cannot be {name:?}"));
    }
    match name.chars().find(|c| REFUSED.contains(c) || c.is_control()) {
        Some(character) => refuse(format!(
            "collection name cannot contain {:?} char",
            character.to_string()
        )),
        None => Ok(()),
    }
}

/// `PUT /collections/{name}`.
#[derive(Debug, Deserialize)]
pub struct CreateCollection {
    vectors: Option<Value>,
    sparse_vectors: Option<Map<String, Value>>,
    init_from: Option<Value>,
    hnsw_config: Option<Value>,
    optimizers_config: Option<Value>,
    wal_config: Option<Value>,
    quantization_config: Option<Value>,
    strict_mode_config: Option<Value>,
    metadata: Option<Map<String, Value>>,
    sharding_method: Option<String>,
    #[serde(flatten)]
    params: Map<String, Value>,
}

impl CreateCollection {
    /// The schema asked for.
    ///
    /// # Errors
    /// 400 or 422 naming the field.
    pub fn into_schema(self) -> Result<Schema, Failure> {
        if self.sparse_vectors.is_some_and(|spaces| !spaces.is_empty()) {
            return Err(Failure::unsupported("sparse vectors"));
        }
        if self.init_from.is_some() {
            return Err(Failure::unsupported("collections initialised from others"));
        }
        if self.sharding_method.is_some_and(|method| method != "auto") {
            return Err(Failure::unsupported("custom shard keys"));
        }
        let mut settings = clean("body", Value::Object(self.params), fields::PARAMS)?;
        for (key, value, table) in [
            ("hnsw_config", self.hnsw_config, fields::HNSW),
            ("optimizers_config", self.optimizers_config, fields::OPTIMIZERS),
            ("wal_config", self.wal_config, fields::WAL),
            ("strict_mode_config", self.strict_mode_config, fields::STRICT_MODE),
        ] {
            if let Some(value) = value {
                settings.insert(key.to_owned(), Value::Object(clean(key, value, table)?));
            }
        }
        if let Some(value) = self.quantization_config {
            let value = checked(QUANTIZATION_KEY, value, fields::QUANTIZATION)?;
            settings.insert(QUANTIZATION_KEY.to_owned(), value);
        }
        let storage_engine = storage_engine(self.metadata.as_ref())?.unwrap_or_default();
        if let Some(metadata) = self.metadata {
            settings.insert("metadata".to_owned(), Value::Object(metadata));
        }
        let vectors = vector_spaces(self.vectors)?;
        Ok(Schema {
            vectors,
            storage_engine,
            payload_indexes: BTreeMap::new(),
            settings,
        })
    }
}

/// One space (an object with `size`), several by name, or none.
fn vector_spaces(vectors: Option<Value>) -> Result<BTreeMap<String, VectorSpace>, Failure> {
    let object = match vectors {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(object)) => object,
        Some(_) => return Err(wrong("vectors", "an object")),
    };
    if object.get("size").is_some_and(|size| !size.is_object()) || object.get("distance").is_some_and(Value::is_string)
    {
        return Ok(BTreeMap::from([(String::new(), vector_space("vectors", object)?)]));
    }
    let named = object.into_iter().map(|(name, space)| match space {
        Value::Object(space) => vector_space(&format!("vectors.{name}"), space).map(|space| (name, space)),
        _ => Err(wrong(&format!("vectors.{name}"), "an object")),
    });
    named.collect()
}

fn vector_space(path: &str, mut object: Map<String, Value>) -> Result<VectorSpace, Failure> {
    if object.get("multivector_config").is_some_and(|config| !config.is_null()) {
        return Err(Failure::unsupported("multivectors"));
    }
    let size = object
        .remove("size")
        .ok_or_else(|| Failure::format(format_args!("missing field `size` in `{path}`")))?;
    let size = size
        .as_u64()
        .ok_or_else(|| wrong(&format!("{path}.size"), "an unsigned integer"))?;
    if !(1..=MAX_DIMENSIONS as u64).contains(&size) {
        let reason = format!("value {size} invalid, must be from 1 to {MAX_DIMENSIONS}");
        return Err(Failure::validation("JSON body", &format!("{path}.size"), reason));
    }
    let distance = object.remove("distance");
    let distance = distance.ok_or_else(|| Failure::format(format_args!("missing field `distance` in `{path}`")))?;
    let distance: Distance = serde_json::from_value(distance)
        .map_err(|_| wrong(&format!("{path}.distance"), "one of Cosine, Dot, Euclid, Manhattan"))?;
    let other = clean(path, Value::Object(object), fields::VECTOR)?
        .into_iter()
        .collect();
    Ok(VectorSpace {
        size: size as usize,
        distance,
        other,
    })
}

/// `PATCH /collections/{name}`: what is given replaces, what is absent stays.
#[derive(Debug, Deserialize)]
pub struct UpdateCollection {
    vectors: Option<BTreeMap<String, Value>>,
    params: Option<Value>,
    hnsw_config: Option<Value>,
    optimizers_config: Option<Value>,
    quantization_config: Option<Value>,
    strict_mode_config: Option<Value>,
    sparse_vectors: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

/// A checked change of a schema, which cannot fail any more.
#[derive(Debug)]
pub struct SchemaChange {
    vectors: BTreeMap<String, Map<String, Value>>,
    params: Map<String, Value>,
    /// Objects of the settings into which fields are merged.
    merged: Vec<(&'static str, Map<String, Value>)>,
    quantization: Option<Value>,
}

/// Key of a setting that is replaced as a whole or removed by the word "Disabled".
const QUANTIZATION_KEY: &str = "quantization_config";

impl UpdateCollection {
    /// The change for a collection with this schema.
    ///
    /// # Errors
    /// 400 naming the field or the vector that does not exist.
    pub fn into_change(self, schema: &Schema) -> Result<SchemaChange, Failure> {
        if self.sparse_vectors.is_some_and(|spaces| !spaces.is_empty()) {
            return Err(Failure::unsupported("sparse vectors"));
        }
        let mut vectors = BTreeMap::new();
        for (name, mut diff) in self.vectors.unwrap_or_default() {
            if !schema.vectors.contains_key(&name) {
                return Err(Failure::input(format_args!("Not existing vector name error: {name}")));
            }
            let quantization = diff.as_object_mut().and_then(|diff| diff.remove(QUANTIZATION_KEY));
            let mut fields = clean(&format!("vectors.{name}"), diff, fields::VECTOR)?;
            if let Some(quantization) = quantization_change(quantization)? {
                fields.insert(QUANTIZATION_KEY.to_owned(), quantization);
            }
            vectors.insert(name, fields);
        }
        let mut merged = Vec::new();
        for (key, value, table) in [
            ("hnsw_config", self.hnsw_config, fields::HNSW),
            ("optimizers_config", self.optimizers_config, fields::OPTIMIZERS),
            ("strict_mode_config", self.strict_mode_config, fields::STRICT_MODE),
        ] {
            if let Some(value) = value {
                merged.push((key, clean(key, value, table)?));
            }
        }
        if storage_engine(self.metadata.as_ref())?.is_some_and(|engine| engine != schema.storage_engine) {
            let reason = "metadata.proximadb.storage_engine is chosen when a collection is created";
            return Err(Failure::input(format_args!("{reason} and cannot be changed")));
        }
        merged.extend(self.metadata.map(|metadata| ("metadata", metadata)));
        let params = self
            .params
            .map_or_else(|| Ok(Map::new()), |params| clean("params", params, fields::PARAMS))?;
        Ok(SchemaChange {
            vectors,
            params,
            merged,
            quantization: quantization_change(self.quantization_config)?,
        })
    }
}

/// `Null` for the word "Disabled", the checked object otherwise.
fn quantization_change(value: Option<Value>) -> Result<Option<Value>, Failure> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word == "Disabled" => Ok(Some(Value::Null)),
        Some(value) => checked(QUANTIZATION_KEY, value, fields::QUANTIZATION).map(Some),
    }
}

impl SchemaChange {
    /// Makes the change.
    pub fn apply(self, schema: &mut Schema) {
        for (name, fields) in self.vectors {
            if let Some(space) = schema.vectors.get_mut(&name) {
                space.other.extend(fields);
                space.other.retain(|_, value| !value.is_null());
            }
        }
        schema.settings.extend(self.params);
        for (key, fields) in self.merged {
            let entry = schema.settings.entry(key).or_insert_with(|| json!({}));
            if let Some(object) = entry.as_object_mut() {
                object.extend(fields);
            }
        }
        if let Some(quantization) = self.quantization {
            schema.settings.insert(QUANTIZATION_KEY.to_owned(), quantization);
        }
    }
}

/// `GET /collections/{name}`.
#[derive(Debug, Serialize)]
pub struct CollectionOut<'a> {
    status: &'static str,
    optimizer_status: &'static str,
    points_count: u64,
    indexed_vectors_count: u64,
    segments_count: u64,
    /// Bytes of the codes and lists in memory for each indexed vector.
    index_bytes_per_vector: u64,
    config: ConfigOut<'a>,
    payload_schema: BTreeMap<&'a str, IndexOut<'a>>,
    created_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct ConfigOut<'a> {
    params: Map<String, Value>,
    hnsw_config: Value,
    optimizer_config: Value,
    wal_config: Value,
    quantization_config: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict_mode_config: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Value>,
}

impl<'a> CollectionOut<'a> {
    /// The answer for a collection.
    pub fn new(description: &'a CollectionDescription, info: &CollectionInfo, fields: &BTreeMap<String, u64>) -> Self {
        let schema = &description.schema;
        let indexes = schema.payload_indexes.iter().map(|(field, entry)| {
            let points = fields.get(field).copied().unwrap_or(0);
            (field.as_str(), IndexOut::new(entry, points))
        });
        let created_at = i64::try_from(description.created_at_ms)
            .ok()
            .and_then(chrono::DateTime::from_timestamp_millis);
        Self {
            status: "green",
            optimizer_status: "ok",
            points_count: info.points,
            indexed_vectors_count: info.indexed_vectors,
            segments_count: info.segments,
            index_bytes_per_vector: info.index_memory_bytes.checked_div(info.indexed_vectors).unwrap_or(0),
            config: ConfigOut::new(schema),
            payload_schema: indexes.collect(),
            created_at: created_at.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        }
    }
}

impl<'a> ConfigOut<'a> {
    fn new(schema: &'a Schema) -> Self {
        let setting = |key: &str| schema.settings.get(key).filter(|value| !value.is_null());
        let with_defaults = |key: &str, mut defaults: Value| {
            if let (Some(object), Some(given)) = (defaults.as_object_mut(), setting(key).and_then(Value::as_object)) {
                object.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            defaults
        };
        let hnsw = json!({"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": false});
        let optimizers = json!({
            "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, "max_segment_size": null,
            "memmap_threshold": null, "indexing_threshold": 10000, "flush_interval_sec": 5, "max_optimization_threads": null,
        });
        let wal = json!({"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1});
        Self {
            params: params(schema),
            hnsw_config: with_defaults("hnsw_config", hnsw),
            optimizer_config: with_defaults("optimizers_config", optimizers),
            wal_config: with_defaults("wal_config", wal),
            quantization_config: setting("quantization_config"),
            strict_mode_config: setting("strict_mode_config"),
            metadata: setting("metadata"),
        }
    }
}

fn params(schema: &Schema) -> Map<String, Value> {
    let mut params = Map::new();
    let vectors = match (schema.vectors.len(), schema.vectors.get("")) {
        (1, Some(space)) => json!(space),
        _ => json!(schema.vectors),
    };
    params.insert("vectors".to_owned(), vectors);
    for (key, default) in [
        ("shard_number", json!(1)),
        ("replication_factor", json!(1)),
        ("write_consistency_factor", json!(1)),
        ("on_disk_payload", json!(true)),
    ] {
        params.insert(key.to_owned(), default);
    }
    params.extend(
        fields::PARAMS
            .iter()
            .filter_map(|(key, _)| Some(((*key).to_owned(), schema.settings.get(*key)?.clone()))),
    );
    params
}

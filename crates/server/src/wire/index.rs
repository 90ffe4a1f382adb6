//! `PUT …/index`: payload indexes and their parameters.

use proximadb_db::schema::PayloadKind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::Kind::{Any, Flag, Integer, Word};
use super::fields::{Table, clean, wrong};
use crate::failure::Failure;

/// Fields of every kind of index, and those of single kinds; they do not overlap in meaning.
const PARAMETERS: Table = &[
    (
        "type",
        Word(&["keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"]),
    ),
    ("on_disk", Flag),
    ("memory", Any),
    ("enable_hnsw", Flag),
    ("nested", Word(&[])),
    ("is_tenant", Flag),
    ("prefix", Flag),
    ("lookup", Flag),
    ("range", Flag),
    ("is_principal", Flag),
    ("tokenizer", Word(&["prefix", "whitespace", "word", "multilingual"])),
    ("min_token_len", Integer),
    ("max_token_len", Integer),
    ("lowercase", Flag),
    ("ascii_folding", Flag),
    ("phrase_matching", Flag),
    ("stopwords", Any),
    ("stemmer", Any),
    ("scoring", Any),
];

/// The fields that every kind has.
const COMMON: [&str; 5] = ["type", "on_disk", "memory", "enable_hnsw", "nested"];

/// The fields that the clients know for an index kind, beside `COMMON`.
fn own_fields(kind: &str) -> &'static [&'static str] {
    match kind {
        "keyword" => &["is_tenant", "prefix"],
        "uuid" => &["is_tenant"],
        "integer" => &["lookup", "range", "is_principal"],
        "float" | "datetime" => &["is_principal"],
        "text" => &[
            "tokenizer",
            "min_token_len",
            "max_token_len",
            "lowercase",
            "ascii_folding",
            "phrase_matching",
            "stopwords",
            "stemmer",
            "scoring",
        ],
        _ => &[],
    }
}

/// `PUT …/index`.
#[derive(Debug, Deserialize)]
pub struct CreateIndex {
    field_name: String,
    #[serde(alias = "field_type")]
    field_schema: Option<Value>,
}

impl CreateIndex {
    /// The field and what the schema keeps of its index: a kind, or an object with `type`.
    ///
    /// # Errors
    /// 400 if the kind or a parameter is wrong, 422 if the field has no name.
    pub fn into_entry(self) -> Result<(String, Value), Failure> {
        if self.field_name.is_empty() {
            return Err(Failure::validation(
                "JSON body",
                "field_name",
                "value invalid, must not be empty",
            ));
        }
        let kind = match self.field_schema {
            None | Some(Value::Null) => {
                return Err(Failure::input(
                    "`field_schema` must say the kind of the index, such as \"keyword\"",
                ));
            }
            Some(Value::String(kind)) => kind,
            Some(object) => return parameters(object).map(|parameters| (self.field_name, parameters)),
        };
        if serde_json::from_value::<PayloadKind>(Value::from(kind.as_str())).is_err() {
            return Err(wrong(
                "field_schema",
                "one of keyword, integer, float, geo, text, bool, datetime, uuid",
            ));
        }
        Ok((self.field_name, Value::String(kind)))
    }
}

fn parameters(object: Value) -> Result<Value, Failure> {
    let mut kept = clean("field_schema", object, PARAMETERS)?;
    let Some(kind) = kept.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return Err(Failure::format("missing field `type` in `field_schema`"));
    };
    kept.retain(|key, _| COMMON.contains(&key.as_str()) || own_fields(&kind).contains(&key.as_str()));
    Ok(Value::Object(kept))
}

/// One entry of `payload_schema`.
#[derive(Debug, Serialize)]
pub struct IndexOut<'a> {
    data_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Map<String, Value>>,
    points: u64,
}

impl<'a> IndexOut<'a> {
    /// The answer for what `CreateIndex::into_entry` made; `points` have a value of the field.
    pub fn new(entry: &'a Value, points: u64) -> Self {
        let params = entry.as_object();
        let kind = params.map_or(Some(entry), |object| object.get("type"));
        Self {
            data_type: kind.and_then(Value::as_str).unwrap_or_default(),
            params,
            points,
        }
    }
}

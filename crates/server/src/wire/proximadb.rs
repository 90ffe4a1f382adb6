//! `metadata.proximadb`: how an unmodified client asks for what is ours. What it says round-trips with the other metadata.
//! Unlike elsewhere unknown keys are refused: a misspelt region would put the data anywhere.

use proximadb_db::schema::{IndexChoice, StorageEngineKind};
use serde_json::{Map, Value};

use super::fields::wrong;
use crate::failure::Failure;

/// The object in a collection's metadata.
const OBJECT: &str = "proximadb";
/// Its keys. `placement` is a label that is only kept.
const KEYS: [&str; 4] = ["storage_engine", "region", "placement", "index"];

/// The engine that the metadata of a collection asks for, if it names one; everything in the object is checked.
///
/// # Errors
/// 400 naming the key.
pub fn storage_engine(metadata: Option<&Map<String, Value>>) -> Result<Option<StorageEngineKind>, Failure> {
    let asked = match metadata.and_then(|metadata| metadata.get(OBJECT)) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(asked)) => asked,
        Some(_) => return Err(wrong("metadata.proximadb", "an object")),
    };
    if let Some(key) = asked.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let keys = KEYS.join(", ");
        return Err(Failure::input(format_args!(
            "unknown key `metadata.proximadb.{key}`: there are {keys}"
        )));
    }
    for key in ["region", "placement"] {
        if asked
            .get(key)
            .is_some_and(|value| value.as_str().is_none_or(str::is_empty))
        {
            return Err(wrong(
                &format!("metadata.proximadb.{key}"),
                "a string that is not empty",
            ));
        }
    }
    let index = asked
        .get("index")
        .map(|index| serde_json::from_value::<IndexChoice>(index.clone()));
    index.transpose().map_err(|_| {
        wrong(
            "metadata.proximadb.index",
            "\"auto\", \"ivf\", \"hnsw\", \"hybrid\" or \"flat\"",
        )
    })?;
    let engine = asked
        .get("storage_engine")
        .map(|engine| serde_json::from_value(engine.clone()));
    engine
        .transpose()
        .map_err(|_| wrong("metadata.proximadb.storage_engine", "\"viper\" or \"lsm\""))
}

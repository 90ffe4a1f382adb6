//! Reading and changing payloads: values at a JSON path, set, delete and projection, with the Qdrant API's meaning.
//!
//! Plain functions on values. What a filter makes of the values belongs to `filter`, where payloads live to the engine.

mod path;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::point::Payload;

pub use path::{JsonPath, PathError, PathErrorReason, Step};

/// Deepest nesting that [`set_at`] may create. `serde_json` refuses to read more than 128 levels, so a payload that
/// grew deeper by repeated partial updates could be written but never read again.
pub const MAX_DEPTH: usize = 120;

/// A partial update would nest deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the payload at key '{0}' would nest deeper than {MAX_DEPTH} levels")]
pub struct TooDeep(pub JsonPath);

/// The values at `path`, in document order. `[]` steps give every element, a step that does not fit the document gives
/// nothing. An array that ends the path is one value; `null` is a value.
pub fn values_at<'a>(payload: &'a Payload, path: &JsonPath) -> Vec<&'a Value> {
    let mut found = Vec::new();
    if let Some(value) = payload.get(path.first_key()) {
        collect(value, path.steps(), &mut found);
    }
    found
}

fn collect<'a>(value: &'a Value, steps: &[Step], found: &mut Vec<&'a Value>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => {
            if let Some(inner) = map.get(key) {
                collect(inner, rest, found);
            }
        }
        (Step::Index(index), Value::Array(array)) => {
            if let Some(inner) = array.get(*index) {
                collect(inner, rest, found);
            }
        }
        (Step::Each, Value::Array(array)) => array.iter().for_each(|inner| collect(inner, rest, found)),
        _ => {}
    }
}

/// Sets every top-level key of `source` in `payload` and keeps the others; a `null` removes its key.
pub fn merge(payload: &mut Payload, source: &Payload) {
    for (key, value) in source {
        if value.is_null() {
            payload.remove(key);
        } else {
            payload.insert(key.clone(), value.clone());
        }
    }
}

/// Merges `source` into the object at `path`. Missing keys are created and values of the wrong kind are replaced by an
/// object or an empty array; array elements are never created.
///
/// # Errors
/// [`TooDeep`] when the result could not be read back; nothing is changed then.
pub fn set_at(payload: &mut Payload, path: &JsonPath, source: &Payload) -> Result<(), TooDeep> {
    let source_depth = 1 + source.values().map(depth).max().unwrap_or(0);
    if path.steps().len() + 1 + source_depth > MAX_DEPTH {
        return Err(TooDeep(path.clone()));
    }
    let slot = payload.entry(path.first_key()).or_insert(Value::Null);
    set_value(slot, path.steps(), source);
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(array) => 1 + array.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn set_value(slot: &mut Value, steps: &[Step], source: &Payload) {
    let step = steps.split_first();
    let wants_array = matches!(step, Some((Step::Index(_) | Step::Each, _)));
    if wants_array && !slot.is_array() {
        *slot = Value::Array(Vec::new());
    } else if !wants_array && !slot.is_object() {
        *slot = Value::Object(Payload::new());
    }
    match (slot, step) {
        (Value::Object(map), None) => merge(map, source),
        (Value::Object(map), Some((Step::Key(key), rest))) => {
            set_value(map.entry(key.as_str()).or_insert(Value::Null), rest, source);
        }
        (Value::Array(array), Some((Step::Index(index), rest))) => {
            if let Some(inner) = array.get_mut(*index) {
                set_value(inner, rest, source);
            }
        }
        (Value::Array(array), Some((Step::Each, rest))) => {
            array.iter_mut().for_each(|inner| set_value(inner, rest, source));
        }
        // The slot has been made to fit the step.
        _ => {}
    }
}

/// Removes what is at `path` and tells whether anything was there. A final `[]` empties the array; a final `[3]` removes
/// nothing, because removing by position twice would remove two elements and updates may be repeated.
pub fn delete_at(payload: &mut Payload, path: &JsonPath) -> bool {
    let Some((step, rest)) = path.steps().split_first() else {
        return payload.remove(path.first_key()).is_some();
    };
    payload
        .get_mut(path.first_key())
        .is_some_and(|value| delete_value(value, step, rest))
}

fn delete_value(value: &mut Value, step: &Step, rest: &[Step]) -> bool {
    let next = rest.split_first();
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => match next {
            None => map.remove(key).is_some(),
            Some((next, rest)) => map.get_mut(key).is_some_and(|inner| delete_value(inner, next, rest)),
        },
        (Step::Index(index), Value::Array(array)) => match next {
            None => false,
            Some((next, rest)) => array
                .get_mut(*index)
                .is_some_and(|inner| delete_value(inner, next, rest)),
        },
        (Step::Each, Value::Array(array)) => match next {
            None => !std::mem::take(array).is_empty(),
            // Every element is visited: no short circuit.
            Some((next, rest)) => array
                .iter_mut()
                .fold(false, |any, inner| delete_value(inner, next, rest) | any),
        },
        _ => false,
    }
}

/// The part of `payload` at or below `paths`, with the containers that lead there. Elements of arrays are addressed by
/// `[]` only, as in the Qdrant API.
pub fn include(payload: &Payload, paths: &[JsonPath]) -> Payload {
    project(payload, &|trail| paths.iter().any(|path| overlaps(path, trail)))
}

/// `payload` without what is at `paths`.
pub fn exclude(payload: &Payload, paths: &[JsonPath]) -> Payload {
    project(payload, &|trail| !paths.iter().any(|path| leads_to(path, trail)))
}

/// Where a projection stands in the document; arrays are entered as a whole, so there are no positions.
#[derive(Clone, Copy)]
enum Place<'a> {
    Key(&'a str),
    Element,
}

/// Whether one of `path` and `trail` is a prefix of the other.
fn overlaps(path: &JsonPath, trail: &[Place<'_>]) -> bool {
    path_places(path).zip(trail).all(|(step, place)| same(step, *place))
}

/// Whether `path` is a prefix of `trail`.
fn leads_to(path: &JsonPath, trail: &[Place<'_>]) -> bool {
    path.steps().len() < trail.len() && overlaps(path, trail)
}

/// The steps of a path with its first key; `None` is a position, which no place of a projection equals.
fn path_places(path: &JsonPath) -> impl Iterator<Item = Option<Place<'_>>> {
    let steps = path.steps().iter().map(|step| match step {
        Step::Key(key) => Some(Place::Key(key)),
        Step::Each => Some(Place::Element),
        Step::Index(_) => None,
    });
    std::iter::once(Some(Place::Key(path.first_key()))).chain(steps)
}

fn same(step: Option<Place<'_>>, place: Place<'_>) -> bool {
    match (step, place) {
        (Some(Place::Key(own)), Place::Key(other)) => own == other,
        (Some(Place::Element), Place::Element) => true,
        _ => false,
    }
}

fn project(payload: &Payload, keep: &dyn Fn(&[Place<'_>]) -> bool) -> Payload {
    project_object(payload, &mut Vec::new(), keep)
}

fn project_object<'a>(map: &'a Payload, trail: &mut Vec<Place<'a>>, keep: &dyn Fn(&[Place<'_>]) -> bool) -> Payload {
    let mut kept = Payload::new();
    for (key, value) in map {
        trail.push(Place::Key(key));
        if keep(trail) {
            kept.insert(key.clone(), project_value(value, trail, keep));
        }
        trail.pop();
    }
    kept
}

fn project_value<'a>(value: &'a Value, trail: &mut Vec<Place<'a>>, keep: &dyn Fn(&[Place<'_>]) -> bool) -> Value {
    match value {
        Value::Object(map) => Value::Object(project_object(map, trail, keep)),
        Value::Array(array) => {
            trail.push(Place::Element);
            // The verdict is the same for every element: they share one place.
            let kept = if keep(trail) {
                array.iter().map(|inner| project_value(inner, trail, keep)).collect()
            } else {
                Vec::new()
            };
            trail.pop();
            Value::Array(kept)
        }
        scalar => scalar.clone(),
    }
}

/// Reads a stored payload's JSON text, keeping only the top-level keys in `wanted`: the others are skipped without being
/// built, which makes reading one field of many payloads cheap. An empty text is an empty payload.
///
/// # Errors
/// The parser's error when the text is not a JSON object.
pub fn parse_keys(text: &str, wanted: &[&str]) -> Result<Payload, serde_json::Error> {
    if text.is_empty() {
        return Ok(Payload::new());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let payload = WantedKeys(wanted).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(payload)
}

struct WantedKeys<'w>(&'w [&'w str]);

impl<'de> DeserializeSeed<'de> for WantedKeys<'_> {
    type Value = Payload;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Payload, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WantedKeys<'_> {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a payload: a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Payload, A::Error> {
        let mut payload = Payload::new();
        while let Some(key) = map.next_key_seed(WantedKey(self.0))? {
            match key {
                Some(key) => {
                    payload.insert(key.to_owned(), map.next_value()?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(payload)
    }
}

/// Finds a key among the wanted ones without allocating it.
struct WantedKey<'w>(&'w [&'w str]);

impl<'de, 'w> DeserializeSeed<'de> for WantedKey<'w> {
    type Value = Option<&'w str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for WantedKey<'w> {
    type Value = Option<&'w str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|wanted| *wanted == key))
    }
}

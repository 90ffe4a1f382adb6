//! What the user wrote, in the file and in the environment, under the canonical name of each key.
//!
//! Owns unknown keys, aliases and types. Does not own defaults, nor whether the values make sense together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proximadb_store::StorageUrl;
use serde::Serialize;
use toml::{Table, Value};

use super::keys::{Form, KEYS, Key};
use crate::error::{Error, Result};

/// Environment variables of this prefix override keys; two underscores also join the sections.
pub(super) const PREFIX: &str = "PROXIMADB__";

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginKind {
    /// Not given: the documented default.
    Default,
    /// A key of the configuration file.
    File,
    /// An environment variable.
    Env,
    /// A key of an earlier release, which still works.
    Legacy,
}

/// Where a value comes from, and under which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The kind of source.
    pub kind: OriginKind,
    /// The file and key, or the environment variable; empty for a default.
    pub from: String,
}

/// A value that the user gave.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub key: &'static Key,
    pub value: Value,
    pub origin: Origin,
}

/// What one source gives, by the canonical path of the key.
pub(super) type Values = BTreeMap<Vec<String>, Given>;

/// A spelling that the source uses, matched with its key.
struct Spelling {
    key: &'static Key,
    form: Form,
    /// The canonical path, with the names that stand for the `<...>` segments.
    path: Vec<String>,
}

/// The values of a configuration file.
pub(super) fn read_file(path: &Path) -> Result<Values> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| Error::Config(format!("cannot read {file}: {e}")))?;
    let table = text.parse::<Table>().map_err(|e| syntax_error(&file, &text, &e))?;
    let mut leaves = Vec::new();
    flatten(table, &mut Vec::new(), &mut leaves);
    let mut values = Values::new();
    for (segments, value) in leaves {
        let written = render(&segments);
        let Some(spelling) = find(&segments) else {
            if is_section(&segments) {
                if value.as_table().is_some_and(Table::is_empty) {
                    continue;
                }
                return Err(Error::Config(format!(
                    "{file}: `{written}` is a section: write it as [{written}]"
                )));
            }
            let nearest = render(&nearest(&segments));
            return Err(Error::Config(format!(
                "{file}: unknown key `{written}`; did you mean `{nearest}`?"
            )));
        };
        insert(&mut values, spelling, value, &file, &written)?;
    }
    Ok(values)
}

/// The values of the environment variables that start with [`PREFIX`].
pub(super) fn read_environment(variables: &BTreeMap<String, String>) -> Result<Values> {
    let mut values = Values::new();
    let ours = variables
        .iter()
        .filter_map(|(name, text)| Some((name, name.strip_prefix(PREFIX)?, text)));
    for (name, rest, text) in ours {
        let segments: Vec<String> = rest.split("__").map(str::to_owned).collect();
        let Some(spelling) = find_ignoring_case(&segments) else {
            let lower: Vec<String> = segments.iter().map(|segment| segment.to_lowercase()).collect();
            let nearest = variable_name(&nearest(&lower));
            return Err(Error::Config(format!(
                "unknown environment variable {name}; did you mean {nearest}?"
            )));
        };
        let value = spelling.key.kind.parse(text, spelling.form);
        insert(&mut values, spelling, value, "", name)?;
    }
    Ok(values)
}

/// The environment variable that overrides the key of these segments.
pub(super) fn variable_name(segments: &[String]) -> String {
    let upper: Vec<String> = segments
        .iter()
        .map(|segment| {
            if segment.contains(['<', ':']) {
                segment.clone()
            } else {
                segment.to_uppercase()
            }
        })
        .collect();
    format!("{PREFIX}{}", upper.join("__"))
}

/// A dotted path; names that are no bare TOML keys are quoted.
pub(super) fn render(segments: &[String]) -> String {
    let quoted = segments.iter().map(|segment| {
        let bare = !segment.is_empty()
            && segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if bare {
            segment.clone()
        } else {
            Value::String(segment.clone()).to_string()
        }
    });
    quoted.collect::<Vec<_>>().join(".")
}

/// The segments of a path of the key table.
pub(super) fn split(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}

/// Whether a key or a segment of one stands for any name.
pub(super) fn is_wildcard(text: &str) -> bool {
    text.contains('<')
}

/// Takes a value under its canonical name. `file` is empty for the environment, where `written` is the variable.
fn insert(values: &mut Values, spelling: Spelling, value: Value, file: &str, written: &str) -> Result<()> {
    if let (true, [_, section, prefix, ..]) = (is_wildcard(spelling.key.path), spelling.path.as_slice()) {
        // Before any message with the path in it: the prefix may hold a secret.
        StorageUrl::parse(prefix).map_err(|problem| Error::Config(format!("[storage.{section}]: {problem}")))?;
    }
    let place = if file.is_empty() {
        written.to_owned()
    } else {
        format!("{file}: {written}")
    };
    let value = match (spelling.form, value) {
        (Form::Same, value) => value,
        (Form::Single, Value::String(url)) => Value::Array(vec![Value::String(url)]),
        (Form::LegacyPath, Value::String(path)) => {
            let url = legacy_url(&path).map_err(|problem| Error::Config(format!("{place} {problem}")))?;
            Value::Array(vec![Value::String(url)])
        }
        (Form::Single | Form::LegacyPath, _) => return Err(Error::Config(format!("{place} must be a string"))),
    };
    spelling
        .key
        .kind
        .check(&value)
        .map_err(|problem| Error::Config(format!("{place}{problem}")))?;
    let kind = match (spelling.form, file.is_empty()) {
        (Form::LegacyPath, _) => OriginKind::Legacy,
        (_, true) => OriginKind::Env,
        (_, false) => OriginKind::File,
    };
    let given = Given {
        key: spelling.key,
        value,
        origin: Origin {
            kind,
            from: place.clone(),
        },
    };
    match values.insert(spelling.path, given) {
        None => Ok(()),
        Some(other) => Err(Error::Config(format!(
            "{place} and {} are the same setting: keep one",
            other.origin.from
        ))),
    }
}

/// The URL of a `wal_dir`: a path becomes `file://` and the absolute path, a URL is kept.
fn legacy_url(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    if text.starts_with('/') {
        return Ok(format!("file://{text}"));
    }
    let absolute = std::path::absolute(PathBuf::from(text)).map_err(|e| format!("cannot be made absolute: {e}"))?;
    let absolute = absolute
        .into_os_string()
        .into_string()
        .map_err(|_| "is below a directory whose name is not UTF-8")?;
    Ok(format!("file://{absolute}"))
}

/// Lists every value that is no table, and every empty table, with its path.
fn flatten(table: Table, path: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, Value)>) {
    for (name, value) in table {
        path.push(name);
        match value {
            Value::Table(inner) if !inner.is_empty() => flatten(inner, path, leaves),
            leaf => leaves.push((path.clone(), leaf)),
        }
        path.pop();
    }
}

fn find(segments: &[String]) -> Option<Spelling> {
    spellings().find_map(|(key, pattern, form)| {
        let names: Vec<&str> = pattern.split('.').collect();
        let fits = names.len() == segments.len()
            && names
                .iter()
                .zip(segments)
                .all(|(name, segment)| is_wildcard(name) || name == segment);
        let path = if is_wildcard(key.path) {
            segments.to_vec()
        } else {
            split(key.path)
        };
        fits.then_some(Spelling { key, form, path })
    })
}

/// Finds the key of an environment variable: upper case stands for lower case, but in a URL each letter counts.
fn find_ignoring_case(segments: &[String]) -> Option<Spelling> {
    let lower = segments.iter().map(|segment| {
        if segment.contains(':') {
            segment.clone()
        } else {
            segment.to_lowercase()
        }
    });
    find(&lower.collect::<Vec<_>>())
}

fn spellings() -> impl Iterator<Item = (&'static Key, &'static str, Form)> {
    KEYS.iter().flat_map(|key| {
        let aliases = key.aliases.iter().map(move |alias| (key, alias.path, alias.form));
        std::iter::once((key, key.path, Form::Same)).chain(aliases)
    })
}

/// Whether some key lies below this path.
fn is_section(segments: &[String]) -> bool {
    spellings().any(|(_, pattern, _)| {
        let names: Vec<&str> = pattern.split('.').collect();
        names.len() > segments.len()
            && names
                .iter()
                .zip(segments)
                .all(|(name, segment)| is_wildcard(name) || name == segment)
    })
}

/// The known spelling with the fewest edits from these segments.
fn nearest(segments: &[String]) -> Vec<String> {
    let written = segments.join(".");
    let candidates = spellings().map(|(_, pattern, _)| {
        let names = pattern.split('.').enumerate();
        let own = |index: usize| segments.get(index).filter(|_| index + 1 < segments.len());
        let filled = names.map(|(index, name)| match own(index) {
            Some(segment) if is_wildcard(name) => segment.clone(),
            _ => name.to_owned(),
        });
        filled.collect::<Vec<String>>()
    });
    let best = candidates.min_by_key(|candidate| strsim::damerau_levenshtein(&candidate.join("."), &written));
    best.unwrap_or_default()
}

/// One line for a syntax error. The parser's own message shows the line's text, which may hold a secret.
fn syntax_error(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    let message = error.message().replace('\n', "; ");
    Error::Config(format!("{file}, line {line}: {message}"))
}

//! Every key with its effective value and origin: the file, overridden by the environment, over the defaults.

use std::collections::BTreeMap;
use std::path::Path;

use proximadb_store::StorageUrl;
use serde::de::DeserializeOwned;
use toml::Value;

use super::keys::{Default, KEYS, Key, Kind};
use super::source::{self, Given, Origin, OriginKind, Values, is_wildcard};
use super::urls;
use crate::error::{Error, Result};

/// The key whose URLs stand in for the lists that are not given.
const SHORTHAND: &str = "storage.urls";

/// The list that bounds the number of copies.
const METADATA_URLS: &str = "storage.collection_metadata_config.metadata_urls";

/// The effective value of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The dotted path of the key.
    pub key: String,
    pub(super) path: Vec<String>,
    /// What the key means, in one line.
    pub doc: &'static str,
    /// The module that acts on the value.
    pub reader: &'static str,
    /// The value in force; `None` for an optional key that is not given.
    pub value: Option<Value>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// All settings, in the order of the key table.
#[derive(Debug, Clone)]
pub(super) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads both sources and completes them with the defaults.
    pub(super) fn load(path: Option<&Path>, variables: &BTreeMap<String, String>) -> Result<Self> {
        let mut given = path.map(source::read_file).transpose()?.unwrap_or_default();
        given.extend(source::read_environment(variables)?);
        let mut settings = Self(Vec::new());
        for key in KEYS {
            settings.add(key, &given, variables)?;
        }
        Ok(settings)
    }

    pub(super) fn all(&self) -> &[Setting] {
        &self.0
    }

    /// The setting of a key that is no pattern.
    pub(super) fn find(&self, key: &str) -> Result<&Setting> {
        let found = self.0.iter().find(|setting| setting.key == key);
        found.ok_or_else(|| Error::Internal(format!("no configuration key `{key}`")))
    }

    /// The value of a key that always has one.
    pub(super) fn value<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.find(key)?.value.clone();
        let typed = value.and_then(|value| value.try_into().ok());
        typed.ok_or_else(|| Error::Internal(format!("configuration key `{key}` has no value of the asked type")))
    }

    fn add(&mut self, key: &Key, given: &Values, variables: &BTreeMap<String, String>) -> Result<()> {
        if is_wildcard(key.path) {
            let matches = given.iter().filter(|(_, given)| given.key.path == key.path);
            self.0
                .extend(matches.map(|(path, given)| from_given(path.clone(), given)));
            return Ok(());
        }
        let path = source::split(key.path);
        let setting = match given.get(&path) {
            Some(given) => from_given(path, given),
            None => self.default(key, variables)?,
        };
        if let (Kind::Urls { .. }, Some(Value::Array(items))) = (key.kind, &setting.value) {
            for url in items.iter().filter_map(Value::as_str) {
                let from = if setting.origin.from.is_empty() {
                    key.path
                } else {
                    &setting.origin.from
                };
                StorageUrl::parse(url).map_err(|problem| Error::Config(format!("{from}: {problem}")))?;
            }
        }
        self.0.push(setting);
        Ok(())
    }

    fn default(&self, key: &Key, variables: &BTreeMap<String, String>) -> Result<Setting> {
        let value = match key.default {
            Default::Boolean(flag) => Some(Value::Boolean(flag)),
            Default::Integer(number) => Some(Value::Integer(number)),
            Default::Cost(dollars) => Some(Value::Float(dollars)),
            Default::Text(text) => Some(Value::String(text.to_owned())),
            Default::Strategy(strategy) => Some(Value::String(strategy.name().to_owned())),
            Default::Variable(name) => variables.contains_key(name).then(|| Value::String(name.to_owned())),
            Default::Directory(name) => return self.default_urls(key, name),
            Default::Replicas => {
                let roots: Vec<String> = self.value(METADATA_URLS)?;
                Some(Value::Integer(if roots.len() >= 2 { 2 } else { 1 }))
            }
            Default::NoGroups => Some(Value::Array(Vec::new())),
            Default::Unset => None,
        };
        let origin = Origin {
            kind: OriginKind::Default,
            from: String::new(),
        };
        Ok(setting(key, source::split(key.path), value, origin))
    }

    /// One directory for a component below each URL of the shorthand, or below the data directory.
    fn default_urls(&self, key: &Key, name: &str) -> Result<Setting> {
        let shorthand = self.find(SHORTHAND)?;
        let list = match &shorthand.value {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(Value::as_str)
                .map(|url| urls::join(url, name))
                .collect(),
            _ => vec![urls::join(&urls::data_directory()?, name)],
        };
        let value = Value::Array(list.into_iter().map(Value::String).collect());
        let origin = shorthand.origin.clone();
        Ok(setting(key, source::split(key.path), Some(value), origin))
    }
}

fn from_given(path: Vec<String>, given: &Given) -> Setting {
    setting(given.key, path, Some(given.value.clone()), given.origin.clone())
}

fn setting(key: &Key, path: Vec<String>, value: Option<Value>, origin: Origin) -> Setting {
    Setting {
        key: source::render(&path),
        path,
        doc: key.doc,
        reader: key.reader,
        value,
        origin,
    }
}

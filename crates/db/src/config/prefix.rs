//! `[storage.roots]` and `[storage.credentials]`: what is configured for the URLs below a prefix.

use std::collections::BTreeMap;
use std::fmt;

use super::effective::{Setting, Settings};
use super::secret;
use super::urls::covers;
use crate::error::{Error, Result};

/// What is configured for one URL in `[storage.roots]` and `[storage.credentials]`.
#[derive(Clone, PartialEq)]
pub struct UrlConfig {
    /// Options for opening the bucket, with the values of their environment variables: secrets.
    pub options: BTreeMap<String, String>,
    /// Labels of the root; the keys `region` and `device` of the table are labels too.
    pub tags: BTreeMap<String, String>,
    /// Share of new collections under the Hash strategy, relative to the other roots. Above 0.
    pub weight: f64,
    /// Price of a GB for a month under the CostOptimized strategy, in any one currency.
    pub cost_per_gb_month: Option<f64>,
    /// Whose prices count, if that is not told from the URL.
    pub(super) cloud: Option<String>,
}

impl Default for UrlConfig {
    fn default() -> Self {
        Self {
            options: BTreeMap::new(),
            tags: BTreeMap::new(),
            weight: 1.0,
            cost_per_gb_month: None,
            cloud: None,
        }
    }
}

impl fmt::Debug for UrlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<&String> = self.options.keys().collect();
        f.debug_struct("UrlConfig")
            .field("options", &options)
            .field("tags", &self.tags)
            .field("weight", &self.weight)
            .field("cost_per_gb_month", &self.cost_per_gb_month)
            .field("cloud", &self.cloud)
            .finish()
    }
}

/// The tables of `[storage.roots]` and `[storage.credentials]`, by URL prefix. Each has its own prefixes: whoever labels a
/// part of a bucket does not take its credentials away.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Prefixes {
    roots: BTreeMap<String, UrlConfig>,
    /// Options only.
    credentials: BTreeMap<String, UrlConfig>,
}

impl Prefixes {
    pub(super) fn read(settings: &Settings, variables: &BTreeMap<String, String>) -> Result<Self> {
        let mut prefixes = Self::default();
        for setting in settings.all() {
            let segments: Vec<&str> = setting.path.iter().map(String::as_str).collect();
            match segments.as_slice() {
                ["storage", "credentials", prefix, option] => {
                    let value = secret(&setting.origin.from, text(setting), variables)?;
                    let config = prefixes.credentials.entry((*prefix).to_owned()).or_default();
                    config.options.insert((*option).to_owned(), value);
                }
                ["storage", "roots", prefix, rest @ ..] => {
                    let config = prefixes.roots.entry((*prefix).to_owned()).or_default();
                    describe(config, prefix, rest, setting)?;
                }
                _ => {}
            }
        }
        Ok(prefixes)
    }

    pub(super) fn for_url(&self, url: &str) -> UrlConfig {
        let longest = |table: &BTreeMap<String, UrlConfig>| {
            let covering = table.iter().filter(|(prefix, _)| covers(prefix, url));
            let longest = covering.max_by_key(|(prefix, _)| prefix.len());
            longest.map(|(_, config)| config.clone()).unwrap_or_default()
        };
        UrlConfig {
            options: longest(&self.credentials).options,
            ..longest(&self.roots)
        }
    }

    /// Every prefix.
    pub(super) fn all(&self) -> impl Iterator<Item = &String> {
        self.roots.keys().chain(self.credentials.keys())
    }
}

/// Takes up one key of `[storage.roots."<prefix>"]`.
fn describe(config: &mut UrlConfig, prefix: &str, key: &[&str], setting: &Setting) -> Result<()> {
    match key {
        ["weight"] => config.weight = number(setting).unwrap_or(config.weight),
        ["cloud"] => config.cloud = Some(text(setting).to_owned()),
        ["cost_per_gb_month"] => config.cost_per_gb_month = number(setting),
        ["tags", tag] | [tag] => {
            let replaced = config.tags.insert((*tag).to_owned(), text(setting).to_owned());
            if replaced.is_some() {
                return Err(Error::Config(format!(
                    "{}: `{tag}` and `tags.{tag}` of `{prefix}` are the same setting: keep one",
                    setting.origin.from
                )));
            }
        }
        _ => {}
    }
    Ok(())
}

fn text(setting: &Setting) -> &str {
    setting
        .value
        .as_ref()
        .and_then(|value| value.as_str())
        .unwrap_or_default()
}

fn number(setting: &Setting) -> Option<f64> {
    let value = setting.value.as_ref()?;
    value.as_float().or(value.as_integer().map(|number| number as f64))
}

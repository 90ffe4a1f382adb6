//! `[storage.roots]` and `[storage.credentials]`: what is configured for the URLs below a prefix.

use std::collections::BTreeMap;
use std::fmt;

use super::effective::{Setting, Settings};
use super::secret;
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

/// The tables of `[storage.roots]` and `[storage.credentials]`, by URL prefix.
pub(super) fn prefixes(
    settings: &Settings,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, UrlConfig>> {
    let mut prefixes: BTreeMap<String, UrlConfig> = BTreeMap::new();
    for setting in settings.all() {
        let segments: Vec<&str> = setting.path.iter().map(String::as_str).collect();
        let ["storage", "roots" | "credentials", prefix, rest @ ..] = segments.as_slice() else {
            continue;
        };
        let config = prefixes.entry((*prefix).to_owned()).or_default();
        match (segments.get(1), rest) {
            (Some(&"credentials"), [option]) => {
                let value = secret(&setting.origin.from, text(setting), variables)?;
                config.options.insert((*option).to_owned(), value);
            }
            (_, ["weight"]) => config.weight = number(setting).unwrap_or(config.weight),
            (_, ["cloud"]) => config.cloud = Some(text(setting).to_owned()),
            (_, ["cost_per_gb_month"]) => config.cost_per_gb_month = number(setting),
            (_, ["tags", tag] | [tag]) => {
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
    }
    Ok(prefixes)
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

//! The configuration: what the user wrote in a TOML file and in `PROXIMADB__SECTION__KEY` variables, as typed values.
//!
//! ```text
//! file ──▶ source ──┐             ┌──▶ Config (typed, for the modules below)
//! env  ──▶ source ──┴▶ effective ─┤
//! keys: defaults ──────▶          └──▶ show (every key, its value, its origin)
//! ```
//!
//! Owns the names, types and defaults of the keys (`keys`), and the rules between them. Does not touch a root: URLs are
//! strings from here to the store, byte-identical. Everything wrong is found here, before anything is written.

mod effective;
mod keys;
mod policies;
mod prefix;
mod prices;
mod show;
mod source;
mod strategy;
#[cfg(test)]
mod tests;
mod urls;
mod value;
mod wal_format;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use effective::Setting;
use effective::Settings;
pub use policies::PolicyConfig;
use prefix::Prefixes;
pub use prefix::UrlConfig;
pub use source::{Origin, OriginKind};
pub use strategy::{DistributionStrategy, UnknownStrategy};
pub use wal_format::{UnknownWalFormat, WalFormat};

use proximadb_store::Prices;
use toml::Value;

use crate::error::{Error, Result};

/// The effective configuration of a server. Read-only once loaded.
#[derive(Debug, Clone)]
pub struct Config {
    /// The HTTP API.
    pub server: ServerConfig,
    /// Everything that is stored.
    pub storage: StorageConfig,
    /// What is kept of remote files on this machine.
    pub cache: CacheDirectory,
    settings: Settings,
}

/// `[server]`: the HTTP API.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address that the API listens on.
    pub listen: SocketAddr,
    /// Key that clients must send; `None`: no key is asked for.
    pub api_key: Option<Secret>,
    /// Key that allows reading only.
    pub read_only_api_key: Option<Secret>,
    /// Largest request body, in MB of 1,048,576 bytes.
    pub max_request_size_mb: u64,
}

/// `[cache]`: where bytes of remote files are kept.
#[derive(Debug, Clone)]
pub struct CacheDirectory {
    /// The directory; `None`: memory only.
    pub directory: Option<PathBuf>,
    /// Most MB of 1,048,576 bytes in it, for all components together.
    pub disk_size_mb: u64,
}

/// `[storage]`: the five components, and what is known about single URLs.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// `[storage.wal_config]`.
    pub wal: WalConfig,
    /// `[storage.viper_config]`.
    pub viper: ViperConfig,
    /// `[storage.lsm_config]`.
    pub lsm: LsmConfig,
    /// `[storage.index_config]`.
    pub index: IndexConfig,
    /// `[storage.collection_metadata_config]`.
    pub metadata: CollectionMetadataConfig,
    /// `[storage.moves]`.
    pub moves: MovesConfig,
    /// `[storage.placement.policies]`.
    pub policies: PolicyConfig,
    /// What is configured for the URLs below a prefix.
    prefixes: Prefixes,
    /// What clouds charge, by their name.
    prices: BTreeMap<&'static str, Prices>,
}

/// What every component's section has: its roots and how they are shared out.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentConfig {
    /// URLs of the roots, exactly as written.
    pub urls: Vec<String>,
    /// How the first root of a collection is chosen.
    pub distribution_strategy: DistributionStrategy,
    /// Whether all later files of a collection go to its first root.
    pub collection_affinity: bool,
}

/// `[storage.wal_config]`: the write-ahead log and the memory in front of the segments.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// The roots.
    pub component: ComponentConfig,
    /// How new log files are encoded.
    pub format: WalFormat,
    /// Bytes of unflushed points at which a collection is flushed.
    pub memory_flush_size_bytes: u64,
    /// Bytes of unflushed points over all collections at which the largest are flushed.
    pub global_flush_threshold: u64,
}

/// `[storage.viper_config]`: Parquet segments.
#[derive(Debug, Clone)]
pub struct ViperConfig {
    /// The roots.
    pub component: ComponentConfig,
    /// Largest segment that compaction makes, in MB of 1,048,576 bytes.
    pub segment_size_mb: u64,
    /// Memory for bytes read from remote roots, in MB of 1,048,576 bytes.
    pub cache_size_mb: u64,
}

/// `[storage.lsm_config]`: LSM data.
#[derive(Debug, Clone)]
pub struct LsmConfig {
    /// The roots.
    pub component: ComponentConfig,
    /// Memory for bytes read from remote roots, in MB of 1,048,576 bytes.
    pub cache_size_mb: u64,
}

/// `[storage.index_config]`: vector indexes.
#[derive(Debug, Clone)]
pub struct IndexConfig {
    /// The roots.
    pub component: ComponentConfig,
    /// Whether indexes are placed by collection and index type, and not by collection alone.
    pub index_type_affinity: bool,
    /// Copies of each index as configured; 0 and 1 both mean one copy. At most the number of URLs.
    pub backup_replicas: u64,
    /// Memory that merges and index builds of all collections may hold together, in MB of 1,048,576 bytes.
    pub build_memory_mb: u64,
    /// Memory for bytes read from remote roots, in MB of 1,048,576 bytes.
    pub cache_size_mb: u64,
}

/// `[storage.collection_metadata_config]`: the records of the collections.
#[derive(Debug, Clone)]
pub struct CollectionMetadataConfig {
    /// The roots.
    pub component: ComponentConfig,
    /// Copies of each record as configured; 0 and 1 both mean one copy. At most the number of URLs.
    pub backup_replicas: u64,
    /// Memory for bytes read from remote roots, in MB of 1,048,576 bytes.
    pub cache_size_mb: u64,
}

/// `[storage.moves]`: the budget of moves, drains and rebalancing.
#[derive(Debug, Clone)]
pub struct MovesConfig {
    /// Bytes copied per second by all of them together; 0: no limit.
    pub max_bytes_per_second: u64,
    /// Most collections that are moved at a time.
    pub parallel: u64,
}

/// A text that appears in no log, error or dump.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Config {
    /// Loads the file, if there is one, and the overriding variables in `env`, which must hold the whole environment:
    /// the configuration also names variables with secrets. Logs one warning for a `wal_dir`.
    ///
    /// # Errors
    /// [`Error::Config`], with one line that names the key and what was expected.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let variables: BTreeMap<String, String> = env.collect();
        let settings = Settings::load(path, &variables)?;
        let server = ServerConfig {
            listen: settings.value("server.listen")?,
            api_key: api_key(&settings, "server.api_key_env", &variables)?,
            read_only_api_key: api_key(&settings, "server.read_only_api_key_env", &variables)?,
            max_request_size_mb: settings.value("server.max_request_size_mb")?,
        };
        let storage = StorageConfig::new(&settings, &variables)?;
        let config = Self {
            server,
            storage,
            cache: CacheDirectory {
                directory: settings
                    .find("cache.directory")?
                    .value
                    .as_ref()
                    .and_then(Value::as_str)
                    .map(PathBuf::from),
                disk_size_mb: settings.value("cache.disk_size_mb")?,
            },
            settings,
        };
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    /// What still works but should be written differently, one line for each key.
    pub fn warnings(&self) -> Vec<String> {
        let legacy = self
            .settings()
            .iter()
            .filter(|setting| setting.origin.kind == OriginKind::Legacy);
        let lines = legacy.map(|setting| {
            let (section, name) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
            let value = setting.value.as_ref().map(Value::to_string).unwrap_or_default();
            format!(
                "{} is deprecated: write {name} = {value} in [{section}]",
                setting.origin.from
            )
        });
        lines.collect()
    }

    /// Every key with its effective value and where it comes from.
    pub fn settings(&self) -> &[Setting] {
        self.settings.all()
    }
}

impl StorageConfig {
    fn new(settings: &Settings, variables: &BTreeMap<String, String>) -> Result<Self> {
        let storage = Self {
            wal: WalConfig {
                component: ComponentConfig::new(settings, "storage.wal_config", "wal_urls")?,
                format: settings.value("storage.wal_config.format")?,
                memory_flush_size_bytes: settings.value("storage.wal_config.memory_flush_size_bytes")?,
                global_flush_threshold: settings.value("storage.wal_config.global_flush_threshold")?,
            },
            viper: ViperConfig {
                component: ComponentConfig::new(settings, "storage.viper_config", "data_urls")?,
                segment_size_mb: settings.value("storage.viper_config.segment_size_mb")?,
                cache_size_mb: settings.value("storage.viper_config.cache_size_mb")?,
            },
            lsm: LsmConfig {
                component: ComponentConfig::new(settings, "storage.lsm_config", "storage_urls")?,
                cache_size_mb: settings.value("storage.lsm_config.cache_size_mb")?,
            },
            index: IndexConfig {
                component: ComponentConfig::new(settings, "storage.index_config", "index_urls")?,
                index_type_affinity: settings.value("storage.index_config.index_type_affinity")?,
                backup_replicas: settings.value("storage.index_config.backup_replicas")?,
                build_memory_mb: settings.value("storage.index_config.build_memory_mb")?,
                cache_size_mb: settings.value("storage.index_config.cache_size_mb")?,
            },
            metadata: CollectionMetadataConfig {
                component: ComponentConfig::new(settings, "storage.collection_metadata_config", "metadata_urls")?,
                backup_replicas: settings.value("storage.collection_metadata_config.backup_replicas")?,
                cache_size_mb: settings.value("storage.collection_metadata_config.cache_size_mb")?,
            },
            moves: MovesConfig {
                max_bytes_per_second: settings.value("storage.moves.max_bytes_per_second")?,
                parallel: settings.value("storage.moves.parallel")?,
            },
            policies: PolicyConfig {
                same_device: settings.value("storage.placement.policies.same_device")?,
                different_device: settings.value("storage.placement.policies.different_device")?,
            },
            prefixes: Prefixes::read(settings, variables)?,
            prices: prices::table(settings)?,
        };
        storage.check()?;
        Ok(storage)
    }

    /// The five components, by the name of their directory under a `[storage] urls` entry.
    pub fn components(&self) -> [(&'static str, &ComponentConfig); 5] {
        [
            ("wal", &self.wal.component),
            ("viper", &self.viper.component),
            ("lsm", &self.lsm.component),
            ("index", &self.index.component),
            ("metadata", &self.metadata.component),
        ]
    }

    /// Options, tags, weight and price of a URL: those of the longest prefix that covers it in `[storage.credentials]`, and
    /// in `[storage.roots]`; else none and weight 1.
    pub fn for_url(&self, url: &str) -> UrlConfig {
        self.prefixes.for_url(url)
    }

    /// The rules between keys.
    fn check(&self) -> Result<()> {
        let lists = self
            .components()
            .map(|(name, component)| (name, component.urls.as_slice()));
        urls::check_apart(&lists)?;
        let (metadata, index) = (&self.metadata, &self.index);
        check_copies(
            "metadata",
            "collection_metadata_config",
            metadata.backup_replicas,
            &metadata.component,
        )?;
        check_copies("index", "index_config", index.backup_replicas, &index.component)?;
        self.policies.check()?;
        let all = || self.components().into_iter().flat_map(|(_, component)| &component.urls);
        match self
            .prefixes
            .all()
            .find(|prefix| !all().any(|url| urls::covers(prefix, url)))
        {
            Some(prefix) => Err(Error::Config(format!(
                "no configured URL starts with the prefix `{prefix}`"
            ))),
            None => Ok(()),
        }
    }
}

impl ComponentConfig {
    fn new(settings: &Settings, section: &str, list: &str) -> Result<Self> {
        Ok(Self {
            urls: settings.value(&format!("{section}.{list}"))?,
            distribution_strategy: settings.value(&format!("{section}.distribution_strategy"))?,
            collection_affinity: settings.value(&format!("{section}.collection_affinity"))?,
        })
    }
}

/// Refuses more copies than roots: each copy is on a root of its own.
fn check_copies(what: &str, section: &str, copies: u64, component: &ComponentConfig) -> Result<()> {
    let roots = component.urls.len();
    if copies > 1 && copies > roots as u64 {
        return Err(Error::Config(format!(
            "backup_replicas = {copies} needs {copies} {what} URLs, but storage.{section} has {roots}"
        )));
    }
    Ok(())
}

impl Secret {
    /// The text itself, for comparing it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The key in the variable that `key` names. A variable that is named but not set is an error: whoever names one
/// expects the API to be closed.
fn api_key(settings: &Settings, key: &str, variables: &BTreeMap<String, String>) -> Result<Option<Secret>> {
    let setting = settings.find(key)?;
    let Some(name) = setting.value.as_ref().and_then(Value::as_str) else {
        return Ok(None);
    };
    let place = if setting.origin.from.is_empty() {
        key
    } else {
        &setting.origin.from
    };
    secret(place, name, variables).map(|text| Some(Secret(text)))
}

/// The value of a variable with a secret. The name is not repeated: it may be the secret itself, put in the wrong place.
fn secret(place: &str, name: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let text = variables.get(name).filter(|text| !text.is_empty());
    text.cloned().ok_or_else(|| {
        Error::Config(format!(
            "{place} names an environment variable that is empty or not set"
        ))
    })
}

//! The one table of configuration keys. Loading, defaults, the errors about unknown keys, `config show` and
//! docs/config.md all come from it, so none of them can know a key that the others do not.

use super::{DistributionStrategy, WalFormat};

/// One configuration key.
#[derive(Debug)]
pub(super) struct Key {
    /// Dotted path. A segment in angle brackets stands for any one name, such as a URL prefix.
    pub path: &'static str,
    /// Other spellings that set the same value; two spellings in one file are an error.
    pub aliases: &'static [Alias],
    pub kind: Kind,
    pub default: Default,
    pub doc: &'static str,
    /// The module that acts on the value, for the reference and for the test that no key goes unread.
    pub reader: &'static str,
}

/// Another spelling of a key.
#[derive(Debug)]
pub(super) struct Alias {
    pub path: &'static str,
    pub form: Form,
}

/// How the value of an alias becomes the value of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Taken as it is.
    Same,
    /// One string that stands for a list of one.
    Single,
    /// The `wal_dir` of old: one plain path or URL. Accepted with a warning.
    LegacyPath,
}

/// The type and the limits of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// An IP address and a port.
    Address,
    /// The name of an environment variable that holds a secret.
    Variable,
    Text,
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    /// A positive, finite number.
    Weight,
    /// A finite number from 0.
    Cost,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Groups of components: a list of lists of their names.
    Groups,
    Strategy,
    /// URLs of roots. `what` names the component in messages, as in "No WAL URLs configured".
    Urls {
        what: &'static str,
    },
}

/// The value of a key that is not given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    Boolean(bool),
    Integer(i64),
    Cost(f64),
    Text(&'static str),
    Strategy(DistributionStrategy),
    /// This environment variable where it is set, else no value.
    Variable(&'static str),
    /// `<url>/<directory>` for every URL of `storage.urls`, or one directory below the data directory.
    Directory(&'static str),
    /// 2 with two or more metadata URLs, else 1: a single root cannot hold a second copy.
    Replicas,
    /// An empty list.
    NoGroups,
    /// No value.
    Unset,
}

/// The largest size in MB (1,048,576 bytes each) that a setting may have: 1 TiB. Products with it stay far below 2^63.
const MB_MAX: i64 = 1 << 20;

const SIZE_BYTES: Kind = Kind::Integer { min: 1, max: i64::MAX };
const SIZE_MB: Kind = Kind::Integer { min: 1, max: MB_MAX };
const CACHE_MB: Kind = Kind::Integer { min: 0, max: MB_MAX };

const STRATEGY_DOC: &str = "How the first root of a collection is chosen";
const AFFINITY_DOC: &str =
    "true: all files of a collection go to its first root; false: each new file is placed by the strategy";
const CACHE_DOC: &str =
    "Memory for bytes read from remote roots of this component, in MB; 0: none of them are cached, on the disk neither";
/// The clouds whose prices are known; the last one charges nothing.
pub(super) const CLOUDS: &[&str] = &["s3", "r2", "gcs", "azure", "free"];

const fn key(path: &'static str, kind: Kind, default: Default, reader: &'static str, doc: &'static str) -> Key {
    Key {
        path,
        aliases: &[],
        kind,
        default,
        doc,
        reader,
    }
}

const fn urls(path: &'static str, aliases: &'static [Alias], what: &'static str, directory: &'static str) -> Key {
    let doc = "Where this component keeps its files: one URL for each directory or bucket";
    Key {
        path,
        aliases,
        kind: Kind::Urls { what },
        default: Default::Directory(directory),
        doc,
        reader: "root",
    }
}

const fn strategy(path: &'static str, default: DistributionStrategy) -> Key {
    key(
        path,
        Kind::Strategy,
        Default::Strategy(default),
        "placement",
        STRATEGY_DOC,
    )
}

const fn affinity(path: &'static str) -> Key {
    key(path, Kind::Boolean, Default::Boolean(true), "placement", AFFINITY_DOC)
}

const fn cache(path: &'static str) -> Key {
    key(path, CACHE_MB, Default::Integer(256), "cache", CACHE_DOC)
}

const fn price(path: &'static str, dollars: f64, doc: &'static str) -> Key {
    key(path, Kind::Cost, Default::Cost(dollars), "database", doc)
}

const PUT_DOC: &str = "US dollars for 1,000 writes (PUT, POST, COPY)";
const LIST_DOC: &str = "US dollars for 1,000 listings";
const GET_DOC: &str = "US dollars for 1,000 reads (GET, HEAD)";
const EGRESS_DOC: &str = "US dollars for a GB (10^9 bytes) that is read";

const fn same(path: &'static str) -> Alias {
    Alias { path, form: Form::Same }
}

/// Every key, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    key(
        "server.listen",
        Kind::Address,
        Default::Text("127.0.0.1:6333"),
        "server",
        "Address and port of the HTTP API; 0.0.0.0:6333 answers other machines too",
    ),
    key(
        "server.api_key_env",
        Kind::Variable,
        Default::Variable("PROXIMADB_API_KEY"),
        "server",
        "Environment variable with the key that clients must send; without one, no key is asked for",
    ),
    key(
        "server.read_only_api_key_env",
        Kind::Variable,
        Default::Variable("PROXIMADB_READ_ONLY_API_KEY"),
        "server",
        "Environment variable with a second key that may only read",
    ),
    key(
        "server.max_request_size_mb",
        SIZE_MB,
        Default::Integer(32),
        "server",
        "Largest request body, in MB; a larger one is answered 413",
    ),
    key(
        "storage.urls",
        Kind::Urls { what: "storage" },
        Default::Unset,
        "config",
        "Shorthand: every component without a list of its own uses `<url>/<component>` of each of these",
    ),
    urls(
        "storage.wal_config.wal_urls",
        &[
            same("storage.wal_config.storage_urls"),
            Alias {
                path: "storage.wal_config.wal_url",
                form: Form::Single,
            },
            Alias {
                path: "storage.wal_dir",
                form: Form::LegacyPath,
            },
        ],
        "WAL",
        "wal",
    ),
    strategy(
        "storage.wal_config.distribution_strategy",
        DistributionStrategy::RoundRobin,
    ),
    affinity("storage.wal_config.collection_affinity"),
    key(
        "storage.wal_config.format",
        Kind::Word(&[WalFormat::Avro.name(), WalFormat::Bincode.name()]),
        Default::Text(WalFormat::Avro.name()),
        "wal",
        "How new log files are encoded, and their extension; files of the other format are still read",
    ),
    key(
        "storage.wal_config.memory_flush_size_bytes",
        SIZE_BYTES,
        Default::Integer(1_048_576),
        "collection",
        "A collection whose unflushed points take this many bytes of memory is flushed to a segment",
    ),
    key(
        "storage.wal_config.global_flush_threshold",
        SIZE_BYTES,
        Default::Integer(536_870_912),
        "database",
        "Bytes of unflushed points over all collections at which the largest are flushed, whatever their own size; from three quarters of it on beside the writes, beyond it before them",
    ),
    urls(
        "storage.viper_config.data_urls",
        &[same("storage.viper_config.storage_urls")],
        "VIPER",
        "viper",
    ),
    strategy("storage.viper_config.distribution_strategy", DistributionStrategy::Hash),
    affinity("storage.viper_config.collection_affinity"),
    key(
        "storage.viper_config.segment_size_mb",
        SIZE_MB,
        Default::Integer(512),
        "collection",
        "Compaction merges Parquet segments up to this size, in MB, or as far as storage.index_config.build_memory_mb allows",
    ),
    cache("storage.viper_config.cache_size_mb"),
    urls("storage.lsm_config.storage_urls", &[], "LSM", "lsm"),
    strategy(
        "storage.lsm_config.distribution_strategy",
        DistributionStrategy::LoadBalanced,
    ),
    affinity("storage.lsm_config.collection_affinity"),
    cache("storage.lsm_config.cache_size_mb"),
    urls(
        "storage.index_config.index_urls",
        &[same("storage.index_config.storage_urls")],
        "index",
        "index",
    ),
    strategy(
        "storage.index_config.distribution_strategy",
        DistributionStrategy::LoadBalanced,
    ),
    affinity("storage.index_config.collection_affinity"),
    key(
        "storage.index_config.index_type_affinity",
        Kind::Boolean,
        Default::Boolean(true),
        "placement",
        "true: indexes are placed by collection and index type, types of one kind together; false: by collection alone",
    ),
    key(
        "storage.index_config.backup_replicas",
        Kind::Integer { min: 0, max: 64 },
        Default::Integer(1),
        "placement",
        "Copies of each index, each on another index root; 0 and 1 both mean one copy",
    ),
    key(
        "storage.index_config.build_memory_mb",
        SIZE_MB,
        Default::Integer(2_048),
        "database",
        "Memory that merges of segments and index builds of all collections may hold together, in MB; segments become no larger than a third of it",
    ),
    key(
        "storage.index_config.cache_size_mb",
        CACHE_MB,
        Default::Integer(256),
        "cache",
        "Memory for bytes read from remote roots of this component, in MB; rows and indexes that lie there and were read or made may hold as much again; 0: none of them are cached, on the disk neither",
    ),
    urls(
        "storage.collection_metadata_config.metadata_urls",
        &[same("storage.collection_metadata_config.storage_urls")],
        "metadata",
        "metadata",
    ),
    strategy(
        "storage.collection_metadata_config.distribution_strategy",
        DistributionStrategy::RoundRobin,
    ),
    affinity("storage.collection_metadata_config.collection_affinity"),
    key(
        "storage.collection_metadata_config.backup_replicas",
        Kind::Integer { min: 0, max: 64 },
        Default::Replicas,
        "metadata",
        "Copies of each collection's record, each on another metadata root; 0 and 1 both mean one copy",
    ),
    cache("storage.collection_metadata_config.cache_size_mb"),
    key(
        "cache.directory",
        Kind::Text,
        Default::Unset,
        "cache",
        "Directory of this machine for bytes read from remote roots, which may be deleted at any time; without one they are in memory only",
    ),
    key(
        "cache.disk_size_mb",
        CACHE_MB,
        Default::Integer(4096),
        "cache",
        "Most MB in that directory, shared out to the components as their cache_size_mb; 0: none",
    ),
    price("storage.prices.s3.put_per_1000", 0.005, PUT_DOC),
    price("storage.prices.s3.list_per_1000", 0.005, LIST_DOC),
    price("storage.prices.s3.get_per_1000", 0.0004, GET_DOC),
    price("storage.prices.s3.egress_per_gb", 0.09, EGRESS_DOC),
    price("storage.prices.r2.put_per_1000", 0.0045, PUT_DOC),
    price("storage.prices.r2.list_per_1000", 0.0045, LIST_DOC),
    price("storage.prices.r2.get_per_1000", 0.00036, GET_DOC),
    price("storage.prices.r2.egress_per_gb", 0.0, EGRESS_DOC),
    price("storage.prices.gcs.put_per_1000", 0.005, PUT_DOC),
    price("storage.prices.gcs.list_per_1000", 0.005, LIST_DOC),
    price("storage.prices.gcs.get_per_1000", 0.0004, GET_DOC),
    price("storage.prices.gcs.egress_per_gb", 0.12, EGRESS_DOC),
    price("storage.prices.azure.put_per_1000", 0.0065, PUT_DOC),
    price("storage.prices.azure.list_per_1000", 0.0065, LIST_DOC),
    price("storage.prices.azure.get_per_1000", 0.0005, GET_DOC),
    price("storage.prices.azure.egress_per_gb", 0.087, EGRESS_DOC),
    key(
        "storage.moves.max_bytes_per_second",
        Kind::Integer { min: 0, max: i64::MAX },
        Default::Integer(67_108_864),
        "moves",
        "Bytes that moves, drains and rebalancing together copy in a second; 0: no limit",
    ),
    key(
        "storage.moves.parallel",
        Kind::Integer { min: 1, max: 64 },
        Default::Integer(2),
        "moves",
        "Most collections that are moved at the same time",
    ),
    key(
        "storage.placement.policies.same_device",
        Kind::Groups,
        Default::NoGroups,
        "placement",
        "Groups of components that live on one device for each collection, as in [[\"wal\", \"viper\"]]",
    ),
    key(
        "storage.placement.policies.different_device",
        Kind::Groups,
        Default::NoGroups,
        "placement",
        "Groups of components that live on different devices for each collection, as in [[\"wal\", \"index\"]]",
    ),
    key(
        "storage.roots.<url prefix>.weight",
        Kind::Weight,
        Default::Unset,
        "placement",
        "Share of new collections that the roots below this prefix get from the Hash strategy, relative to 1 for every other root",
    ),
    key(
        "storage.roots.<url prefix>.cost_per_gb_month",
        Kind::Cost,
        Default::Unset,
        "placement",
        "Price of a GB for a month on the roots below this prefix, for the CostOptimized strategy",
    ),
    key(
        "storage.roots.<url prefix>.cloud",
        Kind::Word(CLOUDS),
        Default::Unset,
        "database",
        "Whose prices count for the buckets below this prefix; else told from the URL and its endpoint",
    ),
    key(
        "storage.roots.<url prefix>.region",
        Kind::Text,
        Default::Unset,
        "placement",
        "The same as tags.region: where the roots below this prefix are, for the RegionAffinityBased strategy",
    ),
    key(
        "storage.roots.<url prefix>.device",
        Kind::Text,
        Default::Unset,
        "placement",
        "The same as tags.device: what the roots below this prefix share, for policies; else found from the file system",
    ),
    key(
        "storage.roots.<url prefix>.tags.<tag>",
        Kind::Text,
        Default::Unset,
        "placement",
        "A label of the roots below this prefix, such as region, tier, cost or device",
    ),
    key(
        "storage.credentials.<url prefix>.<option>",
        Kind::Variable,
        Default::Unset,
        "root",
        "Environment variable that holds this option (access_key_id, endpoint, ...) of the buckets below this prefix",
    ),
];

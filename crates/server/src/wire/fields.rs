//! Objects of settings with optional fields (`hnsw_config`, index parameters, …) that come in and go out again.
//!
//! A table per object names the fields and their kinds. Unknown fields and nulls are dropped, because the Python
//! client refuses answers with fields it does not know; a value of the wrong kind is an error that names the field.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// Kind of a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// An unsigned integer.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of these words; an empty list allows any text.
    Word(&'static [&'static str]),
    /// A number from … to.
    Between(f64, f64),
    /// A field that must be there.
    Must(&'static Kind),
    /// An object with these fields.
    Object(Table),
    /// An object with exactly one of these fields.
    OneOf(Table),
    /// Anything, kept as it is.
    Any,
}

/// The fields of an object.
pub type Table = &'static [(&'static str, Kind)];

use Kind::{Any, Between, Flag, Integer, Must, Number, Object, OneOf, Word};

const MEMORY: Kind = Any;

/// `hnsw_config`.
pub const HNSW: Table = &[
    ("m", Integer),
    ("ef_construct", Integer),
    ("full_scan_threshold", Integer),
    ("max_indexing_threads", Integer),
    ("on_disk", Flag),
    ("memory", MEMORY),
    ("payload_m", Integer),
    ("inline_storage", Flag),
];

/// `optimizers_config`.
pub const OPTIMIZERS: Table = &[
    ("deleted_threshold", Number),
    ("vacuum_min_vector_number", Integer),
    ("default_segment_number", Integer),
    ("max_segment_size", Integer),
    ("memmap_threshold", Integer),
    ("indexing_threshold", Integer),
    ("flush_interval_sec", Integer),
    ("max_optimization_threads", Any),
    ("prevent_unoptimized", Flag),
];

/// `wal_config`.
pub const WAL: Table = &[
    ("wal_capacity_mb", Integer),
    ("wal_segments_ahead", Integer),
    ("wal_retain_closed", Integer),
];

/// `quantization_config`: one of four kinds.
pub const QUANTIZATION: Kind = OneOf(&[
    (
        "scalar",
        Object(&[
            ("type", Must(&Word(&["int8"]))),
            ("quantile", Between(0.5, 1.0)),
            ("always_ram", Flag),
            ("memory", MEMORY),
        ]),
    ),
    (
        "product",
        Object(&[
            ("compression", Must(&Word(&["x4", "x8", "x16", "x32", "x64"]))),
            ("always_ram", Flag),
            ("memory", MEMORY),
        ]),
    ),
    (
        "binary",
        Object(&[
            ("always_ram", Flag),
            ("memory", MEMORY),
            ("encoding", Word(&["one_bit", "two_bits", "one_and_half_bits"])),
            (
                "query_encoding",
                Word(&["default", "binary", "scalar4bits", "scalar8bits"]),
            ),
        ]),
    ),
    (
        "turbo",
        Object(&[("always_ram", Flag), ("memory", MEMORY), ("bits", Any)]),
    ),
]);

/// `strict_mode_config`.
pub const STRICT_MODE: Table = &[
    ("enabled", Flag),
    ("max_query_limit", Integer),
    ("max_timeout", Integer),
    ("unindexed_filtering_retrieve", Flag),
    ("unindexed_filtering_update", Flag),
    ("search_max_hnsw_ef", Integer),
    ("search_allow_exact", Flag),
    ("search_max_oversampling", Number),
    ("upsert_max_batchsize", Integer),
    ("search_max_batchsize", Integer),
    ("max_collection_vector_size_bytes", Integer),
    ("read_rate_limit", Integer),
    ("write_rate_limit", Integer),
    ("max_collection_payload_size_bytes", Integer),
    ("max_points_count", Integer),
    ("filter_max_conditions", Integer),
    ("condition_max_size", Integer),
    ("multivector_config", Any),
    ("sparse_config", Any),
    ("max_payload_index_count", Integer),
    ("max_resident_memory_percent", Integer),
];

/// The further fields of a vector space, beside `size` and `distance`.
pub const VECTOR: Table = &[
    ("hnsw_config", Object(HNSW)),
    ("quantization_config", QUANTIZATION),
    ("on_disk", Flag),
    ("memory", MEMORY),
    ("datatype", Word(&["float32"])),
];

/// What `PATCH` may change of `params`.
pub const PARAMS: Table = &[
    ("replication_factor", Integer),
    ("write_consistency_factor", Integer),
    ("read_fan_out_factor", Integer),
    ("read_fan_out_delay_ms", Integer),
    ("on_disk_payload", Flag),
    ("payload", Any),
    ("id_tracker", Any),
];

/// The known, non-null fields of `value`.
///
/// # Errors
/// 400 naming the field, below `path`, whose value is of the wrong kind.
pub fn clean(path: &str, value: Value, table: Table) -> Result<Map<String, Value>, Failure> {
    let Value::Object(object) = value else {
        return Err(wrong(path, "an object"));
    };
    let mut kept = Map::new();
    for (key, value) in object {
        let known = table.iter().find(|(name, _)| *name == key);
        if let (Some((_, kind)), false) = (known, value.is_null()) {
            let value = checked(&format!("{path}.{key}"), value, *kind)?;
            kept.insert(key, value);
        }
    }
    let missing = table
        .iter()
        .find(|(name, kind)| matches!(kind, Must(_)) && !kept.contains_key(*name));
    match missing {
        Some((name, _)) => Err(Failure::format(format_args!("missing field `{name}` in `{path}`"))),
        None => Ok(kept),
    }
}

/// A value that is of the kind, without unknown fields.
///
/// # Errors
/// 400 or 422 naming the field, below `path`, whose value is not.
pub fn checked(path: &str, value: Value, kind: Kind) -> Result<Value, Failure> {
    match kind {
        Any => Ok(value),
        Integer if value.is_u64() => Ok(value),
        Integer => Err(wrong(path, "an unsigned integer")),
        Number if value.is_number() => Ok(value),
        Number => Err(wrong(path, "a number")),
        Between(from, to) => match value.as_f64() {
            Some(number) if (from..=to).contains(&number) => Ok(value),
            Some(_) => {
                let reason = format_args!("value {value} invalid, must be from {from} to {to}");
                Err(Failure::validation("JSON body", path, reason))
            }
            None => Err(wrong(path, "a number")),
        },
        Must(kind) => checked(path, value, *kind),
        Flag if value.is_boolean() => Ok(value),
        Flag => Err(wrong(path, "true or false")),
        Word(words) => match value.as_str() {
            Some(word) if words.is_empty() || words.contains(&word) => Ok(value),
            _ if words.is_empty() => Err(wrong(path, "a text")),
            _ => Err(wrong(path, &format!("one of {}", words.join(", ")))),
        },
        Object(table) => clean(path, value, table).map(Value::Object),
        OneOf(table) => match clean(path, value, table)? {
            one if one.len() == 1 => Ok(Value::Object(one)),
            _ => {
                let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
                Err(wrong(path, &format!("an object with one of {}", names.join(", "))))
            }
        },
    }
}

/// The failure for a value of the wrong kind.
pub fn wrong(path: &str, expected: &str) -> Failure {
    Failure::format(format_args!("`{path}` must be {expected}"))
}

#![doc = include_str!("../README.md")]

mod error;
mod name;
mod record;
mod store;
mod json;
mod object;
mod layer;

pub use error::{BatchError, Error, ErrorKind, Result};
pub use json::JsonStore;
pub use layer::{
    BatchOptions, BatchStats, Batched, COMPRESS_ABOVE_BYTES, CacheOptions, CacheStats, Cached, CompressStats,
    Compressed,
};
pub use object::{Behaviour, ObjectKv, Requests, open};
pub use store::{Entry, Expected, Page, Store, Swap, Version};

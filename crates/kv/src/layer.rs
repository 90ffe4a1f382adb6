//! What can be put over any store, in any order: each is a [`Store`](crate::Store) itself.
//!
//! A layer is shared by all namespaces that are reached through it: two handles of one namespace see each other's writes.

mod batch;
mod cache;
mod compress;

pub use batch::{BatchOptions, BatchStats, Batched};
pub use cache::{CacheOptions, CacheStats, Cached};
pub use compress::{COMPRESS_ABOVE_BYTES, CompressStats, Compressed};

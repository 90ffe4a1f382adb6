//! Bytes in places: one handle over local disks and buckets, with durability on local disks and a meter on each root.
//!
//! Owns every touch of a file or bucket. Does not own what the bytes mean, which root they belong on, or when to retry a
//! commit: that is the database's. Everything above uses [`Filesystem`] (whole files) and [`AppendFile`] (the log).
//!
//! ```text
//! StorageUrl ─▶ FilesystemFactory ─▶ Filesystem ─▶ dyn ObjectStore: LocalDisk (durable, own threads) | S3 | GCS | Azure
//!                                        └▶ Cache (remote files that never change)
//! ```

pub mod append;
pub mod blocks;
mod breaker;
pub mod cache;
pub mod error;
pub mod filesystem;
pub mod heap;
pub mod local;
pub mod lock;
pub mod map;
pub mod meter;
mod pool;
mod remote;
pub mod traffic;
pub mod url;

pub use append::AppendFile;
pub use blocks::{BLOCK_BYTES, Blocks};
pub use cache::{Cache, CacheConfig, CacheStats};
pub use error::{Detail, StoreError, redact};
pub use filesystem::{
    Capabilities, Capacity, Created, Fetched, FileInfo, Filesystem, FilesystemFactory, Partial, Scan,
};
pub use lock::{LOCK_PATH, LockError, RootLock};
pub use map::Stored;
pub use meter::{Histogram, Meter, Op, OpStats};
pub use traffic::{Prices, Request, Traffic, TrafficStats};
pub use url::{Overlap, Scheme, StorageUrl, UrlError};

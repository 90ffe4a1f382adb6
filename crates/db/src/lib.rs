//! ProximaDB's engine. The order of the modules is the architecture: a module uses only modules above it.

pub mod error;
mod sealed;
pub mod point;
pub mod schema;
pub mod payload;
pub mod filter;
pub mod config;
mod throttle;
pub mod root;
pub mod placement;
pub mod discovery;
pub mod metadata;
pub mod wal;
pub mod engine;
pub mod memtable;
pub mod axis;
pub mod state;
pub mod search;
pub mod shard;
pub mod collection;
pub mod moves;
pub mod database;
pub mod verify;

#[cfg(test)]
mod patience;

pub use collection::{Collection, CollectionInfo};
pub use database::Database;
pub use error::Error;
pub use search::{PayloadSelector, PointSelector, Quantization, Query, Record, ScoredPoint, Selection, VectorSelector};

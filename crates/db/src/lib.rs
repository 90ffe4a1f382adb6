//! ProximaDB's engine. The order of the modules is the architecture: a module uses only modules above it.

pub mod config;
pub mod error;
pub mod point;
pub mod schema;
pub mod stub;
pub use error::Error;
pub use stub::{
    Assignment, Collection, CollectionInfo, Database, PayloadSelector, PointSelector, Query, Record, RootStatus,
    ScoredPoint, Selection, VectorSelector, filter,
};

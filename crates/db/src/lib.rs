//! ProximaDB's engine. The order of the modules is the architecture: a module uses only modules above it.

pub mod error;
pub mod point;
pub mod schema;
pub mod config;
pub mod root;
pub mod placement;
pub mod discovery;
pub mod metadata;

//! ProximaDB's engine. The order of the modules is the architecture: a module uses only modules above it.

pub mod config;
pub mod error;
pub mod placement;
pub mod point;
pub mod root;
pub mod schema;

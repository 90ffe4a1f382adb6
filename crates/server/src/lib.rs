//! The ProximaDB binary's parts: the HTTP API, its JSON and its metrics. A module uses only modules above it.

pub mod api;
pub mod failure;
pub mod metrics;
pub mod serve;
pub mod wire;

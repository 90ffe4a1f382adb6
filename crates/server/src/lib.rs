//! The ProximaDB binary's parts: the HTTP API, its JSON and its metrics, and the command line.
//! A module uses only modules above it.

pub mod failure;

pub mod wire;

pub mod metrics;

pub mod api;

mod connections;

pub mod reload;

pub mod serve;

pub mod cli;

//! cli
pub mod client;
pub mod formats;
pub mod quickstart;
pub mod transfer;

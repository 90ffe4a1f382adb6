//! The configuration; here only the names that placement needs.

mod strategy;

pub use strategy::{DistributionStrategy, UnknownStrategy};

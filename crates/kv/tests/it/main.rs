//! The key-value layer as its users see it: one suite over every backend and every stack of layers, faults, processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod places;
mod recorder;
mod suite;
mod races;
mod stacks;
mod faulty;
mod faults;
mod stalled;
mod processes;
mod batching;
mod caching;
mod listing;
mod model;
mod servers;

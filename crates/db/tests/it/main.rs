//! Tests of the crate from outside: rules that a test can hold, and the engine as the server uses it.

mod engine;
mod moves;
mod order;
#[path = "../../src/patience.rs"]
mod patience;
mod races;

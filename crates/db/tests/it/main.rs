//! Tests of the crate from outside: rules that a test can hold, and the engine as the server uses it.

mod engine;
mod moves;
mod order;
mod races;

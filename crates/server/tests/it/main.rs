//! Tests of the whole product from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod packages;
mod recall;

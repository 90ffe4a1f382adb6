//! Tests of the whole product from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod churn;
mod bench;
mod packages;
mod recall;

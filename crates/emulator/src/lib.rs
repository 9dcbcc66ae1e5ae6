//! Faithful, stateful, offline stand-ins for the HTTP APIs of third-party providers, with fault dials.
//!
#![doc = include_str!("../README.md")]
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may panic")
)]

pub mod stripe;

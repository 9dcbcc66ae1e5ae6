//! What the whole-system tests stand on: a stage with an emulated provider and a real hub, the verdict over what the
//! hub holds at the end, seeds that repeat themselves, and an ear for everything that is logged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "only tests use it, and a test may panic"
)]

/// The examples of the repository's front page compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

pub mod browser;
pub mod consumer;
pub mod ear;
pub mod entry;
pub mod fuse;
pub mod hold;
pub mod lockstep;
pub mod recorder;
pub mod refusals;
pub mod seeds;
pub mod silence;
pub mod sim;
pub mod stage;
pub mod still;
pub mod verdict;
pub mod victims;

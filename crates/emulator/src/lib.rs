//! Faithful, stateful, offline stand-ins for the HTTP APIs of third-party providers, with fault dials.
//!
#![doc = include_str!("../README.md")]
#![recursion_limit = "256"]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests may panic")
)]

mod control;
mod dice;
mod faults;
mod gate;
mod ledger;
mod memory;
mod params;
mod post;
mod wire;

/// The room `cargo xtask new-adapter` copies: built here so that what it makes compiles.
#[cfg(test)]
pub mod blank;
pub mod google;
pub mod oauth;
pub mod sendgrid;
pub mod slack;
pub mod stripe;
pub mod twilio;

use std::sync::Arc;
use std::time::SystemTime;

pub use faults::{Fault, Faults, RetryAfter, RouteFaults, WebhookFaults};
pub use gate::Emulated;
pub use ledger::{Ledger, WebhookLedger};
pub use post::Poster;
pub use wire::Cut;

/// Tells the time; tests give their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Gives the machine's own clock, the default of every emulator.
#[must_use]
pub fn system_clock() -> Clock {
    #[allow(clippy::disallowed_methods, reason = "the default clock is the one place that reads the system's")]
    fn now() -> SystemTime {
        SystemTime::now()
    }
    Arc::new(now)
}

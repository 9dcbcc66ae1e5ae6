//! Whole-system tests: the hub, its stores and the pipeline against an emulated provider that misbehaves. Each test
//! names the promise it guards and the change that makes it fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic"
)]

#[path = "it/bad_input.rs"]
mod bad_input;
#[path = "it/canary.rs"]
mod canary;
#[path = "it/canary_oauth.rs"]
mod canary_oauth;
#[path = "it/convergence.rs"]
mod convergence;
#[path = "it/demo.rs"]
mod demo;
#[path = "it/kill.rs"]
mod kill;
#[path = "it/kill_outbox.rs"]
mod kill_outbox;
#[path = "it/refused.rs"]
mod refused;
#[path = "it/renewals.rs"]
mod renewals;
#[path = "it/restart.rs"]
mod restart;
#[path = "it/sim.rs"]
mod sim;
#[path = "it/stopped.rs"]
mod stopped;
#[path = "it/two_hubs.rs"]
mod two_hubs;

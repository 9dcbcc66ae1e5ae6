//! The adapter's promises: recorded traffic, hostile input, and whole stories against the emulated Stripe.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a test may panic"
)]

mod it {
    pub(crate) mod client;
    pub(crate) mod conformance;
    pub(crate) mod connect;
    pub(crate) mod declines;
    pub(crate) mod emulated;
    pub(crate) mod errors;
    pub(crate) mod events;
    pub(crate) mod fake;
    pub(crate) mod hostile;
    pub(crate) mod piped;
    pub(crate) mod stage;
    pub(crate) mod sync;
    pub(crate) mod walk;
    pub(crate) mod webhook;
}

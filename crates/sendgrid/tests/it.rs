//! The adapter's promises: recorded traffic, hostile input, and whole stories against the emulated SendGrid.
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
    pub(crate) mod emulated;
    pub(crate) mod emulated_copy;
    pub(crate) mod emulated_input;
    pub(crate) mod errors;
    pub(crate) mod events;
    pub(crate) mod fake;
    pub(crate) mod hostile;
    pub(crate) mod inbound;
    pub(crate) mod mail;
    pub(crate) mod stage;
    pub(crate) mod sync;
    pub(crate) mod webhook;
}

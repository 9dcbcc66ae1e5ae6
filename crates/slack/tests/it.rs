//! The adapter's promises: recorded traffic, hostile input, and the pipeline against a workspace that counts.
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
    pub(crate) mod emulated;
    pub(crate) mod emulated_input;
    pub(crate) mod emulated_tokens;
    pub(crate) mod errors;
    pub(crate) mod events;
    pub(crate) mod fake;
    pub(crate) mod hostile;
    pub(crate) mod missed;
    pub(crate) mod piped;
    pub(crate) mod stage;
    pub(crate) mod story;
    pub(crate) mod sync;
    pub(crate) mod webhook;
    pub(crate) mod workspace;
}

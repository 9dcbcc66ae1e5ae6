//! The adapter's promises: recorded traffic, hostile input, and whole stories against the emulated Google.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a test may panic"
)]

mod it {
    pub(crate) mod calls;
    pub(crate) mod client;
    pub(crate) mod conformance;
    pub(crate) mod connect;
    pub(crate) mod emulated;
    pub(crate) mod errors;
    pub(crate) mod fake;
    #[cfg(feature = "hub")]
    pub(crate) mod hub;
    pub(crate) mod keys;
    pub(crate) mod mail;
    pub(crate) mod pushed;
    pub(crate) mod renewed;
    pub(crate) mod stage;
    pub(crate) mod sync;
    pub(crate) mod watch;
    pub(crate) mod webhook;
}

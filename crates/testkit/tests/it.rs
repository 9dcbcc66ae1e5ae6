//! The suite on a sound adapter, and each check on one that is broken on purpose.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a test may panic"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "a defect changes one thing and leaves the rest as it is")]

mod acme;

mod it {
    pub(crate) mod defects;
    pub(crate) mod emulated;
    pub(crate) mod subject;
    pub(crate) mod suite;
}

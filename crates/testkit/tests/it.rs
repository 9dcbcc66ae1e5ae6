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
#[path = "blank/src/lib.rs"]
#[allow(unreachable_pub, dead_code, unused_imports, reason = "a crate of its own, once it is copied")]
mod blank;

mod it {
    #[path = "../blank/tests/it/conformance.rs"]
    mod blank_conformance;
    pub(crate) mod defects;
    pub(crate) mod emulated;
    pub(crate) mod subject;
    pub(crate) mod suite;
}

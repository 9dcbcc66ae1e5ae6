//! What a test of Palisade stands on: the suites an adapter ([`conformance`]) or a store ([`store_suite`]) must pass, the
//! emulated provider without a socket, and a network that fails by a seed.
//!
//! Everything here waits on tokio's clock only, so a story of hours runs in milliseconds under a paused one, and draws
//! from a [`palisade_core::Random`], so a seed repeats it.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")
)]

pub mod conformance;
pub mod copy;
pub mod fake;
pub mod faulty;
pub mod post;
pub mod store_suite;
pub mod transport;
pub mod words;

pub use copy::{AccountCopy, pipeline};
pub use faulty::{FaultyTransport, Mishap, Plan};
pub use post::{PostBox, clock_from};
pub use transport::EmulatorTransport;

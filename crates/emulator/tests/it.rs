//! Drives the emulator from outside: in memory with paused time, and over real sockets with reqwest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "tests may panic"
)]

mod oauth {
    mod codes;
    mod connect;
    mod faults;
    mod google;
    mod pages;
    mod slack;
    mod support;
    mod tokens;
}
mod stripe {
    mod api;
    mod behaviour;
    mod journal;
    mod sockets;
    mod support;
    mod webhooks;
}

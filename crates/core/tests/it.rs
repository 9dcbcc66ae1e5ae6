//! The core from outside: what only its public interface and real sockets can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "it/guarded.rs"]
mod guarded;
#[path = "it/http_transport.rs"]
mod http_transport;
#[path = "it/mutual_tls.rs"]
mod mutual_tls;
#[path = "it/secrecy.rs"]
mod secrecy;
#[path = "it/standard_webhooks.rs"]
mod standard_webhooks;

//! The runtime of it all: an embeddable hub, and the binary `palisade` around it.
//!
//! A product adds providers, a store and handlers, mounts the router and runs the runner:
//!
//! | room | what stands there |
//! |---|---|
//! | [`hub`] | [`Hub`], its builder and settings |
//! | [`runner`] | [`Runner`]: connections, worker tasks, call log |
//! | [`export`] | streams as files: JSON Lines, CSV, Parquet |
//! | [`feed`] | the change feed: cursors, waiting, a stream that follows |
//! | [`mod@serve`] | the bounded HTTP server, for who has none |
//! | [`config`] | the configuration file of the binary |
//! | [`cli`] | the command line |
//! | [`demo`] | the story `palisade demo` tells |
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::print_stdout,
        reason = "a test may panic"
    )
)]

mod accounts;
mod builtin;
mod calls;
mod chores;
pub mod cli;
pub mod config;
mod credential;
pub mod demo;
pub mod export;
pub mod feed;
mod gate;
mod home;
pub mod hub;
mod metrics;
mod outbox;
mod overview;
mod pauses;
mod plain;
pub mod previews;
mod routes;
mod routing;
pub mod runner;
mod senders;
pub mod serve;
mod time;
mod unreadable;
mod watching;

pub use credential::{ConnectionCredential, ServiceAccount};
pub use hub::{Access, ConnectionConfig, EndpointConfig, Hub, HubBuilder, Settings};
pub use palisade_core::net::{Network, NoNetwork};
pub use routing::AppEndpointConfig;
pub use runner::Runner;
pub use senders::AllowFrom;
pub use serve::{ServeSettings, serve};
pub use unreadable::KIND as UNREADABLE;

//! The runtime of it all: an embeddable hub, and the binary `palisade` around it.
//!
//! A product adds providers, a store and handlers, mounts the router and runs the runner:
//!
//! | room | what stands there |
//! |---|---|
//! | [`hub`] | [`Hub`], its builder and settings |
//! | [`runner`] | [`Runner`]: connections, worker tasks, call log |
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
pub mod cli;
pub mod config;
mod credential;
pub mod demo;
mod gate;
mod home;
pub mod hub;
mod metrics;
mod outbox;
mod overview;
mod pauses;
mod plain;
mod routes;
mod routing;
pub mod runner;
pub mod serve;
mod time;
mod unreadable;
mod watching;

pub use credential::{ConnectionCredential, ServiceAccount};
pub use gate::{Network, NoNetwork};
pub use hub::{Access, ConnectionConfig, EndpointConfig, Hub, HubBuilder, Settings};
pub use routing::AppEndpointConfig;
pub use runner::Runner;
pub use serve::{ServeSettings, serve};
pub use unreadable::KIND as UNREADABLE;

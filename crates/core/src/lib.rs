//! The heart of Palisade: the traits for client, auth, sync and webhooks, the request pipeline that every
//! outbound call passes, the drivers that run the traits, and in-memory stores as the reference model.
//!
//! This crate knows no provider, opens no database and spawns nothing by itself. Time, randomness, network, store
//! and secrets come in as arguments, so a test under tokio's paused clock runs hours in milliseconds.
//!
//! | room | what stands there |
//! |---|---|
//! | [`transport`] | [`Transport`], the one seam everything outbound passes; [`transport::HttpTransport`] over reqwest |
//! | [`call`] | [`Operation`] (static description), [`Call`] (what travels in `request.extensions()`) |
//! | [`client`] | [`Client`], the pipeline: itself a [`Transport`] that wraps another |
//! | [`auth`] | credentials, their source, the vault that seals them |
//! | [`webhook`] | raw delivery → [`webhook::Verified`] → events; Standard Webhooks signatures |
//! | [`sync`] | streams, pages, the merge rule and the driver of a run |
//! | [`store`] | the store traits and the in-memory model |
//! | [`forward`] | what is forwarded to products in other languages: signed, sent, tried again, given up |
//! | [`net`] | networks, and which addresses may be connected to |
//! | [`worker`] | the driver of stored work: leases, handlers, syncs, settlements |
//! | [`health`] | a pure function from observations to a state and who must act |
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

pub mod auth;
pub mod call;
pub mod client;
pub mod clock;
pub mod error;
pub mod forward;
pub mod health;
pub mod id;
pub mod metrics;
pub mod net;
pub mod provider;
pub mod random;
pub mod schedule;
pub mod secret;
pub mod store;
pub mod sync;
pub mod transport;
pub mod webhook;
pub mod worker;

pub use call::{Call, Operation, Priority, Replay};
pub use client::Client;
pub use clock::{Clock, Timestamp};
pub use error::{Error, ErrorKind, Outcome, Result};
pub use id::{ConnectionId, EndpointId, Environment, EventId, GrantName, RecordId, StreamName, TenantId};
pub use provider::{Finder, Found, Manifest, Provider};
pub use random::Random;
pub use secret::Secret;
pub use transport::Transport;

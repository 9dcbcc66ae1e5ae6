//! The hub from outside: its router in process, its server on a socket, its binary as a process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic"
)]

#[path = "it/fixtures.rs"]
mod fixtures;

#[path = "it/access.rs"]
mod access;
#[path = "it/api.rs"]
mod api;
#[path = "it/app_endpoint.rs"]
mod app_endpoint;
#[path = "it/binary.rs"]
mod binary;
#[path = "it/burials.rs"]
mod burials;
#[path = "it/commands.rs"]
mod commands;
#[path = "it/connecting.rs"]
mod connecting;
#[path = "it/destinations.rs"]
mod destinations;
#[path = "it/environments.rs"]
mod environments;
#[path = "it/export.rs"]
mod export;
#[path = "it/feed.rs"]
mod feed;
#[path = "it/flows.rs"]
mod flows;
#[path = "it/found.rs"]
mod found;
#[path = "it/growth.rs"]
mod growth;
#[path = "it/inbox.rs"]
mod inbox;
#[path = "it/keys.rs"]
mod keys;
#[path = "it/killed_demo.rs"]
mod killed_demo;
#[path = "it/metrics.rs"]
mod metrics;
#[path = "it/operating.rs"]
mod operating;
#[path = "it/outbox.rs"]
mod outbox;
#[path = "it/page.rs"]
mod page;
#[path = "it/readiness.rs"]
mod readiness;
#[path = "it/renamed.rs"]
mod renamed;
#[path = "it/running.rs"]
mod running;
#[path = "it/runs.rs"]
mod runs;
#[path = "it/schedules.rs"]
mod schedules;
#[path = "it/service_accounts.rs"]
mod service_accounts;
#[path = "it/socket.rs"]
mod socket;
#[path = "it/webhooks.rs"]
mod webhooks;

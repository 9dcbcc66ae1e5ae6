//! Drives the emulator from outside: in memory with paused time, and over real sockets with reqwest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "tests may panic"
)]

mod google {
    mod api;
}
mod oauth {
    mod codes;
    mod connect;
    mod faults;
    mod google;
    mod pages;
    mod slack;
    pub(crate) mod support;
    mod tokens;
}
mod sendgrid {
    mod lists;
    mod mail;
    mod support;
    mod webhooks;
}
mod slack {
    mod api;
    mod events;
    mod limits;
    pub(crate) mod support;
}
mod stripe {
    mod api;
    mod behaviour;
    mod journal;
    mod sockets;
    mod support;
    mod webhooks;
}
mod twilio {
    mod api;
    mod support;
    mod webhooks;
}

pub(crate) use oauth::support::client as oauth_client;

#![doc = include_str!("../README.md")]
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

use std::sync::Arc;

use palisade_core::client::Profile;
use palisade_core::provider::{Manifest, Provider};
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;
use palisade_core::{Finder, Operation, Result, Timestamp};

pub mod auth;
pub mod client;
pub mod code;
pub mod error;
pub mod event;
mod find;
pub mod operation;
pub mod sid;
pub mod status;
pub mod sync;
mod time;
pub mod twiml;
pub mod webhook;

pub use client::{BASE_URL, Twilio};
pub use event::TypedEvent;
pub use status::MessageStatus;
pub use sync::TwilioSource;
pub use webhook::TwilioWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "twilio",
    title: "Twilio",
    base_url: BASE_URL,
    hosts: &["api.twilio.com"],
    api_version: Some(client::API_VERSION),
};

/// Twilio, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct TwilioProvider {
    base_urls: Vec<String>,
    source: TwilioSource,
    webhook: TwilioWebhook,
}

impl TwilioProvider {
    /// Makes the provider with Twilio's own address in the United States only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets credentials go to another address too: a region ([`auth::regional_base_url`]), an emulator, a recording
    /// proxy.
    #[must_use]
    pub fn allowing(mut self, base_url: impl Into<String>) -> Self {
        self.base_urls.push(base_url.into());
        self
    }

    /// Copies only messages sent at or after a moment ([`TwilioSource::sent_since`]).
    #[must_use]
    pub fn sent_since(mut self, moment: Timestamp) -> Self {
        self.source = self.source.sent_since(moment);
        self
    }

    /// Answers inbound messages with this text instead of silence ([`TwilioWebhook::replying`]).
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Config`] when the text cannot be sent.
    pub fn replying(mut self, text: &str) -> Result<Self> {
        self.webhook = self.webhook.replying(text)?;
        Ok(self)
    }
}

impl Provider for TwilioProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::TwilioClassifier));
        profile.request_id_header = error::REQUEST_ID;
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        operation::of_request(method, path).into_iter().collect()
    }

    fn finder(&self) -> Option<&dyn Finder> {
        Some(&find::MessageFinder)
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&self.webhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }
}

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
use std::time::Duration;

use palisade_core::Operation;
use palisade_core::client::Profile;
use palisade_core::provider::{Manifest, Provider};
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;

pub mod auth;
pub mod client;
pub mod error;
pub mod event;
mod json;
pub mod operation;
pub mod sync;
pub mod webhook;

pub use client::{BASE_URL, HistoryRule, NewMessage, Slack};
pub use event::TypedEvent;
pub use sync::SlackSource;
pub use webhook::SlackWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "slack",
    title: "Slack",
    base_url: BASE_URL,
    // The second takes files, the third answers to commands and interactions.
    hosts: &["slack.com", "files.slack.com", "hooks.slack.com"],
    api_version: None,
};

/// Slack, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct SlackProvider {
    base_urls: Vec<String>,
    source: SlackSource,
    attempt_timeout_max: Option<Duration>,
}

impl SlackProvider {
    /// Makes the provider with Slack's own addresses only, copying all there is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets credentials go to another address too: an emulator, a recording proxy.
    #[must_use]
    pub fn allowing(mut self, base_url: impl Into<String>) -> Self {
        self.base_urls.push(base_url.into());
        self
    }

    /// Gives an attempt this long at the most; 30 seconds otherwise, as Slack's own SDKs.
    #[must_use]
    pub fn answering_within(mut self, longest: Duration) -> Self {
        self.attempt_timeout_max = Some(longest);
        self
    }

    /// Says what is copied and how fast ([`SlackSource::reading`], [`SlackSource::of_types`] and others).
    #[must_use]
    pub fn copying(mut self, source: SlackSource) -> Self {
        self.source = source;
        self
    }
}

impl Provider for SlackProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::SlackClassifier));
        profile.attempt_timeout_max = self.attempt_timeout_max;
        profile.request_id_header = error::REQUEST_ID;
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        operation::of_request(method, path)
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&SlackWebhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }
}

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
use palisade_core::sync::watch::Watcher;
use palisade_core::webhook::Webhook;

pub mod auth;
pub mod client;
pub mod error;
pub mod event;
pub mod operation;
pub mod sync;
mod time;
pub mod webhook;

pub use client::{BASE_URL, GMAIL_URL, Google};
pub use event::TypedEvent;
pub use sync::GoogleSource;
pub use webhook::GoogleWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "google",
    title: "Google",
    base_url: BASE_URL,
    hosts: &["www.googleapis.com", "gmail.googleapis.com"],
    api_version: None,
};

/// Google, as the drivers and the hub see it: Gmail and Calendar.
#[derive(Debug, Default)]
pub struct GoogleProvider {
    base_urls: Vec<String>,
    source: GoogleSource,
    webhook: GoogleWebhook,
    attempt_timeout_max: Option<Duration>,
}

impl GoogleProvider {
    /// Makes the provider with both streams, at Google's own addresses only.
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

    /// Gives an attempt this long at the most; otherwise 30 seconds, and 90 for a message.
    #[must_use]
    pub fn answering_within(mut self, longest: Duration) -> Self {
        self.attempt_timeout_max = Some(longest);
        self
    }

    /// Sets which streams are kept, and how.
    #[must_use]
    pub fn keeping(mut self, source: GoogleSource) -> Self {
        self.source = source;
        self
    }

    /// Sets how deliveries are verified: other keys, or another address to fetch them from.
    #[must_use]
    pub fn verifying(mut self, webhook: GoogleWebhook) -> Self {
        self.webhook = webhook;
        self
    }
}

impl Provider for GoogleProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::GoogleClassifier));
        profile.attempt_timeout_max = self.attempt_timeout_max;
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        operation::of_request(method, path)
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&self.webhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }

    fn watcher(&self) -> Option<&dyn Watcher> {
        Some(&self.source)
    }
}

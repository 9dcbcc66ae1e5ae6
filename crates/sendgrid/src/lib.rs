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
use palisade_core::{Finder, Operation};

pub mod auth;
pub mod client;
pub mod error;
pub mod event;
mod find;
pub mod operation;
mod paging;
pub mod suppression;
pub mod sync;
pub mod webhook;

pub use client::{BASE_URL, EU_BASE_URL, Mail, SendGrid};
pub use event::TypedEvent;
pub use suppression::List;
pub use sync::SendGridSource;
pub use webhook::SendGridWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "sendgrid",
    title: "SendGrid",
    base_url: BASE_URL,
    hosts: &["api.sendgrid.com", "api.eu.sendgrid.com"],
    api_version: Some("v3"),
};

/// SendGrid, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct SendGridProvider {
    base_urls: Vec<String>,
    source: SendGridSource,
    webhook: SendGridWebhook,
}

impl SendGridProvider {
    /// Makes the provider with SendGrid's own addresses only.
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

    /// Sets how old a delivery may be ([`SendGridWebhook::accepting_for`]).
    #[must_use]
    pub fn accepting_for(mut self, seconds: i64) -> Self {
        self.webhook = self.webhook.accepting_for(seconds);
        self
    }
}

impl Provider for SendGridProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::SendGridClassifier));
        profile.learned = Some(operation::LEARNED);
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        operation::of_request(method, path).into_iter().collect()
    }

    fn finder(&self) -> Option<&dyn Finder> {
        Some(&find::MailFinder)
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&self.webhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }
}

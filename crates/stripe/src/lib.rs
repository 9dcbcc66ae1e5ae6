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

use palisade_core::client::Profile;
use palisade_core::provider::{Manifest, Provider};
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;
use palisade_core::{Operation, Result};

pub mod auth;
pub mod client;
pub mod decline;
pub mod error;
pub mod event;
pub mod id;
mod json;
pub mod operation;
pub mod sync;
pub mod webhook;

pub use client::{API_VERSION, BASE_URL, Stripe};
pub use event::TypedEvent;
pub use sync::StripeSource;
pub use webhook::StripeWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "stripe",
    title: "Stripe",
    base_url: BASE_URL,
    hosts: &["api.stripe.com"],
    api_version: Some(API_VERSION),
};

/// Stripe, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct StripeProvider {
    base_urls: Vec<String>,
    source: StripeSource,
    attempt_timeout_max: Option<Duration>,
}

impl StripeProvider {
    /// Makes the provider in [`API_VERSION`], with Stripe's own address only.
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

    /// Gives an attempt this long at the most; 30 seconds otherwise. Stripe's own SDKs wait 80.
    #[must_use]
    pub fn answering_within(mut self, longest: Duration) -> Self {
        self.attempt_timeout_max = Some(longest);
        self
    }

    /// Keeps records in the shape of another API version. Give the one of your webhook endpoints: events in any other
    /// version cost a read each.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Config`] when the text cannot be a version.
    pub fn speaking(mut self, api_version: &str) -> Result<Self> {
        self.source = self.source.speaking(api_version)?;
        Ok(self)
    }

    /// Ignores events of the other mode ([`StripeSource::in_mode`]).
    #[must_use]
    pub fn in_mode(mut self, live: bool) -> Self {
        self.source = self.source.in_mode(live);
        self
    }
}

impl Provider for StripeProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::StripeClassifier));
        profile.attempt_timeout_max = self.attempt_timeout_max;
        profile.class = Some(auth::class);
        profile.request_id_header = error::REQUEST_ID;
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        operation::of_request(method, path).into_iter().collect()
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&StripeWebhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }
}

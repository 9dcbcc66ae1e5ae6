#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")
)]

use std::sync::Arc;

use palisade_core::client::Profile;
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;
use palisade_core::{Manifest, Provider};

pub mod auth;
pub mod client;
pub mod error;
pub mod sync;
pub mod webhook;

pub use client::{BASE_URL, Blank};
pub use sync::BlankSource;
pub use webhook::BlankWebhook;

/// What this adapter covers.
pub static MANIFEST: Manifest = Manifest {
    name: "blank",
    title: "Blank",
    base_url: BASE_URL,
    // Every host a credential may go to, and no other.
    hosts: &["api.blank.example"],
    api_version: None,
};

/// Blank, as the drivers and the hub see it.
#[derive(Clone, Debug, Default)]
pub struct BlankProvider {
    base_urls: Vec<String>,
}

impl BlankProvider {
    /// Makes the provider with Blank's own address only.
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
}

impl Provider for BlankProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        let profile = Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::BlankClassifier));
        self.base_urls.iter().fold(profile, |profile, base_url| profile.allowing(base_url))
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&BlankWebhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&BlankSource)
    }
}

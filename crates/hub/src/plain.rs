//! A provider without an adapter, of which the configuration has a flow: its accounts are connected, their tokens kept
//! and renewed, and calls of the product's own go over the same pipeline. It has no webhooks and no streams.

use std::sync::Arc;

use palisade_core::client::{Profile, StatusClassifier};
use palisade_core::{Manifest, Provider};

/// Any provider that speaks HTTP and OAuth 2.0 as the standards have it.
#[derive(Debug)]
pub(crate) struct PlainProvider {
    manifest: &'static Manifest,
}

impl PlainProvider {
    /// Makes it of its name and the address of its API.
    ///
    /// A manifest is made once when the process starts, for as long as that lives: its texts are given up to it.
    pub(crate) fn new(name: &str, base_url: &str) -> Self {
        let text = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
        let uri: Option<http::Uri> = base_url.parse().ok();
        let host = uri.as_ref().and_then(http::Uri::authority).map(|authority| text(authority.as_str()));
        let hosts: Vec<&'static str> = host.into_iter().collect();
        let name = text(name);
        let manifest = Manifest {
            name,
            title: name,
            base_url: text(base_url),
            hosts: Box::leak(hosts.into_boxed_slice()),
            api_version: None,
        };
        Self { manifest: Box::leak(Box::new(manifest)) }
    }
}

impl Provider for PlainProvider {
    fn manifest(&self) -> &'static Manifest {
        self.manifest
    }

    fn profile(&self) -> Profile {
        Profile::new(self.manifest.name, self.manifest.hosts, Arc::new(StatusClassifier))
    }
}

//! An adapter for a provider that does not exist: Acme ships parcels. It is the example of `docs/adapters.md`, with the
//! rooms every adapter has, and what the kit's own tests break on purpose.
//!
//! Acme's documentation, in short: `POST /v1/parcels` with `Idempotency-Key`; `GET /v1/parcels?limit=&after=` gives
//! `{"parcels": […], "next": …, "version": …}`, with `since=` only what changed after a version, deleted ones too;
//! `GET /v1/parcels/{id}`. Errors are `{"code": …}`. 60 requests a minute. Deliveries carry
//! `acme-signature: <seconds>.<hex>`, HMAC-SHA256 over `<seconds>.<body>`, good for five minutes.

use std::sync::Arc;

use palisade_core::client::Profile;
use palisade_core::sync::Source;
use palisade_core::webhook::Webhook;
use palisade_core::{Manifest, Provider};

pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod sync;
pub(crate) mod webhook;

/// What this adapter covers.
pub(crate) static MANIFEST: Manifest = Manifest {
    name: "acme",
    title: "Acme",
    base_url: "https://api.acme.test",
    hosts: &["api.acme.test"],
    api_version: Some("v1"),
};

/// Acme, as the drivers and the hub see it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AcmeProvider;

impl Provider for AcmeProvider {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        Profile::new(MANIFEST.name, MANIFEST.hosts, Arc::new(error::AcmeClassifier))
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&webhook::AcmeWebhook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&sync::AcmeSource)
    }
}

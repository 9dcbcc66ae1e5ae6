//! What an adapter gives the drivers: a manifest and, where the provider has them, webhooks and streams.

use std::fmt;

use crate::client::Profile;
use crate::sync::Source;
use crate::sync::watch::Watcher;
use crate::webhook::Webhook;

/// States what an adapter covers. Every word of it is checked by the conformance suite.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters write it down as a static")]
pub struct Manifest {
    /// The provider's name in configuration, rows and metrics (`stripe`).
    pub name: &'static str,
    /// The provider's name for people (`Stripe`).
    pub title: &'static str,
    /// The production base URL, without a trailing slash.
    pub base_url: &'static str,
    /// The hosts a credential may be sent to. A call to any other host is refused before it leaves.
    pub hosts: &'static [&'static str],
    /// The API version the adapter speaks, where the provider has versions.
    pub api_version: Option<&'static str>,
}

/// One provider, as the drivers and the hub see it.
pub trait Provider: Send + Sync + fmt::Debug + 'static {
    /// Returns what the adapter covers.
    fn manifest(&self) -> &'static Manifest;

    /// Returns what the pipeline must know of the provider: classifier, hosts, breaker and retry settings.
    fn profile(&self) -> Profile;

    /// Returns the webhook side, if the provider has one.
    fn webhook(&self) -> Option<&dyn Webhook> {
        None
    }

    /// Returns the streams side, if the provider's data can be listed.
    fn source(&self) -> Option<&dyn Source> {
        None
    }

    /// Returns the push-channel side, if the provider tells of changes only while a channel is kept open.
    fn watcher(&self) -> Option<&dyn Watcher> {
        None
    }
}

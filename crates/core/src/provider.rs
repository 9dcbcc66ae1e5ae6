//! What an adapter gives the drivers: a manifest and, where the provider has them, webhooks and streams.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::call::Operation;
use crate::client::Profile;
use crate::error::Result;
use crate::store::OutboxCall;
use crate::sync::watch::Watcher;
use crate::sync::{Site, Source};
use crate::transport::Transport;
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

    /// Returns the operations a request of this method to this path (without a query) may be, the one to assume first.
    /// Where there are several (an insert that carries an id of its own, and one that does not), the first is repeated
    /// the least. None, the default, where the adapter has none: such a request is not taken into the outbox.
    fn operations(&self, method: &http::Method, path: &str) -> Vec<&'static Operation> {
        let _ = (method, path);
        Vec::new()
    }

    /// Returns for how long at least the provider knows an idempotency key again. Stripe, the only one that has them,
    /// prunes keys after at least 24 hours (docs.stripe.com/api/idempotent_requests, 2026).
    fn keys_kept_for(&self) -> Duration {
        Duration::from_secs(24 * 3_600)
    }

    /// Returns the webhook side, if the provider has one.
    fn webhook(&self) -> Option<&dyn Webhook> {
        None
    }

    /// Returns the streams side, if the provider's data can be listed.
    fn source(&self) -> Option<&dyn Source> {
        None
    }

    /// Returns the side that finds out whether a call was made, if the provider can be asked.
    fn finder(&self) -> Option<&dyn Finder> {
        None
    }

    /// Returns the push-channel side, if the provider tells of changes only while a channel is kept open.
    fn watcher(&self) -> Option<&dyn Watcher> {
        None
    }
}

/// What a look at the provider told of a call that may have been made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the worker decides on each")]
pub enum Found {
    /// It was made.
    Made,
    /// It was not made.
    NotMade,
    /// Nothing of it is there, and it is too early to say: certain only after this time from when it was sent.
    Later(Duration),
    /// It cannot be told; why, in one phrase without payload.
    Unclear(&'static str),
}

/// Finds out whether a call of the outbox was made, where the provider can be asked.
#[async_trait]
pub trait Finder: Send + Sync {
    /// Looks for what the call would have made, by calls of the connection's own over `transport`. `age` is the time
    /// since it may have been sent. Of an operation that leaves nothing to look for, the answer is
    /// [`Found::Unclear`].
    ///
    /// # Errors
    /// The pipeline's.
    async fn find(&self, transport: Arc<dyn Transport>, site: &Site, call: &OutboxCall, age: Duration)
    -> Result<Found>;
}

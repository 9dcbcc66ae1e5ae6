//! The adapters that are built into the binary: one line each.

use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::Webhook;
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::{Provider, Result, Secret};
use palisade_slack::{SlackProvider, SlackWebhook};
use palisade_stripe::StripeProvider;
use palisade_stripe::webhook::StripeWebhook;

/// An adapter as the binary configures it.
pub(crate) struct Builtin {
    /// Its name in the configuration.
    pub(crate) name: &'static str,
    /// Makes it.
    pub(crate) provider: fn() -> Arc<dyn Provider>,
    /// Checks an API key and says how it is sent.
    pub(crate) credential: fn(Secret) -> Result<Scheme>,
}

/// Every adapter.
#[rustfmt::skip]
pub(crate) const BUILTIN: [Builtin; 2] = [
    Builtin { name: "slack", provider: || Arc::new(SlackProvider::new()), credential: palisade_slack::auth::token },
    Builtin { name: "stripe", provider: || Arc::new(StripeProvider::new()), credential: palisade_stripe::auth::api_key },
];

/// Every signature scheme `palisade verify` knows.
pub(crate) const WEBHOOKS: [(&str, &dyn Webhook); 3] =
    [("slack", &SlackWebhook), ("standard_webhooks", &StandardWebhook), ("stripe", &StripeWebhook)];

/// Returns the names of the adapters.
pub(crate) fn names() -> Vec<&'static str> {
    BUILTIN.iter().map(|builtin| builtin.name).collect()
}

/// Finds an adapter.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    const ALL: &[Builtin] = &BUILTIN;
    ALL.iter().find(|builtin| builtin.name == name)
}

/// Finds a signature scheme.
pub(crate) fn webhook(name: &str) -> Option<&'static dyn Webhook> {
    WEBHOOKS.iter().find(|(known, _)| *known == name).map(|(_, webhook)| *webhook)
}

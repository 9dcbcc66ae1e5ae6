//! The adapters that are built into the binary: one line each.

use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::Webhook;
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::{Provider, Result, Secret};
use palisade_sendgrid::{SendGridProvider, SendGridWebhook};
use palisade_slack::{SlackProvider, SlackWebhook};
use palisade_stripe::StripeProvider;
use palisade_stripe::webhook::StripeWebhook;
use palisade_twilio::{TwilioProvider, TwilioWebhook};

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
pub(crate) const BUILTIN: &[Builtin] = &[
    Builtin { name: "slack", provider: || Arc::new(SlackProvider::new()), credential: palisade_slack::auth::token },
    Builtin { name: "stripe", provider: || Arc::new(StripeProvider::new()), credential: palisade_stripe::auth::api_key },
    Builtin { name: "twilio", provider: || Arc::new(TwilioProvider::new()), credential: palisade_twilio::auth::credential },
    Builtin { name: "sendgrid", provider: || Arc::new(SendGridProvider::new()), credential: palisade_sendgrid::auth::api_key },
];

/// Every signature scheme `palisade verify` knows.
#[rustfmt::skip]
pub(crate) const WEBHOOKS: &[(&str, &dyn Webhook)] = &[
    ("slack", &SlackWebhook),
    ("stripe", &StripeWebhook),
    ("twilio", &TwilioWebhook::new()),
    ("sendgrid", &SendGridWebhook::new()),
    ("standard_webhooks", &StandardWebhook),
];

/// Returns the names of the adapters.
pub(crate) fn names() -> Vec<&'static str> {
    BUILTIN.iter().map(|builtin| builtin.name).collect()
}

/// Finds an adapter.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}

/// Finds a signature scheme.
pub(crate) fn webhook(name: &str) -> Option<&'static dyn Webhook> {
    WEBHOOKS.iter().find(|(known, _)| *known == name).map(|(_, webhook)| *webhook)
}

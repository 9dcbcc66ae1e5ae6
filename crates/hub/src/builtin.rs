//! The adapters that are built into the binary: one line each.

use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::Webhook;
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::{Provider, Result, Secret};
use palisade_google::webhook::Jwks;
use palisade_google::{GoogleProvider, GoogleWebhook};
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

/// Makes a webhook side of what a case or file says beside the secret.
pub(crate) type MakeWebhook = fn(Option<&[u8]>) -> Result<Box<dyn Webhook>>;

/// Every adapter.
#[rustfmt::skip]
pub(crate) const BUILTIN: &[Builtin] = &[
    Builtin { name: "google", provider: || Arc::new(GoogleProvider::new()), credential: palisade_google::auth::access_token },
    Builtin { name: "slack", provider: || Arc::new(SlackProvider::new()), credential: palisade_slack::auth::token },
    Builtin { name: "stripe", provider: || Arc::new(StripeProvider::new()), credential: palisade_stripe::auth::api_key },
    Builtin { name: "twilio", provider: || Arc::new(TwilioProvider::new()), credential: palisade_twilio::auth::credential },
    Builtin { name: "sendgrid", provider: || Arc::new(SendGridProvider::new()), credential: palisade_sendgrid::auth::api_key },
];

/// A signature scheme `palisade verify` knows.
pub(crate) struct Verifier {
    /// Its name.
    pub(crate) name: &'static str,
    /// Makes it, with the provider's published keys (JWKS) where it needs some.
    pub(crate) webhook: MakeWebhook,
}

/// Every signature scheme.
#[rustfmt::skip]
pub(crate) const WEBHOOKS: &[Verifier] = &[
    Verifier { name: "google", webhook: google },
    Verifier { name: "slack", webhook: |_| Ok(Box::new(SlackWebhook)) },
    Verifier { name: "stripe", webhook: |_| Ok(Box::new(StripeWebhook)) },
    Verifier { name: "twilio", webhook: |_| Ok(Box::new(TwilioWebhook::new())) },
    Verifier { name: "sendgrid", webhook: |_| Ok(Box::new(SendGridWebhook::new())) },
    Verifier { name: "standard_webhooks", webhook: |_| Ok(Box::new(StandardWebhook)) },
];

fn google(keys: Option<&[u8]>) -> Result<Box<dyn Webhook>> {
    let keys = keys.map(Jwks::parse).transpose()?.unwrap_or_default();
    Ok(Box::new(GoogleWebhook::with_keys(keys)))
}

/// Returns the names of the adapters.
pub(crate) fn names() -> Vec<&'static str> {
    BUILTIN.iter().map(|builtin| builtin.name).collect()
}

/// Finds an adapter.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTIN.iter().find(|builtin| builtin.name == name)
}

/// Finds a signature scheme.
pub(crate) fn webhook(name: &str) -> Option<&'static Verifier> {
    WEBHOOKS.iter().find(|verifier| verifier.name == name)
}

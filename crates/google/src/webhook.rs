//! Deliveries from Google: Gmail's notifications through Pub/Sub push, Calendar's through channels. Pure; keys and time
//! are arguments.
//!
//! Neither carries what changed: an event names the stream to read. What an endpoint trusts is written as its secrets,
//! one text each ([`Trust`]); a delivery with Calendar's channel headers is checked against channels only, any other
//! against push subscriptions only, so that the one can never pass for the other.

use palisade_core::webhook::{Event, Parsed, PublishedKeys, RawDelivery, Refusal, Senders, Verified, Webhook};
use palisade_core::{Result, Secret, Timestamp};

pub mod channel;
pub mod jwks;
pub mod jwt;
pub mod push;
mod trust;

pub use jwks::{Jwks, KeyCache};
pub use trust::{ChannelTrust, PushTrust, Trust};

/// The type of an event that says that a mailbox changed.
pub const MAIL_CHANGED: &str = "gmail.changed";
/// The type of an event that says that a calendar changed.
pub const CALENDAR_CHANGED: &str = "calendar.changed";

/// Google's deliveries, with the keys its tokens are signed with.
#[derive(Debug, Default)]
pub struct GoogleWebhook {
    keys: KeyCache,
}

impl GoogleWebhook {
    /// Makes it without keys: the first delivery has them fetched.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes it with keys that are at hand; they count as never fetched.
    #[must_use]
    pub fn with_keys(keys: Jwks) -> Self {
        Self { keys: KeyCache::holding(keys) }
    }

    /// Fetches keys from another address than Google's: an emulator.
    #[must_use]
    pub fn keys_at(mut self, url: impl Into<String>) -> Self {
        self.keys = self.keys.at(url);
        self
    }
}

impl Webhook for GoogleWebhook {
    fn senders(&self) -> Senders {
        Senders::Unpublished { why: "the addresses Google publishes are those of all of Google and change by the day" }
    }

    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal> {
        let mut trusts = Vec::with_capacity(secrets.len());
        for secret in secrets {
            // One that cannot be read must not be skipped: whoever rotates would believe it is in use.
            trusts.push(Trust::read(secret).map_err(|_| Refusal::NoSecret)?);
        }
        if channel::is_one(delivery) {
            channel::verify(delivery, &trusts)
        } else {
            push::verify(delivery, &trusts, &self.keys.at_hand(now), now)
        }
    }

    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let event: Option<Event> = if channel::is_one(verified.delivery()) {
            channel::event(verified.delivery())?
        } else {
            Some(push::event(verified.body())?)
        };
        Ok(Parsed { reply: palisade_core::webhook::Reply::ok(), events: event.into_iter().collect() })
    }

    /// A push of Gmail's names the mailbox, a channel's notification the calendar.
    fn names_account(&self) -> bool {
        true
    }

    /// The token of a single channel is known to whoever opened it, and a channel's calendar stands in a bare header.
    fn vouches_for_accounts(&self, secret: &Secret) -> bool {
        !matches!(Trust::read(secret), Ok(Trust::Channel(_)))
    }

    fn published_keys(&self, delivery: &RawDelivery) -> Option<&dyn PublishedKeys> {
        (!channel::is_one(delivery)).then_some(&self.keys as &dyn PublishedKeys)
    }

    fn check_secret(&self, secret: &Secret) -> Result<()> {
        Trust::read(secret).map(|_| ())
    }
}

//! Inbound deliveries: raw bytes are verified first, and only what is verified can be parsed.

use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::secret::Secret;
use crate::transport::Transport;

pub mod hmac;
pub mod standard;

/// The default freshness window of a signed timestamp, in seconds, both ways.
pub const TOLERANCE_SECONDS: i64 = 300;

/// One inbound HTTP request exactly as it arrived.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RawDelivery {
    /// The method.
    pub method: Method,
    /// The full URL the provider posted to, as it signed it.
    pub url: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The exact bytes of the body. Never parsed before [`Verified::check`].
    pub body: Bytes,
}

impl RawDelivery {
    /// Returns a header's only value as text.
    ///
    /// # Errors
    /// [`Refusal::MissingHeader`] when absent, [`Refusal::DuplicateHeader`] when it stands more than once,
    /// [`Refusal::Malformed`] when it is not visible ASCII.
    pub fn header(&self, name: &'static HeaderName) -> std::result::Result<&str, Refusal> {
        let [value] = self.header_bytes([name])?;
        let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
        text.ok_or(Refusal::Malformed("the signature header is not plain text"))
    }

    /// Returns the only values of several headers, in the order of their names. One walk over the headers: few as they
    /// are, it takes less than looking up one of them, whose name is hashed byte by byte.
    ///
    /// # Errors
    /// [`Refusal::MissingHeader`] when one is absent, [`Refusal::DuplicateHeader`] when it stands more than once.
    pub fn header_bytes<const N: usize>(
        &self,
        names: [&'static HeaderName; N],
    ) -> std::result::Result<[&[u8]; N], Refusal> {
        let mut found = [None; N];
        for (name, value) in &self.headers {
            for (place, wanted) in found.iter_mut().zip(names) {
                if name == wanted && place.replace(value.as_bytes()).is_some() {
                    return Err(Refusal::DuplicateHeader(wanted.as_str()));
                }
            }
        }
        let mut values: [&[u8]; N] = [&[]; N];
        for ((to, value), name) in values.iter_mut().zip(found).zip(names) {
            *to = value.ok_or(Refusal::MissingHeader(name.as_str()))?;
        }
        Ok(values)
    }
}

/// Splits the value of a signature header at each `separator`.
pub fn split(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let Some(at) = memchr::memchr(separator, value) else { return rest.take() };
        rest = value.get(at + 1..);
        value.get(..at)
    })
}

/// Says why a delivery was refused. Never holds an expected value, so it can be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No secret is configured for the endpoint; answered 503 so that the provider tries again later.
    NoSecret,
    /// A header the scheme needs is absent.
    MissingHeader(&'static str),
    /// A header that must be single stands more than once.
    DuplicateHeader(&'static str),
    /// The signature header cannot be read; the phrase says why.
    Malformed(&'static str),
    /// The signed timestamp is too old.
    TooOld {
        /// Seconds between the signed time and now.
        age_seconds: i64,
    },
    /// The signed timestamp lies in the future beyond the window.
    TooNew {
        /// Seconds between now and the signed time.
        ahead_seconds: i64,
    },
    /// No signature matches the body under any configured secret.
    Mismatch,
    /// The signature names a scheme this adapter does not accept.
    UnknownScheme,
    /// The signature names a key that is not among the published ones at hand ([`Webhook::published_keys`]): they may
    /// have been rotated. Everything that can be told without the key was in order.
    UnknownKey,
    /// What the signed token says of itself is not what the endpoint trusts; the phrase says what.
    Untrusted(&'static str),
}

impl Refusal {
    /// Returns the reason as it is written in metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSecret => "no_secret",
            Self::MissingHeader(_) => "missing_header",
            Self::DuplicateHeader(_) => "duplicate_header",
            Self::Malformed(_) => "malformed",
            Self::TooOld { .. } => "too_old",
            Self::TooNew { .. } => "too_new",
            Self::Mismatch => "mismatch",
            Self::UnknownScheme => "unknown_scheme",
            Self::UnknownKey => "unknown_key",
            Self::Untrusted(_) => "untrusted",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSecret => write!(f, "no signing secret is configured for this endpoint: add one"),
            Self::MissingHeader(name) => write!(f, "the header {name} is missing: is a proxy removing it?"),
            Self::DuplicateHeader(name) => write!(f, "the header {name} stands more than once"),
            Self::Malformed(why) => write!(f, "{why}"),
            Self::TooOld { age_seconds } => {
                write!(f, "the signature is {age_seconds} s old: is this a replay, or is the clock wrong?")
            }
            Self::TooNew { ahead_seconds } => {
                write!(f, "the signature lies {ahead_seconds} s in the future: is the clock wrong?")
            }
            Self::Mismatch => write!(
                f,
                "no signature matches: is the secret the one of this endpoint, and is the body unchanged on its way?"
            ),
            Self::UnknownScheme => write!(f, "the signature uses a scheme that is not accepted"),
            Self::UnknownKey => write!(
                f,
                "the signature names a key the provider had not published when its keys were last fetched: can they be fetched?"
            ),
            Self::Untrusted(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Which addresses a provider's deliveries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the hub decides on each")]
pub enum Senders {
    /// From these, by the provider's own word.
    Published {
        /// Addresses or networks, each as [`crate::net::Network`] reads them.
        networks: &'static [&'static str],
        /// Where the provider publishes them.
        source: &'static str,
        /// When that was read.
        read_on: &'static str,
    },
    /// The provider promises none.
    Unpublished {
        /// What it says, in one phrase.
        why: &'static str,
    },
}

/// The webhook side of an adapter: two pure functions.
pub trait Webhook: Send + Sync {
    /// Checks the delivery's signature against each secret and its timestamp against `now`, both ways. Compares in
    /// constant time and reads nothing of the body but its bytes.
    ///
    /// # Errors
    /// The reason for refusing it.
    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal>;

    /// Splits a verified delivery into events and says what to answer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Decode`] when the body is not what the provider documents.
    fn events(&self, verified: &Verified) -> Result<Parsed>;

    /// Names headers of the provider's own to keep with a delivery, for support and replay: none that is a signature or
    /// a credential. In lower case.
    fn kept_headers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the addresses deliveries come from, where the provider publishes them, for endpoints that take them from
    /// nowhere else.
    fn senders(&self) -> Senders {
        Senders::Unpublished { why: "its adapter knows of no addresses the provider publishes" }
    }

    /// Tells whether one URL can serve the accounts of many connections: events name the account they belong to
    /// ([`Event::account`]) as its connections do, and what signs them belongs to the product's app, not to an account,
    /// which could otherwise name another.
    fn names_account(&self) -> bool {
        false
    }

    /// Tells whether the events of one URL may be believed in whose account they name when this secret vouches for them:
    /// not when somebody outside the product's own house knows it.
    fn vouches_for_accounts(&self, secret: &Secret) -> bool {
        let _ = secret;
        true
    }

    /// Tells whether an event says of itself that it is of the provider's sandbox. Some providers post such events to
    /// the URL of production too.
    fn of_sandbox(&self, payload: &Bytes) -> bool {
        let _ = payload;
        false
    }

    /// Tells whether events of this type may say that the account's owner ended the connection's grant at the provider.
    /// Such events are always handled.
    fn may_end_grant(&self, kind: &str) -> bool {
        let _ = kind;
        false
    }

    /// Tells whether this event says so: the connection is then disconnected, after every handler has seen the event. An
    /// event that names an account is about no connection of another, nor about one whose account nobody knows.
    fn ends_grant(&self, event: &Event) -> bool {
        let _ = event;
        false
    }

    /// Names what somebody has subscribed to for an event to come, where one subscription does not bring every event of
    /// its type: Slack's messages are subscribed to by kind of conversation, Twilio's by the number they come to. What never
    /// came by any is not missed ([`crate::sync::Told::by`]). `None`, the default, where that is the event's type.
    fn subscription(&self, event: &Event) -> Option<Cow<'static, str>> {
        let _ = event;
        None
    }

    /// Returns the published keys a delivery is verified with, where it is signed with a private one.
    /// [`Webhook::verify`] reads those at hand and fetches nothing; whoever receives deliveries keeps them fresh.
    fn published_keys(&self, delivery: &RawDelivery) -> Option<&dyn PublishedKeys> {
        let _ = delivery;
        None
    }

    /// Checks that a secret is one this scheme can use, so that a wrong one is told when it is configured and not with
    /// the first delivery.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] saying what is wrong with it, never what it holds.
    fn check_secret(&self, secret: &Secret) -> Result<()> {
        let _ = secret;
        Ok(())
    }
}

/// Keys a provider publishes and rotates, kept at hand by the adapter.
///
/// Whoever receives deliveries asks [`PublishedKeys::stale`] before it verifies, and after [`Refusal::UnknownKey`] asks
/// for the missing one once and verifies again if that brought new keys.
#[async_trait]
pub trait PublishedKeys: Send + Sync {
    /// Tells whether the keys should be fetched again before they are used: never fetched, or past the time the
    /// provider said they may be kept.
    fn stale(&self, now: Timestamp) -> bool;

    /// Fetches the keys, unless that is pointless: another fetch is under way or has just been made. Returns whether
    /// there are other keys now than before the call. Keys that cannot be fetched leave the old ones in place.
    ///
    /// # Errors
    /// What kept the keys from being fetched or read.
    async fn refresh(&self, transport: &dyn Transport, now: Timestamp, wanted: KeysWanted) -> Result<bool>;
}

/// Why published keys are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: adapters decide on each")]
pub enum KeysWanted {
    /// They are [`PublishedKeys::stale`]. One caller fetches, the others go on with the old ones.
    Stale,
    /// A delivery names a key that is not there. Callers wait for the one fetch; a floor between fetches keeps forged
    /// deliveries from causing one each.
    Missing,
}

/// A delivery whose signature was checked. Only [`Verified::check`] makes one, so parsing first does not compile:
///
/// ```compile_fail
/// use palisade_core::webhook::{RawDelivery, Verified};
/// fn skip(delivery: RawDelivery) -> Verified {
///     Verified { delivery, at: Default::default() }
/// }
/// ```
#[derive(Debug)]
pub struct Verified {
    delivery: RawDelivery,
    at: Timestamp,
}

impl Verified {
    /// Verifies a delivery with the adapter's scheme.
    ///
    /// # Errors
    /// The adapter's refusal; [`Refusal::NoSecret`] when `secrets` is empty or holds an empty one.
    pub fn check(
        webhook: &dyn Webhook,
        delivery: RawDelivery,
        secrets: &[Secret],
        now: Timestamp,
    ) -> std::result::Result<Self, Refusal> {
        if secrets.is_empty() || secrets.iter().any(Secret::is_empty) {
            return Err(Refusal::NoSecret);
        }
        webhook.verify(&delivery, secrets, now)?;
        Ok(Self { delivery, at: now })
    }

    /// Returns the delivery.
    #[must_use]
    pub fn delivery(&self) -> &RawDelivery {
        &self.delivery
    }

    /// Returns the exact bytes of the body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.delivery.body
    }

    /// Returns when it was verified.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// One fact inside a delivery, in the hub's envelope; `payload` is the provider's own JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Event {
    /// The provider's own identifier; with the endpoint it is the dedupe key.
    pub id: EventId,
    /// The provider's event type (`invoice.paid`).
    pub kind: String,
    /// The provider account it belongs to, where one endpoint serves many.
    pub account: Option<String>,
    /// When it happened, by the provider's clock, in the provider's own precision.
    pub created: Option<Timestamp>,
    /// Events with the same key are handled one after another in order of arrival.
    pub ordering_key: Option<String>,
    /// The event's raw JSON.
    pub payload: Bytes,
}

/// What a verified delivery holds and what to answer.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Parsed {
    /// The answer once the events are durable.
    pub reply: Reply,
    /// The events, in the order they stand in the delivery.
    pub events: Vec<Event>,
}

/// The answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Reply {
    /// The status, 2xx once accepted.
    pub status: u16,
    /// The content type, when there is a body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Returns the plain acknowledgement: 200 without a body.
    #[must_use]
    pub fn ok() -> Self {
        Self { status: 200, content_type: None, body: Bytes::new() }
    }
}

/// Makes the error of a body that is not what the provider documents.
#[must_use]
pub fn unreadable(provider: &'static str, why: &'static str) -> Error {
    Error::new(crate::ErrorKind::Decode, why).during(provider, "webhook")
}

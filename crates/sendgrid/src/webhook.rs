//! Deliveries from SendGrid: batches of events, and inbound mail. Pure; time is an argument.
//!
//! An endpoint's secrets are verification keys: as SendGrid shows them, or as PEM. Inbound mail may be unsigned, which is
//! SendGrid's default: it is taken only where one of the endpoint's secrets is `token:…`, a text of at least 16
//! characters that stands in the endpoint's own URL as `?token=…`. Writing it there is the explicit choice.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use palisade_core::webhook::{
    Event, Parsed, RawDelivery, Refusal, Reply, Senders, Verified, Webhook, hmac, unreadable,
};
use palisade_core::{EventId, Result, Secret, Timestamp};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

mod inbound;
mod multipart;
mod signature;

pub use inbound::INBOUND;
pub use signature::{AGE_MAX_SECONDS, SIGNATURE, TIMESTAMP, TOKEN_BYTES_MIN, TOKEN_PARAMETER, TOKEN_PREFIX};

/// SendGrid's ids have up to a hundred characters, its types far fewer; longer ones would only fill rows.
const NAME_BYTES_MAX: usize = 255;
/// The most events of one delivery. SendGrid's batches stay below a few thousand.
const BATCH_MAX: usize = 100_000;

/// SendGrid's deliveries.
#[derive(Clone, Copy, Debug)]
pub struct SendGridWebhook {
    age_max_seconds: i64,
}

impl SendGridWebhook {
    /// Takes deliveries up to [`AGE_MAX_SECONDS`] old.
    #[must_use]
    pub const fn new() -> Self {
        Self { age_max_seconds: AGE_MAX_SECONDS }
    }

    /// Takes deliveries only so many seconds old. What is refused as too old SendGrid tries again, and in the end drops.
    #[must_use]
    pub const fn accepting_for(mut self, seconds: i64) -> Self {
        self.age_max_seconds = seconds;
        self
    }
}

impl Default for SendGridWebhook {
    fn default() -> Self {
        Self::new()
    }
}

impl Webhook for SendGridWebhook {
    fn senders(&self) -> Senders {
        Senders::Unpublished { why: "SendGrid publishes no addresses its requests come from, and signs them instead" }
    }

    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> Result<(), Refusal> {
        signature::verify(delivery, secrets, now, self.age_max_seconds)
    }

    /// Gives the events of a batch, in its order, or the one of an inbound mail. Their ordering key is the mail's id.
    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let delivery = verified.delivery();
        let events = if signature::is_multipart(delivery) {
            let kind = delivery.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            vec![inbound::event(kind, &delivery.body)?]
        } else {
            batch(&delivery.body)?
        };
        Ok(Parsed { reply: Reply::ok(), events })
    }
}

fn batch(body: &Bytes) -> Result<Vec<Event>> {
    let list: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|_| unreadable("sendgrid", "the delivery is not a JSON list of events"))?;
    if list.len() > BATCH_MAX {
        return Err(unreadable("sendgrid", "the batch holds more events than any of SendGrid's"));
    }
    list.into_iter().map(|raw| event(raw, body)).collect()
}

/// An event as SendGrid sends it, as far as it is the same for all types.
///
/// Custom arguments stand beside SendGrid's own fields and may have their names (its documentation shows two `email`),
/// which a derived reader would refuse. Of fields of one name the last that can be one counts.
#[derive(Default)]
struct Envelope<'a> {
    event: Option<Cow<'a, str>>,
    sg_event_id: Option<Cow<'a, str>>,
    sg_message_id: Option<Cow<'a, str>>,
    timestamp: Option<i64>,
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let raw: &'de RawValue = map.next_value()?;
            let text = || serde_json::from_str::<Name<'de>>(raw.get()).ok().map(|name| name.0).filter(fits);
            match &*name.0 {
                "event" => envelope.event = text().or(envelope.event),
                "sg_event_id" => envelope.sg_event_id = text().or(envelope.sg_event_id),
                "sg_message_id" => envelope.sg_message_id = text().or(envelope.sg_message_id),
                "timestamp" => {
                    envelope.timestamp = raw.get().trim_matches('"').parse().ok().or(envelope.timestamp);
                }
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// A text, borrowed where it holds no escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[expect(clippy::ptr_arg, reason = "a filter of an `Option<Cow>` is given this")]
fn fits(text: &Cow<'_, str>) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX
}

fn event(raw: &RawValue, body: &Bytes) -> Result<Event> {
    let text = raw.get().as_bytes();
    let envelope: Envelope<'_> = serde_json::from_slice(text)
        .map_err(|_| unreadable("sendgrid", "an event of the batch is not an object with the fields of one"))?;
    let kind = envelope.event.ok_or_else(|| unreadable("sendgrid", "an event of the batch has no type"))?;
    let id = match envelope.sg_event_id {
        Some(id) => EventId::new(&*id),
        // Old accounts' events have none: the same bytes are the same event.
        None => EventId::new(hmac::to_lower_hex(&Sha256::digest(text))),
    };
    Ok(Event {
        id,
        kind: kind.into_owned(),
        account: None,
        created: envelope.timestamp.map(Timestamp::from_seconds),
        ordering_key: envelope.sg_message_id.map(Cow::into_owned),
        payload: share(text, body),
    })
}

/// Returns `part` of `body` without copying it.
fn share(part: &[u8], body: &Bytes) -> Bytes {
    let range = body.as_ptr_range();
    // `slice_ref` panics for a foreign slice; this one is ours unless a caller mixes up two bodies.
    let ours = part.is_empty() || (range.contains(&part.as_ptr()) && part.as_ptr_range().end <= range.end);
    if ours { body.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

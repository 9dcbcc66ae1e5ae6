//! Thin (v2) events: a notice that names an object, and the whole event that is fetched by it.
//!
//! Stripe posts a notice only. The whole event, kept for 30 days, adds what changed ([`ThinEvent::changes`]) and, for some
//! types, data of its own; the object itself is a third answer, fetched from where the event says it is
//! (docs.stripe.com/event-destinations; shapes as stripe-python 16 reads them).

use palisade_core::webhook::{Event, unreadable};
use palisade_core::{EventId, Result, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::webhook::{Envelope, NAME_BYTES_MAX, rfc3339};

/// A thin event: as its notice has it, or whole once it was fetched ([`crate::Stripe::retrieve_thin_event`]). A hub fetches it
/// before handlers see it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ThinEvent {
    /// The event. Not the one that `/v1/events` lists for the same fact: see `snapshot_event`.
    pub id: EventId,
    /// Its type (`v1.customer.updated`, `v2.core.account.updated`).
    pub kind: String,
    /// When it happened.
    pub created: Timestamp,
    /// Whether it is of live mode.
    pub livemode: bool,
    /// The account it and its object are fetched for, where that is not the key's own.
    pub context: Option<String>,
    /// The object it is about, if it is about one.
    pub related_object: Option<RelatedObject>,
    /// The id of the API request that caused it, if one did.
    pub request: Option<String>,
    /// What the fields that changed were and are: `before` and `after`. Of the whole event only, for `*.updated`.
    pub changes: Option<Value>,
    /// What its type carries besides. Of the whole event only.
    pub data: Option<Value>,
    /// The event in `/v1/events` that tells the same, if there is one. Of the whole event only.
    pub snapshot_event: Option<EventId>,
}

/// The object a thin event is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct RelatedObject {
    /// The object's id; a thing of which an account has one has none.
    #[serde(default)]
    pub id: Option<String>,
    /// Its type (`customer`).
    #[serde(rename = "type")]
    pub kind: String,
    /// The path it is fetched from (`/v1/customers/cus_1`).
    pub url: String,
}

#[derive(Deserialize)]
struct Read {
    id: String,
    object: String,
    #[serde(rename = "type")]
    kind: String,
    created: String,
    #[serde(default)]
    livemode: bool,
    context: Option<String>,
    related_object: Option<RelatedObject>,
    reason: Option<Reason>,
    changes: Option<Value>,
    data: Option<Value>,
    snapshot_event: Option<String>,
}

#[derive(Deserialize)]
struct Reason {
    request: Option<Request>,
}

#[derive(Deserialize)]
struct Request {
    id: String,
}

impl ThinEvent {
    /// Reads a delivered notice, or the event a hub has fetched for it.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when it is no thin event.
    pub fn parse(event: &Event) -> Result<Self> {
        Self::read(&event.payload)
    }

    /// Reads the JSON of either form.
    pub(crate) fn read(json: &[u8]) -> Result<Self> {
        let wrong = || unreadable("stripe", "this is no thin event: id, type or time are missing or of another type");
        let read: Read = serde_json::from_slice(json).map_err(|_| wrong())?;
        let fits = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
        if read.object != crate::webhook::THIN || !fits(&read.id) || !fits(&read.kind) {
            return Err(wrong());
        }
        Ok(Self {
            created: rfc3339(&read.created).ok_or_else(wrong)?,
            id: EventId::new(&*read.id),
            kind: read.kind,
            livemode: read.livemode,
            context: read.context.filter(|context| !context.is_empty()),
            related_object: read.related_object,
            request: read.reason.and_then(|reason| reason.request).map(|request| request.id),
            changes: read.changes,
            data: read.data,
            snapshot_event: read.snapshot_event.map(|id| EventId::new(&*id)),
        })
    }

    /// Tells whether an event is a thin one.
    #[must_use]
    pub fn is(event: &Event) -> bool {
        // All thin types begin so, and no other does: most events are told without reading them.
        let named = event.kind.starts_with("v1.") || event.kind.starts_with("v2.");
        named && Envelope::read(&event.payload).is_ok_and(|envelope| envelope.is_thin())
    }
}

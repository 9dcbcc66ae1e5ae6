//! Deliveries that are signed and cannot be read: kept raw as dead letters, never lost and never retried blindly.
//!
//! The provider did its part: answering 4xx would make it send the same bytes for days and then switch the endpoint
//! off. So the delivery is stored as one event of the kind [`KIND`], acknowledged, and dead at once, where a person
//! finds it with its raw body.

use async_trait::async_trait;
use palisade_core::EventId;
use palisade_core::store::{NewEvent, StoredEvent};
use palisade_core::webhook::hmac;
use palisade_core::worker::{Context, Handled, Handler};

/// The kind of an event made of a delivery that could not be read.
pub const KIND: &str = "unreadable";

/// Makes the event of an unreadable body. The same bytes give the same id, so a repeat is a duplicate.
pub(crate) fn event(body: &[u8]) -> NewEvent {
    let digest = hmac::sha256(b"palisade unreadable delivery", &[body]);
    NewEvent {
        id: EventId::new(format!("unreadable-{}", hmac::to_lower_hex(&digest))),
        kind: KIND.to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: true,
        priority: 0,
    }
}

/// Makes a dead letter of every unreadable event.
#[derive(Debug)]
pub(crate) struct RejectUnreadable;

#[async_trait]
impl Handler for RejectUnreadable {
    async fn handle(&self, _event: &StoredEvent, _context: &mut Context) -> Handled {
        Handled::Reject { reason: "the delivery is signed but its body is not what the provider documents".to_owned() }
    }
}

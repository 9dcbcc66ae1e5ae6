//! What is sent: a body as Standard Webhooks recommends it (`type`, `timestamp`, `data`), with what Palisade knows of the
//! event beside it under a name of its own, and an id that is the same however often the event is sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::store::StoredEvent;
use crate::webhook::hmac;

/// The type of a message that somebody sends to try a destination.
pub const TEST_TYPE: &str = "palisade.test";

/// How many bytes of a digest an id has.
const ID_BYTES: usize = 16;

/// What is posted.
pub(super) struct Message {
    /// The `webhook-id`.
    pub(super) id: String,
    /// The body.
    pub(super) body: Bytes,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    palisade: Origin<'a>,
}

/// Where an event comes from.
#[derive(Serialize)]
struct Origin<'a> {
    provider: &'a str,
    connection: &'a str,
    tenant: Option<&'a str>,
    account: Option<&'a str>,
    event: &'a str,
    ordering_key: Option<&'a str>,
    received_at: String,
}

/// Returns the id an event is sent under: of its provider, endpoint and own id, and nothing of this database, so that it
/// is the same after a replay, a restored backup, or from a hub that takes over. It has no full stop.
#[must_use]
pub fn message_id(event: &StoredEvent) -> String {
    let mut digest = Sha256::new_with_prefix(b"palisade message\0");
    for part in [event.provider.as_str(), event.endpoint.as_str(), event.event.id.as_str()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let digest = digest.finalize();
    format!("msg_{}", hmac::to_lower_hex(digest.get(..ID_BYTES).unwrap_or(&digest)))
}

pub(super) fn of_event(stored: &StoredEvent, tenant: Option<&TenantId>) -> Message {
    let event = &stored.event;
    // Checked without recursion: no depth of nesting can hurt.
    let data: Option<&RawValue> = serde_json::from_slice(&event.payload).ok();
    let body = Body {
        kind: &event.kind,
        timestamp: event.created.unwrap_or(stored.received_at).rfc3339(),
        data,
        data_base64: data.is_none().then(|| STANDARD.encode(&event.payload)),
        palisade: Origin {
            provider: &stored.provider,
            connection: stored.connection.as_str(),
            tenant: tenant.map(TenantId::as_str),
            account: event.account.as_deref(),
            event: event.id.as_str(),
            ordering_key: event.ordering_key.as_deref(),
            received_at: stored.received_at.rfc3339(),
        },
    };
    Message { id: message_id(stored), body: written(&body) }
}

/// Makes a message that says of itself that it is a trial.
pub(super) fn of_trial(number: u64, now: Timestamp) -> Message {
    #[derive(Serialize)]
    struct Trial<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        timestamp: String,
        data: Note,
    }
    #[derive(Serialize)]
    struct Note {
        note: &'static str,
    }
    let note = "somebody tries this destination; there is nothing to do";
    let body = Trial { kind: TEST_TYPE, timestamp: now.rfc3339(), data: Note { note } };
    Message { id: format!("msg_test_{number:016x}"), body: written(&body) }
}

fn written(body: &impl Serialize) -> Bytes {
    // Our own messages always serialise; should one not, an empty body is refused by every receiver.
    serde_json::to_vec(body).map(Bytes::from).unwrap_or_default()
}

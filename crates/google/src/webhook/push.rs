//! Gmail's notifications as Pub/Sub pushes them: a signed token in the header, an envelope with two facts in the body.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use palisade_core::webhook::{Event, RawDelivery, Refusal, unreadable};
use palisade_core::{EventId, Result, Timestamp};
use serde_json::{Value, json};

use super::{Jwks, MAIL_CHANGED, PushTrust, Trust, jwt};
use crate::time::rfc3339;

/// Message ids have about 17 digits.
const ID_BYTES_MAX: usize = 255;
/// The longest mail address (RFC 5321).
const ADDRESS_BYTES_MAX: usize = 320;

/// Both alphabets are met, with and without padding (Pub/Sub pads; relays re-encode).
const LENIENT: GeneralPurposeConfig = general_purpose::NO_PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent);
static STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
static URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);

/// Checks the bearer token of a push.
///
/// # Errors
/// [`Refusal::UnknownScheme`] when the endpoint trusts no subscription or the token is no bearer token; otherwise as
/// [`jwt::verify`].
pub fn verify(
    delivery: &RawDelivery,
    trusts: &[Trust],
    keys: &Jwks,
    now: Timestamp,
) -> std::result::Result<(), Refusal> {
    let pushes: Vec<&PushTrust> = trusts
        .iter()
        .filter_map(|trust| match trust {
            Trust::Push(push) => Some(push),
            Trust::Channel(_) | Trust::ChannelKey(_) => None,
        })
        .collect();
    let header = delivery.header(&AUTHORIZATION)?;
    if pushes.is_empty() {
        return Err(Refusal::UnknownScheme);
    }
    let (scheme, token) = header.split_once(' ').ok_or(Refusal::UnknownScheme)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::UnknownScheme);
    }
    jwt::verify(token, &pushes, keys, now)
}

/// What a push says.
pub(crate) struct Push {
    id: EventId,
    pub(crate) mailbox: String,
    pub(crate) history_id: u64,
    pub(crate) published_at: Option<Timestamp>,
}

/// Reads the envelope: whose mailbox changed. Its history id says nothing the next run does not find, so an old one does
/// no harm.
///
/// # Errors
/// [`palisade_core::ErrorKind::Decode`] when the body is not a push of Gmail's.
pub fn event(body: &Bytes) -> Result<Event> {
    let push = read(body)?;
    Ok(Event {
        id: push.id,
        kind: MAIL_CHANGED.to_owned(),
        account: Some(push.mailbox.clone()),
        created: push.published_at,
        ordering_key: Some(push.mailbox),
        payload: body.clone(),
    })
}

/// Makes the notification that should have come of a mailbox whose history stood there.
pub(crate) fn missed(mailbox: &str, history_id: u64) -> Option<Event> {
    let id = format!("healed:{mailbox}:{history_id}");
    let data = json!({ "emailAddress": mailbox, "historyId": history_id }).to_string();
    let message = json!({ "data": STANDARD.encode(data), "messageId": id });
    let body = json!({ "message": message, "palisade_healed": true }).to_string();
    event(&Bytes::from(body)).ok()
}

/// As [`event`], for what is inside.
pub(crate) fn read(body: &[u8]) -> Result<Push> {
    let wrong = |why| unreadable("google", why);
    let value: Value = serde_json::from_slice(body).map_err(|_| wrong("the body is not JSON"))?;
    let message = value.get("message").filter(|m| m.is_object()).ok_or_else(|| wrong("the body has no message"))?;
    let text = |name: &str| message.get(name).and_then(Value::as_str);
    let id = text("messageId").or_else(|| text("message_id")).filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
    let id = id.ok_or_else(|| wrong("the message has no id"))?;
    let data = text("data").and_then(decode).ok_or_else(|| wrong("the message's data is not base64"))?;
    let data: Value = serde_json::from_slice(&data).map_err(|_| wrong("the message's data is not JSON"))?;
    let address = data.get("emailAddress").and_then(Value::as_str);
    let address = address.filter(|text| !text.is_empty() && text.len() <= ADDRESS_BYTES_MAX);
    Ok(Push {
        id: EventId::new(id),
        mailbox: address.ok_or_else(|| wrong("the notification does not name a mailbox"))?.to_owned(),
        history_id: history_id(&data).ok_or_else(|| wrong("the notification has no history id"))?,
        published_at: text("publishTime").or_else(|| text("publish_time")).and_then(rfc3339),
    })
}

/// Reads the history id of a notification's data, which is a number or a text (both are met).
#[must_use]
pub fn history_id(data: &Value) -> Option<u64> {
    let id = data.get("historyId")?;
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

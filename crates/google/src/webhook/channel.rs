//! Calendar's notifications: an empty POST whose headers name a channel. Nothing is signed; the token given when the
//! channel was opened is the proof, compared in constant time.

use bytes::Bytes;
use http::{HeaderName, Method};
use palisade_core::webhook::{Event, RawDelivery, Refusal, hmac, unreadable};
use palisade_core::{EventId, Result, Secret, Timestamp};
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{CALENDAR_CHANGED, Trust};

static CHANNEL_ID: HeaderName = HeaderName::from_static("x-goog-channel-id");
static CHANNEL_TOKEN: HeaderName = HeaderName::from_static("x-goog-channel-token");
static CHANNEL_EXPIRATION: HeaderName = HeaderName::from_static("x-goog-channel-expiration");
static MESSAGE_NUMBER: HeaderName = HeaderName::from_static("x-goog-message-number");
static RESOURCE_ID: HeaderName = HeaderName::from_static("x-goog-resource-id");
static RESOURCE_STATE: HeaderName = HeaderName::from_static("x-goog-resource-state");
static RESOURCE_URI: HeaderName = HeaderName::from_static("x-goog-resource-uri");

/// Google takes channel ids of up to 64 characters; resource ids are not longer than this.
const ID_BYTES_MAX: usize = 255;

/// Derives the token of a channel from an endpoint's key: nobody without the key can make one, and nothing has to be
/// remembered. 64 hexadecimal digits; Google takes 256 characters.
#[must_use]
pub fn token(key: &Secret, channel_id: &str) -> Secret {
    let code = hmac::sha256(key.expose().as_bytes(), &[b"palisade/google/channel\0", channel_id.as_bytes()]);
    Secret::new(hmac::to_lower_hex(&code))
}

/// Tells whether a delivery is a channel's.
pub(super) fn is_one(delivery: &RawDelivery) -> bool {
    delivery.headers.contains_key(&CHANNEL_ID)
}

/// Checks a notification's token against the channels an endpoint trusts. A channel opened elsewhere must also be known
/// by its ids; of a channel whose token is derived the channel id is proven by the token, and the resource id says
/// nothing more.
///
/// # Errors
/// The reason for refusing it.
pub fn verify(delivery: &RawDelivery, trusts: &[Trust]) -> std::result::Result<(), Refusal> {
    let channel = delivery.header(&CHANNEL_ID)?;
    let resource = delivery.header(&RESOURCE_ID)?;
    let token = delivery.header(&CHANNEL_TOKEN)?;
    for header in [&RESOURCE_STATE, &MESSAGE_NUMBER] {
        delivery.header(header)?;
    }
    if delivery.method != Method::POST || !delivery.body.is_empty() {
        return Err(Refusal::Malformed("a channel's notification is a POST with an empty body"));
    }
    let mut known = false;
    for trust in trusts {
        match trust {
            Trust::Push(_) => {}
            Trust::Channel(one) => {
                known = true;
                let same = one.channel_id == channel && one.resource_id == resource;
                // The token is compared whatever the ids are, so that the time tells nothing about them.
                if one.token.matches(token) && same {
                    return Ok(());
                }
            }
            Trust::ChannelKey(key) => {
                known = true;
                if self::token(key, channel).matches(token) {
                    return Ok(());
                }
            }
        }
    }
    Err(if known { Refusal::Mismatch } else { Refusal::UnknownScheme })
}

/// Reads a notification; `None` for `sync`, which only says that the channel is open.
///
/// # Errors
/// [`palisade_core::ErrorKind::Decode`] when a header is not what Google documents.
pub fn event(delivery: &RawDelivery) -> Result<Option<Event>> {
    let wrong = |why| unreadable("google", why);
    let header = |name| delivery.header(name).map_err(|_| wrong("a header of the channel is missing or doubled"));
    let (channel, state) = (header(&CHANNEL_ID)?, header(&RESOURCE_STATE)?);
    let resource = header(&RESOURCE_ID)?;
    let number: u64 = header(&MESSAGE_NUMBER)?.parse().map_err(|_| wrong("the message number is not one"))?;
    if channel.is_empty() || channel.len() > ID_BYTES_MAX || resource.len() > ID_BYTES_MAX || state.len() > ID_BYTES_MAX
    {
        return Err(wrong("a channel's or resource's id is empty or longer than any of Google's"));
    }
    if state == "sync" {
        return Ok(None);
    }
    let uri = delivery.header(&RESOURCE_URI).ok();
    let calendar = uri.and_then(calendar_of);
    let expires = delivery.header(&CHANNEL_EXPIRATION).ok().and_then(|date| httpdate::parse_http_date(date).ok());
    let payload = json!({
        "channel_id": channel,
        "resource_id": resource,
        "resource_state": state,
        "message_number": number,
        "calendar": calendar,
        "expires_at": expires.map(|date| Timestamp::from(date).millis()),
    });
    Ok(Some(Event {
        // Numbers of one channel rise; a channel that replaces another has another id.
        id: EventId::new(format!("{channel}/{number}")),
        kind: CALENDAR_CHANGED.to_owned(),
        ordering_key: Some(calendar.clone().unwrap_or_else(|| resource.to_owned())),
        account: calendar,
        created: None,
        payload: Bytes::from(payload.to_string()),
    }))
}

/// Makes the notification that should have come of a calendar after an event in it was changed. It came by no channel.
pub(crate) fn missed(calendar: Option<&str>, changed: &str, at: &str) -> Event {
    let payload = json!({
        "channel_id": "", "resource_id": "", "resource_state": "exists", "message_number": 0, "calendar": calendar,
        "expires_at": null, "palisade_healed": true,
    });
    Event {
        id: EventId::new(format!("healed:{changed}:{at}")),
        kind: CALENDAR_CHANGED.to_owned(),
        account: calendar.map(str::to_owned),
        created: None,
        ordering_key: calendar.map(str::to_owned),
        payload: Bytes::from(payload.to_string()),
    }
}

/// Reads the calendar out of `https://www.googleapis.com/calendar/v3/calendars/{id}/events?alt=json`.
fn calendar_of(uri: &str) -> Option<String> {
    let (_, rest) = uri.split_once("/calendars/")?;
    let (id, rest) = rest.split_once('/')?;
    let id = percent_decode_str(id).decode_utf8().ok()?;
    (rest.starts_with("events") && !id.is_empty() && id.len() <= ID_BYTES_MAX).then(|| id.into_owned())
}

//! Messages no event told of: when they were written, who should have told, and the events that should have come.
//!
//! Slack does not list its events. A message of a list shows enough to make the event of its writing or of its last
//! edit; of whom it is not: an app is not told what its own id is, so only what surely a person wrote is made an event of,
//! lest a product answers itself.

use std::borrow::Cow;

use bytes::Bytes;
use palisade_core::sync::{Change, Missing, Site, State, Told};
use palisade_core::webhook::Event;
use palisade_core::{RecordId, StreamName, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CONVERSATIONS, MESSAGES};
use crate::json::{text, ts_millis};
use crate::webhook::{MESSAGE, MESSAGE_CHANGED, message_event_id, subscription_of};

/// A message of a list, as far as it says when it was written.
#[derive(Deserialize)]
struct Written {
    ts: String,
    edited: Option<Edited>,
}

#[derive(Deserialize)]
struct Edited {
    ts: String,
}

impl Written {
    fn read(message: &[u8]) -> Option<Self> {
        serde_json::from_slice(message).ok()
    }

    /// The time of its writing or of its last edit; the time of any other change does not stand in it.
    fn last(&self) -> &str {
        self.edited.as_ref().map_or(&self.ts, |edited| &edited.ts)
    }
}

/// Says when a message was written or edited, and by which subscription that is told: there is one for each kind of
/// conversation. Of a conversation that is not here only direct messages are known for what they are.
pub(super) fn told(change: &Change, conversation: Option<&Bytes>) -> Option<Told> {
    let State::Present(message) = &change.state else { return None };
    let at = Timestamp(ts_millis(Written::read(message).filter(|_| change.stream.as_str() == MESSAGES)?.last())?);
    let (channel, _) = change.id.as_str().split_once(':')?;
    let by = Cow::Borrowed(subscription_of(kind_of(channel, conversation)?)?);
    Some(Told { at, by, is_notice: false })
}

/// Names a message's conversation.
pub(super) fn belongs_to(stream: &StreamName, id: &RecordId) -> Option<(StreamName, RecordId)> {
    let (channel, _) = id.as_str().split_once(':').filter(|_| stream.as_str() == MESSAGES)?;
    Some((StreamName::new(CONVERSATIONS), RecordId::new(channel)))
}

/// Makes the event of a message's writing, or of its last edit where the message itself was here.
pub(super) fn event_of(site: &Site, missing: &Missing<'_>) -> Option<Event> {
    let (channel, ts) = missing.change.id.as_str().split_once(':')?;
    let State::Present(data) = &missing.change.state else { return None };
    let conversation: Option<Value> = missing.place.and_then(|place| serde_json::from_slice(place).ok());
    let of_conversation = conversation.as_ref().and_then(|one| text(one, "context_team_id"));
    let account = site.account.as_deref().or(of_conversation)?;
    let message: Value = serde_json::from_slice(data).ok().filter(is_a_persons)?;
    let (written, before) = (Written::read(data)?, missing.held.map(AsRef::as_ref).and_then(Written::read));
    let edited = written.edited.as_ref().map(|edited| edited.ts.clone());
    let was_edited = before.and_then(|before| before.edited).map(|edited| edited.ts);
    let at = json!({ "channel": channel, "channel_type": kind_of(channel, missing.place)? });
    let (kind, happened, mut inner) = match missing.held {
        None => (kind_of_message(&message), ts.to_owned(), message),
        // Here already, and edited: whether its writing or its edit was told of nobody can say.
        Some(_) if edited.is_some() && edited == was_edited => return None,
        Some(_) if edited.is_none() => (kind_of_message(&message), ts.to_owned(), message),
        Some(held) => {
            let edited = edited?;
            let before: Value = serde_json::from_slice(held).ok()?;
            let inner = json!({
                "type": MESSAGE, "subtype": "message_changed", "hidden": true, "ts": edited,
                "message": message, "previous_message": before,
            });
            (MESSAGE_CHANGED.to_owned(), edited, inner)
        }
    };
    if let (Value::Object(inner), Value::Object(at)) = (&mut inner, at) {
        inner.extend(at);
        inner.insert("event_ts".to_owned(), happened.clone().into());
    }
    let id = message_event_id(&kind, &inner)?;
    let payload = json!({
        "type": "event_callback", "team_id": account, "event_id": id.as_str(), "event": inner,
        "event_time": ts_millis(&happened)? / 1_000, "palisade_healed": true,
    });
    Some(Event {
        id,
        kind,
        account: Some(account.to_owned()),
        created: ts_millis(&happened).map(Timestamp),
        ordering_key: Some(channel.to_owned()),
        payload: Bytes::from(payload.to_string()),
    })
}

/// Returns the type of the event of a message's writing.
fn kind_of_message(message: &Value) -> String {
    text(message, "subtype").map_or(MESSAGE.to_owned(), |subtype| format!("{MESSAGE}.{subtype}"))
}

/// Tells whether a person wrote a message. Of what an app wrote or did to its conversation the list does not say which app it
/// was, our own or another.
fn is_a_persons(message: &Value) -> bool {
    let is_written = matches!(text(message, "subtype"), None | Some("file_share" | "me_message" | "thread_broadcast"));
    let of_an_app = ["app_id", "bot_id"].iter().any(|name| text(message, name).is_some())
        || message.get("bot_profile").is_some_and(Value::is_object);
    is_written && !of_an_app
}

/// Returns the `channel_type` of a conversation's events.
fn kind_of(channel: &str, conversation: Option<&Bytes>) -> Option<&'static str> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Kind {
        is_im: bool,
        is_mpim: bool,
        is_private: bool,
    }
    let Some(conversation) = conversation else { return channel.starts_with('D').then_some("im") };
    Some(match serde_json::from_slice(conversation).ok()? {
        Kind { is_im: true, .. } => "im",
        Kind { is_mpim: true, .. } => "mpim",
        Kind { is_private: true, .. } => "group",
        Kind { .. } => "channel",
    })
}

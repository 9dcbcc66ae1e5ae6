//! Deliveries from Twilio: the signature, and the events inside. Pure; a delivery carries no time of its own.
//!
//! Twilio signs no timestamp, so there is no window: a delivery that is sent again is the same event. Its identity is
//! made of what is signed (SID and status). `I-Twilio-Idempotency-Token`, which Twilio's retries share, is a header the
//! signature does not cover: whoever holds one recorded delivery could make new events of it with new tokens, so it is
//! not used.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use palisade_core::webhook::{
    Event, Parsed, RawDelivery, Refusal, Reply, Senders, Verified, Webhook, hmac, unreadable,
};
use palisade_core::{EventId, Result, Secret, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::sid::{AccountSid, CallSid, MessageSid, RecordingSid};
use crate::time;
use crate::twiml::Twiml;

mod form;
mod signature;

pub use signature::{Algorithm, SETTINGS, SIGNATURE, sign};

use form::Form;
use signature::Body;

/// Twilio's words are far shorter; longer ones would only fill rows.
const WORD_BYTES_MAX: usize = 100;
/// The most events one delivery of an event stream carries (Twilio, event streams, batches).
const BATCH_MAX: usize = 10_000;

/// An inbound message.
pub const MESSAGE_RECEIVED: &str = "message.received";

/// Names the event of an inbound message.
pub(crate) fn received_id(sid: &str) -> EventId {
    EventId::new(format!("{sid}:received"))
}

/// Names what brings the event of an inbound message: the number's own settings, or those of the service it belongs to. Each
/// number of an account may be answered elsewhere, and one nobody here has heard of is.
pub(crate) fn received_by(number: &str) -> Option<Cow<'static, str>> {
    let is_one = (1..=WORD_BYTES_MAX).contains(&number.len());
    is_one.then(|| Cow::Owned(format!("{MESSAGE_RECEIVED} to {number}")))
}

/// Twilio's deliveries.
#[derive(Clone, Debug, Default)]
pub struct TwilioWebhook {
    answer: Option<Twiml>,
}

impl TwilioWebhook {
    /// Answers inbound messages with silence.
    #[must_use]
    pub const fn new() -> Self {
        Self { answer: None }
    }

    /// Answers inbound messages with this text. Everything that depends on the message is better sent by a handler:
    /// the answer is given before one has run.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Config`] when the text is empty, too long or cannot stand in XML.
    pub fn replying(mut self, text: &str) -> Result<Self> {
        let answer = Twiml::silence().message(text).map_err(|_| {
            palisade_core::Error::new(
                palisade_core::ErrorKind::Config,
                "the text inbound messages are answered with is empty, longer than 1,600 characters, or no text",
            )
        })?;
        self.answer = Some(answer);
        Ok(self)
    }
}

impl Webhook for TwilioWebhook {
    fn senders(&self) -> Senders {
        Senders::Unpublished {
            why: "Twilio's requests come from no fixed addresses but for customers of its Static Proxy (Security and Enterprise Editions)",
        }
    }

    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], _now: Timestamp) -> Result<(), Refusal> {
        signature::verify(delivery, secrets)
    }

    /// Gives the events of a delivery: one of a callback, two of a message that opts in or out, many of an event
    /// stream. Their ordering key is the message, call or recording they are about.
    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let delivery = verified.delivery();
        if Body::of(delivery) == Body::Opaque && !delivery.body.is_empty() {
            return Ok(Parsed { reply: Reply::ok(), events: cloud_events(&delivery.body)? });
        }
        let query = delivery.url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
        let params = if delivery.method == Method::GET { query.as_bytes() } else { delivery.body.as_ref() };
        let form = Form::read(params).ok_or_else(|| unreadable("twilio", "the delivery has too many parameters"))?;
        let callback = Callback::of(&form)?;
        // A call waits for instructions as an inbound message does; what is only reported is only acknowledged.
        let reply = match callback.subject {
            Subject::Inbound(_) => self.answer.clone().unwrap_or_default().reply(),
            Subject::Call { reported: false, .. } => Twiml::silence().reply(),
            Subject::Status(..) | Subject::Recording(..) | Subject::Call { .. } | Subject::Other => Reply::ok(),
        };
        Ok(Parsed { reply, events: callback.events()? })
    }

    /// Names the number an inbound message came to.
    fn subscription(&self, event: &Event) -> Option<Cow<'static, str>> {
        #[derive(Deserialize)]
        struct Inbound<'e> {
            #[serde(rename = "To", borrow)]
            to: Cow<'e, str>,
        }
        if event.kind != MESSAGE_RECEIVED {
            return None;
        }
        let inbound: Inbound<'_> = serde_json::from_slice(&event.payload).ok()?;
        received_by(&inbound.to)
    }
}

/// A form's parameters with what they are about.
struct Callback {
    fields: Map<String, Value>,
    subject: Subject,
    /// The hash of all that is signed of it.
    digest: String,
}

enum Subject {
    Inbound(MessageSid),
    Status(MessageSid, String),
    Recording(RecordingSid, String),
    Call {
        call: CallSid,
        status: String,
        /// Whether it is a status callback, and not a call that waits for instructions.
        reported: bool,
    },
    Other,
}

impl Callback {
    fn of(form: &Form) -> Result<Self> {
        let mut fields = Map::new();
        let mut digest = Sha256::new();
        for (name, value) in form.pairs() {
            for part in [name, value] {
                digest.update(part.len().to_le_bytes());
                digest.update(part);
            }
            let text = |bytes: &[u8]| {
                std::str::from_utf8(bytes)
                    .map(str::to_owned)
                    .map_err(|_| unreadable("twilio", "a parameter of the delivery is not text"))
            };
            let (name, value) = (text(name)?, Value::String(text(value)?));
            match fields.get_mut(&name) {
                Some(Value::Array(values)) => values.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
                None => {
                    fields.insert(name, value);
                }
            }
        }
        let digest = hmac::to_lower_hex(&digest.finalize());
        let subject = Subject::of(&fields)?;
        Ok(Self { fields, subject, digest })
    }

    fn events(self) -> Result<Vec<Event>> {
        let Self { fields, subject, digest } = self;
        let account = text(&fields, "AccountSid").and_then(|sid| AccountSid::parse(sid).ok());
        let opt_out = word(&fields, "OptOutType")?.map(|kind| kind.to_ascii_lowercase());
        let sequence = word(&fields, "SequenceNumber")?.unwrap_or_default().to_owned();
        let payload = Bytes::from(serde_json::to_vec(&fields).unwrap_or_default());
        let event = |id: String, kind: String, ordering_key: Option<&str>| Event {
            id: EventId::new(id),
            kind,
            account: account.as_ref().map(|account| account.as_str().to_owned()),
            created: None,
            ordering_key: ordering_key.map(str::to_owned),
            payload: payload.clone(),
        };
        Ok(match subject {
            Subject::Inbound(sid) => {
                let sid = sid.as_str();
                let received =
                    Event { id: received_id(sid), ..event(String::new(), MESSAGE_RECEIVED.to_owned(), Some(sid)) };
                // Twilio itself stops sending to who opted out; a product that keeps its own list needs to know.
                let opted = opt_out.map(|kind| event(format!("{sid}:opt_out"), format!("opt_out.{kind}"), Some(sid)));
                [received].into_iter().chain(opted).collect()
            }
            Subject::Status(sid, status) => {
                vec![event(format!("{sid}:{status}"), format!("message.{status}"), Some(sid.as_str()))]
            }
            Subject::Recording(sid, status) => {
                vec![event(format!("{sid}:{status}"), format!("recording.{status}"), Some(sid.as_str()))]
            }
            Subject::Call { call, status, reported: true } => {
                vec![event(format!("{call}:{status}:{sequence}"), format!("call.{status}"), Some(call.as_str()))]
            }
            // One call asks for instructions many times: its SID and status do not tell one from another.
            Subject::Call { call, status, reported: false } => {
                vec![event(digest, format!("call.{status}"), Some(call.as_str()))]
            }
            Subject::Other => vec![event(digest, "other".to_owned(), None)],
        })
    }
}

impl Subject {
    fn of(fields: &Map<String, Value>) -> Result<Self> {
        let broken = |_| unreadable("twilio", "the SID in the delivery is not one");
        if let Some(sid) = text(fields, "MessageSid").or_else(|| text(fields, "SmsSid")) {
            let sid = MessageSid::parse(sid).map_err(broken)?;
            // An inbound message has `SmsStatus=received` and no `MessageStatus`.
            return Ok(match word(fields, "MessageStatus")? {
                Some(status) if status != "received" && status != "receiving" => Self::Status(sid, status.to_owned()),
                Some(_) | None => Self::Inbound(sid),
            });
        }
        if let (Some(sid), Some(status)) = (text(fields, "RecordingSid"), word(fields, "RecordingStatus")?) {
            return Ok(Self::Recording(RecordingSid::parse(sid).map_err(broken)?, status.to_owned()));
        }
        if let (Some(sid), Some(status)) = (text(fields, "CallSid"), word(fields, "CallStatus")?) {
            let call = CallSid::parse(sid).map_err(broken)?;
            let reported = text(fields, "CallbackSource") == Some("call-progress-events");
            return Ok(Self::Call { call, status: status.to_owned(), reported });
        }
        Ok(Self::Other)
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Returns one of Twilio's words: it becomes part of an event's id and type, so it must be one.
fn word<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>> {
    let Some(text) = text(fields, name) else { return Ok(None) };
    let plain = text.len() <= WORD_BYTES_MAX && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
    if plain { Ok(Some(text)) } else { Err(unreadable("twilio", "a status in the delivery is not a word")) }
}

/// Reads the batch of an event stream, or the one object of another product.
fn cloud_events(body: &Bytes) -> Result<Vec<Event>> {
    let value: Value =
        serde_json::from_slice(body).map_err(|_| unreadable("twilio", "the delivery is neither a form nor JSON"))?;
    match value {
        Value::Array(events) if events.len() <= BATCH_MAX => events.iter().map(cloud_event).collect(),
        Value::Array(_) => Err(unreadable("twilio", "the batch holds more events than any of Twilio's")),
        Value::Object(_) => Ok(vec![cloud_event(&value)?]),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(unreadable("twilio", "the delivery's JSON is neither an event nor a list of events"))
        }
    }
}

fn cloud_event(event: &Value) -> Result<Event> {
    let Value::Object(fields) = event else { return Err(unreadable("twilio", "an event of the batch is no object")) };
    let payload = Bytes::from(serde_json::to_vec(event).unwrap_or_default());
    let fits = |text: &&str| text.len() <= 255 && text.bytes().all(|c| c.is_ascii_graphic());
    let id = text(fields, "id").filter(fits);
    let kind = text(fields, "type").or_else(|| text(fields, "EventType")).filter(fits);
    let data = fields.get("data").and_then(Value::as_object);
    let of_data = |names: [&str; 2]| data.and_then(|data| names.iter().find_map(|name| text(data, name)));
    Ok(Event {
        id: match id {
            Some(id) => EventId::new(id),
            None => EventId::new(hmac::to_lower_hex(&Sha256::digest(&payload))),
        },
        kind: kind.unwrap_or("other").to_owned(),
        account: of_data(["accountSid", "account_sid"]).map(str::to_owned),
        created: text(fields, "time").and_then(time::from_rfc3339),
        ordering_key: of_data(["messageSid", "message_sid"]).map(str::to_owned),
        payload,
    })
}

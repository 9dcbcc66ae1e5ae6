//! Events with types: what most products handle, and all others raw.

use bytes::Bytes;
use palisade_core::Result;
use palisade_core::webhook::{Event, unreadable};
use serde_json::{Map, Value};

use crate::code::Advice;
use crate::sid::{CallSid, MessageSid, RecordingSid, ServiceSid};
use crate::status::MessageStatus;
use crate::webhook::MESSAGE_RECEIVED;

mod typed;

pub use typed::{CallProgressed, MessageReceived, OptedOut, RecordingProgressed};

/// The most media of one inbound message that are read (Twilio's own limit is ten).
const MEDIA_MAX: usize = 100;

/// An event, by its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TypedEvent {
    /// A message has come further on its way. Reports come in any order: let only one that
    /// [`MessageStatus::supersedes`] the known status count.
    MessageStatus(StatusReport),
    /// A message came in.
    MessageReceived(InboundMessage),
    /// A person opted out, in again, or asked for help. The message itself comes as its own event.
    OptOut(OptOut),
    /// A call has come further.
    Call(CallReport),
    /// A recording has come further.
    Recording(RecordingReport),
    /// Every other event, those of event streams among them.
    Unknown {
        /// The event's type.
        kind: String,
        /// The event's JSON.
        raw: Bytes,
    },
}

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusReport {
    /// The message.
    pub message: MessageSid,
    /// How far it has come.
    pub status: MessageStatus,
    /// The recipient.
    pub to: Option<String>,
    /// The sender.
    pub from: Option<String>,
    /// The messaging service it was sent with.
    pub service: Option<ServiceSid>,
    /// Why it failed.
    pub error_code: Option<u32>,
}

impl StatusReport {
    /// Returns what the code of a failure means, where it has one that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&'static Advice> {
        Advice::of(self.error_code?)
    }
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboundMessage {
    /// The message.
    pub message: MessageSid,
    /// Who wrote.
    pub from: String,
    /// The account's address it was written to.
    pub to: String,
    /// The text.
    pub body: String,
    /// The media; fetching their URLs may need the account's credential.
    pub media: Vec<Media>,
    /// How many media it has. More than there are in `media` for a message that no webhook told of and a run found: the
    /// list of messages does not show them, and `/Messages/{sid}/Media` does.
    pub media_count: usize,
    /// The sender's name, where the channel gives one (WhatsApp).
    pub profile_name: Option<String>,
    /// The text of the button that was pressed (WhatsApp).
    pub button_text: Option<String>,
}

/// A medium of an inbound message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Media {
    /// Where it is.
    pub url: String,
    /// Its content type.
    pub content_type: Option<String>,
}

/// What a person wants of the sender's list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptOut {
    /// The person's address.
    pub from: String,
    /// The account's address it is about.
    pub to: String,
    /// What they want.
    pub wish: Wish,
}

/// What a person asked for with one of the agreed words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wish {
    /// No more messages.
    Stop,
    /// Messages again.
    Start,
    /// Help.
    Help,
    /// A word this crate does not know.
    Other(String),
}

/// How far a call has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallReport {
    /// The call.
    pub call: CallSid,
    /// `initiated`, `ringing`, `in-progress`, `completed`, `busy`, `failed`, `no-answer` or `canceled`.
    pub status: String,
    /// Who calls.
    pub from: Option<String>,
    /// Who is called.
    pub to: Option<String>,
    /// How long it took, in seconds, once it is over.
    pub duration_seconds: Option<u64>,
}

/// How far a recording has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordingReport {
    /// The recording.
    pub recording: RecordingSid,
    /// `in-progress`, `completed`, `absent` or `failed`.
    pub status: String,
    /// The call it is of.
    pub call: Option<CallSid>,
    /// Where it is, once it is complete.
    pub url: Option<String>,
}

impl TypedEvent {
    /// Reads an event's payload by its type.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when a field its type cannot do without is missing.
    pub fn parse(event: &Event) -> Result<Self> {
        let unknown = || Self::Unknown { kind: event.kind.clone(), raw: event.payload.clone() };
        let (family, word) = event.kind.split_once('.').unwrap_or((&event.kind, ""));
        if !matches!(family, "message" | "opt_out" | "call" | "recording") {
            return Ok(unknown());
        }
        let fields: Map<String, Value> = serde_json::from_slice(&event.payload)
            .map_err(|_| unreadable("twilio", "the event's payload is not a form's parameters"))?;
        let fields = Fields(&fields);
        Ok(match family {
            "message" if event.kind == MESSAGE_RECEIVED => Self::MessageReceived(inbound(&fields)?),
            "message" => Self::MessageStatus(StatusReport {
                message: fields.message()?,
                status: MessageStatus::of(word),
                to: fields.own("To"),
                from: fields.own("From"),
                service: fields.text("MessagingServiceSid").and_then(|sid| ServiceSid::parse(sid).ok()),
                error_code: fields.text("ErrorCode").and_then(|code| code.parse().ok()),
            }),
            "opt_out" => Self::OptOut(OptOut {
                from: fields.needed("From")?,
                to: fields.needed("To")?,
                wish: match word {
                    "stop" => Wish::Stop,
                    "start" => Wish::Start,
                    "help" => Wish::Help,
                    other => Wish::Other(other.to_owned()),
                },
            }),
            "call" => Self::Call(CallReport {
                call: fields.sid("CallSid", CallSid::parse)?,
                status: word.to_owned(),
                from: fields.own("From"),
                to: fields.own("To"),
                duration_seconds: fields.text("CallDuration").and_then(|seconds| seconds.parse().ok()),
            }),
            _ => Self::Recording(RecordingReport {
                recording: fields.sid("RecordingSid", RecordingSid::parse)?,
                status: word.to_owned(),
                call: fields.text("CallSid").and_then(|sid| CallSid::parse(sid).ok()),
                url: fields.own("RecordingUrl"),
            }),
        })
    }
}

fn inbound(fields: &Fields<'_>) -> Result<InboundMessage> {
    let count = fields.text("NumMedia").and_then(|count| count.parse().ok()).unwrap_or(0_usize).min(MEDIA_MAX);
    let medium = |at: usize| {
        let url = fields.own(&format!("MediaUrl{at}"))?;
        Some(Media { url, content_type: fields.own(&format!("MediaContentType{at}")) })
    };
    Ok(InboundMessage {
        message: fields.message()?,
        from: fields.needed("From")?,
        to: fields.needed("To")?,
        body: fields.own("Body").unwrap_or_default(),
        media: (0..count).filter_map(medium).collect(),
        media_count: count,
        profile_name: fields.own("ProfileName"),
        button_text: fields.own("ButtonText"),
    })
}

/// The parameters of a delivery.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn own(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    fn needed(&self, name: &'static str) -> Result<String> {
        self.own(name).ok_or_else(|| unreadable("twilio", "the event lacks its sender or recipient"))
    }

    fn sid<T, E>(&self, name: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T> {
        let sid = self.text(name).and_then(|text| parse(text).ok());
        sid.ok_or_else(|| unreadable("twilio", "the event does not name what it is about"))
    }

    fn message(&self) -> Result<MessageSid> {
        let name = if self.text("MessageSid").is_some() { "MessageSid" } else { "SmsSid" };
        self.sid(name, MessageSid::parse)
    }
}

//! Events with types: what becomes of mails, inbound mail, and all others raw.
//!
//! Opens and clicks are told by machines too: mail clients and scanners fetch pictures and follow links. Treat them as
//! hints, never as proof.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::{Result, Timestamp};
use serde_json::{Map, Value};

use crate::client::REFERENCE;
use crate::webhook::INBOUND;

mod typed;

pub use typed::{MailBounced, MailDelivered, MailDropped, MailReceived, SpamReported};

/// SendGrid's own fields of an event; every other is a custom argument.
const OWN_FIELDS: [&str; 30] = [
    "email",
    "timestamp",
    "event",
    "sg_event_id",
    "sg_message_id",
    "smtp-id",
    "category",
    "reason",
    "status",
    "type",
    "attempt",
    "useragent",
    "ip",
    "url",
    "url_offset",
    "asm_group_id",
    "sg_machine_open",
    "tls",
    "response",
    "bounce_classification",
    "marketing_campaign_id",
    "marketing_campaign_name",
    "pool",
    "send_at",
    "sg_content_type",
    "sg_template_id",
    "sg_template_name",
    "cert_err",
    "account_status_change",
    "sg_user_id",
];

/// An event, by its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TypedEvent {
    /// Something became of a mail to one recipient.
    Mail(Box<MailEvent>),
    /// A mail came in.
    Inbound(Box<InboundMail>),
    /// Every other type.
    Unknown {
        /// The event's type.
        kind: String,
        /// The event's JSON.
        raw: Bytes,
    },
}

/// What became of a mail to one recipient.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MailEvent {
    /// The recipient.
    pub email: String,
    /// When, to the second.
    pub at: Option<Timestamp>,
    /// SendGrid's id of the mail to this recipient ([`MailEvent::is_of`]).
    pub message_id: Option<String>,
    /// The product's own id of the mail ([`crate::Mail::reference`]).
    pub reference: Option<String>,
    /// The mail's categories.
    pub categories: Vec<String>,
    /// The mail's custom arguments, but for the reference.
    pub custom_args: BTreeMap<String, String>,
    /// What happened.
    pub happened: Happened,
}

impl MailEvent {
    /// Tells whether it is of the mail that was sent with this id ([`crate::client::SentMail::message_id`]).
    #[must_use]
    pub fn is_of(&self, sent: &str) -> bool {
        let rest = self.message_id.as_deref().and_then(|id| id.strip_prefix(sent));
        !sent.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// What happened to a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// SendGrid took it up.
    Processed,
    /// SendGrid did not send it: the address is suppressed, or the mail is not in order.
    Dropped {
        /// Why (`Bounced Address`, `Unsubscribed Address`, `Invalid`).
        reason: Option<String>,
    },
    /// The recipient's server took it.
    Delivered,
    /// The recipient's server put it off; SendGrid tries again for three days.
    Deferred {
        /// Which try it was.
        attempt: Option<u32>,
    },
    /// The recipient's server refused it for good, or (blocked) this time.
    Bounced {
        /// Whether it was only this time.
        blocked: bool,
        /// What the server said.
        reason: Option<String>,
        /// The server's enhanced status code (`5.1.1`).
        status: Option<String>,
    },
    /// It was opened.
    Opened {
        /// Whether Apple's mail privacy opened it and not a person.
        by_machine: bool,
    },
    /// A link was followed.
    Clicked {
        /// The link.
        url: Option<String>,
    },
    /// The recipient marked it as spam.
    SpamReported,
    /// The recipient wants no more mail of this account.
    Unsubscribed,
    /// The recipient wants no more mail of a group.
    GroupUnsubscribed {
        /// The group.
        group: Option<i64>,
    },
    /// The recipient wants mail of a group again.
    GroupResubscribed {
        /// The group.
        group: Option<i64>,
    },
}

/// A mail that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboundMail {
    /// The sender as the mail names it. Whoever wrote it can write anything: see `dkim` and `spf` of the payload.
    pub from: String,
    /// The recipients as the mail names them.
    pub to: String,
    /// The sender's address by the server that handed it over.
    pub envelope_from: Option<String>,
    /// The addresses it was handed over for.
    pub envelope_to: Vec<String>,
    /// The subject.
    pub subject: String,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML, as it came: never show it unfiltered.
    pub html: Option<String>,
    /// All headers, one a line.
    pub headers: String,
    /// The whole mail, where the raw form is switched on.
    pub raw: Option<String>,
    /// What the check of the sender's server came to.
    pub spf: Option<String>,
    /// What the check of the signatures came to.
    pub dkim: Option<String>,
    /// The attachments.
    pub files: Vec<InboundFile>,
}

/// An attachment of an inbound mail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboundFile {
    /// The name as the mail gives it: a name and never a path to write to.
    pub filename: String,
    /// The content type as the mail gives it.
    pub content_type: Option<String>,
    /// The bytes.
    pub content: Bytes,
}

impl TypedEvent {
    /// Reads an event's payload by its type.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when it is not what SendGrid documents.
    pub fn parse(event: &Event) -> Result<Self> {
        let happened = |fields: &Fields<'_>| {
            Some(match event.kind.as_str() {
                "processed" => Happened::Processed,
                "dropped" => Happened::Dropped { reason: fields.own("reason") },
                "delivered" => Happened::Delivered,
                "deferred" => Happened::Deferred { attempt: fields.number("attempt").and_then(|n| n.try_into().ok()) },
                "bounce" => Happened::Bounced {
                    blocked: fields.text("type") == Some("blocked"),
                    reason: fields.own("reason"),
                    status: fields.own("status"),
                },
                "open" => Happened::Opened {
                    by_machine: fields.0.get("sg_machine_open").and_then(Value::as_bool).unwrap_or(false),
                },
                "click" => Happened::Clicked { url: fields.own("url") },
                "spamreport" => Happened::SpamReported,
                "unsubscribe" => Happened::Unsubscribed,
                "group_unsubscribe" => Happened::GroupUnsubscribed { group: fields.number("asm_group_id") },
                "group_resubscribe" => Happened::GroupResubscribed { group: fields.number("asm_group_id") },
                _ => return None,
            })
        };
        let unknown = || Self::Unknown { kind: event.kind.clone(), raw: event.payload.clone() };
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(&event.payload) else {
            return Err(unreadable("sendgrid", "the event is not a JSON object"));
        };
        let fields = Fields(&fields);
        if event.kind == INBOUND {
            return Ok(Self::Inbound(Box::new(inbound(&fields))));
        }
        let Some(happened) = happened(&fields) else { return Ok(unknown()) };
        let email = fields.own("email").ok_or_else(|| unreadable("sendgrid", "the event names no recipient"))?;
        Ok(Self::Mail(Box::new(MailEvent {
            email,
            at: event.created,
            message_id: fields.own("sg_message_id"),
            reference: fields.own(REFERENCE),
            categories: fields.words("category"),
            custom_args: custom_args(&fields),
            happened,
        })))
    }
}

fn custom_args(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let own = |name: &String| OWN_FIELDS.contains(&name.as_str()) || name == REFERENCE;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.0.iter().filter(|(name, _)| !own(name)).map(|(name, value)| (name.clone(), text(value))).collect()
}

fn inbound(fields: &Fields<'_>) -> InboundMail {
    let none = Map::new();
    let of_envelope = Fields(fields.0.get("envelope").and_then(Value::as_object).unwrap_or(&none));
    let files = fields.0.get("files").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let file = |file: &Value| {
        let file = Fields(file.as_object()?);
        Some(InboundFile {
            filename: file.own("filename").unwrap_or_default(),
            content_type: file.own("content_type"),
            content: STANDARD.decode(file.text("content").unwrap_or_default()).ok()?.into(),
        })
    };
    InboundMail {
        from: fields.own("from").unwrap_or_default(),
        to: fields.own("to").unwrap_or_default(),
        envelope_from: of_envelope.own("from"),
        envelope_to: of_envelope.words("to"),
        subject: fields.own("subject").unwrap_or_default(),
        text: fields.own("text"),
        html: fields.own("html"),
        headers: fields.own("headers").unwrap_or_default(),
        // The documentation has both names.
        raw: fields.own("email").or_else(|| fields.own("rawEmail")),
        spf: fields.own("SPF"),
        dkim: fields.own("dkim"),
        files: files.iter().filter_map(file).collect(),
    }
}

/// The fields of an event.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn own(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// Reads a number, also one that is written as text.
    fn number(&self, name: &str) -> Option<i64> {
        let value = self.0.get(name)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Reads a list of texts, or a single one.
    fn words(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
            _ => Vec::new(),
        }
    }
}

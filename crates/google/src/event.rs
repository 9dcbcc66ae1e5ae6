//! Events with types. Google tells that something changed and never what: the streams find that, and a handler is told
//! where to look.

use bytes::Bytes;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::worker::Typed;
use palisade_core::{Result, Timestamp};
use serde::Deserialize;

use crate::webhook::{CALENDAR_CHANGED, MAIL_CHANGED, push};

const PROVIDER: &str = "google";

/// An event, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TypedEvent {
    /// `gmail.changed`: something happened in a mailbox.
    MailChanged(MailChanged),
    /// `calendar.changed`: something happened in a calendar.
    CalendarChanged(CalendarChanged),
    /// Every other type.
    Unknown {
        /// The event's type.
        kind: String,
        /// The event's whole JSON.
        raw: Bytes,
    },
}

/// `gmail.changed`: something happened in a mailbox. The run it prompts brings what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MailChanged {
    /// The mailbox's address.
    pub mailbox: String,
    /// Where its history stood by then; notifications come in any order, so one may be behind another.
    pub history_id: u64,
    /// When Gmail published it.
    pub published_at: Option<Timestamp>,
}

/// `calendar.changed`: something happened in a calendar. The run it prompts brings what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CalendarChanged {
    /// The calendar's id, where the notification names it.
    pub calendar: Option<String>,
    /// `exists`, or `not_exists` for a calendar that is gone.
    pub state: String,
    /// The push channel it came by; empty for a change that no notification told of and a run found.
    pub channel: String,
    /// Its number in the channel: numbers rise and may leave some out.
    pub number: u64,
    /// When the channel is over.
    pub channel_expires_at: Option<Timestamp>,
}

impl TypedEvent {
    /// Reads an event by its type.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when a field that every event of the type has is missing or of another type.
    pub fn parse(event: &Event) -> Result<Self> {
        Ok(match event.kind.as_str() {
            MAIL_CHANGED => Self::MailChanged(MailChanged::parse(event)?),
            CALENDAR_CHANGED => Self::CalendarChanged(CalendarChanged::parse(event)?),
            kind => Self::Unknown { kind: kind.to_owned(), raw: event.payload.clone() },
        })
    }
}

impl Typed for MailChanged {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = MAIL_CHANGED;

    fn parse(event: &Event) -> Result<Self> {
        let push = push::read(&event.payload)?;
        Ok(Self { mailbox: push.mailbox, history_id: push.history_id, published_at: push.published_at })
    }
}

impl Typed for CalendarChanged {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = CALENDAR_CHANGED;

    fn parse(event: &Event) -> Result<Self> {
        #[derive(Deserialize)]
        struct Read {
            channel_id: String,
            resource_state: String,
            message_number: u64,
            calendar: Option<String>,
            expires_at: Option<i64>,
        }
        let read: Read = serde_json::from_slice(&event.payload)
            .map_err(|_| unreadable(PROVIDER, "a field of the channel's notification is missing or of another type"))?;
        Ok(Self {
            calendar: read.calendar,
            state: read.resource_state,
            channel: read.channel_id,
            number: read.message_number,
            channel_expires_at: read.expires_at.map(Timestamp),
        })
    }
}

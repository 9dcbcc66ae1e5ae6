//! One type for each of the events most products handle, for handlers that are given nothing else:
//! [`palisade_core::worker::Typed`].

use palisade_core::Result;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::worker::Typed;

use super::{InboundMail, MailEvent, TypedEvent};

const PROVIDER: &str = "sendgrid";

/// `delivered`: the recipient's server took the mail.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MailDelivered(pub MailEvent);

impl Typed for MailDelivered {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "delivered";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Mail(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(*it))
    }
}

/// `bounce`: refused for good, or (blocked) this time.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MailBounced(pub MailEvent);

impl Typed for MailBounced {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "bounce";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Mail(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(*it))
    }
}

/// `dropped`: SendGrid did not send it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MailDropped(pub MailEvent);

impl Typed for MailDropped {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "dropped";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Mail(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(*it))
    }
}

/// `spamreport`: the recipient marked it as spam.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct SpamReported(pub MailEvent);

impl Typed for SpamReported {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "spamreport";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Mail(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(*it))
    }
}

/// A mail came in.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MailReceived(pub InboundMail);

impl Typed for MailReceived {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "inbound";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Inbound(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(*it))
    }
}

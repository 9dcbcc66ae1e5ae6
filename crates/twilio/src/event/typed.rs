//! One type for each of the events most products handle, for handlers that are given nothing else:
//! [`palisade_core::worker::Typed`].

use palisade_core::Result;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::worker::Typed;

use super::{CallReport, InboundMessage, OptOut, RecordingReport, TypedEvent};

const PROVIDER: &str = "twilio";

/// `message.received`: a message came in.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MessageReceived(pub InboundMessage);

impl Typed for MessageReceived {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "message.received";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::MessageReceived(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `opt_out.*`: a person opted out, in again, or asked for help.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct OptedOut(pub OptOut);

impl Typed for OptedOut {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "opt_out.*";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::OptOut(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `call.*`: a call has come further.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct CallProgressed(pub CallReport);

impl Typed for CallProgressed {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "call.*";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Call(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `recording.*`: a recording has come further.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct RecordingProgressed(pub RecordingReport);

impl Typed for RecordingProgressed {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "recording.*";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Recording(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

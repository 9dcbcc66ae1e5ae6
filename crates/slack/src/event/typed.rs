//! One type for each of the events most products handle, for handlers that are given nothing else:
//! [`palisade_core::worker::Typed`].

use palisade_core::Result;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::worker::Typed;

use super::{Membership, Message, Person, Reaction, TypedEvent};

const PROVIDER: &str = "slack";

/// `message` without a subtype: somebody wrote something.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MessagePosted(pub Message);

impl Typed for MessagePosted {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "message";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::Message(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `app_mention`: the app was named in a channel.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct AppMention(pub Message);

impl Typed for AppMention {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "app_mention";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::AppMention(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `reaction_added`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct ReactionAdded(pub Reaction);

impl Typed for ReactionAdded {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "reaction_added";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::ReactionAdded(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `member_joined_channel`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct MemberJoined(pub Membership);

impl Typed for MemberJoined {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "member_joined_channel";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::MemberJoined(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `team_join`: somebody new.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct TeamJoined(pub Person);

impl Typed for TeamJoined {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "team_join";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::TeamJoined(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

//! Events with types: those that most products handle, with the ids and texts they need, and all others raw.
//!
//! These types read the few fields named here from the event's own JSON; nothing else of an event can make them fail.
//! slack-morphism's whole types are one step further ([`full`], [`full_interaction`]), and that step can fail: it knows
//! neither every envelope nor a workspace that is null.

use bytes::Bytes;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::{Error, ErrorKind, Result, Secret};
use serde::de::DeserializeOwned;
use serde_json::Value;
use slack_morphism::events::{SlackInteractionEvent, SlackPushEvent};

use crate::json::{id, text};
use crate::webhook::Envelope;

mod typed;

pub use typed::{AppMention, MemberJoined, MessagePosted, ReactionAdded, TeamJoined};

/// An event, by its type.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TypedEvent {
    /// `message` and every subtype but the two below: something was written.
    Message(Message),
    /// `message.message_changed`: edited, or a preview was added. The message is as it stands now.
    MessageChanged(Message),
    /// `message.message_deleted`.
    MessageDeleted(Deleted),
    /// `app_mention`: the app was named in a channel.
    AppMention(Message),
    /// `app_home_opened`.
    AppHomeOpened(Membership),
    /// `reaction_added`.
    ReactionAdded(Reaction),
    /// `reaction_removed`.
    ReactionRemoved(Reaction),
    /// `member_joined_channel`.
    MemberJoined(Membership),
    /// `member_left_channel`.
    MemberLeft(Membership),
    /// `channel_created`.
    ChannelCreated(Channel),
    /// `channel_rename`.
    ChannelRenamed(Channel),
    /// `channel_archive`.
    ChannelArchived(Channel),
    /// `channel_deleted`.
    ChannelDeleted(Channel),
    /// `channel_id_changed`: everything that names the old id must name the new one.
    ChannelIdChanged(Moved),
    /// `team_join`: somebody new.
    TeamJoined(Person),
    /// `user_change`: a profile changed, or the account was deactivated.
    UserChanged(Person),
    /// `file_shared`.
    FileShared(File),
    /// `link_shared`: a link of the app's domains was written.
    LinkShared(Links),
    /// `app_uninstalled`: the workspace took the app off; its tokens are dead.
    AppUninstalled,
    /// `tokens_revoked`.
    TokensRevoked(Revoked),
    /// `app_rate_limited`: Slack kept events of this minute, in seconds since 1970.
    RateLimited {
        /// The minute.
        minute: i64,
    },
    /// `slash_command.*`.
    SlashCommand(SlashCommand),
    /// `interaction.*`.
    Interaction(Interaction),
    /// Every other type, and what our own app caused.
    Unknown {
        /// The event's type.
        kind: String,
        /// The event's whole JSON.
        raw: Bytes,
    },
}

/// What an event says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The conversation.
    pub channel: String,
    /// Its time, which is its id within the conversation.
    pub ts: String,
    /// The message its thread begins with, if it is in one.
    pub thread_ts: Option<String>,
    /// `channel`, `group`, `im` or `mpim`.
    pub channel_type: Option<String>,
    /// What kind of message it is; none for a plain one.
    pub subtype: Option<String>,
    /// Who wrote it.
    pub user: Option<String>,
    /// The bot that wrote it.
    pub bot_id: Option<String>,
    /// Its text in Slack's markup.
    pub text: String,
}

/// What an event says of a deleted message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// The conversation.
    pub channel: String,
    /// The message.
    pub ts: String,
}

/// What an event says of a reaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaction {
    /// Who reacted.
    pub user: String,
    /// With what, without colons.
    pub reaction: String,
    /// Whose message it is.
    pub item_user: Option<String>,
    /// The conversation of the message.
    pub channel: Option<String>,
    /// The message.
    pub ts: Option<String>,
}

/// What an event says of a person in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// The person.
    pub user: String,
    /// The conversation.
    pub channel: String,
}

/// What an event says of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Channel {
    /// The channel.
    pub channel: String,
    /// Its name, where the event tells it.
    pub name: Option<String>,
}

/// What an event says of a channel that got another id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// The id it had.
    pub old: String,
    /// The id it has.
    pub new: String,
}

/// What an event says of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Person {
    /// The person.
    pub user: String,
    /// Their full name.
    pub real_name: Option<String>,
    /// Their e-mail address, with the scope `users:read.email`.
    pub email: Option<String>,
    /// Whether the account was deactivated.
    pub deleted: bool,
}

/// What an event says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct File {
    /// The file.
    pub file: String,
    /// The conversation it was shared in.
    pub channel: Option<String>,
    /// Who shared it.
    pub user: Option<String>,
}

/// What an event says of links.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Links {
    /// The conversation.
    pub channel: String,
    /// Who wrote them.
    pub user: Option<String>,
    /// The message; a text yet unsent has a made-up one.
    pub message_ts: Option<String>,
    /// The addresses.
    pub urls: Vec<String>,
}

/// What an event says of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revoked {
    /// The people whose tokens were revoked.
    pub users: Vec<String>,
    /// The bots whose tokens were revoked.
    pub bots: Vec<String>,
}

/// A slash command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SlashCommand {
    /// The command, with its slash.
    pub command: String,
    /// What was written behind it.
    pub text: String,
    /// Who wrote it.
    pub user: String,
    /// Where.
    pub channel: Option<String>,
    /// Where to answer: see [`crate::Slack::respond`]. Whoever has it can write into the channel.
    pub response_url: Option<Secret>,
    /// What opens a dialog, for 3 seconds.
    pub trigger_id: Option<String>,
}

/// A press of a button, a choice, a form that was sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Interaction {
    /// `block_actions`, `view_submission`, `view_closed`, `shortcut`, `message_action` or another.
    pub kind: String,
    /// Who did it.
    pub user: Option<String>,
    /// Where.
    pub channel: Option<String>,
    /// The message it stands in.
    pub message_ts: Option<String>,
    /// What the app called the shortcut or dialog.
    pub callback_id: Option<String>,
    /// What the app called the elements, with the value of a button.
    pub actions: Vec<(String, Option<String>)>,
    /// Where to answer: see [`crate::Slack::respond`]. Whoever has it can write into the channel.
    pub response_url: Option<Secret>,
    /// What opens a dialog, for 3 seconds.
    pub trigger_id: Option<String>,
    /// The interaction's whole JSON.
    pub raw: Bytes,
}

/// Parses an event of the Events API whole, with slack-morphism's types.
///
/// # Errors
/// [`ErrorKind::Decode`] when they do not fit, which is no sign of a fault: read it with [`TypedEvent::parse`].
pub fn full(event: &Event) -> Result<SlackPushEvent> {
    whole(&event.payload)
}

/// Parses an interaction whole, with slack-morphism's types.
///
/// # Errors
/// As [`full`].
pub fn full_interaction(event: &Event) -> Result<SlackInteractionEvent> {
    whole(&event.payload)
}

fn whole<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    serde_json::from_slice(payload).map_err(|_| {
        Error::new(ErrorKind::Decode, "the event does not fit slack-morphism's types").during("slack", "webhook")
    })
}

impl TypedEvent {
    /// Reads an event by its type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when a field that every such event has is missing or of another type.
    pub fn parse(event: &Event) -> Result<Self> {
        let kind = event.kind.as_str();
        if kind.starts_with("slash_command.") {
            return Ok(Self::SlashCommand(read(&event.payload)?.command()?));
        }
        if let Some(kind) = kind.strip_prefix("interaction.") {
            return Ok(Self::Interaction(read(&event.payload)?.interaction(kind, &event.payload)));
        }
        if kind == "app_rate_limited" {
            let minute = read(&event.payload)?.0.get("minute_rate_limited").and_then(Value::as_i64);
            return Ok(Self::RateLimited { minute: minute.ok_or_else(missing)? });
        }
        let inner = || Ok::<_, Error>(Fields(Envelope::read(&event.payload)?.inner()?));
        Ok(match kind {
            "message.message_changed" => Self::MessageChanged(inner()?.changed()?),
            "message.message_deleted" => Self::MessageDeleted(inner()?.deleted()?),
            "app_mention" => Self::AppMention(inner()?.message()?),
            "app_home_opened" => Self::AppHomeOpened(inner()?.membership()?),
            "reaction_added" => Self::ReactionAdded(inner()?.reaction()?),
            "reaction_removed" => Self::ReactionRemoved(inner()?.reaction()?),
            "member_joined_channel" => Self::MemberJoined(inner()?.membership()?),
            "member_left_channel" => Self::MemberLeft(inner()?.membership()?),
            "channel_created" => Self::ChannelCreated(inner()?.channel()?),
            "channel_rename" => Self::ChannelRenamed(inner()?.channel()?),
            "channel_archive" => Self::ChannelArchived(inner()?.channel()?),
            "channel_deleted" => Self::ChannelDeleted(inner()?.channel()?),
            "channel_id_changed" => Self::ChannelIdChanged(inner()?.moved()?),
            "team_join" => Self::TeamJoined(inner()?.person()?),
            "user_change" => Self::UserChanged(inner()?.person()?),
            "file_shared" => Self::FileShared(inner()?.file()?),
            "link_shared" => Self::LinkShared(inner()?.links()?),
            "app_uninstalled" => Self::AppUninstalled,
            "tokens_revoked" => Self::TokensRevoked(inner()?.revoked()),
            kind if kind == "message" || kind.starts_with("message.") => Self::Message(inner()?.message()?),
            _ => Self::Unknown { kind: event.kind.clone(), raw: event.payload.clone() },
        })
    }
}

fn read(payload: &[u8]) -> Result<Fields> {
    serde_json::from_slice(payload).map(Fields).map_err(|_| unreadable("slack", "the event is not JSON"))
}

/// An event, read field by field.
struct Fields(Value);

impl Fields {
    fn text(&self, name: &str) -> Option<String> {
        text(&self.0, name).map(str::to_owned)
    }

    fn at(&self, path: &str) -> Option<String> {
        self.0.pointer(path)?.as_str().map(str::to_owned)
    }

    /// Reads an id from a field that holds it or an object with it.
    fn id(&self, name: &str) -> Option<String> {
        id(&self.0, name).map(str::to_owned)
    }

    fn own(&self, name: &str) -> Result<String> {
        self.id(name).ok_or_else(missing)
    }

    fn message(&self) -> Result<Message> {
        Ok(Message {
            channel: self.own("channel")?,
            ts: self.own("ts")?,
            thread_ts: self.text("thread_ts"),
            channel_type: self.text("channel_type"),
            subtype: self.text("subtype"),
            user: self.id("user"),
            bot_id: self.text("bot_id"),
            text: self.text("text").unwrap_or_default(),
        })
    }

    fn changed(&self) -> Result<Message> {
        let mut message = self.0.get("message").and_then(Value::as_object).cloned().ok_or_else(missing)?;
        // What the event says of the place stands beside the message.
        let place = ["channel", "channel_type"].map(|name| Some((name.to_owned(), self.0.get(name)?.clone())));
        message.extend(place.into_iter().flatten());
        Self(Value::Object(message)).message()
    }

    fn deleted(&self) -> Result<Deleted> {
        Ok(Deleted { channel: self.own("channel")?, ts: self.own("deleted_ts")? })
    }

    fn reaction(&self) -> Result<Reaction> {
        Ok(Reaction {
            user: self.own("user")?,
            reaction: self.own("reaction")?,
            item_user: self.text("item_user"),
            channel: self.at("/item/channel"),
            ts: self.at("/item/ts"),
        })
    }

    fn membership(&self) -> Result<Membership> {
        Ok(Membership { user: self.own("user")?, channel: self.own("channel")? })
    }

    fn channel(&self) -> Result<Channel> {
        Ok(Channel { channel: self.own("channel")?, name: self.at("/channel/name") })
    }

    fn moved(&self) -> Result<Moved> {
        Ok(Moved { old: self.own("old_channel_id")?, new: self.own("new_channel_id")? })
    }

    fn person(&self) -> Result<Person> {
        Ok(Person {
            user: self.own("user")?,
            real_name: self.at("/user/real_name").or_else(|| self.at("/user/profile/real_name")),
            email: self.at("/user/profile/email"),
            deleted: self.0.pointer("/user/deleted").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    fn file(&self) -> Result<File> {
        Ok(File {
            file: self.id("file_id").or_else(|| self.id("file")).ok_or_else(missing)?,
            channel: self.text("channel_id"),
            user: self.text("user_id"),
        })
    }

    fn links(&self) -> Result<Links> {
        let links = self.0.get("links").and_then(Value::as_array).ok_or_else(missing)?;
        Ok(Links {
            channel: self.own("channel")?,
            user: self.id("user"),
            message_ts: self.text("message_ts"),
            urls: links.iter().filter_map(|link| text(link, "url").map(str::to_owned)).collect(),
        })
    }

    fn revoked(&self) -> Revoked {
        let list = |path: &str| {
            let names = self.0.pointer(path).and_then(Value::as_array);
            names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        Revoked { users: list("/tokens/oauth"), bots: list("/tokens/bot") }
    }

    fn command(&self) -> Result<SlashCommand> {
        Ok(SlashCommand {
            command: self.own("command")?,
            text: self.text("text").unwrap_or_default(),
            user: self.own("user_id")?,
            channel: self.text("channel_id"),
            response_url: self.text("response_url").map(Secret::from),
            trigger_id: self.text("trigger_id"),
        })
    }

    fn interaction(&self, kind: &str, raw: &Bytes) -> Interaction {
        let actions = self.0.get("actions").and_then(Value::as_array);
        let action =
            |action: &Value| Some((text(action, "action_id")?.to_owned(), text(action, "value").map(str::to_owned)));
        Interaction {
            kind: kind.to_owned(),
            user: self.id("user"),
            channel: self.id("channel").or_else(|| self.at("/container/channel_id")),
            message_ts: self.at("/message/ts").or_else(|| self.at("/container/message_ts")),
            callback_id: self.text("callback_id").or_else(|| self.at("/view/callback_id")),
            actions: actions.into_iter().flatten().filter_map(action).collect(),
            response_url: self.text("response_url").map(Secret::from),
            trigger_id: self.text("trigger_id"),
            raw: raw.clone(),
        }
    }
}

fn missing() -> Error {
    unreadable("slack", "a field that every such event has is missing or of another type")
}

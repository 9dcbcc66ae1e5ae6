//! The calls most people want, as methods. What a write returns is read field by field, so that a block or field yet
//! unknown cannot hide that the message was sent.

use futures_util::TryStreamExt;
use palisade_core::{Error, ErrorKind, Result, Secret, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::lists::{Message, User};
use super::{NewMessage, Slack};

/// A message that was sent or changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Posted {
    /// The channel's id, also where the message was addressed to a name or a person.
    pub channel: String,
    /// The message's `ts`: with the channel it is its id.
    pub ts: String,
}

/// A message that will be sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Scheduled {
    /// The channel's id.
    pub channel: String,
    /// What [`Slack::unschedule`] takes.
    #[serde(rename = "scheduled_message_id")]
    pub id: String,
    /// When it will be sent, in seconds since 1970.
    #[serde(deserialize_with = "seconds")]
    pub post_at: i64,
}

/// Whose token the connection has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Identity {
    /// The workspace.
    pub team_id: Option<String>,
    /// Its name.
    pub team: Option<String>,
    /// Its address.
    pub url: Option<String>,
    /// The user the token acts as; for a bot token, the bot's.
    pub user_id: String,
    /// The bot, for a bot token.
    pub bot_id: Option<String>,
    /// The organization, if the workspace is part of one.
    pub enterprise_id: Option<String>,
}

#[derive(Deserialize)]
struct Opened {
    channel: OpenedChannel,
}

#[derive(Deserialize)]
struct OpenedChannel {
    id: String,
}

#[derive(Deserialize)]
struct Found {
    user: Value,
}

#[derive(Deserialize)]
struct Done {}

impl Slack {
    /// Sends a message to a channel (its id) or a person (their user id). Slack does not deduplicate: when the outcome
    /// is [`palisade_core::Outcome::Unknown`], look with [`Slack::find_sent`] before sending it again.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Invalid`] before anything is sent, for a message that is empty or too long.
    pub async fn post(&self, channel: &str, message: &NewMessage) -> Result<Posted> {
        self.call("chat.postMessage", &message.arguments(&[("channel", channel.into())])?).await
    }

    /// Answers in the thread of a message.
    ///
    /// # Errors
    /// As [`Slack::post`].
    pub async fn reply(&self, to: &Posted, message: &NewMessage) -> Result<Posted> {
        self.post(&to.channel, &message.clone().in_thread(to.ts.as_str())).await
    }

    /// Replaces a message's text and blocks. May be repeated.
    ///
    /// # Errors
    /// As [`Slack::post`]; [`ErrorKind::NotFound`] when it was deleted.
    pub async fn update(&self, channel: &str, ts: &str, message: &NewMessage) -> Result<Posted> {
        self.call("chat.update", &message.changes(&[("channel", channel.into()), ("ts", ts.into())])?).await
    }

    /// Deletes a message. May be repeated: what a first attempt has deleted is not missed by the second.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when there is no such message.
    pub async fn delete(&self, channel: &str, ts: &str) -> Result<()> {
        let done = self.call::<Done>("chat.delete", &json!({ "channel": channel, "ts": ts })).await;
        gone_is_done(done, "message_not_found")
    }

    /// Sends a message later: at most 120 days ahead, to the second.
    ///
    /// # Errors
    /// As [`Slack::post`].
    pub async fn schedule(&self, channel: &str, message: &NewMessage, at: Timestamp) -> Result<Scheduled> {
        let given = [("channel", channel.into()), ("post_at", at.seconds().into())];
        self.call("chat.scheduleMessage", &message.arguments(&given)?).await
    }

    /// Takes a scheduled message back. May be repeated, as [`Slack::delete`].
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when it was sent or taken back.
    pub async fn unschedule(&self, channel: &str, id: &str) -> Result<()> {
        let arguments = json!({ "channel": channel, "scheduled_message_id": id });
        let done = self.call::<Done>("chat.deleteScheduledMessage", &arguments).await;
        gone_is_done(done, "invalid_scheduled_message_id")
    }

    /// Opens the direct message with a person, or with several, and returns its channel. Opening it twice gives the
    /// same one.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] for somebody who is not in the workspace.
    pub async fn open_dm(&self, users: &[&str]) -> Result<String> {
        let opened: Opened = self.call("conversations.open", &json!({ "users": users.join(",") })).await?;
        Ok(opened.channel.id)
    }

    /// Tells whose token the connection has: the cheapest proof that it works.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Auth`] when it does not.
    pub async fn identity(&self) -> Result<Identity> {
        self.ask("auth.test", &[]).await
    }

    /// Finds a person by e-mail address.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when nobody has it.
    pub async fn user_by_email(&self, email: &str) -> Result<User> {
        let found: Found = self.ask("users.lookupByEmail", &[("email", Some(email))]).await?;
        User::of(found.user).ok_or_else(|| {
            Error::new(ErrorKind::Decode, "the answer holds no person").during("slack", "users.lookupByEmail")
        })
    }

    /// Looks for a message sent with [`NewMessage::client_msg_id`] among those of a conversation since a moment:
    /// whether one whose answer was lost was sent after all. Give the moment of sending, less a minute for clocks.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn find_sent(&self, channel: &str, client_msg_id: &str, since: Timestamp) -> Result<Option<Message>> {
        let oldest = format!("{}.000000", since.seconds().max(0));
        let mut messages = self.history(channel, Some(&oldest), None);
        while let Some(message) = messages.try_next().await? {
            if message.client_msg_id.as_deref() == Some(client_msg_id) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Answers a slash command or an interaction at its `response_url`: up to five times within 30 minutes.
    /// `in_channel` shows it to everybody; otherwise only the person who asked sees it.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::NotFound`] when the address has expired.
    pub async fn respond(&self, response_url: &Secret, message: &NewMessage, in_channel: bool) -> Result<()> {
        let kind = if in_channel { "in_channel" } else { "ephemeral" };
        let arguments = message.arguments(&[("response_type", kind.into())])?;
        self.connector().post_to_hook(response_url.expose(), &arguments).await
    }
}

/// Reads a time that Slack writes as a number or as a text (docs.slack.dev: a text in the example of
/// chat.scheduleMessage, a number in that of chat.scheduledMessages.list).
fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<i64, D::Error> {
    let value = Value::deserialize(from)?;
    let read = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    read.ok_or_else(|| serde::de::Error::custom("no time in seconds"))
}

/// What is not there at the second attempt was removed by the first, whose answer was lost.
fn gone_is_done(done: Result<Done>, code: &str) -> Result<()> {
    match done {
        Err(error) if error.attempts() > 1 && error.code() == Some(code) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

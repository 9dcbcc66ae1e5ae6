//! Lists as streams that page by themselves. A stream asks for the next page when the last one is used up and ends with
//! the first error.
//!
//! The objects hold the fields most people want and their own JSON. slack-morphism's whole types are one step further,
//! and that step can fail: one field of another type than it knows would otherwise cost the whole page.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use palisade_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slack_morphism::{SlackChannelInfo, SlackHistoryMessage, SlackUser};

use super::Slack;
use crate::json::text;

/// Slack advises pages of 200 at the most (docs.slack.dev, pagination).
const PAGE_MAX: u32 = 200;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// Their id.
    pub id: String,
    /// The workspace they belong to.
    pub team_id: Option<String>,
    /// Their handle.
    pub name: Option<String>,
    /// Their full name.
    pub real_name: Option<String>,
    /// What they want to be called.
    pub display_name: Option<String>,
    /// Their e-mail address, with the scope `users:read.email`.
    pub email: Option<String>,
    /// Their time zone (`Europe/Berlin`).
    pub tz: Option<String>,
    /// Whether the account was deactivated: people stay in the list.
    pub deleted: bool,
    /// Whether it is a bot.
    pub is_bot: bool,
    /// The object's whole JSON.
    pub raw: Bytes,
}

/// A channel, a group or a direct message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// Its name; direct messages have none.
    pub name: Option<String>,
    /// The other person of a direct message.
    pub user: Option<String>,
    /// Whether it is a direct message of two.
    pub is_im: bool,
    /// Whether it is a direct message of several.
    pub is_mpim: bool,
    /// Whether only its members see it.
    pub is_private: bool,
    /// Whether it is archived.
    pub is_archived: bool,
    /// Whether the app is a member: only then it can read its messages.
    pub is_member: bool,
    /// The object's whole JSON.
    pub raw: Bytes,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Its time, which is its id within the conversation. Text: as a number it would lose its end.
    pub ts: String,
    /// The message its thread begins with; equal to `ts` for that one.
    pub thread_ts: Option<String>,
    /// Who wrote it.
    pub user: Option<String>,
    /// The bot that wrote it.
    pub bot_id: Option<String>,
    /// Its text in Slack's markup.
    pub text: String,
    /// What kind of message it is; none for a plain one.
    pub subtype: Option<String>,
    /// When it was last edited, as a `ts`.
    pub edited: Option<String>,
    /// The id its sender gave it.
    pub client_msg_id: Option<String>,
    /// How many replies its thread has.
    pub reply_count: u64,
    /// The object's whole JSON.
    pub raw: Bytes,
}

fn flag(object: &Value, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn owned(object: &Value, name: &str) -> Option<String> {
    text(object, name).map(str::to_owned)
}

fn whole<T: DeserializeOwned>(raw: &[u8]) -> Result<T> {
    serde_json::from_slice(raw).map_err(|_| {
        Error::new(ErrorKind::Decode, "the object does not fit slack-morphism's type").during("slack", "list")
    })
}

impl User {
    pub(super) fn of(object: Value) -> Option<Self> {
        let profile = object.get("profile").unwrap_or(&Value::Null);
        Some(Self {
            id: owned(&object, "id")?,
            team_id: owned(&object, "team_id"),
            name: owned(&object, "name"),
            real_name: owned(&object, "real_name").or_else(|| owned(profile, "real_name")),
            display_name: owned(profile, "display_name"),
            email: owned(profile, "email"),
            tz: owned(&object, "tz"),
            deleted: flag(&object, "deleted"),
            is_bot: flag(&object, "is_bot"),
            raw: object.to_string().into(),
        })
    }

    /// Reads it with slack-morphism's whole type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when that type does not fit.
    pub fn full(&self) -> Result<SlackUser> {
        whole(&self.raw)
    }
}

impl Conversation {
    fn of(object: Value) -> Option<Self> {
        Some(Self {
            id: owned(&object, "id")?,
            name: owned(&object, "name"),
            user: owned(&object, "user"),
            is_im: flag(&object, "is_im"),
            is_mpim: flag(&object, "is_mpim"),
            is_private: flag(&object, "is_private"),
            is_archived: flag(&object, "is_archived"),
            is_member: flag(&object, "is_member"),
            raw: object.to_string().into(),
        })
    }

    /// Reads it with slack-morphism's whole type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when that type does not fit.
    pub fn full(&self) -> Result<SlackChannelInfo> {
        whole(&self.raw)
    }
}

impl Message {
    fn of(object: Value) -> Option<Self> {
        Some(Self {
            ts: owned(&object, "ts")?,
            thread_ts: owned(&object, "thread_ts"),
            user: owned(&object, "user"),
            bot_id: owned(&object, "bot_id"),
            text: owned(&object, "text").unwrap_or_default(),
            subtype: owned(&object, "subtype"),
            edited: object.get("edited").and_then(|edited| owned(edited, "ts")),
            client_msg_id: owned(&object, "client_msg_id"),
            reply_count: object.get("reply_count").and_then(Value::as_u64).unwrap_or(0),
            raw: object.to_string().into(),
        })
    }

    /// Reads it with slack-morphism's whole type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when that type does not fit.
    pub fn full(&self) -> Result<SlackHistoryMessage> {
        whole(&self.raw)
    }
}

/// A page of any list.
#[derive(Deserialize)]
struct Page {
    channels: Option<Vec<Value>>,
    members: Option<Vec<Value>>,
    messages: Option<Vec<Value>>,
    response_metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    next_cursor: Option<String>,
}

/// A list that is being read.
struct Reading<'a, T> {
    slack: &'a Slack,
    method: &'static str,
    arguments: Vec<(&'static str, String)>,
    /// Where it goes on; `None` when it does not.
    cursor: Option<String>,
    items: VecDeque<Value>,
    of: fn(Value) -> Option<T>,
}

impl<T> Reading<'_, T> {
    async fn next(mut self) -> Result<Option<(T, Self)>> {
        let wrong = |why| Error::new(ErrorKind::Decode, why).during("slack", self.method);
        loop {
            if let Some(item) = self.items.pop_front() {
                let item = (self.of)(item).ok_or_else(|| wrong("an object of the page has no id"))?;
                return Ok(Some((item, self)));
            }
            let Some(cursor) = self.cursor.take() else { return Ok(None) };
            let given = self.arguments.iter().map(|(name, value)| (*name, Some(value.as_str())));
            let arguments: Vec<_> =
                given.chain([("cursor", Some(cursor.as_str()).filter(|cursor| !cursor.is_empty()))]).collect();
            let page: Page = self.slack.ask(self.method, &arguments).await?;
            let items = page.channels.or(page.members).or(page.messages);
            self.items = items.ok_or_else(|| wrong("the page does not hold what was asked for"))?.into();
            // A short or empty page is not the end; only the lack of a cursor is.
            let next = page.response_metadata.and_then(|metadata| metadata.next_cursor);
            self.cursor = next.filter(|next| !next.is_empty());
            if self.cursor.as_ref() == Some(&cursor) {
                return Err(wrong("the list does not advance"));
            }
        }
    }
}

impl Slack {
    fn list<'a, T: Send + 'a>(
        &'a self,
        method: &'static str,
        arguments: &[(&'static str, Option<&str>)],
        of: fn(Value) -> Option<T>,
    ) -> BoxStream<'a, Result<T>> {
        let given = arguments.iter().filter_map(|(name, value)| Some((*name, (*value)?.to_owned())));
        let (arguments, cursor) = (given.collect(), Some(String::new()));
        let reading = Reading { slack: self, method, arguments, cursor, items: VecDeque::new(), of };
        try_unfold(reading, Reading::next).boxed()
    }

    /// Lists conversations of some kinds (`public_channel,private_channel,mpim,im`), archived ones on request.
    pub fn conversations(&self, types: &str, archived: bool) -> BoxStream<'_, Result<Conversation>> {
        let exclude = if archived { "0" } else { "1" };
        let limit = PAGE_MAX.to_string();
        let arguments = [("exclude_archived", Some(exclude)), ("limit", Some(&*limit)), ("types", Some(types))];
        self.list("conversations.list", &arguments, Conversation::of)
    }

    /// Lists the people of the workspace, deactivated ones too.
    pub fn users(&self) -> BoxStream<'_, Result<User>> {
        let limit = PAGE_MAX.to_string();
        self.list("users.list", &[("limit", Some(&*limit))], User::of)
    }

    /// Lists the messages of a conversation between two times, both exclusive, newest first; without the replies of
    /// threads.
    pub fn history(&self, channel: &str, oldest: Option<&str>, latest: Option<&str>) -> BoxStream<'_, Result<Message>> {
        let limit = self.connector().history.page_size(PAGE_MAX).to_string();
        let arguments = [
            ("channel", Some(channel)),
            ("inclusive", Some("0")),
            ("latest", latest),
            ("limit", Some(&*limit)),
            ("oldest", oldest),
        ];
        self.list("conversations.history", &arguments, Message::of)
    }

    /// Lists the messages of a thread, oldest first. The message it begins with comes first, and with every page again.
    pub fn replies(&self, channel: &str, thread_ts: &str) -> BoxStream<'_, Result<Message>> {
        let limit = self.connector().history.page_size(PAGE_MAX).to_string();
        let arguments = [("channel", Some(channel)), ("limit", Some(&*limit)), ("ts", Some(thread_ts))];
        self.list("conversations.replies", &arguments, Message::of)
    }
}

//! A message to send: its text and blocks, checked for what Slack is known to refuse.

use palisade_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use slack_morphism::blocks::SlackBlock;

/// The longest text Slack takes (docs.slack.dev, chat.postMessage); it advises 4,000.
pub(super) const TEXT_CHARS_MAX: usize = 40_000;
/// The most blocks of one message (docs.slack.dev, blocks).
pub(super) const BLOCKS_MAX: usize = 50;

/// Writes a text so that nothing in it is taken for a mention, a link or a command: Slack reads only `&`, `<` and `>`.
///
/// ```
/// assert_eq!(palisade_slack::client::escape("<!channel> & co"), "&lt;!channel&gt; &amp; co");
/// ```
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A message to send, change or schedule.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    text: String,
    blocks: Vec<Value>,
    thread: Option<String>,
    more: Map<String, Value>,
}

impl NewMessage {
    /// Begins a message with a text, in Slack's markup. With blocks it is what notifications and screen readers show.
    /// Use [`escape`] for what people wrote.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Adds blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a block cannot be written as JSON.
    pub fn blocks(mut self, blocks: impl IntoIterator<Item = SlackBlock>) -> Result<Self> {
        for block in blocks {
            let written = serde_json::to_value(block);
            self.blocks.push(written.map_err(|_| wrong("a block cannot be written as JSON", None))?);
        }
        Ok(self)
    }

    /// Adds a block as JSON.
    #[must_use]
    pub fn block(mut self, block: Value) -> Self {
        self.blocks.push(block);
        self
    }

    /// Makes it a reply in the thread of a message.
    #[must_use]
    pub fn in_thread(mut self, ts: impl Into<String>) -> Self {
        self.thread = Some(ts.into());
        self
    }

    /// Shows a reply in the channel too.
    #[must_use]
    pub fn broadcast(self) -> Self {
        self.with("reply_broadcast", true)
    }

    /// Shows no previews of links.
    #[must_use]
    pub fn without_previews(self) -> Self {
        self.with("unfurl_links", false).with("unfurl_media", false)
    }

    /// Gives it an id of the caller's own, a UUID, by which [`super::Slack::find_sent`] finds it when the answer was
    /// lost. Slack keeps it and does not deduplicate by it.
    #[must_use]
    pub fn client_msg_id(self, id: impl Into<String>) -> Self {
        self.with("client_msg_id", id.into())
    }

    /// Hides data in it for apps: a type and an object.
    #[must_use]
    pub fn metadata(self, kind: &str, payload: &Value) -> Self {
        self.with("metadata", json!({ "event_type": kind, "event_payload": payload }))
    }

    /// Sets any other argument of `chat.postMessage`.
    #[must_use]
    pub fn with(mut self, argument: &str, value: impl Into<Value>) -> Self {
        self.more.insert(argument.to_owned(), value.into());
        self
    }

    /// Writes the arguments of a call about the message, with those given.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with a text for the user, when it is empty or longer than Slack takes.
    pub(super) fn arguments(&self, given: &[(&str, Value)]) -> Result<Value> {
        if self.text.is_empty() && self.blocks.is_empty() && !self.more.contains_key("attachments") {
            return Err(wrong("the message is empty", Some("This message is empty. Please write something.")));
        }
        let long = "This message is too long for Slack. Please shorten it.";
        if self.text.chars().nth(TEXT_CHARS_MAX).is_some() {
            return Err(wrong("the text is longer than 40,000 characters", Some(long)));
        }
        if self.blocks.len() > BLOCKS_MAX {
            return Err(wrong("the message has more than 50 blocks", Some(long)));
        }
        let mut arguments = self.more.clone();
        if !self.text.is_empty() {
            arguments.insert("text".to_owned(), self.text.clone().into());
        }
        if !self.blocks.is_empty() {
            arguments.insert("blocks".to_owned(), self.blocks.clone().into());
        }
        if let Some(thread) = &self.thread {
            arguments.insert("thread_ts".to_owned(), thread.clone().into());
        }
        for (name, value) in given {
            if value.as_str().is_some_and(str::is_empty) {
                return Err(wrong("a channel or message is named by an empty text", None));
            }
            arguments.insert((*name).to_owned(), value.clone());
        }
        Ok(Value::Object(arguments))
    }

    /// Writes the arguments of a change: a message stays in its thread.
    ///
    /// # Errors
    /// As [`NewMessage::arguments`].
    pub(super) fn changes(&self, given: &[(&str, Value)]) -> Result<Value> {
        Self { thread: None, ..self.clone() }.arguments(given)
    }
}

fn wrong(why: &'static str, user_message: Option<&'static str>) -> Error {
    let error = Error::new(ErrorKind::Invalid, why).during("slack", "message");
    match user_message {
        Some(message) => error.with_user_message(message),
        None => error,
    }
}

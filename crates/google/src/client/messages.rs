//! Gmail: send, list, read, watch.

use futures_util::{Stream, TryStreamExt, stream};
use http::Method;
use http::header::HeaderValue;
use palisade_core::{ErrorKind, Result};
use serde_json::json;

use super::gmail::{ListMessagesResponse, Message, MessagePartBody, Profile, WatchResponse};
use super::mail::{Mail, Mime};
use super::{Ask, BASE32_HEX, Body, Google, invalid, segment};
use crate::operation;
use crate::sync::MESSAGES_PAGE_MAX;

const USER: &str = "/gmail/v1/users/me";
const UPLOAD: &str = "/upload/gmail/v1/users/me/messages/send";

/// Above this a message goes by the upload route: base64 in JSON makes it a third larger and is built in memory twice.
const JSON_BYTES_MAX: usize = 1 << 20;

/// How much of a message is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: Gmail's formats")]
pub enum Format {
    /// Ids, labels, size and date.
    Minimal,
    /// All of it, parsed, attachments by their ids.
    #[default]
    Full,
    /// The bytes as they came ([`Message::raw`]).
    Raw,
    /// The headers, or those named.
    Metadata(Vec<String>),
}

/// Which messages are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filters; any value is valid")]
pub struct MessageQuery {
    /// A search as in Gmail's own box (`newer_than:1d`). Refused under the scope `gmail.metadata`.
    pub search: Option<String>,
    /// Labels a message must have, all of them.
    pub labels: Vec<String>,
    /// Whether spam and trash are listed.
    pub spam_and_trash: bool,
    /// Messages a page; 500 when absent, and at most.
    pub page_size: Option<u32>,
}

/// What a mailbox is watched for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the call")]
pub struct NewWatch {
    /// The Pub/Sub topic (`projects/P/topics/T`), which gmail-api-push@system.gserviceaccount.com may publish to.
    pub topic: String,
    /// Labels changes are told of; all when empty.
    pub labels: Vec<String>,
    /// Whether the labels are those left out instead.
    pub excluding: bool,
}

impl Google {
    /// Reads whose mailbox it is, and its newest history id. Costs one unit.
    ///
    /// # Errors
    /// The pipeline's, read by [`crate::error::GoogleClassifier`].
    pub async fn profile(&self) -> Result<Profile> {
        self.ask(Ask::new(&operation::PROFILE, Method::GET, format!("{USER}/profile"))).await
    }

    /// Writes a mail as it will be sent: date, ids and boundaries are settled, so that sending can be told from sending
    /// again. See [`Mail::to_mime`].
    ///
    /// # Errors
    /// As [`Mail::to_mime`].
    pub fn prepare(&self, mail: &Mail) -> Result<Mime> {
        let id = self.name(32, BASE32_HEX);
        mail.to_mime(&id, self.clock.now())
    }

    /// Sends a prepared mail. The answer has the message's id and thread; read it for more.
    ///
    /// Gmail has nothing to tell a repetition by, so it is never repeated after a failure that may have sent it: that
    /// is an error of [`palisade_core::Outcome::Unknown`], and [`Google::find_sent`] tells what became of it.
    ///
    /// # Errors
    /// As [`Google::profile`].
    pub async fn send_mail(&self, mime: &Mime) -> Result<Message> {
        if mime.bytes().len() <= JSON_BYTES_MAX {
            let message = Message {
                raw: Some(mime.bytes().to_vec()),
                thread_id: mime.thread().map(str::to_owned),
                ..Message::default()
            };
            let path = format!("{USER}/messages/send");
            return self.ask(Ask::new(&operation::MESSAGES_SEND, Method::POST, path).sending(&message)?).await;
        }
        let mut ask = Ask::new(&operation::MESSAGES_UPLOAD, Method::POST, UPLOAD.to_owned());
        ask.body = match mime.thread() {
            None => {
                ask = ask.with("uploadType", "media");
                Body::Other(mime.bytes().clone(), HeaderValue::from_static("message/rfc822"))
            }
            // A thread can only be named beside the message, in a body of two parts (Google API, multipart upload).
            Some(thread) => {
                ask = ask.with("uploadType", "multipart");
                let boundary = self.name(32, BASE32_HEX);
                let named = json!({ "threadId": thread });
                let head = format!(
                    "--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{named}\r\n\
                     --{boundary}\r\nContent-Type: message/rfc822\r\n\r\n"
                );
                let tail = format!("\r\n--{boundary}--");
                let kind = HeaderValue::from_str(&format!("multipart/related; boundary={boundary}"));
                let kind = kind.map_err(|_| invalid("the boundary cannot stand in a header"))?;
                Body::Other([head.as_bytes(), mime.bytes(), tail.as_bytes()].concat().into(), kind)
            }
        };
        self.ask(ask).await
    }

    /// Looks for a prepared mail in the mailbox, by its Message-ID: after a failure that may have sent it. Gmail finds a
    /// message some seconds after it was sent, and may have given it another id: `None` is no proof that it was not.
    ///
    /// # Errors
    /// As [`Google::profile`].
    pub async fn find_sent(&self, mime: &Mime) -> Result<Option<Message>> {
        let search = format!("in:sent rfc822msgid:{}", mime.message_id());
        let query = MessageQuery { search: Some(search), page_size: Some(1), ..MessageQuery::default() };
        let page = self.message_page(&query, None).await?;
        Ok(page.messages.unwrap_or_default().into_iter().next())
    }

    /// Lists messages, newest first: ids and threads only.
    pub fn list_messages(&self, query: MessageQuery) -> impl Stream<Item = Result<Message>> + Send + Unpin + use<> {
        let google = self.clone();
        let pages = stream::try_unfold(Some((query, None)), move |at: Option<(MessageQuery, Option<String>)>| {
            let google = google.clone();
            async move {
                let Some((query, token)) = at else { return Ok(None) };
                let page = google.message_page(&query, token.as_deref()).await?;
                let next = page.next_page_token.filter(|next| !next.is_empty());
                if next.is_some() && next == token {
                    return Err(stuck(&operation::MESSAGES_LIST));
                }
                let messages = page.messages.unwrap_or_default().into_iter().map(Ok);
                Ok(Some((stream::iter(messages), next.map(|next| (query, Some(next))))))
            }
        });
        Box::pin(pages.try_flatten())
    }

    async fn message_page(&self, query: &MessageQuery, token: Option<&str>) -> Result<ListMessagesResponse> {
        let size = query.page_size.unwrap_or(MESSAGES_PAGE_MAX).clamp(1, MESSAGES_PAGE_MAX);
        let mut ask = Ask::new(&operation::MESSAGES_LIST, Method::GET, format!("{USER}/messages"))
            .with_some("q", query.search.clone());
        for label in &query.labels {
            ask = ask.with("labelIds", label);
        }
        ask = ask.with_some("includeSpamTrash", query.spam_and_trash.then_some("true"));
        self.ask(ask.with("maxResults", size.to_string()).with_some("pageToken", token)).await
    }

    /// Reads a message. Costs 20 units.
    ///
    /// # Errors
    /// As [`Google::profile`]; [`ErrorKind::NotFound`] when there is none.
    pub async fn get_message(&self, id: &str, format: Format) -> Result<Message> {
        let path = format!("{USER}/messages/{}", segment(id)?);
        let mut ask = Ask::new(&operation::MESSAGES_GET, Method::GET, path);
        ask = match format {
            Format::Minimal => ask.with("format", "minimal"),
            Format::Full => ask.with("format", "full"),
            Format::Raw => ask.with("format", "raw"),
            Format::Metadata(headers) => {
                headers.iter().fold(ask.with("format", "metadata"), |ask, name| ask.with("metadataHeaders", name))
            }
        };
        self.ask(ask).await
    }

    /// Reads the bytes of an attachment.
    ///
    /// # Errors
    /// As [`Google::get_message`].
    pub async fn get_attachment(&self, message: &str, attachment: &str) -> Result<Vec<u8>> {
        let path = format!("{USER}/messages/{}/attachments/{}", segment(message)?, segment(attachment)?);
        let part: MessagePartBody = self.ask(Ask::new(&operation::ATTACHMENTS_GET, Method::GET, path)).await?;
        part.data.ok_or_else(|| super::unreadable(&operation::ATTACHMENTS_GET, 200))
    }

    /// Starts notifications for a week, or for another week: ask every day. The answer's history id is where to read on
    /// from.
    ///
    /// # Errors
    /// As [`Google::profile`]; [`ErrorKind::Config`] for a topic that is none.
    pub async fn watch_mailbox(&self, watch: &NewWatch) -> Result<WatchResponse> {
        crate::sync::check_topic(&watch.topic)?;
        let mut body = json!({ "topicName": watch.topic });
        if let (false, Some(fields)) = (watch.labels.is_empty(), body.as_object_mut()) {
            let behavior = if watch.excluding { "exclude" } else { "include" };
            fields.insert("labelIds".to_owned(), json!(watch.labels));
            fields.insert("labelFilterBehavior".to_owned(), json!(behavior));
        }
        self.ask(Ask::new(&operation::WATCH, Method::POST, format!("{USER}/watch")).sending_json(&body)).await
    }

    /// Ends notifications. That there are none is no failure.
    ///
    /// # Errors
    /// As [`Google::profile`].
    pub async fn stop_mailbox(&self) -> Result<()> {
        let ask = Ask::new(&operation::STOP, Method::POST, format!("{USER}/stop")).answering_nothing();
        match self.tell(ask).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            told => told,
        }
    }
}

/// The error of a list that does not go on.
pub(super) fn stuck(operation: &'static palisade_core::Operation) -> palisade_core::Error {
    palisade_core::Error::new(ErrorKind::Decode, "the list goes round: a page names itself as the next")
        .during("google", operation.name)
}

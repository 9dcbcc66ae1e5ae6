//! Keeping a copy of a workspace in step: requests out, answers in. Pure; the driver does the sending.
//!
//! Slack has no list of changes. People and conversations are listed anew at every run. Messages are walked
//! conversation by conversation ([`walk`]); edits and deletions are told by events only, so an incremental run reads a
//! window of time again and events do the rest. An event that names an object and does not carry it whole costs a read.
//!
//! The record of a message is called `<channel>:<ts>`: a `ts` is only one of its conversation. When a conversation gets
//! another id its messages get other names, so all of them are read anew.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HeaderValue};
use palisade_core::call::Call;
use palisade_core::sync::{
    BadRecord, Change, Cursor, Missing, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told, bad,
};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, Operation, RecordId, Result, StreamName, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::client::{FORM, HistoryRule, form};
use crate::json::{self, Kind, id, is_ts, text, ts_millis};
use crate::operation;
use crate::webhook::Envelope;

pub(crate) mod effect;
mod missed;
mod walk;

use effect::{Effect, effects};
use walk::{Behind, Reading, Walk};

/// The name of the stream of people.
pub const USERS: &str = "users";
/// The name of the stream of channels and direct messages.
pub const CONVERSATIONS: &str = "conversations";
/// The name of the stream of messages.
pub const MESSAGES: &str = "messages";

/// Slack advises pages of 200 at the most (docs.slack.dev, pagination).
const PAGE_MAX: u32 = 200;
/// What Slack calls all kinds of conversations.
const ALL_TYPES: &str = "public_channel,private_channel,mpim,im";
/// Where a list begins anew.
const AGAIN: &str = "again";
const PAGE: &str = "page:";
const DAY: Duration = Duration::from_secs(86_400);

static STREAMS: [StreamSpec; 3] = [
    StreamSpec { name: USERS, kind: StreamKind::Records },
    StreamSpec { name: CONVERSATIONS, kind: StreamKind::Records },
    StreamSpec { name: MESSAGES, kind: StreamKind::Records },
];

/// Slack's streams.
#[derive(Clone, Debug)]
pub struct SlackSource {
    history: HistoryRule,
    types: String,
    messages: bool,
    since: Option<Timestamp>,
    window: Duration,
}

impl Default for SlackSource {
    fn default() -> Self {
        Self::new()
    }
}

impl SlackSource {
    /// Makes the source of all people, conversations of every kind, and all messages of those the app is a member of,
    /// with a day read again at every run.
    #[must_use]
    pub fn new() -> Self {
        Self { history: HistoryRule::Full, types: ALL_TYPES.to_owned(), messages: true, since: None, window: DAY }
    }

    /// Says how fast history may be read.
    #[must_use]
    pub fn reading(mut self, history: HistoryRule) -> Self {
        self.history = history;
        self
    }

    /// Copies conversations of these kinds only, of `public_channel`, `private_channel`, `mpim` and `im`. Slack refuses
    /// the whole list when the scope of one kind is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for none, or any other.
    pub fn of_types(mut self, types: &[&str]) -> Result<Self> {
        if types.is_empty() || types.iter().any(|one| !ALL_TYPES.split(',').any(|known| known == *one)) {
            return Err(config("the kinds of conversations are public_channel, private_channel, mpim and im"));
        }
        self.types = types.join(",");
        Ok(self)
    }

    /// Copies no messages.
    #[must_use]
    pub fn without_messages(mut self) -> Self {
        self.messages = false;
        self
    }

    /// Copies messages written since a moment. The moment stays: what was copied does not grow old.
    #[must_use]
    pub fn since(mut self, moment: Timestamp) -> Self {
        self.since = Some(moment);
        self
    }

    /// Sets how much of the past every incremental run reads again, to find edits and replies whose events never came.
    #[must_use]
    pub fn rescanning(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    fn walk(&self, cursor: Option<&Cursor>) -> Result<Walk> {
        let window = i64::try_from(self.window.as_secs()).unwrap_or(i64::MAX);
        Walk::read(cursor, self.since.map(Timestamp::seconds), window)
    }

    fn page_size(&self, site: &Site) -> u32 {
        site.page_size.clamp(1, PAGE_MAX)
    }

    /// Makes the request of the next page of messages.
    fn walk_request(&self, site: &Site, walk: &Walk) -> Result<Request<Bytes>> {
        let limit = self.history.page_size(self.page_size(site)).to_string();
        let since = walk.since.as_deref();
        match walk.reading() {
            Reading::Conversations { cursor } => {
                let limit = self.page_size(site).min(walk::CONVERSATIONS_MAX).to_string();
                let team = team_of(site);
                let arguments =
                    [("cursor", cursor), ("limit", Some(&*limit)), ("team_id", team), ("types", Some(&*self.types))];
                post(site, operation::find("users.conversations"), &arguments)
            }
            Reading::History { conversation, place } => post(
                site,
                self.history.walk_page(),
                &[
                    ("channel", Some(conversation)),
                    ("cursor", place.cursor()),
                    ("limit", Some(&*limit)),
                    ("oldest", since),
                ],
            ),
            Reading::Thread { conversation, root, place } => post(
                site,
                self.history.walk_thread(),
                &[
                    ("channel", Some(conversation)),
                    ("cursor", place.cursor()),
                    ("limit", Some(&*limit)),
                    ("oldest", since),
                    ("ts", Some(root)),
                ],
            ),
            Reading::Nothing => post(
                site,
                operation::find("users.conversations"),
                &[("limit", Some("1")), ("types", Some(&*self.types))],
            ),
        }
    }

    /// Reads a page of the walk.
    fn walk_page(&self, mut walk: Walk, body: &Bytes, span: Span) -> Result<Page> {
        let mut read = (Vec::new(), Vec::new());
        match walk.reading() {
            Reading::Nothing => {}
            Reading::Conversations { .. } => {
                let mut list = List::read(body)?;
                let conversations = list.take(CONVERSATIONS)?;
                let ids: Option<Vec<_>> = conversations.iter().map(|one| text(one, "id").map(str::to_owned)).collect();
                let ids = ids.ok_or_else(|| decode("a conversation of the page has no id"))?;
                walk.listed(ids, list.cursor(), Timestamp(span.earliest).seconds());
            }
            Reading::History { conversation, .. } => {
                let mut list = List::read(body)?;
                let mut threads = Vec::new();
                read = bad::sorted(list.take(MESSAGES)?.into_iter().map(|message| {
                    let ts = ts_or_bad(&message)?.to_owned();
                    if begins_thread(&message, &ts, walk.since.as_deref()) {
                        threads.push(ts.clone());
                    }
                    Ok(message_change(conversation, &ts, message, span))
                }));
                walk.read_page(list.behind(), threads)?;
            }
            Reading::Thread { conversation, root, .. } => {
                let mut list = List::read(body)?;
                let messages = list.take(MESSAGES)?.into_iter();
                // The thread's first message stands on every page; it was read with the conversation.
                let replies = messages.filter(|message| text(message, "ts") != Some(root));
                read = bad::sorted(replies.map(|message| {
                    let ts = ts_or_bad(&message)?.to_owned();
                    Ok(message_change(conversation, &ts, message, span))
                }));
                walk.read_replies(list.behind())?;
            }
        }
        let next = walk.next()?;
        Ok(Page::of_records(read, next))
    }
}

fn config(why: &'static str) -> Error {
    Error::new(ErrorKind::Config, why).during("slack", "sync")
}

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("slack", "sync")
}

/// An app of a whole organization must say which of its workspaces it means.
fn team_of(site: &Site) -> Option<&str> {
    site.account.as_deref().filter(|account| account.starts_with('T'))
}

fn post(site: &Site, operation: &'static Operation, arguments: &[(&str, Option<&str>)]) -> Result<Request<Bytes>> {
    let call = Call::new(operation, site.connection.clone(), site.tenant.clone()).background();
    let mut request = Request::post(format!("{}{}", site.base_url.trim_end_matches('/'), operation.url_template))
        .header(CONTENT_TYPE, HeaderValue::from_static(FORM))
        .body(Bytes::from(form(arguments)))
        .map_err(|_| config("the base URL is not a URL"))?;
    request.extensions_mut().insert(call);
    Ok(request)
}

/// A page of any list.
#[derive(Deserialize)]
struct List {
    #[serde(default)]
    has_more: bool,
    #[serde(default)]
    response_metadata: Option<Metadata>,
    channels: Option<Vec<Value>>,
    members: Option<Vec<Value>>,
    messages: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Metadata {
    next_cursor: Option<String>,
}

impl List {
    fn read(body: &Bytes) -> Result<Self> {
        serde_json::from_slice(body).map_err(|_| decode("the page is not the JSON of a list"))
    }

    fn slot(&mut self, stream: &str) -> &mut Option<Vec<Value>> {
        match stream {
            USERS => &mut self.members,
            CONVERSATIONS => &mut self.channels,
            _ => &mut self.messages,
        }
    }

    fn take(&mut self, stream: &str) -> Result<Vec<Value>> {
        self.slot(stream).take().ok_or_else(|| decode("the page does not hold what was asked for"))
    }

    /// Returns where the list goes on: an empty text says as much as none.
    fn cursor(&self) -> Option<&str> {
        self.response_metadata.as_ref()?.next_cursor.as_deref().filter(|cursor| !cursor.is_empty())
    }
    fn behind(&self) -> Behind<'_> {
        Behind { cursor: self.cursor(), has_more: self.has_more }
    }
}

/// Returns the `ts` of a message.
fn ts_of(message: &Value) -> Result<&str> {
    ts_or_bad(message).map_err(|_| decode("a message has no ts"))
}

/// Returns the `ts` of a page's message, or what is set aside of one that has none.
fn ts_or_bad(message: &Value) -> Result<&str, BadRecord> {
    let ts = text(message, "ts").filter(|ts| is_ts(ts));
    ts.ok_or_else(|| BadRecord::of_json(None, message, "a message has no ts"))
}

/// Tells whether a thread begins with a message, and has replies the run is to read.
fn begins_thread(message: &Value, ts: &str, since: Option<&str>) -> bool {
    let replies = message.get("reply_count").and_then(Value::as_u64).unwrap_or(0);
    let newest = text(message, "latest_reply").and_then(ts_millis);
    let old = newest.zip(since.and_then(ts_millis)).is_some_and(|(newest, since)| newest < since);
    replies > 0 && !old && text(message, "thread_ts").is_none_or(|thread| thread == ts)
}

fn change(stream: &'static str, id: impl Into<String>, span: Span, state: State) -> Change {
    Change { stream: StreamName::new(stream), id: RecordId::new(id.into()), span, state }
}

fn message_id(conversation: &str, ts: &str) -> String {
    format!("{conversation}:{ts}")
}

fn message_change(conversation: &str, ts: &str, message: Value, span: Span) -> Change {
    let state = State::Present(json::record(Kind::Message, message));
    change(MESSAGES, message_id(conversation, ts), span, state)
}

/// Reads a page of people or conversations.
fn list_page(stream: &'static str, kind: Kind, cursor: Option<&Cursor>, body: &Bytes, span: Span) -> Result<Page> {
    let mut list = List::read(body)?;
    let read = bad::sorted(list.take(stream)?.into_iter().map(|object| {
        let id = text(&object, "id").filter(|id| !id.is_empty()).map(str::to_owned);
        let id = id.ok_or_else(|| BadRecord::of_json(None, &object, "an object of the page has no id"))?;
        Ok(change(stream, id, span, State::Present(json::record(kind, object))))
    }));
    let next = match list.cursor() {
        Some(next) => {
            let next = Cursor::new(format!("{PAGE}{next}"));
            if cursor == Some(&next) {
                return Err(decode("the page goes on where it was asked for itself"));
            }
            Next::More(next)
        }
        // Nothing but the list itself tells what has changed in it.
        None => Next::Done { resume: Some(Cursor::new(AGAIN)) },
    };
    Ok(Page::of_records(read, next))
}

fn list_cursor(cursor: Option<&Cursor>) -> Result<Option<&str>> {
    match cursor.map(Cursor::as_str) {
        None | Some(AGAIN) => Ok(None),
        Some(text) => match text.strip_prefix(PAGE) {
            Some(cursor) => Ok(Some(cursor)),
            None => Err(config("the cursor is not one of this stream")),
        },
    }
}

impl Source for SlackSource {
    fn streams(&self) -> &'static [StreamSpec] {
        // Messages come last, after what they refer to.
        if self.messages { &STREAMS } else { STREAMS.split_last().map_or(&[], |(_, others)| others) }
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        let limit = self.page_size(site).to_string();
        let (limit, team) = (Some(&*limit), team_of(site));
        match stream.as_str() {
            USERS => {
                let arguments = [("cursor", list_cursor(cursor)?), ("limit", limit), ("team_id", team)];
                post(site, operation::find("users.list"), &arguments)
            }
            CONVERSATIONS => {
                let cursor = list_cursor(cursor)?;
                let arguments =
                    [("cursor", cursor), ("limit", limit), ("team_id", team), ("types", Some(&*self.types))];
                post(site, operation::find("conversations.list"), &arguments)
            }
            MESSAGES => self.walk_request(site, &self.walk(cursor)?),
            _ => Err(config("Slack has no stream of this name here")),
        }
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let body = response.body();
        match stream.as_str() {
            USERS => list_page(USERS, Kind::User, cursor, body, span),
            CONVERSATIONS => list_page(CONVERSATIONS, Kind::Conversation, cursor, body, span),
            MESSAGES => self.walk_page(self.walk(cursor)?, body, span),
            _ => Err(config("Slack has no stream of this name here")),
        }
    }

    /// Of a workspace's conversations most are quiet: their pages bring nothing.
    fn is_sparse(&self, stream: &StreamName) -> bool {
        stream.as_str() == MESSAGES
    }

    fn step_back(&self, stream: &StreamName, cursor: &Cursor) -> Option<Cursor> {
        if stream.as_str() != MESSAGES {
            return None;
        }
        self.walk(Some(cursor)).ok()?.step_back()?.cursor().ok()
    }

    fn told(&self, change: &Change, conversation: Option<&Bytes>) -> Option<Told> {
        missed::told(change, conversation)
    }

    fn belongs_to(&self, stream: &StreamName, id: &RecordId) -> Option<(StreamName, RecordId)> {
        missed::belongs_to(stream, id)
    }

    fn event_of(&self, site: &Site, missing: &Missing<'_>) -> Option<Event> {
        missed::event_of(site, missing)
    }

    /// A message is asked for by its `ts` in the list of a thread: there alone a reply is found without knowing the
    /// thread it belongs to, and a message that stands by itself is a thread of one.
    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        let id = id.as_str();
        if id.is_empty() {
            return Err(config("a record without an id cannot be fetched"));
        }
        match stream.as_str() {
            USERS => post(site, operation::find("users.info"), &[("user", Some(id))]),
            CONVERSATIONS => {
                let arguments = [("channel", Some(id)), ("include_num_members", Some("1"))];
                post(site, &operation::walk::CONVERSATION, &arguments)
            }
            MESSAGES => {
                let (conversation, ts) = id.split_once(':').unwrap_or_default();
                if conversation.is_empty() || !is_ts(ts) {
                    return Err(config("the id of a message is its conversation and its ts"));
                }
                let arguments = [
                    ("channel", Some(conversation)),
                    ("inclusive", Some("1")),
                    ("latest", Some(ts)),
                    ("limit", Some(FETCHED)),
                    ("oldest", Some(ts)),
                    ("ts", Some(ts)),
                ];
                post(site, self.history.fetch(), &arguments)
            }
            _ => Err(config("Slack has no stream of this name here")),
        }
    }

    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        let wrong = || decode("the record that came is not the one asked for");
        let mut answer: Value =
            serde_json::from_slice(response.body()).map_err(|_| decode("the record is not JSON"))?;
        let (field, kind) = match stream.as_str() {
            USERS => ("user", Kind::User),
            CONVERSATIONS => ("channel", Kind::Conversation),
            MESSAGES => {
                let Some(Value::Array(messages)) = answer.get_mut(MESSAGES).map(Value::take) else {
                    return Err(wrong());
                };
                let ts = id.as_str().split_once(':').map(|(_, ts)| ts);
                // The message its thread begins with is always there too.
                let message = messages.into_iter().find(|message| text(message, "ts") == ts);
                let state = message.map_or(State::Deleted, |one| State::Present(json::record(Kind::Message, one)));
                return Ok(change(MESSAGES, id.as_str(), span, state));
            }
            _ => return Err(config("Slack has no stream of this name here")),
        };
        let object = answer.get_mut(field).map(Value::take).ok_or_else(wrong)?;
        if text(&object, "id") != Some(id.as_str()) {
            return Err(wrong());
        }
        Ok(Change { stream: stream.clone(), id: id.clone(), span, state: State::Present(json::record(kind, object)) })
    }

    fn concerns(&self, kind: &str) -> bool {
        effect::concerns(kind)
    }

    fn resyncs(&self, event: &Event) -> Vec<StreamName> {
        let kept = self.streams();
        let more = effect::more(&event.kind).iter();
        more.filter(|stream| kept.iter().any(|spec| spec.name == **stream))
            .map(|stream| StreamName::new(*stream))
            .collect()
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        let effects = effects(&event.kind);
        if effects.iter().all(|effect| matches!(effect, Effect::More(_))) {
            return Ok(Vec::new());
        }
        let envelope = Envelope::read(&event.payload)?;
        let inner = envelope.inner()?;
        let at = envelope.happened(&inner).or(event.created);
        let at = at.ok_or_else(|| decode("the event does not say when it happened"))?;
        let mut changes = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Message if self.messages => changes.extend(of_message(&inner, at)?),
                Effect::OfMessage if self.messages => changes.extend(touched_message(&inner, at)),
                Effect::Message | Effect::OfMessage | Effect::More(_) => {}
                Effect::User => changes.extend(of_user(&inner, at)?),
                Effect::OfConversation => changes.extend(touched_conversation(&inner, at)),
                Effect::ConversationDeleted => {
                    let gone = id(&inner, "channel").ok_or_else(|| decode("the event names no conversation"))?;
                    changes.push(change(CONVERSATIONS, gone, Span::second(at), State::Deleted));
                }
                Effect::ConversationMoved => {
                    let names = text(&inner, "old_channel_id").zip(text(&inner, "new_channel_id"));
                    let (old, new) = names.ok_or_else(|| decode("the event does not name both ids"))?;
                    changes.push(change(CONVERSATIONS, old, Span::second(at), State::Deleted));
                    changes.push(change(CONVERSATIONS, new, Span::second(at), State::Unclear));
                }
            }
        }
        Ok(changes)
    }
}

/// Messages asked for when one is wanted: it, and the one its thread begins with.
const FETCHED: &str = "2";

/// Slack numbers what happens in one conversation by the microsecond, so two events of one message have an order.
fn in_conversation(at: Timestamp) -> Span {
    Span::exact(at.millis())
}

/// A message that was written, changed or deleted.
fn of_message(inner: &Value, at: Timestamp) -> Result<Option<Change>> {
    let conversation = id(inner, "channel").ok_or_else(|| decode("the message names no conversation"))?;
    let span = in_conversation(at);
    if text(inner, "subtype") == Some("message_deleted") {
        let ts = text(inner, "deleted_ts").filter(|ts| is_ts(ts));
        let ts = ts.ok_or_else(|| decode("the deletion does not say of which message"))?;
        // Where answers hang from it Slack leaves a tombstone in its place, which is a message as any other.
        let begins_thread = inner.get("previous_message").and_then(|gone| text(gone, "thread_ts")) == Some(ts);
        let state = if begins_thread { State::Unclear } else { State::Deleted };
        return Ok(Some(change(MESSAGES, message_id(conversation, ts), span, state)));
    }
    let changed = inner.get("message").filter(|message| message.is_object());
    // Shown to one person for a while, or not at all: no such message is ever listed.
    let passing = |message: &Value, field| message.get(field).and_then(Value::as_bool).unwrap_or(false);
    let message = changed.unwrap_or(inner);
    if passing(message, "is_ephemeral") || (changed.is_none() && passing(inner, "hidden")) {
        return Ok(None);
    }
    let ts = ts_of(message)?;
    Ok(Some(message_change(conversation, ts, message.clone(), span)))
}

/// A message something happened to: a reaction, a pin.
fn touched_message(inner: &Value, at: Timestamp) -> Option<Change> {
    let item = inner.get("item")?;
    let conversation = text(item, "channel").or_else(|| text(inner, "channel_id"))?;
    let ts = text(item, "ts").or_else(|| text(item.get("message")?, "ts")).filter(|ts| is_ts(ts))?;
    Some(change(MESSAGES, message_id(conversation, ts), in_conversation(at), State::Unclear))
}

/// A conversation something happened to.
fn touched_conversation(inner: &Value, at: Timestamp) -> Option<Change> {
    let touched = id(inner, "channel")?;
    Some(change(CONVERSATIONS, touched, Span::second(at), State::Unclear))
}

/// A person as they stand. Somebody of another workspace is not in this one's list and no record of it.
fn of_user(inner: &Value, at: Timestamp) -> Result<Option<Change>> {
    let user = inner.get("user").filter(|user| user.is_object());
    let user = user.ok_or_else(|| decode("the event carries no person"))?;
    if user.get("is_stranger").and_then(Value::as_bool).unwrap_or(false) {
        return Ok(None);
    }
    let id = text(user, "id").ok_or_else(|| decode("the event's person has no id"))?;
    let state = State::Present(json::record(Kind::User, user.clone()));
    Ok(Some(change(USERS, id, Span::second(at), state)))
}

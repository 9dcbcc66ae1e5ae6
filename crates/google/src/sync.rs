//! Keeping a copy of a mailbox and a calendar in step: requests out, answers in. Pure; the driver does the sending.
//!
//! Both are listed once and then followed by a position Google gives: Gmail's history id, Calendar's sync token. Google
//! forgets positions (Gmail 404, Calendar 410), which the classifier calls [`ErrorKind::CursorExpired`], and the driver
//! lists anew. Notifications carry nothing but the news that there is news; they make the next run come at once.

use bytes::Bytes;
use http::Request;
use palisade_core::call::{Call, Operation};
use palisade_core::sync::watch::{Watch, WatchAsk, WatchSpec, Watcher};
use palisade_core::sync::{Change, Cursor, Missing, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, RecordId, Result, Secret, StreamName, Timestamp};
use serde_json::Value;

use crate::client::address;
use crate::webhook::push::history_id;
use crate::webhook::{CALENDAR_CHANGED, MAIL_CHANGED, Trust, channel, push};

mod calendar;
mod cursor;
mod gmail;
mod watch;

pub(crate) use calendar::PAGE_MAX as EVENTS_PAGE_MAX;
pub(crate) use gmail::PAGE_MAX as MESSAGES_PAGE_MAX;
pub(crate) use watch::{channel_body, check_channel, check_topic};

/// The stream of a mailbox's messages.
pub const MESSAGES: &str = "messages";
/// The stream of a calendar's events.
pub const EVENTS: &str = "calendar_events";

const MESSAGES_SPEC: StreamSpec = StreamSpec { name: MESSAGES, kind: StreamKind::Records };
const EVENTS_SPEC: StreamSpec = StreamSpec { name: EVENTS, kind: StreamKind::Records };

static BOTH: [StreamSpec; 2] = [MESSAGES_SPEC, EVENTS_SPEC];
static MAIL_ONLY: [StreamSpec; 1] = [MESSAGES_SPEC];
static CALENDAR_ONLY: [StreamSpec; 1] = [EVENTS_SPEC];

/// How much of a message a record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: Gmail's formats")]
pub enum MailDepth {
    /// Ids, labels, sizes and dates, the headers and a short beginning of the text; no bodies and no attachments. Every
    /// scope that may list messages may read it.
    #[default]
    Headers,
    /// The whole message without its attachments' bytes. Needs `gmail.readonly` or more.
    Whole,
}

/// Google's streams.
#[derive(Clone, Debug)]
pub struct GoogleSource {
    streams: &'static [StreamSpec],
    depth: MailDepth,
    topic: Option<String>,
}

impl Default for GoogleSource {
    fn default() -> Self {
        Self::new()
    }
}

impl GoogleSource {
    /// Makes the source of both streams, messages without bodies.
    #[must_use]
    pub fn new() -> Self {
        Self { streams: &BOTH, depth: MailDepth::Headers, topic: None }
    }

    /// Keeps messages only: for connections that were given no scope of Calendar's.
    #[must_use]
    pub fn mail_only(mut self) -> Self {
        self.streams = &MAIL_ONLY;
        self
    }

    /// Keeps calendar events only.
    #[must_use]
    pub fn calendar_only(mut self) -> Self {
        self.streams = &CALENDAR_ONLY;
        self
    }

    /// Says how much of a message is kept. A change of it shows in the copy with the next full run.
    #[must_use]
    pub fn keeping(mut self, depth: MailDepth) -> Self {
        self.depth = depth;
        self
    }

    /// Names the Pub/Sub topic (`projects/P/topics/T`) mailboxes are watched through where the endpoint's own secret
    /// ([`crate::webhook::PushTrust::topic`]) names none.
    #[must_use]
    pub fn notifying(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    fn has(&self, stream: &str) -> bool {
        self.streams.iter().any(|spec| spec.name == stream)
    }

    /// Tells which of the two streams a name means.
    fn which(&self, stream: &StreamName) -> Result<Which> {
        match stream.as_str() {
            MESSAGES if self.has(MESSAGES) => Ok(Which::Messages),
            EVENTS if self.has(EVENTS) => Ok(Which::Events),
            _ => Err(config("Google has no stream of this name here")),
        }
    }
}

/// The streams, once their name is read.
#[derive(Clone, Copy)]
enum Which {
    Messages,
    Events,
}

fn config(why: &'static str) -> Error {
    Error::new(ErrorKind::Config, why).during("google", "sync")
}

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("google", "sync")
}

/// Makes a background GET for a connection.
fn get(site: &Site, operation: &'static Operation, path: &str, query: &[(&str, &str)]) -> Result<Request<Bytes>> {
    let base = address::base_of(&site.base_url, path);
    let uri = format!("{base}{path}{}", address::query(query.iter().copied()));
    let mut request = Request::get(uri)
        .header("accept", "application/json")
        .body(Bytes::new())
        .map_err(|_| config("the base URL is not a URL"))?;
    let call = Call::new(operation, site.connection.clone(), site.tenant.clone()).background();
    request.extensions_mut().insert(call);
    Ok(request)
}

/// Reads an answer that must be an object.
fn object(response: &http::Response<Bytes>) -> Result<Value> {
    let value: Value = serde_json::from_slice(response.body()).map_err(|_| decode("the answer is not JSON"))?;
    if value.is_object() { Ok(value) } else { Err(decode("the answer is not an object")) }
}

/// Reads a text field.
fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Writes a record's JSON in one spelling, so that the same object read from a list and by its id is the same bytes:
/// without white space, fields sorted.
fn record(value: &Value) -> Bytes {
    Bytes::from(sorted(value).to_string())
}

/// Sorts an object's fields, however serde_json keeps them: another crate of the build may have it keep their order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            Value::Object(names.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

impl Source for GoogleSource {
    fn streams(&self) -> &'static [StreamSpec] {
        self.streams
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        match self.which(stream)? {
            Which::Messages => gmail::request(site, cursor),
            Which::Events => calendar::request(site, cursor),
        }
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let value = object(response)?;
        match self.which(stream)? {
            Which::Messages => gmail::page(stream, cursor, &value, span),
            Which::Events => calendar::page(stream, cursor, &value, span),
        }
    }

    fn step_back(&self, stream: &StreamName, cursor: &Cursor) -> Option<Cursor> {
        match self.which(stream).ok()? {
            Which::Messages => gmail::step_back(cursor),
            Which::Events => calendar::step_back(cursor),
        }
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        if id.as_str().is_empty() {
            return Err(config("a record without an id cannot be fetched"));
        }
        match self.which(stream)? {
            Which::Messages => gmail::fetch(site, id, self.depth),
            Which::Events => calendar::fetch(site, id),
        }
    }

    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        let value = object(response)?;
        if text(&value, "id") != Some(id.as_str()) {
            return Err(decode("the record that came is not the one asked for"));
        }
        let state = match self.which(stream)? {
            Which::Messages => State::Present(record(&gmail::steady(&value))),
            Which::Events => calendar::state(&value),
        };
        Ok(Change { stream: stream.clone(), id: id.clone(), span, state })
    }

    /// A notification says that something changed, and a run finds what: missed is what happened after the last of them.
    fn told(&self, change: &Change, _place: Option<&Bytes>) -> Option<Told> {
        let State::Present(record) = &change.state else { return None };
        let record: Value = serde_json::from_slice(record).ok()?;
        let (at, by) = match self.which(&change.stream).ok()? {
            Which::Messages => (Timestamp(text(&record, "internalDate")?.parse().ok()?), MAIL_CHANGED),
            Which::Events => (crate::time::rfc3339(text(&record, "updated")?)?, CALENDAR_CHANGED),
        };
        Some(Told { at, by: by.into(), is_notice: true })
    }

    fn event_of(&self, site: &Site, missing: &Missing<'_>) -> Option<Event> {
        let State::Present(record) = &missing.change.state else { return None };
        let record: Value = serde_json::from_slice(record).ok()?;
        match self.which(&missing.change.stream).ok()? {
            Which::Messages => push::missed(site.account.as_deref()?, history_id(&record)?),
            Which::Events => {
                let updated = text(&record, "updated")?;
                Some(channel::missed(site.account.as_deref(), missing.change.id.as_str(), updated))
            }
        }
    }

    fn concerns(&self, kind: &str) -> bool {
        stream_of(kind).is_some_and(|stream| self.has(stream))
    }

    fn apply(&self, _event: &Event) -> Result<Vec<Change>> {
        // A notification names no record: see `due`.
        Ok(Vec::new())
    }

    fn due(&self, event: &Event) -> Vec<StreamName> {
        stream_of(&event.kind).filter(|stream| self.has(stream)).map(StreamName::new).into_iter().collect()
    }
}

/// Names the stream an event is about.
fn stream_of(kind: &str) -> Option<&'static str> {
    match kind {
        MAIL_CHANGED => Some(MESSAGES),
        CALENDAR_CHANGED => Some(EVENTS),
        _ => None,
    }
}

impl Watcher for GoogleSource {
    fn watches(&self) -> &'static [WatchSpec] {
        match (self.has(MESSAGES), self.has(EVENTS)) {
            (true, true) => &watch::BOTH,
            (true, false) => &watch::MAIL_ONLY,
            (false, true) => &watch::CALENDAR_ONLY,
            (false, false) => &[],
        }
    }

    fn secret<'s>(&self, stream: &StreamName, secrets: &'s [Secret]) -> Option<&'s Secret> {
        let which = self.which(stream).ok()?;
        secrets.iter().find(|secret| match (which, Trust::read(secret)) {
            (Which::Messages, Ok(Trust::Push(push))) => push.topic.is_some() || self.topic.is_some(),
            (Which::Events, Ok(Trust::ChannelKey(_))) => true,
            (Which::Messages | Which::Events, Ok(_) | Err(_)) => false,
        })
    }

    fn watch(&self, site: &Site, ask: &WatchAsk) -> Result<Request<Bytes>> {
        match self.which(&ask.stream)? {
            Which::Messages => {
                let own = match Trust::read(&ask.secret) {
                    Ok(Trust::Push(push)) => push.topic,
                    Ok(Trust::Channel(_) | Trust::ChannelKey(_)) | Err(_) => None,
                };
                let topic = own.as_deref().or(self.topic.as_deref());
                watch::mailbox(site, topic.ok_or_else(|| config("no Pub/Sub topic is configured for Gmail"))?)
            }
            Which::Events => watch::calendar(site, ask),
        }
    }

    fn watched(&self, ask: &WatchAsk, response: &http::Response<Bytes>) -> Result<Watch> {
        let value = object(response)?;
        match self.which(&ask.stream)? {
            Which::Messages => watch::mailbox_watched(ask, &value),
            Which::Events => watch::calendar_watched(ask, &value),
        }
    }

    fn unwatch(&self, site: &Site, watch: &Watch) -> Result<Request<Bytes>> {
        match self.which(&watch.stream)? {
            Which::Messages => watch::stop_mailbox(site),
            Which::Events => watch::stop_channel(site, watch),
        }
    }
}

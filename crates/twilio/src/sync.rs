//! Keeping a copy of an account's messages in step: requests out, answers in. Pure; the driver does the sending.
//!
//! Messages are listed newest first. A message changes long after it was made: it waits for up to ten hours, is delivered
//! or not, is read. No list tells what changed, so each run after the first reads a trailing window again
//! ([`WINDOW`]); status callbacks tell the rest at once, and only a full run finds what was deleted or changed beyond
//! the window. `DateSent` is the only filter by time, and messages that still wait have none: they come with a callback,
//! or once they are sent.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use palisade_core::call::Call;
use palisade_core::sync::{
    BadRecord, Change, Cursor, Missing, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told, bad,
};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, Operation, RecordId, Result, StreamName, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::{form, message_path, messages_path, next_query, request};
use crate::operation;
use crate::sid::{AccountSid, MessageSid};
use crate::time;
use crate::webhook::{MESSAGE_RECEIVED, received_by, received_id};

/// The name of the stream.
pub const MESSAGES: &str = "messages";
/// How far back each run reads again. A message waits for ten hours at the most and its carrier's last word comes within
/// a day or two; what comes later (`read`) comes as a callback.
pub const WINDOW: Duration = Duration::from_secs(72 * 3_600);

/// The largest page that is asked for: a thousand is Twilio's maximum.
const PAGE_MAX: u32 = crate::client::PAGE_MAX;
/// What Twilio's own event streams call messages.
const CLOUD_MESSAGE: [&str; 2] = ["com.twilio.messaging.message.", "com.twilio.messaging.inbound-message."];

static STREAMS: [StreamSpec; 1] = [StreamSpec { name: MESSAGES, kind: StreamKind::Records }];

/// Twilio's one stream.
#[derive(Clone, Debug, Default)]
pub struct TwilioSource {
    since: Option<Timestamp>,
}

impl TwilioSource {
    /// Makes the source of all messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies only messages sent at or after a moment: an account may have years of them.
    #[must_use]
    pub fn sent_since(mut self, moment: Timestamp) -> Self {
        self.since = Some(moment);
        self
    }

    fn get(site: &Site, operation: &'static Operation, path: &str) -> Result<Request<Bytes>> {
        let call = Call::new(operation, site.connection.clone(), site.tenant.clone()).background();
        request(&site.base_url, call, Method::GET, path, None)
    }
}

/// Where a run is.
///
/// - none: the beginning of a full run;
/// - `since:<seconds>`: the beginning of a later run, the start of its window;
/// - `page:<seconds>:<query>`: in the middle of a run that began at that second by Twilio's clock; the query is that of
///   Twilio's `next_page_uri`.
enum Position<'a> {
    Beginning,
    Window(i64),
    Within { begun: i64, query: &'a str },
}

impl<'a> Position<'a> {
    fn read(cursor: Option<&'a Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Beginning) };
        Self::parse(cursor.as_str()).ok_or_else(|| config("the cursor is not one of the messages stream"))
    }

    fn parse(text: &'a str) -> Option<Self> {
        if let Some(seconds) = text.strip_prefix("since:") {
            return Some(Self::Window(seconds.parse().ok()?));
        }
        let (begun, query) = text.strip_prefix("page:")?.split_once(':')?;
        let plain = !query.is_empty() && query.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
        plain.then_some(Self::Within { begun: begun.parse().ok()?, query })
    }
}

fn config(why: &'static str) -> Error {
    Error::new(ErrorKind::Config, why).during("twilio", "sync")
}

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("twilio", "sync")
}

fn account(site: &Site) -> Result<AccountSid> {
    let text = site.account.as_deref().ok_or_else(|| {
        config("the connection names no account: set its `account` to the Account SID (AC…) whose messages are meant")
    })?;
    AccountSid::parse(text).map_err(|_| config("the connection's account is not an Account SID: AC and 32 digits"))
}

fn known(stream: &StreamName) -> Result<()> {
    if stream.as_str() == MESSAGES { Ok(()) } else { Err(config("Twilio has no stream of this name here")) }
}

/// A page of messages, as far as the run needs it.
#[derive(Deserialize)]
struct List {
    messages: Vec<Value>,
    next_page_uri: Option<String>,
}

impl Source for TwilioSource {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        known(stream)?;
        let account = account(site)?;
        let query = match Position::read(cursor)? {
            Position::Within { query, .. } => query.to_owned(),
            start @ (Position::Beginning | Position::Window(_)) => {
                let window = match start {
                    Position::Window(seconds) => Some(Timestamp::from_seconds(seconds)),
                    Position::Beginning | Position::Within { .. } => None,
                };
                let size = site.page_size.clamp(1, PAGE_MAX).to_string();
                match window.max(self.since).map(time::to_rfc3339) {
                    Some(from) => form(&[("DateSent>", &from), ("PageSize", &size)]),
                    None => form(&[("PageSize", &size)]),
                }
            }
        };
        Self::get(site, &operation::LIST_MESSAGES, &format!("{}?{query}", messages_path(&account)))
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        known(stream)?;
        let list: List = serde_json::from_slice(response.body())
            .map_err(|_| decode("the page is not a list of messages with `messages` and `next_page_uri`"))?;
        let begun = match Position::read(cursor)? {
            Position::Within { begun, .. } => begun,
            Position::Beginning | Position::Window(_) => Timestamp(span.earliest).seconds(),
        };
        let read = bad::sorted(list.messages.iter().map(|message| {
            change(stream, message, span).map_err(|error| BadRecord::of_json(None, message, error.message()))
        }));
        let next = match list.next_page_uri.as_deref().filter(|next| !next.is_empty()) {
            Some(next) => {
                // Which account it is stands in the path, and the request of the next page names it anew.
                let account = next.split('/').find_map(|part| AccountSid::parse(part).ok());
                let account = account.ok_or_else(|| decode("the next page is not one of an account's messages"))?;
                let query = next_query(&account, Some(next))?.unwrap_or_default();
                Next::More(Cursor::new(format!("page:{begun}:{query}")))
            }
            None => {
                let window = i64::try_from(WINDOW.as_secs()).unwrap_or(i64::MAX);
                Next::Done { resume: Some(Cursor::new(format!("since:{}", begun.saturating_sub(window)))) }
            }
        };
        Ok(Page::of_records(read, next))
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        known(stream)?;
        let sid = MessageSid::parse(id.as_str()).map_err(|_| config("the record's id is not a message's SID"))?;
        Self::get(site, &operation::FETCH_MESSAGE, &message_path(&account(site)?, &sid))
    }

    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        known(stream)?;
        let message: Value =
            serde_json::from_slice(response.body()).map_err(|_| decode("the record is not a JSON object"))?;
        let change = change(stream, &message, span)?;
        if change.id == *id { Ok(change) } else { Err(decode("the record that came is not the one asked for")) }
    }

    /// What somebody wrote to a number of ours is told by that number's webhook; of what we send only what was asked for,
    /// so that is not judged.
    fn told(&self, change: &Change, _place: Option<&Bytes>) -> Option<Told> {
        #[derive(Deserialize)]
        struct Inbound {
            direction: String,
            date_created: String,
            to: String,
        }
        let State::Present(message) = &change.state else { return None };
        let message: Inbound = serde_json::from_slice(message).ok()?;
        let at = time::from_rfc2822(&message.date_created).filter(|_| message.direction == "inbound")?;
        Some(Told { at, by: received_by(&message.to)?, is_notice: false })
    }

    /// Makes the parameters of an inbound message's webhook, as far as the list has them: the addresses of its media, the
    /// sender's name and place are in the webhook only.
    fn event_of(&self, _site: &Site, missing: &Missing<'_>) -> Option<Event> {
        const FIELDS: [(&str, &str); 8] = [
            ("AccountSid", "account_sid"),
            ("ApiVersion", "api_version"),
            ("Body", "body"),
            ("From", "from"),
            ("MessagingServiceSid", "messaging_service_sid"),
            ("NumMedia", "num_media"),
            ("NumSegments", "num_segments"),
            ("To", "to"),
        ];
        let State::Present(message) = &missing.change.state else { return None };
        let message: Value = serde_json::from_slice(message).ok()?;
        let sid = missing.change.id.as_str();
        let mut fields: Map<String, Value> = FIELDS
            .iter()
            .filter_map(|(name, of_list)| {
                Some(((*name).to_owned(), message.get(of_list).filter(|one| one.is_string())?.clone()))
            })
            .collect();
        for name in ["MessageSid", "SmsSid", "SmsMessageSid"] {
            fields.insert(name.to_owned(), sid.into());
        }
        fields.insert("SmsStatus".to_owned(), "received".into());
        fields.insert("palisade_healed".to_owned(), true.into());
        Some(Event {
            id: received_id(sid),
            kind: MESSAGE_RECEIVED.to_owned(),
            account: fields.get("AccountSid").and_then(Value::as_str).map(str::to_owned),
            created: None,
            ordering_key: Some(sid.to_owned()),
            payload: Bytes::from(Value::Object(fields).to_string()),
        })
    }

    fn concerns(&self, kind: &str) -> bool {
        kind.starts_with("message.") || CLOUD_MESSAGE.iter().any(|prefix| kind.starts_with(prefix))
    }

    /// Has the message fetched: a callback carries a few of its fields, and no time.
    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        if !self.concerns(&event.kind) {
            return Ok(Vec::new());
        }
        let payload: Value =
            serde_json::from_slice(&event.payload).map_err(|_| decode("the event's payload is not JSON"))?;
        let data = payload.get("data").unwrap_or(&payload);
        let named = ["MessageSid", "SmsSid", "messageSid", "message_sid"];
        let sid = named.iter().find_map(|name| data.get(*name)?.as_str());
        let sid = sid.and_then(|sid| MessageSid::parse(sid).ok());
        let sid = sid.ok_or_else(|| decode("the event names no message"))?;
        // Nothing says when it was true, so nothing can be told from its time: it is always worth a look.
        let span = Span { earliest: i64::MIN, latest: i64::MAX };
        Ok(vec![Change {
            stream: StreamName::new(MESSAGES),
            id: RecordId::new(sid.as_str()),
            span,
            state: State::Unclear,
        }])
    }
}

/// Makes a record of a message. Written anew from the parsed value, so that the same message from a list and from a
/// single read are the same bytes.
fn change(stream: &StreamName, message: &Value, span: Span) -> Result<Change> {
    let sid = message.get("sid").and_then(Value::as_str).and_then(|sid| MessageSid::parse(sid).ok());
    let sid = sid.ok_or_else(|| decode("a message of the answer has no SID"))?;
    let content = serde_json::to_vec(message).map_err(|_| decode("a message of the answer cannot be kept"))?;
    Ok(Change { stream: stream.clone(), id: RecordId::new(sid.as_str()), span, state: State::Present(content.into()) })
}

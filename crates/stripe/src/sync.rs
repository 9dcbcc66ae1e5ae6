//! Keeping a copy of Stripe's objects in step: requests out, answers in. Pure; the driver does the sending.
//!
//! Records are listed newest first and paged by `starting_after`. Lists know creations only, so what changes later
//! comes from `/v1/events` (kept 30 days), walked forward with `ending_before`; the walk's cursor is explained in
//! [`cursor`]. An event shows its object in the version of the account or endpoint that rendered it: in any other
//! version than ours the record is fetched, because both shapes side by side would never compare equal.

use bytes::Bytes;
use http::Request;
use http::header::{HeaderName, HeaderValue};
use palisade_core::call::Call;
use palisade_core::sync::{
    BadRecord, Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, bad,
};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, RecordId, Result, StreamName, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use stripe_client_core::StripeMethod;

use crate::event::ThinEvent;
use crate::json;
use crate::operation;
use crate::webhook::{Envelope, NAME_BYTES_MAX, event};

pub mod cursor;
mod effect;

use cursor::{Position, Seen};
use effect::{Effect, effects};

/// The name of the stream of `/v1/events`.
pub const EVENTS: &str = "events";
/// Ids a cursor holds: Stripe refuses to list behind a deleted object (stripe-python #671), so many may be deleted
/// between two pages before the run has to start over.
const CURSOR_IDS: usize = 8;
/// The most objects Stripe puts on a page (Stripe API reference, pagination).
const PAGE_MAX: u32 = 100;

/// Records first, in the order in which one refers to another.
static STREAMS: [StreamSpec; 7] = [
    StreamSpec { name: "customers", kind: StreamKind::Records },
    StreamSpec { name: "products", kind: StreamKind::Records },
    StreamSpec { name: "prices", kind: StreamKind::Records },
    StreamSpec { name: "subscriptions", kind: StreamKind::Records },
    StreamSpec { name: "invoices", kind: StreamKind::Records },
    StreamSpec { name: "charges", kind: StreamKind::Records },
    StreamSpec { name: EVENTS, kind: StreamKind::Events },
];

/// Stripe's streams, in one API version.
#[derive(Clone, Debug)]
pub struct StripeSource {
    api_version: HeaderValue,
    livemode: Option<bool>,
}

impl StripeSource {
    /// Makes the source for records in the shape of [`crate::API_VERSION`].
    #[must_use]
    pub fn new() -> Self {
        Self { api_version: HeaderValue::from_static(crate::API_VERSION), livemode: None }
    }

    /// Keeps records in the shape of another API version.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the text cannot be a version.
    pub fn speaking(mut self, api_version: &str) -> Result<Self> {
        self.api_version = crate::client::version_header(api_version)?;
        Ok(self)
    }

    /// Ignores events of the other mode. A Connect platform's live endpoint is sent its accounts' test events too
    /// (docs.stripe.com/connect/webhooks); without this they would stand among the live records.
    #[must_use]
    pub fn in_mode(mut self, live: bool) -> Self {
        self.livemode = Some(live);
        self
    }

    fn get(&self, site: &Site, path: &str, query: &str) -> Result<Request<Bytes>> {
        let call = Call::new(operation::find(StripeMethod::Get, path), site.connection.clone(), site.tenant.clone())
            .background();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::get(format!("{}{path}{mark}{query}", site.base_url.trim_end_matches('/')))
            .header(crate::client::VERSION_HEADER, self.api_version.clone())
            .body(Bytes::new())
            .map_err(|_| config("the base URL is not a URL"))?;
        if let Some(account) = &site.account {
            let value =
                HeaderValue::from_str(account).map_err(|_| config("the account id cannot stand in a header"))?;
            request.headers_mut().insert(HeaderName::from_static(crate::client::ACCOUNT_HEADER), value);
        }
        request.extensions_mut().insert(call);
        Ok(request)
    }
}

fn config(why: &'static str) -> Error {
    Error::new(ErrorKind::Config, why).during("stripe", "sync")
}

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("stripe", "sync")
}

fn spec(stream: &StreamName) -> Result<&'static StreamSpec> {
    STREAMS
        .iter()
        .find(|spec| spec.name == stream.as_str())
        .ok_or_else(|| config("Stripe has no stream of this name here"))
}

/// A page of any list, split into slices of the answer.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    has_more: bool,
}

fn list(body: &Bytes) -> Result<List<'_>> {
    serde_json::from_slice(body).map_err(|_| decode("the page is not a list of objects with `data` and `has_more`"))
}

impl Default for StripeSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Source for StripeSource {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        let spec = spec(stream)?;
        let limit = site.page_size.clamp(1, PAGE_MAX);
        let query = match spec.kind {
            StreamKind::Events => Position::read(cursor)?.query(limit),
            StreamKind::Records => {
                // Without it the list leaves out ended subscriptions, and a full run would take them for deleted.
                let all = if spec.name == "subscriptions" { "&status=all" } else { "" };
                let after = cursor
                    .and_then(|cursor| cursor.as_str().split(',').next())
                    .map_or_else(String::new, |id| format!("&starting_after={}", encode(&decoded(id))));
                format!("limit={limit}{all}{after}")
            }
        };
        self.get(site, &format!("/v1/{}", spec.name), &query)
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let body = response.body();
        let list = list(body)?;
        match spec(stream)?.kind {
            StreamKind::Records => records(stream, body, &list, span),
            StreamKind::Events => events(cursor, body, &list, span),
        }
    }

    fn step_back(&self, stream: &StreamName, cursor: &Cursor) -> Option<Cursor> {
        match spec(stream).ok()?.kind {
            StreamKind::Records => cursor.as_str().split_once(',').map(|(_, before)| Cursor::new(before)),
            StreamKind::Events => None,
        }
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        let spec = spec(stream)?;
        if id.as_str().is_empty() {
            return Err(config("a record without an id cannot be fetched"));
        }
        self.get(site, &format!("/v1/{}/{}", spec.name, encode(id.as_str())), "")
    }

    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        let raw: &RawValue = serde_json::from_slice(response.body()).map_err(|_| decode("the record is not JSON"))?;
        let seen = json::glance(raw);
        if seen.id.as_deref() != Some(id.as_str()) {
            return Err(decode("the record that came is not the one asked for"));
        }
        let state = if seen.deleted {
            State::Deleted
        } else {
            State::Present(json::compact(raw, seen.compact, response.body()))
        };
        Ok(Change { stream: stream.clone(), id: id.clone(), span, state })
    }

    /// A thin event came as a notice: the event itself tells what changed. Its account is named as v2 wants it.
    fn complete(&self, site: &Site, event: &Event) -> Result<Option<Request<Bytes>>> {
        if !ThinEvent::is(event) {
            return Ok(None);
        }
        let place = Site { account: None, ..site.clone() };
        let mut request = self.get(&place, &format!("/v2/core/events/{}", encode(event.id.as_str())), "")?;
        if let Some(account) = event.account.as_ref().or(site.account.as_ref()) {
            let value =
                HeaderValue::from_str(account).map_err(|_| config("the account id cannot stand in a header"))?;
            request.headers_mut().insert(HeaderName::from_static(crate::client::CONTEXT_HEADER), value);
        }
        Ok(Some(request))
    }

    fn completed(&self, event: &Event, response: &http::Response<Bytes>) -> Result<Event> {
        let whole = crate::webhook::event(response.body(), response.body().clone())?;
        if whole.id != event.id || whole.kind != event.kind || !ThinEvent::is(&whole) {
            return Err(decode("the event that came is not the one asked for"));
        }
        // Whose it is was said under the signature.
        Ok(Event { account: event.account.clone(), ..whole })
    }

    fn concerns(&self, kind: &str) -> bool {
        !effects(kind).is_empty()
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        let effects = effects(&event.kind);
        if effects.is_empty() {
            return Ok(Vec::new());
        }
        let envelope = Envelope::read(&event.payload)?;
        if let (Some(wanted), Some(is)) = (self.livemode, envelope.livemode)
            && wanted != is
        {
            return Ok(Vec::new());
        }
        let at = event
            .created
            .or_else(|| envelope.created())
            .ok_or_else(|| decode("the event does not say when it happened"))?;
        // A thin event may carry fractions of a second; the object it names is fetched anyway.
        let span = Span::second(at);
        if envelope.is_thin() {
            let named = envelope.related_object.as_ref();
            let named = named.and_then(|related| Some((effect::stream_of(&related.kind)?, related.id.as_deref()?)));
            return Ok(named.map(|(stream, id)| change(stream, id, span, State::Unclear)).into_iter().collect());
        }
        let data = envelope.data().ok_or_else(|| decode("the event carries no object"))?;
        let ours = envelope.api_version().is_some_and(|version| self.api_version == version);
        let mut changes = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Shows { stream, object } => {
                    let seen = json::glance(data.object);
                    if seen.object.as_deref() != Some(object) {
                        return Err(decode("the event's object is not of the type its name says"));
                    }
                    let id = seen.id.ok_or_else(|| decode("the event's object has no id"))?;
                    let state = if ours {
                        State::Present(json::compact(data.object, seen.compact, &event.payload))
                    } else {
                        State::Unclear
                    };
                    changes.push(change(stream, &id, span, state));
                }
                Effect::Deletes { stream } => {
                    let seen = json::glance(data.object);
                    let id = seen.id.ok_or_else(|| decode("the event's object has no id"))?;
                    changes.push(change(stream, &id, span, State::Deleted));
                }
                Effect::Touches { stream, field } => {
                    if let Some(id) = effect::reference(data.object, field) {
                        changes.push(change(stream, &id, span, State::Unclear));
                    }
                }
            }
        }
        Ok(changes)
    }
}

fn change(stream: &'static str, id: &str, span: Span, state: State) -> Change {
    Change { stream: StreamName::new(stream), id: RecordId::new(id), span, state }
}

fn encode(text: &str) -> impl std::fmt::Display {
    /// Stripe's ids are letters, digits and these; a product's own id may hold anything.
    const KEPT: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');
    utf8_percent_encode(text, KEPT)
}

fn decoded(text: &str) -> std::borrow::Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Makes the cursor behind a page: its last id, and a few before it for when that object is deleted meanwhile.
fn behind(changes: &[Change]) -> Cursor {
    let ids: Vec<String> =
        changes.iter().rev().take(CURSOR_IDS).map(|change| encode(change.id.as_str()).to_string()).collect();
    Cursor::new(ids.join(","))
}

fn records(stream: &StreamName, body: &Bytes, list: &List<'_>, span: Span) -> Result<Page> {
    let read = bad::sorted(list.data.iter().map(|raw| {
        let seen = json::glance(raw);
        let id = seen.id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| BadRecord::new(None, raw.get().as_bytes(), "an object of the page has no id"))?;
        let state = if seen.deleted { State::Deleted } else { State::Present(json::compact(raw, seen.compact, body)) };
        Ok(Change { stream: stream.clone(), id: RecordId::new(&*id), span, state })
    }));
    // The page goes on behind the last object that has a name.
    let next = match read.0.last() {
        Some(_) if list.has_more => Next::More(behind(&read.0)),
        None if list.has_more => return Err(decode("a page without an object to go on behind says that more follow")),
        Some(_) | None => Next::Done { resume: None },
    };
    Ok(Page::of_records(read, next))
}

fn events(cursor: Option<&Cursor>, body: &Bytes, list: &List<'_>, span: Span) -> Result<Page> {
    let (mut events, mut bad) = (Vec::with_capacity(list.data.len()), Vec::new());
    let mut seen = Vec::with_capacity(list.data.len());
    // Stripe lists newest first, whichever way the page was asked for.
    for raw in list.data.iter().rev() {
        let text = raw.get().as_bytes();
        match event(text, json::share(text, body)) {
            Ok(event) => {
                let created = event.created.map(Timestamp::seconds);
                seen.push(Seen { id: event.id.as_str().to_owned(), created });
                events.push(event);
            }
            Err(error) => {
                let id = json::glance(raw).id.filter(|id| !id.is_empty() && id.len() <= NAME_BYTES_MAX);
                bad.push(BadRecord::new(id.as_deref(), text, error.message()));
                seen.extend(id.map(|id| Seen { id: id.into_owned(), created: None }));
            }
        }
    }
    if seen.is_empty() && !bad.is_empty() && list.has_more {
        return Err(decode("a page without an event to go on behind says that more follow"));
    }
    let read_at = Timestamp(span.earliest).seconds();
    let mut walk = Position::read(cursor)?;
    let next = walk.advance(&seen, list.has_more, read_at)?;
    if !walk.shows() {
        // Those that are for the caller are shown, and set aside, by a later page.
        events.clear();
        bad.clear();
    }
    Ok(Page { bad, ..Page::of_events(events, next) })
}

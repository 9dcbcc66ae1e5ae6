//! Keeping a copy of the lists of suppressed addresses in step: requests out, answers in. Pure; the driver does the
//! sending.
//!
//! A list knows when an address was added, not when one was taken off: a later run reads what was added since, and a
//! full one finds what is gone. Events tell of most additions at once; the address is then fetched. Paging is explained
//! in `paging`: SendGrid pages by offset, which passes over addresses when others are taken off meanwhile.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Method, Request};
use palisade_core::call::Call;
use palisade_core::sync::{
    BadRecord, Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told,
};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, Operation, RecordId, Result, StreamName, Timestamp};
use serde_json::Value;

use crate::client::{list_path, one_path, request, subuser_header};
use crate::paging::{Step, Walk};
use crate::suppression::{List, id};

/// How far a run reads again behind the beginning of the last one: an address may appear in a list a little after the
/// second it says it was added.
pub const OVERLAP_SECONDS: i64 = 3_600;

const fn spec(list: List) -> StreamSpec {
    StreamSpec { name: list.name(), kind: StreamKind::Records }
}

static STREAMS: [StreamSpec; 5] = [
    spec(List::Bounces),
    spec(List::Blocks),
    spec(List::SpamReports),
    spec(List::Unsubscribes),
    spec(List::InvalidEmails),
];

/// SendGrid's streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendGridSource {
    _private: (),
}

impl SendGridSource {
    /// Makes the source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

fn config(why: &'static str) -> Error {
    Error::new(ErrorKind::Config, why).during("sendgrid", "sync")
}

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("sendgrid", "sync")
}

fn list_of(stream: &StreamName) -> Result<List> {
    List::of(stream.as_str()).ok_or_else(|| config("SendGrid has no stream of this name here"))
}

fn walk_of(cursor: Option<&Cursor>) -> Result<Walk> {
    match cursor {
        None => Ok(Walk::begin(None)),
        Some(cursor) => Walk::read(cursor).ok_or_else(|| config("the cursor is not one of these streams")),
    }
}

fn get(site: &Site, operation: &'static Operation, path: &str) -> Result<Request<Bytes>> {
    let call = Call::new(operation, site.connection.clone(), site.tenant.clone()).background();
    let subuser = site.account.as_deref().map(subuser_header).transpose()?;
    request(&site.base_url, call, subuser.as_ref(), Method::GET, path, None)
}

/// An entry with its address, or one that has none.
type Entry = Result<(String, Value), BadRecord>;

/// Reads an answer's entries.
fn entries(body: &Bytes) -> Result<Vec<Entry>> {
    let list: Vec<Value> = serde_json::from_slice(body).map_err(|_| decode("the page is not a list of addresses"))?;
    let entry = |entry: Value| {
        let email = entry.get("email").and_then(Value::as_str).map(id).filter(|id| !id.is_empty());
        match email {
            Some(email) => Ok((email, entry)),
            None => Err(BadRecord::of_json(None, &entry, "an entry of the page has no address")),
        }
    };
    Ok(list.into_iter().map(entry).collect())
}

fn added(entry: &Value) -> f64 {
    entry.get("created").and_then(Value::as_f64).unwrap_or(0.0)
}

/// Makes a record of an entry. Written anew from the parsed value, so that the same entry from a list and from a single
/// read are the same bytes.
fn change(stream: &StreamName, id: String, entry: &Value, span: Span) -> Result<Change> {
    let content = serde_json::to_vec(entry).map_err(|_| decode("an entry of the answer cannot be kept"))?;
    Ok(Change { stream: stream.clone(), id: RecordId::new(id), span, state: State::Present(content.into()) })
}

impl Source for SendGridSource {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        let list = list_of(stream)?;
        let query = walk_of(cursor)?.query(site.page_size);
        get(site, &list.operations().list, &list_path(list, &query))
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        list_of(stream)?;
        let entries = entries(response.body())?;
        // Pages are counted by their entries: one that has no address counts by what it is.
        let name = |entry: &Entry| entry.as_ref().map_or_else(BadRecord::key, |(id, _)| id.clone());
        let ids: Vec<String> = entries.iter().map(name).collect();
        let (known, step) = walk_of(cursor)?.advance(&ids, Some(Timestamp(span.latest).seconds()));
        let mut newest: HashMap<&str, &Value> = HashMap::new();
        for (id, entry) in entries.iter().skip(known).flatten() {
            let known = newest.entry(id).or_insert(entry);
            if added(entry) > added(known) {
                *known = entry;
            }
        }
        let mut changes = Vec::with_capacity(newest.len());
        for (id, _) in entries.iter().skip(known).flatten() {
            if let Some(entry) = newest.remove(id.as_str()) {
                changes.push(change(stream, id.clone(), entry, span)?);
            }
        }
        let next = match step {
            Step::More(walk) => Next::More(walk.cursor()),
            Step::Done { begun } => {
                let since = begun.unwrap_or_default().saturating_sub(OVERLAP_SECONDS);
                Next::Done { resume: Some(Cursor::new(format!("since:{since}"))) }
            }
        };
        let bad = entries.iter().skip(known).filter_map(|entry| entry.as_ref().err().cloned()).collect();
        Ok(Page::of_records((changes, bad), next))
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        let list = list_of(stream)?;
        if id.as_str().trim().is_empty() {
            return Err(config("a record without an id cannot be fetched"));
        }
        get(site, &list.operations().retrieve, &one_path(list, id.as_str()))
    }

    /// An answer without the address means that it is not on the list.
    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        list_of(stream)?;
        let entries = entries(response.body())?;
        if entries.iter().any(Result::is_err) {
            return Err(decode("an entry of the answer has no address"));
        }
        let found = entries.into_iter().flatten().filter(|(email, _)| email == id.as_str());
        match found.max_by(|(_, a), (_, b)| added(a).total_cmp(&added(b))) {
            Some((email, entry)) => change(stream, email, &entry, span),
            None => Ok(Change { stream: stream.clone(), id: id.clone(), span, state: State::Deleted }),
        }
    }

    /// What recipients' servers and recipients did; addresses on the other lists may have been put there by hand.
    fn told(&self, change: &Change, _place: Option<&Bytes>) -> Option<Told> {
        let by = match List::of(change.stream.as_str())? {
            List::Bounces | List::Blocks => "bounce",
            List::SpamReports => "spamreport",
            List::Unsubscribes | List::InvalidEmails => return None,
        };
        let State::Present(entry) = &change.state else { return None };
        let entry: Value = serde_json::from_slice(entry).ok()?;
        let created = entry.get("created").and_then(Value::as_i64)?;
        Some(Told { at: Timestamp::from_seconds(created), by: by.into(), is_notice: false })
    }

    fn concerns(&self, kind: &str) -> bool {
        matches!(kind, "bounce" | "dropped" | "spamreport" | "unsubscribe")
    }

    /// Has the address fetched from the list the event puts it on.
    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        if !self.concerns(&event.kind) {
            return Ok(Vec::new());
        }
        let fields: Value = serde_json::from_slice(&event.payload).map_err(|_| decode("the event is not JSON"))?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let list = match event.kind.as_str() {
            "bounce" if text("type") == "blocked" => List::Blocks,
            "bounce" => List::Bounces,
            "spamreport" => List::SpamReports,
            "unsubscribe" => List::Unsubscribes,
            "dropped" if text("reason") == "Invalid" => List::InvalidEmails,
            // Dropped because it was on a list already.
            _ => return Ok(Vec::new()),
        };
        let email = id(text("email"));
        if email.is_empty() {
            return Err(decode("the event names no address"));
        }
        let at = event.created.ok_or_else(|| decode("the event does not say when it happened"))?;
        let stream = StreamName::new(list.name());
        Ok(vec![Change { stream, id: RecordId::new(email), span: Span::second(at), state: State::Unclear }])
    }
}

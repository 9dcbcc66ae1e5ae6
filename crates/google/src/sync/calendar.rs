//! A calendar: listed once, then followed by its sync token.
//!
//! Series are kept as Google keeps them: one master and an exception for each instance that differs. A cancelled
//! instance of a series that goes on is an exception like any other and stays ("not this Tuesday"); any other cancelled
//! event is deleted (Calendar API, events resource, `status`). A run's parameters stay the same over all its pages and
//! all later runs, as the token demands; the full list is not bounded by time, because later answers would not be.
//!
//! Three positions: none yet, `list:<page token>`, and `sync:<sync token>:<page token>`.

use bytes::Bytes;
use http::Request;
use palisade_core::sync::{BadRecord, Change, Cursor, Next, Page, Site, Span, State, bad};
use palisade_core::{RecordId, Result, StreamName};
use serde_json::Value;

use super::{cursor, decode, get, record, text};
use crate::client::address::segment;
use crate::operation;

/// The most Calendar puts on a page (Calendar API reference).
pub(crate) const PAGE_MAX: u32 = 2_500;

/// Returns the path of a connection's calendar: the one its account names (an account's own address is its primary
/// calendar), else the primary one. Every calendar's own name is an address.
///
/// # Errors
/// [`palisade_core::ErrorKind::Invalid`] for an account that cannot stand in a path.
pub(super) fn path(site: &Site) -> Result<String> {
    let named = site.account.as_deref().filter(|account| account.contains('@'));
    Ok(format!("/calendar/v3/calendars/{}/events", segment(named.unwrap_or("primary"))?))
}

pub(super) fn request(site: &Site, at: Option<&Cursor>) -> Result<Request<Bytes>> {
    let limit = site.page_size.clamp(1, PAGE_MAX).to_string();
    let (word, [one, two]) = at.map_or(Ok(("list", [String::new(), String::new()])), cursor::read)?;
    let (sync, token) = match word {
        "list" => (String::new(), one),
        "sync" => (one, two),
        _ => return Err(decode("the cursor is not one of this adapter's")),
    };
    let mut query = vec![("maxResults", limit.as_str())];
    query.extend((!sync.is_empty()).then_some(("syncToken", sync.as_str())));
    query.extend((!token.is_empty()).then_some(("pageToken", token.as_str())));
    get(site, &operation::EVENTS_LIST, &path(site)?, &query)
}

pub(super) fn page(stream: &StreamName, at: Option<&Cursor>, value: &Value, span: Span) -> Result<Page> {
    let Some(items) = value.get("items").and_then(Value::as_array) else {
        return Err(decode("the page is not a list of events"));
    };
    let read = bad::sorted(items.iter().map(|item| {
        let id = text(item, "id");
        let id = id.ok_or_else(|| BadRecord::of_json(None, item, "an event of the page has no id"))?;
        Ok(Change { stream: stream.clone(), id: RecordId::new(id), span, state: state(item) })
    }));
    let sync = match at.map(cursor::read).transpose()? {
        Some(("sync", [sync, _])) => Some(sync),
        Some(_) | None => None,
    };
    let next = match (text(value, "nextPageToken"), text(value, "nextSyncToken"), &sync) {
        (Some(token), _, Some(sync)) => Next::More(cursor::write("sync", &[sync, token])),
        (Some(token), _, None) => Next::More(cursor::write("list", &[token])),
        (None, Some(newest), _) => Next::Done { resume: Some(cursor::write("sync", &[newest])) },
        // Only the last page has a sync token, and it always has one: without it this is no page.
        (None, None, _) => return Err(decode("the page has neither a next page nor a sync token")),
    };
    Ok(Page::of_records(read, next))
}

pub(super) fn fetch(site: &Site, id: &RecordId) -> Result<Request<Bytes>> {
    get(site, &operation::EVENTS_GET, &format!("{}/{}", path(site)?, segment(id.as_str())?), &[])
}

/// Gives the position before an expired token of a page: the beginning of the same list.
pub(super) fn step_back(at: &Cursor) -> Option<Cursor> {
    match cursor::read(at).ok()? {
        ("list", [page, _]) if !page.is_empty() => Some(cursor::write("list", &[""])),
        ("sync", [sync, page]) if !page.is_empty() => Some(cursor::write("sync", &[&sync])),
        _ => None,
    }
}

/// Returns an event's state.
pub(super) fn state(event: &Value) -> State {
    let cancelled = text(event, "status") == Some("cancelled");
    if cancelled && text(event, "recurringEventId").is_none() { State::Deleted } else { State::Present(record(event)) }
}

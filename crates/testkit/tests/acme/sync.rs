//! The stream of parcels: requests out, answers in; pure.
//!
//! Cursors: `since:<version>` begins a run with what changed after it; `page:<since>:<begun>:<after>` goes on behind a
//! parcel. The next run begins at the version the first page was read at, so nothing falls between two runs.

use bytes::Bytes;
use http::{Method, Request, Response};
use palisade_core::sync::{
    Change, Cursor, Missing, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told,
};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, RecordId, Result, StreamName, Timestamp};
use serde_json::{Value, json};

use super::client::{LIST, RETRIEVE, request};

static STREAMS: [StreamSpec; 1] = [StreamSpec { name: "parcels", kind: StreamKind::Records }];

/// The largest page Acme gives.
pub(crate) const PAGE_MAX: u32 = 50;

/// The type of Acme's events.
const CHANGED: &str = "parcel.changed";

/// Acme's streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcmeSource;

fn decode(why: &'static str) -> Error {
    Error::new(ErrorKind::Decode, why).during("acme", "sync")
}

/// A place in a run.
struct Place {
    since: u64,
    begun: Option<u64>,
    after: Option<String>,
}

fn place(cursor: Option<&Cursor>) -> Result<Place> {
    let Some(cursor) = cursor else { return Ok(Place { since: 0, begun: None, after: None }) };
    let wrong = || Error::new(ErrorKind::Config, "the cursor is not one of this stream").during("acme", "sync");
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match cursor.as_str().split(':').collect::<Vec<_>>()[..] {
        ["since", since] => Ok(Place { since: number(since)?, begun: None, after: None }),
        ["page", since, begun, after] => {
            Ok(Place { since: number(since)?, begun: Some(number(begun)?), after: Some(after.to_owned()) })
        }
        _ => Err(wrong()),
    }
}

fn change(parcel: &Value, span: Span) -> Result<Change> {
    let id = parcel.get("id").and_then(Value::as_str).ok_or_else(|| decode("a parcel has no id"))?;
    let gone = parcel.get("deleted").and_then(Value::as_bool).unwrap_or(false);
    let state = if gone { State::Deleted } else { State::Present(Bytes::from(parcel.to_string())) };
    // Acme numbers its changes: an exact version orders better than any clock.
    let span = parcel.get("version").and_then(Value::as_i64).map_or(span, Span::exact);
    Ok(Change { stream: "parcels".into(), id: RecordId::new(id), span, state })
}

impl Source for AcmeSource {
    fn streams(&self) -> &'static [StreamSpec] {
        &STREAMS
    }

    fn request(&self, site: &Site, _stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        let place = place(cursor)?;
        let mut path = format!("/v1/parcels?limit={}", site.page_size.clamp(1, PAGE_MAX));
        if place.since > 0 {
            path.push_str(&format!("&since={}", place.since));
        }
        if let Some(after) = &place.after {
            path.push_str(&format!("&after={after}"));
        }
        request(&site.base_url, &LIST, Method::GET, &path, String::new())
    }

    fn page(
        &self,
        _stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let place = place(cursor)?;
        let page: Value = serde_json::from_slice(response.body()).map_err(|_| decode("the page is not JSON"))?;
        let version = page.get("version").and_then(Value::as_u64).ok_or_else(|| decode("the page has no version"))?;
        let parcels = page.get("parcels").and_then(Value::as_array).ok_or_else(|| decode("the page has no parcels"))?;
        let changes = parcels.iter().map(|parcel| change(parcel, span)).collect::<Result<Vec<_>>>()?;
        let begun = place.begun.unwrap_or(version);
        let next = match page.get("next") {
            None | Some(Value::Null) => Next::Done { resume: Some(Cursor::new(format!("since:{begun}"))) },
            Some(Value::String(next)) if !next.is_empty() && next.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Next::More(Cursor::new(format!("page:{}:{begun}:{next}", place.since)))
            }
            Some(_) => return Err(decode("the page leads nowhere")),
        };
        Ok(Page::of_changes(changes, next))
    }

    fn fetch(&self, site: &Site, _stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        request(&site.base_url, &RETRIEVE, Method::GET, &format!("/v1/parcels/{}", id.as_str()), String::new())
    }

    fn fetched(&self, _: &StreamName, id: &RecordId, response: &Response<Bytes>, span: Span) -> Result<Change> {
        let parcel: Value = serde_json::from_slice(response.body()).map_err(|_| decode("the answer is not JSON"))?;
        change(&parcel, span)
            .and_then(|change| if change.id == *id { Ok(change) } else { Err(decode("the answer is another parcel")) })
    }

    fn told(&self, change: &Change, _place: Option<&Bytes>) -> Option<Told> {
        let State::Present(parcel) = &change.state else { return None };
        let parcel: Value = serde_json::from_slice(parcel).ok()?;
        let at = Timestamp::from_seconds(parcel.get("changed_at")?.as_i64()?);
        Some(Told { at, by: CHANGED.into(), is_notice: false })
    }

    /// Acme names its events by the version they bring, so whoever has the parcel can name the event.
    fn event_of(&self, _site: &Site, missing: &Missing<'_>) -> Option<Event> {
        let State::Present(parcel) = &missing.change.state else { return None };
        let parcel: Value = serde_json::from_slice(parcel).ok()?;
        let id = format!("e{}", parcel.get("version")?.as_u64()?);
        let payload = json!({ "id": id, "type": CHANGED, "parcel": parcel, "palisade_healed": true });
        Some(Event {
            id: id.into(),
            kind: CHANGED.to_owned(),
            account: None,
            created: None,
            ordering_key: Some(missing.change.id.as_str().to_owned()),
            payload: Bytes::from(payload.to_string()),
        })
    }

    fn concerns(&self, kind: &str) -> bool {
        kind.starts_with("parcel.")
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        if !self.concerns(&event.kind) {
            return Ok(Vec::new());
        }
        let event: Value = serde_json::from_slice(&event.payload).map_err(|_| decode("the event is not JSON"))?;
        let parcel = event.get("parcel").ok_or_else(|| decode("the event has no parcel"))?;
        // Without a version nothing says how old the event is.
        if parcel.get("version").and_then(Value::as_i64).is_none() {
            return Err(decode("the event's parcel has no version"));
        }
        Ok(vec![change(parcel, Span::exact(0))?])
    }
}

//! `GET /api/v1/records/…`: the change feed with its opaque cursor and its long-poll, and single records.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Of};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use palisade_core::store::{ChangeKind, FeedEntry, Record, StreamKey};
use palisade_core::{ConnectionId, Error, ErrorKind, RecordId, StreamName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::api::{Answer, Asked, LIMIT_MAX, limit, query, raw};
use super::{Problem, json};
use crate::feed::{self, FeedCursor};
use crate::hub::Shared;
use crate::time::rfc3339;
use palisade_core::schedule::read_duration;

/// What an answer takes beside the waiting, before the request's own time is over.
const WAIT_MARGIN: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
pub(crate) struct RecordsQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    wait: Option<String>,
}

/// A record as the API and the command line write it.
#[derive(Serialize)]
pub(crate) struct RecordOut<'a> {
    id: &'a str,
    change: ChangeKind,
    seq: u64,
    data: Option<&'a RawValue>,
    /// What is no JSON, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    first_seen: String,
    changed_at: String,
}

/// A page of the feed. Written as it is and never by way of a [`serde_json::Value`], which would read every record, sort
/// its fields and round its large numbers.
#[derive(Serialize)]
pub(crate) struct FeedOut<'a> {
    records: Vec<RecordOut<'a>>,
    next_cursor: FeedCursor,
    has_more: bool,
}

impl<'a> FeedOut<'a> {
    pub(crate) fn of(read: &'a feed::Read) -> Self {
        let records = read.entries.iter().map(RecordOut::of).collect();
        Self { records, next_cursor: read.next, has_more: read.more }
    }
}

impl<'a> RecordOut<'a> {
    pub(crate) fn of(entry: &'a FeedEntry) -> Self {
        Self::new(&entry.record, entry.kind)
    }

    /// Writes a record that was read by its id: whether it ever changed is not known of it.
    pub(crate) fn single(record: &'a Record) -> Self {
        let known = if record.data.is_some() { ChangeKind::Updated } else { ChangeKind::Deleted };
        let added = record.data.is_some() && record.first_seen == record.changed_at;
        Self::new(record, if added { ChangeKind::Added } else { known })
    }

    fn new(record: &'a Record, change: ChangeKind) -> Self {
        let data = record.data.as_ref().and_then(raw);
        let odd = record.data.as_ref().filter(|_| data.is_none());
        Self {
            id: record.id.as_str(),
            change,
            seq: record.seq,
            data,
            data_base64: odd.map(|bytes| STANDARD.encode(bytes)),
            first_seen: rfc3339(record.first_seen),
            changed_at: rfc3339(record.changed_at),
        }
    }
}

/// Reads the change feed of a stream after a cursor: each record once with its latest state, in commit order. The
/// next cursor is always given, so a consumer keeps the last one and asks again. With `wait` an answer that would be
/// empty waits for the next change.
pub(crate) async fn records(
    Of(shared): Of<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    asked: Asked<RecordsQuery>,
) -> Answer {
    let Path((connection, stream)) = path.map_err(|_| Problem::unreadable_address())?;
    let asked = query(asked)?;
    let limit = limit(asked.limit, LIMIT_MAX)?;
    let wait = asked.wait.as_deref().map_or(Some(Duration::ZERO), read_duration);
    let wait = wait.ok_or_else(|| Problem::invalid("wait is not a time", "write it as wait=30s"))?;
    let wait = wait.min(shared.settings.request_timeout.saturating_sub(WAIT_MARGIN));
    let cursor = asked.cursor.map(|text| text.parse::<FeedCursor>()).transpose().map_err(of_feed)?;
    let key = StreamKey { connection: ConnectionId::from(connection), stream: StreamName::from(stream) };
    feed::check_known(&shared, &key).await.map_err(of_feed)?;
    let read = shared.waiting.read(&*shared.store, &key, cursor, limit, wait).await.map_err(of_feed)?;
    Ok(json(&FeedOut::of(&read)))
}

/// Shows one record; a deleted one as what is left of it.
pub(crate) async fn record(
    Of(shared): Of<Arc<Shared>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let Path((connection, stream, id)) = path.map_err(|_| Problem::unreadable_address())?;
    let key = StreamKey { connection: ConnectionId::from(connection), stream: StreamName::from(stream) };
    feed::check_known(&shared, &key).await.map_err(of_feed)?;
    let record = shared.store.record(key, RecordId::from(id)).await?;
    let record = record.ok_or_else(|| Problem::missing("there is no such record"))?;
    Ok(json(&RecordOut::single(&record)))
}

/// Makes the answer to an error of the feed.
fn of_feed(error: Error) -> Problem {
    let (kind, message) = (error.kind(), error.message().to_owned());
    if kind == ErrorKind::Invalid {
        return Problem::invalid(message, "begin without a cursor, or use the last one given");
    }
    if kind == ErrorKind::CursorExpired {
        let next = "begin without a cursor and replace your copy by what you read then: what is not in it is gone";
        return Problem::new(StatusCode::GONE, "cursor_expired", message, next);
    }
    if kind == ErrorKind::NotFound {
        return Problem::new(StatusCode::NOT_FOUND, "not_found", message, "check the identifier");
    }
    if kind == ErrorKind::Overloaded {
        let after = error.retry_after().map_or(1, |after| after.as_secs().max(1));
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        return Problem::new(busy, "overloaded", message, "ask again, or without wait").retry_after(after);
    }
    Problem::store(&error)
}

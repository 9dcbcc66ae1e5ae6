//! `GET /api/v1/…`: the facts of the operations page as JSON, the change feed, and the two actions.
//!
//! Messages here are their own types: what the store keeps may change without changing what is promised outside.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Of};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use palisade_core::health::{Actor, State, Status};
use palisade_core::store::{
    CallRecord, ChangeKind, EventRow, EventState, FeedEntry, NO_CONNECTION, Run, RunMode, RunState, StoredEvent,
    StreamKey,
};
use palisade_core::webhook::hmac;
use palisade_core::{ConnectionId, StreamName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::{Problem, json};
use crate::hub::Shared;
use crate::overview::{self, ConnectionView, StreamView};
use crate::time::rfc3339;

/// Entries of a list when the request names no limit.
const LIMIT_DEFAULT: u32 = 100;
/// The most entries of a list.
const LIMIT_MAX: u32 = 1_000;
/// The most connections of a list: each is read with its streams and counts.
const CONNECTIONS_MAX: u32 = 200;

pub(crate) type Answer = Result<Response, Problem>;
pub(crate) type Asked<T> = Result<Query<T>, QueryRejection>;

fn query<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|Query(query)| query).map_err(|_| Problem::unreadable_address())
}

fn limit(asked: Option<u32>, max: u32) -> Result<u32, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT.min(max)) {
        n if (1..=max).contains(&n) => Ok(n),
        _ => Err(Problem::invalid(format!("limit must lie between 1 and {max}"), "ask for fewer entries at once")),
    }
}

/// Tells how everything stands in a few numbers.
pub(crate) async fn health(Of(shared): Of<Arc<Shared>>) -> Answer {
    let overview = overview::overview(&shared).await?;
    let connections: Vec<_> = overview.connections.iter().map(ConnectionOut::of).collect();
    let counts = &overview.events;
    Ok(json(&json!({
        "ready": overview.not_ready.is_empty(),
        "reasons": overview.not_ready,
        "needs_attention": overview.attention(),
        "connections": connections,
        "more_connections": overview.more_connections,
        "events": { "pending": counts.pending, "done": counts.done, "ignored": counts.ignored, "dead": counts.dead },
        "jobs": overview.jobs,
        "paused": overview.halts.iter().map(super::inbox::HaltOut::since).collect::<Vec<_>>(),
        "call_log_lost": shared.calls.dropped(),
    })))
}

#[derive(Deserialize)]
pub(crate) struct ConnectionsQuery {
    after: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct ConnectionOut<'a> {
    id: &'a str,
    tenant: &'a str,
    provider: &'a str,
    environment: &'a str,
    account: Option<&'a str>,
    base_url: Option<&'a str>,
    created_at: String,
    health: HealthOut<'a>,
    fresh_at: Option<String>,
    calls_24h: u64,
    errors_24h: u64,
    dead_letters: u64,
    streams: Vec<StreamOut<'a>>,
}

#[derive(Serialize)]
struct HealthOut<'a> {
    state: State,
    status: Status,
    who_acts: Actor,
    next_step: &'a str,
    /// Until when its calls are held back, by a pause or the breaker.
    held_until: Option<String>,
}

#[derive(Serialize)]
struct StreamOut<'a> {
    name: &'a str,
    records: u64,
    changes: u64,
    fresh_at: Option<String>,
    full_at: Option<String>,
}

impl<'a> ConnectionOut<'a> {
    fn of(view: &'a ConnectionView) -> Self {
        let connection = &view.connection;
        let stream = |stream: &'a StreamView| StreamOut {
            name: stream.name,
            records: stream.status.records,
            changes: stream.status.head,
            fresh_at: stream.status.fresh_at.map(rfc3339),
            full_at: stream.status.full_at.map(rfc3339),
        };
        Self {
            id: connection.id.as_str(),
            tenant: connection.tenant.as_str(),
            provider: &connection.provider,
            environment: connection.environment.as_str(),
            account: connection.account.as_deref(),
            base_url: connection.base_url.as_deref(),
            created_at: rfc3339(connection.created_at),
            health: HealthOut {
                state: view.health.state,
                status: view.health.status,
                who_acts: view.health.who_acts,
                next_step: &view.health.next_step,
                held_until: view.held_until.map(rfc3339),
            },
            fresh_at: view.fresh_at.map(rfc3339),
            calls_24h: view.calls.calls,
            errors_24h: view.calls.errors,
            dead_letters: view.dead_letters,
            streams: view.streams.iter().map(stream).collect(),
        }
    }
}

/// Lists connections.
pub(crate) async fn connections(Of(shared): Of<Arc<Shared>>, asked: Asked<ConnectionsQuery>) -> Answer {
    let asked = query(asked)?;
    let limit = limit(asked.limit, CONNECTIONS_MAX)?;
    let (views, more) = overview::connections(&shared, asked.after.map(ConnectionId::from), limit).await?;
    let list: Vec<_> = views.iter().map(ConnectionOut::of).collect();
    let next = if more { views.last().map(|view| view.connection.id.as_str()) } else { None };
    Ok(json(&json!({ "connections": list, "next_after": next })))
}

/// Shows one connection.
pub(crate) async fn connection(Of(shared): Of<Arc<Shared>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let connection = shared.store.connection(ConnectionId::from(id)).await?;
    let connection = connection.ok_or_else(|| Problem::missing("there is no such connection"))?;
    let view = overview::view(&shared, connection).await?;
    Ok(json(&ConnectionOut::of(&view)))
}

#[derive(Deserialize)]
pub(crate) struct SyncQuery {
    mode: Option<RunMode>,
}

/// Brings a connection's syncs forward.
pub(crate) async fn sync(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
    asked: Asked<SyncQuery>,
) -> Answer {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let mode = query(asked)?.mode.unwrap_or(RunMode::Incremental);
    let streams = overview::sync_all(&shared, &ConnectionId::from(id), mode).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "mode": mode, "streams": streams }))).into_response())
}

/// Approves the deletions of a stream's run that waits for review.
pub(crate) async fn approve(
    Of(shared): Of<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer {
    let Path((id, stream)) = path.map_err(|_| Problem::unreadable_address())?;
    overview::approve(&shared, &ConnectionId::from(id), &StreamName::from(stream)).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "approved": true }))).into_response())
}

#[derive(Deserialize)]
pub(crate) struct EventsQuery {
    state: Option<EventState>,
    before: Option<i64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct EventOut<'a> {
    row: i64,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    endpoint: &'a str,
    /// `null` for an event of an account nobody connected.
    connection: Option<&'a str>,
    provider: &'a str,
    account: Option<&'a str>,
    state: EventState,
    reason: Option<&'a str>,
    created_at: Option<String>,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl<'a> EventOut<'a> {
    fn of(event: &'a StoredEvent) -> Self {
        Self {
            row: event.row.0,
            id: event.event.id.as_str(),
            kind: &event.event.kind,
            endpoint: event.endpoint.as_str(),
            connection: Some(event.connection.as_str()).filter(|id| *id != NO_CONNECTION),
            provider: &event.provider,
            account: event.event.account.as_deref(),
            state: event.state,
            reason: event.reason.as_deref(),
            created_at: event.event.created.map(rfc3339),
            received_at: rfc3339(event.received_at),
            payload: None,
            payload_base64: None,
        }
    }

    fn with_payload(mut self, payload: &'a Bytes) -> Self {
        self.payload = raw(payload);
        self.payload_base64 = self.payload.is_none().then(|| STANDARD.encode(payload));
        self
    }
}

/// Returns bytes as JSON to embed, if they are JSON. The check walks without recursion, so that no depth of nesting
/// can hurt.
pub(crate) fn raw(bytes: &Bytes) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// Lists events, newest first.
pub(crate) async fn events(Of(shared): Of<Arc<Shared>>, asked: Asked<EventsQuery>) -> Answer {
    let asked = query(asked)?;
    let limit = limit(asked.limit, LIMIT_MAX)?;
    let list = shared.store.events(asked.state, asked.before.map(EventRow), limit).await?;
    let next = if list.len() == limit as usize { list.last().map(|event| event.row.0) } else { None };
    let list: Vec<_> = list.iter().map(EventOut::of).collect();
    Ok(json(&json!({ "events": list, "next_before": next })))
}

/// Shows one event with its payload.
pub(crate) async fn event(Of(shared): Of<Arc<Shared>>, row: Result<Path<i64>, PathRejection>) -> Answer {
    let Path(row) = row.map_err(|_| Problem::unreadable_address())?;
    let event = shared.store.event(EventRow(row)).await?;
    let event = event.ok_or_else(|| Problem::missing("there is no such event"))?;
    Ok(json(&EventOut::of(&event).with_payload(&event.event.payload)))
}

/// Puts an event back to be handled.
pub(crate) async fn replay(Of(shared): Of<Arc<Shared>>, row: Result<Path<i64>, PathRejection>) -> Answer {
    let Path(row) = row.map_err(|_| Problem::unreadable_address())?;
    if shared.store.replay(EventRow(row), shared.clock.now()).await? {
        return Ok((StatusCode::ACCEPTED, json(&json!({ "row": row, "state": "pending" }))).into_response());
    }
    Err(Problem::missing("there is no dead or handled event with this row"))
}

#[derive(Deserialize)]
pub(crate) struct OfConnection {
    connection: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct RunOut<'a> {
    id: i64,
    connection: &'a str,
    stream: &'a str,
    mode: RunMode,
    #[serde(flatten)]
    state: &'a RunState,
    pages: u64,
    counts: palisade_core::store::MergeCounts,
    resumed: u32,
    started_at: String,
    progressed_at: String,
    finished_at: Option<String>,
}

impl<'a> RunOut<'a> {
    fn of(run: &'a Run) -> Self {
        Self {
            id: run.id.0,
            connection: run.key.connection.as_str(),
            stream: run.key.stream.as_str(),
            mode: run.mode,
            state: &run.state,
            pages: run.pages,
            counts: run.counts,
            resumed: run.resumed,
            started_at: rfc3339(run.started_at),
            progressed_at: rfc3339(run.progressed_at),
            finished_at: run.finished_at.map(rfc3339),
        }
    }
}

/// Lists runs, newest first.
pub(crate) async fn runs(Of(shared): Of<Arc<Shared>>, asked: Asked<OfConnection>) -> Answer {
    let asked = query(asked)?;
    let limit = limit(asked.limit, LIMIT_MAX)?;
    let list = shared.store.runs(asked.connection.map(ConnectionId::from), limit).await?;
    let list: Vec<_> = list.iter().map(RunOut::of).collect();
    Ok(json(&json!({ "runs": list })))
}

/// Counts jobs.
pub(crate) async fn jobs(Of(shared): Of<Arc<Shared>>) -> Answer {
    let counts = shared.store.job_counts().await?;
    Ok(json(&json!({ "jobs": counts })))
}

#[derive(Serialize)]
struct CallOut<'a> {
    at: String,
    provider: &'a str,
    operation: &'a str,
    connection: &'a str,
    status: Option<u16>,
    error: Option<palisade_core::ErrorKind>,
    outcome: Option<palisade_core::Outcome>,
    attempts: u32,
    duration_us: u64,
    waited_us: u64,
    request_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
}

impl<'a> CallOut<'a> {
    fn of(call: &'a CallRecord) -> Self {
        Self {
            at: rfc3339(call.at),
            provider: &call.provider,
            operation: &call.operation,
            connection: call.connection.as_str(),
            status: call.status,
            error: call.error,
            outcome: call.outcome,
            attempts: call.attempts,
            duration_us: call.duration_us,
            waited_us: call.waited_us,
            request_id: call.request_id.as_deref(),
            correlation_id: call.correlation_id.as_deref(),
        }
    }
}

/// Lists finished calls, newest first.
pub(crate) async fn calls(Of(shared): Of<Arc<Shared>>, asked: Asked<OfConnection>) -> Answer {
    let asked = query(asked)?;
    let limit = limit(asked.limit, LIMIT_MAX)?;
    let list = shared.store.calls(asked.connection.map(ConnectionId::from), limit).await?;
    let list: Vec<_> = list.iter().map(CallOut::of).collect();
    Ok(json(&json!({ "calls": list })))
}

#[derive(Deserialize)]
pub(crate) struct RecordsQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct RecordOut<'a> {
    id: &'a str,
    change: ChangeKind,
    data: Option<&'a RawValue>,
    first_seen: String,
    changed_at: String,
}

impl<'a> RecordOut<'a> {
    fn of(entry: &'a FeedEntry) -> Self {
        let record = &entry.record;
        Self {
            id: record.id.as_str(),
            change: entry.kind,
            data: record.data.as_ref().and_then(raw),
            first_seen: rfc3339(record.first_seen),
            changed_at: rfc3339(record.changed_at),
        }
    }
}

/// Reads the change feed of a stream after a cursor: each record once with its latest state, in commit order. The
/// next cursor is always given, so a consumer keeps the last one and asks again.
pub(crate) async fn records(
    Of(shared): Of<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    asked: Asked<RecordsQuery>,
) -> Answer {
    let Path((connection, stream)) = path.map_err(|_| Problem::unreadable_address())?;
    let asked = query(asked)?;
    let limit = limit(asked.limit, LIMIT_MAX)?;
    let key = StreamKey { connection: ConnectionId::from(connection), stream: StreamName::from(stream) };
    let after = match &asked.cursor {
        None => 0,
        Some(cursor) => read_cursor(&key, cursor).ok_or_else(|| {
            Problem::invalid(
                "the cursor is not one of this stream",
                "begin without a cursor, or use the last one given",
            )
        })?,
    };
    let known = shared.store.connection(key.connection.clone()).await?;
    let known = known.ok_or_else(|| Problem::missing("there is no such connection"))?;
    if !overview::stream_names(&shared, &known.provider).contains(&key.stream.as_str()) {
        return Err(Problem::missing("this connection's provider has no such stream"));
    }
    // One more than asked for tells whether there is more.
    let mut entries = shared.store.changes(key.clone(), after, limit + 1).await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next = entries.last().map_or(after, |entry| entry.record.seq);
    let list: Vec<_> = entries.iter().map(RecordOut::of).collect();
    Ok(json(&json!({ "records": list, "next_cursor": write_cursor(&key, next), "has_more": more })))
}

/// Bytes of a cursor's mark.
const MARK_BYTES: usize = 6;

/// Returns the mark that binds a cursor to its stream: taking one to another stream would skip records unseen.
fn mark(key: &StreamKey) -> [u8; MARK_BYTES] {
    let (connection, stream) = (key.connection.as_str().as_bytes(), key.stream.as_str().as_bytes());
    let code = hmac::sha256(b"palisade feed cursor 1", &[connection, b"\0", stream]);
    let mut mark = [0; MARK_BYTES];
    mark.iter_mut().zip(code).for_each(|(to, from)| *to = from);
    mark
}

fn write_cursor(key: &StreamKey, seq: u64) -> String {
    let mut bytes = mark(key).to_vec();
    bytes.extend(seq.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(key: &StreamKey, text: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let seq = bytes.strip_prefix(&mark(key))?;
    Some(u64::from_be_bytes(seq.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when the mark is left out: a cursor would be taken to another stream and skip its records.
    #[test]
    fn a_cursor_is_good_for_its_stream_only() {
        let key = |connection: &str, stream: &str| StreamKey { connection: connection.into(), stream: stream.into() };
        let customers = key("acme", "customers");
        for seq in [0, 1, u64::MAX] {
            assert_eq!(read_cursor(&customers, &write_cursor(&customers, seq)), Some(seq));
        }
        let cursor = write_cursor(&customers, 7);
        assert_eq!(read_cursor(&key("acme", "prices"), &cursor), None);
        assert_eq!(read_cursor(&key("acmecustomers", ""), &cursor), None);
        for garbage in ["", "0", "!!!", "AAAA", &format!("{cursor}A")] {
            assert_eq!(read_cursor(&customers, garbage), None, "{garbage}");
        }
    }

    #[test]
    fn any_depth_of_nesting_is_embedded_without_harm() {
        let deep = Bytes::from("[".repeat(500_000) + &"]".repeat(500_000));
        assert!(raw(&deep).is_some());
        assert!(raw(&Bytes::from("[".repeat(500_000))).is_none());
        assert!(raw(&Bytes::from_static(b"\xff\xfe")).is_none());
    }
}

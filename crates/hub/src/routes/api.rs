//! `GET /api/v1/…`: the facts of the operations page as JSON, and the two actions. The records stand in `records`.
//!
//! Messages here are their own types: what the store keeps may change without changing what is promised outside.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Of};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palisade_core::ConnectionId;
use palisade_core::health::{Actor, State, Status};
use palisade_core::store::{CallRecord, EventRow, EventState, NO_CONNECTION, RunMode, StoredEvent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::destinations::DestinationOut;
use super::schedules::TimingOut;
use super::{Problem, json};
use crate::hub::Shared;
use crate::overview::{self, ConnectionView, StreamView};
use crate::time::rfc3339;

/// Entries of a list when the request names no limit.
const LIMIT_DEFAULT: u32 = 100;
/// The most entries of a list.
pub(super) const LIMIT_MAX: u32 = 1_000;
/// The most connections of a list: each is read with its streams and counts.
const CONNECTIONS_MAX: u32 = 200;

pub(crate) type Answer = Result<Response, Problem>;
pub(crate) type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn query<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|Query(query)| query).map_err(|_| Problem::unreadable_address())
}

pub(super) fn limit(asked: Option<u32>, max: u32) -> Result<u32, Problem> {
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
    let destinations: Vec<_> = overview
        .destinations
        .iter()
        .map(|(row, _)| DestinationOut::of(&shared, row).counted(overview.forwards.get(&row.name)))
        .collect();
    Ok(json(&json!({
        "ready": overview.not_ready.is_empty(),
        "reasons": overview.not_ready,
        "needs_attention": overview.attention(),
        "connections": connections,
        "more_connections": overview.more_connections,
        "events": { "pending": counts.pending, "done": counts.done, "ignored": counts.ignored, "dead": counts.dead },
        "jobs": overview.jobs,
        "destinations": destinations,
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
    /// The newest healing, in words.
    healed: Option<&'a str>,
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
    /// How often its runs come, and when next.
    incremental: Option<TimingOut<'a>>,
    full: Option<TimingOut<'a>>,
    /// Records that could not be read and are set aside.
    unreadable: u64,
    /// How many more there were before them, which are not kept.
    unreadable_older: u64,
    paused_at: Option<String>,
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
            incremental: stream.timings.as_ref().and_then(|one| one.incremental.as_ref()).map(TimingOut::of),
            full: stream.timings.as_ref().and_then(|one| one.full.as_ref()).map(TimingOut::of),
            unreadable: stream.status.bad,
            unreadable_older: stream.status.bad_older,
            paused_at: stream.status.paused_at.map(rfc3339),
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
            healed: view.healed.as_deref(),
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

#[derive(Deserialize)]
pub(crate) struct EventsQuery {
    state: Option<EventState>,
    before: Option<i64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
pub(crate) struct EventOut<'a> {
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
    pub(crate) fn of(event: &'a StoredEvent) -> Self {
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

    pub(crate) fn with_payload(mut self, payload: &'a Bytes) -> Self {
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
    let page = shared.store.events(asked.state, asked.before.map(EventRow), limit).await?;
    let list: Vec<_> = page.events.iter().map(EventOut::of).collect();
    Ok(json(&json!({ "events": list, "next_before": page.next })))
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
    Err(super::inbox::not_replayed_now(&shared, EventRow(row)).await)
}

#[derive(Deserialize)]
pub(crate) struct OfConnection {
    connection: Option<String>,
    limit: Option<u32>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_depth_of_nesting_is_embedded_without_harm() {
        let deep = Bytes::from("[".repeat(500_000) + &"]".repeat(500_000));
        assert!(raw(&deep).is_some());
        assert!(raw(&Bytes::from("[".repeat(500_000))).is_none());
        assert!(raw(&Bytes::from_static(b"\xff\xfe")).is_none());
    }
}

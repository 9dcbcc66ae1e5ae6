//! `…/schedule` of a stream and `GET /api/v1/schedules`: how often runs and chores come, and when next.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Of};
use axum::response::Response;
use palisade_core::schedule::Schedule;
use palisade_core::store::{CallDay, Connection, RunMode};
use palisade_core::worker::{ChoreStatus, SaidBy, StreamTimings, Timing};
use palisade_core::{ConnectionId, ErrorKind, StreamName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Problem, json};
use crate::hub::Shared;
use crate::overview;
use crate::time::rfc3339;

/// The most connections of a list.
const CONNECTIONS_MAX: u32 = 200;

type Answer = Result<Response, Problem>;

/// How often runs of one mode come.
#[derive(Serialize)]
pub(crate) struct TimingOut<'a> {
    /// As it is written.
    schedule: String,
    words: String,
    /// `settings`, `rule` or `stream`.
    said_by: &'static str,
    /// The interval it has grown to while nothing changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    grown_seconds: Option<u64>,
    next_at: Option<String>,
    /// Why the run comes again, while its last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing: Option<&'a str>,
}

impl<'a> TimingOut<'a> {
    pub(crate) fn of(timing: &'a Timing) -> Self {
        Self {
            schedule: timing.schedule.to_string(),
            words: words(timing),
            said_by: match timing.said_by {
                SaidBy::Settings => "settings",
                SaidBy::Rule => "rule",
                SaidBy::Stream => "stream",
            },
            grown_seconds: timing.grown.map(|grown| grown.as_secs()),
            next_at: timing.next_at.map(rfc3339),
            failing: timing.failing.as_deref(),
        }
    }
}

/// Says a timing in words.
pub(crate) fn words(timing: &Timing) -> String {
    let said = timing.schedule.words();
    match timing.grown {
        Some(grown) => format!("{said}; {} while nothing changes", Schedule::every(grown).words()),
        None => said,
    }
}

/// A stream's schedules as they are told outside.
#[derive(Serialize)]
pub(crate) struct StreamOut<'a> {
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incremental: Option<TimingOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<TimingOut<'a>>,
}

impl<'a> StreamOut<'a> {
    pub(crate) fn of(timings: &'a StreamTimings) -> Self {
        Self {
            stream: timings.stream.as_str(),
            incremental: timings.incremental.as_ref().map(TimingOut::of),
            full: timings.full.as_ref().map(TimingOut::of),
        }
    }
}

/// A chore as it is told outside.
#[derive(Serialize)]
pub(crate) struct ChoreOut<'a> {
    name: &'a str,
    schedule: String,
    words: String,
    next_at: Option<String>,
    last: Option<LastOut<'a>>,
}

#[derive(Serialize)]
struct LastOut<'a> {
    ended_at: String,
    took_ms: u64,
    outcome: &'a str,
    failed: bool,
}

impl<'a> ChoreOut<'a> {
    pub(crate) fn of(chore: &'a ChoreStatus) -> Self {
        Self {
            name: &chore.name,
            schedule: chore.schedule.to_string(),
            words: chore.schedule.words(),
            next_at: chore.next_at.map(rfc3339),
            last: chore.last.as_ref().map(|last| LastOut {
                ended_at: rfc3339(last.ended_at),
                took_ms: u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX),
                outcome: &last.outcome,
                failed: last.failed,
            }),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct SchedulesQuery {
    after: Option<String>,
    limit: Option<u32>,
}

/// Lists the chores, and the schedules of connections by id.
pub(crate) async fn schedules(
    Of(shared): Of<Arc<Shared>>,
    asked: Result<Query<SchedulesQuery>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked.map_err(|_| Problem::unreadable_address())?;
    let limit = asked.limit.unwrap_or(100);
    if !(1..=CONNECTIONS_MAX).contains(&limit) {
        let message = format!("limit must lie between 1 and {CONNECTIONS_MAX}");
        return Err(Problem::invalid(message, "ask for fewer entries at once"));
    }
    let chores = shared.worker.chores().await?;
    let mut list = shared.store.connections(asked.after.map(ConnectionId::from), limit + 1).await?;
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let mut connections = Vec::with_capacity(list.len());
    for connection in &list {
        let streams = shared.worker.schedules(connection).await?;
        let streams: Vec<_> = streams.iter().map(StreamOut::of).collect();
        connections.push(json!({ "connection": connection.id, "streams": streams }));
    }
    let next = if more { list.last().map(|connection| connection.id.as_str()) } else { None };
    let chores: Vec<_> = chores.iter().map(ChoreOut::of).collect();
    Ok(json(&json!({ "chores": chores, "connections": connections, "next_after": next })))
}

type StreamPath = Result<Path<(String, String)>, PathRejection>;

/// Finds the connection and one of its streams.
async fn find(shared: &Shared, path: StreamPath) -> Result<(Connection, StreamName), Problem> {
    let Path((id, stream)) = path.map_err(|_| Problem::unreadable_address())?;
    let connection = shared.store.connection(ConnectionId::from(id)).await?;
    let connection = connection.ok_or_else(|| Problem::missing("there is no such connection"))?;
    if !overview::stream_names(shared, &connection.provider).contains(&stream.as_str()) {
        return Err(Problem::missing("this connection's provider has no such stream"));
    }
    Ok((connection, StreamName::from(stream)))
}

/// What is asked to be set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetBody {
    #[serde(default = "incremental")]
    mode: RunMode,
    schedule: String,
}

fn incremental() -> RunMode {
    RunMode::Incremental
}

/// Sets how often a stream's runs come.
pub(crate) async fn put(Of(shared): Of<Arc<Shared>>, path: StreamPath, body: Result<Bytes, BytesRejection>) -> Answer {
    let (connection, stream) = find(&shared, path).await?;
    let body: Option<SetBody> = body.ok().and_then(|body| serde_json::from_slice(&body).ok());
    let body = body.ok_or_else(|| {
        Problem::invalid("the body is not a schedule", "send {\"mode\": \"incremental\", \"schedule\": \"15m\"}")
    })?;
    let schedule: Schedule = body.schedule.parse().map_err(refused)?;
    set(&shared, &connection, &stream, body.mode, Some(&schedule)).await
}

#[derive(Deserialize)]
pub(crate) struct ModeQuery {
    #[serde(default = "incremental")]
    mode: RunMode,
}

/// Lets the settings say again how often a stream's runs come.
pub(crate) async fn delete(
    Of(shared): Of<Arc<Shared>>,
    path: StreamPath,
    asked: Result<Query<ModeQuery>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked.map_err(|_| Problem::unreadable_address())?;
    let (connection, stream) = find(&shared, path).await?;
    set(&shared, &connection, &stream, asked.mode, None).await
}

async fn set(
    shared: &Shared,
    connection: &Connection,
    stream: &StreamName,
    mode: RunMode,
    schedule: Option<&Schedule>,
) -> Answer {
    shared.worker.set_schedule(connection, stream, mode, schedule).await.map_err(refused)?;
    let text = schedule.map(ToString::to_string);
    tracing::info!(connection = %connection.id, %stream, ?mode, schedule = text, "the schedule of a stream was set");
    let streams = shared.worker.schedules(connection).await?;
    let of_it = streams.iter().find(|timings| timings.stream == *stream).map(StreamOut::of);
    Ok(json(&of_it))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kinds told apart stand here; the others are the store's")]
fn refused(error: palisade_core::Error) -> Problem {
    match error.kind() {
        ErrorKind::Invalid => Problem::invalid(
            error.message().to_owned(),
            "write an interval (15m) or a cron expression with a zone (0 3 * * * Europe/London ~30m)",
        ),
        _ => Problem::store(&error),
    }
}

#[derive(Deserialize)]
pub(crate) struct DaysQuery {
    limit: Option<u32>,
}

/// Lists calls and errors of a connection by day, the newest first.
pub(crate) async fn call_days(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
    asked: Result<Query<DaysQuery>, QueryRejection>,
) -> Answer {
    /// As many as are kept.
    const DAYS_MAX: u32 = 400;
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let Query(asked) = asked.map_err(|_| Problem::unreadable_address())?;
    let id = ConnectionId::from(id);
    if shared.store.connection(id.clone()).await?.is_none() {
        return Err(Problem::missing("there is no such connection"));
    }
    let days = shared.store.call_days(id, asked.limit.unwrap_or(30).min(DAYS_MAX)).await?;
    let day = |one: &CallDay| {
        let date: String = rfc3339(one.day).chars().take_while(|c| *c != 'T').collect();
        json!({ "day": date, "calls": one.counts.calls, "errors": one.counts.errors })
    };
    Ok(json(&json!({ "days": days.iter().map(day).collect::<Vec<_>>() })))
}

/// Says when something comes next, for a cell of the page.
pub(crate) fn next_of(timings: Option<&StreamTimings>) -> Option<Timestamp> {
    let timings = timings?;
    let modes = [timings.incremental.as_ref(), timings.full.as_ref()];
    modes.into_iter().flatten().filter_map(|timing| timing.next_at).min()
}

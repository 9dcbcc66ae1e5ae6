//! What an operator does to the inbox: pause and resume, dead letters by cause, replays by filter and their previews.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, Query, State as Of};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use palisade_core::store::{
    Connection, ConnectionState, DeadLetters, EventRow, EventState, Halt, ReplayFilter, Store, StoredEvent,
};
use palisade_core::worker::Worker;
use palisade_core::{ConnectionId, Error, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::admin::redirect;
use super::api::{Answer, Asked};
use super::{Problem, json, pages};
use crate::hub::Shared;
use crate::previews::{self, COUNTED_MAX, PREVIEWED_MAX, PreviewOut, PreviewsOut, Reach};
use crate::time::{self, rfc3339};

/// How often a connection is looked at anew that was changed by somebody else between the look and the word.
const TURNS_MAX: u32 = 5;
/// Causes and halts of an answer.
pub(crate) const CAUSES_SHOWN: u32 = 100;

/// What is paused or resumed: a provider's events, a connection's, or all when neither is named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    provider: Option<String>,
    connection: Option<String>,
}

/// Reads a body of ours; an empty one says nothing.
fn read<T: Default + for<'de> Deserialize<'de>>(body: &Bytes, wanted: &'static str) -> Result<T, Problem> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|_| Problem::invalid("the body cannot be read", wanted))
}

fn halt_of(shared: &Shared, body: &Bytes) -> Result<Halt, Problem> {
    let wanted = "send {\"provider\":…}, {\"connection\":…}, or nothing for all events";
    match read(body, wanted)? {
        Scope { provider: None, connection: None } => Ok(Halt::All),
        Scope { provider: Some(name), connection: None } if shared.providers.contains_key(name.as_str()) => {
            Ok(Halt::Provider(name))
        }
        Scope { provider: Some(_), connection: None } => Err(Problem::missing("the hub has no such provider")),
        Scope { provider: None, connection: Some(id) } if !id.is_empty() => Ok(Halt::Connection(id.into())),
        Scope { provider: None, connection: Some(_) } => Err(Problem::invalid("the connection has no name", wanted)),
        Scope { .. } => Err(Problem::invalid("the body names both a provider and a connection", wanted)),
    }
}

/// Pauses the handling of events.
pub(crate) async fn pause(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Answer {
    let halt = halt_of(&shared, &body)?;
    if let Halt::Connection(id) = &halt
        && shared.store.connection(id.clone()).await?.is_none()
    {
        return Err(Problem::missing("there is no such connection"));
    }
    let changed = shared.store.halt(halt.clone(), shared.clock.now()).await?;
    tracing::warn!(?halt, "the handling of events is paused; deliveries are kept");
    Ok(json(&json!({ "paused": HaltOut::of(&halt), "changed": changed })))
}

/// Resumes the handling of events.
pub(crate) async fn resume(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Answer {
    let halt = halt_of(&shared, &body)?;
    let changed = shared.store.resume(halt.clone()).await?;
    tracing::info!(?halt, "the handling of events is resumed");
    Ok(json(&json!({ "resumed": HaltOut::of(&halt), "changed": changed })))
}

/// What is paused, as it is told.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HaltOut<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl<'a> HaltOut<'a> {
    pub(crate) fn of(halt: &'a Halt) -> Self {
        match halt {
            Halt::All => Self { scope: "all", ..Self::default() },
            Halt::Provider(name) => Self { scope: "provider", provider: Some(name), ..Self::default() },
            Halt::Connection(id) => Self { scope: "connection", connection: Some(id.as_str()), ..Self::default() },
        }
    }

    /// Tells it with its beginning.
    pub(crate) fn since((halt, at): &'a (Halt, Timestamp)) -> Self {
        Self { since: Some(rfc3339(*at)), ..Self::of(halt) }
    }
}

/// Tells what the inbox keeps and what of it is paused.
pub(crate) async fn inbox(Of(shared): Of<Arc<Shared>>) -> Answer {
    let halts = shared.store.halts(CAUSES_SHOWN).await?;
    let halts: Vec<_> = halts.iter().map(HaltOut::since).collect();
    let counts = shared.store.event_counts().await?;
    Ok(json(&json!({ "paused": halts, "events": counts, "bytes": shared.store.inbox_bytes().await? })))
}

// ------------------------------------------------------------------------------------------------ connections

/// Why a connection cannot be paused or resumed.
pub(crate) enum Unturned {
    /// There is none.
    Missing,
    /// It is not connected.
    NotConnected,
    /// The store did not do it.
    Failed(Error),
}

impl From<Error> for Unturned {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Pauses or resumes a connection: its syncs and calls of its own, and the handling of its events. Nothing else of it is
/// written: what somebody else does to it at the same time stays.
///
/// # Errors
/// [`Unturned`]; what broke off is ended by asking again.
pub(crate) async fn turn_connection(
    store: &dyn Store,
    worker: &Worker,
    id: &str,
    pause: bool,
    now: Timestamp,
) -> Result<Connection, Unturned> {
    let id = ConnectionId::from(id);
    let halt = Halt::Connection(id.clone());
    for _ in 0..TURNS_MAX {
        let connection = store.connection(id.clone()).await?.ok_or(Unturned::Missing)?;
        let (to, halted) = match (&connection.state, pause) {
            (ConnectionState::Active, true) => (ConnectionState::Paused, Some(now)),
            (ConnectionState::Paused, false) => (ConnectionState::Active, None),
            // Its events may have been paused by themselves; and what was begun and broke off is ended.
            (ConnectionState::Active, false) => {
                store.resume(halt).await?;
                return Ok(connection);
            }
            (ConnectionState::Paused, true) => {
                store.halt(halt, now).await?;
                return Ok(connection);
            }
            (ConnectionState::NeedsReconnect { .. } | ConnectionState::Disconnected, _) => {
                return Err(Unturned::NotConnected);
            }
        };
        if !store.turn_connection(id.clone(), connection.state, to, halted).await? {
            continue;
        }
        // What else somebody has written of it meanwhile stays.
        let connection = store.connection(id).await?.ok_or(Unturned::Missing)?;
        if connection.state == ConnectionState::Active {
            worker.connect(&connection).await?;
        }
        return Ok(connection);
    }
    Err(Error::new(ErrorKind::Conflict, "the connection is being changed by others: look at it and ask again").into())
}

async fn turn(shared: &Shared, id: &str, pause: bool) -> Result<Connection, Problem> {
    let turned = turn_connection(&*shared.store, &shared.worker, id, pause, shared.clock.now()).await;
    let connection = turned.map_err(|why| match why {
        Unturned::Missing => Problem::missing("there is no such connection"),
        Unturned::NotConnected => {
            Problem::new(StatusCode::CONFLICT, "not_connected", "the connection is not connected", "reconnect it first")
        }
        Unturned::Failed(error) if error.kind() == ErrorKind::Conflict => {
            Problem::new(StatusCode::CONFLICT, "changed", error.message().to_owned(), "look at it and ask again")
        }
        Unturned::Failed(error) => Problem::store(&error),
    })?;
    tracing::info!(connection = %connection.id, paused = pause, "a connection was paused or resumed");
    Ok(connection)
}

/// Pauses a connection.
pub(crate) async fn pause_connection(Of(shared): Of<Arc<Shared>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let connection = turn(&shared, &id, true).await?;
    Ok(json(&json!({ "id": connection.id, "state": connection.state })))
}

/// Resumes a connection.
pub(crate) async fn resume_connection(Of(shared): Of<Arc<Shared>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let connection = turn(&shared, &id, false).await?;
    Ok(json(&json!({ "id": connection.id, "state": connection.state })))
}

/// Pauses or resumes a connection from the page, and returns to it.
pub(crate) async fn turn_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Response {
    let Ok(Path((id, word))) = path else { return Problem::unreadable_address().into_response() };
    let pause = match word.as_str() {
        "pause" => true,
        "resume" => false,
        _ => return Problem::unreadable_address().into_response(),
    };
    match turn(&shared, &id, pause).await {
        Ok(_) => redirect(&format!("{}/", pages::base(&original, &uri))),
        Err(problem) => problem.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ScopeQuery {
    provider: Option<String>,
    connection: Option<String>,
}

/// Pauses or resumes events from the page, and returns to it.
pub(crate) async fn halt_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    word: Result<Path<String>, PathRejection>,
    asked: Asked<ScopeQuery>,
    uri: Uri,
) -> Response {
    let (Ok(Path(word)), Ok(Query(scope))) = (word, asked) else {
        return Problem::unreadable_address().into_response();
    };
    let halt = match scope {
        ScopeQuery { provider: Some(name), .. } => Halt::Provider(name),
        ScopeQuery { connection: Some(id), .. } => Halt::Connection(id.into()),
        ScopeQuery { provider: None, connection: None } => Halt::All,
    };
    let changed = match word.as_str() {
        "pause" => shared.store.halt(halt, shared.clock.now()).await,
        "resume" => shared.store.resume(halt).await,
        _ => return Problem::unreadable_address().into_response(),
    };
    match changed {
        Ok(_) => redirect(&format!("{}/", pages::base(&original, &uri))),
        Err(error) => Problem::store(&error).into_response(),
    }
}

// ------------------------------------------------------------------------------------------------ dead letters

/// A cause of dead letters as it is told outside.
#[derive(Serialize)]
pub(crate) struct CauseOut<'a> {
    provider: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    reason: &'a str,
    events: u64,
    first_at: String,
    last_at: String,
}

impl<'a> CauseOut<'a> {
    pub(crate) fn of(letters: &'a DeadLetters) -> Self {
        Self {
            provider: &letters.provider,
            kind: &letters.kind,
            reason: &letters.reason,
            events: letters.events,
            first_at: rfc3339(letters.first_at),
            last_at: rfc3339(letters.last_at),
        }
    }
}

/// Counts dead letters by cause.
pub(crate) async fn dead_letters(Of(shared): Of<Arc<Shared>>) -> Answer {
    let letters = shared.store.dead_letters(CAUSES_SHOWN).await?;
    let counts = shared.store.event_counts().await?;
    let causes: Vec<_> = letters.iter().map(CauseOut::of).collect();
    let names = shared.forwarder.destinations().await?.into_iter().map(|row| row.name).collect();
    let forwards = shared.forwarder.counts(names).await?;
    let given_up = forwards.iter().filter(|(_, counts)| counts.dead > 0);
    let given_up: Vec<_> =
        given_up.map(|(name, counts)| json!({ "destination": name, "events": counts.dead })).collect();
    let events = counts.get(&EventState::Dead).copied().unwrap_or(0);
    Ok(json(&json!({ "events": events, "causes": causes, "forwards": given_up })))
}

/// Says why an event is not put back to be handled.
pub(crate) fn not_replayed(event: Option<&StoredEvent>) -> &'static str {
    match event.map(|event| event.state) {
        None => "there is no event with this row",
        Some(EventState::Pending) => "the event waits to be handled already",
        Some(EventState::Ignored) => {
            "the event belongs to no connection: nobody connected the account it names, so there is nobody to handle it for"
        }
        Some(EventState::Done | EventState::Dead) => "the event was put back by somebody else just now: look again",
    }
}

/// Says as an answer why an event is not put back to be handled.
pub(crate) async fn not_replayed_now(shared: &Shared, row: EventRow) -> Problem {
    match shared.store.event(row).await {
        Ok(None) => Problem::missing(not_replayed(None)),
        Ok(found) => {
            let next = "GET /api/v1/events?state=dead lists those that were given up";
            Problem::new(StatusCode::CONFLICT, "not_replayed", not_replayed(found.as_ref()), next)
        }
        Err(error) => Problem::store(&error),
    }
}

/// Dead letters one request looks at: what is behind them is told.
const DISMISSED_AT_ONCE: u64 = 100_000;
/// Dead letters one request names.
const DISMISSED_ROWS_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DismissIn {
    rows: Option<Vec<i64>>,
    filter: Option<FilterIn>,
    #[serde(default)]
    after: i64,
    #[serde(default)]
    dry_run: bool,
}

/// Dismisses dead letters: by their rows, or what meets a filter; or counts it.
pub(crate) async fn dismiss(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Answer {
    let wanted = "send {\"rows\":[…]} or {\"filter\":{…},\"after\":…,\"dry_run\":true}; a filter has provider, connection, \
                  type, reason, from, to, or nothing but \"state\":\"dead\" for all";
    let DismissIn { rows, filter, after, dry_run } = read(&body, wanted)?;
    let filter = match (rows, filter) {
        (Some(rows), None) if rows.len() <= DISMISSED_ROWS_MAX && !dry_run => {
            return dismiss_rows(&shared, &rows).await;
        }
        (None, Some(filter)) => filter.read()?,
        _ => return Err(Problem::invalid("the body names no dead letters, or too many by their rows", wanted)),
    };
    if filter == ReplayFilter::default() || filter.state.is_some_and(|state| state != EventState::Dead) {
        return Err(Problem::invalid("only dead letters are dismissed, and not all of them unless it is said", wanted));
    }
    let step = shared.worker.dismiss_dead(&filter, EventRow(after), DISMISSED_AT_ONCE, dry_run).await?;
    let next = step.next.map(|row| row.0);
    if dry_run {
        return Ok(json(&json!({ "dry_run": true, "events": step.events, "next_after": next })));
    }
    Ok(json(&json!({ "dismissed": step.events, "next_after": next })))
}

async fn dismiss_rows(shared: &Shared, rows: &[i64]) -> Answer {
    let (mut dismissed, mut refused) = (0_u64, Vec::new());
    for &row in rows {
        if shared.store.dismiss(EventRow(row), shared.clock.now()).await? {
            dismissed += 1;
        } else {
            refused.push(row);
        }
    }
    tracing::info!(events = dismissed, ?rows, "dead letters were dismissed");
    Ok(json(&json!({ "dismissed": dismissed, "refused": refused })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CauseQuery {
    row: Option<i64>,
    provider: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
}

/// Dismisses a dead letter, or those of a cause, from the page, and returns to it.
pub(crate) async fn dismiss_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    asked: Asked<CauseQuery>,
    uri: Uri,
) -> Response {
    let done = match asked {
        Ok(Query(CauseQuery { row: Some(row), .. })) => {
            shared.store.dismiss(EventRow(row), shared.clock.now()).await.map(drop)
        }
        Ok(Query(CauseQuery { row: None, provider: Some(provider), kind: Some(kind), reason: Some(reason) })) => {
            let (provider, kind, reason) = (Some(provider), Some(kind), Some(reason));
            let filter = ReplayFilter { provider, kind, reason, ..ReplayFilter::default() };
            shared.worker.dismiss_dead(&filter, EventRow(0), DISMISSED_AT_ONCE, false).await.map(drop)
        }
        Ok(_) | Err(_) => return Problem::unreadable_address().into_response(),
    };
    match done {
        Ok(()) => redirect(&format!("{}/", pages::base(&original, &uri))),
        Err(error) => Problem::store(&error).into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayIn {
    #[serde(default)]
    filter: FilterIn,
    #[serde(default)]
    dry_run: bool,
    /// Counts what is behind this row: `next` of the answer before.
    after: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FilterIn {
    state: Option<EventState>,
    provider: Option<String>,
    connection: Option<String>,
    #[serde(rename = "type", alias = "kind")]
    kind: Option<String>,
    reason: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

/// How the types of a filter are written.
pub(crate) const TYPE_HOW: &str = "a type is written exactly (invoice.paid), as a prefix (invoice.*) or as * for all";

/// Tells whether a filter can name types so.
pub(crate) fn is_type(kind: &str) -> bool {
    !kind.strip_suffix('*').unwrap_or(kind).contains('*')
}

impl FilterIn {
    fn read(self) -> Result<ReplayFilter, Problem> {
        let moment = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => time::parse_rfc3339(&text)
                .map(Some)
                .ok_or_else(|| Problem::invalid("from and to are moments", "write them as 2026-11-22T15:00:00Z")),
        };
        if self.state == Some(EventState::Pending) {
            let next = "give state dead, done or ignored";
            return Err(Problem::invalid("an event that waits to be handled cannot be replayed", next));
        }
        if self.kind.as_deref().is_some_and(|kind| !is_type(kind)) {
            return Err(Problem::invalid("the type cannot be read", TYPE_HOW));
        }
        Ok(ReplayFilter {
            state: self.state,
            provider: self.provider,
            connection: self.connection.map(ConnectionId::from),
            kind: self.kind,
            reason: self.reason,
            from: moment(self.from)?,
            to: moment(self.to)?,
        })
    }
}

/// Replays what meets a filter, as a job; or counts it.
pub(crate) async fn replay(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Answer {
    let wanted =
        "send {\"filter\":{…},\"dry_run\":true}; a filter has state, provider, connection, type, reason, from, to";
    let ReplayIn { filter, dry_run, after } = read(&body, wanted)?;
    let filter = filter.read()?;
    if dry_run {
        let counted = shared.worker.count_replay(&filter, EventRow(after.unwrap_or(0)), COUNTED_MAX).await?;
        let complete = counted.next.is_none();
        let told = json!({ "dry_run": true, "events": counted.events, "complete": complete, "next": counted.next });
        return Ok(json(&told));
    }
    if after.is_some() {
        return Err(Problem::invalid("after goes with dry_run: a replay goes through all there is", wanted));
    }
    if filter == ReplayFilter::default() {
        return Err(Problem::invalid("an empty filter would replay everything there is", wanted));
    }
    let key = shared.worker.replay(filter).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "replay": key }))).into_response())
}

/// Tells how a replay stands.
pub(crate) async fn replay_progress(Of(shared): Of<Arc<Shared>>, key: Result<Path<String>, PathRejection>) -> Answer {
    let Path(key) = key.map_err(|_| Problem::unreadable_address())?;
    let status = shared.worker.replay_progress(&key).await?;
    let status =
        status.ok_or_else(|| Problem::missing("no such replay is under way: it has come to its end, or never was"))?;
    let (state, progress) = (if status.died { "died" } else { "running" }, status.progress);
    Ok(json(&json!({
        "replay": key,
        "state": state,
        "replayed": progress.replayed,
        "after_row": progress.after,
        "error": status.error,
    })))
}

/// Shows what a replay of an event would do, without doing it.
pub(crate) async fn preview(Of(shared): Of<Arc<Shared>>, row: Result<Path<i64>, PathRejection>) -> Answer {
    let Path(row) = row.map_err(|_| Problem::unreadable_address())?;
    let preview = shared.worker.preview(EventRow(row)).await?;
    let preview = preview.ok_or_else(|| Problem::missing("there is no such event"))?;
    Ok(json(&Previewed { row, preview: PreviewOut::of(&preview) }))
}

#[derive(Serialize)]
struct Previewed<'a> {
    row: i64,
    #[serde(flatten)]
    preview: PreviewOut<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PreviewIn {
    filter: FilterIn,
    limit: Option<u32>,
    /// Begins behind this row: `next` of the answer before.
    after: Option<i64>,
}

/// Shows what a replay by filter would do, by the first events it would take.
pub(crate) async fn previews(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Answer {
    let wanted =
        "send {\"filter\":{…},\"limit\":100}; a filter has state, provider, connection, type, reason, from, to";
    let PreviewIn { filter, limit, after } = read(&body, wanted)?;
    let limit = limit.unwrap_or(PREVIEWED_MAX);
    if !(1..=PREVIEWED_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit must lie between 1 and {PREVIEWED_MAX}"), "narrow the filter"));
    }
    // What could not be looked at in time is left out rather than all of it.
    let patience = Some(shared.settings.request_timeout / 2);
    let reach = Reach { after: EventRow(after.unwrap_or(0)), rows: COUNTED_MAX, patience };
    let (store, now) = (&*shared.store, shared.clock.now());
    let found = previews::previews(store, &shared.worker, &filter.read()?, limit, now, reach).await?;
    Ok(json(&PreviewsOut::of(&found)))
}

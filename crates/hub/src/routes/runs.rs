//! `…/api/v1/runs` and what people do to streams: runs with their progress and causes, the deletions that wait for a
//! review, what could not be read, what was healed; run, dry run, pause, resume, reset.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{OriginalUri, Path, Query, State as Of};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palisade_core::health::Actor;
use palisade_core::store::{
    MergeCounts, Record, Run, RunFilter, RunId, RunMode, RunState, RunStateName, StoredBad, StreamKey, StreamStatus,
};
use palisade_core::sync::Stop;
use palisade_core::{ConnectionId, ErrorKind, RecordId, StreamName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::admin::redirect;
use super::pages::base;
use super::{Problem, json};
use crate::hub::Shared;
use crate::overview;
use crate::time::rfc3339;

/// Entries of a list when the request names no limit.
const LIMIT_DEFAULT: u32 = 100;
/// The most entries of a list.
const LIMIT_MAX: u32 = 1_000;
/// Healings told of a connection.
pub(crate) const HEALINGS_SHOWN: u32 = 20;
/// Pages a dry run reads when the request does not say.
pub(crate) const DRY_RUN_PAGES: u32 = 3;

type Answer = Result<Response, Problem>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type OfStream = Result<Path<(String, String)>, PathRejection>;

fn query<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|Query(query)| query).map_err(|_| Problem::unreadable_address())
}

fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        n if (1..=LIMIT_MAX).contains(&n) => Ok(n),
        _ => {
            Err(Problem::invalid(format!("limit must lie between 1 and {LIMIT_MAX}"), "ask for fewer entries at once"))
        }
    }
}

/// Reads a body of JSON; an empty one is the default.
fn body<T: for<'a> Deserialize<'a> + Default>(body: &Bytes) -> Result<T, Problem> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::invalid(format!("the body cannot be read: {error}"), "send JSON, or no body"))
}

/// A run as it is told outside.
#[derive(Serialize)]
pub(crate) struct RunOut<'a> {
    id: i64,
    connection: &'a str,
    stream: &'a str,
    mode: RunMode,
    #[serde(flatten)]
    state: &'a RunState,
    /// Under way without progress for longer than its schedule allows; left out where that is not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<bool>,
    /// Why it waits or ended.
    stop: Option<&'a Stop>,
    who_acts: Option<Actor>,
    next_step: Option<String>,
    pages: u64,
    counts: MergeCounts,
    /// Records it could not read and set aside.
    unreadable: u64,
    records: u64,
    total: Option<u64>,
    records_per_second: Option<f64>,
    elapsed_seconds: u64,
    remaining_seconds: Option<u64>,
    resumed: u32,
    started_at: String,
    progressed_at: String,
    finished_at: Option<String>,
    /// The stream's commit counter when it began: what was seen since has a greater one.
    generation: u64,
    feed_from: Option<u64>,
    feed_to: Option<u64>,
    missed: Option<MissedOut>,
}

/// What webhooks should have brought and a run did, as it is told outside.
#[derive(Serialize)]
pub(crate) struct MissedOut {
    run: i64,
    stream: String,
    /// Events, which handlers see, and records of which the provider's list shows no more; those of which there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    healed_at: String,
    words: String,
}

impl MissedOut {
    pub(crate) fn of(run: &Run) -> Option<Self> {
        (run.missed.count > 0).then(|| Self {
            run: run.id.0,
            stream: run.key.stream.to_string(),
            events: Some(run.missed.events()).filter(|count| *count > 0),
            records: Some(run.missed.records).filter(|count| *count > 0),
            from: run.missed.from.map(rfc3339),
            to: run.missed.to.map(rfc3339),
            healed_at: rfc3339(run.finished_at.unwrap_or(run.progressed_at)),
            words: healed(run),
        })
    }
}

/// Says what a run found that webhooks should have brought: `12 events missed 14:02–14:31, healed 14:33`, or so many
/// records, or `2 events and 1 record`.
/// Times are UTC; the day is told where it is not the day of the healing.
pub(crate) fn healed(run: &Run) -> String {
    let at = run.finished_at.unwrap_or(run.progressed_at);
    let day = |at: Timestamp| rfc3339(at).get(..10).unwrap_or_default().to_owned();
    let minute = |at: Timestamp| rfc3339(at).get(11..16).unwrap_or_default().to_owned();
    let moment =
        |one: Timestamp| if day(one) == day(at) { minute(one) } else { format!("{} {}", day(one), minute(one)) };
    let counted = |count: u64, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {one}s")),
    };
    let what = [counted(run.missed.events(), "event"), counted(run.missed.records, "record")];
    let what = what.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let span = match (run.missed.from, run.missed.to) {
        (Some(from), Some(to)) if minute(from) == minute(to) && day(from) == day(to) => format!(" {}", moment(from)),
        (Some(from), Some(to)) => format!(" {}–{}", moment(from), moment(to)),
        (_, _) => String::new(),
    };
    format!("{what} missed{span}, healed {}", minute(at))
}

/// How long a run may make no progress: twice the longest wait between two of its attempts, half an hour at most.
pub(crate) fn patience(shared: &Shared) -> Duration {
    shared.settings.worker.run_wait_max().saturating_mul(2)
}

impl<'a> RunOut<'a> {
    fn judged(run: &'a Run, now: Timestamp, patience: Duration) -> Self {
        let stalled = run.is_stalled(now, patience);
        let out = Self::of(run);
        let who_acts = out.who_acts.or(stalled.then_some(Actor::Operator));
        Self { stalled: Some(stalled), who_acts, ..out }
    }

    pub(crate) fn of(run: &'a Run) -> Self {
        let stop = run.stop.as_ref();
        Self {
            id: run.id.0,
            connection: run.key.connection.as_str(),
            stream: run.key.stream.as_str(),
            mode: run.mode,
            state: &run.state,
            stalled: None,
            stop,
            who_acts: stop.map(Stop::who_acts),
            next_step: stop.map(Stop::sentence),
            pages: run.pages,
            counts: run.counts,
            unreadable: run.bad,
            records: run.seen(),
            total: run.total,
            records_per_second: run.per_second().map(|pace| (pace * 10.0).round() / 10.0),
            elapsed_seconds: run.elapsed().as_secs(),
            remaining_seconds: run.remaining().map(|left| left.as_secs()),
            resumed: run.resumed,
            started_at: rfc3339(run.started_at),
            progressed_at: rfc3339(run.progressed_at),
            finished_at: run.finished_at.map(rfc3339),
            generation: run.began,
            feed_from: run.feed_from,
            feed_to: run.feed_to,
            missed: MissedOut::of(run),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    connection: Option<String>,
    stream: Option<String>,
    state: Option<RunStateName>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// Lists runs, newest first.
pub(crate) async fn runs(Of(shared): Of<Arc<Shared>>, asked: Asked<Wanted>) -> Answer {
    let asked = query(asked)?;
    let limit = limit(asked.limit)?;
    let filter = RunFilter {
        connection: asked.connection.map(ConnectionId::from),
        stream: asked.stream.map(StreamName::new),
        state: asked.state,
        before: asked.before.map(RunId),
    };
    let list = shared.store.find_runs(filter, limit).await?;
    let next = list.last().filter(|_| list.len() == limit as usize).map(|run| run.id.0);
    let (now, patience) = (shared.clock.now(), patience(&shared));
    let list: Vec<_> = list.iter().map(|run| RunOut::judged(run, now, patience)).collect();
    Ok(json(&json!({ "runs": list, "next_before": next })))
}

#[derive(Deserialize)]
pub(crate) struct Behind {
    after: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct DeletionOut<'a> {
    id: &'a str,
    first_seen: String,
    changed_at: String,
    data: Option<&'a RawValue>,
}

/// A run with what it would delete. Its records are written as they are, never by way of a [`serde_json::Value`].
#[derive(Serialize)]
pub(crate) struct ReviewOut<'a> {
    run: RunOut<'a>,
    deletions: Vec<DeletionOut<'a>>,
    next_after: Option<String>,
}

impl<'a> ReviewOut<'a> {
    pub(crate) fn of(run: RunOut<'a>, records: &'a [Record], next_after: Option<String>) -> Self {
        let deletion = |record: &'a Record| DeletionOut {
            id: record.id.as_str(),
            first_seen: rfc3339(record.first_seen),
            changed_at: rfc3339(record.changed_at),
            data: record.data.as_ref().and_then(|data| serde_json::from_slice(data).ok()),
        };
        Self { run, deletions: records.iter().map(deletion).collect(), next_after }
    }
}

async fn known(shared: &Shared, id: Result<Path<i64>, PathRejection>) -> Result<Run, Problem> {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    shared.store.run(RunId(id)).await?.ok_or_else(|| Problem::missing("there is no such run"))
}

/// Shows one run; of one that waits for review, by pages, the records it would delete.
pub(crate) async fn run(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
    asked: Asked<Behind>,
) -> Answer {
    let run = known(&shared, id).await?;
    let asked = query(asked)?;
    let limit = limit(asked.limit)?;
    let records = match run.state {
        RunState::Review { .. } => shared.store.unseen(run.id, asked.after.map(RecordId::from), limit).await?,
        RunState::Running | RunState::Done | RunState::Failed { .. } => Vec::new(),
    };
    let next = if records.len() == limit as usize { records.last().map(|record| record.id.to_string()) } else { None };
    let run = RunOut::judged(&run, shared.clock.now(), patience(&shared));
    Ok(json(&ReviewOut::of(run, &records, next)))
}

/// Approves the deletions of a run that waits for review.
pub(crate) async fn approve(Of(shared): Of<Arc<Shared>>, id: Result<Path<i64>, PathRejection>) -> Answer {
    overview::approve_run(&shared, known(&shared, id).await?.id).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "approved": true }))).into_response())
}

async fn dismissed(shared: &Shared, id: Result<Path<i64>, PathRejection>) -> Result<(), Problem> {
    let run = known(shared, id).await?;
    match shared.worker.dismiss(run.id).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Problem::missing("this run does not wait for review")),
        Err(error) if error.kind() == ErrorKind::Conflict => Err(Problem::new(
            StatusCode::CONFLICT,
            "approved",
            error.message().to_owned(),
            "pause the stream to keep it from running, and look at its newest run",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Approves the deletions of a run and returns to the page.
pub(crate) async fn approve_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<i64>, PathRejection>,
    uri: Uri,
) -> Answer {
    overview::approve_run(&shared, known(&shared, id).await?.id).await?;
    Ok(redirect(&format!("{}/", base(&original, &uri))))
}

/// Dismisses the deletions of a run that waits for review.
pub(crate) async fn dismiss(Of(shared): Of<Arc<Shared>>, id: Result<Path<i64>, PathRejection>) -> Answer {
    dismissed(&shared, id).await?;
    Ok(json(&json!({ "dismissed": true })))
}

/// Dismisses the deletions of a run and returns to the page.
pub(crate) async fn dismiss_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<i64>, PathRejection>,
    uri: Uri,
) -> Answer {
    dismissed(&shared, id).await?;
    Ok(redirect(&format!("{}/", base(&original, &uri))))
}

// ------------------------------------------------------------------------------------------------------ streams

/// Reads whose stream is meant; one that the provider does not have is not found.
async fn stream_of(shared: &Shared, path: OfStream) -> Result<StreamKey, Problem> {
    let Path((connection, stream)) = path.map_err(|_| Problem::unreadable_address())?;
    let key = StreamKey { connection: ConnectionId::from(connection), stream: StreamName::from(stream) };
    let known = shared.store.connection(key.connection.clone()).await?;
    let known = known.ok_or_else(|| Problem::missing("there is no such connection"))?;
    if !overview::stream_names(shared, &known.provider).contains(&key.stream.as_str()) {
        return Err(Problem::missing("this connection's provider has no such stream"));
    }
    Ok(key)
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunAsk {
    mode: Option<RunMode>,
    dry_run: bool,
    pages: Option<u32>,
}

/// Says why a run that was asked for would not begin, or would do something else.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kinds told apart stand here; the others are the store's")]
pub(crate) fn not_run(error: palisade_core::Error) -> Problem {
    let message = error.message().to_owned();
    match error.kind() {
        ErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "not_active", message, "then ask again"),
        ErrorKind::Invalid => Problem::invalid(message, "run that stream, or say {\"mode\": \"full\"}"),
        _ => error.into(),
    }
}

/// Runs a stream now, or tells what a run would do.
pub(crate) async fn run_stream(Of(shared): Of<Arc<Shared>>, path: OfStream, asked: Bytes) -> Answer {
    let key = stream_of(&shared, path).await?;
    let ask: RunAsk = body(&asked)?;
    let mode = ask.mode.unwrap_or(RunMode::Incremental);
    if !ask.dry_run {
        let paused = shared.store.stream(key.clone()).await?.paused_at.is_some();
        let mode = shared.worker.sync_now(&key.connection, &key.stream, mode).await.map_err(not_run)?;
        return Ok((StatusCode::ACCEPTED, json(&json!({ "mode": mode, "paused": paused }))).into_response());
    }
    let pages = ask.pages.unwrap_or(DRY_RUN_PAGES);
    match shared.worker.dry_run(&key.connection, &key.stream, mode, pages).await {
        Ok(dry_run) => Ok(json(&json!({ "mode": mode, "dry_run": dry_run }))),
        // Said here, and not by the provider.
        Err(error) if error.kind() == ErrorKind::Invalid && error.status().is_none() => Err(not_run(error)),
        Err(error) if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) => Err(error.into()),
        Err(error) => {
            let stop = Stop::of(&error, &key.stream, shared.clock.now());
            Err(Problem::new(
                StatusCode::BAD_GATEWAY,
                stop.as_str(),
                stop.sentence(),
                "see who must act, then try again",
            ))
        }
    }
}

/// Pauses a stream.
pub(crate) async fn pause(Of(shared): Of<Arc<Shared>>, path: OfStream) -> Answer {
    let key = stream_of(&shared, path).await?;
    shared.worker.pause_stream(&key.connection, &key.stream).await?;
    Ok(json(&json!({ "paused": true })))
}

/// Lets a paused stream go on.
pub(crate) async fn resume(Of(shared): Of<Arc<Shared>>, path: OfStream) -> Answer {
    let key = stream_of(&shared, path).await?;
    shared.worker.resume_stream(&key.connection, &key.stream).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "paused": false }))).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResetAsk {
    records: bool,
}

/// Resets a stream: everything is read anew.
pub(crate) async fn reset(Of(shared): Of<Arc<Shared>>, path: OfStream, asked: Bytes) -> Answer {
    let key = stream_of(&shared, path).await?;
    let ask: ResetAsk = body(&asked)?;
    let deleted = shared.worker.reset_stream(&key.connection, &key.stream, ask.records).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "reset": true, "records_deleted": deleted }))).into_response())
}

/// Written as they came: what stands here is what a map of values may not be able to hold.
#[derive(Serialize)]
pub(crate) struct UnreadableOut<'a> {
    unreadable: Vec<BadOut<'a>>,
    /// How many are kept.
    kept: u64,
    /// How many more there were before them, which are not kept.
    older: u64,
}

impl<'a> UnreadableOut<'a> {
    pub(crate) fn of(list: &'a [StoredBad], status: &StreamStatus) -> Self {
        Self { unreadable: list.iter().map(BadOut::of).collect(), kept: status.bad, older: status.bad_older }
    }
}

#[derive(Serialize)]
struct BadOut<'a> {
    id: Option<&'a str>,
    why: &'a str,
    run: i64,
    times: u64,
    first_seen: String,
    last_seen: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
}

impl<'a> BadOut<'a> {
    fn of(bad: &'a StoredBad) -> Self {
        let raw: Option<&RawValue> = serde_json::from_slice(&bad.record.raw).ok();
        Self {
            id: bad.record.id.as_ref().map(RecordId::as_str),
            why: &bad.record.why,
            run: bad.run.0,
            times: bad.times,
            first_seen: rfc3339(bad.first_seen),
            last_seen: rfc3339(bad.last_seen),
            bytes: bad.record.bytes,
            raw,
            raw_base64: raw.is_none().then(|| STANDARD.encode(&bad.record.raw)),
        }
    }
}

/// Lists the records of a stream that could not be read.
pub(crate) async fn unreadable(Of(shared): Of<Arc<Shared>>, path: OfStream, asked: Asked<Behind>) -> Answer {
    let key = stream_of(&shared, path).await?;
    let limit = limit(query(asked)?.limit)?;
    let list = shared.store.bad_records(key.clone(), limit).await?;
    let status = shared.store.stream(key).await?;
    Ok(json(&UnreadableOut::of(&list, &status)))
}

/// Lists what runs found that webhooks should have brought, and brought.
pub(crate) async fn healings(Of(shared): Of<Arc<Shared>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(|_| Problem::unreadable_address())?;
    let list = shared.store.healings(ConnectionId::from(id), HEALINGS_SHOWN).await?;
    let list: Vec<_> = list.iter().filter_map(MissedOut::of).collect();
    Ok(json(&json!({ "healings": list })))
}

#[cfg(test)]
mod tests {
    use palisade_core::store::Missed;

    use super::*;

    fn run(missed: Missed, finished: i64) -> Run {
        Run {
            id: RunId(7),
            key: StreamKey { connection: "c".into(), stream: "events".into() },
            mode: RunMode::Incremental,
            state: RunState::Done,
            cursor: None,
            pages: 1,
            counts: MergeCounts::default(),
            resumed: 0,
            started_at: Timestamp(0),
            progressed_at: Timestamp(0),
            finished_at: Some(Timestamp::from_seconds(finished)),
            stop: None,
            began: 0,
            bad: 0,
            total: None,
            feed_from: None,
            feed_to: None,
            missed,
        }
    }

    /// Fails when a day that is not the healing's is left out, or a moment is told as a span.
    #[test]
    fn a_healing_is_said_in_words() {
        const DAY: i64 = 86_400;
        let at = |day: i64, hour: i64, minute: i64| day * DAY + hour * 3_600 + minute * 60 + 59;
        let check = |count, from: Option<i64>, to: Option<i64>, expected: &str| {
            let seconds = |at: Option<i64>| at.map(Timestamp::from_seconds);
            let run = run(Missed { count, records: 0, from: seconds(from), to: seconds(to) }, at(1, 14, 33));
            assert_eq!(healed(&run), expected);
        };
        check(12, Some(at(1, 14, 2)), Some(at(1, 14, 31)), "12 events missed 14:02–14:31, healed 14:33");
        check(1, Some(at(1, 14, 2)), Some(at(1, 14, 2)), "1 event missed 14:02, healed 14:33");
        let over_night = "2 events missed 1970-01-01 23:50–00:10, healed 14:33";
        check(2, Some(at(0, 23, 50)), Some(at(1, 0, 10)), over_night);
        check(3, None, None, "3 events missed, healed 14:33");
        let of = |count, records| healed(&run(Missed { count, records, from: None, to: None }, at(1, 14, 33)));
        assert_eq!(of(2, 2), "2 records missed, healed 14:33");
        assert_eq!(of(3, 1), "2 events and 1 record missed, healed 14:33");
    }
}

//! Runs one sync: pages from the source, each merged and committed in one transaction with cursor and feed.
//!
//! The driver keeps nothing of its own: whoever takes the job up after it goes on at the run's cursor, so a process
//! lost anywhere costs at most the reading of one page. It never guesses: an answer that is not a page stops the run,
//! it is never read as "everything was deleted".

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind};
use crate::call::{Call, Priority};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{EndpointId, RecordId};
use crate::store::{
    Lease, Merge, MergeCounts, NewDelivery, NewEvent, NewJob, PageCommit, Run, RunEnd, RunId, RunMode, RunState, Store,
    StreamKey,
};
use crate::transport::Transport;
use crate::webhook::Event;

/// Pages of one run before it is taken for one that never ends: ten million records at 100 a page.
pub const PAGES_MAX: u64 = 100_000;

/// Records fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// How often a record that changes while it is fetched is fetched again.
pub(crate) const FETCH_ROUNDS_MAX: u32 = 4;

/// How far the machine that answers may be from the one that dates events, both the provider's: spans of reads are
/// widened by it, so that an event is only taken for later when it surely is.
const PROVIDER_SKEW_MAX: Duration = Duration::from_secs(1);

/// How far our clock may be from the provider's when an answer has no `Date`: the span is widened by it both ways,
/// which costs a fetch where it overlaps and never a wrong order.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// What a run needs to reach its provider and its store.
#[derive(Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "arguments with names; any value is valid")]
pub struct Driver<'a> {
    /// Where pages are committed.
    pub store: &'a dyn Store,
    /// The wall time.
    pub clock: &'a dyn Clock,
    /// The adapter's streams.
    pub source: &'a dyn Source,
    /// The pipeline to the provider.
    pub transport: &'a dyn Transport,
    /// For whom.
    pub site: &'a Site,
}

/// One run to do.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "arguments with names; any value is valid")]
pub struct Task<'a> {
    /// The proof of holding the run's job.
    pub lease: Lease,
    /// The stream.
    pub key: StreamKey,
    /// What the stream holds.
    pub kind: StreamKind,
    /// Full or incremental. A stream of events knows only incremental.
    pub mode: RunMode,
    /// The provider's name.
    pub provider: &'a str,
    /// The endpoint under which a page's events are deduplicated against delivered ones.
    pub endpoint: EndpointId,
    /// Whether anybody wants events of a type.
    pub wants: &'a (dyn Fn(&str) -> bool + Sync),
    /// The jobs to add at the run's end, however it ends.
    pub next: Vec<NewJob>,
    /// The incremental run to add when a full run leaves a cursor to go on from.
    pub incremental: Option<NewJob>,
    /// The full runs to add when nothing before the stream's position is known: when a stream of events was read
    /// for the first time, or when a stream of records lost its cursor.
    pub resync: Vec<NewJob>,
    /// This run once more, to add when its cursor expired and no other run makes up for it.
    pub again: NewJob,
    /// Whether deletions beyond the guard are lawful.
    pub allow_mass_delete: bool,
    /// Told what the run did to the records as soon as it is committed: one page and its counts, and at the end no page
    /// with what the end deleted.
    pub committed: &'a (dyn Fn(u64, MergeCounts) + Sync),
    /// Asks the run to stop after the page at hand.
    pub stop: watch::Receiver<bool>,
}

/// How a run's attempt ended.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the worker decides on each")]
pub enum Ended {
    /// The run is done, or waits for review; its job has ended with it.
    Finished(Run),
    /// The run failed; its job has ended with it.
    Failed(Run, Error),
    /// Something that passes is in the way. The run stays as it is and goes on with the job's next attempt.
    Later(Error),
    /// It was asked to stop. The run goes on with the job's next claim.
    Stopped,
    /// Another worker has the job.
    LeaseLost,
}

/// Why the pages stopped before the last.
enum Halt {
    Asked,
    Error(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What the last page told.
struct Last {
    resume: Option<Cursor>,
    span: Span,
    /// Whether the stream had a cursor before this run ended.
    had_cursor: bool,
}

impl Driver<'_> {
    /// Runs a stream until its end, a stop or an error.
    pub async fn run(&self, task: &Task<'_>) -> Ended {
        let kind = task.kind;
        let mode = match kind {
            StreamKind::Records => task.mode,
            StreamKind::Events => RunMode::Incremental,
        };
        let run = match self.store.start_run(task.lease, task.key.clone(), mode, self.clock.now()).await {
            Ok(run) => run,
            Err(error) => return passing(error),
        };
        let id = run.id;
        let mut deleted = run.counts.deleted;
        let end = match self.pages(task, kind, run, &mut deleted).await {
            Ok(last) => {
                let mut follow = task.next.clone();
                match (kind, mode) {
                    (StreamKind::Events, _) if !last.had_cursor => follow.extend(task.resync.clone()),
                    (StreamKind::Records, RunMode::Full) if last.had_cursor || last.resume.is_some() => {
                        follow.extend(task.incremental.clone());
                    }
                    (StreamKind::Events | StreamKind::Records, RunMode::Incremental | RunMode::Full) => {}
                }
                RunEnd {
                    lease: task.lease,
                    run: id,
                    state: RunState::Done,
                    span: Some(last.span),
                    follow,
                    resume: last.resume,
                    allow_mass_delete: task.allow_mass_delete,
                    now: self.clock.now(),
                }
            }
            Err(Halt::Asked) => return Ended::Stopped,
            Err(Halt::Error(error)) if passes(error.kind()) => return passing(error),
            Err(Halt::Error(error)) => return self.fail(task, mode, id, error).await,
        };
        match self.store.end_run(end).await {
            Ok(run) => {
                let deleted = run.counts.deleted.saturating_sub(deleted);
                (task.committed)(0, MergeCounts { deleted, ..MergeCounts::default() });
                Ended::Finished(run)
            }
            Err(error) => passing(error),
        }
    }

    async fn fail(&self, task: &Task<'_>, mode: RunMode, run: RunId, error: Error) -> Ended {
        let follow = match (error.kind(), task.kind, mode) {
            // The position is read anew before the full runs, so that nothing falls between the two.
            (ErrorKind::CursorExpired, StreamKind::Events, _) => vec![task.again.clone()],
            (ErrorKind::CursorExpired, StreamKind::Records, RunMode::Full) => vec![task.again.clone()],
            (ErrorKind::CursorExpired, StreamKind::Records, RunMode::Incremental) => task.resync.clone(),
            _ => task.next.clone(),
        };
        let end = RunEnd {
            lease: task.lease,
            run,
            state: RunState::Failed { kind: error.kind(), reason: error.message().to_owned() },
            span: None,
            follow,
            resume: None,
            allow_mass_delete: false,
            now: self.clock.now(),
        };
        match self.store.end_run(end).await {
            Ok(run) => Ended::Failed(run, error),
            Err(error) => passing(error),
        }
    }

    /// Commits pages until the last; `deleted` counts what the run has deleted so far.
    async fn pages(&self, task: &Task<'_>, kind: StreamKind, run: Run, deleted: &mut u64) -> Result<Last, Halt> {
        let mut cursor = run.cursor;
        let mut pages = run.pages;
        let mut cycle = Cycle::default();
        loop {
            if *task.stop.borrow() {
                return Err(Halt::Asked);
            }
            if pages >= PAGES_MAX {
                return Err(decode(format!("the stream did not end within {PAGES_MAX} pages")).into());
            }
            let status = self.store.stream(task.key.clone()).await?;
            let request = self.source.request(self.site, &task.key.stream, cursor.as_ref())?;
            let (response, span) = match self.send(request).await {
                Ok(answered) => answered,
                Err(error) if error.kind() == ErrorKind::CursorExpired => {
                    let back = cursor.as_ref().and_then(|at| self.source.step_back(&task.key.stream, at));
                    cursor = Some(back.ok_or(error)?);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Page { changes, events, next } =
                self.source.page(&task.key.stream, cursor.as_ref(), &response, span)?;
            drop(response);
            if changes.iter().any(|change| change.stream != task.key.stream) {
                return Err(decode("the page holds records of another stream").into());
            }
            let (next, resume) = match next {
                Next::More(next) => {
                    if cursor.as_ref() == Some(&next) || cycle.meets(&next) {
                        return Err(decode(format!("the cursor {:?} does not advance", brief(&next))).into());
                    }
                    (Some(next), None)
                }
                Next::Done { resume } => (None, Some(resume)),
            };
            let now = self.clock.now();
            let commit = PageCommit {
                lease: task.lease,
                run: run.id,
                read_since: status.commits,
                changes,
                deliveries: deliveries(task, kind, events, now),
                next: next.clone().or_else(|| cursor.clone()),
                now,
            };
            let counts = self.commit(&task.key, commit).await?;
            *deleted += counts.deleted;
            (task.committed)(1, counts);
            if let Some(resume) = resume {
                return Ok(Last { resume, span, had_cursor: status.cursor.is_some() });
            }
            cursor = next;
            pages += 1;
        }
    }

    /// Commits a page and returns what it did; records that cannot be ordered are fetched, which orders them.
    async fn commit(&self, key: &StreamKey, mut page: PageCommit) -> Result<MergeCounts> {
        for _ in 0..=FETCH_ROUNDS_MAX {
            let committed = self.store.commit_page(page.clone()).await?;
            if committed.fetch.is_empty() {
                return Ok(committed.counts);
            }
            let mut open: Vec<_> = committed.fetch.into_iter().map(|id| (key.clone(), id)).collect();
            page.changes.retain(|change| !open.iter().any(|(_, id)| *id == change.id));
            for _ in 0..=FETCH_ROUNDS_MAX {
                let merges = self.fetch(&open).await?;
                (_, open) = self.store.merge(merges, self.clock.now()).await?;
                if open.is_empty() {
                    break;
                }
            }
            if !open.is_empty() {
                break;
            }
            page.now = self.clock.now();
        }
        Err(Error::new(ErrorKind::Conflict, "records kept changing while they were fetched"))
    }

    /// Fetches records, each as a merge that knows when its read started. What the provider no longer has is
    /// deleted.
    pub(crate) async fn fetch(&self, ids: &[(StreamKey, RecordId)]) -> Result<Vec<Merge>> {
        let mut merges = Vec::with_capacity(ids.len());
        for some in ids.chunks(FETCHES_AT_ONCE) {
            for merge in join_all(some.iter().map(|(key, id)| self.fetch_one(key, id))).await {
                merges.push(merge?);
            }
        }
        Ok(merges)
    }

    async fn fetch_one(&self, key: &StreamKey, id: &RecordId) -> Result<Merge> {
        let read_since = Some(self.store.stream(key.clone()).await?.commits);
        let request = self.source.fetch(self.site, &key.stream, id)?;
        let change = match self.send(request).await {
            Ok((response, span)) => self.source.fetched(&key.stream, id, &response, span)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let span = unsure_span(self.clock.now());
                Change { stream: key.stream.clone(), id: id.clone(), span, state: State::Deleted }
            }
            Err(error) => return Err(error),
        };
        if change.id != *id || change.stream != key.stream || change.state == State::Unclear {
            return Err(decode("the fetched record is not the one asked for"));
        }
        Ok(Merge { key: key.clone(), read_since, changes: vec![change] })
    }

    async fn send(&self, mut request: http::Request<Bytes>) -> Result<(http::Response<Bytes>, Span)> {
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            call.priority = Priority::Background;
        }
        let sent = Instant::now();
        let response = self.transport.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            // The pipeline makes errors of these; this is for a bare transport.
            let kind = if status == http::StatusCode::NOT_FOUND { ErrorKind::NotFound } else { ErrorKind::Provider };
            return Err(Error::new(kind, "the provider answered with an error status").with_status(status.as_u16()));
        }
        let span = read_span(&response, sent.elapsed(), self.clock.now());
        Ok((response, span))
    }
}

impl fmt::Debug for Driver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("site", self.site).finish_non_exhaustive()
    }
}

impl fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("lease", &self.lease)
            .field("key", &self.key)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Tells when the states of an answer were true: by its `Date`, or by our clock where it has none.
fn read_span(response: &http::Response<Bytes>, took: Duration, now: Timestamp) -> Span {
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(date) => Span::read(date.into(), took).widened(PROVIDER_SKEW_MAX),
        None => unsure_span(now.minus(took)),
    }
}

fn unsure_span(at: Timestamp) -> Span {
    Span::exact(at.millis()).widened(CLOCK_SKEW_MAX)
}

fn deliveries(task: &Task<'_>, kind: StreamKind, events: Vec<Event>, now: Timestamp) -> Vec<NewDelivery> {
    if kind == StreamKind::Records || events.is_empty() {
        return Vec::new();
    }
    let events = events.into_iter().map(|event| NewEvent {
        wanted: (task.wants)(&event.kind),
        id: event.id,
        kind: event.kind,
        account: event.account,
        created: event.created,
        ordering_key: event.ordering_key,
        payload: Some(event.payload),
    });
    vec![NewDelivery {
        endpoint: task.endpoint.clone(),
        connection: task.key.connection.clone(),
        provider: task.provider.to_owned(),
        received_at: now,
        headers: Vec::new(),
        body: Bytes::new(),
        events: events.collect(),
    }]
}

/// Whether an error passes by itself, so that the run waits instead of failing.
fn passes(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Throttled
        | ErrorKind::Overloaded
        | ErrorKind::CircuitOpen
        | ErrorKind::Timeout
        | ErrorKind::Connect
        | ErrorKind::Transport
        | ErrorKind::Provider
        | ErrorKind::Conflict
        | ErrorKind::Store
        | ErrorKind::Cancelled
        | ErrorKind::LeaseLost => true,
        ErrorKind::Config
        | ErrorKind::Invalid
        | ErrorKind::Auth
        | ErrorKind::Permission
        | ErrorKind::NotFound
        | ErrorKind::Declined
        | ErrorKind::Decode
        | ErrorKind::BodyTooLarge
        | ErrorKind::CursorExpired => false,
    }
}

fn passing(error: Error) -> Ended {
    if error.kind() == ErrorKind::LeaseLost { Ended::LeaseLost } else { Ended::Later(error) }
}

fn decode(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Decode, message)
}

/// A cursor short enough for an error's phrase.
fn brief(cursor: &Cursor) -> String {
    cursor.as_str().chars().take(40).collect()
}

/// Finds cursors that go in a circle (Brent): remembers one cursor, a new one whenever the count of pages reaches the
/// next power of two.
#[derive(Default)]
struct Cycle {
    remembered: Option<Cursor>,
    seen: u64,
}

impl Cycle {
    fn meets(&mut self, cursor: &Cursor) -> bool {
        if self.remembered.as_ref() == Some(cursor) {
            return true;
        }
        self.seen += 1;
        if self.seen.is_power_of_two() {
            self.remembered = Some(cursor.clone());
        }
        false
    }
}

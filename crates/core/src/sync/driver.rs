//! Runs one sync: pages from the source, each merged and committed in one transaction with cursor and feed.
//!
//! The driver keeps nothing of its own: whoever takes the job up after it goes on at the run's cursor. A process lost
//! anywhere costs the work of one page at most: pages are committed one after another, so only one is being worked on. So
//! one page is asked for again, and two with [`Task::read_ahead`], which asks for the next one while that commits. It
//! never guesses: an answer that is not a page stops the run, it is never read as "everything was deleted".
//!
//! **Why reading ahead is safe.** A page read ahead notes the stream's commit counter before its request leaves, as any
//! read does; the page before it is committed later and gives its records a greater counter. So the causal order is lost
//! for records that stand on both pages, and for those only: they are ordered by their spans, as a fetch and an event
//! are that overlap, and fetched where the spans cannot tell. No other record carries that counter. (The search in
//! `merge/tests.rs` has reads that leave before another's commit and are merged behind it.)

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::{Change, Cursor, Missing, Next, Page, Site, Source, Span, State, Stop, StreamKind, Told};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, EndpointId, RecordId, StreamName};
use crate::store::{
    HEARD_EVERY_MS, Lease, MergeCounts, Missed, NewDelivery, NewEvent, NewJob, PageCommit, Run, RunEnd, RunFilter,
    RunId, RunMode, RunState, RunStateName, Store, StreamKey, StreamStatus,
};
use crate::transport::Transport;
use crate::webhook::Event;

mod read;

use read::Committed;

/// Pages of one run, beyond one for each record the stream holds, before it is taken for one that never ends.
pub const PAGES_MAX: u64 = 100_000;

/// Pages in a row that bring nothing before a run is taken for one that makes no progress. Not counted where such pages
/// are usual ([`Source::is_sparse`]).
pub const EMPTY_PAGES_MAX: u64 = 1_000;

/// Records of one run that may be set aside before it is the stream that cannot be read.
pub const BAD_RECORDS_MAX: u64 = 1_000;

/// Records the end of a full run deletes in one commit: ten milliseconds of the store's only writer, and whatever else is
/// to be committed goes between two of them. Few in a debug build, so that the tests' runs need several.
pub(crate) const DELETED_AT_ONCE: u32 = if cfg!(debug_assertions) { 16 } else { 500 };

/// Unreadable records that fail a page of which nothing else could be read.
const BAD_PAGE: usize = 10;

/// How old an event must be to be called missed when a walk finds it new: a delivery may be on its way, and is repeated
/// for the first time within a minute by every provider here.
const MISSED_AFTER: Duration = Duration::from_secs(120);

/// How long ago a webhook may have come last for events to be made of what was missed: who has heard nothing for so long may
/// have unsubscribed.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(30 * 86_400);

/// By how much a webhook may be heard later than is noted of it.
const HEARD_AGAIN: Duration = Duration::from_millis(HEARD_EVERY_MS.unsigned_abs());

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
    /// The endpoints under which a page's events are deduplicated against delivered ones; never none. An event goes to the
    /// one where its like was heard last, and where it never was, to the one that heard anything last, or the first.
    pub endpoints: &'a [EndpointId],
    /// Whether anybody wants events of a type.
    pub wants: &'a (dyn Fn(&str) -> bool + Sync),
    /// The priority of events of a type.
    pub priority: &'a (dyn Fn(&str) -> i32 + Sync),
    /// The jobs to add at the run's end, however it ends.
    pub next: Vec<NewJob>,
    /// The incremental run to add when a full run leaves a cursor to go on from.
    pub incremental: Option<NewJob>,
    /// The full runs to add when nothing before the stream's position is known: when a stream of events was read
    /// for the first time, or when a stream of records lost its cursor.
    pub resync: Vec<NewJob>,
    /// This run once more, to add when it failed and no other run makes up for it soon.
    pub again: NewJob,
    /// How many deletions somebody has approved ([`RunEnd::deletions_approved`]).
    pub deletions_approved: u64,
    /// Told what the run did to the records as soon as it is committed: one page and its counts, and for each commit of its
    /// end no page with what that deleted.
    pub committed: &'a (dyn Fn(u64, MergeCounts) + Sync),
    /// Told each time the run's position has moved on for good.
    pub came_on: &'a (dyn Fn() + Sync),
    /// Whether the next page is read while one commits.
    pub read_ahead: bool,
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
    /// The stream is paused. The run goes on with a later job.
    Paused,
    /// Another worker has the job.
    LeaseLost,
    /// The run was ended from outside, its stream reset: there is nothing to go on with, and the job is still ours.
    Superseded,
}

/// Why the pages stopped before the last.
enum Halt {
    Asked,
    Paused,
    Error(Error),
    /// For a cause that is not the error's own.
    Stopped(Error, Stop),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A page as it was read.
pub(super) struct Read {
    /// The stream before the request left.
    pub(super) status: StreamStatus,
    /// The cursor it was read at.
    pub(super) cursor: Option<Cursor>,
    pub(super) page: Page,
    pub(super) span: Span,
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
        let mut begun = None;
        let ended = self.run_once(task, &mut begun).await;
        let Some(run) = begun.filter(|_| matches!(ended, Ended::LeaseLost)) else { return ended };
        // A run that is over is refused as a lease that is lost; only of the latter another worker takes care.
        match self.store.run(run).await {
            Ok(Some(run)) if run.state != RunState::Running => Ended::Superseded,
            Ok(_) | Err(_) => ended,
        }
    }

    async fn run_once(&self, task: &Task<'_>, begun: &mut Option<RunId>) -> Ended {
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
        *begun = Some(id);
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
                    stop: None,
                    span: Some(last.span),
                    follow,
                    resume: last.resume,
                    deletions_approved: task.deletions_approved,
                    at_once: DELETED_AT_ONCE,
                    now: self.clock.now(),
                }
            }
            Err(Halt::Asked) => return Ended::Stopped,
            Err(Halt::Paused) => {
                self.hold(task, id, Stop::Paused).await;
                return Ended::Paused;
            }
            Err(Halt::Error(error)) if passes(error.kind()) => {
                if error.kind() != ErrorKind::LeaseLost && error.kind() != ErrorKind::Store {
                    self.hold(task, id, Stop::of(&error, &task.key.stream, self.clock.now())).await;
                }
                return passing(error);
            }
            Err(Halt::Error(error)) => {
                let stop = Stop::of(&error, &task.key.stream, self.clock.now());
                return self.fail(task, mode, id, error, stop).await;
            }
            Err(Halt::Stopped(error, stop)) => return self.fail(task, mode, id, error, stop).await,
        };
        self.end(task, end, deleted).await
    }

    /// Ends a run, in as many commits as its deletions take; `deleted` is what it has deleted before. Between two of them it
    /// heeds what it heeds between pages: whoever takes it up reads the last page again and deletes what is left.
    async fn end(&self, task: &Task<'_>, end: RunEnd, mut deleted: u64) -> Ended {
        loop {
            let run = match self.store.end_run(RunEnd { now: self.clock.now(), ..end.clone() }).await {
                Ok(run) => run,
                Err(error) => return passing(error),
            };
            let more = run.counts.deleted.saturating_sub(deleted);
            deleted = run.counts.deleted;
            (task.committed)(0, MergeCounts { deleted: more, ..MergeCounts::default() });
            if run.state != RunState::Running {
                return Ended::Finished(run);
            }
            if more > 0 {
                (task.came_on)();
            }
            if *task.stop.borrow() {
                return Ended::Stopped;
            }
            match self.store.stream(task.key.clone()).await {
                Ok(status) if status.paused_at.is_some() => {
                    self.hold(task, end.run, Stop::Paused).await;
                    return Ended::Paused;
                }
                Ok(_) => {}
                Err(error) => return passing(error),
            }
        }
    }

    /// Notes why a run waits. It is for people to read: a store that cannot take it stops nothing.
    async fn hold(&self, task: &Task<'_>, run: RunId, stop: Stop) {
        if let Err(error) = self.store.hold_run(task.lease, run, stop).await {
            tracing::debug!(%error, "why the run waits could not be noted");
        }
    }

    async fn fail(&self, task: &Task<'_>, mode: RunMode, run: RunId, error: Error, stop: Stop) -> Ended {
        let follow = match (error.kind(), task.kind, mode) {
            // The position is read anew before the full runs, so that nothing falls between the two.
            (ErrorKind::CursorExpired, StreamKind::Events, _) => vec![task.again.clone()],
            (ErrorKind::CursorExpired, StreamKind::Records, RunMode::Full) => vec![task.again.clone()],
            (ErrorKind::CursorExpired, StreamKind::Records, RunMode::Incremental) => task.resync.clone(),
            // The next call is refused as well, until it is connected again.
            (ErrorKind::Auth, _, _) => task.next.clone(),
            (_, StreamKind::Records, RunMode::Full) => match self.stays_behind(&task.key).await {
                Ok(true) => vec![task.again.clone()],
                Ok(false) => task.next.clone(),
                Err(error) => return passing(error),
            },
            _ => task.next.clone(),
        };
        let end = RunEnd {
            lease: task.lease,
            run,
            state: RunState::Failed { kind: error.kind(), reason: error.message().to_owned() },
            stop: Some(stop),
            span: None,
            follow,
            resume: None,
            deletions_approved: 0,
            at_once: DELETED_AT_ONCE,
            now: self.clock.now(),
        };
        match self.store.end_run(end).await {
            Ok(run) => Ended::Failed(run, error),
            Err(error) => passing(error),
        }
    }

    /// Tells whether nothing brings a stream up to date before its next full run: it has no cursor to go on from, as
    /// after one that expired, or was never whole and no walk over events would add the run that is missing.
    async fn stays_behind(&self, key: &StreamKey) -> Result<bool> {
        let status = self.store.stream(key.clone()).await?;
        let walks = self.source.streams().iter().any(|spec| spec.kind == StreamKind::Events);
        Ok(status.cursor.is_none() || (status.full_at.is_none() && !walks))
    }

    /// Commits pages until the last; `deleted` counts what the run has deleted so far.
    async fn pages(&self, task: &Task<'_>, kind: StreamKind, run: Run, deleted: &mut u64) -> Result<Last, Halt> {
        let mut at = run.cursor.clone();
        let mut ahead: Option<Result<Read>> = None;
        let mut walk = Walk { pages: run.pages, bad: run.bad, ..Walk::default() };
        let ears = self.ears(task, kind).await?;
        loop {
            // A page that was read ahead is at hand: were it dropped, it would be read again.
            if ahead.is_none() && *task.stop.borrow() {
                return Err(Halt::Asked);
            }
            let read = match ahead.take() {
                Some(read) => read?,
                None => self.read(&task.key, at).await?,
            };
            if read.status.paused_at.is_some() {
                return Err(Halt::Paused);
            }
            let Read { status, cursor, page, span } = read;
            walk.look(self.source, &task.key, cursor.as_ref(), &page, status.records)?;
            let Page { changes, events, bad, total, next } = page;
            let (next, resume) = match next {
                Next::More(next) => (Some(next), None),
                Next::Done { resume } => (None, Some(resume)),
            };
            // Of what must be fetched first the commit is long, and all of it would be asked for again.
            let plain = !changes.iter().any(|change| change.state == State::Unclear);
            let now = self.clock.now();
            let unheard = ears.unheard(&events);
            let commit = PageCommit {
                lease: task.lease,
                run: run.id,
                read_since: status.commits,
                changes,
                deliveries: match kind {
                    StreamKind::Records => Vec::new(),
                    StreamKind::Events => deliveries(task, &ears, events.into_iter().map(|event| (event, None)), now),
                },
                endpoints: task.endpoints.to_vec(),
                missed_before: match kind {
                    // Each was judged before it was made ([`Driver::missed`]).
                    StreamKind::Records => Timestamp(i64::MAX),
                    StreamKind::Events if ears.listens => now.minus(MISSED_AFTER),
                    StreamKind::Events => Timestamp(i64::MIN),
                },
                unheard,
                missed: Missed::default(),
                bad,
                fetched: Vec::new(),
                total,
                next: next.clone().or_else(|| cursor.clone()),
                now,
            };
            let onward = next.clone().filter(|_| plain && task.read_ahead && !*task.stop.borrow());
            let (committed, read) = self.commit_and_read(task, &ears, commit, onward).await;
            let Committed { counts, bad } = committed?;
            ahead = read;
            *deleted += counts.deleted;
            walk.bad += bad;
            (task.committed)(1, counts);
            if let Some(resume) = resume {
                // An event is no record: one that could not be read stays aside until its stream is reset.
                if status.bad > 0 && kind == StreamKind::Records {
                    let counts = self.retry_bad(task, run.id).await?;
                    *deleted += counts.deleted;
                    (task.committed)(0, counts);
                }
                return Ok(Last { resume, span, had_cursor: status.cursor.is_some() });
            }
            (task.came_on)();
            at = next;
        }
    }

    /// Reads what is heard of a stream by webhook. Of records no run judges that is the first since the connection was
    /// connected or the stream reset: it also brings what was there before anybody listened.
    async fn ears(&self, task: &Task<'_>, kind: StreamKind) -> Result<Ears> {
        let mut heard: BTreeMap<String, LastHeard> = BTreeMap::new();
        for endpoint in task.endpoints {
            for one in self.store.heard(endpoint.clone()).await? {
                let Some(at) = one.heard_at else { continue };
                let new = LastHeard { at, endpoint: endpoint.clone() };
                let last = heard.entry(one.kind).or_insert_with(|| new.clone());
                if last.at < at {
                    *last = new;
                }
            }
        }
        let listens = kind == StreamKind::Events && !heard.is_empty();
        if kind == StreamKind::Events || heard.is_empty() {
            return Ok(Ears { listens, heard, window: None });
        }
        if self.store.stream(task.key.clone()).await?.fresh_at.is_none() {
            return Ok(Ears { listens, heard, window: None });
        }
        // Each run judges from where the one before it stopped judging.
        let before = RunFilter {
            connection: Some(task.key.connection.clone()),
            stream: Some(task.key.stream.clone()),
            state: Some(RunStateName::Done),
            before: None,
        };
        let done = self.store.find_runs(before, 2).await?;
        let now = self.clock.now();
        let window = done.first().map(|last| Window {
            // The first of all judges nothing: what happened before it is history.
            // And what is older than the names that are kept of events may have been heard.
            since: if done.len() > 1 { last.started_at.minus(MISSED_AFTER) } else { last.started_at }
                .max(now.minus(HEARD_WITHIN)),
            known_until: last.finished_at.unwrap_or(last.progressed_at),
            until: now.minus(MISSED_AFTER),
            heard_after: now.minus(HEARD_WITHIN),
        });
        Ok(Ears { listens, heard, window })
    }

    /// Finds the records of a page that a webhook should have told of and that are not here, and makes events of them where it
    /// can.
    async fn missed(&self, ears: &Ears, key: &StreamKey, page: &PageCommit) -> Result<Findings> {
        let mut findings = Findings::default();
        if ears.window.is_none() {
            return Ok(findings);
        }
        // The records of a page mostly belong to one.
        let mut place: Option<((StreamName, RecordId), Option<Bytes>)> = None;
        for change in page.changes.iter().chain(page.fetched.iter().map(|one| &one.change)) {
            let State::Present(_) = &change.state else { continue };
            let of = self.source.belongs_to(&key.stream, &change.id);
            if place.as_ref().map(|(of, _)| of) != of.as_ref() {
                place = match of {
                    Some(of) => Some((of.clone(), self.held(key.connection.clone(), of).await?)),
                    None => None,
                };
            }
            let place = place.as_ref().and_then(|(_, data)| data.as_ref());
            let Some(told) = self.source.told(change, place).filter(|told| ears.should_have(told)) else { continue };
            // What is here may tell of it and differ in what no webhook tells of: a price that is known later.
            let held = self.held(key.connection.clone(), (key.stream.clone(), change.id.clone())).await?;
            let told_then = held.as_ref().and_then(|data| {
                self.source.told(&Change { state: State::Present(data.clone()), ..change.clone() }, place)
            });
            let is_held = told_then.is_some_and(|then| then.at >= told.at);
            if is_held && !ears.may_have_come_silently(&told) {
                continue;
            }
            let missing = Missing { change, held: held.as_ref(), place };
            let event = if ears.heard_lately(&told) { self.source.event_of(self.site, &missing) } else { None };
            // What the last run brought may have been told of or not: the inbox knows, of what has an event.
            if event.is_some() || !is_held {
                findings.add(told, event);
            }
        }
        Ok(findings)
    }

    /// Returns what the copy has of a record.
    async fn held(&self, connection: ConnectionId, (stream, id): (StreamName, RecordId)) -> Result<Option<Bytes>> {
        Ok(self.store.record(StreamKey { connection, stream }, id).await?.and_then(|record| record.data))
    }

    /// Commits a page and reads the one at `onward` meanwhile. A commit that fails waits for no reading.
    async fn commit_and_read(
        &self,
        task: &Task<'_>,
        ears: &Ears,
        commit: PageCommit,
        onward: Option<Cursor>,
    ) -> (Result<Committed>, Option<Result<Read>>) {
        let commit = self.commit(task, ears, commit);
        let Some(onward) = onward else { return (commit.await, None) };
        let (mut commit, mut reading) = (pin!(commit), pin!(self.read(&task.key, Some(onward))));
        // The commit goes first: it is with the store before the next request leaves.
        match select(&mut commit, &mut reading).await {
            Either::Left((committed, _)) => {
                let read = if committed.is_ok() { Some(reading.await) } else { None };
                (committed, read)
            }
            Either::Right((read, _)) => (commit.await, Some(read)),
        }
    }
}

/// What a run knows of the webhooks that tell of its stream.
#[derive(Default)]
pub(super) struct Ears {
    /// Whether deliveries have ever come where a stream's events are delivered: where none does, every event comes by the
    /// provider's list, and none is missed.
    listens: bool,
    /// When and where an event of a type came last.
    heard: BTreeMap<String, LastHeard>,
    /// `None` where nothing is judged.
    window: Option<Window>,
}

/// How an event of a type came last.
#[derive(Clone)]
struct LastHeard {
    at: Timestamp,
    endpoint: EndpointId,
}

/// When what happened should have been told by now, and is this run's to find.
#[derive(Clone, Copy)]
struct Window {
    /// After this.
    since: Timestamp,
    /// Until then the last run may have brought it while its webhook could still be on its way.
    known_until: Timestamp,
    /// No later than this.
    until: Timestamp,
    /// Events are made where a webhook was heard after this.
    heard_after: Timestamp,
}

impl Ears {
    /// Returns the types of events that never came by webhook.
    fn unheard(&self, events: &[Event]) -> BTreeSet<String> {
        let unheard = events.iter().filter(|event| !self.heard.contains_key(&event.kind));
        unheard.map(|event| event.kind.clone()).collect()
    }

    /// Tells whether a webhook should have told by now, and to this run, that something happened.
    fn should_have(&self, told: &Told) -> bool {
        let (Some(window), Some(last)) = (self.window, self.last_heard(told)) else { return false };
        // A notice tells of all that happened before it.
        let noticed = told.is_notice && told.at <= last.plus(HEARD_AGAIN);
        told.at > window.since && told.at <= window.until && !noticed
    }

    /// Tells whether that a record is here does not say that a webhook told of it: the last run brought what was too young
    /// to be judged.
    fn may_have_come_silently(&self, told: &Told) -> bool {
        !told.is_notice && self.window.is_some_and(|window| told.at <= window.known_until)
    }

    /// Tells whether a webhook of the kind came lately.
    fn heard_lately(&self, told: &Told) -> bool {
        self.window.is_some_and(|window| self.last_heard(told).is_some_and(|last| last > window.heard_after))
    }

    fn last_heard(&self, told: &Told) -> Option<Timestamp> {
        self.heard.get(told.by.as_ref()).map(|heard| heard.at)
    }

    /// Returns the endpoint that an event's webhook would have come to.
    fn place_of(&self, heard_as: &str) -> Option<&EndpointId> {
        let last = || self.heard.values().max_by_key(|heard| heard.at);
        self.heard.get(heard_as).or_else(last).map(|heard| &heard.endpoint)
    }
}

/// What an event is heard as, where that is not its type ([`NewEvent::subscription`]).
type HeardAs = Option<Cow<'static, str>>;

/// What a run found among records that webhooks should have told of.
#[derive(Default)]
pub(super) struct Findings {
    /// Those no event was made of.
    records: Missed,
    /// The events, with what they would have been heard as.
    events: Vec<(Event, HeardAs)>,
    /// The last notice, and when what it tells of happened.
    notice: Option<(Timestamp, Event, HeardAs)>,
}

impl Findings {
    fn add(&mut self, told: Told, event: Option<Event>) {
        let heard_as = event.as_ref().is_some_and(|event| event.kind != told.by).then_some(told.by);
        match event {
            Some(event) if !told.is_notice => {
                self.events.push((Event { created: event.created.or(Some(told.at)), ..event }, heard_as));
            }
            Some(event) => {
                self.records.add_record(told.at);
                if self.notice.as_ref().is_none_or(|(at, ..)| *at <= told.at) {
                    // It counts nothing: what it tells of was counted.
                    self.notice = Some((told.at, Event { created: None, ..event }, heard_as));
                }
            }
            None => self.records.add_record(told.at),
        }
    }

    /// Puts them into a page.
    pub(super) fn into_page(self, task: &Task<'_>, ears: &Ears, page: &mut PageCommit) {
        page.missed = self.records;
        let notice = self.notice.map(|(_, event, heard_as)| (event, heard_as));
        page.deliveries.extend(deliveries(task, ears, self.events.into_iter().chain(notice), page.now));
    }
}

/// What is noted of a run's pages to see that it goes on.
#[derive(Default)]
struct Walk {
    pages: u64,
    empty: u64,
    bad: u64,
    cycle: Cycle,
}

impl Walk {
    /// Tells whether there were more pages than can be: of a stream that ends each shows a record or more, and each record
    /// stands on one of them.
    fn is_endless(&self, records: u64) -> bool {
        self.pages >= PAGES_MAX.saturating_add(records)
    }

    /// Looks at a page before it is committed: whether the run goes on by it.
    fn look(
        &mut self,
        source: &dyn Source,
        key: &StreamKey,
        cursor: Option<&Cursor>,
        page: &Page,
        records: u64,
    ) -> Result<(), Halt> {
        if self.is_endless(records) {
            return Err(stalled(format!("the stream did not end within {} pages", self.pages)));
        }
        self.pages += 1;
        let many = self.bad.saturating_add(page.bad.len() as u64) > BAD_RECORDS_MAX;
        let nothing_else = page.bad.len() >= BAD_PAGE && page.changes.is_empty() && page.events.is_empty();
        if let Some(first) = page.bad.first().filter(|_| many || nothing_else) {
            let (stream, record, why) = (key.stream.clone(), first.id.clone(), first.why.clone());
            let error = decode(format!("too many records cannot be read: {why}"));
            return Err(Halt::Stopped(error, Stop::BadData { stream, record, why }));
        }
        self.empty = if page.is_empty() { self.empty + 1 } else { 0 };
        let Next::More(next) = &page.next else { return Ok(()) };
        if cursor == Some(next) || self.cycle.meets(next) {
            return Err(stalled(format!("the cursor {:?} does not advance", brief(next))));
        }
        if self.empty >= EMPTY_PAGES_MAX && !source.is_sparse(&key.stream) {
            return Err(stalled(format!("{EMPTY_PAGES_MAX} pages in a row brought nothing")));
        }
        Ok(())
    }
}

/// Makes the end of a run that does not come on.
fn stalled(why: String) -> Halt {
    Halt::Stopped(decode(why.clone()), Stop::Stalled { why })
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

fn unsure_span(at: Timestamp) -> Span {
    Span::exact(at.millis()).widened(CLOCK_SKEW_MAX)
}

/// Makes deliveries of events, in their order, each to the endpoint it belongs to.
fn deliveries(
    task: &Task<'_>,
    ears: &Ears,
    events: impl Iterator<Item = (Event, HeardAs)>,
    now: Timestamp,
) -> Vec<NewDelivery> {
    let mut deliveries: Vec<NewDelivery> = Vec::new();
    for (event, subscription) in events {
        let event = NewEvent {
            wanted: (task.wants)(&event.kind),
            priority: (task.priority)(&event.kind),
            id: event.id,
            kind: event.kind,
            subscription,
            account: event.account,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: Some(event.payload),
        };
        let place = match task.endpoints {
            [only] => Some(only),
            several => ears.place_of(event.heard_as()).or(several.first()),
        };
        let Some(endpoint) = place else { continue };
        match deliveries.last_mut().filter(|delivery| delivery.endpoint == *endpoint) {
            Some(delivery) => delivery.events.push(event),
            None => deliveries.push(NewDelivery {
                endpoint: endpoint.clone(),
                connection: task.key.connection.clone(),
                provider: task.provider.to_owned(),
                received_at: now,
                headers: Vec::new(),
                body: Bytes::new(),
                events: vec![event],
            }),
        }
    }
    deliveries
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

fn decode(message: impl Into<Cow<'static, str>>) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when an event goes where another kind was heard last though its own is heard elsewhere, or one of a kind that was
    /// never heard goes nowhere.
    #[test]
    fn an_event_goes_where_its_kind_was_heard() {
        let heard = |at: i64, endpoint: &str| LastHeard { at: Timestamp(at), endpoint: endpoint.into() };
        let heard = [("made".to_owned(), heard(1, "first")), ("paid".to_owned(), heard(2, "second"))];
        let ears = Ears { heard: heard.into(), ..Ears::default() };
        for (kind, endpoint) in [("made", "first"), ("paid", "second"), ("lost", "second")] {
            assert_eq!(ears.place_of(kind).map(EndpointId::as_str), Some(endpoint), "{kind}");
        }
        assert!(Ears::default().place_of("made").is_none());
    }

    /// Fails when a stream that has as many pages as records, as one of conversations' threads has, is taken for one that
    /// never ends; or when one that repeats itself goes on for ever.
    #[test]
    fn a_run_may_have_a_page_for_each_record() {
        for (pages, records, endless) in [
            (PAGES_MAX - 1, 0, false),
            (PAGES_MAX, 0, true),
            (PAGES_MAX, 1, false),
            (1_000_000, 1_000_000, false),
            (1_100_000, 1_000_000, true),
            (u64::MAX - 1, u64::MAX, false),
        ] {
            assert_eq!(
                Walk { pages, ..Walk::default() }.is_endless(records),
                endless,
                "{pages} pages, {records} records"
            );
        }
    }
}

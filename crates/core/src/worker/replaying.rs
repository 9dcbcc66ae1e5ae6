//! Replaying by filter, step by step; and what a replay would do, before it is done.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::watch;

use super::job::{Attempt, Finish, Stop, by_stream};
use super::{Inner, Worker};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RecordId, StreamName};
use crate::store::{Died, EventRow, Merge, NewJob, ReplayFilter, StoredEvent, WORKER_LOST, Work, received_so_far};
use crate::sync::merge::{Incoming, Seen, Stored, Verdict, content_hash, forgotten_before, merge};
use crate::sync::{Change, State};
use crate::transport::Transport;

/// Rows looked at, and replayed at most, in one commit of a replay.
const LOOKED_AT_ONCE: u32 = 500;
/// Rows looked at in one read of a count.
const COUNTED_AT_ONCE: u32 = 1_000;
/// Steps of one job of a replay that replay anything: its progress is kept after them.
const STEPS_AT_ONCE: u32 = 4;
/// Steps of one job of a replay: those that find nothing only read.
const LOOKS_AT_ONCE: u32 = 50;
/// Attempts of one job of a replay, after which the worker gives it up.
pub(super) const REPLAY_TRIES_MAX: u32 = 20;
/// The same for the store: more, so that a replay whose workers were lost is given up by one that can tell of it.
const REPLAY_ATTEMPTS_MAX: u32 = 1_000;

/// How a replay by filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct ReplayProgress {
    /// The last row looked at.
    pub after: EventRow,
    /// How many events were replayed.
    pub replayed: u64,
}

/// How a replay is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct ReplayStatus {
    /// How far it has come.
    pub progress: ReplayProgress,
    /// Whether it was given up: it goes on where it was when it is asked for again.
    pub died: bool,
    /// Why it was given up, or comes again.
    pub error: Option<String>,
}

/// A replay at work.
pub(super) struct Replaying {
    pub(super) filter: ReplayFilter,
    pub(super) progress: ReplayProgress,
    /// When it was asked for: what was received since is not its own.
    pub(super) ends: Option<Timestamp>,
}

impl Replaying {
    /// Takes it of a job that is one's.
    pub(super) fn of(work: &Work) -> Option<Self> {
        let Work::Replay { filter, after, replayed, ends, .. } = work else { return None };
        let progress = ReplayProgress { after: *after, replayed: *replayed };
        Some(Self { filter: filter.clone(), progress, ends: *ends })
    }
}

/// How many events a replay would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Counted {
    /// Those that were found.
    pub events: u64,
    /// The last row looked at, to go on from; `None` when there is none left.
    pub next: Option<EventRow>,
}

/// What handling an event would do now, without any of it being done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Preview {
    /// What it would do to records, by the rule that merges them into what is stored now.
    pub records: Vec<RecordPreview>,
    /// The statements handlers would write, without their values.
    pub effects: Vec<String>,
    /// The operations of the calls handlers would enqueue.
    pub calls: Vec<String>,
    /// Why it would come again or be dead; nothing when it would be done.
    pub refusal: Option<String>,
}

/// What would become of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RecordPreview {
    /// The stream.
    pub stream: StreamName,
    /// The record.
    pub id: RecordId,
    /// What would happen.
    pub change: PreviewChange,
    /// Its JSON as it is stored.
    pub before: Option<Bytes>,
    /// Its JSON as it would be.
    pub after: Option<Bytes>,
}

/// What would happen to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum PreviewChange {
    /// It would be added.
    Added,
    /// It would be changed.
    Updated,
    /// It would be deleted.
    Deleted,
    /// It is as it would be.
    Unchanged,
    /// It stays as it is: what the event says is older than the copy.
    Older,
    /// It would be fetched from the provider first.
    Fetched,
}

/// Makes no call.
struct NoCalls;

#[async_trait]
impl Transport for NoCalls {
    async fn send(&self, _: Request<Bytes>) -> Result<Response<Bytes>> {
        Err(Error::new(ErrorKind::Cancelled, "this is a preview: no call is made"))
    }
}

impl Worker {
    /// Begins a replay by filter, or finds the one that is under way; one that was given up goes on where it was. It ends
    /// with what is here by now, or before where the filter says so: it follows nothing that comes in while it runs. Gives
    /// its key.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn replay(&self, filter: ReplayFilter) -> Result<String> {
        let key = key_of(&filter);
        let ends = received_so_far(self.inner.store.as_ref(), self.inner.clock.now()).await?;
        let progress = ReplayProgress { after: EventRow(0), replayed: 0 };
        let job = self.inner.replay_job(Replaying { filter, progress, ends: Some(ends) });
        self.inner.store.enqueue(vec![job]).await?;
        Ok(key)
    }

    /// Tells how a replay stands; `None` when it has come to its end or never was. One that was given up is told as long as
    /// ended jobs are kept ([`super::WorkerSettings::retention`]).
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn replay_progress(&self, key: &str) -> Result<Option<ReplayStatus>> {
        let live = self.inner.store.live_jobs(vec![unique(key)]).await?.into_iter().flatten().next();
        Ok(live.and_then(|live| {
            let Work::Replay { after, replayed, died, .. } = live.work else { return None };
            let progress = ReplayProgress { after, replayed };
            // Asked for again, it is due before it would be forgotten.
            let died = died.filter(|died| live.run_at >= died.until);
            Some(ReplayStatus { progress, died: died.is_some(), error: died.map(|died| died.error).or(live.reason) })
        }))
    }

    /// Counts what a replay would take behind a row, looking at about `rows` that may be replayed and no more: a range of
    /// time begins where it begins, and what cannot be replayed is passed over, twenty times as many for a step. What it
    /// did not come to is counted from [`Counted::next`] on.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn count_replay(&self, filter: &ReplayFilter, after: EventRow, rows: u64) -> Result<Counted> {
        let inner = &self.inner;
        let (mut events, mut after, mut looked) = (0, after, 0);
        loop {
            let now = inner.clock.now();
            let step = inner.store.replay_some(filter.clone(), after, COUNTED_AT_ONCE, true, now).await?;
            events += step.met.len() as u64;
            looked += u64::from(COUNTED_AT_ONCE);
            match step.next {
                Some(next) if looked < rows => after = next,
                next => return Ok(Counted { events, next }),
            }
        }
    }

    /// Dismisses the dead letters that meet a filter ([`Inbox::dismiss`](crate::store::Inbox::dismiss)), of the `rows` dead
    /// ones after a row, in steps that hold up nobody; with `dry_run` it only counts them. Goes on from
    /// [`Counted::next`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: what was dismissed stays so.
    pub async fn dismiss_dead(
        &self,
        filter: &ReplayFilter,
        after: EventRow,
        rows: u64,
        dry_run: bool,
    ) -> Result<Counted> {
        let inner = &self.inner;
        let (mut whole, mut looked) = (Counted { events: 0, next: Some(after) }, 0);
        while let Some(after) = whole.next.filter(|_| looked < rows) {
            let now = inner.clock.now();
            let at_once = u32::try_from(rows - looked).unwrap_or(u32::MAX).min(LOOKED_AT_ONCE);
            let step = inner.store.dismiss_some(filter.clone(), after, at_once, dry_run, now).await?;
            whole = Counted { events: whole.events + step.met.len() as u64, next: step.next };
            looked += u64::from(at_once);
        }
        if whole.events > 0 && !dry_run {
            tracing::info!(events = whole.events, ?filter, "dead letters were dismissed");
        }
        Ok(whole)
    }

    /// Runs an event through the streams and handlers of this program without keeping anything: what would a replay do?
    /// Of one that came as a notice the whole is retrieved first, where this worker has a way to the provider. Handlers
    /// run; their effects are not written and their calls to the provider are refused, but what they do
    /// outside otherwise they do ([`super::Context::is_preview`] tells them). `None` when there is no such event.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn preview(&self, row: EventRow) -> Result<Option<Preview>> {
        let inner = &self.inner;
        let Some(event) = inner.store.event(row).await? else { return Ok(None) };
        let mut preview = Preview { records: Vec::new(), effects: Vec::new(), calls: Vec::new(), refusal: None };
        if let Err(stop) = inner.preview_into(&event, &mut preview).await {
            preview.refusal = Some(match stop {
                Stop::Dead(reason) => format!("it would be dead: {reason}"),
                Stop::Retry { reason, .. } | Stop::Wait { reason, .. } => format!("it would come again: {reason}"),
            });
        }
        Ok(Some(preview))
    }
}

impl Inner {
    fn replay_job(&self, replay: Replaying) -> NewJob {
        let Replaying { filter, progress: ReplayProgress { after, replayed }, ends } = replay;
        NewJob {
            unique: Some(unique(&key_of(&filter))),
            work: Work::Replay { filter, after, replayed, ends, died: None },
            lane: None,
            group: None,
            tenant: None,
            priority: 0,
            run_at: self.clock.now(),
            attempts_max: REPLAY_ATTEMPTS_MAX,
        }
    }

    /// Makes the job by which a replay that was given up is told and can go on; it does nothing when it is due.
    pub(super) fn died(&self, replay: Replaying, reason: &str) -> NewJob {
        let Replaying { filter, progress: ReplayProgress { after, replayed }, ends } = replay;
        tracing::error!(events = replayed, reason, "a replay was given up: it goes on when it is asked for again");
        let until = self.clock.now().plus(self.settings.retention);
        let progress = ReplayProgress { after, replayed };
        let job = self.replay_job(Replaying { filter: filter.clone(), progress, ends });
        let died = Some(Died { error: reason.to_owned(), until });
        NewJob { work: Work::Replay { filter, after, replayed, ends, died }, run_at: until, ..job }
    }

    /// Replays some events, and leaves the job of the others.
    pub(super) async fn replay(
        &self,
        replay: Replaying,
        died: Option<Died>,
        attempt: Attempt,
        stop: &watch::Receiver<bool>,
    ) -> Result<Finish, Stop> {
        if died.as_ref().is_some_and(|died| self.clock.now() >= died.until) {
            return Ok(Finish::followed_by(Vec::new()));
        }
        if attempt.number > attempt.max {
            return Err(Stop::Dead(WORKER_LOST.to_owned()));
        }
        let Replaying { filter, mut progress, mut ends } = replay;
        if died.is_some() {
            // It was given up and is asked for again: what has come in since is meant too.
            ends = Some(received_so_far(self.store.as_ref(), self.clock.now()).await?);
        }
        let own = ends.map_or_else(|| filter.clone(), |ends| filter.clone().ending(ends));
        let mut steps = 0;
        for _ in 0..LOOKS_AT_ONCE {
            let now = self.clock.now();
            let step = self.store.replay_some(own.clone(), progress.after, LOOKED_AT_ONCE, false, now).await?;
            progress.replayed += step.met.len() as u64;
            steps += u32::from(!step.met.is_empty());
            let Some(next) = step.next else {
                tracing::info!(events = progress.replayed, "a replay has ended");
                return Ok(Finish::followed_by(Vec::new()));
            };
            progress.after = next;
            if *stop.borrow() || steps == STEPS_AT_ONCE {
                break;
            }
        }
        Ok(Finish::followed_by(vec![self.replay_job(Replaying { filter, progress, ends })]))
    }

    async fn preview_into(&self, event: &StoredEvent, preview: &mut Preview) -> Result<(), Stop> {
        let place = self.place(&event.connection).await?;
        let whole = match self.retrieved(event, &place).await? {
            Ok(whole) => whole,
            // Nothing is sent from where this runs: what the notice says is all that can be told.
            Err(error) if error.kind() == ErrorKind::Config => None,
            Err(error) => return Err(error.into()),
        };
        let event = &whole.map_or_else(|| event.clone(), |whole| StoredEvent { event: whole, ..event.clone() });
        let merges = place.changes_of(event)?;
        let forgotten = forgotten_before(self.clock.now());
        for Merge { key, read_since, changes } in merges {
            let ids = changes.iter().map(|change| change.id.clone()).collect();
            let stored = self.store.stored(key.clone(), ids).await?;
            for (change, stored) in changes.into_iter().zip(stored) {
                let record = self.store.record(key.clone(), change.id.clone()).await?;
                let before = record.and_then(|record| record.data);
                let (becomes, after) = outcome(stored, &change, (read_since, forgotten), before.as_ref());
                let stream = key.stream.clone();
                preview.records.push(RecordPreview { stream, id: change.id, change: becomes, before, after });
            }
        }
        let (effects, calls) = self.handlers(event, &place, 1, Some(Arc::new(NoCalls))).await?;
        preview.effects.extend(effects.into_iter().map(|effect| effect.sql));
        preview.calls.extend(calls.into_iter().map(|call| call.operation));
        Ok(())
    }
}

/// Tells what would become of a record, by the merge rule, and its JSON then.
fn outcome(
    stored: Option<Stored>,
    change: &Change,
    (read_since, forgotten_before): (Option<u64>, i64),
    before: Option<&Bytes>,
) -> (PreviewChange, Option<Bytes>) {
    let seen = match &change.state {
        State::Present(data) => Seen::Present { hash: content_hash(data) },
        State::Deleted => Seen::Deleted,
        State::Unclear => Seen::Unclear,
    };
    match (merge(stored, Incoming { span: change.span, read_since, seen, forgotten_before }), &change.state) {
        (Verdict::Fetch, _) | (_, State::Unclear) => (PreviewChange::Fetched, None),
        (Verdict::Older, _) => (PreviewChange::Older, before.cloned()),
        (Verdict::Confirm, _) => (PreviewChange::Unchanged, before.cloned()),
        (Verdict::Write, State::Deleted) if before.is_none() => (PreviewChange::Unchanged, None),
        (Verdict::Write, State::Deleted) => (PreviewChange::Deleted, None),
        (Verdict::Write, State::Present(after)) if before.is_none() => (PreviewChange::Added, Some(after.clone())),
        (Verdict::Write, State::Present(after)) => (PreviewChange::Updated, Some(after.clone())),
    }
}

impl super::job::Place<'_> {
    /// Reads what an event says of records.
    pub(super) fn changes_of(&self, event: &StoredEvent) -> Result<Vec<Merge>, Stop> {
        match self.source {
            Some(source) if source.concerns(&event.event.kind) => {
                let changes = source
                    .apply(&event.event)
                    .map_err(|error| Stop::Dead(format!("the event cannot be read: {}", super::job::phrase(&error))))?;
                Ok(by_stream(&event.connection, changes))
            }
            Some(_) | None => Ok(Vec::new()),
        }
    }
}

/// Names a replay by its filter, so that the same one is not begun twice.
fn key_of(filter: &ReplayFilter) -> String {
    let json = serde_json::to_vec(filter).unwrap_or_default();
    format!("{:016x}", content_hash(&json))
}

fn unique(key: &str) -> String {
    format!("replay/{key}")
}

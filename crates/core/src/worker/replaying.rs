//! Replaying by filter, step by step; and what a replay would do, before it is done.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::watch;

use super::job::{Finish, Stop, by_stream};
use super::{Inner, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RecordId, StreamName};
use crate::store::{EventRow, Merge, NewJob, ReplayFilter, StoredEvent, Work};
use crate::sync::State;
use crate::sync::merge::forgotten_before;
use crate::transport::Transport;

/// Rows looked at in one commit of a replay.
const LOOKED_AT_ONCE: u32 = 500;
/// Steps of one job of a replay: its progress is kept after them.
const STEPS_AT_ONCE: u32 = 4;
/// Attempts of one job of a replay.
const REPLAY_ATTEMPTS_MAX: u32 = 20;

/// How a replay by filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct ReplayProgress {
    /// The last row looked at.
    pub after: EventRow,
    /// How many events were replayed.
    pub replayed: u64,
}

/// How many events a replay would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Counted {
    /// Those that were found.
    pub events: u64,
    /// Whether all rows were looked at.
    pub complete: bool,
}

/// What handling an event would do now, without any of it being done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Preview {
    /// What it would do to records. Whether one is older than what is stored is decided when it is done.
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
    /// Begins a replay by filter, or finds the one that is under way; gives its key.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn replay(&self, filter: ReplayFilter) -> Result<String> {
        let key = key_of(&filter);
        let job = self.inner.replay_job(filter, ReplayProgress { after: EventRow(0), replayed: 0 });
        self.inner.store.enqueue(vec![job]).await?;
        Ok(key)
    }

    /// Tells how a replay stands; `None` when it has ended or never was.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn replay_progress(&self, key: &str) -> Result<Option<ReplayProgress>> {
        let live = self.inner.store.live_jobs(vec![unique(key)]).await?;
        let work = live.into_iter().flatten().next().map(|live| live.work);
        Ok(work.and_then(|work| match work {
            Work::Replay { after, replayed, .. } => Some(ReplayProgress { after, replayed }),
            Work::Event { .. }
            | Work::Sync { .. }
            | Work::Approved { .. }
            | Work::Watch { .. }
            | Work::Forward { .. }
            | Work::Call { .. }
            | Work::Retention
            | Work::Chore { .. }
            | Work::Reschedule { .. } => None,
        }))
    }

    /// Counts what a replay would take, looking at no more than `rows`.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn count_replay(&self, filter: &ReplayFilter, rows: u64) -> Result<Counted> {
        let inner = &self.inner;
        let (mut counted, mut after, mut looked) = (Counted { events: 0, complete: true }, EventRow(0), 0);
        loop {
            let now = inner.clock.now();
            let step = inner.store.replay_some(filter.clone(), after, LOOKED_AT_ONCE, true, now).await?;
            counted.events += step.met;
            looked += u64::from(LOOKED_AT_ONCE);
            let Some(next) = step.next else { return Ok(counted) };
            if looked >= rows {
                return Ok(Counted { complete: false, ..counted });
            }
            after = next;
        }
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
    fn replay_job(&self, filter: ReplayFilter, progress: ReplayProgress) -> NewJob {
        let ReplayProgress { after, replayed } = progress;
        NewJob {
            unique: Some(unique(&key_of(&filter))),
            work: Work::Replay { filter, after, replayed },
            lane: None,
            group: None,
            tenant: None,
            priority: 0,
            run_at: self.clock.now(),
            attempts_max: REPLAY_ATTEMPTS_MAX,
        }
    }

    /// Replays some events, and leaves the job of the others.
    pub(super) async fn replay(
        &self,
        filter: ReplayFilter,
        progress: ReplayProgress,
        stop: &watch::Receiver<bool>,
    ) -> Result<Finish, Stop> {
        let mut progress = progress;
        for _ in 0..STEPS_AT_ONCE {
            let now = self.clock.now();
            let step = self.store.replay_some(filter.clone(), progress.after, LOOKED_AT_ONCE, false, now).await?;
            progress.replayed += step.met;
            let Some(next) = step.next else {
                tracing::info!(events = progress.replayed, "a replay has ended");
                return Ok(Finish::followed_by(Vec::new()));
            };
            progress.after = next;
            if *stop.borrow() {
                break;
            }
        }
        Ok(Finish::followed_by(vec![self.replay_job(filter, progress)]))
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
        for Merge { key, changes, .. } in merges {
            for change in changes {
                let stored = self.store.record(key.clone(), change.id.clone()).await?;
                // It may have been deleted since: the merge rule asks for it.
                let forgotten = stored.is_none() && change.span.latest < forgotten_before(self.clock.now());
                let before = stored.and_then(|record| record.data);
                let (change_is, after) = match (&change.state, &before) {
                    (State::Unclear, _) => (PreviewChange::Fetched, None),
                    (State::Present(_), None) if forgotten => (PreviewChange::Fetched, None),
                    (State::Deleted, None) => (PreviewChange::Unchanged, None),
                    (State::Deleted, Some(_)) => (PreviewChange::Deleted, None),
                    (State::Present(after), None) => (PreviewChange::Added, Some(after.clone())),
                    (State::Present(after), Some(before)) if after == before => {
                        (PreviewChange::Unchanged, Some(after.clone()))
                    }
                    (State::Present(after), Some(_)) => (PreviewChange::Updated, Some(after.clone())),
                };
                let stream = key.stream.clone();
                preview.records.push(RecordPreview { stream, id: change.id, change: change_is, before, after });
            }
        }
        let (effects, calls) = self.handlers(event, &place, 1, Some(Arc::new(NoCalls))).await?;
        preview.effects.extend(effects.into_iter().map(|effect| effect.sql));
        preview.calls.extend(calls.into_iter().map(|call| call.operation));
        Ok(())
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
    format!("{:016x}", crate::sync::merge::content_hash(&json))
}

fn unique(key: &str) -> String {
    format!("replay/{key}")
}

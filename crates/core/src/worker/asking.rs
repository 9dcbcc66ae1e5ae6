//! Runs that somebody asks for, and what an incremental run is of a stream that has no position to begin at.
//!
//! Of a stream without a position an incremental run would read the whole list, see no deletion, and be followed by
//! another at every interval. Where the provider lists its events, such a stream never has one: its changes are found by
//! the walk over those. Where it does not, the first full run leaves one.

use crate::error::{Error, ErrorKind, Result};
use crate::id::ConnectionId;
use crate::store::{
    ACCOUNT_DISCONNECTED, Connection, ConnectionState, Lease, NewJob, Run, RunEnd, RunMode, RunState, StreamKey,
    StreamStatus,
};
use crate::sync::{Source, Stop as Cause, StreamKind, StreamSpec};

use super::Inner;
use super::job::{Finish, Stop};
use super::schedule::{When, owned};

/// What an incremental run of a stream comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It goes on from the stream's position, or reads the position of a stream of events.
    Own,
    /// The walk over this stream of events finds what changed.
    Walk(&'static str),
    /// Nothing is known yet: a full run comes first.
    Full,
}

impl Reading {
    pub(super) fn of(source: &dyn Source, spec: &StreamSpec, status: &StreamStatus) -> Self {
        let walk = source.streams().iter().find(|spec| spec.kind == StreamKind::Events);
        match (spec.kind, &status.cursor, walk) {
            (StreamKind::Events, _, _) | (StreamKind::Records, Some(_), _) => Self::Own,
            (StreamKind::Records, None, Some(walk)) => Self::Walk(walk.name),
            (StreamKind::Records, None, None) => Self::Full,
        }
    }
}

/// Refuses incremental runs of a stream, and their schedule, where a walk finds its changes.
pub(super) fn refuse_walked(stream: &str, walk: &str) -> Error {
    let why = format!("changes of {stream} are found with those of all streams, by the runs of {walk}");
    Error::new(ErrorKind::Invalid, why)
}

/// Tells whether a run is the unfinished one of a stream and mode.
pub(super) fn is_unfinished(run: &Run, key: &StreamKey, mode: RunMode) -> bool {
    run.key == *key && run.mode == mode && run.state == RunState::Running
}

impl Inner {
    /// Enqueues a run that somebody asks for; returns the mode it has. One that is under way may be past what has changed
    /// since, so another comes after it.
    pub(super) async fn run_asked(&self, key: &StreamKey, mode: RunMode) -> Result<RunMode> {
        let regular = |mode| self.sync_job(key, mode, When::Now);
        let Some(connection) = self.store.connection(key.connection.clone()).await? else {
            // Its job says what is wrong.
            self.store.enqueue(vec![regular(mode)]).await?;
            return Ok(mode);
        };
        require_active(&connection)?;
        let plugged = self.providers.get(connection.provider.as_str());
        let mode = match plugged.and_then(|plugged| plugged.provider.source()) {
            Some(source) => self.readable(source, key, mode).await?,
            None => mode,
        };
        let mut jobs = vec![regular(mode)];
        let runs = self.store.newest_runs(key.connection.clone()).await?;
        if runs.iter().any(|run| is_unfinished(run, key, mode)) {
            jobs.push(self.asked_job(key, mode));
        }
        self.store.enqueue(owned(jobs, &connection)).await?;
        Ok(mode)
    }

    fn asked_job(&self, key: &StreamKey, mode: RunMode) -> NewJob {
        NewJob { unique: Some(asked_key(key, mode)), ..self.sync_job(key, mode, When::Now) }
    }

    /// Makes the job that takes an unfinished run up now: the one that was asked for where that is there, so that no other
    /// run comes behind it.
    pub(super) async fn taken_up(&self, key: &StreamKey, mode: RunMode) -> Result<NewJob> {
        let asked = self.store.live_jobs(vec![asked_key(key, mode)]).await?;
        let is_asked = asked.into_iter().flatten().next().is_some();
        Ok(if is_asked { self.asked_job(key, mode) } else { self.sync_job(key, mode, When::Now) })
    }

    /// Makes the jobs of the runs that were begun and have not ended, for now: theirs may wait for another week, because the
    /// connection was paused when their turn came.
    pub(super) async fn unfinished_jobs(&self, source: &dyn Source, connection: &ConnectionId) -> Result<Vec<NewJob>> {
        let is_kept = |run: &Run| source.streams().iter().any(|spec| spec.name == run.key.stream.as_str());
        let runs = self.store.newest_runs(connection.clone()).await?;
        let mut jobs = Vec::new();
        for run in runs.iter().filter(|run| run.state == RunState::Running && is_kept(run)) {
            jobs.push(self.taken_up(&run.key, run.mode).await?);
        }
        Ok(jobs)
    }

    /// Returns the mode in which a stream is read that is to be read in one, or refuses it.
    pub(super) async fn readable(&self, source: &dyn Source, key: &StreamKey, mode: RunMode) -> Result<RunMode> {
        let spec = source.streams().iter().find(|spec| spec.name == key.stream.as_str());
        let Some(spec) = spec.filter(|_| mode == RunMode::Incremental) else { return Ok(mode) };
        match Reading::of(source, spec, &self.store.stream(key.clone()).await?) {
            Reading::Own => Ok(mode),
            Reading::Full => Ok(RunMode::Full),
            Reading::Walk(walk) => Err(refuse_walked(key.stream.as_str(), walk)),
        }
    }

    /// Returns what takes the place of an incremental run of a stream that has no position; `None` for one that was begun
    /// before it was known not to have one, and ends.
    pub(super) async fn without_position(
        &self,
        key: &StreamKey,
        reading: Reading,
    ) -> Result<Option<Vec<NewJob>>, Stop> {
        let runs = self.store.newest_runs(key.connection.clone()).await?;
        if runs.iter().any(|run| is_unfinished(run, key, RunMode::Incremental)) {
            return Ok(None);
        }
        let in_review = |run: &Run| run.key == *key && matches!(run.state, RunState::Review { .. });
        match reading {
            Reading::Own => Ok(None),
            // The full run that leaves a position adds it again.
            Reading::Full if !runs.iter().any(in_review) => {
                Ok(Some(vec![self.sync_job(key, RunMode::Full, When::Now)]))
            }
            Reading::Full | Reading::Walk(_) => Ok(Some(Vec::new())),
        }
    }

    /// Ends the run of a stream whose connection was disconnected just before it began: nothing will take it up.
    pub(super) async fn end_with_account(&self, lease: Lease, key: &StreamKey) -> Result<Finish, Stop> {
        let runs = self.store.newest_runs(key.connection.clone()).await?;
        let left = runs.into_iter().find(|run| run.key == *key && run.state == RunState::Running);
        let Some(left) = left else { return Ok(Finish::followed_by(Vec::new())) };
        let end = RunEnd {
            lease,
            run: left.id,
            state: RunState::Failed { kind: ErrorKind::Cancelled, reason: ACCOUNT_DISCONNECTED.to_owned() },
            stop: Some(Cause::Superseded),
            span: None,
            follow: Vec::new(),
            resume: None,
            deletions_approved: 0,
            at_once: 1,
            now: self.clock.now(),
        };
        self.store.end_run(end).await?;
        Ok(Finish::Ended)
    }
}

/// Refuses a run of a connection that would not begin.
fn require_active(connection: &Connection) -> Result<()> {
    let what = match &connection.state {
        ConnectionState::Active => return Ok(()),
        ConnectionState::Paused => "is paused: resume it first",
        ConnectionState::NeedsReconnect { .. } => "must be connected again first",
        ConnectionState::Disconnected => "is disconnected: reconnect it first",
    };
    Err(Error::new(ErrorKind::Conflict, format!("{} {what}", connection.id)))
}

/// The unique key of a run that was asked for while another of its stream was under way. Both are of one lane, so one of
/// the two waits whichever is at work.
pub(super) fn asked_key(key: &StreamKey, mode: RunMode) -> String {
    let name = match mode {
        RunMode::Full => "full",
        RunMode::Incremental => "incremental",
    };
    format!("sync/asked/{name}/{}/{}", key.connection, key.stream)
}

//! When which stream runs: the jobs of a connection, their keys and moments.
//!
//! A moment is worked out from a [`Scheduled`] row when a job is made, so a schedule that was set is heeded by the next
//! one; the job that waits is moved. What says how often is looked for in this order: what was set for the stream, the
//! rules of the settings (the most specific one), the settings' intervals.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, StreamName};
use crate::schedule::{self, Schedule, Ticks};
use crate::store::{
    Connection, ConnectionState, Lease, Moved, NewJob, Run, RunFilter, RunMode, RunState, RunStateName, Scheduled,
    StreamKey, StreamStatus, Work,
};
use crate::sync::{Source, StreamKind, StreamSpec};

use super::Inner;
use super::asking::{Reading, refuse_walked};
use super::job::{Finish, Stop};

/// Attempts of a sync job: it waits out outages of many days; each attempt goes on where the last one stopped.
pub(super) const SYNC_ATTEMPTS_MAX: u32 = 1_000;
/// How long after a prompted run the regular one looks again: longer than most runs take.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// Reviews of one stream that are ended at once; those of older runs are hardly ever there.
const REVIEWS_AT_ONCE: u32 = 100;

/// When a job shall run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Now.
    Now,
    /// At a moment.
    At(Timestamp),
}

/// Says how often the runs of some streams come, in place of the settings' intervals. Of the rules that name a stream's
/// connection, its own name and its provider, in this order of weight, the most specific one counts, and of equal ones
/// the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ScheduleRule {
    /// Of one connection only.
    pub connection: Option<ConnectionId>,
    /// Of one provider only.
    pub provider: Option<String>,
    /// Of one stream only.
    pub stream: Option<StreamName>,
    /// The schedule of incremental runs, if it says one.
    pub incremental: Option<Schedule>,
    /// The schedule of full runs, if it says one.
    pub full: Option<Schedule>,
}

impl ScheduleRule {
    /// Returns what the rule says of a stream's runs, with its weight; `None` when it does not name them.
    fn says(&self, connection: &Connection, stream: &str, mode: RunMode) -> Option<(u8, &Schedule)> {
        let names = self.connection.as_ref().is_none_or(|id| *id == connection.id)
            && self.provider.as_ref().is_none_or(|provider| *provider == connection.provider)
            && self.stream.as_ref().is_none_or(|name| name.as_str() == stream);
        let schedule = match mode {
            RunMode::Full => &self.full,
            RunMode::Incremental => &self.incremental,
        };
        let weight = u8::from(self.provider.is_some())
            + 2 * u8::from(self.stream.is_some())
            + 4 * u8::from(self.connection.is_some());
        schedule.as_ref().filter(|_| names).map(|schedule| (weight, schedule))
    }
}

/// Who says how often a stream's runs come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum SaidBy {
    /// The settings, for every stream.
    Settings,
    /// A rule of the settings.
    Rule,
    /// It was set for the stream.
    Stream,
}

/// How often a stream's runs of one mode come, and when the next one does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Timing {
    /// What is said.
    pub schedule: Schedule,
    /// By whom.
    pub said_by: SaidBy,
    /// The interval it has grown to while nothing changes, where that is longer than what is said.
    pub grown: Option<Duration>,
    /// When the next run is due, or was; `None` when no job is there to do it.
    pub next_at: Option<Timestamp>,
    /// Why the run comes again, while its last attempt failed.
    pub failing: Option<String>,
}

impl Timing {
    /// Returns when what a run at `since` brought up to date is late: behind the moments of the next three runs.
    #[must_use]
    pub fn late_at(&self, since: Timestamp) -> Timestamp {
        let grown = self.grown.map(Schedule::every);
        grown.as_ref().unwrap_or(&self.schedule).late_at(since)
    }

    /// Returns the moment of the run after one at `now`.
    fn following(&self, now: Timestamp, phase: u64) -> Timestamp {
        let grown = self.grown.map(Schedule::every);
        grown.as_ref().unwrap_or(&self.schedule).following(now, phase)
    }
}

/// How often a stream's runs come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StreamTimings {
    /// The stream.
    pub stream: StreamName,
    /// Its incremental runs; `None` for a stream that has none, or none yet.
    pub incremental: Option<Timing>,
    /// Its full runs; `None` for a stream that has none.
    pub full: Option<Timing>,
}

/// The schedules of one stream, as a job of it heeds them.
pub(super) struct Pace {
    key: StreamKey,
    kind: StreamKind,
    pub(super) before: StreamStatus,
    incremental: Timing,
    full: Timing,
    now: Timestamp,
}

impl Pace {
    pub(super) fn timing(&self, mode: RunMode) -> &Timing {
        match mode {
            RunMode::Full => &self.full,
            RunMode::Incremental => &self.incremental,
        }
    }

    /// Returns the moment of the next run.
    pub(super) fn next(&self, mode: RunMode) -> When {
        When::At(self.timing(mode).following(self.now, phase(&self.key.connection)))
    }
}

impl Inner {
    /// Makes the job of a stream's run.
    pub(super) fn sync_job(&self, key: &StreamKey, mode: RunMode, when: When) -> NewJob {
        let run_at = match when {
            When::Now => self.clock.now(),
            When::At(at) => at,
        };
        NewJob {
            work: Work::Sync { key: key.clone(), mode },
            lane: Some(lane(key)),
            group: None,
            tenant: None,
            unique: Some(unique(key, mode)),
            priority: 0,
            run_at,
            attempts_max: SYNC_ATTEMPTS_MAX,
        }
    }

    /// Makes the runs of a stream of which an event told no more than that something changed.
    ///
    /// Two, because a run under way may have read past the place before the change was there: the prompted one has a
    /// key of its own, so it waits for a regular run that is under way; and the regular one, pulled forward, waits for
    /// a prompted one that is. When neither is, the second costs one request that finds nothing.
    pub(super) fn prompted_jobs(&self, key: &StreamKey) -> [NewJob; 2] {
        let mut regular = self.sync_job(key, RunMode::Incremental, When::Now);
        let unique = Some(format!("sync/prompted/{}/{}", key.connection, key.stream));
        let prompted = NewJob { unique, ..regular.clone() };
        regular.run_at = regular.run_at.plus(SECOND_LOOK);
        [prompted, regular]
    }

    /// Makes the full runs of all streams of records, for now.
    pub(super) fn full_runs(&self, source: &dyn Source, connection: &ConnectionId) -> Vec<NewJob> {
        let records = source.streams().iter().filter(|spec| spec.kind == StreamKind::Records);
        records.map(|spec| self.sync_job(&stream_key(connection, spec.name), RunMode::Full, When::Now)).collect()
    }

    /// Makes the jobs a connection's streams need: the first runs if `first`, or the next ones.
    ///
    /// Where the provider has a stream of events its position is read first, and the full runs follow it in the same
    /// commit, so that nothing falls between the two.
    pub(super) fn connection_jobs(&self, source: &dyn Source, row: &Scheduled, first: bool) -> Vec<NewJob> {
        let has_events = source.streams().iter().any(|spec| spec.kind == StreamKind::Events);
        let has_position = source
            .streams()
            .iter()
            .any(|spec| spec.kind == StreamKind::Events && status(row, spec.name).is_some_and(|s| s.cursor.is_some()));
        let mut jobs = Vec::new();
        for spec in source.streams() {
            let key = stream_key(&row.connection.id, spec.name);
            let status = status(row, spec.name);
            let pace = self.pace_in(row, spec);
            let when = |mode| if first { When::Now } else { pace.next(mode) };
            if spec.kind == StreamKind::Events {
                jobs.push(self.sync_job(&key, RunMode::Incremental, when(RunMode::Incremental)));
                continue;
            }
            if status.is_some_and(|status| status.cursor.is_some()) {
                jobs.push(self.sync_job(&key, RunMode::Incremental, when(RunMode::Incremental)));
            }
            let complete = status.is_some_and(|status| status.full_at.is_some());
            if complete || (!first && !has_events) {
                jobs.push(self.sync_job(&key, RunMode::Full, pace.next(RunMode::Full)));
            } else if first && (!has_events || has_position) {
                jobs.push(self.sync_job(&key, RunMode::Full, When::Now));
            }
            // Otherwise the first run of the events' stream adds it.
        }
        jobs
    }

    /// Makes the full runs of streams that never had one end well, unless one is under way or somebody must look at it
    /// first.
    pub(super) async fn missing_full_runs(
        &self,
        source: &dyn Source,
        connection: &ConnectionId,
    ) -> Result<Vec<NewJob>> {
        // Runs before streams: one that ends between the two is complete by the second.
        let runs = self.store.newest_runs(connection.clone()).await?;
        let known = self.store.streams(connection.clone()).await?;
        let complete = |name: &StreamName, status: &StreamStatus, job: &NewJob| {
            matches!(&job.work, Work::Sync { key, .. } if key.stream == *name) && status.full_at.is_some()
        };
        let mut jobs = self.full_runs(source, connection);
        jobs.retain(|job| !known.iter().any(|(name, status)| complete(name, status, job)));
        jobs.retain(|job| {
            let of_it = |run: &&Run| matches!(&job.work, Work::Sync { key, .. } if *key == run.key);
            // One under way has a live job. Were it added here, it would begin again should it end before this walk does.
            let waits = |run: &Run| matches!(run.state, RunState::Review { .. } | RunState::Running);
            !runs.iter().filter(of_it).any(waits)
        });
        Ok(jobs)
    }

    // ------------------------------------------------------------------------------------------ moments

    /// Returns the schedules of a stream, and what of it they depend on.
    pub(super) async fn pace(&self, connection: &Connection, spec: &StreamSpec) -> Result<Pace> {
        let row = self.scheduled(connection).await?;
        Ok(self.pace_in(&row, spec))
    }

    /// Reads what the schedules of a connection need. One that is not stored yet has nothing set.
    pub(super) async fn scheduled(&self, connection: &Connection) -> Result<Scheduled> {
        let found = self.store.scheduled(connection.id.clone()).await?;
        let none = || Scheduled { connection: connection.clone(), streams: Vec::new(), set: Vec::new() };
        Ok(found.unwrap_or_else(none))
    }

    fn pace_in(&self, row: &Scheduled, spec: &StreamSpec) -> Pace {
        let now = self.clock.now();
        Pace {
            key: stream_key(&row.connection.id, spec.name),
            kind: spec.kind,
            before: status(row, spec.name).cloned().unwrap_or_default(),
            incremental: self.timing(row, spec, RunMode::Incremental, now),
            full: self.timing(row, spec, RunMode::Full, now),
            now,
        }
    }

    fn timing(&self, row: &Scheduled, spec: &StreamSpec, mode: RunMode, now: Timestamp) -> Timing {
        let (schedule, said_by) = self.said(row, spec.name, mode);
        let grown = match (&schedule.ticks, mode, said_by) {
            (Ticks::Every(every), RunMode::Incremental, SaidBy::Settings | SaidBy::Rule) => {
                self.grown(row, spec, *every, now)
            }
            _ => None,
        };
        Timing { schedule, said_by, grown, next_at: None, failing: None }
    }

    fn said(&self, row: &Scheduled, stream: &str, mode: RunMode) -> (Schedule, SaidBy) {
        let set = row.set.iter().find(|set| set.stream.as_str() == stream && set.mode == mode);
        if let Some(set) = set {
            match set.schedule.parse() {
                Ok(schedule) => return (schedule, SaidBy::Stream),
                // Written by a newer program, or one with another set of zones.
                Err(error) => tracing::warn!(
                    connection = %row.connection.id, stream, schedule = set.schedule, %error,
                    "the schedule set for the stream cannot be read: the settings' counts"
                ),
            }
        }
        let rules = self.settings.schedules.iter().filter_map(|rule| rule.says(&row.connection, stream, mode));
        match rules.max_by_key(|(weight, _)| *weight) {
            Some((_, schedule)) => (schedule.clone(), SaidBy::Rule),
            None => (Schedule::every(self.settings.every(mode)), SaidBy::Settings),
        }
    }

    /// Returns what an interval has grown to while nothing changes: doubled as often as it fits into the time since the
    /// last change, up to the settings' longest. `None` where the provider tells of changes, or one was just now.
    ///
    /// The last change is that of the stream's own records, so nothing is written while nothing changes; of a stream of
    /// events it is that of any record of the connection.
    fn grown(&self, row: &Scheduled, spec: &StreamSpec, every: Duration, now: Timestamp) -> Option<Duration> {
        let longest = self.settings.idle_max;
        if every >= longest || (self.told)(&row.connection) {
            return None;
        }
        let of_it = row.streams.iter().filter(|one| spec.kind == StreamKind::Events || one.name.as_str() == spec.name);
        let changed_at = of_it.filter_map(|one| one.changed_at).max().unwrap_or(row.connection.created_at);
        let idle = now.since(changed_at);
        let mut grown = every;
        while grown < longest && grown.saturating_mul(2) <= idle {
            grown = grown.saturating_mul(2);
        }
        Some(grown.min(longest)).filter(|grown| *grown > every)
    }

    /// Returns what takes the place of a scheduled run that was missed and is to be left out: the next one.
    pub(super) async fn left_out(&self, pace: &Pace, lease: Lease, mode: RunMode) -> Result<Option<NewJob>, Stop> {
        let schedule = &pace.timing(mode).schedule;
        if schedule.catch_up == schedule::CatchUp::Once {
            return Ok(None);
        }
        let Some(held) = self.store.held_job(lease).await? else { return Ok(None) };
        let key = unique(&pace.key, mode);
        // One that comes again tells why.
        let regular = held.unique.as_ref() == Some(&key)
            && held.attempt == 1
            && self.store.live_jobs(vec![key]).await?.into_iter().flatten().all(|live| live.reason.is_none());
        if !regular || !schedule.leaves_out(held.run_at, pace.now, phase(&pace.key.connection)) {
            return Ok(None);
        }
        tracing::info!(connection = %pace.key.connection, stream = %pace.key.stream, "a run that was missed is left out");
        Ok(Some(self.sync_job(&pace.key, mode, pace.next(mode))))
    }

    /// Pulls the next run of a stream forward to its plain interval, if it had grown and this run found a change.
    pub(super) async fn quicken(&self, pace: &Pace, run: &Run) {
        if pace.incremental.grown.is_none() {
            return;
        }
        let counts = &run.counts;
        let changed = counts.added + counts.updated + counts.deleted > 0;
        let pulled = async {
            // Of events only the position tells: their records change when they are handled.
            let moved = pace.kind == StreamKind::Events
                && self.store.stream(pace.key.clone()).await?.cursor != pace.before.cursor;
            if changed || moved {
                let at = pace.incremental.schedule.following(self.clock.now(), phase(&pace.key.connection));
                self.store.enqueue(vec![self.sync_job(&pace.key, RunMode::Incremental, When::At(at))]).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = pulled.await {
            // It comes later than it might, once.
            tracing::warn!(connection = %pace.key.connection, %error, "the next run could not be pulled forward");
        }
    }

    // ------------------------------------------------------------------------------------------ what is said of it

    /// Reads how often the runs of a connection's streams come.
    pub(super) async fn timings(&self, connection: &Connection) -> Result<Vec<StreamTimings>> {
        let plugged = self.providers.get(connection.provider.as_str());
        let Some(source) = plugged.and_then(|plugged| plugged.provider.source()) else { return Ok(Vec::new()) };
        let row = self.scheduled(connection).await?;
        let specs = source.streams();
        let modes = [RunMode::Incremental, RunMode::Full];
        let keys = specs.iter().flat_map(|spec| modes.map(|mode| unique(&stream_key(&connection.id, spec.name), mode)));
        let mut live = self.store.live_jobs(keys.collect()).await?.into_iter();
        let timings = specs.iter().map(|spec| {
            let pace = self.pace_in(&row, spec);
            let mut filled = |mut timing: Timing| {
                let live = live.next().flatten();
                timing.next_at = live.as_ref().map(|live| live.run_at);
                timing.failing = live.and_then(|live| live.reason);
                timing
            };
            let (incremental, full) = (filled(pace.incremental), filled(pace.full));
            let records = spec.kind == StreamKind::Records;
            let has_runs = !records || pace.before.cursor.is_some() || incremental.next_at.is_some();
            StreamTimings {
                stream: spec.name.into(),
                incremental: Some(incremental).filter(|_| has_runs),
                full: Some(full).filter(|_| records),
            }
        });
        Ok(timings.collect())
    }

    /// Sets the schedule of a stream's runs, or lets the settings' count again, and moves the run that waits.
    pub(super) async fn set_schedule(
        &self,
        connection: &Connection,
        stream: &StreamName,
        mode: RunMode,
        schedule: Option<&Schedule>,
    ) -> Result<()> {
        let key = stream_key(&connection.id, stream.as_str());
        let spec = self.spec(connection, &key)?;
        if spec.kind == StreamKind::Events && mode == RunMode::Full {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a stream of events has no full runs: set its incremental ones",
            ));
        }
        if schedule.is_some() && mode == RunMode::Incremental {
            let plugged = self.providers.get(connection.provider.as_str());
            let source = plugged.and_then(|plugged| plugged.provider.source());
            let status = self.store.stream(key.clone()).await?;
            if let Some(Reading::Walk(walk)) = source.map(|source| Reading::of(source, spec, &status)) {
                let error = refuse_walked(stream.as_str(), walk);
                return Err(Error::new(ErrorKind::Invalid, format!("{}: set the schedule of {walk}", error.message())));
            }
        }
        self.store.set_schedule(key.clone(), mode, schedule.map(ToString::to_string)).await?;
        if self.retime(connection, spec).await? == Moved::Busy {
            // Behind the run that is under way, which has made up its mind about the next one.
            let job = NewJob {
                work: Work::Reschedule { key: key.clone() },
                unique: None,
                ..self.sync_job(&key, mode, When::Now)
            };
            self.store.enqueue(vec![owned_one(job, connection)]).await?;
        }
        Ok(())
    }

    fn spec(&self, connection: &Connection, key: &StreamKey) -> Result<&'static StreamSpec> {
        let plugged = self.providers.get(connection.provider.as_str());
        let source = plugged.and_then(|plugged| plugged.provider.source());
        let spec = source.and_then(|source| source.streams().iter().find(|spec| spec.name == key.stream.as_str()));
        spec.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the provider has no stream {}", key.stream)))
    }

    /// Moves the waiting runs of a stream to where its schedules have them. `Busy` when one of them runs or is due.
    async fn retime(&self, connection: &Connection, spec: &'static StreamSpec) -> Result<Moved> {
        let pace = self.pace(connection, spec).await?;
        let mut all = Moved::Moved;
        for mode in [RunMode::Incremental, RunMode::Full] {
            let at = pace.timing(mode).following(pace.now, phase(&connection.id));
            let moved = self.store.move_job(unique(&pace.key, mode), at, pace.now).await?;
            if moved == Moved::Busy {
                all = moved;
            }
        }
        Ok(all)
    }

    /// Does the work of [`Work::Reschedule`].
    pub(super) async fn reschedule(&self, key: &StreamKey) -> Result<Finish, Stop> {
        if let Some(connection) = self.store.connection(key.connection.clone()).await? {
            let spec = self.spec(&connection, key)?;
            self.retime(&connection, spec).await?;
        }
        Ok(Finish::followed_by(Vec::new()))
    }

    // ------------------------------------------------------------------------------------------ the look over all

    /// Looks over the schedules of up to `limit` connections after one, so that a run whose job was lost, or waits for
    /// longer than its schedule says, comes again. What waits as it should stays as it is. Returns the last connection,
    /// while there are more.
    pub(super) async fn look_over(&self, after: Option<ConnectionId>, limit: u32) -> Result<Option<ConnectionId>> {
        let rows = self.store.scheduled_after(after, limit).await?;
        let last = rows.last().filter(|_| rows.len() == limit as usize).map(|row| row.connection.id.clone());
        let mut jobs = Vec::new();
        for row in &rows {
            let Connection { provider, state, .. } = &row.connection;
            let source = self.providers.get(provider.as_str()).and_then(|plugged| plugged.provider.source());
            let (Some(source), false) = (source, *state == ConnectionState::Disconnected) else { continue };
            let mut due = self.connection_jobs(source, row, false);
            due.extend(self.watch_jobs(&row.connection, false).await?);
            jobs.extend(owned(due, &row.connection));
            self.end_reviews_of_gone_streams(source, row).await?;
        }
        let keys = jobs.iter().filter_map(|job| job.unique.clone()).collect();
        let live = self.store.live_jobs(keys).await?;
        let mut live = live.into_iter();
        jobs.retain(|job| {
            let live = job.unique.as_ref().and_then(|_| live.next()).flatten();
            live.is_none_or(|live| live.run_at > job.run_at)
        });
        if !jobs.is_empty() {
            tracing::info!(jobs = jobs.len(), "runs that were lost or waited too long come again");
            self.store.enqueue(jobs).await?;
        }
        Ok(last)
    }
}

impl Inner {
    /// Dismisses the deletions of streams the provider's adapter no longer has: no run could make them, and nobody would find
    /// them at their stream. Should it come back, its next full run looks anew.
    async fn end_reviews_of_gone_streams(&self, source: &dyn Source, row: &Scheduled) -> Result<()> {
        let is_kept = |name: &StreamName| source.streams().iter().any(|spec| spec.name == name.as_str());
        for stream in row.streams.iter().filter(|stream| !is_kept(&stream.name)) {
            let waiting = RunFilter {
                connection: Some(row.connection.id.clone()),
                stream: Some(stream.name.clone()),
                state: Some(RunStateName::Review),
                before: None,
            };
            for run in self.store.find_runs(waiting, REVIEWS_AT_ONCE).await? {
                let why = "its stream is no longer copied, and its records stay as they are";
                if self.store.dismiss_run(run.id, why.to_owned(), self.clock.now()).await? {
                    tracing::warn!(connection = %run.key.connection, stream = %run.key.stream, run = run.id.0, "{why}");
                }
            }
        }
        Ok(())
    }
}

impl super::WorkerSettings {
    fn every(&self, mode: RunMode) -> Duration {
        match mode {
            RunMode::Full => self.full_every,
            RunMode::Incremental => self.incremental_every,
        }
    }
}

fn status<'r>(row: &'r Scheduled, name: &str) -> Option<&'r StreamStatus> {
    row.streams.iter().find(|stream| stream.name.as_str() == name).map(|stream| &stream.status)
}

fn lane(key: &StreamKey) -> String {
    format!("sync/{}/{}", key.connection, key.stream)
}

/// The unique key of a stream's regular run.
pub(super) fn unique(key: &StreamKey, mode: RunMode) -> String {
    let name = match mode {
        RunMode::Full => "full",
        RunMode::Incremental => "incremental",
    };
    format!("sync/{name}/{}/{}", key.connection, key.stream)
}

/// Names the group and tenant of a connection's jobs: they share the provider's cap and take the tenant's turns.
pub(super) fn owned(jobs: impl IntoIterator<Item = NewJob>, connection: &Connection) -> Vec<NewJob> {
    jobs.into_iter().map(|job| owned_one(job, connection)).collect()
}

/// The same for one job.
pub(super) fn owned_one(job: NewJob, connection: &Connection) -> NewJob {
    NewJob { group: Some(connection.provider.clone()), tenant: Some(connection.tenant.clone()), ..job }
}

pub(super) fn stream_key(connection: &ConnectionId, stream: &str) -> StreamKey {
    StreamKey { connection: connection.clone(), stream: StreamName::new(stream) }
}

/// Returns a number that is always the same for a connection, to spread connections over an interval.
pub(super) fn phase(connection: &ConnectionId) -> u64 {
    schedule::phase(connection.as_str())
}

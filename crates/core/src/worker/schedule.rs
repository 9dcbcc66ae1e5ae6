//! When which stream runs: the jobs of a connection, their keys and moments.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, StreamName};
use crate::store::{Connection, ConnectionState, NewJob, RunMode, RunState, StreamKey, StreamStatus, Work};
use crate::sync::{Source, StreamKind};

use super::Inner;

/// Attempts of a sync job: it waits out outages of many days; each attempt goes on where the last one stopped.
pub(super) const SYNC_ATTEMPTS_MAX: u32 = 1_000;
/// Attempts of a chore before the next one is due anyway.
const CHORE_ATTEMPTS_MAX: u32 = 20;
/// How long after a prompted run the regular one looks again: longer than most runs take.
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// Time from one removal of old rows to the next.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// The same where the inbox's bytes are bounded: what comes meanwhile is beyond the bound.
const BYTES_EVERY: Duration = Duration::from_secs(60);
/// Connections read at once when schedules are looked over.
const CONNECTIONS_AT_ONCE: u32 = 500;
/// Runs looked through for one that waits for review.
const RUNS_LOOKED_AT: u32 = 100;

/// When a job shall run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Now.
    Now,
    /// At its next tick.
    Next,
}

impl Inner {
    /// Makes the job of a stream's run.
    pub(super) fn sync_job(&self, key: &StreamKey, mode: RunMode, when: When) -> NewJob {
        let now = self.clock.now();
        let every = match mode {
            RunMode::Full => self.settings.full_every,
            RunMode::Incremental => self.settings.incremental_every,
        };
        let run_at = match when {
            When::Now => now,
            When::Next => next_tick(now, every, phase(&key.connection)),
        };
        let name = match mode {
            RunMode::Full => "full",
            RunMode::Incremental => "incremental",
        };
        NewJob {
            work: Work::Sync { key: key.clone(), mode },
            lane: Some(format!("sync/{}/{}", key.connection, key.stream)),
            group: None,
            tenant: None,
            unique: Some(format!("sync/{name}/{}/{}", key.connection, key.stream)),
            priority: 0,
            run_at,
            attempts_max: SYNC_ATTEMPTS_MAX,
        }
    }

    /// Makes the job of a full run whose deletions are approved. It has a key of its own, so that the full run that
    /// waits for its week does not stand in its place.
    pub(super) fn approved_job(&self, key: StreamKey) -> NewJob {
        let unique = Some(format!("sync/approved/{}/{}", key.connection, key.stream));
        NewJob { unique, work: Work::Approved { key: key.clone() }, ..self.sync_job(&key, RunMode::Full, When::Now) }
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

    pub(super) fn retention_job(&self) -> NewJob {
        NewJob {
            work: Work::Retention,
            lane: None,
            group: None,
            tenant: None,
            unique: Some("retention".to_owned()),
            // Rows that are too old hurt nobody: every sync goes first.
            priority: -1,
            run_at: self.clock.now().plus(self.settings.inbox_bytes_max.map_or(RETENTION_EVERY, |_| BYTES_EVERY)),
            attempts_max: CHORE_ATTEMPTS_MAX,
        }
    }

    /// Makes the full runs of all streams of records, for now.
    pub(super) fn full_runs(&self, source: &dyn Source, connection: &ConnectionId) -> Vec<NewJob> {
        let records = source.streams().iter().filter(|spec| spec.kind == StreamKind::Records);
        records.map(|spec| self.sync_job(&stream_key(connection, spec.name), RunMode::Full, When::Now)).collect()
    }

    /// Makes the jobs a connection's streams need: the first runs, or the next ones.
    ///
    /// Where the provider has a stream of events its position is read first, and the full runs follow it in the same
    /// commit, so that nothing falls between the two.
    pub(super) async fn connection_jobs(
        &self,
        source: &dyn Source,
        id: &ConnectionId,
        when: When,
    ) -> Result<Vec<NewJob>> {
        let known = self.store.streams(id.clone()).await?;
        let status = |name: &str| known.iter().find(|(stream, _)| stream.as_str() == name).map(|(_, status)| status);
        let has_events = source.streams().iter().any(|spec| spec.kind == StreamKind::Events);
        let has_position = source
            .streams()
            .iter()
            .any(|spec| spec.kind == StreamKind::Events && status(spec.name).is_some_and(|s| s.cursor.is_some()));
        let mut jobs = Vec::new();
        for spec in source.streams() {
            let key = stream_key(id, spec.name);
            let status = status(spec.name);
            if spec.kind == StreamKind::Events {
                jobs.push(self.sync_job(&key, RunMode::Incremental, when));
                continue;
            }
            if status.is_some_and(|status| status.cursor.is_some()) {
                jobs.push(self.sync_job(&key, RunMode::Incremental, when));
            }
            let complete = status.is_some_and(|status| status.full_at.is_some());
            match when {
                When::Now if complete => jobs.push(self.sync_job(&key, RunMode::Full, When::Next)),
                // The events stream's first run adds it.
                When::Now if has_events && !has_position => {}
                When::Now => jobs.push(self.sync_job(&key, RunMode::Full, When::Now)),
                When::Next if complete || !has_events => jobs.push(self.sync_job(&key, RunMode::Full, When::Next)),
                When::Next => {}
            }
        }
        Ok(jobs)
    }

    /// Makes the full runs of streams that never had one end well, unless one is under way or somebody must look at it
    /// first.
    pub(super) async fn missing_full_runs(
        &self,
        source: &dyn Source,
        connection: &ConnectionId,
    ) -> Result<Vec<NewJob>> {
        // Runs before streams: one that ends between the two is complete by the second.
        let runs = self.store.runs(Some(connection.clone()), RUNS_LOOKED_AT).await?;
        let known = self.store.streams(connection.clone()).await?;
        let complete = |name: &StreamName, status: &StreamStatus, job: &NewJob| {
            matches!(&job.work, Work::Sync { key, .. } if key.stream == *name) && status.full_at.is_some()
        };
        let mut jobs = self.full_runs(source, connection);
        jobs.retain(|job| !known.iter().any(|(name, status)| complete(name, status, job)));
        jobs.retain(|job| {
            let newest = runs.iter().find(|run| matches!(&job.work, Work::Sync { key, .. } if *key == run.key));
            // One under way has a live job. Were it added here, it would begin again should it end before this walk does.
            !newest.is_some_and(|run| matches!(run.state, RunState::Review { .. } | RunState::Running))
        });
        Ok(jobs)
    }

    /// Looks over the schedules of all connections, so that one whose job was lost runs again. What waits already
    /// stays as it is.
    pub(super) async fn ensure_schedules(&self) -> Result<()> {
        self.store.enqueue(vec![self.retention_job()]).await?;
        let mut after = None;
        loop {
            let connections = self.store.connections(after.clone(), CONNECTIONS_AT_ONCE).await?;
            let Some(last) = connections.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for connection in connections {
                let Connection { id, provider, state, .. } = &connection;
                let source = self.providers.get(provider.as_str()).and_then(|plugged| plugged.provider.source());
                let (Some(source), false) = (source, *state == ConnectionState::Disconnected) else { continue };
                let mut jobs = self.connection_jobs(source, id, When::Next).await?;
                jobs.extend(self.watch_jobs(&connection, When::Next).await?);
                self.store.enqueue(owned(jobs, &connection)).await?;
            }
        }
    }
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

/// Returns a number that is always the same for a connection, to spread connections over an interval (FNV-1a).
pub(super) fn phase(connection: &ConnectionId) -> u64 {
    let bytes = connection.as_str().bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the first tick at least half an interval from now. Ticks lie one interval apart, shifted by the phase, so
/// that a connection's runs keep their place in the interval whatever happens in between.
fn next_tick(now: Timestamp, every: Duration, phase: u64) -> Timestamp {
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
    let shift = i64::try_from(phase % every.unsigned_abs()).unwrap_or(0);
    let earliest = now.millis().saturating_add(every / 2);
    let behind = earliest.saturating_sub(shift).rem_euclid(every);
    let wait = if behind == 0 { 0 } else { every - behind };
    Timestamp(earliest.saturating_add(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(now: i64, every: Duration, phase: u64) {
        let step = i64::try_from(every.as_millis()).unwrap();
        let tick = next_tick(Timestamp(now), every, phase).millis();
        assert!(tick - now >= step / 2, "{tick} comes too soon after {now}");
        assert!(tick - now < step + step / 2 + 1, "{tick} comes too late after {now}");
        let shift = i64::try_from(phase % u64::try_from(step).unwrap()).unwrap();
        assert_eq!((tick - shift).rem_euclid(step), 0, "ticks lie on the connection's own grid");
        assert_eq!(next_tick(Timestamp(tick), every, phase).millis(), tick + step, "the grid goes on");
    }

    /// Fails when the phase is left out, or the half interval.
    #[test]
    fn a_connections_runs_keep_their_place_in_the_interval() {
        for phase in [0, 1, 899_999, 900_000, u64::MAX] {
            for now in [0, 1, 450_000, 899_999, -5, 1_700_000_000_123] {
                check(now, Duration::from_secs(900), phase);
                check(now, Duration::from_secs(7 * 86_400), phase);
            }
        }
        assert_eq!(next_tick(Timestamp(i64::MAX), Duration::MAX, 3), Timestamp(i64::MAX));
    }

    #[test]
    fn connections_are_spread_over_the_interval() {
        let every = Duration::from_secs(900);
        let mut tenths = [0_u32; 10];
        for n in 0..1_000 {
            let tick = next_tick(Timestamp(0), every, phase(&ConnectionId::new(format!("connection-{n}"))));
            let place = tick.millis().rem_euclid(900_000) / 90_000;
            tenths[usize::try_from(place).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }
}

//! Chores: what a hub does for itself from time to time, as jobs like any other, so that one process of many does each,
//! and everybody sees when it did so last and will next.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::ConnectionId;
use crate::schedule::{CatchUp, Schedule, phase};
use crate::store::{ChoreReport, NewJob, Work};

use super::Inner;
use super::job::{Finish, Stop};

/// The chore that removes what is too old. Its job is older than the others and has a kind of its own.
pub(super) const RETENTION: &str = "retention";
/// The chore that looks over the schedules of all connections.
pub(super) const LOOK: &str = "schedules";
/// The chore that rolls counts of calls up.
pub(super) const ROLL_UP: &str = "rollup";
/// The same from the beginning and once: when a process starts, and after the clock was set.
const LOOK_NOW: &str = "schedules-now";

/// Time from one removal of old rows to the next.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// The same where the inbox's bytes are bounded: what comes meanwhile is beyond the bound.
const BYTES_EVERY: Duration = Duration::from_secs(60);
/// Time from one rolling up to the next.
const ROLL_UP_EVERY: Duration = Duration::from_secs(3_600);
/// How long hours of calls are told apart: longer than any window of a rate.
const HOURS_KEPT: Duration = Duration::from_secs(48 * 3_600);
/// How long days of calls are kept: a year and what it is compared with.
const DAYS_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// Rows rolled up, or removed, in one commit.
const ROLLED_AT_ONCE: u32 = 1_000;
/// Time from one look over all schedules to the next.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Connections looked at in one step: one read and one write of some milliseconds.
const LOOKED_AT_ONCE: u32 = 100;
/// Time between two steps, in which everything else goes on: 100,000 connections take four minutes.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Steps in one job. What comes after is another one's, which begins where this ends.
const LOOK_STEPS: u32 = 20;
/// How often chores are enqueued, in case a job of them was lost.
const ENSURED_EVERY: Duration = Duration::from_secs(3_600);
/// The clock was set when it and the machine's uptime differ by more than this. Less delays nothing by more.
const JUMP: Duration = Duration::from_secs(30);
/// Attempts of a chore before the next one is due anyway.
const CHORE_ATTEMPTS_MAX: u32 = 20;

/// What a chore does; answers with what it did in one phrase, without anything secret.
pub(super) type Do = Box<dyn Fn() -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// A chore of whoever built the worker.
pub(super) struct Chore {
    pub(super) schedule: Schedule,
    pub(super) run: Do,
}

/// How a chore stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ChoreStatus {
    /// Its name.
    pub name: String,
    /// When it comes.
    pub schedule: Schedule,
    /// When it is due next, or was; `None` while no job is there to do it.
    pub next_at: Option<Timestamp>,
    /// How it ended last; `None` while it never did.
    pub last: Option<ChoreReport>,
}

/// When chores were last seen to, by the clock and by the time that has passed.
#[derive(Debug, Default)]
pub(super) struct Beat(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    clock: Timestamp,
    ensured_at: Instant,
}

/// What is to be done about chores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Their jobs are to be there.
    Jobs,
    /// And all schedules are to be looked over now.
    Look,
}

impl Beat {
    fn due(&self, at: Instant, clock: Timestamp) -> Due {
        let Some(seen) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) else { return Due::Look };
        let passed = at.duration_since(seen.at);
        let expected = seen.clock.plus(passed);
        if clock.since(expected).max(expected.since(clock)) > JUMP {
            tracing::warn!(
                expected = expected.millis(),
                found = clock.millis(),
                "the clock was set: schedules are looked over"
            );
            return Due::Look;
        }
        if at.duration_since(seen.ensured_at) >= ENSURED_EVERY { Due::Jobs } else { Due::Nothing }
    }

    fn done(&self, due: Due, at: Instant, clock: Timestamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ensured_at = match (due, *seen) {
            (Due::Nothing, Some(seen)) => seen.ensured_at,
            _ => at,
        };
        *seen = Some(Seen { at, clock, ensured_at });
    }
}

impl Inner {
    /// Sees to it that the job of every chore is there, and that schedules are looked over when a process starts or the
    /// clock was set: jobs may wait for a moment that is years away by then. Most of the time it looks at two clocks.
    pub(super) async fn ensure_schedules(&self) -> Result<()> {
        let (at, now) = (Instant::now(), self.clock.now());
        let due = self.beat.due(at, now);
        if due != Due::Nothing {
            let mut jobs = vec![self.retention_job()];
            jobs.extend(self.schedules_of_chores().map(|(name, schedule)| self.next_chore(name, &schedule)));
            if due == Due::Look {
                // What may have been due while nobody was here.
                let missed = self.chores.iter().filter(|(_, chore)| chore.schedule.catch_up == CatchUp::Once);
                jobs.extend(missed.map(|(name, _)| self.chore_job(name, None, now)));
                jobs.push(self.chore_job(LOOK_NOW, None, now));
            }
            self.store.enqueue(jobs).await?;
        }
        self.beat.done(due, at, now);
        Ok(())
    }

    /// Every chore that is enqueued by name, with its schedule.
    fn schedules_of_chores(&self) -> impl Iterator<Item = (&str, Schedule)> {
        let look = (LOOK, Schedule::every(LOOK_EVERY));
        let roll_up = (ROLL_UP, Schedule::every(ROLL_UP_EVERY));
        let others = self.chores.iter().map(|(name, chore)| (name.as_str(), chore.schedule.clone()));
        [look, roll_up].into_iter().chain(others)
    }

    pub(super) fn retention_job(&self) -> NewJob {
        let at = self.clock.now().plus(self.retention_every());
        let unique = Some(RETENTION.to_owned());
        // Rows that are too old hurt nobody: every sync goes first.
        NewJob { work: Work::Retention, unique, priority: -1, ..self.chore_job(RETENTION, None, at) }
    }

    fn retention_every(&self) -> Duration {
        self.settings.inbox_bytes_max.map_or(RETENTION_EVERY, |_| BYTES_EVERY)
    }

    fn next_chore(&self, name: &str, schedule: &Schedule) -> NewJob {
        self.chore_job(name, None, schedule.following(self.clock.now(), phase(name)))
    }

    fn chore_job(&self, name: &str, at: Option<String>, run_at: Timestamp) -> NewJob {
        NewJob {
            work: Work::Chore { name: name.to_owned(), at },
            lane: None,
            group: None,
            tenant: None,
            unique: Some(unique(name)),
            // Before any sync: they take little, and a grant that nobody renews in time dies.
            priority: 1,
            run_at,
            attempts_max: CHORE_ATTEMPTS_MAX,
        }
    }

    /// Does a chore.
    pub(super) async fn chore(
        &self,
        name: &str,
        at: Option<String>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Finish, Stop> {
        if name == LOOK || name == LOOK_NOW {
            return self.reported(LOOK, self.look(name, at, stop)).await;
        }
        if name == ROLL_UP {
            return self.reported(ROLL_UP, self.roll_up(stop)).await;
        }
        let Some(chore) = self.chores.get(name) else {
            tracing::info!(chore = name, "nobody here knows this chore: it is dropped");
            return Ok(Finish::followed_by(Vec::new()));
        };
        let begun = Instant::now();
        let done = (chore.run)().await;
        self.report(name, begun, done.as_ref().map_err(|error| error.message())).await;
        done?;
        Ok(Finish::followed_by(vec![self.next_chore(name, &chore.schedule)]))
    }

    /// Keeps how a chore ended that says nothing more than that it did.
    pub(super) async fn reported(
        &self,
        name: &str,
        chore: impl Future<Output = Result<Finish, Stop>>,
    ) -> Result<Finish, Stop> {
        let begun = Instant::now();
        let done = chore.await;
        let phrase = "done".to_owned();
        match &done {
            Ok(_) => self.report(name, begun, Ok(&phrase)).await,
            Err(Stop::Dead(reason) | Stop::Retry { reason, .. } | Stop::Wait { reason, .. }) => {
                self.report(name, begun, Err(reason)).await;
            }
        }
        done
    }

    async fn report(&self, name: &str, begun: Instant, outcome: Result<&String, &str>) {
        let (outcome, failed) = match outcome {
            Ok(outcome) => (outcome.clone(), false),
            Err(reason) => {
                tracing::warn!(chore = name, reason, "a chore failed: it comes again");
                (reason.to_owned(), true)
            }
        };
        let (name, ended_at, took) = (name.to_owned(), self.clock.now(), begun.elapsed());
        let report = ChoreReport { name, ended_at, took, outcome, failed };
        if let Err(error) = self.store.chore_ended(report).await {
            // What the chore did is done all the same.
            tracing::warn!(%error, "how a chore ended could not be kept");
        }
    }

    /// Looks over schedules in steps; what is left is another job's.
    async fn look(&self, name: &str, at: Option<String>, stop: &watch::Receiver<bool>) -> Result<Finish, Stop> {
        let mut after = at.map(ConnectionId::new);
        for step in 0..LOOK_STEPS {
            if step > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            after = self.look_over(after, LOOKED_AT_ONCE).await?;
            if after.is_none() || *stop.borrow() {
                break;
            }
        }
        let next = match after {
            Some(after) => vec![self.chore_job(name, Some(after.to_string()), self.clock.now())],
            None if name == LOOK => vec![self.next_chore(LOOK, &Schedule::every(LOOK_EVERY))],
            None => Vec::new(),
        };
        Ok(Finish::followed_by(next))
    }

    /// Rolls hours of calls up into days, and removes days that are too old, in steps that hold up nobody for long.
    async fn roll_up(&self, stop: &watch::Receiver<bool>) -> Result<Finish, Stop> {
        let all = u64::from(ROLLED_AT_ONCE);
        let now = self.clock.now();
        while self.store.roll_up_calls(now.minus(HOURS_KEPT), ROLLED_AT_ONCE).await? == all && !*stop.borrow() {}
        while self.store.prune_call_days(now.minus(DAYS_KEPT), ROLLED_AT_ONCE).await? == all && !*stop.borrow() {}
        Ok(Finish::followed_by(vec![self.next_chore(ROLL_UP, &Schedule::every(ROLL_UP_EVERY))]))
    }

    /// Reads how the chores stand.
    pub(super) async fn chore_statuses(&self) -> Result<Vec<ChoreStatus>> {
        let retention = (RETENTION, Schedule::every(self.retention_every()));
        let chores: Vec<_> = self.schedules_of_chores().chain([retention]).collect();
        let key = |name: &str| if name == RETENTION { RETENTION.to_owned() } else { unique(name) };
        let live = self.store.live_jobs(chores.iter().map(|(name, _)| key(name)).collect()).await?;
        let reports = self.store.chore_reports().await?;
        let statuses = chores.into_iter().zip(live).map(|((name, schedule), live)| ChoreStatus {
            name: name.to_owned(),
            schedule,
            next_at: live.map(|live| live.run_at),
            last: reports.iter().find(|report| report.name == name).cloned(),
        });
        Ok(statuses.collect())
    }
}

fn unique(name: &str) -> String {
    format!("chore/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a clock that was set is not noticed, or one that goes as it should is.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_is_noticed_once() {
        let beat = Beat::default();
        let begin = Instant::now();
        let year = Duration::from_secs(365 * 86_400);
        let start = Timestamp::from_seconds(1_700_000_000);
        for (seconds, clock, wanted) in [
            (0, start, Due::Look),
            (60, start.plus(Duration::from_secs(60)), Due::Nothing),
            (120, start.plus(Duration::from_secs(149)), Due::Nothing),
            (180, start.plus(Duration::from_secs(509)), Due::Look),
            (240, start.plus(Duration::from_secs(569)), Due::Nothing),
            (300, start.minus(Duration::from_secs(300)), Due::Look),
            (360, start.plus(year), Due::Look),
            (420, start.plus(year + Duration::from_secs(60)), Due::Nothing),
            (480, start, Due::Look),
            (481 + 3_600, start.plus(Duration::from_secs(3_601)), Due::Jobs),
            (500 + 3_600, start.plus(Duration::from_secs(3_620)), Due::Nothing),
        ] {
            let at = begin + Duration::from_secs(seconds);
            assert_eq!(beat.due(at, clock), wanted, "after {seconds} s");
            beat.done(wanted, at, clock);
        }
    }
}

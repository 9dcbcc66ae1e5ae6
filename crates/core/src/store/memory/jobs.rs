//! The jobs of the model: claims with lease and fence, lanes, unique keys, ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::store::{
    CallId, Claim, Claimed, EventRow, EventState, JobCounts, JobEnd, JobId, Lease, LiveJob, NewJob, Queue, RunMode,
    StreamKey, WORKER_LOST, Work,
};

/// All jobs, with the live ones found quickly: a model that is slow in tests is not used.
#[derive(Default)]
pub(super) struct JobsModel {
    jobs: BTreeMap<JobId, Job>,
    stored: i64,
    live: BTreeSet<JobId>,
    unique: HashMap<String, JobId>,
}

/// What stands in a lane.
#[derive(Default)]
struct Lane {
    /// A job is held, and its lease has not run out.
    held: bool,
    /// The lowest number that is due or waits for another attempt.
    head: Option<JobId>,
}

struct Job {
    new: NewJob,
    state: State,
    attempts: u32,
    fence: i64,
    /// Why it comes again.
    reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Held { until: Timestamp },
    Done { at: Timestamp },
    Dead { at: Timestamp },
}

/// What follows the end of a job elsewhere in the store.
pub(super) enum Followed {
    Event { row: EventRow, state: EventState, reason: Option<String> },
    DeadSync { key: StreamKey, mode: RunMode, reason: String },
    DeadCall { call: CallId, reason: String },
}

impl Job {
    fn is_expired(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Held { until } if until <= now)
    }

    /// Whether it may be claimed, lanes aside.
    fn is_due(&self, now: Timestamp) -> bool {
        self.is_expired(now) || (self.state == State::Waiting && self.new.run_at <= now)
    }
}

impl JobsModel {
    pub(super) fn enqueue(&mut self, new: NewJob) -> JobId {
        let same = new.unique.as_ref().and_then(|key| self.unique.get(key)).copied();
        if let Some((id, job)) = same.and_then(|id| Some((id, self.jobs.get_mut(&id)?))) {
            if job.state == State::Waiting {
                job.new.run_at = job.new.run_at.min(new.run_at);
            }
            return id;
        }
        self.stored += 1;
        let id = JobId(self.stored);
        if let Some(key) = &new.unique {
            self.unique.insert(key.clone(), id);
        }
        self.live.insert(id);
        self.jobs.insert(id, Job { new, state: State::Waiting, attempts: 0, fence: 0, reason: None });
        id
    }

    pub(super) fn claim(&mut self, claim: Claim) -> (Vec<Claimed>, Vec<Followed>) {
        let Claim { now, hold, max, queue } = claim;
        let mut followed = Vec::new();
        for id in self.used_up(queue, now) {
            followed.extend(self.kill(id, WORKER_LOST.to_owned(), now));
        }
        let lanes = self.lanes(now);
        let free = |id: JobId, job: &Job| {
            let lane = job.new.lane.as_ref().and_then(|lane| lanes.get(lane.as_str()));
            lane.is_none_or(|lane| !lane.held && lane.head == Some(id))
        };
        let due = self.live.iter().filter_map(|id| Some((*id, self.jobs.get(id)?)));
        let mut due: Vec<_> = due
            .filter(|(id, job)| job.new.work.queue() == queue && job.is_due(now) && free(*id, job))
            .map(|(id, job)| (Reverse(job.new.priority), job.new.run_at, id))
            .collect();
        due.sort_unstable();
        due.truncate(max as usize);
        let until = now.plus(hold);
        let claimed = due.into_iter().filter_map(|(_, _, id)| {
            let job = self.jobs.get_mut(&id)?;
            job.state = State::Held { until };
            job.attempts += 1;
            job.fence += 1;
            Some(Claimed {
                lease: Lease { job: id, fence: job.fence },
                attempt: job.attempts,
                attempts_max: job.new.attempts_max,
                work: job.new.work.clone(),
                until,
            })
        });
        (claimed.collect(), followed)
    }

    /// Returns the jobs whose lease ran out in their last attempt.
    fn used_up(&self, queue: Queue, now: Timestamp) -> Vec<JobId> {
        let live = self.live.iter().filter_map(|id| Some((*id, self.jobs.get(id)?)));
        live.filter(|(_, job)| job.new.work.queue() == queue && job.is_expired(now))
            .filter(|(_, job)| job.attempts >= job.new.attempts_max)
            .map(|(id, _)| id)
            .collect()
    }

    fn lanes(&self, now: Timestamp) -> HashMap<&str, Lane> {
        let mut lanes: HashMap<&str, Lane> = HashMap::new();
        for (id, job) in self.live.iter().filter_map(|id| Some((*id, self.jobs.get(id)?))) {
            let Some(name) = &job.new.lane else { continue };
            let lane = lanes.entry(name).or_default();
            let tried = job.state == State::Waiting && job.attempts > 0;
            if job.is_due(now) || tried {
                lane.head.get_or_insert(id);
            } else if matches!(job.state, State::Held { .. }) {
                lane.held = true;
            }
        }
        lanes
    }

    /// Takes a job out of the live ones.
    fn finish(&mut self, id: JobId, state: State) -> Option<&Job> {
        let job = self.jobs.get_mut(&id)?;
        job.state = state;
        self.live.remove(&id);
        if let Some(key) = &job.new.unique {
            self.unique.remove(key);
        }
        Some(job)
    }

    fn kill(&mut self, id: JobId, reason: String, at: Timestamp) -> Option<Followed> {
        match &self.finish(id, State::Dead { at })?.new.work {
            Work::Event { row } => Some(Followed::Event { row: *row, state: EventState::Dead, reason: Some(reason) }),
            Work::Sync { key, mode } => Some(Followed::DeadSync { key: key.clone(), mode: *mode, reason }),
            Work::Approved { key } => Some(Followed::DeadSync { key: key.clone(), mode: RunMode::Full, reason }),
            Work::Call { call } => Some(Followed::DeadCall { call: *call, reason }),
            Work::Watch { .. } | Work::Retention => None,
        }
    }

    /// Counts the job an event died with as done.
    pub(super) fn seen_to(&mut self, event: EventRow) {
        let of_event = |job: &&mut Job| job.new.work == Work::Event { row: event };
        for job in self.jobs.values_mut().filter(of_event) {
            if let State::Dead { at } = job.state {
                job.state = State::Done { at };
            }
        }
    }

    pub(super) fn holds(&self, lease: Lease) -> bool {
        self.jobs.get(&lease.job).is_some_and(|job| job.fence == lease.fence && matches!(job.state, State::Held { .. }))
    }

    /// Tells whether the lease is good and of this work.
    pub(super) fn works_on(&self, lease: Lease, work: &Work) -> bool {
        self.holds(lease) && self.jobs.get(&lease.job).is_some_and(|job| job.new.work == *work)
    }

    pub(super) fn extend(&mut self, lease: Lease, until: Timestamp) -> bool {
        if !self.holds(lease) {
            return false;
        }
        if let Some(job) = self.jobs.get_mut(&lease.job) {
            job.state = State::Held { until };
        }
        true
    }

    /// Ends a held job.
    pub(super) fn end(&mut self, lease: Lease, end: JobEnd, now: Timestamp) -> Option<Followed> {
        let job = self.jobs.get_mut(&lease.job)?;
        let row = match job.new.work {
            Work::Event { row } => Some(row),
            Work::Sync { .. } | Work::Approved { .. } | Work::Watch { .. } | Work::Call { .. } | Work::Retention => {
                None
            }
        };
        match end {
            JobEnd::Done => {
                self.finish(lease.job, State::Done { at: now });
                row.map(|row| Followed::Event { row, state: EventState::Done, reason: None })
            }
            JobEnd::Retry { at, reason } if job.attempts < job.new.attempts_max => {
                job.state = State::Waiting;
                job.new.run_at = at;
                job.reason = Some(reason.clone());
                row.map(|row| Followed::Event { row, state: EventState::Pending, reason: Some(reason) })
            }
            JobEnd::Release => {
                job.state = State::Waiting;
                job.attempts -= 1;
                None
            }
            JobEnd::Retry { reason, .. } | JobEnd::Dead { reason } => self.kill(lease.job, reason, now),
        }
    }

    pub(super) fn oldest_due(&self, queue: Queue, now: Timestamp) -> Option<Timestamp> {
        let live = self.live.iter().filter_map(|id| self.jobs.get(id));
        let waiting = live.filter(|job| job.state == State::Waiting && job.new.work.queue() == queue);
        waiting.map(|job| job.new.run_at).min().filter(|run_at| *run_at <= now)
    }

    pub(super) fn live(&self, unique: &str) -> Option<LiveJob> {
        let job = self.jobs.get(self.unique.get(unique)?)?;
        Some(LiveJob { work: job.new.work.clone(), run_at: job.new.run_at, reason: job.reason.clone() })
    }

    pub(super) fn counts(&self) -> JobCounts {
        let mut counts = JobCounts::default();
        for job in self.jobs.values() {
            match job.state {
                State::Waiting => counts.waiting += 1,
                State::Held { .. } => counts.running += 1,
                State::Dead { .. } => counts.dead += 1,
                State::Done { .. } => {}
            }
        }
        counts
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let ended = |job: &Job| match job.state {
            State::Done { at } | State::Dead { at } => at < before,
            State::Waiting | State::Held { .. } => false,
        };
        let gone: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| ended(job)).map(|(id, _)| *id).take(limit as usize).collect();
        for id in &gone {
            self.jobs.remove(id);
        }
        gone.len() as u64
    }
}

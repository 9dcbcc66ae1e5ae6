//! The jobs of the model: turns, claims with lease and fence, lanes, unique keys, ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::clock::Timestamp;
use crate::id::ConnectionId;
use crate::store::inbox::Halt;
use crate::store::{
    CallId, Claim, Claimed, EventRow, EventState, HeldJob, JobCounts, JobEnd, JobId, LINED_UP_MAX, Lease, LiveJob,
    Moved, NewJob, Queue, RunMode, StreamKey, WORKER_LOST, Work, tell_buried,
};

mod places;

use places::Places;

/// All jobs, found by where they stand: a model that is slow in tests is not used.
#[derive(Default)]
pub(super) struct JobsModel {
    jobs: BTreeMap<JobId, Job>,
    places: Places,
    stored: i64,
    unique: BTreeMap<String, JobId>,
    /// The highest turn claimed, by queue and priority.
    passed: HashMap<(Queue, i32), i64>,
    /// The turn given last, by queue, priority, group and tenant.
    last: HashMap<(Queue, i32, String, String), i64>,
    /// How many of those there were left when the passed ones were last forgotten.
    left: usize,
}

/// Least number of turns kept in mind before those that are passed are forgotten.
const FORGET_FROM: usize = 1_024;

struct Job {
    new: NewJob,
    state: State,
    attempts: u32,
    waits: u32,
    waits_from: Option<Timestamp>,
    fence: i64,
    turn: i64,
    /// Why it comes again.
    reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Stands in line.
    Ready,
    /// Waits for its moment.
    Later,
    /// Waits behind the lowest job of its lane.
    Behind,
    /// Its event's connection is halted.
    Parked(ConnectionId),
    Held {
        until: Timestamp,
    },
    Dead {
        at: Timestamp,
    },
}

/// What follows the end of a job elsewhere in the store.
pub(super) enum Followed {
    Event { row: EventRow, state: EventState, reason: Option<String> },
    DeadSync { key: StreamKey, mode: RunMode, reason: String },
    DeadCall { call: CallId, reason: String },
    DeadForward { row: EventRow, destination: String, job: JobId, reason: String },
}

impl Job {
    fn is_expired(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Held { until } if until <= now)
    }

    fn is_waiting(&self) -> bool {
        match self.state {
            State::Ready | State::Later | State::Behind | State::Parked(_) => true,
            State::Held { .. } | State::Dead { .. } => false,
        }
    }

    /// Whether it waits after it was claimed.
    fn is_tried(&self) -> bool {
        self.is_waiting() && self.fence > 0
    }

    /// Whether it holds the later ones of its lane up.
    fn is_first(&self, now: Timestamp) -> bool {
        let in_line = matches!(self.state, State::Ready | State::Parked(_));
        in_line || self.is_expired(now) || self.is_tried() || (self.is_waiting() && self.new.run_at <= now)
    }

    fn group(&self) -> &str {
        self.new.group.as_deref().unwrap_or_default()
    }

    fn queue(&self) -> Queue {
        self.new.work.queue()
    }
}

impl JobsModel {
    /// Adds a job; `now` lets it into line at once if it is due.
    pub(super) fn enqueue(&mut self, new: NewJob, now: Option<Timestamp>) -> JobId {
        let same = new.unique.as_ref().and_then(|key| self.unique.get(key)).copied();
        if let Some(id) = same {
            self.pull_forward(id, new.run_at, now);
            return id;
        }
        self.stored += 1;
        let id = JobId(self.stored);
        if let Some(key) = &new.unique {
            self.unique.insert(key.clone(), id);
        }
        let lowest = new.lane.as_ref().and_then(|lane| self.lowest(lane));
        let behind = lowest.is_some_and(|lowest| lowest.is_tried() || lowest.new.run_at <= new.run_at);
        let state = if behind { State::Behind } else { State::Later };
        let job = Job { new, state, attempts: 0, waits: 0, waits_from: None, fence: 0, turn: 0, reason: None };
        self.places.enter(id, &job);
        self.jobs.insert(id, job);
        if !behind {
            self.line_up(id, now);
        }
        id
    }

    fn pull_forward(&mut self, id: JobId, run_at: Timestamp, now: Option<Timestamp>) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.is_waiting() && run_at < job.new.run_at) else {
            return;
        };
        let lines_up = matches!(job.state, State::Later | State::Behind);
        self.change(id, |job| job.new.run_at = run_at);
        if lines_up {
            self.line_up(id, now);
        }
    }

    /// Changes a job, and where it stands with it.
    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.places.leave(id, job);
        change(job);
        self.places.enter(id, job);
    }

    fn remove(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.places.leave(id, &job);
        }
    }

    fn lowest(&self, lane: &str) -> Option<&Job> {
        self.jobs.get(self.places.lane(lane)?.all.first()?)
    }

    /// Lets a job into line if it is due at `now`; else it waits for its moment.
    fn line_up(&mut self, id: JobId, now: Option<Timestamp>) {
        let Some(job) = self.jobs.get(&id) else { return };
        if now.is_none_or(|now| job.new.run_at > now) {
            return self.change(id, |job| job.state = State::Later);
        }
        let (queue, priority, group) = (job.queue(), job.new.priority, job.group().to_owned());
        let tenant = job.new.tenant.as_ref().map_or_else(String::new, |tenant| tenant.as_str().to_owned());
        let passed = self.passed.get(&(queue, priority)).copied().unwrap_or(0);
        let last = self.last.entry((queue, priority, group, tenant)).or_insert(0);
        *last = passed.max(*last) + 1;
        let turn = *last;
        self.change(id, |job| (job.state, job.turn) = (State::Ready, turn));
    }

    /// Forgets who has been passed, now and then: their next turn is the same without.
    fn forget(&mut self) {
        if self.last.len() <= FORGET_FROM.max(2 * self.left) {
            return;
        }
        let Self { last, passed, .. } = self;
        last.retain(|(queue, priority, ..), turn| *turn > passed.get(&(*queue, *priority)).copied().unwrap_or(0));
        self.left = self.last.len();
    }

    /// Claims jobs; `halts` concern events, whose connection `connection_of` tells.
    pub(super) fn claim(
        &mut self,
        claim: &Claim,
        halts: &BTreeSet<Halt>,
        connection_of: impl Fn(EventRow) -> Option<ConnectionId>,
    ) -> (Vec<Claimed>, Vec<Followed>) {
        let Claim { now, max, queue, .. } = *claim;
        let mut followed = Vec::new();
        for id in self.used_up(queue, now) {
            tell_buried(id, queue, WORKER_LOST);
            followed.extend(self.kill(id, WORKER_LOST.to_owned(), now));
        }
        let events = queue == Queue::Events;
        if max == 0 || (events && halts.contains(&Halt::All)) {
            return (Vec::new(), followed);
        }
        if events {
            self.unpark(halts, now);
        }
        self.line_up_due(queue, now);
        let chosen = self.choose(
            claim,
            |job| {
                let Work::Event { row } = job.new.work else { return None };
                connection_of(row).filter(|one| halts.contains(&Halt::Connection(one.clone())))
            },
            |group| events && halts.contains(&Halt::Provider(group.to_owned())),
        );
        let until = now.plus(claim.hold);
        let claimed: Vec<Claimed> = chosen
            .into_iter()
            .filter_map(|id| {
                self.change(id, |job| {
                    job.state = State::Held { until };
                    job.attempts += 1;
                    job.fence += 1;
                });
                let job = self.jobs.get(&id)?;
                let passed = self.passed.entry((queue, job.new.priority)).or_insert(0);
                *passed = job.turn.max(*passed);
                Some(Claimed {
                    lease: Lease { job: id, fence: job.fence },
                    attempt: job.attempts,
                    attempts_max: job.new.attempts_max,
                    waits: job.waits,
                    waits_from: job.waits_from,
                    work: job.new.work.clone(),
                    group: job.new.group.clone().filter(|group| !group.is_empty()),
                    until,
                })
            })
            .collect();
        self.forget();
        (claimed, followed)
    }

    fn unpark(&mut self, halts: &BTreeSet<Halt>, now: Timestamp) {
        let resumed = |connection: &ConnectionId| !halts.contains(&Halt::Connection(connection.clone()));
        for id in self.places.parked(resumed, LINED_UP_MAX) {
            // It stood in line before, whatever the clock says by now.
            let run_at = self.jobs.get(&id).map_or(now, |job| job.new.run_at);
            self.line_up(id, Some(run_at));
        }
    }

    fn line_up_due(&mut self, queue: Queue, now: Timestamp) {
        for id in self.places.due(queue, now, LINED_UP_MAX) {
            self.line_up(id, Some(now));
        }
    }

    /// Walks the line, parks what is halted on the way, and returns what is free.
    fn choose(
        &mut self,
        claim: &Claim,
        halted: impl Fn(&Job) -> Option<ConnectionId>,
        halted_group: impl Fn(&str) -> bool,
    ) -> Vec<JobId> {
        let Claim { now, max, queue, .. } = *claim;
        let expired = self.places.expired(queue, now);
        let expired = expired.iter().filter_map(|id| Some((*id, self.jobs.get(id)?)));
        let mut line = self.places.walk(queue, expired);
        let (mut chosen, mut park) = (Vec::new(), Vec::new());
        let mut taken: HashMap<&str, u32> = HashMap::new();
        while chosen.len() < max as usize && park.len() < LINED_UP_MAX as usize {
            let has_room = |group: &str| taken.get(group).copied().unwrap_or(0) < claim.room.of(group);
            let Some(id) = line.next(|group| !halted_group(group) && has_room(group)) else { break };
            let Some(job) = self.jobs.get(&id) else { continue };
            if let Some(connection) = halted(job) {
                park.push((id, connection));
            } else if self.may_go(id, job, now) {
                chosen.push(id);
                *taken.entry(job.group()).or_default() += 1;
            }
        }
        for (id, connection) in park {
            self.change(id, |job| job.state = State::Parked(connection));
        }
        chosen
    }

    /// Tells whether no other job of its lane is held or goes before it.
    fn may_go(&self, id: JobId, job: &Job, now: Timestamp) -> bool {
        let Some(lane) = job.new.lane.as_ref().and_then(|lane| self.places.lane(lane)) else { return true };
        let is = |id: &JobId, what: &dyn Fn(&Job) -> bool| self.jobs.get(id).is_some_and(what);
        let held = lane.held.iter().any(|id| is(id, &|job| !job.is_expired(now)));
        !held && lane.all.iter().find(|id| is(id, &|job| job.is_first(now))) == Some(&id)
    }

    /// Returns the jobs whose lease ran out in their last attempt.
    fn used_up(&self, queue: Queue, now: Timestamp) -> Vec<JobId> {
        let used_up = |id: &JobId| self.jobs.get(id).is_some_and(|job| job.attempts >= job.new.attempts_max);
        self.places.expired(queue, now).into_iter().filter(used_up).collect()
    }

    /// Takes a job out of the live ones. Of one that is done nothing is kept.
    fn finish(&mut self, id: JobId, is_dead: bool, now: Timestamp) {
        let Some(job) = self.jobs.get(&id) else { return };
        if let Some(key) = &job.new.unique {
            self.unique.remove(key);
        }
        let lane = job.new.lane.clone();
        if is_dead {
            self.change(id, |job| job.state = State::Dead { at: now });
        } else {
            self.remove(id);
        }
        if let Some(lane) = lane {
            self.promote(&lane, now);
        }
    }

    /// Lets jobs of a lane go on: the lowest, and those due before it.
    fn promote(&mut self, name: &str, now: Timestamp) {
        let Some(lane) = self.places.lane(name) else { return };
        let lowest = lane.all.first().and_then(|id| Some((*id, self.jobs.get(id)?)));
        let Some((lowest, job)) = lowest else { return };
        let before = lane.behind.range(..(job.new.run_at, JobId(i64::MIN))).map(|(_, id)| *id);
        let mut go: BTreeSet<JobId> = before.collect();
        if job.state == State::Behind {
            go.insert(lowest);
        }
        for id in go {
            self.line_up(id, Some(now));
        }
    }

    fn kill(&mut self, id: JobId, reason: String, at: Timestamp) -> Option<Followed> {
        self.finish(id, true, at);
        match &self.jobs.get(&id)?.new.work {
            Work::Event { row } => Some(Followed::Event { row: *row, state: EventState::Dead, reason: Some(reason) }),
            Work::Sync { key, mode } => Some(Followed::DeadSync { key: key.clone(), mode: *mode, reason }),
            Work::Approved { key, .. } => Some(Followed::DeadSync { key: key.clone(), mode: RunMode::Full, reason }),
            Work::Call { call } => Some(Followed::DeadCall { call: *call, reason }),
            Work::Forward { row, destination } => {
                Some(Followed::DeadForward { row: *row, destination: destination.clone(), job: id, reason })
            }
            Work::Watch { .. }
            | Work::Retention
            | Work::Chore { .. }
            | Work::Replay { .. }
            | Work::Reschedule { .. } => None,
        }
    }

    /// Forgets the job an event died with.
    pub(super) fn seen_to(&mut self, event: EventRow) {
        for id in self.places.dead_of(event) {
            self.remove(id);
        }
    }

    /// Forgets a job that died.
    pub(super) fn seen(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| matches!(job.state, State::Dead { .. })) {
            self.remove(id);
        }
    }

    /// Counts the unfinished jobs whose unique key begins so.
    pub(super) fn count_keys(&self, prefix: &str) -> u64 {
        let behind = self.unique.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        behind.take_while(|(key, _)| key.starts_with(prefix)).count() as u64
    }

    pub(super) fn holds(&self, lease: Lease) -> bool {
        self.jobs.get(&lease.job).is_some_and(|job| job.fence == lease.fence && matches!(job.state, State::Held { .. }))
    }

    /// Tells whether the lease is good and of this work.
    pub(super) fn works_on(&self, lease: Lease, work: &Work) -> bool {
        self.holds(lease) && self.jobs.get(&lease.job).is_some_and(|job| job.new.work == *work)
    }

    /// Returns the call a job makes, if it makes one.
    pub(super) fn call_of(&self, lease: Lease) -> Option<CallId> {
        if let Work::Call { call } = self.jobs.get(&lease.job)?.new.work { Some(call) } else { None }
    }

    pub(super) fn extend(&mut self, lease: Lease, until: Timestamp) -> bool {
        if !self.holds(lease) {
            return false;
        }
        self.change(lease.job, |job| job.state = State::Held { until });
        true
    }

    /// Ends a held job.
    pub(super) fn end(&mut self, lease: Lease, end: JobEnd, now: Timestamp) -> Option<Followed> {
        let job = self.jobs.get_mut(&lease.job)?;
        let row = if let Work::Event { row } = job.new.work { Some(row) } else { None };
        match end {
            JobEnd::Done => {
                self.finish(lease.job, false, now);
                row.map(|row| Followed::Event { row, state: EventState::Done, reason: None })
            }
            JobEnd::Ignored => {
                self.finish(lease.job, false, now);
                row.map(|row| Followed::Event { row, state: EventState::Ignored, reason: None })
            }
            JobEnd::Retry { at, reason } if job.attempts < job.new.attempts_max => {
                self.again(lease.job, at, &reason, now);
                row.map(|row| Followed::Event { row, state: EventState::Pending, reason: Some(reason) })
            }
            JobEnd::Wait { at, reason, anew } => {
                if anew {
                    (job.attempts, job.waits, job.waits_from) = (1, 0, None);
                }
                job.attempts -= 1;
                job.waits += 1;
                job.waits_from.get_or_insert(now);
                self.again(lease.job, at, &reason, now);
                row.map(|row| Followed::Event { row, state: EventState::Pending, reason: Some(reason) })
            }
            JobEnd::Release => {
                self.change(lease.job, |job| {
                    job.state = State::Ready;
                    job.attempts -= 1;
                });
                None
            }
            JobEnd::Retry { reason, .. } | JobEnd::Dead { reason } => self.kill(lease.job, reason, now),
        }
    }

    /// Lets a held job come again.
    fn again(&mut self, id: JobId, at: Timestamp, reason: &str, now: Timestamp) {
        self.change(id, |job| (job.new.run_at, job.reason) = (at, Some(reason.to_owned())));
        self.line_up(id, Some(now));
    }

    pub(super) fn oldest_due(&self, queue: Queue, now: Timestamp) -> Option<Timestamp> {
        let due = self.places.firsts(queue).filter_map(|id| Some(self.jobs.get(&id)?.new.run_at));
        due.min().filter(|run_at| *run_at <= now)
    }

    /// Moves a job that was never claimed and is not due.
    pub(super) fn move_to(&mut self, unique: &str, to: Timestamp, now: Timestamp) -> Moved {
        let found = self.unique.get(unique).and_then(|id| Some((*id, self.jobs.get(id)?)));
        let Some((id, job)) = found else { return Moved::Missing };
        if !matches!(job.state, State::Later | State::Behind) || job.fence > 0 || job.new.run_at <= now {
            return Moved::Busy;
        }
        let lane = job.new.lane.clone();
        self.change(id, |job| (job.new.run_at, job.state) = (to, State::Later));
        if let Some(lane) = lane {
            self.promote(&lane, now);
        }
        Moved::Moved
    }

    pub(super) fn held(&self, lease: Lease) -> Option<HeldJob> {
        let job = self.jobs.get(&lease.job).filter(|_| self.holds(lease))?;
        Some(HeldJob { unique: job.new.unique.clone(), run_at: job.new.run_at, attempt: job.attempts })
    }

    /// Tells whether the job of a unique key is not finished.
    pub(super) fn is_live(&self, unique: &str) -> bool {
        self.unique.contains_key(unique)
    }

    pub(super) fn live_of(&self, unique: &str) -> Option<LiveJob> {
        let job = self.jobs.get(self.unique.get(unique)?)?;
        Some(LiveJob { work: job.new.work.clone(), run_at: job.new.run_at, reason: job.reason.clone() })
    }

    pub(super) fn counts(&self) -> JobCounts {
        let (running, dead) = (self.places.held() as u64, self.places.dead() as u64);
        JobCounts { waiting: self.jobs.len() as u64 - running - dead, running, dead }
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let gone = self.places.dead_before(before, limit);
        for id in &gone {
            self.remove(*id);
        }
        gone.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Room;

    /// Fails when the turns of tenants that are passed are kept for ever, or one that is not passed is forgotten.
    #[test]
    fn turns_that_are_passed_are_forgotten() {
        let mut model = JobsModel::default();
        let new = |tenant: &str| NewJob {
            work: Work::Retention,
            lane: None,
            group: None,
            tenant: Some(tenant.into()),
            unique: None,
            priority: 0,
            run_at: Timestamp(0),
            attempts_max: 1,
        };
        let now = Timestamp(0);
        // More urgent work keeps it waiting.
        for _ in 0..3 {
            model.enqueue(NewJob { priority: -1, ..new("waits") }, Some(now));
        }
        let claim =
            Claim { now, hold: Duration::from_secs(9), max: 1, queue: Queue::Background, room: Room::default() };
        let halts = BTreeSet::new();
        for n in 0..4 * FORGET_FROM {
            model.enqueue(new(&n.to_string()), Some(now));
            let (claimed, _) = model.claim(&claim, &halts, |_| None);
            model.end(claimed[0].lease, JobEnd::Done, now);
        }
        assert!(model.last.len() <= FORGET_FROM + 1, "{}", model.last.len());
        let waits = (Queue::Background, -1, String::new(), "waits".to_owned());
        assert_eq!(model.last[&waits], 3, "its jobs still stand in line");
    }
}

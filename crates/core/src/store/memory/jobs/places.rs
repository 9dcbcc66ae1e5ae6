//! Where the jobs of the model stand: in line, until their moment, in their lane, held, parked, dead. It answers what a
//! claim asks without going past all jobs, and holds nothing that a job does not say itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_set};

use super::{Job, State};
use crate::clock::Timestamp;
use crate::id::ConnectionId;
use crate::store::{EventRow, JobId, Queue, Work};

/// The places of all jobs.
#[derive(Default)]
pub(super) struct Places {
    queues: HashMap<Queue, OfQueue>,
    lanes: HashMap<String, Lane>,
    parked: BTreeMap<ConnectionId, BTreeSet<JobId>>,
    dead: BTreeSet<(Timestamp, JobId)>,
    dead_events: BTreeSet<(EventRow, JobId)>,
}

/// A turn and the job that has it.
type Turn = (i64, JobId);

/// The jobs of a queue.
#[derive(Default)]
struct OfQueue {
    /// Those in line, by priority (highest first) and group.
    line: BTreeMap<Reverse<i32>, BTreeMap<String, BTreeSet<Turn>>>,
    /// Those that wait for their moment.
    later: BTreeSet<(Timestamp, JobId)>,
    /// Those that are held, by when their lease ends.
    held: BTreeSet<(Timestamp, JobId)>,
}

/// The unfinished jobs of a lane.
#[derive(Default)]
pub(super) struct Lane {
    /// All of them.
    pub(super) all: BTreeSet<JobId>,
    /// Those that are held.
    pub(super) held: BTreeSet<JobId>,
    /// Those that wait behind its lowest, by when they are due.
    pub(super) behind: BTreeSet<(Timestamp, JobId)>,
}

impl Places {
    /// Enters a job where it stands.
    pub(super) fn enter(&mut self, id: JobId, job: &Job) {
        let queue = || job.new.work.queue();
        match &job.state {
            State::Ready => {
                let line = self.queues.entry(queue()).or_default().line.entry(Reverse(job.new.priority)).or_default();
                line.entry(job.group().to_owned()).or_default().insert((job.turn, id));
            }
            State::Later => {
                self.queues.entry(queue()).or_default().later.insert((job.new.run_at, id));
            }
            State::Held { until } => {
                self.queues.entry(queue()).or_default().held.insert((*until, id));
            }
            State::Parked(connection) => {
                self.parked.entry(connection.clone()).or_default().insert(id);
            }
            State::Behind => {}
            State::Dead { at } => {
                self.dead.insert((*at, id));
                if let Work::Event { row } = job.new.work {
                    self.dead_events.insert((row, id));
                }
                return;
            }
        }
        let Some(lane) = &job.new.lane else { return };
        let lane = self.lanes.entry(lane.clone()).or_default();
        lane.all.insert(id);
        match job.state {
            State::Held { .. } => {
                lane.held.insert(id);
            }
            State::Behind => {
                lane.behind.insert((job.new.run_at, id));
            }
            State::Ready | State::Later | State::Parked(_) | State::Dead { .. } => {}
        }
    }

    /// Takes a job from where it stands.
    pub(super) fn leave(&mut self, id: JobId, job: &Job) {
        if let Some(of) = self.queues.get_mut(&job.new.work.queue()) {
            of.leave(id, job);
        }
        match &job.state {
            State::Parked(connection) => {
                if let Some(parked) = self.parked.get_mut(connection) {
                    parked.remove(&id);
                    if parked.is_empty() {
                        self.parked.remove(connection);
                    }
                }
            }
            State::Dead { at } => {
                self.dead.remove(&(*at, id));
                if let Work::Event { row } = job.new.work {
                    self.dead_events.remove(&(row, id));
                }
            }
            State::Ready | State::Later | State::Held { .. } | State::Behind => {}
        }
        let Some(name) = &job.new.lane else { return };
        let Some(lane) = self.lanes.get_mut(name) else { return };
        lane.all.remove(&id);
        lane.held.remove(&id);
        lane.behind.remove(&(job.new.run_at, id));
        if lane.all.is_empty() {
            self.lanes.remove(name);
        }
    }

    pub(super) fn lane(&self, name: &str) -> Option<&Lane> {
        self.lanes.get(name)
    }

    /// Returns up to `limit` jobs whose moment has come, by that, then number.
    pub(super) fn due(&self, queue: Queue, now: Timestamp, limit: u32) -> Vec<JobId> {
        let Some(of) = self.queues.get(&queue) else { return Vec::new() };
        of.later.range(..=(now, JobId(i64::MAX))).take(limit as usize).map(|(_, id)| *id).collect()
    }

    /// Returns the jobs whose lease has run out, by number.
    pub(super) fn expired(&self, queue: Queue, now: Timestamp) -> BTreeSet<JobId> {
        let Some(of) = self.queues.get(&queue) else { return BTreeSet::new() };
        of.held.range(..=(now, JobId(i64::MAX))).map(|(_, id)| *id).collect()
    }

    /// Returns up to `limit` jobs of connections that are `resumed`, by connection, then number.
    pub(super) fn parked(&self, resumed: impl Fn(&ConnectionId) -> bool, limit: u32) -> Vec<JobId> {
        let of = self.parked.iter().filter(|(connection, _)| resumed(connection));
        of.flat_map(|(_, parked)| parked).take(limit as usize).copied().collect()
    }

    /// Begins a walk through a queue in the order of its line: over all that stand in it, and over `others` besides.
    pub(super) fn walk<'a>(&'a self, queue: Queue, others: impl Iterator<Item = (JobId, &'a Job)>) -> Walk<'a> {
        let mut walk = Walk { sources: Vec::new(), heads: BinaryHeap::new() };
        let line = self.queues.get(&queue).into_iter().flat_map(|of| &of.line);
        for (priority, groups) in line {
            for (group, turns) in groups {
                walk.add(Source { group, priority: *priority, rest: turns.iter() });
            }
        }
        for (id, job) in others {
            let priority = Reverse(job.new.priority);
            let source = walk.sources.len();
            walk.sources.push(Source { group: job.group(), priority, rest: btree_set::Iter::default() });
            walk.heads.push(Reverse((priority, (job.turn, id), source)));
        }
        walk
    }

    /// Returns the first in line of each group and priority, and the first of those that wait for their moment.
    pub(super) fn firsts(&self, queue: Queue) -> impl Iterator<Item = JobId> {
        let of = self.queues.get(&queue);
        let in_line = of.into_iter().flat_map(|of| of.line.values().flat_map(BTreeMap::values));
        let later = of.and_then(|of| of.later.first());
        in_line.filter_map(|turns| turns.first()).map(|(_, id)| *id).chain(later.map(|(_, id)| *id))
    }

    pub(super) fn held(&self) -> usize {
        self.queues.values().map(|of| of.held.len()).sum()
    }

    pub(super) fn dead(&self) -> usize {
        self.dead.len()
    }

    /// Returns up to `limit` jobs that died before a moment, those that died first before others.
    pub(super) fn dead_before(&self, before: Timestamp, limit: u32) -> Vec<JobId> {
        self.dead.range(..(before, JobId(i64::MIN))).take(limit as usize).map(|(_, id)| *id).collect()
    }

    /// Returns the jobs an event died with.
    pub(super) fn dead_of(&self, event: EventRow) -> Vec<JobId> {
        let of = self.dead_events.range((event, JobId(i64::MIN))..=(event, JobId(i64::MAX)));
        of.map(|(_, id)| *id).collect()
    }
}

impl OfQueue {
    fn leave(&mut self, id: JobId, job: &Job) {
        match job.state {
            State::Ready => {
                let priority = Reverse(job.new.priority);
                let Some(groups) = self.line.get_mut(&priority) else { return };
                let Some(turns) = groups.get_mut(job.group()) else { return };
                turns.remove(&(job.turn, id));
                if turns.is_empty() {
                    groups.remove(job.group());
                }
                if groups.is_empty() {
                    self.line.remove(&priority);
                }
            }
            State::Later => {
                self.later.remove(&(job.new.run_at, id));
            }
            State::Held { until } => {
                self.held.remove(&(until, id));
            }
            State::Parked(_) | State::Behind | State::Dead { .. } => {}
        }
    }
}

/// A walk through a line.
pub(super) struct Walk<'a> {
    sources: Vec<Source<'a>>,
    /// The next of each source, with its number.
    heads: BinaryHeap<Reverse<(Reverse<i32>, Turn, usize)>>,
}

/// The jobs of one group and priority.
struct Source<'a> {
    group: &'a str,
    priority: Reverse<i32>,
    rest: btree_set::Iter<'a, Turn>,
}

impl<'a> Walk<'a> {
    fn add(&mut self, mut source: Source<'a>) {
        if let Some(turn) = source.rest.next() {
            self.heads.push(Reverse((source.priority, *turn, self.sources.len())));
            self.sources.push(source);
        }
    }

    /// Returns the next job of a group that is taken. One that is not is left for good: its other jobs are not gone past.
    pub(super) fn next(&mut self, takes: impl Fn(&str) -> bool) -> Option<JobId> {
        loop {
            let Reverse((priority, (_, id), number)) = self.heads.pop()?;
            let Some(source) = self.sources.get_mut(number).filter(|source| takes(source.group)) else { continue };
            if let Some(turn) = source.rest.next() {
                self.heads.push(Reverse((priority, *turn, number)));
            }
            return Some(id);
        }
    }
}

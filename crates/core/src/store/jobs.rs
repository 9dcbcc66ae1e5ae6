//! The one table of all work: claimed with a lease and a fencing number, settled with everything that must happen if
//! and only if the settling happens.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{CallId, Effect, EventRow, Merge, MergeCounts, OutboxChange, ReplayFilter, RunMode, StreamKey};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{RecordId, TenantId};
use crate::sync::watch::Watch;

/// Why a job is dead whose last attempt's worker never came back.
pub const WORKER_LOST: &str = "the worker was lost in the last attempt";

/// How many jobs a claim lets into line at most, each of those that became due and of those whose connection was
/// resumed: bounds how long it takes.
pub const LINED_UP_MAX: u32 = 1_000;

/// Identifies a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// What a job does. Stored as JSON; new kinds may be added, old ones are never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Work {
    /// Handles one event of the inbox.
    Event {
        /// The event.
        row: EventRow,
    },
    /// Runs a sync of one stream.
    Sync {
        /// The stream.
        key: StreamKey,
        /// Full or incremental.
        mode: RunMode,
    },
    /// Runs a full sync of one stream whose deletions somebody has looked at and approved.
    Approved {
        /// The stream.
        key: StreamKey,
        /// How many they were ([`RunEnd::deletions_approved`](super::RunEnd::deletions_approved)). A job of before they
        /// were counted has the word it was given: however many.
        #[serde(default = "however_many")]
        deletions: u64,
    },
    /// Opens a push channel for a stream, or the next one before the one that is open ends.
    Watch {
        /// The stream.
        key: StreamKey,
        /// The channel that is open. Kept here and nowhere else, so that a channel and its renewal are one row.
        open: Option<Watch>,
    },
    /// Forwards one event to one destination.
    Forward {
        /// The event.
        row: EventRow,
        /// The destination's name.
        destination: String,
    },
    /// Makes a call of the outbox.
    Call {
        /// The call.
        call: CallId,
    },
    /// Removes what its retention has passed.
    Retention,
    /// Does a chore.
    Chore {
        /// Which.
        name: String,
        /// Where it goes on, for one that is done in steps.
        at: Option<String>,
    },
    /// Moves the waiting runs of a stream to the moments of its schedules, after the run that is under way.
    Reschedule {
        /// The stream.
        key: StreamKey,
    },
    /// Replays events by filter, step by step.
    Replay {
        /// Which events.
        filter: ReplayFilter,
        /// The last row looked at.
        after: EventRow,
        /// How many were replayed so far.
        replayed: u64,
        /// It ends before what was received at this moment or later, whatever its filter says: when it was asked for. `None`
        /// in jobs of before this was kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends: Option<Timestamp>,
        /// Why it ended before its end. It waits then, to be forgotten, or to go on when somebody asks for it again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        died: Option<Died>,
    },
}

/// How a replay ended that did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Died {
    /// Why, in one phrase of ours.
    pub error: String,
    /// Until when that is told: as long as ended jobs are kept.
    pub until: Timestamp,
}

/// What an approval allows that says no number.
fn however_many() -> u64 {
    u64::MAX
}

/// A job to add.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewJob {
    /// What to do.
    pub work: Work,
    /// Jobs of one lane run one at a time, in order of their numbers.
    pub lane: Option<String>,
    /// Jobs of one group share a cap on how many are under way at once: a provider's events, calls to one provider,
    /// what is forwarded to one destination. `None` is the group of all that have no other.
    pub group: Option<String>,
    /// Whose turn it takes among the jobs of its group.
    pub tenant: Option<TenantId>,
    /// While a job with this key is waiting or running, another is not added.
    pub unique: Option<String>,
    /// Higher goes first: however many there are, none of a lower one is claimed before it.
    pub priority: i32,
    /// Not before this moment.
    pub run_at: Timestamp,
    /// Attempts before it is dead.
    pub attempts_max: u32,
}

/// The proof of holding a job: every write on its behalf names it, and a number that is not the row's is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The fencing number: grows with every claim of the job.
    pub fence: i64,
}

/// A claimed job.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Claimed {
    /// The proof of holding it.
    pub lease: Lease,
    /// Which attempt this is, from 1. A claim counts, so a worker that dies has used one.
    pub attempt: u32,
    /// How many attempts it has.
    pub attempts_max: u32,
    /// How often it has waited without being tried ([`JobEnd::Wait`]).
    pub waits: u32,
    /// When the first of those waits began.
    pub waits_from: Option<Timestamp>,
    /// What to do.
    pub work: Work,
    /// The group it counts in.
    pub group: Option<String>,
    /// Until when it is held.
    pub until: Timestamp,
}

/// How many jobs of each group a claim may take.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Room {
    /// Of a group that is not named.
    pub each: u32,
    /// Of those that are.
    pub of: BTreeMap<String, u32>,
    /// Of the jobs that have no group.
    pub others: u32,
}

impl Default for Room {
    /// Room for all there are.
    fn default() -> Self {
        Self { each: u32::MAX, of: BTreeMap::new(), others: u32::MAX }
    }
}

impl Room {
    /// Returns how many jobs of a group may be taken; the empty name stands for no group.
    #[must_use]
    pub fn of(&self, group: &str) -> u32 {
        match self.of.get(group) {
            Some(room) => *room,
            None if group.is_empty() => self.others,
            None => self.each,
        }
    }
}

/// What to claim.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Claim {
    /// The present moment.
    pub now: Timestamp,
    /// How long to hold.
    pub hold: Duration,
    /// How many jobs at most.
    pub max: u32,
    /// Which kinds of work.
    pub queue: Queue,
    /// How many of each group.
    pub room: Room,
}

/// Which kinds of work a claim takes. They are claimed apart, so that a long run or a slow receiver holds up nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: workers exist per queue")]
pub enum Queue {
    /// Events of the inbox.
    Events,
    /// Syncs and chores.
    Background,
    /// Calls of the outbox.
    Calls,
    /// Events on their way to destinations.
    Forwards,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 4] = [Self::Events, Self::Background, Self::Calls, Self::Forwards];

    /// Returns the queue's name in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Background => "background",
            Self::Calls => "calls",
            Self::Forwards => "forwards",
        }
    }
}

impl Work {
    /// Returns the event a job handles, if it is one's.
    #[must_use]
    pub fn event(&self) -> Option<EventRow> {
        if let Self::Event { row } = self { Some(*row) } else { None }
    }

    /// Returns the queue the work waits in.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self {
            Self::Event { .. } => Queue::Events,
            Self::Forward { .. } => Queue::Forwards,
            Self::Call { .. } => Queue::Calls,
            Self::Sync { .. }
            | Self::Approved { .. }
            | Self::Watch { .. }
            | Self::Retention
            | Self::Chore { .. }
            | Self::Replay { .. }
            | Self::Reschedule { .. } => Queue::Background,
        }
    }
}

/// Tells the log that a job is given up for good, once, whoever gave it up: a worker that settled it, or a store at a claim.
/// `reason` is a phrase of ours, without payload.
pub fn tell_buried(job: JobId, queue: Queue, reason: &str) {
    tracing::warn!(job = job.0, queue = queue.as_str(), reason, "a job is given up");
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: stores decide on each")]
pub enum JobEnd {
    /// Done. The job of a call that waits by then, as somebody has decided while the job was held, comes again at once
    /// instead.
    Done,
    /// Done; the event it is of, if it is of one, was wanted by nobody and is ignored.
    Ignored,
    /// Try again at a moment. Beyond `attempts_max` it becomes dead instead.
    Retry {
        /// When.
        at: Timestamp,
        /// Why, in one phrase without payload.
        reason: String,
    },
    /// Nothing could be tried: come again at a moment, and the attempt is not counted, but the wait is. In its lane the
    /// job keeps its place as one that is tried again does.
    Wait {
        /// When.
        at: Timestamp,
        /// Why, in one phrase without payload.
        reason: String,
        /// It has come on since it last waited: its attempts begin anew, and this wait is its first.
        anew: bool,
    },
    /// Give the job back untouched (shutdown): the attempt is not counted, the moment it was due stays.
    Release,
    /// Give up.
    Dead {
        /// Why, in one phrase without payload.
        reason: String,
    },
}

/// Settles a claimed job, with everything that must happen if and only if the settling happens.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Settlement {
    /// The proof of holding it.
    pub lease: Lease,
    /// How it ended.
    pub end: JobEnd,
    /// When.
    pub now: Timestamp,
    /// Writes to the same database, committed with the settling: exactly-once effects.
    pub effects: Vec<Effect>,
    /// Changes of records to merge in the same commit, in order. A change the rule cannot order is named in
    /// [`Settled::Fetch`] and nothing of this settlement is committed.
    pub merges: Vec<Merge>,
    /// Jobs to add in the same commit, after the job has ended (its own unique key is free by then).
    pub follow: Vec<NewJob>,
    /// Calls to keep, and what the job's own call came to. A call whose unique key another one has is answered as
    /// [`Settled::EffectFailed`].
    pub outbox: OutboxChange,
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: workers decide on each")]
pub enum Settled {
    /// Committed, with what the merges did.
    Committed(MergeCounts),
    /// The job is another worker's by now: nothing was written.
    LeaseLost,
    /// The named records cannot be ordered: nothing was written; fetch them and settle again with the reads.
    Fetch(Vec<(StreamKey, RecordId)>),
    /// An effect failed: nothing was written. The phrase names the statement's error without its values.
    EffectFailed(String),
}

/// Runs all work: one table, claimed with a lease and a fencing number.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Adds jobs. A unique key already waiting or running gives the existing job; a waiting one is pulled forward to
    /// the earlier of the two moments. (Unique keys and lanes are shared by all queues.) A job stands in line from
    /// the claim on that finds it due; see [`Jobs::claim`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>>;

    /// Claims jobs that stand in line and those whose lease ran out (`until <= now`): by priority (highest first),
    /// then turn, then number, no more of a group than there is room for.
    ///
    /// - **Turns.** Whoever enters the line gets the turn `max(passed, last) + 1`: `passed` is the highest turn claimed
    ///   so far of its queue and priority, `last` the turn given last to its tenant in its group, queue and priority.
    ///   (One without a tenant shares its turns with all such of the group.) So a tenant with a hundred times the work
    ///   delays nobody else's by more than one of its jobs per turn, and rest gives no credit. A turn is kept until the
    ///   job enters the line again.
    /// - **Into line** comes an event's job when it is appended or replayed; one that follows a settlement or waits for
    ///   another attempt at once if it is due at that moment, and a call's if it is due when the call is made
    ///   ([`KeptCall::created_at`](super::KeptCall::created_at)) or decided on; any other job by the claim that finds it
    ///   due (`run_at <= now`): at most [`LINED_UP_MAX`] a claim, by due time, then number. Who stands in line stays
    ///   there, also when the clock is set back. A job given back has its old turn. A claim with `max` 0 moves nobody.
    /// - **Lanes.** A lane is blocked while one of its jobs is held, and by a job of it with a lower number that stands
    ///   in line, is due, or was claimed before. A job never claimed that waits for a later moment (a schedule)
    ///   blocks nothing. A claim takes at most one job of a lane. One whose lane is certain to be blocked when it is
    ///   added (the lowest job of the lane was claimed before or is due no later) waits outside the line; when
    ///   a job of the lane ends, the then lowest and those due before it enter the line if due.
    /// - **Halts** ([`Inbox::halt`](super::Inbox::halt)). While all events are halted none is claimed, and of a halted
    ///   provider none of the group of its name. A job of a halted connection's event that a claim comes by leaves the
    ///   line, at most [`LINED_UP_MAX`] a claim, and no attempt is counted; once the connection is resumed claims let
    ///   them in again, by connection, then number.
    /// - A job whose attempts are used up when its lease runs out becomes dead instead, all of them in the queue,
    ///   whatever `max` says, and before anything is claimed: [`Jobs::settle`] says what follows.
    ///
    /// Several processes on one store know each other's `passed`, and each other's `last` for what was appended.
    ///
    /// - The attempt counts from the claim on; `fence` grows by one with every claim, from 1; `until` is
    ///   `now + hold`.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>>;

    /// Settles jobs, one after another; each is atomic by itself, all share one commit. One answer per settlement, in
    /// order. A lease is good while the job is held under its fence, also past its `until` as long as no other claim
    /// took it.
    ///
    /// Within one: the lease is checked, then the merges are made, then the effects, then calls are kept, then the
    /// result of the job's call is written, then the job ends, then `follow` is added; the first of [`Settled::LeaseLost`], [`Settled::Fetch`] (all records that cannot be ordered, each
    /// once, in order of appearance), [`Settled::EffectFailed`] is the answer and nothing of it is written.
    ///
    /// What follows a job's end: for [`Work::Event`] the event's state (`Done` → done without a reason, `Dead` → dead
    /// with its reason, `Retry` and `Wait` → pending with their reason, `Release` → unchanged); for [`Work::Sync`] and
    /// [`Work::Approved`], `Dead` fails the stream's unfinished run of the job's mode with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) and the reason, at `now`; for [`Work::Call`], `Dead` ends a
    /// call that waits or is on its way with the reason: in review if it may have been made, else failed. `Retry` on the last attempt is
    /// `Dead`. A job that died at a claim has the reason [`WORKER_LOST`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): nothing
    /// was written.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>>;

    /// Extends leases: the job is held until `until`, also if that is earlier than before. `false` where the lease is
    /// lost.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn extend(&self, leases: Vec<Lease>, until: Timestamp) -> Result<Vec<bool>>;

    /// Counts jobs waiting, running and dead, over all queues. Kept as counters or bounded by the live jobs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn job_counts(&self) -> Result<JobCounts>;

    /// Tells since when the waiting job of a queue has been due that has waited longest; `None` when none is due at
    /// `now`. Looked at are the first in line of each group and priority and the earliest of those that wait for their
    /// moment, so that it costs the same for any number of jobs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn oldest_due(&self, queue: Queue, now: Timestamp) -> Result<Option<Timestamp>>;

    /// Reads the unfinished jobs of unique keys: one answer per key, in order; `None` where no job waits or runs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn live_jobs(&self, unique: Vec<String>) -> Result<Vec<Option<LiveJob>>>;

    /// Waits until a job may be due in this process sooner than polling would find it. Spurious wake-ups are lawful.
    async fn wait_for_work(&self, queue: Queue);

    /// Removes up to `limit` dead jobs that ended before `before`, those that ended first before others. (Of a job that is
    /// done nothing is kept, nor of the one an event died with that is replayed.) Returns how many went. Its cost is bounded by `limit`, whatever else waits.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn prune_jobs(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// A job that waits or runs, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct LiveJob {
    /// What it does.
    pub work: Work,
    /// When it is or was due.
    pub run_at: Timestamp,
    /// Why it comes again, when its last attempt ended with [`JobEnd::Retry`] or [`JobEnd::Wait`].
    pub reason: Option<String>,
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct JobCounts {
    /// Waiting, due or not.
    pub waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Given up.
    pub dead: u64,
}

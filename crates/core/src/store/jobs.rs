//! The one table of all work: claimed with a lease and a fencing number, settled with everything that must happen if
//! and only if the settling happens.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{CallId, Effect, EventRow, Merge, MergeCounts, OutboxChange, RunMode, StreamKey};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{RecordId, TenantId};
use crate::sync::watch::Watch;

/// Why a job is dead whose last attempt's worker never came back.
pub const WORKER_LOST: &str = "the worker was lost in the last attempt";

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
    /// Runs a full sync of one stream whose deletions somebody has approved, however many they are.
    Approved {
        /// The stream.
        key: StreamKey,
    },
    /// Opens a push channel for a stream, or the next one before the one that is open ends.
    Watch {
        /// The stream.
        key: StreamKey,
        /// The channel that is open. Kept here and nowhere else, so that a channel and its renewal are one row.
        open: Option<Watch>,
    },
    /// Makes a call of the outbox.
    Call {
        /// The call.
        call: CallId,
    },
    /// Removes what its retention has passed.
    Retention,
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
    /// Higher goes first.
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
    /// What to do.
    pub work: Work,
    /// Until when it is held.
    pub until: Timestamp,
}

/// What to claim.
#[derive(Clone, Copy, Debug)]
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
    /// Returns the queue the work waits in.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self {
            Self::Event { .. } => Queue::Events,
            Self::Call { .. } => Queue::Calls,
            Self::Sync { .. } | Self::Approved { .. } | Self::Watch { .. } | Self::Retention => Queue::Background,
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: stores decide on each")]
pub enum JobEnd {
    /// Done.
    Done,
    /// Try again at a moment. Beyond `attempts_max` it becomes dead instead.
    Retry {
        /// When.
        at: Timestamp,
        /// Why, in one phrase without payload.
        reason: String,
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
    /// the earlier of the two moments. (Unique keys and lanes are shared by all queues.)
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>>;

    /// Claims jobs that are due (`run_at <= now`): ready ones and those whose lease ran out (`until <= now`); by
    /// priority (highest first), then due time, then number.
    ///
    /// - A lane is blocked while one of its jobs is held, and by a job of it with a lower number that is due or that
    ///   waits for another attempt. A job never tried that waits for a later moment (a schedule) blocks nothing. A
    ///   claim takes at most one job of a lane.
    /// - A job whose attempts are used up when its lease runs out becomes dead instead, all of them in the queue,
    ///   whatever `max` says, and before anything is claimed: [`Jobs::settle`] says what follows.
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
    /// with its reason, `Retry` → pending with its reason, `Release` → unchanged); for [`Work::Sync`] and
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
    /// `now`. A job that waits behind another of its lane may be left out. Costs the same for any number of jobs.
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

    /// Removes up to `limit` finished (done and dead) jobs that ended before `before`, lowest numbers first. Returns
    /// how many went.
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
    /// Why it comes again, when its last attempt ended with [`JobEnd::Retry`].
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

//! What a store must do, as traits of values, and the in-memory model that says exactly what they mean.
//!
//! The durable stores pass the same suite as [`memory::MemoryStore`], step by step. All times are arguments. Every
//! method is atomic: it happens wholly or not at all, and when it returns `Ok` it is durable.
//!
//! # What the numbers mean, the same in every store
//! - Event rows, jobs and runs are numbered from 1 in the order they are stored; a number is never used again.
//! - A stream's commit counter ([`StreamStatus::commits`]) grows by one with every commit that brings at least one
//!   change for the stream (a page, a settlement, a [`Records::merge`]), whatever the changes do, and with a run's end
//!   that deletes. All rows a commit writes or confirms get the new number as their `observed`.
//! - A stream's feed number ([`StreamStatus::head`]) grows by one with every change whose verdict is
//!   [`crate::sync::merge::Verdict::Write`], in the order of the changes, at the end of the commit; deletions of a
//!   run's end follow in the order of the record ids. A record has only its newest number.
//! - Changes of one commit are merged one after another, each against what the one before left.
//! - [`crate::sync::merge::span_after`] gives the span a row has after a verdict, and
//!   [`crate::sync::merge::content_hash`] its hash.
//! - A write of a record that exists counts as updated; of one that does not, or that is a tombstone, as added (and
//!   the feed shows it as [`ChangeKind::Added`] until it changes again; `first_seen` stays). A write of
//!   [`crate::sync::State::Deleted`] counts as deleted, also for a record never seen: its tombstone is kept.
//! - Texts are compared byte by byte.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{ErrorKind, Outcome, Result};
use crate::id::{ConnectionId, EndpointId, EventId, RecordId, StreamName, TenantId};
use crate::sync::{Change, Cursor, Span};

pub mod authorizations;
#[cfg(test)]
pub(crate) mod faulty;
pub mod grants;
pub mod keys;
pub mod memory;

pub use authorizations::{Authorizations, PendingRow, SessionRow, TokenHash};
pub use grants::{
    EndReason, GrantClaim, GrantKey, GrantLease, GrantState, Grants, NewGrant, NewTokens, Revocation, StoredGrant,
};
pub use keys::{Keys, MasterState, MasterStatus, Retirement, Rewrapped, WrappedKey};

/// Attempts of the job an inbox gives every wanted event. A worker may give up earlier.
pub const EVENT_ATTEMPTS_MAX: u32 = 20;

/// Why a job is dead whose last attempt's worker never came back.
pub const WORKER_LOST: &str = "the worker was lost in the last attempt";

/// Identifies a stored event (not the provider's id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventRow(pub i64);

/// Identifies a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// Identifies a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

/// Names a stream of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a key; any value is valid")]
pub struct StreamKey {
    /// The connection.
    pub connection: ConnectionId,
    /// The stream.
    pub stream: StreamName,
}

// ---------------------------------------------------------------------------------------------------- inbox

/// A verified delivery to keep.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewDelivery {
    /// The endpoint it came to.
    pub endpoint: EndpointId,
    /// The connection its events belong to.
    pub connection: ConnectionId,
    /// The provider.
    pub provider: String,
    /// When it arrived.
    pub received_at: Timestamp,
    /// The headers worth keeping for replay and support, without credentials.
    pub headers: Vec<(String, String)>,
    /// The exact body; empty when the event did not come by webhook.
    pub body: Bytes,
    /// Its events.
    pub events: Vec<NewEvent>,
}

/// One event of a delivery to keep.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewEvent {
    /// The provider's id; with the endpoint it is the dedupe key.
    pub id: EventId,
    /// The provider's type.
    pub kind: String,
    /// The provider account.
    pub account: Option<String>,
    /// When it happened at the provider.
    pub created: Option<Timestamp>,
    /// Jobs with the same key run one after another.
    pub ordering_key: Option<String>,
    /// The event's own JSON; `None` when it is the delivery's whole body.
    pub payload: Option<Bytes>,
    /// Whether anybody wants it: `false` stores it as [`EventState::Ignored`] without a job.
    pub wanted: bool,
}

/// What became of one event of an appended delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the hub decides on each")]
pub enum Appended {
    /// Stored, with a job if it was wanted.
    New(EventRow),
    /// Already there under the same endpoint and id.
    Duplicate(EventRow),
}

/// The state of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages and counts show each")]
pub enum EventState {
    /// Waiting for its job.
    Pending,
    /// Handled.
    Done,
    /// Of a type nobody asked for.
    Ignored,
    /// Given up after its attempts; kept for replay.
    Dead,
}

/// A stored event.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoredEvent {
    /// Its row.
    pub row: EventRow,
    /// The endpoint it came to.
    pub endpoint: EndpointId,
    /// The connection.
    pub connection: ConnectionId,
    /// The provider.
    pub provider: String,
    /// The event.
    pub event: crate::webhook::Event,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Its state.
    pub state: EventState,
    /// Why it is dead or was last retried.
    pub reason: Option<String>,
}

/// How events of one type come to an endpoint: what [`crate::health::silence`] judges by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Heard {
    /// The provider's type.
    pub kind: String,
    /// When one last came by webhook; moved on once a minute at most.
    pub heard_at: Option<Timestamp>,
    /// How many the provider's own list has shown since that did not come by webhook before.
    pub found: u64,
    /// When the first of those was found.
    pub found_from: Option<Timestamp>,
    /// When the last of those was found.
    pub found_to: Option<Timestamp>,
}

/// How seldom [`Heard::heard_at`] is moved on, in milliseconds: a busy endpoint does not pay for it.
pub const HEARD_EVERY_MS: i64 = 60_000;
/// How many types are kept of an endpoint; what comes beyond them is not judged.
pub const HEARD_KINDS_MAX: usize = 500;

/// Keeps deliveries and their events.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Stores deliveries with their events and one job per new wanted event, in one durable commit shared with
    /// whatever else waits. Two events with the same endpoint and id are one, also within the batch. The answer has
    /// one entry per delivery and event, in order.
    ///
    /// The job of an event: [`Work::Event`], lane `event/{connection}/{ordering key}` if it has an ordering key, no
    /// unique key, priority 0, due at `received_at`, [`EVENT_ATTEMPTS_MAX`] attempts.
    ///
    /// What is noted for [`Inbox::heard`], per endpoint and type (of no more than [`HEARD_KINDS_MAX`]): an event with
    /// a delivery's body, new or not, was heard at `received_at`, if that is [`HEARD_EVERY_MS`] later than noted or
    /// something was found since. A new and wanted event without one was found; the first that is found after
    /// anything was heard at the endpoint begins a new count.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when the queue to the writer is full: nothing is stored, answer 503.
    /// [`ErrorKind::Store`] when the commit failed: nothing is stored.
    async fn append(&self, deliveries: Vec<NewDelivery>) -> Result<Vec<Vec<Appended>>>;

    /// Reads one event.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn event(&self, row: EventRow) -> Result<Option<StoredEvent>>;

    /// Lists events, newest first, of a state if given, older than `before` if given.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn events(&self, state: Option<EventState>, before: Option<EventRow>, limit: u32)
    -> Result<Vec<StoredEvent>>;

    /// Puts a dead or handled event back to pending with a fresh job, due `now` and otherwise as by
    /// [`Inbox::append`]. `false` when there is none such (it waits, is ignored or is gone). Its reason stays until
    /// the job ends. The job it died with counts as done from then on: somebody has seen to it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn replay(&self, row: EventRow, now: Timestamp) -> Result<bool>;

    /// Counts events per state. Kept as counters: costs the same for any number of events.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn event_counts(&self) -> Result<BTreeMap<EventState, u64>>;

    /// Counts the dead events of each of the connections; one without any is left out. Kept as counters: costs the
    /// same for any number of events.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn dead_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>>;

    /// Tells how events come to an endpoint, by type in order. A store that does not note it tells nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn heard(&self, endpoint: EndpointId) -> Result<Vec<Heard>> {
        let _ = endpoint;
        Ok(Vec::new())
    }

    /// Removes up to `limit` handled and ignored events (and deliveries left without events) received before
    /// `before`, lowest rows first. Returns how many went. An event removed is no longer a duplicate when it comes
    /// again, so the retention must be longer than any provider repeats.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

// ---------------------------------------------------------------------------------------------------- jobs

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

/// Which kinds of work a claim takes. Events and syncs are claimed apart so that a long run never holds up events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: workers exist per queue")]
pub enum Queue {
    /// Events of the inbox.
    Events,
    /// Syncs and chores.
    Background,
}

impl Work {
    /// Returns the queue the work waits in.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self {
            Self::Event { .. } => Queue::Events,
            Self::Sync { .. } | Self::Approved { .. } | Self::Retention => Queue::Background,
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
}

/// A write to the product's own tables in the same database.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Effect {
    /// One SQL statement with `?1`, `?2`, … placeholders.
    pub sql: String,
    /// Its values.
    pub values: Vec<Value>,
}

/// A value of a statement or a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "the types every SQL database shares")]
pub enum Value {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A real number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
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
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
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
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>>;

    /// Settles jobs, one after another; each is atomic by itself, all share one commit. One answer per settlement, in
    /// order. A lease is good while the job is held under its fence, also past its `until` as long as no other claim
    /// took it.
    ///
    /// Within one: the lease is checked, then the merges are made, then the effects, then the job ends, then `follow`
    /// is added; the first of [`Settled::LeaseLost`], [`Settled::Fetch`] (all records that cannot be ordered, each
    /// once, in order of appearance), [`Settled::EffectFailed`] is the answer and nothing of it is written.
    ///
    /// What follows a job's end: for [`Work::Event`] the event's state (`Done` → done without a reason, `Dead` → dead
    /// with its reason, `Retry` → pending with its reason, `Release` → unchanged); for [`Work::Sync`]
    /// and [`Work::Approved`], `Dead` fails the stream's unfinished run of the job's mode with [`ErrorKind::Cancelled`] and the reason, at `now`.
    /// `Retry` on the last attempt is `Dead`. A job that died at a claim has the reason [`WORKER_LOST`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: nothing was written.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>>;

    /// Extends leases: the job is held until `until`, also if that is earlier than before. `false` where the lease is
    /// lost.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn extend(&self, leases: Vec<Lease>, until: Timestamp) -> Result<Vec<bool>>;

    /// Counts jobs waiting, running and dead, over all queues. Kept as counters or bounded by the live jobs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn job_counts(&self) -> Result<JobCounts>;

    /// Tells since when the waiting job of a queue has been due that has waited longest; `None` when none is due at
    /// `now`. A job that waits behind another of its lane may be left out. Costs the same for any number of jobs.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn oldest_due(&self, queue: Queue, now: Timestamp) -> Result<Option<Timestamp>>;

    /// Waits until a job may be due in this process sooner than polling would find it. Spurious wake-ups are lawful.
    async fn wait_for_work(&self, queue: Queue);

    /// Removes up to `limit` finished (done and dead) jobs that ended before `before`, lowest numbers first. Returns
    /// how many went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn prune_jobs(&self, before: Timestamp, limit: u32) -> Result<u64>;
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

// ---------------------------------------------------------------------------------------------------- records

/// Changes of one stream to merge with how they were observed.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Merge {
    /// The stream.
    pub key: StreamKey,
    /// For a read: the stream's commit counter when it started ([`StreamStatus::commits`]). `None` for an event.
    pub read_since: Option<u64>,
    /// The changes; their `stream` equals the key's.
    pub changes: Vec<Change>,
}

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct MergeCounts {
    /// New records.
    pub added: u64,
    /// Changed records.
    pub updated: u64,
    /// Records that became tombstones.
    pub deleted: u64,
    /// Same content: confirmed.
    pub unchanged: u64,
    /// Older than what is stored: dropped.
    pub older: u64,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl std::ops::AddAssign for MergeCounts {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.older += other.older;
    }
}

/// Full or incremental.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the driver decides on each")]
pub enum RunMode {
    /// From the beginning; what it does not see is deleted at its end.
    Full,
    /// From the stream's cursor.
    Incremental,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum RunState {
    /// At work, or to be resumed by the next claim of its job.
    Running,
    /// Complete.
    Done,
    /// Complete but for its deletions, which are more than the guard allows: somebody must look.
    Review {
        /// How many records it would delete.
        deletions: u64,
    },
    /// Stopped by an error.
    Failed {
        /// The error's kind.
        kind: ErrorKind,
        /// The error in one phrase.
        reason: String,
    },
}

/// One execution of a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The stream.
    pub key: StreamKey,
    /// Full or incremental.
    pub mode: RunMode,
    /// How it stands.
    pub state: RunState,
    /// Where it goes on.
    pub cursor: Option<Cursor>,
    /// Pages committed.
    pub pages: u64,
    /// What its pages did.
    pub counts: MergeCounts,
    /// How often a worker took it up again after another was gone.
    pub resumed: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When its last page was committed.
    pub progressed_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How a stream stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StreamStatus {
    /// Where the next incremental run starts.
    pub cursor: Option<Cursor>,
    /// The commit counter: grows with every commit that merges into the stream.
    pub commits: u64,
    /// The number of the newest change in the feed.
    pub head: u64,
    /// Live records.
    pub records: u64,
    /// When the last full run ended well.
    pub full_at: Option<Timestamp>,
    /// When the last run of any mode ended well.
    pub fresh_at: Option<Timestamp>,
}

/// One page of a run to commit: records, events, cursor, feed and progress in one transaction.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PageCommit {
    /// The proof of holding the run's job.
    pub lease: Lease,
    /// The run.
    pub run: RunId,
    /// The stream's commit counter when the page's read started.
    pub read_since: u64,
    /// The page's changes.
    pub changes: Vec<Change>,
    /// The page's events, as deliveries to append in the same commit.
    pub deliveries: Vec<NewDelivery>,
    /// Where a resumed run goes on. For the last page it is the page's own cursor, so that a worker lost before
    /// [`Records::end_run`] costs the reading of one page and never the position behind it.
    pub next: Option<Cursor>,
    /// When.
    pub now: Timestamp,
}

/// What a committed page did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PageCommitted {
    /// What the merges did.
    pub counts: MergeCounts,
    /// Records that could not be ordered, each once. When there are any, *nothing* of the page was committed, the
    /// cursor included: fetch and [`Records::merge`] them, then commit the page again without their changes. (Were
    /// the rest committed, a worker lost before the fetch would forget them.)
    pub fetch: Vec<RecordId>,
    /// Events that were new here: what a gap healing found missing.
    pub events_new: u64,
    /// Events that were already there.
    pub events_duplicate: u64,
}

/// How a run ends.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RunEnd {
    /// The proof of holding the run's job.
    pub lease: Lease,
    /// The run.
    pub run: RunId,
    /// `Done` or `Failed`. `Done` of a full run deletes every live record whose `observed` is not greater than the
    /// stream's commit counter when the run was first started: everything a page, an event or a fetch wrote or
    /// confirmed since then has a greater one. `Failed` with [`ErrorKind::CursorExpired`] forgets the stream's
    /// cursor.
    pub state: RunState,
    /// When the run's last page was read, by the provider's clock. A tombstone of a record the run did not see spans
    /// from the record's own earliest moment to the latest of this one: it was deleted somewhere in between.
    pub span: Option<Span>,
    /// Jobs to add in the same commit, after the run's job has ended (its own unique key is free by then).
    pub follow: Vec<NewJob>,
    /// Where the next incremental run starts; `None` leaves the stream's cursor.
    pub resume: Option<Cursor>,
    /// Whether deletions beyond the guard (over 20 % of the live records and over 50) are lawful. Otherwise the run
    /// ends in [`RunState::Review`] with nothing deleted.
    pub allow_mass_delete: bool,
    /// When.
    pub now: Timestamp,
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Record {
    /// The provider's id.
    pub id: RecordId,
    /// Its JSON; `None` for a tombstone.
    pub data: Option<Bytes>,
    /// Its number in the feed.
    pub seq: u64,
    /// When it was first stored.
    pub first_seen: Timestamp,
    /// When it last changed here.
    pub changed_at: Timestamp,
}

/// What a change in the feed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: consumers decide on each")]
pub enum ChangeKind {
    /// The record was never changed since it appeared.
    Added,
    /// The record changed.
    Updated,
    /// The record was deleted.
    Deleted,
}

/// One entry of the change feed: the latest state of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct FeedEntry {
    /// What happened.
    pub kind: ChangeKind,
    /// The record.
    pub record: Record,
}

/// Keeps records, runs and the change feed.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Records: Send + Sync {
    /// Tells how a stream stands; a stream never seen is the default.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn stream(&self, key: StreamKey) -> Result<StreamStatus>;

    /// Lists the streams of a connection by name: those that had a run or a merge.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn streams(&self, connection: ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>>;

    /// Starts a run, or takes up the stream's unfinished one of the same mode (`resumed` grows). An unfinished run
    /// of the other mode is failed first with [`ErrorKind::Cancelled`]. A new incremental run begins at the stream's
    /// cursor, a new full one at the beginning. A run taken up keeps its cursor and the commit counter it was first
    /// started at.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`] when the lease is not ours; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn start_run(&self, lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Result<Run>;

    /// Commits one page of a run: the changes are merged as a read, the deliveries appended, run and progress moved
    /// on. When [`PageCommitted::fetch`] names any record, nothing was written.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`] when the lease is lost or the run is not running; [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: nothing was written.
    async fn commit_page(&self, page: PageCommit) -> Result<PageCommitted>;

    /// Merges changes outside a page: fetched records. Those that cannot be ordered are returned, each once; the
    /// others are committed.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: nothing was written.
    async fn merge(&self, merges: Vec<Merge>, now: Timestamp) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>)>;

    /// Ends a run and, in the same commit, its job as [`JobEnd::Done`], whatever the state: there is nothing left to
    /// settle. (Were they two commits, a worker lost between them would make the next one run it all again.)
    ///
    /// `Done` sets the stream's `fresh_at`, after a full run `full_at`, and the cursor if there is one to
    /// set; deletions count into the run. [`RunState::Review`] and `Failed` change nothing of the stream, except that
    /// [`ErrorKind::CursorExpired`] forgets its cursor. `follow` is added in every case.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`] when the lease is lost or the run is not running; [`ErrorKind::Invalid`] when `state`
    /// is neither `Done` nor `Failed`; [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: nothing was written.
    async fn end_run(&self, end: RunEnd) -> Result<Run>;

    /// Lists runs, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn runs(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<Run>>;

    /// Lists the runs under way, those first that have made no progress for longest. Bounded by the runs under way.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn live_runs(&self, limit: u32) -> Result<Vec<Run>>;

    /// Reads one record, tombstones included.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn record(&self, key: StreamKey, id: RecordId) -> Result<Option<Record>>;

    /// Reads the feed after `seq`: each record once, with its latest state, in commit order, without gaps under
    /// concurrent commits.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn changes(&self, key: StreamKey, after: u64, limit: u32) -> Result<Vec<FeedEntry>>;
}

// ---------------------------------------------------------------------------------------------------- connections

/// Whether a connection works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: health decides on each")]
pub enum ConnectionState {
    /// In use.
    Active,
    /// The credential no longer works: its owner must reconnect.
    NeedsReconnect {
        /// Why, in one phrase.
        reason: String,
    },
    /// Paused by somebody.
    Paused,
    /// Disconnected; its data is kept until removed.
    Disconnected,
}

/// One tenant's authorised account at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Connection {
    /// Its identifier.
    pub id: ConnectionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The provider.
    pub provider: String,
    /// The account at the provider, for people and for account headers.
    pub account: Option<String>,
    /// Another base URL than the manifest's (a sandbox, an emulator).
    pub base_url: Option<String>,
    /// Whether it works.
    pub state: ConnectionState,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A credential as the store sees it: sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SealedCredential {
    /// Grows with every write; part of what the seal binds.
    pub generation: u64,
    /// The vault's bytes; empty when it was erased ([`Grants::disconnect`]).
    pub blob: Vec<u8>,
}

/// Keeps connections and sealed credentials.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Connections: Send + Sync {
    /// Adds or replaces a connection.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn put_connection(&self, connection: Connection) -> Result<()>;

    /// Reads one connection.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn connection(&self, id: ConnectionId) -> Result<Option<Connection>>;

    /// Lists connections by id, after one if given.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn connections(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Connection>>;

    /// Reads a connection's sealed credential.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn credential(&self, id: ConnectionId) -> Result<Option<SealedCredential>>;

    /// Writes a sealed credential if the stored generation is `expected` (0: none is stored). `false` otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn put_credential(&self, id: ConnectionId, expected: u64, credential: SealedCredential) -> Result<bool>;

    /// Marks an active connection whose credential of generation `seen` was refused: only if its key, or a grant of it,
    /// still has that generation. `false` otherwise, and in any other state: nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn refuse_credential(&self, id: ConnectionId, seen: u64, reason: String) -> Result<bool>;
}

/// Marks an active connection whose credential no longer works. Any other state stays, and so does an active one whose
/// credential is not the one of generation `seen` any more: it was reconnected meanwhile. Without a generation the
/// refusal counts whatever is stored now.
///
/// # Errors
/// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
pub async fn mark_needs_reconnect<S: Connections + ?Sized>(
    store: &S,
    id: &ConnectionId,
    seen: Option<u64>,
    reason: &str,
) -> Result<()> {
    if let Some(seen) = seen {
        return store.refuse_credential(id.clone(), seen, reason.to_owned()).await.map(drop);
    }
    let Some(mut connection) = store.connection(id.clone()).await? else { return Ok(()) };
    if connection.state != ConnectionState::Active {
        return Ok(());
    }
    connection.state = ConnectionState::NeedsReconnect { reason: reason.to_owned() };
    store.put_connection(connection).await
}

// ---------------------------------------------------------------------------------------------------- call log

/// One finished call, as the observer saw it. No URL, no body, no header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallRecord {
    /// When it ended.
    pub at: Timestamp,
    /// The provider.
    pub provider: String,
    /// The operation's name.
    pub operation: String,
    /// The connection.
    pub connection: ConnectionId,
    /// The last status, if any attempt was answered.
    pub status: Option<u16>,
    /// The error's kind, if it failed.
    pub error: Option<ErrorKind>,
    /// What the provider may have done, if it failed.
    pub outcome: Option<Outcome>,
    /// Attempts made.
    pub attempts: u32,
    /// The whole call, in microseconds.
    pub duration_us: u64,
    /// Time spent waiting for limits and backoff, in microseconds.
    pub waited_us: u64,
    /// The provider's request id.
    pub request_id: Option<String>,
    /// The correlation id.
    pub correlation_id: Option<String>,
}

/// Calls and errors of a connection since a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallCounts {
    /// Calls that ended.
    pub calls: u64,
    /// Calls that failed for the provider's or the network's sake.
    pub errors: u64,
}

/// Keeps finished calls, with hourly counts per connection.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait CallLog: Send + Sync {
    /// Appends calls.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn log_calls(&self, calls: Vec<CallRecord>) -> Result<()>;

    /// Lists calls, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn calls(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<CallRecord>>;

    /// Counts a connection's calls since a moment, by the hour it lies in (the whole hour of `since` counts). Of the
    /// errors those count that the provider or the network is to blame for: [`counts_as_error`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn call_counts(&self, connection: ConnectionId, since: Timestamp) -> Result<CallCounts>;

    /// Removes up to `limit` calls that ended before `before`, oldest first, and every hour of counts that was over by
    /// then. Returns how many calls went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn prune_calls(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Tells whether a failed call speaks against the provider or the network, rather than against the request, the
/// credential or our own limits.
#[must_use]
pub fn counts_as_error(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Throttled
            | ErrorKind::Timeout
            | ErrorKind::Connect
            | ErrorKind::Transport
            | ErrorKind::Provider
            | ErrorKind::Decode
            | ErrorKind::BodyTooLarge
            | ErrorKind::CircuitOpen
    )
}

/// A whole store.
#[async_trait]
pub trait Store:
    Inbox + Jobs + Records + Connections + Keys + Grants + Authorizations + CallLog + std::fmt::Debug + 'static
{
    /// Takes the way of a write to its end, so that readiness tells whether the store takes writes at this moment. A
    /// durable store commits something; this default runs a removal that finds nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`], as any other write.
    async fn probe(&self, now: Timestamp) -> Result<()> {
        let _ = now;
        self.prune_calls(Timestamp(i64::MIN), 1).await.map(drop)
    }
}

//! Schedules: what the moments of a connection's runs depend on, read at once; schedules set for one stream; the moment
//! of a job that waits; how chores ended.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Connection, Lease, RunMode, StreamKey, StreamStatus};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, StreamName};

/// A connection with everything the moments of its runs depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Scheduled {
    /// The connection.
    pub connection: Connection,
    /// Its streams by name: those that had a run or a merge.
    pub streams: Vec<ScheduledStream>,
    /// The schedules set for its streams, by stream, full before incremental.
    pub set: Vec<SetSchedule>,
}

/// A stream as far as its schedule needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ScheduledStream {
    /// Its name.
    pub name: StreamName,
    /// How it stands.
    pub status: StreamStatus,
    /// When the record with the newest change changed here; `None` while the feed is empty.
    pub changed_at: Option<Timestamp>,
}

/// A schedule somebody set for the runs of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SetSchedule {
    /// The stream.
    pub stream: StreamName,
    /// Of which runs.
    pub mode: RunMode,
    /// The text of the [`Schedule`](crate::schedule::Schedule).
    pub schedule: String,
}

/// What became of the wish to move a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the worker decides on each")]
pub enum Moved {
    /// It waits until the new moment.
    Moved,
    /// It runs, is due, or waits for another attempt: it stays as it is.
    Busy,
    /// No unfinished job has the key.
    Missing,
}

/// A job that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct HeldJob {
    /// Its unique key.
    pub unique: Option<String>,
    /// When it was due.
    pub run_at: Timestamp,
    /// Which attempt is under way, from 1.
    pub attempt: u32,
}

/// How a chore ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ChoreReport {
    /// The chore.
    pub name: String,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it did, or why it failed, in one phrase.
    pub outcome: String,
    /// Whether it failed.
    pub failed: bool,
}

/// Keeps schedules and how chores ended.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Reads a connection with what its schedules need, in one snapshot; `None` when it is not known.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn scheduled(&self, connection: ConnectionId) -> Result<Option<Scheduled>>;

    /// Reads the same of many connections, in any state, by id, after one if given. Costs by `limit`, whatever the number
    /// of connections.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn scheduled_after(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Scheduled>>;

    /// Sets the schedule of a stream's runs of one mode; `None` removes what was set. The connection need not be known.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn set_schedule(&self, key: StreamKey, mode: RunMode, schedule: Option<String>) -> Result<()>;

    /// Moves the job with a unique key to another moment, earlier or later, if it was never claimed and is not due at `now`
    /// ([`Moved::Busy`] otherwise, and nothing is written). Jobs of its lane that waited behind it go first where they
    /// are due before its new moment.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn move_job(&self, unique: String, to: Timestamp, now: Timestamp) -> Result<Moved>;

    /// Reads a held job; `None` when the lease is lost.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn held_job(&self, lease: Lease) -> Result<Option<HeldJob>>;

    /// Keeps how a chore ended, in place of how it ended before.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn chore_ended(&self, report: ChoreReport) -> Result<()>;

    /// Lists how chores ended, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn chore_reports(&self) -> Result<Vec<ChoreReport>>;
}

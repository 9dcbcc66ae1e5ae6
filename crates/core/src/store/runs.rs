//! Runs: executions of a sync, committed page by page, taken up where a lost worker left them.

use serde::{Deserialize, Serialize};

use super::{Lease, MergeCounts, NewDelivery, NewJob, StreamKey};
use crate::clock::Timestamp;
use crate::error::ErrorKind;
use crate::id::RecordId;
use crate::sync::{Change, Cursor, Span};

/// Identifies a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

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
    /// [`Records::end_run`](super::Records::end_run) costs the reading of one page and never the position behind it.
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
    /// cursor included: fetch and [`Records::merge`](super::Records::merge) them, then commit the page again without
    /// their changes. (Were the rest committed, a worker lost before the fetch would forget them.)
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

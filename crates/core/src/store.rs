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

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::error::Result;

pub mod authorizations;
pub mod calls;
pub mod connections;
pub mod destinations;
pub mod effects;
#[cfg(test)]
pub(crate) mod faulty;
pub mod feed;
pub mod grants;
pub mod inbox;
pub mod jobs;
pub mod keys;
pub mod layered;
pub mod memory;
pub mod outbox;
pub mod pauses;
pub mod records;
pub mod runs;
pub mod schedules;

pub use authorizations::{Authorizations, PendingRow, SessionRow, TokenHash};
#[cfg(feature = "mock")]
pub use calls::MockCallLog;
pub use calls::{CallCounts, CallDay, CallLog, CallRecord, counts_as_error};
#[cfg(feature = "mock")]
pub use connections::MockConnections;
pub use connections::{
    AccountKey, Connection, ConnectionState, Connections, NO_CONNECTION, SealedCredential, mark_needs_reconnect,
};
#[cfg(feature = "mock")]
pub use destinations::MockDestinations;
pub use destinations::{
    DESTINATIONS_MAX, DeadForward, DestinationHealth, DestinationSpec, Destinations, Disabled, DisabledBy,
    FORWARDS_COUNTED_MAX, Filter, ForwardCounts, NewDestination, Noted, Order, SealedKey, StoredDestination,
    forward_key,
};
pub use effects::{Effect, Value};
pub use feed::{FEED_HORIZON_MIN, FeedBells, FeedListener, FeedPage};
pub use grants::{
    EndReason, GrantClaim, GrantKey, GrantLease, GrantState, Grants, NewGrant, NewTokens, Revocation, StoredGrant,
};
#[cfg(feature = "mock")]
pub use inbox::MockInbox;
pub use inbox::{
    Appended, CAUSES_MAX, CLOCK_MARGIN, DISMISSED, DeadLetters, EVENT_ATTEMPTS_MAX, EVENT_BYTES, EventPage, EventRow,
    EventState, HEARD_EVERY_MS, HEARD_KINDS_MAX, Halt, Heard, Inbox, LIST_WALKED, NewDelivery, NewEvent, OTHER_CAUSES,
    PENDING_FOUND, PRUNE_BYTES, PRUNE_LOOKED, PrunePlace, PruneStep, REPLAY_WALKED, ReplayFilter, ReplayRows,
    ReplayStep, StoredEvent, ToHandle, is_of_kind, received_so_far,
};
#[cfg(feature = "mock")]
pub use jobs::MockJobs;
pub use jobs::{
    Claim, Claimed, Died, JobCounts, JobEnd, JobId, Jobs, LINED_UP_MAX, Lease, LiveJob, NewJob, Queue, Room, Settled,
    Settlement, WORKER_LOST, Work, tell_buried,
};
pub use keys::{Keys, MasterState, MasterStatus, Retirement, Rewrapped, WrappedKey};
pub use layered::{LayeredStore, StoreLayer};
#[cfg(feature = "mock")]
pub use outbox::MockOutbox;
pub use outbox::{
    CallAnswer, CallId, CallRequest, CallResult, CallState, Decided, Decision, Enqueued, KeptCall, Outbox, OutboxCall,
    OutboxChange, Transacted,
};
#[cfg(feature = "mock")]
pub use pauses::MockPauses;
pub use pauses::{PAUSES_MAX, Pause, Pauses};
#[cfg(feature = "mock")]
pub use records::MockRecords;
pub use records::{
    BAD_DROPPED_AT_ONCE, BAD_KEPT_MAX, ChangeKind, FeedEntry, Merge, MergeCounts, Record, Records, StreamKey,
    StreamStatus,
};
pub use runs::{
    ACCOUNT_DISCONNECTED, FetchedRecord, Missed, PageCommit, PageCommitted, Run, RunEnd, RunFilter, RunId, RunMode,
    RunState, RunStateName, StoredBad,
};
#[cfg(feature = "mock")]
pub use schedules::MockSchedules;
pub use schedules::{ChoreReport, HeldJob, Moved, Scheduled, ScheduledStream, Schedules, SetSchedule};

/// A whole store.
#[async_trait]
pub trait Store:
    Inbox
    + Jobs
    + Records
    + Connections
    + Keys
    + Grants
    + Authorizations
    + CallLog
    + Outbox
    + Pauses
    + Pauses
    + Schedules
    + Destinations
    + std::fmt::Debug
    + 'static
{
    /// Takes the way of a write to its end, so that readiness tells whether the store takes writes at this moment. A
    /// durable store commits something; this default runs a removal that finds nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), as any other write.
    async fn probe(&self, now: Timestamp) -> Result<()> {
        let _ = now;
        self.prune_calls(Timestamp(i64::MIN), 1).await.map(drop)
    }
}

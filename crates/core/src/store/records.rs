//! Records, streams and the change feed.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::{FeedPage, Lease, PageCommit, PageCommitted, Run, RunEnd, RunFilter, RunId, RunMode, StoredBad};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, RecordId, StreamName};
use crate::sync::merge::Stored;
use crate::sync::{BadRecord, Change, Cursor, Stop};

/// Names a stream of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a key; any value is valid")]
pub struct StreamKey {
    /// The connection.
    pub connection: ConnectionId,
    /// The stream.
    pub stream: StreamName,
}

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

impl std::ops::AddAssign for MergeCounts {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.older += other.older;
    }
}

/// Records of a stream that are kept set aside: at 16 KiB each 16 MiB. Beyond, those met longest ago go when others come,
/// but none that the run at hand has met, which stops by itself when it meets as many
/// ([`BAD_RECORDS_MAX`](crate::sync::driver::BAD_RECORDS_MAX)).
pub const BAD_KEPT_MAX: u64 = 1_000;

/// How many of them go at once, so that a database of before the bound comes down to it in steps.
pub const BAD_DROPPED_AT_ONCE: u64 = 1_000;

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
    /// When the last run of any mode ended well, since the connection was connected.
    pub fresh_at: Option<Timestamp>,
    /// Records set aside because they could not be read, and kept.
    pub bad: u64,
    /// How many more were set aside and dropped for newer ones ([`BAD_KEPT_MAX`]): before those that are kept.
    pub bad_older: u64,
    /// Since when no run of it is to work, because somebody said so. Events are merged all the same.
    pub paused_at: Option<Timestamp>,
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
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn stream(&self, key: StreamKey) -> Result<StreamStatus>;

    /// Lists the streams of a connection by name: those that had a run or a merge.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn streams(&self, connection: ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>>;

    /// Starts a run, or takes up the stream's unfinished one of the same mode (`resumed` grows). An unfinished run of
    /// the other mode is failed first with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). A new incremental run
    /// begins at the stream's cursor, a new full one at the beginning. A run taken up keeps its cursor and the commit
    /// counter it was first started at.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the lease is not ours;
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn start_run(&self, lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Result<Run>;

    /// Commits one page of a run: the changes are merged as a read, the deliveries appended, run and progress moved
    /// on. When [`PageCommitted::fetch`] names any record, nothing was written.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the lease is lost or the run is not running;
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): nothing
    /// was written.
    async fn commit_page(&self, page: PageCommit) -> Result<PageCommitted>;

    /// Merges changes outside a page: fetched records. Those that cannot be ordered are returned, each once; the
    /// others are committed.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): nothing
    /// was written.
    async fn merge(&self, merges: Vec<Merge>, now: Timestamp) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>)>;

    /// Ends a run and, in the same commit, its job as [`JobEnd::Done`](super::JobEnd::Done), whatever the state: there
    /// is nothing left to settle. (Were they two commits, a worker lost between them would make the next one run it all
    /// again.) A full run with more to delete than one commit may ([`RunEnd::at_once`]) is not over yet: it is returned
    /// as [`RunState::Running`](super::RunState::Running) with what it has deleted so far, its job is still ours, nothing else has happened, and
    /// the call is to be repeated.
    ///
    /// `Done` sets the stream's `fresh_at`, after a full run `full_at`, and the cursor if there is one to set;
    /// deletions count into the run. [`RunState::Review`](super::RunState::Review) and `Failed` change nothing of the
    /// stream, except that [`ErrorKind::CursorExpired`](crate::ErrorKind::CursorExpired) forgets its cursor. `follow`
    /// is added in every case.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the lease is lost or the run is not running;
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when `state` is neither `Done` nor `Failed`;
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): nothing
    /// was written.
    async fn end_run(&self, end: RunEnd) -> Result<Run>;

    /// Lists runs, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn runs(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<Run>>;

    /// Finds runs that meet a filter, newest first. Runs under way and in review are found however many others there are;
    /// for any other all newer ones that do not meet it are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn find_runs(&self, filter: RunFilter, limit: u32) -> Result<Vec<Run>>;

    /// Lists the runs under way, those first that have made no progress for longest. Costs by `limit`, however many there
    /// are.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn live_runs(&self, limit: u32) -> Result<Vec<Run>>;

    /// Lists the newest run of each stream and mode of a connection, by stream, the full one first. However many runs
    /// there were since, none of them hides another.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn newest_runs(&self, connection: ConnectionId) -> Result<Vec<Run>>;

    /// Reads one run.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn run(&self, run: RunId) -> Result<Option<Run>>;

    /// Notes why a run waits ([`Run::stop`]). The next page committed forgets it.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the lease is lost or the run is not running;
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn hold_run(&self, lease: Lease, run: RunId, stop: Stop) -> Result<()>;

    /// Lists, by id and behind `after`, the live records a full run did not see and nothing has written or confirmed
    /// since it began: what its end deletes, or would delete. Records it set aside by their names are not among them.
    /// Empty for an incremental run and for one that is not known.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn unseen(&self, run: RunId, after: Option<RecordId>, limit: u32) -> Result<Vec<Record>>;

    /// Ends a run that waits for review without its deletions, for a reason in one phrase: it is failed with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) and [`Stop::Superseded`]. Returns whether one waited.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn dismiss_run(&self, run: RunId, reason: String, now: Timestamp) -> Result<bool>;

    /// Lists runs of a connection that found events missing ([`Run::missed`]), newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn healings(&self, connection: ConnectionId, limit: u32) -> Result<Vec<Run>>;

    /// Lists what is set aside of a stream, that first that was met longest ago: [`BAD_KEPT_MAX`] of them, and what one
    /// run met more.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn bad_records(&self, key: StreamKey, limit: u32) -> Result<Vec<StoredBad>>;

    /// Lists what is set aside of a stream by its name and was not met by `run`, that first that was met longest ago:
    /// what the run asks for again.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn bad_to_retry(&self, key: StreamKey, run: RunId, limit: u32) -> Result<Vec<StoredBad>>;

    /// Sets records aside that a run asked for again in vain, as a page of it would: they were met by it now, and wait
    /// behind those that were not.
    ///
    /// # Errors
    /// [`ErrorKind::LeaseLost`](crate::ErrorKind::LeaseLost) when the lease is lost or the run is not running;
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn set_aside(&self, lease: Lease, run: RunId, bad: Vec<BadRecord>, now: Timestamp) -> Result<()>;

    /// Sets since when a stream is paused; `None` lets its runs work again. The stream need not be known yet.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn pause_stream(&self, key: StreamKey, since: Option<Timestamp>) -> Result<()>;

    /// Forgets a stream's cursor, that it was ever complete, and what is set aside of it; its unfinished run is failed
    /// with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) and [`Stop::Superseded`]. Records and feed stay.
    /// Returns whether the stream was known.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn reset_stream(&self, key: StreamKey, now: Timestamp) -> Result<bool>;

    /// Turns up to `limit` live records of a stream into tombstones, by id; the feed tells each. Returns how many there
    /// were. Their spans stay: a read that starts later brings them back.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn erase_records(&self, key: StreamKey, limit: u32, now: Timestamp) -> Result<u64>;

    /// Reads what the merge rule needs of records, in the order asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn stored(&self, key: StreamKey, ids: Vec<RecordId>) -> Result<Vec<Option<Stored>>>;

    /// Reads one record, tombstones included.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn record(&self, key: StreamKey, id: RecordId) -> Result<Option<Record>>;

    /// Reads the feed after `seq`: each record once, with its latest state, in commit order, without gaps under
    /// concurrent commits.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn changes(&self, key: StreamKey, after: u64, limit: u32) -> Result<Vec<FeedEntry>>;

    /// Reads a page of the feed as [`Records::changes`] does, with the stream's head and horizon in the same snapshot;
    /// a stream never seen has an empty one. Where records are large there
    /// may be fewer than `limit` with more after them.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn feed(&self, key: StreamKey, after: u64, limit: u32) -> Result<FeedPage>;

    /// Reads the whole feed of a stream in one snapshot, up to `page` changes at a time: whatever is committed
    /// meanwhile is not seen, and every page has the head of the beginning. There is at least one page, and the last
    /// has no more after it. No more than a few pages are in memory; a dropped stream ends the reading. A durable store
    /// may hold a reader for as long as it lasts.
    fn scan(&self, key: StreamKey, page: u32) -> BoxStream<'static, Result<FeedPage>>;

    /// Waits until the stream's head may be above `after`: returns at once if it is, and otherwise when this process
    /// commits a change of the stream. Commits of other processes wake nobody: a caller looks again by itself now and
    /// then. Returning early is lawful; a store that cannot wake anybody never returns.
    async fn wait_for_change(&self, key: StreamKey, after: u64) {
        let _ = (key, after);
        std::future::pending().await
    }

    /// Removes up to `limit` tombstones whose deletion was stored before `before`, the oldest first (those of one
    /// moment and one stream by their numbers), and raises the horizon of their streams to the greatest number
    /// removed. Returns how many went. A record whose tombstone is gone is as one never seen.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn compact_feed(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Removes up to `limit` runs that ended before `before`, those first that ended longest ago (of one moment by their
    /// numbers). Returns how many went. What stays, however old: the newest run of each mode of a stream, so that it can
    /// be seen how it went last and no number is given twice; runs under way; and runs that wait for a review. What a
    /// run found missing ([`Run::missed`]) goes with it; what it set aside is the stream's and stays, though it names a
    /// run that is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Removes up to `limit` records that were set aside and last met before `before`, those first that were met longest
    /// ago (of one moment in any order), and forgets of their streams how many older ones were dropped. Returns how many
    /// went. What a run set aside that is under way or waits for a review stays: it must not be taken for deleted.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn prune_bad_records(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

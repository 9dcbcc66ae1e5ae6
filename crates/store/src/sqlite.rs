//! The embedded store: one SQLite file, one writer, a few readers.
//!
//! | room | what stands there |
//! |---|---|
//! | `schema` | how a file is recognised, made and migrated |
//! | `writer` | the one writing thread with its bounded queue and group commit |
//! | `readers` | read-only connections on blocking threads |
//! | `inbox` `halts` `causes` `jobs` `turns` `lanes` `names` `records` `feed` `runs` `connections` `keys` `grants` `authorizations` `calls` `outbox` `pauses` `schedules` `destinations` | the statements of the traits |
//! | `product` | a product's own statements, kept away from our tables |
//!
//! A second process may use the same file. Writers take turns by `BEGIN IMMEDIATE`; each transaction reads the
//! counters afresh; another process's jobs are found by polling.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use palisade_core::store::{
    AccountKey, Appended, Authorizations, CallCounts, CallDay, CallId, CallLog, CallRecord, CallState, ChoreReport,
    Claim, Claimed, Connection as Account, ConnectionState, Connections, DeadForward, DeadLetters, Decided, Decision,
    Destinations, Disabled, Effect, EndReason, EventPage, EventRow, EventState, FeedBells, FeedEntry, FeedPage,
    ForwardCounts, GrantClaim, GrantKey, GrantLease, Grants, Halt, Heard, HeldJob, Inbox, JobCounts, JobId, Jobs,
    KeptCall, Keys, Lease, LiveJob, MasterStatus, Merge, MergeCounts, Moved, NewDelivery, NewDestination, NewGrant,
    NewJob, NewTokens, Noted, Outbox, OutboxCall, PageCommit, PageCommitted, Pause, Pauses, PendingRow, PrunePlace,
    PruneStep, Queue, Record, Records, ReplayFilter, ReplayStep, Retirement, Revocation, Rewrapped, Run, RunEnd,
    RunFilter, RunId, RunMode, RunState, Scheduled, Schedules, SealedCredential, SessionRow, Settled, Settlement,
    Store, StoredBad, StoredDestination, StoredEvent, StoredGrant, StreamKey, StreamStatus, ToHandle, TokenHash,
    Transacted, Value, WrappedKey, tell_buried,
};
use palisade_core::sync::merge::Stored;
use palisade_core::sync::{BadRecord, Stop};
use palisade_core::{
    ConnectionId, EndpointId, Error, ErrorKind, GrantName, RecordId, Result, StreamName, TenantId, Timestamp,
};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use lanes::Tail;
use names::Names;
use readers::Readers;
use turns::Turns;
use writer::{Bells, Disk, Inlet, Outdated, Writer};

mod authorizations;
mod calls;
mod causes;
mod connections;
mod dead_forwards;
mod destinations;
mod entries;
mod error;
mod feed;
mod grants;
mod halts;
mod heard;
mod inbox;
mod jobs;
mod keys;
mod lanes;
mod names;
mod outbox;
mod pauses;
#[cfg(test)]
mod plans;
mod product;
mod readers;
mod records;
mod runs;
mod schedules;
mod schema;
mod seen;
mod turns;
mod writer;

/// How to open a [`SqliteStore`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; any value is valid")]
pub struct SqliteConfig {
    /// The database file; made when absent. Its folder must exist on a local disk (not NFS or SMB).
    pub path: PathBuf,
    /// Reads under way at once.
    pub readers: usize,
    /// How long a write waits for another process that holds the file.
    pub busy_timeout: Duration,
    /// Commands queued to the writer before callers are refused.
    pub queue_max: usize,
    /// Payload bytes queued to the writer before callers are refused.
    pub queue_bytes_max: usize,
    /// The size in bytes the database file may grow to (the WAL beside it not counted); writes beyond it fail as on
    /// a full disk. `None` sets no limit.
    pub size_bytes_max: Option<u64>,
    /// How many bytes must stay free on the file's disk: below it deliveries are refused with
    /// [`ErrorKind::Overloaded`] and the store is not ready, while jobs are still settled and old rows removed. Looked
    /// at once a commit, where the system tells it (Unix); 0 does not look.
    pub free_bytes_min: u64,
}

/// The default of [`SqliteConfig::free_bytes_min`]: several times what the log beside the file takes.
pub const FREE_BYTES_MIN: u64 = 128 << 20;

impl SqliteConfig {
    /// Returns the defaults for a file: 4 readers, 5 s for another process, 4,096 commands or 64 MiB queued, no size
    /// limit, [`FREE_BYTES_MIN`] left free.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            queue_max: 4_096,
            queue_bytes_max: 64 << 20,
            size_bytes_max: None,
            free_bytes_min: FREE_BYTES_MIN,
        }
    }
}

/// What [`SqliteStore::examine`] found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Examined {
    /// The version of its tables; 0 for an empty file.
    pub found: u32,
    /// The version this program works with.
    pub wanted: u32,
    /// What SQLite's own full check found; empty when the file is sound.
    pub findings: Vec<String>,
}

/// The durable store in one SQLite file. Cheap to clone; clones share one writer.
///
/// Every write is answered after the commit it is part of has reached the disk (`synchronous=FULL`). Dropping the last
/// clone commits what is queued; [`SqliteStore::close`] also waits for it.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    config: SqliteConfig,
    inlet: Arc<Inlet>,
    readers: Arc<Readers>,
    bells: Arc<Bells>,
    feed_bells: FeedBells,
    outdated: Arc<Outdated>,
    closed: Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inlet.close();
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.config.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, makes or upgrades its tables and starts the writer. Blocks for the time that takes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the file was made by a newer program (both versions are named);
    /// [`ErrorKind::Store`] when it is damaged, another program's, or cannot be written: the text says what to do.
    pub fn open(config: SqliteConfig) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let named = |error| schema::named(&config.path, error);
        let mut connection = Connection::open_with_flags(&config.path, flags).map_err(named)?;
        schema::tune(&connection, config.busy_timeout).map_err(named)?;
        schema::prepare(&mut connection, &config.path)?;
        schema::limit(&connection, config.size_bytes_max).map_err(named)?;
        let product = Arc::new(AtomicBool::new(false));
        product::guard(&mut connection, &product).map_err(named)?;

        let inlet = Arc::new(Inlet::new(config.queue_max, config.queue_bytes_max));
        let bells = Arc::new(Bells::default());
        let readers = Arc::new(Readers::new(config.path.clone(), config.busy_timeout, config.readers));
        let outdated = Arc::new(Outdated::default());
        let (ended, closed) = oneshot::channel();
        let writer = Writer {
            connection,
            product,
            inlet: inlet.clone(),
            bells: bells.clone(),
            names: Names::default(),
            tail: Tail::default(),
            turns: Turns::default(),
            disk: Disk { path: config.path.clone(), free_bytes_min: config.free_bytes_min },
            outdated: outdated.clone(),
        };
        std::thread::Builder::new()
            .name("palisade-writer".to_owned())
            .spawn(move || writer.run(ended))
            .map_err(|error| Error::new(ErrorKind::Store, "the writer thread cannot be started").with_source(error))?;
        let closed = Mutex::new(Some(closed));
        let feed_bells = FeedBells::default();
        Ok(Self { inner: Arc::new(Inner { config, inlet, readers, bells, feed_bells, outdated, closed }) })
    }

    /// Looks at a file without changing it: its version, and whether it is sound. It is not made, upgraded or locked
    /// against a process that uses it. Blocks for a reading of all of it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] when it is not there, cannot be read, or is another program's: the text says what to do.
    pub fn examine(path: &Path) -> Result<Examined> {
        schema::examine(path, true)
    }

    /// Looks at a file's version without changing it, as [`SqliteStore::examine`] but without reading all of it: there
    /// are no findings.
    ///
    /// # Errors
    /// As [`SqliteStore::examine`].
    pub fn examine_version(path: &Path) -> Result<Examined> {
        schema::examine(path, false)
    }

    /// Waits until a newer program has upgraded the file while this one had it open, which the next write finds: every
    /// write is refused from then on, and the error says so. Whoever serves from the store stops then.
    pub async fn outdated(&self) -> Error {
        self.inner.outdated.wait().await
    }

    /// Commits what is queued, moves the WAL into the database and closes the file. Everything asked afterwards, of
    /// any clone, is an error. A second call returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] when the file could not be closed cleanly; nothing committed is lost by that.
    pub async fn close(&self) -> Result<()> {
        let inner = &self.inner;
        inner.inlet.close();
        let closed = inner.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(closed) = closed else { return Ok(()) };
        inner.readers.close(inner.config.readers).await;
        closed.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Store, "the writer thread had stopped")))
    }

    /// Writes to the product's own tables, in one durable commit with whatever else waits. Returns the rows changed.
    /// The store's own tables (`palisade_…`), transactions and pragmas are refused.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the statement itself fails: nothing is written; [`ErrorKind::Store`],
    /// [`ErrorKind::Overloaded`].
    pub async fn execute(&self, effect: Effect) -> Result<u64> {
        let bytes = product::bytes(&effect) + inbox::COMMAND_BYTES;
        self.inner
            .inlet
            .write(bytes, move |tx| {
                let ran = tx.nested(|tx| product::run(tx, &effect), std::result::Result::is_ok)?;
                ran.map_err(|phrase| Error::new(ErrorKind::Invalid, phrase).into())
            })
            .await
    }

    /// Reads rows with a product's own query, in a snapshot that holds every commit answered so far. It cannot write.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn query(&self, sql: impl Into<String>, values: Vec<Value>) -> Result<Vec<Vec<Value>>> {
        let sql = sql.into();
        self.inner.readers.read(move |connection| product::query(connection, &sql, &values)).await
    }

    /// Checks the whole file; costs a reading of all of it. Empty when all is well, else SQLite's findings.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] when the file cannot even be read.
    pub async fn check(&self) -> Result<Vec<String>> {
        self.inner.readers.read(|connection| Ok(schema::integrity(connection)?)).await
    }

    /// Returns how many steps SQLite's machine has taken for all reads so far, to the nearest hundred of each. What a
    /// page costs is told by this exactly, where time tells it roughly.
    #[must_use]
    pub fn read_steps(&self) -> u64 {
        self.inner.readers.steps()
    }

    /// Queues a small command and waits for its commit.
    async fn write<T, F>(&self, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&writer::Tx<'_>) -> std::result::Result<T, error::Fault> + Send + 'static,
    {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| run(tx)).await
    }

    /// Changes the size the database file may grow to ([`SqliteConfig::size_bytes_max`]).
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn set_size_max(&self, bytes: Option<u64>) -> Result<()> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| Ok(schema::limit(tx.connection(), bytes)?)).await
    }

    /// Finds the events that meet a filter among the next rows, and does what is to be done with each.
    async fn step(
        &self,
        filter: ReplayFilter,
        (after, looked): (EventRow, u32),
        act: Option<inbox::Act>,
        now: Timestamp,
    ) -> Result<ReplayStep> {
        // Looked for where nobody waits for it; the writer is asked for what was found, and looks at that once more.
        let asked = filter.clone();
        let step = self.inner.readers.read(move |reader| inbox::replayable(reader, &asked, after, looked)).await?;
        let Some(act) = act.filter(|_| !step.met.is_empty()) else { return Ok(step) };
        let ReplayStep { met, next } = step;
        let run = move |tx: &mut writer::Tx<'_>| inbox::each(tx, &filter, &met, |tx, row| act(tx, row, now));
        let met = self.inner.inlet.write(inbox::COMMAND_BYTES, run).await?;
        Ok(ReplayStep { met, next })
    }
}

#[async_trait]
impl Inbox for SqliteStore {
    async fn append(&self, deliveries: Vec<NewDelivery>) -> Result<Vec<Vec<Appended>>> {
        self.inner.inlet.write(inbox::bytes(&deliveries), move |tx| inbox::append(tx, &deliveries)).await
    }

    async fn event(&self, row: EventRow) -> Result<Option<StoredEvent>> {
        self.inner.readers.read(move |connection| inbox::event(connection, row)).await
    }

    async fn events_to_handle(&self, rows: Vec<EventRow>) -> Result<Vec<Option<ToHandle>>> {
        self.inner.readers.read(move |connection| inbox::to_handle(connection, &rows)).await
    }

    async fn events(&self, state: Option<EventState>, before: Option<EventRow>, limit: u32) -> Result<EventPage> {
        self.inner.readers.read(move |connection| inbox::events(connection, state, before, limit)).await
    }

    async fn event_heads(&self, rows: Vec<EventRow>) -> Result<Vec<Option<StoredEvent>>> {
        self.inner.readers.read(move |connection| inbox::heads(connection, &rows)).await
    }

    async fn replay(&self, row: EventRow, now: Timestamp) -> Result<bool> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| inbox::replay(tx, row.0, now)).await
    }

    async fn replay_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep> {
        let act = (!dry_run).then_some(inbox::replay as inbox::Act);
        self.step(filter, (after, looked), act, now).await
    }

    async fn dismiss(&self, row: EventRow, now: Timestamp) -> Result<bool> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| inbox::dismiss(tx, row.0, now)).await
    }

    async fn dismiss_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep> {
        let Some(filter) = filter.of_dead() else { return Ok(ReplayStep { met: Vec::new(), next: None }) };
        let act = (!dry_run).then_some(inbox::dismiss as inbox::Act);
        self.step(filter, (after, looked), act, now).await
    }

    async fn halt(&self, halt: Halt, now: Timestamp) -> Result<bool> {
        self.write(move |tx| halts::add(tx, &halt, now)).await
    }

    async fn resume(&self, halt: Halt) -> Result<bool> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| halts::remove(tx, &halt)).await
    }

    async fn halts(&self, limit: u32) -> Result<Vec<(Halt, Timestamp)>> {
        self.inner.readers.read(move |reader| halts::list(reader, limit)).await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetters>> {
        self.inner.readers.read(move |reader| causes::list(reader, limit)).await
    }

    async fn event_counts(&self) -> Result<BTreeMap<EventState, u64>> {
        self.inner.readers.read(inbox::counts).await
    }

    async fn dead_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>> {
        self.inner.readers.read(move |reader| inbox::dead_counts(reader, connections)).await
    }

    async fn heard(&self, endpoint: EndpointId) -> Result<Vec<Heard>> {
        self.inner.readers.read(move |reader| heard::read(reader, endpoint.as_str())).await
    }

    async fn prune_events(
        &self,
        before: Timestamp,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| inbox::prune(tx, before, forget, after, limit)).await
    }

    async fn forget_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| inbox::forget(tx, before, limit)).await
    }

    async fn inbox_bytes(&self) -> Result<u64> {
        self.inner.readers.read(inbox::kept_bytes).await
    }

    async fn prune_inbox(
        &self,
        bytes_max: u64,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep> {
        self.inner
            .inlet
            .write(inbox::COMMAND_BYTES, move |tx| inbox::prune_to(tx, bytes_max, forget, after, limit))
            .await
    }
}

#[async_trait]
impl Jobs for SqliteStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>> {
        let bytes = jobs.len() * inbox::COMMAND_BYTES;
        let run = move |tx: &mut writer::Tx<'_>| jobs.iter().map(|job| jobs::enqueue(tx, job)).collect();
        self.inner.inlet.write(bytes, run).await
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        let queue = claim.queue;
        let run = move |tx: &mut writer::Tx<'_>| Ok((jobs::claim(tx, &claim)?, std::mem::take(&mut tx.buried)));
        let (claimed, buried) = self.inner.inlet.write(inbox::COMMAND_BYTES, run).await?;
        // Once it is so: a claim may be made again when its commit fails.
        for (job, reason) in buried {
            tell_buried(job, queue, reason);
        }
        Ok(claimed)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>> {
        let bytes = settlements.iter().map(jobs::bytes).sum();
        let merged = settlements.iter().flat_map(|one| one.merges.iter().map(|merge| merge.key.clone()));
        let merged: Vec<StreamKey> = merged.collect();
        let run = move |tx: &mut writer::Tx<'_>| settlements.iter().map(|one| jobs::settle(tx, one)).collect();
        let settled = self.inner.inlet.write(bytes, run).await?;
        merged.iter().for_each(|key| self.inner.feed_bells.ring(key));
        Ok(settled)
    }

    async fn extend(&self, leases: Vec<Lease>, until: Timestamp) -> Result<Vec<bool>> {
        let run = move |tx: &mut writer::Tx<'_>| leases.iter().map(|lease| jobs::extend(tx, *lease, until)).collect();
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }

    async fn oldest_due(&self, queue: Queue, now: Timestamp) -> Result<Option<Timestamp>> {
        self.inner.readers.read(move |connection| jobs::oldest_due(connection, queue, now)).await
    }

    async fn live_jobs(&self, unique: Vec<String>) -> Result<Vec<Option<LiveJob>>> {
        let read = move |connection: &Connection| unique.iter().map(|key| jobs::live(connection, key)).collect();
        self.inner.readers.read(read).await
    }

    async fn job_counts(&self) -> Result<JobCounts> {
        self.inner.readers.read(jobs::counts).await
    }

    async fn wait_for_work(&self, queue: Queue) {
        self.inner.bells.of(queue).notified().await;
    }

    async fn prune_jobs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| jobs::prune(tx, before, limit)).await
    }
}

#[async_trait]
impl Records for SqliteStore {
    async fn stream(&self, key: StreamKey) -> Result<StreamStatus> {
        self.inner.readers.read(move |connection| records::stream(connection, &key)).await
    }

    async fn streams(&self, connection: ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>> {
        self.inner.readers.read(move |reader| records::streams(reader, &connection)).await
    }

    async fn start_run(&self, lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Result<Run> {
        let run = move |tx: &mut writer::Tx<'_>| runs::start_run(tx, lease, &key, mode, now);
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }

    async fn commit_page(&self, page: PageCommit) -> Result<PageCommitted> {
        let aside: usize = page.bad.iter().map(|one| one.raw.len() + inbox::COMMAND_BYTES).sum();
        let fetched: usize = page.fetched.iter().map(|one| records::bytes(std::slice::from_ref(&one.change))).sum();
        let bytes = records::bytes(&page.changes) + fetched + inbox::bytes(&page.deliveries) + aside;
        let run = move |tx: &mut writer::Tx<'_>| {
            let committed = runs::commit_page(tx, &page)?;
            let changed = feed::changed_by(tx, page.run, &committed.counts)?;
            Ok((committed, changed))
        };
        let (committed, changed) = self.inner.inlet.write(bytes, run).await?;
        changed.iter().for_each(|key| self.inner.feed_bells.ring(key));
        Ok(committed)
    }

    async fn merge(&self, merges: Vec<Merge>, now: Timestamp) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>)> {
        let bytes = merges.iter().map(|merge| records::bytes(&merge.changes)).sum();
        let keys: Vec<StreamKey> = merges.iter().map(|merge| merge.key.clone()).collect();
        let merged = self.inner.inlet.write(bytes, move |tx| records::merge_outside(tx, &merges, now)).await?;
        keys.iter().for_each(|key| self.inner.feed_bells.ring(key));
        Ok(merged)
    }

    async fn end_run(&self, end: RunEnd) -> Result<Run> {
        // What is looked for among all records is looked for where nobody waits for it: the writer looks at what was found.
        let unseen = if end.state == RunState::Done {
            let (run, at_once) = (end.run, end.at_once);
            self.inner.readers.read(move |reader| runs::unseen(reader, run, at_once)).await?
        } else {
            runs::Unseen::default()
        };
        let bytes = inbox::COMMAND_BYTES + unseen.bytes();
        let run = self.inner.inlet.write(bytes, move |tx| runs::end_run(tx, &end, &unseen)).await?;
        self.inner.feed_bells.ring(&run.key);
        Ok(run)
    }

    async fn runs(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<Run>> {
        self.inner.readers.read(move |reader| runs::list(reader, connection.as_ref(), limit)).await
    }

    async fn find_runs(&self, filter: RunFilter, limit: u32) -> Result<Vec<Run>> {
        self.inner.readers.read(move |reader| runs::find(reader, &filter, limit)).await
    }

    async fn live_runs(&self, limit: u32) -> Result<Vec<Run>> {
        self.inner.readers.read(move |reader| runs::live(reader, limit)).await
    }

    async fn newest_runs(&self, connection: ConnectionId) -> Result<Vec<Run>> {
        self.inner.readers.read(move |reader| runs::newest(reader, &connection)).await
    }

    async fn run(&self, run: RunId) -> Result<Option<Run>> {
        self.inner.readers.read(move |reader| runs::one(reader, run)).await
    }

    async fn hold_run(&self, lease: Lease, run: RunId, stop: Stop) -> Result<()> {
        self.write(move |tx| runs::hold(tx, lease, run, &stop)).await
    }

    async fn unseen(&self, run: RunId, after: Option<RecordId>, limit: u32) -> Result<Vec<Record>> {
        self.inner.readers.read(move |reader| runs::unseen_records(reader, run, after.as_ref(), limit)).await
    }

    async fn dismiss_run(&self, run: RunId, reason: String, now: Timestamp) -> Result<bool> {
        self.write(move |tx| runs::dismiss(tx, run, &reason, now)).await
    }

    async fn healings(&self, connection: ConnectionId, limit: u32) -> Result<Vec<Run>> {
        self.inner.readers.read(move |reader| runs::healings(reader, &connection, limit)).await
    }

    async fn bad_records(&self, key: StreamKey, limit: u32) -> Result<Vec<StoredBad>> {
        self.inner.readers.read(move |reader| records::bad_records(reader, &key, limit)).await
    }

    async fn bad_to_retry(&self, key: StreamKey, run: RunId, limit: u32) -> Result<Vec<StoredBad>> {
        self.inner.readers.read(move |reader| records::bad_to_retry(reader, &key, run, limit)).await
    }

    async fn set_aside(&self, lease: Lease, run: RunId, bad: Vec<BadRecord>, now: Timestamp) -> Result<()> {
        self.write(move |tx| runs::set_aside(tx, lease, run, &bad, now)).await
    }

    async fn pause_stream(&self, key: StreamKey, since: Option<Timestamp>) -> Result<()> {
        self.write(move |tx| records::pause(tx, &key, since)).await
    }

    async fn reset_stream(&self, key: StreamKey, now: Timestamp) -> Result<bool> {
        self.write(move |tx| runs::reset(tx, &key, now)).await
    }

    async fn erase_records(&self, key: StreamKey, limit: u32, now: Timestamp) -> Result<u64> {
        let of = key.clone();
        let erased = self.write(move |tx| runs::erase(tx, &of, limit, now)).await?;
        self.inner.feed_bells.ring(&key);
        Ok(erased)
    }

    async fn stored(&self, key: StreamKey, ids: Vec<RecordId>) -> Result<Vec<Option<Stored>>> {
        self.inner.readers.read(move |reader| records::stored_of(reader, &key, &ids)).await
    }

    async fn record(&self, key: StreamKey, id: RecordId) -> Result<Option<Record>> {
        self.inner.readers.read(move |connection| records::record(connection, &key, &id)).await
    }

    async fn changes(&self, key: StreamKey, after: u64, limit: u32) -> Result<Vec<FeedEntry>> {
        self.inner.readers.read(move |connection| records::changes(connection, &key, after, limit)).await
    }

    async fn feed(&self, key: StreamKey, after: u64, limit: u32) -> Result<FeedPage> {
        self.inner.readers.read(move |connection| feed::page(connection, &key, after, limit)).await
    }

    fn scan(&self, key: StreamKey, page: u32) -> BoxStream<'static, Result<FeedPage>> {
        feed::scan(Arc::clone(&self.inner.readers), key, page)
    }

    async fn wait_for_change(&self, key: StreamKey, after: u64) {
        let mut listener = self.inner.feed_bells.listen(&key);
        loop {
            let of = key.clone();
            // A look that fails ends the wait: the caller's own reading tells why.
            match self.inner.readers.read(move |connection| feed::head(connection, &of)).await {
                Ok(head) if head <= after => listener.rung().await,
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn compact_feed(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| feed::compact(tx, before, limit)).await
    }

    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| runs::prune(tx, before, limit)).await
    }

    async fn prune_bad_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| records::prune_bad(tx, before, limit)).await
    }
}

#[async_trait]
impl Connections for SqliteStore {
    async fn put_connection(&self, connection: Account) -> Result<()> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| connections::put_anew(tx, &connection)).await
    }

    async fn turn_connection(
        &self,
        id: ConnectionId,
        seen: ConnectionState,
        to: ConnectionState,
        halted: Option<Timestamp>,
    ) -> Result<bool> {
        self.inner
            .inlet
            .write(inbox::COMMAND_BYTES, move |tx| connections::turn(tx, &id, &seen, to.clone(), halted))
            .await
    }

    async fn connection(&self, id: ConnectionId) -> Result<Option<Account>> {
        self.inner.readers.read(move |connection| connections::one(connection, &id)).await
    }

    async fn connections_of(
        &self,
        account: AccountKey,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<Account>> {
        let find = move |reader: &Connection| connections::of_account(reader, &account, after.as_ref(), limit);
        self.inner.readers.read(find).await
    }

    async fn connections(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Account>> {
        self.inner.readers.read(move |connection| connections::list(connection, after.as_ref(), limit)).await
    }

    async fn credential(&self, id: ConnectionId) -> Result<Option<SealedCredential>> {
        self.inner.readers.read(move |connection| connections::credential(connection, &id)).await
    }

    async fn put_credential(&self, id: ConnectionId, expected: u64, credential: SealedCredential) -> Result<bool> {
        let run = move |tx: &mut writer::Tx<'_>| connections::put_credential(tx, &id, expected, &credential);
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }

    async fn refuse_credential(&self, id: ConnectionId, seen: u64, reason: String) -> Result<bool> {
        self.write(move |tx| connections::refuse(tx, &id, seen, &reason)).await
    }
}

#[async_trait]
impl Keys for SqliteStore {
    async fn data_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>> {
        self.inner.readers.read(move |connection| keys::of_tenant(connection, &tenant)).await
    }

    async fn add_data_key(&self, tenant: TenantId, key: WrappedKey) -> Result<WrappedKey> {
        self.write(move |tx| keys::add(tx, &tenant, &key)).await
    }

    async fn reserve_seals(&self, tenant: TenantId, key: u64, count: u32, max: u32) -> Result<Option<u32>> {
        self.write(move |tx| keys::reserve(tx, &tenant, key, count, max)).await
    }

    async fn active_master(&self, proposed: String) -> Result<String> {
        self.write(move |tx| keys::active_or(tx, &proposed)).await
    }

    async fn activate_master(&self, id: String) -> Result<()> {
        self.write(move |tx| keys::activate(tx, &id)).await
    }

    async fn retire_master(&self, id: String) -> Result<Retirement> {
        self.write(move |tx| keys::retire(tx, &id)).await
    }

    async fn masters(&self) -> Result<Vec<MasterStatus>> {
        self.inner.readers.read(keys::masters).await
    }

    async fn data_keys_not_under(
        &self,
        master: String,
        after: Option<(TenantId, u64)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, WrappedKey)>> {
        let read = move |connection: &Connection| keys::not_under(connection, &master, after.as_ref(), limit);
        self.inner.readers.read(read).await
    }

    async fn rewrap(&self, keys: Vec<Rewrapped>) -> Result<u64> {
        self.inner.inlet.write(keys.len() * keys::REWRAPPED_BYTES, move |tx| keys::rewrap(tx, &keys)).await
    }
}

#[async_trait]
impl Grants for SqliteStore {
    async fn connect(&self, connection: Account, grants: Vec<NewGrant>) -> Result<bool> {
        self.inner.inlet.write(grants::bytes(&grants), move |tx| grants::connect(tx, &connection, &grants)).await
    }

    async fn grant(&self, key: GrantKey) -> Result<Option<StoredGrant>> {
        self.inner.readers.read(move |connection| grants::one(connection, &key)).await
    }

    async fn grants(&self, connection: ConnectionId) -> Result<Vec<StoredGrant>> {
        self.inner.readers.read(move |reader| grants::of_connection(reader, &connection)).await
    }

    async fn claim_grant(
        &self,
        key: GrantKey,
        generation: u64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<GrantClaim> {
        self.write(move |tx| grants::claim(tx, &key, generation, now, until)).await
    }

    async fn extend_grant(&self, lease: GrantLease, until: Timestamp) -> Result<bool> {
        self.write(move |tx| grants::extend(tx, &lease, until)).await
    }

    async fn note_intent(&self, lease: GrantLease, at: Option<Timestamp>) -> Result<bool> {
        self.write(move |tx| grants::note_intent(tx, &lease, at)).await
    }

    async fn renew_grant(&self, key: GrantKey, tokens: NewTokens) -> Result<bool> {
        let bytes = inbox::COMMAND_BYTES + tokens.blob.len();
        self.inner.inlet.write(bytes, move |tx| grants::renew(tx, &key, &tokens)).await
    }

    async fn release_grant(&self, lease: GrantLease, rest_until: Option<Timestamp>) -> Result<bool> {
        self.write(move |tx| grants::release(tx, &lease, rest_until)).await
    }

    async fn end_grant(&self, key: GrantKey, generation: u64, reason: EndReason, serves: bool) -> Result<bool> {
        self.write(move |tx| grants::end(tx, &key, generation, reason, serves)).await
    }

    async fn disconnect(
        &self,
        connection: ConnectionId,
        revocations: Vec<(GrantName, Revocation)>,
        now: Timestamp,
    ) -> Result<bool> {
        self.write(move |tx| grants::disconnect(tx, &connection, &revocations, now)).await
    }

    async fn grants_due(&self, now: Timestamp, limit: u32) -> Result<Vec<GrantKey>> {
        self.inner.readers.read(move |connection| grants::due(connection, now, limit)).await
    }
}

#[async_trait]
impl Authorizations for SqliteStore {
    async fn put_pending(&self, row: PendingRow) -> Result<bool> {
        let bytes = inbox::COMMAND_BYTES + row.blob.len();
        self.inner.inlet.write(bytes, move |tx| authorizations::put_pending(tx, &row)).await
    }

    async fn take_pending(&self, state: TokenHash) -> Result<Option<PendingRow>> {
        self.write(move |tx| authorizations::take_pending(tx, state)).await
    }

    async fn put_session(&self, row: SessionRow) -> Result<bool> {
        self.write(move |tx| authorizations::put_session(tx, &row)).await
    }

    async fn take_session(&self, token: TokenHash) -> Result<Option<SessionRow>> {
        self.write(move |tx| authorizations::take_session(tx, token)).await
    }

    async fn prune_authorizations(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| authorizations::prune(tx, before, limit)).await
    }
}

#[async_trait]
impl CallLog for SqliteStore {
    async fn log_calls(&self, calls: Vec<CallRecord>) -> Result<()> {
        self.inner.inlet.write(calls.len() * calls::CALL_BYTES, move |tx| calls::log(tx, &calls)).await
    }

    async fn calls(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<CallRecord>> {
        self.inner.readers.read(move |reader| calls::list(reader, connection.as_ref(), limit)).await
    }

    async fn call_counts(&self, connection: ConnectionId, since: Timestamp) -> Result<CallCounts> {
        self.inner.readers.read(move |reader| calls::counts(reader, &connection, since)).await
    }

    async fn prune_calls(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| calls::prune(tx, before, limit)).await
    }

    async fn roll_up_calls(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| calls::roll_up(tx, before, limit)).await
    }

    async fn prune_call_days(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| calls::prune_days(tx, before, limit)).await
    }

    async fn call_days(&self, connection: ConnectionId, limit: u32) -> Result<Vec<CallDay>> {
        self.inner.readers.read(move |reader| calls::days(reader, &connection, limit)).await
    }
}

#[async_trait]
impl Pauses for SqliteStore {
    async fn put_pauses(&self, pauses: Vec<Pause>) -> Result<()> {
        self.inner.inlet.write(pauses.len() * pauses::PAUSE_BYTES, move |tx| pauses::put(tx, &pauses)).await
    }

    async fn pauses(&self, now: Timestamp, limit: u32) -> Result<Vec<Pause>> {
        self.inner.readers.read(move |reader| pauses::list(reader, now, limit)).await
    }

    async fn prune_pauses(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| pauses::prune(tx, before, limit)).await
    }
}

#[async_trait]
impl Schedules for SqliteStore {
    async fn scheduled(&self, connection: ConnectionId) -> Result<Option<Scheduled>> {
        self.inner.readers.read(move |reader| schedules::one(reader, &connection)).await
    }

    async fn scheduled_after(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Scheduled>> {
        self.inner.readers.read(move |reader| schedules::after(reader, after.as_ref(), limit)).await
    }

    async fn set_schedule(&self, key: StreamKey, mode: RunMode, schedule: Option<String>) -> Result<()> {
        self.write(move |tx| schedules::set(tx, &key, mode, schedule.as_deref())).await
    }

    async fn move_job(&self, unique: String, to: Timestamp, now: Timestamp) -> Result<Moved> {
        let run = move |tx: &mut writer::Tx<'_>| schedules::move_job(tx, &unique, to, now);
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }

    async fn held_job(&self, lease: Lease) -> Result<Option<HeldJob>> {
        self.inner.readers.read(move |reader| schedules::held(reader, lease)).await
    }

    async fn chore_ended(&self, report: ChoreReport) -> Result<()> {
        self.write(move |tx| schedules::chore_ended(tx, &report)).await
    }

    async fn chore_reports(&self) -> Result<Vec<ChoreReport>> {
        self.inner.readers.read(schedules::chores).await
    }
}

#[async_trait]
impl Destinations for SqliteStore {
    async fn put_destination(&self, destination: NewDestination, expected: u64, now: Timestamp) -> Result<bool> {
        let put = move |tx: &mut writer::Tx<'_>| destinations::put(tx, &destination, expected, now);
        self.inner.inlet.write(destinations::DESTINATION_BYTES, put).await
    }

    async fn destinations(&self) -> Result<Vec<StoredDestination>> {
        self.inner.readers.read(destinations::list).await
    }

    async fn remove_destination(&self, name: String) -> Result<bool> {
        self.write(move |tx| destinations::remove(tx, &name)).await
    }

    async fn note_forward(
        &self,
        name: String,
        failed: Option<String>,
        of: u64,
        now: Timestamp,
    ) -> Result<Option<Noted>> {
        self.write(move |tx| destinations::note(tx, &name, failed.as_deref(), of, now)).await
    }

    async fn disable_destination(&self, name: String, disabled: Option<Disabled>, of: Option<u64>) -> Result<bool> {
        self.write(move |tx| destinations::disable(tx, &name, disabled.as_ref(), of)).await
    }

    async fn pause_destination(&self, name: String, paused_at: Option<Timestamp>) -> Result<bool> {
        self.write(move |tx| destinations::pause(tx, &name, paused_at)).await
    }

    async fn forward_counts(&self, destinations: Vec<String>) -> Result<BTreeMap<String, ForwardCounts>> {
        self.inner.readers.read(move |reader| dead_forwards::counts(reader, destinations)).await
    }

    async fn dead_forwards(
        &self,
        destination: String,
        after: Option<EventRow>,
        limit: u32,
    ) -> Result<Vec<DeadForward>> {
        self.inner.readers.read(move |reader| dead_forwards::list(reader, &destination, after, limit)).await
    }

    async fn dismiss_forwards(&self, destination: String, rows: Vec<EventRow>) -> Result<u64> {
        let run = move |tx: &mut writer::Tx<'_>| {
            let mut dismissed = 0;
            for row in &rows {
                dismissed += u64::from(dead_forwards::dismiss(tx, &destination, *row)?);
            }
            Ok(dismissed)
        };
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn transact(&self, effects: Vec<Effect>, calls: Vec<KeptCall>) -> Result<Transacted> {
        let bytes = outbox::bytes(&effects, &calls);
        self.inner.inlet.write(bytes, move |tx| outbox::transact(tx, &effects, &calls)).await
    }

    async fn note_departure(&self, lease: Lease, call: CallId, now: Timestamp) -> Result<bool> {
        self.write(move |tx| outbox::note_departure(tx, lease, call, now)).await
    }

    async fn outbox_call(&self, id: CallId) -> Result<Option<OutboxCall>> {
        self.inner.readers.read(move |reader| outbox::one(reader, id)).await
    }

    async fn outbox(&self, state: Option<CallState>, before: Option<CallId>, limit: u32) -> Result<Vec<OutboxCall>> {
        self.inner.readers.read(move |reader| outbox::list(reader, state, before, limit)).await
    }

    async fn outbox_counts(&self) -> Result<BTreeMap<CallState, u64>> {
        self.inner.readers.read(outbox::counts).await
    }

    async fn review_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>> {
        self.inner.readers.read(move |reader| outbox::reviews(reader, connections)).await
    }

    async fn decide_call(&self, id: CallId, decision: Decision, now: Timestamp) -> Result<Decided> {
        let run = move |tx: &mut writer::Tx<'_>| outbox::decide_call(tx, id, decision, now);
        self.inner.inlet.write(inbox::COMMAND_BYTES, run).await
    }

    async fn prune_outbox(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(move |tx| outbox::prune(tx, before, limit)).await
    }
}

/// Bytes a probe proves room for.
const PROBE_BYTES: i32 = 64 * 1024;

#[async_trait]
impl Store for SqliteStore {
    async fn probe(&self, now: Timestamp) -> Result<()> {
        let write = self.inner.inlet.write(inbox::COMMAND_BYTES, move |tx| {
            tx.has_room()?;
            tx.prepare("INSERT INTO palisade_probe (at, room) VALUES (?1, zeroblob(?2))")?
                .execute((now.millis(), PROBE_BYTES))?;
            tx.prepare("DELETE FROM palisade_probe")?.execute(())?;
            Ok(())
        });
        write.await
    }
}

//! The one writer: a thread that commits everything queued while its last commit ran.
//!
//! A commit is optimistic: its commands run one after another in one transaction. A command that fails by its own
//! fault is taken out, the transaction is rolled back and the rest runs again, so one failing command never takes the
//! others with it, and the usual commit pays for no savepoint. One that is refused after it has written something is taken
//! out in the same way: whoever is told of an error has nothing in the file. What was taken out may have met what another
//! command had written and the rollback has undone, so it runs once more by itself, behind the others' commit: what it is
//! told then is true of the file. A fault of the surroundings (disk full, I/O, a COMMIT that fails) fails every command of
//! the commit: nobody is told "stored" who is not.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use palisade_core::store::{HEARD_EVERY_MS, JobId, Queue};
use palisade_core::{Error, ErrorKind, Result};
use rusqlite::{CachedStatement, Connection, params};
use tokio::sync::{Notify, oneshot};

use super::error::{Failure, Fault, failure, is_environment};
use super::lanes::{self, Tail};
use super::names::{self, Names};
use super::schema;
use super::turns::Turns;

/// Most commands in one commit: bounds how long the first of them waits for the last.
const BATCH_COMMANDS_MAX: usize = 512;
/// Most payload bytes in one commit: bounds the WAL it writes at once. A single larger command goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// What a refused caller is told to wait: several commits go by in it.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(1);
/// What is told to wait whoever is refused because the disk is nearly full: somebody must make room.
const SHORT_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Most workers woken by one commit.
const WAKE_MAX: u32 = 64;

/// One command to the writer.
pub(super) trait Write: Send {
    /// Runs inside the transaction; may run again after a rollback.
    fn run(&mut self, tx: &mut Tx<'_>) -> std::result::Result<(), Broken>;
    /// Tells the caller, after the commit or its failure.
    fn answer(self: Box<Self>, failed: Option<&Failure>);
}

/// Why a commit must be undone.
pub(super) enum Broken {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// The command was refused when it had written something already. It knows its answer.
    Refused,
}

struct Command<T, F> {
    run: F,
    outcome: Option<Result<T>>,
    /// What ran goes back with the answer: the memory it holds was allocated by the caller's thread, and freed there it
    /// is at hand for what that thread does next.
    reply: oneshot::Sender<(Result<T>, F)>,
}

impl<T, F> Write for Command<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> std::result::Result<T, Fault> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> std::result::Result<(), Broken> {
        let before = tx.connection.total_changes();
        match (self.run)(tx) {
            Ok(value) => self.outcome = Some(Ok(value)),
            Err(Fault::Sql(error)) => return Err(Broken::Sql(error)),
            Err(Fault::Refused(error)) => {
                self.outcome = Some(Err(error));
                if tx.connection.total_changes() != before {
                    return Err(Broken::Refused);
                }
            }
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<&Failure>) {
        let Self { run, outcome, reply } = *self;
        let outcome = match (failed, outcome) {
            (None, Some(outcome)) => outcome,
            (Some(failure), _) => Err(failure.to_error()),
            (None, None) => Err(stopped()),
        };
        // A caller that went away is no longer interested; what it asked for is committed all the same.
        let _ = reply.send((outcome, run));
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Store, "the store is closed: open it again").with_retryable(false)
}

// ------------------------------------------------------------------------------------------------------- queue

struct Waiting {
    commands: VecDeque<(usize, Box<dyn Write>)>,
    bytes: usize,
    closed: bool,
    asleep: bool,
}

/// The bounded queue to the writer.
pub(super) struct Inlet {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    commands_max: usize,
    bytes_max: usize,
}

impl std::fmt::Debug for Inlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inlet").field("commands_max", &self.commands_max).finish_non_exhaustive()
    }
}

impl Inlet {
    pub(super) fn new(commands_max: usize, bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting { commands: VecDeque::new(), bytes: 0, closed: false, asleep: false }),
            filled: Condvar::new(),
            commands_max,
            bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under the lock, and a queue is whole after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command of about `bytes` and waits for its commit.
    pub(super) async fn write<T, F>(&self, bytes: usize, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> std::result::Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.push(bytes, Box::new(Command { run, outcome: None, reply }))?;
        answer.await.map_or_else(|_| Err(stopped()), |(outcome, _)| outcome)
    }

    fn push(&self, bytes: usize, command: Box<dyn Write>) -> Result<()> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(stopped());
        }
        let full = waiting.commands.len() >= self.commands_max
            || (waiting.bytes.saturating_add(bytes) > self.bytes_max && !waiting.commands.is_empty());
        if full {
            return Err(Error::new(ErrorKind::Overloaded, "the queue to the database is full: nothing was stored")
                .with_retry_after(Some(OVERLOADED_RETRY_AFTER)));
        }
        waiting.bytes = waiting.bytes.saturating_add(bytes);
        waiting.commands.push_back((bytes, command));
        if waiting.asleep {
            waiting.asleep = false;
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes the next commit's commands; waits for one. `None` when closed and drained.
    fn take(&self) -> Option<Vec<Box<dyn Write>>> {
        let mut waiting = self.lock();
        while waiting.commands.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting.asleep = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Vec::with_capacity(waiting.commands.len().min(BATCH_COMMANDS_MAX));
        let mut total = 0_usize;
        while let Some((bytes, command)) = waiting.commands.pop_front() {
            if !batch.is_empty() && (batch.len() >= BATCH_COMMANDS_MAX || total.saturating_add(bytes) > BATCH_BYTES_MAX)
            {
                waiting.commands.push_front((bytes, command));
                break;
            }
            total = total.saturating_add(bytes);
            batch.push(command);
        }
        waiting.bytes = waiting.bytes.saturating_sub(total);
        Some(batch)
    }

    /// Refuses new commands; those queued are still committed.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.commands.clear();
    }
}

// ------------------------------------------------------------------------------------------------- transaction

/// Counters and the newest ids: read at the beginning of each transaction (another process may have moved them),
/// written once at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) event_last: i64,
    pub(super) job_last: i64,
    /// By the number of [`palisade_core::store::EventState`]: pending, done, ignored, dead.
    pub(super) events: [i64; 4],
    pub(super) jobs_waiting: i64,
    pub(super) jobs_running: i64,
    pub(super) jobs_dead: i64,
    /// Up to this job unfinished ones of a lane are entered in their table.
    pub(super) lane_to: i64,
    /// How many are.
    pub(super) lane_jobs: i64,
    /// What the inbox keeps.
    pub(super) inbox_bytes: i64,
}

const TALLY_READ: &str = "SELECT event_last, job_last, events_pending, events_done, events_ignored, events_dead, \
     jobs_waiting, jobs_running, jobs_dead, lane_to, lane_jobs, inbox_bytes FROM palisade_tally \
     WHERE id = 1";
const TALLY_WRITE: &str = "UPDATE palisade_tally SET event_last = ?1, job_last = ?2, events_pending = ?3, \
     events_done = ?4, events_ignored = ?5, events_dead = ?6, jobs_waiting = ?7, jobs_running = ?8, jobs_dead = ?9, \
     lane_to = ?10, lane_jobs = ?11, inbox_bytes = ?12 WHERE id = 1";

impl Tally {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached(TALLY_READ)?.query_one([], |row| {
            Ok(Self {
                event_last: row.get(0)?,
                job_last: row.get(1)?,
                events: [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?],
                jobs_waiting: row.get(6)?,
                jobs_running: row.get(7)?,
                jobs_dead: row.get(8)?,
                lane_to: row.get(9)?,
                lane_jobs: row.get(10)?,
                inbox_bytes: row.get(11)?,
            })
        })
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let [pending, done, ignored, dead] = self.events;
        connection.prepare_cached(TALLY_WRITE)?.execute(params![
            self.event_last,
            self.job_last,
            pending,
            done,
            ignored,
            dead,
            self.jobs_waiting,
            self.jobs_running,
            self.jobs_dead,
            self.lane_to,
            self.lane_jobs,
            self.inbox_bytes,
        ])?;
        Ok(())
    }
}

/// The transaction a command runs in.
pub(super) struct Tx<'c> {
    connection: &'c Connection,
    product: &'c AtomicBool,
    pub(super) tally: Tally,
    pub(super) names: &'c mut Names,
    pub(super) tail: &'c mut Tail,
    pub(super) turns: &'c mut Turns,
    /// The highest turns claimed, by queue and priority, as far as they were asked for.
    pub(super) passed: Vec<(i64, i64, i64)>,
    /// Jobs that became ready, per queue: workers to wake after the commit.
    ready: [u32; Queue::ALL.len()],
    /// Jobs that the claim under way gave up, and why.
    pub(super) buried: Vec<(JobId, &'static str)>,
    /// Which types of events were heard at which endpoints in this transaction, and when.
    heard: Vec<(String, String, i64)>,
    /// Statements every delivery runs, kept at hand.
    hot: Vec<(&'static str, CachedStatement<'c>)>,
    /// The disk is nearly full.
    short: bool,
}

/// How many pairs of endpoint and type one transaction keeps in mind.
const HEARD_MAX: usize = 32;

impl<'c> Tx<'c> {
    pub(super) fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    /// Returns a statement that is kept at hand until the transaction ends: for those that every delivery of a commit
    /// runs. Finding one in the cache costs a hash of its text, twice.
    pub(super) fn hot(&mut self, sql: &'static str) -> rusqlite::Result<&mut CachedStatement<'c>> {
        let known = self.hot.iter().position(|(one, _)| std::ptr::eq(*one, sql));
        let at = match known {
            Some(at) => at,
            None => {
                self.hot.push((sql, self.connection.prepare_cached(sql)?));
                self.hot.len() - 1
            }
        };
        self.hot.get_mut(at).map(|(_, statement)| statement).ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Refuses what would let the file grow while the disk is nearly full, so that what is kept can still be worked off.
    pub(super) fn has_room(&self) -> std::result::Result<(), Fault> {
        if !self.short {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Overloaded, "the disk is nearly full: nothing was stored, make room");
        Err(error.with_retry_after(Some(SHORT_RETRY_AFTER)).into())
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    pub(super) fn last_rowid(&self) -> i64 {
        self.connection.last_insert_rowid()
    }

    pub(super) fn changes(&self) -> u64 {
        self.connection.changes()
    }

    /// Tells whether this transaction has seen that hearing a type again at a moment changes nothing.
    pub(super) fn knows(&self, endpoint: &str, kind: &str, at: i64) -> bool {
        let known = self.heard.iter().find(|(of, one, _)| of == endpoint && one == kind);
        known.is_some_and(|(_, _, heard_at)| at.saturating_sub(*heard_at) < HEARD_EVERY_MS)
    }

    /// Notes when a type was last heard, of which nothing was found since.
    pub(super) fn hear(&mut self, endpoint: &str, kind: &str, heard_at: i64) {
        self.heard.retain(|(of, one, _)| of != endpoint || one != kind);
        if self.heard.len() < HEARD_MAX {
            self.heard.push((endpoint.to_owned(), kind.to_owned(), heard_at));
        }
    }

    /// Forgets what was heard: something was found, or undone, and the next that is heard may count.
    pub(super) fn unhear(&mut self) {
        self.heard.clear();
    }

    /// Notes that a job of the queue became ready.
    pub(super) fn wake(&mut self, queue: Queue) {
        let [events, background, calls, forwards] = &mut self.ready;
        let count = match queue {
            Queue::Events => events,
            Queue::Background => background,
            Queue::Calls => calls,
            Queue::Forwards => forwards,
        };
        *count = count.saturating_add(1);
    }

    /// Prepares a product's own statement: the authorizer refuses what would reach our tables or our transaction.
    pub(super) fn prepare_product(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.product.store(true, Ordering::Relaxed);
        let statement = self.connection.prepare_cached(sql);
        self.product.store(false, Ordering::Relaxed);
        statement
    }

    /// Runs `body` so that everything it wrote is undone when `keep` refuses its answer.
    pub(super) fn nested<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> std::result::Result<T, Fault>,
        keep: impl FnOnce(&T) -> bool,
    ) -> std::result::Result<T, Fault> {
        let (tally, ready, tail, turns) = (self.tally, self.ready, self.tail.mark(), self.turns.mark());
        self.prepare("SAVEPOINT palisade")?.execute([])?;
        let answer = match body(self) {
            Err(Fault::Sql(error)) => return Err(Fault::Sql(error)),
            answered => answered,
        };
        if !answer.as_ref().is_ok_and(keep) {
            self.prepare("ROLLBACK TO palisade")?.execute([])?;
            (self.tally, self.ready) = (tally, ready);
            self.tail.back_to(tail, tally.job_last);
            self.turns.back_to(turns, tally.job_last);
            self.unhear();
        }
        self.prepare("RELEASE palisade")?.execute([])?;
        answer
    }
}

// ------------------------------------------------------------------------------------------------------ thread

/// Workers waiting for jobs, per queue.
#[derive(Debug, Default)]
pub(super) struct Bells {
    /// As [`Queue::ALL`] has them.
    bells: [Notify; Queue::ALL.len()],
}

impl Bells {
    pub(super) fn of(&self, queue: Queue) -> &Notify {
        let [events, background, calls, forwards] = &self.bells;
        match queue {
            Queue::Events => events,
            Queue::Background => background,
            Queue::Calls => calls,
            Queue::Forwards => forwards,
        }
    }

    fn ring(&self, ready: [u32; Queue::ALL.len()]) {
        for (bell, count) in self.bells.iter().zip(ready) {
            for _ in 0..count.min(WAKE_MAX) {
                bell.notify_one();
            }
        }
    }
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) product: Arc<AtomicBool>,
    pub(super) inlet: Arc<Inlet>,
    pub(super) bells: Arc<Bells>,
    pub(super) names: Names,
    pub(super) tail: Tail,
    pub(super) turns: Turns,
    pub(super) disk: Disk,
    pub(super) outdated: Arc<Outdated>,
}

/// Whether the file was upgraded by a newer program while this one had it open.
#[derive(Debug, Default)]
pub(super) struct Outdated {
    found: OnceLock<Failure>,
    bell: Notify,
}

impl Outdated {
    fn tell(&self, failure: Failure) {
        if self.found.set(failure).is_ok() {
            self.bell.notify_waiters();
        }
    }

    /// Waits until it was; says what to do.
    pub(super) async fn wait(&self) -> Error {
        loop {
            let told = self.bell.notified();
            if let Some(failure) = self.found.get() {
                return failure.to_error();
            }
            told.await;
        }
    }
}

/// The disk the file is on.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) free_bytes_min: u64,
}

impl Disk {
    /// Tells whether less is free than must stay so. A disk that cannot be asked has room.
    fn is_short(&self) -> bool {
        self.free_bytes_min > 0 && free_bytes(&self.path).is_some_and(|free| free < self.free_bytes_min)
    }
}

#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

enum Stop {
    /// The command of this number failed by its own fault.
    Command(usize, Failure),
    /// The command of this number was refused half-way.
    Refused(usize),
    /// Nothing of the commit can be stored.
    All(Failure),
}

/// Refuses everything when the thread ends, also by a panic, so that no caller waits for ever.
struct Ending(Arc<Inlet>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// Works until the queue is closed and drained, then moves the WAL into the database.
    pub(super) fn run(mut self, closed: oneshot::Sender<Result<()>>) {
        let inlet = self.inlet.clone();
        let ending = Ending(inlet.clone());
        while let Some(batch) = inlet.take() {
            self.commit(batch);
        }
        drop(ending);
        let checkpointed = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(super::error::store_error);
        self.connection.flush_prepared_statement_cache();
        let shut = self.connection.close().map_err(|(_, error)| super::error::store_error(error));
        // Nobody waits when the store was dropped without being closed.
        let _ = closed.send(checkpointed.and(shut));
    }

    fn commit(&mut self, batch: Vec<Box<dyn Write>>) {
        let mut apart = Vec::new();
        self.commit_but(batch, &mut apart);
        for command in apart {
            // Taken out of a commit of its own it is answered.
            self.commit_but(vec![command], &mut Vec::new());
        }
    }

    /// Commits commands but those that do not go with the others.
    fn commit_but(&mut self, mut batch: Vec<Box<dyn Write>>, apart: &mut Vec<Box<dyn Write>>) {
        while !batch.is_empty() {
            let alone = batch.len() == 1;
            match self.attempt(&mut batch) {
                Ok(ready) => {
                    for command in batch.drain(..) {
                        command.answer(None);
                    }
                    self.bells.ring(ready);
                }
                Err(Stop::Command(number, _) | Stop::Refused(number)) if !alone => apart.push(batch.remove(number)),
                Err(Stop::Command(number, failure)) => {
                    tracing::warn!(reason = %failure.to_error(), "one command failed and was left out of its commit");
                    batch.remove(number).answer(Some(&failure));
                }
                Err(Stop::Refused(number)) => batch.remove(number).answer(None),
                Err(Stop::All(failure)) => {
                    tracing::error!(reason = %failure.to_error(), commands = batch.len(), "a commit failed");
                    for command in batch.drain(..) {
                        command.answer(Some(&failure));
                    }
                }
            }
        }
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Write>]) -> std::result::Result<[u32; Queue::ALL.len()], Stop> {
        let ran = self.transact(batch);
        if ran.is_ok() {
            self.tail.committed();
            self.turns.committed();
        } else {
            self.tail = Tail::default();
            self.turns.failed();
        }
        if ran.is_err() && !self.connection.is_autocommit() {
            // SQLite has already rolled back by itself after some errors; a rollback that fails leaves a transaction
            // that the next BEGIN reports.
            if let Err(error) = self.connection.execute_batch("ROLLBACK") {
                return Err(Stop::All(failure(&error)));
            }
        }
        ran
    }

    fn transact(&mut self, batch: &mut [Box<dyn Write>]) -> std::result::Result<[u32; Queue::ALL.len()], Stop> {
        let all = |error: rusqlite::Error| Stop::All(failure(&error));
        let connection = &self.connection;
        let run = |sql: &str| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        run("BEGIN IMMEDIATE").map_err(all)?;
        // Under the lock, so that no upgrade comes between this and the commit.
        let mut version = connection.prepare_cached("PRAGMA user_version").map_err(all)?;
        let version: i64 = version.query_one([], |row| row.get(0)).map_err(all)?;
        if version != schema::version() {
            let failure = Failure::upgraded(version, schema::version());
            self.outdated.tell(failure.clone());
            return Err(Stop::All(failure));
        }
        let before = Tally::read(connection).map_err(all)?;
        self.tail.catch_up(connection, &before).map_err(all)?;
        self.turns.catch_up(connection, &before).map_err(all)?;
        let mut tx = Tx {
            connection,
            product: &self.product,
            tally: before,
            names: &mut self.names,
            tail: &mut self.tail,
            turns: &mut self.turns,
            passed: Vec::new(),
            ready: [0; Queue::ALL.len()],
            buried: Vec::new(),
            heard: Vec::new(),
            hot: Vec::new(),
            short: self.disk.is_short(),
        };
        for (number, command) in batch.iter_mut().enumerate() {
            command.run(&mut tx).map_err(|broken| match broken {
                Broken::Refused => Stop::Refused(number),
                Broken::Sql(error) if is_environment(&error) => Stop::All(failure(&error)),
                Broken::Sql(error) => Stop::Command(number, failure(&error)),
            })?;
        }
        if tx.tally != before {
            lanes::move_on(&mut tx).map_err(all)?;
            tx.tally.write(connection).map_err(all)?;
        }
        names::move_on(connection, tx.names).map_err(all)?;
        let ready = tx.ready;
        run("COMMIT").map_err(all)?;
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(path: &Path) -> Writer {
        let mut connection = Connection::open(path).unwrap();
        schema::prepare(&mut connection, path).unwrap();
        connection.execute_batch("CREATE TABLE seen (word TEXT PRIMARY KEY)").unwrap();
        Writer {
            connection,
            product: Arc::default(),
            inlet: Arc::new(Inlet::new(16, 1 << 20)),
            bells: Arc::default(),
            tail: Tail::default(),
            turns: Turns::default(),
            names: Names::default(),
            disk: Disk { path: path.to_owned(), free_bytes_min: 0 },
            outdated: Arc::default(),
        }
    }

    type Answer<T, F> = oneshot::Receiver<(Result<T>, F)>;

    fn command<T, F>(run: F) -> (Box<dyn Write>, Answer<T, F>)
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> std::result::Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        (Box::new(Command { run, outcome: None, reply }), answer)
    }

    fn write(tx: &Tx<'_>, word: &str) -> std::result::Result<(), Fault> {
        tx.prepare("INSERT INTO seen VALUES (?1)")?.execute([word])?;
        Ok(())
    }

    /// How the second command ends that finds what the first one wrote.
    #[derive(Clone, Copy, Debug)]
    enum Ends {
        Refused,
        Failed,
    }

    /// Fails when a command is told what it met of another's that was undone later: that a lease is lost, that a name is
    /// taken.
    #[test]
    fn a_refusal_is_true_of_what_is_stored() {
        for ends in [Ends::Refused, Ends::Failed] {
            for first_stands in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let mut writer = writer(&folder.path().join("refused.db"));
                let mut times = 0;
                let (first, first_answer) = command(move |tx| {
                    times += 1;
                    write(tx, "first")?;
                    if times > 1 && !first_stands {
                        write(tx, "first")?;
                    }
                    Ok(())
                });
                let (second, second_answer) = command(move |tx| {
                    write(tx, "second")?;
                    let meets = tx.prepare("SELECT 1 FROM seen WHERE word = 'first'")?.exists([])?;
                    match ends {
                        Ends::Refused if meets => Err(Error::new(ErrorKind::Conflict, "it is taken").into()),
                        Ends::Failed if meets => write(tx, "first"),
                        Ends::Refused | Ends::Failed => Ok(()),
                    }
                });
                let (third, third_answer) = command(|tx| write(tx, "third"));
                writer.commit(vec![first, second, third]);
                let stands = |word: &str| {
                    let sql = "SELECT count(*) FROM seen WHERE word = ?1";
                    writer.connection.query_row(sql, [word], |row| row.get::<_, i64>(0)).unwrap() == 1
                };
                let case = format!("{ends:?}, the first stands: {first_stands}");
                assert_eq!(first_answer.blocking_recv().unwrap().0.is_ok(), first_stands, "{case}");
                assert_eq!(second_answer.blocking_recv().unwrap().0.is_ok(), !first_stands, "{case}");
                assert!(third_answer.blocking_recv().unwrap().0.is_ok(), "{case}");
                let found = ["first", "second", "third"].map(stands);
                assert_eq!(found, [first_stands, !first_stands, true], "{case}");
            }
        }
    }
}

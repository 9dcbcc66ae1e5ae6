//! Reading: a few read-only connections on blocking threads. Each read sees one snapshot, at least as new as every
//! commit that was answered before it began, and never waits for the writer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palisade_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::error::{Fault, store_error};
use super::schema;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    busy: Duration,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// Steps of SQLite's machine in units of [`STEPS`], by all reads so far.
    steps: Arc<AtomicU64>,
}

/// How exactly the steps of reads are counted: seldom enough to cost nothing.
const STEPS: u16 = 100;

impl Readers {
    pub(super) fn new(path: PathBuf, busy: Duration, count: usize) -> Self {
        let permits = Arc::new(Semaphore::new(count.max(1)));
        Self { path, busy, idle: Mutex::new(Vec::new()), permits, steps: Arc::default() }
    }

    /// Returns how many steps of SQLite's machine all reads together have taken, to the nearest hundred of each.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed) * u64::from(STEPS)
    }

    /// Runs `read` in one snapshot.
    pub(super) async fn read<T, F>(self: &Arc<Self>, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> std::result::Result<T, Fault> + Send + 'static,
    {
        let closed = || Error::new(ErrorKind::Store, "the store is closed: open it again").with_retryable(false);
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        tokio::task::spawn_blocking(move || {
            let connection = readers.take().map_err(store_error)?;
            let answer = snapshot(&connection, read);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            answer
        })
        .await
        .map_err(|_| Error::new(ErrorKind::Cancelled, "the read was given up"))?
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        schema::tune(&connection, self.busy)?;
        schema::bound_cache(&connection, schema::READER_CACHE_KIB)?;
        let steps = Arc::clone(&self.steps);
        let count = move || {
            steps.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(STEPS.into(), Some(count))?;
        Ok(connection)
    }

    /// Refuses new reads, waits for those at work and closes the connections.
    pub(super) async fn close(&self, count: usize) {
        let all = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        // A closed semaphore means that another close is done or under way.
        let _waited = self.permits.acquire_many(all).await;
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn snapshot<T>(connection: &Connection, read: impl FnOnce(&Connection) -> std::result::Result<T, Fault>) -> Result<T> {
    let answer = (|| {
        let tx = connection.unchecked_transaction()?;
        let answer = read(&tx)?;
        tx.finish()?;
        Ok(answer)
    })();
    answer.map_err(|fault| match fault {
        Fault::Sql(error) => store_error(error),
        Fault::Refused(error) => error,
    })
}

//! The SQLite store as a subject of the suite, and what the tests build events with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{Effect, NewDelivery, NewEvent, NewJob, Store, Value, Work};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_testkit::store_suite::StoreUnderTest;
use tempfile::TempDir;

pub(crate) struct Sqlite {
    folder: TempDir,
    newest: Mutex<(u32, Option<SqliteStore>)>,
}

impl Sqlite {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), newest: Mutex::new((0, None)) }
    }

    fn next(&self) -> (PathBuf, PathBuf) {
        let mut newest = self.newest.lock().unwrap();
        newest.0 += 1;
        let at = |number: u32| self.folder.path().join(format!("{number}.db"));
        (at(newest.0 - 1), at(newest.0))
    }

    fn open(&self, path: &Path) -> SqliteStore {
        let store = open(path);
        self.newest.lock().unwrap().1 = Some(store.clone());
        store
    }
}

pub(crate) fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(SqliteConfig::at(path)).unwrap()
}

/// Copies the database as a crash at this moment would leave it. The open snapshot keeps the WAL from starting over
/// meanwhile, so that whatever a checkpoint does to the file during the copy stands in the copied WAL too.
pub(crate) fn crash_image(from: &Path, to: &Path) {
    let reader = rusqlite::Connection::open(from).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM palisade_tally", [], |row| row.get(0)).unwrap();
    std::fs::copy(from, to).unwrap();
    let beside = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    std::fs::copy(beside(from), beside(to)).unwrap();
}

#[async_trait]
impl StoreUnderTest for Sqlite {
    async fn fresh(&self) -> Arc<dyn Store> {
        let store = self.open(&self.next().1);
        let sql = "CREATE TABLE suite_effect (number INTEGER)".to_owned();
        store.execute(Effect { sql, values: Vec::new() }).await.unwrap();
        Arc::new(store)
    }

    async fn reopened(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        let (old, new) = self.next();
        crash_image(&old, &new);
        drop(store);
        Arc::new(self.open(&new))
    }

    async fn effects(&self) -> Option<u64> {
        let store = self.newest.lock().unwrap().1.clone()?;
        let rows = store.query("SELECT count(*) FROM suite_effect", Vec::new()).await.unwrap();
        let Value::Integer(count) = rows[0][0] else { panic!("a count is a number") };
        Some(count.unsigned_abs())
    }
}

pub(crate) fn delivery(id: &str, body: Bytes) -> NewDelivery {
    NewDelivery {
        endpoint: "hook".into(),
        connection: "acme".into(),
        provider: "stripe".to_owned(),
        received_at: Timestamp(0),
        headers: Vec::new(),
        body,
        events: vec![NewEvent {
            id: id.into(),
            kind: "invoice.paid".to_owned(),
            subscription: None,
            account: None,
            created: None,
            ordering_key: None,
            payload: None,
            wanted: true,
            priority: 0,
        }],
    }
}

pub(crate) fn job() -> NewJob {
    NewJob {
        work: Work::Retention,
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at: Timestamp(0),
        attempts_max: 9,
    }
}

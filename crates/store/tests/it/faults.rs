//! Disks and files that fail: each gives one clear sentence, and nothing acknowledged is lost.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::store::{
    Appended, CallId, CallRequest, Claim, EventRow, Inbox, JobEnd, Jobs, KeptCall, NewJob, Outbox, OutboxChange, Queue,
    Room, Settled, Settlement, Store, Transacted, Work,
};
use palisade_core::{Error, ErrorKind, Timestamp};
use palisade_store::{Examined, SqliteConfig, SqliteStore};

use crate::child;
use crate::subject::{delivery, job, open};

#[track_caller]
fn refused(path: &Path, kind: ErrorKind, says: &[&str]) {
    let error: Error = SqliteStore::open(SqliteConfig::at(path)).expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    for part in says {
        assert!(error.message().contains(part), "{error} says {part}");
    }
}

/// Fails when opening a database that is up to date waits for whoever writes, or writes itself: somebody who only looks
/// would be held up by a long commit and turned away by a full disk.
#[tokio::test]
async fn a_database_is_opened_and_read_beside_one_who_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held.db");
    let first = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    first.append(vec![delivery("a", Bytes::from_static(b"{}"))]).await.unwrap();
    first.close().await.unwrap();
    let holder = rusqlite::Connection::open(&path).unwrap();
    let versions = || holder.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = versions();
    holder.execute_batch("BEGIN IMMEDIATE; CREATE TABLE held (x);").unwrap();
    let beside = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    assert!(beside.event(EventRow(1)).await.unwrap().is_some());
    holder.execute_batch("ROLLBACK").unwrap();
    beside.close().await.unwrap();
    assert_eq!(versions(), before, "nothing was written");
}

/// Fails when the commands of a commit that failed are answered as stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_loses_nothing_and_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.db");
    let store = SqliteStore::open(SqliteConfig { size_bytes_max: Some(2 << 20), ..SqliteConfig::at(&path) }).unwrap();
    let mut writers = Vec::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut rows = Vec::new();
            for number in 0.. {
                let new = delivery(&format!("{writer}-{number}"), Bytes::from(vec![b'x'; 5_000]));
                match store.append(vec![new]).await {
                    Ok(appended) => rows.push(appended[0][0]),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Store);
                        assert!(error.message().contains("full"), "{error}");
                        assert!(error.is_retryable(), "space may come back");
                        return rows;
                    }
                }
            }
            rows
        }));
    }
    let mut acknowledged = 0;
    for writer in writers {
        for one in writer.await.unwrap() {
            let Appended::New(row) = one else { panic!("a new event") };
            assert!(store.event(row).await.unwrap().is_some(), "{row:?} was acknowledged");
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 50, "some fitted: {acknowledged}");
    let stored: u64 = store.event_counts().await.unwrap().values().sum();
    assert_eq!(stored, acknowledged, "what was refused is not stored");

    store.set_size_max(Some(8 << 20)).await.unwrap();
    let again = store.append(vec![delivery("0-0", Bytes::new()), delivery("new", Bytes::new())]).await.unwrap();
    assert!(
        matches!(again[..], [ref a, ref b] if matches!(a[0], Appended::Duplicate(_)) && matches!(b[0], Appended::New(_)))
    );
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    store.close().await.unwrap();
}

/// The WAL itself cannot grow: the COMMIT fails, not a statement.
/// Fails when commands are answered before COMMIT has returned, or its failure is told as anything but a store error.
#[tokio::test]
async fn a_failing_commit_acknowledges_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("commit.db");
    open(&path).close().await.unwrap();
    let mut writer = child::start("append", &path, "trap '' XFSZ; ulimit -f 6000;");
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let numbers: Vec<i64> = lines.map_while(Result::ok).filter_map(|line| child::number(&line)).collect();
    assert!(writer.wait().unwrap().success(), "each failure was a store error");
    assert_eq!(numbers.iter().filter(|number| **number == -1).count(), 16, "every writer met the end");
    let store = open(&path);
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let acknowledged: Vec<i64> = numbers.into_iter().filter(|number| *number >= 0).collect();
    assert!(!acknowledged.is_empty());
    for row in &acknowledged {
        assert!(store.event(EventRow(*row)).await.unwrap().is_some(), "event {row} was acknowledged");
    }
    store.enqueue(vec![job()]).await.expect("with space it works again");
    store.close().await.unwrap();
}

/// Fails when another program's database is migrated, a text is written over, or the refusal does not name the file.
#[tokio::test]
async fn a_file_that_is_no_database_of_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "dear diary ".repeat(500)).unwrap();
    refused(&text, ErrorKind::Store, &["notes.txt", "not a database of Palisade", "move this one away"]);
    assert_eq!(std::fs::read(&text).unwrap(), "dear diary ".repeat(500).into_bytes(), "untouched");

    let foreign = folder.path().join("foreign.db");
    let other = rusqlite::Connection::open(&foreign).unwrap();
    other.execute_batch("CREATE TABLE theirs (id INTEGER)").unwrap();
    drop(other);
    refused(&foreign, ErrorKind::Store, &["foreign.db", "another program's database"]);

    refused(&folder.path().join("no/such/folder.db"), ErrorKind::Store, &["no/such/folder.db", "folder exist"]);
    refused(folder.path(), ErrorKind::Store, &["cannot be opened"]);
}

/// Fails when a newer file is opened, one of the versions is not told, or a migration in another form is not noticed.
#[tokio::test]
async fn a_newer_database_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.db");
    open(&path).close().await.unwrap();
    let edit = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let own: i64 =
        rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    edit(&format!("PRAGMA user_version = {}", own + 1));
    refused(&path, ErrorKind::Config, &[&format!("version {}", own + 1), &format!("up to {own}"), "backup"]);
    edit(&format!("PRAGMA user_version = {own}"));
    open(&path).close().await.unwrap();
    edit("UPDATE palisade_migration SET checksum = 'other'");
    refused(&path, ErrorKind::Config, &["0001_start", "another form"]);
}

/// Fails when a program writes by its own rules into a file that a newer one has upgraded meanwhile, when what it is told does
/// not say what to do, or when two programs of one version are taken for that.
#[tokio::test]
async fn a_file_upgraded_while_it_is_open_takes_no_more_writes_of_the_older_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upgraded.db");
    let (old, other) = (open(&path), open(&path));
    old.enqueue(vec![job()]).await.unwrap();
    other.enqueue(vec![job()]).await.unwrap();
    old.enqueue(vec![job()]).await.unwrap();
    let newer = rusqlite::Connection::open(&path).unwrap();
    let number = |sql: &str| newer.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let own = number("PRAGMA user_version");
    newer.execute_batch(&format!("PRAGMA user_version = {}", own + 1)).unwrap();
    let jobs = number("SELECT count(*) FROM palisade_job");
    for _ in 0..2 {
        let error = old.enqueue(vec![job()]).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false));
        let says = [format!("to version {}", own + 1), format!("of version {own},"), "start the newer one".to_owned()];
        assert!(says.iter().all(|part| error.message().contains(part)), "{error}");
    }
    assert!(old.outdated().await.message().contains("start the newer one"));
    assert_eq!(number("SELECT count(*) FROM palisade_job"), jobs, "nothing was written");
    old.close().await.unwrap();
}

/// Every file of a folder with its bytes.
fn contents(folder: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Fails when examining makes, upgrades or otherwise writes a file, or does not see what stands in the log alone.
#[tokio::test]
async fn examining_a_file_tells_its_version_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file #1?.db");
    let examine = || {
        let before = contents(folder.path());
        let examined = SqliteStore::examine(&path);
        let after = contents(folder.path());
        let changed = |name: &&std::path::PathBuf| before.get(*name) != after.get(*name);
        // The index of a log is no part of the database: SQLite makes it anew whenever it wants.
        let mut changed = after.keys().chain(before.keys()).filter(changed);
        assert!(changed.all(|name| name.to_string_lossy().ends_with("-shm")), "of {:?}", after.keys());
        examined
    };
    let told = |examined: Result<Examined, Error>| {
        let Examined { found, wanted, findings, .. } = examined.unwrap();
        (found, wanted, findings.len())
    };
    assert_eq!(examine().unwrap_err().kind(), ErrorKind::Store, "there is none");
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    let wanted = told(examine()).1;
    assert_eq!(told(examine()), (0, wanted, 0), "an empty file is a database without tables");

    std::fs::remove_file(&path).unwrap();
    open(&path).close().await.unwrap();
    assert_eq!(told(examine()), (wanted, wanted, 0));
    for (sql, found) in [("PRAGMA user_version = 1", 1), ("PRAGMA user_version = 99", 99)] {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        assert_eq!(told(examine()), (found, wanted, 0), "with a log beside it");
        drop(connection);
        assert_eq!(told(examine()), (found, wanted, 0), "closed");
    }
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "dear diary ".repeat(500)).unwrap();
    let error = SqliteStore::examine(&text).unwrap_err();
    assert!(error.message().contains("not a database"), "{error}");
}

/// Fails when a cut or torn file opens, or a spoiled page is found neither on opening nor by the check.
#[tokio::test]
async fn a_damaged_file_is_refused_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.db");
    let store = open(&path);
    for number in 0..300 {
        store.append(vec![delivery(&number.to_string(), Bytes::from(vec![b'x'; 2_000]))]).await.unwrap();
    }
    store.close().await.unwrap();
    let whole = std::fs::read(&path).unwrap();

    std::fs::write(&path, &whole[..100_000]).unwrap();
    refused(&path, ErrorKind::Store, &["damaged", "backup"]);

    let mut torn = whole.clone();
    torn[20_000..].fill(0xa5);
    std::fs::write(&path, &torn).unwrap();
    refused(&path, ErrorKind::Store, &["damaged", "backup"]);

    // Damage deep inside is met by the statement that reads it, and by the check.
    let mut spoiled = whole.clone();
    let middle = whole.len() / 2 / 16_384 * 16_384;
    spoiled[middle..middle + 16_384].fill(0xa5);
    std::fs::write(&path, &spoiled).unwrap();
    if let Ok(store) = SqliteStore::open(SqliteConfig::at(&path)) {
        let found = store.check().await;
        assert!(found.as_ref().map_or(true, |found| !found.is_empty()), "the check finds it: {found:?}");
        let examined = SqliteStore::examine(&path).map(|examined| examined.findings);
        assert!(examined.as_ref().map_or(true, |found| !found.is_empty()), "so does examining: {examined:?}");
        store.close().await.unwrap();
    }
}

/// A user that may do everything (root) is not stopped by a read-only mode, so the case is made with what stops root
/// too where the tests run as root.
/// Fails when the refusal does not name file and missing right, or (not as root) a file that can only be read opens.
#[tokio::test]
async fn a_file_or_folder_that_cannot_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.db");
    open(&path).close().await.unwrap();
    let mode = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o444);
    mode(folder.path(), 0o555);
    let as_root = std::fs::write(folder.path().join("probe"), "").is_ok();
    if as_root {
        refused(Path::new("/proc/palisade.db"), ErrorKind::Store, &["/proc/palisade.db", "may this user write"]);
    } else {
        refused(&path, ErrorKind::Store, &["locked.db", "right to write"]);
        refused(&folder.path().join("new.db"), ErrorKind::Store, &["new.db", "may this user write"]);
    }
    mode(folder.path(), 0o755);
}

/// Fails when `queue_max` is not heeded, a refused command is stored, or a closed store answers or leaves its WAL.
#[tokio::test]
async fn a_full_queue_refuses_at_once_and_a_closed_store_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let store = SqliteStore::open(SqliteConfig { queue_max: 4, ..SqliteConfig::at(&path) }).unwrap();
    // Another process holds the file, so that the writer waits and the queue fills.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut asked = Vec::new();
    for number in 0..64 {
        let store = store.clone();
        asked.push(tokio::spawn(async move { store.append(vec![delivery(&number.to_string(), Bytes::new())]).await }));
    }
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    let (mut stored, mut overloaded) = (0, 0);
    for one in asked {
        match one.await.unwrap() {
            Ok(_) => stored += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Overloaded);
                assert!(error.retry_after().is_some(), "with a time to come again");
                overloaded += 1;
            }
        }
    }
    assert!(stored >= 4 && overloaded >= 1, "{stored} stored, {overloaded} refused");
    let kept: u64 = store.event_counts().await.unwrap().values().sum();
    assert_eq!(kept, stored, "what was refused is not stored");

    store.close().await.unwrap();
    store.close().await.expect("closing again does nothing");
    let write = store.append(vec![delivery("late", Bytes::new())]).await.expect_err("closed");
    let read = store.event_counts().await.expect_err("closed");
    assert_eq!((write.kind(), read.kind()), (ErrorKind::Store, ErrorKind::Store));
    assert!(write.message().contains("closed") && read.message().contains("closed"));
    assert!(!path.with_extension("db-wal").exists(), "the WAL was moved into the database");
}

fn kept_call() -> KeptCall {
    KeptCall {
        connection: "acme".into(),
        tenant: "tenant".into(),
        provider: "stripe".to_owned(),
        operation: "customers.create".to_owned(),
        replay: "keyed".to_owned(),
        request: CallRequest {
            method: "POST".to_owned(),
            target: "/v1/customers".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            grant: None,
            lane: None,
        },
        idempotency_key: "key".to_owned(),
        unique: None,
        content: Vec::new(),
        priority: 0,
        created_at: Timestamp(0),
        run_at: Timestamp(0),
    }
}

/// Fails when deliveries or calls are taken while the disk is nearly full, or what is kept cannot be worked off then.
#[tokio::test]
async fn a_disk_that_is_nearly_full_refuses_deliveries_and_lets_work_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.db");
    let config = SqliteConfig { free_bytes_min: 0, ..SqliteConfig::at(&path) };
    let store = SqliteStore::open(config.clone()).unwrap();
    store.append(vec![delivery("early", Bytes::new())]).await.unwrap();
    store.close().await.unwrap();

    // No disk has so much.
    let store = SqliteStore::open(SqliteConfig { free_bytes_min: u64::MAX, ..config }).unwrap();
    let refused = store.append(vec![delivery("late", Bytes::new())]).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    assert!(refused.retry_after().is_some(), "with a time to come again");
    assert!(refused.message().contains("disk"), "{refused}");
    assert!(store.probe(Timestamp(0)).await.is_err(), "nor is it ready");
    let refused = store.transact(Vec::new(), vec![kept_call()]).await.expect_err("no call is kept either");
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    let nothing = store.transact(Vec::new(), Vec::new()).await.unwrap();
    assert_eq!(nothing, Transacted::Committed(Vec::new()), "what keeps nothing goes on");
    let now = Timestamp(i64::MAX);
    let claim = Claim { now, hold: Duration::ZERO, max: 9, queue: Queue::Events, room: Room::default() };
    let claimed = store.claim(claim).await.unwrap();
    let end = Settlement {
        lease: claimed[0].lease,
        end: JobEnd::Done,
        now,
        effects: Vec::new(),
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: OutboxChange::default(),
    };
    assert!(matches!(store.settle(vec![end]).await.unwrap()[..], [Settled::Committed(_)]));
    assert_eq!(store.prune_inbox(0, Timestamp(i64::MAX), None, 9).await.unwrap().gone, 1, "room is made");
    store.close().await.unwrap();
}

/// Fails when a job whose work cannot be read is not buried at its claim (`take` returns the error): no other job of the
/// queue is ever claimed. Fails too when its end asks for the work again (`finish` refuses what it cannot read), or is
/// not counted.
#[tokio::test]
async fn a_job_that_cannot_be_read_is_buried_and_holds_up_no_other() {
    for work in ["'{'", "'{\"unheard_of\":1}'", "NULL", "CAST(x'ff' AS TEXT)"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unreadable.db");
        let store = open(&path);
        let ids = store.enqueue(vec![job(), job()]).await.unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute(&format!("UPDATE palisade_job SET work = {work} WHERE id = ?1"), [ids[0].0]).unwrap();
        let claim = Claim {
            now: Timestamp(1),
            hold: Duration::from_secs(60),
            max: 9,
            queue: Queue::Background,
            room: Room::default(),
        };
        let claimed = store.claim(claim).await.unwrap();
        assert_eq!(claimed.iter().map(|one| one.lease.job).collect::<Vec<_>>(), ids[1..], "work {work}");
        let counts = store.job_counts().await.unwrap();
        assert_eq!((counts.waiting, counts.running, counts.dead), (0, 1, 1), "work {work}");
        let reason: String =
            other.query_row("SELECT reason FROM palisade_job WHERE id = ?1", [ids[0].0], |row| row.get(0)).unwrap();
        assert!(reason.contains("cannot be read"), "{reason}");
        drop(other);
        store.close().await.unwrap();
    }
}

/// Fails when what a command has written before it was refused is committed: of settlements sent together the first is
/// done, nobody is told, and sent again alone it has lost its lease. Fails too when the others of the commit go with it.
#[tokio::test]
async fn what_is_refused_half_way_is_not_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.db");
    let store = open(&path);
    let call = |call: i64| NewJob { work: Work::Call { call: CallId(call) }, ..job() };
    let ids = store.enqueue(vec![call(1), call(2)]).await.unwrap();
    let claim =
        Claim { now: Timestamp(1), hold: Duration::from_secs(60), max: 9, queue: Queue::Calls, room: Room::default() };
    let claimed = store.claim(claim).await.unwrap();
    assert_eq!(claimed.len(), 2);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute("UPDATE palisade_job SET work = '{' WHERE id = ?1", [ids[1].0]).unwrap();
    let settled = |place: usize, end: JobEnd| Settlement {
        lease: claimed[place].lease,
        end,
        now: Timestamp(2),
        effects: Vec::new(),
        merges: Vec::new(),
        follow: vec![job()],
        outbox: OutboxChange::default(),
    };
    let both = store.settle(vec![settled(0, JobEnd::Done), settled(1, JobEnd::Done)]);
    let (both, appended) = tokio::join!(both, store.append(vec![delivery("beside", Bytes::new())]));
    let error = both.expect_err("what the second is to do cannot be read");
    assert!(!error.is_retryable() && error.message().contains("cannot be read"), "{error}");
    assert_eq!(appended.unwrap().len(), 1, "what was stored with them stays");
    let counts = store.job_counts().await.unwrap();
    assert_eq!((counts.waiting, counts.running, counts.dead), (1, 2, 0), "nothing of the two was written");
    let alone = store.settle(vec![settled(0, JobEnd::Done)]).await.unwrap();
    assert!(matches!(alone[..], [Settled::Committed(_)]), "{alone:?}");
    store.settle(vec![settled(1, JobEnd::Done)]).await.expect_err("alone it is refused too");
    let buried =
        store.settle(vec![settled(1, JobEnd::Dead { reason: "it cannot be settled".to_owned() })]).await.unwrap();
    assert!(matches!(buried[..], [Settled::Committed(_)]), "{buried:?}");
    let counts = store.job_counts().await.unwrap();
    assert_eq!((counts.waiting, counts.running, counts.dead), (3, 0, 1));
    drop(other);
    store.close().await.unwrap();
}

//! How a database file is recognised, made and brought up to this version.

use std::path::Path;

use palisade_core::{Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use sha2::{Digest, Sha256};

use super::Examined;
use super::error::{failure, store_error};
use super::{entries, names};

/// Marks a database file as Palisade's in its header: "Pals" as a number.
pub(super) const APPLICATION_ID: i32 = 0x5061_6c73;
/// Measured best of 4, 8 and 16 KiB for group commits; only effective when the file is made.
const PAGE_BYTES: u32 = 16 * 1024;
/// Size of the WAL at which a commit moves it into the database. It stays allocated between checkpoints, because
/// overwriting is an order of magnitude cheaper to sync than appending.
const CHECKPOINT_BYTES: i64 = 16 << 20;
/// Pages kept in memory by the connection that writes: the key index of some 300,000 records, so that a large sync reads
/// little twice.
pub(super) const WRITER_CACHE_KIB: u32 = 16 * 1024;
/// Pages kept in memory by one that reads: the inner pages of its indices. What it reads at length, the feed or the end of
/// a full run, it reads once.
pub(super) const READER_CACHE_KIB: u32 = 2 * 1024;
/// Statements kept prepared per connection: more than this crate has.
const STATEMENTS_MAX: usize = 256;

/// How long examining waits for a process that holds the file.
const EXAMINE_BUSY: std::time::Duration = std::time::Duration::from_secs(5);

struct Migration {
    name: &'static str,
    sql: &'static str,
    /// What SQL alone cannot do.
    then: Option<fn(&Connection) -> rusqlite::Result<()>>,
}

/// In order; never changed once released (their checksums are kept in the file), only added to.
const MIGRATIONS: &[Migration] = &[
    Migration { name: "0001_start", sql: include_str!("migrations/0001_start.sql"), then: None },
    Migration { name: "0002_dead", sql: include_str!("migrations/0002_dead.sql"), then: None },
    Migration { name: "0003_auth", sql: include_str!("migrations/0003_auth.sql"), then: None },
    Migration { name: "0004_heard", sql: include_str!("migrations/0004_heard.sql"), then: None },
    Migration { name: "0005_environment", sql: include_str!("migrations/0005_environment.sql"), then: None },
    Migration { name: "0006_lane", sql: include_str!("migrations/0006_lane.sql"), then: None },
    Migration { name: "0007_pause", sql: include_str!("migrations/0007_pause.sql"), then: None },
    Migration { name: "0008_account", sql: include_str!("migrations/0008_account.sql"), then: None },
    Migration { name: "0009_turns", sql: include_str!("migrations/0009_turns.sql"), then: None },
    Migration { name: "0010_outbox", sql: include_str!("migrations/0010_outbox.sql"), then: None },
    Migration { name: "0011_destination", sql: include_str!("migrations/0011_destination.sql"), then: None },
    Migration { name: "0012_run", sql: include_str!("migrations/0012_run.sql"), then: None },
    Migration { name: "0013_schedule", sql: include_str!("migrations/0013_schedule.sql"), then: None },
    Migration { name: "0014_feed", sql: include_str!("migrations/0014_feed.sql"), then: None },
    Migration { name: "0015_seen", sql: include_str!("migrations/0015_seen.sql"), then: None },
    Migration { name: "0016_resumed", sql: include_str!("migrations/0016_resumed.sql"), then: None },
    Migration { name: "0017_missed_records", sql: include_str!("migrations/0017_missed_records.sql"), then: None },
    Migration {
        name: "0018_names",
        sql: include_str!("migrations/0018_names.sql"),
        then: Some(names::enter_all_events),
    },
    Migration { name: "0019_stands", sql: include_str!("migrations/0019_stands.sql"), then: None },
    Migration { name: "0020_kept_names", sql: include_str!("migrations/0020_kept_names.sql"), then: None },
    Migration { name: "0021_dead_forward", sql: include_str!("migrations/0021_dead_forward.sql"), then: None },
    Migration { name: "0022_run_end", sql: include_str!("migrations/0022_run_end.sql"), then: None },
    Migration { name: "0023_moved", sql: include_str!("migrations/0023_moved.sql"), then: None },
    Migration { name: "0024_feed", sql: include_str!("migrations/0024_feed.sql"), then: None },
    Migration { name: "0025_paused", sql: include_str!("migrations/0025_paused.sql"), then: None },
];

/// Returns the version of the tables this program knows.
pub(super) fn version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

const MIGRATION_TABLE: &str = "CREATE TABLE IF NOT EXISTS palisade_migration (version INTEGER PRIMARY KEY, \
     name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT";

/// Sets what every connection of ours needs.
pub(super) fn tune(connection: &Connection, busy: std::time::Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Without it SQLite looks at the values a statement is bound to when it plans, and plans anew for the next ones:
    // the lookup of a job's lane was parsed and planned for every delivery, which took longer than storing it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;")
}

/// Bounds the page cache. SQLite turns the bound into a number of pages once, by the page size it believes in at that
/// moment: set before the file is read, it would let four times as much be kept.
pub(super) fn bound_cache(connection: &Connection, kib: u32) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    connection.execute_batch(&format!("PRAGMA cache_size = -{kib};"))
}

/// Says what is wrong with the file at `path`.
pub(super) fn named(path: &Path, error: rusqlite::Error) -> Error {
    let why = failure(&error).to_error();
    Error::new(ErrorKind::Store, format!("{}: {}", path.display(), why.message()))
        .with_retryable(why.is_retryable())
        .with_source(error)
}

/// Makes or checks the file behind the writing connection and brings its tables up to this version.
pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    let named = |error| named(path, error);
    recognise(connection, path, &named)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(named)?;
    retry_busy(|| connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).map(drop))
        .map_err(named)?;
    let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(named)?;
    let pages = CHECKPOINT_BYTES / page.max(1);
    connection
        .execute_batch(&format!("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {pages};"))
        .map_err(named)?;
    migrate(connection, path, &named)?;
    bound_cache(connection, WRITER_CACHE_KIB).map_err(named)?;
    probe(connection).map_err(named)
}

/// Setting the journal mode does not wait for a lock by itself, and a second process may be doing the same.
fn retry_busy(mut action: impl FnMut() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    for _ in 0..100 {
        match action() {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
            other => return other,
        }
    }
    action()
}

fn recognise(connection: &Connection, path: &Path, named: &dyn Fn(rusqlite::Error) -> Error) -> Result<()> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(named);
    let application = number("PRAGMA application_id")?;
    let version = version_of(connection).map_err(named)?;
    if application == i64::from(APPLICATION_ID) {
        return newer(path, version);
    }
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application != 0 || tables != 0 {
        return Err(Error::new(
            ErrorKind::Store,
            format!(
                "{}: the file is another program's database: name another file, or move this one away",
                path.display()
            ),
        )
        .with_retryable(false));
    }
    Ok(())
}

fn newer(path: &Path, version: i64) -> Result<()> {
    let ours = self::version();
    if version <= ours {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "{}: the database has version {version} and this program knows versions up to {ours}: run the newer \
             program, or restore a backup made before the upgrade",
            path.display()
        ),
    ))
}

fn migrate(connection: &mut Connection, path: &Path, named: &dyn Fn(rusqlite::Error) -> Error) -> Result<()> {
    migrate_to(connection, path, MIGRATIONS, named)
}

fn migrate_to(
    connection: &mut Connection,
    path: &Path,
    migrations: &[Migration],
    named: &dyn Fn(rusqlite::Error) -> Error,
) -> Result<()> {
    // Nearly always there is nothing to do. To find that takes no lock and no write: who only reads waits for nobody, and
    // can do so on a full disk.
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if version_of(connection).map_err(named)? == newest {
        return applied(connection, path, migrations, named);
    }
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).map_err(named)?;
    // Another process may have been first: what counts is what stands in the file under the lock.
    let version = version_of(&tx).map_err(named)?;
    newer(path, version)?;
    tx.execute_batch(MIGRATION_TABLE).map_err(named)?;
    applied(&tx, path, migrations, named)?;
    for (number, migration) in (1_i64..).zip(migrations) {
        if number <= version {
            continue;
        }
        tx.execute_batch(migration.sql).map_err(named)?;
        migration.then.map_or(Ok(()), |then| then(&tx)).map_err(named)?;
        tx.execute(
            "INSERT INTO palisade_migration VALUES (?1, ?2, ?3)",
            params![number, migration.name, checksum(migration)],
        )
        .map_err(named)?;
        tx.pragma_update(None, "user_version", number).map_err(named)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(named)?;
    tx.commit().map_err(named)
}

/// Looks whether the migrations a file has are those this program has.
fn applied(
    connection: &Connection,
    path: &Path,
    migrations: &[Migration],
    named: &dyn Fn(rusqlite::Error) -> Error,
) -> Result<()> {
    let mut kept = connection.prepare("SELECT version, checksum FROM palisade_migration").map_err(named)?;
    let mut rows = kept.query([]).map_err(named)?;
    while let Some(row) = rows.next().map_err(named)? {
        let (number, is): (i64, String) = (row.get(0).map_err(named)?, row.get(1).map_err(named)?);
        let known = usize::try_from(number - 1).ok().and_then(|at| migrations.get(at));
        let Some(migration) = known.filter(|migration| checksum(migration) != is) else { continue };
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "{}: migration {} was applied in another form than this program has: run the program that made the \
                 database",
                path.display(),
                migration.name
            ),
        ));
    }
    Ok(())
}

fn checksum(migration: &Migration) -> String {
    hex(&Sha256::digest(migration.sql.as_bytes()))
}

fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Limits the size of the database file.
pub(super) fn limit(connection: &Connection, bytes: Option<u64>) -> rusqlite::Result<()> {
    /// SQLite's own maximum of pages.
    const PAGES_MAX: u64 = 4_294_967_294;
    let page: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    let pages = bytes.map_or(PAGES_MAX, |bytes| (bytes / page.max(1)).clamp(1, PAGES_MAX));
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

/// Looks at a file without changing it; `whole` runs SQLite's own full check too.
pub(super) fn examine(path: &Path, whole: bool) -> Result<Examined> {
    let log = || {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        Path::new(&name).exists()
    };
    let beside = log();
    let examined = examine_as(path, beside, whole);
    // A hub that started meanwhile has written beside a file that was taken to be at rest.
    if !beside && log() { examine_as(path, true, whole) } else { examined }
}

/// Reads a file that is at rest as it stands, so that SQLite makes no other file beside it; or with its log.
fn examine_as(path: &Path, with_log: bool, whole: bool) -> Result<Examined> {
    let named = |error| named(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}{}", encoded(path), if with_log { "" } else { "?immutable=1" });
    let connection = Connection::open_with_flags(uri, flags).map_err(named)?;
    tune(&connection, EXAMINE_BUSY).map_err(named)?;
    match recognise(&connection, path, &named) {
        // A newer file is told, not refused.
        Err(error) if error.kind() == ErrorKind::Config => {}
        recognised => recognised?,
    }
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(named)?;
    let wanted = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let findings = if whole { integrity(&connection)? } else { Vec::new() };
    Ok(Examined { found, wanted, findings })
}

/// Writes a path as SQLite's URIs want it: `?`, `#` and `%` have a meaning there.
fn encoded(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// Touches the root of every table of ours, so that a truncated or overwritten file is found at the start.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    let mut tables =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'palisade_*'")?;
    let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for name in names {
        let quoted = name.replace('"', "\"\"");
        connection.prepare(&format!("SELECT 1 FROM \"{quoted}\" LIMIT 1"))?.exists([])?;
    }
    Ok(())
}

/// Runs SQLite's own full check, and looks whether each record and event is found by its name and each record stands in
/// its feed; empty when all is well.
pub(super) fn integrity(connection: &Connection) -> Result<Vec<String>> {
    let mut check = connection.prepare("PRAGMA integrity_check").map_err(store_error)?;
    let lines = check
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(store_error)?;
    let mut wrong: Vec<String> = lines.into_iter().filter(|line| line != "ok").collect();
    if !wrong.is_empty() {
        // What is broken has pages no statement should read.
        return Ok(wrong);
    }
    // A file of an older version has no names yet, or no entries.
    if connection.table_exists(None, "palisade_event_new").map_err(store_error)? {
        wrong.extend(names::check(connection).map_err(store_error)?);
    }
    if connection.table_exists(None, "palisade_feed").map_err(store_error)? {
        wrong.extend(entries::check(connection).map_err(store_error)?);
    }
    Ok(wrong)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as the program with only the first `count` migrations left it.
    fn file_of(path: &Path, count: usize, after: &str) {
        let mut connection = Connection::open(path).unwrap();
        migrate_to(&mut connection, path, &MIGRATIONS[..count], &|error| named(path, error)).unwrap();
        connection.execute_batch(after).unwrap();
    }

    /// Fails when a connection of a sandbox becomes one of production by the upgrade.
    #[test]
    fn the_environment_of_an_older_connection_is_that_of_its_flow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let connection = |id: &str| {
            format!(
                "INSERT INTO palisade_connection (id, tenant, provider, state, created_at) \
                 VALUES ('{id}', 't', 'slack', '{{\"state\":\"active\"}}', 1);"
            )
        };
        let grant = |id: &str, name: &str, flow: &str| {
            format!(
                "INSERT INTO palisade_grant (connection, name, flow, generation, blob, state, live, over, issued_at, \
                 requested, granted) VALUES ('{id}', '{name}', '{flow}', 1, x'', '{{}}', 1, 0, 1, '[]', '[]');"
            )
        };
        let rows = [
            connection("key"),
            connection("live"),
            grant("live", "bot", "slack"),
            connection("test"),
            grant("test", "bot", "slack/sandbox"),
            grant("test", "user", "slack/sandbox"),
            "INSERT INTO palisade_credential (connection, generation, blob) VALUES ('key', 1, x'01');".to_owned(),
        ];
        file_of(&path, 4, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement =
            connection.prepare("SELECT id || ' ' || environment FROM palisade_connection ORDER BY id").unwrap();
        let found: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(found, ["key production", "live production", "test sandbox"]);
        let mark: Vec<u8> = connection.query_row("SELECT mark FROM palisade_credential", [], |row| row.get(0)).unwrap();
        assert!(mark.is_empty());
    }

    /// Fails when a file that holds data from before cannot be upgraded, loses some of it, or takes no destination then.
    #[test]
    fn destinations_are_added_to_a_file_that_holds_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let rows = "INSERT INTO palisade_connection (id, tenant, provider, state, created_at) \
                    VALUES ('acme', 't', 'stripe', '{\"state\":\"active\"}', 1); \
                    INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max) VALUES (1, 0, 0, 0, 1, 20);";
        file_of(&path, 8, rows);
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let count = |connection: &Connection, table: &str| {
            let sql = format!("SELECT count(*) FROM {table}");
            connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!((count(&connection, "palisade_connection"), count(&connection, "palisade_job")), (1, 1));
        connection
            .execute_batch(
                "INSERT INTO palisade_destination (name, configured, revision, spec, created_at) \
                 VALUES ('app', 0, 1, '{}', 1); \
                 INSERT INTO palisade_destination_key (destination, version, blob) VALUES ('app', 1, x'00');",
            )
            .unwrap();
        assert_eq!(
            (count(&connection, "palisade_destination"), count(&connection, "palisade_destination_key")),
            (1, 1)
        );
    }

    /// Fails when a job that was parked stays so for ever, because its connection was resumed before the upgrade.
    #[test]
    fn what_was_resumed_in_an_older_file_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let job = |id: u32, connection: &str| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, parked) \
                 VALUES ({id}, 6, 0, 0, 1, 20, '{connection}');"
            )
        };
        let halted = "INSERT INTO palisade_halt VALUES (2, 'halted', 7);".to_owned();
        file_of(&path, 14, &[halted, job(1, "halted"), job(2, "resumed"), job(3, "resumed")].concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement = connection.prepare("SELECT scope || ' ' || name FROM palisade_halt ORDER BY 1").unwrap();
        let found: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(found, ["2 halted", "3 resumed"]);
    }

    /// Fails when the upgrade loses an hour of calls, or a schedule cannot be set in an older file.
    #[test]
    fn an_older_file_keeps_its_hours_of_calls_and_takes_schedules() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let rows = "INSERT INTO palisade_call_hour VALUES ('a', 1, 2, 1), ('a', 30, 5, 0), ('b', 1, 1, 1);";
        file_of(&path, 8, rows);
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let number = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(number("SELECT sum(calls) * 100 + sum(errors) FROM palisade_call_hour"), 802);
        for table in ["palisade_call_day", "palisade_schedule", "palisade_chore"] {
            assert_eq!(number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        let due = "EXPLAIN QUERY PLAN SELECT connection, hour FROM palisade_call_hour WHERE hour < 9 \
                   ORDER BY hour, connection LIMIT 9";
        let plan: String = connection.query_row(due, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("palisade_call_hour_hour"), "{plan}");
    }

    /// Fails when a job of a lane that waited at the upgrade is forgotten, or a finished one entered.
    #[test]
    fn lanes_of_unfinished_jobs_are_entered_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let job = |id: i64, lane: &str, finished: &str| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, lane, finished_at) \
                 VALUES ({id}, 0, 0, 0, 1, 20, {lane}, {finished});"
            )
        };
        let rows = [
            job(1, "'b'", "NULL"),
            job(2, "'a'", "NULL"),
            job(3, "'a'", "5"),
            job(4, "NULL", "NULL"),
            job(5, "'a'", "NULL"),
            "UPDATE palisade_tally SET job_last = 7;".to_owned(),
        ];
        file_of(&path, 4, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement = connection.prepare("SELECT lane, job FROM palisade_lane ORDER BY lane, job").unwrap();
        let lanes = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let lanes = lanes.collect::<rusqlite::Result<Vec<(String, i64)>>>().unwrap();
        assert_eq!(lanes, [("a".to_owned(), 2), ("a".to_owned(), 5), ("b".to_owned(), 1)]);
        let tally = connection.query_row("SELECT lane_to, lane_jobs FROM palisade_tally", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(tally.unwrap(), (7, 3));
    }

    /// Fails when old tombstones of a file of before are not found, or a stream begins with a horizon.
    #[test]
    fn tombstones_of_an_older_file_are_found_by_their_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let record = |id: i64, deleted: i64, at: i64| {
            format!(
                "INSERT INTO palisade_record (id, stream, seq, observed, earliest, latest, hash, deleted, revised, \
                 first_seen, changed_at, ext_id) VALUES ({id}, 1, {id}, 1, 1, 1, 0, {deleted}, 0, 1, {at}, 'r{id}');"
            )
        };
        let stream = "INSERT INTO palisade_stream (id, connection, name, head) VALUES (1, 'acme', 'customers', 3);";
        let rows = [stream.to_owned(), record(1, 1, 9), record(2, 0, 5), record(3, 1, 7)];
        file_of(&path, 8, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement = connection
            .prepare(
                "SELECT seq FROM palisade_record INDEXED BY palisade_record_gone WHERE deleted = 1 ORDER BY changed_at",
            )
            .unwrap();
        let gone: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(gone, [3, 1]);
        let horizon = connection.query_row("SELECT horizon FROM palisade_stream", [], |row| row.get::<_, i64>(0));
        assert_eq!(horizon.unwrap(), 0);
    }

    /// Fails when a row of before the upgrade is not found by its name.
    #[test]
    fn names_of_before_are_taken_over_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let event = |id: u32, name: &str| {
            format!(
                "INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind) \
                 VALUES ({id}, 1, 1, 'hook', '{name}', 'c', 'stripe', 'x');"
            )
        };
        let record = |id: u32, stream: u32, name: &str| {
            format!(
                "INSERT INTO palisade_record (id, stream, seq, observed, earliest, latest, hash, deleted, revised, \
                 first_seen, changed_at, ext_id) VALUES ({id}, {stream}, {id}, 1, 1, 1, 0, 0, 0, 1, 1, '{name}');"
            )
        };
        let rows = [event(3, "b"), event(5, "a"), record(1, 2, "b"), record(2, 1, "b"), record(4, 2, "a")];
        let before = MIGRATIONS.iter().position(|one| one.name == "0018_names").unwrap();
        file_of(&path, before, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let texts = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        // It stands in files: another one would make every event of before new.
        assert_eq!(names::event_name("hook", "a"), 1_381_223_106_900_974_442);
        let mut events = [(names::event_name("hook", "a"), 5), (names::event_name("hook", "b"), 3)];
        events.sort_unstable();
        let events = events.map(|(name, row)| format!("{name} {row}"));
        assert_eq!(texts("SELECT name || ' ' || id FROM palisade_event_name ORDER BY name"), events);
        let records = texts("SELECT stream || ' ' || ext_id || ' ' || id FROM palisade_record_name");
        assert_eq!(records, ["1 b 2", "2 a 4", "2 b 1"]);
    }

    /// Fails when a record of before the upgrade has no place in the feed.
    #[test]
    fn feeds_of_before_are_taken_over_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let record = |id: u32, stream: u32, seq: u32| {
            format!(
                "INSERT INTO palisade_record (id, stream, seq, observed, earliest, latest, hash, deleted, revised, \
                 first_seen, changed_at, ext_id) VALUES ({id}, {stream}, {seq}, 1, 1, 1, 0, 0, 0, 1, 1, 'r{id}');
                 INSERT INTO palisade_record_name VALUES ({stream}, 'r{id}', {id});"
            )
        };
        let streams = "INSERT INTO palisade_stream (connection, name, head) VALUES ('c', 'a', 7), ('c', 'b', 5);";
        let before = MIGRATIONS.iter().position(|one| one.name == "0024_feed").unwrap();
        file_of(&path, before, &[streams.to_owned(), record(1, 1, 7), record(2, 2, 5), record(3, 1, 4)].concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement = connection.prepare("SELECT stream, seq, id FROM palisade_feed").unwrap();
        let entries = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let entries: Vec<(i64, i64, i64)> = entries.collect::<rusqlite::Result<_>>().unwrap();
        assert_eq!(entries, [(1, 4, 3), (1, 7, 1), (2, 5, 2)]);
        assert_eq!(integrity(&connection).unwrap(), Vec::<String>::new());
    }

    /// Fails when a run of before the upgrade cannot be read, or one under way cannot go on.
    #[test]
    fn runs_of_before_are_kept_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let rows = "INSERT INTO palisade_stream (connection, name, commits, head, records) VALUES ('c', 's', 9, 8, 7);
            INSERT INTO palisade_run (stream, connection, name, mode, state, started_at, progressed_at, began)
            VALUES (1, 'c', 's', 0, '{\"state\":\"running\"}', 5, 6, 3);";
        let before = MIGRATIONS.iter().position(|one| one.name == "0012_run").unwrap();
        file_of(&path, before, rows);
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let run = super::super::runs::live(&connection, 9).unwrap().remove(0);
        assert_eq!((run.began, run.bad, run.missed.count, run.feed_from, run.stop), (3, 0, 0, None, None));
        let (records, bad): (i64, i64) = connection
            .query_row("SELECT records, bad FROM palisade_stream", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!((records, bad), (7, 0));
    }

    /// Fails when runs of before the upgrade never go, the newest of a mode does, or old runs are found by a walk over
    /// all of them.
    #[test]
    fn old_runs_of_before_are_found_by_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let rows = [(1, 0), (2, 1), (3, 0), (4, 1), (5, 1)].map(|(id, mode)| {
            format!(
                "INSERT INTO palisade_run (id, stream, connection, name, mode, state, started_at, progressed_at, \
                 finished_at, began) VALUES ({id}, 1, 'c', 's', {mode}, '{{\"state\":\"done\"}}', 5, 6, 10 - {id}, 0);"
            )
        });
        let before = MIGRATIONS.iter().position(|one| one.name == "0012_run").unwrap();
        file_of(&path, before, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let old = super::super::runs::OLD;
        let mut statement = connection.prepare(old).unwrap();
        let found = statement.query_map([99, 9], |row| row.get(0)).unwrap();
        assert_eq!(found.collect::<rusqlite::Result<Vec<i64>>>().unwrap(), [4, 2, 1]);
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {old}")).unwrap();
        let steps = plan.query_map([99, 9], |row| row.get(3)).unwrap();
        let steps = steps.collect::<rusqlite::Result<Vec<String>>>().unwrap();
        assert_eq!(steps, ["SEARCH palisade_run USING INDEX palisade_run_followed (finished_at<?)"], "and none sorts");
    }

    /// Fails when a job of before the upgrade waits as if it never had, or one that never did has waited.
    #[test]
    fn waits_of_before_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let rows = [(1, 7, 3, "NULL"), (2, 3, 3, "NULL"), (3, 7, 3, "9")].map(|(id, fence, attempt, finished)| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, fence, attempt, finished_at) \
                 VALUES ({id}, 5, 0, 0, 1, 20, {fence}, {attempt}, {finished});"
            )
        });
        let before = MIGRATIONS.iter().position(|one| one.name == "0019_stands").unwrap();
        file_of(&path, before, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let mut statement = connection.prepare("SELECT waits FROM palisade_job ORDER BY id").unwrap();
        let waits = statement.query_map([], |row| row.get(0)).unwrap();
        assert_eq!(waits.collect::<rusqlite::Result<Vec<i64>>>().unwrap(), [4, 0, 0]);
    }

    /// Fails when what was given up before the upgrade is not to be found, or what cannot be sent again is.
    #[test]
    fn what_was_given_up_before_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let work = r#"{"kind":"forward","row":7,"destination":"app"}"#;
        let job = |id: i64, state: i64, queue: i64, work: &str| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, finished_at, work, reason) \
                 VALUES ({id}, {state}, {queue}, 0, 1, 10, 5, '{work}', 'no');"
            )
        };
        let rows = [
            "INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind) \
             VALUES (7, 1, 1, 'hook', 'e', 'c', 'stripe', 'x');"
                .to_owned(),
            job(1, 3, 3, work),
            job(2, 3, 3, &work.replace('7', "8")),
            job(3, 2, 3, &work.replace("app", "done")),
            job(4, 3, 1, r#"{"kind":"retention"}"#),
            job(5, 3, 3, "no json"),
        ];
        let before = MIGRATIONS.iter().position(|one| one.name == "0021_dead_forward").unwrap();
        file_of(&path, before, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let sql = "SELECT destination || event || job || at || reason FROM palisade_dead_forward";
        let mut statement = connection.prepare(sql).unwrap();
        let found = statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<Vec<String>>>();
        assert_eq!(found.unwrap(), ["app715no"]);
    }

    /// Fails when a file of before the outbox loses what it holds, or a call's number is given twice after its removal.
    #[test]
    fn a_file_of_before_the_outbox_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let job =
            "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max) VALUES (1, 0, 0, 0, 1, 20);";
        file_of(&path, 8, job);
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let insert = "INSERT INTO palisade_outbox (state, connection, tenant, provider, operation, replay, method, \
                      target, headers, body, idempotency_key, content, priority, created_at, run_at) \
                      VALUES (0, 'c', 't', 'p', 'o', 'never', 'POST', '/', '[]', x'', 'k', x'', 0, 1, 1)";
        connection.execute(insert, []).unwrap();
        connection.execute("DELETE FROM palisade_outbox", []).unwrap();
        connection.execute(insert, []).unwrap();
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(number("SELECT id FROM palisade_outbox"), 2);
        assert_eq!(number("SELECT count(*) FROM palisade_job"), 1);
    }

    /// Fails when dead events of before the counters are not counted, or jobs of replayed events stay dead.
    #[test]
    fn counters_of_dead_events_are_filled_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let event = |id: i64, state: i64, connection: &str| {
            format!(
                "INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind) \
                 VALUES ({id}, {state}, 1, 'hook', 'e{id}', '{connection}', 'stripe', 'x');"
            )
        };
        let job = |id: i64, state: i64, event: &str| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, event, finished_at) \
                 VALUES ({id}, {state}, 0, 0, 1, 20, {event}, 5);"
            )
        };
        let rows = [
            event(1, 3, "a"),
            event(2, 3, "a"),
            event(3, 3, "b"),
            event(4, 1, "a"),
            job(1, 3, "1"),
            job(2, 3, "2"),
            job(3, 3, "2"),
            job(4, 3, "3"),
            job(5, 3, "4"),
            job(6, 3, "NULL"),
            "UPDATE palisade_tally SET jobs_dead = 6, events_dead = 3, events_done = 1;".to_owned(),
        ];
        file_of(&path, 1, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let pairs = |sql: &str| -> Vec<(String, i64)> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let counts = pairs("SELECT connection, events FROM palisade_dead_count ORDER BY connection");
        assert_eq!(counts, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let letters = pairs("SELECT CAST(event AS TEXT), job FROM palisade_dead_letter ORDER BY event");
        assert_eq!(letters, [("1".to_owned(), 1), ("2".to_owned(), 3), ("3".to_owned(), 4)]);
        let dead = pairs("SELECT 'dead', jobs_dead FROM palisade_tally");
        assert_eq!(dead, [("dead".to_owned(), 4)], "three events' and the one that is nobody's");
    }

    /// Fails when a job that waited at the upgrade loses its place, its group or its owner, or what is kept is not
    /// counted.
    #[test]
    fn waiting_jobs_causes_and_bytes_are_taken_over_by_the_migration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let event = |id: i64, state: i64, reason: &str| {
            format!(
                "INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind, \
                 reason, headers, payload) VALUES ({id}, {state}, {id}, 'hook', 'e{id}', 'conn', 'stripe', 'x', \
                 {reason}, 'é', x'0102');"
            )
        };
        let job = |id: i64, state: i64, event: &str, work: &str| {
            format!(
                "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, event, work) \
                 VALUES ({id}, {state}, 0, 0, 1, 20, {event}, {work});"
            )
        };
        let sync = "'{\"kind\":\"sync\",\"key\":{\"connection\":\"conn\",\"stream\":\"s\"},\"mode\":\"full\"}'";
        let rows = [
            "INSERT INTO palisade_connection (id, tenant, provider, state, created_at) \
             VALUES ('conn', 'acme', 'slack', '{\"state\":\"active\"}', 1);"
                .to_owned(),
            event(1, 0, "NULL"),
            event(2, 3, "'no'"),
            event(3, 3, "'no'"),
            "INSERT INTO palisade_delivery (id, body) VALUES (1, x'010203');".to_owned(),
            job(1, 0, "1", "NULL"),
            job(2, 1, "NULL", sync),
            job(3, 4, "NULL", "'{\"kind\":\"retention\"}'"),
        ];
        file_of(&path, 8, &rows.concat());
        let mut connection = Connection::open(&path).unwrap();
        prepare(&mut connection, &path).unwrap();
        let texts = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let jobs = texts("SELECT state || ' ' || grp || ' ' || tenant || ' ' || turn FROM palisade_job ORDER BY id");
        assert_eq!(jobs, ["5 stripe conn 0", "1 slack acme 0", "4   0"]);
        let causes = texts(
            "SELECT provider || ' ' || kind || ' ' || reason || ' ' || events || ' ' || first_at || ' ' || last_at \
             FROM palisade_dead_cause",
        );
        assert_eq!(causes, ["stripe x no 2 2 3"]);
        let bytes = texts("SELECT CAST(inbox_bytes AS TEXT) FROM palisade_tally");
        assert_eq!(bytes, [(3 * (palisade_core::store::EVENT_BYTES + 2 + 2) + 3).to_string()]);
    }
}

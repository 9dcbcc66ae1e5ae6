//! What the operations page, the API and `/metrics` ask of the database costs the same for some thousand rows and for
//! twenty-five times as many: counted in steps of SQLite's own machine and in what it reads of the file, not in time.
//!
//! Once with rows of which a few old ones are what a page looks for (dead letters, ignored events, calls in review, runs
//! under way, …), so that whatever walks from the newest to them is found out; once with rows that are all of it in turn,
//! so that whatever counts or sorts them is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use palisade_core::clock::ManualClock;
use palisade_core::store::Store;
use palisade_hub::Access;
use palisade_store::{SqliteConfig, SqliteStore};

use crate::fixtures::{NOW, ask, builder, connection, settings};

const FEW: u64 = 4_000;
const MANY: u64 = 100_000;
/// Rows of a rare state, where it is rare: fewer than any page shows, so that one that walks looks at all there are.
const RARE: u64 = 5;
/// What stands for a destination is counted up to 10,000, runs under way are looked at up to 1,000: fewer rows than that
/// would let the few cost less by right.
const FORWARDS_LEAST: u64 = 12_000;

/// How the rows are spread over their states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// The oldest few are in a rare state, all others are over.
    Rare,
    /// Every state has its share.
    Even,
}

/// What is asked for by people and machines again and again. Row 40 is over in either spread.
const ASKED: [&str; 32] = [
    "/",
    "/metrics",
    "/readyz",
    "/connections/acme-stripe/disconnect",
    "/api/v1/health",
    "/api/v1/connections?limit=20",
    "/api/v1/connections/acme-stripe",
    "/api/v1/connections/acme-stripe/healings",
    "/api/v1/connections/acme-stripe/streams/customers/unreadable?limit=20",
    "/api/v1/schedules?limit=20",
    "/api/v1/destinations",
    "/api/v1/destinations/app",
    "/api/v1/destinations/app/dead?limit=20",
    "/api/v1/events?limit=20",
    "/api/v1/events?state=dead&limit=20",
    "/api/v1/events?state=ignored&limit=20",
    "/api/v1/events/40",
    "/api/v1/inbox",
    "/api/v1/dead-letters",
    "/api/v1/runs?limit=20",
    "/api/v1/runs?state=review&limit=20",
    "/api/v1/runs/40",
    "/api/v1/jobs",
    "/api/v1/calls?limit=20",
    "/api/v1/calls?connection=acme-stripe&limit=20",
    "/api/v1/outbox?limit=20",
    "/api/v1/outbox?state=review&limit=20",
    "/api/v1/outbox?state=failed&limit=20",
    "/api/v1/outbox?state=waiting&limit=20",
    "/api/v1/outbox/40",
    "/api/v1/records/acme-stripe/customers?limit=20",
    "/api/v1/records/acme-stripe/customers/cus_1",
];

/// Addresses that are read and not asked here, each with its reason.
const NOT_ASKED: [(&str, &str); 9] = [
    ("/healthz", "asks nothing of the database"),
    ("/login", "asks nothing of the database"),
    ("/style.css", "asks nothing of the database"),
    ("/connect/{provider}", "ends at a provider, and is gone to by a person once"),
    ("/connect/{provider}/{environment}", "ends at a provider, and is gone to by a person once"),
    ("/auth/{provider}/callback", "begins at a provider, and is come to by a person once"),
    ("/auth/{provider}/{environment}/callback", "begins at a provider, and is come to by a person once"),
    ("/api/v1/connections/{id}/call-days", "reads one row a day of a connection, and 24 for the youngest"),
    ("/api/v1/replays/{key}", "reads one job by its key while a replay is under way"),
];

/// Tables that need no rows: what a page asks of them is by key or bounded by what people configured, or no page asks.
const LEFT_EMPTY: [&str; 14] = [
    "chore",
    "credential",
    "data_key",
    "destination",
    "destination_key",
    "grant",
    "lane",
    "master_key",
    "migration",
    "pending",
    "probe",
    "session",
    "tally",
    "turn",
];

/// Writes how row `i` is spread: over `states` in turn, or the oldest few of each but the first, which is the common one.
fn spread(spread: Spread, states: &[&str]) -> String {
    let cases = |of: &dyn Fn(usize) -> String| {
        let rare: Vec<String> =
            states.iter().enumerate().skip(1).map(|(at, state)| format!("WHEN {} THEN {state}", of(at))).collect();
        rare.join(" ")
    };
    match spread {
        Spread::Even => format!("(CASE i % {} {} ELSE {} END)", states.len(), cases(&|at| at.to_string()), states[0]),
        Spread::Rare => format!("(CASE (i - 1) / {RARE} {} ELSE {} END)", cases(&|at| (at - 1).to_string()), states[0]),
    }
}

/// Puts rows of every kind into each large table, with the counters that stand beside them.
fn fill(path: &Path, rows: u64, how: Spread) {
    let now = NOW.millis();
    let (hour, day) = (3_600_000, 86_400_000);
    let connection = rusqlite::Connection::open(path).unwrap();
    let upto = |rows| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    let (numbers, half) = (upto(rows), rows / 2);
    // Done, dead, ignored, pending, and gone but for the name.
    let event = spread(how, &["1", "3", "2", "0", "4"]);
    // Done, in review, failed, waiting, running and cancelled.
    let call = spread(how, &["2", "4", "3", "0", "1", "5"]);
    let run = spread(
        how,
        &[
            "'{\"state\":\"done\"}'",
            "'{\"state\":\"review\",\"deletions\":60}'",
            "'{\"state\":\"running\"}'",
            "'{\"state\":\"failed\",\"kind\":\"provider\",\"reason\":\"no\"}'",
        ],
    );
    // What is the tests' connection's, or its stream's: all of it, or the oldest few.
    let (own, own_stream) = match how {
        Spread::Even => ("'acme-stripe'".to_owned(), "1000".to_owned()),
        Spread::Rare => {
            (format!("iif(i <= {RARE}, 'acme-stripe', 'other-1')"), format!("iif(i <= {RARE}, 1000, 2001)"))
        }
    };
    let destination = if how == Spread::Even { "'app'".to_owned() } else { format!("iif(i <= {RARE}, 'app', 'gone')") };
    let forwards = upto(rows.max(FORWARDS_LEAST));
    let mut sql = format!(
        "BEGIN;
         {numbers} INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind, \
             reason, delivery, payload)
             SELECT i, {event}, {now} - {rows} + i, 'stripe', 'evt_' || i, \
                 'acme-stripe', 'stripe', 'customer.updated', 'a reason', i, x'7b7d' FROM n;
         {numbers} INSERT INTO palisade_event_name SELECT -i, i FROM n;
         {numbers} INSERT INTO palisade_event_new SELECT i, {rows} + i FROM n;
         {numbers} INSERT INTO palisade_delivery (id, body) SELECT i, x'7b7d' FROM n;
         INSERT INTO palisade_dead_count SELECT connection, count(*) FROM palisade_event WHERE state = 3 GROUP BY 1;
         {numbers} INSERT INTO palisade_dead_letter SELECT i, 1000000 + i FROM n;
         INSERT INTO palisade_dead_cause
             SELECT provider, kind, reason, count(*), {now}, {now} FROM palisade_event WHERE state = 3 GROUP BY 1, 2, 3;
         {numbers} INSERT INTO palisade_heard (endpoint, kind, heard_at)
             SELECT 'of another ' || i, 'customer.updated', {now} FROM n;
         {numbers} INSERT INTO palisade_halt SELECT 2, 'other-' || i, {now} FROM n;
         {numbers} INSERT INTO palisade_stream (id, connection, name, commits, head, records)
             SELECT 2000 + i, 'other-' || i, 'customers', 1, 0, 0 FROM n;
         INSERT INTO palisade_stream (id, connection, name, commits, head, records)
             VALUES (1000, 'acme-stripe', 'customers', 1, {rows}, {half});
         {numbers} INSERT INTO palisade_connection (id, tenant, provider, state, created_at)
             SELECT 'other-' || i, 'tenant-' || i, 'stripe', '{{\"state\":\"active\"}}', {now} FROM n;
         {numbers} INSERT INTO palisade_record (stream, seq, observed, earliest, latest, hash, deleted, revised, \
             first_seen, changed_at, ext_id, data)
             SELECT {own_stream}, i, 1, 1, 1, 1, i % 2, 0, {now}, {now}, 'cus_' || i, x'7b7d' FROM n;
         INSERT INTO palisade_record_name SELECT stream, ext_id, id FROM palisade_record;
         INSERT INTO palisade_feed SELECT stream, seq, id FROM palisade_record;
         {numbers} INSERT INTO palisade_record_new SELECT 1000, 'cus_new_' || i, {rows} + i FROM n;
         {numbers} INSERT INTO palisade_bad_record (stream, run, times, first_seen, last_seen, bytes, key, why, raw)
             SELECT {own_stream}, i, 1, {now}, {now} - {rows} + i, 2, '=' || i, 'no date', x'7b7d' FROM n;
         {numbers} INSERT INTO palisade_run (stream, connection, name, mode, state, started_at, progressed_at, moved_at, \
             finished_at, began, missed, missed_from, missed_to, followed)
             SELECT iif(state GLOB '*running*', 2000 + i, stream), iif(state GLOB '*running*', 'other-' || i, own), \
                 'customers', i % 2, state, {now}, {now}, {now}, iif(state GLOB '*running*', NULL, {now}), 0, \
                 own = 'acme-stripe', {now}, {now}, 1
             FROM (SELECT i, {run} AS state, {own_stream} AS stream, {own} AS own FROM n);
         {numbers} INSERT INTO palisade_seen SELECT 1000, i, x'' FROM n;
         {numbers} INSERT INTO palisade_schedule SELECT 'other-' || i, 'customers', 0, '1h' FROM n;
         {numbers} INSERT INTO palisade_call (at, provider, operation, connection, attempts, duration_us, waited_us)
             SELECT {now} - {rows} + i, 'stripe', 'customers.list', {own}, 1, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_call_hour SELECT 'acme-stripe', {now} / {hour} - 24 - i, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_call_day SELECT 'acme-stripe', {now} / {day} - i, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_pause SELECT 'slack', 'lane ' || i, {now} - {day}, {now} - 1 FROM n;
         {numbers} INSERT INTO palisade_outbox (state, connection, tenant, provider, operation, replay, method, target, \
             headers, body, idempotency_key, unique_key, content, priority, created_at, run_at, finished_at, error)
             SELECT {call}, 'acme-stripe', 'acme', 'stripe', 'customers.create', 'keyed', 'POST', '/v1/customers', '[]', \
                 x'7b7d', 'key-' || i, 'own-' || i, x'00', 0, {now}, {now}, iif({call} IN (2, 3, 5), {now}, NULL), 'no' \
             FROM n;
         {forwards} INSERT INTO palisade_dead_forward SELECT {destination}, i, i, {now}, 'no' FROM n;
         INSERT INTO palisade_outbox_count SELECT state, count(*) FROM palisade_outbox GROUP BY 1;
         INSERT INTO palisade_outbox_review
             SELECT connection, count(*) FROM palisade_outbox WHERE state = 4 GROUP BY 1;
         {forwards} INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, grp, tenant, unique_key, work)
             SELECT 9000000 + i, 5, 3, 0, {now} + i, 20, 'forwards', 'tenant', \
                 'forward/' || {destination} || '/' || i, '\"Retention\"' FROM n;
         "
    );
    // In every queue: dead, in line, later, outside the line behind others, leased and parked.
    let job = spread(how, &["3", "0", "5", "4", "1", "6"]);
    for (queue, first) in (0..4).zip([1_000_000, 2_000_000, 3_000_000, 4_000_000]) {
        sql.push_str(&format!(
            "{numbers} INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, grp, tenant, turn, lane, \
                 unique_key, lease_until, finished_at, parked, event, work)
             SELECT {first} + i, state, {queue}, i % 3, {now} - {day} + i, 20, 'group-' || (i % 5), 'tenant-' || i, i, \
                 iif(state = 4, 'lane', NULL), 'job-{queue}-' || i, iif(state = 1, {now} + {hour}, NULL), \
                 iif(state = 3, {now}, NULL), iif(state = 6, 'other-' || i, NULL), \
                 iif({queue} = 0, i, NULL), iif({queue} = 0, NULL, '\"Retention\"') FROM (SELECT i, {job} AS state FROM n);
             ",
        ));
    }
    let of_event = |state: u8| format!("(SELECT count(*) FROM palisade_event WHERE state = {state})");
    let of_job = |states: &str| format!("(SELECT count(*) FROM palisade_job WHERE state IN ({states}))");
    sql.push_str(&format!(
        "UPDATE palisade_tally SET event_last = {rows}, job_last = 10000000, events_pending = {}, events_done = {}, \
             events_ignored = {}, events_dead = {}, jobs_waiting = {}, jobs_running = {}, jobs_dead = {};
         COMMIT;",
        of_event(0),
        of_event(1),
        of_event(2),
        of_event(3),
        of_job("0, 4, 5, 6"),
        of_job("1"),
        of_job("3"),
    ));
    connection.execute_batch(&sql).unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'palisade_%'";
    let tables: Vec<String> =
        connection.prepare(tables).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for table in tables {
        let count: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        let short = table.trim_start_matches("palisade_");
        let counters = ["dead_cause", "dead_count", "outbox_count", "outbox_review"];
        let full = count.unsigned_abs() >= rows || LEFT_EMPTY.contains(&short) || counters.contains(&short);
        assert!(full, "{table} holds {count} of {rows} rows: fill it, or say why not");
    }
}

/// What answering one question cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Steps of SQLite's machine. One of them counts a whole table, so these alone are not enough.
    steps: u64,
    /// KiB read of the file. Elsewhere than on Linux nothing tells.
    kib: u64,
}

/// Returns the bytes this thread has read so far, by what the kernel counts.
fn read_by_this_thread() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/io").unwrap_or_default();
    let told = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    told.map_or(0, |bytes| bytes.parse().unwrap())
}

/// Asks one question, as of an empty cache.
async fn cost(store: &SqliteStore, router: &Router, path: &str) -> Cost {
    let question = || http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    // The first asks for plans; the second is what is repeated.
    ask(router, question()).await;
    // A commit: what readers hold in memory is of the time before it, and they read it again.
    store.probe(NOW).await.unwrap();
    // The runtime has one thread for all that blocks, so it is the one that reads for the hub.
    let read = async || tokio::task::spawn_blocking(read_by_this_thread).await.unwrap();
    let (steps, bytes) = (store.read_steps(), read().await);
    let answer = ask(router, question()).await;
    let fine = answer.status == 200 || (path == "/readyz" && answer.status == 503);
    assert!(fine, "{path}: {} {}", answer.status, answer.text());
    Cost { steps: store.read_steps() - steps, kib: (read().await - bytes) / 1_024 }
}

/// Returns what each question costs over a database of so many rows.
async fn costs(rows: u64, how: Spread) -> Vec<Cost> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade.db");
    SqliteStore::open(SqliteConfig::at(&path)).unwrap().close().await.unwrap();
    fill(&path, rows, how);
    let store = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap();
    hub.connect(&connection()).await.unwrap();
    let router = hub.router();
    let destination = r#"{"name":"app","url":"https://app.example.com/hooks"}"#;
    let request = http::Request::post("/api/v1/destinations").body(axum::body::Body::from(destination)).unwrap();
    assert_eq!(ask(&router, request).await.status, 201);
    let mut counted = Vec::new();
    for path in ASKED {
        counted.push(cost(&store, &router, path).await);
    }
    store.close().await.unwrap();
    counted
}

#[track_caller]
fn compare(how: Spread) {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        // One thread that reads, and the same for as long as it is measured.
        builder.enable_all().max_blocking_threads(1).thread_keep_alive(std::time::Duration::from_secs(3_600));
        builder.build().unwrap()
    };
    let (few, many) = (runtime().block_on(costs(FEW, how)), runtime().block_on(costs(MANY, how)));
    assert!(few.iter().map(|cost| cost.steps).sum::<u64>() > 0, "steps are counted");
    if cfg!(target_os = "linux") {
        assert!(few.iter().map(|cost| cost.kib).sum::<u64>() > 0, "what is read is counted");
    }
    // Each statement's steps are counted to the nearest hundred. A tree of more rows is a page deeper here and there, and
    // its rows lie further apart; to read all of the smallest one would be 700 KiB more.
    let allowed = |few: &Cost| Cost { steps: few.steps + few.steps / 10 + 1_000, kib: few.kib + few.kib / 3 + 128 };
    let rows = ASKED.iter().zip(&few).zip(&many).map(|((path, few), many)| (path, few, many));
    let grown = rows.filter(|(_, few, many)| many.steps > allowed(few).steps || many.kib > allowed(few).kib);
    let grown: Vec<String> =
        grown.map(|(path, few, many)| format!("{path}: {few:?} with {FEW} rows, {many:?}")).collect();
    assert!(grown.is_empty(), "with {MANY} rows:\n{}", grown.join("\n"));
}

/// Fails when any of these walks from the newest rows to the few it looks for.
#[test]
fn what_is_asked_for_again_and_again_does_not_grow_with_rows_that_are_over() {
    compare(Spread::Rare);
}

/// Fails when any of these counts, sorts or reads all rows of a state.
#[test]
fn what_is_asked_for_again_and_again_does_not_grow_with_the_rows_of_any_state() {
    compare(Spread::Even);
}

/// Fails when a page or a list comes that is neither asked here nor named with the reason why not.
#[test]
fn everything_that_is_read_is_asked() {
    let routes = include_str!("../../src/routes.rs");
    let mut read = BTreeSet::new();
    for route in routes.split(".route(").skip(1) {
        let (Some(path), Some(takes)) = (route.split('"').nth(1), route.split("\",").nth(1)) else { continue };
        if takes.trim_start().starts_with("get(") {
            read.insert(path);
        }
    }
    assert!(read.len() > 30, "the router is read: {read:?}");
    let fits = |route: &str, path: &str| {
        let (route, path): (Vec<&str>, Vec<&str>) =
            (route.split('/').collect(), path.split('?').next().unwrap().split('/').collect());
        route.len() == path.len() && route.iter().zip(&path).all(|(of, part)| of == part || of.starts_with('{'))
    };
    for route in read {
        let named = NOT_ASKED.iter().any(|(path, _)| *path == route);
        assert!(named != ASKED.iter().any(|path| fits(route, path)), "{route} is asked, or named with a reason");
    }
}

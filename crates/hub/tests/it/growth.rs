//! What the operations page, the API's overview and `/metrics` ask of the database costs the same for a thousand rows and
//! for a hundred times as many: counted in steps of SQLite's own machine, not in time.

use std::path::Path;
use std::sync::Arc;

use palisade_core::clock::ManualClock;
use palisade_hub::Access;
use palisade_store::{SqliteConfig, SqliteStore};

use crate::fixtures::{NOW, ask, builder, connection, settings};

const FEW: u64 = 1_000;
const MANY: u64 = 100_000;

/// What is asked for by people and machines again and again.
const ASKED: [&str; 14] = [
    "/",
    "/metrics",
    "/readyz",
    "/api/v1/health",
    "/api/v1/jobs",
    "/api/v1/inbox",
    "/api/v1/dead-letters",
    "/api/v1/destinations",
    "/api/v1/outbox?limit=20",
    "/api/v1/schedules?limit=20",
    "/api/v1/connections/acme-stripe/healings",
    "/api/v1/events?limit=20",
    "/api/v1/runs?limit=20",
    "/api/v1/records/acme-stripe/customers?limit=20",
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

/// Puts rows of every kind into each large table, with the counters that stand beside them.
fn fill(path: &Path, rows: u64) {
    let now = NOW.millis();
    let (hour, day) = (3_600_000, 86_400_000);
    let connection = rusqlite::Connection::open(path).unwrap();
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    let half = rows / 2;
    let mut sql = format!(
        "BEGIN;
         {numbers} INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind, \
             reason, delivery, payload)
             SELECT i, CASE i % 3 WHEN 0 THEN 3 ELSE i % 3 END, {now} - i, 'stripe', 'evt_' || i, \
                 'acme-stripe', 'stripe', 'customer.updated', 'a reason', i, x'7b7d' FROM n;
         {numbers} INSERT INTO palisade_event_name SELECT -i, i FROM n;
         {numbers} INSERT INTO palisade_event_new SELECT i, {rows} + i FROM n;
         {numbers} INSERT INTO palisade_delivery (id, body) SELECT i, x'7b7d' FROM n;
         INSERT INTO palisade_dead_count SELECT connection, count(*) FROM palisade_event WHERE state = 3 GROUP BY 1;
         {numbers} INSERT INTO palisade_dead_letter SELECT i, 1000000 + i FROM n WHERE i % 3 = 0;
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
             SELECT 1000, i, 1, 1, 1, 1, i % 2, 0, {now}, {now}, 'cus_' || i, x'7b7d' FROM n;
         INSERT INTO palisade_record_name SELECT stream, ext_id, id FROM palisade_record;
         {numbers} INSERT INTO palisade_record_new SELECT 1000, 'cus_new_' || i, {rows} + i FROM n;
         {numbers} INSERT INTO palisade_bad_record (stream, run, times, first_seen, last_seen, bytes, key, why, raw)
             SELECT 1000, i, 1, {now}, {now}, 2, '=' || i, 'no date', x'7b7d' FROM n;
         {numbers} INSERT INTO palisade_run (stream, connection, name, mode, state, started_at, progressed_at, \
             finished_at, began, missed, missed_from, missed_to, followed)
             SELECT 1000, 'acme-stripe', 'customers', i % 2, '{{\"state\":\"done\"}}', {now}, {now}, {now}, 0, i % 2, \
                 {now}, {now}, 1 FROM n;
         {numbers} INSERT INTO palisade_seen SELECT 1000, i, x'' FROM n;
         {numbers} INSERT INTO palisade_schedule SELECT 'other-' || i, 'customers', 0, '1h' FROM n;
         {numbers} INSERT INTO palisade_call (at, provider, operation, connection, attempts, duration_us, waited_us)
             SELECT {now} - i, 'stripe', 'customers.list', 'acme-stripe', 1, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_call_hour SELECT 'acme-stripe', {now} / {hour} - 24 - i, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_call_day SELECT 'acme-stripe', {now} / {day} - i, 1, 1 FROM n;
         {numbers} INSERT INTO palisade_pause SELECT 'slack', 'lane ' || i, {now} - {day}, {now} - 1 FROM n;
         {numbers} INSERT INTO palisade_outbox (state, connection, tenant, provider, operation, replay, method, target, \
             headers, body, idempotency_key, unique_key, content, priority, created_at, run_at, finished_at, error)
             SELECT i % 6, 'acme-stripe', 'acme', 'stripe', 'customers.create', 'keyed', 'POST', '/v1/customers', '[]', \
                 x'7b7d', 'key-' || i, 'own-' || i, x'00', 0, {now}, {now}, CASE i % 6 WHEN 2 THEN {now} END, 'no' FROM n;
         {numbers} INSERT INTO palisade_dead_forward SELECT 'destination-' || (i % 10), i, i, {now}, 'no' FROM n;
         INSERT INTO palisade_outbox_count SELECT state, count(*) FROM palisade_outbox GROUP BY 1;
         INSERT INTO palisade_outbox_review VALUES ('acme-stripe', {rows} / 6);
         UPDATE palisade_tally SET event_last = {rows}, job_last = 5000000, events_dead = {rows} / 3, \
             events_done = {rows} / 3, events_ignored = {rows} / 3, jobs_waiting = {half};
         "
    );
    // In every queue: in line, later, outside the line behind others, and finished.
    for (queue, first) in (0..4).zip([1_000_000, 2_000_000, 3_000_000, 4_000_000]) {
        sql.push_str(&format!(
            "{numbers} INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, grp, tenant, turn, lane, \
                 unique_key, finished_at, work)
             SELECT {first} + i, (SELECT value FROM json_each('[0, 5, 4, 2]') WHERE key = i % 4), {queue}, i % 3, \
                 {now} - {day} + i, 20, 'group-' || (i % 5), 'tenant-' || i, i, CASE i % 4 WHEN 2 THEN 'lane' END, \
                 'job-{queue}-' || i, CASE i % 4 WHEN 3 THEN {now} END, '\"Retention\"' FROM n;
             ",
        ));
    }
    sql.push_str("COMMIT;");
    connection.execute_batch(&sql).unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'palisade_%'";
    let tables: Vec<String> =
        connection.prepare(tables).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for table in tables {
        let count: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        let short = table.trim_start_matches("palisade_");
        let counters = ["dead_cause", "dead_count", "outbox_count", "outbox_review"];
        let full = count.unsigned_abs() >= rows / 3 || LEFT_EMPTY.contains(&short) || counters.contains(&short);
        assert!(full, "{table} holds {count} of {rows} rows: fill it, or say why not");
    }
}

/// Returns the steps each question costs over a database of so many rows.
async fn steps(rows: u64) -> Vec<u64> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade.db");
    SqliteStore::open(SqliteConfig::at(&path)).unwrap().close().await.unwrap();
    fill(&path, rows);
    let store = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap();
    hub.connect(&connection()).await.unwrap();
    let router = hub.router();
    let mut counted = Vec::new();
    for path in ASKED {
        let question = || http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        // The first asks for plans and pages; the second is what is repeated.
        ask(&router, question()).await;
        let before = store.read_steps();
        let answer = ask(&router, question()).await;
        assert!(answer.status != 404 && answer.status != 400 && answer.status != 500, "{path}: {}", answer.text());
        counted.push(store.read_steps() - before);
    }
    store.close().await.unwrap();
    counted
}

// Fails when any of these is answered by a scan: one of a hundred thousand rows alone takes more than as many steps.
#[tokio::test]
async fn nothing_that_is_asked_for_again_and_again_grows_with_the_stored_rows() {
    let (few, many) = (steps(FEW).await, steps(MANY).await);
    assert!(few.iter().sum::<u64>() > 0, "steps are counted");
    for ((path, few), many) in ASKED.iter().zip(&few).zip(&many) {
        // Each statement is counted to the nearest hundred.
        assert!(*many <= few + few / 4 + 2_000, "{path}: {few} steps with {FEW} rows, {many} with {MANY}");
    }
}

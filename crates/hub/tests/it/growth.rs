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
const ASKED: [&str; 8] = [
    "/",
    "/metrics",
    "/readyz",
    "/api/v1/health",
    "/api/v1/jobs",
    "/api/v1/events?limit=20",
    "/api/v1/runs?limit=20",
    "/api/v1/records/acme-stripe/customers?limit=20",
];

/// Puts rows of every kind into each large table, with the counters that stand beside them.
fn fill(path: &Path, rows: u64) {
    let now = NOW.millis();
    let day = 86_400_000;
    let connection = rusqlite::Connection::open(path).unwrap();
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    let half = rows / 2;
    let sql = format!(
        "BEGIN;
         {numbers} INSERT INTO palisade_event (id, state, received_at, endpoint, event_id, connection, provider, kind, \
             reason, payload)
             SELECT i, CASE i % 3 WHEN 0 THEN 3 ELSE i % 3 END, {now} - i, 'stripe', 'evt_' || i, \
                 'acme-stripe', 'stripe', 'customer.updated', 'a reason', x'7b7d' FROM n;
         INSERT INTO palisade_dead_count SELECT connection, count(*) FROM palisade_event WHERE state = 3 GROUP BY 1;
         {numbers} INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, finished_at, work)
             SELECT 1000 + i, CASE i % 2 WHEN 0 THEN 0 ELSE 2 END, 1, 0, {now} - {day} + i, 20, \
                 CASE i % 2 WHEN 0 THEN NULL ELSE {now} END, '\"Retention\"' FROM n;
         INSERT INTO palisade_stream (id, connection, name, commits, head, records)
             VALUES (1000, 'acme-stripe', 'customers', 1, {rows}, {half});
         {numbers} INSERT INTO palisade_record (stream, seq, observed, earliest, latest, hash, deleted, revised, \
             first_seen, changed_at, ext_id, data)
             SELECT 1000, i, 1, 1, 1, 1, i % 2, 0, {now}, {now}, 'cus_' || i, x'7b7d' FROM n;
         {numbers} INSERT INTO palisade_run (stream, connection, name, mode, state, started_at, progressed_at, \
             finished_at, began)
             SELECT 1000, 'acme-stripe', 'customers', 0, '{{\"state\":\"done\"}}', {now}, {now}, {now}, 0 FROM n;
         {numbers} INSERT INTO palisade_call (at, provider, operation, connection, attempts, duration_us, waited_us)
             SELECT {now} - i, 'stripe', 'customers.list', 'acme-stripe', 1, 1, 1 FROM n;
         UPDATE palisade_tally SET event_last = {rows}, job_last = 1000 + {rows}, events_dead = {rows} / 3, \
             events_done = {rows} / 3, events_ignored = {rows} / 3, jobs_waiting = {half};
         COMMIT;"
    );
    connection.execute_batch(&sql).unwrap();
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

//! What statements look at: those that answer a page, a metric or a step of a chore go to their rows by an index,
//! however many rows there are.

use std::path::Path;

use palisade_core::random::{Random, SeededRandom};
use palisade_core::store::RunStateName;
use rusqlite::Connection;

use super::{inbox, runs, schema};

/// Fails when SQLite would answer a statement otherwise than by the steps given, or sorts or walks for it.
#[track_caller]
fn goes(sql: &str, wanted: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.db");
    let mut connection = Connection::open(&path).unwrap();
    schema::tune(&connection, std::time::Duration::ZERO).unwrap();
    schema::prepare(&mut connection, Path::new("plans.db")).unwrap();
    let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let holes = rusqlite::params_from_iter(vec![0; plan.parameter_count()]);
    let steps: Vec<String> = plan.query_map(holes, |row| row.get(3)).unwrap().map(Result::unwrap).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    assert_eq!(steps, wanted, "{sql}");
}

/// Fails when a step of pruning walks past what an earlier step looked at, or walks jobs to find whether one of them
/// forwards an event.
#[test]
fn pruning_goes_on_from_its_place() {
    for (behind, by) in inbox::BEHIND.into_iter().zip(["(received_at=? AND id>?)", "(received_at>?)"]) {
        goes(
            &inbox::settled(behind),
            &[
                &format!("SEARCH e USING INDEX palisade_event_settled {by}"),
                "CORRELATED SCALAR SUBQUERY 1",
                "SCAN d",
                "SEARCH j USING INDEX palisade_job_unique (unique_key=?)",
            ],
        );
    }
}

/// Fails when all runs under way are sorted to find those that stand still, for each look at the metrics.
#[test]
fn runs_under_way_are_read_in_their_order() {
    // Of a partial index SQLite says that it scans it: it holds nothing but what is asked for, and is read up to the limit.
    goes(&format!("SELECT * {}", runs::LIVE), &["SCAN palisade_run USING INDEX palisade_run_moved"]);
}

/// Fails when the index, which is not exact, shows in what order runs came on: one that came on later before another, or
/// one left out.
#[test]
fn runs_under_way_are_read_as_if_all_were_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let mut connection = Connection::open(&path).unwrap();
    schema::prepare(&mut connection, &path).unwrap();
    for seed in 0..100 {
        let random = SeededRandom::new(seed);
        let below = |limit: u64| i64::try_from(random.bits() % limit).unwrap();
        connection.execute("DELETE FROM palisade_run", ()).unwrap();
        let mut plain: Vec<(i64, i64)> = Vec::new();
        for id in 1..=30 {
            let moved_at = 2_000 * below(20);
            let progressed_at = moved_at + if below(3) == 0 { 0 } else { below(10_000) };
            let sql = "INSERT INTO palisade_run (id, stream, connection, name, mode, state, started_at, progressed_at, \
                       moved_at, began) VALUES (?1, ?1, 'c', 's', 0, '{\"state\":\"running\"}', 0, ?2, ?3, 0)";
            connection.execute(sql, [id, progressed_at, moved_at]).unwrap();
            plain.push((progressed_at, id));
        }
        plain.sort_unstable();
        for limit in [0, 1, 4, 29, 30, 99] {
            let found = runs::live(&connection, limit).unwrap();
            let found: Vec<_> = found.iter().map(|run| (run.progressed_at.millis(), run.id.0)).collect();
            assert_eq!(found, plain[..plain.len().min(limit as usize)], "seed {seed}, limit {limit}");
        }
    }
}

/// Fails when runs that wait for a review, or a connection's, are looked for among all there are; or when rows are sorted
/// whose number has no bound.
#[test]
fn runs_are_found_by_what_is_rare_of_them() {
    let review = "SEARCH palisade_run USING INDEX palisade_run_review (id<?)";
    for of_connection in [false, true] {
        goes(&runs::found(Some(RunStateName::Review), of_connection), &[review]);
    }
    let own = "SEARCH palisade_run USING INDEX palisade_run_connection (connection=? AND id<?)";
    for state in [None, Some(RunStateName::Done), Some(RunStateName::Failed)] {
        goes(&runs::found(state, true), &[own]);
    }
    let live = ["SCAN palisade_run USING INDEX palisade_run_live", "USE TEMP B-TREE FOR ORDER BY"];
    goes(&runs::found(Some(RunStateName::Running), false), &live);
}

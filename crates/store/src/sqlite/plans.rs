//! What statements look at: those that answer a page, a metric or a step of a chore go to their rows by an index,
//! however many rows there are.

use std::path::Path;

use palisade_core::random::{Random, SeededRandom};
use palisade_core::store::{EventState, RunStateName};
use rusqlite::Connection;

use super::{dead_forwards, inbox, jobs, records, runs, schema};

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

/// Fails when a step of forgetting names walks past events that keep theirs, or sorts.
#[test]
fn names_are_forgotten_in_their_order() {
    goes(inbox::NAMED, &["SEARCH palisade_event USING COVERING INDEX palisade_event_named (received_at<?)"]);
}

/// Fails when what waits for a destination, or was given up for it, is looked for among all jobs.
#[test]
fn what_stands_for_a_destination_is_counted_by_its_keys() {
    for (sql, index) in [
        (dead_forwards::WAITING, "palisade_job USING INDEX palisade_job_unique (unique_key>? AND unique_key<?)"),
        (dead_forwards::DEAD, "palisade_dead_forward USING PRIMARY KEY (destination=?)"),
    ] {
        goes(sql, &["CO-ROUTINE (subquery-1)", &format!("SEARCH {index}"), "SCAN (subquery-1)"]);
    }
}

/// Fails when a step of a replay goes past rows outside its range, or past others to find dead events.
#[test]
fn a_replay_goes_past_its_rows_only() {
    let dead = "SEARCH palisade_event USING INDEX palisade_event_dead (id>? AND id<?)";
    let ignored = "SEARCH palisade_event USING INDEX palisade_event_ignored (id>? AND id<?)";
    let all = "SEARCH palisade_event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
    for (state, way) in [
        (Some(EventState::Dead), dead),
        (Some(EventState::Ignored), ignored),
        (Some(EventState::Done), all),
        (None, all),
    ] {
        goes(&inbox::replayable_heads(state).unwrap(), &[way]);
    }
}

/// Fails when all runs under way are sorted to find those that stand still, for each look at the metrics.
#[test]
fn runs_under_way_are_read_in_their_order() {
    // Of a partial index SQLite says that it scans it: it holds nothing but what is asked for, and is read up to the limit.
    goes(&format!("SELECT * {}", runs::LIVE), &["SCAN palisade_run USING INDEX palisade_run_moved"]);
}

/// Fails when what is set aside is sorted or read through to find what was met longest ago.
#[test]
fn what_is_set_aside_goes_in_the_order_of_its_index() {
    let of_stream = "SEARCH palisade_bad_record USING INDEX palisade_bad_record_met (stream=?)";
    goes(records::UNMET, &[of_stream]);
    let old = "SEARCH b USING INDEX palisade_bad_record_old (last_seen<?)";
    let of_run = "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)";
    goes(records::UNMET_FOR_LONG, &[old, "CORRELATED SCALAR SUBQUERY 1", of_run]);
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

/// Fails when a list looks at other rows than those of its page, or goes past others to find dead or ignored events.
#[test]
fn a_list_goes_past_its_rows_only() {
    let all = "SEARCH palisade_event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
    for (state, way) in [
        (Some(EventState::Dead), "SEARCH palisade_event USING INDEX palisade_event_dead (id>? AND id<?)"),
        (Some(EventState::Ignored), "SEARCH palisade_event USING INDEX palisade_event_ignored (id>? AND id<?)"),
        (Some(EventState::Pending), all),
        (Some(EventState::Done), all),
        (None, all),
    ] {
        goes(&inbox::listed(state), &[way]);
    }
}

/// Fails when pending events are looked for among jobs of other work.
#[test]
fn pending_events_are_found_by_their_jobs() {
    let of = |index: &str| format!("SEARCH palisade_job USING INDEX {index}");
    let terms = [
        of("palisade_job_turn (queue=?)"),
        of("palisade_job_leased (queue=?)"),
        of("palisade_job_later (queue=?)"),
        "SCAN palisade_job USING INDEX palisade_job_parked".to_owned(),
        of("palisade_job_behind (lane>? AND lane<?)"),
    ];
    let mut steps = vec!["COMPOUND QUERY".to_owned(), "LEFT-MOST SUBQUERY".to_owned()];
    for (number, term) in terms.into_iter().enumerate() {
        if number > 0 {
            steps.push("UNION ALL".to_owned());
        }
        steps.push(term);
    }
    goes(jobs::AT_WORK, &steps.iter().map(String::as_str).collect::<Vec<_>>());
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

//! Promise 1 with two and with eight processes on one file, of which one is stopped (SIGSTOP) in the middle of its work
//! and wakes when its leases are long over: once when the others have done its work, and once while they are in the midst
//! of it, their own leases alive. Whatever it writes then is refused. It is stopped between two transactions: SQLite gives
//! its lock away only when the process that holds it goes on or ends.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use palisade_core::store::RunMode;
use palisade_emulator::stripe::{Seed, Stripe, StripeConfig};
use palisade_tests::fuse::{Ending, HANDLER, Moment, Side, stands_still};
use palisade_tests::hold::Hold;
use palisade_tests::stage::{ENDPOINT, SECRET, effects_of, open};
use palisade_tests::verdict;
use palisade_tests::victims::{Victim, WITHIN, quiet_port, within};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

async fn all_done(victim: &Victim, emulator: &Stripe) -> bool {
    let Some(runs) = victim.json("/api/v1/runs?limit=1000").await else { return false };
    let runs: Vec<Value> = runs["runs"].as_array().cloned().unwrap_or_default();
    let listed = verdict::record_streams().iter().all(|stream| {
        runs.iter().any(|run| run["stream"] == **stream && run["mode"] == "full" && run["state"] == "done")
    });
    listed
        && victim.metric("palisade_events{state=\"pending\"}").await == Some(0)
        && victim.metric("palisade_events{state=\"done\"}").await >= Some(emulator.ledger().events_created)
}

/// What the others do with the sleeper's work before it wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// They have done it.
    DidIt,
    /// They have claimed it and are in the midst of it.
    HoldIt,
}

#[track_caller]
fn check(workers: u16, place: &str, side: Side, nth: u64, others: Others) {
    let moment = Moment { place: place.to_owned(), side, nth, ending: Ending::Stop };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(workers, &moment, others));
}

/// A job that somebody holds.
#[derive(Clone, Debug)]
struct Held {
    fence: i64,
    /// What waits with it where the file names it: an event, or the path a stream is listed at.
    name: String,
}

/// What is held in a file, by job.
fn held(database: &Path) -> BTreeMap<i64, Held> {
    let reader = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    // Of the streams only those of records: the list of events is walked every second, whoever does it.
    let sql = "SELECT j.id, j.fence, coalesce(e.event_id, '/v1/' || (j.work ->> '$.key.stream')) AS name \
               FROM palisade_job j LEFT JOIN palisade_event e ON e.id = j.event \
               WHERE j.state = 1 AND (e.id IS NOT NULL OR j.work ->> '$.kind' = 'sync' AND j.work ->> '$.mode' = 'full')";
    let mut statement = reader.prepare(sql).unwrap();
    let job = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Held { fence: row.get(1)?, name: row.get(2)? }));
    statement.query_map([], job).unwrap().map(Result::unwrap).collect()
}

/// What has come of work: effects of events, and committed pages of listings, by their names.
fn done_of(database: &Path, names: &[String]) -> BTreeMap<String, i64> {
    let reader = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT (SELECT count(*) FROM effect WHERE event = ?1) \
               + (SELECT coalesce(sum(pages), 0) FROM palisade_run WHERE '/v1/' || name = ?1 AND mode = 0)";
    let mut statement = reader.prepare(sql).unwrap();
    let count = |name: &String| statement.query_row([name], |row| row.get(0)).unwrap();
    names.iter().cloned().zip(names.iter().map(count).collect::<Vec<_>>()).collect()
}

/// How many attempts of a process came to nothing because the job was another's by then.
async fn refused(victim: &Victim) -> u64 {
    let mut refused = 0;
    for queue in ["events", "background"] {
        let name = format!("palisade_job_attempts_total{{queue=\"{queue}\",end=\"lost\"}}");
        refused += victim.metric(&name).await.unwrap_or(0);
    }
    refused
}

async fn story(workers: u16, moment: &Moment, they: Others) {
    let mut dice = StdRng::seed_from_u64(workers.into());
    let emulator = Stripe::start(StripeConfig {
        cursors_survive_deletion: true,
        webhook_retries: vec![Duration::from_millis(150); 400],
        webhook_timeout: Duration::from_secs(1),
        ..StripeConfig::default()
    })
    .await
    .unwrap();
    emulator.populate(&Seed { customers: 60, products: 3, prices: 3, subscriptions: 10, ..Seed::default() });
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("palisade.db");
    let hold = Hold::at(&folder.path().join("held"));
    // Ports of its own: the stories are told at the same time.
    let ports = 10_000 * u64::from(workers) + 1_000 * moment.nth + 100 * u64::from(they == Others::HoldIt);
    let start = async |number: u16, more: Option<String>| {
        let (never, port) = (std::future::pending(), quiet_port(ports + u64::from(number)));
        let more: Vec<String> = more.into_iter().chain([hold.argument()]).collect();
        let binary = env!("CARGO_BIN_EXE_victim");
        Victim::start_with(binary, folder.path(), emulator.base_url(), port, &more, never).await.unwrap()
    };
    let sleeper = start(0, Some(moment.argument())).await;
    let deliver_to = |victim: &Victim| {
        let url = format!("http://{}/webhooks/{ENDPOINT}", victim.address);
        let _ = emulator.webhook_endpoint(&url, SECRET, None, &["*"]);
    };
    deliver_to(&sleeper);
    let stopped = within(WITHIN, async || {
        emulator.random_mutation(&mut dice);
        stands_still(sleeper.id())
    });
    assert!(stopped.await, "{moment} never came");
    let its = held(&database);
    assert!(!its.is_empty(), "it was stopped in the midst of nothing");
    let names: Vec<String> = its.values().map(|job| job.name.clone()).collect();
    if they == Others::HoldIt {
        hold.names(&names);
    }

    let mut others = Vec::new();
    for number in 1..workers {
        others.push(start(number, None).await);
    }
    others.iter().for_each(deliver_to);
    (0..20).for_each(|_| {
        emulator.random_mutation(&mut dice);
    });
    let wake = || kill_process(Pid::from_raw(sleeper.id().try_into().unwrap()).unwrap(), Signal::CONT).unwrap();
    match they {
        Others::DidIt => {
            // What it holds is done by others, so its leases are over.
            assert!(within(WITHIN, async || all_done(&others[0], &emulator).await).await, "the others do its work");
            assert!(stands_still(sleeper.id()));
            wake();
        }
        Others::HoldIt => {
            let taken = within(WITHIN, async || {
                let now = held(&database);
                its.iter().all(|(id, job)| now.get(id).is_some_and(|now| now.fence > job.fence))
            });
            assert!(taken.await, "the others take over {its:?}, and hold {:?}", held(&database));
            let before = done_of(&database, &names);
            assert!(stands_still(sleeper.id()));
            wake();
            assert!(within(WITHIN, async || refused(&sleeper).await > 0).await, "it tries to end what it held");
            assert_eq!(done_of(&database, &names), before, "it wrote what others hold by now");
            let now = held(&database);
            assert!(its.keys().all(|id| now.contains_key(id)), "it ended what others hold by now: {its:?}, {now:?}");
            hold.let_go();
        }
    }
    // It lives, and takes its part in what comes.
    (0..20).for_each(|_| {
        emulator.random_mutation(&mut dice);
    });
    emulator.drain_webhooks().await;
    assert!(within(WITHIN, async || all_done(&sleeper, &emulator).await).await, "what came when it was awake");
    for victim in others.into_iter().chain([sleeper]) {
        victim.stop().await;
    }

    let store = open(&database).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    verdict::assert_effects_once(&store, &effects_of(&store).await).await;
    verdict::assert_records_equal_truth(&store, &emulator).await;
    let runs = verdict::runs(&store).await;
    for stream in verdict::record_streams() {
        let full = runs.iter().filter(|run| run.key.stream.as_str() == stream && run.mode == RunMode::Full);
        assert_eq!(full.count(), 1, "{stream} was listed wholly once");
    }
    store.close().await.unwrap();
    emulator.shutdown().await;
}

/// Fails when a settlement does not compare the fencing number: then effects are there twice.
#[test]
fn of_two_workers_one_stopped_in_a_handler_writes_nothing_when_it_wakes() {
    check(2, HANDLER, Side::After, 3, Others::DidIt);
}

/// Fails when a page's commit does not compare the fencing number: then its cursor goes back.
#[test]
fn of_eight_workers_one_stopped_before_a_page_commits_writes_nothing_when_it_wakes() {
    check(8, "commit_page", Side::Before, 2, Others::DidIt);
}

/// Fails when a settlement asks only whether the job is held, and not by whom: then it ends what the other is in the midst
/// of.
#[test]
fn of_two_workers_one_that_wakes_while_the_other_holds_its_events_ends_none_of_them() {
    check(2, HANDLER, Side::After, 3, Others::HoldIt);
}

/// Fails when a page's commit asks only whether the run goes on, and not who goes on with it.
#[test]
fn of_two_workers_one_that_wakes_while_the_other_holds_its_runs_commits_no_page_of_them() {
    check(2, "commit_page", Side::Before, 2, Others::HoldIt);
}

/// Fails as the two above, and when a job that several wait for is given to two of them.
#[test]
fn of_eight_workers_one_that_wakes_while_others_hold_its_work_writes_nothing() {
    check(8, HANDLER, Side::After, 3, Others::HoldIt);
}

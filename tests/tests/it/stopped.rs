//! Promise 1 with two and with eight processes on one file, of which one is stopped (SIGSTOP) in the middle of its work
//! and wakes when its leases are long over and the others have done it: whatever it writes then is refused. It is
//! stopped between two transactions: SQLite gives its lock away only when the process that holds it goes on or ends.
#![cfg(target_os = "linux")]

use std::time::Duration;

use palisade_core::store::RunMode;
use palisade_emulator::stripe::{Seed, Stripe, StripeConfig};
use palisade_tests::fuse::{Ending, HANDLER, Moment, Side, stands_still};
use palisade_tests::stage::{ENDPOINT, SECRET, effects_of, open};
use palisade_tests::verdict;
use palisade_tests::victims::{Victim, WITHIN, quiet_port, within};
use rand::SeedableRng;
use rand::rngs::StdRng;
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

#[track_caller]
fn check(workers: u16, place: &str, side: Side, nth: u64) {
    let moment = Moment { place: place.to_owned(), side, nth, ending: Ending::Stop };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(workers, &moment));
}

async fn story(workers: u16, moment: &Moment) {
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
    let start = async |number: u16, more: &[String]| {
        let (never, port) = (std::future::pending(), quiet_port(number.into()));
        let binary = env!("CARGO_BIN_EXE_victim");
        Victim::start_with(binary, folder.path(), emulator.base_url(), port, more, never).await.unwrap()
    };
    let sleeper = start(0, &[moment.argument()]).await;
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

    let mut others = Vec::new();
    for number in 1..workers {
        others.push(start(number, &[]).await);
    }
    others.iter().for_each(deliver_to);
    (0..20).for_each(|_| {
        emulator.random_mutation(&mut dice);
    });
    // What it holds is done by others, so its leases are over.
    assert!(within(WITHIN, async || all_done(&others[0], &emulator).await).await, "the others do its work");
    assert!(stands_still(sleeper.id()));
    kill_process(Pid::from_raw(sleeper.id().try_into().unwrap()).unwrap(), Signal::CONT).unwrap();
    // It lives, and takes its part in what comes.
    (0..20).for_each(|_| {
        emulator.random_mutation(&mut dice);
    });
    emulator.drain_webhooks().await;
    assert!(within(WITHIN, async || all_done(&sleeper, &emulator).await).await, "what came when it was awake");
    for victim in others.into_iter().chain([sleeper]) {
        victim.stop().await;
    }

    let store = open(&folder.path().join("palisade.db")).await;
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
    check(2, HANDLER, Side::After, 3);
}

/// Fails when a page's commit does not compare the fencing number: then its cursor goes back.
#[test]
fn of_eight_workers_one_stopped_before_a_page_commits_writes_nothing_when_it_wakes() {
    check(8, "commit_page", Side::Before, 2);
}

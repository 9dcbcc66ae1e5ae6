//! Promises 1, 4 and 5 in one process: many small stories under a paused clock, each from a seed. The provider
//! fails, throttles and cuts bodies, the network loses requests and answers, webhooks come late, twice, out of order,
//! forged or not at all, records disappear while they are listed, and workers die where they stand.

use std::collections::BTreeSet;
use std::time::Duration;

use palisade_core::clock::Clock;
use palisade_core::store::{RunMode, RunState};
use palisade_emulator::stripe::{RetryAfter, RouteFaults, Seed, WebhookFaults};
use palisade_testkit::Plan;
use palisade_tests::seeds::each_paused;
use palisade_tests::stage::{Kept, Running, SKEW, Stage};
use palisade_tests::verdict::{self, Follower};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

/// Changes at the provider in one story.
const CHANGES: usize = 40;

fn throw(stage: &Stage) {
    let faults = stage.emulator.faults();
    faults.set(RouteFaults {
        route: "*".to_owned(),
        error: 0.03,
        throttle: 0.03,
        retry_after: RetryAfter::Seconds(2),
        cut_body: 0.02,
        reset_before: 0.01,
        hang_before: 0.01,
        ..RouteFaults::default()
    });
    faults.webhooks(WebhookFaults {
        duplicate: 0.3,
        reorder: 0.3,
        drop: 0.2,
        late: Some((Duration::ZERO, Duration::from_secs(8))),
        forge: 0.1,
        ..WebhookFaults::default()
    });
    stage.network.plan(Plan { refused: 0.02, lost_request: 0.01, lost_answer: 0.02, stuck_answer: 0.01 });
}

fn calm(stage: &Stage) {
    stage.emulator.faults().clear_all();
    stage.network.plan(Plan::default());
}

/// One change, or several that share their second.
fn change(stage: &Stage, dice: &mut StdRng) {
    if dice.random_bool(0.3) {
        // No time passes between them, so freezing the second changes nothing but says what is meant.
        stage.emulator.ties(true);
        for _ in 0..dice.random_range(2..5) {
            stage.emulator.random_mutation(dice);
        }
        stage.emulator.ties(false);
    } else {
        stage.emulator.random_mutation(dice);
    }
}

async fn story(seed: u64, kept: Kept) {
    let mut dice = StdRng::seed_from_u64(seed);
    let stage = Stage::set(seed, kept, Duration::from_millis(600));
    match seed % 3 {
        1 => stage.emulator.clock_skew(SKEW, true),
        2 => stage.emulator.clock_skew(SKEW, false),
        _ => {}
    }
    let population =
        Seed { customers: 40, products: 4, prices: 6, subscriptions: 10, invoices: 14, charges: 6, ..Seed::default() };
    stage.emulator.populate(&population);
    throw(&stage);

    let mut running = Running::start(&stage.hub);
    let mut follower = Follower::default();
    // What happened before the hub knew its position in the provider's list, and was never delivered, only the
    // records can tell: a handler never hears of it.
    let mut before_position: Option<BTreeSet<String>> = None;
    for _ in 0..CHANGES {
        change(&stage, &mut dice);
        sleep(Duration::from_millis(dice.random_range(0..700))).await;
        if dice.random_bool(0.04) {
            running.kill().await;
            running = Running::start(&stage.hub);
        }
        follower.read(&*stage.kept.store(), "customers").await;
        if before_position.is_none() && verdict::walks(&verdict::runs(&*stage.kept.store()).await) > 0 {
            before_position = Some(happened(&stage));
        }
    }
    let before_position = before_position.unwrap_or_else(|| happened(&stage));

    // Nothing is healed yet: whatever was acknowledged must be there by itself.
    calm(&stage);
    stage.emulator.drain_webhooks().await;
    let ledger = stage.emulator.ledger().webhooks;
    let held = verdict::event_ids(&*stage.kept.store()).await;
    let lost: Vec<_> = ledger.acked_events.difference(&held).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(ledger.forged_accepted, 0, "forged deliveries were accepted");
    assert_eq!(ledger.abandoned, 0, "a delivery was given up: the story cannot tell what was lost");

    stage.heal().await;
    running.stop().await;
    let store = stage.kept.store();
    // A run that ended must not be run again because its job did not end with it.
    for stream in verdict::record_streams() {
        let runs = verdict::runs(&*store).await;
        let done = runs.iter().filter(|run| {
            run.key.stream.as_str() == stream && run.mode == RunMode::Full && run.state == RunState::Done
        });
        assert_eq!(done.count(), 1, "{stream} was listed wholly more than once within its week");
    }
    verdict::assert_effects_once(&*store, &stage.kept.effects().await).await;
    let held = verdict::event_ids(&*store).await;
    let missing: Vec<_> =
        happened(&stage).difference(&before_position).filter(|id| !held.contains(*id)).cloned().collect();
    assert!(missing.is_empty(), "happened after the position was known, and never found: {missing:?}");
    verdict::assert_records_equal_truth(&*store, &stage.emulator).await;
    follower.read(&*store, "customers").await;
    verdict::assert_same("customers", "the live follower", &follower.copy, &stage.emulator.truth("customers"));
    assert!(stage.clock.now() > palisade_tests::stage::START);
}

fn happened(stage: &Stage) -> BTreeSet<String> {
    stage.emulator.events().iter().filter_map(|event| Some(event["id"].as_str()?.to_owned())).collect()
}

/// Fails when a merge ignores the order of observations, a tombstone does not stop a late update, deduplication is
/// off, an event is settled without its effect, the full runs start before the position in the list of events is
/// known, a cursor is kept although its page was not committed, or a fence is not checked.
#[test]
fn in_memory_records_equal_the_provider_and_every_event_is_handled_once() {
    each_paused("convergence::in_memory_records_equal_the_provider_and_every_event_is_handled_once", 0..16, |seed| {
        story(seed, Kept::memory())
    });
}

/// The same over a file; the clock stands still while the file works. Fails as the above.
#[test]
fn on_sqlite_records_equal_the_provider_and_every_event_is_handled_once() {
    each_paused(
        "convergence::on_sqlite_records_equal_the_provider_and_every_event_is_handled_once",
        1_000..1_004,
        async |seed| story(seed, Kept::sqlite().await).await,
    );
}

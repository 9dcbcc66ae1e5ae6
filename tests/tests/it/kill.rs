//! Promises 1, 4 and 5 against SIGKILL: a hub in a process of its own is killed at seeded moments while it connects,
//! lists, receives and handles, and is started again on the same file and port. After each death its file alone is
//! examined; at the end the file is compared with the provider's ledger and truth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use palisade_core::store::{EventState, RunMode};
use palisade_emulator::stripe::{Fault, RetryAfter, RouteFaults, Seed, Stripe, StripeConfig, WebhookFaults};
use palisade_tests::seeds::{Repeat, seeds};
use palisade_tests::stage::{ENDPOINT, SECRET, open};
use palisade_tests::verdict;
use palisade_tests::victims::{Victim, WITHIN, quiet_port, remains, within};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");
/// How often the hub is killed.
const KILLS: usize = 12;
/// Customers at the provider before anything happens.
const CUSTOMERS: usize = 600;
/// The victim's records per page.
const PAGE_SIZE: usize = 20;
/// The scripted requests of each list; those beyond pass.
const SCRIPTED: usize = 40;

/// What the hub does when it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While it starts and connects.
    Connecting,
    /// While it lists customers.
    Listing,
    /// While deliveries arrive.
    Receiving,
    /// While handlers run.
    Handling,
}

struct Story {
    emulator: Stripe,
    folder: tempfile::TempDir,
    listen: SocketAddr,
    dice: StdRng,
}

impl Story {
    async fn start(&self, before: impl Future<Output = ()>) -> Option<Victim> {
        Victim::start(VICTIM, self.folder.path(), self.emulator.base_url(), self.listen, before).await
    }

    fn listed(&self) -> u64 {
        self.emulator.ledger().requests_by_route.get("GET /v1/customers").copied().unwrap_or(0)
    }

    /// Starts the hub, waits for the moment, and kills it a little later. The waits here are what the seed varies:
    /// where in its work the hub dies; nothing is awaited by them.
    async fn live_and_die(&mut self, moment: Moment) {
        let later = Duration::from_micros(self.dice.random_range(0..25_000));
        if matches!(moment, Moment::Connecting) {
            // Starting takes some tens of milliseconds in a debug build.
            let early = Duration::from_millis(self.dice.random_range(1..250));
            if let Some(victim) = self.start(sleep(early)).await {
                sleep(later).await;
                victim.kill().await;
            }
            return;
        }
        let victim = self.start(std::future::pending()).await.expect("nothing ends its start");
        let (listed, acked) = (self.listed(), self.emulator.ledger().webhooks.acked);
        let more = self.dice.random_range(1..6);
        // When the moment does not come (all is listed already), it dies all the same.
        let _came = within(Duration::from_secs(5), async || match moment {
            Moment::Connecting => true,
            Moment::Listing => self.listed() >= listed + more,
            Moment::Receiving => self.emulator.ledger().webhooks.acked >= acked + more,
            Moment::Handling => victim.metric("palisade_events{state=\"pending\"}").await.is_some_and(|n| n > 0),
        })
        .await;
        sleep(later).await;
        victim.kill().await;
    }

    /// Examines the dead hub's file before anything can heal it.
    async fn autopsy(&self, moment: Moment) {
        if !self.folder.path().join("palisade.db").exists() {
            return;
        }
        let acked = self.emulator.ledger().webhooks.acked_events;
        let (kept, _copy) = remains(self.folder.path()).await;
        let store = kept.store();
        let held = verdict::event_ids(&*store).await;
        let lost: Vec<_> = acked.difference(&held).collect();
        assert!(lost.is_empty(), "killed while {moment:?}: acknowledged and not in the file: {lost:?}");
        let effects = kept.effects().await;
        let done = verdict::all_events(&*store).await;
        let mut done: Vec<&str> =
            done.iter().filter(|event| event.state == EventState::Done).map(|event| event.event.id.as_str()).collect();
        let mut effects: Vec<&str> = effects.iter().map(String::as_str).collect();
        done.sort_unstable();
        effects.sort_unstable();
        assert_eq!(done, effects, "killed while {moment:?}: events done (left), effects in the file (right)");
    }
}

fn faults(emulator: &Stripe, dice: &mut StdRng) {
    let faults = emulator.faults();
    for stream in verdict::record_streams() {
        // Scripted rather than drawn, so that every request can be accounted for.
        let next = (0..SCRIPTED).map(|_| match dice.random_range(0..20) {
            0 => Fault::Status(500),
            1 => Fault::Throttle(RetryAfter::None),
            2 => Fault::CutBody,
            3 => Fault::ResetBefore,
            _ => Fault::Pass,
        });
        let latency = Some((Duration::from_millis(4), Duration::from_millis(20)));
        let route = format!("GET /v1/{stream}");
        faults.set(RouteFaults { route, latency, next: next.collect(), ..RouteFaults::default() });
    }
    faults.set(RouteFaults {
        route: "GET /v1/events".to_owned(),
        error: 0.05,
        cut_body: 0.05,
        ..RouteFaults::default()
    });
}

fn scripted_faults(emulator: &Stripe, route: &str) -> u64 {
    let (routes, _) = emulator.faults().current();
    let next = routes.into_iter().find(|known| known.route == route).map(|known| known.next).unwrap_or_default();
    next.iter().filter(|fault| **fault != Fault::Pass).count() as u64
}

/// Lets things happen at the provider until it is dropped.
fn mutate(emulator: Stripe, seed: u64) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut dice = StdRng::seed_from_u64(seed);
        loop {
            emulator.random_mutation(&mut dice);
            sleep(Duration::from_millis(dice.random_range(5..60))).await;
        }
    })
}

/// Once the hub knows its position in the provider's list, deliveries may vanish: the list tells of them.
async fn dropping_once_the_list_is_known(emulator: &Stripe) {
    let until = Instant::now() + WITHIN;
    while !emulator.ledger().requests_by_route.contains_key("GET /v1/customers") {
        assert!(Instant::now() < until, "the full runs never began");
        sleep(Duration::from_millis(10)).await;
    }
    emulator.faults().webhooks(WebhookFaults { drop: 0.1, ..webhook_faults() });
}

fn webhook_faults() -> WebhookFaults {
    let late = Some((Duration::ZERO, Duration::from_millis(300)));
    WebhookFaults { duplicate: 0.2, reorder: 0.3, forge: 0.05, late, ..WebhookFaults::default() }
}

async fn story(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let emulator = Stripe::start(StripeConfig {
        seed,
        webhook_retries: vec![Duration::from_millis(150); 400],
        // The pages of one listing are counted exactly; a cursor that dies with its record is another test's matter.
        cursors_survive_deletion: true,
        ..StripeConfig::default()
    })
    .await
    .unwrap();
    emulator.populate(&Seed {
        customers: CUSTOMERS,
        products: 8,
        prices: 12,
        subscriptions: 40,
        invoices: 80,
        charges: 30,
        ..Seed::default()
    });
    faults(&emulator, &mut dice);
    emulator.faults().webhooks(webhook_faults());
    let scripted: BTreeMap<_, _> = verdict::record_streams()
        .into_iter()
        .map(|stream| (stream, scripted_faults(&emulator, &format!("GET /v1/{stream}"))))
        .collect();
    let listen = quiet_port(seed);
    let _ = emulator.webhook_endpoint(&format!("http://{listen}/webhooks/{ENDPOINT}"), SECRET, None, &["*"]);
    let mut story = Story { emulator, folder: tempfile::tempdir().unwrap(), listen, dice };
    let changes = mutate(story.emulator.clone(), seed);
    let dropping = tokio::spawn({
        let emulator = story.emulator.clone();
        async move { dropping_once_the_list_is_known(&emulator).await }
    });

    let all = [Moment::Connecting, Moment::Listing, Moment::Receiving, Moment::Handling];
    let mut moments: Vec<Moment> = all.into_iter().cycle().take(KILLS).collect();
    moments.shuffle(&mut story.dice);
    for moment in moments {
        story.live_and_die(moment).await;
        story.autopsy(moment).await;
    }

    let victim = story.start(std::future::pending()).await.unwrap();
    dropping.await.unwrap();
    changes.abort();
    let _ = changes.await;
    let emulator = &story.emulator;
    quiet(emulator, &victim).await;
    victim.stop().await;
    judge(emulator, story.folder.path(), &scripted).await;
    emulator.shutdown().await;
}

/// Waits until the hub has listed everything, found every event and handled it.
async fn quiet(emulator: &Stripe, victim: &Victim) {
    emulator.faults().webhooks(WebhookFaults::default());
    emulator.faults().clear("GET /v1/events");
    let streams = verdict::record_streams();
    let listed = within(WITHIN, async || {
        let Some(runs) = victim.json("/api/v1/runs?limit=1000").await else { return false };
        let runs = runs["runs"].as_array().cloned().unwrap_or_default();
        streams.iter().all(|stream| {
            runs.iter().any(|run| run["stream"] == **stream && run["mode"] == "full" && run["state"] == "done")
        })
    })
    .await;
    assert!(listed, "not listed: {:?}", victim.get("/api/v1/runs?limit=50").await);
    emulator.drain_webhooks().await;
    let happened = emulator.ledger().events_created;
    let handled = within(WITHIN, async || {
        victim.metric("palisade_events{state=\"pending\"}").await == Some(0)
            && victim.metric("palisade_events{state=\"done\"}").await.is_some_and(|done| done >= happened)
    })
    .await;
    let counts = victim.json("/api/v1/health").await.map(|health| health["events"].clone());
    assert!(handled, "{happened} events happened; the hub has {counts:?}");
}

async fn judge(emulator: &Stripe, folder: &Path, scripted: &BTreeMap<&str, u64>) {
    let store = open(&folder.join("palisade.db")).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let ledger = emulator.ledger();
    let held = verdict::event_ids(&store).await;
    assert_eq!(held.len() as u64, ledger.events_created, "events in the file, events that happened");
    assert!(ledger.webhooks.acked_events.is_subset(&held));
    assert_eq!(ledger.webhooks.forged_accepted, 0);
    let effects = palisade_tests::stage::effects_of(&store).await;
    verdict::assert_effects_once(&store, &effects).await;
    verdict::assert_records_equal_truth(&store, emulator).await;

    let runs = verdict::runs(&store).await;
    let mut taken_up = 0;
    for (stream, scripted) in scripted {
        let route = format!("GET /v1/{stream}");
        let faults = scripted - scripted_faults(emulator, &route);
        let full = runs.iter().filter(|run| run.key.stream.as_str() == *stream && run.mode == RunMode::Full);
        let full: Vec<_> = full.collect();
        let (pages, resumed) =
            full.iter().fold((0, 0), |(pages, resumed), run| (pages + run.pages, resumed + run.resumed));
        let requests = ledger.requests_by_route.get(&route).copied().unwrap_or(0);
        let again = requests - pages - faults;
        println!("{stream}: {requests} requests for {pages} pages, {faults} faults, taken up {resumed} times");
        // Killed while a page commits: that one, and the one that was read ahead of it.
        assert!(again <= 2 * u64::from(resumed), "{stream}: {again} pages read again, taken up {resumed} times");
        assert_eq!(full.len(), 1, "{stream} was listed wholly more than once within its week: {full:?}");
        if *stream == "customers" {
            // Were a run taken up at its beginning, every page before would be committed again.
            let created = emulator.events().iter().filter(|event| event["type"] == "customer.created").count();
            let all = (CUSTOMERS + created).div_ceil(PAGE_SIZE) as u64;
            assert!(pages <= all + u64::from(resumed), "{pages} pages for {all}, taken up {resumed} times");
        }
        taken_up += resumed;
    }
    assert!(taken_up > 0, "no run was ever cut off: the kills missed the listing");
    store.close().await.unwrap();
}

/// Fails when a delivery is acknowledged before its commit, an effect commits apart from its job, a page's cursor
/// commits apart from its records, deduplication is off, or a run begins anew instead of going on.
#[test]
fn a_hub_killed_at_any_moment_loses_nothing_repeats_nothing_and_goes_on() {
    let test = "kill::a_hub_killed_at_any_moment_loses_nothing_repeats_nothing_and_goes_on";
    for seed in seeds(1..2) {
        let _repeat = Repeat::with(test, seed);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(story(seed));
    }
}

//! Promises 1, 4 and 5 against SIGKILL: a hub in a process of its own is killed again and again while it connects, lists,
//! receives and handles, at seeded moments from outside and at seeded passages of its own code from inside, and is
//! started again on the same file and port. After each death its file alone is examined; beside it a reader of its
//! change feed is killed too. At the end file, feed and effects are compared with the provider's ledger and truth.
//!
//! CI kills a dozen times; `PALISADE_SEEDS=42 cargo test -p palisade-tests --test it -- kill:: --nocapture` 504 times.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use palisade_core::store::{EventState, Run, RunMode, RunState, Store};
use palisade_emulator::stripe::{Fault, RetryAfter, RouteFaults, Seed, Stripe, StripeConfig, WebhookFaults};
use palisade_tests::consumer::{self, Readers};
use palisade_tests::fuse::{Ending, HANDLER, Moment, REQUEST, Side};
use palisade_tests::seeds::{Repeat, seeds_up_to};
use palisade_tests::stage::{ENDPOINT, SECRET, open};
use palisade_tests::verdict;
use palisade_tests::victims::{NO_READ_AHEAD, Victim, WITHIN, quiet_port, remains, within};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");
const CONSUMER: &str = env!("CARGO_BIN_EXE_consumer");
/// How often the hub is killed from outside, and how often by itself.
const KILLS: (usize, usize) = (4, 8);
/// Customers at the provider before anything happens.
const CUSTOMERS: usize = 600;
/// The victim's records per page.
const PAGE_SIZE: usize = 20;
/// The scripted requests of each list; those beyond pass.
const SCRIPTED: usize = 40;
/// How long a moment of the hub's own work may take to come: longer than a lease of its predecessor.
const COMES_WITHIN: Duration = Duration::from_secs(6);

/// The calls of the store at which the hub kills itself, with how many passages it lives at most. Those of whatever
/// it does for a delivery, an event and a page: between the check of a signature and the commit, between the commit
/// and the reply, in the middle of each.
const CALLS: &[(&str, u64)] = &[
    ("append", 30),
    ("append", 30),
    ("claim", 30),
    ("settle", 20),
    ("settle", 20),
    ("commit_page", 12),
    ("commit_page", 12),
    ("start_run", 4),
    ("end_run", 4),
    ("feed", 30),
];

/// When the hub dies.
#[derive(Clone, Debug)]
enum Death {
    /// Killed from outside while it starts and connects.
    Connecting,
    /// Killed from outside while it lists customers.
    Listing,
    /// Killed from outside while deliveries arrive.
    Receiving,
    /// Killed from outside while handlers run.
    Handling,
    /// By itself, at a passage of its own code.
    Itself(Moment),
}

impl Death {
    /// Draws a moment of the hub's own work.
    fn drawn(dice: &mut StdRng) -> Self {
        let (place, nth_max) = match dice.random_range(0..CALLS.len() + 3) {
            0 => (HANDLER, 20),
            1 | 2 => (REQUEST, 25),
            call => CALLS[call - 3],
        };
        let side = match dice.random_range(0..3) {
            0 => Side::Before,
            1 => Side::During(dice.random_range(0..3_000)),
            _ => Side::After,
        };
        let nth = dice.random_range(1..=nth_max);
        Self::Itself(Moment { place: place.to_owned(), side, nth, ending: Ending::Kill })
    }

    /// Names it without what was drawn.
    fn name(&self) -> String {
        match self {
            Self::Connecting | Self::Listing | Self::Receiving | Self::Handling => format!("{self:?}").to_lowercase(),
            Self::Itself(moment) => match moment.side {
                Side::Before => format!("before {}", moment.place),
                Side::During(_) => format!("in {}", moment.place),
                Side::After => format!("after {}", moment.place),
            },
        }
    }
}

/// What was counted over all seeds.
#[derive(Debug, Default)]
struct Tally {
    deaths: BTreeMap<String, u64>,
    /// Moments that did not come, so that the hub was killed from outside.
    outside: u64,
    events: u64,
    acknowledged: u64,
    effects: u64,
    /// By how many pages of one stream were read and not committed at a death: how often. First of lives that read none
    /// ahead, then of those that did.
    read_again: [BTreeMap<u64, u64>; 2],
    /// Deaths in the midst of a listing, of lives that read no page ahead and of those that did.
    cut_off: [u64; 2],
    feed: consumer::Counts,
    readers_killed: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} deaths ({} by moments that did not come):", self.deaths.values().sum::<u64>(), self.outside)?;
        for (name, times) in &self.deaths {
            writeln!(f, "  {times:>4} {name}")?;
        }
        let Self { events, acknowledged, effects, readers_killed, feed, .. } = self;
        writeln!(f, "{events} events, {acknowledged} acknowledged, none missing; {effects} effects, none twice")?;
        for (read_ahead, pages) in self.read_again.iter().enumerate() {
            let cut_off = self.cut_off[read_ahead];
            writeln!(f, "read ahead {read_ahead}: {cut_off} listings cut off, by pages asked for again: {pages:?}")?;
        }
        let consumer::Counts { pages, changes, again } = feed;
        write!(
            f,
            "readers killed {readers_killed} times: {changes} changes in {pages} pages, {again} pages again from the \
             cursor kept, nothing left out, nothing twice"
        )
    }
}

struct Story {
    emulator: Stripe,
    folder: tempfile::TempDir,
    listen: SocketAddr,
    dice: StdRng,
    /// Whether this life reads a page ahead: every second one does.
    read_ahead: bool,
    /// Of each list the scripted faults, before any was met.
    scripted: BTreeMap<&'static str, u64>,
    /// How each list stood at the last death.
    lists: BTreeMap<&'static str, Listed>,
}

/// How a list stands at a death.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    /// Pages that were given and not committed, so far.
    lost: u64,
    /// How many runs there were, and how often they were taken up.
    runs: usize,
    resumed: u32,
    /// The most pages that may be lost, each time the run was taken up for those of the life it was cut off in.
    lost_most: u64,
    /// The most that one life can have lost since it was last taken up.
    open: u64,
}

impl Listed {
    /// Takes in how it stands at the end of a life that may lose so many pages whenever it is cut off.
    fn after(self, lost: u64, (resumed, runs): (u32, usize), one: u64) -> Self {
        let taken_up = u64::from(resumed - self.resumed);
        // First what an earlier life lost; then what this one did, which lost its lease because the machine stood still.
        let more = if taken_up > 0 { self.open + (taken_up - 1) * one } else { 0 };
        let open = if taken_up > 0 { one } else { self.open.max(one) };
        Self { lost, runs, resumed, lost_most: self.lost_most + more, open }
    }
}

impl Story {
    async fn start(&self, fuse: Option<&Moment>, before: impl Future<Output = ()>) -> Option<Victim> {
        let mut more: Vec<String> = fuse.map(Moment::argument).into_iter().collect();
        if !self.read_ahead {
            more.push(NO_READ_AHEAD.to_owned());
        }
        let base_url = self.emulator.base_url();
        Victim::start_with(VICTIM, self.folder.path(), base_url, self.listen, &more, before).await
    }

    /// How many pages of a list one cut may lose: the one that is being committed, and the one that was read ahead of it.
    fn lost_at_once(&self) -> u64 {
        1 + u64::from(self.read_ahead)
    }

    fn listed(&self) -> u64 {
        self.emulator.ledger().requests_by_route.get("GET /v1/customers").copied().unwrap_or(0)
    }

    /// Starts the hub, waits for the moment, and kills it a little later, or lets it kill itself. The waits here are what
    /// the seed varies: where in its work the hub dies; nothing is awaited by them. Tells whether the moment came.
    async fn live_and_die(&mut self, death: &Death) -> bool {
        let later = Duration::from_micros(self.dice.random_range(0..25_000));
        if let Death::Itself(moment) = death {
            let Some(mut victim) = self.start(Some(moment), std::future::pending()).await else { return true };
            let came = victim.dies_within(COMES_WITHIN).await;
            if !came {
                victim.kill().await;
            }
            return came;
        }
        if matches!(death, Death::Connecting) {
            // Starting takes some tens of milliseconds in a debug build.
            let early = Duration::from_millis(self.dice.random_range(1..250));
            if let Some(victim) = self.start(None, sleep(early)).await {
                sleep(later).await;
                victim.kill().await;
            }
            return true;
        }
        let victim = self.start(None, std::future::pending()).await.expect("nothing ends its start");
        let (listed, acked) = (self.listed(), self.emulator.ledger().webhooks.acked);
        let more = self.dice.random_range(1..6);
        // A listing that was cut off waits for its lease first. When a moment does not come, it dies all the same.
        let bound = if matches!(death, Death::Listing) { WITHIN } else { Duration::from_secs(5) };
        let came = within(bound, async || match death {
            Death::Connecting | Death::Itself(_) => true,
            Death::Listing => self.listed() >= listed + more,
            Death::Receiving => self.emulator.ledger().webhooks.acked >= acked + more,
            Death::Handling => victim.metric("palisade_events{state=\"pending\"}").await.is_some_and(|n| n > 0),
        })
        .await;
        sleep(later).await;
        victim.kill().await;
        came
    }

    /// Examines the dead hub's file before anything can heal it.
    async fn autopsy(&mut self, death: &Death, tally: &mut Tally) {
        if !self.folder.path().join("palisade.db").exists() {
            return;
        }
        let acked = self.emulator.ledger().webhooks.acked_events;
        let (kept, _copy) = remains(self.folder.path()).await;
        let store = kept.store();
        let held = verdict::event_ids(&*store).await;
        let lost: Vec<_> = acked.difference(&held).collect();
        assert!(lost.is_empty(), "died {death:?}: acknowledged and not in the file: {lost:?}");
        let effects = kept.effects().await;
        let done = verdict::all_events(&*store).await;
        let mut done: Vec<&str> =
            done.iter().filter(|event| event.state == EventState::Done).map(|event| event.event.id.as_str()).collect();
        let mut effects: Vec<&str> = effects.iter().map(String::as_str).collect();
        done.sort_unstable();
        effects.sort_unstable();
        assert_eq!(done, effects, "died {death:?}: events done (left), effects in the file (right)");
        self.count_lost_pages(&*store, death, tally).await;
    }

    /// Counts, of each list, the pages that the provider gave and the file does not have.
    async fn count_lost_pages(&mut self, store: &dyn Store, death: &Death, tally: &mut Tally) {
        let runs = verdict::runs(store).await;
        let (one, kind) = (self.lost_at_once(), usize::from(self.read_ahead));
        for (stream, scripted) in &self.scripted {
            let (pages, resumed, count) = full_runs(&runs, stream);
            let lost = answered(&self.emulator, stream, *scripted) - pages;
            let before = self.lists.get(stream).copied().unwrap_or_default();
            self.lists.insert(*stream, before.after(lost, (resumed, count), one));
            let again = lost - before.lost;
            // Taken up more than once in one life: its lease was lost because the machine stood still.
            let lives = u64::from((resumed - before.resumed).max(1));
            assert!(again <= lives * one, "died {death:?}: {again} pages of {stream} are read again, {lives} lives");
            if again > 0 {
                *tally.read_again[kind].entry(again).or_default() += 1;
            }
            let full = |run: &&Run| run.key.stream.as_str() == *stream && run.mode == RunMode::Full;
            let at_work = count > before.runs || resumed > before.resumed;
            let cut_off = at_work && runs.iter().filter(full).any(|run| run.state == RunState::Running);
            tally.cut_off[kind] += u64::from(cut_off);
        }
    }
}

/// Returns how many of a list's requests were answered with a page.
fn answered(emulator: &Stripe, stream: &str, scripted: u64) -> u64 {
    let route = format!("GET /v1/{stream}");
    let faults = scripted - scripted_faults(emulator, &route);
    emulator.ledger().requests_by_route.get(&route).copied().unwrap_or(0) - faults
}

/// Sums up a stream's full runs: pages committed, how often taken up again, how many.
fn full_runs(runs: &[Run], stream: &str) -> (u64, u32, usize) {
    let full = runs.iter().filter(|run| run.key.stream.as_str() == stream && run.mode == RunMode::Full);
    full.fold((0, 0, 0), |(pages, resumed, count), run| (pages + run.pages, resumed + run.resumed, count + 1))
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
        let latency = Some((Duration::from_millis(20), Duration::from_millis(60)));
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

async fn story(seed: u64, tally: &mut Tally) {
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
    let mut story = Story {
        emulator,
        folder: tempfile::tempdir().unwrap(),
        listen,
        dice,
        read_ahead: false,
        scripted,
        lists: BTreeMap::new(),
    };
    let reading = tempfile::tempdir().unwrap();
    let readers = Readers::start(CONSUMER, reading.path(), listen, seed);
    let changes = mutate(story.emulator.clone(), seed);
    let dropping = tokio::spawn({
        let emulator = story.emulator.clone();
        async move { dropping_once_the_list_is_known(&emulator).await }
    });

    let mut deaths = vec![Death::Connecting, if seed % 2 == 1 { Death::Receiving } else { Death::Handling }];
    deaths.extend((0..KILLS.1).map(|_| Death::drawn(&mut story.dice)));
    deaths.shuffle(&mut story.dice);
    // Of the first lives one that reads ahead and one that does not are cut off in their listing, which takes a second.
    deaths.splice(0..0, [Death::Listing, Death::Listing]);
    assert_eq!(deaths.len(), KILLS.0 + KILLS.1);
    if story.dice.random_bool(0.5) {
        let connecting = deaths.iter().position(|death| matches!(death, Death::Connecting)).unwrap();
        deaths.swap(0, connecting);
        deaths.swap(2, connecting);
    }
    for (life, death) in deaths.into_iter().enumerate() {
        story.read_ahead = (life as u64 + seed).is_multiple_of(2);
        let came = story.live_and_die(&death).await;
        tally.outside += u64::from(!came);
        *tally.deaths.entry(death.name()).or_default() += 1;
        story.autopsy(&death, tally).await;
    }

    let victim = story.start(None, std::future::pending()).await.unwrap();
    dropping.await.unwrap();
    changes.abort();
    let _ = changes.await;
    let emulator = &story.emulator;
    quiet(emulator, &victim).await;
    tally.readers_killed += readers.stop().await;
    let read = consumer::read_to_the_end(CONSUMER, reading.path(), listen, emulator).await;
    tally.feed.pages += read.pages;
    tally.feed.changes += read.changes;
    tally.feed.again += read.again;
    victim.stop().await;
    judge(&story, tally).await;
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

async fn judge(story: &Story, tally: &mut Tally) {
    let emulator = &story.emulator;
    let store = open(&story.folder.path().join("palisade.db")).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let ledger = emulator.ledger();
    let held = verdict::event_ids(&store).await;
    assert_eq!(held.len() as u64, ledger.events_created, "events in the file, events that happened");
    assert!(ledger.webhooks.acked_events.is_subset(&held));
    assert_eq!(ledger.webhooks.forged_accepted, 0);
    let effects = palisade_tests::stage::effects_of(&store).await;
    verdict::assert_effects_once(&store, &effects).await;
    verdict::assert_records_equal_truth(&store, emulator).await;
    tally.events += ledger.events_created;
    tally.acknowledged += ledger.webhooks.acked_events.len() as u64;
    tally.effects += effects.len() as u64;

    let runs = verdict::runs(&store).await;
    let mut taken_up = 0;
    for (stream, scripted) in &story.scripted {
        let (pages, resumed, count) = full_runs(&runs, stream);
        let again = answered(emulator, stream, *scripted) - pages;
        let at_most = story.lists[stream].after(again, (resumed, count), story.lost_at_once()).lost_most;
        assert!(
            again <= at_most,
            "{stream}: {again} pages read again where {at_most} may be, taken up {resumed} times"
        );
        assert_eq!(count, 1, "{stream} was listed wholly more than once within its week");
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
/// commits apart from its records, deduplication is off, a run begins anew instead of going on, or the feed shows a
/// change behind its cursor or skips one.
#[test]
fn a_hub_killed_at_any_moment_loses_nothing_repeats_nothing_and_goes_on() {
    let test = "kill::a_hub_killed_at_any_moment_loses_nothing_repeats_nothing_and_goes_on";
    let mut tally = Tally::default();
    for seed in seeds_up_to(1) {
        let _repeat = Repeat::with(test, seed);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(story(seed, &mut tally));
        println!("after seed {seed}: {tally}");
    }
    let [without, with] = tally.cut_off;
    assert!(
        without > 0 && with > 0,
        "no listing was cut off in lives that read ahead, or in those that do not: {tally}"
    );
}

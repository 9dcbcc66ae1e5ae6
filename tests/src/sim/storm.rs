//! A storm: many connections due at once, one tenant with a hundred times the work of any other, a provider down for an
//! hour, deliveries doubled and overtaken, a clock five minutes off one way and the other, a disk that is full twice.
//! When it is over everything must be as it should within a stated time, without anybody's help.
//!
//! What must hold in it: nothing acknowledged is lost, each event has its effect once, nothing dies, the tenants with
//! little to do wait for nobody's flood, and in the end every connection's records are the provider's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    ConnectionState, Connections as _, Inbox as _, Jobs as _, LayeredStore, Queue, Records as _, Run, RunState,
    StreamKey,
};
use palisade_core::worker::{Handled, Handler, WorkerSettings, handler};
use palisade_core::{Clock, ConnectionId, Random, Result, Secret, StreamName, TenantId, Timestamp, Transport};
use palisade_emulator::stripe::{Stripe, StripeConfig, signature};
use palisade_emulator::twilio::{Twilio, TwilioConfig};
use palisade_hub::{ConnectionConfig, EndpointConfig, Hub, Settings};
use palisade_stripe::StripeProvider;
use palisade_testkit::{EmulatorTransport, FaultyTransport, Plan};
use palisade_twilio::TwilioProvider;
use palisade_twilio::sid::AccountSid;
use palisade_twilio::sync::MESSAGES;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;

use super::actor::Records;
use super::nature::{Disk, Jumpy};
use crate::stage::{EFFECT, MASTER_KEY, Running, START, patient};
use crate::verdict::{self, Follower, assert_same};

/// Tenants that get events: small ones and the big one.
const SMALL_SHOPS: usize = 8;
/// Events of each small shop; the big one gets a hundred times as many.
const EVENTS_EACH: usize = 10;
/// The share of deliveries that come twice, and of those that others overtake.
const DOUBLED: f64 = 0.2;
const OVERTAKEN: f64 = 0.2;
/// How long a handler takes: the flood lasts for a minute and more.
const HANDLING: Duration = Duration::from_secs(3);
/// The longest an event of a small shop may wait from its acknowledgement to its effect while the flood is handled: the
/// handlers that are at work when it comes, its own, and what a turn among all costs.
const TURN_MAX: Duration = Duration::from_secs(30);
/// The most of the big tenant's connections that may have been read when the last small tenant's was.
const AHEAD_MAX: usize = 40;
/// The account all shops are: they share its limits.
const SHOPS: &str = "acct_storm";
/// What Stripe allows in a sandbox in a second (rate limits, 2026), and what the way there presses into one.
const SHOPS_PER_SECOND: u64 = 30;
/// Secrets of the endpoints.
const SECRET: &str = "whsec_of_the_storm";
/// How soon everything must be as it should once the storm is over: an hour, the longest an interval grows to where
/// nothing tells of changes, and the schedule's fifteen minutes.
const BY_ITSELF: Duration = Duration::from_secs(75 * 60);
/// How long the provider of the connections is down.
const DOWN: Duration = Duration::from_secs(3_600);
/// How often the workers look for work that nobody announces: seldom, because the clock runs through hours.
const POLL: Duration = Duration::from_secs(5);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_secs(60);
/// How long each way on the wire takes at most.
const ONE_WAY_MAX: Duration = Duration::from_millis(200);

/// A storm's size and seed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Storm {
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Tenants with one connection each. One more has a hundred.
    pub tenants: usize,
}

/// What a storm did. What it found wrong it panics with.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Weathered {
    /// Connections that were due at once.
    pub connections: usize,
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Deliveries that came again.
    pub doubled: usize,
    /// The longest wait of a small tenant's event, in seconds.
    pub small_waited: f64,
    /// The longest wait of the big tenant's event, in seconds.
    pub big_waited: f64,
    /// Runs that ended well.
    pub runs: usize,
    /// Seconds until everything was as it should be, once it was over.
    pub rested: u64,
}

impl fmt::Display for Weathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, acknowledged, doubled, small_waited, big_waited, runs, rested } = self;
        write!(
            f,
            "{connections} connections due at once, {acknowledged} events acknowledged, {doubled} came again; the longest \
             wait of a small tenant's {small_waited:.1} s, of the big one's {big_waited:.1} s; {runs} runs; at rest after \
             {rested} s"
        )
    }
}

impl Storm {
    /// Lets it pass, in a runtime of its own whose clock stands still while anybody has something to do.
    ///
    /// # Panics
    /// When a promise is broken; the one command that repeats it is printed.
    #[must_use]
    pub fn pass(self) -> Weathered {
        let _repeat = Repeat(self);
        super::runtime().block_on(Sky::over(self).pass())
    }
}

/// Says how to repeat a storm if it panics while this lives.
struct Repeat(Storm);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Storm { seed, tenants } = self.0;
            eprintln!("\nrepeat with: cargo xtask sim --storm {tenants} --seed {seed}");
        }
    }
}

/// The ways to both providers.
struct Roads {
    twilio: FaultyTransport,
    stripe: FaultyTransport,
}

#[async_trait]
impl Transport for Roads {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default();
        if host.ends_with("twilio.com") { self.twilio.send(request).await } else { self.stripe.send(request).await }
    }
}

/// When things happened to events, by their ids.
type Times = Arc<Mutex<BTreeMap<String, Instant>>>;

fn note(times: &Times, id: &str) {
    times.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_insert_with(Instant::now);
}

/// The world of a storm.
struct Sky {
    storm: Storm,
    twilio: Twilio,
    stripe: Stripe,
    roads: Arc<Roads>,
    store: Arc<LayeredStore<MemoryStore, Disk>>,
    disk: Disk,
    clock: TokioClock,
    off_ms: Arc<AtomicI64>,
    random: Arc<SeededRandom>,
    acked: Times,
    handled: Times,
}

fn small(number: usize) -> String {
    format!("small-{number}")
}

fn is_big(name: &str) -> bool {
    name.starts_with("big-")
}

fn slow(handled: Times) -> impl Handler {
    handler(move |event, context| {
        let handled = Arc::clone(&handled);
        Box::pin(async move {
            sleep(HANDLING).await;
            let id = event.event.id.as_str();
            context.effect(EFFECT, vec![id.into()]);
            note(&handled, id);
            Handled::Done
        })
    })
}

impl Sky {
    fn over(storm: Storm) -> Self {
        let clock = TokioClock::starting_at(START);
        let time: palisade_emulator::Clock = Arc::new(move || clock.now().to_system_time());
        let random = |salt: u64| Arc::new(SeededRandom::new(storm.seed.wrapping_mul(31).wrapping_add(salt)));
        let seed = storm.seed;
        let twilio = Twilio::offline(TwilioConfig { seed, clock: Arc::clone(&time), ..TwilioConfig::default() });
        twilio.populate(5);
        let stripe = Stripe::offline(StripeConfig { seed, clock: time, ..StripeConfig::default() });
        let wire = |transport: EmulatorTransport, salt: u64| {
            let wire = transport.wire(random(salt), ONE_WAY_MAX);
            FaultyTransport::new(Arc::new(wire), random(salt + 1), Plan::default())
        };
        let roads = Arc::new(Roads {
            twilio: wire(EmulatorTransport::new(twilio.clone()), 10),
            stripe: wire(EmulatorTransport::new(stripe.clone()), 20),
        });
        let disk = Disk { random: random(7), full: Arc::default() };
        let store = Arc::new(LayeredStore { inner: MemoryStore::new(), layer: disk.clone() });
        let (off_ms, random) = (Arc::default(), random(9));
        let (acked, handled) = (Times::default(), Times::default());
        Self { storm, twilio, stripe, roads, store, disk, clock, off_ms, random, acked, handled }
    }

    /// The connections that are due at once: one of each small tenant, a hundred of the big one.
    fn phones(&self) -> Vec<String> {
        let names = (0..self.storm.tenants).map(small);
        names.chain((0..100).map(|number| format!("big-{number}"))).collect()
    }

    /// The shops that get events.
    fn shops() -> Vec<String> {
        let names = (0..SMALL_SHOPS).map(|number| format!("small-shop-{number}"));
        names.chain(["big-shop".to_owned()]).collect()
    }

    fn hub(&self) -> Hub {
        let random = |salt: u64| Arc::new(SeededRandom::new(self.storm.seed ^ salt));
        let sid = AccountSid::parse(self.twilio.account_sid()).expect("the emulated account");
        let token = Secret::from(self.twilio.auth_token());
        let phone = palisade_twilio::auth::auth_token(&sid, token).expect("a credential");
        let shop = Scheme::Bearer(Secret::new(self.stripe.api_key()));
        let connection = |name: &str, provider: &str, account: Option<&str>, credential: &Scheme| ConnectionConfig {
            id: ConnectionId::new(name),
            tenant: TenantId::new(if is_big(name) { "big" } else { name }),
            provider: provider.to_owned(),
            environment: Default::default(),
            account: account.map(str::to_owned),
            base_url: None,
            credential: credential.clone().into(),
        };
        let master = LocalMasterKey::parse(MASTER_KEY.as_bytes(), random(1)).expect("a key");
        let settings = patient(100);
        let worker = WorkerSettings { poll: POLL, ..settings.worker.clone() };
        let mut hub = Hub::builder()
            .provider(TwilioProvider::new())
            .provider(StripeProvider::new())
            .store(Arc::clone(&self.store) as _)
            .transport(Arc::clone(&self.roads) as _)
            .master_key(Arc::new(master))
            .clock(Arc::new(Jumpy { true_time: self.clock, off_ms: Arc::clone(&self.off_ms) }))
            .random(random(2))
            .settings(Settings { worker, ..settings })
            .on("*", slow(Arc::clone(&self.handled)));
        for name in self.phones() {
            hub = hub.connection(connection(&name, "twilio", Some(self.twilio.account_sid()), &phone));
        }
        for name in Self::shops() {
            hub = hub.connection(connection(&name, "stripe", Some(SHOPS), &shop)).endpoint(EndpointConfig {
                name: name.clone(),
                provider: "stripe".to_owned(),
                connection: ConnectionId::new(&*name),
                secrets: vec![Secret::new(SECRET)],
            });
        }
        hub.build().expect("the hub")
    }

    fn store(&self) -> &MemoryStore {
        &self.store.inner
    }

    async fn pass(self) -> Weathered {
        let hub = self.hub();
        let mut report = Weathered { connections: self.phones().len() + Self::shops().len(), ..Weathered::default() };
        let running = Running::start(&hub);
        self.all_read_once().await;
        let began = Instant::now();
        let mut deliveries = JoinSet::new();
        self.flood(&hub.router(), &mut deliveries);
        self.rage(began).await;
        while let Some(ended) = deliveries.join_next().await {
            report.doubled += ended.expect("a delivery does not panic");
        }
        self.check_turns(&mut report);
        let over = Instant::now();
        report.rested = self.rest(over).await;
        running.stop().await;
        self.close(&mut report).await;
        report
    }

    /// Waits until every connection was read once, and judges in which order they were.
    async fn all_read_once(&self) {
        let runs = loop {
            let runs = self.done_runs(Timestamp(0)).await;
            let read: BTreeSet<&str> = runs.iter().map(|run| run.key.connection.as_str()).collect();
            if self.phones().iter().all(|name| read.contains(name.as_str())) {
                break runs;
            }
            assert!(self.clock.now().since(START) < DOWN, "{} of the connections were read in an hour", read.len());
            sleep(Duration::from_secs(1)).await;
        };
        let ended = |wanted: fn(&str) -> bool| -> Vec<Timestamp> {
            let of_it = runs.iter().filter(|run| run.key.stream.as_str() == MESSAGES);
            of_it.filter(|run| wanted(run.key.connection.as_str())).filter_map(|run| run.finished_at).collect()
        };
        let last = ended(|name| !is_big(name)).into_iter().max().expect("runs of small tenants");
        let ahead = ended(is_big).into_iter().filter(|at| *at < last).count();
        assert!(ahead <= AHEAD_MAX, "{ahead} of the big tenant's connections were read before the last small tenant's");
    }

    /// The runs that ended well after a moment. One that an outage stopped goes on as the same run.
    async fn done_runs(&self, after: Timestamp) -> Vec<Run> {
        let runs = self.store().runs(None, u32::MAX).await.expect("runs");
        runs.into_iter()
            .filter(|run| run.state == RunState::Done && run.finished_at.is_some_and(|at| at > after))
            .collect()
    }

    /// Sends what happens to the shops: the big one's at once, half of the small ones' meanwhile, the others' in the
    /// hour after it.
    fn flood(&self, router: &Router, deliveries: &mut JoinSet<usize>) {
        for name in Self::shops() {
            let many = if is_big(&name) { EVENTS_EACH * 100 } else { EVENTS_EACH };
            for number in 0..many {
                let later = !is_big(&name) && number >= EVENTS_EACH / 2;
                let apart = match (is_big(&name), later) {
                    (true, _) => Duration::from_millis(5),
                    (false, false) => Duration::from_secs(10),
                    (false, true) => Duration::from_secs(6 * 60),
                };
                let at = Instant::now() + apart.mul_f64(number as f64 + self.random.unit());
                let late = if self.random.unit() < OVERTAKEN { 10.0 * self.random.unit() } else { 0.0 };
                let at = at + Duration::from_secs_f64(late);
                let again =
                    (self.random.unit() < DOUBLED).then(|| at + Duration::from_secs(20).mul_f64(self.random.unit()));
                let when = if later { "later" } else { "flood" };
                let mail =
                    Mail { id: format!("evt_{when}_{name}_{number}"), endpoint: name.clone(), clock: self.clock };
                let (router, acked) = (router.clone(), Arc::clone(&self.acked));
                deliveries.spawn(async move {
                    sleep_until(at).await;
                    mail.deliver(&router, &acked).await;
                    let Some(again) = again else { return 0 };
                    sleep_until(again).await;
                    mail.deliver(&router, &acked).await;
                    1
                });
            }
        }
    }

    /// What goes wrong, by the minute, until all of it is over.
    async fn rage(&self, began: Instant) {
        const MINUTE: Duration = Duration::from_secs(60);
        let off = |minutes: i64| self.off_ms.store(minutes * 60_000, Ordering::SeqCst);
        let full = |full: bool| self.disk.full.store(full, Ordering::SeqCst);
        let down_from = 3;
        let down_until = down_from + u32::try_from(DOWN.as_secs() / 60).expect("minutes");
        let shaky = Plan { refused: 0.02, lost_request: 0.01, lost_answer: 0.02, stuck_answer: 0.005 };
        for minute in 0..=down_until + 5 {
            match minute {
                3 => self.twilio.faults().outage(true),
                5 => full(true),
                7 => full(false),
                10 => off(5),
                18 => off(-5),
                26 => off(0),
                30 => {
                    self.roads.stripe.plan(shaky);
                    self.roads.twilio.plan(shaky);
                }
                40 => full(true),
                43 => full(false),
                _ if minute == down_until => self.twilio.faults().outage(false),
                _ if minute == down_until + 5 => {
                    self.roads.stripe.plan(Plan::default());
                    self.roads.twilio.plan(Plan::default());
                }
                _ => {}
            }
            if minute % 4 == 0 && minute <= down_until + 1 {
                let _ = self.twilio.receive(&format!("+1555200{minute:04}"), "+15005550006", "Hello", &[]);
            }
            sleep_until(began + MINUTE * (minute + 1)).await;
        }
    }

    /// Judges who waited for whom while the flood was handled.
    fn check_turns(&self, report: &mut Weathered) {
        let acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        let handled = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        report.acknowledged = acked.len();
        for (id, at) in acked.iter().filter(|(id, _)| id.starts_with("evt_flood")) {
            let done = handled.get(id).unwrap_or_else(|| panic!("{id} was not handled in an hour"));
            let waited = done.saturating_duration_since(*at).as_secs_f64();
            let longest = if id.contains("_big-") { &mut report.big_waited } else { &mut report.small_waited };
            *longest = longest.max(waited);
        }
        let (small, big) = (report.small_waited, report.big_waited);
        assert!(small <= TURN_MAX.as_secs_f64(), "an event of a small tenant waited {small:.1} s");
        assert!(big > small, "there was no flood: the big tenant's waited {big:.1} s, the small ones' {small:.1} s");
    }

    /// Waits until everything is as it should be, and returns after how many seconds it was.
    async fn rest(&self, over: Instant) -> u64 {
        let since = self.clock.now();
        loop {
            let wrong = self.wrong(since).await;
            let Some(wrong) = wrong else { return over.elapsed().as_secs() };
            assert!(over.elapsed() < BY_ITSELF, "not as it should be by itself after {BY_ITSELF:?}: {wrong}");
            sleep(LOOK).await;
        }
    }

    /// Says what is not as it should be yet.
    async fn wrong(&self, since: Timestamp) -> Option<String> {
        let store = self.store();
        let pending = store.event_counts().await.expect("counts");
        let pending = pending.get(&palisade_core::store::EventState::Pending).copied().unwrap_or(0);
        if pending > 0 {
            return Some(format!("{pending} events wait"));
        }
        for queue in Queue::ALL {
            let minute_ago = self.clock.now().minus(Duration::from_secs(60));
            if let Some(due) =
                store.oldest_due(queue, self.clock.now()).await.expect("a queue").filter(|at| *at < minute_ago)
            {
                return Some(format!("work of {queue:?} waits since {}", due.rfc3339()));
            }
        }
        let runs = self.done_runs(since).await;
        let read: BTreeSet<&str> = runs.iter().map(|run| run.key.connection.as_str()).collect();
        let unread: Vec<String> = self.phones().into_iter().filter(|name| !read.contains(name.as_str())).collect();
        let first = unread.first()?;
        let runs = store.runs(Some(ConnectionId::new(first.as_str())), 5).await.expect("runs");
        Some(format!("{} connections were not read since, {first} among them: {runs:#?}", unread.len()))
    }

    async fn close(&self, report: &mut Weathered) {
        let store = self.store();
        let acked: BTreeSet<String> =
            self.acked.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        assert_eq!(acked.len(), EVENTS_EACH * (SMALL_SHOPS + 100), "events acknowledged");
        let held = verdict::event_ids(store).await;
        assert_eq!(held, acked, "events in the inbox (left), events acknowledged (right)");
        let effects =
            store.effects().into_iter().map(|effect| crate::stage::event_of(effect.values)).collect::<Vec<_>>();
        verdict::assert_effects_once(store, &effects).await;
        let jobs = store.job_counts().await.expect("counts");
        assert_eq!(jobs.dead, 0, "dead jobs");
        let truth: Records = self.twilio.truth();
        for name in self.phones() {
            let id = ConnectionId::new(&*name);
            let row = store.connection(id.clone()).await.expect("a connection").expect("a connection");
            assert_eq!(row.state, ConnectionState::Active, "{name}");
            let key = StreamKey { connection: id, stream: StreamName::new(MESSAGES) };
            let mut follower = Follower::default();
            follower.read_key(store, key).await;
            assert_same(&name, "its records", &follower.copy, &truth);
        }
        let peak = self.stripe.ledger().peak_per_second;
        assert!(peak <= SHOPS_PER_SECOND, "{peak} requests of one account came within a second");
        report.runs = self.done_runs(Timestamp(0)).await.len();
    }
}

/// An event on its way to a shop's endpoint.
struct Mail {
    id: String,
    endpoint: String,
    clock: TokioClock,
}

impl Mail {
    /// Delivers until it is acknowledged, as a provider does.
    async fn deliver(&self, router: &Router, acked: &Times) {
        let Self { id, endpoint, clock } = self;
        let created = clock.now().seconds();
        let object = json!({ "id": format!("obj_{id}"), "object": "storm" });
        let body = json!({ "id": id, "object": "event", "type": "storm.happened", "api_version": "2026-06-24",
                           "created": created, "livemode": false, "data": { "object": object } });
        let body = Bytes::from(body.to_string());
        loop {
            let at = clock.now().seconds();
            let request = Request::post(format!("https://hub.test/webhooks/{endpoint}"))
                .header("stripe-signature", format!("t={at},v1={}", signature(SECRET, at, &body)))
                .body(Body::from(body.clone()))
                .expect("a request");
            let answer = router.clone().oneshot(request).await.expect("the router never fails");
            if answer.status().is_success() {
                return note(acked, id);
            }
            sleep(Duration::from_secs(10)).await;
        }
    }
}

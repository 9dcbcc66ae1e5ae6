//! The world of a simulation: providers, the network between, one store, and the processes over it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::Response;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    EventState, Inbox, LayeredStore, Records, Run, RunMode, RunState, StreamKey, Value as Cell,
};
use palisade_core::worker::{Handled, Handler, WorkerSettings, handler};
use palisade_core::{Clock, ConnectionId, ErrorKind, Random, StreamName, Timestamp, Transport};
use palisade_emulator::{Fault, Poster, RetryAfter, RouteFaults, WebhookFaults};
use palisade_hub::{Access, Hub, HubBuilder, Settings};
use palisade_testkit::{FaultyTransport, Plan};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use super::Report;
use super::actor::{Actor, Making, Shop};
use super::errands::Errands;
use super::nature::{Disk, Jumpy, Keys, Switch, Way};
use super::others::{Office, Phone, Post, Workspace};
use super::receiver::{self, Receiver};
use super::secrets::ADMIN;
use super::tokens::Owner;
use crate::stage::{EFFECT, MASTER_KEY, Running, START, patient};

/// Where the world reaches the hub.
pub(super) const FRONT: &str = "https://hub.test";
/// The largest answer of the hub to a delivery that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long each way on the wire takes at most.
const ONE_WAY_MAX: Duration = Duration::from_millis(200);
/// How far a clock jumps.
const JUMP: Duration = Duration::from_secs(300);
/// Beats a trouble lasts at most.
const BEATS_MAX: u32 = 24;
/// Beats of an hour.
const HOUR: u32 = 240;
/// How often an outage is one of an hour, where a simulation has room for one.
const LONG_OUTAGES: f64 = 0.15;
/// More requests for tokens than come while a provider fails.
const TOKENS_PER_TROUBLE: usize = 1_000;
/// How often a handler leaves something to the outbox.
const ERRANDS: f64 = 0.08;

/// One process that serves a hub over the common store.
pub(super) struct Process {
    pub(super) hub: Hub,
    running: Running,
    dead: watch::Sender<bool>,
    off_ms: Arc<AtomicI64>,
}

/// What is left of something that goes wrong for a while, in beats.
#[derive(Default)]
struct Troubles {
    disk: u32,
    jump: u32,
    /// Of the product that is forwarded to: failing, away.
    receiver: (u32, u32),
    /// Of each provider: failing, down.
    providers: Vec<(u32, u32)>,
}

/// Where deliveries go: the processes that live.
type Doors = Arc<RwLock<Vec<(axum::Router, watch::Receiver<bool>)>>>;

/// Everything there is.
pub(super) struct World {
    pub(super) actors: Vec<Arc<dyn Actor>>,
    pub(super) errands: Arc<Errands>,
    pub(super) receiver: Arc<Receiver>,
    /// The keys each numbered write left under.
    pub(super) keys: Keys,
    /// Whether its one process is never killed: what one process knows of limits holds all along then.
    steady: bool,
    /// Whether there is room for an outage of an hour.
    long: bool,
    store: Arc<LayeredStore<MemoryStore, Disk>>,
    networks: Vec<FaultyTransport>,
    ways: Vec<Way>,
    disk: Disk,
    doors: Doors,
    pub(super) processes: Vec<Process>,
    clock: TokioClock,
    seed: u64,
    /// Processes started so far.
    pub(super) started: u64,
    troubles: Troubles,
}

impl World {
    /// Sets a world with so many processes, and starts them. A steady one kills none; a long one has room for an outage
    /// of an hour.
    pub(super) async fn set(seed: u64, processes: usize, (steady, long): (bool, bool)) -> Self {
        let clock = TokioClock::starting_at(START);
        let doors = Doors::default();
        let random = |salt: u64| Arc::new(SeededRandom::new(seed.wrapping_mul(31).wrapping_add(salt)));
        let making = |salt: u64| Making {
            seed: seed.wrapping_add(salt),
            clock: Arc::new(move || clock.now().to_system_time()),
            poster: poster(Arc::clone(&doors), random(100 + salt)),
        };
        let actors: Vec<Arc<dyn Actor>> = vec![
            Arc::new(Shop::new(making(1))),
            Arc::new(Workspace::new(making(2))),
            Arc::new(Office::new(making(3))),
            Arc::new(Phone::new(making(4))),
            Arc::new(Post::new(making(5))),
        ];
        let ways = actors.iter().zip(200_u64..).map(|(actor, salt)| {
            let sure = actor.transport().wire(random(salt), ONE_WAY_MAX);
            let network = FaultyTransport::new(Arc::new(sure.clone()), random(salt + 100), Plan::default());
            Way { actor: Arc::clone(actor), network, sure }
        });
        let ways: Vec<Way> = ways.collect();
        let networks: Vec<_> = ways.iter().map(|way| way.network.clone()).collect();
        let troubles = Troubles { providers: vec![(0, 0); actors.len()], ..Troubles::default() };
        let disk = Disk { random: random(7), full: Arc::default() };
        let store = Arc::new(LayeredStore { inner: MemoryStore::new(), layer: disk.clone() });
        let mut world = Self {
            errands: Errands::new(actors.clone()),
            receiver: Arc::new(Receiver::new(SeededRandom::new(seed.wrapping_add(900)), clock)),
            keys: Keys::default(),
            steady,
            long,
            actors,
            store,
            networks,
            ways,
            disk,
            doors,
            processes: Vec::new(),
            clock,
            seed,
            started: 0,
            troubles,
        };
        Owner::connect_all(&world).await;
        for _ in 0..processes {
            let process = world.start(0);
            world.processes.push(process);
        }
        world.open_doors();
        world
    }

    /// Starts a process: nothing of an earlier one's memory is in it.
    fn start(&mut self, off_ms: i64) -> Process {
        self.started += 1;
        let off_ms = Arc::new(AtomicI64::new(off_ms));
        let random = |salt: u64| Arc::new(SeededRandom::new(self.seed ^ (self.started << 8) ^ salt));
        let switch = Switch { ways: self.ways.clone(), keys: Arc::clone(&self.keys) };
        let master = LocalMasterKey::parse(MASTER_KEY.as_bytes(), random(1)).expect("a key");
        let clock = Jumpy { true_time: self.clock, off_ms: Arc::clone(&off_ms) };
        let patient = patient(7);
        // As long as no outage takes all of an event's attempts.
        let worker = WorkerSettings { retry_max: Duration::from_secs(300), ..patient.worker.clone() };
        let access = Access::Token(ADMIN.into());
        let settings = Settings { public_url: Some(FRONT.to_owned()), worker, access, ..patient };
        let builder = Hub::builder()
            .store(Arc::clone(&self.store) as _)
            .transport(Arc::new(switch))
            .forward_transport(receiver::carrier(&self.receiver))
            .master_key(Arc::new(master))
            .clock(Arc::new(clock))
            .random(random(2))
            .settings(settings);
        let plugged = self.actors.iter().fold(builder, |hub: HubBuilder, actor| actor.plug(hub));
        let plugged = receiver::destinations().into_iter().fold(plugged, HubBuilder::destination);
        let hub = plugged.on("*", moody(random(3), Arc::clone(&self.errands))).build().expect("the hub");
        let (dead, _) = watch::channel(false);
        Process { running: Running::start(&hub), hub, dead, off_ms }
    }

    /// Returns the store, as somebody sees it who has all the time in the world.
    pub(super) fn store(&self) -> &MemoryStore {
        &self.store.inner
    }

    /// Returns the store as a process sees it.
    pub(super) fn shared_store(&self) -> Arc<LayeredStore<MemoryStore, Disk>> {
        Arc::clone(&self.store)
    }

    /// Returns the true time.
    pub(super) fn clock(&self) -> TokioClock {
        self.clock
    }

    /// Returns the true moment.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns what the effects of a statement wrote, in order of their names.
    pub(super) fn effects(&self, sql: &str) -> Vec<String> {
        let name = |values: Vec<Cell>| match values.into_iter().next() {
            Some(Cell::Text(name)) => name,
            other => panic!("not an effect: {other:?}"),
        };
        let of_it = self.store().effects().into_iter().filter(|effect| effect.sql == sql);
        let mut effects: Vec<String> = of_it.map(|effect| name(effect.values)).collect();
        effects.sort_unstable();
        effects
    }

    fn open_doors(&self) {
        let doors = self.processes.iter().map(|process| (process.hub.router(), process.dead.subscribe()));
        *self.doors.write().unwrap_or_else(PoisonError::into_inner) = doors.collect();
    }

    /// Kills a process in whatever it does, requests of others' included, and starts another one after a while.
    async fn kill(&mut self, at: usize, gone: Duration) {
        let process = self.processes.remove(at);
        let off = process.off_ms.load(Ordering::SeqCst);
        self.open_doors();
        let _ = process.dead.send(true);
        process.running.kill().await;
        sleep(gone).await;
        let process = self.start(off);
        self.processes.insert(at, process);
        self.open_doors();
    }

    /// Returns one of the processes' hubs, and what tells that the process died.
    pub(super) fn hub(&self, at: usize) -> (Hub, watch::Receiver<bool>) {
        let process = &self.processes[at % self.processes.len()];
        (process.hub.clone(), process.dead.subscribe())
    }

    /// Returns one of the processes' pipelines to a provider, and what tells that the process died.
    pub(super) fn pipeline(&self, at: usize, provider: &str) -> (Arc<dyn Transport>, watch::Receiver<bool>) {
        let process = &self.processes[at % self.processes.len()];
        let client = process.hub.client(provider).expect("every provider has a client");
        (Arc::new(client.clone()), process.dead.subscribe())
    }

    /// Lets things happen, and begins and ends what goes wrong.
    pub(super) async fn stir(&mut self, dice: &mut StdRng, report: &mut Report) {
        for actor in &self.actors {
            for _ in 0..dice.random_range(0..3) {
                actor.happen(dice);
                report.happened += 1;
            }
        }
        self.stir_providers(dice, report);
        self.stir_receiver(dice);
        let Troubles { disk, jump, .. } = &mut self.troubles;
        *disk = disk.saturating_sub(1);
        if *disk == 0 && dice.random_bool(0.01) {
            *disk = dice.random_range(1..4);
            report.full += 1;
        }
        self.disk.full.store(*disk > 0, Ordering::SeqCst);
        let was = *jump;
        *jump = jump.saturating_sub(1);
        if was == 1 {
            self.processes.iter().for_each(|process| process.off_ms.store(0, Ordering::SeqCst));
        } else if was == 0 && dice.random_bool(0.02) {
            *jump = dice.random_range(2..BEATS_MAX);
            report.jumps += 1;
            let by = i64::try_from(JUMP.as_millis()).expect("five minutes");
            let by = if dice.random_bool(0.5) { by } else { -by };
            let at = dice.random_range(0..self.processes.len());
            self.processes[at].off_ms.store(by, Ordering::SeqCst);
        }
        if !self.steady && dice.random_bool(0.04) {
            report.killed += 1;
            let at = dice.random_range(0..self.processes.len());
            let gone = Duration::from_millis(dice.random_range(0..60_000));
            // At a moment of its own within the beat.
            sleep(Duration::from_millis(dice.random_range(0..2_000))).await;
            self.kill(at, gone).await;
        }
    }

    fn stir_providers(&mut self, dice: &mut StdRng, report: &mut Report) {
        for (at, (failing, down)) in self.troubles.providers.iter_mut().enumerate() {
            let (actor, network) = (&self.actors[at], &self.networks[at]);
            let were = (*failing, *down);
            (*failing, *down) = (failing.saturating_sub(1), down.saturating_sub(1));
            match were {
                (0, _) if dice.random_bool(0.1) => {
                    *failing = dice.random_range(2..BEATS_MAX);
                    fail(&**actor, network);
                }
                (1, _) => heal(&**actor, network, *down > 0),
                _ => {}
            }
            match were {
                (_, 0) if dice.random_bool(0.01) => {
                    let long = self.long && dice.random_bool(LONG_OUTAGES);
                    *down = if long { HOUR } else { dice.random_range(4..BEATS_MAX) };
                    report.outages += 1;
                    actor.faults().outage(true);
                }
                (_, 1) => actor.faults().outage(false),
                _ => {}
            }
        }
    }

    fn stir_receiver(&mut self, dice: &mut StdRng) {
        let (moody, away) = &mut self.troubles.receiver;
        (*moody, *away) = (moody.saturating_sub(1), away.saturating_sub(1));
        if *moody == 0 && dice.random_bool(0.1) {
            *moody = dice.random_range(2..BEATS_MAX);
        }
        if *away == 0 && dice.random_bool(0.01) {
            *away = dice.random_range(2..BEATS_MAX / 4);
        }
        self.receiver.moody(*moody > 0);
        self.receiver.away(*away > 0);
        if dice.random_bool(0.004) {
            self.receiver.gone_once();
        }
    }

    /// Ends everything that goes wrong.
    pub(super) async fn calm(&mut self) {
        self.disk.full.store(false, Ordering::SeqCst);
        self.receiver.calm();
        self.processes.iter().for_each(|process| process.off_ms.store(0, Ordering::SeqCst));
        for (actor, network) in self.actors.iter().zip(&self.networks) {
            heal(&**actor, network, false);
        }
        self.troubles = Troubles { providers: vec![(0, 0); self.actors.len()], ..Troubles::default() };
    }

    /// Waits until no delivery is under way.
    pub(super) async fn drain(&self) {
        for actor in &self.actors {
            actor.drain().await;
        }
    }

    /// Reads every stream once more and waits until nothing is left to do.
    pub(super) async fn heal(&self) {
        let since = self.clock.now();
        for actor in &self.actors {
            for stream in actor.walks() {
                self.once_more(actor.name(), stream, RunMode::Incremental, since).await;
                // The second walk proves that the first left nothing, and what the first found is handled by then.
                self.rest().await;
                self.once_more(actor.name(), stream, RunMode::Incremental, self.clock.now()).await;
            }
            for (stream, mode) in actor.streams() {
                match mode {
                    Some(mode) => self.once_more(actor.name(), stream, mode, since).await,
                    None => self.listed(actor.name(), stream).await,
                }
            }
        }
        self.rest().await;
    }

    /// Runs a stream and waits until a run that began after `since` has ended well.
    async fn once_more(&self, connection: &str, stream: &str, mode: RunMode, since: Timestamp) {
        let (id, name) = (ConnectionId::new(connection), StreamName::new(stream));
        let key = StreamKey { connection: id.clone(), stream: name.clone() };
        let mut approved = BTreeSet::new();
        loop {
            let worker = self.processes[0].hub.worker();
            // What must be connected again first is refused until then.
            while let Err(error) = worker.sync_now(&id, &name, mode).await {
                assert_eq!(error.kind(), ErrorKind::Conflict, "a run is enqueued: {error}");
                sleep(Duration::from_secs(1)).await;
            }
            let look_until = Instant::now() + Duration::from_secs(1_800);
            while Instant::now() < look_until {
                let runs = self.store().runs(Some(id.clone()), 1_000).await.expect("runs");
                let mut ours = runs.iter().filter(|run| run.key == key && run.mode == mode && run.started_at > since);
                if ours.any(|run| run.state == RunState::Done) {
                    return;
                }
                for run in runs.iter().filter(|run| run.key == key) {
                    if let RunState::Review { deletions } = run.state
                        && approved.insert(run.id)
                    {
                        self.approve(run, deletions).await;
                    }
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Approves what a run would delete, if it is what is gone: deletions nobody tells of add up while the simulation goes on.
    ///
    /// # Panics
    /// When it would delete anything else.
    async fn approve(&self, run: &Run, deletions: u64) {
        let (connection, stream) = (run.key.connection.as_str(), run.key.stream.as_str());
        let actor = self.actors.iter().find(|actor| actor.name() == connection).expect("an actor");
        let held = self.store().stream(run.key.clone()).await.expect("a stream").records;
        let gone = held.saturating_sub(actor.truth(stream).len() as u64);
        assert_eq!(deletions, gone, "what {connection}'s {stream} would lose (left), what is gone (right): {run:?}");
        self.processes[0].hub.worker().approve(run.id).await.expect("an approval");
    }

    /// Waits until a stream was listed wholly once.
    async fn listed(&self, connection: &str, stream: &str) {
        let key = StreamKey { connection: ConnectionId::new(connection), stream: StreamName::new(stream) };
        while self.store().stream(key.clone()).await.expect("a stream").full_at.is_none() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Returns how many events are pending.
    pub(super) async fn pending(&self) -> u64 {
        let counts = self.store().event_counts().await.expect("counts");
        counts.get(&EventState::Pending).copied().unwrap_or(0)
    }

    /// Waits until no event is pending and nothing runs.
    async fn rest(&self) {
        loop {
            let live = self.store().live_runs(1).await.expect("runs");
            if self.pending().await == 0 && live.is_empty() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Stops every process in order.
    pub(super) async fn stop(&mut self) {
        for process in self.processes.drain(..) {
            process.running.stop().await;
        }
    }
}

/// Makes a provider fail now and then, and its network and deliveries with it. Where single-use tokens are traded, it
/// fails by saying no before it has done anything.
fn fail(actor: &dyn Actor, network: &FaultyTransport) {
    if let Some(path) = actor.token_path() {
        let busy = [Fault::Pass, Fault::Status(503), Fault::Pass, Fault::Throttle(RetryAfter::Seconds(2))];
        let next = busy.into_iter().cycle().take(TOKENS_PER_TROUBLE).collect();
        actor.faults().set(RouteFaults { route: format!("POST {path}"), next, ..RouteFaults::default() });
    }
    actor.faults().set(RouteFaults {
        route: "*".to_owned(),
        error: 0.03,
        error_after: 0.01,
        throttle: 0.03,
        retry_after: RetryAfter::Seconds(2),
        cut_body: 0.02,
        reset_before: 0.01,
        reset_after: 0.01,
        hang_before: 0.005,
        hang_after: 0.005,
        ..RouteFaults::default()
    });
    actor.faults().webhooks(WebhookFaults {
        duplicate: 0.2,
        reorder: 0.2,
        drop: 0.1,
        late: Some((Duration::ZERO, Duration::from_secs(20))),
        forge: 0.1,
        replay: if actor.tells_old() { 0.05 } else { 0.0 },
    });
    network.plan(Plan { refused: 0.02, lost_request: 0.01, lost_answer: 0.02, stuck_answer: 0.005 });
}

/// Ends what [`fail`] began; an outage goes on.
fn heal(actor: &dyn Actor, network: &FaultyTransport, down: bool) {
    actor.faults().clear_all();
    actor.faults().outage(down);
    network.plan(Plan::default());
}

/// Takes deliveries to one of the processes that live. One that dies meanwhile never answers.
fn poster(doors: Doors, random: Arc<SeededRandom>) -> Poster {
    Arc::new(move |request| {
        let (doors, random) = (Arc::clone(&doors), Arc::clone(&random));
        Box::pin(async move {
            sleep(ONE_WAY_MAX.mul_f64(random.unit())).await;
            let (router, mut dead) = {
                let doors = doors.read().unwrap_or_else(PoisonError::into_inner);
                let at = (random.unit() * doors.len() as f64) as usize;
                doors.get(at)?.clone()
            };
            let answered = async {
                let response = router.oneshot(request.map(Body::from)).await.ok()?;
                let (head, body) = response.into_parts();
                Some(Response::from_parts(head, to_bytes(body, ANSWER_BYTES_MAX).await.ok()?))
            };
            tokio::select! {
                biased;
                answer = answered => answer,
                _ = dead.wait_for(|dead| *dead) => None,
            }
        })
    })
}

/// A handler with one effect per event that now and then takes its time, asks for another attempt, or leaves something
/// to the outbox.
fn moody(random: Arc<SeededRandom>, errands: Arc<Errands>) -> impl Handler {
    handler(move |event, context| {
        let (mood, errands) = (random.unit(), Arc::clone(&errands));
        Box::pin(async move {
            if mood < 0.1 {
                sleep(Duration::from_secs_f64(mood * 50.0)).await;
            } else if mood < 0.15 {
                return Handled::Retry { after: None, reason: "not in the mood".to_owned() };
            }
            let name = format!("{} {}", event.provider, event.event.id);
            if mood > 1.0 - ERRANDS {
                let (effect, call) = errands.of_event(&name).await;
                context.effect(effect.sql, effect.values);
                context.enqueue("errand", call);
            }
            context.effect(EFFECT, vec![name.into()]);
            Handled::Done
        })
    })
}

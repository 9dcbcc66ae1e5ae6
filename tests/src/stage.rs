//! A stage in one process: an emulated Stripe without sockets, a network that fails, and a real hub over a real store.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::TokioClock;
use palisade_core::random::{SeededRandom, SystemRandom};
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Effect, EventState, LayeredStore, RunMode, Store, Value};
use palisade_core::worker::{Handled, Handler, WorkerSettings, handler};
use palisade_core::{Clock, ConnectionId, Secret, StreamName, TenantId, Timestamp, Transport};
use palisade_emulator::stripe::{Stripe, StripeConfig, WebhookSender, signature};
use palisade_hub::{Access, ConnectionConfig, EndpointConfig, Hub, HubBuilder, Settings};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use palisade_testkit::{EmulatorTransport, FaultyTransport, Plan};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::still::Still;
use crate::verdict;

/// The key that seals the stage's credentials: 32 bytes as hex.
pub const MASTER_KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff0";

/// The connection every test uses.
pub const CONNECTION: &str = "acme-stripe";
/// The endpoint every test uses.
pub const ENDPOINT: &str = "stripe";
/// The endpoint's secret.
pub const SECRET: &str = "whsec_of_the_whole_system_tests";
/// The statement of the handler's effect. The table has no unique key: an effect that happens twice must show.
pub const EFFECT: &str = "INSERT INTO effect (event) VALUES (?1)";
/// Where the stage's clocks start: 2026-11-22T00:00:00Z.
pub const START: Timestamp = Timestamp(1_795_305_600_000);
/// How far a provider's clock is off in the stories that let it be wrong.
pub const SKEW: Duration = Duration::from_secs(3_600);
/// The address of an emulator without a socket: loopback, so that the pipeline sends its key there over plain HTTP.
pub const NOWHERE: &str = "http://127.0.0.1:9";

/// A store with the effects handlers wrote to it.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "only tests use it")]
pub enum Kept {
    /// In memory.
    Memory(Arc<MemoryStore>),
    /// In a file.
    Sqlite(SqliteStore, Arc<TempDir>),
}

impl Kept {
    /// Makes an empty store in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new()))
    }

    /// Makes an empty store in a file of its own.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder.path().join("palisade.db")).await;
        Self::Sqlite(store, Arc::new(folder))
    }

    /// Opens the same file again, as another process would.
    ///
    /// # Panics
    /// When it is in memory or cannot be opened.
    pub async fn again(&self) -> Self {
        match self {
            Self::Memory(_) => panic!("memory cannot be opened by another process"),
            Self::Sqlite(_, folder) => Self::Sqlite(open(&folder.path().join("palisade.db")).await, Arc::clone(folder)),
        }
    }

    /// Returns the store. A paused clock stands still while a file works.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::clone(store) as _,
            Self::Sqlite(store, _) => Arc::new(LayeredStore { inner: store.clone(), layer: Still }),
        }
    }

    /// Returns the events whose effect was committed, in order.
    ///
    /// # Panics
    /// When the table cannot be read.
    pub async fn effects(&self) -> Vec<String> {
        let rows: Vec<Vec<Value>> = match self {
            Self::Memory(store) => store.effects().into_iter().map(|effect| effect.values).collect(),
            Self::Sqlite(store, _) => return effects_of(store).await,
        };
        rows.into_iter().map(event_of).collect()
    }
}

/// Returns the events whose effect is in a database, in order.
///
/// # Panics
/// When the table cannot be read.
pub async fn effects_of(store: &SqliteStore) -> Vec<String> {
    let rows = store.query("SELECT event FROM effect ORDER BY rowid", vec![]).await.expect("effects can be read");
    rows.into_iter().map(event_of).collect()
}

/// Reads the event of an effect.
pub(crate) fn event_of(row: Vec<Value>) -> String {
    match row.into_iter().next() {
        Some(Value::Text(event)) => event,
        other => panic!("not an effect: {other:?}"),
    }
}

/// Opens a database with the product's own table in it.
///
/// # Panics
/// When it cannot be opened.
pub async fn open(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(SqliteConfig::at(path)).expect("the database opens");
    let table = "CREATE TABLE IF NOT EXISTS effect (event TEXT NOT NULL)".to_owned();
    store.execute(Effect { sql: table, values: vec![] }).await.expect("a table of the product's own");
    store
}

/// A handler that writes one effect for each event, after a while.
#[must_use]
pub fn one_effect(after: Duration) -> impl Handler {
    handler(move |event, context| {
        Box::pin(async move {
            if !after.is_zero() {
                sleep(after).await;
            }
            context.effect(EFFECT, vec![event.event.id.as_str().into()]);
            Handled::Done
        })
    })
}

/// Settings for tests: short waits, small pages, and a status page for whoever is on this machine.
#[must_use]
pub fn quick(page_size: u32) -> Settings {
    Settings {
        access: Access::Loopback,
        metrics_open: true,
        worker: WorkerSettings {
            hold: Duration::from_secs(3),
            retry_base: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
            poll: Duration::from_millis(100),
            page_size,
            read_ahead: true,
            ..WorkerSettings::default()
        },
        ..Settings::default()
    }
}

/// Settings for stories under a paused clock: as [`quick`], but looking for work less often, because the clock runs
/// through hours and every look costs the same.
#[must_use]
pub fn patient(page_size: u32) -> Settings {
    let quick = quick(page_size);
    Settings { worker: WorkerSettings { poll: Duration::from_secs(2), ..quick.worker.clone() }, ..quick }
}

/// Begins a hub with the tests' connection and endpoint.
#[must_use]
pub fn hub(store: Arc<dyn Store>, transport: Arc<dyn Transport>, base_url: &str, api_key: &str) -> HubBuilder {
    Hub::builder()
        .provider(StripeProvider::new().answering_within(Duration::from_secs(1)))
        .store(store)
        .transport(transport)
        .master_key(Arc::new(LocalMasterKey::parse(MASTER_KEY.as_bytes(), Arc::new(SystemRandom)).unwrap()))
        .connection(ConnectionConfig {
            environment: Default::default(),
            id: ConnectionId::new(CONNECTION),
            tenant: TenantId::new("acme"),
            provider: "stripe".to_owned(),
            account: None,
            base_url: Some(base_url.to_owned()),
            credential: Scheme::Bearer(Secret::new(api_key)).into(),
        })
        .endpoint(EndpointConfig {
            name: ENDPOINT.to_owned(),
            provider: "stripe".to_owned(),
            connection: ConnectionId::new(CONNECTION),
            secrets: vec![Secret::new(SECRET)],
        })
}

/// Workers at work.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<palisade_core::Result<()>>,
}

impl Running {
    /// Spawns a hub's runner.
    #[must_use]
    pub fn start(hub: &Hub) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(hub.runner().run(stopped)) }
    }

    /// Drops the runner where it stands, as a process that is gone: nothing is finished or given back.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Tells whether the runner has ended by itself, which it never should.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops in order.
    ///
    /// # Panics
    /// When the runner could not begin.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        self.task.await.expect("the runner ends").expect("the runner began");
    }
}

/// The stage.
#[derive(Debug)]
pub struct Stage {
    /// The provider.
    pub emulator: Stripe,
    /// The network to it.
    pub network: FaultyTransport,
    /// The store.
    pub kept: Kept,
    /// The hub.
    pub hub: Hub,
    /// The hub's clock.
    pub clock: TokioClock,
}

impl Stage {
    /// Sets an empty provider and a hub with one effect per event. Each way on the wire takes up to `one_way_max`.
    ///
    /// # Panics
    /// When the hub cannot be built.
    #[must_use]
    pub fn set(seed: u64, kept: Kept, one_way_max: Duration) -> Self {
        Self::set_with(seed, kept, one_way_max, |hub| hub.on("*", one_effect(Duration::ZERO)).settings(patient(7)))
    }

    /// Sets the stage with handlers and settings of the test's own.
    ///
    /// # Panics
    /// When the hub cannot be built.
    #[must_use]
    pub fn set_with(seed: u64, kept: Kept, one_way_max: Duration, with: impl FnOnce(HubBuilder) -> HubBuilder) -> Self {
        let clock = TokioClock::starting_at(START);
        let door = Arc::new(OnceLock::new());
        let emulator = Stripe::offline(StripeConfig {
            seed,
            clock: Arc::new(move || clock.now().to_system_time()),
            webhook_retries: vec![Duration::from_secs(2); 30],
            webhook_sender: Some(sender(Arc::clone(&door), clock)),
            ..StripeConfig::default()
        });
        let endpoint = format!("http://hub.test/webhooks/{ENDPOINT}");
        let _ = emulator.webhook_endpoint(&endpoint, SECRET, None, &["*"]);
        let random = |salt: u64| Arc::new(SeededRandom::new(seed.wrapping_mul(31).wrapping_add(salt)));
        let wire = EmulatorTransport::new(emulator.clone()).wire(random(1), one_way_max);
        let network = FaultyTransport::new(Arc::new(wire), random(2), Plan::default());
        let builder = hub(kept.store(), Arc::new(network.clone()), NOWHERE, emulator.api_key());
        let hub = with(builder.clock(Arc::new(clock)).random(random(3))).build().expect("the hub");
        let _ = door.set(hub.router());
        Self { emulator, network, kept, hub, clock }
    }

    /// Waits until `holds`, looking every second of the stage's time.
    ///
    /// # Panics
    /// After six hours of it.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let bound = Instant::now() + Duration::from_secs(6 * 3_600);
        while !holds(self).await {
            if Instant::now() > bound {
                let store = self.kept.store();
                let (events, jobs) = (store.event_counts().await, store.job_counts().await);
                let runs = verdict::runs(&*store).await;
                let runs = runs.get(..runs.len().min(8));
                panic!("never: {what}\nevents: {events:?}\njobs: {jobs:?}\nnewest runs: {runs:#?}");
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until everything was listed, walks the provider's events twice (the second walk proves that the first
    /// left nothing), and waits until nothing is pending.
    ///
    /// # Panics
    /// When it does not become quiet.
    pub async fn heal(&self) {
        self.until("every stream is listed", async |stage| verdict::listed(&verdict::runs(&*stage.kept.store()).await))
            .await;
        let events = StreamName::new(palisade_stripe::sync::EVENTS);
        for _ in 0..2 {
            let before = verdict::walks(&verdict::runs(&*self.kept.store()).await);
            let connection = ConnectionId::new(CONNECTION);
            self.hub.worker().sync_now(&connection, &events, RunMode::Incremental).await.expect("a walk is enqueued");
            self.until("the events are walked and handled", async |stage| {
                let runs = verdict::runs(&*stage.kept.store()).await;
                let counts = stage.kept.store().event_counts().await.expect("counts");
                let pending = counts.get(&EventState::Pending).copied().unwrap_or(0);
                verdict::walks(&runs) > before && verdict::listed(&runs) && pending == 0
            })
            .await;
        }
    }

    /// Sends a delivery into the hub's router and returns the status.
    ///
    /// # Panics
    /// Never: the router does not fail.
    pub async fn deliver(&self, body: impl Into<Bytes>) -> u16 {
        let body = body.into();
        let at = self.clock.now().seconds();
        let request = http::Request::post(format!("http://hub.test/webhooks/{ENDPOINT}"))
            .header("stripe-signature", format!("t={at},v1={}", signature(SECRET, at, &body)))
            .body(Body::from(body))
            .expect("a request");
        self.hub.router().oneshot(request).await.expect("the router never fails").status().as_u16()
    }
}

/// Makes the provider's deliveries arrive at the router behind `door`, without a socket.
///
/// A provider whose clock is wrong by [`SKEW`] would be refused for its timestamps, rightly. What such a clock does to
/// the *order* of things is what the stories are after, so true signatures are made anew by the hub's clock; forged
/// ones stay as they are.
fn sender(door: Arc<OnceLock<Router>>, clock: TokioClock) -> WebhookSender {
    Arc::new(move |mut request| {
        let (door, now) = (Arc::clone(&door), clock.now().seconds());
        Box::pin(async move {
            let router = door.get()?.clone();
            let header = request.headers().get("stripe-signature")?.to_str().ok()?.to_owned();
            let (time, code) = header.strip_prefix("t=")?.split_once(",v1=")?;
            let time: i64 = time.parse().ok()?;
            let skewed = ((now - time).abs() - SKEW.as_secs() as i64).abs() < 60;
            if skewed && signature(SECRET, time, request.body()) == code {
                let fresh = format!("t={now},v1={}", signature(SECRET, now, request.body()));
                request.headers_mut().insert("stripe-signature", fresh.parse().ok()?);
            }
            let response = router.oneshot(request.map(Body::from)).await.ok()?;
            Some(response.status().as_u16())
        })
    })
}

//! The demo: one story against an emulated provider that misbehaves, checked against the provider's truth at its end.
//!
//! Everything in it is the real thing: the emulator listens on loopback, the hub runs on SQLite in a folder, and what
//! goes wrong goes wrong on the wire.
//!
//! A story lives in its folder: the hub's database, what the provider remembers, and how far the story came. Killed at
//! any moment and told again on the same folder it goes on, and its end is judged over the whole folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::vault::MasterKeyFile;
use palisade_core::metrics::Metrics;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Effect, EventState, Run, RunMode, RunState, StreamKey, Value};
use palisade_core::sync::StreamKind;
use palisade_core::transport::HttpTransport;
use palisade_core::worker::{Handled, WorkerSettings, handler};
use palisade_core::{ConnectionId, Environment, Error, ErrorKind, Result, Secret, StreamName, TenantId, Transport};
use palisade_emulator::stripe as emulated;
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

mod accounts;
mod browser;
mod consumer;
mod counts;
mod faults;
mod folder;
mod outage;
mod progress;
mod report;
mod vault;
mod verdict;
mod writes;

pub use folder::{Kept, kept};
pub use progress::Progress;
pub use report::{
    Account, Calls, Continued, Deliveries, MasterKeys, Outage, Promise, ProviderSide, Report, StreamTruth,
};

use crate::hub::{Access, ConnectionConfig, EndpointConfig, Hub, Settings};
use crate::serve::{ServeSettings, serve};
use accounts::Providers;
use consumer::Consumer;
use folder::{Folder, Step};
use outage::Users;

/// The key of a live account: it may ask four times as fast as a sandbox's, and the story need not be slower.
const API_KEY: &str = "sk_live_demoOfTheEmulator";
/// The name of the endpoint and of the connection.
const CONNECTION: &str = "acme-stripe";
const ENDPOINT: &str = "stripe";
/// How long the story waits for quiet before it calls that a broken promise.
const QUIET_WITHIN: Duration = Duration::from_secs(180);
/// Runs looked at: more than a story has, however often it is told.
const RUNS: u32 = 1_000;
/// How often the story looks.
const LOOK: Duration = Duration::from_millis(50);

/// How the story is told.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Story {
    /// Repeats a run: identifiers, contents, faults and mutations follow from it.
    pub seed: u64,
    /// Customers at the provider before the story begins.
    pub customers: usize,
    /// Events that happen while it runs, each sent as a signed webhook.
    pub webhooks: u64,
    /// Where the hub listens.
    pub listen: SocketAddr,
    /// Where the database and everything else the story needs to go on stands. One that holds this story already is
    /// gone on with; one of another story is refused.
    pub folder: PathBuf,
}

/// A story that was told: the report, and the hub still serving its status page.
#[derive(Debug)]
pub struct Told {
    /// What happened.
    pub report: Report,
    /// Where the status page is.
    pub address: SocketAddr,
    stage: Stage,
}

impl Told {
    /// Ends it: stops the hub, closes the store, stops the emulator.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] when the store cannot be closed cleanly.
    pub async fn end(self) -> Result<()> {
        self.stage.end().await
    }
}

/// What the story plays on.
#[derive(Debug)]
struct Stage {
    folder: Folder,
    emulator: emulated::Stripe,
    providers: Providers,
    store: SqliteStore,
    hub: Hub,
    address: SocketAddr,
    /// When the accounts were connected.
    connected_at: Instant,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    server: JoinHandle<usize>,
    /// Absent until the work begins.
    runner: Option<JoinHandle<Result<()>>>,
}

/// Tells the story, or goes on with it when its folder holds a part of it already.
///
/// # Errors
/// [`ErrorKind::Config`] when the address cannot be listened on, the folder holds something else or another process
/// tells the story there; [`ErrorKind::Store`] when the folder cannot be used. A promise that does not hold is no error:
/// it is in the report.
pub async fn tell(story: &Story, progress: &Progress) -> Result<Told> {
    let began = Instant::now();
    let listener = TcpListener::bind(story.listen).await.map_err(|e| {
        Error::new(ErrorKind::Config, format!("cannot listen on {}: take another with --listen", story.listen))
            .with_source(e)
    })?;
    let address =
        listener.local_addr().map_err(|e| Error::new(ErrorKind::Config, "no local address").with_source(e))?;
    let folder = Folder::open(story)?;
    enter(&folder, Step::Begin, progress)?;
    let mut stage = set(story, folder, listener, address).await?;
    let continued = stage.continued().await?;
    if let Some(continued) = &continued {
        progress.note(&continued.to_text());
    }
    enter(&stage.folder, Step::Connect, progress)?;
    let mut accounts = accounts::connect(&stage).await?;
    stage.connected_at = Instant::now();
    accounts.iter().for_each(|account| progress.found(&account.to_text()));

    enter(&stage.folder, Step::Play, progress)?;
    let endpoint_url = format!("http://{address}/webhooks/{ENDPOINT}");
    let _ = stage.emulator.webhook_endpoint(&endpoint_url, &secret(story.seed), Some(stripe_version()), &["*"]);
    faults::throw(&stage.emulator);
    stage.emulator.redeliver();
    stage.work();
    let consumer = Consumer::follow(Arc::clone(stage.hub.store()), keys());
    let writes = tokio::spawn(writes::make(client(&stage.hub, &stage.emulator)?, stage.store.clone(), story.seed));
    let mutations = tokio::spawn(mutate(stage.emulator.clone(), story.clone(), progress.clone()));

    wait_for_listing(&stage, story, progress, 0.0).await?;
    enter(&stage.folder, Step::Outage, progress)?;
    let users = Users::come(&stage)?;
    let outage = outage::strike(&stage).await?;
    users.go().await;
    progress.found(&outage.to_text());
    let killed = kill_workers_in_mid_run(&mut stage, story, progress).await?;
    enter(&stage.folder, Step::Rotate, progress)?;
    vault::rotate(Arc::clone(stage.hub.store()), &stage.folder.master_keys()?).await?;
    accounts::renew(&stage, &mut accounts).await?;
    progress.found(&vault::examine(stage.hub.store(), &stage.folder.master_keys()?).await?.to_text());
    wait_for_listing(&stage, story, progress, 1.0).await?;
    let _ = mutations.await;
    let written =
        writes.await.map_err(|_| Error::new(ErrorKind::Cancelled, "the story's own calls were stopped"))??;
    enter(&stage.folder, Step::Late, progress)?;
    faults::calm(&stage.emulator);
    stage.emulator.drain_webhooks().await;

    enter(&stage.folder, Step::Heal, progress)?;
    let stored_before_healing = counts(&stage).await?.0;
    let quiet = heal(&stage, progress).await?;
    enter(&stage.folder, Step::Compare, progress)?;
    let copies = consumer.finish().await?;
    let master_keys = vault::examine(stage.hub.store(), &stage.folder.master_keys()?).await?;
    let seen = verdict::Seen {
        story,
        stage: &stage,
        continued,
        copies,
        written,
        accounts,
        outage,
        master_keys,
        killed,
        stored_before_healing,
        quiet,
    };
    let report = verdict::judge(seen, began.elapsed()).await?;
    stage.folder.reach(Step::Told)?;
    progress.done();
    Ok(Told { report, address, stage })
}

/// Notes in the folder, and tells, that the story comes to a step.
fn enter(folder: &Folder, step: Step, progress: &Progress) -> Result<()> {
    progress.chapter(step.number(), Step::COUNT, step.text());
    folder.reach(step)
}

/// The streams of records the story compares.
fn keys() -> Vec<StreamKey> {
    let provider = StripeProvider::new();
    let source = palisade_core::Provider::source(&provider);
    let streams = source.map(palisade_core::sync::Source::streams).unwrap_or_default();
    streams
        .iter()
        .filter(|spec| spec.kind == StreamKind::Records)
        .map(|spec| StreamKey { connection: ConnectionId::new(CONNECTION), stream: StreamName::new(spec.name) })
        .collect()
}

/// The version the adapter speaks: an endpoint that renders events in it spares a read for each.
fn stripe_version() -> &'static str {
    palisade_core::Provider::manifest(&StripeProvider::new()).api_version.unwrap_or_default()
}

fn secret(seed: u64) -> String {
    format!("whsec_demo_{seed:016x}")
}

/// Starts the provider: as it was when the story was last told here, or with its first data.
async fn provider(story: &Story, folder: &Folder) -> Result<emulated::Stripe> {
    let config = emulated::StripeConfig { seed: story.seed, api_key: API_KEY.to_owned(), ..Default::default() };
    let emulator = emulated::Stripe::start(config)
        .await
        .map_err(|e| Error::new(ErrorKind::Config, "the emulator cannot listen on loopback").with_source(e))?;
    let path = folder.provider();
    emulator.keep_journal(&path).map_err(|e| {
        Error::new(ErrorKind::Store, format!("{} cannot be used: check the folder", path.display())).with_source(e)
    })?;
    if emulator.truth("customers").is_empty() {
        emulator.populate(&emulated::Seed {
            customers: story.customers,
            products: 20,
            prices: 40,
            subscriptions: story.customers / 20,
            invoices: story.customers / 12,
            charges: story.customers / 30,
            customer_bytes: 1_024,
            ..Default::default()
        });
    }
    Ok(emulator)
}

/// Sets the stage: an emulator with data, a store, a hub that serves and works.
async fn set(story: &Story, folder: Folder, listener: TcpListener, address: SocketAddr) -> Result<Stage> {
    let emulator = provider(story, &folder).await?;
    let providers = Providers::start(story.seed, address).await?;
    let store = SqliteStore::open(SqliteConfig::at(folder.database()))?;
    store.execute(statement("CREATE TABLE IF NOT EXISTS effect (event TEXT NOT NULL)")).await?;
    store.execute(statement(writes::TABLE)).await?;
    let metrics = Metrics::default();
    let master = MasterKeyFile::open(folder.master_keys()?, Arc::new(SystemRandom))?;
    let transport: Arc<dyn Transport> = Arc::new(HttpTransport::builder().build()?);
    let hub = providers
        .plug(Hub::builder(), address)?
        .provider(StripeProvider::new().answering_within(Duration::from_secs(2)))
        .metrics(metrics.clone())
        .store(Arc::new(store.clone()))
        .transport(transport)
        .master_key(Arc::new(master))
        .connection(ConnectionConfig {
            environment: Environment::default(),
            id: ConnectionId::new(CONNECTION),
            tenant: TenantId::new("acme"),
            provider: "stripe".to_owned(),
            account: None,
            base_url: Some(emulator.base_url().to_owned()),
            credential: palisade_stripe::auth::api_key(Secret::new(emulator.api_key()))?.into(),
        })
        .endpoint(EndpointConfig {
            name: ENDPOINT.to_owned(),
            provider: "stripe".to_owned(),
            connection: ConnectionId::new(CONNECTION),
            secrets: vec![Secret::new(secret(story.seed))],
        })
        .on(
            "*",
            handler(|event, context| {
                Box::pin(async move {
                    let id = Value::Text(event.event.id.as_str().to_owned());
                    context.effect("INSERT INTO effect (event) VALUES (?1)", vec![id]);
                    Handled::Done
                })
            }),
        )
        .settings(Settings {
            access: Access::Loopback,
            metrics_open: true,
            worker: WorkerSettings {
                hold: Duration::from_secs(3),
                retry_base: Duration::from_millis(200),
                retry_max: Duration::from_secs(2),
                poll: Duration::from_millis(100),
                ..WorkerSettings::default()
            },
            ..Settings::default()
        })
        .build()?;
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, hub.router(), ServeSettings::default(), stopped));
    Ok(Stage {
        folder,
        emulator,
        providers,
        store,
        hub,
        address,
        connected_at: Instant::now(),
        metrics,
        stop,
        server,
        runner: None,
    })
}

impl Stage {
    /// Starts the workers.
    fn work(&mut self) {
        self.runner = Some(tokio::spawn(self.hub.runner().run(self.stop.subscribe())));
    }

    /// Kills the workers where they stand.
    async fn kill(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.abort();
            let _ = runner.await;
        }
    }

    async fn end(mut self) -> Result<()> {
        let _ = self.stop.send(true);
        if let Some(runner) = self.runner.take() {
            let _ = runner.await;
        }
        let _ = self.server.await;
        self.emulator.shutdown().await;
        self.providers.shutdown().await;
        self.store.close().await
    }

    /// Tells from where the story goes on; nothing when it begins.
    async fn continued(&self) -> Result<Option<Continued>> {
        if self.folder.starts == 0 {
            return Ok(None);
        }
        let reached = self.folder.reached.unwrap_or(Step::Begin);
        Ok(Some(Continued {
            starts: self.folder.starts,
            told: reached == Step::Told,
            step: reached.number(),
            steps: Step::COUNT,
            what: reached.text(),
            handled: self.number("SELECT count(*) FROM effect").await?,
        }))
    }

    /// Reads one number from the product's own tables.
    async fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.store.query(sql, vec![]).await?;
        match rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(n)) => Ok(u64::try_from(*n).unwrap_or(0)),
            _ => Ok(0),
        }
    }
}

fn statement(sql: &str) -> Effect {
    Effect { sql: sql.to_owned(), values: vec![] }
}

/// The typed client of the story's own calls, over the hub's pipeline.
fn client(hub: &Hub, emulator: &emulated::Stripe) -> Result<palisade_stripe::Stripe> {
    let client = hub.client("stripe").ok_or_else(|| Error::new(ErrorKind::Config, "the hub has no Stripe client"))?;
    palisade_stripe::Stripe::new(Arc::new(client.clone()), ConnectionId::new(CONNECTION), TenantId::new("acme"))
        .at(emulator.base_url())
}

/// Lets things happen at the provider, until as many events were sent as the story wants. What happened in an earlier
/// telling counts.
async fn mutate(emulator: emulated::Stripe, story: Story, progress: Progress) {
    use rand::SeedableRng;
    let first = emulator.ledger().events_created;
    let mut dice = rand::rngs::StdRng::seed_from_u64(story.seed.wrapping_add(first));
    loop {
        let happened = emulator.ledger().events_created;
        progress.events(happened, story.webhooks);
        if happened >= story.webhooks {
            return;
        }
        for _ in 0..4 {
            emulator.random_mutation(&mut dice);
        }
        sleep(LOOK).await;
    }
}

/// How the workers were killed.
struct Killed {
    /// Whether the customers' full run was under way.
    running: bool,
    /// How often that run had been taken up by then.
    resumed: u64,
}

/// Kills every worker where it stands when the customers' full run is half-way, and starts new ones.
async fn kill_workers_in_mid_run(stage: &mut Stage, story: &Story, progress: &Progress) -> Result<Killed> {
    wait_for_listing(stage, story, progress, 0.5).await?;
    enter(&stage.folder, Step::KillWorkers, progress)?;
    stage.kill().await;
    // Looked at when nobody works any more: a run may have ended meanwhile.
    let run = full_run(stage, "customers").await?;
    stage.work();
    Ok(Killed {
        running: run.as_ref().is_some_and(|run| run.state == RunState::Running),
        resumed: run.map_or(0, |run| run.resumed.into()),
    })
}

/// Waits until the customers' full run has listed more than a share of them, or is over, and returns how it stands.
async fn wait_for_listing(stage: &Stage, story: &Story, progress: &Progress, share: f64) -> Result<Option<Run>> {
    let enough = (story.customers as f64 * share) as u64;
    let deadline = Instant::now() + QUIET_WITHIN;
    loop {
        let run = full_run(stage, "customers").await?;
        if let Some(run) = &run {
            progress.customers(listed(run), story.customers as u64);
        }
        let goes_on =
            run.as_ref().is_none_or(|run| run.state == RunState::Running && (share >= 1.0 || listed(run) <= enough));
        if !goes_on || Instant::now() > deadline {
            return Ok(run);
        }
        sleep(LOOK).await;
    }
}

/// Records the run has listed, whatever they changed here.
fn listed(run: &Run) -> u64 {
    run.counts.added + run.counts.updated + run.counts.unchanged + run.counts.older
}

async fn full_run(stage: &Stage, stream: &str) -> Result<Option<Run>> {
    let runs = stage.hub.store().runs(Some(ConnectionId::new(CONNECTION)), RUNS).await?;
    Ok(runs.into_iter().find(|run| run.key.stream.as_str() == stream && run.mode == RunMode::Full))
}

/// Events stored and events still pending.
async fn counts(stage: &Stage) -> Result<(u64, u64)> {
    let counts = stage.hub.store().event_counts().await?;
    let pending = counts.get(&EventState::Pending).copied().unwrap_or(0);
    Ok((counts.values().sum(), pending))
}

/// Walks the provider's list of events until nothing is missing, pending or running. Returns whether it became quiet.
async fn heal(stage: &Stage, progress: &Progress) -> Result<bool> {
    let deadline = Instant::now() + QUIET_WITHIN;
    let connection = ConnectionId::new(CONNECTION);
    let events = StreamName::new(palisade_stripe::sync::EVENTS);
    // Twice: the second walk proves that the first left nothing.
    for _ in 0..2 {
        let before = finished_runs(stage).await?;
        stage.hub.worker().sync_now(&connection, &events, RunMode::Incremental).await?;
        loop {
            let (stored, pending) = counts(stage).await?;
            progress.pending(stored, pending);
            let running = stage.hub.store().runs(Some(connection.clone()), RUNS).await?;
            let running = running.iter().any(|run| run.state == RunState::Running);
            if pending == 0 && !running && finished_runs(stage).await? > before {
                break;
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(LOOK).await;
        }
    }
    Ok(true)
}

/// Counts the finished walks of the provider's list.
async fn finished_runs(stage: &Stage) -> Result<usize> {
    let runs = stage.hub.store().runs(Some(ConnectionId::new(CONNECTION)), RUNS).await?;
    Ok(runs
        .iter()
        .filter(|run| run.key.stream.as_str() == palisade_stripe::sync::EVENTS && run.state == RunState::Done)
        .count())
}

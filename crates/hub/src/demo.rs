//! The demo: one story against five emulated providers that misbehave, checked against their truth at its end.
//!
//! Everything in it is the real thing: the emulators listen on loopback, the hub runs on SQLite in a folder, and what
//! goes wrong goes wrong on the wire.
//!
//! A story lives in its folder: the hub's database, what the providers remember, and how far the story came. Killed at
//! any moment and told again on the same folder it goes on, and its end is judged over the whole folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::vault::MasterKeyFile;
use palisade_core::metrics::Metrics;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Effect, Value};
use palisade_core::transport::HttpTransport;
use palisade_core::worker::{Handled, WorkerSettings, handler};
use palisade_core::{Error, ErrorKind, Result, Transport};
use palisade_store::{SqliteConfig, SqliteStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

mod accounts;
mod browser;
mod cast;
mod consumer;
mod counts;
mod faults;
mod folder;
mod google;
mod happenings;
mod heal;
mod notes;
mod outage;
mod progress;
mod report;
mod sendgrid;
mod show;
mod slack;
mod stripe;
mod twilio;
mod vault;
mod verdict;
mod writes;

pub use folder::{Kept, config_file, kept};
pub use progress::Progress;
pub use report::{
    Account, Calls, Continued, Deliveries, MasterKeys, Outage, Promise, ProviderSide, Report, Side, StreamTruth,
};

use crate::hub::{Access, Hub, Settings};
use crate::serve::{ServeSettings, serve};
use cast::{Cast, Role};
use consumer::Consumer;
use folder::{Folder, Step};
use happenings::Happenings;
use notes::Notes;
use outage::Users;

/// How long the story waits for quiet before it calls that a broken promise.
const QUIET_WITHIN: Duration = Duration::from_secs(180);
/// Runs looked at: more than a story has, however often it is told.
const RUNS: u32 = 2_000;
/// How often the story looks.
const LOOK: Duration = Duration::from_millis(50);
/// What lies between two things that happen at one of the smaller providers, or that the product does there.
const PACE: Duration = Duration::from_millis(100);
/// The table of the product's own that every handled event writes to, in the transaction of its job.
const EFFECT: &str = "CREATE TABLE IF NOT EXISTS effect (provider TEXT NOT NULL, event TEXT NOT NULL)";

/// How the story is told.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Story {
    /// Repeats a run: identifiers, contents, faults and mutations follow from it.
    pub seed: u64,
    /// Customers at Stripe before the story begins.
    pub customers: usize,
    /// Events that happen at Stripe while it runs, each sent as a signed webhook.
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
    /// Ends it: stops the hub, closes the store, stops the emulators.
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
    cast: Cast,
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
    folder.configure(address)?;
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
    let stripe = stage.cast.stripe.emulator.clone();
    faults::throw(&stripe);
    stage.cast.stripe.tell(&stage);
    let plays = stage.cast.play(&stage).await?;
    stage.work();
    let consumer = Consumer::follow(Arc::clone(stage.hub.store()), stage.cast.keys());
    let notes = stage.notes(stage.cast.stripe.manifest().name);
    let writes = tokio::spawn(writes::make(stage.cast.stripe.client(&stage.hub)?, notes, story.seed));
    let mutations = tokio::spawn(stripe::mutate(stripe, story.clone(), progress.clone()));

    stripe::wait_for_listing(&stage, story, progress, 0.0).await?;
    enter(&stage.folder, Step::Outage, progress)?;
    let users = Users::come(&stage)?;
    let outage = outage::strike(&stage).await?;
    users.go().await;
    progress.found(&outage.to_text());
    let killed = stripe::kill_workers_in_mid_run(&mut stage, story, progress).await?;
    enter(&stage.folder, Step::Rotate, progress)?;
    vault::rotate(Arc::clone(stage.hub.store()), &stage.folder.master_keys()?).await?;
    accounts::renew(&stage, &mut accounts).await?;
    progress.found(&vault::examine(stage.hub.store(), &stage.folder.master_keys()?).await?.to_text());
    stripe::wait_for_listing(&stage, story, progress, 1.0).await?;
    let _ = mutations.await;
    ended(writes.await)?;
    all_ended(plays).await?;
    enter(&stage.folder, Step::Late, progress)?;
    stage.cast.calm().await;
    let google: &dyn Role = &stage.cast.google;
    let notified: Vec<_> = google.streams().into_iter().map(|stream| google.key(stream)).collect();
    let pushed = heal::pushed(&stage, &notified).await?;

    enter(&stage.folder, Step::Heal, progress)?;
    let stored_before_healing = heal::counts(&stage).await?.0;
    let quiet = heal::heal(&stage, progress, continued.is_some()).await?;
    enter(&stage.folder, Step::Compare, progress)?;
    let copies = consumer.finish().await?;
    let master_keys = vault::examine(stage.hub.store(), &stage.folder.master_keys()?).await?;
    let seen = verdict::Seen {
        story,
        stage: &stage,
        continued,
        copies,
        accounts,
        outage,
        master_keys,
        killed,
        pushed,
        stored_before_healing,
        quiet,
    };
    let report = verdict::judge(seen, began.elapsed()).await?;
    stage.folder.reach(Step::Told)?;
    progress.done();
    Ok(Told { report, address, stage })
}

/// Waits for all that the product does at the smaller providers, and all that happens there.
async fn all_ended(mut plays: JoinSet<Result<()>>) -> Result<()> {
    while let Some(play) = plays.join_next().await {
        ended(play)?;
    }
    Ok(())
}

/// Gives what a task of the story came to.
fn ended(task: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    task.map_err(|_| Error::new(ErrorKind::Cancelled, "a part of the story was stopped"))?
}

/// Notes in the folder, and tells, that the story comes to a step.
fn enter(folder: &Folder, step: Step, progress: &Progress) -> Result<()> {
    progress.chapter(step.number(), Step::COUNT, step.text());
    folder.reach(step)
}

/// Sets the stage: emulators with data, a store, a hub that serves.
async fn set(story: &Story, folder: Folder, listener: TcpListener, address: SocketAddr) -> Result<Stage> {
    let cast = Cast::start(story, &folder, address).await?;
    let store = SqliteStore::open(SqliteConfig::at(folder.database()))?;
    for table in [EFFECT, notes::TABLE, happenings::TABLE, twilio::TABLE, sendgrid::TABLE] {
        store.execute(statement(table)).await?;
    }
    let metrics = Metrics::default();
    let master = MasterKeyFile::open(folder.master_keys()?, Arc::new(SystemRandom))?;
    let transport: Arc<dyn Transport> = Arc::new(HttpTransport::builder().build()?);
    let hub = cast
        .plug(Hub::builder(), address)?
        .metrics(metrics.clone())
        .store(Arc::new(store.clone()))
        .transport(transport)
        .master_key(Arc::new(master))
        .on(
            "*",
            handler(|event, context| {
                Box::pin(async move {
                    let provider = Value::Text(event.provider.clone());
                    let id = Value::Text(event.event.id.as_str().to_owned());
                    context.effect("INSERT INTO effect (provider, event) VALUES (?1, ?2)", vec![provider, id]);
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
    Ok(Stage { folder, cast, store, hub, address, connected_at: Instant::now(), metrics, stop, server, runner: None })
}

impl Stage {
    /// Where a provider posts to.
    fn endpoint(&self, name: &str) -> String {
        format!("http://{}/webhooks/{name}", self.address)
    }

    /// The product's notes of its calls to a provider.
    fn notes(&self, provider: &'static str) -> Notes {
        Notes::of(provider, self.store.clone())
    }

    /// What happens by itself at a provider.
    fn happenings(&self, provider: &'static str) -> Happenings {
        Happenings::of(provider, self.store.clone())
    }

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
        self.cast.shutdown().await;
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

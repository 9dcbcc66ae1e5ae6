//! Stripe's part: thousands of customers, the webhooks of everything that happens to them, the workers that are killed
//! in mid-run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::provider::Manifest;
use palisade_core::store::{Run, RunMode, RunState};
use palisade_core::{ConnectionId, Environment, Error, ErrorKind, Provider, Result, Secret, TenantId, Timestamp};
use palisade_emulator::stripe as emulated;
use palisade_emulator::{Faults, Ledger};
use palisade_stripe::StripeProvider;
use tokio::time::{Instant, sleep};

use super::cast::{Records, Role, cannot_listen, cannot_remember, streams_of};
use super::folder::{Folder, Step};
use super::progress::Progress;
use super::{LOOK, QUIET_WITHIN, RUNS, Stage, Story, enter};
use crate::hub::{ConnectionConfig, EndpointConfig, Hub, HubBuilder};

/// The key of a live account: it may ask four times as fast as a sandbox's, and the story need not be slower.
const API_KEY: &str = "sk_live_demoOfTheEmulator";
const CONNECTION: &str = "acme-stripe";
const TENANT: &str = "acme";
const ENDPOINT: &str = "stripe";
/// How long a run may wait for its next attempt.
const AT_WORK_WITHIN: Duration = Duration::from_secs(10);
/// Longer than any answer of the emulator's takes that comes at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The emulated Stripe with one account.
#[derive(Debug)]
pub(super) struct Stripe {
    pub(super) emulator: emulated::Stripe,
    /// Signs what it sends.
    secret: String,
}

impl Stripe {
    /// Starts it: as it was when the story was last told here, or with its first data.
    pub(super) async fn start(story: &Story, folder: &Folder) -> Result<Self> {
        let config = emulated::StripeConfig { seed: story.seed, api_key: API_KEY.to_owned(), ..Default::default() };
        let emulator = emulated::Stripe::start(config).await.map_err(cannot_listen)?;
        let path = folder.provider("provider.jsonl");
        emulator.keep_journal(&path).map_err(|error| cannot_remember(&path, error))?;
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
        Ok(Self { emulator, secret: format!("whsec_demo_{:016x}", story.seed) })
    }

    /// Adds provider, connection and endpoint.
    pub(super) fn plug(&self, hub: HubBuilder) -> Result<HubBuilder> {
        Ok(hub
            .provider(StripeProvider::new().answering_within(ANSWERS_WITHIN))
            .connection(ConnectionConfig {
                environment: Environment::default(),
                id: ConnectionId::new(CONNECTION),
                tenant: TenantId::new(TENANT),
                provider: self.name().to_owned(),
                account: None,
                base_url: Some(self.emulator.base_url().to_owned()),
                credential: palisade_stripe::auth::api_key(Secret::new(self.emulator.api_key()))?.into(),
            })
            .endpoint(EndpointConfig {
                name: ENDPOINT.to_owned(),
                provider: self.name().to_owned(),
                connection: ConnectionId::new(CONNECTION),
                secrets: vec![Secret::new(self.secret.clone())],
            }))
    }

    fn name(&self) -> &'static str {
        self.manifest().name
    }

    /// Sends events to the hub from now on, those first that an earlier process was not heard with. They come in the
    /// version the adapter speaks, which spares a read for each.
    pub(super) fn tell(&self, stage: &Stage) {
        let url = stage.endpoint(ENDPOINT);
        let version = self.manifest().api_version.unwrap_or_default();
        let _ = self.emulator.webhook_endpoint(&url, &self.secret, Some(version), &["*"]);
        self.emulator.redeliver();
    }

    /// The typed client of the story's own calls, over the hub's pipeline.
    pub(super) fn client(&self, hub: &Hub) -> Result<palisade_stripe::Stripe> {
        let client = hub.client(self.name()).ok_or_else(|| no_client("Stripe"))?;
        palisade_stripe::Stripe::new(Arc::new(client.clone()), ConnectionId::new(CONNECTION), TenantId::new(TENANT))
            .at(self.emulator.base_url())
    }
}

/// The error of a hub that was not given a provider.
pub(super) fn no_client(title: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the hub has no client of {title}"))
}

#[async_trait]
impl Role for Stripe {
    fn manifest(&self) -> &'static Manifest {
        StripeProvider::new().manifest()
    }

    fn connection(&self) -> &'static str {
        CONNECTION
    }

    fn base_url(&self) -> &str {
        self.emulator.base_url()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    fn faults(&self) -> Faults {
        self.emulator.faults().clone()
    }

    fn streams(&self) -> Vec<&'static str> {
        streams_of(&StripeProvider::new())
    }

    fn truth(&self, stream: &str) -> Records {
        self.emulator.truth(stream)
    }

    /// Its journal knows those of earlier processes too.
    fn happened(&self) -> u64 {
        self.emulator.ledger().events_created
    }

    /// Its list of events has everything, whatever became of the deliveries.
    fn healing(&self, _continued: bool) -> Vec<(&'static str, RunMode)> {
        vec![(palisade_stripe::sync::EVENTS, RunMode::Incremental)]
    }

    async fn drain(&self) {
        self.emulator.drain_webhooks().await;
    }

    async fn shutdown(&self) {
        self.emulator.shutdown().await;
    }
}

/// Lets things happen at Stripe, until as many events were sent as the story wants. What happened in an earlier telling
/// counts.
pub(super) async fn mutate(emulator: emulated::Stripe, story: Story, progress: Progress) {
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
pub(super) struct Killed {
    /// Whether the customers' full run was under way.
    pub(super) running: bool,
    /// How often that run had been taken up by then.
    pub(super) resumed: u64,
}

/// Kills every worker where it stands when the customers' full run is half-way, and starts new ones.
pub(super) async fn kill_workers_in_mid_run(stage: &mut Stage, story: &Story, progress: &Progress) -> Result<Killed> {
    wait_for_listing(stage, story, progress, 0.5).await?;
    wait_for_a_page(stage).await?;
    enter(&stage.folder, Step::KillWorkers, progress)?;
    stage.kill().await;
    // Looked at when nobody works any more, and when what the killed had given to the store is written (it writes in
    // order; this removes nothing): the run may have ended meanwhile.
    stage.hub.store().prune_pauses(Timestamp(i64::MIN), 1).await?;
    let run = full_run(stage).await?;
    stage.work();
    Ok(Killed {
        running: run.as_ref().is_some_and(|run| run.state == RunState::Running),
        resumed: run.map_or(0, |run| run.resumed.into()),
    })
}

/// Waits until the customers' full run has listed more than a share of them, or is over.
pub(super) async fn wait_for_listing(stage: &Stage, story: &Story, progress: &Progress, share: f64) -> Result<()> {
    let enough = (story.customers as f64 * share) as u64;
    let deadline = Instant::now() + QUIET_WITHIN;
    loop {
        let run = full_run(stage).await?;
        if let Some(run) = &run {
            progress.customers(listed(run), story.customers as u64);
        }
        let goes_on =
            run.as_ref().is_none_or(|run| run.state == RunState::Running && (share >= 1.0 || listed(run) <= enough));
        if !goes_on || Instant::now() > deadline {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// Waits until the customers' full run has come on by a page, or is over: after the outage it may have waited for its next
/// attempt, with no worker at it that could be killed.
async fn wait_for_a_page(stage: &Stage) -> Result<()> {
    let deadline = Instant::now() + AT_WORK_WITHIN;
    let before = full_run(stage).await?.map(|run| run.progressed_at);
    while Instant::now() < deadline {
        let run = full_run(stage).await?;
        if run.is_none_or(|run| run.state != RunState::Running || Some(run.progressed_at) != before) {
            break;
        }
        sleep(LOOK / 5).await;
    }
    Ok(())
}

/// Records the run has listed, whatever they changed here.
fn listed(run: &Run) -> u64 {
    run.counts.added + run.counts.updated + run.counts.unchanged + run.counts.older
}

async fn full_run(stage: &Stage) -> Result<Option<Run>> {
    let runs = stage.hub.store().runs(Some(ConnectionId::new(CONNECTION)), RUNS).await?;
    Ok(runs.into_iter().find(|run| run.key.stream.as_str() == "customers" && run.mode == RunMode::Full))
}

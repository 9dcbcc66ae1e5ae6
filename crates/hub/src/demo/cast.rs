//! The cast: the five emulated providers, seen alike where the story treats them alike.
//!
//! Stripe has the large part: the outage, the killed workers, thousands of records. The others have some hundreds each,
//! and each one thing that only it can show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use async_trait::async_trait;
use palisade_core::provider::Manifest;
use palisade_core::store::{RunMode, StreamKey};
use palisade_core::{ConnectionId, Error, ErrorKind, Result, StreamName};
use palisade_emulator::{Faults, Ledger, WebhookFaults};
use serde_json::Value;
use tokio::task::JoinSet;

use super::folder::Folder;
use super::google::Google;
use super::sendgrid::SendGrid;
use super::slack::Slack;
use super::stripe::Stripe;
use super::twilio::Twilio;
use super::{Stage, Story};
use crate::hub::HubBuilder;

/// Live records of a stream by id, as the provider's API shows them.
pub(super) type Records = BTreeMap<String, Value>;

/// One provider of the story, seen alike.
#[async_trait]
pub(super) trait Role: Send + Sync {
    /// Its names.
    fn manifest(&self) -> &'static Manifest;

    /// The id of its one connection.
    fn connection(&self) -> &'static str;

    /// Where it listens.
    fn base_url(&self) -> &str;

    /// What it counted since this process began.
    fn ledger(&self) -> Ledger;

    /// What goes wrong at it.
    fn faults(&self) -> Faults;

    /// The streams of records that are compared.
    fn streams(&self) -> Vec<&'static str>;

    /// The truth of one of them.
    fn truth(&self, stream: &str) -> Records;

    /// The ids of acknowledged events as the inbox knows them; of a batch its first.
    fn acked(&self) -> BTreeSet<String> {
        self.ledger().webhooks.acked_events
    }

    /// Events it told of since this process began: by default one a delivery, those it never sent among them.
    fn happened(&self) -> u64 {
        let sent = self.ledger().webhooks;
        (sent.attempted + sent.dropped).saturating_sub(sent.retried + sent.duplicated)
    }

    /// The streams that are read once more when all is calm, and how: what webhooks alone can tell is not among them,
    /// unless a process died and took deliveries with it.
    fn healing(&self, continued: bool) -> Vec<(&'static str, RunMode)>;

    /// Waits until no delivery of its is under way.
    async fn drain(&self);

    /// Stops it.
    async fn shutdown(&self);
}

impl dyn Role + '_ {
    /// Its name in the store and in reports.
    pub(super) fn name(&self) -> &'static str {
        self.manifest().name
    }

    /// Names a stream of its connection.
    pub(super) fn key(&self, stream: &str) -> StreamKey {
        StreamKey { connection: ConnectionId::new(self.connection()), stream: StreamName::new(stream) }
    }

    /// The port it listens at, which tells its requests from those to the others.
    pub(super) fn port(&self) -> &str {
        self.base_url().rsplit_once(':').map_or("", |(_, port)| port)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) stripe: Stripe,
    pub(super) slack: Slack,
    pub(super) google: Google,
    pub(super) twilio: Twilio,
    pub(super) sendgrid: SendGrid,
}

impl Cast {
    /// Starts them for a hub at an address: as they were when the story was last told in the folder, or with their first
    /// data.
    pub(super) async fn start(story: &Story, folder: &Folder, hub: SocketAddr) -> Result<Self> {
        Ok(Self {
            stripe: Stripe::start(story, folder).await?,
            slack: Slack::start(story.seed, folder, hub).await?,
            google: Google::start(story.seed, folder, hub).await?,
            twilio: Twilio::start(story.seed, folder).await?,
            sendgrid: SendGrid::start(story.seed, folder).await?,
        })
    }

    /// Adds providers, connections, endpoints and what the product does with their events.
    pub(super) fn plug(&self, hub: HubBuilder, address: SocketAddr) -> Result<HubBuilder> {
        let hub = self.stripe.plug(hub)?;
        let hub = self.slack.plug(hub, address)?;
        let hub = self.google.plug(hub, address);
        let hub = self.twilio.plug(hub)?;
        self.sendgrid.plug(hub)
    }

    /// Each of them, Stripe first.
    pub(super) fn roles(&self) -> [&dyn Role; 5] {
        [&self.stripe, &self.slack, &self.google, &self.twilio, &self.sendgrid]
    }

    /// Every stream of records that is compared.
    pub(super) fn keys(&self) -> Vec<StreamKey> {
        let all = self.roles().into_iter();
        all.flat_map(|role| role.streams().into_iter().map(|stream| role.key(stream))).collect()
    }

    /// Begins what happens at the four beside Stripe, and what the product does there meanwhile.
    pub(super) async fn play(&self, stage: &Stage) -> Result<JoinSet<Result<()>>> {
        let mut plays = JoinSet::new();
        plays.spawn(self.slack.play(stage).await?);
        plays.spawn(self.google.play(stage).await?);
        plays.spawn(self.twilio.play(stage)?);
        plays.spawn(self.sendgrid.play(stage)?);
        Ok(plays)
    }

    /// Ends all misbehaviour and waits for what is still under way.
    pub(super) async fn calm(&self) {
        for role in self.roles() {
            role.faults().clear_all();
            role.faults().webhooks(WebhookFaults::default());
        }
        for role in self.roles() {
            role.drain().await;
        }
    }

    pub(super) async fn shutdown(&self) {
        for role in self.roles() {
            role.shutdown().await;
        }
    }
}

/// Reads the streams of records an adapter has.
pub(super) fn streams_of(provider: &dyn palisade_core::Provider) -> Vec<&'static str> {
    let all = provider.source().map(palisade_core::sync::Source::streams).unwrap_or_default();
    let records = all.iter().filter(|spec| spec.kind == palisade_core::sync::StreamKind::Records);
    records.map(|spec| spec.name).collect()
}

/// The error of an emulator that cannot be started.
pub(super) fn cannot_listen(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, "an emulator cannot listen on loopback").with_source(error)
}

/// The error of an emulator whose memory in the folder cannot be used.
pub(super) fn cannot_remember(path: &std::path::Path, error: std::io::Error) -> Error {
    let what = format!("{} cannot be used: check the folder", path.display());
    Error::new(ErrorKind::Store, what).with_source(error)
}

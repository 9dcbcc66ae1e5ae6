//! SendGrid's part: mails, of which each tells by batches of signed events what becomes of it, and the lists of addresses
//! that get none any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::clock::SystemClock;
use palisade_core::provider::Manifest;
use palisade_core::store::{RunMode, Value as Cell};
use palisade_core::worker::{Handled, handler};
use palisade_core::{Clock, ConnectionId, Environment, Result, Secret, TenantId};
use palisade_emulator::{Fault, Faults, Ledger, RetryAfter, sendgrid as emulated};
use palisade_sendgrid::client::{REFERENCE, Reconciled};
use palisade_sendgrid::{List, Mail, SendGridProvider};
use serde_json::Value;
use tokio::time::sleep;

use super::cast::{Records, Role, cannot_listen, cannot_remember};
use super::faults;
use super::folder::Folder;
use super::notes::{Before, Notes, Said, patiently};
use super::report::Promise;
use super::stripe::no_client;
use super::verdict::Facts;
use super::{PACE, Stage};
use crate::hub::{ConnectionConfig, EndpointConfig, HubBuilder};

const CONNECTION: &str = "elm-sendgrid";
const TENANT: &str = "elm";
const ENDPOINT: &str = "sendgrid";
const API_KEY: &str = "SG.demoOfTheEmulator";
/// Addresses on a list before the story begins.
const BOUNCED: usize = 120;
/// Mails the product sends.
const MAILS: u32 = 40;
/// Unknown mails that are looked up: SendGrid lets activity be asked for six times a minute. Their events tell of the
/// others.
const LOOK_UPS: usize = 1;
/// What becomes of a mail is in its recipient's name.
const FATES: [&str; 10] =
    ["deliver", "open", "bounce", "click", "block", "deliver", "spam", "unsubscribe", "invalid", "defer"];

/// Mails that events told of.
pub(super) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS mail_event (event TEXT NOT NULL, reference TEXT NOT NULL) STRICT";

/// The emulated SendGrid with one account.
#[derive(Debug)]
pub(super) struct SendGrid {
    pub(super) emulator: emulated::SendGrid,
    base_url: String,
}

impl SendGrid {
    /// Starts it: as it was when the story was last told in the folder, or with its first data.
    pub(super) async fn start(seed: u64, folder: &Folder) -> Result<Self> {
        let config = emulated::SendGridConfig { seed, api_key: API_KEY.to_owned(), ..Default::default() };
        let emulator = emulated::SendGrid::start(config).await.map_err(cannot_listen)?;
        let path = folder.provider("sendgrid.json");
        emulator.keep_memory(&path).map_err(|error| cannot_remember(&path, error))?;
        if emulator.truth(List::Bounces.name()).is_empty() {
            emulator.populate(List::Bounces.name(), BOUNCED);
        }
        Ok(Self { base_url: emulator.base_url(), emulator })
    }

    /// Adds provider, connection and endpoint, and the handler that keeps which mails were told of.
    pub(super) fn plug(&self, hub: HubBuilder) -> Result<HubBuilder> {
        let provider = palisade_sendgrid::MANIFEST.name;
        Ok(hub
            .provider(SendGridProvider::new().allowing(self.base_url.clone()))
            .connection(ConnectionConfig {
                environment: Environment::default(),
                id: ConnectionId::new(CONNECTION),
                tenant: TenantId::new(TENANT),
                provider: provider.to_owned(),
                account: None,
                base_url: Some(self.base_url.clone()),
                credential: palisade_sendgrid::auth::api_key(Secret::from(API_KEY))?.into(),
            })
            .endpoint(EndpointConfig {
                name: ENDPOINT.to_owned(),
                provider: provider.to_owned(),
                connection: ConnectionId::new(CONNECTION),
                secrets: vec![Secret::new(self.emulator.public_key())],
            })
            .on_provider(
                provider,
                "*",
                handler(|event, context| {
                    Box::pin(async move {
                        let payload: Value = serde_json::from_slice(&event.event.payload).unwrap_or_default();
                        if let Some(reference) = payload.get(REFERENCE).and_then(Value::as_str) {
                            let id = event.event.id.as_str().to_owned();
                            let values = vec![Cell::Text(id), Cell::Text(reference.to_owned())];
                            context.effect("INSERT INTO mail_event (event, reference) VALUES (?1, ?2)", values);
                        }
                        Handled::Done
                    })
                }),
            ))
    }

    /// Begins to send mails.
    pub(super) fn play(&self, stage: &Stage) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let provider = palisade_sendgrid::MANIFEST.name;
        let client = stage.hub.client(provider).ok_or_else(|| no_client("SendGrid"))?;
        let sendgrid =
            palisade_sendgrid::SendGrid::new(Arc::new(client.clone()), CONNECTION, TENANT).at(&self.base_url)?;
        self.emulator.set_event_url(Some(&stage.endpoint(ENDPOINT)));
        faults::stumble(&self.emulator.faults(), "*");
        faults::throttle_one(&self.emulator.faults(), "GET /v3/suppression/bounces");
        faults::garble(&self.emulator.faults(), faults::Old::Refused, 0.0);
        self.emulator.faults().next(
            "POST /v3/mail/send",
            [
                Fault::Pass,
                Fault::StatusAfter(500),
                Fault::Throttle(RetryAfter::Seconds(1)),
                Fault::Pass,
                Fault::ResetAfter,
                Fault::Status(502),
                Fault::ResetBefore,
            ],
        );
        let notes = stage.notes(provider);
        Ok(async move {
            for number in 0..MAILS {
                send(&sendgrid, &notes, number).await?;
                sleep(PACE).await;
            }
            look_up_some(&sendgrid, &notes).await
        })
    }

    /// How often each of the story's mails was really taken.
    fn taken(&self) -> BTreeMap<u32, u64> {
        let mut taken = BTreeMap::new();
        for mail in self.emulator.mails() {
            let reference = mail.pointer(&format!("/body/custom_args/{REFERENCE}")).and_then(Value::as_str);
            if let Some(number) = reference.and_then(number_of) {
                *taken.entry(number).or_default() += 1;
            }
        }
        taken
    }

    /// What only SendGrid shows.
    pub(super) async fn promises(&self, facts: &Facts<'_>, stage: &Stage) -> Result<Vec<Promise>> {
        let (notes, taken) = (stage.notes(palisade_sendgrid::MANIFEST.name), self.taken());
        let told = notes.against(&taken).await?;
        let rows = stage.store.query("SELECT DISTINCT reference FROM mail_event", vec![]).await?;
        let heard: Vec<u32> = rows
            .iter()
            .filter_map(|row| match row.as_slice() {
                [Cell::Text(reference)] => number_of(reference),
                _ => None,
            })
            .collect();
        let unheard = taken.keys().filter(|number| !heard.contains(number)).count();
        let strangers = heard.iter().filter(|number| !taken.contains_key(number)).count();
        Ok(vec![facts.promise(
            "A mail is sent once; what became of an unknown one its events tell",
            // Fails when an ambiguous failure is repeated or told as done or not done, and when events lose a mail's
            // reference. Events that died with a process told nobody.
            told.wrong == 0
                && told.twice == 0
                && strangers == 0
                && (facts.continued || (unheard == 0 && told.found + told.unknown + told.missing >= 1)),
            format!(
                "{} sent, {} unknown, {} of them found by a look-up, {} sent twice, {} told wrongly, {unheard} without an \
                 event",
                told.done,
                told.found + told.missing + told.unknown,
                told.found,
                told.twice,
                told.wrong
            ),
        )])
    }
}

fn number_of(reference: &str) -> Option<u32> {
    reference.strip_prefix("story-")?.parse().ok()
}

fn reference(number: u32) -> String {
    format!("story-{number}")
}

/// Sends one mail. Nothing is sent again that may have been taken.
async fn send(sendgrid: &palisade_sendgrid::SendGrid, notes: &Notes, number: u32) -> Result<()> {
    let fate = FATES.get(number as usize % FATES.len()).copied().unwrap_or("deliver");
    let mail = Mail::from("shop@elm.example")
        .to(format!("{fate}.{number}@example.com").as_str())
        .subject(format!("Your order {number}"))
        .text("It is on its way.")
        .reference(reference(number));
    let said = match notes.before(number, SystemClock.now()).await? {
        Before::Said(_) => return Ok(()),
        Before::Begun(_) => Said::Unknown,
        Before::Nothing => match patiently(|| sendgrid.send(&mail)).await {
            Ok(_) => Said::Done,
            Err(error) => Said::of(error.outcome()),
        },
    };
    notes.say(number, said).await
}

/// Looks some of the unknown mails up. A look-up that fails leaves its mail unknown: its events tell.
async fn look_up_some(sendgrid: &palisade_sendgrid::SendGrid, notes: &Notes) -> Result<()> {
    let unknown = notes.all().await?.into_iter().filter(|(_, said)| *said == Said::Unknown);
    for (number, _) in unknown.take(LOOK_UPS) {
        let reference = reference(number);
        match patiently(|| sendgrid.reconcile(&reference)).await {
            Ok(Reconciled::Sent(_)) => notes.say(number, Said::Found).await?,
            Ok(Reconciled::NotFound) => notes.say(number, Said::Missing).await?,
            Err(_) => {}
        }
    }
    Ok(())
}

#[async_trait]
impl Role for SendGrid {
    fn manifest(&self) -> &'static Manifest {
        &palisade_sendgrid::MANIFEST
    }

    fn connection(&self) -> &'static str {
        CONNECTION
    }

    fn base_url(&self) -> &str {
        &self.base_url
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn streams(&self) -> Vec<&'static str> {
        List::ALL.iter().map(|list| list.name()).collect()
    }

    fn truth(&self, stream: &str) -> Records {
        self.emulator.truth(stream)
    }

    /// Many in a delivery.
    fn happened(&self) -> u64 {
        self.emulator.ledger().events_created
    }

    /// Events tell of every address that is added; those that died with a process are read from the lists.
    fn healing(&self, continued: bool) -> Vec<(&'static str, RunMode)> {
        if continued {
            return self.streams().into_iter().map(|stream| (stream, RunMode::Incremental)).collect();
        }
        Vec::new()
    }

    async fn drain(&self) {
        self.emulator.drain_webhooks().await;
    }

    async fn shutdown(&self) {
        self.emulator.shutdown().await;
    }
}

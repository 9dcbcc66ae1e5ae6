//! Twilio's part: text messages, which have no idempotency key. One whose fate is unknown is looked up and never sent
//! again; what becomes of each is told by callbacks in any order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::clock::SystemClock;
use palisade_core::provider::Manifest;
use palisade_core::store::{RunMode, Value as Cell};
use palisade_core::worker::{Handled, handler};
use palisade_core::{Clock, ConnectionId, Environment, Error, ErrorKind, Result, Secret, TenantId, Timestamp};
use palisade_emulator::{Fault, Faults, Ledger, RetryAfter, twilio as emulated};
use palisade_twilio::client::{NewMessage, Reconciled};
use palisade_twilio::sid::AccountSid;
use palisade_twilio::sync::MESSAGES;
use palisade_twilio::{MessageStatus, TwilioProvider};
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

const CONNECTION: &str = "dune-twilio";
const TENANT: &str = "dune";
const ENDPOINT: &str = "twilio";
const TOKEN: &str = "twilioDemoAuthToken";
/// One of the account's numbers.
const SENDER: &str = "+15005550006";
/// Messages of the past.
const PAST: usize = 150;
/// Messages the product sends.
const TEXTS: u32 = 40;
/// Every so many of them somebody answers.
const ANSWERED: u32 = 8;
/// How often a look-up is tried that fails itself.
const LOOKS_MAX: u32 = 5;
/// What lies between two of them.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Where messages are sent to.
const CREATE: &str = "POST /2010-04-01/Accounts/{sid}/Messages.json";

/// What became of each message, as its callbacks told.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS text_status (sid TEXT PRIMARY KEY, rank INTEGER NOT NULL, \
                                status TEXT NOT NULL) STRICT";
/// A report counts only when it is further along than what is known.
const RANKED: &str = "INSERT INTO text_status (sid, rank, status) VALUES (?1, ?2, ?3) ON CONFLICT (sid) DO UPDATE SET \
                      rank = excluded.rank, status = excluded.status WHERE excluded.rank > text_status.rank";

/// The emulated Twilio with one account.
#[derive(Debug)]
pub(super) struct Twilio {
    pub(super) emulator: emulated::Twilio,
    base_url: String,
}

impl Twilio {
    /// Starts it: as it was when the story was last told in the folder, or with its first data.
    pub(super) async fn start(seed: u64, folder: &Folder) -> Result<Self> {
        let config = emulated::TwilioConfig { seed, auth_token: TOKEN.to_owned(), ..Default::default() };
        let emulator = emulated::Twilio::start(config).await.map_err(cannot_listen)?;
        let path = folder.provider("twilio.json");
        emulator.keep_memory(&path).map_err(|error| cannot_remember(&path, error))?;
        if emulator.truth().is_empty() {
            emulator.populate(PAST);
        }
        Ok(Self { base_url: emulator.base_url(), emulator })
    }

    fn account(&self) -> Result<AccountSid> {
        AccountSid::parse(self.emulator.account_sid())
            .map_err(|_| Error::new(ErrorKind::Config, "the emulated account has no Account SID"))
    }

    /// Adds provider, connection and endpoint, and the handler that keeps each message's status.
    pub(super) fn plug(&self, hub: HubBuilder) -> Result<HubBuilder> {
        let provider = palisade_twilio::MANIFEST.name;
        Ok(hub
            .provider(TwilioProvider::new().allowing(self.base_url.clone()))
            .connection(ConnectionConfig {
                environment: Environment::default(),
                id: ConnectionId::new(CONNECTION),
                tenant: TenantId::new(TENANT),
                provider: provider.to_owned(),
                account: Some(self.emulator.account_sid().to_owned()),
                base_url: Some(self.base_url.clone()),
                credential: palisade_twilio::auth::auth_token(&self.account()?, Secret::from(TOKEN))?.into(),
            })
            .endpoint(EndpointConfig {
                name: ENDPOINT.to_owned(),
                provider: provider.to_owned(),
                connection: ConnectionId::new(CONNECTION),
                secrets: vec![Secret::from(TOKEN)],
            })
            .on_provider(
                provider,
                "message.*",
                handler(|event, context| {
                    Box::pin(async move {
                        // `<sid>:<status>`, made of what is signed.
                        if let Some((sid, status)) = event.event.id.as_str().split_once(':') {
                            let rank = MessageStatus::of(status).rank();
                            let values = [Cell::Text(sid.to_owned()), Cell::Integer(rank.into())];
                            context.effect(RANKED, values.into_iter().chain([status.into()]).collect());
                        }
                        Handled::Done
                    })
                }),
            ))
    }

    /// Begins to send messages, and lets people answer.
    pub(super) fn play(&self, stage: &Stage) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let provider = palisade_twilio::MANIFEST.name;
        let client = stage.hub.client(provider).ok_or_else(|| no_client("Twilio"))?;
        let twilio = palisade_twilio::Twilio::new(Arc::new(client.clone()), CONNECTION, TENANT, self.account()?)
            .at(&self.base_url)?;
        let (callback, emulator) = (stage.endpoint(ENDPOINT), self.emulator.clone());
        emulator.set_inbound_url(Some(&callback));
        faults::stumble(&emulator.faults(), "*");
        faults::garble(&emulator.faults(), faults::Old::Untold, 0.05);
        // Each way a send can fail, on purpose: before and after the message was made, and where nobody can tell.
        emulator.faults().next(
            CREATE,
            [
                Fault::Pass,
                Fault::StatusAfter(500),
                Fault::Throttle(RetryAfter::Seconds(1)),
                Fault::Pass,
                Fault::ResetAfter,
                Fault::Status(503),
                Fault::CutBody,
                Fault::ResetBefore,
                Fault::Garbage,
            ],
        );
        let notes = stage.notes(provider);
        Ok(async move {
            for number in 0..TEXTS {
                if send(&twilio, &notes, number, &callback).await? && number.is_multiple_of(ANSWERED) {
                    let _ = emulator.receive(&recipient(number), SENDER, &format!("Thank you for {number}"), &[]);
                }
                sleep(PACE).await;
            }
            Ok(())
        })
    }

    /// How often each of the story's messages was really made.
    pub(super) fn made(&self) -> BTreeMap<u32, u64> {
        let mut made = BTreeMap::new();
        for message in self.emulator.truth().values().filter(|message| message["direction"] == "outbound-api") {
            let number = message["body"].as_str().and_then(|body| body.strip_prefix("Story ")?.parse().ok());
            if let Some(number) = number {
                *made.entry(number).or_default() += 1;
            }
        }
        made
    }

    /// What only Twilio shows.
    pub(super) async fn promises(&self, facts: &Facts<'_>, stage: &Stage) -> Result<Vec<Promise>> {
        let told = stage.notes(palisade_twilio::MANIFEST.name).against(&self.made()).await?;
        let (wrong_status, overtaken) = statuses(facts, stage).await?;
        Ok(vec![
            facts.promise(
                "A message is sent once; one whose fate is unknown is looked up, never sent again",
                // Fails when an ambiguous failure is repeated, told as done or as not done, or when a look-up finds what
                // is not there or overlooks what is.
                told.wrong == 0 && told.twice == 0 && (told.found >= 1 || facts.continued),
                format!(
                    "{} sent, {} found by a look-up, {} looked for in vain, {} sent twice, {} told wrongly",
                    told.done, told.found, told.missing, told.twice, told.wrong
                ),
            ),
            facts.promise(
                "A message's status is the furthest that was told, in whatever order",
                // Fails when a report that comes late takes a message back.
                wrong_status == 0 && (overtaken >= 1 || facts.continued),
                format!(
                    "{overtaken} reports were overtaken by later ones, {wrong_status} statuses are not the furthest"
                ),
            ),
        ])
    }
}

/// Compares the product's statuses with what came: how many are not the furthest that was told, and how many reports
/// came after one that is further along.
async fn statuses(facts: &Facts<'_>, stage: &Stage) -> Result<(u64, u64)> {
    let mut furthest: BTreeMap<&str, u8> = BTreeMap::new();
    let mut overtaken = 0;
    for id in &facts.inbox.arrived {
        let Some((sid, status)) = id.split_once(':') else { continue };
        let rank = MessageStatus::of(status).rank();
        let known = furthest.entry(sid).or_insert(rank);
        overtaken += u64::from(rank < *known);
        *known = rank.max(*known);
    }
    let rows = stage.store.query("SELECT sid, status FROM text_status", vec![]).await?;
    let kept: BTreeMap<&str, u8> = rows
        .iter()
        .filter_map(|row| match row.as_slice() {
            [Cell::Text(sid), Cell::Text(status)] => Some((sid.as_str(), MessageStatus::of(status).rank())),
            _ => None,
        })
        .collect();
    let wrong = furthest.iter().filter(|(sid, rank)| kept.get(*sid) != Some(rank)).count();
    Ok((wrong as u64, overtaken))
}

fn recipient(number: u32) -> String {
    format!("+1555100{number:04}")
}

/// Sends one message, or finds out what became of it. Returns whether this is the first telling that does.
async fn send(twilio: &palisade_twilio::Twilio, notes: &Notes, number: u32, callback: &str) -> Result<bool> {
    let message = NewMessage::text(recipient(number), format!("Story {number}")).from(SENDER).status_callback(callback);
    let now = SystemClock.now();
    let said = match notes.before(number, now).await? {
        Before::Said(_) => return Ok(false),
        Before::Begun(begun) => look_up(twilio, &message, begun).await,
        Before::Nothing => match patiently(|| twilio.send(&message)).await {
            Ok(_) => Said::Done,
            Err(error) => match Said::of(error.outcome()) {
                Said::Unknown => look_up(twilio, &message, now).await,
                known @ (Said::Done | Said::Found | Said::Missing | Said::NotDone) => known,
            },
        },
    };
    notes.say(number, said).await?;
    Ok(true)
}

/// Looks for a message that may have been sent. A product with a real account looks once more after two minutes before
/// it takes "not there" for an answer; nothing is under way in an emulator that has answered or died.
async fn look_up(twilio: &palisade_twilio::Twilio, message: &NewMessage, begun: Timestamp) -> Said {
    for _ in 0..LOOKS_MAX {
        match patiently(|| twilio.reconcile(message, begun)).await {
            Ok(Reconciled::Sent(_)) => return Said::Found,
            Ok(Reconciled::NotFound) => return Said::Missing,
            Ok(Reconciled::Unclear(_)) => return Said::Unknown,
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
    Said::Unknown
}

#[async_trait]
impl Role for Twilio {
    fn manifest(&self) -> &'static Manifest {
        &palisade_twilio::MANIFEST
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
        vec![MESSAGES]
    }

    fn truth(&self, _stream: &str) -> Records {
        self.emulator.truth()
    }

    /// Twilio tells once and gives up; its list has the rest.
    fn healing(&self, _continued: bool) -> Vec<(&'static str, RunMode)> {
        vec![(MESSAGES, RunMode::Incremental)]
    }

    async fn drain(&self) {
        self.emulator.drain_webhooks().await;
    }

    async fn shutdown(&self) {
        self.emulator.shutdown().await;
    }
}

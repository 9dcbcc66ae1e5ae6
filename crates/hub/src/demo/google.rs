//! Google's part: a mailbox and a calendar that tell no more than that there is news, through Pub/Sub and through a
//! channel. The hub reads on from where it was.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::provider::Manifest;
use palisade_core::store::RunMode;
use palisade_core::transport::HttpTransport;
use palisade_core::{ConnectionId, Result, Secret, Transport};
use palisade_emulator::google as emulated;
use palisade_emulator::{Faults, Ledger, Poster};
use palisade_google::auth::{CALENDAR_READONLY, GMAIL_READONLY};
use palisade_google::client::{NewChannel, NewWatch};
use palisade_google::sync::{EVENTS, MESSAGES};
use palisade_google::webhook::{CALENDAR_CHANGED, MAIL_CHANGED, PushTrust, Trust};
use palisade_google::{GoogleProvider, GoogleWebhook};
use serde_json::{Value, json};

use super::Stage;
use super::accounts::{At, app, callback};
use super::cast::{Records, Role, cannot_listen, cannot_remember};
use super::faults;
use super::folder::Folder;
use super::report::Promise;
use super::stripe::no_client;
use super::verdict::Facts;
use crate::hub::{EndpointConfig, HubBuilder};

const CONNECTION: &str = "cedar-google";
const TENANT: &str = "cedar";
const ENDPOINT: &str = "google";
const PERSON: &str = "ada@cedar.example";
/// A message costs a twentieth of what a mailbox grants a second and a quarter: so few are read in a moment.
const MESSAGES_SEEDED: usize = 24;
const EVENTS_SEEDED: usize = 60;
/// Things that happen.
const HAPPENINGS: u32 = 18;
/// A daily meeting, one of which is called off.
const SERIES: &str = "demoseries";
const CALLED_OFF: &str = "demoseries_20261203T090000Z";
const TOPIC: &str = "projects/demo/topics/gmail";
const SUBSCRIPTION: &str = "projects/demo/subscriptions/gmail";
const PUSHER: &str = "push@demo.iam.gserviceaccount.com";
const AUDIENCE: &str = "palisade-demo";
/// Derives the tokens of channels.
const CHANNEL_KEY: &str = "the demo's key of its channels";
/// Calendar posts to https only, so the hub stands behind a name that a proxy ends TLS for; here the post room is it.
const FRONT: &str = "hooks.palisade.example";

/// The emulated Google with one person.
#[derive(Debug)]
pub(super) struct Google {
    pub(super) emulator: emulated::Google,
    base_url: String,
}

/// Delivers what is meant for the front to the hub behind it.
fn through_the_front(hub: SocketAddr) -> Result<Poster> {
    let network = Arc::new(HttpTransport::new()?);
    Ok(Arc::new(move |mut request| {
        let network = Arc::clone(&network);
        if request.uri().host() == Some(FRONT)
            && let Ok(behind) = format!("http://{hub}{}", request.uri().path()).parse()
        {
            *request.uri_mut() = behind;
        }
        Box::pin(async move { network.send(request).await.ok() })
    }))
}

impl Google {
    /// Starts it for a hub at an address: as it was when the story was last told in the folder, or with its first data.
    /// Tokens, channels and watches are forgotten with the process.
    pub(super) async fn start(seed: u64, folder: &Folder, hub: SocketAddr) -> Result<Self> {
        let mut config = emulated::GoogleConfig { seed, ..Default::default() };
        config.people = vec![emulated::Person::new(PERSON, "Ada Lovelace")];
        config.clients = config.clients.into_iter().map(|known| app(known, hub, "google")).collect();
        config.poster = Some(through_the_front(hub)?);
        let emulator = emulated::Google::start(config).await.map_err(cannot_listen)?;
        let path = folder.provider("google.json");
        emulator.keep_memory(&path).map_err(|error| cannot_remember(&path, error))?;
        if emulator.messages(PERSON).is_empty() {
            emulator.populate(PERSON, MESSAGES_SEEDED, EVENTS_SEEDED);
        }
        if !emulator.events(PERSON).contains_key(SERIES) {
            let daily = json!({
                "summary": "Stand-up", "recurrence": ["RRULE:FREQ=DAILY;COUNT=5"],
                "start": { "dateTime": "2026-12-01T09:00:00Z", "timeZone": "UTC" },
                "end": { "dateTime": "2026-12-01T09:15:00Z", "timeZone": "UTC" },
            });
            // Refused is none of it.
            let _ = emulator.event(PERSON, Some(SERIES), &daily);
        }
        emulator.subscribe(emulated::Subscription {
            name: SUBSCRIPTION.to_owned(),
            topic: TOPIC.to_owned(),
            url: format!("http://{hub}/webhooks/{ENDPOINT}"),
            audience: AUDIENCE.to_owned(),
            email: PUSHER.to_owned(),
        });
        Ok(Self { base_url: emulator.base_url(), emulator })
    }

    /// Adds the provider, its flow and its endpoint.
    pub(super) fn plug(&self, hub: HubBuilder, address: SocketAddr) -> HubBuilder {
        let webhook = GoogleWebhook::new().keys_at(format!("{}/oauth2/v3/certs", self.base_url));
        let push = PushTrust { audience: AUDIENCE.to_owned(), email: PUSHER.to_owned(), topic: None };
        hub.provider(GoogleProvider::new().allowing(self.base_url.clone()).verifying(webhook))
            .flow(self.flow(address))
            .endpoint(EndpointConfig {
                name: ENDPOINT.to_owned(),
                provider: palisade_google::MANIFEST.name.to_owned(),
                connection: ConnectionId::new(CONNECTION),
                secrets: vec![Trust::Push(push).to_secret(), Secret::from(CHANNEL_KEY)],
            })
    }

    fn flow(&self, hub: SocketAddr) -> OAuth2Config {
        let (id, secret) = self.emulator.client();
        let scopes = [GMAIL_READONLY, CALENDAR_READONLY];
        let flow = palisade_google::auth::connect(&id, secret.into(), &callback(hub, "google"), &scopes);
        palisade_google::auth::at(flow, &self.base_url)
    }

    /// Seen as a place where accounts are connected in a browser.
    pub(super) fn at(&self) -> At {
        At {
            manifest: &palisade_google::MANIFEST,
            connection: CONNECTION,
            tenant: TENANT,
            base_url: self.base_url.clone(),
            authority: self.emulator.oauth(),
        }
    }

    /// Asks to be told of news, and begins what happens in the mailbox and the calendar.
    pub(super) async fn play(&self, stage: &Stage) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let name = palisade_google::MANIFEST.name;
        let client = stage.hub.client(name).ok_or_else(|| no_client("Google"))?;
        let google = palisade_google::Google::new(Arc::new(client.clone()), CONNECTION, TENANT).at(&self.base_url)?;
        let watch = NewWatch { topic: TOPIC.to_owned(), labels: Vec::new(), excluding: false };
        let address = format!("https://{FRONT}/webhooks/{ENDPOINT}");
        let channel = NewChannel { address, key: Secret::from(CHANNEL_KEY) };
        // An account that was not connected is for the verdict to tell, not for the story to end with.
        if let Err(error) = google.watch_mailbox(&watch).await.map(drop) {
            tracing::warn!(%error, "the mailbox is not watched");
        }
        if let Err(error) = google.watch_events(PERSON, &channel).await.map(drop) {
            tracing::warn!(%error, "the calendar is not watched");
        }
        faults::stumble(&self.emulator.faults(), "GET /gmail/*");
        faults::stumble(&self.emulator.faults(), "GET /calendar/*");
        faults::throttle_one(&self.emulator.faults(), "GET /calendar/*");
        faults::garble(&self.emulator.faults(), faults::Old::Refused, 0.0);
        let emulator = self.emulator.clone();
        Ok(stage.happenings(name).play(HAPPENINGS, move |number| happen(&emulator, number)))
    }

    /// What only Google shows.
    pub(super) fn promises(facts: &Facts<'_>, pushed: &[usize]) -> Vec<Promise> {
        let kinds = |kind: &str| facts.inbox.kinds.get(kind).copied().unwrap_or(0);
        let (mail, calendar) = (kinds(MAIL_CHANGED), kinds(CALENDAR_CHANGED));
        let runs = || pushed.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
        let called_off = facts.copy(EVENTS).and_then(|copy| copy.get(CALLED_OFF));
        let called_off = called_off.is_some_and(|event| event["status"] == "cancelled");
        vec![
            facts.promise(
                "A notification makes the hub read on",
                // Fails when a notification of the mailbox's topic or the calendar's channel makes no run. What died with a process tells nobody.
                (mail >= 1 && calendar >= 1 && pushed.iter().all(|runs| *runs > 0)) || facts.continued,
                format!("{mail} of mail and {calendar} of the calendar, {} runs followed", runs()),
            ),
            facts.promise(
                "One meeting of a series is called off, the others stay",
                // Fails when a cancelled instance is taken for a deleted event, or takes its series with it.
                called_off && facts.copy(EVENTS).is_some_and(|copy| copy.contains_key(SERIES)),
                format!("{CALLED_OFF} {}", if called_off { "is called off here" } else { "is not called off here" }),
            ),
        ]
    }
}

/// Lets one thing happen in the mailbox or the calendar.
fn happen(emulator: &emulated::Google, number: u32) {
    let one_of = |all: Records, keep: &dyn Fn(&str, &Value) -> bool| -> Option<String> {
        let ids: Vec<String> = all.into_iter().filter(|(id, value)| keep(id, value)).map(|(id, _)| id).collect();
        ids.get((number as usize).checked_rem(ids.len())?).cloned()
    };
    let mail = || one_of(emulator.messages(PERSON), &|_, _| true);
    let single = |id: &str, event: &Value| !id.starts_with(SERIES) && event["status"] != "cancelled";
    let renamed = json!({ "summary": format!("Moved {number}") });
    let at = |hour: u32| json!({ "dateTime": format!("2026-12-10T{hour:02}:00:00Z"), "timeZone": "UTC" });
    // What a person of the emulator's refuses changes nothing, which is as good.
    match number % 6 {
        0 => drop(emulator.receive(PERSON, &format!("News {number}"), "Text")),
        1 => drop(mail().map(|id| emulator.relabel(PERSON, &id, &["STARRED"], &[]))),
        2 => {
            let _ = one_of(emulator.events(PERSON), &single).map(|id| emulator.event(PERSON, Some(&id), &renamed));
        }
        3 => {
            let hour = number % 20;
            let new = json!({ "summary": format!("New {number}"), "start": at(hour), "end": at(hour + 1) });
            let _ = emulator.event(PERSON, None, &new);
        }
        4 => drop(mail().map(|id| emulator.delete_message(PERSON, &id))),
        _ if number == 5 => drop(emulator.cancel_event(PERSON, CALLED_OFF)),
        _ => drop(one_of(emulator.events(PERSON), &single).map(|id| emulator.cancel_event(PERSON, &id))),
    }
}

#[async_trait]
impl Role for Google {
    fn manifest(&self) -> &'static Manifest {
        &palisade_google::MANIFEST
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
        vec![MESSAGES, EVENTS]
    }

    fn truth(&self, stream: &str) -> Records {
        if stream == MESSAGES { self.emulator.messages(PERSON) } else { self.emulator.events(PERSON) }
    }

    /// A channel's notification is known to its sender with what it says behind its number; that the channel is open is
    /// no event.
    fn acked(&self) -> BTreeSet<String> {
        let all = self.emulator.ledger().webhooks.acked_events.into_iter().filter(|id| !is_opening(id));
        all.map(|id| id.strip_suffix("/exists").map(str::to_owned).unwrap_or(id)).collect()
    }

    fn happened(&self) -> u64 {
        let sent = self.emulator.ledger().webhooks;
        let openings = sent.acked_events.iter().filter(|id| is_opening(id)).count() as u64;
        (sent.attempted + sent.dropped).saturating_sub(sent.retried + sent.duplicated + openings)
    }

    /// Notifications make the runs; those that died with a process made none.
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

fn is_opening(id: &str) -> bool {
    id.ends_with("/sync")
}

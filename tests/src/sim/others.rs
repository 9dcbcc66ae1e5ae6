//! Slack, Google, Twilio and SendGrid in the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use palisade_core::auth::Scheme;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::store::RunMode;
use palisade_core::{Secret, Transport};
use palisade_emulator::google::{Google, GoogleConfig, Person, Subscription};
use palisade_emulator::oauth::{Authority, Client, Consent, Dials};
use palisade_emulator::sendgrid::{SendGrid, SendGridConfig};
use palisade_emulator::slack::{self, Slack, SlackConfig};
use palisade_emulator::twilio::{Twilio, TwilioConfig};
use palisade_emulator::{Faults, Ledger};
use palisade_google::GoogleProvider;
use palisade_google::client::mail::Mail as Letter;
use palisade_google::webhook::{PushTrust, Trust};
use palisade_hub::HubBuilder;
use palisade_sendgrid::client::REFERENCE;
use palisade_sendgrid::{List, Mail, SendGridProvider};
use palisade_slack::SlackProvider;
use palisade_testkit::EmulatorTransport;
use palisade_twilio::TwilioProvider;
use palisade_twilio::client::NewMessage;
use palisade_twilio::sid::AccountSid;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::Value;

use super::actor::{Actor, Making, Peak, Records, connection, counted, endpoint, hook, number_of, text_of};
use crate::lockstep::{APP_ID, APP_SECRET, BACK};

// -------------------------------------------------------------------------------------------------------- Slack

/// Slack: a workspace where people write, change and take back messages. Its token lives for minutes, and each of its
/// refresh tokens is good for one use.
pub(super) struct Workspace {
    emulator: Slack,
}

const SIGNING_SECRET: &str = "the-signing-secret-of-the-simulation";
/// How long an access token lives.
const LIFE: Duration = Duration::from_secs(600);
const SCOPES: [&str; 12] = [
    "channels:read",
    "channels:history",
    "groups:read",
    "groups:history",
    "im:read",
    "im:history",
    "mpim:read",
    "mpim:history",
    "users:read",
    "users:read.email",
    "team:read",
    "chat:write",
];

impl Workspace {
    pub(super) fn new(making: Making) -> Self {
        let Making { seed, clock, poster } = making;
        let app = Client {
            id: APP_ID.to_owned(),
            secret: Some(APP_SECRET.to_owned()),
            redirect_uris: vec![BACK.to_owned()],
            ..Client::default()
        };
        let emulator = Slack::offline(SlackConfig {
            seed,
            clock,
            poster: Some(poster),
            clients: vec![app],
            signing_secret: SIGNING_SECRET.to_owned(),
            ..SlackConfig::default()
        });
        let oauth = emulator.oauth();
        oauth.set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
        let mut rules = oauth.rules();
        rules.access_life = Some(LIFE);
        oauth.set_rules(rules);
        emulator.populate(&slack::Seed { users: 8, channels: 3, private_channels: 0, messages_per_channel: 6 });
        emulator.subscribe(&hook("slack"), &["*"]);
        Self { emulator }
    }
}

impl Actor for Workspace {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn answers(&self, host: &str) -> bool {
        host.ends_with("slack.com")
    }

    fn transport(&self) -> EmulatorTransport {
        EmulatorTransport::new(self.emulator.clone())
    }

    fn plug(&self, hub: HubBuilder) -> HubBuilder {
        hub.provider(SlackProvider::new())
            .flow(self.flow().expect("its flow"))
            .endpoint(endpoint(self.name(), vec![Secret::from(SIGNING_SECRET)]))
    }

    fn happen(&self, dice: &mut StdRng) {
        let _ = self.emulator.random_mutation(dice);
    }

    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>> {
        let channel = self.emulator.truth("conversations").into_keys().next().unwrap_or_default();
        Box::pin(async move {
            let slack = palisade_slack::Slack::new(pipeline, "slack", "slack");
            slack.post(&channel, &palisade_slack::NewMessage::new(text_of(number))).await.map(drop)
        })
    }

    fn done(&self) -> BTreeMap<u64, u64> {
        let messages = self.emulator.truth("messages").into_values();
        counted(messages.filter_map(|one| number_of(one["text"].as_str()?)))
    }

    fn forgets(&self) -> bool {
        true
    }

    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)> {
        ["users", "conversations", "messages"].map(|stream| (stream, Some(RunMode::Full))).to_vec()
    }

    fn truth(&self, stream: &str) -> Records {
        let mut truth = self.emulator.truth(stream);
        // What a message tells of its answers is theirs: the adapter keeps them as records of their own.
        for message in truth.values_mut().filter(|_| stream == "messages").filter_map(Value::as_object_mut) {
            let begins = message.get("thread_ts") == message.get("ts");
            message.retain(|field, _| !(slack::OF_READING.contains(&field.as_str()) || begins && field == "thread_ts"));
        }
        truth
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.emulator.drain_webhooks().await })
    }

    fn secrets(&self) -> Vec<String> {
        vec![SIGNING_SECRET.to_owned(), APP_SECRET.to_owned()]
    }

    /// By method and minute (docs.slack.dev, rate limits), and the one more that the way there may press into a minute.
    fn peaks(&self) -> Vec<Peak> {
        let most = |method: &str| match method {
            "users.list" | "users.conversations" | "conversations.list" => 20,
            "conversations.history" | "conversations.replies" | "conversations.info" | "team.info" => 50,
            "users.info" | "conversations.members" => 100,
            // One a second and channel, and three at once.
            "chat.postMessage" => 63,
            "auth.test" => 600,
            other => panic!("what Slack allows of {other} is not known here"),
        };
        let method = |lane: &str| lane.split(' ').next().unwrap_or_default().to_owned();
        let peaks = self.ledger().peak_per_minute_by_lane.into_iter();
        peaks.map(|(lane, peak)| (lane.clone(), peak, most(&method(&lane)) + 1)).collect()
    }

    fn flow(&self) -> Option<OAuth2Config> {
        Some(palisade_slack::auth::oauth2(BACK, APP_ID, APP_SECRET.into(), &SCOPES, &[]))
    }

    fn authority(&self) -> Option<Authority> {
        Some(self.emulator.oauth().clone())
    }

    fn token_path(&self) -> Option<&'static str> {
        Some("/api/oauth.v2.access")
    }
}

// ------------------------------------------------------------------------------------------------------- Google

/// Google: a mailbox and a calendar that tell no more than that there is news.
pub(super) struct Office {
    emulator: Google,
    token: String,
}

const PERSON: &str = "ada@office.example";
const TOPIC: &str = "projects/simulation/topics/gmail";
const PUSHER: &str = "push@simulation.iam.gserviceaccount.com";
/// How long the token works that the connection is given.
const KEY_LIFE: Duration = Duration::from_secs(365 * 86_400);
const CHANNEL_KEY: &str = "the key of the simulation's channels";

impl Office {
    pub(super) fn new(making: Making) -> Self {
        let Making { seed, clock, poster } = making;
        let emulator = Google::offline(GoogleConfig {
            seed,
            clock,
            poster: Some(poster),
            people: vec![Person::new(PERSON, "Ada Lovelace")],
            ..GoogleConfig::default()
        });
        emulator.populate(PERSON, 12, 15);
        emulator.subscribe(Subscription {
            name: "projects/simulation/subscriptions/gmail".to_owned(),
            topic: TOPIC.to_owned(),
            url: hook("google"),
            audience: hook("google"),
            email: PUSHER.to_owned(),
        });
        // A key that is given once and renewed by nobody must outlast every simulation.
        let mut rules = emulator.oauth().rules();
        rules.access_life = Some(KEY_LIFE);
        emulator.oauth().set_rules(rules);
        let scopes = ["https://mail.google.com/", "https://www.googleapis.com/auth/calendar"];
        let token = emulator.access_token(PERSON, &scopes);
        Self { emulator, token }
    }
}

impl Actor for Office {
    fn name(&self) -> &'static str {
        "google"
    }

    fn answers(&self, host: &str) -> bool {
        host.ends_with("googleapis.com") || host.ends_with("google.com")
    }

    fn transport(&self) -> EmulatorTransport {
        EmulatorTransport::new(self.emulator.clone())
    }

    fn plug(&self, hub: HubBuilder) -> HubBuilder {
        let push = PushTrust { audience: hook("google"), email: PUSHER.to_owned(), topic: Some(TOPIC.to_owned()) };
        hub.provider(GoogleProvider::new())
            .connection(connection(self.name(), Some(PERSON), Scheme::Bearer(self.token.as_str().into())))
            .endpoint(endpoint(self.name(), vec![Trust::Push(push).to_secret(), Secret::from(CHANNEL_KEY)]))
    }

    fn happen(&self, dice: &mut StdRng) {
        self.emulator.mutate(PERSON, 1, dice.next_u64());
    }

    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>> {
        Box::pin(async move {
            let google = palisade_google::Google::new(pipeline, "google", "google");
            let letter = Letter::new().from(PERSON).to("bob@elsewhere.example").subject(text_of(number)).text("Text");
            let letter = google.prepare(&letter)?;
            google.send_mail(&letter).await.map(drop)
        })
    }

    fn done(&self) -> BTreeMap<u64, u64> {
        let subject = |message: &Value| {
            let headers = message.pointer("/payload/headers")?.as_array()?;
            let subject = headers.iter().find(|header| header["name"] == "Subject")?;
            number_of(subject["value"].as_str()?)
        };
        counted(self.emulator.messages(PERSON).values().filter_map(subject))
    }

    fn forgets(&self) -> bool {
        true
    }

    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)> {
        [palisade_google::sync::MESSAGES, palisade_google::sync::EVENTS]
            .map(|stream| (stream, Some(RunMode::Incremental)))
            .to_vec()
    }

    fn truth(&self, stream: &str) -> Records {
        let mail = stream == palisade_google::sync::MESSAGES;
        if mail { self.emulator.messages(PERSON) } else { self.emulator.events(PERSON) }
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    /// A channel's notification is known with what it says behind its number; that the channel is open is no event.
    fn acked(&self) -> BTreeSet<String> {
        let all = self.ledger().webhooks.acked_events.into_iter().filter(|id| !id.ends_with("/sync"));
        all.map(|id| id.strip_suffix("/exists").map(str::to_owned).unwrap_or(id)).collect()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.emulator.drain_webhooks().await })
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.token.clone(), CHANNEL_KEY.to_owned()]
    }

    /// Units of Gmail and requests of Calendar by user and minute (the APIs' usage limits).
    fn peaks(&self) -> Vec<Peak> {
        let (units, requests) = (self.emulator.gmail_units(PERSON).0, self.emulator.calendar_requests(PERSON).0);
        vec![("units of Gmail a minute".to_owned(), units, 6_000), ("Calendar a minute".to_owned(), requests, 600)]
    }
}

// ------------------------------------------------------------------------------------------------------- Twilio

/// Twilio: text messages, which have no idempotency key.
pub(super) struct Phone {
    emulator: Twilio,
}

const SENDER: &str = "+15005550006";

impl Phone {
    pub(super) fn new(making: Making) -> Self {
        let Making { seed, clock, poster } = making;
        let emulator = Twilio::offline(TwilioConfig {
            seed,
            clock,
            poster: Some(poster),
            inbound_url: Some(hook("twilio")),
            ..TwilioConfig::default()
        });
        emulator.populate(15);
        Self { emulator }
    }

    fn account(&self) -> AccountSid {
        AccountSid::parse(self.emulator.account_sid()).expect("the emulated account")
    }
}

impl Actor for Phone {
    fn name(&self) -> &'static str {
        "twilio"
    }

    fn answers(&self, host: &str) -> bool {
        host.ends_with("twilio.com")
    }

    fn transport(&self) -> EmulatorTransport {
        EmulatorTransport::new(self.emulator.clone())
    }

    fn plug(&self, hub: HubBuilder) -> HubBuilder {
        let token = Secret::from(self.emulator.auth_token());
        let key = palisade_twilio::auth::auth_token(&self.account(), token.clone()).expect("a credential");
        hub.provider(TwilioProvider::new())
            .connection(connection(self.name(), Some(self.emulator.account_sid()), key))
            .endpoint(endpoint(self.name(), vec![token]))
    }

    fn happen(&self, dice: &mut StdRng) {
        let from = format!("+1555100{:04}", dice.random_range(0..10_000));
        let sids: Vec<String> = self.emulator.truth().into_keys().collect();
        let one = sids.get(dice.random_range(0..sids.len().max(1)));
        match (dice.random_range(0..4), one) {
            (0, Some(sid)) => drop(self.emulator.delete(sid)),
            (1, Some(sid)) => drop(self.emulator.report(sid, "delivered", None)),
            _ => drop(self.emulator.receive(&from, SENDER, "Hello", &[])),
        }
    }

    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>> {
        let account = self.account();
        Box::pin(async move {
            let twilio = palisade_twilio::Twilio::new(pipeline, "twilio", "twilio", account);
            let message =
                NewMessage::text("+15551000001", text_of(number)).from(SENDER).status_callback(hook("twilio"));
            twilio.send(&message).await.map(drop)
        })
    }

    fn done(&self) -> BTreeMap<u64, u64> {
        counted(self.emulator.truth().values().filter_map(|one| number_of(one["body"].as_str()?)))
    }

    fn forgets(&self) -> bool {
        true
    }

    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)> {
        vec![(palisade_twilio::sync::MESSAGES, Some(RunMode::Full))]
    }

    fn truth(&self, _: &str) -> Records {
        self.emulator.truth()
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    /// Nothing of a callback that is signed changes with the time.
    fn tells_old(&self) -> bool {
        false
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.emulator.drain_webhooks().await })
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.emulator.auth_token().to_owned()]
    }
}

// ----------------------------------------------------------------------------------------------------- SendGrid

/// SendGrid: mails, what becomes of them, and who gets none any more.
pub(super) struct Post {
    emulator: SendGrid,
}

impl Post {
    pub(super) fn new(making: Making) -> Self {
        let Making { seed, clock, poster } = making;
        let emulator = SendGrid::offline(SendGridConfig {
            seed,
            clock,
            poster: Some(poster),
            event_url: Some(hook("sendgrid")),
            ..SendGridConfig::default()
        });
        emulator.populate(List::Bounces.name(), 12);
        Self { emulator }
    }
}

impl Actor for Post {
    fn name(&self) -> &'static str {
        "sendgrid"
    }

    fn answers(&self, host: &str) -> bool {
        host.ends_with("sendgrid.com")
    }

    fn transport(&self) -> EmulatorTransport {
        EmulatorTransport::new(self.emulator.clone())
    }

    fn plug(&self, hub: HubBuilder) -> HubBuilder {
        let key = palisade_sendgrid::auth::api_key(Secret::from(self.emulator.api_key())).expect("a credential");
        hub.provider(SendGridProvider::new())
            .connection(connection(self.name(), None, key))
            .endpoint(endpoint(self.name(), vec![Secret::new(self.emulator.public_key())]))
    }

    fn happen(&self, dice: &mut StdRng) {
        let list = List::ALL[dice.random_range(0..List::ALL.len())].name();
        let known: Vec<String> = self.emulator.truth(list).into_keys().collect();
        match known.get(dice.random_range(0..known.len().max(1))) {
            Some(email) if dice.random_bool(0.3) => drop(self.emulator.release(list, email)),
            _ => self.emulator.suppress(list, &format!("person.{}@example.com", dice.random_range(0..100_000))),
        }
    }

    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>> {
        const FATES: [&str; 6] = ["deliver", "open", "bounce", "click", "spam", "unsubscribe"];
        let fate = FATES[usize::try_from(number).unwrap_or(0) % FATES.len()];
        Box::pin(async move {
            let sendgrid = palisade_sendgrid::SendGrid::new(pipeline, "sendgrid", "sendgrid");
            let mail = Mail::from("shop@office.example")
                .to(format!("{fate}.{number}@example.com").as_str())
                .subject("Your order")
                .text("It is on its way.")
                .reference(text_of(number));
            sendgrid.send(&mail).await.map(drop)
        })
    }

    fn done(&self) -> BTreeMap<u64, u64> {
        let reference = |mail: &Value| {
            let reference = mail.pointer(&format!("/body/custom_args/{REFERENCE}"))?;
            number_of(reference.as_str()?)
        };
        counted(self.emulator.mails().iter().filter_map(reference))
    }

    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)> {
        List::ALL.iter().map(|list| (list.name(), Some(RunMode::Full))).collect()
    }

    fn truth(&self, stream: &str) -> Records {
        self.emulator.truth(stream)
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.emulator.drain_webhooks().await })
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.emulator.api_key().to_owned()]
    }
}

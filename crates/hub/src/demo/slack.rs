//! Slack's part: a workspace where people write, change and take back messages. Nothing but signed events tells of a
//! message that is gone.

use std::net::SocketAddr;

use async_trait::async_trait;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::provider::Manifest;
use palisade_core::store::RunMode;
use palisade_core::{ConnectionId, Error, ErrorKind, Result, Secret};
use palisade_emulator::slack as emulated;
use palisade_emulator::{Faults, Ledger};
use palisade_slack::sync::{CONVERSATIONS, MESSAGES, USERS};
use palisade_slack::{SlackProvider, SlackSource};

use super::Stage;
use super::accounts::{At, app, callback};
use super::cast::{Records, Role, cannot_listen, cannot_remember};
use super::faults;
use super::folder::Folder;
use super::report::Promise;
use super::verdict::Facts;
use crate::hub::{EndpointConfig, HubBuilder};

const CONNECTION: &str = "birch-slack";
const ENDPOINT: &str = "slack";
const SIGNING_SECRET: &str = "slack-demo-signing-secret";
/// What the workspace is filled with. Each channel has one thread, because each is a call of a method that takes fifty a
/// minute.
const WORKSPACE: emulated::Seed =
    emulated::Seed { users: 30, channels: 3, private_channels: 0, messages_per_channel: 4 };
/// Messages beside those, none of which begins a thread.
const PAST: usize = 60;
/// Things that happen.
const HAPPENINGS: u32 = 42;

/// The emulated Slack with one workspace.
#[derive(Debug)]
pub(super) struct Slack {
    pub(super) emulator: emulated::Slack,
    base_url: String,
}

impl Slack {
    /// Starts it for a hub at an address: as it was when the story was last told in the folder, or with its first data.
    /// Tokens are forgotten with the process.
    pub(super) async fn start(seed: u64, folder: &Folder, hub: SocketAddr) -> Result<Self> {
        let mut config = emulated::SlackConfig { seed, ..Default::default() };
        config.workspaces = vec![emulated::Workspace::new("T0BIRCH", "Birch")];
        config.clients = config.clients.into_iter().map(|known| app(known, hub, "slack")).collect();
        config.signing_secret = SIGNING_SECRET.to_owned();
        let emulator = emulated::Slack::start(config).await.map_err(cannot_listen)?;
        let path = folder.provider("slack.json");
        emulator.keep_memory(&path).map_err(|error| cannot_remember(&path, error))?;
        if emulator.truth(CONVERSATIONS).is_empty() {
            emulator.populate(&WORKSPACE);
        }
        let said = emulator.truth(MESSAGES).len();
        for number in said..WORKSPACE.channels * WORKSPACE.messages_per_channel + PAST {
            say(&emulator, number, &format!("past {number}"));
        }
        Ok(Self { base_url: emulator.base_url(), emulator })
    }

    /// Adds the provider, its flow and its endpoint.
    pub(super) fn plug(&self, hub: HubBuilder, address: SocketAddr) -> Result<HubBuilder> {
        let public = SlackSource::new().of_types(&["public_channel"])?;
        Ok(hub
            .provider(SlackProvider::new().allowing(self.base_url.clone()).copying(public))
            .flow(self.flow(address))
            .endpoint(EndpointConfig {
                name: ENDPOINT.to_owned(),
                provider: palisade_slack::MANIFEST.name.to_owned(),
                connection: ConnectionId::new(CONNECTION),
                secrets: vec![Secret::from(SIGNING_SECRET)],
            }))
    }

    fn flow(&self, hub: SocketAddr) -> OAuth2Config {
        let (id, secret) = self.emulator.client();
        let scopes = ["channels:history", "channels:read", "users:read", "users:read.email"];
        let flow = palisade_slack::auth::oauth2(&callback(hub, "slack"), &id, secret.into(), &scopes, &[]);
        palisade_slack::auth::at(flow, &self.base_url)
    }

    /// Seen as a place where accounts are connected in a browser.
    pub(super) fn at(&self) -> At {
        At {
            manifest: &palisade_slack::MANIFEST,
            connection: CONNECTION,
            tenant: "birch",
            base_url: self.base_url.clone(),
            authority: self.emulator.oauth(),
        }
    }

    /// Subscribes the hub to the app's events, by the handshake, and begins what happens in the workspace.
    pub(super) async fn play(&self, stage: &Stage) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let shaken = self.emulator.subscribe_verified(&stage.endpoint(ENDPOINT), &["*"]).await;
        shaken.map_err(|why| Error::new(ErrorKind::Config, format!("Slack's handshake failed: {why:?}")))?;
        faults::stumble(&self.emulator.faults(), "POST /api/conversations.*");
        faults::stumble(&self.emulator.faults(), "POST /api/users.*");
        faults::throttle_one(&self.emulator.faults(), "POST /api/conversations.history");
        faults::garble(&self.emulator.faults(), faults::Old::Refused, 0.0);
        let (emulator, happenings) = (self.emulator.clone(), stage.happenings(palisade_slack::MANIFEST.name));
        Ok(happenings.play(HAPPENINGS, move |number| happen(&emulator, number)))
    }

    /// What only Slack shows.
    pub(super) fn promises(facts: &Facts<'_>) -> Vec<Promise> {
        let kinds = |kind: &str| facts.inbox.kinds.get(kind).copied().unwrap_or(0);
        let (changed, deleted) = (kinds("message.message_changed"), kinds("message.message_deleted"));
        let differ = facts.differ(MESSAGES);
        vec![facts.promise(
            "A message that is changed or taken back is so here",
            // Fails when an edit is not told apart from a new message, or a deletion leaves its message here.
            differ == 0 && ((changed >= 1 && deleted >= 1) || facts.continued),
            format!("{changed} edits and {deleted} deletions told, {differ} messages differ"),
        )]
    }
}

/// Lets somebody write into one of the channels.
fn say(emulator: &emulated::Slack, number: usize, text: &str) {
    let channels: Vec<String> = emulator.truth(CONVERSATIONS).into_keys().collect();
    let people = emulator.truth(USERS).into_iter().filter(|(_, one)| one["is_bot"] == false);
    let people: Vec<String> = people.map(|(id, _)| id).collect();
    if let (Some(channel), Some(person)) = (pick(&channels, number), pick(&people, number)) {
        let _ = emulator.post(channel, person, text, None);
    }
}

fn pick<T>(all: &[T], number: usize) -> Option<&T> {
    all.get(number.checked_rem(all.len())?)
}

/// Lets one thing happen in the workspace.
fn happen(emulator: &emulated::Slack, number: u32) {
    let number = number as usize;
    // Those that begin no thread and hang from none.
    let plain = |word: &str| -> Vec<(String, String)> {
        let all = emulator.truth(MESSAGES).into_iter();
        let of_word = all.filter(|(_, message)| message["text"].as_str().is_some_and(|text| text.starts_with(word)));
        of_word.filter_map(|(id, _)| id.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()))).collect()
    };
    match number % 7 {
        0..=2 => say(emulator, number, &format!("news {number}")),
        3 | 4 => {
            if let Some((channel, ts)) = pick(&plain("news"), number) {
                let _ = emulator.edit(channel, ts, &format!("news {number}, put right"));
            }
        }
        5 => {
            if let Some((channel, ts)) = pick(&plain("past"), number) {
                let _ = emulator.erase(channel, ts);
            }
        }
        _ if number.is_multiple_of(2) => {
            if let Some(channel) = pick(&emulator.truth(CONVERSATIONS).into_keys().collect::<Vec<_>>(), number) {
                let _ = emulator.rename_channel(channel, &format!("renamed-{number}"));
            }
        }
        _ => drop(emulator.add_user(&format!("Newcomer {number}"))),
    }
}

#[async_trait]
impl Role for Slack {
    fn manifest(&self) -> &'static Manifest {
        &palisade_slack::MANIFEST
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
        vec![USERS, CONVERSATIONS, MESSAGES]
    }

    fn truth(&self, stream: &str) -> Records {
        let mut truth = self.emulator.truth(stream);
        for record in truth.values_mut() {
            // Only its answers make a message the beginning of a thread, and they are records of their own.
            let begins = stream == MESSAGES && record["thread_ts"] == record["ts"];
            if let Some(fields) = record.as_object_mut() {
                fields.retain(|name, _| {
                    !(emulated::OF_READING.contains(&name.as_str()) || begins && name == "thread_ts")
                });
            }
        }
        truth
    }

    /// Events tell everything, as long as no process dies with some of them under way.
    fn healing(&self, continued: bool) -> Vec<(&'static str, RunMode)> {
        if continued {
            return self.streams().into_iter().map(|stream| (stream, RunMode::Full)).collect();
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

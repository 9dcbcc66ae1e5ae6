//! The emulated Slack as a stage of the kit.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Secret, Transport};
use palisade_emulator::slack::{Limits, Seed, Slack as Emulator, SlackConfig};
use palisade_testkit::conformance::{Counted, Counting, NOW, Stage};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use serde_json::Value;

const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

const OF_THREADS: [&str; 6] =
    ["is_locked", "latest_reply", "reply_count", "reply_users", "reply_users_count", "subscribed"];

pub(crate) struct SlackStage {
    emulator: Emulator,
    posted: PostBox,
    token: String,
}

impl SlackStage {
    pub(crate) fn new() -> Self {
        Self::with(Limits::none())
    }

    /// A stage that holds to Slack's limits.
    pub(crate) fn limited() -> Self {
        Self::with(Limits::default())
    }

    /// What it has counted of a method's calls.
    pub(crate) fn counting(self, method: &'static str) -> Counting {
        let (transport, credential) = (self.transport(), self.credential());
        let counted = move || {
            let ledger = self.emulator.ledger();
            let of = |counts: &BTreeMap<String, u64>| {
                let of_method = counts.iter().filter(|(lane, _)| lane.split(' ').next() == Some(method));
                of_method.map(|(_, count)| *count).sum()
            };
            let (peak, total) = (of(&ledger.peak_per_minute_by_lane), of(&ledger.requests_by_lane));
            Counted { peak, total, throttled: ledger.throttles }
        };
        Counting { transport, credential, counted: Box::new(counted) }
    }

    fn with(limits: Limits) -> Self {
        let posted = PostBox::new();
        let emulator = Emulator::offline(SlackConfig {
            clock: clock_from(NOW),
            poster: Some(posted.poster()),
            signing_secret: SECRET.to_owned(),
            limits,
            ..SlackConfig::default()
        });
        let scopes = [
            "channels:read",
            "groups:read",
            "im:read",
            "mpim:read",
            "channels:history",
            "groups:history",
            "im:history",
            "mpim:history",
            "users:read",
            "users:read.email",
            "team:read",
            "chat:write",
        ];
        let token = emulator.install_forever(&scopes);
        emulator.populate(&Seed { users: 9, channels: 9, private_channels: 0, messages_per_channel: 7 });
        emulator.subscribe("https://hooks.example.test/slack", &["*"]);
        Self { emulator, posted, token }
    }

    fn nth(&self, stream: &str, at: usize) -> String {
        let ids: Vec<String> = self.truth(stream).into_keys().collect();
        ids[at % ids.len()].clone()
    }
}

impl Stage for SlackStage {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(EmulatorTransport::new(self.emulator.clone()))
    }

    fn credential(&self) -> Scheme {
        Scheme::Bearer(self.token.as_str().into())
    }

    fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        let mut truth = self.emulator.truth(stream);
        // What a message tells of its answers is theirs: the adapter keeps them as records of their own.
        for message in truth.values_mut().filter(|_| stream == "messages").filter_map(Value::as_object_mut) {
            let begins_thread = message.get("thread_ts") == message.get("ts");
            message.retain(|field, _| !(OF_THREADS.contains(&field.as_str()) || begins_thread && field == "thread_ts"));
        }
        truth
    }

    fn change(&self, stream: &str, step: usize) {
        let word = format!("word {step}");
        match (stream, step % 3) {
            ("users", _) => drop(self.emulator.add_user(&word)),
            ("conversations", _) => {
                let channel = self.nth(stream, step);
                assert!(self.emulator.rename_channel(&channel, &format!("renamed-{step}")));
            }
            (_, 0) => {
                let (channel, user) = (self.nth("conversations", step), self.nth("users", step));
                self.emulator.post(&channel, &user, &word, None).unwrap();
            }
            (_, 1) => {
                let one = self.nth(stream, 5 * step);
                let (channel, ts) = one.split_once(':').unwrap();
                assert!(self.emulator.edit(channel, ts, &word));
            }
            _ => assert!(self.delete(stream, &self.nth(stream, 11 * step + 3))),
        }
    }

    fn delete(&self, stream: &str, id: &str) -> bool {
        match (stream, id.split_once(':')) {
            ("messages", Some((channel, ts))) => self.emulator.erase(channel, ts),
            ("conversations", None) => self.emulator.delete_channel(id),
            _ => false,
        }
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(async {
            self.emulator.drain_webhooks().await;
            self.posted.take()
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![SECRET.into()]
    }
}

//! The emulated Google as a stage of the kit: a mailbox and a calendar with notifications of both.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Secret, Transport};
use palisade_emulator::google::{Google as Emulator, GoogleConfig, Subscription};
use palisade_google::sync::MESSAGES;
use palisade_google::webhook::{PushTrust, Trust, channel};
use palisade_testkit::conformance::{NOW, Stage};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use serde_json::{Value, json};

use super::emulated::{ADA, SCOPES};

const HOOK: &str = "https://hooks.example.test/google/stage";
const TOPIC: &str = "projects/p/topics/stage";
const ACCOUNT: &str = "push@emulated-project.iam.gserviceaccount.com";
const KEY: &str = "the key of the stage's channels";
const CHANNEL: &str = "stage-1";

/// The key the emulator signs pushes with, as its JWKS has it.
pub(crate) fn emulators_key() -> Value {
    let served: Value = serde_json::from_str(include_str!("../../../emulator/src/google/keys/jwks.json")).unwrap();
    served["keys"][0].clone()
}

pub(crate) struct GoogleStage {
    emulator: Emulator,
    posted: PostBox,
    watched: AtomicBool,
}

impl GoogleStage {
    pub(crate) fn new() -> Self {
        let posted = PostBox::new();
        let config = GoogleConfig { clock: clock_from(NOW), poster: Some(posted.poster()), ..GoogleConfig::default() };
        let emulator = Emulator::offline(config);
        emulator.populate(ADA, 10, 9);
        emulator.event(ADA, Some("serie0"), &series()).unwrap();
        emulator.cancel_event(ADA, "serie0_20260302T090000Z").unwrap();
        emulator.subscribe(Subscription {
            name: "projects/p/subscriptions/stage".to_owned(),
            topic: TOPIC.to_owned(),
            url: HOOK.to_owned(),
            audience: HOOK.to_owned(),
            email: ACCOUNT.to_owned(),
        });
        Self { emulator, posted, watched: AtomicBool::new(false) }
    }

    /// Watches the mailbox and opens a channel to the calendar.
    async fn watch(&self) {
        let token = channel::token(&KEY.into(), CHANNEL);
        let channel = json!({ "id": CHANNEL, "type": "web_hook", "address": HOOK, "token": token.expose() });
        for (path, body) in [
            ("/gmail/v1/users/me/watch", json!({ "topicName": TOPIC })),
            ("/calendar/v3/calendars/primary/events/watch", channel),
        ] {
            let request = Request::post(format!("https://www.googleapis.com{path}"))
                .header("authorization", format!("Bearer {}", self.emulator.access_token(ADA, SCOPES)))
                .header("content-type", "application/json")
                .body(body.to_string().into());
            let answer = self.emulator.handle(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200, "{answer:?}");
        }
    }

    /// A message comes, is starred, goes into the bin, and the oldest is deleted for good.
    fn change_mail(&self, step: usize) {
        let messages = self.emulator.messages(ADA);
        let newest = messages.values().max_by_key(|message| message["internalDate"].as_str().unwrap().to_owned());
        let newest = newest.unwrap()["id"].as_str().unwrap();
        match step % 4 {
            0 => drop(self.emulator.receive(ADA, &format!("News {step}"), "x").unwrap()),
            1 => assert!(self.emulator.relabel(ADA, newest, &["STARRED"], &[])),
            2 => assert!(self.emulator.relabel(ADA, newest, &["TRASH"], &["INBOX"])),
            _ => assert!(self.emulator.delete_message(ADA, newest)),
        }
    }

    /// An event is made, one instance of the series is moved, another called off, and an event deleted.
    fn change_calendar(&self, step: usize) {
        let times = |start: &str, end: &str| json!({ "start": { "dateTime": start }, "end": { "dateTime": end } });
        let day = 3 + step / 4;
        match step % 4 {
            0 => {
                let new = times("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z");
                self.emulator.event(ADA, Some(&format!("made{step}")), &new).unwrap();
            }
            1 => {
                let moved = times("2026-03-01T20:00:00Z", "2026-03-01T21:00:00Z");
                self.emulator.event(ADA, Some(&format!("serie0_202603{day:02}T090000Z")), &moved).unwrap();
            }
            2 => self.emulator.cancel_event(ADA, &format!("serie0_202603{:02}T090000Z", day + 5)).unwrap(),
            _ => self.emulator.cancel_event(ADA, &format!("made{}", step - 3)).unwrap(),
        }
    }
}

fn series() -> Value {
    json!({
        "summary": "Standup", "recurrence": ["RRULE:FREQ=DAILY;COUNT=20"],
        "start": { "dateTime": "2026-03-01T09:00:00Z" }, "end": { "dateTime": "2026-03-01T09:15:00Z" },
    })
}

impl Stage for GoogleStage {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(EmulatorTransport::new(self.emulator.clone()))
    }

    fn credential(&self) -> Scheme {
        Scheme::Bearer(self.emulator.access_token(ADA, SCOPES).into())
    }

    fn account(&self) -> Option<String> {
        Some(ADA.to_owned())
    }

    fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        if stream == MESSAGES { self.emulator.messages(ADA) } else { self.emulator.events(ADA) }
    }

    fn change(&self, stream: &str, step: usize) {
        if stream == MESSAGES { self.change_mail(step) } else { self.change_calendar(step) }
    }

    fn delete(&self, stream: &str, id: &str) -> bool {
        if stream == MESSAGES {
            return self.emulator.delete_message(ADA, id);
        }
        self.emulator.cancel_event(ADA, id).is_ok()
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(async {
            if !self.watched.swap(true, Ordering::SeqCst) {
                self.watch().await;
            }
            self.emulator.drain_webhooks().await;
            self.posted.take()
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        let push = PushTrust { audience: HOOK.to_owned(), email: ACCOUNT.to_owned(), topic: None };
        vec![Trust::Push(push).to_secret(), KEY.into()]
    }
}

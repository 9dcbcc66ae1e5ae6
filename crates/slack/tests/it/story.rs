//! One long story through core's worker: a first copy, news, news that never came, a channel that moved, the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Inbox, NewDelivery, NewEvent, Queue, Records, RunMode, StreamKey,
};
use palisade_core::webhook::Webhook;
use palisade_core::worker::{Handled, Worker, WorkerSettings, handler};
use palisade_core::{Client, Clock, ConnectionId, Provider, Timestamp};
use palisade_slack::{SlackProvider, SlackSource, SlackWebhook};
use serde_json::{Value, json};

use super::webhook::{callback, parse};
use super::workspace::{BEGIN, Workspace};

struct Story {
    workspace: Workspace,
    store: Arc<MemoryStore>,
    worker: Worker,
    clock: Arc<TokioClock>,
    events: u32,
}

const CONNECTION: &str = "conn_1";

impl Story {
    async fn begin() -> Self {
        let workspace = Workspace::peopled();
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(TokioClock::starting_at(Timestamp::from_seconds(BEGIN)));
        let random = Arc::new(SeededRandom::new(7));
        let provider = Arc::new(SlackProvider::new().copying(SlackSource::new().rescanning(Duration::from_secs(600))));
        let credential = FixedCredential::new(&Scheme::Bearer("xoxb-x".into())).unwrap();
        let client = Client::builder(provider.profile(), Arc::new(workspace.clone()), Arc::new(credential))
            .clock(clock.clone())
            .random(random.clone())
            .build()
            .unwrap();
        let worker = Worker::builder(store.clone(), clock.clone(), random)
            .provider(provider, Arc::new(client))
            .on("slack", "message", handler(|_, _| Box::pin(async { Handled::Done })))
            .settings(WorkerSettings::default())
            .build()
            .unwrap();
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: "slack".into(),
            environment: Default::default(),
            account: Some("T1".into()),
            base_url: None,
            state: ConnectionState::Active,
            created_at: Timestamp::from_seconds(BEGIN),
        };
        store.put_connection(connection.clone()).await.unwrap();
        worker.connect(&connection).await.unwrap();
        let story = Self { workspace, store, worker, clock, events: 0 };
        story.settle().await;
        story
    }

    async fn settle(&self) {
        loop {
            let worked =
                self.worker.step(Queue::Events).await.unwrap() + self.worker.step(Queue::Background).await.unwrap();
            if worked == 0 {
                return;
            }
        }
    }

    /// Delivers an event that happens now.
    async fn deliver(&mut self, inner: Value) {
        self.events += 1;
        let mut inner = inner;
        let now = self.clock.now();
        inner["event_ts"] = json!(format!("{}.{:03}000", now.seconds(), now.millis() % 1_000));
        let body = callback(&inner).replace("Ev1", &format!("Ev{}", self.events));
        let parsed = parse(&body).unwrap();
        let events = parsed.events.into_iter().map(|event| NewEvent {
            subscription: SlackWebhook.subscription(&event),
            wanted: self.worker.wants("slack", &event.kind),
            priority: 0,
            id: event.id,
            kind: event.kind,
            account: event.account,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: Some(event.payload),
        });
        let delivery = NewDelivery {
            endpoint: "slack".into(),
            connection: CONNECTION.into(),
            provider: "slack".into(),
            received_at: now,
            headers: Vec::new(),
            body: body.into(),
            events: events.collect(),
        };
        self.store.append(vec![delivery]).await.unwrap();
        self.settle().await;
    }

    async fn run(&self, mode: RunMode) {
        self.worker.sync_now(&ConnectionId::new(CONNECTION), &"messages".into(), mode).await.unwrap();
        self.settle().await;
    }

    async fn copy(&self) -> BTreeMap<String, String> {
        let key = StreamKey { connection: CONNECTION.into(), stream: "messages".into() };
        let mut copy = BTreeMap::new();
        for entry in self.store.changes(key, 0, 10_000).await.unwrap() {
            if let Some(data) = &entry.record.data {
                let value: Value = serde_json::from_slice(data).unwrap();
                copy.insert(entry.record.id.as_str().to_owned(), value["text"].as_str().unwrap().to_owned());
            }
        }
        copy
    }

    async fn feed(&self) -> u64 {
        let key = StreamKey { connection: CONNECTION.into(), stream: "messages".into() };
        self.store.changes(key, 0, 10_000).await.unwrap().iter().map(|entry| entry.record.seq).max().unwrap_or(0)
    }

    async fn state(&self) -> ConnectionState {
        self.store.connection(CONNECTION.into()).await.unwrap().unwrap().state
    }
}

/// Fails when an event, the window or the full run leaves something of what happened out.
#[tokio::test(start_paused = true)]
async fn the_copy_is_the_workspace_once_it_is_quiet() {
    let mut story = Story::begin().await;
    assert_eq!(story.copy().await, story.workspace.truth(), "the first copy");

    // News that came.
    tokio::time::advance(Duration::from_secs(5)).await;
    let ts = |offset: i64| format!("{}.000900", BEGIN + offset);
    story.workspace.say("C2", &ts(5), "fresh");
    story.deliver(json!({"type": "message", "channel": "C2", "channel_type": "channel", "user": "U1", "text": "fresh", "ts": ts(5)})).await;
    story.workspace.say("C2", &ts(6), "own");
    let own = json!({"type": "message", "user": "U1", "text": "own", "ts": ts(6)});
    let mut posted = own.clone();
    posted
        .as_object_mut()
        .unwrap()
        .extend(json!({"channel": "C2", "app_id": "A1", "bot_id": "B1"}).as_object().unwrap().clone());
    story.deliver(posted).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    story.workspace.edit("C4", "1700000700.000100", "edited");
    story.deliver(json!({"type": "message", "subtype": "message_changed", "hidden": true, "channel": "C4", "ts": ts(9),
        "message": {"type": "message", "user": "U1", "text": "edited", "ts": "1700000700.000100", "edited": {"user": "U1", "ts": "1700009999.000000"}}})).await;
    story.workspace.delete("C1", "1700000100.000100");
    story.deliver(json!({"type": "message", "subtype": "message_deleted", "hidden": true, "channel": "C1", "ts": ts(9), "deleted_ts": "1700000100.000100"})).await;
    assert_eq!(story.copy().await, story.workspace.truth(), "by events");
    let before = story.feed().await;
    story.run(RunMode::Incremental).await;
    let own_had_fields = story.feed().await - before;
    assert!(own_had_fields <= 1, "reading it again changes nothing but our own message, whose event says more");

    // News that never came: within the window it is found, beyond it by the full run.
    story.workspace.say("C5", &ts(20), "missed");
    story.workspace.edit("C2", &ts(5), "missed edit");
    story.workspace.edit("C1", "1700000200.000100", "missed long ago");
    story.workspace.delete("C3", "1700000100.000100");
    story.workspace.leave("C4");
    tokio::time::advance(Duration::from_secs(60)).await;
    story.run(RunMode::Incremental).await;
    let copy = story.copy().await;
    assert_eq!(copy[&format!("C5:{}", ts(20))], "missed");
    assert_eq!(copy[&format!("C2:{}", ts(5))], "missed edit");
    assert_ne!(copy, story.workspace.truth(), "what lies before the window waits");
    story.run(RunMode::Full).await;
    assert_eq!(story.copy().await, story.workspace.truth(), "by the full run");

    // A channel gets another id: its messages get other names.
    story.workspace.rename("C5", "C9");
    tokio::time::advance(Duration::from_secs(5)).await;
    story.deliver(json!({"type": "channel_id_changed", "old_channel_id": "C5", "new_channel_id": "C9"})).await;
    assert_eq!(story.copy().await, story.workspace.truth(), "by the run the event asked for");
}

/// Fails when the end of the grant is not seen, or somebody else's is taken for it.
#[tokio::test(start_paused = true)]
async fn an_app_that_was_taken_off_is_disconnected() {
    let mut story = Story::begin().await;
    tokio::time::advance(Duration::from_secs(5)).await;
    story.deliver(json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"], "bot": []}})).await;
    assert_eq!(story.state().await, ConnectionState::Active, "one person took a token back");
    story.deliver(json!({"type": "app_uninstalled"})).await;
    assert_eq!(story.state().await, ConnectionState::Disconnected);
    let calls = story.workspace.calls().len();
    let refused = story.worker.sync_now(&ConnectionId::new(CONNECTION), &"messages".into(), RunMode::Full).await;
    assert_eq!(refused.unwrap_err().kind(), palisade_core::ErrorKind::Conflict);
    story.settle().await;
    assert_eq!(story.workspace.calls().len(), calls, "nothing is asked for any more");
}

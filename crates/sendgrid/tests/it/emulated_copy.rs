//! Three copies of one emulated account's lists: one read whole at the end, one read on after every round, one told by
//! events that come late, twice and in any order. Once all is quiet they are the same, and equal the account.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::FixedCredential;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Inbox, NewDelivery, NewEvent, Queue, Records, RunMode, StreamKey,
};
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::worker::Worker;
use palisade_core::{Client, Clock, ConnectionId, Provider, Random, Secret, Timestamp, Transport};
use palisade_emulator::sendgrid::{SendGrid as Emulator, SendGridConfig};
use palisade_emulator::{Fault, RetryAfter};
use palisade_sendgrid::{List, Mail, SendGrid, SendGridProvider, SendGridWebhook, auth};
use palisade_testkit::EmulatorTransport;
use serde_json::Value;

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const HOOK: &str = "https://app.example/webhooks/sendgrid";
const CONNECTION: &str = "conn_1";

/// A hub's store and worker, and its own way to the account.
struct Copy {
    store: Arc<MemoryStore>,
    worker: Worker,
    sendgrid: SendGrid,
}

impl Copy {
    async fn of(emulator: &Emulator, clock: &Arc<TokioClock>, seed: u64) -> Self {
        let scheme = auth::api_key(Secret::from(emulator.api_key())).unwrap();
        let (provider, random) = (Arc::new(SendGridProvider::new()), Arc::new(SeededRandom::new(seed)));
        let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
        let client = Client::builder(provider.profile(), transport, Arc::new(FixedCredential::new(&scheme).unwrap()));
        let client = client.clock(clock.clone()).random(random.clone()).build().unwrap();
        let client: Arc<dyn Transport> = Arc::new(client);
        let store = Arc::new(MemoryStore::new());
        let worker = Worker::builder(store.clone(), clock.clone(), random).provider(provider, client.clone());
        let worker = worker.build().unwrap();
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: "sendgrid".into(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state: ConnectionState::Active,
            created_at: BEGIN,
        };
        store.put_connection(connection.clone()).await.unwrap();
        worker.connect(&connection).await.unwrap();
        let copy = Self { store, worker, sendgrid: SendGrid::new(client, CONNECTION, "tenant_1") };
        copy.settle().await;
        copy
    }

    async fn settle(&self) {
        while self.worker.step(Queue::Events).await.unwrap() + self.worker.step(Queue::Background).await.unwrap() > 0 {}
    }

    async fn run(&self, mode: RunMode) {
        for list in List::ALL {
            self.worker.sync_now(&ConnectionId::new(CONNECTION), &list.name().into(), mode).await.unwrap();
        }
        self.settle().await;
    }

    /// Receives a delivery as the hub does.
    async fn receive(&self, raw: RawDelivery, secret: &Secret, now: Timestamp) {
        let webhook = SendGridWebhook::new();
        let verified = Verified::check(&webhook, raw, std::slice::from_ref(secret), now).unwrap();
        let events = webhook.events(&verified).unwrap().events.into_iter().map(|event| NewEvent {
            wanted: self.worker.wants("sendgrid", &event.kind),
            id: event.id,
            kind: event.kind,
            account: event.account,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: Some(event.payload),
        });
        let delivery = NewDelivery {
            endpoint: "sendgrid".into(),
            connection: CONNECTION.into(),
            provider: "sendgrid".into(),
            received_at: now,
            headers: Vec::new(),
            body: verified.body().clone(),
            events: events.collect(),
        };
        self.store.append(vec![delivery]).await.unwrap();
        self.settle().await;
    }

    #[track_caller]
    fn check(&self, list: List, emulator: &Emulator, why: &str) {
        let key = StreamKey { connection: CONNECTION.into(), stream: list.name().into() };
        let feed = futures_util::FutureExt::now_or_never(self.store.changes(key, 0, 10_000)).unwrap().unwrap();
        let live = feed.into_iter().filter_map(|entry| Some((entry.record.id.as_str().to_owned(), entry.record.data?)));
        let copy: BTreeMap<String, Value> =
            live.map(|(id, data)| (id, serde_json::from_slice(&data).unwrap())).collect();
        assert_eq!(copy, emulator.truth(list.name()), "{list:?}, {why}");
    }
}

/// Fails when a run leaves an address out, when an event leads to another entry than the list has, or when the three
/// disagree.
#[tokio::test(start_paused = true)]
async fn full_incremental_and_events_come_to_the_same() {
    for seed in 1..=2 {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let (time, posted) = (clock.clone(), Arc::new(Mutex::new(Vec::new())));
        let mailbox = posted.clone();
        let emulator = Emulator::offline(SendGridConfig {
            seed,
            event_url: Some(HOOK.to_owned()),
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
            poster: Some(Arc::new(move |request: Request<Bytes>| {
                let (parts, body) = request.into_parts();
                let raw =
                    RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body };
                mailbox.lock().unwrap().push(raw);
                Box::pin(async { Some(Response::new(Bytes::new())) })
            })),
            ..SendGridConfig::default()
        });
        let secret = Secret::from(emulator.public_key());
        let random = SeededRandom::new(seed);
        let draw = |below: usize| (random.unit() * below as f64) as usize;
        List::ALL.into_iter().for_each(|list| emulator.populate(list.name(), 20));
        let read_on = Copy::of(&emulator, &clock, seed).await;
        let told = Copy::of(&emulator, &clock, seed + 100).await;
        let whole = Copy::of(&emulator, &clock, seed + 200).await;
        let mut late = Vec::new();
        for round in 0..6 {
            for _ in 0..10 {
                let fate = ["bounce", "block", "spam", "unsubscribe", "invalid", "open", "ada"][draw(7)];
                // Some are written to again: a block begins anew each time.
                let recipient = format!("{fate}+{}@example.com", draw(12));
                let mail = Mail::from("shop@example.com").to(recipient.as_str()).subject("s").text("t");
                read_on.sendgrid.send(&mail).await.unwrap();
                tokio::time::sleep(Duration::from_millis((random.unit() * 9_000.0) as u64)).await;
            }
            if round % 2 == 1 {
                let route = format!("GET /v3/suppression/{}", List::ALL[draw(5)].name());
                emulator.faults().next(&route, [Fault::ResetAfter, Fault::Pass, Fault::Status(503), Fault::CutBody]);
            }
            read_on.run(RunMode::Incremental).await;
            emulator.drain_webhooks().await;
            late.append(&mut *posted.lock().unwrap());
            // Half of what came is held back, some of it comes twice, and none of it in order.
            let again: Vec<_> = late.iter().filter(|_| random.unit() < 0.2).cloned().collect();
            late.extend(again);
            for at in (1..late.len()).rev() {
                late.swap(at, draw(at + 1));
            }
            for raw in late.split_off(late.len() / 2) {
                told.receive(raw, &secret, clock.now()).await;
            }
        }
        for raw in late {
            told.receive(raw, &secret, clock.now()).await;
        }
        read_on.run(RunMode::Incremental).await;
        whole.run(RunMode::Full).await;
        let repeat = format!("seed {seed}: cargo test -p palisade-sendgrid --test it full_incremental_and");
        for list in List::ALL {
            assert!(emulator.truth(list.name()).len() > 21, "{repeat}: something happened");
            whole.check(list, &emulator, &format!("read whole, {repeat}"));
            read_on.check(list, &emulator, &format!("read on, {repeat}"));
            told.check(list, &emulator, &format!("told, {repeat}"));
        }
        // What an admin adds no event tells, and what he takes off no later run: a full one finds both.
        for list in List::ALL {
            emulator.suppress(list.name(), "added@example.com");
            let first = emulator.truth(list.name()).into_keys().find(|email| email != "added@example.com").unwrap();
            read_on.run(RunMode::Incremental).await;
            read_on.check(list, &emulator, &format!("added, {repeat}"));
            assert!(emulator.release(list.name(), &first));
            whole.run(RunMode::Full).await;
            whole.check(list, &emulator, &format!("taken off, {repeat}"));
        }
        assert_eq!(emulator.ledger().throttles, 0, "{repeat}");
    }
}

/// Fails when a run that meets a limit goes on before it may, or gives up.
#[tokio::test(start_paused = true)]
async fn a_copy_is_made_within_the_limits_it_meets() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let time = clock.clone();
    let emulator = Emulator::offline(SendGridConfig {
        clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
        ..SendGridConfig::default()
    });
    emulator.populate("bounces", 1_700);
    let throttle = Fault::Throttle(RetryAfter::Seconds(9));
    emulator.faults().next("GET /v3/suppression/bounces", [Fault::Pass, throttle.clone(), throttle, Fault::Pass]);
    let copy = Copy::of(&emulator, &clock, 7).await;
    copy.check(List::Bounces, &emulator, "with throttles on the way");
    let ledger = emulator.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (2, 0));
}

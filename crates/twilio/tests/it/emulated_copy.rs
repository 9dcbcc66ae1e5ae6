//! Three copies of one emulated account: one read whole at the end, one read on after every round, one told by
//! callbacks that come late, twice and in any order. Once all is quiet they are the same, and equal the account.

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
use palisade_emulator::Fault;
use palisade_emulator::twilio::{Twilio as Emulator, TwilioConfig};
use palisade_testkit::EmulatorTransport;
use palisade_twilio::sid::AccountSid;
use palisade_twilio::{TwilioProvider, TwilioWebhook, auth};
use serde_json::Value;

use super::fake::ACCOUNT;

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const HOOK: &str = "https://app.example/webhooks/twilio?a=1";
const CONNECTION: &str = "conn_1";
const FROM: &str = "+15005550006";
const LIST: &str = "GET /2010-04-01/Accounts/{sid}/Messages.json";

/// A hub's store and worker, and its own way to the account.
struct Copy {
    store: Arc<MemoryStore>,
    worker: Worker,
}

impl Copy {
    async fn of(emulator: &Emulator, clock: &Arc<TokioClock>, seed: u64) -> Self {
        let account = AccountSid::parse(ACCOUNT).unwrap();
        let scheme = auth::auth_token(&account, Secret::from(emulator.auth_token())).unwrap();
        let (provider, random) = (Arc::new(TwilioProvider::new()), Arc::new(SeededRandom::new(seed)));
        let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
        let client = Client::builder(provider.profile(), transport, Arc::new(FixedCredential::new(&scheme).unwrap()));
        let client = client.clock(clock.clone()).random(random.clone()).build().unwrap();
        let client: Arc<dyn Transport> = Arc::new(client);
        let store = Arc::new(MemoryStore::new());
        let worker = Worker::builder(store.clone(), clock.clone(), random).provider(provider, client).build().unwrap();
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: "twilio".into(),
            environment: Default::default(),
            account: Some(ACCOUNT.to_owned()),
            base_url: None,
            state: ConnectionState::Active,
            created_at: BEGIN,
        };
        store.put_connection(connection.clone()).await.unwrap();
        worker.connect(&connection).await.unwrap();
        let copy = Self { store, worker };
        copy.settle().await;
        copy
    }

    async fn settle(&self) {
        while self.worker.step(Queue::Events).await.unwrap() + self.worker.step(Queue::Background).await.unwrap() > 0 {}
    }

    async fn run(&self, mode: RunMode) {
        self.worker.sync_now(&ConnectionId::new(CONNECTION), &"messages".into(), mode).await.unwrap();
        self.settle().await;
    }

    /// Receives a delivery as the hub does.
    async fn receive(&self, raw: RawDelivery, secret: &Secret, now: Timestamp) {
        let webhook = TwilioWebhook::new();
        let verified = Verified::check(&webhook, raw, std::slice::from_ref(secret), now).unwrap();
        let events = webhook.events(&verified).unwrap().events.into_iter().map(|event| NewEvent {
            wanted: self.worker.wants("twilio", &event.kind),
            id: event.id,
            kind: event.kind,
            account: event.account,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: Some(event.payload),
        });
        let delivery = NewDelivery {
            endpoint: "twilio".into(),
            connection: CONNECTION.into(),
            provider: "twilio".into(),
            received_at: now,
            headers: Vec::new(),
            body: verified.body().clone(),
            events: events.collect(),
        };
        self.store.append(vec![delivery]).await.unwrap();
        self.settle().await;
    }

    async fn records(&self) -> BTreeMap<String, Value> {
        let key = StreamKey { connection: CONNECTION.into(), stream: "messages".into() };
        let feed = self.store.changes(key, 0, 10_000).await.unwrap();
        let live = feed.into_iter().filter_map(|entry| Some((entry.record.id.as_str().to_owned(), entry.record.data?)));
        live.map(|(id, data)| (id, serde_json::from_slice(&data).unwrap())).collect()
    }
}

/// A message is sent, answered, or comes further on its way.
fn happen(emulator: &Emulator, random: &SeededRandom, under_way: &mut Vec<(String, usize)>) {
    const WAY: [&str; 3] = ["sending", "sent", "delivered"];
    let draw = |below: usize| (random.unit() * below as f64) as usize;
    match draw(6) {
        0 => drop(emulator.receive("+15005550010", FROM, "Hello", &[])),
        1 | 2 => {
            let fields = [("To", "+15005550010"), ("From", FROM), ("Body", "x"), ("StatusCallback", HOOK)];
            let sid = emulator.send(&fields).unwrap()["sid"].as_str().unwrap().to_owned();
            under_way.push((sid, 0));
        }
        _ if under_way.is_empty() => {}
        _ => {
            let at = draw(under_way.len());
            let (sid, step) = under_way[at].clone();
            assert!(emulator.report(&sid, WAY[step], None));
            if step + 1 < WAY.len() {
                under_way[at].1 += 1;
            } else {
                under_way.swap_remove(at);
            }
        }
    }
}

/// Fails when a run leaves something out, when a late callback takes a message back, or when the three disagree.
#[tokio::test(start_paused = true)]
async fn full_incremental_and_callbacks_come_to_the_same() {
    for seed in 1..=3 {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let (time, posted) = (clock.clone(), Arc::new(Mutex::new(Vec::new())));
        let mailbox = posted.clone();
        let emulator = Emulator::offline(TwilioConfig {
            seed,
            account_sid: ACCOUNT.to_owned(),
            delivers: false,
            inbound_url: Some(HOOK.to_owned()),
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
            poster: Some(Arc::new(move |request: Request<Bytes>| {
                let (parts, body) = request.into_parts();
                let raw =
                    RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body };
                mailbox.lock().unwrap().push(raw);
                Box::pin(async { Some(Response::new(Bytes::new())) })
            })),
            ..TwilioConfig::default()
        });
        let secret = Secret::from(emulator.auth_token());
        let random = SeededRandom::new(seed);
        emulator.populate(30);
        let read_on = Copy::of(&emulator, &clock, seed).await;
        let told = Copy::of(&emulator, &clock, seed + 100).await;
        let whole = Copy::of(&emulator, &clock, seed + 200).await;
        let mut under_way = Vec::new();
        let mut late = Vec::new();
        for round in 0..8 {
            for _ in 0..10 {
                happen(&emulator, &random, &mut under_way);
                tokio::time::sleep(Duration::from_millis((random.unit() * 9_000.0) as u64)).await;
            }
            if round % 2 == 1 {
                emulator.faults().next(LIST, [Fault::ResetAfter, Fault::Pass, Fault::Status(503), Fault::CutBody]);
            }
            read_on.run(RunMode::Incremental).await;
            emulator.drain_webhooks().await;
            late.append(&mut *posted.lock().unwrap());
            // Half of what came is held back, some of it comes twice, and none of it in order.
            let again: Vec<_> = late.iter().filter(|_| random.unit() < 0.2).cloned().collect();
            late.extend(again);
            for at in (1..late.len()).rev() {
                late.swap(at, (random.unit() * (at + 1) as f64) as usize);
            }
            for raw in late.split_off(late.len() / 2) {
                told.receive(raw, &secret, clock.now()).await;
            }
        }
        while let Some((sid, step)) = under_way.pop() {
            for status in &["sending", "sent", "delivered"][step..] {
                assert!(emulator.report(&sid, status, None));
            }
        }
        emulator.drain_webhooks().await;
        late.append(&mut *posted.lock().unwrap());
        for raw in late {
            told.receive(raw, &secret, clock.now()).await;
        }
        read_on.run(RunMode::Incremental).await;
        whole.run(RunMode::Full).await;
        let truth = emulator.truth();
        let repeat = format!("seed {seed}: cargo test -p palisade-twilio --test it full_incremental_and");
        assert!(truth.len() > 45, "{repeat}: something happened");
        assert_eq!(whole.records().await, truth, "read whole, {repeat}");
        assert_eq!(read_on.records().await, truth, "read on, {repeat}");
        assert_eq!(told.records().await, truth, "told, {repeat}");
        let ledger = emulator.ledger();
        assert_eq!((ledger.throttles, ledger.early_after_retry_after), (0, 0), "{repeat}");
        // Nobody is told of a deletion: only a full run finds it.
        let gone = truth.keys().next().unwrap();
        assert!(emulator.delete(gone));
        whole.run(RunMode::Full).await;
        assert_eq!(whole.records().await, emulator.truth(), "deleted, {repeat}");
    }
}

/// Fails when a run that meets a limit goes on before it may, or gives up.
#[tokio::test(start_paused = true)]
async fn a_copy_is_made_within_the_limits_it_meets() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let time = clock.clone();
    let emulator = Emulator::offline(TwilioConfig {
        account_sid: ACCOUNT.to_owned(),
        clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
        ..TwilioConfig::default()
    });
    emulator.populate(2_500);
    let throttle = Fault::Throttle(palisade_emulator::RetryAfter::Seconds(9));
    emulator.faults().next(LIST, [Fault::Pass, throttle.clone(), throttle, Fault::Pass]);
    let copy = Copy::of(&emulator, &clock, 7).await;
    assert_eq!(copy.records().await, emulator.truth());
    let ledger = emulator.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (2, 0));
}

//! A hub's work without the hub: an account copied by a worker through the real pipeline into the model of a store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Inbox, Missed, NewDelivery, NewEvent, Queue, Records, RunMode,
    StoredEvent, StreamKey,
};
use palisade_core::sync::{Source, StreamKind};
use palisade_core::webhook::{RawDelivery, Verified};
use palisade_core::worker::Worker;
use palisade_core::{Client, Clock, ConnectionId, EndpointId, Provider, Result, Secret, Timestamp, Transport};
use serde_json::Value;

/// The connection every copy is of.
const CONNECTION: &str = "conn_1";
/// Changes read from a feed: more than any test makes.
const CHANGES_MAX: u32 = 100_000;

/// Unwraps what a test cannot go on without.
#[track_caller]
fn must<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Puts a provider's pipeline before a transport, with a fixed credential and chance from a seed.
///
/// # Panics
/// When the credential or the provider's profile cannot be used.
#[must_use]
#[track_caller]
pub fn pipeline(
    provider: &dyn Provider,
    transport: Arc<dyn Transport>,
    credential: &Scheme,
    clock: &Arc<TokioClock>,
    seed: u64,
) -> Arc<Client> {
    let credential = Arc::new(must("the credential can be used", FixedCredential::new(credential)));
    let builder = Client::builder(provider.profile(), transport, credential);
    let builder = builder.clock(Arc::clone(clock) as Arc<dyn Clock>).random(Arc::new(SeededRandom::new(seed)));
    Arc::new(must("the profile makes a client", builder.build()))
}

/// Takes a delivery in as the hub does: verified, split into events, stored with their jobs. Nothing works on them yet.
///
/// # Panics
/// When the provider has no webhooks, or the delivery is refused or cannot be read.
pub async fn take_in(
    store: &dyn Inbox,
    worker: &Worker,
    provider: &dyn Provider,
    raw: RawDelivery,
    secrets: &[Secret],
    now: Timestamp,
) {
    let Some(webhook) = provider.webhook() else { panic!("the provider has no webhooks") };
    let name = provider.manifest().name;
    let verified = match Verified::check(webhook, raw, secrets, now) {
        Ok(verified) => verified,
        Err(refusal) => panic!("the delivery is refused: {refusal}"),
    };
    let parsed = must("the delivery can be read", webhook.events(&verified));
    let events = parsed.events.into_iter().map(|event| NewEvent {
        subscription: webhook.subscription(&event),
        wanted: worker.wants(name, &event.kind),
        priority: worker.priority(&event.kind),
        id: event.id,
        kind: event.kind,
        account: event.account,
        created: event.created,
        ordering_key: event.ordering_key,
        payload: Some(event.payload),
    });
    let delivery = NewDelivery {
        endpoint: name.into(),
        connection: CONNECTION.into(),
        provider: name.to_owned(),
        received_at: now,
        headers: Vec::new(),
        body: verified.body().clone(),
        events: events.collect(),
    };
    must("the delivery is stored", store.append(vec![delivery]).await);
}

/// A copy of one account.
pub struct AccountCopy {
    provider: Arc<dyn Provider>,
    store: Arc<MemoryStore>,
    worker: Worker,
    client: Arc<dyn Transport>,
    clock: Arc<TokioClock>,
}

impl AccountCopy {
    /// Connects an account and reads all of it.
    ///
    /// # Panics
    /// As [`pipeline`].
    pub async fn of(
        provider: impl Provider,
        transport: Arc<dyn Transport>,
        credential: &Scheme,
        account: Option<&str>,
        clock: &Arc<TokioClock>,
        seed: u64,
    ) -> Self {
        let provider: Arc<dyn Provider> = Arc::new(provider);
        let client: Arc<dyn Transport> = pipeline(provider.as_ref(), transport, credential, clock, seed);
        let store = Arc::new(MemoryStore::new());
        let worker = Worker::builder(store.clone(), clock.clone(), Arc::new(SeededRandom::new(seed)))
            .provider(Arc::clone(&provider), Arc::clone(&client))
            // As `take_in` has it.
            .endpoints(|connection| vec![EndpointId::new(connection.provider.as_str())])
            .build();
        let worker = must("the worker is made", worker);
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: provider.manifest().name.to_owned(),
            environment: Default::default(),
            account: account.map(str::to_owned),
            base_url: None,
            state: ConnectionState::Active,
            created_at: clock.now(),
        };
        must("the connection is stored", store.put_connection(connection.clone()).await);
        must("the connection is connected", worker.connect(&connection).await);
        let copy = Self { provider, store, worker, client, clock: Arc::clone(clock) };
        copy.settle().await;
        copy
    }

    /// Returns the pipeline to the account, for calls of the test's own.
    #[must_use]
    pub fn client(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.client)
    }

    /// Works until nothing is due.
    pub async fn settle(&self) {
        loop {
            let events = must("a step", self.worker.step(Queue::Events).await);
            if events + must("a step", self.worker.step(Queue::Background).await) == 0 {
                return;
            }
        }
    }

    /// Runs every stream of records.
    pub async fn run(&self, mode: RunMode) {
        let streams = self.provider.source().map_or(&[][..], Source::streams);
        for spec in streams.iter().filter(|spec| spec.kind == StreamKind::Records) {
            let enqueued = self.worker.sync_now(&ConnectionId::new(CONNECTION), &spec.name.into(), mode).await;
            must("a run is enqueued", enqueued);
        }
        self.settle().await;
    }

    /// Takes a delivery in and handles it.
    ///
    /// # Panics
    /// As [`take_in`].
    pub async fn receive(&self, raw: RawDelivery, secret: &Secret) {
        let (provider, secrets) = (self.provider.as_ref(), std::slice::from_ref(secret));
        take_in(self.store.as_ref(), &self.worker, provider, raw, secrets, self.clock.now()).await;
        self.settle().await;
    }

    /// Returns the events it has been given, oldest first: those that were delivered and those that runs found missing.
    pub async fn events(&self) -> Vec<StoredEvent> {
        let page = must("the inbox is read", self.store.events(None, None, CHANGES_MAX).await);
        let rows = page.events.iter().rev().map(|event| event.row).collect();
        let whole = must("the events are read", self.store.events_to_handle(rows).await);
        whole.into_iter().flatten().map(|one| one.event).collect()
    }

    /// Returns what runs found that should have been delivered, newest run first.
    pub async fn healed(&self) -> Vec<Missed> {
        let runs = must("the healings are read", self.store.healings(CONNECTION.into(), CHANGES_MAX).await);
        runs.into_iter().map(|run| run.missed).collect()
    }

    /// Returns the live records of a stream by their ids.
    ///
    /// # Panics
    /// When one is not JSON.
    pub async fn records(&self, stream: &str) -> BTreeMap<String, Value> {
        let key = StreamKey { connection: CONNECTION.into(), stream: stream.into() };
        let feed = must("the feed is read", self.store.changes(key, 0, CHANGES_MAX).await);
        let live = feed.into_iter().filter_map(|entry| Some((entry.record.id, entry.record.data?)));
        live.map(|(id, data)| match serde_json::from_slice(&data) {
            Ok(value) => (id.as_str().to_owned(), value),
            Err(error) => panic!("{id} is not JSON: {error}"),
        })
        .collect()
    }
}

impl fmt::Debug for AccountCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountCopy").field("provider", &self.provider.manifest().name).finish_non_exhaustive()
    }
}

//! The hub's own router, as a product mounts it, with or without its workers.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{EventState, Inbox, Queue, StoredEvent};
use palisade_core::worker::{Context, Handled, Handler};
use palisade_core::{Clock, Error, ErrorKind, Secret, Timestamp, Transport};
use palisade_hub::{ConnectionConfig, EndpointConfig, Hub, ServeSettings, serve};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use tokio::sync::{Notify, watch};

use super::load::SECRET;

/// Nothing is called here: only deliveries are received.
struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    async fn send(&self, _request: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        Err(Error::new(ErrorKind::Connect, "there is no network here"))
    }
}

/// The workers that take events, as a hub has them unless told otherwise.
const WORKERS: usize = 2;

/// How often it is looked whether the last settlements are on the disk.
const LOOK: Duration = Duration::from_micros(500);

/// A handler that notes when each event arrived and when it was handled, and when all of them were settled.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Noted>);

#[derive(Default)]
struct Noted {
    handled: Mutex<Vec<(Timestamp, Timestamp)>>,
    /// How many are to be handled, and what tells when they are.
    wanted: AtomicUsize,
    all: Notify,
    /// When all of them were done in the database, in milliseconds; 0 before.
    settled: AtomicI64,
}

#[async_trait]
impl Handler for Seen {
    async fn handle(&self, event: &StoredEvent, _: &mut Context) -> Handled {
        let mut handled = self.lock();
        handled.push((event.received_at, SystemClock.now()));
        if handled.len() == self.0.wanted.load(Ordering::Relaxed) {
            self.0.all.notify_one();
        }
        Handled::Done
    }
}

impl Seen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Timestamp, Timestamp)>> {
        self.0.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was seen; so many are to come.
    pub(super) fn clear(&self, wanted: usize) {
        let mut handled = self.lock();
        handled.clear();
        self.0.wanted.store(wanted, Ordering::Relaxed);
        self.0.settled.store(0, Ordering::Relaxed);
    }

    /// Waits, whenever the last of them was handled, until no event is pending: a read sees durable commits only. Nothing
    /// is asked of the store while handlers still run.
    async fn watch(self, store: Arc<SqliteStore>) {
        loop {
            self.0.all.notified().await;
            while store.event_counts().await.expect("counts").contains_key(&EventState::Pending) {
                tokio::time::sleep(LOOK).await;
            }
            self.0.settled.store(SystemClock.now().millis(), Ordering::Relaxed);
        }
    }

    /// Returns whether all were settled (1 or 0), at little cost: it is asked again and again while the server works.
    pub(super) fn settled(&self) -> serde_json::Value {
        serde_json::json!({ "settled": u8::from(self.0.settled.load(Ordering::Relaxed) > 0) })
    }

    /// Returns how many were handled, how many a second from the first arrival to the last settlement, and the median and
    /// 99th percentile of the milliseconds from an arrival to the end of its handler.
    pub(super) fn figures(&self) -> serde_json::Value {
        let seen = self.lock();
        let first = seen.iter().map(|(received, _)| received.millis()).min().unwrap_or_default();
        let last = self.0.settled.load(Ordering::Relaxed);
        let mut took: Vec<i64> = seen.iter().map(|(received, handled)| handled.millis() - received.millis()).collect();
        took.sort_unstable();
        let at = |share: f64| took.get((took.len().saturating_sub(1) as f64 * share) as usize).copied();
        serde_json::json!({
            "handled": seen.len(),
            "per_second": seen.len() as f64 * 1_000.0 / (last - first).max(1) as f64,
            "p50_ms": at(0.5).unwrap_or_default(),
            "p99_ms": at(0.99).unwrap_or_default(),
        })
    }
}

/// What a hub does with what it received.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing: no worker runs.
    Keep,
    /// Its workers handle it.
    Handle,
}

/// Starts the hub's router on a free port; the answer is its address. `seen` handles every event of the types in
/// `kinds`, if workers run.
pub(super) async fn start(file: &Path, seen: &Seen, kinds: &[&str], then: Then) -> String {
    let store = Arc::new(SqliteStore::open(SqliteConfig::at(file)).expect("a store"));
    let mut hub = Hub::builder();
    for kind in kinds {
        hub = hub.on(*kind, seen.clone());
    }
    let connection = ConnectionConfig {
        environment: Default::default(),
        id: "stripe".into(),
        tenant: "acme".into(),
        provider: "stripe".to_owned(),
        account: None,
        base_url: None,
        credential: Scheme::Bearer("sk_test_bench".into()).into(),
    };
    let hub = hub
        .provider(StripeProvider::new())
        .store(Arc::clone(&store) as _)
        .transport(Arc::new(NoNetwork))
        .master_key(Arc::new(LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), Arc::new(SystemRandom)).unwrap()))
        .connection(connection.clone())
        .endpoint(EndpointConfig {
            name: "stripe".to_owned(),
            provider: "stripe".to_owned(),
            connection: "stripe".into(),
            secrets: vec![Secret::new(SECRET)],
        })
        .build()
        .expect("a hub");
    if then == Then::Handle {
        hub.connect(&connection).await.expect("a connection");
        tokio::spawn(seen.clone().watch(store));
        for _ in 0..WORKERS {
            // Of events alone: the first sync of the connection would only find that there is no network.
            let (worker, (_never, stop)) = (hub.worker().clone(), watch::channel(false));
            tokio::spawn(async move {
                let _never = _never;
                worker.run(Queue::Events, stop).await;
            });
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (_never, stop) = watch::channel(false);
        serve(listener, hub.router(), ServeSettings::default(), stop).await
    });
    address
}

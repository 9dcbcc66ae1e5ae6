//! An endpoint that is renamed in the configuration: what came before is known after.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{EventState, Queue, RunMode, Store, StoredEvent};
use palisade_core::worker::{Handled, handler};
use palisade_core::{ErrorKind, Transport};
use palisade_hub::{Access, Hub, HubBuilder};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;

use crate::fixtures::{HOOK_SECRET, NOW, ask, connection, delivery, endpoint, event, master_key, settings};

/// Stripe with some events and nothing else.
#[derive(Default)]
struct Lists(Mutex<Vec<String>>);

#[async_trait]
impl Transport for Lists {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let of_events = request.uri().path() == "/v1/events";
        let events = if of_events { self.0.lock().unwrap().join(",") } else { String::new() };
        let body = format!(r#"{{"object":"list","data":[{events}],"has_more":false,"url":"/v1/x"}}"#);
        let response = Response::builder().header("date", "Thu, 01 Jan 2026 00:00:00 GMT");
        Ok(response.body(body.into()).unwrap())
    }
}

struct World<S> {
    store: Arc<S>,
    clock: Arc<ManualClock>,
    stripe: Arc<Lists>,
    /// How often each event was handled.
    handled: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl<S: Store> World<S> {
    fn new(store: Arc<S>) -> Self {
        let clock = Arc::new(ManualClock::starting_at(NOW.minus(Duration::from_secs(7_200))));
        Self { store, clock, stripe: Arc::default(), handled: Arc::default() }
    }

    /// A hub as it starts with this configuration on what is stored.
    async fn hub(&self, configured: impl FnOnce(HubBuilder) -> HubBuilder) -> Hub {
        let handled = Arc::clone(&self.handled);
        let counts = handler(move |event, _| {
            *handled.lock().unwrap().entry(event.event.id.to_string()).or_default() += 1;
            Box::pin(async { Handled::Done })
        });
        let builder = Hub::builder()
            .provider(StripeProvider::new())
            .store(self.store.clone())
            .clock(self.clock.clone())
            .random(Arc::new(SeededRandom::new(1)))
            .transport(self.stripe.clone())
            .master_key(master_key())
            .connection(connection())
            .on("customer.created", counts)
            .settings(settings(Access::Trusted));
        let hub = configured(builder).build().unwrap();
        hub.connect(&connection()).await.unwrap();
        hub
    }
}

/// Delivers an event and handles what is due. Returns what the answer's counter says became of it.
async fn delivered(hub: &Hub, endpoint: &str, id: &str) -> u16 {
    let answer = ask(&hub.router(), delivery(endpoint, event(id, "customer.created"))).await;
    while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    answer.status.as_u16()
}

async fn renamed_on<S: Store>(store: S) {
    let world = World::new(Arc::new(store));
    let work = async |hub: &Hub| {
        for _ in 0..30 {
            hub.worker().step(Queue::Background).await.unwrap();
            hub.worker().step(Queue::Events).await.unwrap();
        }
    };
    let before = world.hub(|hub| hub.endpoint(endpoint("old", &[HOOK_SECRET]))).await;
    work(&before).await;
    world.clock.set(NOW);
    assert_eq!(delivered(&before, "old", "evt_1").await, 200);
    assert_eq!(delivered(&before, "new", "evt_1").await, 404);

    let after = world.hub(|hub| hub.endpoint(endpoint("new", &[HOOK_SECRET])).formerly("new", "old")).await;
    assert_eq!(delivered(&after, "new", "evt_1").await, 200, "it is acknowledged");
    assert_eq!(delivered(&after, "new", "evt_2").await, 200);
    assert_eq!(delivered(&after, "old", "evt_2").await, 200, "a provider that was not told yet");
    assert_eq!(delivered(&after, "old", "evt_3").await, 200);
    assert_eq!(delivered(&after, "other", "evt_3").await, 404);
    let found = |events: Vec<StoredEvent>| {
        let mut found: Vec<_> = events.into_iter().map(|event| event.event.id.to_string()).collect();
        found.sort();
        found
    };
    let done = Some(EventState::Done);
    assert_eq!(found(world.store.events(done, None, 9).await.unwrap().events), ["evt_1", "evt_2", "evt_3"]);
    let listed = ask(&after.router(), Request::get("/api/v1/events").body(axum::body::Body::empty()).unwrap()).await;
    let endpoints: Vec<_> =
        listed.json()["events"].as_array().unwrap().iter().map(|event| event["endpoint"].clone()).collect();
    assert_eq!(endpoints, ["old", "old", "old"], "side by side");

    // The provider's list has all of them and one that nobody was told of: that one was missed, by either name.
    let all = ["evt_4", "evt_3", "evt_2", "evt_1"];
    *world.stripe.0.lock().unwrap() = all.iter().map(|id| event(id, "customer.created")).collect();
    world.clock.set(NOW.plus(Duration::from_secs(600)));
    after.worker().sync_now(&"acme-stripe".into(), &"events".into(), RunMode::Incremental).await.unwrap();
    work(&after).await;
    let healed = world.store.healings("acme-stripe".into(), 9).await.unwrap();
    let missed: Vec<_> = healed.iter().map(|run| run.missed.count).collect();
    assert_eq!(missed, [1]);
    let handled = world.handled.lock().unwrap().clone();
    assert_eq!(handled, [1, 2, 3, 4].map(|n| (format!("evt_{n}"), 1)).into(), "each of them once");
}

/// Fails when an event that came under an endpoint's old name and comes again under the new one is handled twice, or told
/// as missed; when what came before is found no more; or when a run does not know what was heard under the old name.
#[tokio::test]
async fn what_came_under_the_old_name_is_known_under_the_new_one() {
    renamed_on(MemoryStore::new()).await;
    let folder = tempfile::tempdir().unwrap();
    renamed_on(SqliteStore::open(SqliteConfig::at(folder.path().join("renamed.db"))).unwrap()).await;
}

/// Fails when two endpoints could keep their events under one name, or a name is given to an endpoint that is not there.
#[test]
fn a_former_name_is_one_endpoints_own() {
    let refused = |formerly: &[(&str, &str)]| {
        let mut builder = Hub::builder()
            .provider(StripeProvider::new())
            .store(Arc::new(MemoryStore::new()))
            .transport(Arc::<Lists>::default())
            .master_key(master_key())
            .endpoint(endpoint("one", &[HOOK_SECRET]))
            .endpoint(endpoint("two", &[HOOK_SECRET]));
        for (name, before) in formerly {
            builder = builder.formerly(*name, *before);
        }
        builder.build().err().map(|error| (error.kind(), error.message().to_owned()))
    };
    assert_eq!(refused(&[]), None);
    assert_eq!(refused(&[("one", "eins"), ("two", "zwei")]), None);
    for (formerly, word) in [
        (&[("none", "eins")][..], "no endpoint none"),
        (&[("one", "two")], "called two"),
        (&[("one", "one")], "called one"),
        (&[("one", "")], "called"),
        (&[("one", "eins"), ("two", "eins")], "both have been called eins"),
    ] {
        let (kind, message) = refused(formerly).expect("it is refused");
        assert!(kind == ErrorKind::Config && message.contains(word), "{formerly:?}: {message}");
    }
}

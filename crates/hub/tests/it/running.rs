//! A hub that runs: connections put in place, credentials sealed, handlers called, calls logged, and a stop that ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::ManualClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    CallLog, ConnectionState, Connections, EventState, Inbox, Jobs, NewDelivery, NewEvent, Queue,
};
use palisade_core::worker::{Handled, handler};
use palisade_core::{Call, ErrorKind, Transport};
use palisade_hub::{Access, ConnectionConfig, Hub};
use tokio::sync::watch;

use crate::fixtures::{NOW, NoNetwork, ask, builder, connection, delivery, event, fixture, master_key, settings};

/// A provider whose every list is empty; remembers the credentials it was sent.
#[derive(Debug, Default)]
pub(crate) struct Empty(Mutex<Vec<String>>);

#[async_trait]
impl Transport for Empty {
    async fn send(&self, request: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        let sent = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.0.lock().unwrap().push(sent.to_owned());
        let body = r#"{"object":"list","data":[],"has_more":false,"url":"/v1/x"}"#;
        let response = http::Response::builder().header("date", "Thu, 01 Jan 2026 00:00:00 GMT");
        Ok(response.body(Bytes::from_static(body.as_bytes())).unwrap())
    }
}

fn hub(store: &Arc<MemoryStore>, transport: Arc<dyn Transport>) -> Hub {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    builder(store.clone(), clock).transport(transport).settings(settings(Access::Trusted)).build().unwrap()
}

/// Runs a hub for some of tokio's seconds, then stops it.
pub(crate) async fn run_for(hub: &Hub, seconds: u64) {
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(hub.runner().run(stopped));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

// Fails when the credential is stored in plain, sealed anew at every start, or not replaced when it changed.
#[tokio::test]
async fn a_credential_is_sealed_once_and_replaced_when_it_changed() {
    let fixture = fixture();
    let config = connection();
    let sealed = async || fixture.store.credential("acme-stripe".into()).await.unwrap().unwrap();
    fixture.hub.connect(&config).await.unwrap();
    let first = sealed().await;
    assert_eq!(first.generation, 1);
    assert!(!first.blob.windows(8).any(|part| part == b"sk_test_"), "it is stored in plain");
    fixture.hub.connect(&config).await.unwrap();
    assert_eq!(sealed().await, first, "unchanged");
    let changed = ConnectionConfig { credential: Scheme::Bearer("sk_test_another".into()).into(), ..config.clone() };
    fixture.hub.connect(&changed).await.unwrap();
    assert_eq!(sealed().await.generation, 2);

    // Fails when another master key is taken for a reason to seal everything anew.
    let other = "f0e1d2c3b4a59687".repeat(4);
    let other = LocalMasterKey::parse(other.as_bytes(), Arc::new(SystemRandom)).unwrap();
    let other = builder(fixture.store.clone(), fixture.clock.clone()).master_key(Arc::new(other)).build().unwrap();
    let error = other.connect(&changed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("master key"), "{error}");
    assert_eq!(sealed().await.generation, 2);
}

#[tokio::test]
async fn a_connection_is_enqueued_when_it_is_new_and_keeps_its_state_otherwise() {
    let fixture = fixture();
    let config = connection();
    let state = async || fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap().state;
    let set = async |state: ConnectionState| {
        let row = fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap();
        fixture.store.put_connection(palisade_core::store::Connection { state, ..row }).await.unwrap();
    };
    fixture.hub.connect(&config).await.unwrap();
    let jobs = fixture.store.job_counts().await.unwrap().waiting;
    assert!(jobs > 0, "its first runs");
    fixture.hub.connect(&config).await.unwrap();
    assert_eq!(fixture.store.job_counts().await.unwrap().waiting, jobs, "done twice it is done once");
    // What somebody decided stays decided; what waits for a reconnect is tried again.
    set(ConnectionState::Paused).await;
    fixture.hub.connect(&config).await.unwrap();
    assert_eq!(state().await, ConnectionState::Paused);
    set(ConnectionState::NeedsReconnect { reason: "refused".to_owned() }).await;
    fixture.hub.connect(&config).await.unwrap();
    assert_eq!(state().await, ConnectionState::Active);
    set(ConnectionState::Disconnected).await;
    fixture.hub.connect(&config).await.unwrap();
    assert_eq!(state().await, ConnectionState::Disconnected);
    let changed = ConnectionConfig { credential: Scheme::Bearer("sk_test_another".into()).into(), ..config.clone() };
    fixture.hub.connect(&changed).await.unwrap();
    assert_eq!(state().await, ConnectionState::Active);
    // Fails when one tenant can take over the connection of another, or it can be moved to another environment.
    let stolen = ConnectionConfig { tenant: "globex".into(), ..config.clone() };
    assert_eq!(fixture.hub.connect(&stolen).await.unwrap_err().kind(), ErrorKind::Config);
    let moved = ConnectionConfig { environment: "sandbox".into(), ..config };
    let error = fixture.hub.connect(&moved).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for says in ["in the environment production", "leave environment out", "an id of its own", "disconnect acme-stripe"]
    {
        assert!(error.message().contains(says), "{says} in {error}");
    }
}

// Fails when what a person disconnected is connected again because the hub started anew.
#[tokio::test]
async fn a_connection_that_a_person_disconnected_stays_so_until_somebody_wants_it_again() {
    let fixture = fixture();
    let config = connection();
    let state = async || fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap().state;
    let start = async |config: &ConnectionConfig| {
        // Another process each time: nothing is known but what is stored.
        let hub = builder(fixture.store.clone(), fixture.clock.clone()).build().unwrap();
        hub.connect(config).await.unwrap();
    };
    let disconnect = async || {
        let request = http::Request::delete("/connections/acme-stripe").body(axum::body::Body::empty()).unwrap();
        assert_eq!(fixture.ask(request).await.status, 200);
        assert_eq!(state().await, ConnectionState::Disconnected);
    };
    let erased = async || fixture.store.credential("acme-stripe".into()).await.unwrap().unwrap().blob.is_empty();
    start(&config).await;
    disconnect().await;
    for _ in 0..3 {
        start(&config).await;
        assert_eq!(state().await, ConnectionState::Disconnected);
        assert!(erased().await, "and nothing is sealed for it again");
    }
    let changed = ConnectionConfig { credential: Scheme::Bearer("sk_test_another".into()).into(), ..config.clone() };
    start(&changed).await;
    assert_eq!(state().await, ConnectionState::Active, "its credential is another one");
    disconnect().await;
    start(&changed).await;
    assert_eq!(state().await, ConnectionState::Disconnected);
    assert_eq!(fixture.post("/connections/acme-stripe/reconnect").await.status, 303);
    assert_eq!(state().await, ConnectionState::Active, "an operator wants it again");
    assert!(!erased().await);
    start(&config).await;
    assert_eq!(state().await, ConnectionState::Active);
}

// Fails when a handler is not given the event, or when its effect happens without or beside the settling.
#[tokio::test(start_paused = true)]
async fn a_delivery_reaches_its_handler_and_its_effect_happens_once() {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let wanted = handler(|event, context| {
        Box::pin(async move {
            context.effect("INSERT INTO seen (event) VALUES (?1)", vec![event.event.id.as_str().into()]);
            Handled::Done
        })
    });
    let hub = builder(store.clone(), clock)
        .on("radar.*", wanted)
        .transport(Arc::new(Empty::default()))
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    let router = hub.router();
    for _ in 0..3 {
        let body = event("evt_1", "radar.made_up");
        assert_eq!(ask(&router, delivery("stripe", body)).await.status, 200);
    }
    run_for(&hub, 5).await;
    assert_eq!(store.effects().len(), 1);
    assert_eq!(store.events(Some(EventState::Done), None, 10).await.unwrap().events.len(), 1);
}

// Fails when calls are not logged, or when those of the last moment are lost at a stop.
#[tokio::test(start_paused = true)]
async fn finished_calls_are_logged_and_the_credential_is_sent() {
    let store = Arc::new(MemoryStore::new());
    let provider = Arc::new(Empty::default());
    let hub = hub(&store, provider.clone());
    run_for(&hub, 30).await;
    let sent = provider.0.lock().unwrap().clone();
    assert!(sent.len() >= 7, "every stream was asked for: {}", sent.len());
    assert!(sent.iter().all(|header| header == "Bearer sk_test_fixture"), "{sent:?}");
    let logged = store.calls(None, 1_000).await.unwrap();
    assert_eq!(logged.len(), sent.len());
    let health =
        ask(&hub.router(), http::Request::get("/api/v1/health").body(axum::body::Body::empty()).unwrap()).await;
    let health = health.json();
    assert_eq!(health["connections"][0]["health"]["state"], "connected", "{health}");
    assert_eq!(health["connections"][0]["health"]["who_acts"], "nobody", "{health}");
    assert_eq!(health["needs_attention"], 0, "{health}");
}

// Fails when a stop waits for work that is not due, or leaves a job held.
#[tokio::test(start_paused = true)]
async fn a_stop_ends_soon_and_holds_nothing() {
    let store = Arc::new(MemoryStore::new());
    let hub = hub(&store, Arc::new(NoNetwork));
    run_for(&hub, 60).await;
    assert_eq!(store.job_counts().await.unwrap().running, 0);
    let view = ask(
        &hub.router(),
        http::Request::get("/api/v1/connections/acme-stripe").body(axum::body::Body::empty()).unwrap(),
    )
    .await
    .json();
    assert_eq!(view["health"]["status"], "down", "{view}");
    assert_eq!(view["health"]["who_acts"], "provider", "{view}");
    // A second runner of the same hub takes up the work.
    run_for(&hub, 5).await;
    assert_eq!(hub.worker().step(Queue::Events).await.unwrap(), 0);
}

#[tokio::test]
async fn a_hub_that_cannot_work_is_not_built() {
    let store = || Arc::new(MemoryStore::new());
    let clock = || Arc::new(ManualClock::starting_at(NOW));
    let fine = || builder(store(), clock());
    let cases: Vec<(&str, palisade_hub::HubBuilder)> = vec![
        ("needs a store", Hub::builder().transport(Arc::new(NoNetwork)).master_key(master_key())),
        ("needs a transport", Hub::builder().store(store()).master_key(master_key())),
        ("needs a master key", Hub::builder().store(store()).transport(Arc::new(NoNetwork))),
        ("given twice", fine().connection(connection())),
        ("given twice", fine().provider(palisade_stripe::StripeProvider::new())),
        ("given twice", fine().endpoint(crate::fixtures::endpoint("stripe", &[]))),
        ("not part of the hub", fine().on_provider("nobody", "*", handler(|_, _| Box::pin(async { Handled::Done })))),
        ("at least 16", fine().settings(settings(Access::Token("short".into())))),
    ];
    for (expected, builder) in cases {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(expected), "{expected}: {error}");
    }
}

async fn health(hub: &Hub) -> serde_json::Value {
    let request = http::Request::get("/api/v1/connections/acme-stripe").body(axum::body::Body::empty()).unwrap();
    ask(&hub.router(), request).await.json()["health"].clone()
}

/// Answers as [`Empty`], and throttles while told to.
#[derive(Default)]
struct Throttling {
    empty: Empty,
    wait: Mutex<Option<&'static str>>,
}

#[async_trait]
impl Transport for Throttling {
    async fn send(&self, request: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        let wait = *self.wait.lock().unwrap();
        let Some(wait) = wait else { return self.empty.send(request).await };
        let response = http::Response::builder().status(429).header("retry-after", wait);
        Ok(response.header("stripe-rate-limited-reason", "global-rate").body("{}".into()).unwrap())
    }
}

// Fails when a pause the provider asked for is not told, or is told when it is over.
#[tokio::test(start_paused = true)]
async fn a_connection_the_provider_holds_back_says_so_and_when_it_goes_on() {
    let store = Arc::new(MemoryStore::new());
    let provider = Arc::new(Throttling::default());
    let hub = hub(&store, provider.clone());
    run_for(&hub, 30).await;
    assert_eq!(health(&hub).await["state"], "connected");
    *provider.wait.lock().unwrap() = Some("600");
    let sync = http::Request::post("/api/v1/connections/acme-stripe/sync").body(axum::body::Body::empty()).unwrap();
    assert_eq!(ask(&hub.router(), sync).await.status, 202);
    run_for(&hub, 5).await;
    let told = health(&hub).await;
    assert_eq!((&told["state"], &told["who_acts"]), (&"delayed".into(), &"provider".into()), "{told}");
    let step = told["next_step"].as_str().unwrap();
    assert!(step.contains("asked us to wait") && step.contains("in 1"), "ten minutes and a tenth at most: {step}");
    *provider.wait.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(700)).await;
    // The call that was refused still counts among the day's few.
    let told = health(&hub).await;
    assert!(!told["next_step"].as_str().unwrap().contains("asked us to wait"), "{told}");
}

/// Fails when two configured connections of one account have limits of their own, or one of another environment shares
/// them.
#[tokio::test(start_paused = true)]
async fn configured_connections_of_one_account_are_held_back_together() {
    let provider = Arc::new(Throttling::default());
    let hub = hub(&Arc::new(MemoryStore::new()), provider.clone());
    for (id, environment) in [("one", "production"), ("two", "production"), ("sandbox", "sandbox")] {
        let account = Some("acct_1".to_owned());
        let config = ConnectionConfig { id: id.into(), environment: environment.into(), account, ..connection() };
        hub.connect(&config).await.unwrap();
    }
    let send = async |connection: &str| {
        let operation = &palisade_stripe::operation::OTHER_READ;
        let soon = tokio::time::Instant::now() + Duration::from_secs(1);
        let call = Call::new(operation, connection.into(), "acme".into()).with_deadline(soon);
        let request = http::Request::get("https://api.stripe.com/v1/balance").extension(call);
        hub.client("stripe").unwrap().send(request.body(Bytes::new()).unwrap()).await.map(drop)
    };
    *provider.wait.lock().unwrap() = Some("30");
    assert_eq!(send("one").await.unwrap_err().attempts(), 1);
    *provider.wait.lock().unwrap() = None;
    let error = send("two").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 0), "{error}");
    send("sandbox").await.unwrap();
    // Its configuration names another account: it has left the limits of this one.
    let config = ConnectionConfig { id: "two".into(), account: Some("acct_2".to_owned()), ..connection() };
    hub.connect(&config).await.unwrap();
    send("two").await.unwrap();
    send("one").await.unwrap_err();
}

// Fails when a pause is known only to the process that was asked for it: not to one beside it, or not to the next one.
#[tokio::test(start_paused = true)]
async fn every_hub_on_the_store_knows_what_the_provider_asked_one_of_them() {
    let store = Arc::new(MemoryStore::new());
    let provider = Arc::new(Throttling::default());
    let new = || hub(&store, provider.clone());
    let waits = async |hub: &Hub| health(hub).await["next_step"].as_str().unwrap().contains("asked us to wait");
    let (first, beside) = (new(), new());
    run_for(&first, 30).await;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(beside.runner().run(stopped));
    *provider.wait.lock().unwrap() = Some("600");
    let sync = http::Request::post("/api/v1/connections/acme-stripe/sync").body(axum::body::Body::empty()).unwrap();
    assert_eq!(ask(&first.router(), sync).await.status, 202);
    run_for(&first, 20).await;
    assert!(waits(&first).await && waits(&beside).await);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();

    let next = new();
    assert!(!waits(&next).await, "it has not begun");
    let sent = provider.empty.0.lock().unwrap().len();
    *provider.wait.lock().unwrap() = None;
    run_for(&next, 5).await;
    assert!(waits(&next).await);
    let sync = http::Request::post("/api/v1/connections/acme-stripe/sync").body(axum::body::Body::empty()).unwrap();
    assert_eq!(ask(&next.router(), sync).await.status, 202);
    run_for(&next, 100).await;
    assert_eq!(provider.empty.0.lock().unwrap().len(), sent, "nothing was sent");
    let page = ask(&next.router(), http::Request::get("/").body(axum::body::Body::empty()).unwrap()).await.text();
    assert!(page.contains("Held until"), "{page}");
}

// Fails when webhooks that no longer come are not told, when an endpoint of another connection counts, or when one
// webhook does not set it right.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_misses_what_the_provider_lists_is_told_as_silent() {
    let store = Arc::new(MemoryStore::new());
    let hub = hub(&store, Arc::new(Empty::default()));
    run_for(&hub, 30).await;
    let event = |id: &str| NewEvent {
        id: id.into(),
        kind: "customer.updated".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: Some(Bytes::from(event(id, "customer.updated"))),
        wanted: true,
        priority: 0,
    };
    let delivery_of = |endpoint: &str, id: &str, hours_ago: u64, body: &'static str| NewDelivery {
        endpoint: endpoint.into(),
        connection: "acme-stripe".into(),
        provider: "stripe".to_owned(),
        received_at: NOW.minus(Duration::from_secs(3_600 * hours_ago)),
        headers: Vec::new(),
        body: Bytes::from_static(body.as_bytes()),
        events: vec![event(id)],
    };
    for endpoint in ["elsewhere", "stripe"] {
        store.append(vec![delivery_of(endpoint, "evt_heard", 9, "{}")]).await.unwrap();
        for (id, hours) in [("evt_1", 5), ("evt_2", 4), ("evt_3", 3)] {
            assert_eq!(health(&hub).await["state"], "connected", "{endpoint} {id}");
            store.append(vec![delivery_of(endpoint, id, hours, "")]).await.unwrap();
        }
    }
    run_for(&hub, 5).await;
    let told = health(&hub).await;
    assert_eq!((&told["state"], &told["who_acts"]), (&"delayed".into(), &"operator".into()), "{told}");
    assert!(told["next_step"].as_str().unwrap().starts_with("No webhook has come for 9 hours."), "{told}");
    // It arrived at last, though it is known already.
    let late = delivery("stripe", self::event("evt_3", "customer.updated"));
    assert_eq!(ask(&hub.router(), late).await.status, 200);
    assert_eq!(health(&hub).await["state"], "connected");
}

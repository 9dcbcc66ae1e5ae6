//! Forwarding as an operator meets it: by API, page and metrics; and endpoints that take deliveries from some addresses only.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use palisade_core::clock::ManualClock;
use palisade_core::forward::Configured;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, DestinationSpec, Destinations, EventState, Filter, Inbox, Order, Queue,
};
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::webhook::{RawDelivery, Verified};
use palisade_core::{ErrorKind, Secret, Transport};
use palisade_hub::{Access, AllowFrom, Hub, Settings};
use serde_json::{Value, json};

use crate::fixtures::{NOW, NoNetwork, ask, builder, connection, delivery, event, settings};
use crate::running::run_for;

const KEY: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A receiver that answers what it is told to, and keeps what came.
#[derive(Default)]
struct Receiver {
    status: Mutex<Option<u16>>,
    came: Mutex<Vec<Request<Bytes>>>,
}

#[async_trait]
impl Transport for Receiver {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        self.came.lock().unwrap().push(request);
        let mut response = Response::new(Bytes::new());
        let status = self.status.lock().unwrap().unwrap_or(200);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    }
}

struct World {
    hub: Hub,
    store: Arc<MemoryStore>,
    receiver: Arc<Receiver>,
}

fn world() -> World {
    world_on(Arc::new(MemoryStore::new()))
}

/// A hub as it starts on what another one has left.
fn world_on(store: Arc<MemoryStore>) -> World {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let receiver = Arc::new(Receiver::default());
    let hub = builder(store.clone(), clock)
        .transport(Arc::new(NoNetwork))
        .forward_transport(Arc::clone(&receiver) as _)
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    World { hub, store, receiver }
}

impl World {
    async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let answer = ask(&self.hub.router(), request).await;
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }
}

// Fails when an event that was given up is to be found nowhere, asks for nobody's look, or cannot be sent again or dismissed.
#[tokio::test]
async fn what_was_given_up_is_found_and_decided_on() {
    let world = world();
    let config = connection();
    let connection = Connection {
        id: config.id,
        tenant: config.tenant,
        provider: config.provider,
        environment: Default::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: NOW,
    };
    world.store.put_connection(connection).await.unwrap();
    let new = json!({ "name": "app", "url": "https://app.example.com/hooks" });
    assert_eq!(world.ask("POST", "/api/v1/destinations", new).await.0, 201);
    *world.receiver.status.lock().unwrap() = Some(410);
    let forward = async |rows: std::ops::RangeInclusive<u32>| {
        for n in rows {
            ask(&world.hub.router(), delivery("stripe", event(&format!("evt_{n}"), "customer.created"))).await;
        }
        while world.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
        while world.hub.worker().step(Queue::Forwards).await.unwrap() > 0 {}
    };
    forward(1..=3).await;
    let path = "/api/v1/destinations/app";
    let (_, shown) = world.ask("GET", path, Value::Null).await;
    assert_eq!((&shown["waiting"], &shown["dead"]), (&json!(0), &json!(3)), "{shown}");
    let (_, letters) = world.ask("GET", "/api/v1/dead-letters", Value::Null).await;
    assert_eq!(letters["forwards"], json!([{ "destination": "app", "events": 3 }]));
    let (_, page) = world.ask("GET", &format!("{path}/dead?limit=2"), Value::Null).await;
    let first = &page["events"][0];
    assert_eq!(
        (&first["row"], &first["id"], &first["connection"]),
        (&json!(1), &json!("evt_1"), &json!("acme-stripe"))
    );
    assert!(first["reason"].as_str().unwrap().contains("410"), "{first}");
    assert_eq!(page["next_after"], 2);
    let (_, rest) = world.ask("GET", &format!("{path}/dead?after=2"), Value::Null).await;
    assert_eq!((&rest["events"][0]["row"], &rest["next_after"]), (&json!(3), &Value::Null));
    let all = json!({ "all": true });
    for (method, path, body, wrong) in [
        ("GET", "/api/v1/destinations/app/dead?limit=0", Value::Null, 400),
        ("GET", "/api/v1/destinations/nobody/dead", Value::Null, 404),
        ("POST", "/api/v1/destinations/app/resend", json!({}), 400),
        ("POST", "/api/v1/destinations/app/dismiss", json!({ "all": true, "rows": [1] }), 400),
        ("POST", "/api/v1/destinations/nobody/dismiss", all.clone(), 404),
        ("POST", "/api/v1/destinations/app/resend", all.clone(), 409),
    ] {
        assert_eq!(world.ask(method, path, body).await.0.as_u16(), wrong, "{path}");
    }
    assert_eq!(world.ask("POST", &format!("{path}/enable"), Value::Null).await.0, 200);
    let (_, health) = world.ask("GET", "/api/v1/health", Value::Null).await;
    assert_eq!(health["destinations"][0]["dead"], 3, "{health}");
    let page = ask(&world.hub.router(), Request::get("/").body(Body::empty()).unwrap()).await.text();
    assert!(page.contains("/actions/destinations/app/resend"), "{page}");

    *world.receiver.status.lock().unwrap() = Some(204);
    let before = world.receiver.came.lock().unwrap().len();
    let (status, resent) = world.ask("POST", &format!("{path}/resend"), json!({ "rows": [2] })).await;
    assert_eq!((status.as_u16(), resent), (202, json!({ "resent": 1, "dead": 2 })));
    forward(4..=4).await;
    assert_eq!(world.receiver.came.lock().unwrap().len(), before + 2);
    let (_, dismissed) = world.ask("POST", &format!("{path}/dismiss"), json!({ "rows": [3, 99] })).await;
    assert_eq!(dismissed, json!({ "dismissed": 1, "dead": 1 }));
    assert_eq!(world.ask("POST", "/actions/destinations/app/dismiss", Value::Null).await.0, 303);
    let (_, shown) = world.ask("GET", path, Value::Null).await;
    assert_eq!((&shown["waiting"], &shown["dead"]), (&json!(0), &json!(0)), "{shown}");
}

/// Fails when what was given up is sent again or dismissed by a request that names nothing, everything by accident, a
/// destination that is not there or one that takes nothing, or when an answer counts what it did not do.
#[tokio::test]
async fn a_resend_or_dismissal_that_cannot_be_says_why_and_counts_nothing() {
    let world = world();
    run_for(&world.hub, 0).await;
    let new = json!({ "name": "app", "url": "https://app.example.com/hooks" });
    assert_eq!(world.ask("POST", "/api/v1/destinations", new).await.0, 201);
    let path = "/api/v1/destinations/app";
    let many: Vec<u32> = (0..1_001).collect();
    for word in ["resend", "dismiss"] {
        for (name, body, status, kind) in [
            ("app", Value::Null, 400, "invalid"),
            ("app", json!({}), 400, "invalid"),
            ("app", json!({ "all": false }), 400, "invalid"),
            ("app", json!({ "rows": [1], "all": true }), 400, "invalid"),
            ("app", json!({ "rows": "all" }), 400, "invalid"),
            ("app", json!({ "rows": many }), 400, "invalid"),
            ("app", json!({ "all": true, "filter": {} }), 400, "invalid"),
            ("nobody", json!({ "all": true }), 404, "not_found"),
            ("nobody", json!({ "rows": [1] }), 404, "not_found"),
        ] {
            let (found, answer) = world.ask("POST", &format!("/api/v1/destinations/{name}/{word}"), body.clone()).await;
            let error = &answer["error"];
            assert_eq!((found.as_u16(), &error["kind"]), (status, &json!(kind)), "{word} {name} {body}: {answer}");
            assert!(error["message"].is_string() && error["next"].is_string(), "{answer}");
        }
    }
    for (word, done, status) in [("resend", "resent", 202), ("dismiss", "dismissed", 200)] {
        for body in [json!({ "all": true }), json!({ "rows": [1, 99] }), json!({ "rows": [] })] {
            let (found, answer) = world.ask("POST", &format!("{path}/{word}"), body.clone()).await;
            assert_eq!((found.as_u16(), answer), (status, json!({ done: 0, "dead": 0 })), "{word} {body}");
        }
    }
    assert_eq!(world.ask("POST", &format!("{path}/disable"), Value::Null).await.0, 200);
    let (status, answer) = world.ask("POST", &format!("{path}/resend"), json!({ "rows": [1] })).await;
    assert_eq!((status.as_u16(), &answer["error"]["kind"]), (409, &json!("conflict")), "{answer}");
    assert_eq!(world.ask("POST", &format!("{path}/dismiss"), json!({ "all": true })).await.0, 200, "that can be");
    // It is asked for again when it takes events, and paused it waits.
    assert_eq!(world.ask("POST", &format!("{path}/enable"), Value::Null).await.0, 200);
    assert_eq!(world.ask("POST", &format!("{path}/pause"), Value::Null).await.0, 200);
    assert_eq!(world.ask("POST", &format!("{path}/resend"), json!({ "all": true })).await.0, 202);
}

fn signed(request: &Request<Bytes>, secret: &str) -> bool {
    let raw = RawDelivery {
        method: request.method().clone(),
        url: request.uri().to_string(),
        headers: request.headers().clone(),
        body: request.body().clone(),
    };
    Verified::check(&StandardWebhook, raw, &[Secret::from(secret)], NOW).is_ok()
}

// Fails when a key is shown again, a change loses what it does not name, or an action does something else than it says.
#[tokio::test]
async fn destinations_are_made_changed_tried_and_removed_by_the_api() {
    let world = world();
    let new = json!({ "name": "app", "url": "https://app.example.com/hooks", "types": ["invoice.*"], "tenant": "acme",
                      "headers": { "x-team": "billing" }, "order": "by_key" });
    let (status, made) = world.ask("POST", "/api/v1/destinations", new.clone()).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    let (status, _) = world.ask("POST", "/api/v1/destinations", new).await;
    assert_eq!(status, 409);
    let (_, list) = world.ask("GET", "/api/v1/destinations", Value::Null).await;
    let shown = &list["destinations"][0];
    assert!(!list.to_string().contains("whsec"), "{list}");
    for (key, value) in [
        ("name", json!("app")),
        ("state", json!("active")),
        ("types", json!(["invoice.*"])),
        ("tenant", json!("acme")),
        ("provider", Value::Null),
        ("order", json!("by_key")),
        ("concurrency", json!(8)),
        ("timeout_seconds", json!(15.0)),
        ("headers", json!({ "x-team": "billing" })),
        ("allow_private", json!(false)),
        ("configured", json!(false)),
        ("keys", json!([{ "version": 1, "signs_until": null }])),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    let change = json!({ "types": ["*"], "tenant": null, "timeout_seconds": 20 });
    let (status, changed) = world.ask("PATCH", "/api/v1/destinations/app", change).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!((&changed["types"], &changed["tenant"]), (&json!(["*"]), &Value::Null));
    assert_eq!(
        (&changed["url"], &changed["headers"]["x-team"]),
        (&json!("https://app.example.com/hooks"), &json!("billing"))
    );

    let (status, tested) = world.ask("POST", "/api/v1/destinations/app/test", Value::Null).await;
    assert_eq!((status, &tested["delivered"], &tested["status"]), (StatusCode::OK, &json!(true), &json!(200)));
    let came = world.receiver.came.lock().unwrap().pop().unwrap();
    assert!(signed(&came, &secret));
    let body: Value = serde_json::from_slice(came.body()).unwrap();
    assert_eq!(body["type"], "palisade.test");
    assert!(came.headers().get("authorization").is_none());

    let (status, rotated) =
        world.ask("POST", "/api/v1/destinations/app/rotate", json!({ "secret": KEY, "overlap_seconds": 60 })).await;
    assert_eq!((status, &rotated["secret"]), (StatusCode::OK, &json!(KEY)));
    assert_eq!(rotated["destination"]["keys"].as_array().unwrap().len(), 2);
    world.ask("POST", "/api/v1/destinations/app/test", Value::Null).await;
    let came = world.receiver.came.lock().unwrap().pop().unwrap();
    assert!(signed(&came, &secret) && signed(&came, KEY), "both sign while they overlap");

    let (_, disabled) = world.ask("POST", "/api/v1/destinations/app/disable", Value::Null).await;
    assert_eq!((&disabled["state"], &disabled["disabled"]["by"]), (&json!("disabled"), &json!("person")));
    let since = json!({ "since": "2026-01-01T00:00:00Z" });
    let (status, _) = world.ask("POST", "/api/v1/destinations/app/replay", since.clone()).await;
    assert_eq!(status, 409);
    let (_, enabled) = world.ask("POST", "/api/v1/destinations/app/enable", Value::Null).await;
    assert_eq!(enabled["state"], "active");
    let (status, _) = world.ask("POST", "/api/v1/destinations/app/replay", json!({ "since": "yesterday" })).await;
    assert_eq!(status, 400);
    let (status, replayed) = world.ask("POST", "/api/v1/destinations/app/replay", since).await;
    assert_eq!(
        (status, &replayed["wanted"], &replayed["next_before"]),
        (StatusCode::ACCEPTED, &json!(0), &Value::Null)
    );

    for (method, path, body, wanted) in [
        ("POST", "/api/v1/destinations", json!({ "name": "x", "url": "http://127.0.0.1/" }), 400),
        ("POST", "/api/v1/destinations", json!({ "name": "x", "url": "https://169.254.169.254/" }), 400),
        ("POST", "/api/v1/destinations", json!({ "name": "x", "url": "https://a.example/", "secret": "short" }), 400),
        ("POST", "/api/v1/destinations", json!({ "name": "x", "uri": "https://a.example/" }), 400),
        ("POST", "/api/v1/destinations", json!({ "url": "https://a.example/" }), 400),
        ("PATCH", "/api/v1/destinations/app", json!({ "name": "y" }), 400),
        ("PATCH", "/api/v1/destinations/none", json!({}), 404),
        ("GET", "/api/v1/destinations/none", Value::Null, 404),
        ("POST", "/api/v1/destinations/none/test", Value::Null, 404),
        ("DELETE", "/api/v1/destinations/none", Value::Null, 404),
        ("DELETE", "/api/v1/destinations/app", Value::Null, 200),
        ("GET", "/api/v1/destinations/app", Value::Null, 404),
    ] {
        let (status, answer) = world.ask(method, path, body).await;
        assert_eq!(status, wanted, "{method} {path}: {answer}");
    }
}

// Fails when an event is not forwarded by a running hub, when the page does not show how a destination stands, or when its
// buttons do nothing.
#[tokio::test(start_paused = true)]
async fn an_event_is_forwarded_and_the_page_shows_how_destinations_stand() {
    let world = world();
    let new = json!({ "name": "app<b>", "url": "https://app.example.com/", "secret": KEY });
    assert_eq!(world.ask("POST", "/api/v1/destinations", new).await.0, 400, "a name that could not stand in a URL");
    let new = json!({ "name": "app", "url": "https://app.example.com/?<b>", "secret": KEY });
    assert_eq!(world.ask("POST", "/api/v1/destinations", new).await.0, 201);
    assert_eq!(ask(&world.hub.router(), delivery("stripe", event("evt_1", "radar.made_up"))).await.status, 200);
    run_for(&world.hub, 5).await;
    assert_eq!(world.store.events(Some(EventState::Done), None, 9).await.unwrap().events.len(), 1);
    let came = world.receiver.came.lock().unwrap().clone();
    assert_eq!(came.len(), 1);
    assert!(signed(&came[0], KEY));
    let body: Value = serde_json::from_slice(came[0].body()).unwrap();
    assert_eq!((&body["type"], &body["palisade"]["connection"]), (&json!("radar.made_up"), &json!("acme-stripe")));

    *world.receiver.status.lock().unwrap() = Some(410);
    assert_eq!(ask(&world.hub.router(), delivery("stripe", event("evt_2", "radar.made_up"))).await.status, 200);
    run_for(&world.hub, 5).await;
    let page = ask(&world.hub.router(), Request::get("/").body(Body::empty()).unwrap()).await.text();
    for shown in
        ["Destinations", "disabled", "410", "https://app.example.com/?&lt;b&gt;", "/actions/destinations/app/enable"]
    {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    let (_, health) = world.ask("GET", "/api/v1/health", Value::Null).await;
    assert_eq!(health["destinations"][0]["disabled"]["by"], "receiver", "{health}");
    assert!(health["needs_attention"].as_u64().unwrap() >= 1);
    let metrics = ask(&world.hub.router(), Request::get("/metrics").body(Body::empty()).unwrap()).await.text();
    for line in [
        r#"palisade_destination_disabled{destination="app"} 1"#,
        r#"palisade_forwards_total{destination="app",result="delivered"} 1"#,
        r#"palisade_forwards_total{destination="app",result="gone"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    *world.receiver.status.lock().unwrap() = None;
    let post = async |path: &str| ask(&world.hub.router(), Request::post(path).body(Body::empty()).unwrap()).await;
    assert_eq!(post("/actions/destinations/app/enable").await.status, 303);
    assert_eq!(world.store.destinations().await.unwrap()[0].health.disabled, None);
    let tried = post("/actions/destinations/app/test").await;
    assert!(tried.status == 200 && tried.text().contains("arrived"), "{}", tried.text());
    assert_eq!(post("/actions/destinations/app/disable").await.status, 303);
    assert!(world.store.destinations().await.unwrap()[0].health.disabled.is_some());
    assert_eq!(post("/actions/destinations/app/explode").await.status, 404);
}

/// Fails when a paused destination is sent something, also by the next start of the hub, when nobody is told that it is
/// paused, or somebody is called for it.
#[tokio::test(start_paused = true)]
async fn a_destination_is_paused_by_api_and_page_and_over_a_start() {
    let world = world();
    let new = json!({ "name": "app", "url": "https://app.example.com/", "secret": KEY });
    assert_eq!(world.ask("POST", "/api/v1/destinations", new).await.0, 201);
    // Connects the account of the configuration.
    run_for(&world.hub, 5).await;
    let attention = world.ask("GET", "/api/v1/health", Value::Null).await.1["needs_attention"].clone();
    let path = "/api/v1/destinations/app";
    let (status, shown) = world.ask("POST", &format!("{path}/pause"), Value::Null).await;
    assert_eq!((status.as_u16(), &shown["state"], shown["paused_at"].is_string()), (200, &json!("paused"), true));
    assert_eq!(shown["disabled"], Value::Null);
    for n in 1..=3 {
        let id = format!("evt_{n}");
        assert_eq!(ask(&world.hub.router(), delivery("stripe", event(&id, "radar.made_up"))).await.status, 200);
    }
    run_for(&world.hub, 60).await;
    let next = world_on(Arc::clone(&world.store));
    run_for(&next.hub, 60).await;
    let came = |world: &World| {
        let event = |request: &Request<Bytes>| {
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            body["palisade"]["event"].as_str().unwrap().to_owned()
        };
        world.receiver.came.lock().unwrap().iter().map(event).collect::<Vec<_>>()
    };
    assert_eq!((came(&world), came(&next)), (Vec::new(), Vec::new()));
    let (_, health) = next.ask("GET", "/api/v1/health", Value::Null).await;
    let told = &health["destinations"][0];
    assert_eq!((&told["state"], &told["waiting"], &told["dead"]), (&json!("paused"), &json!(3), &json!(0)));
    assert_eq!(health["needs_attention"], attention, "somebody wanted it so");
    let page = ask(&next.hub.router(), Request::get("/").body(Body::empty()).unwrap()).await.text();
    assert!(page.contains("/actions/destinations/app/resume") && !page.contains("destinations/app/pause"), "{page}");
    let metrics = ask(&next.hub.router(), Request::get("/metrics").body(Body::empty()).unwrap()).await.text();
    assert!(metrics.contains(r#"palisade_destination_paused{destination="app"} 1"#), "{metrics}");

    let post = async |path: &str| ask(&next.hub.router(), Request::post(path).body(Body::empty()).unwrap()).await;
    assert_eq!(post("/actions/destinations/app/resume").await.status, 303);
    run_for(&next.hub, 60).await;
    let mut sent = came(&next);
    sent.sort();
    assert_eq!(sent, ["evt_1", "evt_2", "evt_3"]);
    assert_eq!(post("/actions/destinations/app/pause").await.status, 303);
    assert!(world.store.destinations().await.unwrap()[0].paused_at.is_some());
    let (status, shown) = next.ask("POST", &format!("{path}/resume"), Value::Null).await;
    assert_eq!((status.as_u16(), &shown["state"], &shown["paused_at"]), (200, &json!("active"), &Value::Null));
    for word in ["pause", "resume"] {
        assert_eq!(next.ask("POST", &format!("/api/v1/destinations/nobody/{word}"), Value::Null).await.0, 404);
    }
}

// Fails when the first delivery after a start meets a hub that does not know its own destinations yet.
#[tokio::test]
async fn a_destination_of_the_configuration_is_known_before_the_first_delivery_is_stored() {
    let store = Arc::new(MemoryStore::new());
    let spec = DestinationSpec {
        url: "https://app.example.com/".to_owned(),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: 1,
        timeout: Duration::from_secs(15),
        headers: Vec::new(),
        order: Order::None,
        reach: Default::default(),
    };
    let configured = |secrets: &[&str], name: &str| Configured {
        name: name.to_owned(),
        spec: spec.clone(),
        secrets: secrets.iter().map(|secret| Secret::from(*secret)).collect(),
    };
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let made = |list: Vec<Configured>| {
        let start = builder(store.clone(), clock.clone()).settings(settings(Access::Trusted));
        list.into_iter().fold(start, |builder, one| builder.destination(one)).build()
    };
    let hub = made(vec![configured(&[KEY], "app")]).unwrap();
    assert_eq!(ask(&hub.router(), delivery("stripe", event("evt_1", "radar.made_up"))).await.status, 200);
    assert_eq!(store.events(Some(EventState::Pending), None, 9).await.unwrap().events.len(), 1, "wanted, not ignored");
    for wrong in [
        vec![configured(&[], "app")],
        vec![configured(&["whsec_short"], "app")],
        vec![configured(&[KEY], "a/b")],
        vec![configured(&[KEY], "app"), configured(&[KEY], "app")],
    ] {
        assert_eq!(made(wrong).unwrap_err().kind(), ErrorKind::Config);
    }
}

async fn from(hub: &Hub, peer: Option<&str>, forwarded: Option<&str>) -> u16 {
    let mut request = delivery("stripe", event("evt_1", "customer.updated"));
    if let Some(peer) = peer {
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::new(peer.parse().unwrap(), 4_711)));
    }
    if let Some(forwarded) = forwarded {
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    ask(&hub.router(), request).await.status.as_u16()
}

// Fails when an address that is not named passes, when a sender can name itself, when an unknown one passes, or when the
// answer says why.
#[tokio::test]
async fn an_endpoint_takes_deliveries_from_the_named_addresses_only() {
    let made = |from: AllowFrom| {
        let settings = Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..settings(Access::Trusted) };
        let clock = Arc::new(ManualClock::starting_at(NOW));
        builder(Arc::new(MemoryStore::new()), clock).settings(settings).allow_from("stripe", from).build()
    };
    let named = made(AllowFrom::Networks(vec!["54.187.174.169/32".parse().unwrap(), "2001:db8::/32".parse().unwrap()]));
    let named = named.unwrap();
    for (peer, forwarded, status) in [
        (Some("54.187.174.169"), None, 200),
        (Some("::ffff:54.187.174.169"), None, 200),
        (Some("2001:db8::7"), None, 200),
        (Some("54.187.174.170"), None, 403),
        (Some("10.0.0.1"), Some("54.187.174.169"), 200),
        (Some("10.0.0.1"), Some("54.187.174.169, 8.8.8.8"), 403),
        (Some("8.8.8.8"), Some("54.187.174.169"), 403),
        (Some("10.0.0.1"), None, 403),
        (None, None, 403),
    ] {
        assert_eq!(from(&named, peer, forwarded).await, status, "{peer:?} for {forwarded:?}");
    }
    let published = made(AllowFrom::Published).unwrap();
    assert_eq!(from(&published, Some("3.18.12.63"), None).await, 200);
    assert_eq!(from(&published, Some("3.18.12.64"), None).await, 403);
    let mut refused = delivery("stripe", "forged");
    refused.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::from(([8, 8, 8, 8], 1))));
    let answer = ask(&published.router(), refused).await;
    answer.is_error(403, "forbidden");
    assert!(!answer.text().contains("8.8.8.8") && !answer.text().contains("allow_from"), "{}", answer.text());
    let metrics = ask(&published.router(), Request::get("/metrics").body(Body::empty()).unwrap()).await.text();
    assert!(metrics.contains(r#"palisade_webhook_refusals_total{endpoint="stripe",reason="sender"} 2"#), "{metrics}");

    let clock = Arc::new(ManualClock::starting_at(NOW));
    let nowhere = builder(Arc::new(MemoryStore::new()), clock).allow_from("strpe", AllowFrom::Published).build();
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::Config);
}

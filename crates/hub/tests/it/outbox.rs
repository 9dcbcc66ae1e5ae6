//! The outbox from outside: kept over the API, typed by each adapter, decided about on the page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response};
use palisade_core::auth::Scheme;
use palisade_core::clock::ManualClock;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{CallId, CallState, Connections, Decision, Effect, Outbox, Queue, Store, Value};
use palisade_core::transport::HttpTransport;
use palisade_core::worker::{NewCall, draft};
use palisade_core::{Error, ErrorKind, Found, Outcome, Replay, Transport};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use palisade_google::GoogleProvider;
use palisade_hub::{Access, ConnectionConfig, Hub, Settings};
use palisade_sendgrid::SendGridProvider;
use palisade_slack::SlackProvider;
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use palisade_twilio::TwilioProvider;
use serde_json::{Value as Json, json};

use crate::fixtures::{Answer, Fixture, NOW, builder, connection, fixture, fixture_with, master_key, settings};

const TWILIO: &str = "AC00000000000000000000000000000001";

/// A provider's side: keeps what arrives, answers as told, else 200 `{}`.
#[derive(Clone, Default)]
struct Wire {
    arrived: Arc<Mutex<Vec<(String, Bytes)>>>,
    answers: Arc<Mutex<VecDeque<Option<Response<Bytes>>>>>,
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        self.arrived.lock().unwrap().push((format!("{} {}", request.method(), request.uri()), request.body().clone()));
        match self.answers.lock().unwrap().pop_front() {
            // It acted, and the answer is lost.
            Some(None) => Err(Error::new(ErrorKind::Transport, "the connection broke").with_outcome(Outcome::Unknown)),
            Some(Some(answer)) => Ok(answer),
            None => Ok(Response::new(r#"{"ok":true}"#.into())),
        }
    }
}

// Fails when a retry of a call that Stripe refused carries the key the refusal is remembered under: whatever is mended, it
// would be refused for a day.
#[tokio::test]
async fn a_declined_call_is_made_when_its_cause_is_mended() {
    const KEY: &str = "sk_test_outboxOfTheTests00000000";
    let stripe = Stripe::start(StripeConfig { api_key: KEY.to_owned(), ..StripeConfig::default() }).await.unwrap();
    let network = HttpTransport::builder().build().unwrap();
    let send = async |path: &str, form: &str| {
        let request =
            Request::post(format!("{}{path}", stripe.base_url())).header(AUTHORIZATION, format!("Bearer {KEY}"));
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = network.send(request.body(Bytes::from(form.to_owned())).unwrap()).await.unwrap();
        let answer: Json = serde_json::from_slice(answer.body()).unwrap();
        answer["id"].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    };
    let card = |name: &str| format!("invoice_settings[default_payment_method]={name}");
    let customer = send("/v1/customers", &card("pm_card_chargeCustomerFail")).await;
    let price = "currency=usd&unit_amount=500&recurring[interval]=month&product_data[name]=tea";
    let price = send("/v1/prices", price).await;

    let store = Arc::new(MemoryStore::new());
    let hub = Hub::builder()
        .provider(StripeProvider::new().allowing(stripe.base_url()))
        .store(store)
        .transport(Arc::new(HttpTransport::builder().build().unwrap()));
    let hub = hub.master_key(master_key()).settings(settings(Access::Trusted)).build().unwrap();
    let base_url = Some(stripe.base_url().to_owned());
    hub.connect(&ConnectionConfig { base_url, credential: Scheme::Bearer(KEY.into()).into(), ..connection() })
        .await
        .unwrap();
    let mut call = NewCall::new("acme-stripe", Method::POST, "/v1/subscriptions").with_idempotency_key("tea");
    call.headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
    call.body = format!("customer={customer}&items[0][price]={price}&payment_behavior=error_if_incomplete").into();
    let id = hub.enqueue(call).await.unwrap().id();
    let made = async || {
        hub.worker().step(Queue::Calls).await.unwrap();
        hub.call(id).await.unwrap().unwrap()
    };
    let refused = made().await;
    assert_eq!(refused.state, CallState::Failed, "{:?}", refused.error);
    assert_eq!(refused.answer.map(|answer| answer.status), Some(402), "{:?}", refused.error);
    send(&format!("/v1/customers/{customer}"), &card("pm_card_visa")).await;
    hub.decide_call(id, Decision::Retry).await.unwrap();
    let call = made().await;
    assert_eq!((call.state, call.call.idempotency_key.as_str()), (CallState::Done, "tea~2"), "{:?}", call.error);
    let answer: Json = serde_json::from_slice(&call.answer.unwrap().body).unwrap();
    assert_eq!(answer["status"], "active");
}

fn account(provider: &str) -> ConnectionConfig {
    ConnectionConfig {
        id: format!("acme-{provider}").as_str().into(),
        provider: provider.to_owned(),
        credential: Scheme::Bearer("xoxb-fixture".into()).into(),
        ..connection()
    }
}

/// A hub of all five providers over a wire, with its connections in place.
async fn hub_of_all(wire: &Wire, store: Arc<dyn Store>) -> (Hub, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let mut hub = builder(store, clock.clone())
        .provider(SlackProvider::new())
        .provider(GoogleProvider::new())
        .provider(TwilioProvider::new())
        .provider(SendGridProvider::new())
        .transport(Arc::new(wire.clone()));
    for provider in ["slack", "google", "twilio", "sendgrid"] {
        hub = hub.connection(account(provider));
    }
    let hub = hub.settings(settings(Access::Trusted)).build().unwrap();
    for provider in ["stripe", "slack", "google", "twilio", "sendgrid"] {
        hub.connect(&account(provider)).await.unwrap();
    }
    (hub, clock)
}

async fn step(hub: &Hub) -> usize {
    hub.worker().step(Queue::Calls).await.unwrap()
}

fn text() -> palisade_twilio::client::NewMessage {
    palisade_twilio::client::NewMessage::text("+15005550006", "dear sir").from("+15005550001")
}

fn twilio(transport: Arc<dyn Transport>) -> palisade_twilio::Twilio {
    let sid = palisade_twilio::sid::AccountSid::parse(TWILIO).unwrap();
    palisade_twilio::Twilio::new(transport, "acme-twilio", "acme", sid)
}

fn mail() -> palisade_sendgrid::Mail {
    palisade_sendgrid::Mail::from("a@example.com").to("b@example.com").subject("s").text("t").reference("order-17")
}

async fn drafts() -> Vec<(NewCall, &'static str, Replay, &'static str)> {
    let stripe = draft(|transport| async move {
        let stripe = palisade_stripe::Stripe::new(transport, "acme-stripe", "acme");
        let new = palisade_stripe::client::NewCustomer::new().email("a@example.com");
        stripe.create_customer(new, Some("mine")).await
    });
    let slack = draft(|transport| async move {
        let slack = palisade_slack::Slack::new(transport, "acme-slack", "acme");
        slack.post("C1", &palisade_slack::NewMessage::new("dear sir")).await
    });
    let event = draft(|transport| async move {
        let google = palisade_google::Google::new(transport, "acme-google", "acme");
        let event = palisade_google::client::calendar::Event { id: Some("abcde".to_owned()), ..Default::default() };
        google.insert_event("primary", event, Default::default()).await
    });
    let gmail = draft(|transport| async move {
        let google = palisade_google::Google::new(transport, "acme-google", "acme");
        let mail = palisade_google::client::mail::Mail::new().to("a@example.com").subject("hi").text("x");
        google.send_mail(&google.prepare(&mail).unwrap()).await
    });
    let sms = draft(|transport| async move { twilio(transport).send(&text()).await });
    let sendgrid = draft(|transport| async move {
        palisade_sendgrid::SendGrid::new(transport, "acme-sendgrid", "acme").send(&mail()).await
    });
    vec![
        (
            stripe.await.unwrap(),
            "customers.create",
            Replay::Keyed("idempotency-key"),
            "POST https://api.stripe.com/v1/customers",
        ),
        (slack.await.unwrap(), "chat.postMessage", Replay::Never, "POST https://slack.com/api/chat.postMessage"),
        (
            event.await.unwrap(),
            "calendar.events.insert",
            Replay::Idempotent,
            "POST https://www.googleapis.com/calendar/v3/calendars/primary/events",
        ),
        (
            gmail.await.unwrap(),
            "gmail.messages.send",
            Replay::Never,
            "POST https://gmail.googleapis.com/gmail/v1/users/me/messages/send",
        ),
        (
            sms.await.unwrap(),
            "messages.create",
            Replay::Never,
            "POST https://api.twilio.com/2010-04-01/Accounts/AC00000000000000000000000000000001/Messages.json",
        ),
        (sendgrid.await.unwrap(), "mail.send", Replay::Never, "POST https://api.sendgrid.com/v3/mail/send"),
    ]
}

/// Fails when an adapter has no way from its typed request to the outbox, or its replay rule is lost on the way: an
/// event with an id of its own would be reviewed, a mail repeated.
#[tokio::test(start_paused = true)]
async fn what_any_adapter_writes_can_be_kept_and_is_made_as_written() {
    let wire = Wire::default();
    let store = Arc::new(MemoryStore::new());
    let (hub, _) = hub_of_all(&wire, store.clone()).await;
    for (call, operation, replay, line) in Box::pin(drafts()).await {
        let body = call.body.clone();
        let id = hub.enqueue(call).await.unwrap().id();
        let kept = hub.call(id).await.unwrap().unwrap();
        assert_eq!((kept.call.operation.as_str(), kept.call.replay.as_str()), (operation, replay.word()));
        wire.arrived.lock().unwrap().clear();
        while step(&hub).await > 0 {}
        let call = hub.call_result(id).await.unwrap().unwrap();
        assert_eq!(call.state, CallState::Done, "{operation}: {:?}", call.error);
        let arrived = wire.arrived.lock().unwrap().clone();
        assert_eq!(arrived.len(), 1, "{operation}");
        assert_eq!(arrived[0].0.split('?').next().unwrap(), line);
        assert_eq!(arrived[0].1, body, "{operation}");
    }
}

async fn keep(fixture: &Fixture, body: &Json) -> Answer {
    let request = Request::post("/api/v1/calls").header("content-type", "application/json");
    fixture.ask(request.body(Body::from(body.to_string())).unwrap()).await
}

fn customer() -> Json {
    json!({ "connection": "acme-stripe", "method": "post", "path": "/v1/customers?expand=x",
            "body": { "form": { "email": "a@example.com", "name": "A & B" } }, "unique": "customer-17" })
}

/// Fails when a repetition is a second call, other content passes under the same key, or an error is not told as such.
#[tokio::test(start_paused = true)]
async fn calls_are_kept_over_the_api() {
    let fixture = fixture().with_connection().await;
    let first = keep(&fixture, &customer()).await;
    assert_eq!((first.status.as_u16(), first.header("location")), (202, Some("/api/v1/outbox/1")), "{}", first.text());
    assert_eq!(first.json()["state"], "waiting");
    assert_eq!(first.json()["operation"], "customers.create");
    assert!(!first.text().contains("example.com"), "what it says is shown with the call itself only");
    let again = keep(&fixture, &customer()).await;
    assert_eq!((again.status.as_u16(), again.header("location")), (200, Some("/api/v1/outbox/1")));
    let mut other = customer();
    other["body"]["form"]["name"] = json!("C");
    keep(&fixture, &other).await.is_error(409, "conflict");
    for (change, value, status, kind) in [
        ("connection", json!("nobody"), 404, "not_found"),
        ("path", json!("/v2/core/events"), 422, "invalid"),
        ("path", json!("https://evil.example/v1/customers"), 422, "invalid"),
        ("operation", json!("customers.list"), 422, "invalid"),
        ("method", json!("no method"), 422, "invalid"),
        ("headers", json!({ "Authorization": "Bearer hunter2" }), 422, "invalid"),
        ("headers", json!({ "a b": "c" }), 422, "invalid"),
        ("body", json!({ "base64": "%" }), 422, "invalid"),
        ("body", json!("hunter2"), 400, "invalid"),
        ("due_at", json!("tomorrow"), 422, "invalid"),
        ("unique", json!(""), 422, "invalid"),
        ("novel", json!(1), 400, "invalid"),
    ] {
        let mut asked = customer();
        asked[change] = value;
        let answer = keep(&fixture, &asked).await;
        answer.is_error(status, kind);
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    let whole = fixture.get("/api/v1/outbox/1").await.json();
    assert_eq!(whole["path"], "/v1/customers?expand=x");
    assert_eq!(whole["request"]["headers"]["content-type"], "application/x-www-form-urlencoded");
    let list = fixture.get("/api/v1/outbox?state=waiting").await;
    assert_eq!(list.json()["calls"].as_array().unwrap().len(), 1);
    assert_eq!(list.json()["counts"]["waiting"], 1);
    assert_eq!(list.json()["next_before"], Json::Null, "that is all");
    assert!(!list.text().contains("example.com") && !list.text().contains("expand"));
    fixture.get("/api/v1/outbox/9").await.is_error(404, "not_found");
    fixture.get("/api/v1/outbox?limit=0").await.is_error(400, "invalid");
    fixture.post("/api/v1/outbox/1/resolve?happened=true").await.is_error(409, "conflict");
    fixture.post("/api/v1/outbox/1/resolve").await.is_error(400, "invalid");
    assert_eq!(fixture.post("/api/v1/outbox/1/cancel").await.status.as_u16(), 202);
    fixture.post("/api/v1/outbox/1/retry").await.is_error(409, "conflict");
    let mut later = customer();
    later["unique"] = json!("later");
    later["due_at"] = json!("2027-01-01T00:00:00Z");
    later["priority"] = json!("interactive");
    let later = keep(&fixture, &later).await.json();
    assert_eq!((&later["due_at"], &later["interactive"]), (&json!("2027-01-01T00:00:00Z"), &json!(true)));
    while step(&fixture.hub).await > 0 {}
    assert_eq!(fixture.get("/api/v1/outbox/1").await.json()["state"], "cancelled");
    assert_eq!(fixture.get("/api/v1/outbox/2").await.json()["state"], "waiting", "it is not due");
}

/// Fails when whoever waits for a result is kept beyond half of the time a request has, or beyond 25 s of a long one.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_result_has_an_end() {
    for (request_timeout, bound) in [(8, 4), (30, 15), (600, 25)] {
        let settings = Settings { request_timeout: Duration::from_secs(request_timeout), ..settings(Access::Trusted) };
        let fixture = fixture_with(settings).with_connection().await;
        assert_eq!(keep(&fixture, &customer()).await.status.as_u16(), 202);
        let began = tokio::time::Instant::now();
        let answer = fixture.get("/api/v1/outbox/1?wait=100000").await;
        assert_eq!(answer.json()["state"], "waiting", "{}", answer.text());
        let waited = began.elapsed();
        let bound = Duration::from_secs(bound);
        assert!(waited <= bound + Duration::from_millis(10) && waited > bound / 2, "{waited:?} of {bound:?}");
    }
}

/// Fails when a review is not shown as somebody's task, or its buttons do nothing.
#[tokio::test(start_paused = true)]
async fn a_review_is_told_on_the_page_and_ended_there() {
    let wire = Wire::default();
    let store = Arc::new(MemoryStore::new());
    let (hub, _) = hub_of_all(&wire, store.clone()).await;
    wire.answers.lock().unwrap().extend([None, None, None]);
    for _ in 0..3 {
        hub.enqueue(draft(|transport| async move { twilio(transport).send(&text()).await }).await.unwrap())
            .await
            .unwrap();
    }
    while step(&hub).await > 0 {}
    let router = hub.router();
    let get = async |path: &str| crate::fixtures::ask(&router, Request::get(path).body(Body::empty()).unwrap()).await;
    let post = async |path: &str| crate::fixtures::ask(&router, Request::post(path).body(Body::empty()).unwrap()).await;
    let page = get("/").await.text();
    for word in [
        "Was it made?",
        "It was made",
        "It was not: make it",
        "Ask the provider",
        "messages.create",
        "may have been made or not",
    ] {
        assert!(page.contains(word), "{word} in {page}");
    }
    assert!(!page.contains("dear sir"));
    let health = get("/api/v1/connections/acme-twilio").await.json();
    assert_eq!(
        (&health["health"]["state"], &health["health"]["who_acts"]),
        (&json!("needs_attention"), &json!("operator"))
    );
    assert!(get("/metrics").await.text().contains("palisade_outbox_calls{state=\"review\"} 3"));
    assert_eq!(post("/actions/outbox/1/happened").await.status.as_u16(), 303);
    assert_eq!(post("/actions/outbox/2/not_happened").await.status.as_u16(), 303);
    let resolved = post("/api/v1/outbox/3/resolve?happened=true").await;
    assert_eq!((resolved.status.as_u16(), &resolved.json()["state"]), (202, &json!("done")));
    while step(&hub).await > 0 {}
    for id in [1, 2, 3] {
        assert_eq!(hub.call(CallId(id)).await.unwrap().unwrap().state, CallState::Done);
    }
    assert_eq!(wire.arrived.lock().unwrap().len(), 4, "the second is made again, the others are not");
    let health = get("/api/v1/connections/acme-twilio").await.json();
    assert_ne!(health["health"]["state"], json!("needs_attention"));
}

/// Fails when a message that is there is sent again, or one that may still come is taken for not sent.
#[tokio::test(start_paused = true)]
async fn the_provider_is_asked_where_it_can_tell() {
    let wire = Wire::default();
    let store = Arc::new(MemoryStore::new());
    let (hub, clock) = hub_of_all(&wire, store.clone()).await;
    let sms = async || {
        wire.answers.lock().unwrap().push_back(None);
        let call = draft(|transport| async move { twilio(transport).send(&text()).await }).await.unwrap();
        let id = hub.enqueue(call).await.unwrap().id();
        while step(&hub).await > 0 {}
        assert_eq!(hub.call(id).await.unwrap().unwrap().state, CallState::Review);
        id
    };
    let answering = |body: Json| wire.answers.lock().unwrap().push_back(Some(Response::new(body.to_string().into())));
    let id = sms().await;
    answering(json!({ "messages": [], "next_page_uri": null }));
    assert!(matches!(hub.reconcile_call(id).await.unwrap(), (Found::Later(_), CallState::Review)), "too early to say");
    answering(json!({ "messages": [{
        "sid": "SM00000000000000000000000000000001", "status": "delivered", "to": "+15005550006", "from": "+15005550001",
        "body": "dear sir", "direction": "outbound-api", "date_created": "Thu, 01 Jan 2026 00:00:01 +0000",
    }], "next_page_uri": null }));
    assert_eq!(hub.reconcile_call(id).await.unwrap(), (Found::Made, CallState::Done));
    let id = sms().await;
    clock.advance(Duration::from_secs(121));
    answering(json!({ "messages": [], "next_page_uri": null }));
    assert_eq!(hub.reconcile_call(id).await.unwrap(), (Found::NotMade, CallState::Waiting));
    while step(&hub).await > 0 {}
    assert_eq!(hub.call(id).await.unwrap().unwrap().state, CallState::Done);

    wire.answers.lock().unwrap().push_back(None);
    let call = draft(|transport| async move {
        palisade_sendgrid::SendGrid::new(transport, "acme-sendgrid", "acme").send(&mail()).await
    });
    let id = hub.enqueue(call.await.unwrap()).await.unwrap().id();
    while step(&hub).await > 0 {}
    answering(json!({ "messages": [{ "msg_id": "m1", "to_email": "b@example.com", "status": "processed" }] }));
    assert_eq!(hub.reconcile_call(id).await.unwrap(), (Found::Made, CallState::Done));
    assert!(wire.arrived.lock().unwrap().last().unwrap().0.contains("order-17"), "it is found by its reference");
    assert_eq!(hub.reconcile_call(id).await.unwrap_err().kind(), ErrorKind::NotFound, "no review any more");
}

/// Fails when the product's row and its call are not one commit in the file both share.
#[tokio::test(start_paused = true)]
async fn a_products_write_and_its_call_are_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::at(folder.path().join("product.db"))).unwrap();
    let effect = |sql: &str| Effect { sql: sql.to_owned(), values: vec![Value::Integer(17)] };
    store.execute(Effect { sql: "CREATE TABLE orders (id UNIQUE)".to_owned(), values: Vec::new() }).await.unwrap();
    let (hub, _) = hub_of_all(&Wire::default(), Arc::new(store.clone())).await;
    let order = "INSERT INTO orders VALUES (?1)";
    let call = || NewCall::new("acme-stripe", Method::POST, "/v1/customers").unique("order-17");
    let counts = async || {
        let orders = store.query("SELECT count(*) FROM orders", Vec::new()).await.unwrap();
        (orders[0][0].clone(), store.outbox(None, None, 9).await.unwrap().len())
    };
    assert!(hub.transaction(vec![effect("INSERT INTO none VALUES (?1)")], vec![call()]).await.is_err());
    assert!(
        hub.transaction(vec![effect(order)], vec![call(), NewCall::new("nobody", Method::POST, "/v1/x")])
            .await
            .is_err()
    );
    assert_eq!(counts().await, (Value::Integer(0), 0));
    hub.transaction(vec![effect(order)], vec![call()]).await.unwrap();
    assert_eq!(counts().await, (Value::Integer(1), 1));
    let again = hub.transaction(vec![effect(order)], vec![call()]).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "the order is there already");
    let other = NewCall { body: "x".into(), ..call() };
    assert_eq!(hub.transaction(Vec::new(), vec![other]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(counts().await, (Value::Integer(1), 1));
    assert!(store.connection("acme-stripe".into()).await.unwrap().is_some());
    store.close().await.unwrap();
}

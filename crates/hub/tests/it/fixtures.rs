//! A hub with one Stripe connection and endpoint, and ways to ask it things.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::ManualClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connection, ConnectionState, Connections, Store};
use palisade_core::{Error, ErrorKind, Outcome, Secret, Timestamp, Transport};
use palisade_hub::{Access, ConnectionConfig, EndpointConfig, Hub, HubBuilder, Settings};
use palisade_stripe::StripeProvider;
use serde_json::Value;
use tower::ServiceExt;

/// When the tests take place: 2026-01-01.
pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const HOOK_SECRET: &str = "whsec_test_fixture_secret";
pub(crate) const TOKEN: &str = "an admin token of the tests";

/// A network that is not there.
#[derive(Debug)]
pub(crate) struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    async fn send(&self, _request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        Err(Error::new(ErrorKind::Connect, "there is no network in this test").with_outcome(Outcome::NotSent))
    }
}

pub(crate) struct Fixture {
    pub(crate) hub: Hub,
    pub(crate) router: Router,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn master_key() -> Arc<LocalMasterKey> {
    let bytes = "0123456789abcdef".repeat(4);
    Arc::new(LocalMasterKey::parse(bytes.as_bytes(), Arc::new(SystemRandom)).unwrap())
}

pub(crate) fn connection() -> ConnectionConfig {
    ConnectionConfig {
        environment: Default::default(),
        id: "acme-stripe".into(),
        tenant: "acme".into(),
        provider: "stripe".to_owned(),
        account: None,
        base_url: None,
        credential: Scheme::Bearer("sk_test_fixture".into()).into(),
    }
}

pub(crate) fn endpoint(name: &str, secrets: &[&str]) -> EndpointConfig {
    EndpointConfig {
        name: name.to_owned(),
        provider: "stripe".to_owned(),
        connection: "acme-stripe".into(),
        secrets: secrets.iter().map(|secret| Secret::from(*secret)).collect(),
    }
}

/// A hub under construction, without settings.
pub(crate) fn builder(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> HubBuilder {
    Hub::builder()
        .provider(StripeProvider::new())
        .store(store)
        .clock(clock)
        .random(Arc::new(palisade_core::random::SeededRandom::new(1)))
        .transport(Arc::new(NoNetwork))
        .master_key(master_key())
        .connection(connection())
        .endpoint(endpoint("stripe", &[HOOK_SECRET]))
        .endpoint(endpoint("bare", &[]))
}

pub(crate) fn settings(access: Access) -> Settings {
    Settings { access, ..Settings::default() }
}

pub(crate) fn fixture_with(settings: Settings) -> Fixture {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock.clone()).settings(settings).build().unwrap();
    Fixture { router: hub.router(), hub, store, clock }
}

/// A hub whose pages and API are open to the test.
pub(crate) fn fixture() -> Fixture {
    fixture_with(settings(Access::Trusted))
}

impl Fixture {
    /// Puts the connection's row in place, without a credential and without jobs.
    pub(crate) async fn with_connection(self) -> Self {
        let config = connection();
        self.store
            .put_connection(Connection {
                id: config.id,
                tenant: config.tenant,
                provider: config.provider,
                environment: Default::default(),
                account: Some("acct_<b>&\"'".to_owned()),
                base_url: None,
                state: ConnectionState::Active,
                created_at: NOW,
            })
            .await
            .unwrap();
        self
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        ask(&self.router, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.ask(Request::post(path).body(Body::empty()).unwrap()).await
    }

    /// Posts a signed delivery.
    pub(crate) async fn deliver(&self, body: impl Into<Bytes>) -> Answer {
        self.ask(delivery("stripe", body)).await
    }
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks status and kind of an error, and that it has the one form every error has.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, kind: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        let error = &self.json()["error"];
        assert_eq!(error["kind"], kind);
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(error["next"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert_eq!(self.header("content-type"), Some("application/json"));
    }
}

/// The body of a Stripe event about a customer.
pub(crate) fn event(id: &str, kind: &str) -> String {
    format!(
        r#"{{"id":"{id}","object":"event","api_version":"2026-09-30.endive","created":1767225599,"type":"{kind}","livemode":false,"pending_webhooks":1,"request":{{"id":null,"idempotency_key":null}},"data":{{"object":{{"id":"cus_1","object":"customer","email":"a@example.com"}}}}}}"#
    )
}

/// A signed delivery to an endpoint.
pub(crate) fn delivery(endpoint: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = body.into();
    let signature = palisade_stripe::webhook::sign(&HOOK_SECRET.into(), NOW, &body);
    Request::post(format!("/webhooks/{endpoint}"))
        .header("host", "hooks.example.com")
        .header("content-type", "application/json")
        .header("stripe-signature", signature)
        .header("authorization", "Bearer never-keep-this")
        .body(Body::from(body))
        .unwrap()
}

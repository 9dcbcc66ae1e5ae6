//! Service accounts of the configuration: their tokens are asked for when somebody needs one, kept, and renewed; and what
//! the provider refuses says who must act.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::Scheme;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections, GrantState, Grants, Queue, Records, StreamKey};
use palisade_core::transport::HttpTransport;
use palisade_core::{ErrorKind, Secret, Transport};
use palisade_emulator::google::{Google, GoogleConfig, Person, ServiceAccount as Known};
use palisade_google::auth::{CALENDAR_READONLY, service_accounts, service_accounts_at};
use palisade_google::{GoogleProvider, GoogleSource};
use palisade_hub::{Access, ConnectionConfig, ConnectionCredential, Hub, ServiceAccount};

use super::fixtures::{Answer, ask, master_key, settings};

/// A key Google does not know: a published test key of the emulator's, for another purpose.
const OTHER_KEY: &str = include_str!("../../../emulator/src/google/keys/signer.pem");
const ADA: &str = "ada@example.com";

/// Counts the trades for tokens.
struct Counted {
    inner: HttpTransport,
    trades: Arc<AtomicUsize>,
}

#[async_trait]
impl Transport for Counted {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        if request.uri().path() == "/token" {
            self.trades.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.send(request).await
    }
}

struct World {
    google: Google,
    store: Arc<MemoryStore>,
    trades: Arc<AtomicUsize>,
}

impl World {
    async fn new() -> Self {
        let account = Known { delegated: vec![CALENDAR_READONLY.to_owned()], ..Known::built_in() };
        let config = GoogleConfig {
            people: vec![Person::new(ADA, "Ada"), Person::new("bob@example.com", "Bob")],
            service_accounts: vec![account],
            ..GoogleConfig::default()
        };
        let google = Google::start(config).await.unwrap();
        google.populate(ADA, 0, 30);
        Self { google, store: Arc::new(MemoryStore::new()), trades: Arc::default() }
    }

    fn key(&self) -> serde_json::Value {
        self.google.service_account_key()
    }

    fn account(&self, key: &serde_json::Value, scope: &str) -> ServiceAccount {
        ServiceAccount {
            key: Secret::new(key.to_string()),
            subject: Some(ADA.to_owned()),
            scopes: vec![scope.to_owned()],
            config: service_accounts_at(service_accounts(), &self.google.base_url()),
        }
    }

    fn with(&self, credential: impl Into<ConnectionCredential>) -> ConnectionConfig {
        ConnectionConfig {
            id: "calendar".into(),
            tenant: "acme".into(),
            provider: "google".to_owned(),
            environment: Default::default(),
            account: Some(ADA.to_owned()),
            base_url: Some(self.google.base_url()),
            credential: credential.into(),
        }
    }

    /// A process of its own: nothing is known but what is stored. It connects, and works until nothing waits.
    async fn start(&self, config: &ConnectionConfig) -> Hub {
        let transport = Counted { inner: HttpTransport::builder().build().unwrap(), trades: self.trades.clone() };
        let hub = Hub::builder()
            .provider(GoogleProvider::new().keeping(GoogleSource::new().calendar_only()))
            .store(self.store.clone())
            .transport(Arc::new(transport))
            .master_key(master_key())
            .connection(config.clone())
            .settings(settings(Access::Trusted))
            .build()
            .unwrap();
        hub.connect(config).await.unwrap();
        while hub.worker().step(Queue::Background).await.unwrap() > 0 {}
        hub
    }

    fn trades(&self) -> usize {
        self.trades.load(Ordering::SeqCst)
    }

    async fn state(&self) -> ConnectionState {
        self.store.connection("calendar".into()).await.unwrap().unwrap().state
    }

    async fn events(&self) -> usize {
        let key = StreamKey { connection: "calendar".into(), stream: "calendar_events".into() };
        self.store.changes(key, 0, 1_000).await.unwrap().len()
    }
}

async fn send(hub: &Hub, method: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    ask(&hub.router(), request).await
}

// Fails when a token is traded for each call or at each start, when the wrong user's calendar is read, or when the key
// stands anywhere in plain.
#[tokio::test]
async fn a_calendar_is_synced_by_a_service_account_with_one_trade_for_its_token() {
    let world = World::new().await;
    let config = world.with(world.account(&world.key(), CALENDAR_READONLY));
    assert!(!format!("{config:?}").contains("PRIVATE KEY"), "{config:?}");
    let hub = world.start(&config).await;
    assert_eq!(world.events().await, world.google.events(ADA).len());
    assert_eq!(world.trades(), 1, "one for all pages");
    for _ in 0..3 {
        let synced = send(&hub, "POST", "/api/v1/connections/calendar/sync").await;
        assert!(synced.status.is_success(), "{synced:?}");
        while hub.worker().step(Queue::Background).await.unwrap() > 0 {}
    }
    world.start(&config).await;
    assert_eq!(world.trades(), 1, "the token is kept, and another process takes it");
    let health = send(&hub, "GET", "/api/v1/connections/calendar").await.text();
    assert!(health.contains("\"connected\"") && health.contains("\"nobody\""), "{health}");
    let grants = world.store.grants("calendar".into()).await.unwrap();
    assert_eq!(grants.len(), 1);
    assert!(!String::from_utf8_lossy(&grants[0].blob).contains("PRIVATE"), "it is sealed");
    world.google.shutdown().await;
}

// Fails when a wrong key is tried again and again, when the account's owner is told to act, or when a mended
// configuration does not mend the connection.
#[tokio::test]
async fn a_key_google_refuses_says_that_the_operator_must_act_and_a_right_one_mends_it() {
    let world = World::new().await;
    let mut wrong = world.key();
    wrong["private_key"] = OTHER_KEY.into();
    let hub = world.start(&world.with(world.account(&wrong, CALENDAR_READONLY))).await;
    assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }), "{:?}", world.state().await);
    let health = send(&hub, "GET", "/api/v1/connections/calendar").await.json().to_string();
    let says = "Mend its credential in the configuration, then reconnect it: the provider no longer accepts the grant.";
    for fact in ["\"needs_attention\"", "\"operator\"", says] {
        assert!(health.contains(fact), "{fact} in {health}");
    }
    let asked = world.trades();
    while hub.worker().step(Queue::Background).await.unwrap() > 0 {}
    assert_eq!(world.trades(), asked, "Google is not asked again");

    let mended = world.with(world.account(&world.key(), CALENDAR_READONLY));
    world.start(&mended).await;
    assert_eq!(world.state().await, ConnectionState::Active);
    assert_eq!(world.events().await, world.google.events(ADA).len());

    // A scope nobody delegated: our own set-up is wrong, the key is as good as it was.
    let scope = "https://www.googleapis.com/auth/calendar";
    let hub = world.start(&world.with(world.account(&world.key(), scope))).await;
    let health = send(&hub, "GET", "/api/v1/connections/calendar").await.text();
    assert!(health.contains("\"operator\""), "{health}");
    world.google.shutdown().await;
}

// Fails when what a person disconnected is connected again by a start, or another user or key is taken for the same.
#[tokio::test]
async fn a_disconnected_service_account_stays_so_until_it_is_another_one_or_wanted_again() {
    let world = World::new().await;
    let config = world.with(world.account(&world.key(), CALENDAR_READONLY));
    let hub = world.start(&config).await;
    let disconnect = async |hub: &Hub| {
        let ended = send(hub, "DELETE", "/connections/calendar").await;
        assert!(ended.status == 200 && ended.text().contains("not_offered"), "{ended:?}");
        let grants = world.store.grants("calendar".into()).await.unwrap();
        assert!(grants.iter().all(|grant| grant.blob.is_empty() && matches!(grant.state, GrantState::Erased { .. })));
    };
    disconnect(&hub).await;
    let trades = world.trades();
    for _ in 0..2 {
        world.start(&config).await;
        assert_eq!((world.state().await, world.trades()), (ConnectionState::Disconnected, trades));
    }
    let bob = ServiceAccount {
        subject: Some("bob@example.com".to_owned()),
        ..world.account(&world.key(), CALENDAR_READONLY)
    };
    let other = world.with(bob);
    let hub = world.start(&other).await;
    assert_eq!(world.state().await, ConnectionState::Active, "it acts for another user");
    disconnect(&hub).await;
    let hub = world.start(&other).await;
    assert_eq!(world.state().await, ConnectionState::Disconnected);
    assert_eq!(send(&hub, "POST", "/connections/calendar/reconnect").await.status, 303);
    assert_eq!(world.state().await, ConnectionState::Active, "an operator wants it again");
    world.google.shutdown().await;
}

// Fails when two kinds of credential are stored at once, so that the configured one is not the one that is sent.
#[tokio::test]
async fn a_connection_changes_between_a_key_and_a_service_account() {
    let world = World::new().await;
    let token = world.google.access_token(ADA, &[CALENDAR_READONLY]);
    let key = world.with(Scheme::Bearer(token.into()));
    let account = world.with(world.account(&world.key(), CALENDAR_READONLY));
    let key_blob =
        async || world.store.credential("calendar".into()).await.unwrap().is_some_and(|c| !c.blob.is_empty());
    let live = async || {
        let grants = world.store.grants("calendar".into()).await.unwrap();
        grants.iter().any(|grant| grant.state == GrantState::Live)
    };
    for (config, keyed) in [(&key, true), (&account, false), (&key, true), (&account, false)] {
        world.start(config).await;
        assert_eq!((world.state().await, key_blob().await, live().await), (ConnectionState::Active, keyed, !keyed));
    }
    assert!(world.trades() >= 1 && world.events().await > 0);
    world.google.shutdown().await;
}

// Fails when a hub begins with a service account that cannot work.
#[test]
fn a_service_account_that_cannot_work_is_refused_when_the_hub_is_built() {
    let check = |key: &str, scopes: &[&str], token_url: &str, says: &str| {
        let account = ServiceAccount {
            key: key.into(),
            subject: None,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            config: palisade_core::auth::jwt::ServiceAccountConfig::new(token_url),
        };
        let built = Hub::builder()
            .provider(GoogleProvider::new())
            .store(Arc::new(MemoryStore::new()))
            .transport(Arc::new(super::fixtures::NoNetwork))
            .master_key(master_key())
            .connection(ConnectionConfig {
                id: "calendar".into(),
                tenant: "acme".into(),
                provider: "google".to_owned(),
                environment: Default::default(),
                account: None,
                base_url: None,
                credential: account.into(),
            })
            .build();
        let error = built.expect_err(says);
        assert!(error.kind() == ErrorKind::Config && error.message().contains(says), "{says} in {error}");
    };
    let good = Google::offline(GoogleConfig::default()).service_account_key().to_string();
    let token = "https://oauth2.googleapis.com/token";
    check("{}", &["s"], token, "client_email and private_key");
    check(&good, &[], token, "calendar needs scopes");
    check(&good, &["s"], "http://oauth2.googleapis.com/token", "https");
}

//! One URL for many connections: each event goes to those of its account, in its environment, once.

use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::clock::{Clock, ManualClock, SystemClock};
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, EventState, Inbox, LayeredStore, NO_CONNECTION, Queue, Records, Store,
    StoreLayer, StreamKey,
};
use palisade_core::transport::HttpTransport;
use palisade_core::{Error, ErrorKind};
use palisade_emulator::slack::{Slack, SlackConfig, Workspace};
use palisade_emulator::{Poster, WebhookFaults};
use palisade_google::GoogleProvider;
use palisade_hub::{Access, AppEndpointConfig, ConnectionConfig, Hub};
use palisade_sendgrid::SendGridProvider;
use palisade_slack::SlackProvider;
use palisade_stripe::StripeProvider;

use super::fixtures::{
    HOOK_SECRET, NOW, NoNetwork, ask, builder, delivery, endpoint, event, fixture, master_key, settings,
};

const SIGNING: &str = "signing-secret-of-the-app-0000";
const URL: &str = "http://hooks.example.com/webhooks/slack";

/// A hub with one URL for an app, and what was posted there.
struct Stage {
    hub: Hub,
    router: Router,
    store: Arc<MemoryStore>,
    posted: Arc<Mutex<Vec<Request<Bytes>>>>,
}

/// The way from a workspace to a hub that is built later.
#[derive(Clone, Default)]
struct Post {
    router: Arc<OnceLock<Router>>,
    posted: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Post {
    fn poster(&self) -> Poster {
        let post = self.clone();
        Arc::new(move |request: Request<Bytes>| {
            let post = post.clone();
            Box::pin(async move {
                post.posted.lock().unwrap().push(request.clone());
                let answer = ask(post.router.get()?, request.map(Body::from)).await;
                let mut response = Response::new(answer.body);
                *response.status_mut() = answer.status;
                Some(response)
            })
        })
    }

    /// Starts a workspace in which the app is installed. All of them share its signing secret.
    async fn workspace(&self, id: &str, seed: u64) -> (Slack, String) {
        let slack = Slack::start(SlackConfig {
            seed,
            workspaces: vec![Workspace::new(id, id)],
            signing_secret: SIGNING.to_owned(),
            poster: Some(self.poster()),
            ..SlackConfig::default()
        });
        let slack = slack.await.unwrap();
        slack.subscribe(URL, &["*"]);
        let token = slack.install_forever(&["users:read", "channels:read", "channels:history"]);
        (slack, token)
    }

    fn stage(&self, connections: Vec<ConnectionConfig>) -> Stage {
        let store = Arc::new(MemoryStore::new());
        // The connections are older than what happens next.
        let begin = SystemClock.now().minus(std::time::Duration::from_secs(60));
        let mut builder = Hub::builder()
            .provider(SlackProvider::new())
            .store(store.clone())
            .clock(Arc::new(ManualClock::starting_at(begin)))
            .transport(Arc::new(HttpTransport::builder().build().unwrap()))
            .master_key(master_key())
            .settings(settings(Access::Trusted))
            .app_endpoint(app("slack", "slack", SIGNING));
        for connection in connections {
            builder = builder.connection(connection);
        }
        let hub = builder.build().unwrap();
        let router = hub.router();
        assert!(self.router.set(router.clone()).is_ok());
        Stage { hub, router, store, posted: self.posted.clone() }
    }
}

fn app(name: &str, provider: &str, secret: &str) -> AppEndpointConfig {
    AppEndpointConfig {
        name: name.to_owned(),
        provider: provider.to_owned(),
        environment: Default::default(),
        secrets: vec![secret.into()],
    }
}

fn connection(id: &str, account: &str, slack: &Slack, token: &str) -> ConnectionConfig {
    ConnectionConfig {
        id: id.into(),
        tenant: id.into(),
        provider: "slack".to_owned(),
        environment: Default::default(),
        account: Some(account.to_owned()),
        base_url: Some(slack.base_url()),
        credential: palisade_slack::auth::token(token.into()).unwrap().into(),
    }
}

impl Stage {
    async fn connect(&self, connections: &[ConnectionConfig]) {
        for connection in connections {
            self.hub.connect(connection).await.unwrap();
        }
    }

    /// Handles the events that wait; what would be synced is left alone.
    async fn handle(&self) {
        while self.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    }

    /// The names of the people a connection knows, by events alone.
    async fn people(&self, connection: &str) -> Vec<String> {
        let key = StreamKey { connection: connection.into(), stream: "users".into() };
        let mut names = Vec::new();
        for change in self.store.changes(key, 0, 100).await.unwrap() {
            let json: serde_json::Value = serde_json::from_slice(&change.record.data.unwrap_or_default()).unwrap();
            names.push(json["name"].as_str().unwrap_or_default().to_owned());
        }
        names.sort();
        names
    }

    async fn state(&self, connection: &str) -> ConnectionState {
        self.store.connection(connection.into()).await.unwrap().unwrap().state
    }

    async fn metric(&self, result: &str) -> bool {
        let metrics = ask(&self.router, Request::get("/metrics").body(Body::empty()).unwrap()).await.text();
        metrics.lines().any(|line| {
            let counted = format!(r#"palisade_webhook_deliveries_total{{endpoint="slack",result="{result}"}}"#);
            line.starts_with(&counted) && !line.ends_with(" 0")
        })
    }
}

// Fails when events go to the first connection, to all of them, or to one of several tenants of a workspace; when a
// repeat is given to anybody again; or when the end of one installation ends another's connection.
#[tokio::test]
async fn two_workspaces_post_to_one_url_and_each_tenant_gets_its_own_once() {
    let post = Post::default();
    let ((one, one_token), (two, two_token)) = (post.workspace("T1", 1).await, post.workspace("T2", 2).await);
    let connections = vec![
        connection("acme", "T1", &one, &one_token),
        connection("globex", "T2", &two, &two_token),
        connection("initech", "T1", &one, &one_token),
    ];
    let stage = post.stage(connections.clone());
    stage.connect(&connections).await;

    assert!(!one.add_user("ada").is_empty() && !two.add_user("bob").is_empty());
    one.drain_webhooks().await;
    two.drain_webhooks().await;
    stage.handle().await;
    for (connection, people) in [("acme", ["ada"]), ("globex", ["bob"]), ("initech", ["ada"])] {
        assert_eq!(stage.people(connection).await, people, "{connection}");
    }
    let stored = stage.store.events(None, None, 10).await.unwrap().events;
    let mut places: Vec<_> = stored.iter().map(|e| (e.endpoint.to_string(), e.connection.to_string())).collect();
    places.sort();
    let place = |id: &str| (format!("slack/{id}"), id.to_owned());
    assert_eq!(places, [place("acme"), place("globex"), place("initech")]);

    // Slack sends it again: nobody gets it twice.
    let again = stage.posted.lock().unwrap().clone();
    for request in again {
        assert_eq!(ask(&stage.router, request.map(Body::from)).await.status, 200);
    }
    assert_eq!(stage.store.events(None, None, 10).await.unwrap().events.len(), 3);
    assert!(stage.metric("duplicate").await && !stage.metric("no_connection").await);

    // The app is taken off one workspace: its connections end, the other's goes on.
    one.emit("app_uninstalled", &serde_json::json!({ "type": "app_uninstalled" }));
    one.drain_webhooks().await;
    stage.handle().await;
    assert_eq!(stage.state("globex").await, ConnectionState::Active);
    for ended in ["acme", "initech"] {
        assert_eq!(stage.state(ended).await, ConnectionState::Disconnected, "{ended}");
    }
    // What comes afterwards for the ended ones is nobody's.
    let before = stage.people("acme").await;
    assert!(!one.add_user("late").is_empty());
    one.drain_webhooks().await;
    stage.handle().await;
    assert_eq!(stage.people("acme").await, before);
    assert!(stage.metric("no_connection").await);
    one.shutdown().await;
    two.shutdown().await;
}

// Fails when what nobody connected is refused (the provider would send it for ever), is lost without a trace, or is
// given to somebody; and when a connection of another environment is given events of this one.
#[tokio::test]
async fn an_event_of_an_account_nobody_connected_is_acknowledged_and_kept_as_ignored() {
    let post = Post::default();
    let (slack, token) = post.workspace("T3", 3).await;
    let mine = connection("acme", "T1", &slack, &token);
    let sandbox = ConnectionConfig { environment: "sandbox".into(), ..connection("globex", "T3", &slack, &token) };
    let nameless = ConnectionConfig { account: None, ..connection("initech", "", &slack, &token) };
    let connections = vec![mine, sandbox, nameless];
    let stage = post.stage(connections.clone());
    stage.connect(&connections).await;
    assert!(!slack.add_user("eve").is_empty());
    slack.drain_webhooks().await;
    let told = slack.ledger().webhooks;
    assert_eq!((told.acked, told.retried), (1, 0), "{told:?}");
    stage.handle().await;
    let stored = stage.store.events(None, None, 10).await.unwrap().events;
    let [event] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!((event.state, event.connection.as_str()), (EventState::Ignored, NO_CONNECTION));
    assert_eq!((event.endpoint.as_str(), event.event.account.as_deref()), ("slack", Some("T3")));
    let whole = stage.store.event(event.row).await.unwrap().unwrap();
    assert!(!whole.event.payload.is_empty(), "its raw body can be looked at");
    let list = ask(&stage.router, Request::get("/api/v1/events").body(Body::empty()).unwrap()).await.json();
    let shown = &list["events"][0];
    assert_eq!((&shown["connection"], &shown["account"]), (&serde_json::Value::Null, &serde_json::json!("T3")));
    assert!(stage.metric("no_connection").await && !stage.metric("accepted").await);
    for connection in ["acme", "globex", "initech"] {
        assert!(stage.people(connection).await.is_empty(), "{connection}");
    }
    // A forged delivery is looked up nowhere, and a handshake is answered though nobody is connected.
    slack.faults().webhooks(WebhookFaults { forge: 1.0, ..WebhookFaults::default() });
    assert!(!slack.add_user("mallory").is_empty());
    slack.drain_webhooks().await;
    assert_eq!(stage.store.events(None, None, 10).await.unwrap().events.len(), 2, "the true one");
    slack.subscribe_verified(URL, &["*"]).await.unwrap();
    slack.shutdown().await;
}

/// The envelope of a Stripe event of a connected account's live mode.
fn of_account(id: &str, kind: &str, account: Option<&str>) -> String {
    let body = event(id, kind).replace(r#""livemode":false"#, r#""livemode":true"#);
    assert!(body.contains(r#""livemode":true"#), "{body}");
    match account {
        Some(account) => body.replacen('{', &format!(r#"{{"account":"{account}","#), 1),
        None => body,
    }
}

async fn put(store: &dyn Store, id: &str, account: Option<&str>) {
    let connection = Connection {
        id: id.into(),
        tenant: id.into(),
        provider: "stripe".to_owned(),
        environment: Default::default(),
        account: account.map(str::to_owned),
        base_url: None,
        state: ConnectionState::Active,
        created_at: NOW.minus(std::time::Duration::from_secs(3_600)),
    };
    store.put_connection(connection).await.unwrap();
}

// Fails when a deauthorized account takes the platform's own connection, or another account's, with it; or when an event
// without an account is given to whoever has none.
#[tokio::test]
async fn a_deauthorized_account_ends_its_own_connection_only() {
    let store = Arc::new(MemoryStore::new());
    let hub = builder(store.clone(), Arc::new(ManualClock::starting_at(NOW)))
        .app_endpoint(app("connect", "stripe", HOOK_SECRET))
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    let router = hub.router();
    for (id, account) in [("con_a", Some("acct_A")), ("con_b", Some("acct_B")), ("acme-stripe", None)] {
        put(&*store, id, account).await;
    }
    let state = async |id: &str| store.connection(id.into()).await.unwrap().unwrap().state;
    let send = async |to: &str, body: String| {
        assert_eq!(ask(&router, delivery(to, body)).await.status, 200);
        while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    };
    const GONE: &str = "account.application.deauthorized";
    send("connect", of_account("evt_1", GONE, Some("acct_B"))).await;
    assert_eq!(state("con_b").await, ConnectionState::Disconnected);
    // At an endpoint of its own the platform hears of others, too.
    send("stripe", of_account("evt_2", GONE, Some("acct_A"))).await;
    send("connect", of_account("evt_3", GONE, None)).await;
    for id in ["con_a", "acme-stripe"] {
        assert_eq!(state(id).await, ConnectionState::Active, "{id}");
    }
    // Fails when the test mode of an account, which a platform's live URL is told of too, is taken for its live mode.
    let tested = of_account("evt_4", GONE, Some("acct_A")).replace(r#""livemode":true"#, r#""livemode":false"#);
    send("connect", tested).await;
    assert_eq!(state("con_a").await, ConnectionState::Active);
    let nobodys = store.events(Some(EventState::Ignored), None, 10).await.unwrap().events;
    let mut nobodys: Vec<_> = nobodys.iter().map(|e| e.event.id.as_str()).collect();
    nobodys.sort_unstable();
    assert_eq!(nobodys, ["evt_3", "evt_4"]);
}

// Fails when what cannot be read is ignored, or dies with a reason that helps nobody.
#[tokio::test]
async fn what_cannot_be_read_at_an_apps_url_is_a_dead_letter_of_nobody() {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock).app_endpoint(app("connect", "stripe", HOOK_SECRET));
    let hub = hub.settings(settings(Access::Trusted)).build().unwrap();
    let router = hub.router();
    assert_eq!(ask(&router, delivery("connect", "not json")).await.status, 200);
    while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let dead = store.events(Some(EventState::Dead), None, 10).await.unwrap().events;
    assert!(dead.len() == 1 && dead[0].reason.as_deref().unwrap().contains("no connection"), "{dead:?}");
    let page = ask(&router, Request::get("/").body(Body::empty()).unwrap()).await.text();
    assert!(page.contains("1 dead letter") || page.contains("dead letters"), "{page}");
}

/// Refuses to find the connections of an account.
#[derive(Debug)]
struct Blind;

impl StoreLayer for Blind {
    async fn around<T: Send>(
        &self,
        name: &'static str,
        call: impl Future<Output = palisade_core::Result<T>> + Send,
    ) -> palisade_core::Result<T> {
        if name == "connections_of" {
            return Err(Error::new(ErrorKind::Store, "the disk is gone"));
        }
        call.await
    }
}

// Fails when a delivery is acknowledged though nobody could tell whose it is.
#[tokio::test]
async fn what_cannot_be_routed_is_not_acknowledged() {
    let store = Arc::new(LayeredStore { inner: MemoryStore::new(), layer: Blind });
    let hub = builder(store.clone(), Arc::new(ManualClock::starting_at(NOW)))
        .app_endpoint(app("connect", "stripe", HOOK_SECRET))
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    let sent = delivery("connect", of_account("evt_1", "customer.updated", Some("acct_A")));
    let answer = ask(&hub.router(), sent).await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    assert!(store.inner.events(None, None, 10).await.unwrap().events.is_empty());
}

// Fails when endpoints are built that cannot work, or whose events could be taken for each other's.
#[tokio::test]
async fn an_apps_endpoint_that_cannot_work_is_refused() {
    let check = |apps: Vec<AppEndpointConfig>, more: Option<&str>, says: &str| {
        let mut builder = Hub::builder()
            .provider(StripeProvider::new())
            .provider(SendGridProvider::new())
            .provider(GoogleProvider::new())
            .store(Arc::new(MemoryStore::new()))
            .transport(Arc::new(NoNetwork))
            .master_key(master_key());
        for app in apps {
            builder = builder.app_endpoint(app);
        }
        if let Some(name) = more {
            builder = builder.endpoint(endpoint(name, &[HOOK_SECRET]));
        }
        let error = builder.build().expect_err(says);
        assert!(error.kind() == ErrorKind::Config && error.message().contains(says), "{says} in {error}");
    };
    check(vec![app("a", "slack", "s")], None, "not part of the hub");
    check(vec![app("a", "stripe", "s"), app("a", "stripe", "s")], None, "given twice");
    check(vec![app("a", "stripe", "s")], Some("a"), "given twice");
    check(vec![app("a", "stripe", "s")], Some("a/con_1"), "cannot be told apart");
    let sendgrid = AppEndpointConfig { secrets: Vec::new(), ..app("a", "sendgrid", "s") };
    check(vec![sendgrid], None, "cannot be given to connections");
    let channel = r#"{"channel_id":"c","resource_id":"r","token":"t"}"#;
    check(vec![app("a", "google", channel)], None, "the secret of a single channel");
    // One that belongs to a connection needs no account.
    assert_eq!(fixture().deliver(event("evt_1", "customer.updated")).await.status, 200);
}

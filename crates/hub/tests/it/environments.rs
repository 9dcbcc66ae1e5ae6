//! Environments and grants: what belongs to one is not used in another, over real flows to emulated providers.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{Method, Request, Response};
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connection, ConnectionState, Connections, Grants, Merge, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_core::transport::HttpTransport;
use palisade_core::{Call, ConnectionId, ErrorKind, Operation, Outcome, Transport};
use palisade_emulator::oauth::{Client, Consent, Dials};
use palisade_emulator::slack::{Slack as SlackEmulator, SlackConfig, Workspace};
use palisade_emulator::stripe::{Stripe as StripeEmulator, StripeConfig};
use palisade_emulator::{Fault, RetryAfter};
use palisade_hub::{Access, Hub, HubBuilder};
use palisade_slack::{Slack, SlackProvider};
use palisade_stripe::{Stripe, StripeProvider};
use tokio::sync::Semaphore;

use super::fixtures::{Answer, ask, master_key, settings};

const KEY: &str = "sk_test_platformOfTheTests000000";
const ACCOUNT: &str = "acct_1Tea";
const ORIGIN: &str = "http://127.0.0.1:9";

/// Lets requests to a token endpoint through one by one, when there is one to let through.
struct Gated {
    inner: HttpTransport,
    asked: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Transport for Gated {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let token = request.uri().path().ends_with("/token");
        let answer = self.inner.send(request).await;
        if token {
            self.asked.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
        }
        answer
    }
}

struct World {
    hub: Hub,
    router: Router,
    store: Arc<MemoryStore>,
    network: HttpTransport,
    asked: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl World {
    fn new(add: impl FnOnce(HubBuilder) -> HubBuilder) -> Self {
        let store = Arc::new(MemoryStore::new());
        let transport = || HttpTransport::builder().build().unwrap();
        let (asked, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)));
        let gated = Gated { inner: transport(), asked: asked.clone(), gate: gate.clone() };
        let builder = Hub::builder().store(store.clone()).transport(Arc::new(gated)).master_key(master_key());
        let hub = add(builder).settings(settings(Access::Trusted)).build().unwrap();
        Self { router: hub.router(), hub, store, network: transport(), asked, gate }
    }

    async fn send(&self, method: Method, path: &str, cookie: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header(COOKIE, cookie);
        ask(&self.router, request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Follows a departure to the provider, which allows everything: the callback's path and the browser's cookie.
    async fn at_provider(&self, departed: &Answer) -> (String, String) {
        // Stripe's page lets people choose an account; the others do not know the parameter.
        self.choosing(departed, &format!("account={ACCOUNT}")).await
    }

    /// The same, with a choice made on the provider's page.
    async fn choosing(&self, departed: &Answer, choice: &str) -> (String, String) {
        assert_eq!(departed.status, 303, "{}", departed.text());
        let cookie = departed.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let to = format!("{}&{choice}", departed.headers[LOCATION].to_str().unwrap());
        let request = Request::get(to).body(Bytes::new()).unwrap();
        let answered = self.network.send(request).await.unwrap();
        let back = answered.headers()[LOCATION].to_str().unwrap();
        (back.strip_prefix(ORIGIN).unwrap().to_owned(), cookie)
    }

    /// Makes a link and follows it to its end.
    async fn connect(&self, session: &str) -> Connection {
        self.connect_choosing(session, &format!("account={ACCOUNT}")).await
    }

    /// The same, with a choice made on the provider's page.
    async fn connect_choosing(&self, session: &str, choice: &str) -> Connection {
        let made = self.send(Method::POST, "/api/v1/connect-sessions", "", session).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let url = made.json()["url"].as_str().unwrap().strip_prefix("http://localhost").unwrap().to_owned();
        let begun = self.send(Method::GET, &url, "", "").await;
        let (back, cookie) = self.choosing(&begun, choice).await;
        let before = self.connections().await;
        let page = self.send(Method::GET, &back, &cookie, "").await;
        assert!(page.status == 200 && page.text().contains("is connected"), "{}", page.text());
        let mut after = self.connections().await;
        after.retain(|one| !before.contains(one));
        after.pop().expect("one more connection")
    }

    async fn connections(&self) -> Vec<Connection> {
        self.store.connections(None, 100).await.unwrap()
    }
}

fn client(id: &str, back: &str) -> Client {
    Client {
        id: id.to_owned(),
        secret: Some(KEY.to_owned()),
        name: "Tea".to_owned(),
        redirect_uris: vec![format!("{ORIGIN}{back}")],
        scopes: None,
    }
}

async fn stripe(back: &str) -> StripeEmulator {
    let platform = client("ca_app", back);
    // One account that is there already: whoever allows again, allows for the same one.
    let connected = vec![ACCOUNT.to_owned()];
    let config = StripeConfig { platform, connected, api_key: KEY.to_owned(), ..StripeConfig::default() };
    let stripe = StripeEmulator::start(config).await.unwrap();
    stripe.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
    stripe
}

fn stripe_flow(name: &str, stripe: &StripeEmulator) -> palisade_core::auth::oauth2::OAuth2Config {
    let back = format!("{ORIGIN}/auth/{name}/callback");
    let mut flow = palisade_stripe::auth::connect_at(stripe.base_url(), "ca_app", KEY.into(), &back).unwrap();
    flow.name = name.to_owned();
    flow.base_url = Some(stripe.base_url().to_owned());
    flow
}

// Fails when the environment is not kept, when a flow of another one reconnects a connection, or when a credential goes
// to an address of another one.
#[tokio::test]
async fn nothing_crosses_environments() {
    let (live, sandbox) = (stripe("/auth/stripe/callback").await, stripe("/auth/stripe/sandbox/callback").await);
    let flows = [stripe_flow("stripe", &live), stripe_flow("stripe/sandbox", &sandbox)];
    let world = World::new(|builder| flows.into_iter().fold(builder.provider(StripeProvider::new()), HubBuilder::flow));
    let connection = world.connect(r#"{"tenant":"acme","provider":"stripe","environment":"sandbox"}"#).await;
    assert_eq!(connection.environment.as_str(), "sandbox");
    assert_eq!(connection.base_url.as_deref(), Some(sandbox.base_url()));
    let id = connection.id.clone();
    let api = world.send(Method::GET, &format!("/api/v1/connections/{id}"), "", "").await.json();
    assert_eq!(api["environment"], "sandbox");
    let page = world.send(Method::GET, "/", "", "").await.text();
    assert!(page.contains("· sandbox · tenant acme"), "{page}");

    let crossing = format!(r#"{{"tenant":"acme","provider":"stripe","connection":"{id}"}}"#);
    let refused = world.send(Method::POST, "/api/v1/connect-sessions", "", &crossing).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("nothing crosses environments"), "{}", refused.text());
    let again = world.send(Method::POST, &format!("/connections/{id}/reconnect"), "", "").await;
    assert!(again.headers[LOCATION].to_str().unwrap().starts_with(sandbox.base_url()), "{again:?}");

    let client = Arc::new(world.hub.client("stripe").unwrap().clone());
    let at = |base_url: &str| Stripe::new(client.clone(), id.clone(), "acme").at(base_url).unwrap();
    let new = || palisade_stripe::client::NewCustomer::new().email("ada@example.com");
    at(sandbox.base_url()).create_customer(new(), None).await.unwrap();
    let crossed = at(live.base_url()).create_customer(new(), None).await.unwrap_err();
    assert_eq!((crossed.kind(), crossed.outcome()), (ErrorKind::Config, Outcome::NotSent), "{crossed}");
    let crossed = Stripe::new(client.clone(), id, "acme").create_customer(new(), None).await.unwrap_err();
    assert_eq!((crossed.kind(), crossed.outcome()), (ErrorKind::Config, Outcome::NotSent), "{crossed}");
    let production = world.connect(r#"{"tenant":"acme","provider":"stripe"}"#).await;
    assert!(production.environment.is_production());
    live.shutdown().await;
    sandbox.shutdown().await;
}

// Fails when the flow of production may be called by two names.
#[test]
fn a_flow_of_production_is_called_as_its_provider() {
    for (name, wanted) in [("stripe/production", "call it stripe"), ("stripe/", "letters"), ("nobody", "not part")] {
        let mut flow = palisade_stripe::auth::connect("ca_x", KEY.into(), "https://hub.example/cb").unwrap();
        flow.name = name.to_owned();
        let built = Hub::builder()
            .provider(StripeProvider::new())
            .store(Arc::new(MemoryStore::new()))
            .transport(Arc::new(HttpTransport::builder().build().unwrap()))
            .master_key(master_key())
            .flow(flow)
            .build();
        let error = built.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.message().contains(wanted), "{name}: {error}");
    }
}

// Fails when what the provider gave is lost because the browser went away, or the request took too long.
#[tokio::test]
async fn a_connect_goes_on_when_its_browser_goes_away() {
    let stripe = stripe("/auth/stripe/callback").await;
    let flow = stripe_flow("stripe", &stripe);
    let world = World::new(|builder| builder.provider(StripeProvider::new()).flow(flow));
    let begun = world.send(Method::GET, "/connect/stripe?tenant=acme", "", "").await;
    let (back, cookie) = world.at_provider(&begun).await;
    world.gate.forget_permits(Semaphore::MAX_PERMITS);
    {
        let mut callback = std::pin::pin!(world.send(Method::GET, &back, &cookie, ""));
        tokio::select! {
            answer = &mut callback => panic!("answered: {answer:?}"),
            asked = world.asked.acquire() => drop(asked.unwrap()),
        }
    }
    world.gate.add_permits(1);
    let begin = std::time::Instant::now();
    while world.connections().await.is_empty() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "the grant was lost");
        tokio::task::yield_now().await;
    }
    stripe.shutdown().await;
}

async fn slack() -> SlackEmulator {
    let client = client("1.2", "/auth/slack/callback");
    let workspaces = ["T0TEA", "T0CAKE"].map(|id| Workspace::new(id, "A workspace")).to_vec();
    let config = SlackConfig { clients: vec![client], workspaces, ..SlackConfig::default() };
    let slack = SlackEmulator::start(config).await.unwrap();
    slack.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
    slack
}

// Fails when a call goes out under another grant of the connection than the one that was chosen.
#[tokio::test]
async fn a_caller_chooses_between_the_grants_of_a_connection() {
    let slack = slack().await;
    let back = format!("{ORIGIN}/auth/slack/callback");
    let flow = palisade_slack::auth::oauth2(&back, "1.2", KEY.into(), &["users:read"], &["search:read"]);
    let flow = palisade_slack::auth::at(flow, &slack.base_url());
    let world = World::new(|builder| builder.provider(SlackProvider::new()).flow(flow));
    let connection = world.connect(r#"{"tenant":"acme","provider":"slack"}"#).await;
    let grants = world.store.grants(connection.id.clone()).await.unwrap();
    let names: Vec<&str> = grants.iter().map(|grant| grant.key.name.as_str()).collect();
    assert_eq!(names, ["bot", "user"]);

    let client = world.hub.client("slack").unwrap();
    let identity = async |client: palisade_core::Client| {
        let slack = Slack::new(Arc::new(client), connection.id.clone(), "acme").at(&slack.base_url()).unwrap();
        slack.identity().await
    };
    let bot = identity(client.clone()).await.unwrap();
    let named = identity(client.grant("bot")).await.unwrap();
    let user = identity(client.grant(palisade_slack::auth::USER)).await.unwrap();
    assert!(bot.bot_id.is_some() && bot.user_id == named.user_id, "{bot:?} {named:?}");
    assert!(user.bot_id.is_none() && user.user_id != bot.user_id, "{user:?}");
    let none = identity(client.grant("nobody")).await.unwrap_err();
    assert_eq!((none.kind(), none.outcome()), (ErrorKind::Auth, Outcome::NotSent), "{none}");
    assert_eq!(world.connections().await[0].state, ConnectionState::Active, "a wrong name ends nothing");
    slack.shutdown().await;
}

/// Fails when two connections that browsers made of one account have limits and pauses of their own, whichever was there
/// first; or when another account's connection shares them.
#[tokio::test]
async fn connections_of_one_workspace_made_in_a_browser_share_its_limits() {
    let slack = slack().await;
    let back = format!("{ORIGIN}/auth/slack/callback");
    let flow = palisade_slack::auth::oauth2(&back, "1.2", KEY.into(), &["users:read", "channels:read"], &[]);
    let flow = palisade_slack::auth::at(flow, &slack.base_url());
    let world = World::new(|builder| builder.provider(SlackProvider::new()).flow(flow));
    let connect = async |tenant: &str, team: &str| {
        let session = format!(r#"{{"tenant":"{tenant}","provider":"slack"}}"#);
        let made = world.connect_choosing(&session, &format!("team={team}")).await;
        assert_eq!(made.account.as_deref(), Some(team));
        made.id
    };
    let client = world.hub.client("slack").unwrap();
    let send = async |method: &str, connection: &ConnectionId| {
        let named = |operation: &&Operation| operation.name == method;
        let operation = palisade_slack::operation::OPERATIONS.iter().find(named).unwrap();
        let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        let call = Call::new(operation, connection.clone(), "acme".into()).with_deadline(soon);
        let to = format!("{}/api/{method}", slack.base_url());
        let form = Request::post(to).header("content-type", "application/x-www-form-urlencoded").extension(call);
        client.send(form.body(Bytes::new()).unwrap()).await.map(drop)
    };
    let refused = async |method: &str, connection: &ConnectionId| {
        let error = send(method, connection).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 0), "{method}: {error}");
    };

    // One unit in three seconds: the first spends it before the second is there.
    let first = connect("acme", "T0TEA").await;
    send("users.list", &first).await.unwrap();
    let second = connect("globex", "T0TEA").await;
    let elsewhere = connect("acme", "T0CAKE").await;
    refused("users.list", &second).await;
    refused("users.list", &first).await;
    send("users.list", &elsewhere).await.unwrap();

    // The provider asks the second to wait, and the first waits, too.
    slack.faults().next("*", [Fault::Throttle(RetryAfter::Seconds(60))]);
    let error = send("conversations.list", &second).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 1), "{error}");
    refused("conversations.list", &first).await;
    send("conversations.list", &elsewhere).await.unwrap();
    let held = async |id: &ConnectionId| {
        let view = world.send(Method::GET, &format!("/api/v1/connections/{id}"), "", "").await.json();
        view["health"]["held_until"].as_str().map(str::to_owned)
    };
    assert!(held(&first).await.is_some() && held(&first).await == held(&second).await);
    assert_eq!(held(&elsewhere).await, None);

    // Leaving and coming back is no way around it.
    let ended = world.send(Method::DELETE, &format!("/connections/{second}"), "", "").await;
    assert_eq!(ended.status, 200, "{}", ended.text());
    let again = connect("globex", "T0TEA").await;
    refused("conversations.list", &again).await;
    slack.shutdown().await;
}

// Fails when a button is missing where it is needed, is shown where it does nothing, or ends a connection unasked.
#[tokio::test]
async fn an_account_is_disconnected_and_reconnected_from_the_page() {
    let stripe = stripe("/auth/stripe/callback").await;
    let flow = stripe_flow("stripe", &stripe);
    let world = World::new(|builder| builder.provider(StripeProvider::new()).flow(flow));
    let text = async |path: &str| world.send(Method::GET, path, "", "").await.text();
    assert!(text("/").await.contains(r#"action="/connect/stripe""#), "an account can be connected from the page");
    let connection = world.connect(r#"{"tenant":"acme","provider":"stripe"}"#).await;
    let id = &connection.id;
    let (reconnect, disconnect) = (format!("/connections/{id}/reconnect"), format!("/connections/{id}/disconnect"));
    let (form, link) = (format!(r#"method="post" action="{reconnect}""#), format!(r#"href="{disconnect}""#));

    let page = text("/").await;
    assert!(page.contains(&link) && !page.contains(&form), "connected: {page}");
    let needs = ConnectionState::NeedsReconnect { reason: "the grant is over".to_owned() };
    world.store.put_connection(Connection { state: needs, ..connection.clone() }).await.unwrap();
    let page = text("/").await;
    assert!(page.contains(&link) && page.contains(&form), "needs somebody: {page}");
    let begun = world.send(Method::POST, &reconnect, "", "").await;
    let (back, cookie) = world.at_provider(&begun).await;
    let arrived = world.send(Method::GET, &back, &cookie, "").await.text();
    assert!(arrived.contains("Stripe is connected"), "{arrived}");
    let stored = async || world.store.connection(id.clone()).await.unwrap().unwrap();
    assert_eq!(stored().await.state, ConnectionState::Active);

    let asked = text(&disconnect).await;
    assert!(asked.contains(&format!(r#"method="post" action="{disconnect}""#)) && asked.contains("Keep it"), "{asked}");
    assert_eq!(stored().await.state, ConnectionState::Active, "asking ends nothing");
    let ended = world.send(Method::POST, &disconnect, "", "").await;
    assert!(ended.status == 200 && ended.text().contains("Stripe confirmed"), "{}", ended.text());
    assert_eq!(stored().await.state, ConnectionState::Disconnected);
    let page = text("/").await;
    assert!(!page.contains(&link) && page.contains(&form), "disconnected: {page}");

    // Where nothing can reconnect it, the page says what is missing.
    let orphan = Connection { environment: "other".into(), ..stored().await };
    world.store.put_connection(orphan).await.unwrap();
    let page = text("/").await;
    assert!(!page.contains(&form) && page.contains("[[flow]]") && page.contains("in other"), "{page}");
    for path in ["/connections/none/disconnect", "/connections/%ff/disconnect"] {
        assert!(world.send(Method::GET, path, "", "").await.status.is_client_error(), "{path}");
    }
    stripe.shutdown().await;
}

// Fails when the records route looks at the state: what was read last is still served while somebody must reconnect.
#[tokio::test]
async fn records_are_served_while_a_reconnect_is_needed() {
    let stripe = stripe("/auth/stripe/callback").await;
    let flow = stripe_flow("stripe", &stripe);
    let world = World::new(|builder| builder.provider(StripeProvider::new()).flow(flow));
    let connection = world.connect(r#"{"tenant":"acme","provider":"stripe"}"#).await;
    let id = &connection.id;
    let key = StreamKey { connection: id.clone(), stream: "customers".into() };
    let state = State::Present(r#"{"id":"cus_1","email":"ada@example.com"}"#.to_owned().into());
    let change = Change { stream: "customers".into(), id: "cus_1".into(), span: Span::exact(1), state };
    let read = Merge { key, read_since: Some(0), changes: vec![change] };
    world.store.merge(vec![read], connection.created_at).await.unwrap();
    let check = async |wanted: ConnectionState| {
        assert_eq!(world.store.connection(id.clone()).await.unwrap().unwrap().state, wanted);
        let answer = world.send(Method::GET, &format!("/api/v1/records/{id}/customers"), "", "").await;
        assert_eq!(answer.status, 200, "{wanted:?}: {}", answer.text());
        let records = answer.json()["records"].clone();
        assert_eq!(records.as_array().map(Vec::len), Some(1), "{wanted:?}: {records}");
        assert_eq!((&records[0]["id"], &records[0]["data"]["email"]), (&"cus_1".into(), &"ada@example.com".into()));
    };
    check(ConnectionState::Active).await;

    let needs = ConnectionState::NeedsReconnect { reason: "the grant is over".to_owned() };
    world.store.put_connection(Connection { state: needs.clone(), ..connection.clone() }).await.unwrap();
    check(needs).await;
    let begun = world.send(Method::POST, &format!("/connections/{id}/reconnect"), "", "").await;
    let (back, cookie) = world.at_provider(&begun).await;
    assert_eq!(world.send(Method::GET, &back, &cookie, "").await.status, 200);
    check(ConnectionState::Active).await;
    stripe.shutdown().await;
}

// Fails when another site can make a browser that is logged in end or begin a connection.
#[tokio::test]
async fn another_site_can_press_no_button() {
    use super::fixtures::{TOKEN, fixture_with};
    let fixture = fixture_with(settings(Access::Token(TOKEN.into()))).with_connection().await;
    let id = ConnectionId::new("acme-stripe");
    let login = Request::post("/login").body(Body::from(format!("token={}", TOKEN.replace(' ', "+")))).unwrap();
    let cookie = fixture.ask(login).await.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let ask = async |method: &str, path: &str, origin: Option<&str>| {
        let mut request =
            Request::builder().method(method).uri(path).header("host", "hub.example").header("cookie", &cookie);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        fixture.ask(request.body(Body::empty()).unwrap()).await
    };
    let paths = ["/connections/acme-stripe/disconnect", "/connections/acme-stripe/reconnect"];
    for path in paths {
        for origin in [None, Some("https://evil.example"), Some("null")] {
            ask("POST", path, origin).await.is_error(403, "forbidden");
        }
    }
    ask("DELETE", "/connections/acme-stripe", Some("https://evil.example")).await.is_error(403, "forbidden");
    let state = async || fixture.store.connection(id.clone()).await.unwrap().unwrap().state;
    assert_eq!(state().await, ConnectionState::Active);
    assert_eq!(ask("GET", paths[0], None).await.status, 200, "asking is lawful and changes nothing");
    assert_eq!(state().await, ConnectionState::Active);
    let ended = ask("POST", paths[0], Some("https://hub.example")).await;
    assert!(ended.status == 200 && ended.text().contains("nothing to revoke"), "{}", ended.text());
    assert_eq!(state().await, ConnectionState::Disconnected);
    // It is of the configuration: an operator may take its credential again.
    let back = ask("POST", paths[1], Some("https://hub.example")).await;
    assert_eq!((back.status.as_u16(), back.header("location")), (303, Some("/")));
    assert_eq!(state().await, ConnectionState::Active);
}

//! The flow from end to end, and every way to bend it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::auth::flow::{Flow, RenewalAsk, RenewalFailure, RevocationAsk};
use crate::auth::grant::{MAIN, Renewal};
use crate::auth::oauth2::OAuth2Config;
use crate::auth::oauth2::tests::{both, config, google, slack};
use crate::auth::testing::Script;
use crate::auth::token_source::TokenSource;
use crate::auth::vault::{LocalMasterKey, Vault};
use crate::auth::{CredentialSource, Scheme};
use crate::clock::{Clock, TokioClock};
use crate::error::{Error, ErrorKind, Outcome};
use crate::id::Environment;
use crate::random::{SeededRandom, SystemRandom};
use crate::store::memory::MemoryStore;
use crate::store::{Connection, ConnectionState, Connections, GrantKey, GrantState, Grants, Revocation, StoredGrant};

mod refusals;

const START: Timestamp = Timestamp(1_700_000_000_000);

struct Desk {
    store: Arc<MemoryStore>,
    script: Script,
    connector: Connector,
    tokens: Arc<TokenSource>,
    clock: TokioClock,
}

fn desk(config: OAuth2Config) -> Desk {
    let (store, script, clock) = (Arc::new(MemoryStore::new()), Script::default(), TokioClock::starting_at(START));
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let name = config.name.clone();
    let flow = Arc::new(OAuth2Flow::new(config, script.transport()).unwrap());
    let tokens = TokenSource::builder(store.clone(), vault.clone(), Arc::new(clock), random.clone())
        .flow(&name, flow.clone())
        .build()
        .unwrap();
    let targets = ReturnTargets::none().allow("https://app.example/settings").unwrap();
    let connector = Connector::builder(store.clone(), vault, Arc::new(clock), random)
        .browser_flow(flow)
        .return_targets(targets)
        .token_source(tokens.clone())
        .build()
        .unwrap();
    Desk { store, script, connector, tokens, clock }
}

/// A browser that was sent away: the parameters it was sent with, and the cookie it keeps.
struct Browser {
    url: String,
    params: BTreeMap<String, String>,
    cookie: String,
    connection: ConnectionId,
}

impl Browser {
    fn sent(begun: Begun) -> Self {
        let url = oauth2::url::Url::parse(begun.redirect_url.expose()).unwrap();
        let params = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap().to_owned();
        let mut bare = url.clone();
        bare.set_query(None);
        Self { url: bare.into(), params, cookie, connection: begun.connection }
    }

    fn state(&self) -> &str {
        &self.params["state"]
    }

    fn back(&self) -> String {
        format!("code=the-code&state={}", self.state())
    }
}

impl Desk {
    async fn begin(&self, ask: ConnectAsk) -> Browser {
        Browser::sent(self.connector.begin(ask).await.unwrap())
    }

    async fn grant(&self, connection: &ConnectionId, name: &str) -> StoredGrant {
        let key = GrantKey { connection: connection.clone(), name: name.into() };
        self.store.grant(key).await.unwrap().unwrap()
    }

    async fn connection(&self, id: &ConnectionId) -> Connection {
        self.store.connection(id.clone()).await.unwrap().unwrap()
    }
}

fn acme() -> ConnectAsk {
    ConnectAsk {
        return_to: Some("https://app.example/settings/slack?tab=1".to_owned()),
        ..ConnectAsk::new("acme", "t".into())
    }
}

const ANSWER: &str =
    r#"{"access_token":"at-1","refresh_token":"rt-1","expires_in":3600,"token_type":"bearer","scope":"read"}"#;

/// Fails when a part of the flow is missing or in plain where it should not be.
#[tokio::test(start_paused = true)]
async fn a_browser_goes_and_comes_back_connected() {
    let desk = desk(config());
    let ask = ConnectAsk { params: vec![("login_hint".to_owned(), "ada@example.com".to_owned())], ..acme() };
    let begun = desk.connector.begin(ask).await.unwrap();
    let set_cookie = begun.set_cookie.expose().to_owned();
    assert_eq!(begun.expires_at, START.plus(PENDING_LIFE));
    let browser = Browser::sent(begun);
    assert_eq!(browser.url, "https://id.example/authorize");
    let mut params = browser.params.clone();
    let state = params.remove("state").unwrap();
    let challenge = params.remove("code_challenge").unwrap();
    let wanted = [
        ("client_id", "client 1"),
        ("code_challenge_method", "S256"),
        ("login_hint", "ada@example.com"),
        ("redirect_uri", "https://app.example/callback"),
        ("response_type", "code"),
        ("scope", "read write"),
    ];
    assert_eq!(params, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!((state.len(), challenge.len()), (43, 43), "256 bits each");
    assert!(set_cookie.starts_with("__Host-palisade-connect-"), "{set_cookie}");
    assert!(set_cookie.ends_with("; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax"), "{set_cookie}");

    desk.script.answer(200, ANSWER);
    let cookies = format!("theme=dark; {}; other=1", browser.cookie);
    let connected = desk.connector.finish("acme", &browser.back(), Some(&cookies)).await.unwrap();
    assert_eq!((connected.reconnected, connected.missing.as_slice()), (false, &["write".to_owned()][..]));
    assert_eq!(connected.return_to.as_deref(), Some("https://app.example/settings/slack?tab=1"));
    let clear = connected.clear_cookie.unwrap();
    assert!(clear.starts_with(browser.cookie.split('=').next().unwrap()) && clear.contains("Max-Age=0"), "{clear}");
    // The verifier is the one whose challenge went with the browser.
    let seen = desk.script.last();
    let verifier = PkceCodeVerifier::new(seen.field("code_verifier").unwrap());
    assert_eq!(PkceCodeChallenge::from_code_verifier_sha256(&verifier).as_str(), challenge);
    assert_eq!(seen.field("redirect_uri").as_deref(), Some("https://app.example/callback"));
    // What is stored, and that it works.
    let id = browser.connection;
    let row = desk.connection(&id).await;
    assert_eq!((row.tenant.as_str(), row.provider.as_str(), row.state), ("t", "acme", ConnectionState::Active));
    let grant = desk.grant(&id, MAIN).await;
    assert_eq!((grant.requested.join(" "), grant.granted.join(" ")), ("read write".to_owned(), "read".to_owned()));
    assert_eq!((grant.generation, grant.expires_at), (1, Some(START.plus(Duration::from_secs(3_600)))));
    for secret in ["at-1", "rt-1"] {
        assert!(!String::from_utf8_lossy(&grant.blob).contains(secret));
    }
    assert_eq!(desk.tokens.credential(id).await.unwrap().version(), 1);
}

/// Fails when the two flows of one browser end each other.
#[tokio::test(start_paused = true)]
async fn two_flows_in_one_browser_do_not_disturb_each_other() {
    let desk = desk(config());
    let (one, two) = (desk.begin(acme()).await, desk.begin(acme()).await);
    assert_ne!(one.connection, two.connection);
    desk.script.answer(200, ANSWER).answer(200, ANSWER);
    let cookies = format!("{}; {}", one.cookie, two.cookie);
    for browser in [two, one] {
        desk.connector.finish("acme", &browser.back(), Some(&cookies)).await.unwrap();
    }
}

/// Fails when what a reconnect has replaced is still served from memory.
#[tokio::test(start_paused = true)]
async fn a_reconnect_serves_the_new_token_at_once() {
    let desk = desk(config());
    let browser = desk.begin(acme()).await;
    desk.script.answer(200, ANSWER).answer(200, ANSWER);
    desk.connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap();
    let id = browser.connection;
    assert_eq!(desk.tokens.credential(id.clone()).await.unwrap().version(), 1);
    let browser = desk.begin(ConnectAsk { connection: Some(id.clone()), ..acme() }).await;
    desk.connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(desk.tokens.credential(id).await.unwrap().version(), 2);
}

/// Fails when a reconnect makes another connection, loses what belongs to it, or leaves it marked.
#[tokio::test(start_paused = true)]
async fn a_reconnect_is_in_place() {
    let desk = desk(google());
    let ask = || ConnectAsk::new("google", "t".into());
    let browser = desk.begin(ask()).await;
    assert_eq!(browser.params["access_type"], "offline");
    assert_eq!(
        (browser.params["prompt"].as_str(), browser.params["include_granted_scopes"].as_str()),
        ("consent", "true")
    );
    let scopes = "https://www.googleapis.com/auth/gmail.send https://www.googleapis.com/auth/calendar";
    assert_eq!(browser.params["scope"], scopes);
    let answer = |scope: &str| json!({"access_token": "a", "refresh_token": "r", "expires_in": 3599, "token_type": "Bearer", "scope": scope});
    desk.script.answer(200, answer(scopes).to_string());
    desk.connector.finish("google", &browser.back(), Some(&browser.cookie)).await.unwrap();
    let id = browser.connection;
    let first = desk.connection(&id).await;
    let key = GrantKey { connection: id.clone(), name: MAIN.into() };
    desk.store.end_grant(key, 1, crate::store::EndReason::Refused, false).await.unwrap();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    // More is asked for this time, and it adds to what was asked before.
    let more = "https://www.googleapis.com/auth/contacts.readonly";
    let again = ConnectAsk { connection: Some(id.clone()), scopes: Some(vec![more.to_owned()]), ..ask() };
    let browser = desk.begin(again).await;
    assert_eq!((browser.connection.clone(), browser.params["scope"].as_str()), (id.clone(), more));
    desk.script.answer(200, answer(&format!("{more} https://www.googleapis.com/auth/gmail.send")).to_string());
    let connected = desk.connector.finish("google", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert!(connected.reconnected);
    assert_eq!(connected.missing, ["https://www.googleapis.com/auth/calendar"]);
    let row = desk.connection(&id).await;
    assert_eq!((row.created_at, row.state.clone()), (first.created_at, ConnectionState::Active));
    let grant = desk.grant(&id, MAIN).await;
    assert_eq!((grant.generation, grant.state, grant.requested.len()), (2, GrantState::Live, 3));
    let keep_alive = grant.keep_alive_at.unwrap().since(grant.issued_at);
    assert!((27..=30).contains(&(keep_alive.as_secs() / 86_400)), "{keep_alive:?}");
}

#[tokio::test(start_paused = true)]
async fn an_installation_gives_a_bot_and_a_user() {
    let mut sandbox = slack("slack/sandbox");
    sandbox.base_url = Some("https://sandbox.example/api".to_owned());
    let desk = desk(sandbox);
    let browser = desk.begin(ConnectAsk::new("slack/sandbox", "t".into())).await;
    assert_eq!(
        (browser.params["scope"].as_str(), browser.params["user_scope"].as_str()),
        ("chat:write,users:read", "search:read")
    );
    desk.script.answer(200, both().to_string());
    let connected = desk.connector.finish("slack/sandbox", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(connected.grants, ["bot".into(), "user".into()]);
    let row = connected.connection;
    assert_eq!((row.provider.as_str(), row.account.as_deref()), ("slack", Some("T1")));
    assert_eq!(row.base_url.as_deref(), Some("https://sandbox.example/api"));
    let user = desk.tokens.grant("user");
    let sent = async |source: &TokenSource| {
        let mut request = http::Request::get("https://slack.com/").body(()).unwrap();
        source.credential(row.id.clone()).await.unwrap().apply(&mut request).unwrap();
        request.headers()["authorization"].to_str().unwrap().to_owned()
    };
    assert_eq!(sent(&desk.tokens).await, "Bearer xoxe.xoxb-1", "the bot speaks unless somebody else is asked for");
    assert_eq!(sent(&user).await, "Bearer xoxe.xoxp-1");
    // Disconnecting ends both at the provider, and is remembered.
    desk.script.answer(200, r#"{"ok":true}"#);
    for _ in 0..3 {
        desk.script.answer(200, r#"{"ok":false,"error":"internal_error"}"#);
    }
    let gone = desk.connector.disconnect(&row.id).await.unwrap();
    assert_eq!(gone.revocations, [("bot".into(), Revocation::Confirmed), ("user".into(), Revocation::NotConfirmed)]);
    assert_eq!(desk.connection(&row.id).await.state, ConnectionState::Disconnected);
    for (name, revocation) in [("bot", Revocation::Confirmed), ("user", Revocation::NotConfirmed)] {
        let grant = desk.grant(&row.id, name).await;
        assert_eq!(grant.state, GrantState::Erased { at: desk.clock.now(), revocation });
        assert!(grant.blob.is_empty());
    }
    assert_eq!(desk.tokens.credential(row.id.clone()).await.unwrap_err().kind(), ErrorKind::Auth);
    let requests = desk.script.seen().len();
    assert!(desk.connector.disconnect(&row.id).await.unwrap().revocations.is_empty());
    assert_eq!(desk.script.seen().len(), requests, "what is erased is not revoked again");
    assert_eq!(desk.connector.disconnect(&"none".into()).await.unwrap_err().kind(), ErrorKind::NotFound);
    // And the same connection can be connected again.
    let browser = desk
        .begin(ConnectAsk { connection: Some(row.id.clone()), ..ConnectAsk::new("slack/sandbox", "t".into()) })
        .await;
    desk.script.answer(200, both().to_string());
    desk.connector.finish("slack/sandbox", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(desk.grant(&row.id, "bot").await.generation, 3);
    assert_eq!(sent(&desk.tokens).await, "Bearer xoxe.xoxb-1");
}

/// A flow without a browser that gives what it is told.
#[derive(Debug)]
struct Robot(std::sync::Mutex<Vec<Result<Tokens, RenewalFailure>>>);

#[async_trait::async_trait]
impl Flow for Robot {
    fn policy(&self) -> crate::auth::flow::RenewalPolicy {
        crate::auth::flow::RenewalPolicy::default()
    }

    async fn renew(&self, asked: RenewalAsk) -> Result<Tokens, RenewalFailure> {
        let planned = self.0.lock().unwrap().pop().unwrap()?;
        Ok(Tokens { renewal: asked.renewal, requested: asked.requested, ..planned })
    }

    async fn revoke(&self, _asked: RevocationAsk) -> Result<Revocation, Error> {
        Ok(Revocation::NotOffered)
    }
}

/// Fails when what does not work is stored, or when a connection changes its account unseen.
#[tokio::test(start_paused = true)]
async fn a_service_account_is_tried_before_it_is_stored() {
    let Desk { store, clock, .. } = desk(config());
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let tokens = || Tokens {
        name: MAIN.into(),
        access: "at".into(),
        renewal: Renewal::Never,
        expires_in: None,
        requested: Vec::new(),
        granted: vec!["a".to_owned()],
    };
    let refused = Error::new(ErrorKind::Auth, "no").with_outcome(Outcome::Rejected);
    let plan = vec![Ok(tokens()), Ok(tokens()), Err(RenewalFailure::Over(refused))];
    let robot = Arc::new(Robot(std::sync::Mutex::new(plan)));
    let connector =
        Connector::builder(store.clone(), vault, Arc::new(clock), random).flow("google", robot).build().unwrap();
    let ask = |account: &str, connection: Option<ConnectionId>| DirectAsk {
        flow: "google".to_owned(),
        tenant: "t".into(),
        connection,
        account: Some(account.to_owned()),
        renewal: Renewal::ServiceAccount { key: "{}".into(), subject: None },
        scopes: vec!["a".to_owned(), "b".to_owned()],
    };
    assert_eq!(connector.connect_directly(ask("robot", None)).await.unwrap_err().kind(), ErrorKind::Auth);
    assert!(store.connections(None, 9).await.unwrap().is_empty());
    let connected = connector.connect_directly(ask("robot", None)).await.unwrap();
    assert_eq!((connected.missing.as_slice(), connected.return_to), (&["b".to_owned()][..], None));
    let id = connected.connection.id;
    let other = connector.connect_directly(ask("another", Some(id.clone()))).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
    assert_eq!(store.connection(id).await.unwrap().unwrap().account.as_deref(), Some("robot"));
    let none = DirectAsk { flow: "none".to_owned(), ..ask("robot", None) };
    assert_eq!(connector.connect_directly(none).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Fails when a key and a grant of one connection share a generation: a refusal of the one would end the other.
#[tokio::test(start_paused = true)]
async fn a_key_that_becomes_a_grant_goes_on_counting() {
    let desk = desk(config());
    let row = Connection {
        id: "old".into(),
        tenant: "t".into(),
        provider: "acme".to_owned(),
        environment: Default::default(),
        account: None,
        base_url: Some("https://sandbox.example".to_owned()),
        state: ConnectionState::Active,
        created_at: Timestamp(5),
    };
    desk.store.put_connection(row).await.unwrap();
    let id = ConnectionId::new("old");
    for key in ["one", "two"] {
        desk.tokens.keys().store_credential(&id, &Scheme::Bearer(key.into())).await.unwrap();
    }
    let browser = desk.begin(ConnectAsk { connection: Some(id.clone()), ..acme() }).await;
    desk.script.answer(200, ANSWER);
    desk.connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(desk.grant(&id, MAIN).await.generation, 3);
    let row = desk.connection(&id).await;
    // A grant is used against its flow's addresses only.
    assert_eq!((row.created_at, row.base_url.as_deref()), (Timestamp(5), None));
}

/// Fails when a link works twice, for another tenant, too late, or leads anywhere.
#[tokio::test(start_paused = true)]
async fn a_link_works_once_and_for_half_an_hour() {
    let desk = desk(config());
    let ask = || SessionAsk {
        tenant: "t".into(),
        flow: "acme".to_owned(),
        connection: None,
        scopes: Some(vec!["admin".to_owned()]),
        return_to: Some("https://app.example/settings".to_owned()),
    };
    let link = desk.connector.open_session(ask()).await.unwrap();
    assert_eq!((link.expires_at, link.token.expose().len()), (START.plus(SESSION_LIFE), 43));
    assert!(!format!("{link:?}").contains(link.token.expose()));
    let browser = Browser::sent(desk.connector.begin_session(&link.token).await.unwrap());
    assert_eq!(browser.params["scope"], "admin");
    let kind = async |token: &Secret| desk.connector.begin_session(token).await.unwrap_err().kind();
    assert_eq!(kind(&link.token).await, RefusedKind::LinkUsed);
    assert_eq!(kind(&"made-up".into()).await, RefusedKind::LinkUsed);
    desk.script.answer(200, ANSWER);
    let connected = desk.connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(connected.connection.tenant.as_str(), "t");
    let late = desk.connector.open_session(ask()).await.unwrap();
    tokio::time::advance(SESSION_LIFE).await;
    assert_eq!(kind(&late.token).await, RefusedKind::LinkExpired);
    // A connection is reconnected by its own tenant, through its own flow.
    let reconnect = |tenant: &str, flow: &str| SessionAsk {
        tenant: tenant.into(),
        flow: flow.to_owned(),
        connection: Some(connected.connection.id.clone()),
        scopes: None,
        return_to: None,
    };
    let link = desk.connector.open_session(reconnect("t", "acme")).await.unwrap();
    assert_eq!(desk.connector.open_session(reconnect("other", "acme")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(desk.connector.open_session(reconnect("t", "none")).await.unwrap_err().kind(), ErrorKind::NotFound);
    let away = SessionAsk { return_to: Some("https://evil.example/".to_owned()), ..ask() };
    assert_eq!(desk.connector.open_session(away).await.unwrap_err().kind(), ErrorKind::Invalid);
    let moved = Connection { tenant: "other".into(), ..desk.connection(&connected.connection.id).await };
    desk.store.put_connection(moved).await.unwrap();
    assert_eq!(kind(&link.token).await, RefusedKind::Gone);
    desk.connector.open_session(ask()).await.unwrap();
    tokio::time::advance(SESSION_LIFE * 3).await;
    assert_eq!(desk.connector.prune(9).await.unwrap(), 1);
}

/// Fails when grants cross environments.
#[tokio::test(start_paused = true)]
async fn a_connection_belongs_to_one_environment() {
    let (script, store) = (Script::default(), Arc::new(MemoryStore::new()));
    let (clock, random) = (Arc::new(TokioClock::starting_at(START)), Arc::new(SystemRandom));
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let flow = |name: &str| {
        let mut config = config();
        config.name = name.to_owned();
        Arc::new(OAuth2Flow::new(config, script.transport()).unwrap())
    };
    let connector = Connector::builder(store.clone(), vault, clock, random)
        .browser_flow(flow("acme"))
        .browser_flow(flow("acme/sandbox"))
        .build()
        .unwrap();
    assert_eq!(connector.browser_flows().collect::<Vec<_>>(), ["acme", "acme/sandbox"]);
    let ask = |flow: &str| ConnectAsk::new(flow, "t".into());
    let browser = Browser::sent(connector.begin(ask("acme/sandbox")).await.unwrap());
    // The callback of the other environment does not take it, and it is used up by the try.
    let crossed = connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap_err();
    assert_eq!(crossed.kind(), RefusedKind::UnknownState);
    let browser = Browser::sent(connector.begin(ask("acme/sandbox")).await.unwrap());
    script.answer(200, ANSWER);
    let connected = connector.finish("acme/sandbox", &browser.back(), Some(&browser.cookie)).await.unwrap();
    let Connection { id, provider, environment, .. } = connected.connection.clone();
    assert_eq!((provider.as_str(), environment.as_str()), ("acme", "sandbox"));
    let crossed = |flow: &str| ConnectAsk { connection: Some(id.clone()), ..ask(flow) };
    assert_eq!(connector.begin(crossed("acme")).await.unwrap_err().kind(), ErrorKind::Invalid);
    // Also without a grant that would tell: the environment stands on the connection.
    let bare = Connection { id: "bare".into(), ..connected.connection.clone() };
    store.put_connection(bare).await.unwrap();
    let crossed = ConnectAsk { connection: Some("bare".into()), ..ask("acme") };
    assert_eq!(connector.begin(crossed).await.unwrap_err().kind(), ErrorKind::Invalid);
    let reconnect = ConnectAsk { connection: Some("bare".into()), ..ask("acme/sandbox") };
    let moving = Browser::sent(connector.begin(reconnect).await.unwrap());
    // One that was moved while the browser was away is not connected either.
    let moved = Connection { id: "bare".into(), environment: Environment::default(), ..connected.connection };
    store.put_connection(moved).await.unwrap();
    script.answer(200, ANSWER);
    let gone = connector.finish("acme/sandbox", &moving.back(), Some(&moving.cookie)).await.unwrap_err();
    assert_eq!(gone.kind(), RefusedKind::Gone);
    let key = GrantKey { connection: browser.connection, name: MAIN.into() };
    assert_eq!(store.grant(key).await.unwrap().unwrap().flow, "acme/sandbox");
}

/// The value alone: a product that keeps pending flows itself.
#[tokio::test(start_paused = true)]
async fn begin_and_finish_are_values() {
    let script = Script::default();
    let flow = OAuth2Flow::new(config(), script.transport()).unwrap();
    let random = SeededRandom::new(7);
    let wanted = Wanted {
        tenant: "t".into(),
        connection: "c".into(),
        scopes: flow.config().scopes_for(None),
        return_to: None,
        params: Vec::new(),
    };
    let (departure, pending) = begin(&flow, wanted, START, &random);
    let url = departure.redirect_url.expose().to_owned();
    let state = url.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let cookie = departure.set_cookie.expose().split(';').next().unwrap().to_owned();
    for shown in [format!("{departure:?}"), format!("{pending:?}")] {
        assert!(!shown.contains(&state) && !shown.contains(cookie.split('=').nth(1).unwrap()), "{shown}");
    }
    let callback = Callback::parse(&format!("?code=c1&state={state}")).unwrap();
    assert_eq!(callback.state(), Some(pending.state()));
    assert!(!format!("{callback:?}").contains("c1"));
    script.answer(200, ANSWER);
    let grant = finish(&flow, pending, &callback, Some(&cookie), START).await.unwrap();
    assert_eq!((grant.missing().join(" "), grant.tokens.len()), ("write".to_owned(), 1));
    assert!(!format!("{grant:?}").contains("at-1"));
}

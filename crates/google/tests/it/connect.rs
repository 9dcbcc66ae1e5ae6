//! Connecting an account: the consent flow and service accounts through core's flows, with the emulated Google deciding.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::CredentialSource;
use palisade_core::auth::connect::{Begun, ConnectAsk, Connected, Connector, DirectAsk, Refused, RefusedKind};
use palisade_core::auth::flow::{Flow, RenewalAsk, RenewalFailure};
use palisade_core::auth::grant::{MAIN, Renewal, Tokens};
use palisade_core::auth::jwt::{ServiceAccountConfig, ServiceAccountFlow};
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::clock::TokioClock;
use palisade_core::id::ConnectionId;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections, Grants, Revocation};
use palisade_core::{Clock, ErrorKind, Result, Secret, Timestamp, Transport};
use palisade_emulator::Fault;
use palisade_emulator::google::{Google as Emulator, GoogleConfig, Person, ServiceAccount};
use palisade_emulator::oauth::{Client, Consent, Dials, Form};

use palisade_google::auth::{
    CALENDAR_EVENTS, CALENDAR_READONLY, GMAIL_SEND, connect, service_accounts, service_accounts_self_signed,
};
use serde_json::{Value, json};

const BACK: &str = "https://app.example/auth/google/callback";
const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const SECRET: &str = "GOCSPX-NotARealSecret";
const EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";

/// The emulated Google without a socket, and every request it was sent.
#[derive(Clone)]
struct House {
    emulator: Emulator,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
}

#[async_trait]
impl Transport for House {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        self.seen.lock().unwrap().push(request.clone());
        palisade_testkit::EmulatorTransport::new(self.emulator.clone()).send(request).await
    }
}

/// An app that connects accounts of the emulated Google.
struct App {
    house: House,
    connector: Connector,
    tokens: Arc<TokenSource>,
    store: Arc<MemoryStore>,
    clock: Arc<TokioClock>,
}

impl App {
    fn new() -> Self {
        let origin = tokio::time::Instant::now();
        let begin = Duration::from_millis(BEGIN.0.unsigned_abs());
        let client = Client {
            id: "1-x.apps.googleusercontent.com".to_owned(),
            secret: Some(SECRET.to_owned()),
            redirect_uris: vec![BACK.to_owned()],
            ..Client::default()
        };
        let account = ServiceAccount { delegated: vec![GMAIL_SEND.to_owned()], ..ServiceAccount::built_in() };
        let emulator = Emulator::offline(GoogleConfig {
            seed: 7,
            clients: vec![client],
            people: vec![Person::new("ada@example.com", "Ada"), Person::new("bob@example.com", "Bob")],
            service_accounts: vec![account],
            clock: Arc::new(move || UNIX_EPOCH + begin + origin.elapsed()),
            ..GoogleConfig::default()
        });
        let house = House { emulator, seen: Arc::default() };
        let config = connect("1-x.apps.googleusercontent.com", SECRET.into(), BACK, &[GMAIL_SEND, CALENDAR_EVENTS]);
        let flow = Arc::new(OAuth2Flow::new(config, Arc::new(house.clone())).unwrap());
        let account = |config| Arc::new(service_account(config, &house));
        let (delegating, signing) = (account(service_accounts()), account(service_accounts_self_signed()));
        let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SystemRandom));
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
        let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
        let tokens = TokenSource::builder(store.clone(), vault.clone(), clock.clone(), random.clone())
            .flow("google", flow.clone())
            .flow("google/account", delegating.clone())
            .flow("google/signing", signing.clone())
            .build()
            .unwrap();
        let connector = Connector::builder(store.clone(), vault, clock.clone(), random)
            .browser_flow(flow)
            .flow("google/account", delegating)
            .flow("google/signing", signing)
            .token_source(tokens.clone())
            .build()
            .unwrap();
        Self { house, connector, tokens, store, clock }
    }

    async fn begin(&self, again: Option<&ConnectionId>, scopes: Option<&[&str]>) -> Begun {
        let scopes = scopes.map(|scopes| scopes.iter().map(|scope| (*scope).to_owned()).collect());
        let ask = ConnectAsk { connection: again.cloned(), scopes, ..ConnectAsk::new("google", "t".into()) };
        self.connector.begin(ask).await.unwrap()
    }

    /// Begins again for somebody Google knows, whose consent it would take as given.
    async fn begin_for(&self, email: &str, again: &ConnectionId) -> Begun {
        let params = vec![("login_hint".to_owned(), email.to_owned())];
        let ask = ConnectAsk { connection: Some(again.clone()), params, ..ConnectAsk::new("google", "t".into()) };
        self.connector.begin(ask).await.unwrap()
    }

    /// Does what a person in front of the browser does, and comes back.
    async fn visit(
        &self,
        begun: &Begun,
        act: impl FnOnce(&mut Form),
        button: &str,
    ) -> std::result::Result<Connected, Refused> {
        let page = Request::get(begun.redirect_url.expose()).body(Bytes::new()).unwrap();
        let page = self.house.emulator.handle(page).await.unwrap();
        let mut form = Form::read(std::str::from_utf8(page.body()).unwrap()).expect("the page asks");
        act(&mut form);
        let pressed = Request::post(format!("https://accounts.google.com{}", form.action))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(form.press(button).unwrap()))
            .unwrap();
        let back = self.house.emulator.handle(pressed).await.unwrap();
        let back = back.headers()["location"].to_str().unwrap().strip_prefix(BACK).unwrap().to_owned();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap();
        self.connector.finish("google", &back, Some(cookie)).await
    }

    /// Asks Google who the connection's token speaks for.
    async fn who(&self, connection: &ConnectionId) -> Value {
        let mut request = Request::get("https://www.googleapis.com/oauth2/v3/userinfo").body(Bytes::new()).unwrap();
        self.tokens.credential(connection.clone()).await.unwrap().apply(&mut request).unwrap();
        let answer = self.house.emulator.handle(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        serde_json::from_slice(answer.body()).unwrap()
    }

    async fn granted(&self, connection: &ConnectionId) -> Vec<String> {
        let grants = self.store.grants(connection.clone()).await.unwrap();
        grants.into_iter().flat_map(|grant| grant.granted).collect()
    }

    /// The form of the newest request to the token endpoint.
    fn asked(&self) -> Vec<(String, String)> {
        let seen = self.house.seen.lock().unwrap();
        let request = seen.iter().rev().find(|request| request.uri().path() == "/token").unwrap();
        assert_eq!(request.uri().to_string(), "https://oauth2.googleapis.com/token");
        super::fake::pairs(std::str::from_utf8(request.body()).unwrap())
    }

    fn direct(&self, flow: &str, subject: Option<&str>, scope: &str) -> DirectAsk {
        let key = Secret::new(self.house.emulator.service_account_key().to_string());
        DirectAsk {
            flow: flow.to_owned(),
            tenant: "t".into(),
            connection: None,
            account: subject.map(str::to_owned),
            renewal: Renewal::ServiceAccount { key, subject: subject.map(str::to_owned) },
            scopes: vec![scope.to_owned()],
        }
    }
}

/// Sits at the browser as Bob.
fn bob(form: &mut Form) {
    assert!(form.choose(&Person::new("bob@example.com", "Bob").sub), "Bob is offered");
}

fn renewal(renewal: Renewal, scope: &str) -> RenewalAsk {
    let scopes = vec![scope.to_owned()];
    RenewalAsk { name: MAIN.into(), renewal, requested: scopes.clone(), granted: scopes, now: BEGIN }
}

fn service_account(config: ServiceAccountConfig, house: &House) -> ServiceAccountFlow {
    ServiceAccountFlow::new(config, Arc::new(house.clone())).unwrap()
}

/// Fails when a scope the user unticked is taken for granted, or a scope is missed by its other name.
#[tokio::test(start_paused = true)]
async fn what_a_person_unticks_is_missing_and_can_be_asked_for_again() {
    let app = App::new();
    let begun = app.begin(None, None).await;
    assert!(begun.redirect_url.expose().starts_with("https://accounts.google.com/o/oauth2/v2/auth?"));
    let without = |form: &mut Form| {
        bob(form);
        assert!(form.tick(CALENDAR_EVENTS, false), "the box is there");
    };
    let connected = app.visit(&begun, without, "allow").await.unwrap();
    assert_eq!(connected.missing, [CALENDAR_EVENTS]);
    assert_eq!(connected.connection.account.as_deref(), Some("bob@example.com"));
    let id = connected.connection.id;
    assert_eq!(app.who(&id).await["email"], "bob@example.com");

    // The rest is asked for by itself, under a short name too; what was granted before still is.
    let begun = app.begin(Some(&id), Some(&[CALENDAR_EVENTS, "email"])).await;
    let connected = app.visit(&begun, bob, "allow").await.unwrap();
    assert!(connected.reconnected && connected.missing.is_empty(), "{:?}", connected.missing);
    let granted = app.granted(&id).await;
    for scope in ["openid", EMAIL, GMAIL_SEND, CALENDAR_EVENTS] {
        assert!(granted.iter().any(|known| known == scope), "{scope} in {granted:?}");
    }

    // Another account is not taken for the same connection.
    let begun = app.begin(Some(&id), None).await;
    let refused = app.visit(&begun, |_| {}, "allow").await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::OtherAccount);
    let begun = app.begin(Some(&id), None).await;
    let denied = app.visit(&begun, |_| {}, "deny").await.unwrap_err();
    assert_eq!(denied.kind(), RefusedKind::Denied);
    assert_eq!(app.who(&id).await["email"], "bob@example.com", "what was there goes on");
}

/// Fails when a refresh token that Google does not send again is thrown away, or none is asked for.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_comes_once_and_stays() {
    let app = App::new();
    let begun = app.begin(None, None).await;
    let id = app.visit(&begun, |_| {}, "allow").await.unwrap().connection.id;
    assert_eq!(value(&app.asked(), "client_secret"), Some(SECRET));
    assert!(value(&app.asked(), "code_verifier").is_some());
    let first = app.tokens.credential(id.clone()).await.unwrap();
    let mut sent = Vec::new();
    for version in 2..5 {
        // Past the hour an access token lives.
        tokio::time::advance(Duration::from_secs(3_601)).await;
        assert_eq!(app.who(&id).await["email"], "ada@example.com");
        assert_eq!(app.tokens.credential(id.clone()).await.unwrap().version(), version);
        let form = app.asked();
        assert_eq!(value(&form, "grant_type"), Some("refresh_token"));
        sent.push(value(&form, "refresh_token").unwrap().to_owned());
    }
    assert_eq!((first.version(), sent.len()), (1, 3));
    assert!(sent[0].starts_with("1//0") && sent.iter().all(|token| *token == sent[0]), "one token for all renewals");

    // Whoever connects again is asked again, and so is given a refresh token again.
    let begun = app.begin_for("ada@example.com", &id).await;
    app.visit(&begun, |_| {}, "allow").await.unwrap();
    tokio::time::advance(Duration::from_secs(3_601)).await;
    assert_eq!(app.who(&id).await["email"], "ada@example.com");
    assert_ne!(value(&app.asked(), "refresh_token"), Some(sent[0].as_str()));

    let gone = app.connector.disconnect(&id).await.unwrap();
    assert_eq!(gone.revocations, [(MAIN.into(), Revocation::Confirmed)]);
    let stored = app.store.connection(id.clone()).await.unwrap().unwrap();
    assert_eq!(stored.state, ConnectionState::Disconnected);
    assert_eq!(app.tokens.credential(id).await.unwrap_err().kind(), ErrorKind::Auth);
}

/// Fails when a lost answer is taken for a lost grant: Google's refresh tokens may be sent again.
#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_is_sent_again() {
    let app = App::new();
    let begun = app.begin(None, None).await;
    let id = app.visit(&begun, |_| {}, "allow").await.unwrap().connection.id;
    tokio::time::advance(Duration::from_secs(3_601)).await;
    app.house.emulator.faults().next("POST /token", [Fault::ResetAfter]);
    // The failure is told, and the next one who asks a little later is served.
    let mut served = None;
    for _ in 0..20 {
        served = app.tokens.credential(id.clone()).await.ok();
        if served.is_some() {
            break;
        }
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    assert_eq!(served.expect("a token after all").version(), 2);
    assert_eq!(app.house.emulator.oauth().ledger().refreshes_accepted, 2);
}

/// Fails when a grant that was withdrawn at Google is asked for again and again.
#[tokio::test(start_paused = true)]
async fn a_grant_withdrawn_at_google_is_over() {
    let app = App::new();
    let begun = app.begin(None, None).await;
    let id = app.visit(&begun, |_| {}, "allow").await.unwrap().connection.id;
    let token = app.tokens.credential(id.clone()).await.unwrap();
    let mut request = Request::get("https://x.example/").body(Bytes::new()).unwrap();
    token.apply(&mut request).unwrap();
    let access = request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let revoke = Request::post(format!("https://oauth2.googleapis.com/revoke?token={access}"));
    let answer = app.house.emulator.handle(revoke.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    tokio::time::advance(Duration::from_secs(3_601)).await;
    assert_eq!(app.tokens.credential(id.clone()).await.unwrap_err().kind(), ErrorKind::Auth);
    let asked = app.house.seen.lock().unwrap().len();
    assert_eq!(app.tokens.credential(id).await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(app.house.seen.lock().unwrap().len(), asked, "Google is not asked again");
}

/// Fails when the page is passed by without being asked for what lasts.
#[tokio::test(start_paused = true)]
async fn who_decides_nothing_is_not_connected() {
    let app = App::new();
    app.house.emulator.oauth().set_dials(Dials { withhold: vec![GMAIL_SEND.to_owned()], ..Dials::default() });
    let begun = app.begin(None, None).await;
    let connected = app.visit(&begun, |_| {}, "allow").await.unwrap();
    assert_eq!(connected.missing, [GMAIL_SEND], "an administrator's policy may hold a scope back");
    let id = connected.connection.id;
    let begun = app.begin(Some(&id), Some(&[CALENDAR_EVENTS])).await;
    let connected = app.visit(&begun, |_| {}, "allow").await.unwrap();
    assert_eq!(connected.missing, [GMAIL_SEND], "what was asked for before still counts as asked");
    app.house.emulator.oauth().set_dials(Dials { consent: Consent::Deny, ..Dials::default() });
    let begun = app.begin(None, None).await;
    let back = Request::get(begun.redirect_url.expose()).body(Bytes::new()).unwrap();
    let back = app.house.emulator.handle(back).await.unwrap();
    let query = back.headers()["location"].to_str().unwrap().strip_prefix(BACK).unwrap().to_owned();
    let cookie = begun.set_cookie.expose().split(';').next().unwrap();
    let refused = app.connector.finish("google", &query, Some(cookie)).await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::Denied);
}

/// Fails when an account acts for nobody where it was told for whom, or signs where it must trade.
#[tokio::test(start_paused = true)]
async fn a_service_account_acts_for_a_user_or_for_itself() {
    let app = App::new();
    let own = "palisade@emulated-project.iam.gserviceaccount.com";
    for (flow, subject, scope, traded, who) in [
        ("google/account", None, CALENDAR_READONLY, true, own),
        ("google/account", Some("ada@example.com"), GMAIL_SEND, true, ""),
        ("google/signing", None, CALENDAR_READONLY, false, own),
        ("google/signing", Some("ada@example.com"), GMAIL_SEND, true, ""),
    ] {
        let before = app.house.seen.lock().unwrap().len();
        let connected = app.connector.connect_directly(app.direct(flow, subject, scope)).await.unwrap();
        let trades = app.house.seen.lock().unwrap().len() - before;
        assert_eq!(trades, usize::from(traded), "{flow} for {subject:?}");
        let told = app.who(&connected.connection.id).await;
        assert_eq!(told["email"].as_str().unwrap_or_default(), who, "{flow} for {subject:?}");
        let sub = Person::new("ada@example.com", "Ada").sub;
        assert_eq!(told["sub"] == sub.as_str(), subject.is_some(), "{flow} for {subject:?}");
        // The next token is had the same way, without anybody.
        tokio::time::advance(Duration::from_secs(3_700)).await;
        app.who(&connected.connection.id).await;
    }
    let assertion = |form: &[(String, String)]| value(form, "assertion").unwrap().split('.').nth(1).unwrap().to_owned();
    use base64::Engine;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(assertion(&app.asked())).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(
        (claims["aud"].as_str(), claims["sub"].as_str()),
        (Some("https://oauth2.googleapis.com/token"), Some("ada@example.com"))
    );
    assert_eq!((claims["iss"].as_str(), claims["scope"].as_str()), (Some(own), Some(GMAIL_SEND)));
}

/// Fails when a refusal of the whole account is taken for a passing failure, or the other way round.
#[tokio::test(start_paused = true)]
async fn what_a_service_account_may_not_is_said() {
    let app = App::new();
    for (subject, scope, code) in [
        ("eve@example.com", GMAIL_SEND, "invalid_grant"),
        ("ada@example.com", CALENDAR_EVENTS, "unauthorized_client"),
        ("ada@example.com", "not a scope", "invalid_scope"),
    ] {
        let error =
            app.connector.connect_directly(app.direct("google/account", Some(subject), scope)).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{subject} {scope}: {error}");
        assert!(!error.is_retryable(), "{code}");
        let told = format!("{error} {error:?} {}", error.user_message());
        assert!(!told.contains("PRIVATE KEY") && !told.contains("private_key"), "{told}");
    }
    let flow = service_account(service_accounts(), &app.house);
    for key in ["", "{}", r#"{"type":"authorized_user","client_email":"a","private_key":"b"}"#] {
        let failure = flow.renew(renewal(Renewal::ServiceAccount { key: key.into(), subject: None }, GMAIL_SEND)).await;
        assert!(matches!(failure, Err(RenewalFailure::Wrong(error)) if error.kind() == ErrorKind::Config), "{key}");
    }
    let key = Secret::new(app.house.emulator.service_account_key().to_string());
    app.house.emulator.faults().next("POST /token", [Fault::Status(503)]);
    let asked = renewal(Renewal::ServiceAccount { key, subject: None }, GMAIL_SEND);
    assert!(matches!(flow.renew(asked.clone()).await, Err(RenewalFailure::Passing { .. })));
    let tokens: Tokens = flow.renew(asked).await.unwrap();
    assert!(matches!(tokens.renewal, Renewal::ServiceAccount { .. }), "the key stays");
    assert_eq!((app.clock.now() >= BEGIN, json!(tokens.granted)), (true, json!([GMAIL_SEND])));
}

fn value<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

//! Connecting an account in a browser: links, callbacks, refusals with a page, reconnecting and disconnecting.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{Method, Request};
use palisade_core::auth::connect::ReturnTargets;
use palisade_core::auth::oauth2::{ClientAuth, OAuth2Config};
use palisade_core::clock::{Clock, ManualClock, SystemClock};
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections, GrantState, Grants};
use palisade_core::transport::HttpTransport;
use palisade_core::{ConnectionId, Transport};
use palisade_emulator::oauth::{Client, Consent, Dials};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use palisade_hub::{Access, Hub};
use palisade_stripe::StripeProvider;

use super::fixtures::{Answer, TOKEN, ask, master_key, settings};

const SECRET: &str = "sk_test_canaryOfThePlatform0000";
const BACK: &str = "http://127.0.0.1:9/auth/stripe/callback";
const APP: &str = "https://app.example/integrations";

/// A hub with a flow to an emulated provider, and a browser in front of both.
struct Stage {
    stripe: Stripe,
    router: Router,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    network: HttpTransport,
}

impl Stage {
    async fn new(access: Access) -> Self {
        let platform = Client {
            id: "ca_app".to_owned(),
            secret: Some(SECRET.to_owned()),
            name: "Tea".to_owned(),
            redirect_uris: vec![BACK.to_owned()],
            scopes: None,
        };
        let config = StripeConfig { seed: 3, platform, api_key: SECRET.to_owned(), ..StripeConfig::default() };
        let stripe = Stripe::start(config).await.unwrap();
        let base = stripe.base_url().to_owned();
        let mut flow = OAuth2Config::new(
            "stripe",
            &format!("{base}/oauth/authorize"),
            &format!("{base}/oauth/token"),
            BACK,
            "ca_app",
        )
        .secret(SECRET.into())
        .scopes(&["read_write"]);
        flow.client_auth = ClientAuth::Body;
        flow.base_url = Some(base);
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
        let hub = Hub::builder()
            .provider(StripeProvider::new())
            .store(store.clone())
            .clock(clock.clone())
            .transport(Arc::new(HttpTransport::builder().build().unwrap()))
            .master_key(master_key())
            .flow(flow)
            .return_targets(ReturnTargets::none().allow(APP).unwrap())
            .settings(settings(access))
            .build()
            .unwrap();
        let network = HttpTransport::builder().build().unwrap();
        Self { router: hub.router(), stripe, store, clock, network }
    }

    fn consents(&self, consent: Consent) {
        self.stripe.oauth().set_dials(Dials { consent, ..Dials::default() });
    }

    async fn send(&self, method: Method, path: &str, cookie: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header(COOKIE, cookie);
        let answer = ask(&self.router, request.body(Body::from(body.to_owned())).unwrap()).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "a secret is shown");
        answer
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.send(Method::GET, path, cookie, "").await
    }

    /// Makes a link and returns its path.
    async fn link(&self, more: &str) -> String {
        let body = format!(r#"{{"tenant":"acme","provider":"stripe"{more}}}"#);
        let made = self.send(Method::POST, "/api/v1/connect-sessions", "", &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
        made["url"].as_str().unwrap().strip_prefix("http://localhost").unwrap().to_owned()
    }

    /// Is sent from the hub to the provider and back: returns the callback's path and the browser's cookie.
    async fn to_provider_and_back(&self, departed: &Answer) -> (String, String) {
        assert_eq!(departed.status, 303, "{departed:?}");
        let cookie = departed.headers[SET_COOKIE].to_str().unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let request = Request::get(departed.headers[LOCATION].to_str().unwrap()).body(Bytes::new()).unwrap();
        let answered = self.network.send(request).await.unwrap();
        let back = answered.headers()[LOCATION].to_str().unwrap();
        (back.strip_prefix("http://127.0.0.1:9").unwrap().to_owned(), cookie)
    }

    async fn connected(&self) -> ConnectionId {
        let begun = self.get(&self.link("").await, "").await;
        let (back, cookie) = self.to_provider_and_back(&begun).await;
        let page = self.get(&back, &cookie).await;
        shows(&page, 200, &["Stripe is connected", "close this page"]);
        let all = self.store.connections(None, 10).await.unwrap();
        all.last().unwrap().id.clone()
    }
}

#[track_caller]
fn shows(answer: &Answer, status: u16, words: &[&str]) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

// Fails when a link works twice, when the browser is not sent on, or when what was connected is not synced.
#[tokio::test]
async fn a_link_connects_one_account_once_and_brings_the_browser_back() {
    let stage = Stage::new(Access::Trusted).await;
    stage.consents(Consent::Allow);
    let link = stage.link(&format!(r#","return_to":"{APP}""#)).await;
    let begun = stage.get(&link, "").await;
    shows(&stage.get(&link, "").await, 410, &["link"]);

    let (back, cookie) = stage.to_provider_and_back(&begun).await;
    let arrived = stage.get(&back, &cookie).await;
    assert_eq!(arrived.status, 303, "{arrived:?}");
    let to = arrived.headers[LOCATION].to_str().unwrap();
    assert!(to.starts_with(&format!("{APP}?connection=con")), "{to}");
    assert!(arrived.headers[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"), "the flow's cookie is removed");

    let connections = stage.store.connections(None, 10).await.unwrap();
    let [connection] = connections.as_slice() else { panic!("{connections:?}") };
    assert_eq!((connection.tenant.as_str(), connection.provider.as_str()), ("acme", "stripe"));
    assert_eq!(connection.state, ConnectionState::Active);
    let jobs = stage.get("/api/v1/jobs", "").await;
    let jobs: serde_json::Value = serde_json::from_slice(&jobs.body).unwrap();
    assert!(jobs["jobs"]["waiting"].as_u64().unwrap() > 0, "its first runs wait: {jobs}");
}

// Fails when a callback is taken twice, from another browser, or too late; each is a page, and nothing is connected.
#[tokio::test]
async fn what_is_no_answer_to_this_browser_is_refused_with_a_page() {
    let stage = Stage::new(Access::Trusted).await;
    stage.consents(Consent::Allow);
    let flow = async || {
        let begun = stage.get(&stage.link(&format!(r#","return_to":"{APP}""#)).await, "").await;
        stage.to_provider_and_back(&begun).await
    };

    let (back, _) = flow().await;
    let (_, other) = flow().await;
    for cookie in ["", other.as_str()] {
        let (fresh, _) = if cookie.is_empty() { (back.clone(), String::new()) } else { flow().await };
        shows(&stage.get(&fresh, cookie).await, 403, &["another browser", APP]);
    }
    let (back, cookie) = flow().await;
    stage.clock.advance(std::time::Duration::from_secs(601));
    shows(&stage.get(&back, &cookie).await, 410, &["ten minutes"]);
    for forged in
        ["/auth/stripe/callback?code=ac_1&state=forged", "/auth/stripe/callback", "/auth/nobody/callback?state=x"]
    {
        shows(&stage.get(forged, &cookie).await, 400, &["Nothing was connected"]);
    }
    stage.consents(Consent::Deny);
    let (back, cookie) = flow().await;
    shows(&stage.get(&back, &cookie).await, 200, &["You chose not to", APP, "Connect again"]);
    assert!(stage.store.connections(None, 10).await.unwrap().is_empty(), "nothing was connected");

    stage.consents(Consent::Allow);
    let (back, cookie) = flow().await;
    assert_eq!(stage.get(&back, &cookie).await.status, 303);
    shows(&stage.get(&back, &cookie).await, 400, &["opened twice"]);
}

// Fails when flows share a verifier, so that a code of another session fits; when what a provider says of itself or of our
// settings is told as something else, or to a browser that did not begin the flow; or when either connects something.
#[tokio::test]
async fn what_a_provider_answers_instead_of_a_code_of_this_session_is_refused_with_a_page() {
    let stage = Stage::new(Access::Trusted).await;
    stage.consents(Consent::Allow);
    let flow = async || {
        let begun = stage.get(&stage.link(&format!(r#","return_to":"{APP}""#)).await, "").await;
        stage.to_provider_and_back(&begun).await
    };
    let parameter = |back: &str, name: &str| {
        let (_, query) = back.split_once('?').unwrap();
        let found = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        found.unwrap().to_owned()
    };
    let (victims, _) = flow().await;
    let (own, cookie) = flow().await;
    let injected = own.replace(&parameter(&own, "code"), &parameter(&victims, "code"));
    assert_ne!(injected, own);
    shows(&stage.get(&injected, &cookie).await, 400, &["did not accept its own answer", APP]);
    for (error, status, words) in [
        ("access_denied", 200, "You chose not to"),
        ("temporarily_unavailable", 502, "not working properly right now"),
        ("server_error", 502, "not working properly right now"),
        ("unauthorized_client", 500, "on our side"),
    ] {
        for ours in [false, true] {
            let (back, cookie) = flow().await;
            let answer = format!("/auth/stripe/callback?error={error}&state={}", parameter(&back, "state"));
            if ours {
                shows(&stage.get(&answer, &cookie).await, status, &[words, APP]);
            } else {
                shows(&stage.get(&answer, "").await, 403, &["another browser"]);
            }
        }
    }
    assert!(stage.store.connections(None, 10).await.unwrap().is_empty(), "nothing was connected");
}

// Fails when reconnecting makes another connection, or when a disconnected one keeps a secret.
#[tokio::test]
async fn an_account_is_reconnected_in_place_and_disconnected_for_good() {
    let stage = Stage::new(Access::Trusted).await;
    stage.consents(Consent::Allow);
    let id = stage.connected().await;
    let begun = stage.send(Method::POST, &format!("/connections/{id}/reconnect"), "", "").await;
    let (back, cookie) = stage.to_provider_and_back(&begun).await;
    shows(&stage.get(&back, &cookie).await, 200, &["is connected"]);
    assert_eq!(stage.store.connections(None, 10).await.unwrap().len(), 1, "the same connection");

    let ended = stage.send(Method::DELETE, &format!("/connections/{id}"), "", "").await;
    shows(&ended, 200, &["disconnected", "\"grant\":\"main\""]);
    let stored = stage.store.connection(id.clone()).await.unwrap().unwrap();
    assert_eq!(stored.state, ConnectionState::Disconnected);
    let grants = stage.store.grants(id.clone()).await.unwrap();
    assert!(!grants.is_empty() && grants.iter().all(|grant| matches!(grant.state, GrantState::Erased { .. })));
    for (method, path) in [(Method::DELETE, "/connections/none"), (Method::POST, "/connections/none/reconnect")] {
        shows(&stage.send(method, path, "", "").await, 404, &["no such connection"]);
    }
}

// Fails when somebody without the admin token can begin a flow of a tenant of their choice, or be sent anywhere.
#[tokio::test]
async fn only_a_link_or_the_admin_begins_a_flow_and_only_to_targets_of_the_list() {
    let closed = Stage::new(Access::Token(TOKEN.into())).await;
    for path in ["/connect/stripe", "/connect/stripe?tenant=acme"] {
        shows(&closed.get(path, "").await, 401, &["admin token"]);
    }
    let bodies: [(Method, &str); 3] = [
        (Method::POST, "/api/v1/connect-sessions"),
        (Method::POST, "/connections/x/reconnect"),
        (Method::DELETE, "/connections/x"),
    ];
    for (method, path) in bodies {
        assert_eq!(closed.send(method, path, "", "{}").await.status, 401, "{path}");
    }
    shows(&closed.get("/connect/stripe?session=guessed", "").await, 410, &["link"]);

    let open = Stage::new(Access::Trusted).await;
    shows(&open.get("/connect/stripe", "").await, 400, &["names no tenant"]);
    shows(&open.get("/connect/nobody?tenant=acme", "").await, 404, &["no flow nobody"]);
    assert_eq!(open.get("/connect/stripe?tenant=acme", "").await.status, 303);
    shows(
        &open.get("/connect/stripe?tenant=acme&return_to=https%3A%2F%2Fevil.example%2F", "").await,
        400,
        &["allow-list"],
    );
    for body in [
        r#"{"tenant":"acme","provider":"stripe","return_to":"https://evil.example/"}"#,
        r#"{"tenant":"acme"}"#,
        r#"{"tenant":"acme","provider":"stripe","surprise":1}"#,
        "[",
    ] {
        let answer = open.send(Method::POST, "/api/v1/connect-sessions", "", body).await;
        assert_eq!(answer.status, 400, "{body}");
    }
}

// Fails when a form of the operations page may not end at the provider: browsers hold redirects of forms to the policy.
#[tokio::test]
async fn the_content_policy_lets_a_form_end_at_the_flows_provider() {
    let stage = Stage::new(Access::Trusted).await;
    let page = stage.get("/", "").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.ends_with(&format!("form-action 'self' {}", stage.stripe.base_url())), "{policy}");
}

//! The flow against a certified OpenID provider: `certified <its script> <runtime>`, which is started here as
//! `<runtime> <script> <redirect URI>`. A browser with cookies goes through the hub's real routes and the provider's own
//! login and consent pages. One line that begins with `ok ` for each thing that held; see `cargo xtask test`.
//!
//! Fails when PKCE, the redirect address or the client's authentication are not as the RFCs want them, when a rotated
//! refresh token is not taken over, when a spent one is ever sent, or when a revocation does not end the grant.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "it is a test, and a test may panic")]

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_core::auth::oauth2::{OAuth2Config, RevocationWay};
use palisade_core::call::{Bucket, Call, Operation, Replay};
use palisade_core::client::{Profile, StatusClassifier};
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections};
use palisade_core::transport::HttpTransport;
use palisade_core::{ConnectionId, ErrorKind, Manifest, Provider, Transport};
use palisade_tests::browser::Browser;
use palisade_tests::ear;
use palisade_tests::entry::{self, ADMIN_TOKEN, Entry};
use palisade_tests::recorder::Recorder;
use palisade_tests::refusals;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const FLOW: &str = "acme";
/// How long the provider's access tokens live.
const LIFE: Duration = Duration::from_secs(3_600);

static MANIFEST: Manifest =
    Manifest { name: FLOW, title: "Acme", base_url: "https://acme.invalid", hosts: &[], api_version: None };
static BUCKET: Bucket = Bucket { name: "all", units: 1_000, per: Duration::from_secs(1), burst: 1_000 };
static ME: Operation = Operation {
    provider: FLOW,
    name: "me",
    url_template: "/me",
    replay: Replay::Safe,
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(60),
    body_bytes_max: 64 << 10,
};

/// A provider nobody has written an adapter for.
#[derive(Debug)]
struct Acme(String);

impl Provider for Acme {
    fn manifest(&self) -> &'static Manifest {
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        Profile::new(FLOW, &[], Arc::new(StatusClassifier)).allowing(&self.0)
    }
}

struct Story {
    entry: Entry,
    issuer: String,
    sent: Recorder<HttpTransport>,
    store: Arc<MemoryStore>,
    browser: Browser,
    _provider: Child,
}

fn ok(what: &str) {
    writeln!(std::io::stdout(), "ok {what}").expect("somebody listens");
}

impl Story {
    /// Starts the provider, which must know where browsers come back to, and a hub, which must know the provider.
    async fn begin(script: &str, runtime: &str) -> Self {
        let (listener, base) = entry::port().await;
        let redirect = entry::back(&base, FLOW);
        let (provider, said) = start(runtime, script, &redirect).await;
        let text = |name: &str| said[name].as_str().expect("a text").to_owned();
        let issuer = text("issuer");
        let at = |path: &str| format!("{issuer}{path}");
        let mut flow = OAuth2Config::new(FLOW, &at("/auth"), &at("/token"), &redirect, &text("client_id"))
            .secret(text("client_secret").into())
            .scopes(&["openid", "offline_access"]);
        flow.authorize_params = vec![("prompt".to_owned(), "consent".to_owned())];
        flow.issuer = Some(issuer.clone());
        flow.base_url = Some(issuer.clone());
        flow.revocation = RevocationWay::Token(at("/token/revocation"));
        let store = Arc::new(MemoryStore::new());
        let sent = Recorder::over(HttpTransport::builder().build().expect("a transport"));
        let entry = Entry::at(listener, store.clone(), ADMIN_TOKEN, |hub| {
            hub.provider(Acme(issuer.clone())).transport(Arc::new(sent.clone())).flow(flow)
        });
        Self { entry, issuer, sent, store, browser: Browser::new(), _provider: provider }
    }

    /// Calls the provider's API over the hub's pipeline.
    async fn me(&self, connection: &ConnectionId) -> palisade_core::Result<Value> {
        let mut request = Request::get(format!("{}/me", self.issuer)).body(Bytes::new()).expect("a request");
        request.extensions_mut().insert(Call::new(&ME, connection.clone(), "acme".into()));
        let answer = self.entry.hub.client(FLOW).expect("a client").send(request).await?;
        Ok(serde_json::from_slice(answer.body()).expect("JSON"))
    }

    /// What the provider has counted.
    async fn counts(&self) -> Value {
        let text = reqwest::get(format!("{}/counts", self.issuer)).await.expect("an answer").text().await;
        serde_json::from_str(&text.expect("a body")).expect("JSON")
    }

    async fn connect(&mut self) -> ConnectionId {
        let link = self.entry.link(FLOW).await;
        self.browser.connect(&link, &self.entry.back(FLOW)).await.shows(200, &["Acme is connected"]);
        self.newest().await
    }

    async fn newest(&self) -> ConnectionId {
        let all = self.store.connections(None, 100).await.expect("a list");
        all.into_iter().max_by_key(|connection| connection.created_at).expect("a connection").id
    }

    async fn code_with_pkce(&mut self) -> ConnectionId {
        let id = self.connect().await;
        let trade = self.sent.sent("/token").pop().expect("a trade");
        assert_eq!(trade.form["grant_type"], "authorization_code");
        assert!(trade.form["code_verifier"].len() >= 43 && trade.authorization.starts_with("Basic "));
        assert!(!trade.form.contains_key("client_secret"), "the secret is sent twice");
        assert_eq!(self.me(&id).await.expect("a person")["sub"], "ada");
        ok("a code with PKCE, its issuer checked, gives a token that the provider's API takes");
        id
    }

    async fn rotation(&self, id: &ConnectionId) {
        for round in 1..=3 {
            self.entry.clock.advance(LIFE);
            assert_eq!(self.me(id).await.expect("a person")["sub"], "ada");
            let counts = self.counts().await;
            assert_eq!((&counts["refreshed"], &counts["spent"]), (&json!(round), &json!(round)), "{counts}");
            assert_eq!(counts["refused"], json!({}), "{counts}");
        }
        let sent: Vec<String> = self.refresh_tokens();
        let mut different = sent.clone();
        different.dedup();
        assert_eq!(different.len(), 3, "a refresh token was sent twice");
        ok("each renewal spends its refresh token and takes its successor over");
    }

    fn refresh_tokens(&self) -> Vec<String> {
        self.sent.sent("/token").into_iter().filter_map(|sent| sent.form.get("refresh_token").cloned()).collect()
    }

    /// Somebody else uses a spent token: the provider ends the whole grant, and we say that it is over.
    async fn stolen(&mut self, id: &ConnectionId) {
        let spent = self.refresh_tokens().remove(0);
        let trade = self.sent.sent("/token").pop().expect("a trade");
        let answer = reqwest::Client::new()
            .post(format!("{}/token", self.issuer))
            .header("authorization", trade.authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("grant_type=refresh_token&refresh_token={spent}"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 400);
        assert_eq!(self.counts().await["revoked_grants"], 1, "the provider punishes a replay");
        self.entry.clock.advance(LIFE);
        let error = self.me(id).await.expect_err("the grant is gone");
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        let row = self.store.connection(id.clone()).await.expect("a row").expect("a connection");
        assert!(matches!(row.state, ConnectionState::NeedsReconnect { .. }), "{row:?}");
        ok("a grant that the provider has ended is said to need a reconnect");
    }

    async fn reconnect(&mut self, id: &ConnectionId) {
        let asked = format!("{}/connections/{id}/reconnect", self.entry.base);
        let page = self.browser.post_as(&asked, ADMIN_TOKEN).await;
        assert_eq!(page.status, 303, "{}", page.text);
        let callback = self.browser.walk(page, &self.entry.back(FLOW), "allow").await;
        self.browser.get(&callback).await.shows(200, &["Acme is connected"]);
        assert_eq!(self.me(id).await.expect("a person")["sub"], "ada");
        ok("a reconnect keeps the connection and makes it work again");
    }

    async fn revocation(&self, id: &ConnectionId) {
        let bearer = self.sent.sent("/me").pop().expect("a call").authorization;
        let (status, ended) = self.entry.api(Method::DELETE, &format!("/connections/{id}"), None).await;
        assert_eq!((status, &ended["grants"][0]["revoked"]), (200, &json!("confirmed")), "{ended}");
        assert_eq!(self.counts().await["revoked_grants"], 2);
        let again = reqwest::Client::new().get(format!("{}/me", self.issuer)).header("authorization", bearer);
        assert_eq!(again.send().await.expect("an answer").status(), 401, "the token lives on");
        assert_eq!(self.me(id).await.expect_err("it is over").kind(), ErrorKind::Auth);
        ok("a disconnect revokes the grant at the provider");
    }
}

impl Story {
    async fn denied(&self) {
        let mut browser = self.browser.another();
        let page = browser.get(&self.entry.link(FLOW).await).await;
        let page = browser.follow(page).await;
        let (before, _) = page.text.split_once("/abort\"").expect("a way to say no");
        let (_, path) = before.rsplit_once('"').expect("an address");
        let aborted = browser.get(page.url.join(&format!("{path}/abort")).expect("an address").as_str()).await;
        let callback = browser.walk(aborted, &self.entry.back(FLOW), "").await;
        browser.get(&callback).await.shows(200, &["You chose not to allow access"]);
        ok("a person who says no is told that nothing was connected");
    }
}

/// Starts the provider and reads what it says of itself.
async fn start(runtime: &str, script: &str, redirect: &str) -> (Child, Value) {
    let mut child = Command::new(runtime)
        .args([script, redirect])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the provider starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
    let line = lines.next_line().await.expect("a line").expect("the provider ended before it listened");
    (child, serde_json::from_str(&line).expect("the first line is JSON"))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [script, runtime] = arguments.as_slice() else { panic!("usage: certified <script> <runtime>") };
    let ear = ear::listen().await;
    let mut story = Story::begin(script, runtime).await;
    let id = story.code_with_pkce().await;
    story.rotation(&id).await;
    story.stolen(&id).await;
    story.reconnect(&id).await;
    story.revocation(&id).await;
    let refused = refusals::all(&story.entry, FLOW, &ear).await;
    ok(&format!("{refused} callbacks that are no answer to this browser are refused with a page and a reason"));
    story.denied().await;
    story.entry.close().await;
}

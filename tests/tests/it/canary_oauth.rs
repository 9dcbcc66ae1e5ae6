//! Promise 7 for OAuth: a whole life of a connection runs with secrets that cannot be mistaken — the app's own, the
//! link's, `state`, code and verifier, cookies, the tokens of both of Slack's grants, admin token, master and data key —
//! everybody logs everything, and every word and byte that comes out is searched.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::auth::connect::{Callback, ConnectAsk, Connector, SessionAsk};
use palisade_core::auth::flow::{RenewalAsk, RevocationAsk};
use palisade_core::auth::grant::{GrantSecrets, Renewal, Tokens};
use palisade_core::auth::oauth2::{OAuth2Config, OAuth2Flow};
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, MasterKey, PlainKey, Vault};
use palisade_core::auth::{Credential, CredentialSource, Scheme};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections, Grants, Keys};
use palisade_core::transport::HttpTransport;
use palisade_core::{Clock, Result};
use palisade_emulator::oauth::Client;
use palisade_emulator::slack::{Limits, Slack, SlackConfig};
use palisade_emulator::{Fault, RouteFaults};
use palisade_hub::{Access, Settings};
use palisade_slack::SlackProvider;
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_tests::browser::{Browser, Seen};
use palisade_tests::ear;
use palisade_tests::entry::{self, Entry};
use palisade_tests::recorder::Recorder;
use palisade_tests::silence::{Said, Secrets};
use palisade_tests::stage::{Running, quick};
use palisade_tests::victims::{WITHIN, within};
use reqwest::{Method, Url};
use serde_json::json;

const APP: &str = "2222222222.3333333333";
const APP_SECRET: &str = "CANARYclient-secret-5rTgBnHyUjMkIoLp";
const ADMIN: &str = "CANARYadmin-token-of-oauth-8uJmKoLpQaWs";
const MASTER_KEY: [u8; 32] = *b"CANARYmasteroauth\x01\x02\x03\xf0\xe1\xd2\xc3\xb4\xa5\x96\x87\x78\x69\x5a\x4b";
const TOKEN_ROUTE: &str = "POST /api/oauth.v2.access";
const FLOW: &str = "slack";
/// So long nobody uses a grant that the hub renews it by itself.
const UNUSED: Duration = Duration::from_secs(11 * 86_400);

/// A holder of the master key that remembers the data keys that passed it.
#[derive(Debug)]
struct Spy {
    inner: LocalMasterKey,
    seen: SeenKeys,
}

#[derive(Clone, Default)]
struct SeenKeys(Arc<Mutex<Vec<[u8; 32]>>>);

impl std::fmt::Debug for SeenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SeenKeys")
    }
}

impl SeenKeys {
    fn note(&self, key: &PlainKey) {
        let key: [u8; 32] = key.as_slice().try_into().unwrap();
        let mut seen = self.0.lock().unwrap();
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
}

#[async_trait]
impl MasterKey for Spy {
    fn id(&self) -> String {
        self.inner.id()
    }

    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        self.seen.note(key);
        self.inner.wrap(master, key, aad).await
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        let key = self.inner.unwrap(master, wrapped, aad).await?;
        self.seen.note(&key);
        Ok(key)
    }
}

fn flow(base: &str, redirect: &str) -> OAuth2Config {
    let flow = palisade_slack::auth::oauth2(redirect, APP, APP_SECRET.into(), &["channels:read"], &["users:read"]);
    palisade_slack::auth::at(palisade_slack::auth::with_pkce(flow), base)
}

fn parameter(url: &str, name: &str) -> String {
    let url: Url = url.parse().unwrap();
    let found = url.query_pairs().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no {name} in {}", url.path())).1.into_owned()
}

/// Everything that came out, and everything that must not be in it.
struct Run {
    slack: Slack,
    entry: Entry,
    store: SqliteStore,
    sent: Recorder<HttpTransport>,
    keys: SeenKeys,
    secrets: Secrets,
    said: Said,
    pages: String,
    folder: tempfile::TempDir,
    files: Vec<(String, Vec<u8>)>,
}

impl Run {
    async fn begin() -> Self {
        let (listener, base) = entry::port().await;
        let redirect = entry::back(&base, FLOW);
        let client = Client {
            id: APP.to_owned(),
            secret: Some(APP_SECRET.to_owned()),
            redirect_uris: vec![redirect.clone(), BACK.to_owned()],
            ..Client::default()
        };
        let config = SlackConfig { seed: 99, clients: vec![client], limits: Limits::none(), ..SlackConfig::default() };
        let slack = Slack::start(config).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteConfig::at(folder.path().join("palisade.db"))).unwrap();
        let sent = Recorder::over(HttpTransport::builder().build().unwrap());
        let keys = SeenKeys::default();
        let inner = LocalMasterKey::new(&MASTER_KEY.into(), Arc::new(SystemRandom)).unwrap();
        let spy = Arc::new(Spy { inner, seen: keys.clone() });
        let mut said = Said::default();
        let flow = flow(&slack.base_url(), &redirect);
        said.value(&flow);
        let entry = Entry::at(listener, Arc::new(store.clone()), ADMIN, |hub| {
            let settings = Settings { access: Access::Token(ADMIN.into()), metrics_open: false, ..quick(50) };
            let provider = SlackProvider::new().allowing(slack.base_url());
            let hub = hub.provider(provider).transport(Arc::new(sent.clone())).flow(flow);
            let hub = hub.master_key(spy).settings(settings);
            said.value(&hub);
            hub
        });
        let mut secrets = Secrets::default();
        secrets.add("the app's secret", APP_SECRET);
        secrets.add("the admin token", ADMIN);
        secrets.add("the master key", MASTER_KEY);
        let (pages, files) = (String::new(), Vec::new());
        Self { slack, entry, store, sent, keys, secrets, said, pages, folder, files }
    }

    fn keep(&mut self, page: &Seen) {
        self.pages.push_str(&format!("{} {:?}\n{}\n", page.status, page.headers, page.text));
    }

    /// Goes from a new link to the page at the end, pressing `decision`, and notes every secret on the way.
    async fn connect(&mut self, browser: &mut Browser, decision: &str) -> Seen {
        let link = self.entry.link(FLOW).await;
        self.secrets.add("a link's token", parameter(&link, "session"));
        let departure = browser.get(&link).await;
        self.secrets.add("a state", parameter(&departure.location().unwrap(), "state"));
        let used = browser.get(&link).await;
        self.keep(&used);
        let callback = browser.walk(departure, &self.entry.back(FLOW), decision).await;
        for cookie in browser.cookies() {
            self.secrets.add("a flow's cookie", cookie);
        }
        if decision == "allow" {
            self.secrets.add("a code", parameter(&callback, "code"));
        }
        let stranger = browser.another().get(&callback.replace("state=", "state=x")).await;
        self.keep(&stranger);
        let page = browser.get(&callback).await;
        self.keep(&page);
        let again = browser.get(&callback).await;
        self.keep(&again);
        page
    }

    /// Reads the database as it lies on the disk.
    fn read_files(&mut self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            self.files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }

    async fn read_pages(&mut self) {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let lists = ["health", "connections", "events", "runs", "jobs", "calls"].map(|list| format!("/api/v1/{list}"));
        let own = ["/", "/login", "/metrics", "/healthz", "/readyz", "/nothing"].map(str::to_owned);
        for path in own.into_iter().chain(lists) {
            for token in [Some(ADMIN), None] {
                let request = client.get(format!("{}{path}", self.entry.base));
                let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
                let answer = request.send().await.unwrap();
                self.pages.push_str(&format!("{path} {} {:?}\n", answer.status(), answer.headers()));
                self.pages.push_str(&answer.text().await.unwrap());
            }
        }
        let mut browser = Browser::new();
        let entered = browser.post(&format!("{}/login", self.entry.base), format!("token={ADMIN}")).await;
        assert_eq!(entered.status, 303, "{}", entered.text);
        for cookie in browser.cookies() {
            self.secrets.add("the admin's cookie", cookie);
        }
        let page = browser.get(&format!("{}/", self.entry.base)).await;
        page.shows(200, &["Connections", "slack"]);
        self.keep(&page);
    }

    /// Notes what only the wire and the provider know.
    fn note_the_rest(&mut self) {
        for sent in self.sent.all() {
            if let Some(verifier) = sent.form.get("code_verifier") {
                self.secrets.add("a verifier", verifier);
            }
        }
        for secret in self.slack.oauth().secrets() {
            self.secrets.add("a code or token of the provider's", secret);
        }
        for key in self.keys.0.lock().unwrap().iter() {
            self.secrets.add("a data key", key);
        }
    }
}

const BACK: &str = "http://127.0.0.1:9/auth/slack/callback";

/// The same flow once more as values: what a product that embeds core may print of it.
async fn values(run: &mut Run) {
    let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SystemRandom));
    let inner = LocalMasterKey::new(&MASTER_KEY.into(), random.clone()).unwrap();
    let spy = Arc::new(Spy { inner, seen: run.keys.clone() });
    run.said.value(&spy);
    let vault = Arc::new(Vault::new(store.clone(), spy, random.clone()));
    let flow = OAuth2Flow::new(flow(&run.slack.base_url(), BACK), Arc::new(run.sent.clone())).unwrap();
    let flow = Arc::new(flow);
    run.said.value(&flow);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tokens = TokenSource::builder(store.clone(), vault.clone(), clock.clone(), random.clone());
    let tokens = tokens.flow(FLOW, flow.clone()).build().unwrap();
    let builder = Connector::builder(store.clone(), vault.clone(), clock, random).browser_flow(flow);
    run.said.value(&builder);
    let connector = builder.token_source(tokens.clone()).build().unwrap();
    run.said.value(&connector);
    run.said.value(&tokens);
    run.said.value(&vault);
    let ask =
        SessionAsk { tenant: "acme".into(), flow: FLOW.to_owned(), connection: None, scopes: None, return_to: None };
    let link = connector.open_session(ask).await.unwrap();
    run.secrets.add("a link's token", link.token.expose());
    run.said.value(&link);
    run.said.error(&connector.begin_session(&"guessed".into()).await.unwrap_err());
    let begun = connector.begin_session(&link.token).await.unwrap();
    run.said.value(&begun);
    let departure = begun.redirect_url.expose().to_owned();
    run.secrets.add("a state", parameter(&departure, "state"));
    let cookie = begun.set_cookie.expose().split(';').next().unwrap().to_owned();
    run.secrets.add("a flow's cookie", cookie.split_once('=').unwrap().1);
    let mut browser = Browser::new();
    let page = browser.get(&departure).await;
    let back = browser.walk(page, BACK, "allow").await;
    run.secrets.add("a code", parameter(&back, "code"));
    let query = back.split_once('?').unwrap().1.to_owned();
    run.said.value(&Callback::parse(&query).unwrap());
    let connected = connector.finish(FLOW, &query, Some(&cookie)).await.unwrap();
    run.said.value(&connected);
    run.said.error(&connector.finish(FLOW, &query, Some(&cookie)).await.unwrap_err());
    let id = connected.connection.id;
    let credential: Credential = tokens.credential(id.clone()).await.unwrap();
    run.said.value(&credential);
    for grant in store.grants(id.clone()).await.unwrap() {
        run.said.value(&grant);
    }
    let mut request = http::Request::new(());
    credential.apply(&mut request).unwrap();
    run.said.value(&request.headers());
    let bearer = request.headers()["authorization"].to_str().unwrap();
    let access = bearer.trim_start_matches("Bearer ").into();
    let given = run.slack.oauth().secrets();
    let refresh = given.iter().rfind(|secret| secret.starts_with("xoxe-1-")).unwrap();
    said_of_secrets(run, GrantSecrets { access, renewal: Renewal::RefreshToken(refresh.as_str().into()) });
    run.said.value(&store.data_keys("acme".into()).await.unwrap());
    run.said.value(&ConnectAsk::new(FLOW, "acme".into()));
    run.slack.faults().next(TOKEN_ROUTE, [Fault::Refuse("invalid_refresh_token".to_owned())]);
    let version = credential.version();
    let fresh = tokens.refresh(id.clone(), version).await;
    run.said.error(&fresh.unwrap_err());
    run.said.value(&connector.disconnect(&id).await.unwrap());
    run.said.error(&tokens.credential(id).await.unwrap_err());
}

fn said_of_secrets(run: &mut Run, secrets: GrantSecrets) {
    let GrantSecrets { access, renewal } = secrets.clone();
    run.said.value(&secrets);
    run.said.value(&Scheme::Bearer(access.clone()));
    let scopes = || vec!["users:read".to_owned()];
    run.said.value(&Tokens {
        name: "bot".into(),
        access,
        renewal: renewal.clone(),
        expires_in: None,
        requested: scopes(),
        granted: scopes(),
    });
    run.said.value(&Renewal::Client(Some((APP.to_owned(), APP_SECRET.into()))));
    run.said.value(&RevocationAsk { name: "bot".into(), secrets, account: None });
    let now = SystemClock.now();
    run.said.value(&RenewalAsk { name: "bot".into(), renewal, requested: scopes(), granted: scopes(), now });
}

/// Fails when any of it is logged, formatted, shown or stored: the callback's query in a trace, a derived `Debug`, a
/// token in an error, a link's token or a state kept as it is instead of as a hash, a verifier or token that is not
/// sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_an_oauth_connection_appears_anywhere() {
    let ear = ear::listen().await;
    let mut run = Run::begin().await;
    let mut browser = Browser::new();
    run.connect(&mut browser, "deny").await.shows(200, &["You chose not to"]);
    // Every way the code's answer can go wrong has a page and a line in the log.
    for fault in [Fault::Status(500), Fault::Garbage, Fault::ResetAfter, Fault::Refuse("bad_client_secret".to_owned())]
    {
        run.slack.faults().next(TOKEN_ROUTE, [fault]);
        let page = run.connect(&mut browser, "allow").await;
        assert!(page.status >= 500, "{}", page.text);
    }
    run.connect(&mut browser, "allow").await.shows(200, &["Slack is connected"]);
    run.read_files();

    // Both grants are renewed by themselves when the hub begins to work.
    run.entry.clock.advance(UNUSED);
    let running = Running::start(&run.entry.hub);
    let id = connected(&run).await;
    let renewed = within(WITHIN, async || {
        let grants = run.store.grants(id.clone()).await.unwrap();
        grants.len() == 2 && grants.iter().all(|grant| grant.generation == 2)
    });
    assert!(renewed.await, "{:?}", run.slack.oauth().ledger());
    let client = Arc::new(run.entry.hub.client(FLOW).unwrap().clone());
    let client = palisade_slack::Slack::new(client, id.clone(), "acme").at(&run.slack.base_url()).unwrap();
    run.said.value(&client);
    run.said.value(&client.identity().await.unwrap());
    // Then a renewal fails, first in passing and then for good, because its answer cannot be read. The hub may renew the other
    // grant at the same moment, whose answers are no better.
    let for_good = std::iter::repeat_n(Fault::Garbage, 8);
    run.slack.faults().set(RouteFaults {
        route: TOKEN_ROUTE.to_owned(),
        next: std::iter::once(Fault::Status(503)).chain(for_good).collect(),
        ..RouteFaults::default()
    });
    run.entry.clock.advance(UNUSED);
    run.said.error(&client.identity().await.unwrap_err());
    let row = run.store.connection(id.clone()).await.unwrap().unwrap();
    assert!(matches!(row.state, ConnectionState::NeedsReconnect { .. }), "{row:?}");
    run.slack.faults().clear_all();
    running.stop().await;
    run.read_pages().await;
    run.read_files();

    values(&mut run).await;
    let path = format!("/connections/{id}");
    let (status, ended) = run.entry.api(Method::DELETE, &path, None).await;
    assert_eq!((status, &ended["state"]), (200, &json!("disconnected")), "{ended}");
    run.pages.push_str(&ended.to_string());
    run.pages.push_str(&run.entry.hub.metrics_text());
    run.said.value(&run.entry.hub);
    run.note_the_rest();
    let Run { slack, entry, store, secrets, said, pages, folder, mut files, .. } = run;
    entry.close().await;
    store.close().await.unwrap();
    slack.shutdown().await;
    let heard = ear.heard();

    for expected in ["a connection was refused", "a grant is over", "hyper", "disconnected"] {
        assert!(heard.contains(expected), "the ear did not hear {expected:?} in {} bytes", heard.len());
    }
    let closed = folder.path().join("palisade.db");
    files.push(("the closed database".to_owned(), std::fs::read(closed).unwrap()));
    assert!(files.iter().any(|(name, bytes)| name.ends_with("-wal") && !bytes.is_empty()), "no WAL to search");
    assert!(secrets.count() > 40, "{} secrets", secrets.count());
    println!("searched {} bytes of log and {} of pages for {} secrets", heard.len(), pages.len(), secrets.count());
    secrets.assert_silent("the log", heard.as_bytes());
    secrets.assert_silent("an error or a debug print", said.as_str().as_bytes());
    secrets.assert_silent("a page", pages.as_bytes());
    for (name, bytes) in files {
        secrets.assert_silent(&name, &bytes);
    }
}

async fn connected(run: &Run) -> palisade_core::ConnectionId {
    let list = run.entry.connections().await;
    list.last().expect("a connection")["id"].as_str().expect("an id").into()
}

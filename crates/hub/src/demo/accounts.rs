//! Accounts that are connected in a browser: the emulated providers they are at, the person who presses Allow, and the
//! calls that show their tokens at work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http::header::CONTENT_TYPE;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::call::{Bucket, Call};
use palisade_core::client::Profile;
use palisade_core::provider::Manifest;
use palisade_core::store::{Connection, ConnectionState};
use palisade_core::transport::HttpTransport;
use palisade_core::{Error, ErrorKind, Operation, Provider, Replay, Result, Transport};
use palisade_emulator::oauth::{self, Authority, Rules};
use palisade_emulator::{google, slack};
use palisade_google::GoogleProvider;
use palisade_slack::{SlackProvider, SlackSource};
use serde_json::json;
use tokio::time::sleep_until;

use super::Stage;
use super::browser::{Browser, Page};
use super::report::Account;
use crate::hub::{Hub, HubBuilder};

/// How long the first access tokens live: over when the outage is. Those they are renewed to live as long as the
/// provider's usually do.
const LIFE: Duration = Duration::from_secs(5);
/// Calls that meet an expired token at the same moment.
const AT_ONCE: usize = 8;
/// Connections looked through for one of an earlier telling.
const CONNECTIONS: u32 = 100;
/// What the app is called on the providers' pages.
const APP: &str = "Palisade's demo";
/// What Slack's workspace holds: little enough that Slack's limits let it be read in a moment.
const WORKSPACE: slack::Seed = slack::Seed { users: 20, channels: 3, private_channels: 0, messages_per_channel: 10 };

/// Google's cheapest proof that a token works (OpenID Connect Core, 5.3).
static USERINFO: Operation = Operation {
    provider: "google",
    name: "userinfo",
    url_template: "/oauth2/v3/userinfo",
    replay: Replay::Safe,
    bucket: &Bucket { name: "userinfo", units: 50, per: Duration::from_secs(1), burst: 50 },
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(10),
    overall_timeout: Duration::from_secs(30),
    body_bytes_max: 64 << 10,
};

/// The emulated providers that accounts are connected to in a browser.
#[derive(Debug)]
pub(super) struct Providers {
    slack: slack::Slack,
    google: google::Google,
}

/// Google as far as it is emulated here: accounts and tokens, no mail and no calendar to keep in step.
#[derive(Debug)]
struct GoogleAccounts(GoogleProvider);

impl Provider for GoogleAccounts {
    fn manifest(&self) -> &'static Manifest {
        self.0.manifest()
    }

    fn profile(&self) -> Profile {
        self.0.profile()
    }
}

/// One of them, seen alike.
struct At {
    /// Its names; the flow's is the same.
    manifest: &'static Manifest,
    /// Whose account it is: each belongs to another tenant, and is sealed under that tenant's data key.
    tenant: &'static str,
    base_url: String,
    authority: Authority,
}

/// Where a provider sends browsers back to.
fn callback(hub: SocketAddr, provider: &str) -> String {
    format!("http://{hub}/auth/{provider}/callback")
}

fn app(known: oauth::Client, hub: SocketAddr, provider: &str) -> oauth::Client {
    oauth::Client { name: APP.to_owned(), redirect_uris: vec![callback(hub, provider)], ..known }
}

fn cannot_listen(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, "an emulator cannot listen on loopback").with_source(error)
}

impl Providers {
    /// Starts them for a hub at an address. They forget everything when the process ends, unlike Stripe's.
    pub(super) async fn start(seed: u64, hub: SocketAddr) -> Result<Self> {
        let mut config = slack::SlackConfig { seed, ..Default::default() };
        config.workspaces = vec![slack::Workspace::new("T0BIRCH", "Birch")];
        config.clients = config.clients.into_iter().map(|known| app(known, hub, "slack")).collect();
        let slack = slack::Slack::start(config).await.map_err(cannot_listen)?;
        slack.populate(&WORKSPACE);
        let mut config = google::GoogleConfig { seed, ..Default::default() };
        config.people = vec![google::Person::new("ada@cedar.example", "Ada Lovelace")];
        config.clients = config.clients.into_iter().map(|known| app(known, hub, "google")).collect();
        let google = google::Google::start(config).await.map_err(cannot_listen)?;
        Ok(Self { slack, google })
    }

    /// Adds the providers and the ways to connect to them.
    pub(super) fn plug(&self, hub: HubBuilder, address: SocketAddr) -> Result<HubBuilder> {
        let public = SlackSource::new().of_types(&["public_channel"])?;
        Ok(hub
            .provider(SlackProvider::new().allowing(self.slack.base_url()).copying(public))
            .flow(self.slack_flow(address))
            .provider(GoogleAccounts(GoogleProvider::new().allowing(self.google.base_url())))
            .flow(self.google_flow(address)))
    }

    fn slack_flow(&self, hub: SocketAddr) -> OAuth2Config {
        let (id, secret) = self.slack.client();
        let scopes = ["channels:history", "channels:read", "users:read"];
        let flow = palisade_slack::auth::oauth2(&callback(hub, "slack"), &id, secret.into(), &scopes, &[]);
        palisade_slack::auth::at(flow, &self.slack.base_url())
    }

    fn google_flow(&self, hub: SocketAddr) -> OAuth2Config {
        let (id, secret) = self.google.client();
        let scopes = [palisade_google::auth::GMAIL_READONLY];
        let flow = palisade_google::auth::connect(&id, secret.into(), &callback(hub, "google"), &scopes);
        palisade_google::auth::at(flow, &self.google.base_url())
    }

    fn all(&self) -> [At; 2] {
        let slack = At {
            manifest: &palisade_slack::MANIFEST,
            tenant: "birch",
            base_url: self.slack.base_url(),
            authority: self.slack.oauth(),
        };
        let google = At {
            manifest: &palisade_google::MANIFEST,
            tenant: "cedar",
            base_url: self.google.base_url(),
            authority: self.google.oauth(),
        };
        [slack, google]
    }

    pub(super) async fn shutdown(&self) {
        self.slack.shutdown().await;
        self.google.shutdown().await;
    }
}

/// Connects an account at each provider, and makes a first call with each token. One that was connected in an earlier
/// telling is reconnected in place: its provider has forgotten the tokens.
pub(super) async fn connect(stage: &Stage) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    for at in stage.providers.all() {
        let known = find(stage, &at).await?;
        let usual = at.authority.rules();
        at.authority.set_rules(Rules { access_life: Some(LIFE), ..usual.clone() });
        let page = in_browser(stage, &at, known.as_ref()).await;
        at.authority.set_rules(usual);
        let expected = format!("{} is connected", at.manifest.title);
        let (status, page) = match &page {
            Ok(page) => (page.status, page.heading().to_owned()),
            Err(error) => (0, error.to_string()),
        };
        let connection = find(stage, &at).await?.filter(|found| found.state == ConnectionState::Active);
        let mut account = Account {
            provider: at.manifest.title.to_owned(),
            account: connection.as_ref().and_then(|connection| connection.account.clone()),
            connected: status == 200 && page == expected && connection.is_some(),
            reconnected: known.is_some(),
            page,
            ..Account::default()
        };
        if let Some(connection) = &connection {
            account.calls = 1;
            account.answered = u64::from(call(&stage.hub, &at, connection).await.is_ok());
        }
        accounts.push(account);
    }
    Ok(accounts)
}

/// Waits until the first tokens have expired, then makes several calls at once for each account: one renewal answers all
/// of them.
pub(super) async fn renew(stage: &Stage, accounts: &mut [Account]) -> Result<()> {
    sleep_until(stage.connected_at + LIFE).await;
    for (at, account) in stage.providers.all().iter().zip(accounts) {
        let Some(connection) = find(stage, at).await? else { continue };
        let made = join_all((0..AT_ONCE).map(|_| call(&stage.hub, at, &connection))).await;
        account.calls += made.len() as u64;
        account.answered += made.iter().filter(|made| made.is_ok()).count() as u64;
        account.trouble = made.into_iter().find_map(Result::err).map(|error| error.to_string());
        let ledger = at.authority.ledger();
        account.renewals = ledger.refreshes;
        account.replays = ledger.replays;
    }
    Ok(())
}

/// Finds the connection of a provider.
async fn find(stage: &Stage, at: &At) -> Result<Option<Connection>> {
    let all = stage.hub.store().connections(None, CONNECTIONS).await?;
    Ok(all.into_iter().find(|connection| connection.provider == at.manifest.name))
}

/// Goes the way a person goes: from the product to the hub, to the provider's page, Allow, and back to the hub.
async fn in_browser(stage: &Stage, at: &At, known: Option<&Connection>) -> Result<Page> {
    let network: Arc<dyn Transport> = Arc::new(HttpTransport::new()?);
    let mut browser = Browser::new(Arc::clone(&network));
    let hub = stage.address;
    let asked = match known {
        Some(known) => {
            // The provider listens at another port than last time.
            let moved = Connection { base_url: Some(at.base_url.clone()), ..known.clone() };
            stage.hub.store().put_connection(moved).await?;
            browser.send(&format!("http://{hub}/connections/{}/reconnect", known.id), String::new()).await?
        }
        None => browser.visit(&link(network.as_ref(), hub, at).await?).await?,
    };
    browser.press(&asked, "allow").await
}

/// Asks the hub for a link that connects one account once, as the product's server would.
async fn link(network: &dyn Transport, hub: SocketAddr, at: &At) -> Result<String> {
    let refused = |what: &'static str| Error::new(ErrorKind::Decode, what);
    let body = json!({ "tenant": at.tenant, "provider": at.manifest.name }).to_string();
    let request = Request::post(format!("http://{hub}/api/v1/connect-sessions"))
        .header(CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(|_| refused("the hub's address is none"))?;
    let answer = network.send(request).await?;
    let made: serde_json::Value = serde_json::from_slice(answer.body()).map_err(|_| refused("the hub made no link"))?;
    made.get("url")
        .and_then(serde_json::Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| refused("the hub made no link"))
}

/// Makes the cheapest call that proves a token works.
async fn call(hub: &Hub, at: &At, connection: &Connection) -> Result<()> {
    let wrong = |what: String| Error::new(ErrorKind::Config, what);
    let client = hub.client(at.manifest.name).ok_or_else(|| wrong(format!("no client of {}", at.manifest.title)))?;
    let (id, tenant) = (connection.id.clone(), connection.tenant.clone());
    if at.manifest.name == palisade_slack::MANIFEST.name {
        let slack = palisade_slack::Slack::new(Arc::new(client.clone()), id, tenant).at(&at.base_url)?;
        return slack.identity().await.map(drop);
    }
    let request = Request::get(format!("{}{}", at.base_url, USERINFO.url_template));
    let mut request = request.body(Bytes::new()).map_err(|_| wrong("the emulator's address is none".to_owned()))?;
    request.extensions_mut().insert(Call::new(&USERINFO, id, tenant));
    client.send(request).await.map(drop)
}

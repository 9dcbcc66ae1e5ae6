//! Accounts that are connected in a browser: the emulated providers they are at, the person who presses Allow, and the
//! calls that show their tokens at work.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http::header::CONTENT_TYPE;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::client::Client;
use palisade_core::store::{Connection, ConnectionState};
use palisade_core::transport::HttpTransport;
use palisade_core::{Error, ErrorKind, Result, Transport};
use palisade_emulator::oauth::{self, Authority};
use palisade_emulator::slack as emulated;
use palisade_slack::{SlackProvider, SlackSource};
use serde_json::json;

use super::Stage;
use super::browser::{Browser, Page};
use super::report::Account;
use crate::hub::{Hub, HubBuilder};

/// Calls that meet an expired token at the same moment.
const AT_ONCE: usize = 8;
/// Connections looked through for one of an earlier telling.
const CONNECTIONS: u32 = 100;
/// What the app is called on the providers' pages.
const APP: &str = "Palisade's demo";

/// The emulated providers that accounts are connected to in a browser.
#[derive(Debug)]
pub(super) struct Providers {
    slack: emulated::Slack,
}

/// One of them, seen alike.
struct At {
    /// Its name, and its flow's.
    provider: &'static str,
    /// Its name for people.
    title: &'static str,
    /// Whose account it is: each belongs to another tenant, and is sealed under that tenant's data key.
    tenant: &'static str,
    base_url: String,
    authority: Authority,
}

/// Where a provider sends browsers back to.
fn callback(hub: SocketAddr, provider: &str) -> String {
    format!("http://{hub}/auth/{provider}/callback")
}

fn app(known: oauth::Client, hub: SocketAddr, provider: &str) -> Vec<oauth::Client> {
    vec![oauth::Client { name: APP.to_owned(), redirect_uris: vec![callback(hub, provider)], ..known }]
}

fn cannot_listen(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, "an emulator cannot listen on loopback").with_source(error)
}

impl Providers {
    /// Starts them for a hub at an address. They forget everything when the process ends, unlike Stripe's.
    pub(super) async fn start(seed: u64, hub: SocketAddr) -> Result<Self> {
        let mut config = emulated::SlackConfig { seed, ..Default::default() };
        if let Some(known) = config.clients.pop() {
            config.clients = app(known, hub, "slack");
        }
        let slack = emulated::Slack::start(config).await.map_err(cannot_listen)?;
        slack.populate(&emulated::Seed::default());
        Ok(Self { slack })
    }

    /// Adds the providers and the ways to connect to them.
    pub(super) fn plug(&self, hub: HubBuilder, address: SocketAddr) -> Result<HubBuilder> {
        let public = SlackSource::new().of_types(&["public_channel"])?;
        Ok(hub
            .provider(SlackProvider::new().allowing(self.slack.base_url()).copying(public))
            .flow(self.slack_flow(address)))
    }

    fn slack_flow(&self, hub: SocketAddr) -> OAuth2Config {
        let (id, secret) = self.slack.client();
        let scopes = ["channels:history", "channels:read", "users:read"];
        let flow = palisade_slack::auth::oauth2(&callback(hub, "slack"), &id, secret.into(), &scopes, &[]);
        palisade_slack::auth::at(flow, &self.slack.base_url())
    }

    fn all(&self) -> Vec<At> {
        vec![At {
            provider: "slack",
            title: palisade_slack::MANIFEST.title,
            tenant: "birch",
            base_url: self.slack.base_url(),
            authority: self.slack.oauth(),
        }]
    }

    /// Ends every access token at the providers.
    fn expire(&self) {
        let _ = self.slack.expire_access();
    }

    pub(super) async fn shutdown(&self) {
        self.slack.shutdown().await;
    }
}

/// Connects an account at each provider, and makes a first call with each token. One that was connected in an earlier
/// telling is reconnected in place: its provider has forgotten the tokens.
pub(super) async fn connect(stage: &Stage) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    for at in stage.providers.all() {
        let known = find(stage, &at).await?;
        let page = in_browser(stage, &at, known.as_ref()).await;
        let expected = format!("{} is connected", at.title);
        let (status, page) = match &page {
            Ok(page) => (page.status, page.heading().to_owned()),
            Err(error) => (0, error.to_string()),
        };
        let connection = find(stage, &at).await?.filter(|found| found.state == ConnectionState::Active);
        let mut account = Account {
            provider: at.title.to_owned(),
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

/// Expires every token at its provider, then makes several calls at once with each: the first that is refused has it
/// renewed, and all of them are answered.
pub(super) async fn renew(stage: &Stage, accounts: &mut [Account]) -> Result<()> {
    stage.providers.expire();
    for (at, account) in stage.providers.all().iter().zip(accounts) {
        let Some(connection) = find(stage, at).await? else { continue };
        let made = join_all((0..AT_ONCE).map(|_| call(&stage.hub, at, &connection))).await;
        account.calls += made.len() as u64;
        account.answered += made.iter().filter(|made| made.is_ok()).count() as u64;
        for error in made.into_iter().filter_map(Result::err) {
            tracing::warn!(provider = at.provider, %error, "a call with an expired token");
        }
        let ledger = at.authority.ledger();
        account.expired += 1;
        account.renewals = ledger.refreshes;
        account.replays = ledger.replays;
    }
    Ok(())
}

/// Finds the connection of a provider.
async fn find(stage: &Stage, at: &At) -> Result<Option<Connection>> {
    let all = stage.hub.store().connections(None, CONNECTIONS).await?;
    Ok(all.into_iter().find(|connection| connection.provider == at.provider))
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
    let body = json!({ "tenant": at.tenant, "provider": at.provider }).to_string();
    let request = Request::post(format!("http://{hub}/api/v1/connect-sessions"))
        .header(CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(|_| refused("the hub's address is none"))?;
    let answer = network.send(request).await?;
    let made: serde_json::Value = serde_json::from_slice(answer.body()).map_err(|_| refused("the hub made no link"))?;
    made["url"].as_str().map(str::to_owned).ok_or_else(|| refused("the hub made no link"))
}

/// Makes the cheapest call that proves a token works.
async fn call(hub: &Hub, at: &At, connection: &Connection) -> Result<()> {
    let client: &Client = hub
        .client(at.provider)
        .ok_or_else(|| Error::new(ErrorKind::Config, format!("the hub has no {} client", at.title)))?;
    let (id, tenant) = (connection.id.clone(), connection.tenant.clone());
    let slack = palisade_slack::Slack::new(Arc::new(client.clone()), id, tenant).at(&at.base_url)?;
    slack.identity().await.map(drop)
}

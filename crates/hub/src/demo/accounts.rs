//! Accounts that are connected in a browser: the person who presses Allow, and the calls that show their tokens at work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http::header::CONTENT_TYPE;
use palisade_core::call::{Bucket, Call};
use palisade_core::clock::SystemClock;
use palisade_core::provider::Manifest;
use palisade_core::store::{Connection, ConnectionState};
use palisade_core::transport::HttpTransport;
use palisade_core::{
    Clock, ConnectionId, Environment, Error, ErrorKind, Operation, Replay, Result, TenantId, Transport,
};
use palisade_emulator::oauth::{self, Authority, Rules};
use serde_json::json;
use tokio::time::sleep_until;

use super::Stage;
use super::browser::{Browser, Page};
use super::report::Account;
use crate::hub::Hub;

/// How long the first access tokens live: over when the outage is. Those they are renewed to live as long as the
/// provider's usually do.
const LIFE: Duration = Duration::from_secs(5);
/// Calls that meet an expired token at the same moment.
const AT_ONCE: usize = 8;
/// What the app is called on the providers' pages.
const APP: &str = "Palisade's demo";
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

/// A place where an account is connected in a browser.
pub(super) struct At {
    /// Its names; the flow's is the same.
    pub(super) manifest: &'static Manifest,
    /// The id of the connection.
    pub(super) connection: &'static str,
    /// Whose account it is: each belongs to another tenant, and is sealed under that tenant's data key.
    pub(super) tenant: &'static str,
    pub(super) base_url: String,
    pub(super) authority: Authority,
}

/// Where a provider sends browsers back to.
pub(super) fn callback(hub: SocketAddr, provider: &str) -> String {
    format!("http://{hub}/auth/{provider}/callback")
}

/// Makes a registered app ours.
pub(super) fn app(known: oauth::Client, hub: SocketAddr, provider: &str) -> oauth::Client {
    oauth::Client { name: APP.to_owned(), redirect_uris: vec![callback(hub, provider)], ..known }
}

fn places(stage: &Stage) -> [At; 2] {
    [stage.cast.slack.at(), stage.cast.google.at()]
}

/// Connects an account at each provider, and makes a first call with each token. One that was connected in an earlier
/// telling is reconnected in place: its provider has forgotten the tokens.
pub(super) async fn connect(stage: &Stage) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    for at in places(stage) {
        let known = known(stage, &at).await?;
        let usual = at.authority.rules();
        at.authority.set_rules(Rules { access_life: Some(LIFE), ..usual.clone() });
        let page = in_browser(stage, &at, &known).await;
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
            reconnected: known.account.is_some(),
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
    for (at, account) in places(stage).iter().zip(accounts) {
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

/// Finds a place's connection.
async fn find(stage: &Stage, at: &At) -> Result<Option<Connection>> {
    stage.hub.store().connection(ConnectionId::new(at.connection)).await
}

/// Finds a place's connection, or puts one there that waits to be connected: its id is the one the endpoint names.
async fn known(stage: &Stage, at: &At) -> Result<Connection> {
    if let Some(known) = find(stage, at).await? {
        return Ok(known);
    }
    let new = Connection {
        id: ConnectionId::new(at.connection),
        tenant: TenantId::new(at.tenant),
        provider: at.manifest.name.to_owned(),
        environment: Environment::default(),
        account: None,
        base_url: Some(at.base_url.clone()),
        state: ConnectionState::Disconnected,
        created_at: SystemClock.now(),
    };
    stage.hub.store().put_connection(new.clone()).await?;
    Ok(new)
}

/// Goes the way a person goes: from the product to the hub, to the provider's page, Allow, and back to the hub.
async fn in_browser(stage: &Stage, at: &At, known: &Connection) -> Result<Page> {
    let network: Arc<dyn Transport> = Arc::new(HttpTransport::new()?);
    let mut browser = Browser::new(Arc::clone(&network));
    let hub = stage.address;
    let asked = if known.account.is_some() {
        // The provider listens at another port than last time.
        let moved = Connection { base_url: Some(at.base_url.clone()), ..known.clone() };
        stage.hub.store().put_connection(moved).await?;
        browser.send(&format!("http://{hub}/connections/{}/reconnect", known.id), String::new()).await?
    } else {
        browser.visit(&link(network.as_ref(), hub, at).await?).await?
    };
    browser.press(&asked, "allow").await
}

/// Asks the hub for a link that connects one account once, as the product's server would.
async fn link(network: &dyn Transport, hub: SocketAddr, at: &At) -> Result<String> {
    let refused = |what: &'static str| Error::new(ErrorKind::Decode, what);
    let body = json!({ "tenant": at.tenant, "provider": at.manifest.name, "connection": at.connection }).to_string();
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

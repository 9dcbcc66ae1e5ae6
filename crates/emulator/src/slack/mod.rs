//! Slack: one emulated app, the workspaces that can install it, its OAuth and (growing) its Web API.
//!
//! Every answer of the Web API is 200 with `ok`; only limits (429) and the infrastructure (5xx) say otherwise.

mod args;
mod oauth;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::{Value, json};

use crate::Clock;
use crate::dice::Dice;
use crate::gate::{self, Barred, Emulated, House, Limit, Provider, Setup};
use crate::oauth::{Authority, Client, Flight, Refresh, Rules};
use args::Args;

/// An emulated Slack. Clones are handles to the same one.
pub type Slack = Emulated<SlackProvider>;

/// A workspace that can install the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// `T…`.
    pub id: String,
    /// Its name, as the authorisation page and `auth.test` show it.
    pub name: String,
    /// The `U…` of the person who sits at the browser.
    pub user: String,
}

impl Workspace {
    /// Makes a workspace; its person follows from its identifier.
    #[must_use]
    pub fn new(id: &str, name: &str) -> Self {
        let user = format!("U{}", id.trim_start_matches('T'));
        Self { id: id.to_owned(), name: name.to_owned(), user }
    }
}

/// How an emulated Slack is set up.
#[derive(Clone)]
pub struct SlackConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers, secrets and fault draws follow from this.
    pub seed: u64,
    /// Registered apps; the first is the one that events belong to.
    pub clients: Vec<Client>,
    /// The app's `A…`.
    pub app_id: String,
    /// Workspaces the authorisation page offers.
    pub workspaces: Vec<Workspace>,
    /// Identifier (`E…`) and name of the organisation the workspaces belong to; then the page offers it too.
    pub enterprise: Option<(String, String)>,
    /// Whether the app has switched token rotation on.
    pub rotation: bool,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for SlackConfig {
    fn default() -> Self {
        let client = Client {
            id: "1111111111.2222222222".to_owned(),
            secret: Some("slack-emulator-client-secret".to_owned()),
            ..Client::default()
        };
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            clients: vec![client],
            app_id: "A0EMULATOR".to_owned(),
            workspaces: vec![Workspace::new("T0EMULATOR", "Emulated workspace")],
            enterprise: None,
            rotation: true,
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for SlackConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlackConfig")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("clients", &self.clients)
            .field("workspaces", &self.workspaces)
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

/// Gives Slack's rules for codes and tokens, with or without token rotation (docs.slack.dev, using token rotation).
#[must_use]
pub fn rules(rotation: bool) -> Rules {
    Rules {
        access_life: rotation.then(|| Duration::from_secs(12 * 3600)),
        refresh: if rotation { Refresh::Rotating { grace: Duration::ZERO } } else { Refresh::Never },
        ..Rules::default()
    }
}

/// What is particular to Slack.
#[derive(Debug)]
pub struct SlackProvider {
    pub(crate) config: SlackConfig,
    pub(crate) authority: Authority,
}

impl SlackProvider {
    /// Gives a bot's user and bot identifier in a workspace or organisation; they follow from the seed and the place.
    pub(crate) fn bot(&self, client: &str, place: &str) -> (String, String) {
        let mixed = client
            .bytes()
            .chain([0])
            .chain(place.bytes())
            .fold(self.config.seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        let mut dice = Dice(mixed);
        (shout(dice.name("", 10), "U"), shout(dice.name("", 10), "B"))
    }

    /// Gives a workspace by its identifier.
    pub(crate) fn workspace(&self, id: &str) -> Option<&Workspace> {
        self.config.workspaces.iter().find(|workspace| workspace.id == id)
    }

    fn call(&self, house: &House, method: &str, request: &Request<Bytes>, args: &Args) -> Response<Bytes> {
        let (value, scopes) = match method {
            "oauth.v2.access" => (oauth::access(self, house, request, args), None),
            "oauth.v2.exchange" => (oauth::exchange(self, house, request, args), None),
            "auth.revoke" => (oauth::revoke(self, house, request, args), None),
            "apps.uninstall" => (oauth::uninstall(self, house, request, args), None),
            "auth.test" => oauth::with_token(self, house, request, args, oauth::test),
            _ => (Err("unknown_method".to_owned()), None),
        };
        let value = value.unwrap_or_else(|error| json!({ "ok": false, "error": error }));
        let mut response = gate::json(200, &value);
        if let Some(scopes) = scopes.and_then(|scopes: String| HeaderValue::from_str(&scopes).ok()) {
            response.headers_mut().insert("x-oauth-scopes", scopes);
        }
        response
    }
}

fn shout(text: String, prefix: &str) -> String {
    format!("{prefix}{}", text.to_ascii_uppercase())
}

impl Provider for SlackProvider {
    type Config = SlackConfig;

    const NAME: &'static str = "slack";

    fn build(config: SlackConfig) -> (Self, Setup) {
        let setup =
            Setup { listen: config.listen, seed: config.seed, clock: config.clock.clone(), control: config.control };
        let authority = Authority::new(config.seed, oauth::NAMES, rules(config.rotation), config.clients.clone());
        (Self { config, authority }, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        format!("{} {}", request.method(), request.uri().path())
    }

    fn arrived(&self, request: &Request<Bytes>) -> Option<Flight> {
        if request.uri().path() != "/api/oauth.v2.access" {
            return None;
        }
        let args = Args::read(request).ok()?;
        self.authority.arrived(args.get("refresh_token").or_else(|| args.get("code"))?)
    }

    fn limit(&self, _house: &House, _request: &Request<Bytes>) -> Option<Limit> {
        None
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        if path == "/oauth/v2/authorize" {
            return oauth::authorize(self, house, request);
        }
        let Some(method) = path.strip_prefix("/api/") else { return gate::front(404) };
        let mut response = match Args::read(request) {
            Ok(args) => self.call(house, method, request, &args),
            Err(error) => gate::json(200, &json!({ "ok": false, "error": error })),
        };
        let id = {
            let mut dice = house.dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            dice.name("", 32).to_ascii_lowercase()
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-slack-req-id", id);
        }
        response
    }

    fn barred(&self, request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        let page = request.uri().path() == "/oauth/v2/authorize";
        match why {
            Barred::Throttled => gate::json(429, &json!({ "ok": false, "error": "ratelimited" })),
            Barred::Code(code) if page => oauth::problem(400, code, "The request was refused by a fault dial."),
            Barred::Code(code) => gate::json(200, &json!({ "ok": false, "error": code })),
            Barred::Status(status) => gate::front(*status),
        }
    }

    fn authority(&self) -> &Authority {
        &self.authority
    }

    fn control(&self, _: &House, _: &str, _: &str, _: &Bytes) -> Option<Result<Value, String>> {
        None
    }
}

impl Slack {
    /// Gives the first registered app's identifier and secret.
    #[must_use]
    pub fn client(&self) -> (String, String) {
        let first = self.inner.provider.config.clients.first();
        first.map(|client| (client.id.clone(), client.secret.clone().unwrap_or_default())).unwrap_or_default()
    }

    /// Installs the app as it was before rotation was switched on: gives a bot token that never expires, for
    /// `oauth.v2.exchange`. The workspace is the first one; the app too.
    #[must_use]
    pub fn install_forever(&self, scopes: &[&str]) -> String {
        oauth::install_forever(&self.inner.provider, self.inner.house.now(), scopes)
    }
}

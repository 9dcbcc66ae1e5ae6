//! Slack: one emulated app, the workspaces that can install it, its OAuth and (growing) its Web API.
//!
//! Every answer of the Web API is 200 with `ok`; only limits (429) and the infrastructure (5xx) say otherwise.

mod args;
mod events;
mod limits;
mod methods;
mod oauth;
mod shape;
mod story;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::{Value, json};

use crate::Clock;
use crate::dice::Dice;
use crate::gate::{self, Barred, Emulated, House, Limit, Provider, Setup};
use crate::oauth::state::Bearer;
use crate::oauth::{Authority, Client, Flight, Refresh, Rules};
use crate::post::{Parcel, Poster};
use args::Args;
use events::{ResponseUrl, Subscription};
use limits::Meter;
use methods::{Call, Outcome};
use tokio::time::Instant;
use world::{User, World};

pub use events::signature;
pub use limits::Limits;
pub use story::{Seed, Unverified};

/// What an answer shows of its reader, or counts from other messages: no part of a record, so a comparison leaves it out.
pub const OF_READING: [&str; 13] = [
    "hidden",
    "is_locked",
    "is_open",
    "last_read",
    "latest",
    "latest_reply",
    "priority",
    "reply_count",
    "reply_users",
    "reply_users_count",
    "subscribed",
    "unread_count",
    "unread_count_display",
];

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
    /// What events, commands and interactions are signed with.
    pub signing_secret: String,
    /// Gaps before each further attempt of an event. Slack's own are none, one minute, five minutes.
    pub event_retries: Vec<Duration>,
    /// How long a receiver may take; Slack's own is three seconds.
    pub event_timeout: Duration,
    /// Posts events; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// How much the app may ask for.
    pub limits: Limits,
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
            signing_secret: "slack-emulator-signing-secret".to_owned(),
            event_retries: [0, 200, 1_000].map(Duration::from_millis).to_vec(),
            event_timeout: Duration::from_secs(3),
            poster: None,
            limits: Limits::default(),
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
    world: Mutex<World>,
    meter: Mutex<Meter>,
    subscription: Mutex<Option<Subscription>>,
    responses: Mutex<HashMap<String, ResponseUrl>>,
    said: Mutex<Vec<Value>>,
}

/// Gives what a lock guards; a panic elsewhere does not make it unusable.
fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SlackProvider {
    /// Gives a bot's user and bot identifier in a workspace; they follow from the seed and the place. In an
    /// organisation it is the same bot everywhere.
    pub(crate) fn bot(&self, client: &str, team: &str) -> (String, String) {
        let place = self.config.enterprise.as_ref().map_or(team, |(id, _)| id);
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

    /// Gives the world. Its lock comes before the authority's and the house's.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        open(&self.world)
    }

    /// Gives the limits and what was admitted lately.
    pub(crate) fn meter(&self) -> MutexGuard<'_, Meter> {
        open(&self.meter)
    }

    /// Gives the live `response_url`s.
    pub(crate) fn responses(&self) -> MutexGuard<'_, HashMap<String, ResponseUrl>> {
        open(&self.responses)
    }

    /// Gives what was posted to `response_url`s.
    pub(crate) fn said(&self) -> MutexGuard<'_, Vec<Value>> {
        open(&self.said)
    }

    /// Gives where events go.
    pub(crate) fn subscription(&self) -> Option<Subscription> {
        open(&self.subscription).clone()
    }

    /// Sets where events go.
    pub(crate) fn set_subscription(&self, subscription: Option<Subscription>) {
        *open(&self.subscription) = subscription;
    }

    /// Builds the workspaces, each with the person who sits at the browser and the app's bot.
    fn build_world(&self) {
        let mut world = self.world();
        let client = self.config.clients.first().map(|client| client.id.clone()).unwrap_or_default();
        for workspace in &self.config.workspaces {
            let team = world.team(&workspace.id);
            team.name.clone_from(&workspace.name);
            let person = User {
                name: "ada".to_owned(),
                real_name: "Ada Lovelace".to_owned(),
                email: Some("ada@example.com".to_owned()),
                deleted: false,
                is_admin: true,
                is_bot: false,
                updated: 0,
            };
            team.users.push(&workspace.user, person.clone());
            let bot = User { name: "emulated_app".to_owned(), is_bot: true, is_admin: false, email: None, ..person };
            team.users.push(&self.bot(&client, &workspace.id).0, bot);
        }
    }

    fn call(&self, house: &House, name: &str, request: &Request<Bytes>, args: &Args) -> Response<Bytes> {
        let (outcome, scopes): (Outcome, _) = match name {
            "oauth.v2.access" => (oauth::access(self, house, request, args).map_err(Into::into), None),
            "oauth.v2.exchange" => (oauth::exchange(self, house, request, args).map_err(Into::into), None),
            "auth.revoke" => (oauth::revoke(self, house, request, args).map_err(Into::into), None),
            "apps.uninstall" => (oauth::uninstall(self, house, request, args).map_err(Into::into), None),
            "api.test" => (Ok(json!({ "ok": true, "args": {} })), None),
            _ => match (name == "auth.test", methods::find(name)) {
                (false, None) => (Err("unknown_method".into()), None),
                (_, method) => oauth::with_token(self, house, request, args, |held| match method {
                    Some(method) => self.work(house, method, held, args),
                    None => oauth::test(self, house, held).map_err(Into::into),
                }),
            },
        };
        self.announce(house);
        let mut value = outcome.unwrap_or_else(methods::Problem::body);
        if lacks_charset(request) && value.get("ok") == Some(&json!(true)) {
            let warning =
                json!({ "warning": "missing_charset", "response_metadata": { "warnings": ["missing_charset"] } });
            if value.get("response_metadata").is_none() {
                shape::merge(&mut value, warning);
            }
        }
        let mut response = gate::json(200, &value);
        if let Some(scopes) = scopes.and_then(|scopes: String| HeaderValue::from_str(&scopes).ok()) {
            response.headers_mut().insert("x-oauth-scopes", scopes);
        }
        let needed = methods::find(name).and_then(|method| method.scope);
        if let Some(needed) = needed {
            response.headers_mut().insert("x-accepted-oauth-scopes", HeaderValue::from_static(needed));
        }
        response
    }

    /// Runs a method of the Web API in the workspace the token is for.
    fn work(&self, house: &House, method: &methods::Method, held: &Bearer, args: &Args) -> Outcome {
        let team = self.team_of(held, args).ok_or("team_not_found")?;
        let (user, bot) = self.bot(&held.client, &team);
        let of_bot = held.holder == "bot";
        let mut world = self.world();
        let mut call = Call {
            slack: self,
            held,
            args,
            world: &mut world,
            me: if of_bot { user } else { held.subject.clone() },
            bot: of_bot.then_some(bot),
            team,
            now: house.now(),
        };
        methods::run(method, &mut call)
    }

    /// Gives the workspace a call works in: the token's, or the one an organisation's token names.
    fn team_of(&self, held: &Bearer, args: &Args) -> Option<String> {
        if let Some(team) = held.facts.get("team") {
            return Some(team.clone());
        }
        match args.get("team_id") {
            Some(named) => self.workspace(named).map(|team| team.id.clone()),
            None => self.config.workspaces.first().map(|team| team.id.clone()),
        }
    }

    /// Gives method and workspace of a request that carries a good token.
    fn place(&self, house: &House, request: &Request<Bytes>) -> Option<(String, String, Args)> {
        let name = request.uri().path().strip_prefix("/api/")?;
        methods::rate(name)?;
        let args = Args::read(request).ok()?;
        let token = oauth::token_of(request, &args)?.to_owned();
        let held = self.authority.state().peek(&token, house.now()).ok()?;
        let team = self.team_of(&held, &args)?;
        Some((name.to_owned(), team, args))
    }
}

/// Tells whether a JSON body came without its charset, which Slack remarks on.
fn lacks_charset(request: &Request<Bytes>) -> bool {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/json") && !kind.contains("charset") && !request.body().is_empty()
}

fn shout(text: String, prefix: &str) -> String {
    format!("{prefix}{}", text.to_ascii_uppercase())
}

impl Provider for SlackProvider {
    type Config = SlackConfig;

    const NAME: &'static str = "slack";

    fn build(config: SlackConfig) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: config.event_timeout,
        };
        let authority = Authority::new(config.seed, oauth::NAMES, rules(config.rotation), config.clients.clone());
        let slack = Self {
            world: Mutex::new(World::new(config.seed)),
            meter: Mutex::new(Meter::new(config.limits.clone())),
            subscription: Mutex::default(),
            responses: Mutex::default(),
            said: Mutex::default(),
            config,
            authority,
        };
        slack.build_world();
        (slack, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        let path = request.uri().path();
        // The token of a `response_url` is no part of the route.
        let path = if path.starts_with("/commands/") { "/commands/{id}" } else { path };
        format!("{} {path}", request.method())
    }

    fn arrived(&self, request: &Request<Bytes>) -> Option<Flight> {
        if request.uri().path() != "/api/oauth.v2.access" {
            return None;
        }
        let args = Args::read(request).ok()?;
        self.authority.arrived(args.get("refresh_token").or_else(|| args.get("code"))?)
    }

    fn lane(&self, house: &House, request: &Request<Bytes>) -> Option<String> {
        let (name, team, args) = self.place(house, request)?;
        match args.get("channel").filter(|_| name == "chat.postMessage") {
            Some(channel) => Some(format!("{name} {team} {channel}")),
            None => Some(format!("{name} {team}")),
        }
    }

    fn limit(&self, house: &House, request: &Request<Bytes>, lane: Option<&str>) -> Option<Limit> {
        let (name, team, _) = self.place(house, request)?;
        let rate = methods::rate(&name)?;
        self.meter().admit(rate, &format!("{name} {team}"), lane, Instant::now())
    }

    fn stamp(&self, house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        self.sealed(house, parcel)
    }

    fn remembered(&self) -> Option<serde_json::Result<Vec<u8>>> {
        Some(serde_json::to_vec(&*self.world()))
    }

    fn recall(&self, kept: &[u8]) -> serde_json::Result<()> {
        *self.world() = serde_json::from_slice(kept)?;
        Ok(())
    }

    fn known_as(&self, parcel: &Parcel) -> String {
        events::message_name(&parcel.body).unwrap_or_else(|| parcel.id.clone())
    }

    fn gap(&self, parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
        self.wait(parcel, answer)
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        if path == "/oauth/v2/authorize" {
            return oauth::authorize(self, house, request);
        }
        if let Some((_, token)) = path.strip_prefix("/commands/").and_then(|rest| rest.split_once('/')) {
            let answer = self.respond(house, token, request.body());
            self.announce(house);
            return match answer {
                Ok(value) => gate::json(200, &value),
                Err((status, error)) => gate::json(status, &json!({ "ok": false, "error": error })),
            };
        }
        let Some(method) = path.strip_prefix("/api/") else { return gate::front(404) };
        let mut response = match Args::read(request) {
            Ok(args) => self.call(house, method, request, &args),
            Err(error) => gate::json(200, &json!({ "ok": false, "error": error })),
        };
        let id = {
            let mut dice = house.dice.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn control(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        story::control(self, house, method, path, body)
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

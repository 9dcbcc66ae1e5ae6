//! Twilio: one emulated account, its messages, and the webhooks it signs.

mod callbacks;
mod messages;
mod refusal;
mod story;
mod world;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::Clock;
use crate::gate::{self, Barred, Emulated, House, Provider, Setup};
use crate::oauth::{Authority, Flight};
use crate::params::Params;
use crate::post::{Parcel, Poster};

pub use callbacks::{Algorithm, signature};
pub use refusal::Refusal;

use world::World;

/// An emulated Twilio. Clones are handles to the same one.
pub type Twilio = Emulated<TwilioProvider>;

/// How an emulated Twilio is set up.
#[derive(Clone)]
pub struct TwilioConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers and fault draws follow from this.
    pub seed: u64,
    /// The account's SID.
    pub account_sid: String,
    /// The account's auth token: it is accepted, and it signs webhooks.
    pub auth_token: String,
    /// API keys that are accepted: SID (`SK…`) and secret.
    pub api_keys: Vec<(String, String)>,
    /// Numbers and channel addresses the account sends from.
    pub senders: Vec<String>,
    /// Messaging services: SID (`MG…`) and the sender each chooses.
    pub services: Vec<(String, String)>,
    /// A shared key that signs webhooks in the auth token's place, with HMAC-SHA256: its id and secret.
    pub shared_key: Option<(String, String)>,
    /// Whether a message is delivered at once; else it waits until a story method moves it.
    pub delivers: bool,
    /// Where inbound messages are posted.
    pub inbound_url: Option<String>,
    /// Posts webhooks; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// How long a receiver may take. Twilio waits 15 seconds.
    pub webhook_timeout: Duration,
    /// How long it waits before it posts again.
    pub webhook_gap: Duration,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for TwilioConfig {
    fn default() -> Self {
        let own = |text: &str| text.to_owned();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            account_sid: own("AC00000000000000000000000000000000"),
            auth_token: own("twilio_emulator_auth_token"),
            api_keys: vec![(own("SK11111111111111111111111111111111"), own("twilio_emulator_secret"))],
            senders: ["+15005550001", "+15005550006", "whatsapp:+15005550001"].map(own).to_vec(),
            services: vec![(own("MG00000000000000000000000000000000"), own("+15005550006"))],
            shared_key: None,
            delivers: true,
            inbound_url: None,
            poster: None,
            webhook_timeout: Duration::from_secs(15),
            webhook_gap: Duration::from_millis(100),
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for TwilioConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TwilioConfig")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("account_sid", &self.account_sid)
            .field("senders", &self.senders)
            .finish_non_exhaustive()
    }
}

/// What is particular to Twilio.
#[derive(Debug)]
pub struct TwilioProvider {
    pub(crate) config: TwilioConfig,
    world: Mutex<World>,
    authority: Authority,
}

impl TwilioProvider {
    /// Gives the world; a panic elsewhere does not make it unusable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the credential: the account with its token, or an API key with its secret.
    fn authenticate(&self, request: &Request<Bytes>) -> Result<(), Refusal> {
        let refused = || Refusal::new(401, 20003, "Authenticate");
        let header =
            request.headers().get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
        let encoded = header.strip_prefix("Basic ").ok_or_else(refused)?;
        let pair = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.ok_or_else(refused)?;
        let (user, password) = pair.split_once(':').ok_or_else(refused)?;
        if self.world().accepts(user, password) { Ok(()) } else { Err(refused()) }
    }

    fn run(&self, house: &House, request: &Request<Bytes>) -> Result<Response<Bytes>, Refusal> {
        self.authenticate(request).inspect_err(|_| house.book().ledger.auth_failures += 1)?;
        let path = request.uri().path();
        let missing = || Refusal::missing(path);
        let rest = path.strip_prefix("/2010-04-01/Accounts/").and_then(|rest| rest.strip_suffix(".json"));
        let segments: Vec<&str> = rest.ok_or_else(missing)?.split('/').collect();
        let form = |text: &[u8]| Params::parse(text).map_err(|why| Refusal::new(400, 20001, why));
        let query = form(request.uri().query().unwrap_or_default().as_bytes())?;
        let now = house.now();
        if segments.first() != Some(&self.config.account_sid.as_str()) {
            return Err(missing());
        }
        let value = match (request.method(), segments.get(1..).unwrap_or_default()) {
            (&Method::GET, []) => self.account(),
            (&Method::GET, ["Messages"]) => self.list(&query)?,
            (&Method::POST, ["Messages"]) => {
                let created = self.create(house, &body(request)?, now)?;
                return Ok(gate::json(201, &created));
            }
            (&Method::GET, ["Messages", sid]) => self.show(sid).ok_or_else(missing)?,
            (&Method::POST, ["Messages", sid]) => self.update(sid, &body(request)?, now)?.ok_or_else(missing)?,
            (&Method::DELETE, ["Messages", sid]) => {
                self.world().delete(sid).ok_or_else(missing)?;
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(response);
            }
            _ => return Err(missing()),
        };
        Ok(gate::json(200, &value))
    }

    fn account(&self) -> Value {
        let sid = &self.config.account_sid;
        json!({
            "sid": sid, "friendly_name": "Emulated account", "status": "active", "type": "Full",
            "owner_account_sid": sid, "uri": format!("/2010-04-01/Accounts/{sid}.json"),
        })
    }
}

/// Reads a form body; JSON is not understood, as by the real one.
fn body(request: &Request<Bytes>) -> Result<Params, Refusal> {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !request.body().is_empty() && !kind.starts_with("application/x-www-form-urlencoded") {
        return Err(Refusal::new(415, 20001, "Unsupported content type"));
    }
    Params::parse(request.body()).map_err(|why| Refusal::new(400, 20001, why))
}

impl Provider for TwilioProvider {
    type Config = TwilioConfig;

    const NAME: &'static str = "twilio";

    fn build(config: TwilioConfig) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: config.webhook_timeout,
        };
        let world = Mutex::new(World::new(&config));
        (Self { config, world, authority: Authority::none() }, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        let is_sid = |part: &str| part.len() == 34 && part.bytes().all(|c| c.is_ascii_alphanumeric());
        let mut route = request.method().to_string();
        route.push(' ');
        for part in request.uri().path().split('/').skip(1) {
            let (name, json) = part.strip_suffix(".json").map_or((part, ""), |name| (name, ".json"));
            route.push('/');
            route.push_str(if is_sid(name) { "{sid}" } else { name });
            route.push_str(json);
        }
        route
    }

    fn arrived(&self, _request: &Request<Bytes>) -> Option<Flight> {
        None
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let mut response = self.run(house, request).unwrap_or_else(|refusal| refusal.response());
        let id = self.world().request_id();
        for (name, value) in [("twilio-request-id", id.as_str()), ("twilio-concurrent-requests", "1")] {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn barred(&self, _request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        match why {
            Barred::Throttled => Refusal::new(429, 20429, "Too Many Requests").response(),
            Barred::Code(code) => {
                Refusal::new(400, code.parse().unwrap_or(20001), "The request was refused by a fault dial.").response()
            }
            Barred::Status(502 | 504) => gate::front(502),
            Barred::Status(503) => Refusal::new(503, 20503, "Service unavailable").response(),
            Barred::Status(status) => Refusal::new(*status, 20500, "An internal server error has occurred").response(),
        }
    }

    fn authority(&self) -> &Authority {
        &self.authority
    }

    fn control(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        self.obey(house, method, path, body)
    }

    fn remembered(&self) -> Option<serde_json::Result<Vec<u8>>> {
        Some(serde_json::to_vec(&*self.world()))
    }

    fn recall(&self, kept: &[u8]) -> serde_json::Result<()> {
        self.world().recall(serde_json::from_slice(kept)?);
        Ok(())
    }

    fn stamp(&self, _house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        self.sealed(parcel)
    }

    fn gap(&self, parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
        self.wait(parcel, answer)
    }
}

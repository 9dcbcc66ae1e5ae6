//! SendGrid: one emulated account, its mails, its lists of suppressed addresses, and the webhooks it signs.

mod events;
mod inbound;
mod limits;
mod mail;
mod refusal;
mod story;
mod suppressions;
mod world;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::Clock;
use crate::gate::{self, Barred, Emulated, House, Provider, Setup};
use crate::oauth::{Authority, Flight};
use crate::params::Params;
use crate::post::{Parcel, Poster};

pub use events::Signer;
pub use inbound::InboundMail;
pub use limits::Limits;
pub use refusal::Refusal;

use limits::Meter;
use world::World;

/// An emulated SendGrid. Clones are handles to the same one.
pub type SendGrid = Emulated<SendGridProvider>;

/// How an emulated SendGrid is set up.
#[derive(Clone)]
pub struct SendGridConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers, the signing key and fault draws follow from this.
    pub seed: u64,
    /// The key that is accepted.
    pub api_key: String,
    /// What the key may do (`mail.send`, `suppression.read`, …).
    pub scopes: Vec<String>,
    /// Subusers that `On-Behalf-Of` may name.
    pub subusers: Vec<String>,
    /// Addresses mail may be sent from; any when empty.
    pub senders: Vec<String>,
    /// How many mails the plan allows; more get 401 "Maximum credits exceeded".
    pub credits: Option<u64>,
    /// Whether the account has the add-on for email activity.
    pub activity: bool,
    /// What each endpoint takes in a period.
    pub limits: Limits,
    /// Where events are posted.
    pub event_url: Option<String>,
    /// Where inbound mail is posted, and whether that is signed.
    pub inbound_url: Option<(String, bool)>,
    /// Posts webhooks; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// How long a receiver may take.
    pub webhook_timeout: Duration,
    /// Gaps before each further try of a delivery; when used up the delivery is given up.
    pub webhook_retries: Vec<Duration>,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for SendGridConfig {
    fn default() -> Self {
        let scopes = ["mail.send", "suppression.read", "suppression.delete", "messages.read", "user.webhooks.read"];
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            api_key: "SG.emulator".to_owned(),
            scopes: scopes.map(str::to_owned).to_vec(),
            subusers: Vec::new(),
            senders: Vec::new(),
            credits: None,
            activity: true,
            limits: Limits::default(),
            event_url: None,
            inbound_url: None,
            poster: None,
            webhook_timeout: Duration::from_secs(10),
            webhook_retries: [50, 200, 1_000, 5_000, 30_000].map(Duration::from_millis).to_vec(),
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for SendGridConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendGridConfig")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("senders", &self.senders)
            .finish_non_exhaustive()
    }
}

/// What is particular to SendGrid.
#[derive(Debug)]
pub struct SendGridProvider {
    pub(crate) config: SendGridConfig,
    signer: Signer,
    world: Mutex<World>,
    meter: Mutex<Meter>,
    authority: Authority,
}

impl SendGridProvider {
    /// Gives the world; a panic elsewhere does not make it unusable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn authenticate(&self, request: &Request<Bytes>) -> Result<(), Refusal> {
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let Some(key) = text("authorization").and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(Refusal::new(401, "authorization required"));
        };
        if self.world().api_key != key {
            return Err(Refusal::new(401, "The provided authorization grant is invalid, expired, or revoked"));
        }
        match text("on-behalf-of") {
            Some(subuser) if !self.config.subusers.iter().any(|known| known == subuser) => {
                Err(Refusal::new(403, "access forbidden"))
            }
            _ => Ok(()),
        }
    }

    fn allowed(&self, scope: &str) -> Result<(), Refusal> {
        let has = self.config.scopes.iter().any(|known| known == scope);
        if has { Ok(()) } else { Err(Refusal::new(403, "access forbidden")) }
    }

    fn run(&self, house: &House, request: &Request<Bytes>) -> Result<Response<Bytes>, Refusal> {
        self.authenticate(request).inspect_err(|_| house.book().ledger.auth_failures += 1)?;
        let path = request.uri().path();
        let query = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
        let query = query.map_err(|why| Refusal::new(400, why))?;
        let rest = path.strip_prefix("/v3/").ok_or_else(|| Refusal::new(404, "not found"))?;
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let segments: Vec<String> = rest.split('/').map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let found = |value: Value| Ok(gate::json(200, &value));
        match (request.method(), segments.as_slice()) {
            (&Method::POST, ["mail", "send"]) => {
                self.allowed("mail.send")?;
                self.send(house, request.body(), house.now())
            }
            (&Method::POST, ["mail", "batch"]) => Ok(gate::json(201, &json!({ "batch_id": self.world().name(32) }))),
            (&Method::GET, ["scopes"]) => found(json!({ "scopes": self.config.scopes })),
            (&Method::GET, ["messages"]) => {
                if !self.config.activity {
                    return Err(Refusal::new(403, "access forbidden"));
                }
                self.allowed("messages.read")?;
                found(self.find(&query)?)
            }
            (&Method::GET, ["user", "webhooks", "event", "settings", "signed"]) => {
                self.allowed("user.webhooks.read")?;
                found(json!({ "public_key": self.signer.public_key() }))
            }
            (method, ["suppression", list, rest @ ..]) => self.suppression(method, list, rest, &query, request.body()),
            (method, ["asm", "suppressions", "global", rest @ ..]) => self.global(house, method, rest, request.body()),
            _ => Err(Refusal::new(404, "not found")),
        }
    }
}

/// Answers without a body.
pub(crate) fn empty(status: u16) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::NO_CONTENT);
    response
}

impl Provider for SendGridProvider {
    type Config = SendGridConfig;

    const NAME: &'static str = "sendgrid";

    fn build(config: SendGridConfig) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: config.webhook_timeout,
        };
        let sendgrid = Self {
            signer: Signer::of_seed(config.seed),
            world: Mutex::new(World::new(&config)),
            meter: Mutex::new(Meter::new(config.limits.clone())),
            authority: Authority::none(),
            config,
        };
        (sendgrid, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        let path = request.uri().path();
        let parts = path.split('/').skip(1).map(|part| if part.contains(['@', '%']) { "{email}" } else { part });
        parts.fold(format!("{} ", request.method()), |route, part| route + "/" + part)
    }

    fn arrived(&self, _request: &Request<Bytes>) -> Option<Flight> {
        None
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let route = self.route(request);
        let told = self.meter().admit(&route, house.now());
        let mut response = if told.admitted {
            self.run(house, request).unwrap_or_else(|refusal| refusal.response())
        } else {
            let now = tokio::time::Instant::now();
            house.book().throttled(&route, "endpoint-rate", Some(told.wait), now);
            Refusal::new(429, "too many requests").response()
        };
        for (name, value) in told.headers() {
            response.headers_mut().insert(name, HeaderValue::from(value));
        }
        response
    }

    fn barred(&self, _request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        match why {
            Barred::Throttled => Refusal::new(429, "too many requests").response(),
            Barred::Code(message) => Refusal::new(400, message).response(),
            Barred::Status(500) => Refusal::new(500, "internal server error").response(),
            Barred::Status(413) => gate::front(413),
            Barred::Status(status) => gate::front(*status),
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

    fn stamp(&self, house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        self.sealed(house, parcel)
    }

    fn gap(&self, parcel: &Parcel, _answer: Option<&Response<Bytes>>) -> Option<Duration> {
        self.config.webhook_retries.get(parcel.attempt).copied()
    }
}

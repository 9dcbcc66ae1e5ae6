//! Google: accounts that grant scopes one by one, service accounts with signed assertions, ID tokens and their keys;
//! Gmail and Calendar with what each posts by itself.
//!
//! All of Google's hosts (`accounts.google.com`, `oauth2.googleapis.com`, `www.googleapis.com`) are one base URL here;
//! their paths do not clash.

mod calendar;
mod consent;
mod gmail;
mod jwt;
mod push;
mod quota;
mod recurrence;
mod refusal;
mod service;
mod service_account;
mod story;
mod token;
mod when;
mod world;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use serde_json::{Value, json};

use crate::Clock;
use crate::gate::{self, Barred, Emulated, House, Provider, Setup};
use crate::oauth::{Authority, Client, Flight, Refresh, Rules};
use crate::params::Params;
use crate::post::{Parcel, Poster};
use jwt::Signer;
pub use quota::Quotas;
pub use refusal::Refusal;
pub use service_account::ServiceAccount;
pub use world::Subscription;
use world::World;

/// An emulated Google. Clones are handles to the same one.
pub type Google = Emulated<GoogleProvider>;

const SIGNER_ID: &str = "9bbbaaf95e5b2331fb9f119ede4959fd9c1bfb35";
const JWKS: &str = include_str!("keys/jwks.json");
const CERTIFICATE: &str = include_str!("keys/signer.crt.pem");

/// A person with a Google account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The stable identifier, digits.
    pub sub: String,
    /// The address.
    pub email: String,
    /// The name.
    pub name: String,
}

impl Person {
    /// Makes a person whose identifier follows from the address.
    #[must_use]
    pub fn new(email: &str, name: &str) -> Self {
        let hash = email
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        Self { sub: format!("1{hash:020}"), email: email.to_owned(), name: name.to_owned() }
    }
}

/// How an emulated Google is set up.
#[derive(Clone)]
pub struct GoogleConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers, secrets and fault draws follow from this.
    pub seed: u64,
    /// Registered apps.
    pub clients: Vec<Client>,
    /// People who sit at the browser; the page offers them to choose from.
    pub people: Vec<Person>,
    /// Service accounts; the first has a key of its own, see [`Google::service_account_key`].
    pub service_accounts: Vec<ServiceAccount>,
    /// The issuer in ID tokens and authorisation answers; Google's own when absent. Give the base URL of a fixed
    /// address for clients that compare it with where they found the discovery document.
    pub issuer: Option<String>,
    /// What may be asked for in a minute.
    pub quotas: Quotas,
    /// How long a mailbox's history reaches back. Google says a week at least, mostly.
    pub history_life: Duration,
    /// How long a mailbox is watched before the watch ends by itself.
    pub watch_life: Duration,
    /// How long a calendar's sync token is good.
    pub sync_token_life: Duration,
    /// Posts notifications; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// How long a receiver may take. Pub/Sub waits 10 seconds unless told otherwise.
    pub webhook_timeout: Duration,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

impl Default for GoogleConfig {
    fn default() -> Self {
        let client = Client {
            id: "000000000000-emulator.apps.googleusercontent.com".to_owned(),
            secret: Some("GOCSPX-emulator-client-secret".to_owned()),
            ..Client::default()
        };
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            clients: vec![client],
            people: vec![Person::new("ada@example.com", "Ada Lovelace")],
            service_accounts: vec![ServiceAccount::built_in()],
            issuer: None,
            quotas: Quotas::default(),
            history_life: WEEK,
            watch_life: WEEK,
            sync_token_life: WEEK,
            poster: None,
            webhook_timeout: Duration::from_secs(10),
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for GoogleConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoogleConfig")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("clients", &self.clients)
            .field("people", &self.people)
            .field("service_accounts", &self.service_accounts)
            .finish_non_exhaustive()
    }
}

/// Gives Google's rules for codes and tokens: refresh tokens stay, die after half a year unused, and silently when a
/// user holds more than 100 of one client (developers.google.com, using OAuth 2.0, read November 2026).
#[must_use]
pub fn rules() -> Rules {
    Rules {
        access_life: Some(Duration::from_secs(3599)),
        refresh: Refresh::Reusable,
        refresh_idle: Some(Duration::from_secs(180 * 24 * 3600)),
        refresh_live_max: Some(100),
        ..Rules::default()
    }
}

/// What is particular to Google.
#[derive(Debug)]
pub struct GoogleProvider {
    pub(crate) config: GoogleConfig,
    pub(crate) authority: Authority,
    signer: Signer,
    /// Signs in Google's name with another key: what is forged.
    forger: Signer,
    world: Mutex<World>,
}

impl GoogleProvider {
    /// Gives the world; a panic elsewhere does not make it unusable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the issuer of ID tokens.
    pub(crate) fn issuer(&self) -> &str {
        self.config.issuer.as_deref().unwrap_or("https://accounts.google.com")
    }

    /// Finds a person by identifier or address.
    pub(crate) fn person(&self, key: &str) -> Option<&Person> {
        self.config.people.iter().find(|person| person.sub == key || person.email == key)
    }

    fn discovery(&self, house: &House) -> Value {
        let at = |path: &str| format!("{}{path}", house.base_url());
        json!({
            "issuer": self.issuer(),
            "authorization_endpoint": at(consent::PATH),
            "token_endpoint": at("/token"),
            "userinfo_endpoint": at("/oauth2/v3/userinfo"),
            "revocation_endpoint": at("/revoke"),
            "jwks_uri": at("/oauth2/v3/certs"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "grant_types_supported":
                ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"],
        })
    }
}

fn cached(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("cache-control", HeaderValue::from_static("public, max-age=21600, must-revalidate"));
    response
}

/// Words an error of a Google API: status, words and reason in three places.
pub(crate) fn api_error(status: u16, name: &str, reason: &str, message: &str) -> Response<Bytes> {
    gate::json(
        status,
        &json!({ "error": {
            "code": status, "message": message, "status": name,
            "errors": [{ "message": message, "domain": "global", "reason": reason }],
        } }),
    )
}

impl Provider for GoogleProvider {
    type Config = GoogleConfig;

    const NAME: &'static str = "google";

    fn build(config: GoogleConfig) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: config.webhook_timeout,
        };
        let authority = Authority::new(config.seed, token::NAMES, rules(), config.clients.clone());
        let signer = Signer::new(SIGNER_ID, include_str!("keys/signer.pem"));
        let forger = Signer::new(SIGNER_ID, include_str!("keys/service_account.pem"));
        let world = Mutex::new(World::new(&config));
        (Self { config, authority, signer, forger, world }, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        format!("{} {}", request.method(), service::route(request.uri().path()))
    }

    fn arrived(&self, request: &Request<Bytes>) -> Option<Flight> {
        if request.uri().path() != "/token" {
            return None;
        }
        let params = Params::parse(request.body()).ok()?;
        self.authority.arrived(params.get("refresh_token").or_else(|| params.get("code"))?)
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        match (request.method().as_str(), request.uri().path()) {
            (_, path) if service::is_api(path) => service::answer(self, house, request),
            (_, consent::PATH) => consent::authorize(self, house, request),
            ("POST", "/token") => token::token(self, house, request),
            ("POST" | "GET", "/revoke") => token::revoke(self, house, request),
            ("POST" | "GET", "/tokeninfo") => token::info(self, house, request),
            ("GET" | "POST", "/oauth2/v3/userinfo") => token::userinfo(self, house, request),
            ("GET", "/oauth2/v3/certs") => cached(gate::json(200, &serde_json::from_str(JWKS).unwrap_or(Value::Null))),
            ("GET", "/oauth2/v1/certs") => cached(gate::json(200, &json!({ SIGNER_ID: CERTIFICATE }))),
            ("GET", "/.well-known/openid-configuration") => cached(gate::json(200, &self.discovery(house))),
            _ => api_error(404, "NOT_FOUND", "notFound", "Requested entity was not found."),
        }
    }

    fn barred(&self, request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        let path = request.uri().path();
        let oauth = ["/token", "/revoke", "/tokeninfo"].contains(&path);
        match why {
            Barred::Code(code) if path == consent::PATH => consent::problem(code, "The request was refused by a dial."),
            Barred::Code(code) if oauth => token::error(code, "The request was refused by a fault dial."),
            Barred::Code(code) => api_error(403, "PERMISSION_DENIED", code, "The request was refused by a fault dial."),
            Barred::Throttled if oauth => {
                gate::json(429, &json!({ "error": "rate_limit_exceeded", "error_description": "Too many requests." }))
            }
            Barred::Throttled => {
                api_error(429, "RESOURCE_EXHAUSTED", "rateLimitExceeded", "Too many concurrent requests.")
            }
            Barred::Status(status) if oauth || path == consent::PATH => gate::front(*status),
            Barred::Status(status) => api_error(*status, "UNAVAILABLE", "backendError", "The service is unavailable."),
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

    fn acknowledges(&self, status: u16) -> bool {
        push::ACKNOWLEDGED.contains(&status)
    }

    fn gap(&self, parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
        push::wait(parcel, answer)
    }
}

impl Google {
    /// Gives the first registered app's identifier and secret.
    #[must_use]
    pub fn client(&self) -> (String, String) {
        let first = self.inner.provider.config.clients.first();
        first.map(|client| (client.id.clone(), client.secret.clone().unwrap_or_default())).unwrap_or_default()
    }

    /// Gives the built-in service account's key file, as the console would let one download it, with this emulator's
    /// token address. Its private key is a published test key.
    #[must_use]
    pub fn service_account_key(&self) -> Value {
        service_account::key_file(&self.base_url())
    }
}

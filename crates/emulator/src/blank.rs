//! The emulated Blank: written from its documentation and official SDKs, never from the adapter.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use crate::gate::{self, Barred, Emulated, House, Provider, Setup};
use crate::oauth::{Authority, Flight};
use crate::{Clock, Poster};

/// How it is set up.
#[derive(Clone)]
pub struct BlankConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers and fault draws follow from this.
    pub seed: u64,
    /// The key that is accepted.
    pub api_key: String,
    /// Posts webhooks; a plain HTTP client when absent.
    pub poster: Option<Poster>,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for BlankConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            api_key: "blank_key".to_owned(),
            poster: None,
            clock: crate::system_clock(),
            control: true,
        }
    }
}

impl std::fmt::Debug for BlankConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlankConfig").field("listen", &self.listen).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// An emulated Blank. Clones are handles to the same one.
pub type Blank = Emulated<BlankProvider>;

/// What is particular to Blank.
#[derive(Debug)]
pub struct BlankProvider {
    config: BlankConfig,
    authority: Authority,
}

impl Provider for BlankProvider {
    type Config = BlankConfig;

    const NAME: &'static str = "blank";

    fn build(config: BlankConfig) -> (Self, Setup) {
        let setup = Setup {
            listen: config.listen,
            seed: config.seed,
            clock: config.clock.clone(),
            control: config.control,
            poster: config.poster.clone(),
            patience: Duration::from_secs(10),
        };
        (Self { authority: Authority::none(), config }, setup)
    }

    fn route(&self, request: &Request<Bytes>) -> String {
        format!("{} {}", request.method(), request.uri().path())
    }

    fn arrived(&self, _request: &Request<Bytes>) -> Option<Flight> {
        None
    }

    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
        let wanted = format!("Bearer {}", self.config.api_key);
        let key = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if key != Some(wanted.as_str()) {
            house.book().ledger.auth_failures += 1;
            return gate::json(401, &json!({ "code": "key_unknown" }));
        }
        match request.uri().path() {
            "/v1/account" => gate::json(200, &json!({ "name": "Ada" })),
            _ => gate::json(404, &json!({ "code": "not_found" })),
        }
    }

    fn barred(&self, _request: &Request<Bytes>, why: &Barred) -> Response<Bytes> {
        match why {
            Barred::Throttled => gate::json(429, &json!({ "code": "slow_down" })),
            Barred::Code(code) => gate::json(400, &json!({ "code": code })),
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

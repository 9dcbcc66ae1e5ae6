//! One of several processes that want one token: `renewer <database> <base URL of the emulator> <number>`. It obeys JSON
//! lines on its standard input and says on its standard output what came of them; see [`palisade_tests::lockstep`].
//!
//! - `{"round":seed,"connection":id,"now":ms}`: fifty tasks ask for the token, each at a moment of its own.
//! - `{"pass":ms}`: so much time passes.
#![allow(clippy::indexing_slicing, reason = "a field that JSON lacks is null")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palisade_core::auth::flow::{Flow, RenewalAsk, RenewalFailure, RenewalPolicy, RevocationAsk};
use palisade_core::auth::grant::Tokens;
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::{Credential, CredentialSource};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::{LayeredStore, Revocation};
use palisade_core::transport::HttpTransport;
use palisade_core::{Clock, ConnectionId, Error, Random, Timestamp};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_tests::lockstep::{self, Closing, Slow, say};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Tasks that ask.
const TASKS: u64 = 50;
/// The span they begin to ask in.
const SPAN: Duration = Duration::from_secs(45);
/// The longest an operation of the store is held up, before it and after it.
const SLOW: Duration = Duration::from_millis(700);

type Failed = Box<dyn std::error::Error>;

/// Says when it asks the provider, so that the test knows whom to kill.
#[derive(Debug)]
struct Telling(OAuth2Flow);

#[async_trait]
impl Flow for Telling {
    fn policy(&self) -> RenewalPolicy {
        self.0.policy()
    }

    async fn renew(&self, asked: RenewalAsk) -> Result<Tokens, RenewalFailure> {
        say(&json!({ "asks": true }));
        self.0.renew(asked).await
    }

    async fn revoke(&self, asked: RevocationAsk) -> Result<Revocation, Error> {
        self.0.revoke(asked).await
    }
}

struct Renewer {
    number: u64,
    store: SqliteStore,
    flow: Arc<Telling>,
}

impl Renewer {
    /// Begins a round; returns what tells that its store is at rest.
    fn begin(&self, seed: u64, connection: &str, now: i64) -> Result<watch::Receiver<usize>, Error> {
        let random = |salt: u64| SeededRandom::new(seed.wrapping_mul(1_000) + self.number * 10 + salt);
        let clock = Arc::new(TokioClock::starting_at(Timestamp(now)));
        let slow = Slow::up_to(SLOW, random(0));
        let at_work = slow.at_work();
        let store = Arc::new(LayeredStore { inner: self.store.clone(), layer: slow });
        let vault = lockstep::vault(store.clone());
        let source = TokenSource::builder(store, vault, clock.clone(), Arc::new(random(1)))
            .flow("slack", self.flow.clone())
            .build()?;
        let waits = random(2);
        for task in 0..TASKS {
            let (source, clock, connection) = (source.clone(), clock.clone(), ConnectionId::new(connection));
            let wait = SPAN.mul_f64(waits.unit());
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let answer = source.credential(connection).await;
                let at = clock.now().millis();
                say(&match answer {
                    Ok(credential) => json!({ "seed": seed, "task": task, "at": at, "token": sent(&credential) }),
                    Err(error) => json!({ "seed": seed, "task": task, "at": at, "error": error.message() }),
                });
            });
        }
        Ok(at_work)
    }
}

/// The token a credential puts on a request.
fn sent(credential: &Credential) -> String {
    let mut request = http::Request::new(());
    let applied = credential.apply(&mut request);
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    applied.ok().and(header).unwrap_or_default().trim_start_matches("Bearer ").to_owned()
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, base_url, number] =
        <[String; 3]>::try_from(arguments).map_err(|_| "usage: renewer <database> <base URL> <number>")?;
    let _still = lockstep::hold();
    let transport = Arc::new(Closing(HttpTransport::builder().build()?));
    let renewer = Renewer {
        number: number.parse()?,
        store: SqliteStore::open(SqliteConfig::at(database))?,
        flow: Arc::new(Telling(OAuth2Flow::new(lockstep::flow(&base_url), transport)?)),
    };
    let mut orders = lockstep::orders();
    let mut stores = Vec::new();
    say(&json!({ "ready": true }));
    while let Some(order) = orders.recv().await {
        if let Some(step) = order["pass"].as_u64() {
            lockstep::pass(Duration::from_millis(step), &mut stores).await;
            say(&json!({ "passed": true }));
        } else if let (Some(seed), Some(connection), Some(now)) =
            (order["round"].as_u64(), order["connection"].as_str(), order["now"].as_i64())
        {
            stores = vec![renewer.begin(seed, connection, now)?];
            say(&json!({ "begun": true }));
        } else {
            return Err(format!("not an order: {}", Value::to_string(&order)).into());
        }
    }
    renewer.store.close().await?;
    Ok(())
}

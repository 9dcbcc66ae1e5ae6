//! Secrets of a whole life of a connection (connect, renew, fail, disconnect) appear nowhere: not in a log at trace
//! level, an error or what stands behind it, a debug print, or a row in plain.

use std::cell::Cell;
use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::connect::{ConnectAsk, Connector, SessionAsk};
use palisade_core::auth::grant::{GrantSecrets, Renewal};
use palisade_core::auth::jwt::SigningKey;
use palisade_core::auth::oauth2::{ClientAuth, OAuth2Config, OAuth2Flow, RevocationWay};
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, MasterKeyRing, Rotation, Vault};
use palisade_core::auth::{CredentialSource, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connections, Grants};
use palisade_core::{ConnectionId, Random, Result, Secret, Timestamp, Transport};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Whether what this thread logs is kept: a paused test runs on one thread.
    static HEARD: Cell<bool> = const { Cell::new(false) };
}

/// Answers token requests with canaries, in a way that a test sets.
#[derive(Default)]
struct Provider(Mutex<(u32, Option<(u16, &'static str)>)>);

#[async_trait]
impl Transport for Provider {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        let number = state.0;
        let good = format!(
            r#"{{"access_token":"canary-access-{number}","refresh_token":"canary-refresh-{number}","expires_in":3600}}"#
        );
        let (status, body) = match &state.1 {
            Some((status, body)) => (*status, (*body).to_owned()),
            None => (200, good),
        };
        // A server that repeats what it was sent.
        let echo = String::from_utf8(request.body().to_vec()).unwrap();
        let response = Response::builder().status(status).header("set-cookie", "canary-cookie").header("x-echo", echo);
        Ok(response.body(body.into()).unwrap())
    }
}

struct Printed(String);

impl Printed {
    fn put(&mut self, value: &impl Debug) {
        self.0 += &format!("{value:?} {value:#?}\n");
    }

    fn error(&mut self, error: &(dyn std::error::Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.0 += &format!("{error} {error:?} {error:#?}\n");
            next = error.source();
        }
    }
}

/// Fails when any of it prints a secret.
#[tokio::test(start_paused = true)]
async fn no_secret_of_a_connections_life_is_printed() {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .with_filter(dynamic_filter_fn(|_, _| HEARD.get()));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    HEARD.set(true);

    let mut printed = Printed(String::new());
    let mut secrets = vec!["canary".to_owned()];
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let master_text = LocalMasterKey::generate(random.as_ref());
    secrets.push(master_text.as_str().trim_end_matches('=').to_owned());
    let master = Arc::new(MasterKeyRing::parse(master_text.as_bytes(), &random).unwrap());
    let (store, clock) =
        (Arc::new(MemoryStore::new()), Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000))));
    let vault = Arc::new(Vault::new(store.clone(), master.clone(), random.clone()));
    let provider = Arc::new(Provider::default());
    let mut config =
        OAuth2Config::new("acme", "https://id.example/a", "https://id.example/t", "https://app.example/cb", "client-1")
            .secret("canary-client-secret".into())
            .scopes(&["read"]);
    config.revocation = RevocationWay::Token("https://id.example/r".to_owned());
    config.policy.refresh_reusable = true;
    printed.put(&config);
    printed.put(&ClientAuth::Bearer("canary-platform-key".into()));
    printed.put(&SigningKey::shared(&"canary-canary-canary-canary-canary".into()).unwrap());
    printed.put(&GrantSecrets { access: "canary-a".into(), renewal: Renewal::RefreshToken("canary-r".into()) });
    printed.put(&Renewal::ServiceAccount { key: "canary-key".into(), subject: None });
    let flow = Arc::new(OAuth2Flow::new(config, provider.clone()).unwrap());
    let tokens = TokenSource::builder(store.clone(), vault.clone(), clock.clone(), random.clone())
        .flow("acme", flow.clone())
        .build()
        .unwrap();
    let connector = Connector::builder(store.clone(), vault.clone(), clock.clone(), random)
        .browser_flow(flow.clone())
        .token_source(tokens.clone())
        .build()
        .unwrap();
    let session =
        SessionAsk { tenant: "t".into(), flow: "acme".to_owned(), connection: None, scopes: None, return_to: None };
    let link = connector.open_session(session).await.unwrap();
    secrets.push(link.token.expose().to_owned());
    printed.put(&link);
    let mut ids: Vec<ConnectionId> = Vec::new();
    // Refused, and taken.
    for (answer, cookies) in [
        (None, false),
        (Some((400, r#"{"error":"invalid_grant","error_description":"canary-description"}"#)), true),
        (Some((400, r#"{"error":"odd_code","error_description":"canary-x"}"#)), true),
        (Some((500, "canary-body")), true),
        (Some((200, "canary-body")), true),
        (None, true),
    ] {
        provider.0.lock().unwrap().1 = answer;
        let begun = connector.begin(ConnectAsk::new("acme", "t".into())).await.unwrap();
        printed.put(&begun);
        let url = begun.redirect_url.expose().to_owned();
        let state = url.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap().to_owned();
        secrets.extend([state.clone(), cookie.split_once('=').unwrap().1.to_owned()]);
        let query = format!("code=canary-the-code&state={state}");
        match connector.finish("acme", &query, cookies.then_some(cookie.as_str())).await {
            Ok(connected) => {
                printed.put(&connected);
                ids.push(connected.connection.id);
            }
            Err(refused) => {
                printed.0 += &format!("{} {} {}", refused.title(), refused.happened(), refused.press());
                printed.error(&refused);
            }
        }
    }
    assert_eq!(ids.len(), 1);
    let id = ids.remove(0);
    for answer in [
        Some((400, r#"{"error":"invalid_client","error_description":"canary-description"}"#)),
        Some((503, "canary-body")),
        Some((200, r#"{"access_token":7,"refresh_token":"canary-unread"}"#)),
        None,
        Some((400, r#"{"error":"invalid_grant","error_description":"canary-description"}"#)),
    ] {
        provider.0.lock().unwrap().1 = answer;
        tokio::time::advance(Duration::from_secs(3_600)).await;
        match tokens.credential(id.clone()).await {
            Ok(credential) => printed.put(&credential),
            Err(error) => printed.error(&error),
        }
        if let Err(error) = tokens.refresh(id.clone(), 1).await {
            printed.error(&error);
        }
    }
    tokens.keys().store_credential(&id, &Scheme::Bearer("canary-api-key".into())).await.unwrap();
    printed.put(&store.credential(id.clone()).await.unwrap());
    printed.put(&store.grants(id.clone()).await.unwrap());
    // Rows in plain: what is kept of the tokens does not hold them.
    for grant in store.grants(id.clone()).await.unwrap() {
        printed.0 += &String::from_utf8_lossy(&grant.blob);
    }
    provider.0.lock().unwrap().1 = Some((400, r#"{"error":"odd_code"}"#));
    printed.put(&connector.disconnect(&id).await.unwrap());
    let rotation = Rotation::new(store.clone(), master.clone());
    printed.put(&rotation.status().await.unwrap());
    printed.put(&(rotation, connector, tokens, flow, vault, master, Secret::from("canary-secret"), store));

    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for word in ["a connection was refused", "could not be renewed", "a grant is over", "disconnected", "other_browser"]
    {
        assert!(logged.contains(word), "the log lacks {word:?}: {logged}");
    }
    printed.0 += &logged;
    for secret in &secrets {
        if let Some(at) = printed.0.find(secret.as_str()) {
            panic!("a secret is printed: …{}", &printed.0[at.saturating_sub(300)..at]);
        }
    }
}

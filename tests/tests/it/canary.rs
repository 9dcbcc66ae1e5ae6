//! Promise 7: no secret appears in a log, an error, a debug print, a page or a row. A whole story runs with secrets
//! that cannot be mistaken, everybody logs everything, and every word and byte that comes out is searched.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::random::SystemRandom;
use palisade_core::transport::HttpTransport;
use palisade_core::{ConnectionId, Secret, TenantId};
use palisade_emulator::stripe::{Fault, Seed, Stripe, StripeConfig, WebhookFaults};
use palisade_hub::{Access, ConnectionConfig, EndpointConfig, Hub, ServeSettings, Settings, serve};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use palisade_stripe::client::NewCustomer;
use palisade_tests::ear;
use palisade_tests::silence::{Said, Secrets};
use palisade_tests::stage::{CONNECTION, ENDPOINT, Running, one_effect, open, quick};
use palisade_tests::verdict::{self, record_streams};
use palisade_tests::victims::{WITHIN, within};
use tokio::net::TcpListener;
use tokio::sync::watch;

const API_KEY: &str = "sk_test_CANARYapikey51Hq8ZkLmNoPqRsTuVwXyZ";
const NEW_API_KEY: &str = "sk_test_CANARYrotated9aBcDeFgHiJkLmNoPqR";
const WEBHOOK_SECRET: &str = "whsec_CANARYwebhook7fGhJkLzXcVbNmQwErTy";
const ADMIN_TOKEN: &str = "CANARYadmin-token-4tYuIoPaSdFgHjKl";
const WRONG_TOKEN: &str = "CANARYguess-of-somebody-at-the-door";
const MASTER_KEY: [u8; 32] = *b"CANARYmasterkey\x01\x02\x03\xf0\xe1\xd2\xc3\xb4\xa5\x96\x87\x78\x69\x5a\x4b\x3c\x2d";

fn secrets() -> Secrets {
    let mut secrets = Secrets::default();
    secrets.add("the API key", API_KEY);
    secrets.add("the rotated API key", NEW_API_KEY);
    secrets.add("the webhook secret", WEBHOOK_SECRET);
    secrets.add("the admin token", ADMIN_TOKEN);
    secrets.add("a token somebody tried", WRONG_TOKEN);
    secrets.add("the master key", MASTER_KEY);
    secrets
}

/// The search itself finds a secret in every form; otherwise the canaries would say nothing.
#[test]
fn the_search_finds_a_secret_in_every_form() {
    const KEY: &str = "sk_test_CANARY/apikey+51Hq8ZkLmNoPq";
    let mut secrets = Secrets::default();
    secrets.add("another", b"something else");
    secrets.add("the key", KEY);
    let basic = STANDARD.encode(format!("user:{KEY}:and more"));
    for text in [
        format!("key={KEY}."),
        KEY.to_owned(),
        format!("Authorization: Basic {basic}"),
        format!("{:?}", KEY.as_bytes()),
        KEY.bytes().map(|byte| format!("{byte:02x}")).collect(),
        "?key=sk%5Ftest%5FCANARY%2Fapikey%2B51Hq8ZkLmNoPq".to_owned(),
    ] {
        let found = std::panic::catch_unwind(|| secrets.assert_silent("a text", text.as_bytes()));
        assert!(found.is_err(), "not found in {text}");
    }
    secrets.assert_silent("a text", &KEY.as_bytes()[1..]);
    secrets.assert_silent("nothing", b"");
}

/// Fails when a secret is logged, formatted, shown or stored: an `Authorization` header in a trace, a derived `Debug`
/// on a configuration, a token in an error, a credential that is not sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_appears_anywhere() {
    let ear = ear::listen().await;
    let mut said = Said::default();
    let folder = tempfile::tempdir().unwrap();
    let emulator = Stripe::start(StripeConfig {
        seed: 77,
        api_key: API_KEY.to_owned(),
        webhook_retries: vec![Duration::from_millis(100); 50],
        ..StripeConfig::default()
    })
    .await
    .unwrap();
    emulator.populate(&Seed {
        customers: 120,
        products: 3,
        prices: 3,
        subscriptions: 6,
        invoices: 8,
        charges: 4,
        ..Seed::default()
    });
    emulator.faults().next("GET /v1/customers", [Fault::Status(500), Fault::CutBody, Fault::ResetBefore, Fault::Pass]);
    emulator.faults().webhooks(WebhookFaults { forge: 0.3, replay: 0.3, duplicate: 0.3, ..WebhookFaults::default() });

    let path = folder.path().join("palisade.db");
    let store = open(&path).await;
    let hub = build(&store, &emulator, API_KEY, &mut said);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let _ = emulator.webhook_endpoint(&format!("{base}/webhooks/{ENDPOINT}"), WEBHOOK_SECRET, None, &["*"]);
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, hub.router(), ServeSettings::default(), stopped));
    let running = Running::start(&hub);
    let mut dice = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(77);
    for _ in 0..30 {
        emulator.random_mutation(&mut dice);
    }
    let listed = within(WITHIN, async || verdict::listed(&verdict::runs(&store).await)).await;
    assert!(listed, "{:?}", verdict::runs(&store).await);
    emulator.drain_webhooks().await;

    calls_that_fail(&hub, &emulator, &mut said).await;
    let pages = pages(&base, &store).await;
    running.stop().await;

    // A new key for the same connection: the old one is gone from the rows, too.
    emulator.set_api_key(NEW_API_KEY);
    let rotated = build(&store, &emulator, NEW_API_KEY, &mut said);
    Running::start(&rotated).stop().await;
    said.error(&SqliteStore::open(SqliteConfig::at(folder.path())).unwrap_err());
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    stop.send(true).unwrap();
    server.await.unwrap();
    store.close().await.unwrap();
    emulator.shutdown().await;
    let heard = ear.heard();
    let secrets = secrets();

    for expected in ["palisade", "hyper", "reqwest", "customers"] {
        assert!(heard.contains(expected), "the ear did not hear {expected} in {} bytes", heard.len());
    }
    assert!(files.iter().any(|(name, _)| name.ends_with("-wal")), "there is no WAL to search");
    println!("searched {} bytes of log, {} of pages, {} of errors", heard.len(), pages.len(), said.as_str().len());
    secrets.assert_silent("the log", heard.as_bytes());
    secrets.assert_silent("an error or a debug print", said.as_str().as_bytes());
    secrets.assert_silent("a page", pages.as_bytes());
    for (name, bytes) in files {
        secrets.assert_silent(&name, &bytes);
    }
    secrets.assert_silent("the closed database", &std::fs::read(&path).unwrap());
}

fn build(store: &SqliteStore, emulator: &Stripe, api_key: &str, said: &mut Said) -> Hub {
    let connection = ConnectionConfig {
        environment: Default::default(),
        id: ConnectionId::new(CONNECTION),
        tenant: TenantId::new("acme"),
        provider: "stripe".to_owned(),
        account: None,
        base_url: Some(emulator.base_url().to_owned()),
        credential: Scheme::Bearer(Secret::new(api_key)).into(),
    };
    let endpoint = EndpointConfig {
        name: ENDPOINT.to_owned(),
        provider: "stripe".to_owned(),
        connection: ConnectionId::new(CONNECTION),
        secrets: vec![Secret::new(WEBHOOK_SECRET)],
    };
    let settings = Settings { access: Access::Token(Secret::new(ADMIN_TOKEN)), metrics_open: false, ..quick(50) };
    let key = LocalMasterKey::new(&MASTER_KEY.into(), Arc::new(SystemRandom)).unwrap();
    said.value(&key);
    said.error(&LocalMasterKey::parse(API_KEY.as_bytes(), Arc::new(SystemRandom)).unwrap_err());
    said.value(&connection);
    said.value(&endpoint);
    said.value(&settings);
    said.value(&store);
    let builder = Hub::builder()
        .provider(StripeProvider::new())
        .store(Arc::new(store.clone()))
        .transport(Arc::new(HttpTransport::builder().build().unwrap()))
        .master_key(Arc::new(key))
        .connection(connection.clone())
        .endpoint(endpoint)
        .on("*", one_effect(Duration::ZERO))
        .settings(settings);
    said.value(&builder);
    let hub = builder.build().unwrap();
    said.value(&hub);
    said.value(&hub.worker());
    said.value(&hub.runner());
    said.value(&hub.client("stripe"));
    // A configuration that is refused says why without the secret in it.
    let twice = Hub::builder().provider(StripeProvider::new()).connection(connection.clone()).connection(connection);
    said.error(&twice.build().unwrap_err());
    hub
}

async fn calls_that_fail(hub: &Hub, emulator: &Stripe, said: &mut Said) {
    let transport = Arc::new(hub.client("stripe").unwrap().clone());
    let stripe = palisade_stripe::Stripe::new(transport, CONNECTION, "acme").at(emulator.base_url()).unwrap();
    said.value(&stripe);
    let route = "POST /v1/customers";
    for fault in [Fault::Status(500), Fault::StatusAfter(500), Fault::CutBody, Fault::ResetAfter, Fault::Status(400)] {
        emulator.faults().next(route, std::iter::repeat_n(fault.clone(), 3));
        let failed = stripe.create_customer(NewCustomer::new().email("canary@example.com"), None).await;
        if let Err(error) = failed {
            said.error(&error);
        }
        emulator.faults().clear(route);
    }
    let elsewhere = stripe.clone().at("http://127.0.0.1:9").unwrap();
    said.error(&elsewhere.create_customer(NewCustomer::new(), None).await.unwrap_err());
    emulator.revoke_key();
    said.error(&stripe.create_customer(NewCustomer::new(), None).await.unwrap_err());
}

/// Reads every page with the token, and what those see who have none or a wrong one.
async fn pages(base: &str, store: &SqliteStore) -> String {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut paths: Vec<String> = [
        "/",
        "/login",
        "/metrics",
        "/healthz",
        "/readyz",
        "/style.css",
        "/api/v1/health",
        "/api/v1/connections",
        "/api/v1/events",
        "/api/v1/runs",
        "/api/v1/jobs",
        "/api/v1/calls",
        "/nothing",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(format!("/api/v1/connections/{CONNECTION}"));
    paths
        .extend(record_streams().into_iter().map(|stream| format!("/api/v1/records/{CONNECTION}/{stream}?limit=1000")));
    let events = verdict::all_events(store).await;
    assert!(events.len() >= 30, "{} events", events.len());
    paths.extend(events.iter().map(|event| format!("/api/v1/events/{}", event.row.0)));
    let mut text = String::new();
    // The wrong token comes last: after ten of them this address is told to wait.
    for token in [Some(ADMIN_TOKEN), None, Some(WRONG_TOKEN)] {
        for path in &paths {
            let request = client.get(format!("{base}{path}"));
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let answer = request.send().await.unwrap();
            let open = answer.status().is_success();
            assert!(
                token != Some(ADMIN_TOKEN) || open || path == "/nothing" || path == "/login",
                "{path}: {}",
                answer.status()
            );
            text.push_str(&format!("{path} {:?}\n", answer.headers()));
            text.push_str(&answer.text().await.unwrap());
        }
    }
    for token in [ADMIN_TOKEN, WRONG_TOKEN] {
        let form = client.post(format!("{base}/login")).header("content-type", "application/x-www-form-urlencoded");
        let answer = form.body(format!("token={token}")).send().await.unwrap();
        text.push_str(&format!("{:?}\n", answer.headers()));
        text.push_str(&answer.text().await.unwrap());
    }
    text
}

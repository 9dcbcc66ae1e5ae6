//! A hub with an outbox to be killed: `sender <folder> <base URL of the Twilio emulator> <address to listen on>`. It
//! prints its address as JSON on its first line and stops in order when its standard input closes.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::transport::HttpTransport;
use palisade_emulator::twilio::TwilioConfig;
use palisade_hub::{ConnectionConfig, ServeSettings, serve};
use palisade_tests::stage;
use palisade_twilio::TwilioProvider;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};

/// How long the predecessor's port may stay taken.
const PORT_WITHIN: Duration = Duration::from_secs(10);

type Failed = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, base_url, listen]: [String; 3] =
        arguments.try_into().map_err(|_| "usage: sender <folder> <base URL> <listen>")?;
    let listener = bind(&listen).await?;
    let store = stage::open(&PathBuf::from(folder).join("palisade.db")).await;
    let account = TwilioConfig::default();
    let connection = ConnectionConfig {
        environment: Default::default(),
        id: "sms".into(),
        tenant: "acme".into(),
        provider: "twilio".to_owned(),
        account: None,
        base_url: Some(base_url.clone()),
        credential: Scheme::Basic { user: account.account_sid, password: account.auth_token.into() }.into(),
    };
    let transport = Arc::new(HttpTransport::builder().build()?);
    // Nobody is at the address of the tests' Stripe: only messages are sent here.
    let hub = stage::hub(Arc::new(store.clone()), transport, "http://127.0.0.1:9", "sk_none")
        .provider(TwilioProvider::new())
        .connection(connection)
        .settings(stage::quick(20))
        .build()?;
    let (stop, stopped) = watch::channel(false);
    let address = listener.local_addr()?;
    let runner = tokio::spawn(hub.runner().run(stopped.clone()));
    let server = tokio::spawn(serve(listener, hub.router(), ServeSettings::default(), stopped));
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "address": address.to_string() }))?;

    let _ = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await;
    stop.send(true)?;
    runner.await??;
    server.await?;
    store.close().await?;
    Ok(())
}

async fn bind(listen: &str) -> Result<TcpListener, Failed> {
    let bound = Instant::now() + PORT_WITHIN;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return Ok(listener),
            Err(error) if Instant::now() > bound => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

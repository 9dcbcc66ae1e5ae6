//! A hub to be killed: `victim <folder> <base URL of the emulator> <address to listen on>`. It prints its address as
//! JSON on its first line, writes one effect per event, and stops in order when its standard input closes.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::transport::HttpTransport;
use palisade_hub::{ServeSettings, serve};
use palisade_tests::stage;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long an event's handler takes: long enough to be killed in.
const HANDLING: Duration = Duration::from_millis(15);
/// Records per page: many pages, so that there are many moments to be killed at.
const PAGE_SIZE: u32 = 20;
/// How long the predecessor's port may stay taken: by a provider's connection that found itself, for instance.
const PORT_WITHIN: Duration = Duration::from_secs(10);

type Failed = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let [folder, base_url, listen] = arguments()?;
    let listener = bind(&listen).await?;
    let store = stage::open(&PathBuf::from(folder).join("palisade.db")).await;
    let mut settings = stage::quick(PAGE_SIZE);
    // The provider's list of events is walked all the time: what was dropped is found while others are delivered.
    settings.worker.incremental_every = Duration::from_secs(1);
    let api_key = palisade_emulator::stripe::StripeConfig::default().api_key;
    let hub = stage::hub(Arc::new(store.clone()), Arc::new(HttpTransport::builder().build()?), &base_url, &api_key)
        .on("*", stage::one_effect(HANDLING))
        .settings(settings)
        .build()?;
    let (stop, stopped) = watch::channel(false);
    let address = listener.local_addr()?;
    let server = tokio::spawn(serve(listener, hub.router(), ServeSettings::default(), stopped.clone()));
    let runner = tokio::spawn(hub.runner().run(stopped));
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "address": address.to_string() }))?;

    // Whoever started it is gone or wants an end.
    let _ = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await;
    stop.send(true)?;
    runner.await??;
    server.await?;
    store.close().await?;
    Ok(())
}

fn arguments() -> Result<[String; 3], Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments.try_into().map_err(|_| "usage: victim <folder> <base URL> <listen>".into())
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

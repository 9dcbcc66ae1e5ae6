//! A hub to be killed: `victim <folder> <base URL of the emulator> <address to listen on> [--no-read-ahead] [--fuse=…]
//! [--hold=FILE]`. It prints its address as JSON on its first line, writes one effect per event, and stops in order when
//! its standard input closes. With a fuse it ends or stops itself at a moment of its own work
//! ([`palisade_tests::fuse`]); with a file to be held by it waits in the midst of it ([`palisade_tests::hold`]).

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::store::LayeredStore;
use palisade_core::transport::HttpTransport;
use palisade_core::worker::{Handled, Handler, handler};
use palisade_hub::{ServeSettings, serve};
use palisade_tests::fuse::{self, Fuse, Fused, HANDLER};
use palisade_tests::hold::{Hold, Holding};
use palisade_tests::stage::{self, EFFECT};
use palisade_tests::victims::NO_READ_AHEAD;
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
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if fuse::stops_another(&arguments)? {
        return Ok(());
    }
    let fuse = Fuse::take(&mut arguments)?;
    let hold = Hold::take(&mut arguments);
    let all = arguments.len();
    arguments.retain(|argument| argument != NO_READ_AHEAD);
    let read_ahead = arguments.len() == all;
    let [folder, base_url, listen] = <[String; 3]>::try_from(arguments)
        .map_err(|_| "usage: victim <folder> <base URL> <listen> [--no-read-ahead] [--fuse=…] [--hold=FILE]")?;
    let listener = bind(&listen).await?;
    let database = PathBuf::from(folder).join("palisade.db");
    let fuse = fuse.leaving(&database);
    let store = stage::open(&database).await;
    let mut settings = stage::quick(PAGE_SIZE);
    // The provider's list of events is walked all the time: what was dropped is found while others are delivered.
    settings.worker.incremental_every = Duration::from_secs(1);
    settings.worker.read_ahead = read_ahead;
    let api_key = palisade_emulator::stripe::StripeConfig::default().api_key;
    let fused = Arc::new(LayeredStore { inner: store.clone(), layer: fuse.clone() });
    let fused_transport = Fused { inner: HttpTransport::builder().build()?, fuse: fuse.clone() };
    let transport = Arc::new(Holding { inner: fused_transport, hold: hold.clone() });
    let hub =
        stage::hub(fused, transport, &base_url, &api_key).on("*", one_effect(fuse, hold)).settings(settings).build()?;
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

/// As [`stage::one_effect`], with a fuse around its waiting, and held before it.
fn one_effect(fuse: Fuse, hold: Hold) -> impl Handler {
    handler(move |event, context| {
        let (fuse, hold) = (fuse.clone(), hold.clone());
        Box::pin(async move {
            hold.pass(event.event.id.as_str()).await;
            context.effect(EFFECT, vec![event.event.id.as_str().into()]);
            fuse.around(HANDLER, sleep(HANDLING)).await;
            Handled::Done
        })
    })
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

//! `palisade demo`: tells the story and shows what came of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use palisade_core::{Error, ErrorKind};

use super::{Failure, runtime, say, signal};
use crate::demo::{self, Kept, Progress, Story, tell};

/// What a story is begun with unless told otherwise.
const BEGUN: Kept = Kept { seed: 7, customers: 10_000, webhooks: 2_000 };

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade demo
  palisade demo --exit --customers 500 --webhooks 200
  palisade demo --data story";

/// What `palisade demo` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ends after the story, with status 0 only if every promise held. Otherwise the status page stays up until Ctrl-C.
    #[arg(long)]
    exit: bool,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    /// Repeats a run: identifiers, contents and what happens at the provider follow from it [default: 7].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Customers at Stripe before the story begins [default: 10000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    customers: Option<u32>,
    /// Events that happen at Stripe meanwhile, each sent as a signed webhook [default: 2000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(50..=1_000_000))]
    webhooks: Option<u32>,
    /// Where the hub listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keeps the story in this folder, to look at it afterwards; a folder that holds one already goes on with it, also
    /// after `kill -9`. A new folder under the temporary one otherwise.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.listen.ip().is_loopback() {
        return Err(Failure::usage(
            "the demo's pages are open to whoever reaches them: --listen takes a loopback address",
        ));
    }
    // Kept until the end: dropping it removes the folder.
    let temporary = tempfile::Builder::new()
        .prefix("palisade-demo-")
        .tempdir()
        .map_err(|error| Failure::machine(format!("no temporary folder can be made: {error}")))?;
    let folder = arguments.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::machine(format!("cannot make {}: {error}", folder.display())))?;
    let kept = demo::kept(&folder).map_err(failed)?.unwrap_or(BEGUN);
    let story = Story {
        seed: arguments.seed.unwrap_or(kept.seed),
        customers: arguments.customers.map_or(kept.customers, |customers| customers as usize),
        webhooks: arguments.webhooks.map_or(kept.webhooks, u64::from),
        listen: arguments.listen,
        folder,
    };
    runtime()?.block_on(show(arguments, &story))
}

fn failed(error: Error) -> Failure {
    let usage = error.kind() == ErrorKind::Config;
    if usage { Failure::usage(error.message()) } else { Failure::machine(error.to_string()) }
}

async fn show(arguments: &Arguments, story: &Story) -> Result<(), Failure> {
    let progress = Progress::on_terminal();
    if arguments.data.is_none() {
        let folder = story.folder.display();
        progress.note(&format!("killed in mid-story, it goes on with: palisade demo --data {folder}"));
    }
    let told = tell(story, &progress).await.map_err(failed)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&told.report)
            .map_err(|error| Failure::machine(format!("the report cannot be written: {error}")))?;
        say(json);
    } else {
        say(told.report.to_text());
    }
    let held = told.report.held;
    if !arguments.exit {
        let mut stop = signal::stop();
        say(format_args!("The status page is at http://{}/ until Ctrl-C.", told.address));
        let config = demo::config_file(&story.folder);
        say(format_args!(
            "Look into it from another terminal: palisade connections list --config {}",
            config.display()
        ));
        let _ = stop.wait_for(|stop| *stop).await;
    }
    told.end().await.map_err(|error| Failure::machine(error.to_string()))?;
    if held { Ok(()) } else { Err(Failure::negative()) }
}

//! `palisade demo`: tells the story and shows what came of it.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use palisade_core::ErrorKind;

use super::{Failure, runtime, say, signal};
use crate::demo::{Progress, Story, tell};

/// What `palisade demo` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ends after the story, with status 0 only if every promise held. Otherwise the status page stays up until Ctrl-C.
    #[arg(long)]
    exit: bool,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    /// Repeats a run: identifiers, contents and what happens at the provider follow from it.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Customers at the provider before the story begins.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    customers: u32,
    /// Events that happen meanwhile, each sent as a signed webhook.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(50..=1_000_000))]
    webhooks: u32,
    /// Where the hub listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keeps the database in this folder, to look at it afterwards. A new folder under the temporary one otherwise.
    #[arg(long)]
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
    let folder = match &arguments.data {
        Some(folder) if folder.join("palisade.db").exists() => {
            return Err(Failure::usage(format!(
                "{} holds a database already: a story begins with an empty folder",
                folder.display()
            )));
        }
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::machine(format!("cannot make {}: {error}", folder.display())))?;
            folder.clone()
        }
        None => temporary.path().to_owned(),
    };
    let story = Story {
        seed: arguments.seed,
        customers: arguments.customers as usize,
        webhooks: u64::from(arguments.webhooks),
        listen: arguments.listen,
        folder,
    };
    runtime()?.block_on(show(arguments, &story))
}

async fn show(arguments: &Arguments, story: &Story) -> Result<(), Failure> {
    let on_terminal = std::io::stderr().is_terminal();
    let progress = if on_terminal { Progress::on_terminal() } else { Progress::silent() };
    let told = tell(story, &progress).await.map_err(|error| {
        let usage = error.kind() == ErrorKind::Config;
        if usage { Failure::usage(error.to_string()) } else { Failure::machine(error.to_string()) }
    })?;
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
        let _ = stop.wait_for(|stop| *stop).await;
    }
    told.end().await.map_err(|error| Failure::machine(error.to_string()))?;
    if held { Ok(()) } else { Err(Failure::negative()) }
}

//! `palisade sync`: brings a connection up to date now, and waits for it if asked to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, ConnectionState, Records, Run, RunId, RunMode, RunState, StreamKey};
use palisade_core::sync::{StreamKind, StreamSpec};
use palisade_core::worker::Worker;
use palisade_core::{ConnectionId, Error, ErrorKind, StreamName, Transport};
use serde_json::json;
use tokio::time::Instant;

use super::out::{age, bar, document};
use super::place::{Opened, Place, specs, store_failure, with_store};
use super::runs::{did, state};
use super::{Failure, say};
use crate::routes::runs::RunOut;

/// How often the runs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Runs looked at.
const RUNS: u32 = 500;
/// After this long without anybody at work it is said what may be missing.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The connection.
    connection: String,
    /// One stream; all of them otherwise.
    stream: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Lists everything anew instead of what changed.
    #[arg(long)]
    full: bool,
    /// Waits until the runs have ended.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most: 10m, 2h.
    #[arg(long, requires = "wait", value_parser = age)]
    timeout: Option<Duration>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

/// Nothing is sent from here: runs are made by a hub.
#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, _: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        Err(Error::new(ErrorKind::Config, "nothing is sent from the command line"))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    with_store(&arguments.place, async |opened| sync(opened, arguments).await)
}

/// Chooses the streams to run. Where the provider lists its events, what changed is found by walking over those.
fn chosen(specs: &'static [StreamSpec], asked: Option<&str>, mode: RunMode) -> Result<Vec<&'static str>, String> {
    let walks = mode == RunMode::Incremental && specs.iter().any(|spec| spec.kind == StreamKind::Events);
    let kind = if walks { StreamKind::Events } else { StreamKind::Records };
    let fit: Vec<_> = specs.iter().filter(|spec| spec.kind == kind).map(|spec| spec.name).collect();
    let Some(asked) = asked else { return Ok(fit) };
    match specs.iter().find(|spec| spec.name == asked) {
        Some(spec) if spec.kind == kind => Ok(vec![spec.name]),
        Some(_) if walks => {
            Err(format!("changes of {asked} are found with those of all streams: leave it out, or add --full"))
        }
        Some(_) => Err(format!("{asked} is not listed in full: leave --full out")),
        None => {
            let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
            Err(format!("there is no stream {asked}: this connection has {}", names.join(", ")))
        }
    }
}

async fn sync(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let mode = if arguments.full { RunMode::Full } else { RunMode::Incremental };
    let connection = opened.connection(&arguments.connection).await?;
    if connection.state == ConnectionState::Disconnected {
        return Err(Failure::no(format!("{} is disconnected: reconnect it first", connection.id)));
    }
    let provider = opened.provider(&connection.provider)?;
    let streams = chosen(specs(&*provider), arguments.stream.as_deref(), mode).map_err(Failure::usage)?;
    if streams.is_empty() {
        return Err(Failure::no(format!("{} has nothing to sync", connection.provider)));
    }
    let failed = |error: Error| store_failure(&error);
    if arguments.wait {
        awake(opened, &connection, &streams).await?;
    }
    let newest = opened.store.runs(None, 1).await.map_err(failed)?.first().map_or(RunId(0), |run| run.id);
    let worker = Worker::builder(Arc::new(opened.store.clone()), Arc::new(SystemClock), Arc::new(SystemRandom))
        .provider(provider, Arc::new(Nowhere))
        .build()
        .map_err(|error| Failure::machine(error.message()))?;
    for stream in &streams {
        worker.sync_now(&connection.id, &StreamName::new(*stream), mode).await.map_err(failed)?;
    }
    if !arguments.wait {
        return if arguments.json {
            document(&json!({ "mode": mode, "streams": streams }))
        } else {
            say(format!("asked for {}: a hub that serves takes it up at once", streams.join(", ")));
            Ok(())
        };
    }
    let ended = wait(opened, &connection.id, &streams, mode, newest, arguments.timeout).await?;
    if arguments.json {
        let runs: Vec<_> = ended.iter().map(RunOut::of).collect();
        document(&json!({ "mode": mode, "streams": streams, "runs": runs }))?;
    } else {
        for run in &ended {
            say(format!("{}: {}, {}", run.key.stream, state(&run.state), did(&run.counts)));
        }
    }
    if ended.iter().all(|run| run.state == RunState::Done) { Ok(()) } else { Err(Failure::negative()) }
}

/// Refuses to wait for what does not run until somebody acts.
async fn awake(opened: &Opened, connection: &Connection, streams: &[&'static str]) -> Result<(), Failure> {
    let id = &connection.id;
    let why = match &connection.state {
        ConnectionState::Active => None,
        ConnectionState::Paused => Some(format!("{id} is paused: resume it first, or leave --wait out")),
        ConnectionState::NeedsReconnect { .. } | ConnectionState::Disconnected => {
            Some(format!("{id} must be connected again first, or leave --wait out"))
        }
    };
    if let Some(why) = why {
        return Err(Failure::no(why));
    }
    for stream in streams {
        let key = StreamKey { connection: id.clone(), stream: StreamName::new(*stream) };
        let status = opened.store.stream(key).await.map_err(|error| store_failure(&error))?;
        if status.paused_at.is_some() {
            return Err(Failure::no(format!("{stream} of {id} is paused: resume it first, or leave --wait out")));
        }
    }
    Ok(())
}

/// Waits until each stream's run that was under way when it was asked for, or that came after, has ended.
async fn wait(
    opened: &Opened,
    connection: &ConnectionId,
    streams: &[&'static str],
    mode: RunMode,
    newest: RunId,
    timeout: Option<Duration>,
) -> Result<Vec<Run>, Failure> {
    let began = Instant::now();
    let bar = bar(None, "{spinner} {elapsed} {msg}");
    let (mut seen, mut warned) = (Vec::new(), false);
    loop {
        let runs = opened.store.runs(Some(connection.clone()), RUNS).await.map_err(|error| store_failure(&error))?;
        let ours = |run: &&Run| {
            // One that was under way at the beginning is ours too: it stands in the place of a new one.
            run.mode == mode && (run.id > newest || run.state == RunState::Running || seen.contains(&run.id))
        };
        let of =
            |stream: &&'static str| runs.iter().filter(ours).find(|run| run.key.stream.as_str() == *stream).cloned();
        let found: Vec<Run> = streams.iter().filter_map(of).collect();
        seen = found.iter().map(|run| run.id).collect();
        if found.len() == streams.len() && found.iter().all(|run| run.state != RunState::Running) {
            bar.finish_and_clear();
            return Ok(found);
        }
        let told: Vec<String> = found
            .iter()
            .map(|run| format!("{}: {}, {} pages, {}", run.key.stream, state(&run.state), run.pages, did(&run.counts)))
            .collect();
        bar.set_message(if told.is_empty() { "nobody has taken it up yet".to_owned() } else { told.join("; ") });
        bar.tick();
        if found.is_empty() && !warned && began.elapsed() >= PATIENCE {
            warned = true;
            tell("nobody has taken it up yet: is `palisade serve` running on this database?", &bar);
        }
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            bar.abandon();
            return Err(Failure::no("it has not ended in that time: it goes on, `palisade runs list` shows it"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes a line for people beside the progress.
fn tell(line: &str, bar: &indicatif::ProgressBar) {
    use std::io::Write as _;
    bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "palisade: {line}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when a stream is asked for in a way that its provider does not have: the run would do nothing for ever.
    #[test]
    fn what_changed_is_found_by_events_where_there_are_some() {
        let stripe = palisade_stripe::StripeProvider::new();
        let google = palisade_google::GoogleProvider::new();
        let (stripe, google) = (specs(&stripe), specs(&google));
        assert_eq!(chosen(stripe, None, RunMode::Incremental).unwrap(), ["events"]);
        assert!(chosen(stripe, None, RunMode::Full).unwrap().contains(&"customers"));
        assert!(!chosen(stripe, None, RunMode::Full).unwrap().contains(&"events"));
        assert_eq!(chosen(stripe, Some("customers"), RunMode::Full).unwrap(), ["customers"]);
        for (stream, mode, word) in [
            ("customers", RunMode::Incremental, "--full"),
            ("events", RunMode::Full, "leave --full out"),
            ("nothing", RunMode::Full, "customers"),
        ] {
            let refused = chosen(stripe, Some(stream), mode).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        assert!(!chosen(google, None, RunMode::Incremental).unwrap().is_empty());
    }
}

//! `palisade sync`: brings a connection up to date now, and waits for it if asked to; tells what that would do; pauses,
//! resumes and resets single streams.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::HumanDuration;
use palisade_core::store::{Connection, ConnectionState, Records, Run, RunId, RunMode, RunState, StreamKey};
use palisade_core::sync::dry_run::{DRY_RUN_PAGES_MAX, DryRun};
use palisade_core::sync::{Stop, StreamKind, StreamSpec};
use palisade_core::{ConnectionId, ErrorKind, StreamName};
use serde_json::json;
use tokio::time::Instant;

use super::asked::{Ask, OfStream, age};
use super::out::{bar, clean, count, document};
use super::place::{Opened, now, specs, with_store};
use super::runs::{did, state};
use super::{Failure, say};
use crate::routes::runs::{DRY_RUN_PAGES, RunOut};

/// How often the runs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Runs looked at.
const RUNS: u32 = 500;
/// After this long without anybody at work it is said what may be missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade sync acme-stripe --wait --timeout 10m
  palisade sync acme-stripe customers --full --wait
  palisade sync acme-stripe customers --full --dry-run
  palisade sync pause acme-stripe customers
  palisade sync reset acme-stripe customers";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The connection, by its id.
    #[arg(required = true)]
    connection: Option<String>,
    /// One stream; all of them otherwise.
    stream: Option<String>,
    /// Lists everything anew instead of what changed.
    #[arg(long)]
    full: bool,
    /// Writes nothing: reads the first pages from the provider, and tells what a run would do. It needs the secrets the
    /// configuration names.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Pages of each stream a dry run reads at most.
    #[arg(long, value_name = "N", requires = "dry_run", default_value_t = DRY_RUN_PAGES,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DRY_RUN_PAGES_MAX)))]
    pages: u32,
    /// Waits until the runs have ended, and shows how far they are, how fast, and how long the rest takes where the
    /// provider tells how much there is.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most: 10m, 2h.
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = age)]
    timeout: Option<Duration>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pauses a stream: a run under way stops behind its page and goes on there; events are applied all the same.
    Pause(OfStream),
    /// Lets a paused stream run again, now.
    Resume(OfStream),
    /// Forgets a stream's position and its unfinished run, and has everything read anew.
    Reset {
        #[command(flatten)]
        of: OfStream,
        /// Deletes every record of it first, which the feed tells one by one.
        #[arg(long)]
        records: bool,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Some(Command::Pause(of)) => with_store(&of.ask.place, async |opened| turn(opened, of, true).await),
        Some(Command::Resume(of)) => with_store(&of.ask.place, async |opened| turn(opened, of, false).await),
        Some(Command::Reset { of, records }) => {
            with_store(&of.ask.place, async |opened| reset(opened, of, *records).await)
        }
        None => with_store(&arguments.ask.place, async |opened| sync(opened, arguments).await),
    }
}

async fn turn(opened: &Opened, of: &OfStream, pause: bool) -> Result<(), Failure> {
    let StreamKey { connection, stream } = opened.stream(&of.connection, &of.stream).await?;
    let worker = opened.worker()?;
    if pause {
        worker.pause_stream(&connection, &stream).await?;
    } else {
        worker.resume_stream(&connection, &stream).await?;
    }
    if of.ask.json {
        return document(&json!({ "paused": pause }));
    }
    say(if pause {
        format!("paused {stream} of {connection}")
    } else {
        format!("resumed {stream} of {connection}: a hub that serves runs it now")
    });
    Ok(())
}

async fn reset(opened: &Opened, of: &OfStream, records: bool) -> Result<(), Failure> {
    let StreamKey { connection, stream } = opened.stream(&of.connection, &of.stream).await?;
    let deleted = opened.worker()?.reset_stream(&connection, &stream, records).await?;
    if of.ask.json {
        return document(&json!({ "reset": true, "records_deleted": deleted }));
    }
    let deleted = if records { format!(", {} deleted", count(deleted, "record", "records")) } else { String::new() };
    say(format!("reset {stream} of {connection}{deleted}: a hub that serves reads everything anew"));
    Ok(())
}

/// Chooses the streams to run. Where the provider lists its events, what changed is found by walking over those.
fn chosen(specs: &'static [StreamSpec], asked: Option<&str>, mode: RunMode) -> Result<Vec<&'static str>, Failure> {
    let walks = mode == RunMode::Incremental && specs.iter().any(|spec| spec.kind == StreamKind::Events);
    let kind = if walks { StreamKind::Events } else { StreamKind::Records };
    let fit: Vec<_> = specs.iter().filter(|spec| spec.kind == kind).map(|spec| spec.name).collect();
    let Some(asked) = asked else { return Ok(fit) };
    match specs.iter().find(|spec| spec.name == asked) {
        Some(spec) if spec.kind == kind => Ok(vec![spec.name]),
        Some(_) if walks => {
            let how = "are found with those of all streams: leave it out, or add --full";
            Err(Failure::usage(format!("changes of {asked} {how}")))
        }
        Some(_) => Err(Failure::usage(format!("{asked} is not listed in full: leave --full out"))),
        None => {
            let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
            Err(Failure::no(format!("there is no stream {asked}: this connection has {}", names.join(", "))))
        }
    }
}

async fn sync(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let mode = if arguments.full { RunMode::Full } else { RunMode::Incremental };
    // Required where no other word is said; clap sees to it.
    let named = arguments.connection.as_deref().unwrap_or_default();
    let connection = opened.connection(named).await?;
    if connection.state == ConnectionState::Disconnected {
        return Err(Failure::no(format!("{} is disconnected: reconnect it first", connection.id)));
    }
    let provider = opened.provider(&connection.provider)?;
    let streams = chosen(specs(&*provider), arguments.stream.as_deref(), mode)?;
    if streams.is_empty() {
        return Err(Failure::no(format!("{} has nothing to sync", connection.provider)));
    }
    if arguments.dry_run {
        return dry_run(opened, &connection, &streams, mode, arguments).await;
    }
    awake(opened, &connection, &streams).await?;
    let newest = opened.store.runs(None, 1).await?.first().map_or(RunId(0), |run| run.id);
    let worker = opened.worker()?;
    let mut asked = Vec::with_capacity(streams.len());
    for stream in &streams {
        let run = worker.sync_now(&connection.id, &StreamName::new(*stream), mode).await?;
        asked.push((*stream, run));
    }
    if !arguments.wait {
        return if arguments.ask.json {
            document(&json!({ "mode": mode, "streams": streams }))
        } else {
            say(format!("asked for {}: a hub that serves takes it up at once", streams.join(", ")));
            Ok(())
        };
    }
    let ended = wait(opened, &connection.id, &asked, newest, arguments).await?;
    if arguments.ask.json {
        let runs: Vec<_> = ended.iter().map(RunOut::of).collect();
        document(&json!({ "mode": mode, "streams": streams, "runs": runs }))?;
    } else {
        for run in &ended {
            say(format!("{}: {}, {}", run.key.stream, state(&run.state), did(&run.counts)));
        }
    }
    if ended.iter().all(|run| run.state == RunState::Done) { Ok(()) } else { Err(Failure::negative()) }
}

/// Tells what runs would do, without writing anything.
async fn dry_run(
    opened: &Opened,
    connection: &Connection,
    streams: &[&'static str],
    mode: RunMode,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let read = opened
        .with_hub(async |hub| {
            let mut read: Vec<(&'static str, Result<DryRun, Stop>)> = Vec::with_capacity(streams.len());
            for stream in streams {
                let name = StreamName::new(*stream);
                let told = hub.worker().dry_run(&connection.id, &name, mode, arguments.pages).await;
                let told = match told {
                    Err(error) if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) => {
                        return Err(error.into());
                    }
                    told => told.map_err(|error| Stop::of(&error, &name, now())),
                };
                read.push((stream, told));
            }
            Ok(read)
        })
        .await?;
    if arguments.ask.json {
        let told: Vec<_> = read
            .iter()
            .map(|(stream, told)| match told {
                Ok(dry_run) => json!({ "stream": stream, "dry_run": dry_run }),
                Err(stop) => json!({ "stream": stream, "stop": stop, "why": stop.sentence() }),
            })
            .collect();
        document(&json!({ "mode": mode, "streams": told }))?;
    } else {
        for (stream, told) in &read {
            match told {
                Ok(dry_run) => say(format!("{stream}: {}", would(dry_run))),
                Err(stop) => say(format!("{stream}: it could not be read: {}", stop.sentence())),
            }
        }
        say("nothing was written");
    }
    if read.iter().all(|(_, told)| told.is_ok()) { Ok(()) } else { Err(Failure::negative()) }
}

/// Says what a run would do, in words.
fn would(dry_run: &DryRun) -> String {
    let pages = count(u64::from(dry_run.pages), "page", "pages");
    let mut told = if dry_run.complete { format!("{pages}, all there are: ") } else { format!("the first {pages}: ") };
    told.push_str(&did(&dry_run.counts));
    for (number, what) in [
        (dry_run.to_fetch, "to be fetched"),
        (dry_run.bad, "that cannot be read"),
        (dry_run.events, "events"),
        (dry_run.unseen.unwrap_or(0), "deleted because they are not seen"),
    ] {
        if number > 0 {
            told.push_str(&format!(", {number} {what}"));
        }
    }
    for (ids, what) in [(&dry_run.added, "added"), (&dry_run.updated, "updated"), (&dry_run.deleted, "deleted")] {
        if !ids.is_empty() {
            let ids: Vec<_> = ids.iter().map(|id| clean(id.as_str())).collect();
            told.push_str(&format!("; {what}: {}", ids.join(" ")));
        }
    }
    told
}

/// Refuses what does not run until somebody acts.
async fn awake(opened: &Opened, connection: &Connection, streams: &[&'static str]) -> Result<(), Failure> {
    let id = &connection.id;
    let why = match &connection.state {
        ConnectionState::Active => None,
        ConnectionState::Paused => Some(format!("{id} is paused: resume it first")),
        ConnectionState::NeedsReconnect { .. } | ConnectionState::Disconnected => {
            Some(format!("{id} must be connected again first"))
        }
    };
    if let Some(why) = why {
        return Err(Failure::no(why));
    }
    for stream in streams {
        let key = StreamKey { connection: id.clone(), stream: StreamName::new(*stream) };
        let status = opened.store.stream(key).await?;
        if status.paused_at.is_some() {
            return Err(Failure::no(format!("{stream} of {id} is paused: `palisade sync resume` it first")));
        }
    }
    Ok(())
}

/// Waits until a run of each stream has ended that began after it was asked for: behind one under way another comes.
async fn wait(
    opened: &Opened,
    connection: &ConnectionId,
    asked: &[(&'static str, RunMode)],
    newest: RunId,
    arguments: &Arguments,
) -> Result<Vec<Run>, Failure> {
    let began = Instant::now();
    let bar = bar(None, "{spinner} {elapsed} {msg}");
    let plain = !arguments.ask.json && !std::io::stderr().is_terminal();
    let mut lines = Lines::default();
    let mut warned = false;
    loop {
        let runs = opened.store.runs(Some(connection.clone()), RUNS).await?;
        let of = |(stream, mode): &(&'static str, RunMode)| {
            let ours = |run: &&Run| run.id > newest && run.mode == *mode && run.key.stream.as_str() == *stream;
            runs.iter().find(ours).cloned()
        };
        let found: Vec<Run> = asked.iter().filter_map(of).collect();
        if found.len() == asked.len() && found.iter().all(|run| run.state != RunState::Running) {
            bar.finish_and_clear();
            return Ok(found);
        }
        let told = found.iter().map(progress).collect::<Vec<_>>().join("; ");
        if plain && lines.is_due(&told, Instant::now()) {
            tell(&told, &bar);
        }
        bar.set_message(if told.is_empty() { "nobody has taken it up yet".to_owned() } else { told });
        bar.tick();
        if found.is_empty() && !warned && began.elapsed() >= PATIENCE {
            warned = true;
            tell("nobody has taken it up yet: is `palisade serve` running on this database?", &bar);
        }
        if arguments.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            bar.abandon();
            return Err(Failure::no("it has not ended in that time: it goes on, `palisade runs list` shows it"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Says how far a run is: how many records, how fast, and how long the rest takes where the provider tells how many
/// there are.
fn progress(run: &Run) -> String {
    let (stream, seen) = (&run.key.stream, run.seen());
    let mut told = format!("{stream}: {}, ", state(&run.state));
    told.push_str(&match run.total {
        Some(total) => format!("{seen} of {}", count(total, "record", "records")),
        None => count(seen, "record", "records").to_string(),
    });
    if run.state != RunState::Running {
        return told;
    }
    if let Some(pace) = run.per_second() {
        told.push_str(&if pace < 10.0 { format!(", {pace:.1} records/s") } else { format!(", {pace:.0} records/s") });
    }
    if let Some(left) = run.remaining() {
        told.push_str(&format!(", {} left", HumanDuration(left)));
    }
    told
}

/// The progress where there is no terminal: a line when there is something new to tell, and not many of them.
#[derive(Debug, Default)]
struct Lines {
    last: Option<(Instant, String)>,
}

impl Lines {
    /// Tells whether a line is to be written, and takes it for written.
    fn is_due(&mut self, line: &str, now: Instant) -> bool {
        let is_due = !line.is_empty()
            && self.last.as_ref().is_none_or(|(at, last)| last != line && now.duration_since(*at) >= LINE_EVERY);
        if is_due {
            self.last = Some((now, line.to_owned()));
        }
        is_due
    }
}

/// Writes a line for people beside the progress.
fn tell(line: &str, bar: &indicatif::ProgressBar) {
    use std::io::Write as _;
    bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "palisade: {line}")));
}

#[cfg(test)]
mod tests {
    use palisade_core::Timestamp;
    use palisade_core::store::{MergeCounts, Missed};

    use super::*;

    /// Fails when the progress leaves out the pace, tells a rest that nobody can know, or goes on about a run that ended.
    #[test]
    fn progress_says_how_many_how_fast_and_how_long_still() {
        let run = |seen: u64, total: Option<u64>, seconds: i64, state: RunState| Run {
            id: RunId(1),
            key: StreamKey { connection: "c".into(), stream: "customers".into() },
            mode: RunMode::Full,
            state,
            cursor: None,
            pages: 1,
            counts: MergeCounts { added: seen, ..MergeCounts::default() },
            resumed: 0,
            started_at: Timestamp(0),
            progressed_at: Timestamp::from_seconds(seconds),
            finished_at: None,
            stop: None,
            began: 0,
            bad: 0,
            total,
            feed_from: None,
            feed_to: None,
            missed: Missed::default(),
        };
        for (run, expected) in [
            (run(0, None, 0, RunState::Running), "customers: running, 0 records"),
            (run(1, None, 2, RunState::Running), "customers: running, 1 record, 0.5 records/s"),
            (run(3_000, None, 12, RunState::Running), "customers: running, 3000 records, 250 records/s"),
            (
                run(3_000, Some(48_000), 12, RunState::Running),
                "customers: running, 3000 of 48000 records, 250 records/s, 3 minutes left",
            ),
            (run(0, Some(9), 60, RunState::Running), "customers: running, 0 of 9 records, 0.0 records/s"),
            (run(48_000, Some(48_000), 192, RunState::Done), "customers: done, 48000 of 48000 records"),
        ] {
            assert_eq!(progress(&run), expected);
        }
    }

    /// Fails when a log is filled with lines of progress, or what is new is told never.
    #[tokio::test(start_paused = true)]
    async fn lines_of_progress_come_seldom_and_say_something_new() {
        let mut lines = Lines::default();
        let mut told = Vec::new();
        for look in 0_u32..30 {
            let line = ["", "a", "b", "c", "c", "c"][look as usize / 5];
            if lines.is_due(line, Instant::now()) {
                told.push((look, line));
            }
            tokio::time::advance(LOOK_EVERY).await;
        }
        assert_eq!(told, [(5, "a"), (15, "c")]);
    }

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
        for (stream, mode, code, word) in [
            ("customers", RunMode::Incremental, 2, "--full"),
            ("events", RunMode::Full, 2, "leave --full out"),
            ("nothing", RunMode::Full, 1, "customers"),
        ] {
            let refused = chosen(stripe, Some(stream), mode).unwrap_err();
            assert!(refused.code == code && refused.text.contains(word), "{refused:?}");
        }
        assert!(!chosen(google, None, RunMode::Incremental).unwrap().is_empty());
    }
}

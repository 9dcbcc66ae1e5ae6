//! `palisade schedules`: how often runs and chores come, when next, and what is set for a stream.

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::ConnectionId;
use palisade_core::schedule::Schedule;
use palisade_core::store::{Connection, Connections, RunMode};
use palisade_core::worker::{ChoreStatus, SaidBy, StreamTimings, Timing};
use serde_json::json;

use super::asked::{OfStream, PageById, and_one, cut, more};
use super::out::{at, document, short, table, word};
use super::place::{Opened, with_store};
use super::{Failure, say};
use crate::routes::schedules::{ChoreOut, StreamOut, words};

/// Characters of a reason in a table.
const REASON_CHARS: usize = 60;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade schedules list --connection acme-stripe
  palisade schedules set acme-stripe events 5m
  palisade schedules set acme-stripe customers '0 3 * * * Europe/London ~30m' --mode full
  palisade schedules unset acme-stripe events";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// What changed.
    Incremental,
    /// Everything anew.
    Full,
}

impl Mode {
    fn stored(self) -> RunMode {
        match self {
            Self::Incremental => RunMode::Incremental,
            Self::Full => RunMode::Full,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the hub's chores and the streams of connections with their next runs.
    List {
        /// Of this connection only.
        #[arg(long, value_name = "ID", conflicts_with = "after")]
        connection: Option<String>,
        #[command(flatten)]
        page: PageById,
    },
    /// Sets how often a stream's runs come, in place of what the configuration says.
    Set {
        #[command(flatten)]
        of: Of,
        /// An interval (15m), or a cron expression in quotes ("0 3 * * * Europe/London ~30m").
        schedule: String,
    },
    /// Lets the configuration say again how often a stream's runs come.
    Unset(Of),
}

/// Whose schedule.
#[derive(Debug, Args)]
pub(super) struct Of {
    #[command(flatten)]
    of: OfStream,
    /// Which of its runs.
    #[arg(long, default_value = "incremental")]
    mode: Mode,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { connection, page } => {
            with_store(&page.ask.place, async |opened| list(opened, connection.as_deref(), page).await)
        }
        Command::Set { of, schedule } => {
            let schedule: Schedule = schedule.parse()?;
            with_store(&of.of.ask.place, async |opened| set(opened, of, Some(&schedule)).await)
        }
        Command::Unset(of) => with_store(&of.of.ask.place, async |opened| set(opened, of, None).await),
    }
}

async fn list(opened: &Opened, connection: Option<&str>, page: &PageById) -> Result<(), Failure> {
    let worker = opened.worker()?;
    let mut found = match connection {
        Some(id) => vec![opened.connection(id).await?],
        None => {
            let after = page.after.as_deref().map(ConnectionId::new);
            opened.store.connections(after, and_one(page.limit)).await?
        }
    };
    let next = cut(&mut found, page.limit, |connection| connection.id.clone());
    let chores = worker.chores().await?;
    let mut known: Vec<(Connection, Vec<StreamTimings>)> = Vec::with_capacity(found.len());
    for connection in found {
        let streams = worker.schedules(&connection).await?;
        known.push((connection, streams));
    }
    if page.ask.json {
        let chores: Vec<_> = chores.iter().map(ChoreOut::of).collect();
        let connections: Vec<_> = known
            .iter()
            .map(|(connection, streams)| {
                let streams: Vec<_> = streams.iter().map(StreamOut::of).collect();
                json!({ "connection": connection.id, "streams": streams })
            })
            .collect();
        return document(&json!({ "chores": chores, "connections": connections, "next_after": next }));
    }
    if connection.is_none() {
        table(["chore", "comes", "next", "last", "outcome"], chores.iter().map(chore));
        say("");
    }
    let rows = known.iter().flat_map(|(connection, streams)| streams.iter().flat_map(|one| rows(connection, one)));
    table(["connection", "stream", "mode", "runs", "said by", "next", "failing"], rows);
    more("--after", next);
    Ok(())
}

fn chore(chore: &ChoreStatus) -> [String; 5] {
    let last = chore.last.as_ref();
    [
        chore.name.clone(),
        chore.schedule.words(),
        at(chore.next_at),
        at(last.map(|last| last.ended_at)),
        last.map_or_else(String::new, |last| short(&last.outcome, REASON_CHARS)),
    ]
}

fn rows(connection: &Connection, streams: &StreamTimings) -> impl Iterator<Item = [String; 7]> {
    let row = |mode: RunMode, timing: &Timing| {
        [
            connection.id.to_string(),
            streams.stream.to_string(),
            word(&mode),
            words(timing),
            said_by(timing.said_by).to_owned(),
            at(timing.next_at),
            short(timing.failing.as_deref().unwrap_or_default(), REASON_CHARS),
        ]
    };
    let incremental = streams.incremental.as_ref().map(|timing| row(RunMode::Incremental, timing));
    let full = streams.full.as_ref().map(|timing| row(RunMode::Full, timing));
    incremental.into_iter().chain(full)
}

fn said_by(who: SaidBy) -> &'static str {
    match who {
        SaidBy::Settings => "[sync]",
        SaidBy::Rule => "[[schedule]]",
        SaidBy::Stream => "set for it",
    }
}

async fn set(opened: &Opened, asked: &Of, schedule: Option<&Schedule>) -> Result<(), Failure> {
    let of = &asked.of;
    let key = opened.stream(&of.connection, &of.stream).await?;
    let connection = opened.connection(&of.connection).await?;
    let worker = opened.worker()?;
    worker.set_schedule(&connection, &key.stream, asked.mode.stored(), schedule).await?;
    let streams = worker.schedules(&connection).await?;
    let Some(one) = streams.iter().find(|one| one.stream == key.stream) else { return Ok(()) };
    if of.ask.json {
        return document(&StreamOut::of(one));
    }
    table(["connection", "stream", "mode", "runs", "said by", "next", "failing"], rows(&connection, one));
    Ok(())
}

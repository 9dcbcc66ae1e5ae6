//! `palisade schedules`: how often runs and chores come, when next, and what is set for a stream.

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::ConnectionId;
use palisade_core::schedule::Schedule;
use palisade_core::store::{Connection, Connections, RunMode};
use palisade_core::worker::{ChoreStatus, SaidBy, StreamTimings, Timing};
use serde_json::json;

use super::out::{self, LIMIT_DEFAULT, at, document, short, table, word};
use super::place::{Opened, Place, failure, store_failure, with_store};
use super::{Failure, say};
use crate::routes::schedules::{ChoreOut, StreamOut, words};

/// Characters of a reason in a table.
const REASON_CHARS: usize = 60;

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
        #[command(flatten)]
        place: Place,
        /// Of this connection only.
        #[arg(long, conflicts_with = "after")]
        connection: Option<String>,
        /// Those of connections after this id.
        #[arg(long)]
        after: Option<String>,
        /// Of how many connections at most.
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = out::limit())]
        limit: u32,
        /// One JSON document, as `GET /api/v1/schedules` writes it.
        #[arg(long)]
        json: bool,
    },
    /// Sets how often a stream's runs come, in place of what the configuration says.
    Set {
        #[command(flatten)]
        of: Of,
        /// An interval (15m), or a cron expression in quotes ("0 3 * * * Europe/London ~30m").
        schedule: String,
    },
    /// Lets the configuration say again how often a stream's runs come.
    Unset {
        #[command(flatten)]
        of: Of,
    },
}

/// Whose schedule.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The connection.
    connection: String,
    /// The stream.
    stream: String,
    #[command(flatten)]
    place: Place,
    /// Which of its runs.
    #[arg(long, default_value = "incremental")]
    mode: Mode,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, connection, after, limit, json } => {
            with_store(place, async |opened| list(opened, connection.as_deref(), after.as_deref(), *limit, *json).await)
        }
        Command::Set { of, schedule } => {
            let schedule: Schedule =
                schedule.parse().map_err(|error: palisade_core::Error| Failure::usage(error.message()))?;
            with_store(&of.place, async |opened| set(opened, of, Some(&schedule)).await)
        }
        Command::Unset { of } => with_store(&of.place, async |opened| set(opened, of, None).await),
    }
}

async fn list(
    opened: &Opened,
    connection: Option<&str>,
    after: Option<&str>,
    limit: u32,
    as_json: bool,
) -> Result<(), Failure> {
    let failed = |error| store_failure(&error);
    let worker = opened.worker()?;
    let mut found = match connection {
        Some(id) => vec![opened.connection(id).await?],
        None => {
            let after = after.map(ConnectionId::new);
            opened.store.connections(after, limit + 1).await.map_err(failed)?
        }
    };
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let chores = worker.chores().await.map_err(failed)?;
    let mut known: Vec<(Connection, Vec<StreamTimings>)> = Vec::with_capacity(found.len());
    for connection in found {
        let streams = worker.schedules(&connection).await.map_err(failed)?;
        known.push((connection, streams));
    }
    let next = known.last().filter(|_| more).map(|(connection, _)| connection.id.as_str());
    if as_json {
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
    if let Some(next) = next {
        say(format!("more: --after {next}"));
    }
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

async fn set(opened: &Opened, of: &Of, schedule: Option<&Schedule>) -> Result<(), Failure> {
    let key = opened.stream(&of.connection, &of.stream).await?;
    let connection = opened.connection(&of.connection).await?;
    let worker = opened.worker()?;
    let set = worker.set_schedule(&connection, &key.stream, of.mode.stored(), schedule).await;
    set.map_err(|error| failure(&error))?;
    let streams = worker.schedules(&connection).await.map_err(|error| store_failure(&error))?;
    let Some(one) = streams.iter().find(|one| one.stream == key.stream) else { return Ok(()) };
    if of.json {
        return document(&StreamOut::of(one));
    }
    table(["connection", "stream", "mode", "runs", "said by", "next", "failing"], rows(&connection, one));
    Ok(())
}

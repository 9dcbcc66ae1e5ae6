//! `palisade inbox` and `palisade replay`: events, what became of them, and handling them again.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::Timestamp;
use palisade_core::store::{EventRow, EventState, Inbox, NO_CONNECTION, StoredEvent};
use serde_json::json;

use super::out::{self, LIMIT_DEFAULT, age, at, count, document, facts, short, table, word};
use super::place::{Opened, Place, now, store_failure, with_store};
use super::records::pretty;
use super::{Failure, say};
use crate::routes::api::EventOut;
use crate::time::rfc3339;

/// Events read at once.
const PAGE: u32 = 500;
/// Events looked through for those that a filter names.
const LOOKED_THROUGH: usize = 100_000;
/// Characters of a reason in a table.
const REASON_CHARS: usize = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// To be handled.
    Pending,
    /// Handled.
    Done,
    /// Kept without being wanted by anybody.
    Ignored,
    /// Given up: a dead letter.
    Dead,
}

impl State {
    fn stored(self) -> EventState {
        match self {
            Self::Pending => EventState::Pending,
            Self::Done => EventState::Done,
            Self::Ignored => EventState::Ignored,
            Self::Dead => EventState::Dead,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists events, newest first.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Filter,
        /// Those before this row.
        #[arg(long)]
        before: Option<i64>,
        /// How many at most.
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = out::limit())]
        limit: u32,
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows one event with its body.
    Show {
        /// Its row.
        row: i64,
        #[command(flatten)]
        place: Place,
        /// One JSON document, as `GET /api/v1/events/{row}` writes it.
        #[arg(long)]
        json: bool,
        /// Nothing but the body, byte by byte.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Counts dead letters by their cause.
    Dead {
        #[command(flatten)]
        place: Place,
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// In this state.
    #[arg(long)]
    state: Option<State>,
    /// Of this connection.
    #[arg(long)]
    connection: Option<String>,
    /// Of this type, or of those that begin so: `invoice.*`.
    #[arg(long = "type")]
    kind: Option<String>,
    /// Received within this time: 2h, 7d.
    #[arg(long, value_parser = age)]
    since: Option<Duration>,
    /// Received longer ago than this.
    #[arg(long, value_parser = age)]
    until: Option<Duration>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.state.is_none()
            && self.connection.is_none()
            && self.kind.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    fn takes(&self, event: &StoredEvent, now: Timestamp) -> bool {
        let kind = &event.event.kind;
        let of_kind = self.kind.as_ref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => kind.starts_with(prefix),
            None => kind == wanted,
        });
        of_kind
            && self.connection.as_ref().is_none_or(|wanted| event.connection.as_str() == wanted)
            && self.since.is_none_or(|age| event.received_at >= now.minus(age))
            && self.until.is_none_or(|age| event.received_at <= now.minus(age))
    }

    /// Finds up to `limit` events older than `before`, newest first, and tells whether all were looked at.
    async fn find(
        &self,
        opened: &Opened,
        before: Option<i64>,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, bool), Failure> {
        let (now, state) = (now(), self.state.map(State::stored));
        let (mut found, mut before, mut looked) = (Vec::new(), before.map(EventRow), 0);
        loop {
            let page = opened.store.events(state, before, PAGE).await.map_err(|error| store_failure(&error))?;
            looked += page.len();
            before = page.last().map(|last| last.row);
            let last = page.len() < PAGE as usize;
            for event in page.into_iter().filter(|event| self.takes(event, now)) {
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push(event);
            }
            if last || looked >= LOOKED_THROUGH {
                return Ok((found, last));
            }
        }
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, filter, before, limit, json } => {
            with_store(place, async |opened| list(opened, filter, *before, *limit, *json).await)
        }
        Command::Show { row, place, json, raw } => {
            with_store(place, async |opened| show(opened, *row, *json, *raw).await)
        }
        Command::Dead { place, json } => with_store(place, async |opened| dead(opened, *json).await),
    }
}

fn connection(event: &StoredEvent) -> String {
    if event.connection.as_str() == NO_CONNECTION { "-".to_owned() } else { event.connection.to_string() }
}

async fn list(opened: &Opened, filter: &Filter, before: Option<i64>, limit: u32, as_json: bool) -> Result<(), Failure> {
    let (found, whole) = filter.find(opened, before, limit as usize).await?;
    let next = found.last().filter(|_| found.len() == limit as usize).map(|last| last.row.0);
    if as_json {
        let list: Vec<_> = found.iter().map(EventOut::of).collect();
        return document(&json!({ "events": list, "next_before": next }));
    }
    let row = |event: &StoredEvent| {
        [
            event.row.0.to_string(),
            rfc3339(event.received_at),
            word(&event.state),
            event.event.kind.clone(),
            connection(event),
            event.event.id.to_string(),
            short(event.reason.as_deref().unwrap_or_default(), REASON_CHARS),
        ]
    };
    table(["row", "received", "state", "type", "connection", "event", "reason"], found.iter().map(row));
    if let Some(next) = next {
        say(format!("more: --before {next}"));
    } else if !whole {
        say(format!("only the newest {LOOKED_THROUGH} were looked through"));
    }
    Ok(())
}

async fn event(opened: &Opened, row: i64) -> Result<StoredEvent, Failure> {
    let found = opened.store.event(EventRow(row)).await.map_err(|error| store_failure(&error))?;
    found.ok_or_else(|| Failure::no(format!("there is no event {row}")))
}

async fn show(opened: &Opened, row: i64, as_json: bool, raw: bool) -> Result<(), Failure> {
    let event = event(opened, row).await?;
    let payload = &event.event.payload;
    if as_json {
        return document(&EventOut::of(&event).with_payload(payload));
    }
    if raw {
        // A reader that went away is not our failure.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(payload).and_then(|()| out.flush());
        return Ok(());
    }
    facts(&[
        ("row", event.row.0.to_string()),
        ("event", event.event.id.to_string()),
        ("type", event.event.kind.clone()),
        ("state", word(&event.state)),
        ("reason", event.reason.clone().unwrap_or_default()),
        ("endpoint", event.endpoint.to_string()),
        ("connection", connection(&event)),
        ("provider", event.provider.clone()),
        ("account", event.event.account.clone().unwrap_or_default()),
        ("created", at(event.event.created)),
        ("received", rfc3339(event.received_at)),
    ]);
    say("");
    say(pretty(payload));
    Ok(())
}

/// What dead letters have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    provider: String,
    kind: String,
    reason: String,
}

async fn dead(opened: &Opened, as_json: bool) -> Result<(), Failure> {
    let filter = Filter { state: Some(State::Dead), connection: None, kind: None, since: None, until: None };
    let (found, whole) = filter.find(opened, None, LOOKED_THROUGH).await?;
    let mut causes: BTreeMap<Cause, (u64, StoredEvent)> = BTreeMap::new();
    for event in found {
        let cause = Cause {
            provider: event.provider.clone(),
            kind: event.event.kind.clone(),
            reason: event.reason.clone().unwrap_or_default(),
        };
        // Newest first: the first of a cause is its newest.
        causes.entry(cause).or_insert((0, event)).0 += 1;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, (number, _))| std::cmp::Reverse(*number));
    if as_json {
        let list: Vec<_> = causes
            .iter()
            .map(|(cause, (number, newest))| {
                json!({
                    "provider": cause.provider, "type": cause.kind, "reason": cause.reason, "events": number,
                    "newest_row": newest.row.0, "newest_at": rfc3339(newest.received_at),
                })
            })
            .collect();
        return document(&json!({ "causes": list, "complete": whole }));
    }
    let row = |(cause, (number, newest)): &(Cause, (u64, StoredEvent))| {
        [
            number.to_string(),
            cause.provider.clone(),
            cause.kind.clone(),
            short(&cause.reason, REASON_CHARS),
            newest.row.0.to_string(),
            rfc3339(newest.received_at),
        ]
    };
    table(["events", "provider", "type", "reason", "newest", "received"], causes.iter().map(row));
    if !whole {
        say(format!("only the newest {LOOKED_THROUGH} were looked through"));
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------ replay

/// Events replayed when nothing is said.
const REPLAY_DEFAULT: u32 = 1_000;

#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The rows of the events, as `palisade inbox list` shows them.
    #[arg(conflicts_with_all = ["state", "connection", "kind", "since", "until"])]
    rows: Vec<i64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    /// How many at most, newest first.
    #[arg(long, default_value_t = REPLAY_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Changes nothing: says how many would be handled again.
    #[arg(long)]
    dry_run: bool,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn replay(arguments: &Replay) -> Result<(), Failure> {
    if arguments.rows.is_empty() && arguments.filter.is_empty() {
        return Err(Failure::usage("say which: rows, or a filter such as --state dead --type 'invoice.*' --since 2h"));
    }
    if matches!(arguments.filter.state, Some(State::Pending | State::Ignored)) {
        return Err(Failure::usage("only dead and handled events can be replayed: --state dead or --state done"));
    }
    with_store(&arguments.place, async |opened| replay_in(opened, arguments).await)
}

async fn replay_in(opened: &Opened, arguments: &Replay) -> Result<(), Failure> {
    let rows: Vec<EventRow> = if arguments.rows.is_empty() {
        let (found, _) = arguments.filter.find(opened, None, arguments.limit as usize).await?;
        let finished = |event: &&StoredEvent| matches!(event.state, EventState::Dead | EventState::Done);
        // The oldest first, so that they are handled in the order they came.
        found.iter().rev().filter(finished).map(|event| event.row).collect()
    } else {
        arguments.rows.iter().copied().map(EventRow).collect()
    };
    let (mut done, mut refused) = (0_u64, Vec::new());
    let bar = out::bar(Some(rows.len() as u64), "{bar:40} {pos} of {len} events, {eta} left");
    for row in rows {
        let replayed = if arguments.dry_run {
            let found = opened.store.event(row).await.map_err(|error| store_failure(&error))?;
            found.is_some_and(|event| matches!(event.state, EventState::Dead | EventState::Done))
        } else {
            opened.store.replay(row, now()).await.map_err(|error| store_failure(&error))?
        };
        if replayed {
            done += 1
        } else {
            refused.push(row.0)
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if arguments.json {
        document(&json!({ "replayed": done, "refused": refused, "dry_run": arguments.dry_run }))?;
    } else if arguments.dry_run {
        say(format!("would replay {}; nothing was changed", count(done, "event", "events")));
    } else {
        say(format!("replayed {}: they are handled when a hub serves", count(done, "event", "events")));
    }
    if arguments.rows.is_empty() || refused.is_empty() {
        return Ok(());
    }
    let refused: Vec<String> = refused.iter().map(i64::to_string).collect();
    Err(Failure::no(format!("there is no dead or handled event with row {}", refused.join(", "))))
}

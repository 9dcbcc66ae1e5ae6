//! `palisade inbox`: events, what became of them, and whether they are handled at all.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::Timestamp;
use palisade_core::store::{
    DeadLetters, EventRow, EventState, Inbox, NO_CONNECTION, ReplayFilter, StoredEvent, is_of_kind,
};
use serde_json::json;

use super::out::{self, LIMIT_DEFAULT, age, at, document, facts, short, table, word};
use super::place::{Opened, Place, now, store_failure, with_store};
use super::records::pretty;
use super::{Failure, dismiss, halts, say};
use crate::routes::api::EventOut;
use crate::routes::inbox::CauseOut;
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
    /// Counts dead letters by their cause, those with the most events first.
    Dead {
        #[command(flatten)]
        place: Place,
        /// How many causes at most.
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = out::limit())]
        limit: u32,
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Dismisses dead letters: they count as ignored, with the reason kept, and go with the others.
    Dismiss(dismiss::Arguments),
    /// Tells what the inbox keeps, and whose events are paused.
    Status {
        #[command(flatten)]
        place: Place,
        /// One JSON document, as `GET /api/v1/inbox` writes it.
        #[arg(long)]
        json: bool,
    },
    /// Pauses the handling of events: of everybody, a provider or a connection. Deliveries are kept.
    Pause(halts::Scope),
    /// Goes on handling events.
    Resume(halts::Scope),
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// In this state.
    #[arg(long)]
    state: Option<State>,
    /// Of this provider.
    #[arg(long)]
    provider: Option<String>,
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
    pub(super) fn is_empty(&self) -> bool {
        self.state.is_none()
            && self.provider.is_none()
            && self.connection.is_none()
            && self.kind.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    /// Returns it as the store reads it, for events that can be replayed.
    pub(super) fn stored(&self, now: Timestamp) -> ReplayFilter {
        ReplayFilter {
            state: self.state.map(State::stored),
            provider: self.provider.clone(),
            connection: self.connection.clone().map(Into::into),
            kind: self.kind.clone(),
            reason: None,
            from: self.since.map(|age| now.minus(age)),
            to: self.until.map(|age| now.minus(age)),
        }
    }

    /// Returns the state it names.
    pub(super) fn state(&self) -> Option<State> {
        self.state
    }

    fn takes(&self, event: &StoredEvent, now: Timestamp) -> bool {
        self.kind.as_ref().is_none_or(|wanted| is_of_kind(&event.event.kind, wanted))
            && self.provider.as_ref().is_none_or(|wanted| event.provider == *wanted)
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
        Command::Dead { place, limit, json } => with_store(place, async |opened| dead(opened, *limit, *json).await),
        Command::Dismiss(arguments) => dismiss::run(arguments),
        Command::Status { place, json } => halts::status(place, *json),
        Command::Pause(scope) => halts::turn(scope, true),
        Command::Resume(scope) => halts::turn(scope, false),
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

/// Counts dead letters by cause, from the store's own counters.
async fn dead(opened: &Opened, limit: u32, as_json: bool) -> Result<(), Failure> {
    let letters = opened.store.dead_letters(limit).await.map_err(|error| store_failure(&error))?;
    if as_json {
        let counts = opened.store.event_counts().await.map_err(|error| store_failure(&error))?;
        let causes: Vec<_> = letters.iter().map(CauseOut::of).collect();
        let events = counts.get(&EventState::Dead).copied().unwrap_or(0);
        return document(&json!({ "events": events, "causes": causes }));
    }
    let row = |letters: &DeadLetters| {
        [
            letters.events.to_string(),
            letters.provider.clone(),
            letters.kind.clone(),
            short(&letters.reason, REASON_CHARS),
            rfc3339(letters.first_at),
            rfc3339(letters.last_at),
        ]
    };
    table(["events", "provider", "type", "reason", "first", "last"], letters.iter().map(row));
    Ok(())
}

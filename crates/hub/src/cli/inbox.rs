//! `palisade inbox`: events, what became of them, and whether they are handled at all.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::Timestamp;
use palisade_core::store::{
    DeadLetters, EventRow, EventState, Inbox, NO_CONNECTION, ReplayFilter, Store, StoredEvent, is_of_kind,
};
use serde_json::json;

use super::asked::{Ask, Events, Numbered, Page, cut, limit, more};
use super::out::{at, document, facts, short, table, word};
use super::place::{Opened, now, with_store};
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
/// Causes when nothing is said.
const CAUSES: u32 = 50;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade inbox list --state dead --type 'invoice.*' --since 2h
  palisade inbox list --since 2026-01-31T14:00:00Z --until 2026-01-31T14:30:00Z --json
  palisade inbox show 4711
  palisade inbox dead
  palisade inbox pause --provider stripe";

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
        filter: Filter,
        #[command(flatten)]
        page: Page,
    },
    /// Shows one event with its body.
    Show {
        #[command(flatten)]
        row: Numbered,
        /// Nothing but the body, byte by byte.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Counts dead letters by their cause, those with the most events first.
    Dead {
        /// How many causes at most.
        #[arg(long, value_name = "N", default_value_t = CAUSES, value_parser = limit())]
        limit: u32,
        #[command(flatten)]
        ask: Ask,
    },
    /// Dismisses dead letters: they count as ignored, with the reason kept, and go with the others.
    Dismiss(dismiss::Arguments),
    /// Tells what the inbox keeps, and whose events are paused.
    Status(Ask),
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
    #[command(flatten)]
    events: Events,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.state.is_none() && self.events.is_empty()
    }

    /// Returns it as the store reads it, for events that can be replayed.
    pub(super) fn stored(&self, now: Timestamp) -> Result<ReplayFilter, Failure> {
        self.events.stored(self.state.map(State::stored), now)
    }

    /// Returns the state it names.
    pub(super) fn state(&self) -> Option<State> {
        self.state
    }
}

/// Tells whether an event is one of those a filter names, in whatever state.
fn takes(filter: &ReplayFilter, event: &StoredEvent) -> bool {
    let ReplayFilter { state, provider, connection, kind, reason, from, to } = filter;
    state.is_none_or(|wanted| event.state == wanted)
        && kind.as_ref().is_none_or(|wanted| is_of_kind(&event.event.kind, wanted))
        && provider.as_ref().is_none_or(|wanted| event.provider == *wanted)
        && connection.as_ref().is_none_or(|wanted| event.connection == *wanted)
        && reason.as_ref().is_none_or(|wanted| event.reason.as_ref() == Some(wanted))
        && from.is_none_or(|from| event.received_at >= from)
        && to.is_none_or(|to| event.received_at < to)
}

/// What was found of a list.
struct Found {
    events: Vec<StoredEvent>,
    /// Where the next page begins, where there may be one.
    next: Option<EventRow>,
    /// The page ended because enough was looked through, not because it is full.
    tired: bool,
}

/// Finds up to `limit` events older than `before`, newest first, among those that are `enough` to look through.
async fn find(
    store: &dyn Store,
    filter: &ReplayFilter,
    mut before: Option<EventRow>,
    limit: u32,
    enough: usize,
) -> Result<Found, Failure> {
    let (mut events, mut looked) = (Vec::new(), 0);
    loop {
        let page = store.events(filter.state, before, PAGE).await?;
        looked += page.events.len();
        before = page.next;
        events.extend(page.events.into_iter().filter(|event| takes(filter, event)));
        if events.len() > limit as usize {
            let next = cut(&mut events, limit, |event| event.row);
            return Ok(Found { events, next, tired: false });
        }
        if before.is_none() || looked >= enough {
            return Ok(Found { events, next: before, tired: before.is_some() });
        }
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { filter, page } => {
            let filter = filter.stored(now())?;
            with_store(&page.ask.place, async |opened| list(opened, &filter, page).await)
        }
        Command::Show { row, raw } => with_store(&row.ask.place, async |opened| show(opened, row, *raw).await),
        Command::Dead { limit, ask } => with_store(&ask.place, async |opened| dead(opened, *limit, ask.json).await),
        Command::Dismiss(arguments) => dismiss::run(arguments),
        Command::Status(ask) => halts::status(ask),
        Command::Pause(scope) => halts::turn(scope, true),
        Command::Resume(scope) => halts::turn(scope, false),
    }
}

fn connection(event: &StoredEvent) -> String {
    if event.connection.as_str() == NO_CONNECTION { "-".to_owned() } else { event.connection.to_string() }
}

async fn list(opened: &Opened, filter: &ReplayFilter, page: &Page) -> Result<(), Failure> {
    let before = page.before.map(EventRow);
    let Found { events, next, tired } = find(&opened.store, filter, before, page.limit, LOOKED_THROUGH).await?;
    let next = next.map(|row| row.0);
    if page.ask.json {
        let list: Vec<_> = events.iter().map(EventOut::of).collect();
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
    table(["row", "received", "state", "type", "connection", "event", "reason"], events.iter().map(row));
    if tired {
        say(format!("{LOOKED_THROUGH} events were looked through; there may be more among older ones"));
    }
    more("--before", next);
    Ok(())
}

async fn show(opened: &Opened, row: &Numbered, raw: bool) -> Result<(), Failure> {
    let event = opened.store.event(EventRow(row.id)).await?;
    let event = event.ok_or_else(|| Failure::no(format!("there is no event {}", row.id)))?;
    let payload = &event.event.payload;
    if row.ask.json {
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
    let letters = opened.store.dead_letters(limit).await?;
    if as_json {
        let counts = opened.store.event_counts().await?;
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

#[cfg(test)]
mod tests {
    use palisade_core::store::memory::MemoryStore;
    use palisade_core::store::{NewDelivery, NewEvent};

    use super::*;

    // Fails when a walk that looked through enough ends as if there were nothing older, or its next page leaves rows out.
    #[tokio::test]
    async fn what_was_not_looked_through_is_found_by_the_next_page() {
        let store = MemoryStore::new();
        let event = |n: u32| NewEvent {
            subscription: None,
            id: format!("evt_{n}").into(),
            kind: if n == 1 { "invoice.paid" } else { "invoice.created" }.to_owned(),
            account: None,
            created: None,
            ordering_key: None,
            payload: None,
            wanted: true,
            priority: 0,
        };
        let delivery = NewDelivery {
            endpoint: "hook".into(),
            connection: "acme".into(),
            provider: "stripe".to_owned(),
            received_at: Timestamp(0),
            headers: Vec::new(),
            body: Default::default(),
            events: (1..=1_200).map(event).collect(),
        };
        store.append(vec![delivery]).await.unwrap();
        let filter = ReplayFilter { kind: Some("invoice.paid".to_owned()), ..ReplayFilter::default() };
        let first = find(&store, &filter, None, 5, 700).await.unwrap();
        assert_eq!((first.events.len(), first.next, first.tired), (0, Some(EventRow(201)), true));
        let second = find(&store, &filter, first.next, 5, 700).await.unwrap();
        assert_eq!((second.events.len(), second.next, second.tired), (1, None, false));
        let all = find(&store, &ReplayFilter::default(), None, 1_199, 9_999).await.unwrap();
        assert_eq!((all.events.len(), all.next, all.tired), (1_199, Some(EventRow(2)), false));
        let last = find(&store, &ReplayFilter::default(), all.next, 1, 9_999).await.unwrap();
        assert_eq!((last.events.len(), last.next, last.tired), (1, None, false));
    }
}

//! `palisade destinations dead | resend | dismiss`: events that were given up for a destination.

use clap::Args;
use palisade_core::forward::dismiss_dead;
use palisade_core::store::{DeadForward, Destinations, EventRow, StoredEvent};
use serde_json::json;

use super::asked::{Ask, and_one, cut, limit, more};
use super::out::{count, document, short, table};
use super::place::{Opened, with_store};
use super::{Failure, say};
use crate::routes::destinations::{DeadOut, with_events};
use crate::time::rfc3339;

/// Characters of a reason in a table.
const REASON_CHARS: usize = 60;
/// Events when nothing is said.
const EVENTS: u32 = 50;

/// What to list.
#[derive(Debug, Args)]
pub(super) struct List {
    /// The destination's name.
    name: String,
    /// Events behind this row, where an earlier page ended.
    #[arg(long, value_name = "NUMBER")]
    after: Option<i64>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = EVENTS, value_parser = limit())]
    limit: u32,
    #[command(flatten)]
    ask: Ask,
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The destination's name.
    name: String,
    /// The rows of the events, as `palisade destinations dead` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    rows: Vec<i64>,
    /// All of them: 10,000 at once.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

impl Which {
    fn rows(&self) -> Option<Vec<EventRow>> {
        (!self.all).then(|| self.rows.iter().copied().map(EventRow).collect())
    }
}

async fn check(opened: &Opened, name: &str) -> Result<(), Failure> {
    let rows = opened.store.destinations().await?;
    if rows.iter().any(|row| row.name == name) {
        return Ok(());
    }
    Err(Failure::no(format!("there is no destination {name}: `palisade destinations list` shows them")))
}

/// Lists what was given up.
pub(super) fn list(asked: &List) -> Result<(), Failure> {
    with_store(&asked.ask.place, async |opened| {
        check(opened, &asked.name).await?;
        let after = asked.after.map(EventRow);
        let mut dead = opened.store.dead_forwards(asked.name.clone(), after, and_one(asked.limit)).await?;
        let next = cut(&mut dead, asked.limit, |dead| dead.row.0);
        let list = with_events(&opened.store, dead).await?;
        if asked.ask.json {
            let list: Vec<_> = list.iter().map(|(dead, event)| DeadOut::of(dead, event.as_ref())).collect();
            return document(&json!({ "destination": asked.name, "events": list, "next_after": next }));
        }
        let row = |(dead, event): &(DeadForward, Option<StoredEvent>)| {
            let of = |text: fn(&StoredEvent) -> String| event.as_ref().map(text).unwrap_or_default();
            [
                dead.row.0.to_string(),
                rfc3339(dead.at),
                of(|event| event.event.kind.clone()),
                of(|event| event.connection.to_string()),
                of(|event| event.event.id.to_string()),
                short(&dead.reason, REASON_CHARS),
            ]
        };
        table(["row", "given up", "type", "connection", "event", "reason"], list.iter().map(row));
        more("--after", next);
        Ok(())
    })
}

async fn left(opened: &Opened, name: &str) -> Result<u64, Failure> {
    let counts = opened.store.forward_counts(vec![name.to_owned()]).await?;
    Ok(counts.get(name).map_or(0, |counts| counts.dead))
}

/// Sends again what was given up.
pub(super) fn resend(asked: &Which) -> Result<(), Failure> {
    with_store(&asked.ask.place, async |opened| {
        let done = opened.forwarder()?.resend(&asked.name, asked.rows()).await?;
        if asked.ask.json {
            return document(&json!({ "resent": done.events, "dead": done.left }));
        }
        let events = count(done.events, "event", "events");
        say(format!("{events} sent again when a hub serves; {} still given up", done.left));
        Ok(())
    })
}

/// Dismisses what was given up.
pub(super) fn dismiss(asked: &Which) -> Result<(), Failure> {
    with_store(&asked.ask.place, async |opened| {
        check(opened, &asked.name).await?;
        let dismissed = dismiss_dead(&opened.store, &asked.name, asked.rows()).await?;
        let left = left(opened, &asked.name).await?;
        if asked.ask.json {
            return document(&json!({ "dismissed": dismissed, "dead": left }));
        }
        say(format!("dismissed {}; {left} still given up", count(dismissed, "event", "events")));
        Ok(())
    })
}

//! `palisade replay`: has events handled again, or shows before what that would do.

use clap::Args;
use palisade_core::store::{EventRow, Inbox, received_so_far};
use palisade_core::worker::RecordPreview;
use serde_json::json;

use super::asked::Ask;
use super::inbox::{Filter, State};
use super::out::{bar, count, document, short, table, word};
use super::place::{Opened, now, with_store};
use super::{Failure, say};
use crate::previews::{self, PREVIEWED_MAX, Previewed, Previews, PreviewsOut, Reach, Totals, changed_fields};

/// Rows looked at in one commit: what comes in meanwhile waits for no more than that.
const LOOKED_AT_ONCE: u32 = 500;
/// Characters of fields or a reason in a table.
const SHORT_CHARS: usize = 80;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade replay 4711 4712
  palisade replay --state dead --type 'invoice.*' --since 2h --dry-run
  palisade replay --state dead --since 2026-01-31T14:00:00Z --preview
  palisade replay --state dead --type 'invoice.*' --since 2h";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The rows of the events, as `palisade inbox list` shows them.
    #[arg(conflicts_with_all = ["state", "provider", "connection", "kind", "reason", "since", "until"])]
    rows: Vec<i64>,
    #[command(flatten)]
    filter: Filter,
    /// Changes nothing: says how many would be handled again.
    #[arg(long, conflicts_with = "preview")]
    dry_run: bool,
    /// Changes nothing: shows what this program would do to records, by the first events.
    #[arg(long)]
    preview: bool,
    /// How many at most, the oldest first: all of them otherwise, and the first 100 of a preview.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.rows.is_empty() && arguments.filter.is_empty() {
        return Err(Failure::usage("say which: rows, or a filter such as --state dead --type 'invoice.*' --since 2h"));
    }
    if arguments.filter.state() == Some(State::Pending) {
        return Err(Failure::usage("what waits is handled anyway: --state dead, --state done or --state ignored"));
    }
    with_store(&arguments.ask.place, async |opened| match (arguments.preview, arguments.rows.is_empty()) {
        (true, _) => preview(opened, arguments).await,
        (false, true) => by_filter(opened, arguments).await,
        (false, false) => by_row(opened, arguments).await,
    })
}

/// Tells what was replayed, or would be.
fn tell(arguments: &Arguments, replayed: u64, refused: &[i64]) -> Result<(), Failure> {
    let events = count(replayed, "event", "events");
    if arguments.ask.json {
        document(&json!({ "replayed": replayed, "refused": refused, "dry_run": arguments.dry_run }))?;
    } else if arguments.dry_run {
        say(format!("would replay {events}; nothing was changed"));
    } else {
        say(format!("replayed {events}: they are handled when a hub serves"));
    }
    no_such(refused)
}

fn no_such(rows: &[i64]) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = rows.iter().map(i64::to_string).collect();
    Err(Failure::no(format!(
        "not replayed: {}. Such an event is not there, waits already, or belongs to no connection",
        rows.join(", ")
    )))
}

/// Replays what meets the filter, the oldest first, in steps that hold up nobody for long.
async fn by_filter(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let now = now();
    // What comes in meanwhile is none of this replay's: without an end it would follow a busy inbox for ever.
    let filter = arguments.filter.stored(now)?.ending(received_so_far(&opened.store, now).await?);
    let (mut replayed, mut after) = (0, EventRow(0));
    let limit = arguments.limit.map_or(u64::MAX, u64::from);
    let bar = bar(None, "{spinner} {elapsed} {msg}");
    while replayed < limit {
        // No more can be met than are looked at.
        let looked = u32::try_from(limit - replayed).unwrap_or(u32::MAX).min(LOOKED_AT_ONCE);
        let step = opened.store.replay_some(filter.clone(), after, looked, arguments.dry_run, now).await?;
        replayed += step.met.len() as u64;
        bar.set_message(count(replayed, "event", "events").to_string());
        bar.tick();
        let Some(next) = step.next else { break };
        after = next;
    }
    bar.finish_and_clear();
    tell(arguments, replayed, &[])
}

async fn by_row(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let (mut replayed, mut refused) = (0_u64, Vec::new());
    let bar = bar(Some(arguments.rows.len() as u64), "{bar:40} {pos} of {len} events, {eta} left");
    for &row in &arguments.rows {
        let done = if arguments.dry_run {
            let found = opened.store.event(EventRow(row)).await;
            found.map(|found| found.is_some_and(|event| event.may_be_replayed()))
        } else {
            opened.store.replay(EventRow(row), now()).await
        };
        if done? {
            replayed += 1;
        } else {
            refused.push(row);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    tell(arguments, replayed, &refused)
}

/// Shows what a replay would do.
async fn preview(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let limit = arguments.limit.unwrap_or(PREVIEWED_MAX);
    if limit > PREVIEWED_MAX || arguments.rows.len() > PREVIEWED_MAX as usize {
        return Err(Failure::usage(format!("{PREVIEWED_MAX} events at most can be previewed at once")));
    }
    let worker = opened.worker()?;
    if arguments.rows.is_empty() {
        let now = now();
        let filter = arguments.filter.stored(now)?;
        let found = previews::previews(&opened.store, &worker, &filter, limit, now, Reach::ALL).await?;
        return show(arguments, &found);
    }
    let rows: Vec<EventRow> = arguments.rows.iter().copied().map(EventRow).collect();
    let list = previews::of_rows(&opened.store, &worker, &rows).await?;
    let found = Previews { events: list.len() as u64, complete: true, list, next: None };
    show(arguments, &found)?;
    let missing = |row: &&EventRow| !found.list.iter().any(|one| one.event.row == **row);
    no_such(&rows.iter().filter(missing).map(|row| row.0).collect::<Vec<_>>())
}

fn show(arguments: &Arguments, found: &Previews) -> Result<(), Failure> {
    if arguments.ask.json {
        return document(&PreviewsOut::of(found));
    }
    let Previews { events, complete, list, .. } = found;
    let (events, totals) = (*events, found.totals());
    let headings = ["row", "type", "connection", "record", "change", "fields"];
    table(headings, list.iter().flat_map(rows));
    say("");
    let shown = if list.len() as u64 == events { String::new() } else { format!(", by the first {}", list.len()) };
    let at_least = if *complete { "" } else { "at least " };
    say(format!("would replay {at_least}{}{shown}: {}", count(events, "event", "events"), added_up(totals)));
    say("nothing was changed; each event is compared with what is stored now");
    Ok(())
}

/// The lines of one event: one for each record, or one that says what else would come of it.
fn rows(one: &Previewed) -> Vec<[String; 6]> {
    let event = &one.event;
    let line = |record: String, change: String, fields: String| {
        [
            event.row.0.to_string(),
            event.event.kind.clone(),
            event.connection.to_string(),
            record,
            change,
            short(&fields, SHORT_CHARS),
        ]
    };
    let record = |record: &RecordPreview| {
        let name = format!("{} {}", record.stream, record.id);
        line(name, word(&record.change), changed_fields(record).join(" "))
    };
    let mut rows: Vec<_> = one.preview.records.iter().map(record).collect();
    if let Some(refusal) = &one.preview.refusal {
        rows.push(line("-".to_owned(), "refused".to_owned(), refusal.clone()));
    }
    if rows.is_empty() {
        rows.push(line("-".to_owned(), "no record".to_owned(), String::new()));
    }
    rows
}

fn added_up(totals: Totals) -> String {
    let Totals { added, updated, deleted, unchanged, older, fetched, refused } = totals;
    let told = [
        (added, "added"),
        (updated, "updated"),
        (deleted, "deleted"),
        (unchanged, "unchanged"),
        (older, "unchanged (the copy is newer)"),
        (fetched, "to be fetched"),
        (refused, "events refused"),
    ];
    let told: Vec<_> = told.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if told.is_empty() { "no records".to_owned() } else { told.join(", ") }
}

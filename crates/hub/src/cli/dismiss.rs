//! `palisade inbox dismiss`: takes dead letters that nobody needs out of the counts.

use clap::Args;
use palisade_core::store::{EventRow, Inbox, ReplayFilter};
use serde_json::json;

use super::asked::{Ask, Events};
use super::out::{bar, count, document};
use super::place::{Opened, now, with_store};
use super::{Failure, say};

/// Rows looked at in one commit: what comes in meanwhile waits for no more than that.
const LOOKED_AT_ONCE: u32 = 500;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The rows of the events, as `palisade inbox list --state dead` shows them.
    #[arg(conflicts_with_all = ["provider", "connection", "kind", "reason", "since", "until", "all", "dry_run"])]
    rows: Vec<i64>,
    #[command(flatten)]
    events: Events,
    /// All dead letters.
    #[arg(long)]
    all: bool,
    /// Changes nothing: says how many would be dismissed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let filter = arguments.events.stored(None, now())?;
    if arguments.rows.is_empty() && !arguments.all && arguments.events.is_empty() {
        return Err(Failure::usage("say which: rows, a filter such as --type 'invoice.*', or --all"));
    }
    with_store(&arguments.ask.place, async |opened| {
        if arguments.rows.is_empty() {
            by_filter(opened, arguments, &filter).await
        } else {
            by_row(opened, arguments).await
        }
    })
}

async fn by_filter(opened: &Opened, arguments: &Arguments, filter: &ReplayFilter) -> Result<(), Failure> {
    let (now, bar) = (now(), bar(None, "{spinner} {elapsed} {msg}"));
    let (mut dismissed, mut after) = (0, EventRow(0));
    loop {
        let step = opened.store.dismiss_some(filter.clone(), after, LOOKED_AT_ONCE, arguments.dry_run, now).await?;
        dismissed += step.met.len() as u64;
        bar.set_message(count(dismissed, "event", "events").to_string());
        bar.tick();
        let Some(next) = step.next else { break };
        after = next;
    }
    bar.finish_and_clear();
    tell(arguments, dismissed, &[])
}

async fn by_row(opened: &Opened, arguments: &Arguments) -> Result<(), Failure> {
    let (mut dismissed, mut refused) = (0_u64, Vec::new());
    for &row in &arguments.rows {
        if opened.store.dismiss(EventRow(row), now()).await? {
            dismissed += 1;
        } else {
            refused.push(row);
        }
    }
    tell(arguments, dismissed, &refused)
}

/// Tells what was dismissed, or would be.
fn tell(arguments: &Arguments, dismissed: u64, refused: &[i64]) -> Result<(), Failure> {
    let events = count(dismissed, "dead letter", "dead letters");
    if arguments.ask.json {
        document(&json!({ "dismissed": dismissed, "refused": refused, "dry_run": arguments.dry_run }))?;
    } else if arguments.dry_run {
        say(format!("would dismiss {events}; nothing was changed"));
    } else {
        say(format!("dismissed {events}"));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = refused.iter().map(i64::to_string).collect();
    Err(Failure::no(format!("there is no dead letter with row {}", rows.join(", "))))
}

//! `palisade runs`: executions of syncs, newest first.

use clap::{Subcommand, ValueEnum};
use palisade_core::store::{MergeCounts, Records, Run, RunFilter, RunId, RunState, RunStateName};
use palisade_core::{ConnectionId, ErrorKind, StreamName};
use serde_json::json;

use super::asked::{Numbered, Page, and_one, cut, more};
use super::out::{document, facts, table, word};
use super::place::{Opened, with_store};
use super::{Failure, found, say};
use crate::routes::runs::{RunOut, healed};
use crate::time::rfc3339;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade runs list --connection acme-stripe --state failed
  palisade runs show 17
  palisade runs list --state review
  palisade runs review 17             # the records that it would delete
  palisade runs approve 17
  palisade runs unreadable acme-stripe customers
  palisade runs healed acme-stripe";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// At work, or to be taken up again.
    Running,
    /// Complete.
    Done,
    /// Waiting for somebody to approve its deletions.
    Review,
    /// Stopped by an error.
    Failed,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists runs, newest first.
    List {
        /// Of this connection.
        #[arg(long, value_name = "ID")]
        connection: Option<String>,
        /// Of this stream.
        #[arg(long)]
        stream: Option<String>,
        /// In this state.
        #[arg(long)]
        state: Option<State>,
        #[command(flatten)]
        page: Page,
    },
    /// Shows one run.
    Show(Numbered),
    /// Lists the records that a run in review would delete.
    Review(found::Review),
    /// Approves the deletions of a run that waits for review: a full run begins that may delete as many, and a tenth more.
    Approve(Numbered),
    /// Dismisses the deletions of a run that waits for review: its records stay.
    Dismiss(Numbered),
    /// Lists what is set aside of a stream because it cannot be read, and what is wrong with it.
    Unreadable(found::Unreadable),
    /// Lists what webhooks should have brought and runs had to.
    Healed(found::Healed),
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { connection, stream, state, page } => {
            let filter = RunFilter {
                connection: connection.as_deref().map(ConnectionId::new),
                stream: stream.as_deref().map(StreamName::new),
                state: state.map(State::name),
                before: page.before.map(RunId),
            };
            with_store(&page.ask.place, async |opened| {
                let mut found = opened.store.find_runs(filter.clone(), and_one(page.limit)).await?;
                let next = cut(&mut found, page.limit, |run| run.id.0);
                list(&found, next, page.ask.json)
            })
        }
        Command::Show(one) => with_store(&one.ask.place, async |opened| show(opened, one).await),
        Command::Review(asked) => found::review(asked),
        Command::Unreadable(asked) => found::unreadable(asked),
        Command::Healed(asked) => found::healed(asked),
        Command::Approve(one) => with_store(&one.ask.place, async |opened| review(opened, one, true).await),
        Command::Dismiss(one) => with_store(&one.ask.place, async |opened| review(opened, one, false).await),
    }
}

impl State {
    fn name(self) -> RunStateName {
        match self {
            Self::Running => RunStateName::Running,
            Self::Done => RunStateName::Done,
            Self::Review => RunStateName::Review,
            Self::Failed => RunStateName::Failed,
        }
    }
}

/// Says how a run stands, in words.
pub(super) fn state(state: &RunState) -> String {
    match state {
        RunState::Running => "running".to_owned(),
        RunState::Done => "done".to_owned(),
        RunState::Review { deletions } => format!("waits for review of {deletions} deletions"),
        RunState::Failed { kind, reason } => format!("failed: {reason} ({})", kind.as_str()),
    }
}

/// Says what a run's pages did, in words.
pub(super) fn did(counts: &MergeCounts) -> String {
    let MergeCounts { added, updated, deleted, unchanged, older } = counts;
    let told =
        [(added, "added"), (updated, "updated"), (deleted, "deleted"), (unchanged, "unchanged"), (older, "older")];
    let told: Vec<String> =
        told.iter().filter(|(number, _)| **number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

fn list(runs: &[Run], next: Option<i64>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let list: Vec<_> = runs.iter().map(RunOut::of).collect();
        return document(&json!({ "runs": list, "next_before": next }));
    }
    let row = |run: &Run| {
        [
            run.id.0.to_string(),
            run.key.connection.to_string(),
            run.key.stream.to_string(),
            word(&run.mode),
            state(&run.state),
            run.pages.to_string(),
            did(&run.counts),
            rfc3339(run.started_at),
            run.finished_at.map_or_else(String::new, rfc3339),
        ]
    };
    table(["run", "connection", "stream", "mode", "state", "pages", "records", "began", "ended"], runs.iter().map(row));
    more("--before", next);
    Ok(())
}

/// Ends the review of a run.
async fn review(opened: &Opened, one: &Numbered, approve: bool) -> Result<(), Failure> {
    let none = || Failure::no(format!("run {} does not wait for review", one.id));
    let run = find(opened, one.id).await?;
    if !matches!(run.state, RunState::Review { .. }) {
        return Err(none());
    }
    let worker = opened.worker()?;
    if approve {
        worker.approve(run.id).await.map_err(|error| {
            if error.kind() == ErrorKind::Conflict {
                return Failure::no(format!("{}: look at the stream's newest full run", error.message()));
            }
            error.into()
        })?;
    } else if !worker.dismiss(run.id).await? {
        return Err(none());
    }
    let word = if approve { "approved" } else { "dismissed" };
    if one.ask.json {
        return document(&json!({ word: true }));
    }
    let next = if approve { "a full run begins that may delete them" } else { "its records stay" };
    say(format!("{word} the deletions of run {} ({}): {next}", one.id, run.key.stream));
    Ok(())
}

async fn find(opened: &Opened, id: i64) -> Result<Run, Failure> {
    opened.store.run(RunId(id)).await?.ok_or_else(|| Failure::no(format!("there is no run {id}")))
}

async fn show(opened: &Opened, one: &Numbered) -> Result<(), Failure> {
    let run = &find(opened, one.id).await?;
    if one.ask.json {
        return document(&RunOut::of(run));
    }
    facts(&[
        ("run", run.id.0.to_string()),
        ("connection", run.key.connection.to_string()),
        ("stream", run.key.stream.to_string()),
        ("mode", word(&run.mode)),
        ("state", state(&run.state)),
        ("why", run.stop.as_ref().map_or_else(String::new, palisade_core::sync::Stop::sentence)),
        ("unreadable", if run.bad > 0 { run.bad.to_string() } else { String::new() }),
        ("missed", if run.missed.count > 0 { healed(run) } else { String::new() }),
        ("pages", run.pages.to_string()),
        ("records", did(&run.counts)),
        ("taken up", if run.resumed > 0 { format!("{} times", run.resumed) } else { String::new() }),
        ("began", rfc3339(run.started_at)),
        ("progressed", rfc3339(run.progressed_at)),
        ("ended", run.finished_at.map_or_else(String::new, rfc3339)),
    ]);
    Ok(())
}

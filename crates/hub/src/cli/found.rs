//! `palisade runs unreadable | healed | review`: what runs met on their way, and what one would delete.

use clap::Args;
use palisade_core::store::{Record, Records, Run, RunId, RunState, StoredBad};
use palisade_core::{ConnectionId, RecordId};
use serde_json::json;

use super::asked::{Ask, OfStream, and_one, cut, limit, more};
use super::out::{count, document, short, table};
use super::place::{Opened, with_store};
use super::records::one_line;
use super::{Failure, say};
use crate::routes::runs::{MissedOut, ReviewOut, RunOut, UnreadableOut, healed as words};
use crate::time::rfc3339;

/// Characters of a record, and of what is wrong with one, in a table.
const SHORT_CHARS: usize = 80;
/// Entries when nothing is said.
const ENTRIES: u32 = 50;

/// A stream whose unreadable records are listed.
#[derive(Debug, Args)]
pub(super) struct Unreadable {
    #[command(flatten)]
    of: OfStream,
    /// How many at most, that first that was met longest ago.
    #[arg(long, value_name = "N", default_value_t = ENTRIES, value_parser = limit())]
    limit: u32,
}

/// A connection whose healings are listed.
#[derive(Debug, Args)]
pub(super) struct Healed {
    /// The connection, by its id.
    connection: String,
    /// How many at most, the newest first.
    #[arg(long, value_name = "N", default_value_t = ENTRIES, value_parser = limit())]
    limit: u32,
    #[command(flatten)]
    ask: Ask,
}

/// A run whose deletions are listed.
#[derive(Debug, Args)]
pub(super) struct Review {
    /// Its number, as `palisade runs list --state review` shows it.
    #[arg(value_name = "NUMBER")]
    id: i64,
    /// Records behind this id, where the page before ended.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = ENTRIES, value_parser = limit())]
    limit: u32,
    #[command(flatten)]
    ask: Ask,
}

/// Lists what is set aside of a stream because it cannot be read.
pub(super) fn unreadable(asked: &Unreadable) -> Result<(), Failure> {
    with_store(&asked.of.ask.place, async |opened| {
        let key = opened.stream(&asked.of.connection, &asked.of.stream).await?;
        let list = opened.store.bad_records(key.clone(), asked.limit).await?;
        let status = opened.store.stream(key).await?;
        if asked.of.ask.json {
            return document(&UnreadableOut::of(&list, &status));
        }
        let row = |bad: &StoredBad| {
            [
                bad.record.id.as_ref().map_or_else(|| "-".to_owned(), RecordId::to_string),
                bad.times.to_string(),
                rfc3339(bad.first_seen),
                rfc3339(bad.last_seen),
                bad.run.0.to_string(),
                short(&bad.record.why, SHORT_CHARS),
                short(&one_line(&String::from_utf8_lossy(&bad.record.raw)), SHORT_CHARS),
            ]
        };
        table(["id", "met", "first", "last", "run", "why", "raw"], list.iter().map(row));
        let (kept, older) = (status.bad, status.bad_older);
        if kept > list.len() as u64 {
            say(format!("{} of {kept} that are kept: --limit shows more", list.len()));
        }
        if older > 0 {
            say(format!("{} before them made room and {} not kept", older, if older == 1 { "is" } else { "are" }));
        }
        Ok(())
    })
}

/// Lists what webhooks should have brought to a connection, and runs did.
pub(super) fn healed(asked: &Healed) -> Result<(), Failure> {
    with_store(&asked.ask.place, async |opened| {
        let id: ConnectionId = opened.connection(&asked.connection).await?.id;
        let runs = opened.store.healings(id, asked.limit).await?;
        if asked.ask.json {
            let list: Vec<_> = runs.iter().filter_map(MissedOut::of).collect();
            return document(&json!({ "healings": list }));
        }
        let row = |run: &Run| {
            let at = rfc3339(run.finished_at.unwrap_or(run.progressed_at));
            [at, run.key.stream.to_string(), run.id.0.to_string(), words(run)]
        };
        table(["at", "stream", "run", "what"], runs.iter().map(row));
        Ok(())
    })
}

/// Lists the records that a run in review would delete.
pub(super) fn review(asked: &Review) -> Result<(), Failure> {
    with_store(&asked.ask.place, async |opened| {
        let run = opened.store.run(RunId(asked.id)).await?;
        let run = run.ok_or_else(|| Failure::no(format!("there is no run {}", asked.id)))?;
        let RunState::Review { deletions } = run.state else {
            return Err(Failure::no(format!("run {} does not wait for review", asked.id)));
        };
        list(opened, asked, &run, deletions).await
    })
}

async fn list(opened: &Opened, asked: &Review, run: &Run, deletions: u64) -> Result<(), Failure> {
    let after = asked.after.as_deref().map(RecordId::new);
    let mut records = opened.store.unseen(run.id, after, and_one(asked.limit)).await?;
    let next = cut(&mut records, asked.limit, |record| record.id.to_string());
    if asked.ask.json {
        return document(&ReviewOut::of(RunOut::of(run), &records, next));
    }
    let row = |record: &Record| {
        let data = record.data.as_ref().map_or_else(String::new, |data| String::from_utf8_lossy(data).into_owned());
        [
            record.id.to_string(),
            rfc3339(record.first_seen),
            rfc3339(record.changed_at),
            short(&one_line(&data), SHORT_CHARS),
        ]
    };
    table(["id", "first seen", "changed", "data"], records.iter().map(row));
    more("--after", next);
    let (id, key) = (asked.id, &run.key);
    let records = count(deletions, "record", "records");
    say(format!("run {id} would delete {records} of {} in {}", key.stream, key.connection));
    say(format!("`palisade runs approve {id}` has them deleted, `palisade runs dismiss {id}` keeps them"));
    Ok(())
}

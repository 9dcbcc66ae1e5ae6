//! `palisade records`: what is stored of a stream, as its change feed has it.

use clap::Args;
use palisade_core::store::{FeedEntry, Records};
use palisade_core::{ErrorKind, RecordId};

use super::asked::{Ask, limit, more};
use super::out::{clean, document, facts, short, table, word};
use super::place::{Opened, with_store};
use super::{Failure, say};
use crate::feed::{self, FeedCursor};
use crate::routes::records::{FeedOut, RecordOut};
use crate::time::rfc3339;

/// Characters of a record in a table.
const DATA_CHARS: usize = 80;
/// Records when nothing is said.
const RECORDS: u32 = 50;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade records acme-stripe customers
  palisade records acme-stripe customers cus_9s6XKzkNRiz8i3 --json";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The connection, by its id.
    connection: String,
    /// The stream, by its name; `palisade connections show` lists them.
    stream: String,
    /// One record of it, by the provider's id.
    id: Option<String>,
    /// Where to go on, as the last list gave it; from the beginning otherwise.
    #[arg(long, conflicts_with = "id")]
    cursor: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = RECORDS, value_parser = limit())]
    limit: u32,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cursor = arguments.cursor.as_deref().map(str::parse::<FeedCursor>).transpose();
    let cursor = cursor.map_err(|error| Failure::usage(error.message()))?;
    with_store(&arguments.ask.place, async |opened| match &arguments.id {
        Some(id) => show(opened, arguments, id).await,
        None => list(opened, arguments, cursor).await,
    })
}

async fn list(opened: &Opened, arguments: &Arguments, cursor: Option<FeedCursor>) -> Result<(), Failure> {
    let key = opened.stream(&arguments.connection, &arguments.stream).await?;
    let read = feed::read(&opened.store, &key, cursor, arguments.limit).await.map_err(|error| {
        if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::CursorExpired) {
            return Failure::usage(format!("{}: leave --cursor out to begin anew", error.message()));
        }
        error.into()
    })?;
    if arguments.ask.json {
        return document(&FeedOut::of(&read));
    }
    let row = |entry: &FeedEntry| {
        let record = &entry.record;
        let data = record.data.as_ref().map_or_else(String::new, |data| String::from_utf8_lossy(data).into_owned());
        [
            record.id.to_string(),
            record.seq.to_string(),
            word(&entry.kind),
            rfc3339(record.changed_at),
            short(&one_line(&data), DATA_CHARS),
        ]
    };
    table(["id", "number", "change", "changed", "data"], read.entries.iter().map(row));
    more("--cursor", Some(&read.next).filter(|_| read.more));
    Ok(())
}

/// Writes text on one line with single spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn show(opened: &Opened, arguments: &Arguments, id: &str) -> Result<(), Failure> {
    let key = opened.stream(&arguments.connection, &arguments.stream).await?;
    let found = opened.store.record(key, RecordId::new(id)).await?;
    let record = found.ok_or_else(|| {
        Failure::no(format!("there is no record {id} in {} of {}", arguments.stream, arguments.connection))
    })?;
    if arguments.ask.json {
        return document(&RecordOut::single(&record));
    }
    facts(&[
        ("id", record.id.to_string()),
        ("number", record.seq.to_string()),
        ("first seen", rfc3339(record.first_seen)),
        ("changed", rfc3339(record.changed_at)),
        ("deleted", if record.data.is_none() { "yes".to_owned() } else { String::new() }),
    ]);
    if let Some(data) = &record.data {
        say("");
        say(pretty(data));
    }
    Ok(())
}

/// Writes a document for people.
pub(super) fn pretty(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let parsed: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let text = parsed.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or(text.into_owned());
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

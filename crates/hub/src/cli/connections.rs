//! `palisade connections`: the accounts that are connected.

use clap::Subcommand;
use palisade_core::ConnectionId;
use palisade_core::store::{Connection, ConnectionState, Connections, Inbox, Records, StreamStatus};
use serde::Serialize;
use serde_json::json;

use super::asked::{Named, PageById, and_one, cut, more};
use super::out::{at, document, facts, table};
use super::place::{Opened, now, with_store};
use super::{Failure, say};
use crate::routes::inbox::{Unturned, turn_connection};
use crate::time::rfc3339;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade connections list
  palisade connections list --json --limit 1000 --after acme-stripe
  palisade connections show acme-stripe
  palisade connections pause acme-stripe";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists connections by id.
    List(PageById),
    /// Shows one connection with its streams.
    Show(Named),
    /// Pauses one: its syncs, its calls of the outbox, and the handling of its events, which are kept.
    Pause(Named),
    /// Lets a paused one go on.
    Resume(Named),
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(page) => with_store(&page.ask.place, async |opened| list(opened, page).await),
        Command::Show(one) => with_store(&one.ask.place, async |opened| show(opened, one).await),
        Command::Pause(one) => with_store(&one.ask.place, async |opened| turn(opened, one, true).await),
        Command::Resume(one) => with_store(&one.ask.place, async |opened| turn(opened, one, false).await),
    }
}

/// A connection as it is written for programs.
#[derive(Serialize)]
struct ConnectionOut<'a> {
    id: &'a str,
    tenant: &'a str,
    provider: &'a str,
    environment: &'a str,
    account: Option<&'a str>,
    base_url: Option<&'a str>,
    #[serde(flatten)]
    state: &'a ConnectionState,
    created_at: String,
    records: u64,
    /// When the stalest stream that was ever read was last brought up to date.
    fresh_at: Option<String>,
    dead_letters: u64,
    streams: Vec<StreamOut<'a>>,
}

#[derive(Serialize)]
struct StreamOut<'a> {
    name: &'a str,
    records: u64,
    changes: u64,
    fresh_at: Option<String>,
    full_at: Option<String>,
}

/// A connection with what is counted of it.
struct Known {
    connection: Connection,
    streams: Vec<(palisade_core::StreamName, StreamStatus)>,
    dead_letters: u64,
}

impl Known {
    async fn read(opened: &Opened, connections: Vec<Connection>) -> Result<Vec<Self>, Failure> {
        let store = &opened.store;
        let ids = connections.iter().map(|connection| connection.id.clone()).collect();
        let dead = store.dead_counts(ids).await?;
        let mut known = Vec::with_capacity(connections.len());
        for connection in connections {
            let streams = store.streams(connection.id.clone()).await?;
            let dead_letters = dead.get(&connection.id).copied().unwrap_or(0);
            known.push(Self { connection, streams, dead_letters });
        }
        Ok(known)
    }

    fn records(&self) -> u64 {
        self.streams.iter().map(|(_, status)| status.records).sum()
    }

    fn fresh_at(&self) -> Option<palisade_core::Timestamp> {
        self.streams.iter().filter_map(|(_, status)| status.fresh_at).min()
    }

    fn out(&self) -> ConnectionOut<'_> {
        let connection = &self.connection;
        let streams = self.streams.iter().map(|(name, status)| StreamOut {
            name: name.as_str(),
            records: status.records,
            changes: status.head,
            fresh_at: status.fresh_at.map(rfc3339),
            full_at: status.full_at.map(rfc3339),
        });
        ConnectionOut {
            id: connection.id.as_str(),
            tenant: connection.tenant.as_str(),
            provider: &connection.provider,
            environment: connection.environment.as_str(),
            account: connection.account.as_deref(),
            base_url: connection.base_url.as_deref(),
            state: &connection.state,
            created_at: rfc3339(connection.created_at),
            records: self.records(),
            fresh_at: self.fresh_at().map(rfc3339),
            dead_letters: self.dead_letters,
            streams: streams.collect(),
        }
    }
}

fn state(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Active => "active".to_owned(),
        ConnectionState::NeedsReconnect { reason } => format!("needs reconnect: {reason}"),
        ConnectionState::Paused => "paused".to_owned(),
        ConnectionState::Disconnected => "disconnected".to_owned(),
    }
}

async fn list(opened: &Opened, page: &PageById) -> Result<(), Failure> {
    let after = page.after.as_deref().map(ConnectionId::new);
    let mut found = opened.store.connections(after, and_one(page.limit)).await?;
    let next = cut(&mut found, page.limit, |connection| connection.id.clone());
    let known = Known::read(opened, found).await?;
    if page.ask.json {
        let list: Vec<_> = known.iter().map(Known::out).collect();
        return document(&json!({ "connections": list, "next_after": next }));
    }
    let row = |one: &Known| {
        let connection = &one.connection;
        [
            connection.id.to_string(),
            connection.tenant.to_string(),
            connection.provider.clone(),
            connection.environment.to_string(),
            state(&connection.state),
            one.records().to_string(),
            at(one.fresh_at()),
            one.dead_letters.to_string(),
        ]
    };
    let headings = ["id", "tenant", "provider", "environment", "state", "records", "fresh at", "dead letters"];
    table(headings, known.iter().map(row));
    more("--after", next);
    Ok(())
}

async fn show(opened: &Opened, asked: &Named) -> Result<(), Failure> {
    let connection = opened.connection(&asked.name).await?;
    let known = Known::read(opened, vec![connection]).await?;
    let Some(one) = known.first() else { return Ok(()) };
    if asked.ask.json {
        return document(&one.out());
    }
    let connection = &one.connection;
    facts(&[
        ("id", connection.id.to_string()),
        ("tenant", connection.tenant.to_string()),
        ("provider", connection.provider.clone()),
        ("environment", connection.environment.to_string()),
        ("account", connection.account.clone().unwrap_or_default()),
        ("base url", connection.base_url.clone().unwrap_or_default()),
        ("state", state(&connection.state)),
        ("created", rfc3339(connection.created_at)),
        ("dead letters", one.dead_letters.to_string()),
    ]);
    say("");
    let row = |(name, status): &(palisade_core::StreamName, StreamStatus)| {
        let StreamStatus { records, head, fresh_at, full_at, .. } = status;
        [name.to_string(), records.to_string(), head.to_string(), at(*fresh_at), at(*full_at)]
    };
    table(["stream", "records", "changes", "fresh at", "listed in full at"], one.streams.iter().map(row));
    Ok(())
}

/// Pauses a connection or lets it go on.
async fn turn(opened: &Opened, one: &Named, pause: bool) -> Result<(), Failure> {
    let connection = opened.connection(&one.name).await?;
    let turned = turn_connection(&opened.store, &opened.worker()?, &one.name, pause, now()).await;
    let connection = turned.map_err(|why| match why {
        Unturned::Missing => Failure::no(format!("there is no connection {}", one.name)),
        Unturned::NotConnected => {
            Failure::no(format!("{} is {}: reconnect it first", connection.id, state(&connection.state)))
        }
        Unturned::Failed(error) => error.into(),
    })?;
    if one.ask.json {
        return document(&json!({ "id": connection.id, "state": connection.state }));
    }
    say(format!("{} is {}", connection.id, state(&connection.state)));
    Ok(())
}

//! `palisade connections`: the accounts that are connected.

use clap::{Args, Subcommand};
use palisade_core::ConnectionId;
use palisade_core::store::{Connection, ConnectionState, Connections, Inbox, Records, StreamStatus};
use serde::Serialize;
use serde_json::json;

use super::out::{self, LIMIT_DEFAULT, at, document, facts, table};
use super::place::{Opened, Place, now, store_failure, with_store};
use super::{Failure, say};
use crate::routes::inbox::{Unturned, turn_connection};
use crate::time::rfc3339;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists connections by id.
    List {
        #[command(flatten)]
        place: Place,
        /// Those after this id.
        #[arg(long)]
        after: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = out::limit())]
        limit: u32,
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows one connection with its streams.
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        place: Place,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Pauses one: its syncs, its calls of the outbox, and the handling of its events, which are kept.
    Pause(One),
    /// Lets a paused one go on.
    Resume(One),
}

/// Which connection.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Its id.
    id: String,
    #[command(flatten)]
    place: Place,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, after, limit, json } => {
            with_store(place, async |opened| list(opened, after.as_deref(), *limit, *json).await)
        }
        Command::Show { id, place, json } => with_store(place, async |opened| show(opened, id, *json).await),
        Command::Pause(one) => with_store(&one.place, async |opened| turn(opened, one, true).await),
        Command::Resume(one) => with_store(&one.place, async |opened| turn(opened, one, false).await),
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
        let failed = |error| store_failure(&error);
        let ids = connections.iter().map(|connection| connection.id.clone()).collect();
        let dead = store.dead_counts(ids).await.map_err(failed)?;
        let mut known = Vec::with_capacity(connections.len());
        for connection in connections {
            let streams = store.streams(connection.id.clone()).await.map_err(failed)?;
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

async fn list(opened: &Opened, after: Option<&str>, limit: u32, as_json: bool) -> Result<(), Failure> {
    let after = after.map(ConnectionId::new);
    let mut found = opened.store.connections(after, limit + 1).await.map_err(|error| store_failure(&error))?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let known = Known::read(opened, found).await?;
    let next = known.last().filter(|_| more).map(|last| last.connection.id.as_str());
    if as_json {
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
    if let Some(next) = next {
        say(format!("more: --after {next}"));
    }
    Ok(())
}

async fn show(opened: &Opened, id: &str, as_json: bool) -> Result<(), Failure> {
    let connection = opened.connection(id).await?;
    let known = Known::read(opened, vec![connection]).await?;
    let Some(one) = known.first() else { return Ok(()) };
    if as_json {
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
async fn turn(opened: &Opened, one: &One, pause: bool) -> Result<(), Failure> {
    let connection = opened.connection(&one.id).await?;
    let turned = turn_connection(&opened.store, &opened.worker()?, &one.id, pause, now()).await;
    let connection = turned.map_err(|why| match why {
        Unturned::Missing => Failure::no(format!("there is no connection {}", one.id)),
        Unturned::NotConnected => {
            Failure::no(format!("{} is {}: reconnect it first", connection.id, state(&connection.state)))
        }
        Unturned::Failed(error) => store_failure(&error),
    })?;
    if one.json {
        return document(&json!({ "id": connection.id, "state": connection.state }));
    }
    say(format!("{} is {}", connection.id, state(&connection.state)));
    Ok(())
}

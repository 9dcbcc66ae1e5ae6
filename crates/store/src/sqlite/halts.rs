//! Whose events are kept and not handled. The contract is at [`palisade_core::store::Inbox::halt`].

use std::collections::BTreeSet;

use palisade_core::Timestamp;
use palisade_core::store::{Halt, Queue};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

/// What a claim heeds.
#[derive(Debug, Default)]
pub(super) struct Halts {
    pub(super) all: bool,
    pub(super) providers: BTreeSet<String>,
    pub(super) connections: BTreeSet<String>,
}

impl Halts {
    pub(super) fn read(tx: &Tx<'_>) -> Result<Self, Fault> {
        let mut halts = Self::default();
        let mut statement = tx.prepare("SELECT scope, name FROM palisade_halt")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (scope, name): (i64, String) = (row.get(0)?, row.get(1)?);
            match scope {
                0 => halts.all = true,
                1 => drop(halts.providers.insert(name)),
                _ => drop(halts.connections.insert(name)),
            }
        }
        Ok(halts)
    }

    /// Returns the connection of a job's event if it is halted.
    pub(super) fn of_job(&self, tx: &Tx<'_>, job: i64) -> Result<Option<String>, Fault> {
        if self.connections.is_empty() {
            return Ok(None);
        }
        let connection: Option<String> = tx
            .prepare("SELECT e.connection FROM palisade_job j JOIN palisade_event e ON e.id = j.event WHERE j.id = ?1")?
            .query_row([job], |row| row.get(0))
            .optional()?;
        Ok(connection.filter(|one| self.connections.contains(one)))
    }
}

fn row_of(halt: &Halt) -> (i64, &str) {
    match halt {
        Halt::All => (0, ""),
        Halt::Provider(name) => (1, name),
        Halt::Connection(id) => (2, id.as_str()),
    }
}

pub(super) fn add(tx: &Tx<'_>, halt: &Halt, now: Timestamp) -> Result<bool, Fault> {
    let (scope, name) = row_of(halt);
    let added = tx
        .prepare("INSERT INTO palisade_halt VALUES (?1, ?2, ?3) ON CONFLICT (scope, name) DO NOTHING")?
        .execute(params![scope, name, now.millis()])?;
    Ok(added == 1)
}

pub(super) fn remove(tx: &mut Tx<'_>, halt: &Halt) -> Result<bool, Fault> {
    let (scope, name) = row_of(halt);
    let gone = tx.prepare("DELETE FROM palisade_halt WHERE scope = ?1 AND name = ?2")?.execute(params![scope, name])?;
    tx.wake(Queue::Events);
    Ok(gone == 1)
}

pub(super) fn list(reader: &Connection, limit: u32) -> Result<Vec<(Halt, Timestamp)>, Fault> {
    let mut statement =
        reader.prepare_cached("SELECT scope, name, at FROM palisade_halt ORDER BY scope, name LIMIT ?1")?;
    let mut rows = statement.query([limit])?;
    let mut halts = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let halt = match row.get::<_, i64>(0)? {
            0 => Halt::All,
            1 => Halt::Provider(name),
            2 => Halt::Connection(name.into()),
            _ => return Err(unreadable("halt").into()),
        };
        halts.push((halt, Timestamp(row.get(2)?)));
    }
    Ok(halts)
}

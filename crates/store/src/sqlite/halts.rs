//! Whose events are kept and not handled. The contract is at [`palisade_core::store::Inbox::halt`].
//!
//! There may be as many halts as connections, and a claim must not pay for them: it reads those of everybody and of
//! providers, and asks for a connection's by the job it comes by. What was resumed stays as a row of its own
//! ([`RESUMED`]) until claims have let its parked jobs into line.

use std::collections::BTreeSet;

use palisade_core::Timestamp;
use palisade_core::store::{Halt, Queue};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

const ALL: i64 = 0;
const PROVIDER: i64 = 1;
const CONNECTION: i64 = 2;
/// A connection that is halted no more, and may have parked jobs left.
const RESUMED: i64 = 3;

/// What every claim reads: none of it is longer for more connections that are halted.
const NONE: &str = "SELECT 1 FROM palisade_halt LIMIT 1";
const WIDE: &str = "SELECT scope, name FROM palisade_halt WHERE scope < 2";
const ANY: &str = "SELECT 1 FROM palisade_halt WHERE scope = 2 LIMIT 1";
const OF_JOB: &str = "SELECT h.name FROM palisade_job j CROSS JOIN palisade_event e ON e.id = j.event \
     CROSS JOIN palisade_halt h ON h.scope = 2 AND h.name = e.connection WHERE j.id = ?1";
const NEXT: &str = "SELECT min(name) FROM palisade_halt WHERE scope = 3 AND name >= ?1";

/// What a claim heeds.
#[derive(Debug, Default)]
pub(super) struct Halts {
    pub(super) all: bool,
    pub(super) providers: BTreeSet<String>,
    /// Some connection is halted.
    connections: bool,
    /// Some connection may have been resumed.
    pub(super) resumed: bool,
}

impl Halts {
    pub(super) fn read(tx: &mut Tx<'_>) -> Result<Self, Fault> {
        let mut halts = Self::default();
        if !tx.hot(NONE)?.exists([])? {
            // As it mostly is: one look for all there is to heed.
            return Ok(halts);
        }
        halts.resumed = true;
        let mut statement = tx.prepare(WIDE)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match row.get::<_, i64>(0)? {
                ALL => halts.all = true,
                _ => drop(halts.providers.insert(row.get(1)?)),
            }
        }
        halts.connections = tx.prepare(ANY)?.exists([])?;
        Ok(halts)
    }

    /// Returns the connection of a job's event if it is halted.
    pub(super) fn of_job(&self, tx: &Tx<'_>, job: i64) -> Result<Option<String>, Fault> {
        if !self.connections {
            return Ok(None);
        }
        Ok(tx.prepare(OF_JOB)?.query_row([job], |row| row.get(0)).optional()?)
    }
}

/// Returns the next connection that was resumed, in order, from a name on.
pub(super) fn resumed(tx: &Tx<'_>, from: &str) -> Result<Option<String>, Fault> {
    Ok(tx.prepare(NEXT)?.query_row([from], |row| row.get(0))?)
}

/// Forgets that a connection was resumed: nothing of it is parked any more, or it is halted again.
pub(super) fn forget(tx: &Tx<'_>, connection: &str) -> Result<(), Fault> {
    tx.prepare("DELETE FROM palisade_halt WHERE scope = ?1 AND name = ?2")?.execute(params![RESUMED, connection])?;
    Ok(())
}

fn row_of(halt: &Halt) -> (i64, &str) {
    match halt {
        Halt::All => (ALL, ""),
        Halt::Provider(name) => (PROVIDER, name),
        Halt::Connection(id) => (CONNECTION, id.as_str()),
    }
}

pub(super) fn add(tx: &Tx<'_>, halt: &Halt, now: Timestamp) -> Result<bool, Fault> {
    let (scope, name) = row_of(halt);
    let added = tx
        .prepare("INSERT INTO palisade_halt VALUES (?1, ?2, ?3) ON CONFLICT (scope, name) DO NOTHING")?
        .execute(params![scope, name, now.millis()])?;
    if scope == CONNECTION {
        forget(tx, name)?;
    }
    Ok(added == 1)
}

pub(super) fn remove(tx: &mut Tx<'_>, halt: &Halt) -> Result<bool, Fault> {
    tx.wake(Queue::Events);
    end(tx, halt)
}

/// Ends a halt without waking anybody: workers find it at their next claim.
pub(super) fn end(tx: &Tx<'_>, halt: &Halt) -> Result<bool, Fault> {
    let (scope, name) = row_of(halt);
    let gone = tx.prepare("DELETE FROM palisade_halt WHERE scope = ?1 AND name = ?2")?.execute(params![scope, name])?;
    if scope == CONNECTION && gone == 1 {
        tx.prepare("INSERT OR IGNORE INTO palisade_halt VALUES (?1, ?2, 0)")?.execute(params![RESUMED, name])?;
    }
    Ok(gone == 1)
}

pub(super) fn list(reader: &Connection, limit: u32) -> Result<Vec<(Halt, Timestamp)>, Fault> {
    let mut statement = reader
        .prepare_cached("SELECT scope, name, at FROM palisade_halt WHERE scope < 3 ORDER BY scope, name LIMIT ?1")?;
    let mut rows = statement.query([limit])?;
    let mut halts = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let halt = match row.get::<_, i64>(0)? {
            ALL => Halt::All,
            PROVIDER => Halt::Provider(name),
            CONNECTION => Halt::Connection(name.into()),
            _ => return Err(unreadable("halt").into()),
        };
        halts.push((halt, Timestamp(row.get(2)?)));
    }
    Ok(halts)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sqlite::schema;

    /// Fails when a claim walks the halts, or what is parked, to find those it concerns: every statement of it must go
    /// to its rows by the whole key it is asked for.
    #[test]
    fn a_claim_costs_the_same_however_many_are_halted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("halts.db");
        let mut connection = Connection::open(&path).unwrap();
        schema::prepare(&mut connection, Path::new("halts.db")).unwrap();
        let found = |sql: &str, goes: &str| {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let holes = rusqlite::params_from_iter(vec![0; plan.parameter_count()]);
            let steps: Vec<String> = plan.query_map(holes, |row| row.get(3)).unwrap().map(Result::unwrap).collect();
            assert!(steps.iter().any(|step| step.contains(goes)), "{sql}: {steps:?}");
            assert!(!steps.iter().any(|step| step.contains("SCAN")), "{sql}: {steps:?}");
        };
        found(WIDE, "SEARCH palisade_halt USING PRIMARY KEY (scope<?)");
        found(ANY, "SEARCH palisade_halt USING PRIMARY KEY (scope=?)");
        found(OF_JOB, "SEARCH h USING PRIMARY KEY (scope=? AND name=?)");
        found(NEXT, "SEARCH palisade_halt USING PRIMARY KEY (scope=? AND name>?)");
    }
}

//! Which row a record or an event has, by the name its provider gave it.
//!
//! Names come in no order, so in a large index each belongs on another page, and a commit of a hundred would log a hundred
//! pages for them: ten times what it takes to store the records themselves. So a name is entered in two steps: into a
//! small table of new ones, a handful of pages that all names of a commit share, and from there, when it holds
//! [`NEW_MAX`], in [`LOT`]s of neighbours into the large one, where many of a lot share a page too. Each lot begins where
//! the one before ended, and goes round; so there is never more to do in one commit than a few lots.
//!
//! A name stands in one of the two tables, and whoever looks for one looks into both. No statement but those here and
//! the removals enters or moves one; that none is given twice is looked at in the transaction that enters it.

use std::cell::Cell;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::writer::Tx;

/// Names left in a table of new ones. Few in a debug build, so that the tests' rows get beyond it.
const NEW_MAX: i64 = if cfg!(debug_assertions) { 16 } else { 4_096 };
/// Names moved at once: what is moved is a sixteenth of the new ones and spread over a sixteenth of the large table.
const LOT: u32 = if cfg!(debug_assertions) { 4 } else { 256 };

/// Events of an older file that are sorted at once.
const UPGRADED_MAX: usize = 1 << 20;

/// The expression for a record's row id, by expressions for its stream's and its own id.
macro_rules! record_row {
    ($stream:literal, $id:literal) => {
        concat!(
            "coalesce((SELECT id FROM palisade_record_name WHERE stream = ",
            $stream,
            " AND ext_id = ",
            $id,
            "), (SELECT id FROM palisade_record_new WHERE stream = ",
            $stream,
            " AND ext_id = ",
            $id,
            "))"
        )
    };
}
pub(super) use record_row;

/// The names of a stream's records after one, in order, with their rows.
pub(super) const RECORDS: &str = "SELECT id, ext_id FROM palisade_record_name WHERE stream = ?1 AND ext_id > ?2 \
     UNION ALL SELECT id, ext_id FROM palisade_record_new WHERE stream = ?1 AND ext_id > ?2 ORDER BY 2";

/// The rows of events with a name.
const EVENTS: &str = "SELECT id FROM palisade_event_name WHERE name = ?1 \
     UNION ALL SELECT id FROM palisade_event_new WHERE name = ?1";

/// The name of an event as it is entered: a number, so that it is short and looked up fast. Two events may share one. It
/// stands in files, so it is never worked out otherwise.
pub(super) fn event_name(endpoint: &str, id: &str) -> i64 {
    let mut hash = Sha256::new();
    hash.update((endpoint.len() as u64).to_le_bytes());
    hash.update(endpoint);
    hash.update(id);
    hash.finalize().first_chunk().copied().map_or(0, i64::from_le_bytes)
}

/// Returns the row of an event.
pub(super) fn find_event(tx: &mut Tx<'_>, name: i64, endpoint: &str, id: &str) -> rusqlite::Result<Option<i64>> {
    let named = tx.hot(EVENTS)?.query_map([name], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    for row in named {
        let is_it = "SELECT 1 FROM palisade_event WHERE id = ?1 AND endpoint = ?2 AND event_id = ?3";
        if tx.prepare(is_it)?.exists(params![row, endpoint, id])? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// Enters an event that was not found.
pub(super) fn enter_event(tx: &mut Tx<'_>, name: i64, row: i64) -> rusqlite::Result<()> {
    tx.hot("INSERT INTO palisade_event_new VALUES (?1, ?2)")?.execute([name, row])?;
    tx.names.events.count(1);
    Ok(())
}

/// Takes an event's name away.
pub(super) fn forget_event(tx: &Tx<'_>, name: i64, row: i64) -> rusqlite::Result<()> {
    let gone = tx.prepare("DELETE FROM palisade_event_name WHERE name = ?1 AND id = ?2")?.execute([name, row])?;
    if gone == 0 {
        tx.prepare("DELETE FROM palisade_event_new WHERE name = ?1 AND id = ?2")?.execute([name, row])?;
    }
    Ok(())
}

/// Enters the events of a file of before.
pub(super) fn enter_all_events(connection: &Connection) -> rusqlite::Result<()> {
    let mut events = connection.prepare("SELECT id, endpoint, event_id FROM palisade_event")?;
    let mut rows = events.query([])?;
    let mut enter = connection.prepare("INSERT INTO palisade_event_name VALUES (?1, ?2)")?;
    let mut named = Vec::new();
    loop {
        let row = rows.next()?;
        if let Some(row) = row {
            let texts = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
            named.push((event_name(texts.0, texts.1), row.get::<_, i64>(0)?));
        }
        if row.is_none() || named.len() == UPGRADED_MAX {
            named.sort_unstable();
            for (name, row) in named.drain(..) {
                enter.execute([name, row])?;
            }
        }
        if row.is_none() {
            return Ok(());
        }
    }
}

/// Enters records that nothing has entered before, by their names and rows.
pub(super) fn enter_records<'r>(
    tx: &Tx<'_>,
    stream: i64,
    records: impl IntoIterator<Item = (&'r str, i64)>,
) -> rusqlite::Result<()> {
    let mut enter = tx.prepare("INSERT INTO palisade_record_new VALUES (?1, ?2, ?3)")?;
    let mut entered = 0_u32;
    for (id, row) in records {
        enter.execute(params![stream, id, row])?;
        entered += 1;
    }
    tx.names.records.count(entered);
    Ok(())
}

/// Takes a record's name away.
pub(super) fn forget_record(tx: &Tx<'_>, stream: i64, id: &str) -> rusqlite::Result<()> {
    let gone = tx
        .prepare("DELETE FROM palisade_record_name WHERE stream = ?1 AND ext_id = ?2")?
        .execute(params![stream, id])?;
    if gone == 0 {
        tx.prepare("DELETE FROM palisade_record_new WHERE stream = ?1 AND ext_id = ?2")?
            .execute(params![stream, id])?;
    }
    Ok(())
}

/// Says which rows have no name, or another's, or more than one; empty when all is well.
pub(super) fn check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut count = |what: &str, sql: &str| -> rusqlite::Result<()> {
        let found: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        if found != 0 {
            wrong.push(format!("{found} {what}"));
        }
        Ok(())
    };
    count(
        "records are not found by their names",
        concat!("SELECT count(*) FROM palisade_record r WHERE id IS NOT ", record_row!("r.stream", "r.ext_id")),
    )?;
    count(
        "more names than records",
        "SELECT (SELECT count(*) FROM palisade_record_name) + (SELECT count(*) FROM palisade_record_new) \
         - (SELECT count(*) FROM palisade_record)",
    )?;
    count(
        "more names than events",
        "SELECT (SELECT count(*) FROM palisade_event_name) + (SELECT count(*) FROM palisade_event_new) \
         - (SELECT count(*) FROM palisade_event)",
    )?;
    let mut events = connection.prepare("SELECT id, endpoint, event_id FROM palisade_event")?;
    let mut named = connection.prepare(EVENTS)?;
    let (mut rows, mut lost) = (events.query([])?, 0_u64);
    while let Some(row) = rows.next()? {
        let (id, endpoint, event) = (row.get::<_, i64>(0)?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        let of_name = named.query_map([event_name(endpoint, event)], |row| row.get::<_, i64>(0))?;
        lost += u64::from(!of_name.collect::<rusqlite::Result<Vec<_>>>()?.contains(&id));
    }
    if lost > 0 {
        wrong.push(format!("{lost} events are not found by their names"));
    }
    Ok(wrong)
}

// ------------------------------------------------------------------------------------------------------- moving

/// When names are moved, and where the next lot begins. Forgotten or outdated, it costs a look and no more.
pub(super) struct Names {
    records: Lots,
    events: Lots,
}

struct Lots {
    tables: &'static Tables,
    /// Names entered since the new ones were last counted.
    entered: Cell<u32>,
    /// Before every name.
    start: (Value, Value),
    /// The last name that was moved.
    last: (Value, Value),
}

/// The statements of a pair of tables. `?1` and `?2` are the name a lot begins after, `?3` and `?4` the one it ends with.
struct Tables {
    count: &'static str,
    end: &'static str,
    enter: &'static str,
    clear: &'static str,
}

macro_rules! tables {
    ($all:literal, $new:literal, $name:literal) => {
        &Tables {
            count: concat!("SELECT count(*) FROM ", $new),
            end: concat!(
                "SELECT ",
                $name,
                " FROM ",
                $new,
                " WHERE (",
                $name,
                ") > (?1, ?2) ORDER BY ",
                $name,
                " LIMIT 1 OFFSET ?3"
            ),
            enter: concat!(
                // A name that led nowhere was entered anew: the new one is the row's.
                "INSERT OR REPLACE INTO ",
                $all,
                " SELECT * FROM ",
                $new,
                " WHERE (",
                $name,
                ") > (?1, ?2) AND (",
                $name,
                ") <= (?3, ?4) ORDER BY ",
                $name
            ),
            clear: concat!("DELETE FROM ", $new, " WHERE (", $name, ") > (?1, ?2) AND (", $name, ") <= (?3, ?4)"),
        }
    };
}

impl Default for Names {
    fn default() -> Self {
        // What earlier processes have left is looked at with the first commit.
        let of = |tables, start: (Value, Value)| Lots { tables, entered: Cell::new(LOT), last: start.clone(), start };
        let (first, empty) = (Value::Integer(i64::MIN), Value::Text(String::new()));
        let records = tables!("palisade_record_name", "palisade_record_new", "stream, ext_id");
        let events = tables!("palisade_event_name", "palisade_event_new", "name, id");
        Self { records: of(records, (first.clone(), empty)), events: of(events, (first.clone(), first)) }
    }
}

impl Lots {
    fn count(&self, entered: u32) {
        self.entered.set(self.entered.get().saturating_add(entered));
    }

    /// Moves lots until no more are left than may be.
    fn move_on(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.entered.get() < LOT {
            return Ok(());
        }
        self.entered.set(0);
        let Tables { count, end, enter, clear } = self.tables;
        let mut left: i64 = connection.prepare_cached(count)?.query_one([], |row| row.get(0))?;
        while left > NEW_MAX {
            let (of, name) = &self.last;
            let last = connection
                .prepare_cached(end)?
                .query_one(params![of, name, LOT - 1], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            // Past the last name the round begins again. A blob is greater than any number and any text.
            let (to, next) = match last {
                Some(last) => (last.clone(), last),
                None => ((Value::Blob(Vec::new()), Value::Null), self.start.clone()),
            };
            let lot = params![of, name, to.0, to.1];
            connection.prepare_cached(enter)?.execute(lot)?;
            left -= i64::try_from(connection.prepare_cached(clear)?.execute(lot)?).unwrap_or(i64::MAX);
            self.last = next;
        }
        Ok(())
    }
}

/// Moves names at the end of a transaction, if enough were entered.
pub(super) fn move_on(connection: &Connection, names: &mut Names) -> rusqlite::Result<()> {
    names.records.move_on(connection)?;
    names.events.move_on(connection)
}

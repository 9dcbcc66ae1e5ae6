//! Which record stands at which number of its stream's change feed.
//!
//! A record has one entry, at the number of its last change: a change takes the entry away from where it stood and makes
//! one at the head. In an index of the records that wrote two pages more for each change, since where a record stood is
//! anywhere. So a stream's newest entries stand in the stream's own row, which every commit writes anyway, and when there
//! are more than [`NEW_MAX`] they are moved into the table together: what changed at about the same time mostly stood
//! together before, too.
//!
//! Until they are moved, the table has the entries of before. They name rows that tell another number, and do not count.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::records::RECORD;
use super::writer::Tx;

/// Entries kept in a stream's row. Few in a debug build, so that the tests' changes get beyond it.
const NEW_MAX: usize = if cfg!(debug_assertions) { 3 } else { 16 };

/// The bytes of an entry: number, row and the number of before, little endian; no record stands at 0.
const ENTRY_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    seq: i64,
    row: i64,
    /// Where the table has the record still, or 0.
    before: i64,
}

/// The newest entries of a stream, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NewEntries(Vec<Entry>);

impl NewEntries {
    /// Reads what [`NewEntries::bytes`] wrote.
    pub(super) fn read(bytes: Option<&[u8]>) -> Result<Self, Fault> {
        let (entries, rest) = bytes.unwrap_or_default().as_chunks::<ENTRY_BYTES>();
        let number = |bytes: &[u8; ENTRY_BYTES], at: usize| {
            bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map(i64::from_le_bytes)
        };
        let one = |bytes: &[u8; ENTRY_BYTES]| {
            let (seq, row, before) = (number(bytes, 0)?, number(bytes, 8)?, number(bytes, 16)?);
            (before >= 0 && before < seq).then_some(Entry { seq, row, before })
        };
        let read: Option<Vec<_>> = entries.iter().map(one).collect();
        let lawful = |entries: &Vec<Entry>| rest.is_empty() && entries.is_sorted_by(|a, b| a.seq < b.seq);
        read.filter(lawful).map(Self).ok_or_else(|| unreadable("stream's newest entries").into())
    }

    /// Returns them as they stand in the stream's row.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let all: Vec<u8> =
            self.0.iter().flat_map(|one| [one.seq, one.row, one.before]).flat_map(i64::to_le_bytes).collect();
        (!all.is_empty()).then_some(all)
    }

    /// Enters records in whatever order, each once: with its row, its number and the number its row had before, if any.
    pub(super) fn enter(&mut self, records: impl IntoIterator<Item = (i64, u64, Option<u64>)>) {
        // Each comes once: only those of before can be of one of these.
        let mut known = self.0.len();
        for (row, seq, before) in records {
            let mut before = before.unwrap_or(0).cast_signed();
            if before > 0
                && let Some(at) = self.0.iter().take(known).position(|one| one.row == row)
            {
                before = self.0.remove(at).before;
                known -= 1;
            }
            self.0.push(Entry { seq: seq.cast_signed(), row, before });
        }
        self.0.sort_unstable_by_key(|one| one.seq);
    }

    /// Moves all into the table when they are too many for the stream's row.
    pub(super) fn settle(&mut self, tx: &Tx<'_>, stream: i64) -> rusqlite::Result<()> {
        if self.0.len() > NEW_MAX { self.settle_all(tx, stream) } else { Ok(()) }
    }

    fn settle_all(&mut self, tx: &Tx<'_>, stream: i64) -> rusqlite::Result<()> {
        let mut leave = tx.prepare("DELETE FROM palisade_feed WHERE stream = ?1 AND seq = ?2")?;
        let mut enter = tx.prepare("INSERT INTO palisade_feed (stream, seq, id) VALUES (?1, ?2, ?3)")?;
        for one in self.0.drain(..) {
            if one.before > 0 {
                leave.execute([stream, one.before])?;
            }
            enter.execute([stream, one.seq, one.row])?;
        }
        Ok(())
    }

    /// Returns the rows and numbers of those after `after`.
    pub(super) fn after(&self, after: i64) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().filter(move |one| one.seq > after).map(|one| (one.row, one.seq))
    }

    /// Returns the row at a number, if it is one of these.
    pub(super) fn row_at(&self, seq: u64) -> Option<i64> {
        self.0.iter().rev().find(|one| one.seq == seq.cast_signed()).map(|one| one.row)
    }
}

/// Returns the newest entries of a stream.
pub(super) fn new_of(connection: &Connection, stream: i64) -> Result<NewEntries, Fault> {
    let found: Option<Option<Vec<u8>>> = connection
        .prepare_cached("SELECT feed_new FROM palisade_stream WHERE id = ?1")?
        .query_one([stream], |row| row.get(0))
        .optional()?;
    NewEntries::read(found.flatten().as_deref())
}

/// Writes the newest entries of a stream, moving them if they are too many.
pub(super) fn write(tx: &Tx<'_>, stream: i64, mut new: NewEntries) -> rusqlite::Result<()> {
    new.settle(tx, stream)?;
    tx.prepare("UPDATE palisade_stream SET feed_new = ?2 WHERE id = ?1")?.execute(params![stream, new.bytes()])?;
    Ok(())
}

/// Takes entries away with their records, given as stream and number; `new` are the newest entries of these streams, which
/// are moved first.
pub(super) fn forget(tx: &Tx<'_>, new: BTreeMap<i64, NewEntries>, gone: &[(i64, i64)]) -> rusqlite::Result<()> {
    for (stream, mut new) in new {
        if !new.0.is_empty() {
            new.settle_all(tx, stream)?;
            write(tx, stream, new)?;
        }
    }
    let mut leave = tx.prepare("DELETE FROM palisade_feed WHERE stream = ?1 AND seq = ?2")?;
    for (stream, seq) in gone {
        leave.execute([stream, seq])?;
    }
    Ok(())
}

/// Reads the columns [`RECORD`] of a stream's records after a number, in the order of the feed, until `each` says that it
/// has enough.
pub(super) fn each_after(
    connection: &Connection,
    stream: i64,
    new: &NewEntries,
    after: i64,
    mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let mut moved = connection.prepare_cached(&format!(
        "SELECT {RECORD} FROM palisade_feed f CROSS JOIN palisade_record r ON r.id = f.id AND r.seq = f.seq \
         WHERE f.stream = ?1 AND f.seq > ?2 ORDER BY f.seq"
    ))?;
    let mut rows = moved.query([stream, after])?;
    while let Some(row) = rows.next()? {
        if !each(row)? {
            return Ok(());
        }
    }
    let mut one = connection.prepare_cached(&format!("SELECT {RECORD} FROM palisade_record r WHERE r.id = ?1"))?;
    for (row, _) in new.after(after) {
        if !one.query_one([row], &mut each)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the rows of a stream's records up to a number of the feed, each with its number.
pub(super) fn rows_until(
    connection: &Connection,
    stream: i64,
    until: i64,
    mut each: impl FnMut(i64, i64) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let new = new_of(connection, stream)?;
    let mut moved =
        connection.prepare_cached("SELECT id, seq FROM palisade_feed WHERE stream = ?1 AND seq <= ?2 ORDER BY seq")?;
    let mut rows = moved.query([stream, until])?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, row.get(1)?)?;
    }
    new.after(0).take_while(|(_, seq)| *seq <= until).try_for_each(|(row, seq)| each(row, seq))
}

/// Returns when the record at a number of a stream's feed changed, if it is kept.
pub(super) fn changed_at(
    connection: &Connection,
    stream: i64,
    new: &NewEntries,
    seq: u64,
) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT changed_at FROM palisade_record WHERE seq = ?2 AND id = \
             coalesce(?3, (SELECT id FROM palisade_feed WHERE stream = ?1 AND seq = ?2))",
        )?
        .query_one(params![stream, seq.cast_signed(), new.row_at(seq)], |row| row.get(0))
        .optional()
}

/// Says which records stand nowhere in their feeds, or in two places; empty when all is well.
pub(super) fn check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let records = number("SELECT count(*) FROM palisade_record")?;
    let mut found = number(
        "SELECT count(*) FROM palisade_feed f JOIN palisade_record r \
         ON r.id = f.id AND r.stream = f.stream AND r.seq = f.seq",
    )?;
    let mut entries = number("SELECT count(*) FROM palisade_feed")?;
    let mut wrong = Vec::new();
    let mut is_at = connection.prepare("SELECT 1 FROM palisade_record WHERE id = ?1 AND stream = ?2 AND seq = ?3")?;
    let mut streams = connection.prepare("SELECT id, feed_new FROM palisade_stream WHERE feed_new IS NOT NULL")?;
    let mut rows = streams.query([])?;
    while let Some(row) = rows.next()? {
        let stream: i64 = row.get(0)?;
        let Ok(new) = NewEntries::read(Some(row.get_ref(1)?.as_blob()?)) else {
            wrong.push(format!("the newest entries of stream {stream} cannot be read"));
            continue;
        };
        for one in &new.0 {
            found += i64::from(is_at.exists([one.row, stream, one.seq])?);
            entries += i64::from(one.before == 0);
        }
    }
    if found != records {
        wrong.push(format!("{} records do not stand in their feeds", records - found));
    }
    if entries != records {
        wrong.push(format!("{} entries of feeds more than records", entries - records));
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(i64, u64, Option<u64>)]) -> NewEntries {
        let mut new = NewEntries::default();
        new.enter(entries.iter().copied());
        new
    }

    /// Fails when a record stands twice, an entry is out of its order, or the table's entry of before is forgotten.
    #[test]
    fn a_record_stands_at_its_last_change() {
        let mut new = of(&[(1, 10, Some(3)), (2, 11, None)]);
        new.enter([(3, 14, Some(7)), (1, 13, Some(10)), (2, 12, Some(11))]);
        let entry = |seq, row, before| Entry { seq, row, before };
        assert_eq!(new.0, [entry(12, 2, 0), entry(13, 1, 3), entry(14, 3, 7)]);
        assert_eq!(new.after(12).collect::<Vec<_>>(), [(1, 13), (3, 14)]);
        assert_eq!((new.row_at(13), new.row_at(10)), (Some(1), None));
    }

    /// Fails when a stream's row does not give back what was put into it.
    #[test]
    fn entries_are_read_as_they_were_written() {
        let new = of(&[(i64::MAX, 10, Some(3)), (2, 11, None)]);
        assert_eq!(NewEntries::read(new.bytes().as_deref()).unwrap(), new);
        assert_eq!((NewEntries::default().bytes(), NewEntries::read(None).unwrap()), (None, NewEntries::default()));
    }

    /// Fails when a file that was damaged is read as if a record stood there, or nowhere.
    #[test]
    fn damaged_entries_are_refused() {
        let whole = of(&[(1, 10, Some(3)), (2, 11, None)]).bytes().unwrap();
        let (mut later, mut below, mut reversed) = (whole.clone(), whole.clone(), whole.clone());
        later[16] = 10;
        below[23] = 0x80;
        reversed.rotate_left(ENTRY_BYTES);
        for damaged in [&whole[1..], &later, &below, &reversed] {
            assert!(NewEntries::read(Some(damaged)).is_err());
        }
    }
}

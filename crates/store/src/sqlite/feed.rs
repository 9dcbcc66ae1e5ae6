//! The change feed: pages with what judges a reader's position, whole readings in one snapshot, and the removal of old
//! tombstones.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use palisade_core::store::{ChangeKind, FeedEntry, FeedPage, MergeCounts, RunId, StreamKey};
use palisade_core::{Result, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc;

use super::entries::{self, NewEntries};
use super::error::Fault;
use super::readers::Readers;
use super::records::record_of;
use super::writer::Tx;
use super::{names, seen};

/// Pages of a whole reading that wait for whoever takes them.
const PAGES_WAITING: usize = 2;
/// Bytes of records after which a page ends, however many were asked for: bounds what a reader holds in memory.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// A stream as its readers see it.
struct Place {
    id: i64,
    head: u64,
    horizon: u64,
    /// What stands behind the entries of the table.
    new: NewEntries,
}

fn place(connection: &Connection, key: &StreamKey) -> std::result::Result<Option<Place>, Fault> {
    let found = connection
        .prepare_cached("SELECT id, head, horizon, feed_new FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(params![key.connection.as_str(), key.stream.as_str()], |row| {
            let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
            Ok((row.get(0)?, number(1)?, number(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        })
        .optional()?;
    let place = |(id, head, horizon, new): (_, _, _, Option<Vec<u8>>)| {
        Ok(Place { id, head, horizon, new: NewEntries::read(new.as_deref())? })
    };
    found.map(place).transpose()
}

pub(super) fn page(
    connection: &Connection,
    key: &StreamKey,
    after: u64,
    limit: u32,
) -> std::result::Result<FeedPage, Fault> {
    match place(connection, key)? {
        Some(place) => page_of(connection, &place, after, limit),
        None => Ok(FeedPage::default()),
    }
}

fn page_of(connection: &Connection, place: &Place, after: u64, limit: u32) -> std::result::Result<FeedPage, Fault> {
    let &Place { id, head, horizon, ref new } = place;
    let Ok(after) = i64::try_from(after) else { return Ok(FeedPage { head, horizon, ..FeedPage::default() }) };
    let (mut entries, mut bytes, mut more) = (Vec::new(), 0_usize, false);
    entries::each_after(connection, id, new, after, |row| {
        // One more than asked for tells whether there is more.
        more = entries.len() >= limit as usize || bytes >= PAGE_BYTES_MAX;
        if !more {
            let entry = entry(row)?;
            bytes = bytes.saturating_add(entry.record.data.as_ref().map_or(0, bytes::Bytes::len));
            entries.push(entry);
        }
        Ok(!more)
    })?;
    Ok(FeedPage { entries, head, horizon, more })
}

/// Reads an entry of the columns [`RECORD`](super::records::RECORD).
pub(super) fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<FeedEntry> {
    let kind = match (row.get(5)?, row.get(6)?) {
        (true, _) => ChangeKind::Deleted,
        (false, false) => ChangeKind::Added,
        (false, true) => ChangeKind::Updated,
    };
    Ok(FeedEntry { kind, record: record_of(row)? })
}

/// Reads everything in one snapshot on a thread that waits while nobody takes its pages.
pub(super) fn scan(readers: Arc<Readers>, key: StreamKey, size: u32) -> BoxStream<'static, Result<FeedPage>> {
    let begin = async move {
        let (pages, taken) = mpsc::channel(PAGES_WAITING);
        let failed = pages.clone();
        let read = async move {
            let ended = readers.read(move |connection| read_all(connection, &key, size.max(1), &pages)).await;
            if let Err(error) = ended {
                // Whoever went away is not interested.
                let _ = failed.send(Err(error)).await;
            }
        };
        // A task of its own, so that a thread that waits for room does not depend on who polls what. It ends when the
        // pages are not taken any more.
        tokio::spawn(read);
        futures_util::stream::unfold(taken, |mut taken| async move { Some((taken.recv().await?, taken)) })
    };
    futures_util::stream::once(begin).flatten().boxed()
}

fn read_all(
    connection: &Connection,
    key: &StreamKey,
    size: u32,
    pages: &mpsc::Sender<Result<FeedPage>>,
) -> std::result::Result<(), Fault> {
    let Some(place) = place(connection, key)? else {
        let _ = pages.blocking_send(Ok(FeedPage::default()));
        return Ok(());
    };
    let mut after = 0;
    loop {
        let page = page_of(connection, &place, after, size)?;
        let more = page.more;
        after = page.entries.last().map_or(after, |entry| entry.record.seq);
        if pages.blocking_send(Ok(page)).is_err() || !more {
            return Ok(());
        }
    }
}

pub(super) fn head(connection: &Connection, key: &StreamKey) -> std::result::Result<u64, Fault> {
    Ok(place(connection, key)?.map_or(0, |place| place.head))
}

/// Returns the stream of a run whose page changed something, so that its waiters are woken.
pub(super) fn changed_by(
    tx: &Tx<'_>,
    run: RunId,
    counts: &MergeCounts,
) -> std::result::Result<Option<StreamKey>, Fault> {
    if counts.added + counts.updated + counts.deleted == 0 {
        return Ok(None);
    }
    let key = tx
        .prepare("SELECT connection, name FROM palisade_run WHERE id = ?1")?
        .query_one([run.0], |row| {
            Ok(StreamKey { connection: row.get::<_, String>(0)?.into(), stream: row.get::<_, String>(1)?.into() })
        })
        .optional()?;
    Ok(key)
}

pub(super) fn compact(tx: &Tx<'_>, before: Timestamp, limit: u32) -> std::result::Result<u64, Fault> {
    let mut old = tx.prepare(
        "SELECT id, stream, seq, ext_id FROM palisade_record INDEXED BY palisade_record_gone \
         WHERE deleted = 1 AND changed_at < ?1 ORDER BY changed_at, stream, seq LIMIT ?2",
    )?;
    let found = old.query_map(params![before.millis(), limit], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
    })?;
    let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    // First: these may refuse, and then nothing may have been written.
    let places: Vec<_> = found.iter().map(|(_, stream, seq, _)| (*stream, *seq)).collect();
    let mut new = BTreeMap::new();
    for (stream, _) in &places {
        if !new.contains_key(stream) {
            new.insert(*stream, entries::new_of(tx.connection(), *stream)?);
        }
    }
    seen::forget(tx, found.iter().map(|(id, stream, ..)| (*stream, *id)))?;
    entries::forget(tx, new, &places)?;
    let mut remove = tx.prepare("DELETE FROM palisade_record WHERE id = ?1")?;
    let mut horizons = BTreeMap::new();
    for (id, stream, seq, name) in &found {
        remove.execute([id])?;
        names::forget_record(tx, *stream, name)?;
        let horizon = horizons.entry(*stream).or_insert(*seq);
        *horizon = (*horizon).max(*seq);
    }
    let mut raise = tx.prepare("UPDATE palisade_stream SET horizon = max(horizon, ?2) WHERE id = ?1")?;
    for (stream, horizon) in horizons {
        raise.execute([stream, horizon])?;
    }
    Ok(found.len() as u64)
}

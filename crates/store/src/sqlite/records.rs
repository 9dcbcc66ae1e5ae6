//! Records and the change feed.
//!
//! A merge has two steps: [`Staged::new`] only reads and decides by the merge rule, [`Staged::commit`] writes. What
//! cannot be ordered is thus known before anything is written, and no savepoint is needed.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use palisade_core::store::{
    BAD_DROPPED_AT_ONCE, BAD_KEPT_MAX, FeedEntry, Merge, MergeCounts, PageCommit, Record, RunId, StoredBad, StreamKey,
    StreamStatus,
};
use palisade_core::sync::merge::{Incoming, Seen, Stored, Verdict, content_hash, forgotten_before, merge, span_after};
use palisade_core::sync::{BadRecord, Change, Cursor, Span, State};
use palisade_core::{ConnectionId, RecordId, StreamName, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::entries::{self, NewEntries};
use super::error::Fault;
use super::names::{self, record_row};
use super::seen::{Note, Notes};
use super::writer::Tx;
use super::{feed, inbox};

/// Roughly how many bytes the changes hold in memory.
pub(super) fn bytes(changes: &[Change]) -> usize {
    let one = |change: &Change| match &change.state {
        State::Present(data) => data.len(),
        State::Deleted | State::Unclear => 0,
    };
    changes.iter().map(|change| one(change) + inbox::COMMAND_BYTES).sum()
}

// ------------------------------------------------------------------------------------------------------ merging

/// Merges worked out and not yet written.
pub(super) struct Staged<'m> {
    streams: Vec<StagedStream<'m>>,
    counts: MergeCounts,
    /// What cannot be ordered, each record once.
    pub(super) fetch: Vec<(&'m StreamKey, &'m RecordId)>,
    now: Timestamp,
}

struct StagedStream<'m> {
    key: &'m StreamKey,
    id: Option<i64>,
    commits: u64,
    head: u64,
    live: i64,
    /// Records set aside because they could not be read.
    bad: i64,
    /// From before this tombstones may be forgotten.
    forgotten_before: i64,
    /// What was noted of the rows that were looked at.
    notes: Notes,
    /// Its newest entries in the feed.
    entries: NewEntries,
    rows: Vec<StagedRow<'m>>,
    /// Where a record stands in `rows`.
    places: HashMap<&'m str, usize>,
}

struct StagedRow<'m> {
    at: Option<At>,
    record: &'m RecordId,
    /// What the rule sees of it for the next change of the same commit.
    stored: Stored,
    written: Option<Written<'m>>,
}

/// Where a record that is stored stands: its row, and its number in the feed.
#[derive(Clone, Copy)]
struct At {
    id: i64,
    seq: u64,
}

struct Written<'m> {
    seq: u64,
    revised: bool,
    data: Option<&'m Bytes>,
}

impl<'m> Staged<'m> {
    /// Works out what merges do, each change against what the one before left.
    pub(super) fn new(tx: &Tx<'_>, merges: &'m [Merge], now: Timestamp) -> Result<Self, Fault> {
        let mut staged = Self { streams: Vec::new(), counts: MergeCounts::default(), fetch: Vec::new(), now };
        for one in merges {
            staged.add(tx, &one.key, one.read_since, &one.changes)?;
        }
        Ok(staged)
    }

    /// Works out the read of a page of one stream, and those of its records that were read by themselves.
    pub(super) fn of_page(tx: &Tx<'_>, key: &'m StreamKey, page: &'m PageCommit) -> Result<Self, Fault> {
        let now = page.now;
        let mut staged = Self { streams: Vec::new(), counts: MergeCounts::default(), fetch: Vec::new(), now };
        staged.add(tx, key, Some(page.read_since), &page.changes)?;
        for one in &page.fetched {
            staged.add(tx, key, Some(one.read_since), std::slice::from_ref(&one.change))?;
        }
        Ok(staged)
    }

    fn add(
        &mut self,
        tx: &Tx<'_>,
        key: &'m StreamKey,
        read_since: Option<u64>,
        changes: &'m [Change],
    ) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        let place = match self.streams.iter().position(|stream| stream.key == key) {
            Some(place) => place,
            None => {
                self.streams.push(StagedStream::load(tx, key, changes.len(), self.now)?);
                self.streams.len() - 1
            }
        };
        let Some(stream) = self.streams.get_mut(place) else { return Ok(()) };
        let asked: Vec<_> = changes.iter().map(|change| (change.id.as_str(), content_of(change))).collect();
        let found = stream.id.map(|of| find(tx.connection(), of, &asked)).transpose()?.unwrap_or_default();
        for (change, found) in changes.iter().zip(found.into_iter().chain(std::iter::repeat(None))) {
            let place = stream.places.get(change.id.as_str()).copied();
            let (at, stored, same) = match (place.and_then(|place| stream.rows.get(place)), stream.id.zip(found)) {
                (Some(row), _) => (row.at, Some(row.stored), false),
                (None, Some((of, Found { at, row, same }))) => {
                    (Some(at), Some(stream.notes.over(tx.connection(), of, at.id, row)?), same)
                }
                (None, None) => (None, None, false),
            };
            let hash = match (content_of(change), stored) {
                (Some(_), Some(stored)) if same => stored.hash,
                (content, _) => content.map_or(0, content_hash),
            };
            let verdict = stream.stage(change, hash, read_since, place, at, stored);
            match verdict {
                Decided::Fetch => {
                    if !self.fetch.iter().any(|(of, record)| *of == key && **record == change.id) {
                        self.fetch.push((key, &change.id));
                    }
                }
                Decided::Older => self.counts.older += 1,
                Decided::Confirmed => self.counts.unchanged += 1,
                Decided::Deleted => self.counts.deleted += 1,
                Decided::Updated => self.counts.updated += 1,
                Decided::Added => self.counts.added += 1,
            }
        }
        Ok(())
    }

    /// Returns what cannot be ordered.
    pub(super) fn fetch(&self) -> Vec<(StreamKey, RecordId)> {
        self.fetch.iter().map(|(key, record)| ((*key).clone(), (*record).clone())).collect()
    }

    /// Writes what was worked out.
    pub(super) fn commit(&self, tx: &Tx<'_>) -> Result<MergeCounts, Fault> {
        for stream in &self.streams {
            stream.commit(tx, self.now)?;
        }
        Ok(self.counts)
    }
}

/// The content a change brings.
fn content_of(change: &Change) -> Option<&[u8]> {
    match &change.state {
        State::Present(data) => Some(data),
        State::Deleted | State::Unclear => None,
    }
}

enum Decided {
    Fetch,
    Older,
    Confirmed,
    Deleted,
    Updated,
    Added,
}

/// What the row of a record says.
#[derive(Clone, Copy)]
struct Found {
    at: At,
    row: Stored,
    /// Its content is, byte for byte, what came, so that nothing has to be hashed.
    same: bool,
}

/// Content that is compared as it stands: it is in the page of its row. What is larger would have to be read from others,
/// and is hashed.
macro_rules! content {
    () => {
        "CASE WHEN length(data) <= 8192 THEN data END"
    };
}

/// Finds what [`Found::read`] reads by stream and id.
const FIND: &str = concat!(
    "SELECT id, observed, earliest, latest, hash, deleted, ",
    content!(),
    ", seq FROM palisade_record WHERE id = ",
    record_row!("?1", "?2"),
    " AND stream = ?1 AND ext_id = ?2"
);

/// Reads on from a row.
const BESIDE: &str = concat!(
    "SELECT id, observed, earliest, latest, hash, deleted, ",
    content!(),
    ", seq, stream, ext_id FROM palisade_record WHERE id > ?1 ORDER BY id"
);

impl Found {
    fn read(row: &Row<'_>, content: Option<&[u8]>) -> rusqlite::Result<Self> {
        let same = content.is_some_and(|content| row.get_ref(6).is_ok_and(|data| data == ValueRef::Blob(content)));
        let seq = row.get::<_, i64>(7)?.cast_unsigned();
        let (id, row) = stored(row)?;
        Ok(Self { at: At { id, seq }, row, same })
    }
}

/// Returns what the rows of records say, each asked for by its id and compared with what came.
///
/// What was listed together lies side by side, and mostly is listed together again. So after two records whose rows are
/// neighbours the next rows are read on, and no name is looked up as long as they are those of the next records.
fn find(connection: &Connection, of: i64, asked: &[(&str, Option<&[u8]>)]) -> Result<Vec<Option<Found>>, Fault> {
    let mut named = connection.prepare_cached(FIND)?;
    let mut beside = connection.prepare_cached(BESIDE)?;
    let (mut found, mut before) = (Vec::with_capacity(asked.len()), None);
    while let Some((id, content)) = asked.get(found.len()) {
        let one = named.query_one(params![of, id], |row| Found::read(row, *content)).optional()?;
        found.push(one);
        let Some(Found { at: At { id: row, .. }, .. }) = one else { continue };
        if before.replace(row) != Some(row - 1) {
            continue;
        }
        let mut rows = beside.query([row])?;
        while let Some((id, content)) = asked.get(found.len()) {
            let next = rows.next()?.filter(|row| {
                let is = |column: usize, wanted: ValueRef<'_>| row.get_ref(column).is_ok_and(|value| value == wanted);
                is(8, ValueRef::Integer(of)) && is(9, ValueRef::Text(id.as_bytes()))
            });
            let Some(next) = next else { break };
            let one = Found::read(next, *content)?;
            before = Some(one.at.id);
            found.push(Some(one));
        }
    }
    Ok(found)
}

/// Reads a record's row id and what its row says.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<(i64, Stored)> {
    let stored = Stored {
        observed: row.get::<_, i64>(1)?.cast_unsigned(),
        span: Span { earliest: row.get(2)?, latest: row.get(3)? },
        hash: row.get::<_, i64>(4)?.cast_unsigned(),
        deleted: row.get(5)?,
    };
    Ok((row.get(0)?, stored))
}

impl<'m> StagedStream<'m> {
    fn load(tx: &Tx<'_>, key: &'m StreamKey, changes: usize, now: Timestamp) -> Result<Self, Fault> {
        let found = tx
            .prepare(
                "SELECT id, commits, head, bad, feed_new FROM palisade_stream WHERE connection = ?1 AND name = ?2",
            )?
            .query_one(params![key.connection.as_str(), key.stream.as_str()], |row| {
                let new = NewEntries::read(blob(row, 4)?);
                Ok((Some(row.get::<_, i64>(0)?), row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get(3)?, new))
            })
            .optional()?;
        let (id, commits, head, bad, entries) = found.unwrap_or((None, 0, 0, 0, Ok(NewEntries::default())));
        Ok(Self {
            key,
            id,
            commits: commits.cast_unsigned() + 1,
            head: head.cast_unsigned(),
            live: 0,
            bad,
            forgotten_before: forgotten_before(now),
            notes: Notes::default(),
            entries: entries?,
            rows: Vec::with_capacity(changes),
            places: HashMap::with_capacity(changes),
        })
    }

    fn stage(
        &mut self,
        change: &'m Change,
        hash: u64,
        read_since: Option<u64>,
        place: Option<usize>,
        at: Option<At>,
        stored: Option<Stored>,
    ) -> Decided {
        let (seen, data) = match &change.state {
            State::Present(data) => (Seen::Present { hash }, Some(data)),
            State::Deleted => (Seen::Deleted, None),
            State::Unclear => (Seen::Unclear, None),
        };
        let incoming = Incoming { span: change.span, read_since, seen, forgotten_before: self.forgotten_before };
        let verdict = merge(stored, incoming);
        let span = span_after(stored, incoming);
        let lived = stored.is_some_and(|stored| !stored.deleted);
        let (decided, after, written) = match (verdict, stored) {
            (Verdict::Fetch, _) => return Decided::Fetch,
            (Verdict::Older, _) | (Verdict::Confirm, None) => return Decided::Older,
            (Verdict::Confirm, Some(stored)) => {
                (Decided::Confirmed, Stored { span, observed: self.commits, ..stored }, None)
            }
            (Verdict::Write, _) => {
                self.head += 1;
                self.live += i64::from(data.is_some()) - i64::from(lived);
                let decided = match (data, lived) {
                    (None, _) => Decided::Deleted,
                    (Some(_), true) => Decided::Updated,
                    (Some(_), false) => Decided::Added,
                };
                let after = Stored { span, observed: self.commits, deleted: data.is_none(), hash };
                (decided, after, Some(Written { seq: self.head, revised: lived, data }))
            }
        };
        match place.and_then(|place| self.rows.get_mut(place)) {
            Some(row) => {
                row.stored = after;
                row.written = written.or_else(|| row.written.take());
            }
            None => {
                self.places.insert(change.id.as_str(), self.rows.len());
                self.rows.push(StagedRow { at, record: &change.id, stored: after, written });
            }
        }
        decided
    }

    fn commit(&self, tx: &Tx<'_>, now: Timestamp) -> Result<(), Fault> {
        let stream = match self.id {
            Some(id) => id,
            None => stream_row(tx, self.key)?,
        };
        let mut insert = tx.prepare(
            "INSERT INTO palisade_record (stream, ext_id, seq, observed, earliest, latest, hash, deleted, revised, \
             first_seen, changed_at, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10, ?11)",
        )?;
        let mut update = tx.prepare(
            "UPDATE palisade_record SET seq = ?2, observed = ?3, earliest = ?4, latest = ?5, hash = ?6, deleted = ?7, \
             revised = ?8, changed_at = ?9, data = ?10 WHERE id = ?1",
        )?;
        let (mut confirmed, mut written, mut added, mut moved) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in &self.rows {
            let Stored { span, observed, deleted, hash } = row.stored;
            let note = Note { observed, span };
            let (observed, hash) = (observed.cast_signed(), hash.cast_signed());
            match (row.at, &row.written) {
                (None, Some(Written { seq, revised, data })) => {
                    insert.execute(params![
                        stream,
                        row.record.as_str(),
                        seq.cast_signed(),
                        observed,
                        span.earliest,
                        span.latest,
                        hash,
                        deleted,
                        revised,
                        now.millis(),
                        data.map(|data| &data[..]),
                    ])?;
                    added.push((row.record.as_str(), tx.last_rowid()));
                    moved.push((tx.last_rowid(), *seq, None));
                }
                (Some(At { id, seq: before }), Some(Written { seq, revised, data })) => {
                    update.execute(params![
                        id,
                        seq.cast_signed(),
                        observed,
                        span.earliest,
                        span.latest,
                        hash,
                        deleted,
                        revised,
                        now.millis(),
                        data.map(|data| &data[..]),
                    ])?;
                    moved.push((id, *seq, Some(before)));
                    written.push((id, note));
                }
                (Some(At { id, .. }), None) => {
                    confirmed.push((id, note));
                }
                // Only a record that is stored, or written here before, can be confirmed.
                (None, None) => {}
            }
        }
        names::enter_records(tx, stream, added)?;
        self.notes.write(tx, stream, confirmed, &written)?;
        if self.bad > 0 {
            self.read_after_all(tx, stream)?;
        }
        self.move_on(tx, stream, moved)
    }

    /// Enters what changed into the feed, and writes how far the stream is.
    fn move_on(&self, tx: &Tx<'_>, stream: i64, moved: Vec<(i64, u64, Option<u64>)>) -> Result<(), Fault> {
        let (commits, head) = (self.commits.cast_signed(), self.head.cast_signed());
        if moved.is_empty() {
            tx.prepare("UPDATE palisade_stream SET commits = ?2 WHERE id = ?1")?.execute([stream, commits])?;
            return Ok(());
        }
        let mut entries = self.entries.clone();
        entries.enter(moved);
        entries.settle(tx, stream)?;
        tx.prepare(
            "UPDATE palisade_stream SET commits = ?2, head = ?3, records = records + ?4, feed_new = ?5 WHERE id = ?1",
        )?
        .execute(params![stream, commits, head, self.live, entries.bytes()])?;
        Ok(())
    }
}

impl StagedStream<'_> {
    /// Forgets that records were set aside that could be read by now.
    fn read_after_all(&self, tx: &Tx<'_>, stream: i64) -> Result<(), Fault> {
        let mut forget = tx.prepare("DELETE FROM palisade_bad_record WHERE stream = ?1 AND key = '=' || ?2")?;
        let mut forgotten = 0;
        for row in &self.rows {
            forgotten += forget.execute(params![stream, row.record.as_str()])?;
        }
        if forgotten > 0 {
            forget_bad(tx, stream, forgotten)?;
        }
        Ok(())
    }
}

/// Counts off what is not set aside any more.
fn forget_bad(tx: &Tx<'_>, stream: i64, forgotten: usize) -> Result<(), Fault> {
    tx.prepare("UPDATE palisade_stream SET bad = max(bad - ?2, 0) WHERE id = ?1")?
        .execute(params![stream, i64::try_from(forgotten).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Forgets what was set aside of a stream and a full run that is done did not meet.
pub(super) fn forget_unmet(tx: &Tx<'_>, stream: i64, run: RunId) -> Result<(), Fault> {
    let forgotten = tx
        .prepare("DELETE FROM palisade_bad_record WHERE stream = ?1 AND run <> ?2")?
        .execute(params![stream, run.0])?;
    tx.prepare("UPDATE palisade_stream SET bad_older = 0 WHERE id = ?1 AND bad_older > 0")?.execute([stream])?;
    forget_bad(tx, stream, forgotten)
}

/// The records set aside of a stream that other runs met, those met longest ago first.
pub(super) const UNMET: &str = "SELECT id FROM palisade_bad_record INDEXED BY palisade_bad_record_met \
     WHERE stream = ?1 AND run <> ?2 ORDER BY last_seen, key LIMIT ?3";

/// What was set aside and last met long ago, the longest first, but for what a run met that is not over: it must not
/// be taken for deleted.
pub(super) const UNMET_FOR_LONG: &str = "SELECT id FROM palisade_bad_record b INDEXED BY palisade_bad_record_old \
     WHERE last_seen < ?1 AND NOT EXISTS (SELECT 1 FROM palisade_run r WHERE r.id = b.run \
     AND (r.finished_at IS NULL OR r.state GLOB '{\"state\":\"review\"*')) ORDER BY last_seen LIMIT ?2";

pub(super) fn prune_bad(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let streams = tx
        .prepare(&format!("DELETE FROM palisade_bad_record WHERE id IN ({UNMET_FOR_LONG}) RETURNING stream"))?
        .query_map(params![before.millis(), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut of: BTreeMap<i64, usize> = BTreeMap::new();
    for stream in &streams {
        *of.entry(*stream).or_default() += 1;
    }
    for (stream, forgotten) in of {
        // What was dropped had been met before what is kept, and would have gone by now.
        tx.prepare("UPDATE palisade_stream SET bad_older = 0 WHERE id = ?1 AND bad_older > 0")?.execute([stream])?;
        forget_bad(tx, stream, forgotten)?;
    }
    Ok(streams.len() as u64)
}

/// Sets aside records that a run could not read, and drops what is too much.
pub(super) fn set_aside(tx: &Tx<'_>, stream: i64, run: RunId, bad: &[BadRecord], now: Timestamp) -> Result<(), Fault> {
    if bad.is_empty() {
        return Ok(());
    }
    let mut put = tx.prepare(
        "INSERT INTO palisade_bad_record (stream, run, times, first_seen, last_seen, bytes, key, ext_id, why, raw) \
         VALUES (?1, ?2, 1, ?3, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (stream, key) DO UPDATE SET run = ?2, \
         times = times + 1, last_seen = ?3, bytes = ?4, ext_id = ?6, why = ?7, raw = ?8 RETURNING times",
    )?;
    let mut new = 0_i64;
    for one in bad {
        let values = params![
            stream,
            run.0,
            now.millis(),
            one.bytes.cast_signed(),
            one.key(),
            one.id.as_ref().map(RecordId::as_str),
            one.why,
            &one.raw[..],
        ];
        new += i64::from(put.query_one(values, |row| row.get::<_, i64>(0))? == 1);
    }
    let kept: i64 = tx
        .prepare("UPDATE palisade_stream SET bad = bad + ?2 WHERE id = ?1 RETURNING bad")?
        .query_one([stream, new], |row| row.get(0))?;
    let beyond = kept.cast_unsigned().saturating_sub(BAD_KEPT_MAX).min(BAD_DROPPED_AT_ONCE);
    if beyond > 0 {
        let dropped = tx
            .prepare(&format!("DELETE FROM palisade_bad_record WHERE id IN ({UNMET})"))?
            .execute(params![stream, run.0, beyond.cast_signed()])?;
        tx.prepare("UPDATE palisade_stream SET bad_older = bad_older + ?2 WHERE id = ?1")?
            .execute(params![stream, i64::try_from(dropped).unwrap_or(i64::MAX)])?;
        forget_bad(tx, stream, dropped)?;
    }
    Ok(())
}

/// The columns of [`stored_bad`].
const BAD: &str = "b.run, b.times, b.first_seen, b.last_seen, b.bytes, b.ext_id, b.why, b.raw";

fn stored_bad(row: &Row<'_>) -> rusqlite::Result<StoredBad> {
    let record = BadRecord {
        id: row.get::<_, Option<String>>(5)?.map(Into::into),
        raw: row.get::<_, Vec<u8>>(7)?.into(),
        bytes: row.get::<_, i64>(4)?.cast_unsigned(),
        why: row.get(6)?,
    };
    Ok(StoredBad {
        record,
        run: RunId(row.get(0)?),
        times: row.get::<_, i64>(1)?.cast_unsigned(),
        first_seen: Timestamp(row.get(2)?),
        last_seen: Timestamp(row.get(3)?),
    })
}

pub(super) fn bad_records(connection: &Connection, key: &StreamKey, limit: u32) -> Result<Vec<StoredBad>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BAD} FROM palisade_stream s JOIN palisade_bad_record b ON b.stream = s.id \
         WHERE s.connection = ?1 AND s.name = ?2 ORDER BY b.last_seen, b.key LIMIT ?3"
    ))?;
    let found = statement.query_map(params![key.connection.as_str(), key.stream.as_str(), limit], stored_bad)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Lists what is set aside by its name and was not met by a run.
pub(super) fn bad_to_retry(
    connection: &Connection,
    key: &StreamKey,
    run: RunId,
    limit: u32,
) -> Result<Vec<StoredBad>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BAD} FROM palisade_stream s JOIN palisade_bad_record b ON b.stream = s.id \
         WHERE s.connection = ?1 AND s.name = ?2 AND b.ext_id IS NOT NULL AND b.run <> ?3 \
         ORDER BY b.last_seen, b.key LIMIT ?4"
    ))?;
    let wanted = params![key.connection.as_str(), key.stream.as_str(), run.0, limit];
    let found = statement.query_map(wanted, stored_bad)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn pause(tx: &Tx<'_>, key: &StreamKey, since: Option<Timestamp>) -> Result<(), Fault> {
    let stream = stream_row(tx, key)?;
    tx.prepare("UPDATE palisade_stream SET paused_at = ?2 WHERE id = ?1")?
        .execute(params![stream, since.map(Timestamp::millis)])?;
    Ok(())
}

/// Returns a blob that may not be there.
fn blob<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r [u8]>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?)
}

/// Reads what the merge rule needs of records.
pub(super) fn stored_of(
    connection: &Connection,
    key: &StreamKey,
    ids: &[RecordId],
) -> Result<Vec<Option<Stored>>, Fault> {
    let of = connection
        .prepare_cached("SELECT id FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(params![key.connection.as_str(), key.stream.as_str()], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(of) = of else { return Ok(vec![None; ids.len()]) };
    let asked: Vec<_> = ids.iter().map(|id| (id.as_str(), None)).collect();
    let mut notes = Notes::default();
    let one = |found: Option<Found>| found.map(|one| notes.over(connection, of, one.at.id, one.row)).transpose();
    find(connection, of, &asked)?.into_iter().map(one).collect()
}

/// Returns the stream's row, making it when the stream is new.
pub(super) fn stream_row(tx: &Tx<'_>, key: &StreamKey) -> Result<i64, Fault> {
    let names = params![key.connection.as_str(), key.stream.as_str()];
    let found = tx
        .prepare("SELECT id FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(names, |row| row.get(0))
        .optional()?;
    if let Some(id) = found {
        return Ok(id);
    }
    tx.prepare("INSERT INTO palisade_stream (connection, name) VALUES (?1, ?2)")?.execute(names)?;
    Ok(tx.last_rowid())
}

pub(super) fn merge_outside(
    tx: &Tx<'_>,
    merges: &[Merge],
    now: Timestamp,
) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>), Fault> {
    let staged = Staged::new(tx, merges, now)?;
    Ok((staged.commit(tx)?, staged.fetch()))
}

// ------------------------------------------------------------------------------------------------------ reading

/// The columns of [`status`].
const STATUS: &str = "cursor, commits, head, records, full_at, fresh_at, name, bad, paused_at, bad_older";

fn status(row: &Row<'_>) -> rusqlite::Result<StreamStatus> {
    Ok(StreamStatus {
        cursor: row.get::<_, Option<String>>(0)?.map(Cursor::new),
        commits: row.get::<_, i64>(1)?.cast_unsigned(),
        head: row.get::<_, i64>(2)?.cast_unsigned(),
        records: row.get::<_, i64>(3)?.cast_unsigned(),
        full_at: row.get::<_, Option<i64>>(4)?.map(Timestamp),
        fresh_at: row.get::<_, Option<i64>>(5)?.map(Timestamp),
        bad: row.get::<_, i64>(7)?.cast_unsigned(),
        bad_older: row.get::<_, i64>(9)?.cast_unsigned(),
        paused_at: row.get::<_, Option<i64>>(8)?.map(Timestamp),
    })
}

pub(super) fn stream(connection: &Connection, key: &StreamKey) -> Result<StreamStatus, Fault> {
    let found = connection
        .prepare_cached(&format!("SELECT {STATUS} FROM palisade_stream WHERE connection = ?1 AND name = ?2"))?
        .query_one(params![key.connection.as_str(), key.stream.as_str()], status)
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) fn streams(connection: &Connection, of: &ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>, Fault> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {STATUS} FROM palisade_stream WHERE connection = ?1 ORDER BY name"))?;
    let found = statement.query_map([of.as_str()], |row| Ok((row.get::<_, String>(6)?.into(), status(row)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Reads a connection's streams as [`streams`] does, each with the moment of its newest change if its record is kept.
pub(super) fn streams_changed(
    connection: &Connection,
    of: &ConnectionId,
) -> Result<Vec<(StreamName, StreamStatus, Option<Timestamp>)>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {STATUS}, id, feed_new FROM palisade_stream WHERE connection = ?1 ORDER BY name"
    ))?;
    let (mut rows, mut found) = (statement.query([of.as_str()])?, Vec::new());
    while let Some(row) = rows.next()? {
        let status = status(row)?;
        let new = NewEntries::read(blob(row, 11)?)?;
        let changed = entries::changed_at(connection, row.get(10)?, &new, status.head)?;
        found.push((row.get::<_, String>(6)?.into(), status, changed.map(Timestamp)));
    }
    Ok(found)
}

/// The columns of [`record_of`].
pub(super) const RECORD: &str = "r.ext_id, r.data, r.seq, r.first_seen, r.changed_at, r.deleted, r.revised";

pub(super) fn record_of(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        id: row.get::<_, String>(0)?.into(),
        data: row.get::<_, Option<Vec<u8>>>(1)?.map(Bytes::from),
        seq: row.get::<_, i64>(2)?.cast_unsigned(),
        first_seen: Timestamp(row.get(3)?),
        changed_at: Timestamp(row.get(4)?),
    })
}

pub(super) fn record(connection: &Connection, key: &StreamKey, id: &RecordId) -> Result<Option<Record>, Fault> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {RECORD} FROM palisade_stream s CROSS JOIN palisade_record r ON r.id = {} \
             WHERE s.connection = ?1 AND s.name = ?2 AND r.stream = s.id AND r.ext_id = ?3",
            record_row!("s.id", "?3")
        ))?
        .query_one(params![key.connection.as_str(), key.stream.as_str(), id.as_str()], record_of)
        .optional()?;
    Ok(found)
}

pub(super) fn changes(
    connection: &Connection,
    key: &StreamKey,
    after: u64,
    limit: u32,
) -> Result<Vec<FeedEntry>, Fault> {
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    let of = connection
        .prepare_cached("SELECT id, feed_new FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(params![key.connection.as_str(), key.stream.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, NewEntries::read(blob(row, 1)?)))
        })
        .optional()?;
    let Some((of, new)) = of else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    entries::each_after(connection, of, &new?, after, |row| {
        let wanted = found.len() < limit as usize;
        if wanted {
            found.push(feed::entry(row)?);
        }
        Ok(wanted)
    })?;
    Ok(found)
}
